"""One ranking of candidate targets from several: the model's, the fold changes' and the rank-sum test's.

Each method gives two features per candidate, which are comparable between perturbations and methods: how far up the
list it is, and how far above the average of the list. A fused score is their sum, with weights that are never negative:
a method can be ignored, but not turned round. Weights are learned where targets are known, and equal elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata

__all__ = ["FEATURES", "METHODS", "default_weights", "fit_fusion", "fuse", "rank_features", "stack_methods"]

Floats = NDArray[np.float64]

#: Order of the methods in the columns of scores
METHODS: Final = ("cdn", "lfc", "wilcoxon")
#: Order of the columns of features, and keys of the weights
FEATURES: Final = tuple(f"{method}_{kind}" for method in METHODS for kind in ("rank", "height"))


def stack_methods(score: ArrayLike, lfc: ArrayLike, wilcoxon: ArrayLike) -> Floats:
    """Scores of one perturbation in the order of `METHODS`, higher = more likely a target.

    Parameters
    ----------
    score
        (n_genes,) logit of the model; NaN where a gene is no candidate.
    lfc, wilcoxon
        (n_genes,) log fold change and z of the rank-sum test, of either sign: their size counts.

    Returns
    -------
    (n_genes, 3).
    """
    columns = np.asarray(score), np.abs(lfc), np.abs(wilcoxon)
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def rank_features(scores: ArrayLike) -> Floats:
    """Features of the candidates of one perturbation.

    Parameters
    ----------
    scores
        (n_genes, n_methods), higher = more likely a target, in the order of `METHODS` (see `stack_methods`). A gene
        that is NaN in the first column is no candidate; NaN in another is taken for the lowest of that column.

    Returns
    -------
    (n_genes, 2 * n_methods). Per method -log(rank / n) among the n candidates, 0 for the last (ties share their mean
    rank), and asinh of the standardised score, which grows as a logarithm so that one outlier does not drown the rest.
    NaN for genes that are no candidates.

    Raises
    ------
    ValueError
        If `scores` is not a matrix, or holds infinite values.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0 or np.isinf(table).any():
        problem = "infinite values" if np.isinf(table).any() else f"shape {table.shape}"
        msg = f"scores must be finite or NaN and (n_genes, n_methods), got {problem}."
        raise ValueError(msg)
    out = np.full((len(table), 2 * table.shape[1]), np.nan)
    candidates = np.flatnonzero(~np.isnan(table[:, 0]))
    for method in range(table.shape[1]):
        values = table[candidates, method]
        lowest = np.nanmin(values) if (~np.isnan(values)).any() else 0.0
        values = np.where(np.isnan(values), lowest, values)
        out[candidates, 2 * method] = -np.log(rankdata(-values) / max(len(values), 1))
        out[candidates, 2 * method + 1] = np.arcsinh(_standardised(values))
    return out


def _standardised(values: Floats) -> Floats:
    if len(values) == 0:
        return values
    centred = values - values.mean()
    spread = values.std()
    return centred / spread if spread > 1e-12 * np.abs(values).max() else np.zeros_like(values)


def default_weights() -> dict[str, float]:
    """Equal weights of all features, for use where nothing was learned."""
    return dict.fromkeys(FEATURES, 1 / len(METHODS))


