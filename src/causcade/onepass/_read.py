"""Blocks of cells as CSR, from whatever holds them, here or in another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from causcade.expression import _in_memory

__all__ = ["as_csr", "cuts", "is_dask", "kernel_parts", "opened", "portable", "value_bytes"]


def is_dask(source: Any) -> bool:
    """Whether an array is one of Dask."""
    return hasattr(source, "dask") and hasattr(source, "chunks")


def as_csr(block: Any) -> sparse.csr_array:
    """A block in memory, sparse, with whatever type its values had."""
    block = _in_memory(block)
    if block.dtype == np.float16:  # which scipy does not know
        block = block.astype(np.float32)
    return sparse.csr_array(block)


def kernel_parts(block: sparse.csr_array) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.floating]]:
    """Arrays of a block in the few types that sums are compiled for."""
    data = block.data
    small = data.dtype.kind in "biu" and data.dtype.itemsize <= 2
    if data.dtype != np.float32:
        data = data.astype(np.float32 if small else np.float64, copy=False)
    return block.indptr.astype(np.int64), block.indices.astype(np.int32, copy=False), data


def cuts(source: Any, start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Where to cut cells into blocks of about `size`; chunks of Dask are not cut, as each would be computed twice."""
    if not is_dask(source):
        return [(s, min(s + size, stop)) for s in range(start, stop, size)]
    edges = [0, *np.cumsum(source.chunks[0]).tolist()]
    out, low = [], start
    for edge in edges[1:]:
        high = min(edge, stop)
        following = min(edges[min(edges.index(edge) + 1, len(edges) - 1)], stop)
        if high > low and (high == stop or following - low > size):
            out.append((low, high))
            low = high
        if high == stop:
            break
    return out


def value_bytes(source: Any) -> int:
    """Bytes of a stored value and the number of its gene."""
    return int(np.dtype(source.dtype).itemsize) + 4


def portable(source: Any) -> Any:
    """What another process can open the matrix from: a name and place for HDF5, which cannot be sent; else itself."""
    group = getattr(source, "group", source)
    file = getattr(group, "file", None)
    return source if file is None or not hasattr(file, "filename") else (str(file.filename), str(group.name))


@contextmanager
def opened(portable_source: Any) -> Iterator[Any]:
    """Open what :func:`portable` gave."""
    if not isinstance(portable_source, tuple):
        yield portable_source
        return
    import h5py
    from anndata.io import sparse_dataset

    name, place = portable_source
    with h5py.File(name, "r") as file:
        found = file[place]
        yield sparse_dataset(found) if isinstance(found, h5py.Group) else found
