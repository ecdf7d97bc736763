"""What the parts of a combination did alone: baselines for untried combinations, and where combinations differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control, norm

from causcade.effect_baselines._fitted import EffectBaseline, Floats, Regimes, Training, check_training

__all__ = ["additive", "interaction_score", "scaled_additive", "stronger_single"]


def additive(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the sum of the mean changes of the parts; its cells are control cells that are moved by all of them.

    Parameters
    ----------
    cells
        (n_cells, n_genes) training cells, dense.
    codes
        (n_cells,) 0 for control, k for the regime in row ``k - 1`` of what follows.
    features
        (regimes, perturbations) 1 where a perturbation is part of the regime, else 0. Needed.
    perturbation, dose
        (regimes,). Not used.

    Returns
    -------
    EffectBaseline
        Changes are NaN for combinations with a part that was never seen alone, and ``predict`` gives NaN.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, control or a regime has no cells, a feature is neither 0 nor 1, or
        two regimes are the same perturbation alone.
    """
    training = check_training(cells, codes, features, perturbation, dose, ("features",))
    alone = _alone(training)

    def change(new: Regimes) -> Floats:
        return _sums(_checked(new.matrix), alone)

    return EffectBaseline("additive", training.control, {}, ("features",), change, alone.shape[0])


def scaled_additive(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the sum of the changes of the parts times one number, fitted to the combinations in training.

    Parameters
    ----------
    cells, codes, features, perturbation, dose
        As in :func:`additive`.

    Returns
    -------
    EffectBaseline
        ``info``: ``scale``, by least squares over all genes and combinations; 1 if training has none.

    Raises
    ------
    ValueError
        As in :func:`additive`.
    """
    training = check_training(cells, codes, features, perturbation, dose, ("features",))
    alone, rows = _alone(training), _checked(training.regimes.matrix)
    joint = rows.sum(axis=1) > 1
    sums = _sums(rows[joint], alone)
    known = np.isfinite(sums).all(axis=1)
    sums, truth = sums[known], training.change[joint][known]
    size = float((sums**2).sum())
    scale = float((sums * truth).sum()) / size if size > 0 else 1.0

    def change(new: Regimes) -> Floats:
        wanted = _checked(new.matrix)
        return _sums(wanted, alone) * np.where(wanted.sum(axis=1) > 1, scale, 1.0)[:, None]

    return EffectBaseline("scaled_additive", training.control, {"scale": scale}, ("features",), change, alone.shape[0])


def stronger_single(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the cells of the part that changes cells most: of two, the one whose change is nearest to the sum.

    Parameters
    ----------
    cells, codes, features, perturbation, dose
        As in :func:`additive`.

    Returns
    -------
    EffectBaseline
        Its ``predict`` gives the training cells of that perturbation.

    Raises
    ------
    ValueError
        As in :func:`additive`; and when predicting, for a combination without a part that was seen alone.
    """
    training = check_training(cells, codes, features, perturbation, dose, ("features",))
    rows = _checked(training.regimes.matrix)
    regime = np.full(rows.shape[1], -1)
    for k in np.flatnonzero(rows.sum(axis=1) == 1):
        regime[int(rows[k].argmax())] = k
    size = np.where(regime >= 0, np.linalg.norm(_alone(training), axis=1), -np.inf)

    def source(new: Regimes) -> list[int]:
        of = np.where(_checked(new.matrix) > 0, size, -np.inf)
        best = of.argmax(axis=1)
        if not np.isfinite(of[np.arange(new.n), best]).all():
            msg = (
                f"regimes {np.flatnonzero(~np.isfinite(of.max(axis=1))).tolist()[:5]} have no part that was seen alone"
            )
            raise ValueError(msg)
        return [int(k) for k in regime[best]]

    return EffectBaseline(
        "stronger_single",
        training.control,
        {},
        ("features",),
        lambda new: training.change[source(new)],
        rows.shape[1],
        lambda new: [training.cells[k] for k in source(new)],
    )


def interaction_score(control: ArrayLike, singles: list[ArrayLike], combination: ArrayLike) -> dict[str, Floats]:
    """Say in which genes a combination differs from the sum of its parts (a genetic interaction).

    Parameters
    ----------
    control
        (n, n_genes) control cells.
    singles
        For each part its cells alone, (n, n_genes).
    combination
        (n, n_genes) cells of the combination.

    Returns
    -------
    Per gene ``difference``: mean of the combination less its additive prediction; ``z``: that over its standard error,
    0 where no cell varies; ``pvalue`` (two-sided, normal) and ``fdr`` (Benjamini-Hochberg).

    Raises
    ------
    ValueError
        If there are no two parts, numbers of genes differ, a number is not finite, or a group has fewer than two cells.
    """
    groups = [np.asarray(x, dtype=np.float64) for x in (combination, control, *singles)]
    shapes = [x.shape for x in groups]
    if len(singles) < 2 or any(x.ndim != 2 or len(x) < 2 for x in groups) or len({s[-1] for s in shapes}) > 1:
        msg = f"at least two parts, and two cells of each group with the same genes are needed; got shapes {shapes}"
        raise ValueError(msg)
    if not all(np.isfinite(x).all() for x in groups):
        msg = "cells hold NaN or infinite numbers"
        raise ValueError(msg)
    # the control counts once for each part, less the one that the sum keeps
    weights = [1.0, len(singles) - 1.0, *[-1.0] * len(singles)]
    difference = np.sum([w * x.mean(axis=0) for w, x in zip(weights, groups, strict=True)], axis=0)
    variance = np.sum([w**2 * x.var(axis=0, ddof=1) / len(x) for w, x in zip(weights, groups, strict=True)], axis=0)
    z = np.divide(difference, np.sqrt(variance), out=np.zeros_like(difference), where=variance > 0)
    pvalue = 2 * norm.sf(np.abs(z))
    return {"difference": difference, "z": z, "pvalue": pvalue, "fdr": false_discovery_control(pvalue)}


def _checked(rows: Floats) -> Floats:
    if not np.isin(rows, (0, 1)).all() or not rows.any(axis=1).all():
        msg = "features must be 1 where a perturbation is part of a regime and 0 elsewhere, with a part in every regime"
        raise ValueError(msg)
    return rows


def _alone(training: Training) -> Floats:
    """Change by each perturbation alone, (perturbations, n_genes); NaN where it was never alone."""
    rows = _checked(training.regimes.matrix)
    out = np.full((rows.shape[1], training.change.shape[1]), np.nan)
    single = np.flatnonzero(rows.sum(axis=1) == 1)
    which = rows[single].argmax(axis=1)
    if len(np.unique(which)) < len(which):
        twice = np.flatnonzero(np.bincount(which) > 1).tolist()
        msg = f"perturbations {twice[:5]} have several regimes in which they are alone; join their cells"
        raise ValueError(msg)
    out[which] = training.change[single]
    return out


def _sums(rows: Floats, alone: Floats) -> Floats:
    """Sum of the changes of the parts of each row; a part that was never alone makes it NaN."""
    known = np.asarray(np.isfinite(alone).all(axis=1))
    sums = rows @ np.where(known[:, None], alone, 0.0)
    sums[rows[:, ~known].any(axis=1)] = np.nan
    return np.asarray(sums, dtype=np.float64)
