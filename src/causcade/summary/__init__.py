"""The summary of a screen: sums that are exact, a sample of its cells, and a screen that answers from both.

Made by :func:`causcade.pp.summarise` (the pass itself is in :mod:`causcade.onepass`).
"""

from causcade.summary._kernel import QUANTUM, add_cells
from causcade.summary._screen import SummaryScreen
from causcade.summary._stored import Stored, read_stored

__all__ = ["QUANTUM", "Stored", "SummaryScreen", "add_cells", "read_stored"]
