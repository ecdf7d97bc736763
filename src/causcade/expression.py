"""The expression matrix of an AnnData, checked and read in blocks of cells. The only reader of X and layers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from causcade import _keys
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, DTypeLike

logger = logging.getLogger(__name__)

_BLOCK = 2048
_LARGEST = 1e12  # beyond any count or intensity
_PEEK = 500  # cells looked at when naming a layer that could be meant instead


class Expression:
    """A checked matrix of expression, (n_cells, n_genes); made by `read_expression`.

    Whatever holds the values (dense, CSR, CSC, a file, Dask), the same numbers come out, and the source is never
    changed. One pass over the cells at construction checks the values and gathers totals.

    Parameters
    ----------
    adata
        Annotated data.
    layer
        Layer to read; None is ``.X``.
    scan
        Make that pass. Without it nothing is known of the values until :meth:`learn` is called.

    Attributes
    ----------
    n_cells, n_genes
        Shape.
    layer
        Name of the layer; None is ``.X``.
    total_counts
        (n_cells,) float64 sum over genes; of a summary (:func:`causcade.pp.summarise`) over all genes there were.
    n_cells_by_gene
        (n_genes,) int64 number of cells where a gene is not zero.
    is_integer
        Whether every value is a whole number.
    minimum, maximum
        Over all values.
    """

    def __init__(self, adata: AnnData, layer: str | None = None, *, scan: bool = True) -> None:
        _check_size(adata)
        self.layer = layer
        self.n_cells, self.n_genes = int(adata.n_obs), int(adata.n_vars)
        self._adata = adata
        self._source = _open(adata, layer)
        self._check_kind()
        if scan:
            self._scan()

    def __repr__(self) -> str:
        """Say what is read, and how large it is."""
        return f"Expression({self.where}: {self.n_cells:,} cells x {self.n_genes:,} genes)"

    @property
    def where(self) -> str:
        """The matrix as a user would write it: ``.X`` or ``.layers['counts']``."""
        return _where(self.layer)

    def blocks(self, size: int = _BLOCK, dtype: DTypeLike = np.float32) -> Iterator[tuple[int, np.ndarray]]:
        """Go through the cells in their order.

        Parameters
        ----------
        size
            Cells per block.
        dtype
            Type of the values.

        Yields
        ------
        start, block
            Number of the first cell, and a C-ordered array (up to `size`, n_genes) that is the caller's to change.
        """
        for start in range(0, self.n_cells, size):
            yield start, _dense(self._slice(start, min(start + size, self.n_cells)), dtype)

    def rows(self, index: ArrayLike, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Values of some cells.

        Parameters
        ----------
        index
            Positions (any order, repeats allowed) or a boolean mask (n_cells,).
        dtype
            Type of the values.

        Returns
        -------
        (n_rows, n_genes) C-ordered array, rows in the order asked for.
        """
        index = np.asarray(index)
        if index.dtype == bool:
            if index.shape != (self.n_cells,):
                msg = f"A boolean mask must have one entry per cell, ({self.n_cells},), not {index.shape}."
                raise IndexError(msg)
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        if index.size and (index.min() < -self.n_cells or index.max() >= self.n_cells):
            msg = f"There are {self.n_cells:,} cells; asked for cell {int(index[np.abs(index).argmax()]):,}."
            raise IndexError(msg)
        # files want increasing positions without repeats
        unique, back = np.unique(index % self.n_cells, return_inverse=True)
        return _dense(self._source[unique], dtype)[back]

    def matrix(self, dtype: DTypeLike = np.float32) -> np.ndarray | sparse.csr_array:
        """All values in memory: CSR if the source is sparse, else a C-ordered array. Always a copy."""
        parts = [_in_memory(self._slice(s, min(s + _BLOCK, self.n_cells))) for s in range(0, self.n_cells, _BLOCK)]
        if not isinstance(parts[0], np.ndarray):
            return sparse.csr_array(sparse.vstack([sparse.csr_array(p, dtype=dtype) for p in parts], format="csr"))
        return np.concatenate([_dense(p, dtype) for p in parts])

    @property
    def source(self) -> Any:
        """What holds the values: an array, sparse or dense, in memory, in a file or of Dask; CSR if it was CSC."""
        return self._source

    def learn(self, minimum: float, maximum: float, *, is_integer: bool) -> None:
        """Take from another pass over the cells what :meth:`validate` asks for."""
        self.minimum, self.maximum, self.is_integer = minimum, maximum, is_integer

    def refuse_infinite(self, start: int, stop: int) -> None:
        """Raise if a value of these cells is not finite, or too large for float32; the message says where."""
        self._check_finite(_values(_in_memory(self._slice(start, stop))), start, stop)

    def validate(self, *, counts: bool | None = None) -> None:
        """Check what the values are.

        Parameters
        ----------
        counts
            True: raw counts are needed (non-negative whole numbers). False: raw counts must not be given (log or
            scaled values are needed). None: any finite values.

        Raises
        ------
        ValueError
            If they are something else; the message names a layer that would fit, if there is one.
        """
        if counts is True and self.minimum < 0:
            msg = f"{self.where} holds {self._first(lambda x: x < 0)}: counts cannot be negative.{self._offer()}"
            raise ValueError(msg)
        if counts is True and not self.is_integer:
            found = self._first(lambda x: x != np.round(x))
            msg = f"{self.where} holds {found}, but raw counts are needed (whole numbers).{self._offer()}"
            raise ValueError(msg)
        if counts is False and self.is_integer and self.minimum >= 0 and self.maximum > 1:
            msg = (
                f"{self.where} holds whole numbers up to {self.maximum:,.0f}, which look like raw counts, but log-"
                "normalised values are needed. Pass layer=, or normalise first: sc.pp.normalize_total, sc.pp.log1p."
            )
            raise ValueError(msg)

        self._refuse_huge()

    def _refuse_huge(self) -> None:
        if (largest := max(self.maximum, -self.minimum)) > _LARGEST:
            msg = (
                f"{self.where} holds {self._first(lambda x: np.abs(x) == largest)}: no measured value is that large, and it "
                "would drown all others. Remove or replace it first."
            )
            raise ValueError(msg)

    def warn_of_empty(self, n: int) -> None:
        """Warn of `n` cells without any value."""
        if n:
            note = (
                f"{n:,} of {self.n_cells:,} cells in {self.where} are zero for every gene. "
                "Consider sc.pp.filter_cells(adata, min_counts=1)."
            )
            warnings.warn(note, UserWarning, stacklevel=3)

    def _slice(self, start: int, stop: int) -> Any:
        return self._source[start:stop]

    def _check_kind(self) -> None:
        dtype = np.dtype(self._source.dtype)
        if dtype.kind not in "buif":
            kind = "complex numbers" if dtype.kind == "c" else "objects or text" if dtype.kind in "OSUT" else "values"
            msg = f"{self.where} holds {kind} ({dtype}), not real numbers. Convert it first, e.g. .astype('float32')."
            raise ValueError(msg)

    def _scan(self) -> None:
        """One pass: refuse what no method can use, gather what all need."""
        self.total_counts = np.zeros(self.n_cells)
        self.n_cells_by_gene = np.zeros(self.n_genes, dtype=np.int64)
        self.is_integer, self.minimum, self.maximum = True, np.inf, -np.inf
        seen = np.zeros(self.n_cells, dtype=bool)
        for start in range(0, self.n_cells, _BLOCK):
            stop = min(start + _BLOCK, self.n_cells)
            block = _in_memory(self._slice(start, stop))
            values = _values(block)
            self._check_finite(values, start, stop)
            total, by_cell, by_gene = _sums(block)
            self.total_counts[start:stop], seen[start:stop] = total, by_cell > 0
            self.n_cells_by_gene += by_gene
            low, high = _range(block)
            self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
            self.is_integer &= values.dtype.kind != "f" or bool((values == np.round(values)).all())
        self.n_empty_cells = int((~seen).sum())
        kept = _keys.summary("total_counts")
        if self.layer is None and is_summary(self._adata) and kept in self._adata.obs:
            self.total_counts = self._adata.obs[kept].to_numpy(dtype=np.float64)

    def _check_finite(self, values: np.ndarray, start: int, stop: int) -> None:
        if values.dtype.kind != "f" or bool((np.abs(values) <= np.finfo(np.float32).max).all()):
            return
        found = self._first(lambda x: ~(np.abs(x) <= np.finfo(np.float32).max), start, stop)
        msg = f"{self.where} holds {found}: values must be finite and fit in float32. Remove or replace them first."
        raise ValueError(msg)

    def _first(self, bad: Any, start: int = 0, stop: int | None = None) -> str:
        """Say which cell and gene is the first for which `bad` is true."""
        stop = self.n_cells if stop is None else stop
        for s in range(start, stop, _BLOCK):
            block = _dense(self._slice(s, min(s + _BLOCK, stop)), np.float64)
            if (hits := np.argwhere(bad(block))).size:
                cell, gene = (int(i) for i in hits[0])
                names = f"cell {str(self._adata.obs_names[s + cell])!r}, gene {str(self._adata.var_names[gene])!r}"
                return f"{block[cell, gene]:g} ({names})"
        return "such a value"

    def _offer(self) -> str:
        fits = [name for name in (None, *self._adata.layers) if name != self.layer and _has_counts(self._adata, name)]
        if fits:
            return " Whole numbers are in " + " and ".join(f"{_where(f)} (layer={f!r})" for f in fits) + "."
        raw = " (.raw may hold them)" if self._adata.raw is not None else ""
        return f" No layer holds counts{raw}; load the unnormalised data."


