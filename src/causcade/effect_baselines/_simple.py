"""Baselines without a fit: nothing happens, what usually happens, what the next lower dose did."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from causcade.effect_baselines._fitted import EffectBaseline, Floats, Regimes, check_training

__all__ = ["next_lower_dose", "observational", "perturbed_mean"]


def observational(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the control cells: no perturbation does anything.

    Parameters
    ----------
    cells
        (n_cells, n_genes) training cells, dense.
    codes
        (n_cells,) 0 for control, k for the regime in row ``k - 1`` of what follows.
    features, perturbation, dose
        (regimes, features), (regimes,), (regimes,). Not used.

    Returns
    -------
    EffectBaseline

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or control or a regime has no cells.
    """
    training = check_training(cells, codes, features, perturbation, dose)
    n_genes = training.control.shape[1]
    return EffectBaseline("observational", training.control, {}, (), lambda new: np.zeros((new.n, n_genes)))


def perturbed_mean(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the mean change over the training regimes, each counting the same, for every perturbation.

    Parameters
    ----------
    cells, codes, features, perturbation, dose
        As in :func:`observational`.

    Returns
    -------
    EffectBaseline

    Raises
    ------
    ValueError
        As in :func:`observational`.
    """
    training = check_training(cells, codes, features, perturbation, dose)
    mean = training.change.mean(axis=0)
    return EffectBaseline("perturbed_mean", training.control, {}, (), lambda new: np.tile(mean, (new.n, 1)))


def next_lower_dose(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
) -> EffectBaseline:
    """Predict the cells of the same perturbation at the highest training dose below the one asked for.

    Below the lowest training dose, and for perturbations that are not in training, these are the control cells. A
    dose that is in training itself is not looked up, but predicted from the one below.

    Parameters
    ----------
    cells, codes, features
        As in :func:`observational`.
    perturbation
        (regimes,) name or number of the perturbation. Needed, here and in what the fit gives.
    dose
        (regimes,) on any scale that keeps the order. Needed as well.

    Returns
    -------
    EffectBaseline
        Its ``predict`` gives the cells themselves, not control cells that were moved.

    Raises
    ------
    ValueError
        As in :func:`observational`, or without perturbation or dose.
    """
    needs = ("perturbation", "dose")
    training = check_training(cells, codes, features, perturbation, dose, needs)
    known = training.regimes

    def source(new: Regimes) -> list[int]:
        """Training regime of each, -1 for control."""
        out = []
        for name, wanted in _pairs(new):
            lower = [(at, k) for k, (other, at) in enumerate(_pairs(known)) if other == name and at < wanted]
            out.append(max(lower)[1] if lower else -1)
        return out

    no_change = np.zeros((1, training.control.shape[1]))
    changes = np.concatenate([training.change, no_change])

    def predict(new: Regimes) -> list[Floats]:
        return [training.cells[k] if k >= 0 else training.control for k in source(new)]

    return EffectBaseline(
        "next_lower_dose", training.control, {}, needs, lambda new: changes[source(new)], _cells=predict
    )


def _pairs(regimes: Regimes) -> list[tuple[object, float]]:
    """Perturbation and dose of each regime."""
    names, doses = regimes.perturbation, regimes.dose
    return [] if names is None or doses is None else list(zip(names.tolist(), doses.tolist(), strict=True))
