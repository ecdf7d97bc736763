"""MB+CI: Markov blanket of the domain indicator, then conditional mutual information with it."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.covariance import graphical_lasso
from sklearn.exceptions import ConvergenceWarning

from causcade.target_baselines._marginal import Cells, Scores, check_two

_CLIP = 5.0  # standard deviations; squares of outliers would rule the covariance
_SMALLEST = 1e-6  # residual variance of standardised genes
_SHRINK = (0.01, 0.05, 0.2, 0.5)


def mb_ci(
    control: ArrayLike,
    perturbed: ArrayLike,
    *,
    alpha: float = 0.02,
    max_blanket: int = 8,
    max_conditioning: int = 3,
    max_genes: int = 50,
) -> Scores:
    """Genes whose link to the perturbation no other genes explain away.

    The perturbation is one more node of the graph, a 0/1 indicator of the set a cell is in. Its Markov blanket
    comes from the graphical lasso on standardised genes, their squares and the indicator (without the squares, a
    change of spread alone is invisible). A gene's score is its smallest conditional mutual information with the
    indicator over all small subsets of the blanket: a gene that only follows its changed parents becomes independent
    of the indicator given them, a gene that was acted on never does. The information is that of Gaussian residuals
    around a quadratic regression, fitted in each set and in both together, with variances corrected for the number
    of coefficients.

    Any change of a gene's own noise counts as a change of its mechanism, and hidden common causes break the logic.

    Parameters
    ----------
    control, perturbed
        (n_cells, n_genes), dense; the numbers of cells may differ.
    alpha
        Penalty of the graphical lasso, on the correlation scale.
    max_blanket
        Most genes of the blanket to condition on, the strongest first.
    max_conditioning
        Most genes in one subset.
    max_genes
        Genes that enter the graphical lasso: those with the most information before conditioning.

    Returns
    -------
    (n_genes,): nats, at least 0, inside the blanket; outside it between -1 and 0, in the order of the same
    information. Nothing is random.

    Raises
    ------
    ValueError
        As in :func:`log_fold_change`, with too few cells for the regressions, or if a limit is out of range.
    """
    if alpha <= 0 or min(max_blanket, max_genes) < 1 or max_conditioning < 0:
        msg = f"{alpha=} must be above 0, {max_blanket=} and {max_genes=} at least 1, {max_conditioning=} at least 0"
        raise ValueError(msg)
    a, b = check_two(control, perturbed, fewest=2 * max_conditioning + 4)
    sets = _features(a, b)
    nothing = np.zeros(0, np.intp)
    marginal = _Moments(*sets, nothing).information(nothing[None])
    chosen = np.sort(np.argsort(-marginal, kind="stable")[:max_genes])
    weight = np.zeros(marginal.size)
    weight[chosen] = _blanket(np.concatenate(sets), np.repeat([0.0, 1.0], [len(a), len(b)]), chosen, alpha)
    strongest = np.argsort(-weight, kind="stable")[:max_blanket]
    strongest = strongest[weight[strongest] > 0]
    moments, least = _Moments(*sets, strongest), marginal
    for size in range(1, min(max_conditioning, strongest.size) + 1):
        subsets = np.array(list(combinations(range(strongest.size), size)), np.intp)
        least = np.minimum(least, moments.information(subsets))
    return np.where(weight > 0, least, least / (1 + least) - 1)


def _features(a: Cells, b: Cells) -> tuple[Cells, Cells]:
    """Standardised genes, then their squares."""
    both = np.concatenate([a, b]).astype(np.float64)
    mean, sd = both.mean(axis=0), both.std(axis=0)
    z = np.clip((both - mean) / np.where(sd > 0, sd, 1.0), -_CLIP, _CLIP)
    features = np.concatenate([z, z * z], axis=1)
    return features[: len(a)], features[len(a) :]


def _blanket(both: Cells, domain: Cells, chosen: NDArray[np.intp], alpha: float) -> Scores:
    """Absolute partial correlation of each chosen gene, or its square, with the domain; 0 outside the blanket."""
    n_genes = both.shape[1] // 2
    nodes = np.column_stack([both[:, chosen], both[:, chosen + n_genes], domain])
    sd = nodes.std(axis=0)
    nodes = (nodes - nodes.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    precision = _sparse_precision(nodes.T @ nodes / len(nodes), alpha)
    partial = np.abs(precision[-1, :-1]) / np.sqrt(precision[-1, -1] * precision.diagonal()[:-1])
    return np.asarray(partial.reshape(2, -1).max(axis=0))


def _sparse_precision(correlation: Scores, alpha: float) -> Scores:
    """Graphical lasso; shrunk further where collinear genes defeat the solver, plain ridge as the last resort."""
    identity = np.eye(len(correlation))
    for shrink in _SHRINK:
        shrunk = (1 - shrink) * correlation + shrink * identity
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                precision = graphical_lasso(shrunk, alpha, max_iter=100, tol=1e-3)[1]
            except FloatingPointError:
                continue
        if np.isfinite(precision).all():
            return np.asarray(precision)
    return np.asarray(np.linalg.inv(0.5 * (correlation + identity)))


class _Moments:
    """Covariances in control, perturbed and both together: all that Gaussian information needs."""

    def __init__(self, a: Cells, b: Cells, blanket: NDArray[np.intp]) -> None:
        n_genes = a.shape[1] // 2
        features = np.concatenate([blanket, blanket + n_genes])
        self.blanket = blanket
        self.n = np.array([len(a), len(b), len(a) + len(b)], dtype=np.float64)
        centred = [x - x.mean(axis=0) for x in (a, b, np.concatenate([a, b]))]
        self.variance = np.stack([(x[:, :n_genes] ** 2).mean(axis=0) for x in centred])
        self.outer = np.stack([x[:, features].T @ x[:, :n_genes] / len(x) for x in centred])
        self.inner = np.stack([x[:, features].T @ x[:, features] / len(x) for x in centred])

    def information(self, subsets: NDArray[np.intp]) -> Scores:
        """Smallest information about the domain over the subsets (n, size) of the blanket, given as positions in it.

        Subsets with the gene itself are left out.
        """
        given = np.concatenate([subsets, subsets + self.blanket.size], axis=1)
        variance = np.repeat(self.variance[:, None], len(subsets), axis=1)
        if given.shape[1]:
            inner = self.inner[:, given[:, :, None], given[:, None, :]] + _SMALLEST * np.eye(given.shape[1])
            outer = self.outer[:, given]
            variance = variance - (outer * np.linalg.solve(inner, outer)).sum(axis=2)
        freedom = self.n / (self.n - given.shape[1] - 1)
        log = np.log(np.maximum(variance * freedom[:, None, None], _SMALLEST))
        share = self.n[:2] / self.n[2]
        information = np.maximum(0.5 * (log[2] - share[0] * log[0] - share[1] * log[1]), 0.0)
        information[np.arange(len(subsets))[:, None], self.blanket[subsets]] = np.inf
        return np.asarray(information.min(axis=0))
