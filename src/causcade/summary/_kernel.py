"""Sums over cells, compiled: one loop over the stored values of a block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from causcade._jit import jit

__all__ = ["FLAGS", "QUANTUM", "add_cells"]

#: Values and squares are rounded to multiples of 1 / QUANTUM (6e-8, as coarse as float32 is around 1). Sums of them in
#: double precision are then exact up to 2^29, so no order of adding, and no number of workers, leaves a trace.
QUANTUM = 2.0**24

#: What `add_cells` learns of the values, in order.
FLAGS = ("minimum", "maximum", "n_not_whole", "n_not_finite")

_LARGEST = float(np.finfo(np.float32).max)


@jit
def add_cells(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    data: NDArray[np.floating],
    columns: NDArray[np.int32],
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    scale: float,
    table: NDArray[np.float64],
    totals: NDArray[np.float64],
    flags: NDArray[np.float64],
) -> None:
    """Add a block of cells, given as CSR, to the sums.

    Parameters
    ----------
    indptr, indices, data
        The block.
    columns
        ``(n_genes,)`` place of each gene in `table`, -1 = not wanted.
    first, second
        ``(rows,)`` rows of `table` that each cell is added to, -1 = none.
    scale
        Library size that cells are brought to; negative: values are used as they are.
    table
        ``(rows, genes, 3)`` sums of values, squares and non-zeros; added to.
    totals
        ``(rows,)`` filled with the sum of each cell over all genes.
    flags
        See :data:`FLAGS`; updated.
    """
    for i in range(len(indptr) - 1):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            v = float(data[k])
            total += v
            if not abs(v) <= _LARGEST:
                flags[3] += 1
            elif v != np.floor(v):
                flags[2] += 1
            if v < flags[0]:
                flags[0] = v
            if v > flags[1]:
                flags[1] = v
        totals[i] = total
        factor = scale / total if total > 0 else 0.0
        for k in range(indptr[i], indptr[i + 1]):
            j = columns[indices[k]]
            v = float(data[k])
            if j < 0 or v == 0:
                continue
            y = np.log1p(v * factor) if scale >= 0 else v
            y = np.rint(y * QUANTUM) / QUANTUM
            square = np.rint(y * y * QUANTUM) / QUANTUM
            for row in (first[i], second[i]):
                if row >= 0:
                    table[row, j, 0] += y
                    table[row, j, 1] += square
                    table[row, j, 2] += 1.0
