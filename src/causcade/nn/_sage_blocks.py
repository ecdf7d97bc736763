"""GraphSAGE by blocks: genes and pathways apart, so that nothing is done for edges that cannot be there.

The same numbers as layers of :class:`causcade.nn.message_passing.Layer` with a ReLU between, far quicker on the CPU. Values
that are the same for all cells have a batch of 1, and are added up among themselves before they meet those that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from causcade.nn._sage_round import Sender, send

if TYPE_CHECKING:
    from causcade.nn.message_passing import Layer, Relation

__all__ = ["Side", "sage"]


class Side(NamedTuple):
    """Values ``(n, n_nodes, batch or 1)`` of genes or of pathways, and which inputs of the first layer they are."""

    values: Tensor
    columns: slice


class _Sum(NamedTuple):
    """``weight @ values + same``: what nodes get in a layer. No values: the same for all cells; no weight: 1."""

    values: Tensor | None
    weight: Tensor | None
    same: Tensor  # (n_out, n_nodes, 1)


def sage(
    layers: Sequence[Layer], some: Sequence[list[Relation]], sides: dict[str, Side], n_genes: int, n_pathways: int
) -> Tensor:
    """Pass messages through all layers.

    Parameters
    ----------
    layers
        All ``"sage"``.
    some
        Relations of each.
    sides
        Values of genes (``"G"``) and of pathways (``"P"``); inputs that a side does not hold are 0 there.
    n_genes, n_pathways
        Genes come first among the nodes.

    Returns
    -------
    ``(n_out, n_genes, batch or 1)``.
    """
    size = {"G": n_genes, "P": n_pathways}
    everyone = [end for end in size if size[end]]
    receivers = [*[everyone] * (len(layers) - 1), ["G"]]
    got = {to: _first(layers[0], some[0], sides, to, size) for to in receivers[0]}
    for layer, relations, ends in zip(layers[1:], some[1:], receivers[1:], strict=True):
        got = _later(layer, relations, got, ends, size)
    values, weight, same = got["G"]
    if values is None:
        return same
    return (values if weight is None else _mix(weight, values)) + same


def _first(layer: Layer, some: list[Relation], sides: dict[str, Side], to: str, size: dict[str, int]) -> _Sum:
    """Products before weights: the input is narrow."""
    found: dict[bool, tuple[list[Tensor], list[Tensor]]] = {True: ([], []), False: ([], [])}
    for of, (values, columns) in sides.items():
        weights, parts = found[values.shape[2] == 1]
        for r, relation in enumerate(some):
            if (block := relation.block(to + of, size["G"], values)) is not None:
                weights.append(layer.weight[r][:, columns])
                parts.append(block.times(values))
        if of == to and layer.root is not None:
            weights.append(layer.root[:, columns])
            parts.append(values)
    same = layer.bias[:, None, None].expand(-1, size[to], 1)
    weights, parts = found[True]
    if parts:
        same = same + _mix(torch.cat(weights, 1), torch.cat(parts))
    weights, parts = found[False]
    return _Sum(torch.cat(parts), torch.cat(weights, 1), same) if parts else _Sum(None, None, same)


def _later(
    layer: Layer, some: list[Relation], got: dict[str, _Sum], receivers: list[str], size: dict[str, int]
) -> dict[str, _Sum]:
    """Weights before products: values are wide, and are never held for longer than it takes."""
    same: dict[str, list[Tensor]] = {to: [layer.bias[:, None, None].expand(-1, size[to], 1)] for to in receivers}
    wide: list[Sender] = []
    for of, before in got.items():
        sent = [(to, layer.weight[r], relation.block(to + of, size["G"], before.same))
                for to in receivers for r, relation in enumerate(some)]  # fmt: skip
        sent = [one for one in sent if one[2] is not None]
        if of in receivers and layer.root is not None:
            sent.append((of, layer.root, None))
        if not sent:
            continue
        weight, slots = torch.cat([part for _, part, _ in sent]), [(to, block) for to, _, block in sent]
        if before.values is not None:
            first = weight.new_zeros(0, 0) if before.weight is None else before.weight
            wide.append(Sender(before.values, first, before.same, weight, slots))
            continue
        for (to, block), part in zip(slots, _mix(weight, before.same.relu()).split(layer.n_out), strict=True):
            same[to].append(part if block is None else block.times(part))
    sums = send(wide)
    return {to: _Sum(sums.get(to), None, sum(same[to][1:], same[to][0])) for to in receivers}


def _mix(weight: Tensor, values: Tensor) -> Tensor:
    return (weight @ values.flatten(1)).unflatten(1, values.shape[1:])
