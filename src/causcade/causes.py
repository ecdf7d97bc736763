"""Cause scores of a screen: network, ensemble, spread, null and baselines, as arrays."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from causcade import nulls
from causcade._blocks import Arrays, Blocks
from causcade.baselines import popularity
from causcade.ensemble import Ensemble, SetScore, n_sets, score_pairs
from causcade.memory import check_causes
from causcade.pairs import pair_features
from causcade.pretrained import Weights
from causcade.scoring import cell_scorer, compose, noisy_or, pair_scorer, set_size
from causcade.screendata import ScreenData
from causcade.stats import Moments, PairStats

logger = logging.getLogger(__name__)
_CUBIC = 7e-10  # seconds of a composition on one thread, over the cube of the number of genes
Floats = NDArray[np.float32]
Compose = bool | Literal["plain"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a screen is scored.

    Attributes
    ----------
    n_draws
        Times the genes are dealt into sets.
    n_half
        Half-samples of the cells that give the spread (rounded up to even; 0, and the cell network: spread over draws, of the
        scores before they are composed).
    n_null
        Permutations of the labels (0 = no null).
    size
        Genes in a set; ``None`` = see :func:`causcade.scoring.set_size`.
    n_anchors, stable
        See :func:`causcade.ensemble.score_pairs`.
    compose
        Compose scores along paths, where all pairs are scored: as the network has learned to, if it has, or with
        ``"plain"`` by a noisy-or.
    device
        Where the network runs.
    progress_bar
        Show one.
    """

    n_draws: int = 2
    n_half: int = 4
    n_null: int = 0
    size: int | None = None
    n_anchors: int = 0
    stable: float | None = None
    compose: Compose = True
    device: str = "cpu"
    progress_bar: bool = True


@dataclass(frozen=True)
class CauseScores:
    """Scores ``(n_genes, n_targets)``, ``[cause, effect]``, and what stands beside them.

    Attributes
    ----------
    mean, sd, count
        Mean logit, its spread (NaN where there is one score only), number of scores.
    pvalue, fdr
        Against permuted labels; ``None`` without a null.
    knockout_t
        z-score of the effect gene under perturbation of the cause gene; NaN where it was not perturbed alone.
    popularity
        ``(n_genes, 1)`` mean size of each gene's effects, whatever the target; NaN where it was not perturbed alone.
    correlation
        Correlation within groups.
    """

    mean: Floats
    sd: Floats
    count: NDArray[np.int32]
    pvalue: Floats | None
    fdr: Floats | None
    knockout_t: Floats
    popularity: Floats
    correlation: Floats


def score_causes(
    screen: ScreenData,
    weights: Weights,
    targets: NDArray[np.int64] | None,
    settings: Settings,
    rng: np.random.Generator,
    blocks: Blocks | None = None,
) -> CauseScores:
    """Score the causes of some genes (or of all).

    Parameters
    ----------
    screen
        The user's screen.
    weights
        A trained network.
    targets
        Positions of the effect genes; ``None`` = all.
    settings
        How to score.
    rng
        Deals genes, halves and permutations.
    blocks
        Where what is finished is kept; ``None`` = nowhere.

    Raises
    ------
    ValueError
        If statistics of all pairs of genes do not fit in the memory that is free, or there is nothing to permute.
    """
    run = _Run(screen, weights, targets, settings, rng, Blocks() if blocks is None else blocks)
    run.check()
    logger.info("scoring causes with %s on %s", weights.label, settings.device)
    start = time.monotonic()
    whole = screen.moments()
    read = time.monotonic()
    stats = screen.stats(whole)
    run.plan(read - start, time.monotonic() - read)
    out = run.scores(stats)
    mean, sd, count = run.composed(out), out.sd, out.count
    if weights.config["network"] == "pairs":
        if settings.n_half:
            sd = run.half_sample_spread(whole)
        elif screen.n_genes <= run.size:
            sd = np.full_like(mean, np.nan)  # every draw is the same set
    elif screen.n_groups > 1:
        note = "batch_key has no effect on cell networks (preset 'paper'); only the baselines use it."
        warnings.warn(note, UserWarning, stacklevel=3)
    pvalue, fdr = run.against_null(mean) if settings.n_null else (None, None)
    z, perturbed = stats.z.numpy(), stats.perturbed.numpy()[:, None]
    knockout = np.where(perturbed, z[:, run.wanted], np.nan).astype(np.float32)
    footprint = np.where(perturbed, popularity(np.abs(z))[:, :1], np.nan).astype(np.float32)
    return CauseScores(mean, sd, count, pvalue, fdr, knockout, footprint, stats.correlation.numpy()[:, run.wanted])


