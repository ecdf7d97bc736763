"""Tools: questions asked of a screen. They write into the AnnData and return None."""

from causcade.tl._causes import causes
from causcade.tl._embed import embed
from causcade.tl._gim import dose_response
from causcade.tl._graph import graph
from causcade.tl._reversal import reversal
from causcade.tl._suggest import suggest_perturbations
from causcade.tl._targets import targets

__all__ = ["causes", "dose_response", "embed", "graph", "reversal", "suggest_perturbations", "targets"]
