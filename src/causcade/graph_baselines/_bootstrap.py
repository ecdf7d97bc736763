"""Edge probabilities from how often an edge is found again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.graph_baselines._cells import Bools, Floats, check_cells

Method = Callable[[ArrayLike, ArrayLike | None], Floats]


def dag_bootstrap(
    method: Method, *, n_boot: int = 20, threshold: float = 0.0, rng: int | np.random.Generator | None = 0
) -> Method:
    """Turn a method into one that gives edge probabilities: the share of resamples in which it finds the edge.

    An edge is found if its value is above ``threshold`` and above that of its reverse; edges whose two directions tie
    count half each (the undirected ones of :func:`pc`, :func:`ges` and :func:`gies`). So the two directions of a pair
    never add up to more than 1. A threshold above 0 makes sense for :func:`correlation` and :func:`precision`, whose
    values are hardly ever 0.

    Parameters
    ----------
    method
        ``f(values, mask)``, as all functions here.
    n_boot
        Number of resamples; probabilities are multiples of half its inverse.
    threshold
        Values above it count.
    rng
        Draws cells, with replacement and in unchanged number among the cells acted on alike. A seed gives the same
        resamples at every call, a generator new ones.

    Returns
    -------
    ``f(values, mask=None)`` -> (n_genes, n_genes) ``[cause, effect]``, 0 to 1.

    Raises
    ------
    ValueError
        If ``n_boot`` is below 1.
    """
    if n_boot < 1:
        msg = f"n_boot={n_boot} must be at least 1"
        raise ValueError(msg)

    def probabilities(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
        x, free = check_cells(values, mask)
        gen, alike = np.random.default_rng(rng), _alike(free)
        total = np.zeros((x.shape[1],) * 2)
        for _ in range(n_boot):
            rows = np.concatenate([gen.choice(group, group.size) for group in alike])
            score = np.asarray(method(x[rows], None if mask is None else ~free[rows]))
            above = score > threshold
            total += above * np.where(above & above.T, (score > score.T) + 0.5 * (score == score.T), 1.0)
        np.fill_diagonal(total, 0)
        return total / n_boot

    return probabilities


def _alike(free: Bools) -> list[NDArray[np.intp]]:
    """Cells by what was acted on."""
    _, which = np.unique(free, axis=0, return_inverse=True)
    return [np.flatnonzero(which.ravel() == k) for k in range(which.max() + 1)]