def how_composed(asked: Compose, weights: Weights, *, all_pairs: bool) -> str:
    """Say in a word how scores are composed: ``"no"``, ``"plain"`` or ``"learned"``.

    Parameters
    ----------
    asked
        What the user wants.
    weights
        Whose network may have learned to compose.
    all_pairs
        Whether all pairs are scored; others cannot be composed.
    """
    if not all_pairs or not asked:
        return "no"
    if asked == "plain":
        return "plain"
    return "no" if getattr(weights.net, "compose", None) is None else "learned"


@dataclass(frozen=True)
class _Run:
    """A screen while it is scored."""

    screen: ScreenData
    weights: Weights
    targets: NDArray[np.int64] | None
    settings: Settings
    rng: np.random.Generator
    blocks: Blocks

    @property
    def wanted(self) -> NDArray[np.int64]:
        """Positions of the effect genes."""
        return np.arange(self.screen.n_genes) if self.targets is None else self.targets

    @property
    def size(self) -> int:
        """Genes in a set."""
        return self.settings.size or set_size(self.weights.config)

    @property
    def n_sets(self) -> int:
        """Sets of genes in a draw, about."""
        return n_sets(self.screen.n_genes, self.size, len(self.wanted), self.settings.n_anchors)

    @property
    def n_pairs(self) -> int:
        """Pairs of halves."""
        return -(-self.settings.n_half // 2) if self.weights.config["network"] == "pairs" else 0

    def check(self) -> None:
        """Refuse what cannot be answered before anything is computed."""
        n_targets, settings = None if self.targets is None else len(self.targets), self.settings
        check_causes(
            self.screen.n_genes, n_targets, n_half=settings.n_half, n_null=settings.n_null, composed=self.composes
        )
        if settings.n_null and not (self.screen.single >= 0).any():
            msg = "n_null permutes perturbations, but no measured gene was perturbed alone; pass n_null=0."
            raise ValueError(msg)

    def plan(self, read: float, computed: float) -> None:
        """Tell how many sets of genes there are; `read` and `computed`: seconds of the first statistics."""
        n_null, draws = self.settings.n_null, self.settings.n_draws
        pairs = sum(not self.blocks.has(f"half-{pair}") for pair in range(self.n_pairs))
        null = sum(not self.blocks.has(f"null-{draw}") for draw in range(n_null))
        steps = self.n_sets * (draws + 2 * self.n_pairs + draws * n_null)
        logger.info("%s sets of up to %s genes, and statistics %s times", f"{steps:,}", self.size, 1 + 2 * pairs + null)
        extra = pairs * (read + 2 * computed) + null * (read + computed)
        if self.composes:
            extra += (1 + 2 * pairs + null) * _CUBIC * self.screen.n_genes**3 / torch.get_num_threads()
        self.blocks.plan(steps, extra=extra)

    def scores(self, stats: PairStats) -> Ensemble:
        """Scores of the screen."""

        def make() -> Arrays:
            out = self._ensemble(self.screen, stats, self.settings.n_draws, "scores")
            return {"total": out.total, "square": out.square, "count": out.count}

        steps = self.n_sets * self.settings.n_draws
        made = self.blocks.take("scores", make, rng=self.rng, steps=steps)
        return Ensemble(self.wanted, made["total"], made["square"], made["count"])

    def _ensemble(self, screen: ScreenData, stats: PairStats, n_draws: int, name: str) -> Ensemble:
        return score_pairs(
            self._set_score(screen, stats),
            screen.n_genes,
            targets=self.targets,
            size=self.size,
            n_draws=n_draws,
            n_anchors=self.settings.n_anchors,
            stable=self.settings.stable,
            rng=self.rng,
            progress_bar=self.settings.progress_bar,
            blocks=self.blocks,
            name=name,
        )

    def composed(self, ensemble: Ensemble) -> Floats:
        """Mean scores, composed along paths where they are of all pairs."""
        if not self.composes:
            return ensemble.mean
        logger.info("composing the scores of %s genes", f"{self.screen.n_genes:,}")
        plain = self.settings.compose == "plain"
        return (
            noisy_or(ensemble.mean, device=self.settings.device) if plain else compose(self.weights.net, ensemble.mean)
        )

    @property
    def composes(self) -> bool:
        """Whether scores are composed."""
        return how_composed(self.settings.compose, self.weights, all_pairs=self.targets is None) != "no"

    def _set_score(self, screen: ScreenData, stats: PairStats) -> SetScore:
        net, config, device = self.weights.net, self.weights.config, self.settings.device
        if config["network"] == "pairs":
            return pair_scorer(net, pair_features(stats), device=device)
        values, codes = screen.cell_table(50, 5000, self.rng)
        single = torch.from_numpy(screen.single)
        return cell_scorer(net, values, codes, single, n_cells=int(config["cells"]), device=device)

    def half_sample_spread(self, whole: Moments) -> Floats:
        """Approximate standard error of the scores, from complementary halves of the cells.

        A quarter of the squared difference between two halves has the variance of the whole as its mean, were the score
        linear in the data.  It is not: halves hold less evidence, which makes this too large rather than too small.
        """
        squares = []
        for pair in range(self.n_pairs):
            name = f"half-{pair}"
            made = self.blocks.take(name, partial(self._square, whole, name), rng=self.rng, steps=2 * self.n_sets)
            squares.append(made["square"])
        return np.sqrt(np.mean(squares, axis=0)).astype(np.float32)

    def _square(self, whole: Moments, name: str) -> Arrays:
        screen = self.screen
        first, second = (
            self.composed(self._ensemble(screen, screen.stats(half), 1, f"{name}-{side}"))
            for side, half in enumerate(screen.halves(whole, self.rng))
        )
        return {"square": (first - second) ** 2 / 4}

    def against_null(self, observed: Floats) -> tuple[Floats, Floats]:
        """Empirical p values and FDR against screens whose labels are permuted within groups.

        Null scores are pooled over the causes of an effect, apart for causes that were perturbed and those that were not.
        """
        null, steps = [], self.n_sets * self.settings.n_draws
        for draw in range(self.settings.n_null):
            name = f"null-{draw}"
            made = self.blocks.take(name, partial(self._permuted, name), rng=self.rng, steps=steps)
            null.append(made["mean"])
        single = self.screen.single
        keep = np.arange(self.screen.n_genes)[:, None] != self.wanted[None]
        pvalue, fdr = np.ones_like(observed), np.ones_like(observed)
        for stratum in ((single >= 0)[:, None] & keep, (single < 0)[:, None] & keep):
            if stratum.any():
                pvalue[stratum] = nulls.pooled_pvalues(observed, np.stack(null), keep=stratum)[stratum]
                fdr[stratum] = nulls.empirical_fdr(observed, np.stack(null), keep=stratum)[stratum]
        return pvalue, fdr

    def _permuted(self, name: str) -> Arrays:
        codes = nulls.permute_codes(self.screen.codes, groups=self.screen.groups, rng=self.rng).astype(np.int64)
        permuted = replace(self.screen, codes=codes)  # the cell network reads its labels from there
        return {"mean": self.composed(self._ensemble(permuted, permuted.stats(), self.settings.n_draws, name))}
