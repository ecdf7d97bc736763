"""Compilation where numba is installed; the same code in plain Python elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["jit"]

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile when first called; later processes read the result from disk."""
    try:
        from numba import njit
    except ImportError:
        return function
    try:
        return njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder that the cache could be written to
        return njit(nogil=True)(function)  # type: ignore[no-any-return]
