"""Cells by environment, with the features of each environment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Environments", "as_features"]


@dataclass(frozen=True)
class Environments:
    """Cells of several environments; environment 0 is observational.

    Attributes
    ----------
    values
        ``(n_cells, n_genes)``.
    codes
        ``(n_cells,)`` environment of each cell, ``0 .. n_environments - 1``.
    features
        ``(n_environments, n_features)`` features of each perturbation; those of environment 0 have no effect. They go
        into a network as they are: bring them to a common scale, by the environments of the fit only.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or an environment has no cells.
    """

    values: NDArray[np.floating]
    codes: NDArray[np.integer]
    features: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.codes.shape != self.values.shape[:1]:
            msg = f"values must be (n_cells, n_genes) and codes (n_cells,); got {self.values.shape} and {self.codes.shape}."
            raise ValueError(msg)
        if self.features.ndim != 2 or not self.features.shape[1]:
            msg = f"features must be (n_environments, n_features), not {self.features.shape}."
            raise ValueError(msg)
        if self.codes.dtype.kind not in "iu":
            msg = f"codes must be whole numbers, not {self.codes.dtype}."
            raise ValueError(msg)
        n = len(self.features)
        if self.codes.size and not 0 <= self.codes.min() <= self.codes.max() < n:
            msg = f"codes lie between {self.codes.min()} and {self.codes.max()}; features has rows 0 to {n - 1}."
            raise ValueError(msg)
        empty = np.flatnonzero(np.bincount(self.codes, minlength=n) == 0)
        if empty.size:
            msg = f"{empty.size} environments have no cells, the first is {empty[0]}; leave out their features."
            raise ValueError(msg)
        for name in ("values", "features"):
            bad = np.argwhere(~np.isfinite(getattr(self, name)))
            if bad.size:
                msg = f"{name} has {len(bad)} numbers that are not finite, the first at {tuple(bad[0].tolist())}."
                raise ValueError(msg)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.values.shape[1]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the genes in observational cells.

        A gene without spread there takes its spread in all cells, or 1.
        """
        control = self.values[self.codes == 0].astype(np.float64)
        sd = control.std(axis=0)
        pooled = self.values.astype(np.float64).std(axis=0)
        sd = np.where(sd > 1e-8, sd, pooled)
        return control.mean(axis=0), np.where(sd > 1e-8, sd, 1.0)


def as_features(features: NDArray[np.floating], n_features: int) -> NDArray[np.float32]:
    """Check the features of new perturbations; one row may be given flat.

    Raises
    ------
    ValueError
        If their number is another than in the fit, or one is not finite.
    """
    rows = np.atleast_2d(np.asarray(features, dtype=np.float32))
    if rows.ndim != 2 or rows.shape[1] != n_features:
        msg = f"features has shape {np.shape(features)}; the fit had {n_features} features per perturbation."
        raise ValueError(msg)
    if not np.isfinite(rows).all():
        msg = f"features has {int((~np.isfinite(rows)).sum())} numbers that are not finite."
        raise ValueError(msg)
    return rows
