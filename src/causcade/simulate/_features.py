"""Features of perturbations: standardised and rotated as fitted to the training regimes. Public through ``doses``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FeatureMap", "perturbation_features"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureMap:
    """Standardisation and principal components, fitted once. Call it on raw features ``(n, p)``.

    Attributes
    ----------
    location, scale
        ``(p,)`` means and standard deviations of the raw features; 1 for those that did not vary.
    components
        ``(n_components, p)``; the largest loading of each is positive.
    """

    location: Floats
    scale: Floats
    components: Floats

    @classmethod
    def fit(cls, raw: ArrayLike, n_components: int = 15) -> FeatureMap:
        """Fit to raw features ``(n, p)``; raises ValueError if they do not span ``n_components``."""
        x = _features(raw)
        sd = x.std(axis=0)
        flat = sd <= 1e-12 * np.abs(x).max(axis=0, initial=1.0)
        location, scale = x.mean(axis=0), np.where(flat, 1.0, sd)
        z = np.where(flat, 0.0, (x - location) / scale)
        _, singular, components = np.linalg.svd(z, full_matrices=False)
        rank = int((singular > 1e-6 * singular.max(initial=1e-300)).sum())
        if not 1 <= n_components <= rank:
            msg = f"n_components={n_components} must lie between 1 and {rank}, the rank of the features {x.shape}"
            raise ValueError(msg)
        components = components[:n_components]
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        return cls(location, scale, components * np.sign(largest))

    def __call__(self, raw: ArrayLike) -> Floats:
        """Features ``(n, n_components)`` of raw features ``(n, p)``."""
        x = _features(raw)
        if x.shape[1] != len(self.location):
            msg = f"raw features have {x.shape[1]} columns; the map was fitted to {len(self.location)}"
            raise ValueError(msg)
        return ((x - self.location) / self.scale) @ self.components.T


def perturbation_features(train: ArrayLike, *others: ArrayLike, n_components: int = 15) -> tuple[Floats, ...]:
    """Standardise and take principal components, both fitted to the training regimes alone.

    What never varied in training, such as a gene that was no target, is lost: a new perturbation may therefore look
    like one in training.

    Parameters
    ----------
    train, others
        Raw features ``(regimes, p)``, such as :attr:`DoseRegimes.raw_features`. Control has none.
    n_components
        Components; at most the rank of the training features.

    Returns
    -------
    One float64 array ``(regimes, n_components)`` for each argument, in the same order.

    Raises
    ------
    ValueError
        If a feature is not finite, columns do not agree, or the training features have too low a rank.
    """
    fitted = FeatureMap.fit(train, n_components)
    return fitted(train), *(fitted(other) for other in others)


def _features(raw: ArrayLike) -> Floats:
    x = np.asarray(raw, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape:
        msg = f"raw features have shape {x.shape}; they must be (regimes, features), with at least one of each"
        raise ValueError(msg)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0].tolist()
        msg = f"raw features hold NaN or infinite numbers, the first in regime {row}, feature {column}"
        raise ValueError(msg)
    return x
