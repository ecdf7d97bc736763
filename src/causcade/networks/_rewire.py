"""Corrupted networks, to see whether a result needs the true one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from causcade._checks import generator
from causcade.networks._match import Ints, Network, code

__all__ = ["rewire"]

_ROUNDS = 10


def rewire(
    network: Network,
    share: float = 0.5,
    *,
    keep: Literal["degrees", "size"] = "degrees",
    rng: int | np.random.Generator | None = 0,
) -> Network:
    """Corrupt a network, to see whether a result needs it to be true (GraCE-VAE, section 6.5).

    Parameters
    ----------
    network
        A network.
    share
        Share of the edges of every kind that are moved.
    keep
        ``"degrees"``: the edges that move exchange their targets, so that every node keeps its number of edges;
        ``"size"``: they go to random pairs of the same kind, as in the published comparison.
    rng
        Which edges move, and where to.

    Returns
    -------
    A network with as many edges, none twice and no loops. An edge stays where it was if every draw for it clashed:
    with degrees kept, many do in a small network with hubs, so count those that moved.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    if not 0 <= share <= 1 or keep not in ("degrees", "size"):
        msg = f"share must be from 0 to 1 and keep 'degrees' or 'size'; got {share=}, {keep=}."
        raise ValueError(msg)
    random = generator(rng)
    size = {"G": len(network.genes), "P": len(network.pathways)}
    moved = {}
    for kind, ends in network.edges.items():
        todo = random.choice(ends.shape[1], round(share * ends.shape[1]), replace=False)
        if keep == "degrees":
            moved[kind] = _swap(ends, todo, kind, random)
        else:
            moved[kind] = _scatter(ends, todo, kind, (size[kind[0]], size[kind[1]]), random)
    return replace(network, edges=moved)


def _swap(ends: Ints, todo: Ints, kind: str, random: np.random.Generator) -> Ints:
    """Let pairs of edges change targets, in ten rounds; swaps that would make a loop or repeat an edge are left out."""
    ends, half = ends.copy(), len(todo) // 2
    for _ in range(_ROUNDS):
        if kind == "GG":  # no order: either end may be swapped
            flip = random.random(ends.shape[1]) < 0.5
            ends[:, flip] = ends[::-1, flip]
        first, second = random.permutation(todo)[: 2 * half].reshape(2, half)
        new = np.concatenate(
            [np.stack([ends[0, first], ends[1, second]]), np.stack([ends[0, second], ends[1, first]])], 1
        )
        fits = _fits(new, ends, kind).reshape(2, half).all(axis=0)
        both = np.concatenate([first[fits], second[fits]])
        ends[:, both] = new[:, np.tile(fits, 2)]
    return np.sort(ends, axis=0) if kind == "GG" else ends


def _scatter(ends: Ints, todo: Ints, kind: str, sizes: tuple[int, int], random: np.random.Generator) -> Ints:
    """Put edges between random nodes."""
    ends = ends.copy()
    for _ in range(_ROUNDS):
        new = np.stack([random.integers(size, size=len(todo)) for size in sizes])
        fits = _fits(new, ends, kind)
        ends[:, todo[fits]] = new[:, fits]
        todo = todo[~fits]
    return np.sort(ends, axis=0) if kind == "GG" else ends


def _fits(new: Ints, ends: Ints, kind: str) -> NDArray[np.bool_]:
    """Which of the new edges are no loops, not there yet, and unlike one another."""
    together = np.concatenate([new, ends], axis=1)
    together = np.sort(together, axis=0) if kind == "GG" else together
    _, back, count = np.unique(code(together), return_inverse=True, return_counts=True)
    fits = count[back[: new.shape[1]]] == 1
    return fits & ((new[0] != new[1]) | (kind == "PG"))
