"""Results as data frames. Nothing here writes: `tl` and `pp` store arrays, these functions put names on them."""

from causcade.get._causes import causes
from causcade.get._dose_response import dose_response
from causcade.get._effects import effects
from causcade.get._graph import graph
from causcade.get._programs import latent_graph, programs
from causcade.get._regimes import regimes
from causcade.get._reversal import reversal, reversal_genes
from causcade.get._suggestions import suggestions
from causcade.get._targets import target_ranks, targets

__all__ = [
    "causes",
    "dose_response",
    "effects",
    "graph",
    "latent_graph",
    "programs",
    "regimes",
    "reversal",
    "reversal_genes",
    "suggestions",
    "target_ranks",
    "targets",
]
