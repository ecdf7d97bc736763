"""Orders and closures of directed graphs ``(n, n)``, [cause, effect]. Public through ``graphs``."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ancestors", "check_adjacency", "is_dag", "levels", "path_lengths", "topological_order"]


def check_adjacency(adjacency: Tensor) -> Tensor:
    """Return a graph ``(n, n)``, [cause, effect], as a bool tensor.

    Raises
    ------
    TypeError
        If it is no torch tensor.
    ValueError
        If it is not square.
    """
    if not isinstance(adjacency, Tensor):
        msg = f"adjacency must be a torch tensor; got {type(adjacency).__name__}. Use torch.as_tensor(...)"
        raise TypeError(msg)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        msg = f"adjacency must be square (n, n), [cause, effect]; got shape {tuple(adjacency.shape)}"
        raise ValueError(msg)
    return adjacency if adjacency.dtype == torch.bool else adjacency != 0


def _peel(adjacency: Tensor) -> tuple[Tensor, Tensor]:
    """Remove roots again and again: the round in which each gene left (-1: never), and who stayed."""
    weights = adjacency.float()
    parents = weights.sum(0)
    level = torch.full((len(adjacency),), -1, dtype=torch.long, device=adjacency.device)
    for depth in range(len(adjacency)):
        roots = (parents == 0) & (level < 0)
        if not bool(roots.any()):
            break
        level[roots] = depth
        parents -= weights[roots].sum(0)
    return level, level < 0


def _name_cycle(adjacency: Tensor, stuck: Tensor) -> str:
    """Walk backwards inside what could not be peeled: every gene there has a parent there."""
    inside = (adjacency & stuck[:, None] & stuck[None, :]).cpu()
    walk = [int(stuck.nonzero()[0])]
    while walk[-1] not in walk[:-1]:
        walk.append(int(inside[:, walk[-1]].nonzero()[0]))
    cycle = walk[walk.index(walk[-1]) :][::-1]
    return " -> ".join(map(str, cycle))


def levels(adjacency: Tensor) -> Tensor:
    """Give the longest path from a root to every gene.

    Parameters
    ----------
    adjacency
        bool ``(n, n)``, [cause, effect].

    Returns
    -------
    torch.Tensor
        int64 ``(n,)``; 0 for roots, otherwise one more than the greatest level of the parents.

    Raises
    ------
    ValueError
        If there is a cycle; the message names it.
    """
    adjacency = check_adjacency(adjacency)
    level, stuck = _peel(adjacency)
    if bool(stuck.any()):
        msg = f"the graph has a cycle: {_name_cycle(adjacency, stuck)}. break_cycles(adjacency) removes cycles"
        raise ValueError(msg)
    return level


def topological_order(adjacency: Tensor) -> Tensor:
    """Order the genes so that every cause comes before its effects.

    Parameters
    ----------
    adjacency
        bool ``(n, n)``, [cause, effect].

    Returns
    -------
    torch.Tensor
        int64 ``(n,)`` gene positions, by level and then by position.

    Raises
    ------
    ValueError
        If there is a cycle; the message names it.
    """
    return levels(adjacency).argsort(stable=True)


def is_dag(adjacency: Tensor) -> bool:
    """Say whether the graph ``(n, n)``, [cause, effect], has no cycle (a self-loop is one)."""
    return not bool(_peel(check_adjacency(adjacency))[1].any())


def ancestors(adjacency: Tensor) -> Tensor:
    """Find every pair linked by a directed path of any length.

    Parameters
    ----------
    adjacency
        bool ``(n, n)``, [cause, effect]; cycles are allowed.

    Returns
    -------
    torch.Tensor
        bool ``(n, n)``, [cause, effect]; the diagonal is False.
    """
    adjacency = check_adjacency(adjacency)
    # paths run through genes that have children, often few: close those, then take one last step
    core = adjacency.any(1).nonzero().squeeze(1)
    last = adjacency[core].float()
    reach = last[:, core]
    while True:
        further = ((reach @ reach + reach) > 0).float()
        if torch.equal(further, reach):
            break
        reach = further
    closure = torch.zeros_like(adjacency)
    closure[core] = (reach @ last + last) > 0
    return closure.fill_diagonal_(fill_value=False)


def path_lengths(adjacency: Tensor, max_length: int | None = None) -> Tensor:
    """Give the length of the shortest directed path between all pairs.

    Parameters
    ----------
    adjacency
        bool ``(n, n)``, [cause, effect]; cycles are allowed.
    max_length
        Longer paths count as none; None: no limit.

    Returns
    -------
    torch.Tensor
        int64 ``(n, n)``, [cause, effect]; 1 for an edge, 0 where there is no path and on the diagonal.
    """
    adjacency = check_adjacency(adjacency)
    core = adjacency.any(1).nonzero().squeeze(1)
    step = adjacency[core].float()
    off_diagonal = ~torch.eye(len(adjacency), dtype=torch.bool, device=adjacency.device)
    front = adjacency & off_diagonal
    length = torch.zeros(adjacency.shape, dtype=torch.long, device=adjacency.device)
    for steps in range(1, len(adjacency) if max_length is None else max_length + 1):
        if not bool(front.any()):
            break
        length[front] = steps
        front = (front[:, core].float() @ step > 0) & (length == 0) & off_diagonal
    return length
