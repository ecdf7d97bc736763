"""Models in the manner of scvi-tools.  scvi-tools (seconds to import) loads when a model is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causcade.models.avici import AVICI
    from causcade.models.cdn import CDN
    from causcade.models.gim import GIM
    from causcade.models.gracevae import GraCEVAE
    from causcade.models.tcd import TCD

__all__ = ["AVICI", "CDN", "GIM", "TCD", "GraCEVAE"]

_PLACES = {
    "TCD": "causcade.models.tcd",
    "CDN": "causcade.models.cdn",
    "AVICI": "causcade.models.avici",
    "GIM": "causcade.models.gim",
    "GraCEVAE": "causcade.models.gracevae",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    msg = f"module 'causcade.models' has no attribute {name!r}; it has {', '.join(_PLACES)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
