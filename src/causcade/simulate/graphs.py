"""Random directed acyclic graphs, and the orders and closures one asks of a graph.

Every graph is a bool tensor ``(n, n)``, ``[cause, effect]``: ``adjacency[i, j]`` is True where i -> j.
Random graphs are drawn on ``device``; the same seed gives another graph on another device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from causcade.simulate._dag import ancestors, is_dag, levels, path_lengths, topological_order
from causcade.simulate._random import Rng, torch_generator
from causcade.simulate._spatial import check_range, check_size, geometric, orient, relabel, watts_strogatz
from causcade.simulate.modules import break_cycles, subgraph_module

__all__ = [
    "KINDS",
    "ancestors",
    "break_cycles",
    "erdos_renyi",
    "geometric",
    "is_dag",
    "levels",
    "path_lengths",
    "random_graph",
    "scale_free",
    "sparse_regulators",
    "stochastic_block",
    "subgraph_module",
    "topological_order",
    "watts_strogatz",
]

_MAX_P = 0.99


def erdos_renyi(n: int, edges_per_gene: float, *, rng: Rng = None, device: str | torch.device = "cpu") -> Tensor:
    """Draw a graph whose pairs are linked independently with one probability.

    Parameters
    ----------
    n
        Genes.
    edges_per_gene
        Expected edges divided by ``n``. The probability of an edge stops at 0.99.
    rng, device
        Randomness (edges and labels) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    generator = torch_generator(rng, device)
    p = min(_MAX_P, edges_per_gene * n / max(1.0, n * (n - 1) / 2))
    upper = (torch.rand(n, n, generator=generator, device=device) < p).triu(1)
    return relabel(upper, generator)


