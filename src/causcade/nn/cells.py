"""Cell-stream network: the axial transformer of TCD-DL over the grid cells x genes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from causcade.nn.axial import AxialLayer, Scale

__all__ = ["CellStream", "CellStreamConfig"]


@dataclass(frozen=True)
class CellStreamConfig:
    """Sizes of a :class:`CellStream`; the defaults are those of the paper (appendix B.1, 62,000 parameters).

    Attributes
    ----------
    width, layers, heads, hidden
        Width of the stream, number of axial layers, heads, width of the feed-forward layers.
    tied, scale
        Attention maps shared over the other axis and without any scaling, as in the released code.
    """

    width: int = 16
    layers: int = 10
    heads: int = 16
    hidden: int = 96
    tied: bool = True
    scale: Scale = "none"

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for ``config.json``."""
        return asdict(self)


class CellStream(nn.Module):
    """Cause logits of a set of genes from single cells (TCD-DL, section 4.1).

    Equivariant to the order of the genes, invariant to the order of the cells.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: CellStreamConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or CellStreamConfig()
        self.value, self.mask = nn.Linear(1, c.width), nn.Embedding(2, c.width)
        self.embed = nn.Sequential(nn.LayerNorm(2 * c.width), nn.Linear(2 * c.width, c.width))
        self.layers = nn.ModuleList(
            AxialLayer(c.width, c.heads, c.hidden, tied=c.tied, scale=c.scale) for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.width)
        self.effect, self.cause = self._head(), self._head()

    def _head(self) -> nn.Sequential:
        c = self.config
        return nn.Sequential(
            nn.Linear(c.width, c.hidden), nn.GELU(), nn.LayerNorm(c.hidden), nn.Linear(c.hidden, c.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, genes, genes)``, ``[cause, effect]``, of ``(batch, cells, genes, 2)``: value and mask."""
        h = torch.cat([self.value(x[..., :1]), self.mask(x[..., 1].long())], -1)
        h = self.embed(h)
        for layer in self.layers:
            h = layer(h)
        genes = self.norm(h).mean(1)  # (batch, genes, width)
        return self.cause(genes) @ self.effect(genes).transpose(1, 2)

    @torch.no_grad()
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())
