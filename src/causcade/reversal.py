"""Reversal of a change of state: which measured perturbations push cells of one group back towards another.

All effects are differences of mean log-normalised expression. No cell serves twice: cells that could tell both the
change and an effect are dealt in two, or the noise of shared controls alone would look like a reversal. Nor do a perturbation's own targets
count: that a knocked-down gene falls says nothing of what it does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

from causcade import nulls
from causcade.comparisons import MIN_CELLS, Comparisons
from causcade.screendata import ScreenData

__all__ = ["MOST_CELLS", "Change", "ReversalScores", "ReversalSettings", "Within", "cosine", "score_reversal"]

#: Cells of a kind that are used at most; more are sampled.
MOST_CELLS = 5_000

_TINY = 1e-12
Within = Literal["group", "all"]
Positions = NDArray[np.int64]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """Cells that tell the change from one group to another.

    Attributes
    ----------
    before, after
        Positions of cells of the two groups.
    """

    before: Positions
    after: Positions


@dataclass(frozen=True)
class ReversalSettings:
    """How reversals are scored.

    Attributes
    ----------
    n_draws
        Bootstrap samples of the cells for the spread; 0 = none.
    n_null
        Permutations of the labels per perturbation; 0 = none.
    n_top
        Genes with the largest change that the simple correlation looks at.
    progress_bar
        Show one.
    """

    n_draws: int = 50
    n_null: int = 100
    n_top: int = 100
    progress_bar: bool = True


@dataclass(frozen=True)
class ReversalScores:
    """What each of ``k`` perturbations does along the change; see :func:`causcade.tl.reversal` for units.

    Attributes
    ----------
    names
        The perturbations.
    score, sd
        ``(k,)`` cosine of effect and reversed change, and its spread; a spread that was not asked for is None.
    fraction, fraction_sd, pvalue, fdr
        ``(k,)`` how far back, as a share of the change, its spread, and what the null says of it.
    size
        ``(k,)`` length of the effect over the length of the change.
    top_correlation, closer
        ``(k,)`` baselines.
    n_cells
        ``(k,)`` perturbed cells used.
    change
        float32 ``(n_genes,)`` mean of the second group less that of the first.
    effects
        float32 ``(n_genes, k)`` mean of perturbed cells less that of controls; NaN for a perturbation's own targets.
    n_control
        Controls behind the effects.
    n_before, n_after
        Cells behind the change.
    """

    names: tuple[str, ...]
    score: Doubles
    sd: Doubles | None
    pvalue: Doubles | None
    fdr: Doubles | None
    fraction: Doubles
    fraction_sd: Doubles | None
    size: Doubles
    top_correlation: Doubles
    closer: Doubles
    n_cells: Positions
    change: Floats
    effects: Floats
    n_control: int
    n_before: int
    n_after: int


def score_reversal(
    screen: ScreenData, change: Change, pairs: Comparisons, settings: ReversalSettings, rng: np.random.Generator
) -> ReversalScores:
    """Score how far each perturbation reverses a change.

    Parameters
    ----------
    screen
        The user's screen; its groups are batches.
    change
        Cells of the two states.
    pairs
        Controls, and cells of every perturbation. May overlap with those of `change`.
    settings
        How to score.
    rng
        Decides who is dealt where, samples, bootstrap and permutations. A perturbation's numbers do not depend on
        which others are scored, but for `fdr` and, through the pooled null, `pvalue`.

    Raises
    ------
    ValueError
        If too few cells are left on a side, or the groups do not differ at all.

    Warns
    -----
    UserWarning
        If perturbations are left with too few cells, or no batch has both groups.
    """
    base = int(rng.integers(2**63))
    change, pairs = _deal(screen, change, pairs, base)
    pairs = pairs.usable(screen.groups)
    run = _Run(screen, change, pairs.control, settings, np.random.default_rng([base, 1]))
    rows = []
    sets = list(zip(pairs.names, pairs.cells, pairs.known, strict=True))
    for name, cells, known in tqdm(sets, desc="reversal", disable=not settings.progress_bar):
        counts = np.ones(screen.n_genes, dtype=bool)
        counts[known] = False
        rows.append(run.score(cells, counts, np.random.default_rng([base, 2, crc32(name.encode())])))
    return _gather(pairs.names, rows, run, settings)


def cosine(effects: Doubles, direction: Doubles) -> Doubles:
    """Cosine of each row with a direction; 0 for a row of zeros."""
    length = np.linalg.norm(effects, axis=-1) * np.linalg.norm(direction, axis=-1)
    dot = np.asarray((effects * direction).sum(-1), dtype=np.float64)
    return np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)


def _deal(screen: ScreenData, change: Change, pairs: Comparisons, base: int) -> tuple[Change, Comparisons]:
    """Let each cell serve on one side only, and cut every set down to the most cells."""
    tells = np.zeros(len(screen.codes), dtype=bool)
    tells[np.concatenate([change.before, change.after])] = True
    acts = np.zeros_like(tells)
    acts[np.concatenate([pairs.control, *pairs.cells])] = True
    both = tells & acts
    odd = _alternate(screen, base)
    for_change, for_effect = both & ~odd, both & odd

    def some(cells: Positions, taken: NDArray[np.bool_], name: str) -> Positions:
        kept = cells[~taken[cells]]
        if len(kept) <= MOST_CELLS:
            return kept
        return np.sort(np.random.default_rng([base, crc32(name.encode())]).choice(kept, MOST_CELLS, replace=False))

    dealt = Change(some(change.before, for_effect, "before"), some(change.after, for_effect, "after"))
    cells = tuple(some(c, for_change, f"cells of {n}") for n, c in zip(pairs.names, pairs.cells, strict=True))
    return dealt, Comparisons(some(pairs.control, for_change, "control"), pairs.names, cells, pairs.known)


def _alternate(screen: ScreenData, base: int) -> NDArray[np.bool_]:
    """Deal all cells in two, as evenly as can be from every regime in every batch."""
    order = np.random.default_rng([base, 0]).permutation(len(screen.codes))
    stratum = screen.codes[order] * (screen.n_groups + 1) + screen.groups[order]
    order = order[np.argsort(stratum, kind="stable")]
    stratum = np.sort(stratum)
    rank = np.arange(len(order)) - np.searchsorted(stratum, stratum)
    odd = np.zeros(len(order), dtype=bool)
    odd[order[rank % 2 == 1]] = True
    return odd


@dataclass(frozen=True)
class _Row:
    """Numbers of one perturbation; draws along the first axis."""

    effect: Doubles
    counts: NDArray[np.bool_]
    score: float
    fraction: float
    score_draws: Doubles
    fraction_draws: Doubles
    null: Doubles
    n_cells: int


class _Run:
    """What all perturbations share: the change, its bootstrap, the controls and theirs."""

    def __init__(
        self,
        screen: ScreenData,
        change: Change,
        control: Positions,
        settings: ReversalSettings,
        rng: np.random.Generator,
    ) -> None:
        for word, cells in (("first group", change.before), ("second group", change.after)):
            if len(cells) < MIN_CELLS:
                msg = f"Only {len(cells)} cells of the {word} tell the change; at least {MIN_CELLS} are needed."
                raise ValueError(msg)
        self.screen, self.settings = screen, settings
        groups = screen.groups if _meet(screen.groups, change) else np.zeros_like(screen.groups)
        before, after = (_Sums(screen, cells, groups) for cells in (change.before, change.after))
        self.n_before, self.n_after = before.n_shared(after), after.n_shared(before)
        self.change = _difference(after, before, after.mean(), before.mean())[0]
        n = settings.n_draws
        self.change_draws = _difference(after, before, after.bootstrap(n, rng), before.bootstrap(n, rng))
        if not self.change.any():
            msg = "The two groups do not differ in any gene: there is nothing to reverse."
            raise ValueError(msg)
        self.control = _Sums(screen, control, screen.groups)
        self.control_draws = self.control.bootstrap(n, rng)

    def score(self, cells: Positions, counts: NDArray[np.bool_], rng: np.random.Generator) -> _Row:
        """Score by the genes that count."""
        acted = _Sums(self.screen, cells, self.screen.groups)
        effect = counts * _difference(acted, self.control, acted.mean(), self.control.mean())[0]
        drawn = _difference(acted, self.control, acted.bootstrap(self.settings.n_draws, rng), self.control_draws)
        drawn, back, backs = counts * drawn, counts * -self.change, counts * -self.change_draws
        length, lengths = (np.maximum((x * x).sum(-1), _TINY) for x in (back, backs))
        return _Row(
            effect,
            counts,
            float(cosine(effect, back)),
            float(effect @ back / length),
            cosine(drawn, backs),
            (drawn * backs).sum(-1) / lengths,
            _permuted(acted, self.control, self.settings.n_null, rng) @ back / length,
            len(cells),
        )


def _meet(groups: Positions, change: Change) -> bool:
    """Whether the change can be told within batches; warns if not."""
    if np.intersect1d(groups[change.before], groups[change.after]).size:
        return True
    note = (
        "No batch (batch_key) has cells of both groups, so the change between them is taken across batches and cannot "
        "be told from a difference of batches."
    )
    warnings.warn(note, UserWarning, stacklevel=5)
    return False


class _Sums:
    """Cells of one kind, batch by batch."""

    def __init__(self, screen: ScreenData, cells: Positions, groups: Positions) -> None:
        self.values = {int(g): screen.rows(cells[groups[cells] == g]) for g in np.unique(groups[cells])}

    def __len__(self) -> int:
        return sum(map(len, self.values.values()))

    def n_shared(self, other: _Sums) -> int:
        """Cells in batches that the other has, too."""
        return sum(len(x) for g, x in self.values.items() if g in other.values)

    def mean(self) -> dict[int, Doubles]:
        """Per batch ``(1, n_genes)``."""
        return {g: x.mean(0, dtype=np.float64)[None] for g, x in self.values.items()}

    def bootstrap(self, n: int, rng: np.random.Generator) -> dict[int, Doubles]:
        """Per batch means of resampled cells, ``(n, n_genes)``."""
        out = {}
        for g, x in self.values.items():
            weights = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=n).astype(np.float32)
            out[g] = (weights @ x / len(x)).astype(np.float64)
        return out


def _difference(other: _Sums, reference: _Sums, others: dict[int, Doubles], references: dict[int, Doubles]) -> Doubles:
    """Mean differences within batches, each batch by its share of the cells of `other`; ``(draws, n_genes)``."""
    shared = [g for g in other.values if g in reference.values]
    total = sum(len(other.values[g]) for g in shared)
    parts = [len(other.values[g]) / total * (others[g] - references[g]) for g in shared]
    return np.asarray(np.sum(parts, axis=0))


def _permuted(acted: _Sums, control: _Sums, n: int, rng: np.random.Generator) -> Doubles:
    """Effects when labels of perturbed and control cells are handed round within batches, ``(n, n_genes)``."""
    shared = {g: x for g, x in acted.values.items() if g in control.values}
    total = sum(map(len, shared.values()))
    n_genes = next(iter(shared.values())).shape[1]
    out = np.zeros((n, n_genes))
    for g, x in shared.items():
        rest = control.values[g]
        n_acted, n_all = len(x), len(x) + len(rest)
        chosen = np.stack([rng.permutation(n_all)[:n_acted] for _ in range(n)]) if n else np.zeros((0, n_acted), int)
        at = (np.repeat(np.arange(n), n_acted), chosen.ravel())
        pick = sparse.csr_array((np.ones(chosen.size, np.float32), at), shape=(n, n_all))
        mine = (pick[:, :n_acted] @ x + pick[:, n_acted:] @ rest).astype(np.float64)
        whole = x.sum(0, dtype=np.float64) + rest.sum(0, dtype=np.float64)
        out += n_acted / total * (mine / n_acted - (whole - mine) / len(rest))
    return out


def _gather(names: Sequence[str], rows: list[_Row], run: _Run, settings: ReversalSettings) -> ReversalScores:
    effects, counts = np.stack([row.effect for row in rows]), np.stack([row.counts for row in rows])
    changes = counts * run.change
    length = np.maximum(np.linalg.norm(changes, axis=1), _TINY)
    score = np.array([row.score for row in rows])
    spread = settings.n_draws > 1
    fraction = np.array([row.fraction for row in rows])
    pvalue = _pvalues(fraction, np.stack([row.null for row in rows], 1)) if settings.n_null else None
    return ReversalScores(
        names=tuple(names),
        score=score,
        sd=np.array([row.score_draws.std(ddof=1) for row in rows]) if spread else None,
        pvalue=pvalue,
        fdr=None if pvalue is None else nulls.benjamini_hochberg(pvalue),
        fraction=fraction,
        fraction_sd=np.array([row.fraction_draws.std(ddof=1) for row in rows]) if spread else None,
        size=np.linalg.norm(effects, axis=1) / length,
        top_correlation=_top_correlation(effects, changes, settings.n_top),
        closer=1 - np.linalg.norm(changes + effects, axis=1) / length,
        n_cells=np.array([row.n_cells for row in rows], dtype=np.int64),
        change=run.change.astype(np.float32),
        effects=np.where(counts, effects, np.nan).T.astype(np.float32),
        n_control=len(run.control),
        n_before=run.n_before,
        n_after=run.n_after,
    )


def _pvalues(fraction: Doubles, null: Doubles) -> Doubles:
    """One-sided p values; null draws ``(n_null, k)`` are pooled once each perturbation's are standardised.

    Not of the cosine: handing labels round shrinks an effect and keeps its direction, so that the cosines of a strong
    one are as large in the null.
    """
    centre, spread = null.mean(0), null.std(0)
    spread = np.where(spread > 0, spread, 1)
    z, z_null = (fraction - centre) / spread, (null - centre) / spread
    return nulls.pooled_pvalues(z[:, None], z_null[:, :, None], pool="all")[:, 0]


def _top_correlation(effects: Doubles, changes: Doubles, n_top: int) -> Doubles:
    """Pearson correlation with the reversed change over the genes that changed most, row by row."""
    top = np.argsort(-np.abs(changes), axis=1, kind="stable")[:, :n_top]
    e, s = (np.take_along_axis(x, top, 1) for x in (effects, -changes))
    return cosine(e - e.mean(1, keepdims=True), s - s.mean(1, keepdims=True))
