"""Compilation where numba is installed, and the function itself elsewhere."""

from __future__ import annotations

import sys

import pytest

from causcade._jit import jit


def add(x: float, y: float) -> float:
    return x + y


def test_compiled_where_numba_is() -> None:
    compiled = jit(add)
    assert compiled.py_func is add and compiled(1.5, 2.0) == 3.5


def test_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert jit(add) is add
