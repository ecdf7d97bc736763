"""Edge network: from cells and a mask of interventions to a logit for every edge (AVICI, Lorch et al. 2022)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn.axial import AxialAttention

__all__ = ["Avici", "AviciConfig"]


@dataclass(frozen=True)
class AviciConfig:
    """Sizes of an :class:`Avici`.

    The network of the paper is ``AviciConfig(width=128, heads=8, head_width=32, hidden=512, layers=8, feeds=2,
    out=128)``.

    Attributes
    ----------
    width, heads, hidden
        Width of the stream, heads, width of the feed-forward blocks.
    layers
        Layers, each of which attends along the genes and then along the cells.
    dropout
        Share of every update that is dropped in training.
    out
        Width of the two embeddings of a gene.
    head_width
        Width of a head; 0 = ``width / heads``.
    feeds
        Feed-forward blocks of a layer: 2, one after each attention (the paper), or 1, after both, which saves a third
        of the work.
    """

    width: int = 64
    heads: int = 4
    hidden: int = 256
    layers: int = 6
    dropout: float = 0.0
    out: int = 64
    head_width: int = 0
    feeds: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.feeds not in (1, 2) or not 0 <= self.dropout < 1 or min(self.layers, self.out, self.hidden) < 1:
            msg = f"feeds must be 1 or 2, dropout from 0 to below 1, layers, out and hidden at least 1; got {self}."
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for ``config.json``."""
        return asdict(self)


class _Update(nn.Module):
    """Pre-norm residual update of a grid; it never mixes along ``piece_axis``, so pieces of that axis are exact."""

    def __init__(self, width: int, block: nn.Module, piece_axis: Literal[1, 2], dropout: float) -> None:
        super().__init__()
        self.norm, self.block, self.dropout = nn.LayerNorm(width), block, nn.Dropout(dropout)
        self.piece_axis = piece_axis

    def forward(self, x: Tensor, tokens: int = 0) -> Tensor:
        """Update a grid; with ``tokens``, in place and about so many of its entries at a time."""
        if not tokens:
            return x + self.dropout(self.block(self.norm(x)))
        length = x.shape[self.piece_axis]
        size = max(1, tokens * length // max(1, x[..., 0].numel()))
        for piece in x.split(size, self.piece_axis):
            piece += self.block(self.norm(piece))  # a view
        return x


class Avici(nn.Module):
    """Logits of the edges among a set of genes.

    Equivariant to the order of the genes and invariant to the order of the cells; takes any number of either.
    Memory without gradients is one grid of ``cells x genes x width`` numbers plus a piece of the work. Time grows with
    ``genes x cells x (genes + cells)``: beyond some thousands of cells, give a random part of them.

    Parameters
    ----------
    config
        Sizes.

    Raises
    ------
    ValueError
        If the heads do not divide the width and ``head_width`` is 0.
    """

    #: Entries of the grid that are worked on at a time where no gradient is asked for.
    piece: int = 16_384

    def __init__(self, config: AviciConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or AviciConfig()
        self.embed = nn.Linear(3, c.width)  # value, intervened, observed: a missing entry has an embedding of its own
        self.updates = nn.ModuleList()
        for _ in range(c.layers):
            for attend, other in ((2, 1), (1, 2)):
                block = AxialAttention(c.width, c.heads, attend, head_width=c.head_width or None)  # type: ignore[arg-type]
                self.updates.append(_Update(c.width, block, other, c.dropout))  # type: ignore[arg-type]
                if c.feeds == 2 or attend == 1:
                    self.updates.append(_Update(c.width, self._feed(), 1, c.dropout))
        self.norm = nn.LayerNorm(c.width)
        self.cause, self.effect = self._head(), self._head()
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def _feed(self) -> nn.Sequential:
        c = self.config
        return nn.Sequential(nn.Linear(c.width, c.hidden), nn.GELU(), nn.Linear(c.hidden, c.width))

    def _head(self) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(self.config.width), nn.Linear(self.config.width, self.config.out))

    def forward(self, values: Tensor, mask: Tensor, missing: Tensor | None = None) -> Tensor:
        """Give the logit of every edge.

        Parameters
        ----------
        values
            ``(batch, cells, genes)``, as :func:`causcade.simulate.domains.graph_values` makes them.
        mask
            ``(batch, cells, genes)``, 1 where that gene is known to be intervened on in that cell.
        missing
            bool ``(batch, cells, genes)``, True where the value is not known (it may be NaN there); None: none is.

        Returns
        -------
        torch.Tensor
            ``(batch, genes, genes)``, [cause, effect], float32; the diagonal has no meaning.

        Raises
        ------
        ValueError
            If the shapes differ, or there is no cell.
        """
        h = self._grid(values, mask, missing)
        genes = self._pool(self.norm(h), missing)
        return self._logits(self.cause(genes), self.effect(genes))

    def _grid(self, values: Tensor, mask: Tensor, missing: Tensor | None) -> Tensor:
        shapes = [tuple(t.shape) for t in (values, mask, missing) if t is not None]
        if values.ndim != 3 or len(set(shapes)) > 1 or not values.shape[1]:
            msg = f"values, mask and missing must all be (batch, cells, genes) with at least one cell; got {shapes}."
            raise ValueError(msg)
        observed = torch.ones_like(values)
        if missing is not None:
            values, observed = values.masked_fill(missing, 0.0), observed.masked_fill(missing, 0.0)
        # the stream stays in full precision, whatever autocast makes of its updates
        h: Tensor = self.embed(torch.stack([values, mask.to(values), observed], -1)).float()
        tokens = 0 if torch.is_grad_enabled() or self.training else self.piece
        for update in self.updates:
            h = update(h, tokens)
        return h

    def _pool(self, h: Tensor, missing: Tensor | None) -> Tensor:
        """Largest value over the cells in which the gene was observed; over all of them, if it was in none."""
        if missing is not None:
            out = missing & ~missing.all(1, keepdim=True)
            h = h.masked_fill(out[..., None], -torch.inf)
        return h.amax(1)

    def _logits(self, cause: Tensor, effect: Tensor) -> Tensor:
        u, v = F.normalize(cause.float(), dim=-1), F.normalize(effect.float(), dim=-1)
        with torch.autocast(u.device.type, enabled=False):  # angles matter here: no half precision
            return self.temperature.exp() * (u @ v.transpose(1, 2)) + self.bias

    @torch.no_grad()
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())
