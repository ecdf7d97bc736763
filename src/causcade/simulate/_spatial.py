"""Random graphs of genes that have places, and the steps all random graphs share. Public through ``graphs``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from causcade.simulate._random import Rng, torch_generator

__all__ = ["check_range", "check_size", "geometric", "orient", "relabel", "watts_strogatz"]

_REWIRE_ROUNDS = 50


def check_size(n: int, edges_per_gene: float | None = None) -> None:
    """Refuse a number of genes or of edges that makes no graph."""
    if isinstance(n, bool) or n != int(n) or n < 1:
        msg = f"n must be a whole number of genes, at least 1; got {n!r}"
        raise ValueError(msg)
    if edges_per_gene is not None and not 0 <= edges_per_gene < math.inf:
        msg = f"edges_per_gene must be a finite number, at least 0; got {edges_per_gene!r}"
        raise ValueError(msg)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse an option outside its range."""
    if not low <= value <= high:
        msg = f"{name} must be between {low} and {high}; got {value!r}"
        raise ValueError(msg)


def relabel(adjacency: Tensor, generator: torch.Generator) -> Tensor:
    """Give the genes other labels at random."""
    order = torch.randperm(len(adjacency), generator=generator, device=adjacency.device)
    return adjacency[order][:, order]


def orient(skeleton: Tensor, generator: torch.Generator) -> Tensor:
    """Point every edge of a symmetric skeleton from earlier to later in a random order."""
    rank = torch.randperm(len(skeleton), generator=generator, device=skeleton.device)
    return skeleton & (rank[:, None] < rank[None, :])


def _torus_distance(n: int, dim: int, device: str | torch.device) -> Tensor:
    """Count the steps between the first n sites of a torus with near-equal sides."""
    site = torch.arange(n, device=device)
    distance = torch.zeros(n, n, dtype=torch.long, device=device)
    rest = n
    for axes_left in range(dim, 0, -1):
        # the small slack keeps an exact root such as 1000 ** (1 / 3) from being rounded up
        side = max(1, math.ceil(rest ** (1 / axes_left) - 1e-9))
        rest = math.ceil(rest / side)
        coordinate = site % side
        site = site // side
        gap = (coordinate[:, None] - coordinate[None, :]).abs()
        distance += torch.minimum(gap, side - gap)
    return distance


def _closest(distance: Tensor, edges: float, generator: torch.Generator) -> Tensor:
    """Link the closest pairs; of the last distance needed, a random share that makes the expected number right."""
    n = len(distance)
    at = distance.flatten().bincount()[1:] / 2
    share = ((edges - (at.cumsum(0) - at)) / at.clamp(min=1)).clamp(0, 1)
    share = torch.cat([share.new_zeros(1), share])
    kept = (torch.rand(n, n, generator=generator, device=distance.device) < share[distance]).triu(1)
    return kept | kept.T


def _rewire(skeleton: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Move one end of a share of the edges to a random gene; no loops, no repeats, same number of edges."""
    n, device = len(skeleton), skeleton.device
    a, b = skeleton.triu(1).nonzero(as_tuple=True)
    moved = torch.rand(len(a), generator=generator, device=device) < share
    a, b = a[moved], b[moved]
    skeleton = skeleton.clone()
    skeleton[a, b] = skeleton[b, a] = False
    for _ in range(_REWIRE_ROUNDS):
        if not len(a):
            break
        end = torch.randint(n, (len(a),), generator=generator, device=device)
        pair = torch.minimum(a, end) * n + torch.maximum(a, end)
        owner = torch.full((n * n,), -1, device=device)
        owner[pair] = torch.arange(len(a), device=device)
        ok = (a != end) & ~skeleton[a, end] & (owner[pair] == torch.arange(len(a), device=device))
        skeleton[a[ok], end[ok]] = skeleton[end[ok], a[ok]] = True
        a, b = a[~ok], b[~ok]
    # nearly complete graphs have nowhere to go
    skeleton[a, b] = skeleton[b, a] = True
    return skeleton


def watts_strogatz(
    n: int,
    edges_per_gene: float | None = None,
    *,
    dim: int = 2,
    neighbours: int = 1,
    rewire: float = 0.3,
    rng: Rng = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Draw a small world: a torus whose edges are partly rewired, pointed along a random order.

    Parameters
    ----------
    n
        Genes. Where no torus with near-equal sides has ``n`` sites, the last sites of a larger one are missing.
    edges_per_gene
        None: link all sites within ``neighbours`` steps. Otherwise link the closest sites, as many as makes this
        the expected number of edges divided by ``n``.
    dim
        Dimensions of the torus.
    neighbours
        Steps between linked sites at most, where ``edges_per_gene`` is None. One gives about ``dim`` edges per gene.
    rewire
        Chance of an edge to have one end moved.
    rng, device
        Randomness (moved and dropped edges, order) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    check_range("dim", dim, 1)
    check_range("neighbours", neighbours, 1)
    check_range("rewire", rewire, 0, 1)
    generator = torch_generator(rng, device)
    distance = _torus_distance(n, dim, device)
    if edges_per_gene is None:
        skeleton = (distance > 0) & (distance <= neighbours)
    else:
        skeleton = _closest(distance, edges_per_gene * n, generator)
    return orient(_rewire(skeleton, rewire, generator), generator)


def geometric(
    n: int,
    edges_per_gene: float | None = None,
    *,
    radius: float = 0.1,
    rng: Rng = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Draw genes in the unit square and link those closer than ``radius``, pointed along a random order.

    Parameters
    ----------
    n
        Genes.
    edges_per_gene
        None: use ``radius``. Otherwise the closest ``edges_per_gene * n`` pairs are linked, whatever their
        distance.
    radius
        Greatest distance of a link.
    rng, device
        Randomness (places and order) and where to draw.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect], acyclic.
    """
    check_size(n, edges_per_gene)
    check_range("radius", radius, 0)
    generator = torch_generator(rng, device)
    place = torch.rand(n, 2, generator=generator, device=device)
    distance = (place[:, None, :] - place[None, :, :]).square().sum(-1).sqrt()
    if edges_per_gene is None:
        return orient((distance < radius).fill_diagonal_(fill_value=False), generator)
    a, b = torch.triu_indices(n, n, 1, device=device)
    closest = distance[a, b].topk(min(round(edges_per_gene * n), len(a)), largest=False).indices
    skeleton = torch.zeros(n, n, dtype=torch.bool, device=device)
    skeleton[a[closest], b[closest]] = True
    return orient(skeleton | skeleton.T, generator)
