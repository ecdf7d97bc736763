"""One pass over the cells of a screen: exact sums, and a seeded sample of the cells, in bounded memory.

Files in the order of the work: `_plan` (which cells are kept and what the pass will cost, from labels alone), `_read`
(blocks of cells from any kind of array), `_run` (the pass, here or on Dask), `_build` and `_merge` (the AnnData, and parts joined). `_labels` reads regimes and batches.
"""

from causcade.onepass._build import build, check_path, save
from causcade.onepass._labels import read_batches, read_labels
from causcade.onepass._merge import merge
from causcade.onepass._plan import describe, make_plan
from causcade.onepass._run import run

__all__ = ["build", "check_path", "describe", "make_plan", "merge", "read_batches", "read_labels", "run", "save"]
