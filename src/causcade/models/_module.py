"""What the modules of the models share: a network, no generative half, and batches that can be divided."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

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

    #: Some minibatches leave parameters without a gradient.
    unused: ClassVar[bool] = False

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

    @abstractmethod
    def n_items(self, tensors: dict[str, Any]) -> int:
        """Items of a minibatch."""

    @abstractmethod
    def part(self, tensors: dict[str, Any], rows: Sequence[int], *, counts: bool = True) -> dict[str, Any]:
        """Some items of a minibatch. Losses of parts that make up a minibatch add up to its loss.

        Parameters
        ----------
        tensors
            The whole minibatch.
        rows
            Positions of the items.
        counts
            Without, the loss of the part is 0; it depends on the same parameters all the same.
        """

    def after_step(self, penalty: float) -> None:
        """Take in the penalty of a step that is done; nothing, unless a subclass says otherwise."""

    def state(self) -> dict[str, Any]:
        """What training changes besides the weights. Plain numbers."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
