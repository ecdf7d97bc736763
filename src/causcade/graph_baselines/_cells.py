"""What every graph baseline reads of cells and interventions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def check_cells(values: ArrayLike, mask: ArrayLike | None, spare: int | None = None) -> tuple[Floats, Bools]:
    """Check the input and return it with ``free``, True where a gene was not acted on.

    With ``spare``, every gene needs more free cells than there are genes, by at least that number.
    """
    if issparse(values) or issparse(mask):
        msg = "values or mask is sparse; pass dense arrays of the genes of the graph only"
        raise ValueError(msg)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or len(x) < 3 or x.shape[1] < 2:
        msg = f"values have shape {x.shape}; they must be (n_cells, n_genes), with at least 3 cells and 2 genes"
        raise ValueError(msg)
    if not np.isfinite(x).all():
        cell, gene = np.argwhere(~np.isfinite(x))[0].tolist()
        msg = f"values hold NaN or infinite numbers, the first in cell {cell}, gene {gene}; fill or drop them"
        raise ValueError(msg)
    free = np.ones(x.shape, bool) if mask is None else np.asarray(mask) == 0
    if free.shape != x.shape:
        msg = f"mask has shape {free.shape}, values have {x.shape}; it needs one entry per cell and gene"
        raise ValueError(msg)
    fewest = 3 if spare is None else x.shape[1] + spare
    short = np.flatnonzero(free.sum(axis=0) < fewest)
    if short.size:
        msg = (
            f"{short.size} genes, the first at {short[:5].tolist()}, have fewer than {fewest} cells in which they were "
            "not acted on; give more cells or fewer genes"
        )
        raise ValueError(msg)
    return x, free


def control_cells(x: Floats, free: Bools) -> Floats:
    """Cells in which nothing was acted on, or all cells where those hardly outnumber the genes."""
    control = free.all(axis=1)
    return x[control] if control.sum() > x.shape[1] + 1 else x


def by_free_cells(free: Bools) -> Iterator[tuple[Bools, NDArray[np.intp]]]:
    """Sets of cells, each with the effects for which these are the cells not acted on."""
    columns, which = np.unique(free, axis=1, return_inverse=True)
    for k, cells in enumerate(columns.T):
        yield cells, np.flatnonzero(which.ravel() == k)


def standardise(x: Floats) -> Floats:
    """Mean 0 and standard deviation 1; a constant gene becomes 0."""
    x = x - x.mean(axis=0)
    sd = x.std(axis=0)
    return x / np.where(sd > 1e-12 * np.abs(x).max(initial=1.0), sd, np.inf)
