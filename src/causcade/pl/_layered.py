"""Layered drawing of an acyclic graph: boxes in layers, arrows from layer to layer, long ones in lanes of their own.

The steps are those of Sugiyama, Tagawa and Toda (1981). Lengths are in points; `u` runs along the arrows and `v` along
a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from scipy.optimize import isotonic_regression

__all__ = ["Layout", "layered", "layers_of", "topological_order"]

Edge = tuple[int, int]

_APPROACH: Final = 7.0  # straight end of an arrow, so that its head meets the box squarely
_PAD: Final = 7.0  # between boxes of a layer
_LANE: Final = 8.0  # of an arrow that passes a layer
_GAP: Final = (26.0, 70.0)  # between layers, more where arrows climb far
_APART: Final = 26.0  # between parts of the graph that are not connected
_PORT, _PORTS, _PORT_SHARE = 4.0, 90.0, 0.7  # wanted per arrow, most for all, share of the box
_SWEEPS: Final = 12
_SHAPE: Final = 1.5  # wanted width over height


@dataclass(frozen=True)
class Layout:
    """Where boxes and arrows lie, in points, y upwards, lower left corner at 0.

    Attributes
    ----------
    centres
        Middle of each box that was placed.
    routes
        Per edge, in the order given, the corners of its way: straight, then in turn curved and straight.
    sizes
        (n, 2) width and height of the boxes; those with many arrows have grown.
    size
        Width and height of all.
    upright
        Whether arrows run downwards (otherwise to the right).
    """

    centres: dict[int, np.ndarray]
    routes: list[np.ndarray]
    sizes: np.ndarray
    size: tuple[float, float]
    upright: bool


def topological_order(edges: list[Edge], nodes: list[int]) -> list[int]:
    """Causes before effects; of equal ones the lowest number first. The edges must be acyclic."""
    level = layers_of(edges, nodes)
    return sorted(nodes, key=lambda node: (level[node], node))


def layers_of(edges: list[Edge], nodes: list[int]) -> dict[int, int]:
    """Layer of each node, 0 at the top; a node without causes lies right above its first effect.

    Raises
    ------
    ValueError
        If the edges have a cycle.
    """
    level = dict.fromkeys(nodes, 0)
    for _ in range(len(nodes) + 1):
        late = [(i, j) for i, j in edges if level[j] <= level[i]]
        if not late:
            break
        for i, j in late:
            level[j] = max(level[j], level[i] + 1)
    else:
        msg = "The edges have a cycle, so they cannot be drawn in layers."
        raise ValueError(msg)
    effects = {j for _, j in edges}
    for node in set(level) - effects:
        below = [level[j] for i, j in edges if i == node]
        level[node] = min(below) - 1 if below else 0
    return level


def layered(sizes: np.ndarray, edges: list[Edge]) -> Layout:
    """Lay out a graph, with the arrows to the right or downwards, whichever gives the handier picture.

    Parameters
    ----------
    sizes
        (n, 2) width and height of the boxes, points.
    edges
        Pairs of positions [cause, effect], acyclic; a pair may occur twice. Boxes without an edge are not placed.
    """
    both = [_packed(sizes, edges, upright=upright) for upright in (False, True)]
    return min(both, key=lambda layout: max(layout.size[0] / _SHAPE, layout.size[1]))


def _packed(sizes: np.ndarray, edges: list[Edge], *, upright: bool) -> Layout:
    """Lay out each connected part, and put the parts on shelves, the tallest first."""
    sizes = _grown(sizes, edges, side=0 if upright else 1)
    along = sizes[:, ::-1] if upright else sizes
    drawn = [(part, _Part(along, [edges[e] for e in part])) for part in _parts(edges)]
    boxes = [part.size[::-1] if upright else part.size for _, part in drawn]
    places, size = _shelves(boxes)
    centres: dict[int, np.ndarray] = {}
    routes: list[np.ndarray] = [np.empty((0, 2))] * len(edges)
    for (which, part), corner in zip(drawn, places, strict=True):
        for node, at in part.centres.items():
            centres[node] = _turned(at, corner, size, upright=upright)
        for e, route in zip(which, part.routes, strict=True):
            routes[e] = _turned(route, corner, size, upright=upright)
    return Layout(centres, routes, sizes, size, upright)


def _grown(sizes: np.ndarray, edges: list[Edge], *, side: int) -> np.ndarray:
    """Make boxes long enough for the heads of their arrows."""
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    most = np.max([np.bincount(column, minlength=len(sizes)) for column in ends.T], axis=0)
    out = sizes.astype(float)
    out[:, side] = np.maximum(out[:, side], np.minimum(_PORT * most / _PORT_SHARE, _PORTS))
    return out


def _turned(points: np.ndarray, corner: np.ndarray, size: tuple[float, float], *, upright: bool) -> np.ndarray:
    """From (u, v) of a part to (x, y) of the picture; y upwards."""
    across = (points[..., ::-1] if upright else points) + corner
    return np.stack([across[..., 0], size[1] - across[..., 1]], axis=-1)


def _parts(edges: list[Edge]) -> list[list[int]]:
    """Positions of the edges of each connected part, the largest first."""
    root = {node: node for edge in edges for node in edge}

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    for i, j in edges:
        root[find(j)] = find(i)
    parts: dict[int, list[int]] = {}
    for e, (i, _) in enumerate(edges):
        parts.setdefault(find(i), []).append(e)
    return sorted(parts.values(), key=lambda part: -len(part))


def _shelves(boxes: list[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Upper left corner of each box, y downwards, and the size of all."""
    area = sum(float((box + _APART).prod()) for box in boxes)
    room = max([float(box[0]) for box in boxes] + [float(np.sqrt(_SHAPE * area))])
    places: list[np.ndarray] = [np.zeros(2)] * len(boxes)
    x = top = deep = width = 0.0
    for b in sorted(range(len(boxes)), key=lambda b: -boxes[b][1]):
        if x and x + boxes[b][0] > room:
            x, top, deep = 0.0, top + deep + _APART, 0.0
        places[b] = np.array([x, top])
        x += boxes[b][0] + _APART
        width, deep = max(width, x - _APART), max(deep, float(boxes[b][1]))
    return places, (width, top + deep)


