"""Sparse matrices times dense ones, with gradients: quicker than torch's sparse formats on the CPU, and always the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Block", "Rows", "both_ways"]


class Rows(NamedTuple):
    """A sparse matrix by rows: bags of columns with their values."""

    columns: Tensor
    start: Tensor
    value: Tensor

    def times(self, dense: Tensor) -> Tensor:
        """Product with a dense matrix; far faster than torch's sparse formats on the CPU, and the same every time."""
        return F.embedding_bag(self.columns, dense, self.start, mode="sum", per_sample_weights=self.value)


def _rows(row: Tensor, column: Tensor, value: Tensor, n_rows: int, n_columns: int) -> Rows:
    order = torch.argsort(row * n_columns + column)
    count = torch.bincount(row, minlength=n_rows)
    return Rows(column[order], count.cumsum(0) - count, value[order])


def both_ways(row: Tensor, column: Tensor, value: Tensor, n_rows: int, n_columns: int) -> Block:
    return Block(_rows(row, column, value, n_rows, n_columns), _rows(column, row, value, n_columns, n_rows))


class _Product(torch.autograd.Function):
    """Sparse matrix times dense; the gradient needs the transpose, which is kept ready."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: Rows, transposed: Rows) -> Tensor:
        ctx.transposed = transposed
        return matrix.times(dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed.times(gradients[0].contiguous()), None, None


class Block(NamedTuple):
    """A sparse matrix and its transpose, for products that learn."""

    matrix: Rows
    transposed: Rows

    def times(self, values: Tensor) -> Tensor:
        """``(width, n_receivers, batch)`` of ``(width, n_senders, batch)``."""
        if values.shape[2] == 1:  # all widths at a time
            return _Product.apply(values[:, :, 0].T.contiguous(), *self).T[:, :, None]  # type: ignore[no-untyped-call,no-any-return]
        if len(values) == 1:
            return _Product.apply(values.squeeze(0).contiguous(), *self)[None]  # type: ignore[no-untyped-call,no-any-return]
        return torch.stack([_Product.apply(part.contiguous(), *self) for part in values])  # type: ignore[no-untyped-call]
