"""Scores of a whole causal graph: edges, directions, probabilities. All graphs are ``[cause, effect]``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from causcade.metrics._calibration import brier, brier_skill, expected_calibration_error
from causcade.metrics._dag import called_edges, expected_false_edges, is_acyclic, square, to_dag
from causcade.metrics._ranking import Bools, Floats, direction_accuracy, pairs, rank_list

_UNSURE = 0.05  # most pairs of a sparse graph lie below; there, calibration is easy


class EdgeRecovery(NamedTuple):
    """Precision, recall and F1 of called edges."""

    precision: float
    recall: float
    f1: float


def shd(truth: ArrayLike, graph: ArrayLike, threshold: float = 0.5) -> int:
    """Structural Hamming distance: the number of gene pairs that are linked differently.

    A missing, a superfluous and a reversed edge count one each; so does an edge called in both directions where one
    is true.

    Parameters
    ----------
    truth
        (n, n) 0/1 or bool, ``[cause, effect]``. The diagonal is ignored, here and below.
    graph
        (n, n) ``[cause, effect]``, binary or probabilities.
    threshold
        Edges with at least this value are called.

    Returns
    -------
    Between 0 and ``n (n - 1) / 2``.

    Raises
    ------
    ValueError
        If shapes differ, truth is not 0/1, or a value is NaN.
    """
    true, called = _true_and_called(truth, graph, threshold)
    differs = true != called
    return int(np.triu(differs | differs.T).sum())


def sid(truth: ArrayLike, graph: ArrayLike, threshold: float = 0.5) -> int:
    """Structural intervention distance (Peters and Bühlmann 2015): wrongly inferred interventional distributions.

    The number of ordered pairs of genes for which adjusting for the parents in the called graph does not give the
    effect of an intervention in the true one. Sparse guesses fare well by it, so read it beside
    :func:`edge_recovery`. Needs the package ``gadjid``.

    Parameters
    ----------
    truth, graph, threshold
        As in :func:`shd`; both graphs acyclic.

    Returns
    -------
    Between 0 and ``n (n - 1)``.

    Raises
    ------
    ImportError
        Without ``gadjid``.
    ValueError
        As in :func:`shd`, or if a graph has a cycle.
    """
    true, called = _true_and_called(truth, graph, threshold)
    gadjid = _gadjid()
    for name, edges, fix in (
        ("truth", true, "SID is not defined for it"),
        ("graph", called, "to_dag(graph) removes cycles"),
    ):
        if not is_acyclic(edges):
            msg = f"{name} has a cycle; {fix}"
            raise ValueError(msg)
    _, wrong = gadjid.sid(true.astype(np.int8), called.astype(np.int8), edge_direction="from row to column")
    return int(wrong)


def edge_recovery(truth: ArrayLike, graph: ArrayLike, threshold: float = 0.5) -> EdgeRecovery:
    """Precision, recall and F1 of the called edges; a reversed edge is wrong.

    Parameters
    ----------
    truth, graph, threshold
        As in :func:`shd`.

    Returns
    -------
    Each between 0 and 1. Precision is NaN without a called edge, recall without a true one, F1 without either.
    """
    true, called = _true_and_called(truth, graph, threshold)
    hits, n_called, n_true = int((true & called).sum()), int(called.sum()), int(true.sum())

    def share(numerator: int, denominator: int) -> float:
        return numerator / denominator if denominator else float("nan")

    return EdgeRecovery(share(hits, n_called), share(hits, n_true), share(2 * hits, n_called + n_true))


def graph_report(
    truth: ArrayLike, probability: ArrayLike, *, threshold: float = 0.5, calibrated: bool = True
) -> dict[str, float]:
    """Everything a sceptic asks of a causal graph, over the ordered pairs off the diagonal.

    Parameters
    ----------
    truth
        (n, n) 0/1 or bool, ``[cause, effect]``.
    probability
        (n, n), ``[cause, effect]``: edge probabilities, or scores with ``calibrated=False``.
    threshold
        Edges with at least this value are called.
    calibrated
        Whether values are meant as probabilities. Without, the scores that need probabilities are NaN and values
        may be any number.

    Returns
    -------
    ``shd``, ``sid``
        Distances; SID is that of :func:`to_dag` of the called graph, NaN without ``gadjid`` or if truth is cyclic.
    ``precision``, ``recall``, ``f1``, ``f1_at_true_count``
        :func:`edge_recovery`, and F1 when as many edges are called as are true.
    ``auroc``, ``auprc``, ``prevalence``
        Ranking of all pairs; the prevalence is what chance gives in AUPRC.
    ``direction_accuracy``
        Share of true edges that score above their reverse (:func:`direction_accuracy`).
    ``brier``, ``brier_skill``, ``ece``, ``ece_adaptive``
        Calibration: 10 equal-width bins for ``ece``; for ``ece_adaptive`` 10 bins of equal size among pairs of
        probability above 0.05 (NaN without one).
    ``n_true``, ``n_called``, ``n_false``, ``n_false_expected``
        Edges; the last is what the probabilities themselves say of ``n_false``.
    ``acyclic``
        1 if the called graph has no cycle, otherwise 0; its mean over data sets is the share of acyclic graphs.

    Raises
    ------
    ValueError
        As in :func:`shd`; if ``calibrated`` and a value lies outside 0 to 1.
    """
    labels, values, off = _checked(truth, probability)
    true, called = labels & off, called_edges(values, threshold)
    out: dict[str, float] = {"shd": shd(true, called), "sid": _sid_or_nan(true, values, threshold)}
    out |= edge_recovery(true, called)._asdict()
    out["auroc"], out["auprc"], out["f1_at_true_count"] = rank_list(labels[off], values[off])
    out |= {"prevalence": float(labels[off].mean()), "direction_accuracy": direction_accuracy(true, values)}
    out |= _calibration(labels[off], values[off]) if calibrated else dict.fromkeys(_CALIBRATION, float("nan"))
    out |= {"n_true": int(true.sum()), "n_called": int(called.sum()), "n_false": int((called & ~true).sum())}
    out["n_false_expected"] = expected_false_edges(values, threshold) if calibrated else float("nan")
    return out | {"acyclic": float(is_acyclic(called))}


_CALIBRATION = ("brier", "brier_skill", "ece", "ece_adaptive")


def _calibration(labels: Bools, values: Floats) -> dict[str, float]:
    unsure = values > _UNSURE
    adaptive = float("nan")
    if unsure.any():
        adaptive = expected_calibration_error(labels[unsure], values[unsure], bins="mass")
    scores = (brier(labels, values), brier_skill(labels, values), expected_calibration_error(labels, values), adaptive)
    return dict(zip(_CALIBRATION, scores, strict=True))


def _sid_or_nan(true: Bools, values: Floats, threshold: float) -> float:
    if not is_acyclic(true):
        return float("nan")
    try:
        return sid(true, to_dag(values, threshold))
    except ImportError:
        return float("nan")


def _checked(truth: ArrayLike, graph: ArrayLike) -> tuple[Bools, Floats, Bools]:
    labels, values, off = pairs(truth, square(graph), None)
    if len(labels) < 2:
        msg = "a graph of one gene has no pair to score"
        raise ValueError(msg)
    return labels, values, off


def _true_and_called(truth: ArrayLike, graph: ArrayLike, threshold: float) -> tuple[Bools, Bools]:
    labels, values, off = _checked(truth, graph)
    return labels & off, called_edges(values, threshold)


def _gadjid() -> Any:
    try:
        return import_module("gadjid")
    except ImportError as error:
        msg = "the structural intervention distance needs the package gadjid: pip install 'causcade[sid]'"
        raise ImportError(msg) from error
