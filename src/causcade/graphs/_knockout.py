"""The simplest answer where causes were perturbed: did the effect change?"""

from __future__ import annotations

import numpy as np

from causcade.graphs._cells import GraphCells
from causcade.graphs._values import Floats

__all__ = ["knockout_t"]


def knockout_t(cells: GraphCells) -> Floats:
    """Size of Welch's t, for each effect between cells in which a cause was perturbed and control cells.

    Cells in which the cause was perturbed alone, where there are two; otherwise those of its combinations too.

    Parameters
    ----------
    cells
        Cells of a graph.

    Returns
    -------
    float32 ``(n_genes, n_genes)``, [cause, effect], at least 0. NaN where the cause was not perturbed, there are fewer
    than two values on a side, or neither side varies. The diagonal is 0.
    """
    seen = np.ones(cells.values.shape) if cells.missing is None else (~cells.missing).astype(np.float64)
    control = cells.control[:, None].astype(np.float64)
    x = cells.values.astype(np.float64)
    x = (x - (x * seen * control).sum(0) / np.maximum((seen * control).sum(0), 1)) * seen
    alone = cells.mask & (cells.mask.sum(1) == 1)[:, None]
    acted = np.where(alone.sum(0) >= 2, alone, cells.mask).astype(np.float64)
    (n1, m1, v1), (n0, m0, v0) = (_moments(x, seen, weight) for weight in (acted, control))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(m1 - m0) / np.sqrt(v1 / n1 + v0 / n0)
    t[~np.isfinite(t) | (n1 < 2) | (n0 < 2)] = np.nan
    np.fill_diagonal(t, 0)
    return t.astype(np.float32)


def _moments(x: np.ndarray, seen: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, means and variances, ``(sets of cells, genes)``; `x` is near 0, so squares lose nothing."""
    n = weight.T @ seen
    mean = weight.T @ x / np.maximum(n, 1)
    variance = (weight.T @ x**2 - n * mean**2).clip(0) / np.maximum(n - 1, 1)
    variance[variance < 1e-12] = 0  # what rounding leaves of a constant
    return n, mean, variance
