"""Edge probabilities of a network, their spread, the graph that is called, and baselines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np
import torch
from scipy.special import expit
from tqdm.auto import tqdm

from causcade import graph_baselines, metrics
from causcade.ensemble import Ensemble, cover_pairs
from causcade.graphs._cells import MOST_GENES, GraphCells
from causcade.graphs._knockout import knockout_t
from causcade.graphs._values import Bools, Floats, Positions
from causcade.scoring import Fitting

if TYPE_CHECKING:
    from causcade.pretrained import Weights

__all__ = ["GraphScores", "GraphSettings", "edge_probabilities", "score_graph"]

logger = logging.getLogger("causcade.graphs")

_FEWEST = 6  # cells that can be halved


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is scored.

    Attributes
    ----------
    n_draws
        Half-samples of the cells that give the spread (rounded up to even; 0 = no spread).
    subset_size
        Most genes in one pass of the network.
    fdr
        Expected share of false edges among those called, at most.
    threshold
        Probability from which on edges are called; ``"f1"``: of best expected F1; None: chosen by `fdr`.
    device
        Where the network runs.
    progress_bar
        Show one.
    """

    n_draws: int = 10
    subset_size: int = 100
    fdr: float = 0.2
    threshold: float | Literal["f1"] | None = None
    device: str = "cpu"
    progress_bar: bool = True


@dataclass(frozen=True)
class GraphScores:
    """A scored graph. Matrices are ``(n_genes, n_genes)``, [cause, effect], with a diagonal of 0.

    Attributes
    ----------
    probability
        float32, of an edge.
    sd
        Its approximate standard error; None if no spread was asked for, NaN with fewer than 6 cells.
    threshold
        Edges with at least this probability are called; infinite if none is sure enough.
    dag
        bool, called edges less the weakest of every cycle.
    n_called, n_false_expected
        Called edges, and how many of them are false by their own probabilities.
    correlation, precision
        Baselines of :mod:`causcade.graph_baselines`.
    knockout_t
        See :func:`knockout_t`; NaN where a cause was not perturbed.
    varsortability, r2_sortability
        Of the control cells by `dag`, see :mod:`causcade.metrics`; NaN without an edge.
    """

    probability: Floats
    sd: Floats | None
    threshold: float
    dag: Bools
    n_called: int
    n_false_expected: float
    correlation: Floats
    precision: Floats
    knockout_t: Floats
    varsortability: float
    r2_sortability: float


def score_graph(cells: GraphCells, weights: Weights, settings: GraphSettings, rng: np.random.Generator) -> GraphScores:
    """Score the edges among some genes, call a graph, and set simple answers beside it.

    Parameters
    ----------
    cells
        The user's cells (:func:`read_graph_cells`).
    weights
        A trained edge network.
    settings
        How to score.
    rng
        Decides halves and sets.

    Raises
    ------
    ValueError
        If there are too many genes, or `threshold` or `fdr` is out of range.

    Warns
    -----
    UserWarning
        As :func:`edge_probabilities`.
    """
    run = _Run(cells, weights, settings, rng)
    with tqdm(total=run.n_passes, desc="graph", disable=not settings.progress_bar) as bar:
        probability = run.probabilities(np.arange(len(cells)), "all", bar.update)
        sd = run.spread(bar.update) if settings.n_draws else None
    threshold = _threshold(probability, settings)
    dag = metrics.to_dag(probability, threshold)
    called = (probability >= threshold) & ~np.eye(len(dag), dtype=bool)
    n_false = metrics.expected_false_edges(probability, threshold)
    _report(int(called.sum()), int(dag.sum()), threshold, n_false)
    baselines = (f(cells.values, cells.mask) for f in (graph_baselines.correlation, graph_baselines.precision))
    correlation, precision = (b.astype(np.float32) for b in baselines)
    return GraphScores(
        probability, sd, float(threshold), dag, int(called.sum()), n_false, correlation, precision,
        knockout_t(cells), *_sortability(cells, dag),
    )  # fmt: skip


