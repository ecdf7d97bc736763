"""Greedy search for the causal graph, with targets that nobody knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from causcade.gimfit._scores import AdditiveScores
from causcade.simulate.graphs import ancestors

__all__ = ["Found", "search_graph"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_LEAST_GAIN = 1e-3  # nats


@dataclass
class Found:
    """A graph, and what is done in each environment.

    Attributes
    ----------
    graph
        ``(d, d)`` acyclic, [cause, effect].
    targets
        ``(k, d)``.
    mean, log_sd
        ``(k, d)`` parameters of interventions.
    log_odds
        ``(d, d)`` of each edge, given all others: what the score would lose or gain; ``-inf`` where it would close a cycle.
    score
        Sum of the scores of all genes, in nats.
    """

    graph: Bools
    targets: Bools
    mean: Floats
    log_sd: Floats
    log_odds: Floats
    score: float


def search_graph(scores: AdditiveScores, *, restarts: int = 20, rng: np.random.Generator) -> Found:
    """Add, take out or reverse the edge that gains most, until none gains; then again from disturbed graphs.

    Parameters
    ----------
    scores
        Scores of genes and their causes.
    restarts
        So many times the best graph is disturbed at random and climbed from; what is better is kept.
    rng
        Disturbances.

    Returns
    -------
    The best graph that was seen. It depends on `rng` where the search has more than one end.
    """
    best = _Climb(scores)
    best.climb()
    for _ in range(restarts):
        other = best.copy()
        other.disturb(rng)
        other.climb()
        if other.total > best.total + _LEAST_GAIN:
            best = other
    return best.found()


class _Climb:
    """A graph, and what every change of a single edge would gain."""

    def __init__(self, scores: AdditiveScores) -> None:
        self.scores = scores
        d = scores.n_genes
        self.graph = np.zeros((d, d), dtype=bool)
        self.own = np.zeros(d)
        self.gains = np.zeros((d, d))  # of the edge there being changed, [cause, effect]
        self.known: dict[tuple[int, bytes], tuple[float, Floats]] = {}
        for gene in range(d):
            self._look(gene)

    def copy(self) -> _Climb:
        """Another with the same graph; what is known is shared."""
        other = object.__new__(_Climb)
        other.__dict__ = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in self.__dict__.items()}
        return other

    @property
    def total(self) -> float:
        """Score of the graph."""
        return float(self.own.sum())

    def _look(self, gene: int) -> None:
        """Score a gene with its causes, and with one more or one less."""
        key = (gene, self.graph[:, gene].tobytes())
        if key not in self.known:
            d = self.scores.n_genes
            causes = np.flatnonzero(self.graph[:, gene])
            table = np.full((d, len(causes) + 1), -1)  # row of the gene itself: nothing is changed
            table[:, :-1] = causes
            table[:, -1] = np.arange(d)
            table[gene, -1] = -1
            at = np.arange(len(causes))
            table[causes, at] = table[causes, -1] = -1
            found = self.scores(np.full(d, gene), table).score
            self.known[key] = float(found[gene]), found - found[gene]
        self.own[gene], self.gains[:, gene] = self.known[key]

    def climb(self) -> None:
        """Change what gains most until nothing does."""
        while True:
            gain, cause, effect, reverse = self._choose()
            if not gain > _LEAST_GAIN:
                return
            before = self.total
            self._toggle(cause, effect, reverse=reverse)
            if not self.total > before + _LEAST_GAIN / 2:  # rounding must not lead in circles
                self._toggle(*((effect, cause) if reverse else (cause, effect)), reverse=reverse)
                return

    def _toggle(self, cause: int, effect: int, *, reverse: bool) -> None:
        self.graph[cause, effect] ^= True
        self._look(effect)
        if reverse:
            self.graph[effect, cause] = True
            self._look(cause)

    def _choose(self) -> tuple[float, int, int, bool]:
        reach = _reachable(self.graph)
        single = np.where(self.graph | ~(reach.T | np.eye(len(reach), dtype=bool)), self.gains, -np.inf)
        # with a second path from cause to effect, the reversed edge closes a cycle
        other_way = (self.graph.astype(np.float32) @ reach.astype(np.float32)) > 0
        reverse = np.where(self.graph & ~other_way, self.gains + self.gains.T, -np.inf)
        table = reverse if reverse.max() > single.max() else single
        cause, effect = np.unravel_index(int(table.argmax()), table.shape)
        return float(table[cause, effect]), int(cause), int(effect), table is reverse

    def disturb(self, rng: np.random.Generator) -> None:
        """Take out some edges, a tenth to a half, and turn round every other of them that then closes no cycle."""
        edges = np.argwhere(self.graph)
        number = int(np.ceil(rng.uniform(0.1, 0.5) * len(edges)))
        for cause, effect in edges[rng.permutation(len(edges))[:number]]:
            self.graph[cause, effect] = False
            if rng.random() < 0.5 and not _reachable(self.graph)[cause, effect]:
                self.graph[effect, cause] = True
        for gene in range(len(self.graph)):
            self._look(gene)

    def found(self) -> Found:
        """Graph, targets and parameters."""
        d = self.scores.n_genes
        number = self.graph.sum(0)
        causes = np.full((d, int(number.max(initial=0))), -1)
        for gene in range(d):
            causes[gene, : number[gene]] = np.flatnonzero(self.graph[:, gene])
        e = self.scores(np.arange(d), causes)
        closes = _reachable(self.graph).T | np.eye(d, dtype=bool)
        odds = np.where(self.graph, -self.gains, np.where(closes, -np.inf, self.gains))
        return Found(self.graph, e.targets.T.copy(), e.mean.T.copy(), e.log_sd.T.copy(), odds, float(e.score.sum()))


def _reachable(graph: Bools) -> Bools:
    """Genes that a path of at least one edge leads to, [cause, effect]."""
    return ancestors(torch.from_numpy(graph)).numpy()
