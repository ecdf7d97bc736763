"""Attention along either axis of a grid ``(batch, rows, columns, width)``.

One block serves every amortized model: cells x genes (TCD, AVICI) and genes x genes (pair streams).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AxialAttention", "AxialLayer", "PathProduct", "Scale"]

Scale = Literal["none", "width", "full"]


class AxialAttention(nn.Module):
    """Self-attention along one axis of a grid.

    Parameters
    ----------
    width
        Width of the stream.
    heads
        Number of heads; each is ``width // heads`` wide unless ``head_width`` is given.
    axis
        1 = along rows (mixes rows within a column), 2 = along columns.
    tied
        Sum the logits over the other axis, so that one map per head is shared by the whole grid (the published
        TCD-DL network). Untied: every row (column) has its own map.
    scale
        Divisor of the logits: ``"none"``, ``"width"`` (root of the head width) or ``"full"`` (tied only: root of the
        head width times the length of the other axis).

    Raises
    ------
    ValueError
        If the scale is unknown or does not fit, or ``heads`` does not divide ``width``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        axis: Literal[1, 2],
        *,
        head_width: int | None = None,
        tied: bool = False,
        scale: Scale = "width",
    ) -> None:
        super().__init__()
        if scale not in ("none", "width") and not (tied and scale == "full"):
            msg = f"scale must be 'none', 'width' or, with tied=True, 'full'; got {scale!r} with tied={tied}."
            raise ValueError(msg)
        if axis not in (1, 2) or (head_width is None and width % heads):
            msg = f"axis must be 1 or 2, and heads must divide width unless head_width is given; got {axis=}, {heads=}, {width=}."
            raise ValueError(msg)
        self.heads, self.axis, self.tied, self.scale = heads, axis, tied, scale
        self.head_width = head_width or width // heads
        inner = heads * self.head_width
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Attend; ``blocked`` is ``(batch, length)`` bool, true where a position must not be attended to."""
        if self.axis == 1:
            x = x.transpose(1, 2)
        b, other, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, other, length, 3, self.heads, self.head_width).unbind(3)
        mixed = self._tied(q, k, v, blocked) if self.tied else self._untied(q, k, v, blocked)
        out = self.out(mixed.reshape(b, other, length, -1))
        return out.transpose(1, 2) if self.axis == 1 else out

    def _untied(self, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None) -> Tensor:
        q, k, v = (t.transpose(2, 3).flatten(0, 1) for t in (q, k, v))  # (b * other, heads, length, head_width)
        mask = None
        if blocked is not None:
            other = q.shape[0] // blocked.shape[0]
            mask = ~blocked.repeat_interleave(other, 0)[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0 if self.scale == "none" else None)
        return out.transpose(1, 2)

    def _tied(self, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None) -> Tensor:
        b, other, length, heads, width = q.shape
        q, k, v = (t.permute(0, 3, 2, 1, 4).reshape(b, heads, length, other * width) for t in (q, k, v))
        scale = {"none": 1.0, "width": width**-0.5, "full": (width * other) ** -0.5}[self.scale]
        mask = None if blocked is None else ~blocked[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        return out.reshape(b, heads, length, other, width).permute(0, 3, 2, 1, 4)


class AxialLayer(nn.Module):
    """Attention along columns, attention along rows, feed-forward: three pre-norm residual blocks.

    Parameters
    ----------
    width, heads, head_width, tied, scale
        See :class:`AxialAttention`.
    hidden
        Width of the feed-forward layer.

    Attributes
    ----------
    parts
        Where no gradient is asked for, work through a grid in so many parts, of lines that do not see each other: the
        same answer with less memory. (A tied map is of the whole grid; it stays whole.)
    """

    parts: int = 1

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        head_width: int | None = None,
        tied: bool = False,
        scale: Scale = "width",
    ) -> None:
        super().__init__()
        self.along_columns = AxialAttention(width, heads, 2, head_width=head_width, tied=tied, scale=scale)
        self.along_rows = AxialAttention(width, heads, 1, head_width=head_width, tied=tied, scale=scale)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid ``(batch, rows, columns, width)`` to one of the same shape."""
        blocks = zip((self.along_columns, self.along_rows, self.feed), self.norms, (1, 2, 1), strict=True)
        if self.parts > 1 and not torch.is_grad_enabled():
            x = x.clone()
            for block, norm, axis in blocks:
                whole = isinstance(block, AxialAttention) and block.tied
                for piece in x.chunk(1 if whole else self.parts, axis):
                    piece += block(norm(piece))  # a view
            return x
        for block, norm, _ in blocks:
            x = x + block(norm(x))
        return x


class PathProduct(nn.Module):
    """Two-step paths of a pair grid: ``sum_k a[i, k] * b[k, j]`` per channel, gated and projected.

    Parameters
    ----------
    width
        Width of the pair stream.
    channels
        Number of products.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.factors = nn.Linear(width, 2 * channels)
        self.gates = nn.Linear(width, 2 * channels)
        self.out = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, n, n, width)``, ``[cause, effect]``, to its residual update."""
        h = self.norm(x)
        both = self.factors(h) * torch.sigmoid(self.gates(h))
        first, second = both.permute(0, 3, 1, 2).chunk(2, 1)  # (batch, channels, n, n)
        product = (first @ second) / math.sqrt(x.shape[1])
        return self.out(product.permute(0, 2, 3, 1))