def _threshold(probability: Floats, settings: GraphSettings) -> float:
    if settings.threshold == "f1":
        return metrics.f1_threshold(probability)
    return metrics.choose_threshold(probability, settings.fdr) if settings.threshold is None else settings.threshold


def _report(n_called: int, n_kept: int, threshold: float, n_false: float) -> None:
    if not n_called:
        logger.info("no edge is sure enough to be called")
        return
    logger.info(
        "%s edges called (probability at least %.3g), %.1f of them expected to be false; %s are left without cycles",
        f"{n_called:,}", threshold, n_false, f"{n_kept:,}",
    )  # fmt: skip


def edge_probabilities(
    cells: GraphCells, weights: Weights, settings: GraphSettings, rng: np.random.Generator
) -> Floats:
    """Probability of every edge, ``(n_genes, n_genes)``, [cause, effect]: the same as in :func:`score_graph`.

    Up to ``settings.subset_size`` genes go through the network together. More are dealt into sets in which every two
    of them meet, and the logits of a pair are averaged over its sets.

    Parameters
    ----------
    cells, weights, settings, rng
        As in :func:`score_graph`.

    Raises
    ------
    ValueError
        If there are too many genes.

    Warns
    -----
    UserWarning
        If genes are scored in sets, or the weights are for values of another kind.
    """
    run = _Run(cells, weights, settings, rng)
    with tqdm(total=run.n_sets, desc="graph", disable=not settings.progress_bar) as bar:
        return run.probabilities(np.arange(len(cells)), "all", bar.update)


