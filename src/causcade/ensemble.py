"""Subsampled-ensemble scoring: many small sets of genes cover all pairs, and their scores are averaged.

Cause relations survive leaving genes out (TCD-DL, proposition 2), so a network that takes a hundred genes can score a
screen of thousands.  The paper runs a loop per target; here every forward pass scores all pairs of its set, so targets
share the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

#: Scores one set of genes: ``(positions, generator) -> (len(positions), len(positions))`` scores ``[cause, effect]``.
SetScore = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.float32]]


@dataclass
class Ensemble:
    """Running mean, spread and count of pair scores.

    Attributes
    ----------
    targets
        ``(k,)`` positions of the effect genes; columns of all matrices.
    total, square, count
        ``(n_genes, k)`` sums, sums of squares and numbers of scores, ``[cause, effect]``.
    passes
        Number of sets scored.
    """

    targets: NDArray[np.int64]
    total: NDArray[np.float32]
    square: NDArray[np.float32]
    count: NDArray[np.int32]
    passes: int = 0

    @classmethod
    def empty(cls, n_genes: int, targets: NDArray[np.int64]) -> Ensemble:
        """No scores yet."""
        shape = (n_genes, len(targets))
        return cls(targets, np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int32))

    def add(self, genes: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Add the scores ``[cause, effect]`` of one set of genes."""
        place = np.full(self.total.shape[0], -1)
        place[genes] = np.arange(len(genes))
        columns = np.flatnonzero(place[self.targets] >= 0)
        values = scores[:, place[self.targets[columns]]]
        at = np.ix_(genes, columns)
        self.total[at] += values
        self.square[at] += values**2
        self.count[at] += 1
        self.passes += 1

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean score of every pair; NaN where a pair was never scored."""
        with np.errstate(invalid="ignore"):
            return np.where(self.count > 0, self.total / np.maximum(self.count, 1), np.nan).astype(np.float32)

    @property
    def sd(self) -> NDArray[np.float32]:
        """Standard deviation over draws; NaN where a pair was scored fewer than two times."""
        n = np.maximum(self.count, 1)
        variance = np.maximum(self.square / n - (self.total / n) ** 2, 0) * n / np.maximum(n - 1, 1)
        return np.where(self.count > 1, np.sqrt(variance), np.nan).astype(np.float32)


def cover_pairs(
    n_genes: int, size: int, *, anchors: NDArray[np.int64] | None = None, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Sets of genes in which every unordered pair meets at least once.

    Genes other than the anchors are dealt into half-chunks at random; each set is the anchors and two half-chunks.

    Parameters
    ----------
    n_genes
        Number of genes.
    size
        Most genes in a set.
    anchors
        Genes that are in every set.
    rng
        Deals the genes.
    """
    fixed = np.empty(0, np.int64) if anchors is None else anchors[: max(0, size - 2)]
    rest = rng.permutation(np.setdiff1d(np.arange(n_genes), fixed))
    half = max(1, (size - len(fixed)) // 2)
    if len(rest) <= 2 * half:
        yield np.concatenate([fixed, rest])
        return
    chunks = np.array_split(rest, -(-len(rest) // half))
    for i in range(len(chunks)):
        for j in range(i + 1, len(chunks)):
            yield np.concatenate([fixed, chunks[i], chunks[j]])


def cover_targets(
    n_genes: int,
    size: int,
    targets: NDArray[np.int64],
    *,
    anchors: NDArray[np.int64] | None = None,
    rng: np.random.Generator,
) -> Iterator[NDArray[np.int64]]:
    """Sets of genes in which every gene meets every target at least once.

    Parameters
    ----------
    n_genes, size, anchors, rng
        As in :func:`cover_pairs`.
    targets
        Genes that everything must meet.
    """
    fixed = np.empty(0, np.int64) if anchors is None else anchors
    share = max(1, (size - min(len(fixed), size // 2)) // 3)
    for some in np.array_split(rng.permutation(targets), -(-len(targets) // share)):
        held = np.concatenate([some, np.setdiff1d(fixed, some)[: size // 2]])
        rest = rng.permutation(np.setdiff1d(np.arange(n_genes), held))
        room = max(1, size - len(held))
        for chunk in np.array_split(rest, max(1, -(-len(rest) // room))):
            yield np.concatenate([held, chunk])


def n_sets(n_genes: int, size: int, n_targets: int, n_anchors: int = 0) -> int:
    """Number of forward passes of one draw (the cheaper of the two covers)."""
    targets = np.arange(n_targets)
    anchors = np.arange(n_genes - n_anchors, n_genes)
    some, half = max(1, (size - min(n_anchors, size // 2)) // 3), max(1, (size - n_anchors) // 2)
    chunks = -(-(n_genes - len(anchors)) // half)
    pairs = max(1, chunks * (chunks - 1) // 2)
    room = max(1, size - some - min(n_anchors, size // 2))
    return min(pairs, -(-len(targets) // some) * max(1, -(-(n_genes - some) // room)))


def score_pairs(
    score: SetScore,
    n_genes: int,
    *,
    targets: NDArray[np.int64] | None = None,
    size: int = 96,
    n_draws: int = 2,
    n_anchors: int = 0,
    stable: float | None = None,
    rng: np.random.Generator,
    progress_bar: bool = False,
) -> Ensemble:
    """Score all pairs (cause, target) by an ensemble over random sets of genes.

    Parameters
    ----------
    score
        Scores one set of genes.
    n_genes
        Number of genes.
    targets
        Effect genes; ``None`` = all of them.
    size
        Genes in a set.
    n_draws
        How many times the genes are dealt anew.
    n_anchors
        From the second draw on, that many genes with the highest mean score so far are in every set. Raises row scores
        by letting hubs be seen together; check column scores before use.
    stable
        Stop before ``n_draws`` once the rank correlation of the mean scores before and after a draw, averaged over
        the targets, reaches this.
    rng
        Deals the genes and is passed on to ``score``.
    progress_bar
        Show one.

    Returns
    -------
    Mean, spread and counts.
    """
    wanted = np.arange(n_genes) if targets is None else np.asarray(targets)
    out, before = Ensemble.empty(n_genes, wanted), None
    for draw in range(n_draws):
        anchors = _hubs(out, n_anchors) if n_anchors and draw else None
        sets = list(_cheaper_cover(n_genes, size, wanted, anchors, rng))
        for genes in tqdm(sets, desc=f"draw {draw + 1}/{n_draws}", disable=not progress_bar):
            out.add(genes, score(genes, rng))
        now = out.mean
        if stable is not None and before is not None and _rank_agreement(before, now) >= stable:
            break
        before = now
    return out


def _cheaper_cover(
    n_genes: int, size: int, targets: NDArray[np.int64], anchors: NDArray[np.int64] | None, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    by_target = list(cover_targets(n_genes, size, targets, anchors=anchors, rng=rng))
    chunks = -(-n_genes // max(1, (size - (0 if anchors is None else len(anchors))) // 2))
    if len(by_target) <= chunks * (chunks - 1) // 2:
        return iter(by_target)
    return cover_pairs(n_genes, size, anchors=anchors, rng=rng)


def _hubs(ensemble: Ensemble, n: int) -> NDArray[np.int64]:
    """Genes with the highest mean score over all targets."""
    return np.argsort(-np.nanmean(ensemble.mean, axis=1), kind="stable")[:n]


def _rank_agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean Spearman correlation of the columns."""
    ranks = [np.argsort(np.argsort(m, axis=0), axis=0).astype(np.float64) for m in (a, b)]
    ra, rb = (r - r.mean(0) for r in ranks)
    return float(np.mean((ra * rb).sum(0) / np.sqrt((ra**2).sum(0) * (rb**2).sum(0)).clip(1e-12)))
