"""Target scores of a screen: what did each perturbation act on? Network, spread, null and baselines, as arrays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from causcade import nulls
from causcade._blocks import Arrays, Blocks
from causcade.comparisons import MIN_CELLS, Comparisons
from causcade.fusion import fuse, rank_features, stack_methods
from causcade.memory import check_targets
from causcade.reference import Reference, Scorer, Side, choose_candidates, fixed_candidates
from causcade.regimes.labels import shorten
from causcade.scoring import target_scorer

if TYPE_CHECKING:
    from causcade.pretrained import Weights
    from causcade.screendata import ScreenData

__all__ = ["TargetScores", "TargetSettings", "network_scorer", "score_targets"]

logger = logging.getLogger(__name__)
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Positions = NDArray[np.int64]
Halves = tuple[NDArray[np.bool_], Reference]  # which controls are set aside, and the others

_FEW = 5  # cells of a perturbation below which there is a warning
_WHOLE = 10_000  # genes of which all pairs of the controls may be kept (0.8 GB)
_TOGETHER = 8  # perturbations in a block


@dataclass(frozen=True)
class TargetSettings:
    """How perturbations are scored.

    Attributes
    ----------
    n_draws
        Passes of the network (random subsets of genes, random identities) that are averaged.
    n_subsets
        Local graphs per set of cells and draw; ``None`` = what the weights ask for.
    n_half
        Half-samples of the cells that give the spread (rounded up to even; 0 = spread over the draws).
    n_null
        Control-versus-control splits per perturbation (0 = no null).
    candidates
        ``"all"`` genes, ``"de"``, ``"auto"`` (all, if there are at most `n_candidates`), or positions of genes.
    n_candidates, min_candidates
        Most and fewest candidates of ``"de"``.
    masked
        Hide what the perturbation does to the expression of its own known targets.
    max_cells
        Cells of one set that are used; more are sampled.
    device
        Where the network runs.
    progress_bar
        Show one.
    """

    n_draws: int = 4
    n_subsets: int | None = None
    n_half: int = 0
    n_null: int = 0
    candidates: Literal["auto", "all", "de"] | Positions = "auto"
    n_candidates: int = 1000
    min_candidates: int = 100
    masked: bool = False
    max_cells: int = 5000
    device: str = "cpu"
    progress_bar: bool = True


@dataclass(frozen=True)
class TargetScores:
    """Scores ``(n_genes, n_perturbations)``, and what stands beside them.

    Attributes
    ----------
    names
        ``(n_perturbations,)`` what was scored.
    mean, sd, count
        Mean logit that the gene was acted on, its spread (NaN where there is one score only), number of draws. Mean and
        sd are NaN, count is 0 where the gene was no candidate.
    pvalue, fdr
        Against control-versus-control splits; ``None`` without a null, NaN where the gene was no candidate.
    lfc
        Mean of the log-normalised values, perturbed minus control, of every gene.
    wilcoxon
        z of the rank-sum test, perturbed against control, of every gene.
    fused
        Fused score of the three; NaN where the gene was no candidate.
    """

    names: tuple[str, ...]
    mean: Floats
    sd: Floats
    count: NDArray[np.int32]
    pvalue: Floats | None
    fdr: Floats | None
    lfc: Floats
    wilcoxon: Floats
    fused: Floats


def network_scorer(weights: Weights, settings: TargetSettings) -> Scorer:
    """Scorer of a trained network; every call of its ``score`` is one draw."""
    config = dict(weights.config)
    if settings.n_subsets is not None:
        config["n_subsets"] = settings.n_subsets
    return target_scorer(weights.net, config, settings.device, n_draws=settings.n_draws)


def score_targets(
    screen: ScreenData,
    pairs: Comparisons,
    weights: Weights | None,
    settings: TargetSettings,
    rng: np.random.Generator,
    *,
    scorer: Scorer | None = None,
    blocks: Blocks | None = None,
) -> TargetScores:
    """Score, for every set of cells, each gene as a target of what made it differ from the controls.

    Cells of several groups (batches) are first brought to one level: each group's values are shifted by the difference
    between its mean control and the mean control of all; the rank-sum test is made within groups and combined (van
    Elteren). What one comparison gets does not depend on the others: a screen can be scored in parts.

    Parameters
    ----------
    screen
        The user's screen.
    pairs
        Which cells to compare (:func:`causcade.comparisons.read_perturbations`).
    weights
        A trained network; its config may hold weights of the fused score. May be ``None`` if there is a `scorer`.
    settings
        How to score.
    rng
        Decides draws, samples and splits.
    scorer
        What to score with, instead of the network of `weights`.
    blocks
        Where what is finished is kept; ``None`` = nowhere.

    Raises
    ------
    ValueError
        If there are too many candidates, too few controls for a null, nothing to mask, or not enough memory.
    """
    if scorer is None:
        if weights is None:
            msg = "Pass weights, or a scorer."
            raise ValueError(msg)
        scorer = network_scorer(weights, settings)
    if settings.masked and not any(len(k) for k in pairs.known):
        msg = "masked=True hides known targets, but no perturbation has a measured known target."
        raise ValueError(msg)
    label = type(scorer).__name__ if weights is None else weights.label
    logger.info("scoring targets of %s perturbations with %s on %s", f"{len(pairs):,}", label, settings.device)
    run = _Run(screen, pairs, settings, scorer, int(rng.integers(2**63)), Blocks() if blocks is None else blocks)
    results, null = run.all()
    _warn(run, null)
    fusion = None if weights is None else weights.config.get("fusion")
    return _gather(run.pairs, screen.n_genes, settings.n_draws, results, null, fusion)


def _warn(run: _Run, null: list[list[Doubles]] | None) -> None:
    """Say which answers rest on little."""
    few = [name for name, cells in zip(run.pairs.names, run.pairs.cells, strict=True) if len(cells) < _FEW]
    if few:
        note = f"{len(few):,} perturbations have fewer than {_FEW} cells, too few for a target: {shorten(few)}."
        warnings.warn(note, UserWarning, stacklevel=4)
    without = [] if null is None else [n for n, scores in zip(run.pairs.names, null, strict=True) if not scores]
    if without:
        note = (
            f"{len(without):,} perturbations have no null, as too few controls share their groups: {shorten(without)}."
        )
        warnings.warn(note, UserWarning, stacklevel=4)


@dataclass(frozen=True)
class _Result:
    """One comparison; scores are of the candidates `genes`, the rest is of all genes."""

    genes: Positions
    mean: Doubles
    sd: Doubles
    lfc: Doubles
    wilcoxon: Doubles


class _Run:
    """A screen while it is scored."""

    def __init__(
        self,
        screen: ScreenData,
        pairs: Comparisons,
        settings: TargetSettings,
        scorer: Scorer,
        base: int,
        blocks: Blocks,
    ) -> None:
        self.screen, self.settings, self.scorer, self.base, self.blocks = screen, settings, scorer, base, blocks
        self.fixed = fixed_candidates(settings.candidates, settings.n_candidates, screen.n_genes)
        control = self._sample(pairs.control, "control")
        self.pairs = replace(pairs, control=control).usable(screen.groups)
        many = len(self.pairs) > (screen.n_genes / settings.n_candidates) ** 2
        self.whole_pays = self.fixed is None and screen.n_genes <= _WHOLE and many
        n_candidates = settings.n_candidates if self.fixed is None else len(self.fixed)
        check_targets(
            screen, self.pairs, n_candidates=n_candidates, n_half=settings.n_half, n_null=settings.n_null,
            max_cells=settings.max_cells, whole=self.whole_pays,
        )  # fmt: skip
        self.raw, self.raw_groups = screen.rows(control), screen.groups[control]
        self.whole = self._reference(np.ones(len(control), dtype=bool))
        self.halves = [self._control_halves(h) for h in range(-(-settings.n_half // 2))]
        if settings.n_null and len(self.raw) < 2 * MIN_CELLS:
            msg = f"A null splits the controls, but there are only {len(self.raw)}; pass n_null=0."
            raise ValueError(msg)
        self.cost = settings.n_draws + 2 * len(self.halves)  # passes of the network for a comparison

    def stream(self, *what: str | int) -> np.random.Generator:
        """Randomness of one step, the same whatever else is asked for."""
        return np.random.default_rng([self.base, *(crc32(str(w).encode()) for w in what)])

    def _sample(self, cells: Positions, name: str) -> Positions:
        if len(cells) <= self.settings.max_cells:
            return cells
        return np.sort(self.stream("sample", name).choice(cells, self.settings.max_cells, replace=False))

    def _reference(self, keep: NDArray[np.bool_]) -> Reference:
        """Reference of some of the controls."""
        raw = self.raw if keep.all() else self.raw[keep]
        return Reference(raw, self.raw_groups[keep], self.scorer, self.fixed, whole=self.whole_pays)

    def _cells(self, i: int) -> Positions:
        return self._sample(self.pairs.cells[i], self.pairs.names[i])

    def _control_halves(self, h: int) -> list[Side]:
        order = self.stream("half", h).permutation(len(self.raw))
        parts = (order[: len(order) // 2], order[len(order) // 2 :])
        return [Side(self.whole.values[part], self.scorer, self.fixed) for part in parts if len(part)]

    def compare(self, i: int) -> _Result:
        """Score one set of cells."""
        name, cells = self.pairs.names[i], self._cells(i)
        groups = self.screen.groups[cells]
        levelled = self.whole.level(self.screen.rows(cells), groups)
        values = self._hide(self.whole, levelled, groups, i, self.stream("mask", name))
        lfc, z = self.whole.differences(values, groups)
        exact = None if self.settings.masked else self.screen.mean_change(cells)
        lfc = lfc if exact is None else exact
        most, fewest = self.settings.n_candidates, self.settings.min_candidates
        genes = choose_candidates(z, lfc, most, fewest) if self.fixed is None else self.fixed
        draws = self.whole.side.score(values, genes, self.settings.n_draws, self.stream("draws", name))
        return _Result(genes, draws.mean(0), self._spread(name, values, genes, draws), lfc, z)

    def _hide(self, of: Reference, values: Floats, groups: Positions, i: int, rng: np.random.Generator) -> Floats:
        return of.mask(values, groups, self.pairs.known[i], rng) if self.settings.masked else values

    def _spread(self, name: str, values: Floats, genes: Positions, draws: Doubles) -> Doubles:
        """Standard deviation over draws, or the standard error from halves of the cells (as for causes)."""
        if not self.halves:
            return draws.std(0, ddof=1) if len(draws) > 1 else np.full(len(genes), np.nan)
        if min(len(values), len(self.raw)) < 2 * MIN_CELLS:
            return np.full(len(genes), np.nan)
        squares = []
        for h, sides in enumerate(self.halves):
            rng = self.stream("half", h, name)
            order = rng.permutation(len(values))
            parts = (order[: len(order) // 2], order[len(order) // 2 :])
            first, second = (s.score(values[p], genes, 1, rng)[0] for s, p in zip(sides, parts, strict=True))
            squares.append((first - second) ** 2 / 4)
        return np.asarray(np.sqrt(np.mean(squares, axis=0)))

    def all(self) -> tuple[list[_Result], list[list[Doubles]] | None]:
        """Score all sets of cells, and per set controls that take its place, one array per split."""
        n, n_null, n_draws = len(self.pairs), self.settings.n_null, self.settings.n_draws
        self.blocks.plan(n * (self.cost + n_null * n_draws))
        with tqdm(total=n * (1 + n_null), desc="targets", disable=not self.settings.progress_bar) as bar:
            results: list[_Result] = []
            for some in self._slices():
                make = partial(self._compare_some, some, bar)
                made = self.blocks.take(f"targets-{some[0]}", make, steps=len(some) * self.cost)
                results += [_Result(**{f.name: made[f"{f.name}_{i}"] for f in fields(_Result)}) for i in some]
                bar.update(len(results) - bar.n)  # those that were there
            null: list[list[Doubles]] = [[] for _ in results]
            for split in range(n_null):
                halves = cache(partial(self._split, split))  # made when the first is asked for
                for some in self._slices():
                    make = partial(self._null_some, some, split, halves, results, bar)
                    made = self.blocks.take(f"null-{split}-{some[0]}", make, steps=len(some) * n_draws)
                    for i in some:
                        null[i] += [made[str(i)]] if str(i) in made else []
                    bar.update((1 + split) * n + some[-1] + 1 - bar.n)
        return results, null if n_null else None

    def _slices(self) -> Iterator[range]:
        for first in range(0, len(self.pairs), _TOGETHER):
            yield range(first, min(first + _TOGETHER, len(self.pairs)))

    def _compare_some(self, some: range, bar: tqdm[Any]) -> Arrays:
        out: Arrays = {}
        for i in some:
            out |= {f"{name}_{i}": values for name, values in vars(self.compare(i)).items()}
            bar.update()
            self.blocks.step(self.cost)
        return out

    def _null_some(
        self, some: range, split: int, halves: Callable[[], Halves], results: list[_Result], bar: tqdm[Any]
    ) -> Arrays:
        """Scores of controls that take the place of cells.

        Half of the controls of every group are set aside; from them every comparison draws as many cells as it has in
        that group, as far as there are. Candidates are chosen anew, and there are as many of them.
        """
        aside, rest = halves()
        out: Arrays = {}
        for i in some:
            rng = self.stream("null", split, self.pairs.names[i])
            cells = self._pretend(i, aside, rng)
            if len(cells) >= MIN_CELLS:
                out[str(i)] = self._null_score(rest, i, cells, results[i].genes, rng)
            bar.update()
            self.blocks.step(self.settings.n_draws)
        return out

    def _split(self, split: int) -> Halves:
        aside = self._set_aside(self.stream("null", split))
        return aside, self._reference(~aside)

    def _set_aside(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        aside = np.zeros(len(self.raw), dtype=bool)
        for group in np.unique(self.raw_groups):
            mine = rng.permutation(np.flatnonzero(self.raw_groups == group))
            aside[mine[: len(mine) // 2]] = True
        return aside

    def _pretend(self, i: int, aside: NDArray[np.bool_], rng: np.random.Generator) -> Positions:
        """Controls set aside that stand for the cells of comparison `i`, group by group."""
        labels, counts = np.unique(self.screen.groups[self._cells(i)], return_counts=True)
        pools = [np.flatnonzero(aside & (self.raw_groups == label)) for label in labels]
        return np.concatenate([rng.permutation(pool)[:n] for pool, n in zip(pools, counts, strict=True)])

    def _null_score(
        self, rest: Reference, i: int, cells: Positions, genes: Positions, rng: np.random.Generator
    ) -> Doubles:
        groups = self.raw_groups[cells]
        values = self._hide(rest, rest.level(self.raw[cells], groups), groups, i, rng)
        if self.fixed is None:
            lfc, z = rest.differences(values, groups)
            genes = choose_candidates(z, lfc, len(genes), len(genes))
        else:
            genes = self.fixed  # the same array: it is prepared
        return np.asarray(rest.side.score(values, genes, self.settings.n_draws, rng).mean(0))


def _gather(
    pairs: Comparisons,
    n_genes: int,
    n_draws: int,
    results: list[_Result],
    null: list[list[Doubles]] | None,
    fusion: Mapping[str, Any] | None,
) -> TargetScores:
    """Put results in columns."""
    shape = (n_genes, len(results))
    names = ["mean", "sd", "fused"] + ([] if null is None else ["pvalue", "fdr"])
    part = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
    count = np.zeros(shape, dtype=np.int32)
    for j, r in enumerate(results):
        part["mean"][r.genes, j], part["sd"][r.genes, j] = r.mean, r.sd
        count[r.genes, j] = n_draws
        part["fused"][:, j] = fuse(rank_features(stack_methods(part["mean"][:, j], r.lfc, r.wilcoxon)), fusion)
        if null is not None and null[j]:
            p = nulls.pooled_pvalues(r.mean[:, None], np.stack(null[j])[:, :, None])[:, 0]
            part["pvalue"][r.genes, j] = p
            part["fdr"][r.genes, j] = nulls.benjamini_hochberg(p)
    lfc, wilcoxon = (
        np.stack(x, 1).astype(np.float32) for x in ([r.lfc for r in results], [r.wilcoxon for r in results])
    )
    return TargetScores(
        pairs.names, part["mean"], part["sd"], count, part.get("pvalue"), part.get("fdr"), lfc, wilcoxon, part["fused"]
    )