def scale_free(
    n: int,
    edges_per_gene: float,
    *,
    power: float = 1.0,
    direction: Literal["out", "in", "undirected"] = "out",
    rng: Rng = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Draw a Barabási-Albert graph: every new gene links to older ones, preferring those with many links.

    An older gene is chosen with weight ``degree**power + 1``, without repeats.

    Parameters
    ----------
    n
        Genes.
    edges_per_gene
        Links of every new gene. A fraction is the chance of one more, so 1.5 means one or two.
    power
        Strength of the preference; 0 is none.
    direction
        ``"out"``: few hubs regulate many (degree is the out-degree; nearly every gene has ``edges_per_gene``
        parents). ``"in"``: few genes are regulated by many. ``"undirected"``: degree counts both ends and the
        skeleton is pointed along a random order, so hubs have many parents and many children.
    rng, device
        Randomness (links and labels) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    check_range("power", power, 0)
    if direction not in ("out", "in", "undirected"):
        msg = f"direction must be 'out', 'in' or 'undirected'; got {direction!r}"
        raise ValueError(msg)
    generator = torch_generator(rng, device)
    links = _attach(n, edges_per_gene, power, generator, both_ends=direction == "undirected")
    if direction == "out":
        links = links.T
    if direction == "undirected":
        links = orient(links | links.T, generator)
    return relabel(links, generator)


def _attach(n: int, m: float, power: float, generator: torch.Generator, *, both_ends: bool) -> Tensor:
    """Preferential attachment; [new, old]. Smallest of Exp(1) / weight = draws without replacement."""
    device = generator.device
    whole, most = math.floor(m), math.ceil(m)
    extra = torch.rand(n, generator=generator, device=device) < m - whole
    links = torch.zeros(n, n, dtype=torch.bool, device=device)
    degree = torch.zeros(n, device=device)
    weight = torch.ones(n, device=device)
    for new in range(1, n if most else 0):
        race = torch.empty(new, device=device).exponential_(generator=generator)
        race /= weight[:new]
        old = race.topk(min(most, new), largest=False).indices
        keep = torch.ones_like(old, dtype=torch.bool)
        if whole < most <= new:
            # topk is sorted, so the last is the one of the fraction
            keep[-1] = extra[new]
        links[new, old] = keep
        degree[old] += keep
        weight[old] = degree[old] ** power + 1
        if both_ends:
            degree[new] = keep.sum()
            weight[new] = degree[new] ** power + 1
    return links


def stochastic_block(
    n: int,
    edges_per_gene: float,
    *,
    blocks: int = 5,
    damp: float = 0.1,
    rng: Rng = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Draw a graph of communities of uneven sizes, denser inside than between.

    Parameters
    ----------
    n
        Genes.
    edges_per_gene
        Expected edges divided by ``n``. The probability of an edge stops at 0.99.
    blocks
        Communities; their borders are random. Never more than ``n``.
    damp
        Edge probability between communities as a share of that inside.
    rng, device
        Randomness (borders, edges and labels) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    check_range("blocks", blocks, 1)
    check_range("damp", damp, 0, 1)
    generator = torch_generator(rng, device)
    cuts = torch.randperm(n - 1, generator=generator, device=device)[: blocks - 1] + 1
    block = torch.zeros(n, dtype=torch.long, device=device)
    block[cuts] = 1
    block = block.cumsum(0)
    relative = torch.where(block[:, None] == block[None, :], 1.0, damp)
    # a random order inside, so that whole blocks are not above one another
    relative = relabel(relative, generator).triu(1)
    p = (edges_per_gene * n / relative.sum().clamp(min=1e-12)).clamp(max=_MAX_P)
    upper = torch.rand(n, n, generator=generator, device=device) < p * relative
    return relabel(upper, generator)


def sparse_regulators(
    n: int,
    edges_per_gene: float,
    *,
    fraction: float = 0.1,
    power: float = 1.0,
    upstream: float = 1.0,
    rng: Rng = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Draw a graph in which only a few genes regulate, and few of those regulate most: the shape of bacteria.

    Every gene has a Poisson number of parents among the regulators; a regulator has them among the earlier
    regulators of a random order, so the first ones can have fewer.

    Parameters
    ----------
    n
        Genes.
    edges_per_gene
        Mean number of parents of a gene that is no regulator.
    fraction
        Share of genes that may regulate (at least one gene).
    power
        The r-th regulator is chosen with weight ``r**-power``; 0 makes all alike.
    upstream
        Mean number of parents of a regulator, as a share of that of other genes; small values make shallow networks.
    rng, device
        Randomness (who regulates, their order and weight, edges) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    check_range("fraction", fraction, 0, 1)
    check_range("power", power, 0)
    generator = torch_generator(rng, device)
    k = max(1, round(fraction * n))
    rank = torch.randperm(k, generator=generator, device=device) + 1
    race = torch.empty(n, k, device=device).exponential_(generator=generator) * rank.float() ** power
    gene, regulator = torch.arange(n, device=device)[:, None], torch.arange(k, device=device)[None, :]
    # genes 0 .. k-1 are the regulators, in order
    race[regulator >= gene.clamp(max=k)] = math.inf
    rate = torch.where(gene < k, edges_per_gene * upstream, float(edges_per_gene))
    parents = torch.poisson(rate, generator=generator)
    place = race.argsort(1).argsort(1)
    adjacency = torch.zeros(n, n, dtype=torch.bool, device=device)
    adjacency[:k] = ((place < parents) & race.isfinite()).T
    return relabel(adjacency, generator)


KINDS: dict[str, Callable[..., Tensor]] = {
    "erdos_renyi": erdos_renyi,
    "scale_free_out": partial(scale_free, direction="out"),
    "scale_free_in": partial(scale_free, direction="in"),
    "scale_free_undirected": partial(scale_free, direction="undirected"),
    "stochastic_block": stochastic_block,
    "watts_strogatz": watts_strogatz,
    "geometric": geometric,
    "sparse_regulators": sparse_regulators,
}


def random_graph(
    n: int,
    *,
    kind: str,
    edges_per_gene: float | None = 2.0,
    rng: Rng = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> Tensor:
    """Draw a graph of a named kind.

    Parameters
    ----------
    n
        Genes.
    kind
        A name in :data:`KINDS`.
    edges_per_gene
        Expected edges divided by ``n``; None only for ``"watts_strogatz"`` and ``"geometric"``.
    rng, device
        Randomness and where to draw.
    **options
        Further arguments of that kind, such as ``power`` or ``blocks``.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.

    Raises
    ------
    ValueError
        If the kind is unknown.
    """
    if kind not in KINDS:
        close = get_close_matches(str(kind), KINDS, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        msg = f"unknown kind of graph {kind!r}.{hint} Known: {', '.join(KINDS)}"
        raise ValueError(msg)
    return KINDS[kind](n, edges_per_gene, rng=rng, device=device, **options)
