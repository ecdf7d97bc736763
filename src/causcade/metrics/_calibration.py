"""Whether probabilities mean what they say."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from causcade.metrics._ranking import Bools, Floats, as_labels, flat


def _probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Bools, Floats]:
    truth, values = flat(labels, probabilities, "probabilities")
    if values.min() < 0 or values.max() > 1:
        msg = f"probabilities lie between {values.min():g} and {values.max():g}, not 0 and 1; are they logits?"
        raise ValueError(msg)
    return truth, values.astype(np.float64)


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared difference between probability and label (0 is perfect). Any shape, the same for both."""
    truth, values = _probabilities(labels, probabilities)
    return float(np.mean((values - truth) ** 2))


def brier_skill(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """One minus the Brier score over that of the constant base rate: 1 perfect, 0 no better than the base rate.

    NaN when all labels are the same.
    """
    base = float(as_labels(labels, "labels").mean())
    score = brier(labels, probabilities)
    return 1 - score / (base * (1 - base)) if 0 < base < 1 else float("nan")


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, *, n_bins: int = 10, bins: Literal["width", "mass"] = "width"
) -> float:
    """Mean distance between stated probability and observed frequency, over bins weighted by size.

    A constant base rate scores 0, so read it beside :func:`brier_skill`.

    Parameters
    ----------
    labels, probabilities
        Any shape, the same for both; 0/1 and between 0 and 1.
    n_bins
        Number of bins.
    bins
        ``"width"``: equal parts of 0 to 1. ``"mass"``: equal numbers of entries (adaptive); entries with equal
        probability can then fall in different bins.

    Returns
    -------
    Between 0 and 1.
    """
    truth, values = _probabilities(labels, probabilities)
    if n_bins < 1 or bins not in ("width", "mass"):
        msg = f"n_bins={n_bins} must be at least 1 and bins={bins!r} one of width, mass"
        raise ValueError(msg)
    if bins == "width":
        bin_of = np.minimum((values * n_bins).astype(int), n_bins - 1)
    else:
        bin_of = np.empty(values.size, int)
        bin_of[np.argsort(values, kind="stable")] = np.arange(values.size) * n_bins // values.size
    return float(np.abs(np.bincount(bin_of, values - truth)).sum() / values.size)
