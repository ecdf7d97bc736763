"""What all effect baselines share: the checks of their input, and what a fit gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EffectBaseline",
    "Floats",
    "Ints",
    "Regimes",
    "Training",
    "check_training",
    "held_out_groups",
    "standardiser",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Regimes:
    """What is known of regimes before any cell is seen; one row or entry for each."""

    n: int
    features: Floats | None
    perturbation: NDArray[Any] | None
    dose: Floats | None

    @classmethod
    def checked(
        cls, features: ArrayLike | None, perturbation: ArrayLike | None, dose: ArrayLike | None, needs: tuple[str, ...]
    ) -> Regimes:
        """Check shapes, numbers, and that what is needed is there."""
        given = {"features": features, "perturbation": perturbation, "dose": dose}
        if lacking := [name for name in needs if given[name] is None]:
            msg = f"this baseline needs {' and '.join(lacking)}, one entry per regime"
            raise ValueError(msg)
        arrays = {name: np.asarray(value) for name, value in given.items() if value is not None}
        if not arrays:
            msg = "give features, perturbation or dose, so that the number of regimes is known"
            raise ValueError(msg)
        for name, array in arrays.items():
            dims = 2 if name == "features" else 1
            if array.ndim != dims:
                msg = (
                    f"{name} has shape {array.shape}; it must be {'(regimes, features)' if dims == 2 else '(regimes,)'}"
                )
                raise ValueError(msg)
        sizes = {name: len(array) for name, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            msg = f"numbers of regimes differ: {sizes}"
            raise ValueError(msg)
        numbers = {name: _finite(name, arrays[name]) for name in ("features", "dose") if name in arrays}
        return cls(next(iter(sizes.values())), numbers.get("features"), arrays.get("perturbation"), numbers.get("dose"))

    @property
    def matrix(self) -> Floats:
        """The features; refused where there are none."""
        if self.features is None:
            msg = "this baseline needs features, one entry per regime"
            raise ValueError(msg)
        return self.features


@dataclass(frozen=True)
class Training:
    """Training cells by regime.

    Attributes
    ----------
    control
        (n_control, n_genes) control cells.
    cells
        Cells of each regime, in the order of the codes from 1 on.
    change
        (regimes, n_genes) mean less the mean of control.
    regimes
        What is known of them.
    """

    control: Floats
    cells: tuple[Floats, ...]
    change: Floats
    regimes: Regimes


def check_training(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None,
    perturbation: ArrayLike | None,
    dose: ArrayLike | None,
    needs: tuple[str, ...] = (),
) -> Training:
    """Check the input of a fit and group the cells."""
    x, code = _finite("cells", np.asarray(cells)), np.asarray(codes)
    if x.ndim != 2 or 0 in x.shape or code.shape != (len(x),) or not np.issubdtype(code.dtype, np.integer):
        msg = (
            f"cells have shape {x.shape}, codes {code.shape} {code.dtype}; they must be (n_cells, n_genes) and one "
            "whole number per cell, 0 for control and k for row k - 1 of the features"
        )
        raise ValueError(msg)
    if needs or any(given is not None for given in (features, perturbation, dose)):
        regimes = Regimes.checked(features, perturbation, dose, needs)
    else:
        regimes = Regimes(int(code.max()), None, None, None)
    if code.min() < 0 or code.max() > regimes.n:
        msg = f"codes run from {code.min()} to {code.max()}; they must lie between 0 and {regimes.n}, the number of regimes"
        raise ValueError(msg)
    count = np.bincount(code, minlength=regimes.n + 1)
    if regimes.n == 0 or not count.all():
        empty = np.flatnonzero(count == 0).tolist()
        msg = (
            f"no cells for codes {empty[:5]} (0 is control); leave such regimes out" if empty else "no perturbed cells"
        )
        raise ValueError(msg)
    groups = np.split(x[np.argsort(code, kind="stable")], np.cumsum(count)[:-1])
    control = groups[0]
    change = np.stack([group.mean(axis=0) for group in groups[1:]]) - control.mean(axis=0)
    return Training(control, tuple(groups[1:]), change, regimes)


@dataclass(frozen=True)
class EffectBaseline:
    """A fitted baseline.

    Attributes
    ----------
    name
        Of the function that fitted it.
    control
        (n_control, n_genes) control cells of training.
    info
        What the fit chose, such as the penalty.
    """

    name: str
    control: Floats
    info: dict[str, float]
    _needs: tuple[str, ...] = field(repr=False)
    _change: Callable[[Regimes], Floats] = field(repr=False)
    _n_features: int | None = field(default=None, repr=False)
    _cells: Callable[[Regimes], list[Floats]] | None = field(default=None, repr=False)

    def mean_change(
        self, features: ArrayLike | None = None, *, perturbation: ArrayLike | None = None, dose: ArrayLike | None = None
    ) -> Floats:
        """Predict mean changes against control.

        Parameters
        ----------
        features
            (regimes, features) of the regimes to predict.
        perturbation, dose
            (regimes,) of each. What a baseline does not use may be left out, but one of the three is needed.

        Returns
        -------
        (regimes, n_genes).

        Raises
        ------
        ValueError
            If something needed is missing, shapes do not fit, or a number is not finite.
        """
        return self._change(self._checked(features, perturbation, dose))

    def predict(
        self, features: ArrayLike | None = None, *, perturbation: ArrayLike | None = None, dose: ArrayLike | None = None
    ) -> list[Floats]:
        """Predict cells: control cells, all moved by the predicted change; for one baseline, cells of a lower dose.

        Parameters
        ----------
        features, perturbation, dose
            As in :meth:`mean_change`.

        Returns
        -------
        One array (n_cells, n_genes) per regime.

        Raises
        ------
        ValueError
            As in :meth:`mean_change`.
        """
        regimes = self._checked(features, perturbation, dose)
        if self._cells is not None:
            return self._cells(regimes)
        return [self.control + change for change in self._change(regimes)]

    def _checked(self, features: ArrayLike | None, perturbation: ArrayLike | None, dose: ArrayLike | None) -> Regimes:
        regimes = Regimes.checked(features, perturbation, dose, self._needs)
        if self._n_features is not None and regimes.features is not None:
            given = regimes.features.shape[1]
            if given != self._n_features:
                msg = f"features have {given} columns; {self.name} was fitted to {self._n_features}"
                raise ValueError(msg)
        return regimes


def held_out_groups(training: Training, hold_out: str) -> Ints:
    """Number every regime by what is held out together: itself, or all doses of its perturbation."""
    if hold_out not in ("regime", "perturbation"):
        msg = f"unknown hold_out {hold_out!r}. Known: regime, perturbation"
        raise ValueError(msg)
    labels = training.regimes.perturbation
    if hold_out == "perturbation" and labels is None:
        msg = "hold_out='perturbation' needs perturbation, one entry per regime"
        raise ValueError(msg)
    names = np.arange(training.regimes.n) if hold_out == "regime" else np.asarray(labels)
    groups = np.unique(names, return_inverse=True)[1]
    if groups.max() < 1:
        msg = f"holding out needs two of what is held out; training has one {hold_out}"
        raise ValueError(msg)
    return np.asarray(groups, dtype=np.int64)


def standardiser(features: Floats) -> Callable[[Floats], Floats]:
    """Make what brings features to mean 0 and standard deviation 1 in training; constant ones become 0."""
    mean, sd = features.mean(axis=0), features.std(axis=0)
    flat = sd <= 1e-12 * np.abs(features).max(axis=0, initial=1e-300)
    return lambda given: (given - mean) / np.where(flat, np.inf, sd)


def _finite(name: str, value: NDArray[Any]) -> Floats:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"{name} must hold numbers in a dense array, not {value.dtype}"
        raise ValueError(msg) from error
    if not np.isfinite(array).all():
        msg = f"{name} holds NaN or infinite numbers, the first at {np.argwhere(~np.isfinite(array))[0].tolist()}"
        raise ValueError(msg)
    return array
