"""Share of changed regression edges per gene, in the manner of DCI."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from causcade.target_baselines._marginal import Cells, Scores, check_two

_SMALLEST = 1e-9


def edge_change(
    control: ArrayLike,
    perturbed: ArrayLike,
    *,
    n_subsamples: int = 20,
    share: float = 0.5,
    alpha: float = 0.01,
    max_conditioning: int = 1,
    rng: int | np.random.Generator | None = 0,
) -> Scores:
    """Share of a gene's edges that changed. DCI-like: the idea of the difference causal inference algorithm.

    The coefficient of gene j in the regression of gene i on j and a small set of other genes is tested for equality
    between the two sets of cells. An edge counts as changed if, in one of its two directions, the coefficient
    differs whatever the set. This is repeated on random halves of the cells (stability selection) and averaged.
    Shifts of the mean leave coefficients as they are, so they are not seen. Unlike DCI, edges are not oriented, and
    every pair of genes is tested, not only those of a first difference graph.

    Time grows as ``n_subsamples`` times n_genes to the power ``max_conditioning + 2``; meant for up to some
    hundred genes.

    Parameters
    ----------
    control, perturbed
        (n_cells, n_genes), dense; the numbers of cells may differ.
    n_subsamples
        Number of subsamples.
    share
        Share of the cells of each set in one subsample.
    alpha
        Level of each test, not corrected for their number: the minimum over the sets is conservative.
    max_conditioning
        Most other genes in a regression: 0, 1 or 2.
    rng
        Draws the subsamples.

    Returns
    -------
    (n_genes,) between 0 and 1: the mean over subsamples of changed edges, divided by ``n_genes - 1``.

    Raises
    ------
    ValueError
        As in :func:`log_fold_change`, with too few cells, or if an argument is out of range.
    """
    if n_subsamples < 1 or not 0 < share <= 1 or not 0 < alpha < 1 or max_conditioning not in (0, 1, 2):
        msg = f"{n_subsamples=} must be at least 1, {share=} and {alpha=} in 0 to 1, {max_conditioning=} 0, 1 or 2"
        raise ValueError(msg)
    a, b = check_two(control, perturbed, fewest=int(np.ceil((max_conditioning + 4) / share)))
    both = np.concatenate([a, b]).astype(np.float64)
    sd = both.std(axis=0)
    both = (both - both.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    sets = both[: len(a)], both[len(a) :]
    gen, cut = np.random.default_rng(rng), norm.isf(alpha / 2)
    total = np.zeros(both.shape[1])
    for _ in range(n_subsamples):
        rows = [gen.choice(len(x), int(len(x) * share), replace=False) for x in sets]
        changed = _least_change([x[r] for x, r in zip(sets, rows, strict=True)], max_conditioning) > cut
        total += (changed | changed.T).sum(axis=1)
    return total / (n_subsamples * max(both.shape[1] - 1, 1))


def _least_change(sets: list[Cells], max_conditioning: int) -> Scores:
    """Smallest |z| over conditioning sets, of the difference of coefficients [response, predictor]."""
    n = [len(x) for x in sets]
    d = sets[0].shape[1]
    start = [np.cov(x, rowvar=False, bias=True).reshape(d, d) + _SMALLEST * np.eye(d) for x in sets]
    least = np.full((d, d), np.inf)
    for given, covariances in _conditioned(start, max_conditioning):
        z = _change(covariances, [m - 2 - len(given) for m in n])
        z[list(given)] = np.inf
        z[:, list(given)] = np.inf
        least = np.minimum(least, z)
    np.fill_diagonal(least, 0)
    return least


def _conditioned(covariances: list[Scores], most: int) -> Iterator[tuple[tuple[int, ...], list[Scores]]]:
    """Covariances given every set of up to ``most`` genes."""
    yield (), covariances
    for size in range(1, most + 1):
        for given in combinations(range(len(covariances[0])), size):
            yield given, [_given(c, given) for c in covariances]


def _given(covariance: Scores, genes: tuple[int, ...]) -> Scores:
    for k in genes:
        column = covariance[:, k]
        covariance = covariance - np.outer(column, column / max(column[k], _SMALLEST))
    return covariance


def _change(covariances: list[Scores], freedom: list[int]) -> Scores:
    slopes, errors = [], []
    for c, df in zip(covariances, freedom, strict=True):
        variance = np.maximum(c.diagonal(), _SMALLEST)
        slope = c / variance
        residual = np.maximum(variance[:, None] - c * slope, _SMALLEST)
        slopes.append(slope)
        errors.append(residual / variance / df)
    return np.abs(slopes[1] - slopes[0]) / np.sqrt(errors[0] + errors[1])
