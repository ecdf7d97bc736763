"""Cells of a screen with combinations, and the batches that a fit takes from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["PairedCells", "Step", "hold_out", "steps"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PairedCells:
    """Cells, and what was done to them.

    Attributes
    ----------
    values
        ``(n_cells, n_genes)`` log-normalised expression: an array or CSR.
    codes
        ``(n_cells,)`` regime: 0 control, -1 left out.
    parts
        Per regime the numbers of the perturbations that it joins; none for control (0).
    n_perturbations
        How many perturbations there are.
    embedding
        ``(n_cells, n_embedding)`` further values of each cell, or None.
    """

    values: NDArray[np.float32] | sparse.csr_array
    codes: Ints
    parts: tuple[tuple[int, ...], ...]
    n_perturbations: int
    embedding: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Check that all fits together."""
        n = self.values.shape[0]
        if self.values.ndim != 2 or self.codes.shape != (n,) or not np.issubdtype(self.codes.dtype, np.integer):
            msg = (
                f"values have shape {self.values.shape}, codes {self.codes.shape}; one whole number per cell is needed."
            )
            raise ValueError(msg)
        if self.codes.max(initial=0) >= len(self.parts) or self.codes.min(initial=0) < -1:
            msg = (
                f"codes run from {self.codes.min()} to {self.codes.max()}; there are {len(self.parts)} regimes, and -1."
            )
            raise ValueError(msg)
        flat = [part for parts in self.parts for part in parts]
        if not flat or self.parts[0] or not all(self.parts[1:]) or min(flat) < 0 or max(flat) >= self.n_perturbations:
            msg = f"parts must be numbers below {self.n_perturbations}, at least one per regime, none for 0 (control)."
            raise ValueError(msg)
        if self.embedding is not None and (self.embedding.ndim != 2 or len(self.embedding) != n):
            msg = f"embedding has shape {self.embedding.shape}; it needs one row for each of the {n} cells."
            raise ValueError(msg)
        if not (self.codes == 0).any() or not (self.codes > 0).any():
            msg = "A fit needs control cells (code 0) and perturbed ones."
            raise ValueError(msg)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return int(self.values.shape[1])

    @property
    def n_embedding(self) -> int:
        """Width of the further values."""
        return 0 if self.embedding is None else int(self.embedding.shape[1])

    def rows(self, cells: Ints, device: torch.device | str = "cpu") -> Tensor:
        """``(len(cells), n_genes)`` float32."""
        found: Any = self.values[cells]
        dense = found.toarray() if sparse.issparse(found) else found
        return torch.as_tensor(np.asarray(dense, dtype=np.float32), device=device)

    def further(self, cells: Ints, device: torch.device | str = "cpu") -> Tensor | None:
        """``(len(cells), n_embedding)`` float32, or None."""
        if self.embedding is None:
            return None
        return torch.as_tensor(self.embedding[cells].astype(np.float32, copy=False), device=device)


@dataclass(frozen=True)
class Step:
    """Cells of a step, by number: perturbed ones of one regime, and controls in pairs with them."""

    regime: int
    perturbed: Ints
    control: Ints


def hold_out(codes: Ints, share: float, rng: np.random.Generator, *, least: int = 2) -> NDArray[np.bool_]:
    """Draw a share of the cells of every regime.

    Parameters
    ----------
    codes
        ``(n_cells,)`` regimes.
    share
        Of the cells of each, rounded down.
    rng
        Which ones.
    least
        Regimes where this would be fewer cells give none: a distribution of one cell says nothing.

    Returns
    -------
    ``(n_cells,)`` True for cells that are held out.
    """
    out = np.zeros(len(codes), dtype=bool)
    for regime in np.unique(codes[codes >= 0]):
        cells = np.flatnonzero(codes == regime)
        n = int(share * len(cells))
        if n >= least:
            out[rng.choice(cells, n, replace=False)] = True
    return out


def steps(
    codes: Ints, regimes: Sequence[int], batch: int, partner: Ints | None, rng: np.random.Generator
) -> Iterator[Step]:
    """Steps of an epoch: cells of each regime in random order, cut in batches, all batches in random order.

    What is left over after the cut is dropped, other cells each time; a regime smaller than a batch is one batch.

    Parameters
    ----------
    codes
        ``(n_cells,)`` regimes of the cells in use.
    regimes
        Those to learn from.
    batch
        Cells in a step.
    partner
        ``(n_cells,)`` control of each cell; None: drawn anew.
    rng
        All that is random.
    """
    controls = np.flatnonzero(codes == 0)
    made: list[tuple[int, Ints]] = []
    for regime in regimes:
        cells = rng.permutation(np.flatnonzero(codes == regime))
        size = min(batch, len(cells))
        made += [(regime, cells[at : at + size]) for at in range(0, len(cells) - size + 1, max(1, size))]
    for i in rng.permutation(len(made)):
        regime, cells = made[i]
        paired = partner[cells] if partner is not None else rng.choice(controls, len(cells))
        yield Step(regime, cells, paired)
