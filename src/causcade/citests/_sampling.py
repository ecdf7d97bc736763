"""Which genes form a subset."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade._jit import jit

__all__ = ["sample_subsets", "square"]


def sample_subsets(
    score: ArrayLike,
    n_subsets: int,
    *,
    k: int = 5,
    visits: ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw subsets of genes, preferring pairs with a high score that were seldom together in a subset.

    A pair weighs ``score / sqrt(1 + visits)``. The first gene is drawn by its summed weight, each next one by its
    summed weight with those already drawn; all weights being 0, uniformly. Then all pairs in the subset, and the
    diagonal, count one visit.

    Parameters
    ----------
    score
        ``(n_genes, n_genes)``, symmetric, not negative: absolute correlations, or ones for random subsets. The
        diagonal is ignored and NaN counts as 0.
    n_subsets
        How many.
    k
        Genes in a subset; with fewer genes, all of them.
    visits
        ``(n_genes, n_genes)`` earlier visits, as returned; None: none. Not changed.
    rng
        Which genes are drawn, and their order.

    Returns
    -------
    subsets : numpy.ndarray
        int64 ``(n_subsets, min(k, n_genes))``, in the order drawn.
    visits : numpy.ndarray
        int64 ``(n_genes, n_genes)``, earlier visits included.

    Raises
    ------
    ValueError
        If a shape does not fit, a score is negative or infinite, or ``n_subsets`` or ``k`` is too small.
    """
    weight = square("score", score)
    np.nan_to_num(weight, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
    np.fill_diagonal(weight, 0.0)
    if weight.size and not (weight.min() >= 0 and np.isfinite(weight.max())):
        msg = f"score must be finite and not negative; got {weight.min():g} to {weight.max():g}. Take np.abs of it."
        raise ValueError(msg)
    n = len(weight)
    seen = np.zeros((n, n), np.int64) if visits is None else np.array(visits, np.int64)
    if seen.shape != weight.shape or n_subsets < 0 or not 1 <= k or n < 1:
        msg = (
            f"visits must have the shape of score, {weight.shape}, n_subsets be at least 0, k and the number of genes "
            f"at least 1; got {seen.shape}, {n_subsets}, {k} and {n}."
        )
        raise ValueError(msg)
    scale = np.sqrt(1.0 + seen)
    uniform = np.random.default_rng(rng).random((n_subsets, min(k, n)))
    subsets = np.empty(uniform.shape, np.int64)
    weight /= scale
    _draw_subsets(weight, weight.sum(0), seen, uniform, subsets)
    return subsets, seen


@jit
def _draw_subsets(weight: Any, total: Any, visits: Any, uniform: Any, subsets: Any) -> None:
    """Fill ``subsets``; weights, their column sums and visits are kept up to date in place."""
    n_subsets, k = subsets.shape
    n = len(total)
    share, taken = np.empty(n), np.zeros(n, np.bool_)
    for t in range(n_subsets):
        for j in range(n):
            share[j], taken[j] = total[j], False
        for step in range(k):
            node = _pick(share, taken, uniform[t, step])
            subsets[t, step] = node
            taken[node] = True
            for j in range(n):
                share[j] = weight[node, j] + (share[j] if step else 0.0)
        for a in range(k):
            for b in range(k):
                i, j = subsets[t, a], subsets[t, b]
                visits[i, j] += 1
                old = weight[i, j]
                weight[i, j] = old * np.sqrt(visits[i, j] / (1.0 + visits[i, j]))
                total[j] = max(total[j] + weight[i, j] - old, 0.0)


@jit
def _pick(share: Any, taken: Any, uniform: float) -> int:
    """Node drawn in proportion to its share among those not taken; uniformly if all shares are 0."""
    whole, left = 0.0, 0
    for j in range(len(share)):
        if not taken[j]:
            whole += share[j]
            left += 1
    point, run, last = uniform * (whole if whole > 0 else left), 0.0, -1
    for j in range(len(share)):
        step = 0.0 if taken[j] else (share[j] if whole > 0 else 1.0)
        if step > 0:
            run += step
            last = j
            if run > point:
                break
    return last


def square(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Copy of a square matrix as float64."""
    out = np.array(value, np.float64)
    if out.ndim != 2 or out.shape[0] != out.shape[1]:
        msg = f"{name} must be (n_genes, n_genes); got {out.shape}."
        raise ValueError(msg)
    return out
