"""One gene at a time: difference of means and the rank-sum test."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

Cells = NDArray[np.floating]
Scores = NDArray[np.float64]


def as_cells(values: ArrayLike, name: str) -> Cells:
    """Check one set of cells; float32 and float64 stay what they are."""
    if issparse(values):
        msg = f"{name} is sparse; pass a dense array, values.toarray(), of the candidate genes only"
        raise ValueError(msg)
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim != 2 or not array.size:
        msg = f"{name} has shape {array.shape}; it must be (n_cells, n_genes), with at least one of each"
        raise ValueError(msg)
    if not np.isfinite(array).all():
        cell, gene = np.argwhere(~np.isfinite(array))[0].tolist()
        msg = f"{name} holds NaN or infinite values, the first in cell {cell}, gene {gene}; fill or drop them"
        raise ValueError(msg)
    return array


def check_two(control: ArrayLike, perturbed: ArrayLike, fewest: int = 1) -> tuple[Cells, Cells]:
    """Check both sets of cells."""
    a, b = as_cells(control, "control"), as_cells(perturbed, "perturbed")
    if a.shape[1] != b.shape[1]:
        msg = f"control has {a.shape[1]} genes, perturbed {b.shape[1]}; both need the same genes in the same order"
        raise ValueError(msg)
    if min(len(a), len(b)) < fewest:
        msg = f"control has {len(a)} cells and perturbed {len(b)}; both need at least {fewest}"
        raise ValueError(msg)
    return a, b


def log_fold_change(control: ArrayLike, perturbed: ArrayLike) -> Scores:
    """Mean of perturbed minus mean of control cells; on log-normalised values a log-fold change in natural units.

    Parameters
    ----------
    control, perturbed
        (n_cells, n_genes), dense; the numbers of cells may differ.

    Returns
    -------
    (n_genes,), positive where expression rose. Rank targets by the absolute value.

    Raises
    ------
    ValueError
        If the genes differ in number, a value is not finite, or an array is sparse or empty.
    """
    a, b = check_two(control, perturbed)
    return b.mean(axis=0, dtype=np.float64) - a.mean(axis=0, dtype=np.float64)


def rank_sum(control: ArrayLike, perturbed: ArrayLike) -> Scores:
    """Wilcoxon rank-sum test of perturbed against control cells.

    Equal to ``scanpy.tl.rank_genes_groups(method="wilcoxon", tie_correct=True)``: normal approximation, corrected
    for ties, without continuity correction. Comparing many perturbations with one control: :class:`RankSum`.

    Parameters
    ----------
    control, perturbed
        (n_cells, n_genes), dense; the numbers of cells may differ.

    Returns
    -------
    (n_genes,) z, positive where perturbed cells are higher; 0 for a gene with one value in all cells. Rank targets
    by the absolute value.

    Raises
    ------
    ValueError
        As in :func:`log_fold_change`.
    """
    a, b = check_two(control, perturbed)
    return RankSum(a).against(b)


class RankSum:
    """Control cells sorted once, to be compared with many perturbations by :func:`rank_sum`.

    Parameters
    ----------
    control
        (n_cells, n_genes), dense. A sorted copy is kept.

    Raises
    ------
    ValueError
        If a value is not finite, or the array is sparse or empty.
    """

    def __init__(self, control: ArrayLike) -> None:
        cells = as_cells(control, "control")
        self._sorted = np.array(cells.T, order="C")  # a copy, also of an F-ordered array
        self._sorted.sort(axis=1)
        lengths, gene = _runs(self._sorted)[1:]
        self._ties = np.bincount(gene, weights=_tie_term(lengths), minlength=len(self._sorted))

    @property
    def n_cells(self) -> int:
        """Number of control cells."""
        return self._sorted.shape[1]

    def against(self, perturbed: ArrayLike) -> Scores:
        """Compare perturbed cells with the control.

        Parameters
        ----------
        perturbed
            (n_cells, n_genes), genes as in the control. Rounded to the control's precision (float32 or float64),
            as equal values must compare equal.

        Returns
        -------
        (n_genes,) z as from :func:`rank_sum`.

        Raises
        ------
        ValueError
            As in :func:`log_fold_change`.
        """
        cells = as_cells(perturbed, "perturbed")
        if cells.shape[1] != len(self._sorted):
            msg = f"perturbed has {cells.shape[1]} genes, control {len(self._sorted)}; both need the same genes"
            raise ValueError(msg)
        values = np.array(cells.T, dtype=self._sorted.dtype, order="C")
        values.sort(axis=1)
        first, lengths, gene = _runs(values)
        below, upto = self._places(values.ravel()[first], gene)
        n0, n1 = float(self.n_cells), float(values.shape[1])
        genes = len(values)
        wins = np.bincount(gene, weights=lengths * (below + upto) / 2, minlength=genes)
        equal = upto - below
        ties = self._ties + np.bincount(gene, weights=_tie_term(equal + lengths) - _tie_term(equal), minlength=genes)
        n = n0 + n1
        variance = n0 * n1 / 12 * ((n + 1) - ties / (n * (n - 1)))
        # One value in all cells: the variance is 0 up to rounding, and so is the difference.
        varies = ties < n * (n * n - 1) * (1 - 1e-12)
        return np.where(varies, wins - n0 * n1 / 2, 0.0) / np.sqrt(np.where(varies, variance, 1.0))

    def _places(self, values: Cells, gene: NDArray[np.intp]) -> tuple[Scores, Scores]:
        """How many control cells lie below, and at or below, each value."""
        below, upto = np.empty(values.size), np.empty(values.size)
        ends = np.searchsorted(gene, np.arange(len(self._sorted) + 1))
        for g, row in enumerate(self._sorted):
            part = slice(ends[g], ends[g + 1])
            below[part] = row.searchsorted(values[part], "left")
            upto[part] = row.searchsorted(values[part], "right")
        return below, upto


def _runs(values: Cells) -> tuple[NDArray[np.intp], Scores, NDArray[np.intp]]:
    """Runs of equal values in sorted rows: flat position of the first, length, and row."""
    start = np.ones(values.shape, bool)
    start[:, 1:] = values[:, 1:] != values[:, :-1]
    first = np.flatnonzero(start)
    return first, np.diff(first, append=values.size).astype(np.float64), first // values.shape[1]


def _tie_term(count: Scores) -> Scores:
    return count**3 - count
