"""A screen that is a summary: means and effects from the sums over all cells, correlations from a sample of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causcade.screendata import ScreenData
from causcade.stats import Moments
from causcade.summary._moments import around_means, residual_correlation, residual_freedom, residual_variance
from causcade.summary._stored import Stored

__all__ = ["SummaryScreen"]

Positions = NDArray[np.int64]

_CORRELATED = 20_000  # cells that correlations are taken from: their error, 0.007, is below that of any effect
_FEWEST = 8  # of every regime among them, if there are
_BLOCK = 2048
_KEEP = 200_000_000  # values of these cells that are kept in memory (0.8 GB)


@dataclass(kw_only=True)
class SummaryScreen(ScreenData):
    """A screen known by exact sums over all of its cells and by some of the cells.

    `codes`, `groups`, :meth:`rows` and :meth:`cell_table` are of the cells that were kept. :meth:`moments` are of all
    cells of the screen, but for the residual correlation, which is that of kept cells, each weighted by the cells it stands
    for. Relabelled or halved cells cannot be summed again, so what they change is measured on kept cells and brought to
    the size it would have with all cells.

    Attributes
    ----------
    stored
        The sums.
    raw
        ``(n_kept,)`` regime of every kept cell before those of one gene are joined, -1 = left out.
    base
        ``(n_kept,)`` `codes` as they were read.
    keys
        ``(n_kept,)`` random numbers that the cells were kept by.
    """

    stored: Stored
    raw: Positions
    base: Positions
    keys: NDArray[np.uint64]

    @property
    def n_groups(self) -> int:
        """Number of groups, those without a kept cell included."""
        return self.stored.n_batches if self._grouped else 1

    def _parts(self) -> Iterator[NDArray[Any] | str]:
        yield from super()._parts()
        s = self.stored
        yield from (s.cells, s.totals, s.value, s.square, s.nonzero, self.raw, self.keys)

    @property
    def n_control(self) -> int:
        """Number of control cells, those that were not kept included."""
        return int(self.stored.cells[0].sum())

    @cached_property
    def _grouped(self) -> bool:
        return self.stored.n_batches > 1 and bool(self.groups.any())

    @cached_property
    def _scale(self) -> float:
        """Library size that all cells are brought to, as in the sums."""
        return float(self.stored.params["scale"])

    @cached_property
    def _exact(self) -> Moments:
        """Sums over all cells in use, with regimes joined as in `codes`; of products only the squares."""
        s = self.stored
        place = np.full(s.n_regimes, -1)
        place[self.raw[self.raw >= 0]] = self.base[self.raw >= 0]
        used = np.flatnonzero(place >= 0)
        cells = np.zeros((self.n_regimes, s.n_batches))
        value, detected = (np.zeros((self.n_regimes, self.n_genes)) for _ in range(2))
        for regime in used:
            cells[place[regime]] += s.cells[regime]
            value[place[regime]] += s.by_regime("value")[regime]
            detected[place[regime]] += s.by_regime("nonzero")[regime]
        square = s.by_regime("square")[used].sum(0)
        by_group = [value.sum(0, keepdims=True), detected.sum(0, keepdims=True)]
        if self._grouped:
            by_group = self._in_use(s.by_batch("value"), s.by_batch("nonzero"))
        else:
            cells = cells.sum(1, keepdims=True)
        made = [torch.from_numpy(part) for part in (cells, value, detected, *by_group, square)]
        return Moments(made[0], made[1], made[2], made[3], made[4], made[5])

    def _in_use(self, value: NDArray[np.float64], nonzero: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Sums by group without the cells of labels that are too rare: all of those were kept."""
        value, nonzero = value.copy(), nonzero.copy()
        rare = np.flatnonzero(self.raw < 0)
        for cells in np.array_split(rare, max(1, len(rare) // _BLOCK)):
            y = self.rows(cells).astype(np.float64)
            np.subtract.at(value, self.groups[cells], y)
            np.subtract.at(nonzero, self.groups[cells], y > 0)
        return [value.clip(0), nonzero.clip(0)]

    @cached_property
    def _sample(self) -> tuple[Positions, Tensor]:
        """Kept cells that correlations are taken from, and how many cells each stands for.

        Regimes give cells in proportion to their size, as far as they have them, so that weights are much alike.
        """
        all_cells = self.stored.cells.sum(1)
        used = np.flatnonzero(self.raw >= 0)
        order = used[np.lexsort((self.keys[used], self.raw[used]))]
        raw = self.raw[order]
        rank = np.arange(len(order)) - np.searchsorted(raw, raw)
        kept = np.bincount(raw, minlength=len(all_cells))
        low, high = 0.0, 1.0
        for _ in range(40):  # share of each regime, so that the number of cells is right
            share = (low + high) / 2
            n = np.minimum(kept, np.maximum(np.ceil(share * all_cells), _FEWEST))
            low, high = (share, high) if n.sum() <= _CORRELATED else (low, share)
        most = np.minimum(kept, np.maximum(np.ceil(low * all_cells), _FEWEST))
        chosen = rank < most[raw]
        cells = np.sort(order[chosen])
        weight = all_cells[self.raw[cells]] / most[self.raw[cells]]
        return cells, torch.from_numpy(weight)

    @cached_property
    def _values(self) -> list[Tensor] | None:
        cells, _ = self._sample
        if len(cells) * self.n_genes > _KEEP:
            return None
        return [torch.from_numpy(self.rows(c)) for c in self._cut(cells)]

    @staticmethod
    def _cut(cells: Positions) -> list[Positions]:
        return [cells[s : s + _BLOCK] for s in range(0, len(cells), _BLOCK)]

    def _weighted(self, codes: Positions) -> Moments:
        """Moments of the sample, each cell weighted by those it stands for."""
        cells, weight = self._sample
        out = Moments.empty(self.n_regimes, self.n_groups, self.n_genes)
        for i, some in enumerate(self._cut(cells)):
            y = torch.from_numpy(self.rows(some)) if self._values is None else self._values[i]
            at = slice(i * _BLOCK, i * _BLOCK + len(some))
            out.update(y, torch.from_numpy(codes[some]), torch.from_numpy(self.groups[some]), weight[at])
        return out

    @cached_property
    def _whole_sample(self) -> Moments:
        """Of the sample as it was read; its products are spent on the correlation."""
        out = self._weighted(self.base)
        return replace(out, gram=out.squares, residual=residual_correlation(out), effective=self._kish(self.base >= 0))

    def _kish(self, used: NDArray[np.bool_]) -> float:
        """Number of equally weighted cells that would tell as much."""
        cells, weight = self._sample
        w = weight[torch.from_numpy(used[cells])]
        return float(w.sum() ** 2 / w.square().sum()) if len(w) else 0.0

    def moments(self, *, codes: Positions | None = None, only: NDArray[np.bool_] | None = None) -> Moments:
        """Moments of all cells of the screen.

        Parameters
        ----------
        codes
            Other regimes of the kept cells (a permutation within groups).
        only
            ``(n_kept,)`` cells to use, a random part: what all cells would give if so many were used.
        """
        codes = self.codes if codes is None else codes
        if only is None and np.array_equal(codes, self.base):
            whole = self._whole_sample
            return replace(self._exact, residual=whole.residual, effective=whole.effective)
        codes = codes if only is None else np.where(only, codes, -1)
        drawn = self._weighted(codes)
        drawn = replace(drawn, residual=residual_correlation(drawn), effective=self._kish(codes >= 0))
        return self._moved(drawn, codes)

    def _moved(self, drawn: Moments, codes: Positions) -> Moments:
        """Bring what the sample shows of a part of the cells, or of other labels, to the size of the whole screen."""
        e, w, h = self._exact, self._whole_sample, drawn
        part = not bool(((codes >= 0) & (codes != self.base)).any())
        share = float(h.cells.sum() / w.cells.sum()) if part else 1.0
        n_all = e.cells.sum(1)
        by_regime = _shrink(share, n_all, *self._counted(codes), part=part)
        groups = [e.group_value, e.group_detected]
        if part:
            n_group = e.cells.sum(0)
            by_group = _shrink(share, n_group, *self._counted(codes, by_group=True), part=True)
            groups = [
                share * (ours + n_group[:, None] * by_group * (_rate(hs, h) - _rate(ws, w)))
                for ours, hs, ws in zip(groups, (h.group_value, h.group_detected), (w.group_value, w.group_detected), strict=True)
            ]  # fmt: skip
        sums = []
        for name in ("value", "detected"):
            own, every = _split(h, name), _split(w, name)
            change = own if not part else own - every
            flat = getattr(e, name) if part else e.cells @ _rate(getattr(e, f"group_{name}"), e)
            sums.append((share * (flat + n_all[:, None] * by_regime * change)).clamp(min=0))
        by_group_now = [g.clamp(min=0) for g in groups]
        out = Moments(
            share * e.cells, sums[0], sums[1], by_group_now[0], by_group_now[1], e.squares, h.residual, h.effective
        )
        return replace(out, gram=around_means(out) + residual_variance(e) * residual_freedom(out)) if part else out

    def _counted(self, codes: Positions, *, by_group: bool = False) -> tuple[Tensor, Tensor]:
        """Cells of the sample that are drawn, and all of them, by regime or group."""
        cells, _ = self._sample
        drawn = codes[cells] >= 0
        label, own = (self.groups[cells], self.groups[cells]) if by_group else (self.base[cells], codes[cells])
        most = self.n_groups if by_group else self.n_regimes
        counts = np.bincount(own[drawn], minlength=most), np.bincount(label, minlength=most)
        return torch.from_numpy(counts[0]).double(), torch.from_numpy(counts[1]).double()

    def halves(self, whole: Moments, rng: np.random.Generator) -> tuple[Moments, Moments]:
        """Moments of a random half of the cells and of the other: the kept ones are dealt, within every regime."""
        cells, _ = self._sample
        order = rng.permutation(cells)
        order = order[np.argsort(self.base[order], kind="stable")]
        half = np.zeros(len(self.base), dtype=bool)
        half[order[int(rng.integers(2)) :: 2]] = True
        return self.moments(only=half), self.moments(only=~half)

    def mean_change(self, cells: Positions) -> NDArray[np.float64] | None:
        """Difference of means between all cells of a perturbation and all controls, of levelled groups, ``(n_genes,)``.

        Parameters
        ----------
        cells
            Kept cells of one perturbation; ``None`` is returned if they are of several, or if it has cells in groups
            without controls.
        """
        regimes = np.unique(self.raw[cells])
        if len(regimes) != 1 or regimes[0] < 1:
            return None
        s, r = self.stored, int(regimes[0])
        n, n_control = s.cells[r], s.cells[0]
        own = s.by_regime("value")[r] / n.sum()
        control = s.of_controls("value").sum(0) / n_control.sum()
        if not self._grouped:
            return np.asarray(own - control)
        if (n[n_control == 0] > 0).any():
            return None
        means = s.of_controls("value") / np.maximum(n_control, 1)[:, None]
        return np.asarray(own - (n / n.sum()) @ means)


def _rate(sums: Tensor, of: Moments) -> Tensor:
    """Means by group."""
    return sums / of.cells.sum(0).clamp(min=1e-9)[:, None]


def _split(m: Moments, name: str) -> Tensor:
    """``(n_regimes, n_genes)`` means of regimes less what their mix of groups gives; 0 where there are no cells."""
    n = m.cells.sum(1)[:, None]
    sums = getattr(m, name) - m.cells @ _rate(getattr(m, f"group_{name}"), m)
    return torch.where(n > 0, sums / n.clamp(min=1e-9), torch.zeros_like(sums))


def _shrink(share: float, n_all: Tensor, drawn: Tensor, known: Tensor, *, part: bool) -> Tensor:
    """Factor from a deviation seen on few cells to one that all cells would show, a column.

    The mean of `drawn` of `known` cells scatters around the mean of the latter with variance ``1 / drawn - 1 / known``; that
    of a share of `n_all` cells with ``(1 / share - 1) / n_all``. Relabelled cells scatter with ``1 / drawn``, or ``1 / n_all``.
    """
    seen = 1 / drawn.clamp(min=1) - (1 / known.clamp(min=1) if part else 0)
    wanted = (1 / share - 1 if part else 1.0) / n_all.clamp(min=1)
    usable = (drawn > 0) & (seen > 0)
    return torch.where(usable, (wanted / torch.where(usable, seen, 1.0)).sqrt(), torch.zeros_like(seen))[:, None]
