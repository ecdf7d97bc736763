"""Simple rankings that every model has to beat, with the same return as the models.

All give cause scores ``[cause, effect]``, float32, higher meaning more likely a cause; the diagonal means nothing.
They start from statistics of the screen (effects, correlations, pair features), not from cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

__all__ = [
    "PairTrees",
    "correlation",
    "knockout_t",
    "popularity",
    "random_scores",
    "rank_average",
    "true_popularity",
]

Scores = NDArray[np.float32]

_PREDICT_ROWS = 1 << 18  # pairs predicted at a time: scikit-learn copies them to float64


def knockout_t(effect_z: ArrayLike) -> Scores:
    """How far each gene moves when each cause is perturbed.

    Parameters
    ----------
    effect_z
        (n_causes, n_effects) standardised effect (z or t) of perturbing the cause; NaN where the cause was not
        perturbed or the effect cannot be tested.

    Returns
    -------
    (n_causes, n_effects) absolute values; 0 for NaN, so causes that were not perturbed come last.

    Raises
    ------
    ValueError
        If not 2-D, or a value is infinite.
    """
    z = _matrix(effect_z, "effect_z")
    if np.isinf(z).any():
        i, j = np.argwhere(np.isinf(z))[0].tolist()
        msg = f"effect_z is infinite at [cause {i}, effect {j}]; a spread of zero cannot be divided by, use NaN there"
        raise ValueError(msg)
    return np.nan_to_num(np.abs(z), nan=0.0).astype(np.float32)


def correlation(corr: ArrayLike) -> Scores:
    """Absolute correlation between genes.

    Parameters
    ----------
    corr
        (n_genes, n_genes) correlations; NaN for constant genes.

    Returns
    -------
    (n_genes, n_genes) absolute values, 0 for NaN. Symmetric if ``corr`` is: it knows no direction.

    Raises
    ------
    ValueError
        If not 2-D, or a value lies outside -1 to 1.
    """
    r = np.nan_to_num(np.abs(_matrix(corr, "corr")), nan=0.0)
    if r.size and r.max() > 1 + 1e-4:
        msg = f"corr reaches {r.max():g}; correlations lie between -1 and 1 (was a covariance passed?)"
        raise ValueError(msg)
    return np.minimum(r, 1).astype(np.float32)


def popularity(scores: ArrayLike) -> Scores:
    """One list for every target: how strong a cause is on average.

    With :func:`knockout_t` scores this is the size of each knock-out's footprint.

    Parameters
    ----------
    scores
        (n, n) cause scores, ``[cause, effect]``; the diagonal is ignored.

    Returns
    -------
    (n, n) with the same column for every effect: the mean over the other genes.

    Raises
    ------
    ValueError
        If not square, or a score off the diagonal is NaN or infinite.
    """
    values = _square(scores, "scores")
    off = ~np.eye(len(values), dtype=bool)
    if not np.isfinite(values[off]).all():
        msg = "scores hold NaN or infinite values off the diagonal, which have no mean; give those pairs a score"
        raise ValueError(msg)
    mean = np.sum(values, axis=1, where=off, dtype=np.float64) / max(len(values) - 1, 1)
    return _repeat(mean)


def true_popularity(ancestors: ArrayLike) -> Scores:
    """One list for every target: the true number of genes each cause acts on. Knows the answer, but no target.

    Parameters
    ----------
    ancestors
        (n, n) bool; ``ancestors[i, j]`` says that gene i is a cause of gene j. The diagonal is ignored.

    Returns
    -------
    (n, n) with the same column for every effect.
    """
    truth = _square(ancestors, "ancestors") != 0
    return _repeat(truth.sum(axis=1) - truth.diagonal())


def random_scores(n: int, rng: int | np.random.Generator | None = None) -> Scores:
    """Uniform random scores.

    Parameters
    ----------
    n
        Number of genes.
    rng
        Draws the scores.

    Returns
    -------
    (n, n) between 0 and 1.
    """
    return np.random.default_rng(rng).random((n, n), dtype=np.float32)


def rank_average(scores: Sequence[ArrayLike], weights: Sequence[float] | None = None) -> Scores:
    """Combine several scores without regard to their scales: the mean of their ranks over all pairs.

    Parameters
    ----------
    scores
        Arrays (n, n), ``[cause, effect]``; the diagonals are ignored.
    weights
        One per array; equal by default.

    Returns
    -------
    (n, n) between 0 and 1, the mean rank off the diagonal divided by the number of pairs; ties share their mean
    rank. The diagonal is 0.

    Raises
    ------
    ValueError
        If shapes differ, a score off the diagonal is NaN, or the weights do not fit.
    """
    values = [_square(s, "scores") for s in scores]
    share = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not values or len({v.shape for v in values}) > 1:
        msg = f"rank_average needs arrays of one shape, got {[v.shape for v in values]}"
        raise ValueError(msg)
    if share.shape != (len(values),) or not (share >= 0).all() or share.sum() == 0:
        msg = f"weights must be {len(values)} numbers of at least 0, not all 0"
        raise ValueError(msg)
    off = ~np.eye(len(values[0]), dtype=bool)
    total = np.zeros(int(off.sum()))
    for value, weight in zip(values, share / share.sum(), strict=True):
        if np.isnan(value[off]).any():
            msg = "scores hold NaN off the diagonal, which have no rank; give unscored pairs the lowest score"
            raise ValueError(msg)
        total += weight * rankdata(value[off])
    out = np.zeros(off.shape, np.float32)
    out[off] = total / max(total.size, 1)
    return out


class PairTrees:
    """Gradient-boosted trees on numbers that describe one (cause, effect) pair each.

    Fitted on simulated screens, where the causes are known, and applied to others. A network that does not beat
    them on graphs neither has seen is not worth its cost.

    Parameters
    ----------
    n_trees
        Number of boosting rounds.
    learning_rate
        Shrinkage of each tree.
    max_leaf_nodes
        Size of each tree.
    max_pairs
        Most pairs to fit on. Of more, all causes (up to half of the room) and a random sample of the rest are
        taken and weighted so that the predicted odds keep their meaning.
    rng
        Draws the sample and the trees' own randomness. Same seed and data, same trees.
    """

    def __init__(
        self,
        *,
        n_trees: int = 200,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 31,
        max_pairs: int = 1_000_000,
        rng: int | np.random.Generator | None = 0,
    ) -> None:
        self.n_trees, self.learning_rate, self.max_leaf_nodes = n_trees, learning_rate, max_leaf_nodes
        self.max_pairs, self.rng = max_pairs, rng
        self._trees: HistGradientBoostingClassifier | None = None

    def fit(self, features: ArrayLike, labels: ArrayLike) -> Self:
        """Learn which pairs are causes.

        Parameters
        ----------
        features
            (..., n_features); pairs along the leading axes. NaN means unknown and is used as such.
        labels
            (...,) 0/1 or bool. Leave the diagonal out before.

        Returns
        -------
        The fitted object.

        Raises
        ------
        ValueError
            If shapes do not match or labels are all the same.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        x, y = np.asarray(features), np.asarray(labels)
        if x.ndim < 2 or x.shape[:-1] != y.shape:
            msg = f"features {x.shape} must be labels' shape {y.shape} plus one axis of features"
            raise ValueError(msg)
        x, y = x.reshape(-1, x.shape[-1]), y.ravel()
        if not np.isin(y, (0, 1)).all() or y.min(initial=1) == y.max(initial=0):
            msg = "labels must hold both 0 and 1, and nothing else"
            raise ValueError(msg)
        gen = np.random.default_rng(self.rng)
        rows, weight = self._sample(y.astype(bool), gen)
        self._trees = HistGradientBoostingClassifier(
            max_iter=self.n_trees,
            learning_rate=self.learning_rate,
            max_leaf_nodes=self.max_leaf_nodes,
            early_stopping=False,
            random_state=int(gen.integers(2**31)),
        ).fit(x[rows], y[rows].astype(int), sample_weight=weight)
        return self

    def predict(self, features: ArrayLike) -> Scores:
        """Log odds of being a cause.

        Parameters
        ----------
        features
            (..., n_features), as in :meth:`fit`.

        Returns
        -------
        (...,): for (n, n, n_features), an (n, n) array ``[cause, effect]``.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        ValueError
            If the number of features is another than in :meth:`fit`.
        """
        if self._trees is None:
            msg = "PairTrees has not been fitted; call fit(features, labels) first"
            raise RuntimeError(msg)
        x = np.asarray(features)
        if x.ndim < 2 or x.shape[-1] != self._trees.n_features_in_:
            msg = f"features have shape {x.shape}; fit saw (..., {self._trees.n_features_in_})"
            raise ValueError(msg)
        flat = x.reshape(-1, x.shape[-1])
        out = np.empty(len(flat), np.float32)
        for i in range(0, len(flat), _PREDICT_ROWS):
            out[i : i + _PREDICT_ROWS] = self._trees.decision_function(flat[i : i + _PREDICT_ROWS])
        return out.reshape(x.shape[:-1])

    def _sample(self, y: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Rows to fit on, and how many pairs each stands for."""
        if y.size <= self.max_pairs:
            return np.arange(y.size), np.ones(y.size)
        positive, negative = np.flatnonzero(y), np.flatnonzero(~y)
        n_pos = min(positive.size, max(1, self.max_pairs // 2))
        n_neg = min(negative.size, max(1, self.max_pairs - n_pos))
        rows = np.concatenate([rng.choice(positive, n_pos, replace=False), rng.choice(negative, n_neg, replace=False)])
        weight = np.repeat([positive.size / n_pos, negative.size / n_neg], [n_pos, n_neg])
        order = np.argsort(rows)
        return rows[order], weight[order]


def _matrix(values: ArrayLike, name: str) -> NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != 2:
        msg = f"{name} has shape {array.shape}; it must be 2-D, [cause, effect]"
        raise ValueError(msg)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _square(values: ArrayLike, name: str) -> NDArray[np.floating]:
    array = _matrix(values, name)
    if array.shape[0] != array.shape[1]:
        msg = f"{name} has shape {array.shape}; it must be square, [cause, effect]"
        raise ValueError(msg)
    return array


def _repeat(column: ArrayLike) -> Scores:
    values = np.asarray(column, dtype=np.float32)
    return np.repeat(values[:, None], values.size, axis=1)