def fit_fusion(features: Sequence[ArrayLike], targets: Sequence[ArrayLike], *, l2: float = 1.0) -> dict[str, float]:
    """Learn weights from perturbations whose targets are known.

    Conditional logistic regression: among the candidates of a perturbation, the target is drawn with the softmax of the
    fused score. The weights are not negative, and a ridge draws them to `default_weights`: from few perturbations, or
    uninformative ones, not much is learned. The problem is convex and nothing is random.

    Parameters
    ----------
    features
        Per perturbation what `rank_features` returns, (n_genes, 6); the genes may differ.
    targets
        Per perturbation the positions of its targets among those genes. Targets that are no candidates are left out,
        and so are perturbations without any; several targets of one perturbation share its weight of one.
    l2
        Strength of the ridge, in squared weights per log-likelihood of one perturbation.

    Returns
    -------
    Weight per feature, plain floats by the names in `FEATURES`; the default where no target is left.

    Raises
    ------
    ValueError
        If there are not as many targets as features, features have another shape, a position is outside of the genes,
        or `l2` is not positive.

    Examples
    --------
    >>> features = [rank_features(stack_methods(score, lfc, z)) for score, lfc, z in screens]
    >>> weights = fit_fusion(features, targets)
    >>> fused = fuse(features[0], weights)
    """
    if not (np.isfinite(l2) and l2 > 0):
        msg = f"l2 must be positive, got {l2!r}."
        raise ValueError(msg)
    if len(features) != len(targets):
        msg = f"There are features of {len(features):,} perturbations, but targets of {len(targets):,}."
        raise ValueError(msg)
    items = [_item(f, t, i) for i, (f, t) in enumerate(zip(features, targets, strict=True))]
    used = [(table, own) for table, own in items if len(own)]
    if not used:
        return default_weights()
    start = np.array(list(default_weights().values()))
    table = np.concatenate([part for part, _ in used])
    sizes = np.array([len(part) for part, _ in used])
    first = np.cumsum(sizes) - sizes
    found = np.sum([part[own].mean(axis=0) for part, own in used], axis=0)

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = table @ weights
        top = np.maximum.reduceat(logits, first)
        odds = np.exp(logits - np.repeat(top, sizes))
        total = np.add.reduceat(odds, first)
        away = weights - start
        value = float((np.log(total) + top).sum() - found @ weights + l2 / 2 * away @ away)
        return value, (odds / np.repeat(total, sizes)) @ table - found + l2 * away

    bounds = [(0.0, None)] * len(FEATURES)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    return {name: float(weight) for name, weight in zip(FEATURES, best.x, strict=True)}


def _item(features: ArrayLike, targets: ArrayLike, i: int) -> tuple[Floats, NDArray[np.int64]]:
    """Features of the candidates of perturbation `i`, and the rows of its targets among them."""
    table = _check_features(features)
    own = np.unique(np.asarray(targets).reshape(-1).astype(np.int64))
    if len(own) and (own[0] < 0 or own[-1] >= len(table)):
        msg = f"targets[{i}] holds {own[[0, -1]].tolist()}, but there are {len(table):,} genes, counted from 0."
        raise ValueError(msg)
    candidate = np.asarray(~np.isnan(table).any(axis=1))
    row = np.cumsum(candidate) - 1
    return table[candidate], row[own[candidate[own]]]


def _check_features(features: ArrayLike) -> Floats:
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(FEATURES):
        msg = f"features must be (n_genes, {len(FEATURES)}), as rank_features returns for {METHODS}; got {table.shape}."
        raise ValueError(msg)
    return table


def fuse(features: ArrayLike, weights: Mapping[str, Any] | None = None) -> Floats:
    """Fused score of the candidates of one perturbation.

    Parameters
    ----------
    features
        (n_genes, 6), as `rank_features` returns.
    weights
        Weight per feature, as `fit_fusion` returns; None for `default_weights`.

    Returns
    -------
    (n_genes,), higher = more likely a target; NaN for genes that are no candidates.

    Raises
    ------
    ValueError
        If features have another shape, or weights are negative, not finite, or not of these features.
    """
    table = _check_features(features)
    weights = default_weights() if weights is None else weights
    if set(weights) != set(FEATURES):
        odd = sorted(set(weights) ^ set(FEATURES))
        msg = f"weights must be given for {', '.join(FEATURES)}, and no others; missing or unknown: {', '.join(odd)}."
        raise ValueError(msg)
    values = np.array([float(weights[name]) for name in FEATURES])
    if not (np.isfinite(values) & (values >= 0)).all():
        msg = f"weights must be finite and not negative, got {dict(weights)}."
        raise ValueError(msg)
    return np.asarray(table @ values)
