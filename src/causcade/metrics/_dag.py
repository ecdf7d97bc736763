"""From edge probabilities to a graph: which edges to call, and how to have no cycle among them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from causcade.metrics._ranking import Bools, Floats, as_scores


def called_edges(graph: ArrayLike, threshold: float) -> Bools:
    """Edges with at least the threshold, off the diagonal."""
    values = square(graph)
    return (values >= threshold) & ~np.eye(len(values), dtype=bool)


def is_acyclic(graph: ArrayLike, threshold: float = 0.5) -> bool:
    """Say whether the called edges have no cycle.

    Parameters
    ----------
    graph
        (n, n) ``[cause, effect]``, binary or probabilities. The diagonal is ignored, here and below.
    threshold
        Edges with at least this value are called.
    """
    called = called_edges(graph, threshold)
    return bool(_components(called)[0] == len(called))


def to_dag(
    probability: ArrayLike,
    threshold: float = 0.5,
    *,
    method: Literal["add", "remove"] = "add",
    rng: int | np.random.Generator | None = 0,
) -> Bools:
    """Call edges and leave out the weakest of every cycle, so that the graph is acyclic.

    Parameters
    ----------
    probability
        (n, n) ``[cause, effect]``; probabilities or any other scores.
    threshold
        Only edges with at least this value are called.
    method
        ``"add"``: from the strongest edge to the weakest, an edge is called unless it closes a cycle with stronger
        ones. Every edge left out is the weakest of some cycle, and none could be put back.
        ``"remove"``: as long as there is a cycle, the weakest of all edges that lie on one is removed. That leaves
        a part of the other graph: edges can be missing whose cycle was broken later, elsewhere.
    rng
        Order of edges of equal value; without it the order of the genes would decide directions.

    Returns
    -------
    (n, n) bool, ``[cause, effect]``, acyclic. All called edges, if they have no cycle.

    Raises
    ------
    ValueError
        If ``probability`` is not square, holds NaN, or ``method`` is unknown.
    """
    values = square(probability)
    if method not in ("add", "remove"):
        msg = f"method {method!r} is not one of add, remove"
        raise ValueError(msg)
    called = called_edges(values, threshold)
    causes, effects = np.nonzero(called)
    ties = np.random.default_rng(rng).permutation(causes.size)
    order = np.lexsort((ties, -values[causes, effects]))
    causes, effects = causes[order], effects[order]
    return _add(causes, effects, len(values)) if method == "add" else _remove(called, causes, effects)


def expected_false_edges(probability: ArrayLike, threshold: float = 0.5) -> float:
    """Number of called edges that are false, as the probabilities themselves have it: the sum of ``1 - p`` over them.

    Parameters
    ----------
    probability
        (n, n) ``[cause, effect]``, between 0 and 1.
    threshold
        Edges with at least this value are called.

    Raises
    ------
    ValueError
        If ``probability`` is not square, holds NaN, or lies outside 0 to 1.
    """
    values = _probabilities(probability)
    return float((1 - values[called_edges(values, threshold)]).sum())


def choose_threshold(probability: ArrayLike, fdr: float = 0.1) -> float:
    """Lowest threshold at which the expected share of false edges is at most ``fdr``.

    That calls the largest set of edges whose mean ``1 - p`` stays within ``fdr``. It keeps its word as far as the
    probabilities are calibrated; see ``ece_adaptive`` of :func:`graph_report`.

    Parameters
    ----------
    probability
        (n, n) ``[cause, effect]``, between 0 and 1.
    fdr
        Expected share of false edges among those called, between 0 and 1.

    Returns
    -------
    The threshold for ``value >= threshold``; infinite if no edge is sure enough.

    Raises
    ------
    ValueError
        As in :func:`expected_false_edges`, or if ``fdr`` lies outside 0 to 1.
    """
    if not 0 <= fdr <= 1:
        msg = f"fdr={fdr} must lie between 0 and 1"
        raise ValueError(msg)
    values = _probabilities(probability)
    ranked = np.sort(values[~np.eye(len(values), dtype=bool)].astype(np.float64))[::-1]
    share = np.cumsum(1 - ranked) / np.arange(1, ranked.size + 1)
    last = np.r_[ranked[1:] < ranked[:-1], True]  # edges of equal probability are called together
    fits = np.flatnonzero(last & (share <= fdr + 1e-12))
    return float(ranked[fits[-1]]) if fits.size else float("inf")


def f1_threshold(probability: ArrayLike) -> float:
    """Threshold at which F1 of the called edges is expected to be best.

    F1 is expected as ``2 * (sum of called p) / (number called + sum of all p)``, from the probabilities alone. The best
    threshold is half of the best F1, so well below 0.5 where edges are uncertain: at 0.5 a network that rightly says
    ".4" of twenty edges, eight of them true, calls none. It keeps its word as far as the probabilities are calibrated.

    Parameters
    ----------
    probability
        (n, n) ``[cause, effect]``, between 0 and 1.

    Returns
    -------
    The threshold for ``value >= threshold``; infinite if every probability is 0.

    Raises
    ------
    ValueError
        As in :func:`expected_false_edges`.
    """
    values = _probabilities(probability)
    ranked = np.sort(values[~np.eye(len(values), dtype=bool)].astype(np.float64))[::-1]
    if not ranked.size or ranked[0] == 0:
        return float("inf")
    f1 = 2 * np.cumsum(ranked) / (np.arange(1, ranked.size + 1) + ranked.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # edges of equal probability are called together
    return float(ranked[int(np.argmax(f1))])


def _add(causes: np.ndarray, effects: np.ndarray, n: int) -> Bools:
    graph, reach = np.zeros((n, n), bool), np.eye(n, dtype=bool)
    for i, j in zip(causes.tolist(), effects.tolist(), strict=True):
        if not reach[j, i]:
            graph[i, j] = True
            if not reach[i, j]:
                reach[reach[:, i]] |= reach[j]  # all before i now reach all after j
    return graph


def _remove(graph: Bools, causes: np.ndarray, effects: np.ndarray) -> Bools:
    graph = graph.copy()
    for i, j in zip(causes[::-1].tolist(), effects[::-1].tolist(), strict=True):  # no later removal makes a cycle
        _, part = _components(graph)
        if part[i] == part[j]:
            graph[i, j] = False
    return graph


def _components(graph: Bools) -> tuple[int, np.ndarray]:
    """Strongly connected parts; an edge lies on a cycle if it starts and ends in one part."""
    n, part = connected_components(csr_array(graph), connection="strong")
    return int(n), part


def square(graph: ArrayLike) -> Floats:
    """Check a graph."""
    values = as_scores(graph)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        msg = f"graph has shape {values.shape}; it must be (n_genes, n_genes), [cause, effect]"
        raise ValueError(msg)
    bad = np.argwhere(np.isnan(values) & ~np.eye(len(values), dtype=bool))
    if len(bad):
        i, j = bad[0].tolist()
        msg = f"graph holds {len(bad)} NaN, the first at [cause {i}, effect {j}]; give unscored pairs the lowest value"
        raise ValueError(msg)
    return values


def _probabilities(probability: ArrayLike) -> Floats:
    values = square(probability)
    off = values[~np.eye(len(values), dtype=bool)]
    if off.size and (off.min() < 0 or off.max() > 1):
        msg = f"probabilities lie between {off.min():g} and {off.max():g}, not 0 and 1; are they logits or scores?"
        raise ValueError(msg)
    return values
