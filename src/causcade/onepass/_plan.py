"""What a pass will do, known before it starts: which cells are kept, which sums are made, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causcade._device import free_memory
from causcade.expression import Expression, _in_memory, _sums
from causcade.onepass._read import as_csr, value_bytes

__all__ = ["Plan", "Slice", "describe", "lowest_keys", "make_plan", "random_keys"]

_SAMPLED = 20_000  # cells up to which all give the median library size; of more, _RUNS runs of _RUN cells
_RUNS, _RUN = 64, 512
_VALUES = 6_000_000  # non-zeros in a block
_CHUNKS = 4  # copies of a block that exist at once
_CELL = 120  # bytes of what is known of a cell: labels, random number, row of .obs
_GB = 1e9


@dataclass(frozen=True)
class Slice:
    """What the pass needs to know of some neighbouring cells.

    Attributes
    ----------
    start, stop
        Which.
    first, second
        ``(stop - start,)`` rows of the table that each is added to, -1 = none.
    kept
        Sorted positions of the cells that are kept.
    columns
        ``(n_genes,)`` place of each gene in the table, -1 = not wanted.
    shape
        Rows and genes of the table.
    scale
        Library size that cells are brought to; negative: values are used as they are.
    block
        Cells in a block.
    """

    start: int
    stop: int
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    kept: NDArray[np.int64]
    columns: NDArray[np.int32]
    shape: tuple[int, int]
    scale: float
    block: int


@dataclass(frozen=True)
class Plan:
    """A pass over a screen.

    Attributes
    ----------
    codes, groups
        ``(n_cells,)`` regime and batch of every cell.
    n_regimes, n_groups
        Their numbers.
    genes
        Positions of the genes that are wanted.
    n_genes
        Number of all genes.
    keys
        ``(n_cells,)`` a random number for every cell.
    kept
        Sorted positions of the cells that are kept: those with the smallest numbers of their regime.
    scale
        See :class:`Slice`.
    block
        Cells in a block.
    cost
        Bytes by what they are for.
    """

    codes: NDArray[np.int32]
    groups: NDArray[np.int32]
    n_regimes: int
    n_groups: int
    genes: NDArray[np.int64]
    n_genes: int
    keys: NDArray[np.uint64]
    kept: NDArray[np.int64]
    scale: float
    block: int
    cost: dict[str, float]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the table (regimes, and with batches other cells and controls of each), and genes."""
        return _n_rows(self.n_regimes, self.n_groups), len(self.genes)

    def slice(self, start: int, stop: int) -> Slice:
        """The part of the plan for some cells."""
        codes, groups = self.codes[start:stop], self.groups[start:stop]
        second = np.full(len(codes), -1, dtype=np.int32)
        if self.n_groups > 1:
            second = (self.n_regimes + groups + np.where(codes == 0, self.n_groups, 0)).astype(np.int32)
        first = np.where((codes == 0) & (self.n_groups > 1), -1, codes).astype(np.int32)
        low, high = np.searchsorted(self.kept, [start, stop])
        columns = np.full(self.n_genes, -1, dtype=np.int32)
        columns[self.genes] = np.arange(len(self.genes))
        return Slice(start, stop, first, second, self.kept[low:high], columns, self.shape, self.scale, self.block)


def _n_rows(n_regimes: int, n_groups: int) -> int:
    return n_regimes + (2 * n_groups if n_groups > 1 else 0)


