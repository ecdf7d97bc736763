"""A user's screen as arrays: checked expression, regime and group of every cell, and the statistics made from them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from causcade import _keys
from causcade._blocks import checksum
from causcade.expression import Expression, is_summary, read_expression
from causcade.regimes import Regimes, from_adata
from causcade.regimes.labels import as_text, suggest
from causcade.stats import (
    MIN_CONTROLS,
    Moments,
    PairStats,
    cell_values,
    log_normalise,
    pair_stats,
    single_target_regimes,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.summary import Stored

Values = Literal["counts", "expression", "log"]
_CACHE = 300_000_000  # entries of float32 that may be kept between passes (1.2 GB)


@dataclass
class ScreenData:
    """What every model reads of a screen.

    Attributes
    ----------
    genes
        ``(n_genes,)`` names.
    codes, groups
        ``(n_cells,)`` regime (0 = control, -1 = left out) and group of every cell.
    single
        ``(n_genes,)`` regime that perturbs each gene alone, -1 = none.
    n_regimes
        Number of regimes, control included.
    values
        ``"counts"`` (normalised here), ``"expression"`` (likewise, need not be whole) or ``"log"`` (used as they are).
    """

    genes: NDArray[np.str_]
    codes: NDArray[np.int64]
    groups: NDArray[np.int64]
    single: NDArray[np.int64]
    n_regimes: int
    values: Values
    source: Expression
    _kept: dict[int, torch.Tensor] | None = None

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    @property
    def n_control(self) -> int:
        """Number of control cells of the whole screen."""
        return int((self.codes == 0).sum())

    def checksum(self) -> str:
        """SHA-256 of all that scores depend on: names of genes, regimes and groups of cells, and their values."""
        return checksum(self._parts())

    def _parts(self) -> Iterator[NDArray[Any] | str]:
        yield f"{self.values} {self.n_regimes}"
        yield from (self.genes, self.codes, self.groups, self.single, self.source.total_counts)
        yield from (block for _, block in self.source.blocks())

    def blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Log-normalised values, block by block, in the order of the cells; kept in memory when they fit."""
        keep = self.source.n_cells * self.n_genes <= _CACHE
        if self._kept is not None:
            yield from self._kept.items()
            return
        kept: dict[int, torch.Tensor] = {}
        for start, block in self.source.blocks():
            y = self._normalise(block, slice(start, start + len(block)))
            if keep:
                kept[start] = y
            yield start, y
        self._kept = kept if keep else None

    def rows(self, cells: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(len(cells), n_genes)`` log-normalised values of some cells, in this order; those of :meth:`blocks`."""
        return self._normalise(self.source.rows(cells), cells).numpy()

    @cached_property
    def _scale(self) -> float:
        """Library size that all cells are brought to: the median of the cells in use."""
        total = self.source.total_counts
        used = total[(total > 0) & (self.codes >= 0)]
        return float(np.median(used)) if used.size else 1.0

    def _normalise(self, x: NDArray[np.float32], cells: slice | NDArray[np.int64]) -> torch.Tensor:
        y = torch.from_numpy(x)
        if self.values == "log":
            return y
        return log_normalise(y, torch.from_numpy(self.source.total_counts[cells]).to(y), self._scale)

    def moments(self, *, codes: NDArray[np.int64] | None = None, only: NDArray[np.bool_] | None = None) -> Moments:
        """One pass over the cells.

        Parameters
        ----------
        codes
            Other regimes than the screen's (a permutation).
        only
            ``(n_cells,)`` cells to use.
        """
        codes = self.codes if codes is None else codes
        codes = codes if only is None else np.where(only, codes, -1)
        out = Moments.empty(self.n_regimes, self.n_groups, self.n_genes)
        labels, groups = torch.from_numpy(codes), torch.from_numpy(self.groups)
        for start, y in self.blocks():
            rows = slice(start, start + len(y))
            out.update(y, labels[rows], groups[rows])
        return out

    def stats(self, moments: Moments | None = None) -> PairStats:
        """Pair statistics of the screen (or of other moments of it, with the reference of the whole screen)."""
        enough = self.n_control >= MIN_CONTROLS
        return pair_stats(moments or self.moments(), torch.from_numpy(self.single), against_control=enough)

    def halves(self, whole: Moments, rng: np.random.Generator) -> tuple[Moments, Moments]:
        """Moments of a random half of the cells, dealt within every regime, and of the other half."""
        order = rng.permutation(len(self.codes))
        order = order[np.argsort(self.codes[order], kind="stable")]
        half = np.zeros(len(self.codes), dtype=bool)
        half[order[int(rng.integers(2)) :: 2]] = True
        first = self.moments(only=half)
        names = ("cells", "value", "detected", "group_value", "group_detected", "gram")
        return first, Moments(*(getattr(whole, name) - getattr(first, name) for name in names))

    def mean_change(self, cells: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Change of the means of a perturbation, ``(n_genes,)``, where it is known from more than these cells.

        Parameters
        ----------
        cells
            Cells of one perturbation.
        """
        return None

    def cell_table(
        self, most_per_regime: int, most_controls: int, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of a sample of cells for the cell network, and their regimes."""
        if self.values == "log":
            msg = "The cell network (preset 'paper') needs counts or expression, not log values: pass values='counts'."
            raise ValueError(msg)
        order = rng.permutation(len(self.codes))
        order = order[np.argsort(self.codes[order], kind="stable")]  # by regime, at random within
        codes = self.codes[order]
        rank = np.arange(len(order)) - np.searchsorted(codes, codes)
        most = np.where(codes == 0, most_controls, np.where(codes > 0, most_per_regime, 0))
        chosen = np.sort(order[rank < most])
        x = torch.from_numpy(self.source.rows(chosen))
        total = torch.from_numpy(self.source.total_counts[chosen]).to(x)
        return cell_values(x, total), torch.from_numpy(self.codes[chosen])

    def find(self, genes: str | list[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """Positions of genes by name.

        Raises
        ------
        KeyError
            If one is not measured; the message gives close matches.
        ValueError
            If the list is empty or names a gene twice.
        """
        wanted = [genes] if isinstance(genes, str) else [str(g) for g in genes]
        place = {g: i for i, g in enumerate(self.genes)}
        if not wanted:
            msg = "No genes were given; name at least one, or pass None for all pairs."
            raise ValueError(msg)
        if absent := [g for g in wanted if g not in place]:
            told = "".join(suggest(g, list(place)) for g in absent[:3])
            msg = f"{len(absent)} of {len(wanted)} genes are not in .var_names: {absent[:5]}.{told}"
            raise KeyError(msg)
        if len(set(wanted)) < len(wanted):
            msg = f"Genes occur twice: {sorted({g for g in wanted if wanted.count(g) > 1})}."
            raise ValueError(msg)
        return np.array([place[g] for g in wanted])


def read_screen(
    adata: AnnData,
    *,
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    regimes_key: str = "regimes",
) -> ScreenData:
    """Read and check a screen; nothing is written.

    Parameters
    ----------
    adata
        Annotated data on which :func:`causcade.pp.regimes` was run.
    layer
        Layer to read; ``None`` = ``.X``.
    values
        What the numbers are: ``"counts"`` (whole), ``"expression"`` (non-negative, linear scale) or ``"log"``
        (log-normalised, non-negative).
    batch_key
        Column of ``.obs`` (batch, cell type, time point); effects and correlations are measured within its groups.
    regimes_key
        Key of the regimes.
    """
    if values not in ("counts", "expression", "log"):
        msg = f"values must be 'counts', 'expression' or 'log', not {values!r}."
        raise ValueError(msg)
    regimes = from_adata(adata, regimes_key)
    source = read_expression(adata, layer, counts={"counts": True, "expression": None, "log": False}[values])
    if source.minimum < 0:
        msg = f"{source.where} holds negative values ({source.minimum:g}): give counts, or log-normalised values >= 0."
        raise ValueError(msg)
    codes, single = _singles(regimes, source.n_genes)
    stored = _stored(adata, layer, values, batch_key, regimes)
    groups = _read_groups(adata, batch_key) if stored is None else _stored_groups(adata, batch_key, stored)
    _warn_about_design(regimes, codes, single, groups, batch_key)
    parts = (np.asarray(adata.var_names.astype(str)), codes, groups, single, len(regimes), values, source)
    if stored is None:
        return ScreenData(*parts)
    from causcade.summary import SummaryScreen  # builds on this file

    keys = adata.obs[_keys.summary("key")].to_numpy().astype(np.uint64)
    return SummaryScreen(*parts, stored=stored, raw=regimes.codes.astype(np.int64), base=codes, keys=keys)


def _stored(
    adata: AnnData, layer: str | None, values: Values, batch_key: str | None, regimes: Regimes
) -> Stored | None:
    """Sums of a summary that not all cells were kept in, if it is one and is asked about what it knows."""
    from causcade.summary import read_stored

    if not is_summary(adata):
        return None
    stored = read_stored(adata)
    if stored.complete:
        return None
    params = stored.params
    if layer is not None or values != params["values"]:
        msg = f"This summary is of values={params['values']!r} in .X, not of values={values!r} in {layer or '.X'}."
        raise ValueError(msg)
    if [as_text(name) for name in regimes.names] != list(stored.regimes):
        msg = (
            f"This summary has sums for the {len(stored.regimes):,} regimes it was made with, but .uns holds other ones. Find "
            "regimes in all cells (cc.pp.regimes), and summarise them again."
        )
        raise ValueError(msg)
    if batch_key is not None and batch_key != params["batch_key"]:
        known = f"batch_key={params['batch_key']!r}, or None" if params["batch_key"] else "batch_key=None"
        msg = f"This summary has no sums for batch_key={batch_key!r}. Pass {known}, or summarise the cells again."
        raise ValueError(msg)
    return stored


def _stored_groups(adata: AnnData, key: str | None, stored: Stored) -> NDArray[np.int64]:
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    place = {name: i for i, name in enumerate(stored.batches)}
    return np.array([place[as_text(label)] for label in adata.obs[key]], dtype=np.int64)


def _singles(regimes: Regimes, n_genes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes with all regimes of one gene (guides) joined, and the regime that perturbs each gene alone.

    A combination is never one, whether its other targets are measured or not.
    """
    alone = [
        index if len(names) == 1 else index[:0]
        for names, index in zip(regimes.targets, regimes.target_index, strict=True)
    ]
    single = single_target_regimes(alone, n_genes)
    place = np.arange(len(regimes))
    for regime, genes in enumerate(alone):
        if len(genes):
            place[regime] = single[genes[0]]
    codes = np.where(regimes.codes >= 0, place[regimes.codes], -1).astype(np.int64)
    used = np.isin(single, codes[codes > 0])
    return codes, np.where(used, single, -1)


def _warn_about_design(
    regimes: Regimes, codes: NDArray[np.int64], single: NDArray[np.int64], groups: NDArray[np.int64], key: str | None
) -> None:
    """Say what this screen cannot tell."""
    if not (single >= 0).any():
        note = (
            "No measured gene was perturbed alone, so scores rest on correlations and their direction is mostly a "
            "guess. See cc.get.regimes(adata) for what the labels hit."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
    with_control = np.unique(groups[codes == 0])
    apart = [r for r in np.unique(single[single >= 0]) if not np.isin(groups[codes == r], with_control).any()]
    if apart:
        names = [str(regimes.names[r]) for r in apart[:5]]
        note = (
            f"{len(apart):,} perturbations share no group of .obs[{key!r}] (batch_key) with control cells: {names}. "
            "Their effects cannot be told from those of the batch."
        )
        warnings.warn(note, UserWarning, stacklevel=4)


def _read_groups(adata: AnnData, key: str | None) -> NDArray[np.int64]:
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    if key not in adata.obs:
        msg = f".obs has no column {key!r} (batch_key).{suggest(key, list(adata.obs))} It has {sorted(adata.obs)}."
        raise KeyError(msg)
    codes = adata.obs[key].astype("category").cat.codes.to_numpy().astype(np.int64)
    if n := int((codes < 0).sum()):
        msg = f"{n:,} of {adata.n_obs:,} cells have no value in .obs[{key!r}] (batch_key); fill or drop them."
        raise ValueError(msg)
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)