def read_expression(adata: AnnData, layer: str | None = None, *, counts: bool | None = None) -> Expression:
    """Check the expression matrix and open it for reading, without changing it.

    Parameters
    ----------
    adata
        Annotated data: dense in any order and real type, CSR, CSC, sparse arrays, Dask, backed, or a view. Loaded
        whole are only a backed CSC matrix and a view of a backed AnnData, which cannot be read by cells.
    layer
        Layer to read; None is ``.X``.
    counts
        True if raw counts are needed, False if log-normalised values are, None for any finite values.

    Returns
    -------
    The matrix, to be read in blocks.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If the data are empty or have one cell or one gene, hold NaN, infinite or complex values or text, or are not
        what `counts` asks for. The message names the first cell and gene.

    Warns
    -----
    UserWarning
        If cells have no value other than zero.
    """
    found = Expression(adata, layer)
    found.validate(counts=counts)
    found.warn_of_empty(found.n_empty_cells)
    if silent := int((found.n_cells_by_gene == 0).sum()):
        logger.info("%s: %s of %s genes are zero in every cell", found.where, f"{silent:,}", f"{found.n_genes:,}")
    return found


def is_summary(adata: AnnData) -> bool:
    """Whether :func:`causcade.pp.summarise` made this."""
    stored = adata.uns.get(_keys.SUMMARY)
    return isinstance(stored, Mapping) and _keys.PARAMS in stored and _keys.CELLS in stored