class _Part:
    """A connected part: layers, order within them, heights, ways of the arrows."""

    def __init__(self, sizes: np.ndarray, edges: list[Edge]) -> None:
        self.edges = edges
        self.nodes = sorted({node for edge in edges for node in edge})
        self.level = layers_of(edges, self.nodes)
        self.extent = {node: sizes[node].astype(float) for node in self.nodes}
        self._lanes()
        self._order()
        self._heights()
        self._columns()
        self.centres = {node: np.array([self.middle[self.level[node]], self.v[node]]) for node in self.nodes}
        self.routes = self._routes()

    def _lanes(self) -> None:
        """Give every long edge a point in each layer that it passes; chains run from cause to effect."""
        self.chains: list[list[int]] = []
        lane = -1  # points have negative numbers
        for i, j in self.edges:
            chain = [i]
            for level in range(self.level[i] + 1, self.level[j]):
                self.level[lane] = level
                chain.append(lane)
                lane -= 1
            self.chains.append([*chain, j])
        self.before: dict[int, list[int]] = {item: [] for item in self.level}
        self.after: dict[int, list[int]] = {item: [] for item in self.level}
        for chain in self.chains:
            for a, b in pairwise(chain):
                self.after[a].append(b)
                self.before[b].append(a)
        first = min(self.level.values())
        self.level = {item: level - first for item, level in self.level.items()}
        self.layers: list[list[int]] = [[] for _ in range(1 + max(self.level.values()))]
        for item, level in self.level.items():
            self.layers[level].append(item)

    def _order(self) -> None:
        """Order each layer by the mean place of the neighbours, up and down; keep the order of fewest crossings."""
        best, fewest = [list(layer) for layer in self.layers], self._crossings()
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            near = self.before if down else self.after
            levels = range(1, len(self.layers)) if down else range(len(self.layers) - 2, -1, -1)
            for level in levels:
                place = {item: k for layer in self.layers for k, item in enumerate(layer)}
                mean = {i: np.mean([place[o] for o in near[i]] or [place[i]]) for i in self.layers[level]}
                self.layers[level].sort(key=lambda item: float(mean[item]))
            if (crossings := self._crossings()) < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _crossings(self) -> int:
        place = {item: k for layer in self.layers for k, item in enumerate(layer)}
        total = 0
        for layer in self.layers[:-1]:
            ends = np.array([(place[a], place[b]) for a in layer for b in self.after[a]])
            if len(ends):
                a, b = ends.T
                total += int(((a[:, None] < a) & (b[:, None] > b)).sum())
        return total

    def _heights(self) -> None:
        """Pull every item towards its neighbours, as far as order and room in its layer let it; lanes pull hardest."""
        wide = {item: self.extent[item][1] if item >= 0 else _LANE for item in self.level}
        steps = [
            np.cumsum([0.0] + [(wide[a] + wide[b]) / 2 + (_PAD if a >= 0 or b >= 0 else 0) for a, b in pairwise(layer)])
            for layer in self.layers
        ]
        self.v = {
            i: float(s - step[-1] / 2)
            for layer, step in zip(self.layers, steps, strict=True)
            for i, s in zip(layer, step, strict=True)
        }
        for sweep in range(3 * _SWEEPS):
            order = range(len(self.layers))
            for level in order if sweep % 2 == 0 else reversed(order):
                wanted, pull = np.array([self._wanted(item) for item in self.layers[level]]).T
                placed = isotonic_regression(wanted - steps[level], weights=pull).x + steps[level]
                self.v.update(zip(self.layers[level], placed.tolist(), strict=True))
        top = min(self.v[i] - wide[i] / 2 for i in self.v)
        self.v = {item: at - top for item, at in self.v.items()}
        self.deep = max(self.v[i] + wide[i] / 2 for i in self.v)

    def _wanted(self, item: int) -> tuple[float, float]:
        others = self.before[item] + self.after[item]
        pull = np.array([(8.0 if other < 0 else 2.0) if item < 0 else 1.0 for other in others])
        return float(pull @ [self.v[other] for other in others] / pull.sum()), float(pull.sum())

    def _columns(self) -> None:
        """Borders of the layers; the gap between two grows with how far its arrows climb."""
        self.start, self.end = [], []
        at = 0.0
        for layer in self.layers:
            wide = max([self.extent[item][0] for item in layer if item >= 0])
            self.start.append(at)
            self.end.append(at + wide)
            climb = max([abs(self.v[a] - self.v[b]) for a in layer for b in self.after[a]], default=0.0)
            at += wide + 2 * _APPROACH + float(np.clip(0.18 * climb, *_GAP))
        self.middle = [(a + b) / 2 for a, b in zip(self.start, self.end, strict=True)]
        self.size = np.array([self.end[-1], self.deep])

    def _routes(self) -> list[np.ndarray]:
        leave = self._ports([(chain[0], chain[1]) for chain in self.chains])
        enter = self._ports([(chain[-1], chain[-2]) for chain in self.chains])
        out = []
        for e, chain in enumerate(self.chains):
            first, last = self.level[chain[0]], self.level[chain[-1]]
            cause, effect = self.extent[chain[0]][0] / 2, self.extent[chain[-1]][0] / 2
            points = [(self.middle[first] + cause, leave[e]), (self.end[first] + _APPROACH, leave[e])]
            for lane in chain[1:-1]:
                level = self.level[lane]
                points += [(self.start[level] - _APPROACH, self.v[lane]), (self.end[level] + _APPROACH, self.v[lane])]
            points += [(self.start[last] - _APPROACH, enter[e]), (self.middle[last] - effect, enter[e])]
            out.append(np.array(points))
        return out

    def _ports(self, ends: list[tuple[int, int]]) -> list[float]:
        """Where on its box each arrow starts or ends: in the order of the places it leads to."""
        at = [0.0] * len(ends)
        for node in {node for node, _ in ends}:
            mine = sorted((e for e, end in enumerate(ends) if end[0] == node), key=lambda e: self.v[ends[e][1]])
            room = _PORT_SHARE * self.extent[node][1]
            step = min(room / max(len(mine) - 1, 1), 9.0)
            for k, e in enumerate(mine):
                at[e] = self.v[node] + step * (k - (len(mine) - 1) / 2)
        return at
