"""The pass itself: here, block by block, or in parts on the workers of a Dask client."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

from causcade.expression import Expression
from causcade.onepass._plan import Plan, Slice
from causcade.onepass._read import as_csr, cuts, is_dask, kernel_parts, opened, portable
from causcade.summary import add_cells

__all__ = ["Part", "run"]

_PER_THREAD = 4  # parts that a thread of a worker gets: what is lost with it is a quarter of its work
_RETRIES = 3


@dataclass
class Part:
    """What a pass over some neighbouring cells gave.

    Attributes
    ----------
    start, stop
        Which cells.
    table
        ``(rows, genes, 3)`` sums of values, squares, non-zeros; rows as in :meth:`Plan.slice`.
    totals
        ``(stop - start,)`` library sizes.
    kept
        Blocks of the cells that are kept, as they were, in order.
    flags
        As in :data:`causcade.summary.FLAGS`.
    infinite
        First block with a value that is not finite.
    """

    start: int
    stop: int
    table: NDArray[np.float64]
    totals: NDArray[np.float64]
    kept: list[sparse.csr_array]
    flags: NDArray[np.float64]
    infinite: tuple[int, int] | None = None


def sum_cells(source: Any, piece: Slice, offset: int = 0, done: Callable[[int], Any] | None = None) -> Part:
    """Go through some cells once.

    Parameters
    ----------
    source
        Matrix whose first row is cell number `offset`.
    piece
        Which cells, and what to do with them.
    offset
        See `source`.
    done
        Called with the number of cells after each block.
    """
    n = piece.stop - piece.start
    out = Part(piece.start, piece.stop, np.zeros((*piece.shape, 3)), np.zeros(n), [], np.array([np.inf, -np.inf, 0, 0]))
    some_genes = None if len(piece.columns) == piece.shape[1] else np.flatnonzero(piece.columns >= 0)
    if some_genes is not None:
        some_genes = some_genes[np.argsort(piece.columns[some_genes])]
    for low, high in cuts(source, piece.start - offset, piece.stop - offset, piece.block):
        block = as_csr(source[low:high])
        low, high = low + offset, high + offset
        here = slice(low - piece.start, high - piece.start)
        parts = (*kernel_parts(block), piece.columns, piece.first[here], piece.second[here])
        add_cells(*parts, piece.scale, out.table, out.totals[here], out.flags)
        if block.nnz < block.shape[0] * block.shape[1]:  # zeros that are not stored
            out.flags[:2] = min(out.flags[0], 0.0), max(out.flags[1], 0.0)
        if out.flags[3] and out.infinite is None:
            out.infinite = (low, high)
        first, last = np.searchsorted(piece.kept, [low, high])
        rows = block[piece.kept[first:last] - low]
        out.kept.append(rows if some_genes is None else sparse.csr_array(rows[:, some_genes]))
        if done is not None:
            done(high - low)
    return out


def run(
    source: Expression, plan: Plan, *, values: str, client: Any, progress_bar: bool
) -> tuple[Part, sparse.csr_array]:
    """Pass over all cells.

    Parameters
    ----------
    source
        The matrix, not yet scanned.
    plan
        What to do.
    values
        ``"counts"``, ``"expression"`` or ``"log"``: other values are refused.
    client
        A ``distributed.Client`` whose workers share the pass; ``None`` = this process alone.
    progress_bar
        Show one.

    Returns
    -------
    The sums, and the kept cells.

    Raises
    ------
    ValueError
        If values are not finite, negative, or not what `values` says.
    """
    with tqdm(total=plan.n_cells, desc="cells", unit_scale=True, disable=not progress_bar) as bar:
        if client is None:
            whole = sum_cells(source.source, plan.slice(0, plan.n_cells), done=bar.update)
        else:
            whole = _join(_parts_of(client, source.source, plan), plan, bar.update)
    _check(source, whole, values)
    return whole, _stack(whole.kept, len(plan.genes))


def _check(source: Expression, whole: Part, values: str) -> None:
    if whole.infinite is not None:
        source.refuse_infinite(*whole.infinite)
    low, high, n_not_whole, _ = whole.flags
    source.learn(float(low), float(high), is_integer=not n_not_whole)
    source.validate(counts={"counts": True, "expression": None, "log": False}[values])
    if low < 0:
        msg = f"{source.where} holds negative values ({low:g}): give counts, or log-normalised values >= 0."
        raise ValueError(msg)
    source.warn_of_empty(int((whole.totals == 0).sum()))


def _stack(blocks: list[sparse.csr_array], n_genes: int) -> sparse.csr_array:
    """Join blocks of cells, giving each back as it is copied."""
    n_values, n_cells = sum(b.nnz for b in blocks), sum(b.shape[0] for b in blocks)
    data = np.empty(n_values, dtype=blocks[0].dtype)
    indices = np.empty(n_values, dtype=np.int32 if n_values < 2**31 else np.int64)
    indptr = np.zeros(n_cells + 1, dtype=indices.dtype)
    row = at = 0
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        here = slice(at, at + block.nnz)
        data[here], indices[here] = block.data, block.indices
        indptr[row + 1 : row + 1 + block.shape[0]] = block.indptr[1:] + at
        row, at = row + block.shape[0], at + block.nnz
    return sparse.csr_array((data, indices, indptr), shape=(n_cells, n_genes))


@dataclass(frozen=True)
class _Held:
    """A lazy array that Dask must not compute before the task that holds it begins."""

    array: Any


def _remote(held: Any, piece: Slice, offset: int) -> Part:
    """Task of a worker."""
    import dask

    with dask.config.set(scheduler="synchronous"), opened(held.array if isinstance(held, _Held) else held) as source:
        return sum_cells(source, piece, offset)


def _parts_of(client: Any, source: Any, plan: Plan) -> Iterator[Part]:
    """Parts as they are ready, in any order; what a dead worker had is done again by another."""
    from distributed import as_completed

    n_threads = max(1, sum(client.nthreads().values()))
    size = max(plan.block, -(-plan.n_cells // (_PER_THREAD * n_threads)))
    ranges = iter(cuts(source, 0, plan.n_cells, size))
    with warnings.catch_warnings(), client.as_current():
        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)  # labels, and data that are in memory
        waiting = as_completed([_submit(client, source, plan, r) for r in islice(ranges, n_threads + 1)])
        for future in waiting:
            yield future.result()
            future.release()
            if (following := next(ranges, None)) is not None:
                waiting.add(_submit(client, source, plan, following))


def _submit(client: Any, source: Any, plan: Plan, cells: tuple[int, int]) -> Any:
    held, offset = portable(source), 0
    if is_dask(source):
        import dask

        held, offset = _Held(dask.optimize(source[slice(*cells)])[0]), cells[0]
    elif isinstance(source, np.ndarray) or sparse.issparse(source):
        held, offset = source[slice(*cells)], cells[0]
    return client.submit(_remote, held, plan.slice(*cells), offset, pure=False, retries=_RETRIES)


def _join(parts: Iterator[Part], plan: Plan, done: Callable[[int], Any]) -> Part:
    """Add up parts that come in any order."""
    out = Part(
        0, plan.n_cells, np.zeros((*plan.shape, 3)), np.zeros(plan.n_cells), [], np.array([np.inf, -np.inf, 0, 0])
    )
    kept: dict[int, list[sparse.csr_array]] = {}
    for part in parts:
        out.table += part.table
        out.totals[part.start : part.stop] = part.totals
        f, g = out.flags, part.flags
        out.flags = np.array([min(f[0], g[0]), max(f[1], g[1]), f[2] + g[2], f[3] + g[3]])
        firsts = [p for p in (out.infinite, part.infinite) if p is not None]
        out.infinite = min(firsts) if firsts else None
        kept[part.start] = part.kept
        done(part.stop - part.start)
    out.kept = [block for start in sorted(kept) for block in kept[start]]
    return out
