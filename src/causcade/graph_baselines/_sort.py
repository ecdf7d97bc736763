"""Sort the genes, then regress each on those before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LassoLarsIC

from causcade.graph_baselines._cells import Bools, Floats, check_cells, control_cells, standardise

_SPARE = 3  # an intercept, a variance and one more: least number of cells above that of genes


def sortnregress(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Sort genes by variance and regress each on those before it (Reisach et al. 2021).

    The check of a benchmark: where this does well, the scale of the genes gives the order away.

    Parameters
    ----------
    values
        (n_cells, n_genes), dense. Scale matters: standardising beforehand takes the order away.
    mask
        (n_cells, n_genes), nonzero where that gene was acted on in that cell. Control cells give the order; each
        regression uses the cells in which the effect was not acted on.

    Returns
    -------
    (n_genes, n_genes) ``[cause, effect]``, acyclic: absolute coefficients of an adaptive LASSO at the least BIC, in
    standard deviations of the effect for one of the cause; 0 where it finds no edge.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or the cells in which a gene was not acted on hardly outnumber
        the genes.
    """
    x, free = check_cells(values, mask, _SPARE)
    return regress_along(x, free, _ascending(control_cells(x, free).var(axis=0)))


def r2_sortnregress(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Sort genes by how well all others predict them (R2), and regress each on those before it (Reisach et al. 2023).

    Unlike :func:`sortnregress` it does not depend on scale. Arguments, return and errors as there.
    """
    x, free = check_cells(values, mask, _SPARE)
    z = standardise(control_cells(x, free))
    # a variable's diagonal of the inverse is 1 / (1 - R2)
    inverse = np.linalg.pinv(z.T @ z / len(z), hermitian=True)
    return regress_along(x, free, _ascending(inverse.diagonal()))


def _ascending(values: NDArray[np.floating]) -> NDArray[np.intp]:
    """Order of values; what only rounding tells apart comes in an order of its own, not in that of the genes."""
    ties = np.random.default_rng(0).permutation(values.size)
    return np.lexsort((ties, np.round(values / max(values.max(), 1e-300), 9)))


def regress_along(x: Floats, free: Bools, order: NDArray[np.intp]) -> Floats:
    """Regress each gene on those before it in the order."""
    out = np.zeros((x.shape[1],) * 2)
    for k in range(1, len(order)):
        causes, effect = order[:k], order[k]
        z = standardise(x[free[:, effect]])
        out[causes, effect] = np.abs(_adaptive_lasso(z[:, causes], z[:, effect]))
    return out


def _adaptive_lasso(x: Floats, y: Floats) -> Floats:
    """Coefficients at the least BIC of a LASSO whose penalties are inverse to the least-squares coefficients."""
    coefficients = np.linalg.lstsq(x, y)[0]
    variance = float(((y - x @ coefficients) ** 2).sum() / (len(y) - x.shape[1] - 1))
    weights = np.abs(coefficients)
    if not weights.any():
        return weights
    model = LassoLarsIC(criterion="bic", noise_variance=max(variance, 1e-10))
    return np.asarray(model.fit(x * weights, y).coef_ * weights, dtype=np.float64)
