"""Checks of arguments that several entry points share."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

__all__ = ["at_least", "check_compose", "generator"]


def at_least(value: Any, least: int, name: str) -> int:
    """Return `value` as an int if it is a whole number of at least `least`.

    Raises
    ------
    ValueError
        If it is not; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        msg = f"{name} must be a whole number of at least {least}, not {value!r}."
        raise ValueError(msg)
    return int(value)


def check_compose(value: Any) -> bool | Literal["plain"]:
    """Return how scores are to be composed.

    Raises
    ------
    ValueError
        If it is none of the ways.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, str) or value != "plain":
        msg = f"compose must be True, False or 'plain', not {value!r}."
        raise ValueError(msg)
    return "plain"


def generator(rng: Any) -> np.random.Generator:
    """Make a generator of a seed; a generator is passed on.

    Raises
    ------
    ValueError
        If `rng` is no non-negative int, generator or None.
    """
    if isinstance(rng, bool) or not isinstance(rng, int | np.integer | np.random.Generator | None):
        msg = f"rng must be a non-negative int, a numpy Generator or None, not {rng!r}."
        raise ValueError(msg)
    if isinstance(rng, int | np.integer) and rng < 0:
        msg = f"rng must not be negative, got {rng}."
        raise ValueError(msg)
    return np.random.default_rng(rng)
