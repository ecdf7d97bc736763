"""What a summary holds beside its cells, read back from an AnnData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causcade import _keys
from causcade.regimes.labels import as_text, shorten

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Stored", "read_stored"]

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """Exact sums over all cells of a screen; rows are regimes, then batches, then controls by batch.

    Attributes
    ----------
    cells, totals
        ``(n_regimes, n_batches)`` number of cells, and sum of their library sizes.
    value, square, nonzero
        ``(rows, n_genes)`` sums of log-normalised values, of their squares, and numbers of non-zeros.
    regimes, batches
        Their names, in the order of the rows and columns of `cells`.
    params
        How it was made: ``values``, ``layer``, ``batch_key``, ``scale``, ``n_cells``, ``n_kept`` and more.
    """

    cells: Doubles
    totals: Doubles
    value: Doubles
    square: Doubles
    nonzero: Doubles
    regimes: tuple[str, ...]
    batches: tuple[str, ...]
    params: dict[str, Any]

    @property
    def n_regimes(self) -> int:
        """Number of regimes, control included."""
        return len(self.cells)

    @property
    def n_batches(self) -> int:
        """Number of batches; 1 without a batch column."""
        return self.cells.shape[1]

    @property
    def complete(self) -> bool:
        """Whether every cell of the screen was kept."""
        return bool(self.params["n_kept"] == self.params["n_cells"])

    def by_regime(self, part: str) -> Doubles:
        """``(n_regimes, n_genes)`` of ``"value"``, ``"square"`` or ``"nonzero"``."""
        out: Doubles = getattr(self, part)[: self.n_regimes]
        return out

    def by_batch(self, part: str) -> Doubles:
        """``(n_batches, n_genes)``."""
        rows: Doubles = getattr(self, part)
        if self.n_batches == 1:
            return rows.sum(0, keepdims=True)
        return rows[self.n_regimes : self.n_regimes + self.n_batches]

    def of_controls(self, part: str) -> Doubles:
        """``(n_batches, n_genes)`` over control cells."""
        rows: Doubles = getattr(self, part)
        return rows[:1] if self.n_batches == 1 else rows[self.n_regimes + self.n_batches :]


def read_stored(adata: AnnData) -> Stored:
    """Read a summary back.

    Raises
    ------
    ValueError
        If cells were dropped or added since, so that the sums are not of these cells.
    """
    stored = adata.uns[_keys.SUMMARY]
    params = dict(stored[_keys.PARAMS])
    if adata.n_obs != int(params["n_kept"]):
        msg = (
            f"This is a summary with {int(params['n_kept']):,} cells, but {adata.n_obs:,} are left, and its sums cannot be "
            f"cut alike. Use it whole (genes may be dropped), or del adata.uns[{_keys.SUMMARY!r}] to use these cells as "
            "they are."
        )
        raise ValueError(msg)
    parts = [_keys.summary(p) for p in ("value", "square", "nonzero")]
    if absent := [p for p in parts if p not in adata.varm]:
        msg = f"This is a summary, but .varm has no {shorten(absent)}; make it again with cc.pp.summarise."
        raise ValueError(msg)
    value, square, nonzero = (np.asarray(adata.varm[p], dtype=np.float64).T for p in parts)
    return Stored(
        np.asarray(stored[_keys.CELLS], dtype=np.float64),
        np.asarray(stored[_keys.TOTALS], dtype=np.float64),
        value,
        square,
        nonzero,
        tuple(as_text(r) for r in stored[_keys.REGIMES]),
        tuple(as_text(b) for b in np.atleast_1d(stored[_keys.NAMES])),
        params,
    )
