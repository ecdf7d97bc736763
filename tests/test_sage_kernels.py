"""Compiled loops of the hidden layer against the same in torch, in double precision."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from causcade.nn import _sage_kernels
from causcade.nn import _sage_round as blocks


def parts(n_in: int, width: int, n_out: int, *, n: int = 50, batch: int = 7) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(n_in)
    shapes = (n_in, n, batch), (width, n_in), (width, n, 1), (n_out, width)
    return [torch.randn(shape, generator=gen).requires_grad_() for shape in shapes]


def send(*tensors: torch.Tensor) -> torch.Tensor:
    return blocks.send([blocks.Sender(*tensors, [("G", None)])])["G"]


def answer(tensors: list[torch.Tensor], after: torch.Tensor) -> list[torch.Tensor]:
    out = send(*tensors)
    return [out.detach(), *torch.autograd.grad(out, tensors, after)]


@pytest.mark.parametrize("sizes", [(2, 4, 3), (1, 3, 1)])
def test_values_and_gradients(sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = parts(*sizes)
    after = torch.randn(7, 50, sizes[2], generator=torch.Generator().manual_seed(9)).permute(2, 1, 0)  # not contiguous
    used: list[Any] = []
    monkeypatch.setattr(blocks, "_LEAST", 0)
    monkeypatch.setattr(
        blocks,
        "kernels",
        lambda *n, of_values: used.append((*n, of_values)) or _sage_kernels.kernels(*n, of_values=of_values),
    )
    found = answer(tensors, after)
    assert used == [(*sizes, False), (*sizes, True)]
    values, first, same, second = doubled = [t.detach().double().requires_grad_() for t in tensors]
    out = torch.einsum("rj,jni->rni", second, (torch.einsum("ja,ani->jni", first, values) + same).relu())
    for one, other in zip(found, [out.detach(), *torch.autograd.grad(out, doubled, after.double())], strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-4)
    for one, other in zip(found, answer(tensors, after), strict=True):
        assert torch.equal(one, other)


def test_without_gradients_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LEAST", 0)
    values, *rest = parts(1, 3, 1)
    whole = torch.autograd.grad(send(values, *rest).sum(), rest)
    for one, other in zip(torch.autograd.grad(send(values.detach(), *rest).sum(), rest), whole, strict=True):
        assert torch.equal(one, other)


def test_small_double_or_identical_inputs_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(blocks, "kernels", lambda *sizes, of_values: asked.append((*sizes, of_values)))
    tensors = parts(2, 4, 3)
    send(*tensors)
    monkeypatch.setattr(blocks, "_LEAST", 0)
    send(*(t.double() for t in tensors))
    send(tensors[0], torch.zeros(0, 0), tensors[2][:2], tensors[3][:, :2])
    assert asked == []
    send(*tensors)
    assert asked == [(2, 4, 3, False)]


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_numba(name: str, *args: Any, **how: Any) -> Any:
        if name == "numba":
            raise ImportError
        return real(name, *args, **how)

    monkeypatch.setattr(builtins, "__import__", no_numba)
    assert _sage_kernels.kernels.__wrapped__(5, 5, 5, of_values=True) is None
