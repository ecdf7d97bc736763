"""Ranking scores of pair matrices and of plain lists; ties are handled exactly."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Metric = Literal["auroc", "ap", "f1"]


class Ranked(NamedTuple):
    """Scores of each query; NaN where it has no positives or no negatives."""

    auroc: Floats
    ap: Floats
    f1: Floats


def rank_list(labels: Bools, scores: Floats) -> tuple[float, float, float]:
    """AUROC, average precision and F1 of one list. Only positives are looked up, so sparse truth is cheap."""
    every, hits = np.sort(scores), np.sort(scores[labels])
    n, p = every.size, hits.size
    if p in (0, n):
        return (np.nan,) * 3
    below, upto = np.searchsorted(every, hits, "left"), np.searchsorted(every, hits, "right")
    hits_below, hits_upto = np.searchsorted(hits, hits, "left"), np.searchsorted(hits, hits, "right")
    tied, hits_tied = upto - below, hits_upto - hits_below
    beaten = (below - hits_below) + (tied - hits_tied) / 2  # negatives under each hit
    precision = (p - hits_below) / (n - below)
    called = np.clip(p - (n - upto), 0, tied) / tied  # share of the hit's tie group among the first p
    return float(beaten.sum() / (p * (n - p))), float(precision.mean()), float(called.mean())


def rank(labels: Bools, scores: Floats, keep: Bools) -> Ranked:
    """Score each row of (queries, candidates) over the candidates in ``keep``."""
    labels, scores, keep = np.ascontiguousarray(labels), np.ascontiguousarray(scores), np.ascontiguousarray(keep)
    rows = zip(labels, scores, keep, strict=True)
    return Ranked(*np.array([rank_list(truth[used], values[used]) for truth, values, used in rows]).T)


def as_labels(labels: ArrayLike, name: str) -> Bools:
    array = np.asarray(labels)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        msg = f"{name} must hold only 0/1 or booleans; were {name} and the scores swapped?"
        raise ValueError(msg)
    return array.astype(bool, copy=False)


def as_scores(scores: ArrayLike) -> Floats:
    array = np.asarray(scores)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    return array


def flat(labels: ArrayLike, scores: ArrayLike, name: str = "scores") -> tuple[Bools, Floats]:
    truth, values = as_labels(labels, "labels"), as_scores(scores)
    if truth.shape != values.shape or truth.size == 0:
        msg = f"labels {truth.shape} and {name} {values.shape} must have one, non-empty shape"
        raise ValueError(msg)
    if np.isnan(values).any():
        msg = f"{name} hold {int(np.isnan(values).sum())} NaN; drop those entries or give them a value"
        raise ValueError(msg)
    return truth.ravel(), values.ravel()


def pairs(
    truth: ArrayLike, scores: ArrayLike, effects: ArrayLike | None, keep: ArrayLike | None = None
) -> tuple[Bools, Floats, Bools]:
    """Check a pair matrix; the third array is True on the pairs that count."""
    labels, values = as_labels(truth, "truth"), as_scores(scores)
    if labels.ndim != 2 or labels.shape != values.shape or labels.size == 0:
        msg = f"truth {labels.shape} and scores {values.shape} must be dense, of one shape (n_causes, n_effects)"
        raise ValueError(msg)
    n, k = labels.shape
    if effects is None and n != k:
        msg = f"scores have shape ({n}, {k}); pass effects=, the position of each of the {k} effects among the causes"
        raise ValueError(msg)
    own = np.arange(k) if effects is None else np.asarray(effects)
    if own.shape != (k,) or own.min() < 0 or own.max() >= n:
        msg = f"effects must be {k} positions between 0 and {n - 1}, one per column of scores"
        raise ValueError(msg)
    used = np.ones((n, k), bool) if keep is None else np.array(keep, dtype=bool)
    if used.shape != (n, k):
        msg = f"keep has shape {used.shape}, scores have {(n, k)}"
        raise ValueError(msg)
    used[own, np.arange(k)] = False
    bad = np.argwhere(np.isnan(values) & used)
    if len(bad):
        i, j = bad[0].tolist()
        msg = f"scores hold {len(bad)} NaN, the first at [cause {i}, effect {j}]; give unscored pairs the lowest score"
        raise ValueError(msg)
    return labels, values, used


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half.

    Parameters
    ----------
    labels
        0/1 or bool, any shape.
    scores
        Same shape; higher means more likely positive. Infinite values are allowed.

    Returns
    -------
    Between 0 and 1; NaN when all labels are the same.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN, or labels are not 0/1.
    """
    return rank_list(*flat(labels, scores))[0]


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve as a step function. See :func:`auroc` for the arguments."""
    return rank_list(*flat(labels, scores))[1]


def f1_at_true_count(labels: ArrayLike, scores: ArrayLike) -> float:
    """F1 when as many are called as are true, which makes it precision and recall too. See :func:`auroc`.

    Ties at the cut count by their expectation under random tie-breaking.
    """
    return rank_list(*flat(labels, scores))[2]


def per_target(
    truth: ArrayLike,
    scores: ArrayLike,
    metric: Metric = "auroc",
    *,
    effects: ArrayLike | None = None,
    keep: ArrayLike | None = None,
) -> Floats:
    """How well the causes of each target are ranked (the "row" score, before averaging).

    Parameters
    ----------
    truth
        (n_causes, n_effects) bool; ``truth[i, j]`` says that gene i is a cause of gene j.
    scores
        (n_causes, n_effects); higher means more likely a cause. The target's own entry is ignored.
    metric
        ``"auroc"``, ``"ap"`` (average precision) or ``"f1"`` (at the true count).
    effects
        (n_effects,) position of each effect among the causes. Needed when only some targets were scored.
    keep
        (n_causes, n_effects) bool; pairs to count. All by default.

    Returns
    -------
    (n_effects,) float64; NaN for a target with no cause, or caused by every other gene.

    Raises
    ------
    ValueError
        If shapes differ, truth is not 0/1, a counted score is NaN, or ``metric`` is unknown.
    """
    labels, values, used = pairs(truth, scores, effects, keep)
    return _pick(rank(labels.T, values.T, used.T), metric)


def per_regulator(
    truth: ArrayLike,
    scores: ArrayLike,
    metric: Metric = "auroc",
    *,
    effects: ArrayLike | None = None,
    keep: ArrayLike | None = None,
) -> Floats:
    """How well the effects of each regulator are ranked (the "column" score, before averaging).

    A ranking of causes that ignores the target gives ties only, hence exactly 0.5 in AUROC.
    Arguments and errors as in :func:`per_target`.

    Returns
    -------
    (n_causes,) float64; NaN for a gene that causes nothing, or every other gene.
    """
    return _pick(rank(*pairs(truth, scores, effects, keep)), metric)


def _pick(ranked: Ranked, metric: str) -> Floats:
    if metric not in Ranked._fields:
        msg = f"metric {metric!r} is not one of {', '.join(Ranked._fields)}"
        raise ValueError(msg)
    return getattr(ranked, metric)


def mean(values: Floats) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def direction_accuracy(truth: ArrayLike, scores: ArrayLike) -> float:
    """Share of true pairs i -> j with ``scores[i, j] > scores[j, i]``; ties count half.

    Pairs that cause each other have no direction and are left out.

    Parameters
    ----------
    truth, scores
        (n, n), ``[cause, effect]``.

    Returns
    -------
    Between 0 and 1 (0.5 for any symmetric score); NaN without a true pair.
    """
    labels, values, used = pairs(truth, scores, None)
    i, j = np.nonzero(labels & ~labels.T & used)
    forward, back = values[i, j], values[j, i]
    return float(((forward > back) + 0.5 * (forward == back)).mean()) if i.size else float("nan")


def false_negative_rate_by_path(
    truth: ArrayLike,
    scores: ArrayLike,
    path_length: ArrayLike,
    *,
    n_positives: int | None = None,
    threshold: float | None = None,
    effects: ArrayLike | None = None,
) -> dict[int, float]:
    """Share of true pairs that are missed, by the distance between cause and effect.

    Parameters
    ----------
    truth, scores
        (n_causes, n_effects), ``[cause, effect]``.
    path_length
        (n_causes, n_effects); edges on the shortest path. Read only where ``truth`` holds.
    n_positives
        Number of pairs called, the same for all methods compared; by default the number of true pairs. Pairs
        tied at the cut count by the share of them that is called.
    threshold
        Call every pair scoring at least this instead.
    effects
        As in :func:`per_target`.

    Returns
    -------
    Path length -> false-negative rate, shortest first.

    Raises
    ------
    ValueError
        As in :func:`per_target`; if both cuts are given, ``n_positives`` is out of range, or a true pair has no path.
    """
    labels, values, used = pairs(truth, scores, effects)
    true = labels & used
    lengths = true_lengths(path_length, true)
    if threshold is not None and n_positives is not None:
        msg = "pass n_positives or threshold, not both"
        raise ValueError(msg)
    if threshold is not None:
        called = (values[true] >= threshold).astype(float)
    else:
        called = _called(values[used], values[true], int(true.sum()) if n_positives is None else n_positives)
    return {int(d): float(1 - called[lengths == d].mean()) for d in np.unique(lengths)}


def true_lengths(path_length: ArrayLike, true: Bools) -> Floats:
    lengths = np.asarray(path_length)
    if lengths.shape != true.shape:
        msg = f"path_length has shape {lengths.shape}, scores have {true.shape}"
        raise ValueError(msg)
    if not (np.isfinite(lengths[true]) & (lengths[true] >= 1)).all():
        msg = "path_length must be a finite number of at least 1 for every true pair; were causes and effects swapped?"
        raise ValueError(msg)
    return lengths[true]


def _called(every: Floats, chosen: Floats, n_positives: int) -> Floats:
    """Share of each of ``chosen`` that falls among the ``n_positives`` highest of ``every``."""
    if not 0 <= n_positives <= every.size:
        msg = f"n_positives={n_positives} is not between 0 and the {every.size} scored pairs"
        raise ValueError(msg)
    if n_positives == 0:
        return np.zeros(chosen.size)
    cut = np.partition(every, every.size - n_positives)[every.size - n_positives]
    share = (n_positives - np.count_nonzero(every > cut)) / np.count_nonzero(every == cut)
    return (chosen > cut) + share * (chosen == cut)
