"""A round of messages after the first: hidden values, their weights, and sums over senders, as one step for autograd.

What is wide (a number for every node, cell and hidden unit) is made and used piece by piece, and sums are added up where
they end, so that little is written to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from causcade.nn._sage_kernels import Kernels, kernels
from causcade.nn._sparse import Block

__all__ = ["Sender", "send"]

_CACHE = 1 << 18  # numbers that are held at a time
_LEAST = 1 << 16  # numbers from which loops are compiled

Slot = tuple[str, Block | None]


class Sender(NamedTuple):
    """What nodes of a sort send: ``second @ relu(first @ values + same)``, in equal parts.

    Attributes
    ----------
    values
        ``(n_in, n_nodes, batch)``.
    first
        ``(width, n_in)``; ``(0, 0)`` stands for 1.
    same
        ``(width, n_nodes, 1)``.
    second
        ``(n_slots * n_out, width)``.
    slots
        Of each part: who receives it, and the means over senders; None: the nodes themselves.
    """

    values: Tensor
    first: Tensor
    same: Tensor
    second: Tensor
    slots: list[Slot]


def send(senders: Sequence[Sender]) -> dict[str, Tensor]:
    """Sums ``(n_out, n_nodes, batch)`` of what each sort of node receives."""
    if not senders:
        return {}
    receivers = sorted({to for sender in senders for to, _ in sender.slots})
    slots = [sender.slots for sender in senders]
    found: Any = _Round.apply(receivers, slots, *(t for sender in senders for t in sender[:4]))  # type: ignore[no-untyped-call]
    return dict(zip(receivers, found, strict=True))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, receivers: list[str], slots: list[list[Slot]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.receivers, ctx.slots = receivers, slots
        parts: list[tuple[str, Block | None, Tensor]] = []
        for i, some in enumerate(slots):
            mixed = _forward(*tensors[4 * i : 4 * i + 4])
            parts += [(*slot, part) for slot, part in zip(some, mixed.chunk(len(some)), strict=True)]
        found: dict[str, Tensor] = {to: part for to, block, part in parts if block is None}
        for to, block, part in parts:
            if block is not None:
                _add(found, to, block, part)
        return tuple(found[to] for to in receivers)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        got = dict(zip(ctx.receivers, gradients, strict=True))
        found: list[Tensor | None] = [None, None]
        for i, some in enumerate(ctx.slots):
            values, first, same, second = ctx.saved_tensors[4 * i : 4 * i + 4]
            after = values.new_empty(len(second), *values.shape[1:])
            for (to, block), part in zip(some, after.chunk(len(some)), strict=True):
                for row, gradient in zip(part, got[to], strict=True):
                    row.copy_(gradient if block is None else block.transposed.times(gradient.contiguous()))
            found += _backward(values, first, same, second, after, of_values=ctx.needs_input_grad[2 + 4 * i])
        return tuple(found)


def _add(found: dict[str, Tensor], to: str, block: Block, part: Tensor) -> None:
    if to not in found:
        found[to] = torch.stack([block.matrix.times(row) for row in part])
        return
    for row, have in zip(part, found[to], strict=True):
        have += block.matrix.times(row)


def _forward(values: Tensor, first: Tensor, same: Tensor, second: Tensor) -> Tensor:
    """``second @ relu(first @ values + same)``, some nodes after others so that what is wide stays in the cache."""
    _, n, batch = values.shape
    out = values.new_empty(len(second), n, batch)
    if (compiled := _compiled(values, first, same, second, of_values=False)) is not None:
        compiled[0](*_arrays(values, first, same[..., 0], second), out.numpy())
        return out
    for at, nodes in _pieces(values, len(same)):
        out.flatten(1)[:, at] = second @ _hidden(values, first, same, at, nodes)
    return out


def _backward(
    values: Tensor, first: Tensor, same: Tensor, second: Tensor, gradient: Tensor, *, of_values: bool
) -> list[Tensor | None]:
    """Gradients of all four, given that of the result."""
    if (compiled := _compiled(values, first, same, second, of_values=of_values)) is not None:
        like = (values if of_values else values[:0], same, first, second)
        made = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in like]
        found = [made[0], made[1][..., 0], *made[2:]]
        compiled[1](*_arrays(values, first, same[..., 0], second, gradient), *(t.numpy() for t in found))
        return [made[0] if of_values else None, made[2], made[1], made[3]]
    after = gradient.flatten(1)
    before = torch.empty_like(values) if of_values else None
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
    return [before, weight if len(first) else None, sums, learnt]


def _compiled(values: Tensor, first: Tensor, same: Tensor, second: Tensor, *, of_values: bool) -> Kernels | None:
    """Loops for these sizes; None where compiling them does not pay, or where they cannot run."""
    here = (values, first, same, second)
    if (
        values.numel() < _LEAST
        or not len(first)
        or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in here)
    ):
        return None
    return kernels(len(values), len(first), len(second), of_values=of_values)


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
