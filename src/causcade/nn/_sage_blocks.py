"""GraphSAGE by blocks: genes and pathways apart, so that nothing is done for edges that cannot be there.

The same numbers as layers of :class:`causcade.nn.message_passing.Layer` with a ReLU between, far quicker on the CPU. Values
that are the same for all cells have a batch of 1, and are added up among themselves before they meet those that differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causcade.nn._sage_kernels import Kernels, kernels

if TYPE_CHECKING:
    from causcade.nn.message_passing import Layer, Relation

__all__ = ["Side", "sage"]

_CACHE = 1 << 18  # numbers that are held at a time
_LEAST = 1 << 16  # numbers from which loops are compiled


class Side(NamedTuple):
    """Values ``(n, n_nodes, batch or 1)`` of genes or of pathways, and which inputs of the first layer they are."""

    values: Tensor
    columns: slice


class _Sum(NamedTuple):
    """``weight @ values + same``: what nodes get in a layer. No values: the same for all cells; no weight: 1."""

    values: Tensor | None
    weight: Tensor | None
    same: Tensor  # (n_out, n_nodes, 1)


def sage(layers: Sequence[Layer], some: Sequence[list[Relation]], sides: dict[str, Side], n_genes: int) -> Tensor:
    """Pass messages through all layers.

    Parameters
    ----------
    layers
        All ``"sage"``.
    some
        Relations of each.
    sides
        Values of genes (``"G"``) and of pathways (``"P"``); inputs that a side does not hold are 0 there.
    n_genes
        Genes come first among the nodes.

    Returns
    -------
    ``(n_out, n_genes, batch or 1)``.
    """
    size = {"G": n_genes, "P": some[0][0].n_nodes - n_genes}
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
    wide: dict[str, list[Tensor]] = {to: [] for to in receivers}
    same: dict[str, list[Tensor]] = {to: [layer.bias[:, None, None].expand(-1, size[to], 1)] for to in receivers}
    for of, before in got.items():
        sent = [(to, layer.weight[r], relation.block(to + of, size["G"], before.same))
                for to in receivers for r, relation in enumerate(some)]  # fmt: skip
        sent = [one for one in sent if one[2] is not None]
        if of in receivers and layer.root is not None:
            sent.append((of, layer.root, None))
        if not sent:
            continue
        mixed = _after_relu(before, torch.cat([weight for _, weight, _ in sent])).split(layer.n_out)
        for (to, _, block), part in zip(sent, mixed, strict=True):
            (same if before.values is None else wide)[to].append(part if block is None else block.times(part))
    return {
        to: _Sum(sum(wide[to][1:], wide[to][0]) if wide[to] else None, None, sum(same[to][1:], same[to][0]))
        for to in receivers
    }


def _after_relu(before: _Sum, weight: Tensor) -> Tensor:
    if before.values is None:
        return _mix(weight, before.same.relu())
    first = weight.new_zeros(0, 0) if before.weight is None else before.weight
    out: Tensor = _Hidden.apply(before.values, first, before.same, weight)  # type: ignore[no-untyped-call]
    return out


class _Hidden(torch.autograd.Function):
    """``second @ relu(first @ values + same)``, some nodes after others so that what is wide stays in the cache."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, first: Tensor, same: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(values, first, same, second)
        _, n, batch = values.shape
        out = values.new_empty(len(second), n, batch)
        if (compiled := _compiled(values, first, same, second)) is not None:
            compiled[0](*_arrays(values, first, same[..., 0], second), out.numpy())
            return out
        for at, nodes in _pieces(values, len(same)):
            torch.mm(second, _hidden(values, first, same, at, nodes), out=out.flatten(1)[:, at])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        values, first, same, second = ctx.saved_tensors
        if (compiled := _compiled(values, first, same, second)) is not None:
            made = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (values, same, first, second)]
            found = [made[0], made[1][..., 0], *made[2:]]
            compiled[1](*_arrays(values, first, same[..., 0], second, gradients[0]), *(t.numpy() for t in found))
            return made[0] if ctx.needs_input_grad[0] else None, made[2], made[1], made[3]
        after = gradients[0].flatten(1)
        before = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        sums, weight, learnt = torch.empty_like(same), torch.zeros_like(first), torch.zeros_like(second)
        for at, nodes in _pieces(values, len(same)):
            hidden = _hidden(values, first, same, at, nodes)
            inner = second.T @ after[:, at]
            torch.ops.aten.threshold_backward(inner, hidden, 0, grad_input=inner)
            learnt.addmm_(after[:, at], hidden.T)
            torch.sum(inner.unflatten(1, (-1, values.shape[2])), 2, keepdim=True, out=sums[:, nodes])
            if len(first):
                weight.addmm_(inner, values.flatten(1)[:, at].T)
            if before is not None:
                before.flatten(1)[:, at] = first.T @ inner if len(first) else inner
        return before, weight if len(first) else None, sums, learnt


def _compiled(values: Tensor, first: Tensor, same: Tensor, second: Tensor) -> Kernels | None:
    """Loops for these sizes; None where compiling them does not pay, or where they cannot run."""
    here = (values, first, same, second)
    if (
        values.numel() < _LEAST
        or not len(first)
        or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in here)
    ):
        return None
    return kernels(len(values), len(first), len(second))


def _arrays(*tensors: Tensor) -> list[NDArray[np.float32]]:
    return [t.detach().contiguous().numpy() for t in tensors]


def _pieces(values: Tensor, width: int) -> list[tuple[slice, slice]]:
    """Columns of the flat values, and their nodes."""
    _, n, batch = values.shape
    step = max(1, _CACHE // (width * batch)) if values.device.type == "cpu" else n
    starts = range(0, n, step)
    return [(slice(i * batch, min(i + step, n) * batch), slice(i, min(i + step, n))) for i in starts]


def _hidden(values: Tensor, first: Tensor, same: Tensor, at: slice, nodes: slice) -> Tensor:
    part = values.flatten(1)[:, at]
    found = first @ part if len(first) else part.clone()
    found.unflatten(1, (-1, values.shape[2])).add_(same[:, nodes])
    return found.relu_()


def _mix(weight: Tensor, values: Tensor) -> Tensor:
    return (weight @ values.flatten(1)).unflatten(1, values.shape[1:])