def make_plan(
    source: Expression,
    codes: NDArray[np.int64],
    groups: NDArray[np.int64],
    n_regimes: int,
    n_groups: int,
    *,
    genes: NDArray[np.int64],
    values: str,
    totals: NDArray[np.float64] | None,
    scale: float | None,
    max_cells: int,
    max_controls: int,
    min_cells: int,
    first_cell: int,
    base: int,
    max_memory: float | None,
) -> Plan:
    """Decide what a pass does.

    Parameters
    ----------
    source
        The matrix, not yet scanned.
    codes, groups, n_regimes, n_groups
        ``(n_cells,)`` regime (0 = control) and batch of every cell, and their numbers.
    genes
        Positions of the genes that are wanted.
    values
        ``"counts"``, ``"expression"`` or ``"log"``.
    totals
        ``(n_cells,)`` library sizes, if they are known.
    scale
        Library size that cells are brought to; ``None`` = the median.
    max_cells, max_controls
        Most cells that are kept of a regime, and of the controls.
    min_cells
        Regimes with fewer cells do not count in the median.
    first_cell
        Number of cells in parts before this one.
    base
        Seed of the random numbers.
    max_memory
        Gigabytes that may be used; ``None`` = what is free.

    Raises
    ------
    ValueError
        If it would not fit.
    """
    per_cell = _nonzeros(source)
    block = int(np.clip(_VALUES / max(per_cell, 1), 64, 65_536))
    keys = random_keys(base, first_cell, source.n_cells)
    kept = lowest_keys(keys, codes, np.where(np.arange(n_regimes) == 0, max_controls, max_cells))
    share = len(genes) / source.n_genes
    cost = {
        "sums": _n_rows(n_regimes, n_groups) * len(genes) * 48.0,
        "kept cells": len(kept) * per_cell * share * value_bytes(source.source) * 1.5,
        "blocks": block * per_cell * (value_bytes(source.source) + 8) * _CHUNKS,
        "labels": float(source.n_cells * _CELL),
    }
    _check_cost(cost, len(kept), _n_rows(n_regimes, n_groups), len(genes), max_memory)
    if values == "log":
        scale = -1.0
    elif scale is None:
        usual = np.bincount(codes, minlength=n_regimes) >= min_cells
        scale = _median(source, usual[codes], totals)
    small = (codes.astype(np.int32), groups.astype(np.int32))
    return Plan(*small, n_regimes, n_groups, genes, source.n_genes, keys, kept, scale, block, cost)


def random_keys(base: int, first: int, n: int) -> NDArray[np.uint64]:
    """A random number for each of the cells numbered from `first`, without repeats (SplitMix64 of the number)."""
    with np.errstate(over="ignore"):
        x = np.uint64(base) + np.uint64(0x9E3779B97F4A7C15) * np.arange(first + 1, first + n + 1, dtype=np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def lowest_keys(keys: NDArray[np.uint64], codes: NDArray[np.integer], most: NDArray[np.integer]) -> NDArray[np.int64]:
    """Sorted positions of the cells with the smallest keys of each regime, at most `most` ``(n_regimes,)`` of it."""
    order = np.lexsort((keys, codes))
    own = codes[order]
    rank = np.arange(len(order)) - np.searchsorted(own, own)
    return np.sort(order[rank < most[own]])


def _nonzeros(source: Expression) -> float:
    """Non-zeros of a cell, in the first cells; a dense matrix is made sparse block by block."""
    head = as_csr(source.source[: min(256, source.n_cells)])
    return head.nnz / head.shape[0]


def _median(source: Expression, wanted: NDArray[np.bool_], totals: NDArray[np.float64] | None) -> float:
    """Median library size: of all cells if it is known or they are few, else of evenly spaced runs of cells."""
    n = source.n_cells
    if totals is None:
        starts: Sequence[int] = range(0, n, _RUN)
        if n > _SAMPLED:
            starts = np.linspace(0, n - _RUN, _RUNS).astype(int).tolist()
        used = np.concatenate([np.arange(s, min(s + _RUN, n)) for s in starts])
        totals = np.concatenate([_sums(_in_memory(source.source[s : min(s + _RUN, n)]))[0] for s in starts])
        wanted = wanted[used]
    some = totals[wanted & (totals > 0)]
    return float(np.median(some)) if some.size else 1.0


def _check_cost(cost: dict[str, float], n_kept: int, rows: int, n_genes: int, max_memory: float | None) -> None:
    most = free_memory() if max_memory is None else max_memory * _GB
    if (need := sum(cost.values())) <= most:
        return
    told = ", ".join(f"{name} {size / _GB:.2g} GB" for name, size in cost.items())
    msg = (
        f"The summary needs about {need / _GB:.3g} GB, but {most / _GB:.3g} GB may be used ({told}): {rows:,} rows of sums x "
        f"{n_genes:,} genes, and {n_kept:,} kept cells. Lower max_cells or max_controls, or name fewer genes, or use no "
        "batch_key, or raise max_memory."
    )
    raise ValueError(msg)


def describe(plan: Plan, where: Any) -> str:
    """One line on what a pass will cost."""
    total = sum(plan.cost.values()) / _GB
    parts = ", ".join(f"{name} {size / _GB:.2g}" for name, size in plan.cost.items())
    return (
        f"one pass over {plan.n_cells:,} cells x {plan.n_genes:,} genes of {where}: {plan.n_regimes:,} regimes, "
        f"{plan.n_groups:,} batches, {len(plan.kept):,} cells kept; about {total:.2g} GB ({parts})"
    )
