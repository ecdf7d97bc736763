"""Untrained networks, from sizes that users give."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from causcade._checks import at_least
from causcade.pretrain import NETWORKS
from causcade.simulate._random import numpy_generator

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["untrained"]

_MAY_BE_ABSENT = {
    "paths",
    "rounds",
    "local",
    "codes",
    "head_width",
}  # parts of networks, by their width; 0 = none, or default
_CHOICES = {"form": ("concat", "difference")}


def untrained(kind: str, sizes: dict[str, Any], rng: int | np.random.Generator | None) -> nn.Module:
    """Network of a kind in :data:`causcade.pretrain.NETWORKS`; torch's global generator is left as it was.

    Raises
    ------
    ValueError
        If a size is unknown or out of range.
    """
    network, config = NETWORKS[kind]
    known = [f.name for f in fields(config)]
    if unknown := sorted(set(sizes) - set(known)):
        msg = f"Unknown sizes {unknown}; this preset has {known}."
        raise ValueError(msg)
    for field in (f for f in fields(config) if f.name in sizes):
        _check(field.name, sizes[field.name], type(field.default))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numpy_generator(rng).integers(2**31)))
        net: nn.Module = network(config(**sizes))
    return net


def _check(name: str, value: Any, kind: type) -> None:
    if kind is int:
        at_least(value, 0 if name in _MAY_BE_ABSENT else 1, name)
    elif kind is bool and not isinstance(value, bool):
        msg = f"{name} must be True or False, not {value!r}."
        raise ValueError(msg)
    elif name in _CHOICES and value not in _CHOICES[name]:
        msg = f"{name} must be one of {list(_CHOICES[name])}, not {value!r}."
        raise ValueError(msg)
