"""Maximum mean discrepancy: one Gram matrix for a sum of Gaussian kernels of many widths (GraCE-VAE, appendix B)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mean_distance_width", "mmd2"]


def mmd2(
    x: Tensor, y: Tensor, width: float | Tensor = 1000.0, n_kernels: int = 10, *, unbiased: bool = False
) -> Tensor:
    """Squared MMD with the kernel ``sum_i exp(-d^2 / (width / 2 ** (n_kernels // 2) * 2 ** i))``, i from 0.

    The sum (not the mean) of the kernels, without a factor 2 in the widths: values go up to ``2 * n_kernels``.

    Parameters
    ----------
    x, y
        ``(n, n_genes)`` and ``(m, n_genes)`` cells.
    width
        Of the kernel in the middle, in squared units of the values; gets no gradient.
    n_kernels
        Number of kernels; each is twice as wide as the one before.
    unbiased
        Leave out the kernel of a cell with itself: the mean over draws is then that of the distributions, and the
        value may be negative. Else, as published, it is at least 0 and larger for fewer cells.

    Returns
    -------
    A scalar.

    Raises
    ------
    ValueError
        If there is no cell, or with `unbiased` one alone.
    """
    if min(len(x), len(y)) < 1 + unbiased:
        msg = f"The {'unbiased ' * unbiased}MMD needs {1 + unbiased} or more cells of each; got {len(x)} and {len(y)}."
        raise ValueError(msg)
    value: Tensor = _SquaredMMD.apply(x, y, width, n_kernels, int(unbiased))  # type: ignore[no-untyped-call]
    return value


class _SquaredMMD(torch.autograd.Function):
    """Gradients written out: they need one more product of the cells, while autograd keeps a dozen matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, width: float | Tensor, n_kernels: int, own: int) -> Tensor:
        both = torch.cat([x, y])
        both -= both.mean(0)  # the expanded square below cancels less near the origin
        gram = both @ both.T
        square = gram.diagonal()
        distance = (square[:, None] + square[None] - 2 * gram).clamp_(min=0)
        counts = _counts(len(x), len(y), own, both)
        rate = 1 / (width * 2.0 ** (n_kernels - 1 - n_kernels // 2))
        kernel = (-rate * distance).exp_()
        total, slope = kernel.clone(), -rate * kernel
        for _ in range(n_kernels - 1):  # each kernel is the square of the next wider one
            kernel *= kernel
            rate = 2 * rate
            total += kernel
            slope -= rate * kernel
        ctx.save_for_backward(both, counts * slope)
        ctx.n = len(x)
        return (counts * total).sum()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        both, slope = ctx.saved_tensors
        slope = 4 * gradients[0] * slope  # each pair twice, and the derivative of a square
        sides = (slice(ctx.n), slice(ctx.n, None))
        found = [_pull(both, slope, side) if ctx.needs_input_grad[i] else None for i, side in enumerate(sides)]
        return found[0], found[1], None, None, None


def _pull(both: Tensor, slope: Tensor, side: slice) -> Tensor:
    """Sum over all cells of the difference from a cell, by slopes."""
    return torch.addmm(both[side] * slope[side].sum(1, keepdim=True), slope[side], both, alpha=-1)


def _counts(n: int, m: int, own: int, like: Tensor) -> Tensor:
    """How much each pair of cells counts; 1: cells with themselves do not."""
    found = like.new_empty(n + m, n + m)
    found[:n, :n], found[n:, n:] = 1 / (n * (n - own)), 1 / (m * (m - own))
    found[:n, n:] = found[n:, :n] = -1 / (n * m)
    if own:
        found.fill_diagonal_(0)
    return found


@torch.no_grad()
def mean_distance_width(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of two different cells among all of `x` and `y`: the width where none is set."""
    both = torch.cat([x, y])
    n = len(both)
    # sum of all squared distances from the spread around the mean
    return 2 * n * ((both - both.mean(0)) ** 2).sum() / (n * (n - 1))
