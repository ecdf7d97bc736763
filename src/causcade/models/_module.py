"""What the modules of the models share: a network, and no generative half."""

from __future__ import annotations

from typing import Any

from scvi.module.base import BaseModuleClass
from torch import nn

__all__ = ["NetModule"]


class NetModule(BaseModuleClass):
    """A module of scvi-tools around a network that answers by itself; a subclass adds `inference` and `loss`.

    Parameters
    ----------
    net
        The network.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def _get_inference_input(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    def inference(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Nothing, unless a subclass says otherwise."""
        return {}

    def _get_generative_input(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    def generative(self) -> dict[str, Any]:
        """Nothing: what the network says is the answer."""
        return {}
