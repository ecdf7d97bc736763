"""Cause scores beside what a list that ignores the question would get."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.metrics._ranking import (
    Bools,
    Floats,
    Ranked,
    as_scores,
    direction_accuracy,
    mean,
    pairs,
    rank,
    true_lengths,
)


def cause_report(
    truth: ArrayLike,
    scores: ArrayLike,
    *,
    path_length: ArrayLike | None = None,
    popularity: ArrayLike | None = None,
    effects: ArrayLike | None = None,
    rng: int | np.random.Generator | None = 0,
) -> dict[str, float]:
    """Everything a sceptic asks of cause scores, as fractions (not percent).

    Parameters
    ----------
    truth
        (n_causes, n_effects) bool, ``[cause, effect]``: ancestors, not only parents.
    scores
        (n_causes, n_effects), finite; higher means more likely a cause. Own entries are ignored.
    path_length
        (n_causes, n_effects) edges on the shortest path, read where ``truth`` holds; adds the ``_path2`` scores.
    popularity
        (n_causes,) or (n_causes, n_effects) ranking that ignores the target. By default each cause's mean score.
    effects
        As in :func:`per_target`.
    rng
        Draws the two shuffles. Nothing else is random.

    Returns
    -------
    ``row_*`` averages over targets, ``column_*`` over regulators, for ``auroc``, ``ap``, ``f1``:

    ``row_auroc``
        the score; ``row_prevalence`` is what chance gives in AP, ``n_targets`` the number averaged.
    ``row_auroc_shuffled``
        every target gets another target's scores. As high as the score itself: the target was not used.
    ``row_auroc_blind``
        one list for all targets (``popularity``); for columns, each effect's mean score, one list for all causes.
    ``row_auroc_lift``, ``row_ap_lift``
        score minus blind, and AP over blind AP.
    ``row_auroc_centred``
        after removing what each cause and each effect has in common (additively).
    ``row_auroc_regulators``
        ranking only genes that cause something among the effects.
    ``column_auroc_path2``, ``column_ap_path2``, ``column_prevalence_path2``
        indirect pairs (path of 2 or more) against unrelated pairs; direct pairs are left out.
    ``direction_accuracy``, ``prevalence``
        see :func:`direction_accuracy`; share of true pairs.

    Raises
    ------
    ValueError
        As in :func:`per_target`, or if a counted score is infinite.
    """
    labels, values, keep = pairs(truth, scores, effects)
    if not np.isfinite(values[keep]).all():
        msg = "scores hold infinite values, which have no mean; replace them by the lowest or highest finite score"
        raise ValueError(msg)
    gen = np.random.default_rng(rng)
    centred = _double_centre(values, keep)
    blind = None if popularity is None else _as_popularity(popularity, values.shape).T
    out = _axis_report("row", (labels.T, values.T, keep.T), centred.T, blind, gen)
    out |= _axis_report("column", (labels, values, keep), centred, None, gen)
    own = np.arange(labels.shape[1]) if effects is None else np.asarray(effects)
    regulators = keep & (labels & keep).any(axis=1, keepdims=True)
    out["row_auroc_regulators"] = mean(rank(labels.T, values.T, regulators.T).auroc)
    out["direction_accuracy"] = direction_accuracy(labels[own], values[own])
    out["prevalence"] = float(labels[keep].mean())
    if path_length is not None:
        direct = np.zeros(labels.shape, bool)
        direct[labels & keep] = true_lengths(path_length, labels & keep) < 2
        far = keep & ~direct
        ranked = rank(labels, values, far)
        out |= {"column_auroc_path2": mean(ranked.auroc), "column_ap_path2": mean(ranked.ap)}
        out["column_prevalence_path2"] = _prevalence(labels, far, ranked)
    return out


def _axis_report(
    axis: str, pairs: tuple[Bools, Floats, Bools], centred: Floats, blind: Floats | None, rng: np.random.Generator
) -> dict[str, float]:
    """One side of the report; arrays are (queries, candidates)."""
    labels, scores, keep = pairs
    ranked = rank(labels, scores, keep)
    donor = _cycle(len(scores), rng)
    # A donor has no score for itself, so that one candidate is left out too.
    shuffled = rank(labels, scores[donor], keep & keep[donor])
    if blind is None:
        sums = np.sum(scores, axis=0, where=keep, dtype=np.float64)
        blind = np.broadcast_to(sums / np.maximum(keep.sum(0), 1), scores.shape)
    ignoring = rank(labels, blind, keep)
    out = {f"{axis}_{name}": mean(values) for name, values in ranked._asdict().items()}
    out |= {f"{axis}_{name}_shuffled": mean(values) for name, values in shuffled._asdict().items()}
    out |= {f"{axis}_{name}_blind": mean(values) for name, values in ignoring._asdict().items()}
    out[f"{axis}_auroc_lift"] = out[f"{axis}_auroc"] - out[f"{axis}_auroc_blind"]
    out[f"{axis}_ap_lift"] = out[f"{axis}_ap"] / out[f"{axis}_ap_blind"]
    out[f"{axis}_auroc_centred"] = mean(rank(labels, centred, keep).auroc)
    out[f"{axis}_prevalence"] = _prevalence(labels, keep, ranked)
    out["n_targets" if axis == "row" else "n_regulators"] = int(np.isfinite(ranked.auroc).sum())
    return out


def _prevalence(labels: Bools, keep: Bools, ranked: Ranked) -> float:
    """Mean over scored queries of the share of positives: the AP of a random ranking."""
    scored = np.isfinite(ranked.auroc)
    return mean((labels & keep).sum(1)[scored] / keep.sum(1)[scored])


def _cycle(n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Random single cycle: a permutation in which nothing stays in place (for n > 1)."""
    order = rng.permutation(n)
    out = np.empty(n, np.intp)
    out[order] = np.roll(order, 1)
    return out


def _as_popularity(popularity: ArrayLike, shape: tuple[int, ...]) -> Floats:
    values = as_scores(popularity)
    values = values[:, None] if values.ndim == 1 else values
    if values.shape not in (shape, (shape[0], 1)) or np.isnan(values).any():
        msg = f"popularity has shape {np.shape(popularity)}; it must be ({shape[0]},) or {shape}, without NaN"
        raise ValueError(msg)
    return np.broadcast_to(values, shape)


def _double_centre(scores: Floats, keep: Bools) -> Floats:
    """Residuals of the least-squares fit ``a[cause] + b[effect]`` to the kept pairs; 0 elsewhere."""
    values, weights = np.where(keep, scores, 0.0).astype(np.float64), keep.astype(np.float64)
    n_row, n_column = np.maximum(weights.sum(1), 1), np.maximum(weights.sum(0), 1)
    scale = float(np.abs(values).max())
    row, column = np.zeros(len(n_row)), np.zeros(len(n_column))
    for _ in range(1000):  # two or three turns suffice when few pairs are missing
        row = (values.sum(1) - weights @ column) / n_row
        update = (values.sum(0) - row @ weights) / n_column
        done = np.abs(update - column).max() <= 1e-14 * scale
        column = update
        if done:
            break
    residual = (values - row[:, None] - column) * weights
    # Rounding noise must not rank what the fit explains fully.
    residual[np.abs(residual) <= 4 * np.finfo(scores.dtype).eps * scale] = 0
    return residual
