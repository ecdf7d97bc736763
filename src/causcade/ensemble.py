"""Subsampled-ensemble scoring: many small sets of genes cover all pairs, and their scores are averaged.

Cause relations survive leaving genes out (TCD-DL, proposition 2), so a network that takes a hundred genes can score a
screen of thousands.  The paper runs a loop per target; here every forward pass scores all pairs of its set, so targets
share the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causcade._blocks import Arrays, Blocks

__all__ = ["Ensemble", "cover_pairs", "cover_targets", "n_sets", "score_pairs"]

#: Scores one set of genes: ``(positions, generator) -> (len(positions), len(positions))`` scores ``[cause, effect]``.
SetScore = Callable[[NDArray[np.int64], np.random.Generator], NDArray[np.float32]]

_TOGETHER = 64  # sets in a block


@dataclass
class Ensemble:
    """Running mean, spread and count of pair scores.

    Attributes
    ----------
    targets
        ``(k,)`` positions of the effect genes; columns of all matrices.
    total, square, count
        ``(n_genes, k)`` sums, sums of squared deviations from the mean and numbers of scores, ``[cause, effect]``.
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
        """Add the scores ``[cause, effect]`` of one set of genes; of a gene given twice the last place counts."""
        place = np.full(self.total.shape[0], -1)
        place[genes] = np.arange(len(genes))
        columns = np.flatnonzero(place[self.targets] >= 0)
        rows = np.flatnonzero(place >= 0)
        values = scores[np.ix_(place[rows], place[self.targets[columns]])]
        at = np.ix_(rows, columns)
        total, count = self.total[at], self.count[at]
        old = np.where(count > 0, total / np.maximum(count, 1), values)
        total, count = total + values, count + 1
        # deviations, not squares: of logits around -8 the squares would leave no digits for a small spread
        self.square[at] += (values - old) * (values - total / count)
        self.total[at], self.count[at] = total, count
        self.passes += 1

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean score of every pair; NaN where a pair was never scored."""
        with np.errstate(invalid="ignore"):
            return np.where(self.count > 0, self.total / np.maximum(self.count, 1), np.nan).astype(np.float32)

    @property
    def sd(self) -> NDArray[np.float32]:
        """Standard deviation over draws; NaN where a pair was scored fewer than two times."""
        variance = np.maximum(self.square, 0) / np.maximum(self.count - 1, 1)
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
        Most genes in a set, at least 2.
    anchors
        Genes that are in every set.
    rng
        Deals the genes.
    """
    fixed = np.empty(0, np.int64) if anchors is None else anchors[: size - 2]
    rest = rng.permutation(np.setdiff1d(np.arange(n_genes), fixed))
    half = (size - len(fixed)) // 2
    if n_genes <= size:
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
    fixed = np.empty(0, np.int64) if anchors is None else anchors[: _most_anchors(size)]
    share = max(1, (size - len(fixed)) // 3)
    for some in np.array_split(rng.permutation(targets), -(-len(targets) // share)):
        held = np.concatenate([some, np.setdiff1d(fixed, some)])
        rest = rng.permutation(np.setdiff1d(np.arange(n_genes), held))
        for chunk in np.array_split(rest, max(1, -(-len(rest) // (size - len(held))))):
            yield np.concatenate([held, chunk])


def n_sets(n_genes: int, size: int, n_targets: int, n_anchors: int = 0) -> int:
    """Number of forward passes of one draw (the cheaper of the two covers); exact if no anchor is a target."""
    fixed = min(n_anchors, _most_anchors(size))
    chunks = -(-n_targets // max(1, (size - fixed) // 3))
    held = fixed + np.array([n_targets // chunks + (i < n_targets % chunks) for i in range(chunks)])
    by_target = int(np.maximum(1, -(-(n_genes - held) // (size - held))).sum())
    return min(by_target, _n_pair_sets(n_genes, size, n_anchors))


def _n_pair_sets(n_genes: int, size: int, n_anchors: int) -> int:
    """Number of sets of :func:`cover_pairs`."""
    fixed = min(n_anchors, size - 2)
    chunks = -(-(n_genes - fixed) // ((size - fixed) // 2))
    return 1 if n_genes <= size else chunks * (chunks - 1) // 2


def _most_anchors(size: int) -> int:
    """Anchors in a set of :func:`cover_targets`, which must leave room for a target and a candidate."""
    return min(size // 2, size - 2)


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
    blocks: Blocks | None = None,
    name: str = "scores",
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
        Genes in a set, at least 2.
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
    blocks, name
        Where finished scores are kept, as blocks ``name-...``.

    Returns
    -------
    Mean, spread and counts.

    Raises
    ------
    ValueError
        If ``size`` is below 2 or ``n_draws`` below 1.
    """
    if size < 2 or n_draws < 1:
        msg = f"A set needs at least 2 genes and a score at least 1 draw; got size={size}, n_draws={n_draws}."
        raise ValueError(msg)
    wanted = np.arange(n_genes) if targets is None else np.asarray(targets)
    out, before = Ensemble.empty(n_genes, wanted), None
    kept = Blocks() if blocks is None else blocks
    for draw in range(n_draws):
        anchors = _hubs(out, n_anchors) if n_anchors and draw else None
        sets = list(_cheaper_cover(n_genes, size, wanted, anchors, rng))
        with _bar(len(sets), f"draw {draw + 1}/{n_draws}", show=progress_bar) as bar:
            for first in range(0, len(sets), _TOGETHER):
                some = sets[first : first + _TOGETHER]
                make = partial(_score_sets, score, some, rng, bar, kept)
                made = kept.take(f"{name}-{draw}-{first}", make, rng=rng, steps=len(some))["scores"]
                ends = np.cumsum([len(genes) ** 2 for genes in some])
                for genes, flat in zip(some, np.split(made, ends[:-1]), strict=True):
                    out.add(genes, flat.reshape(len(genes), -1))
                bar.update(min(first + _TOGETHER, len(sets)) - bar.n)  # those that were there
        now = out.mean
        if stable is not None and before is not None and _rank_agreement(before, now) >= stable:
            break
        before = now
    return out


class _NoBar:
    """In place of a progress bar that nobody wants."""

    n = 0

    def update(self, n: int = 1) -> None:
        self.n += n


def _bar(total: int, text: str, *, show: bool) -> Any:
    if not show:
        return nullcontext(_NoBar())
    from tqdm.auto import tqdm  # which a bare training machine lacks

    return tqdm(total=total, desc=text)


def _score_sets(
    score: SetScore, sets: list[NDArray[np.int64]], rng: np.random.Generator, bar: Any, blocks: Blocks
) -> Arrays:
    """Scores of some sets, one after the other."""
    made = []
    for genes in sets:
        made.append(np.ravel(score(genes, rng)))
        bar.update()
        blocks.step()
    return {"scores": np.concatenate(made)}


def _cheaper_cover(
    n_genes: int, size: int, targets: NDArray[np.int64], anchors: NDArray[np.int64] | None, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    by_target = list(cover_targets(n_genes, size, targets, anchors=anchors, rng=rng))
    if len(by_target) <= _n_pair_sets(n_genes, size, 0 if anchors is None else len(anchors)):
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
