"""Products of a matrix with its own transpose: half the work of a product of two matrices."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gram"]

_LEAST = 1000  # columns from which half a product outweighs putting the other half in its place


def gram(a: Tensor) -> Tensor:
    """``a.T @ a``, symmetric to the bit where it is large.

    Parameters
    ----------
    a
        ``(n, m)`` of float32 or float64, on any device.

    Returns
    -------
    ``(m, m)``.
    """
    if a.device.type != "cpu" or a.shape[1] < _LEAST or not len(a):
        return a.T @ a
    try:
        from scipy.linalg import blas
    except ImportError:  # training runs where there is torch alone
        return a.T @ a
    half = (blas.dsyrk if a.dtype == torch.float64 else blas.ssyrk)(1.0, a.contiguous().numpy().T)
    out = torch.from_numpy(half.T)  # the lower triangle, by rows
    for start in range(0, len(out), _LEAST):
        end = start + _LEAST
        out[start:end, end:] = out[end:, start:end].T
        square = out[start:end, start:end]
        square += square.tril(-1).T
    return out