def _where(layer: str | None) -> str:
    return ".X" if layer is None else f".layers[{layer!r}]"


def _check_size(adata: AnnData) -> None:
    if adata.n_obs < 2 or adata.n_vars < 2:
        msg = f"At least 2 cells and 2 genes are needed; the AnnData has {adata.n_obs:,} x {adata.n_vars:,}."
        raise ValueError(msg)


def _open(adata: AnnData, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        layers = list(adata.layers)
        msg = (
            f"There is no layer {layer!r}.{suggest(str(layer), layers)} The layers are {shorten(layers, 20) or 'none'}."
        )
        raise KeyError(msg)
    source = adata.X if layer is None else adata.layers[layer]
    if source is None:
        msg = f".X is empty. Pass layer=, one of {shorten(list(adata.layers), 20) or 'none'}."
        raise ValueError(msg)
    if getattr(source, "format", None) == "csc" and hasattr(source, "to_memory"):
        source = source.to_memory()
    # CSC cannot be cut by cells quickly; CSR shares its memory
    return sparse.csr_array(source) if sparse.issparse(source) else source


def _in_memory(block: Any) -> np.ndarray | sparse.csr_array:
    if hasattr(block, "compute"):
        block = block.compute()
    if not sparse.issparse(block):
        return np.asarray(block)
    block = sparse.csr_array(block)
    if not block.has_canonical_format:  # repeated or unsorted entries; the source must stay as it is
        block = block.copy()
        block.sum_duplicates()
    return block


def _dense(block: Any, dtype: DTypeLike) -> np.ndarray:
    block = _in_memory(block)
    if isinstance(block, np.ndarray):
        return np.array(block, dtype=dtype, order="C")
    return np.ascontiguousarray(block.astype(dtype).toarray())


def _values(block: np.ndarray | sparse.csr_array) -> np.ndarray:
    return block if isinstance(block, np.ndarray) else np.asarray(block.data)


def _sums(block: np.ndarray | sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sum per cell, nonzero values per cell, nonzero values per gene."""
    if isinstance(block, np.ndarray):
        nonzero = block != 0
        return block.sum(axis=1, dtype=np.float64), nonzero.sum(axis=1), nonzero.sum(axis=0)
    cell = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    kept = block.data != 0
    return (
        np.bincount(cell, weights=block.data, minlength=block.shape[0]),
        np.bincount(cell[kept], minlength=block.shape[0]),
        np.bincount(block.indices[kept], minlength=block.shape[1]),
    )


def _range(block: np.ndarray | sparse.csr_array) -> tuple[float, float]:
    values = _values(block)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    all_stored = values.size == block.shape[0] * block.shape[1]
    return (low, high) if all_stored else (min(low, 0.0), max(high, 0.0))


def _has_counts(adata: AnnData, layer: str | None) -> bool:
    """Whether the first cells of a layer hold non-negative whole numbers."""
    source = adata.X if layer is None else adata.layers[layer]
    if source is None or np.dtype(source.dtype).kind not in "buif":
        return False
    head = _dense(source[: min(_PEEK, adata.n_obs)], np.float64)
    return bool(((head >= 0) & (head == np.round(head))).all())
