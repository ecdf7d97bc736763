"""Products with the own transpose, against those of two matrices."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from causcade import _gram
from causcade._gram import gram


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 7, 8, 23])
def test_is_the_product(columns: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram, "_LEAST", 4)
    a = torch.randn(11, columns, generator=torch.Generator().manual_seed(0), dtype=kind)
    for given in (a, a.T.contiguous().T):
        found = gram(given)
        torch.testing.assert_close(found, a.T @ a)
        assert found.dtype == kind
        assert torch.equal(found, found.T)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gram, "_LEAST", 4)
    a = torch.full((rows, 5), 2.0)
    assert torch.equal(gram(a), torch.full((5, 5), 4.0 * rows))


def test_small_ones_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.randn(30, 20)
    plain = gram(a)
    monkeypatch.setattr(_gram, "_LEAST", 4)
    real = builtins.__import__

    def no_scipy(name: str, *args: Any, **how: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError
        return real(name, *args, **how)

    monkeypatch.setattr(builtins, "__import__", no_scipy)
    assert torch.equal(gram(a), plain)
    assert torch.equal(plain, a.T @ a)
