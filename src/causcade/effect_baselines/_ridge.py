"""Ridge regression of mean changes on the features of perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from causcade.effect_baselines._fitted import (
    EffectBaseline,
    Floats,
    Ints,
    check_training,
    held_out_groups,
    standardiser,
)

__all__ = ["mean_shift_ridge"]

_PENALTIES = tuple(float(10.0**k) for k in np.arange(-8, 4.1, 0.25))


def mean_shift_ridge(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
    hold_out: Literal["regime", "perturbation"] = "regime",
    penalties: Sequence[float] = _PENALTIES,
) -> EffectBaseline:
    """Predict the mean change of a perturbation by ridge regression on its features.

    Features are standardised over the training regimes; the constant is not penalised; every regime counts the same.
    One penalty for all genes: the one with the least squared error of regimes left out, in closed form.

    Parameters
    ----------
    cells, codes
        (n_cells, n_genes) training cells; (n_cells,) 0 for control, k for row ``k - 1`` of what follows.
    features
        (regimes, features). Needed.
    perturbation, dose
        (regimes,). The first is used by ``hold_out`` only, the second not at all.
    hold_out
        What is left out together: one regime, or all regimes of one perturbation, which suits predictions of new
        perturbations.
    penalties
        Tried values, above 0, as multiples of the number of regimes.

    Returns
    -------
    EffectBaseline
        ``info``: ``penalty``, and ``held_out_mse`` per gene of the regimes left out.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, control or a regime has no cells, there is nothing to hold
        out, or a penalty is not above 0.
    """
    training = check_training(cells, codes, features, perturbation, dose, ("features",))
    grid = np.asarray(penalties, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not ((grid > 0) & np.isfinite(grid)).all():
        msg = f"penalties must be numbers above 0, at least one; got {list(penalties)[:5]}"
        raise ValueError(msg)
    scaled = standardiser(training.regimes.matrix)
    x, change = scaled(training.regimes.matrix), training.change
    groups = held_out_groups(training, hold_out)
    mean = change.mean(axis=0)
    # x has columns of mean 0, so that constant and slopes come apart
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    errors = [_held_out_error(left, singular, change - mean, groups, len(x) * p) for p in grid]
    best = int(np.argmin(errors))
    filtered = singular / (singular**2 + len(x) * grid[best])
    slopes = right.T @ (filtered[:, None] * (left.T @ (change - mean)))
    return EffectBaseline(
        "mean_shift_ridge",
        training.control,
        {"penalty": float(grid[best]), "held_out_mse": float(errors[best])},
        ("features",),
        lambda new: mean + scaled(new.matrix) @ slopes,
        x.shape[1],
    )


def _held_out_error(left: Floats, singular: Floats, change: Floats, groups: Ints, penalty: float) -> float:
    """Mean squared error of groups left out, from the fit with all of them: (I - H_gg)^-1 times their residuals."""
    hat = (left * (singular**2 / (singular**2 + penalty))) @ left.T + 1 / len(left)
    residual = change - hat @ change
    total = 0.0
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        inner = np.eye(len(rows)) - hat[np.ix_(rows, rows)]
        total += float((np.linalg.lstsq(inner, residual[rows], rcond=None)[0] ** 2).sum())
    return total / change.size
