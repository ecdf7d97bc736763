"""FCI on a few nodes, from all their partial correlations.

Sets of nodes are bit masks. ``mark[a, b]`` is the mark at a of the edge between a and b. ``apart[a, b]`` is the set
that separated a and b, or -1. ``free[s, a, b]`` says that a and b were found independent given the set s.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causcade._jit import jit

__all__ = [
    "MAX_NODES",
    "colliders",
    "critical_values",
    "partial_correlations",
    "possible_dsep",
    "prune",
    "search",
    "skeleton",
]

MAX_NODES = 6  # every set of nodes is tested
COLLINEAR = 1e-6  # share of variance left, below which a gene counts as a function of others; float32 ends at 1e-7
SIZE = np.array([s.bit_count() for s in range(2**MAX_NODES)])
NONE, TAIL, ARROW, CIRCLE = 0, 1, 2, 3
TOKEN = np.zeros((4, 4), np.int8)  # by the marks at the first and at the second gene
TOKEN[NONE, NONE], TOKEN[TAIL, ARROW], TOKEN[ARROW, TAIL], TOKEN[ARROW, ARROW] = 1, 2, 3, 4
TOKEN[ARROW, CIRCLE], TOKEN[CIRCLE, ARROW], TOKEN[CIRCLE, CIRCLE] = 5, 6, 7


def critical_values(k: int, n_cells: int, alpha: float) -> NDArray[np.float64]:
    """Smallest absolute correlation that is significant, by the number of genes given (0 to k - 2)."""
    free = n_cells - 3 - np.arange(k - 1)
    critical = np.tanh(-NormalDist().inv_cdf(alpha / 2) / np.sqrt(np.maximum(free, 1)))
    return np.where(free > 0, critical, 2.0)  # no correlation reaches 2


@jit
def search(blocks: Any, critical: Any, tokens: Any) -> None:
    """Fill ``tokens`` ``(n, k, k)`` from correlations ``(n, k, k)`` and the critical value for each size of a set."""
    k = blocks.shape[1]
    partial = np.zeros((1 << k, k, k))
    free = np.zeros((1 << k, k, k), np.bool_)
    mark, apart = np.zeros((k, k), np.int8), np.zeros((k, k), np.int64)
    for t in range(len(blocks)):
        partial_correlations(blocks[t], partial)
        for s in range(1 << k):
            for a in range(k):
                for b in range(k):
                    free[s, a, b] = SIZE[s] <= k - 2 and abs(partial[s, a, b]) < critical[SIZE[s]]
        skeleton(free, mark, apart)
        colliders(mark, apart)
        prune(free, mark, apart)
        colliders(mark, apart)
        changed = True
        while changed:
            changed = _away(mark)
            changed = _double_triangles(mark, apart) or changed
            if changed:
                _discriminating_paths(free, mark, apart)
        for a in range(k):
            for b in range(k):
                if a != b:
                    tokens[t, a, b] = TOKEN[mark[a, b], mark[b, a]]


@jit
def partial_correlations(r: Any, partial: Any) -> None:
    """Fill ``partial[s, a, b]`` for every set s and pair outside it; 0 if s determines a or b."""
    k = len(r)
    for s in range(1 << k):
        last = 0  # the highest member of s; the others were done before
        while s >> (last + 1):
            last += 1
        rest = s & ~(1 << last)
        for a in range(k):
            for b in range(a + 1, k):
                if s >> a & 1 or s >> b & 1:
                    continue
                value = r[a, b]
                if s:
                    x, y = partial[rest, a, last], partial[rest, b, last]
                    left_a, left_b = 1 - x * x, 1 - y * y
                    value = 0.0
                    if left_a > COLLINEAR and left_b > COLLINEAR:
                        value = (partial[rest, a, b] - x * y) / np.sqrt(left_a * left_b)
                value = min(max(value, -1.0), 1.0)
                partial[s, a, b] = value
                partial[s, b, a] = value


@jit
def _marked(mark: Any, a: int, kind: int) -> int:
    """Nodes whose edge to a has this mark at a."""
    out = 0
    for b in range(len(mark)):
        if mark[a, b] == kind:
            out |= 1 << b
    return out


@jit
def _neighbours(mark: Any, a: int) -> int:
    return ((1 << len(mark)) - 1) & ~_marked(mark, a, NONE)


@jit
def skeleton(free: Any, mark: Any, apart: Any) -> None:
    """Remove edges, all those of a depth at once; ``apart`` joins all sets that separated at that depth."""
    k = len(mark)
    for a in range(k):
        for b in range(k):
            mark[a, b], apart[a, b] = (CIRCLE if a != b else NONE), -1
    for depth in range(k - 1):
        for a in range(k):
            beside = _neighbours(mark, a)
            for b in range(k):
                others = beside & ~(1 << b)
                if not beside >> b & 1 or SIZE[others] < depth:
                    continue
                for s in range(others + 1):
                    if s & ~others == 0 and SIZE[s] == depth and free[s, a, b]:
                        apart[a, b] = max(apart[a, b], 0) | s
                        apart[b, a] = max(apart[b, a], 0) | s
        for a in range(k):
            for b in range(k):
                if apart[a, b] >= 0:
                    mark[a, b] = NONE


@jit
def colliders(mark: Any, apart: Any) -> None:
    """Forget all marks, then orient a *-> b <-* c where b did not help to separate a from c."""
    k = len(mark)
    for a in range(k):
        for b in range(k):
            if mark[a, b] != NONE:
                mark[a, b] = CIRCLE
    for b in range(k):
        for a in range(k):
            for c in range(a + 1, k):
                if mark[b, a] == NONE or mark[b, c] == NONE or mark[a, c] != NONE:
                    continue
                if apart[a, c] >= 0 and not apart[a, c] >> b & 1:
                    mark[b, a] = ARROW
                    mark[b, c] = ARROW


# --- possible d-sep -----------------------------------------------------------------------------------------------


@jit
def prune(free: Any, mark: Any, apart: Any) -> None:
    """Remove edges whose ends are independent given possible-d-sep nodes, one edge after another."""
    k = len(mark)
    for i in range(k):
        for j in range(i + 1, k):
            if mark[i, j] == NONE:
                continue
            turned = mark[i, j] == ARROW and mark[j, i] != ARROW  # an arrow never points to the first node alone
            a, b = (j, i) if turned else (i, j)
            s = _separator(free, mark, a, b, possible_dsep(mark, a, b))
            if s < 0:
                s = _separator(free, mark, a, b, possible_dsep(mark, b, a))
            if s >= 0:
                mark[a, b] = NONE
                mark[b, a] = NONE
                apart[a, b] = s  # not apart[b, a]


@jit
def _separator(free: Any, mark: Any, a: int, b: int, members: int) -> int:
    """First set of two or more members that separates a from b, or -1; small sets first, high nodes first."""
    for size in range(2, SIZE[members] + 1):
        first = True
        s = members
        while s:  # all subsets of members, in falling order
            if SIZE[s] == size:
                tested = not first or size == SIZE[members]
                first = False
                known = s & ~_neighbours(mark, a) == 0 or s & ~_neighbours(mark, b) == 0
                if tested and not known and free[s, a, b]:
                    return s
            s = (s - 1) & members
    return -1


@jit
def possible_dsep(mark: Any, x: int, y: int) -> int:
    """Neighbours of x, and nodes two steps away behind a collider that a semi-directed path takes back.

    The search looks no further: it goes on from x only, as causal-learn does.
    """
    k = len(mark)
    near = _neighbours(mark, x) & ~(1 << y)
    out, queued, n_far = near, near, 0
    far, before = np.zeros(k, np.int64), np.zeros(k, np.int64)
    for b in range(k):
        if near >> b & 1:
            for c in range(k):
                if mark[b, c] == NONE or c == x or c == y:
                    continue
                before[c] |= 1 << b
                if not queued >> c & 1 and mark[b, x] == ARROW and mark[b, c] == ARROW:
                    queued |= 1 << c
                    far[n_far] = c
                    n_far += 1
    for i in range(n_far):
        c = far[i]
        for b in range(k):
            if before[c] >> b & 1 and (_reaches(mark, b, x) or _reaches(mark, b, c)):
                out |= 1 << c
        for d in range(k):
            if mark[c, d] != NONE:
                before[d] |= 1 << c
    return out


@jit
def _reaches(mark: Any, start: int, goal: int) -> bool:
    """Whether a path leads from start to goal that leaves no node against an arrow."""
    seen, old = 1 << start, 0
    while seen != old:
        old = seen
        for a in range(len(mark)):
            if seen >> a & 1:
                for b in range(len(mark)):
                    if mark[a, b] == TAIL or mark[a, b] == CIRCLE:
                        seen |= 1 << b
    return seen >> goal & 1 == 1


# --- orientation --------------------------------------------------------------------------------------------------


@jit
def _away(mark: Any) -> bool:
    """Rules R1 and R2 at every middle node."""
    k, changed = len(mark), False
    for b in range(k):
        for i in range(k):
            for j in range(i + 1, k):
                if mark[b, i] == NONE or mark[b, j] == NONE:
                    continue
                for a, c in ((i, j), (j, i)):  # a *-> b o-* c becomes b -> c
                    if mark[a, c] == NONE and mark[b, a] == ARROW and mark[b, c] == CIRCLE and mark[c, b] != TAIL:
                        mark[c, b] = ARROW
                        mark[b, c] = TAIL
                        changed = True
                for a, c in ((i, j), (j, i)):  # a -> b *-> c or a *-> b -> c, and a *-o c becomes a *-> c
                    ahead = mark[b, a] == ARROW and mark[c, b] == ARROW and (mark[a, b] == TAIL or mark[b, c] == TAIL)
                    if ahead and mark[c, a] == CIRCLE:
                        mark[c, a] = ARROW
                        changed = True
    return changed


@jit
def _double_triangles(mark: Any, apart: Any) -> bool:
    """Rule R3: a *-> b <-* c, a *-o d o-* c and d *-o b become d *-> b."""
    k, changed = len(mark), False
    for b in range(k):
        circles, arrows = _marked(mark, b, CIRCLE), _marked(mark, b, ARROW)  # as they are before any is changed
        for d in range(k):
            for a in range(k):
                for c in range(a + 1, k):
                    if not (circles >> d & 1 and arrows >> a & 1 and arrows >> c & 1 and mark[a, c] == NONE):
                        continue
                    if mark[d, a] != CIRCLE or mark[d, c] != CIRCLE or mark[b, d] == TAIL:
                        continue
                    if apart[a, c] >= 0 and apart[a, c] >> d & 1:
                        mark[b, d] = ARROW
                        changed = True
    return changed


@jit
def _discriminating_paths(free: Any, mark: Any, apart: Any) -> None:
    """Rule R4 at every triangle a <-* b o-> c, a -> c."""
    k = len(mark)
    for b in range(k):
        circles = _marked(mark, b, CIRCLE)  # before any is changed
        for a in range(k):
            for c in range(k):
                triangle = mark[a, b] == ARROW and circles >> c & 1 and mark[c, b] == ARROW
                if triangle and mark[a, c] == TAIL and mark[c, a] == ARROW:
                    _follow(free, mark, apart, a, b, c)


@jit
def _follow(free: Any, mark: Any, apart: Any, a: int, b: int, c: int) -> None:
    """Search back from a, along colliders that are parents of c, for a node that is not next to c."""
    k = len(mark)
    seen, n_queue, at = 1 << a | 1 << b, 1, 0
    queue, after, path = np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64)
    queue[0], after[a], path[a] = a, b, 1 << a | 1 << b
    while at < n_queue:
        t = queue[at]
        at += 1
        for d in range(k):
            if mark[t, d] != ARROW or seen >> d & 1 or mark[t, after[t]] != ARROW:
                continue
            if d != c and mark[d, c] == NONE and _discriminate(free, mark, apart, a, b, c, d, path[t]):
                return
            if mark[d, c] == TAIL and mark[c, d] == ARROW:
                seen |= 1 << d
                after[d], path[d] = t, path[t] | 1 << d
                queue[n_queue] = d
                n_queue += 1


@jit
def _discriminate(free: Any, mark: Any, apart: Any, a: int, b: int, c: int, d: int, path: int) -> bool:
    """Orient b on the path from d to c: b -> c if b helps to separate them, otherwise a <-> b <-> c."""
    helps = free[path, c, d]
    if not helps and not free[path & ~(1 << b), c, d]:
        if apart[d, c] < 0:
            return False
        helps = apart[d, c] >> b & 1 == 1
    if helps:
        mark[b, c] = TAIL
        return True
    if mark[b, a] == TAIL or mark[b, c] == TAIL:
        return False
    mark[b, a] = ARROW
    mark[b, c] = ARROW
    return True
