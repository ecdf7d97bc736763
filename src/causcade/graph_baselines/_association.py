"""Correlation and partial correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.covariance import ledoit_wolf

from causcade.graph_baselines._cells import Floats, by_free_cells, check_cells, standardise


def correlation(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Absolute correlation, for each effect over the cells in which it was not acted on.

    Without interventions it is symmetric. With them it points from cause to effect as far as acting on a cause moves
    the effect, and not the other way round.

    Parameters
    ----------
    values
        (n_cells, n_genes), dense.
    mask
        (n_cells, n_genes), nonzero where that gene was acted on in that cell. None: observational cells only.

    Returns
    -------
    (n_genes, n_genes) ``[cause, effect]``, 0 to 1; 0 for genes that do not vary.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or a gene has fewer than 3 cells in which it was not acted on.
    """
    x, free = check_cells(values, mask)
    out = np.zeros((x.shape[1],) * 2)
    for cells, effects in by_free_cells(free):
        z = standardise(x[cells])
        out[:, effects] = _symmetric(z.T @ z / len(z))[:, effects]
    np.fill_diagonal(out, 0)
    return np.minimum(out, 1)


def precision(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Absolute partial correlation given all other genes, with Ledoit-Wolf shrinkage of the correlation matrix.

    Cells, arguments and errors as in :func:`correlation`.

    Returns
    -------
    (n_genes, n_genes) ``[cause, effect]``, 0 to 1.
    """
    x, free = check_cells(values, mask)
    out = np.zeros((x.shape[1],) * 2)
    for cells, effects in by_free_cells(free):
        inverse = np.linalg.pinv(ledoit_wolf(standardise(x[cells]))[0], hermitian=True)
        scale = np.sqrt(inverse.diagonal())
        scale[scale == 0] = np.inf
        out[:, effects] = _symmetric(inverse / np.outer(scale, scale))[:, effects]
    np.fill_diagonal(out, 0)
    return np.minimum(out, 1)


def _symmetric(matrix: Floats) -> Floats:
    """Absolute values, without the asymmetry of rounding, which would pass for a direction."""
    return np.abs(matrix + matrix.T) / 2