class _Run:
    """A graph while it is scored."""

    def __init__(self, cells: GraphCells, weights: Weights, settings: GraphSettings, rng: np.random.Generator) -> None:
        self.cells, self.settings = cells, settings
        self.n = len(cells.genes)
        self._check(weights)
        self.net = weights.net.to(settings.device).eval()
        self.fitting = Fitting(self.net, "Lower subset_size or max_cells, or take fewer genes.")
        self.base = int(rng.integers(2**63))
        self.n_sets = len(self._sets("all"))
        self.n_passes = self.n_sets * (1 + 2 * self._n_splits())
        logger.info(
            "graph of %s genes from %s cells (%s control) with %s on %s",
            f"{self.n:,}", f"{len(cells):,}", f"{int(cells.control.sum()):,}", weights.label, settings.device,
        )  # fmt: skip

    def _check(self, weights: Weights) -> None:
        if self.n > MOST_GENES:
            msg = (
                f"{self.n:,} genes: a graph can have at most {MOST_GENES:,}. Choose genes, e.g. the candidates of "
                "cc.tl.causes, which takes all genes."
            )
            raise ValueError(msg)
        _warn_of_kind(weights, self.cells.kind)
        if self.n > self.settings.subset_size:
            note = (
                f"{self.n:,} genes are more than go through the network together, so they are scored in sets of "
                f"{self.settings.subset_size}. Genes outside a set are not seen with it: a relation through one of them, "
                "or a cause they share, looks like an edge, in part of the sets. Fewer genes give a better graph."
            )
            warnings.warn(note, UserWarning, stacklevel=5)

    def stream(self, *what: str | int) -> np.random.Generator:
        """Randomness of one step, the same whatever else is asked for."""
        return np.random.default_rng([self.base, *(crc32(str(w).encode()) for w in what)])

    def _sets(self, name: str) -> list[Positions]:
        if self.n <= self.settings.subset_size:
            return [np.arange(self.n)]
        return list(cover_pairs(self.n, self.settings.subset_size, rng=self.stream("sets", name)))

    def _n_splits(self) -> int:
        return -(-self.settings.n_draws // 2) if len(self.cells) >= _FEWEST else 0

    def probabilities(self, rows: Positions, name: str, done: Callable[[], Any]) -> Floats:
        """Probabilities from some of the cells, with sets of their own."""
        found = Ensemble.empty(self.n, np.arange(self.n))
        for genes in self._sets(name):
            found.add(genes, self._logits(rows, genes))
            done()
        out: Floats = expit(found.mean)
        flat = self._constant(rows)  # the network was not asked: its answer could be anything
        out[flat] = 0
        out[:, flat] = 0
        np.fill_diagonal(out, 0)
        return out

    def _constant(self, rows: Positions) -> Bools:
        """Which genes do not vary in some of the cells."""
        values = self.cells.values[rows]
        seen = np.ones(values.shape, dtype=bool) if self.cells.missing is None else ~self.cells.missing[rows]
        low, high = (values.min(0, where=seen, initial=np.inf), values.max(0, where=seen, initial=-np.inf))
        return np.asarray(low >= high)

    @torch.no_grad()
    def _logits(self, rows: Positions, genes: Positions) -> Floats:
        cells = self.cells
        if cells.others == "drop" and len(genes) < self.n:  # what is perturbed outside of the set
            outside = np.setdiff1d(np.arange(self.n), genes)
            inside = rows[~cells.mask[np.ix_(rows, outside)].any(1)]
            rows = inside if len(inside) >= _FEWEST else rows  # better unmarked than none
        at = np.ix_(rows, genes)
        parts = (cells.values[at], cells.mask[at], None if cells.missing is None else cells.missing[at])
        tensors = [None if p is None else torch.from_numpy(p)[None] for p in parts]
        return self.fitting(lambda: self._ask(tensors))

    def _ask(self, tensors: list[torch.Tensor | None]) -> Floats:
        logits: torch.Tensor = self.net(*(None if t is None else t.to(self.settings.device) for t in tensors))
        return logits[0].float().cpu().numpy()

    def spread(self, done: Callable[[], Any]) -> Floats:
        """Standard error of the probabilities, from what disjoint halves of the cells give."""
        squares = []
        for split in range(self._n_splits()):
            halves = self._halves(self.stream("half", split))
            first, second = (self.probabilities(h, f"half {split} {s}", done) for s, h in enumerate(halves))
            squares.append((first.astype(np.float64) - second) ** 2 / 4)
        if not squares:
            return np.where(np.eye(self.n, dtype=bool), 0, np.nan).astype(np.float32)
        return np.sqrt(np.mean(squares, axis=0)).astype(np.float32)

    def _halves(self, rng: np.random.Generator) -> tuple[Positions, Positions]:
        """Cells dealt in two, regime by regime."""
        regime = self.cells.regime
        order = rng.permutation(len(regime))
        order = order[np.argsort(regime[order], kind="stable")]
        return np.sort(order[::2]), np.sort(order[1::2])


def _warn_of_kind(weights: Weights, kind: str) -> None:
    """Say so if weights have never seen such values; nothing if they do not tell what they were trained on."""
    prior = (weights.config.get("recipe") or {}).get("prior")
    if prior is None:
        return
    domains = [name for name, share in prior.get("domains", {"linear": 1.0, "rff": 1.0}).items() if share]
    known = {"counts" if name == "grn" else "scm" for name in domains}
    if kind in known:
        return
    have, want, name = (
        ("counted cells", "values='continuous' or 'log'", "avici-scm")
        if kind == "scm"
        else ("continuous values", "values='counts' or 'expression'", "avici-grn")
    )
    note = f"The weights {weights.name!r} were trained on {have}, but {want} is asked for; model={name!r} is meant for that."
    warnings.warn(note, UserWarning, stacklevel=6)


def _sortability(cells: GraphCells, dag: Bools) -> tuple[float, float]:
    """How far variance, and predictability, alone would give the called graph."""
    x = cells.unscaled[cells.control]
    x = x[~np.isnan(x).any(1)]
    if len(x) < _FEWEST:
        return float("nan"), float("nan")
    by_variance = metrics.varsortability(x, dag)
    try:
        return by_variance, metrics.r2_sortability(x, dag)
    except ValueError:  # constant genes, or too few cells
        return by_variance, float("nan")
