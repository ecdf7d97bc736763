"""Labels to regimes: which cells belong together, and which genes were intervened on in them.

`labels` reads one label, `parse` groups the cells of plain arrays, `stored` does both for an AnnData.
"""

from causcade.regimes.labels import close_matches
from causcade.regimes.parse import Parsed, Regimes, parse_labels
from causcade.regimes.stored import from_adata, read_column, read_obs, to_uns

__all__ = ["Parsed", "Regimes", "close_matches", "from_adata", "parse_labels", "read_column", "read_obs", "to_uns"]
