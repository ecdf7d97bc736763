"""Cause scores of a screen: network, ensemble, spread, null and baselines, as arrays."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from causcade import nulls
from causcade._device import free_memory
from causcade.baselines import popularity
from causcade.ensemble import Ensemble, SetScore, score_pairs
from causcade.pairs import pair_features
from causcade.pretrained import Weights
from causcade.scoring import cell_scorer, pair_scorer
from causcade.screendata import ScreenData
from causcade.stats import Moments, PairStats

logger = logging.getLogger(__name__)
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """How a screen is scored.

    Attributes
    ----------
    n_draws
        Times the genes are dealt into sets.
    n_half
        Half-samples of the cells that give the spread (rounded up to even; 0, and the cell network: spread over draws).
    n_null
        Permutations of the labels (0 = no null).
    size
        Genes in a set; ``None`` = what the weights were trained with.
    n_anchors, stable
        See :func:`causcade.ensemble.score_pairs`.
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

    Raises
    ------
    ValueError
        If statistics of all pairs of genes do not fit in the memory that is free.
    """
    _check_memory(screen.n_genes, settings, every=targets is None)
    logger.info("scoring causes with %s on %s", weights.label, settings.device)
    wanted = np.arange(screen.n_genes) if targets is None else targets
    whole = screen.moments()
    stats = screen.stats(whole)
    out = _ensemble(screen, stats, weights, targets, settings, rng, settings.n_draws)
    mean, sd, count = out.mean, out.sd, out.count
    if weights.config["network"] == "pairs":
        if settings.n_half:
            sd = _half_sample_spread(screen, whole, weights, targets, settings, rng)
        elif screen.n_genes <= (settings.size or int(weights.config["subset"])):
            sd = np.full_like(mean, np.nan)  # every draw is the same set
    elif screen.n_groups > 1:
        note = "batch_key has no effect on cell networks (preset 'paper'); only the baselines use it."
        warnings.warn(note, UserWarning, stacklevel=3)
    pvalue = fdr = None
    if settings.n_null:
        pvalue, fdr = _against_null(screen, mean, weights, targets, settings, rng)
    z, perturbed = stats.z.numpy(), stats.perturbed.numpy()[:, None]
    knockout = np.where(perturbed, z[:, wanted], np.nan).astype(np.float32)
    footprint = np.where(perturbed, popularity(np.abs(z))[:, :1], np.nan).astype(np.float32)
    return CauseScores(mean, sd, count, pvalue, fdr, knockout, footprint, stats.correlation.numpy()[:, wanted])


def _check_memory(n_genes: int, settings: Settings, *, every: bool) -> None:
    """Refuse what the system would kill. Bytes for each pair of genes were measured with 2,000 to 8,000 genes."""
    each = 180 + 60 * bool(settings.n_half or settings.n_null) + 40 * every
    need, free = each * n_genes**2 / 1e9, free_memory() / 1e9
    if need <= free:
        return
    msg = (
        f"Scores of causes among {n_genes:,} genes need about {need:,.0f} GB for statistics of all pairs of genes, and {free:,.1f} GB are free. "
        f"Take fewer genes, up to about {int((free * 1e9 / each) ** 0.5):,}: adata[:, genes], e.g. the perturbed and the most variable "
        "(sc.pp.highly_variable_genes)."
    )
    raise ValueError(msg)


def _set_score(
    screen: ScreenData, stats: PairStats, weights: Weights, settings: Settings, rng: np.random.Generator
) -> SetScore:
    if weights.config["network"] == "pairs":
        return pair_scorer(weights.net, pair_features(stats), device=settings.device)
    values, codes = screen.cell_table(50, 5000, rng)
    n_cells = int(weights.config["cells"])
    single = torch.from_numpy(screen.single)
    return cell_scorer(weights.net, values, codes, single, n_cells=n_cells, device=settings.device)


def _ensemble(
    screen: ScreenData,
    stats: PairStats,
    weights: Weights,
    targets: NDArray[np.int64] | None,
    settings: Settings,
    rng: np.random.Generator,
    n_draws: int,
) -> Ensemble:
    return score_pairs(
        _set_score(screen, stats, weights, settings, rng),
        screen.n_genes,
        targets=targets,
        size=settings.size or int(weights.config["subset"]),
        n_draws=n_draws,
        n_anchors=settings.n_anchors,
        stable=settings.stable,
        rng=rng,
        progress_bar=settings.progress_bar,
    )


def _half_sample_spread(
    screen: ScreenData,
    whole: Moments,
    weights: Weights,
    targets: NDArray[np.int64] | None,
    settings: Settings,
    rng: np.random.Generator,
) -> Floats:
    """Approximate standard error of the scores, from complementary halves of the cells.

    A quarter of the squared difference between two halves has the variance of the whole as its mean, were the score
    linear in the data.  It is not: halves hold less evidence, which makes this too large rather than too small.
    """
    squares = []
    for _ in range(-(-settings.n_half // 2)):
        first, second = (
            _ensemble(screen, screen.stats(half), weights, targets, settings, rng, 1).mean
            for half in screen.halves(whole, rng)
        )
        squares.append((first - second) ** 2 / 4)
    return np.sqrt(np.mean(squares, axis=0)).astype(np.float32)


def _against_null(
    screen: ScreenData,
    observed: Floats,
    weights: Weights,
    targets: NDArray[np.int64] | None,
    settings: Settings,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Empirical p values and FDR against screens whose labels are permuted within groups.

    Null scores are pooled over the causes of an effect, apart for causes that were perturbed and those that were not.
    """
    if not (screen.single >= 0).any():
        msg = "n_null permutes perturbations, but no measured gene was perturbed alone; pass n_null=0."
        raise ValueError(msg)
    null = []
    for _ in range(settings.n_null):
        codes = nulls.permute_codes(screen.codes, groups=screen.groups, rng=rng).astype(np.int64)
        permuted = replace(screen, codes=codes)  # the cell network reads its labels from there
        null.append(_ensemble(permuted, permuted.stats(), weights, targets, settings, rng, settings.n_draws).mean)
    wanted = np.arange(screen.n_genes) if targets is None else targets
    keep = np.arange(screen.n_genes)[:, None] != wanted[None]
    pvalue, fdr = np.ones_like(observed), np.ones_like(observed)
    for stratum in ((screen.single >= 0)[:, None] & keep, (screen.single < 0)[:, None] & keep):
        if stratum.any():
            pvalue[stratum] = nulls.pooled_pvalues(observed, np.stack(null), keep=stratum)[stratum]
            fdr[stratum] = nulls.empirical_fdr(observed, np.stack(null), keep=stratum)[stratum]
    return pvalue, fdr
