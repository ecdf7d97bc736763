"""Maximum mean discrepancy: one Gram matrix for a sum of Gaussian kernels of many widths (GraCE-VAE, appendix B)."""

from __future__ import annotations

import torch
from torch import Tensor

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
        Of the kernel in the middle, in squared units of the values.
    n_kernels
        Number of kernels; each is twice as wide as the one before.
    unbiased
        Leave out the kernel of a cell with itself: the mean over draws is then that of the distributions, and the
        value may be negative. Else, as published, it is at least 0 and larger for fewer cells.

    Returns
    -------
    A scalar.
    """
    n, m = len(x), len(y)
    centre = (x.detach().sum(0) + y.detach().sum(0)) / (n + m)
    x, y = x - centre, y - centre  # the expanded square below cancels less near the origin
    inner, cross, outer = x @ x.T, x @ y.T, y @ y.T  # apart: often only one side learns
    gram = torch.cat([torch.cat([inner, cross], 1), torch.cat([cross.T, outer], 1)])
    square = gram.diagonal()
    distance = (square[:, None] + square[None] - 2 * gram).clamp(min=0)
    # each kernel is the square of the next wider one
    kernel = (-distance / (width * 2.0 ** (n_kernels - 1 - n_kernels // 2))).exp()
    total = kernel
    for _ in range(n_kernels - 1):
        kernel = kernel**2
        total = total + kernel
    xx, yy, xy = total[:n, :n], total[n:, n:], total[:n, n:]
    if unbiased:
        loops = n_kernels
        own = (xx.sum() - n * loops) / (n * (n - 1)) + (yy.sum() - m * loops) / (m * (m - 1))
        return own - 2 * xy.mean()
    return xx.mean() + yy.mean() - 2 * xy.mean()


@torch.no_grad()
def mean_distance_width(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of two different cells among all of `x` and `y`: the width where none is set."""
    both = torch.cat([x, y])
    n = len(both)
    # sum of all squared distances from the spread around the mean
    return 2 * n * ((both - both.mean(0)) ** 2).sum() / (n * (n - 1))
