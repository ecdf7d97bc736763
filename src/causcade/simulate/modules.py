"""From a real gene network to acyclic graphs and small modules. Runs on the host: real networks are few."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from causcade.simulate._dag import check_adjacency
from causcade.simulate._random import Rng, numpy_generator

__all__ = ["break_cycles", "subgraph_module"]


def break_cycles(adjacency: Tensor, *, rng: Rng = None) -> Tensor:
    """Drop self-loops, then every edge that closes a cycle on a depth-first walk over genes in random order.

    The result depends on ``rng``: fix the seed, or store the graph, where it is a truth to score against.

    Parameters
    ----------
    adjacency
        ``(n, n)``, [cause, effect].
    rng
        Order in which genes and their children are visited.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic, a subset of the given edges, on the same device.
    """
    adjacency = check_adjacency(adjacency)
    order = numpy_generator(rng).permutation(len(adjacency))
    edges = adjacency.cpu().numpy()[np.ix_(order, order)]
    np.fill_diagonal(edges, val=False)
    children = [np.flatnonzero(row).tolist() for row in edges]
    for a, b in _back_edges(children):
        edges[a, b] = False
    result = np.empty_like(edges)
    result[np.ix_(order, order)] = edges
    return torch.from_numpy(result).to(adjacency.device)


def _back_edges(children: list[list[int]]) -> list[tuple[int, int]]:
    """Edges to a gene that is still open on the walk; without recursion, as networks are deep."""
    new, still_open, closed = 0, 1, 2
    state = [new] * len(children)
    found: list[tuple[int, int]] = []
    for start in range(len(children)):
        if state[start] != new:
            continue
        state[start] = still_open
        stack = [(start, iter(children[start]))]
        while stack:
            gene, rest = stack[-1]
            child = next(rest, None)
            if child is None:
                state[gene] = closed
                stack.pop()
            elif state[child] == new:
                state[child] = still_open
                stack.append((child, iter(children[child])))
            elif state[child] == still_open:
                found.append((gene, child))
    return found


def subgraph_module(adjacency: Tensor, size: int, *, top: float = 0.2, rng: Rng = None) -> Tensor:
    """Choose a connected module that keeps the network's own structure (Marbach et al. 2009).

    From a random gene, add one neighbour after another: a random one among the ``top`` share of neighbours by
    modularity gain, that is by links into the module beyond those expected from the degrees. Directions and
    self-loops play no part.

    Parameters
    ----------
    adjacency
        ``(n, n)``, [cause, effect]; cycles are allowed.
    size
        Genes in the module.
    top
        Share of the neighbours, best first, to choose from; 1 is any neighbour. At least one is kept.
    rng
        First gene and every choice.

    Returns
    -------
    torch.Tensor
        int64 ``(size,)`` gene positions, ascending. ``adjacency[genes][:, genes]`` is the module.

    Raises
    ------
    ValueError
        If no connected part of the network has ``size`` genes.
    """
    adjacency = check_adjacency(adjacency)
    if not 0 < top <= 1:
        msg = f"top must be above 0 and at most 1; got {top!r}"
        raise ValueError(msg)
    generator = numpy_generator(rng)
    linked = adjacency.cpu().numpy()
    linked = linked | linked.T
    np.fill_diagonal(linked, val=False)
    part = _connected_parts(linked)
    part_size = np.bincount(part)
    if size < 1 or size > part_size.max(initial=0):
        msg = f"size must be from 1 to {part_size.max(initial=0)}, the genes of the largest connected part; got {size}"
        raise ValueError(msg)
    start = int(generator.choice(np.flatnonzero(part_size[part] >= size)))
    return torch.from_numpy(_grow(linked, start, size, top, generator)).to(adjacency.device)


def _connected_parts(linked: np.ndarray) -> np.ndarray:
    """Number the connected parts of a symmetric graph; scipy is not there where networks are pretrained."""
    part = np.full(len(linked), -1)
    for start in range(len(linked)):
        if part[start] >= 0:
            continue
        front = np.array([start])
        number = part.max() + 1
        while len(front):
            part[front] = number
            front = np.flatnonzero(linked[front].any(0) & (part < 0))
    return part


def _grow(linked: np.ndarray, start: int, size: int, top: float, generator: np.random.Generator) -> np.ndarray:
    degree = linked.sum(1).astype(float)
    inside = np.zeros(len(linked), dtype=bool)
    links = np.zeros(len(linked))  # of every gene into the module
    gene = start
    for _ in range(size - 1):
        inside[gene] = True
        links += linked[gene]
        near = np.flatnonzero((links > 0) & ~inside)
        gain = links[near] - degree[near] * degree[inside].sum() / degree.sum()
        # random keys first, so that ties are broken at random
        best = near[np.lexsort((generator.random(len(near)), -gain))]
        gene = int(generator.choice(best[: max(1, int(np.ceil(top * len(near))))]))
    inside[gene] = True
    return np.flatnonzero(inside)
