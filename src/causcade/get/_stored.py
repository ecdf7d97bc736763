"""What all tables share: how results are told apart, and what is said when they are not there."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from causcade import _keys

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "FUSED",
    "LFC",
    "WILCOXON",
    "check_count",
    "has",
    "looks_like_causes",
    "looks_like_graph",
    "looks_like_targets",
    "names_of",
]

#: What lies beside the scores of `causcade.tl.targets`
LFC: Final = "lfc"
WILCOXON: Final = "wilcoxon"
FUSED: Final = "fused"


def check_count(value: Any, name: str) -> int:
    """Return `value` as a positive int, else raise ValueError."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        msg = f"{name} must be a whole number of at least 1, got {value!r}."
        raise ValueError(msg)
    return count


def has(stored: Any, *parts: str) -> bool:
    """Whether something in ``.uns`` is a dictionary with these entries."""
    return isinstance(stored, Mapping) and set(parts) <= set(stored)


def looks_like_causes(adata: AnnData, key: str) -> bool:
    """Whether `causcade.tl.causes` wrote under `key`."""
    scored = key in adata.varm or key in adata.varp
    others = looks_like_targets(adata, key) or looks_like_graph(adata, key)
    return has(adata.uns.get(key), _keys.NAMES, "weights") and scored and not others


def looks_like_graph(adata: AnnData, key: str) -> bool:
    """Whether `causcade.tl.graph` wrote under `key`; only it calls edges."""
    return has(adata.uns.get(key), _keys.NAMES, "threshold", "perturbed") and key in adata.varp


def looks_like_targets(adata: AnnData, key: str) -> bool:
    """Whether `causcade.tl.targets` wrote under `key`; fold changes stand beside its scores only."""
    return has(adata.uns.get(key), _keys.NAMES) and key in adata.varm and _keys.baseline(key, LFC) in adata.varm


def names_of(adata: AnnData, key: str) -> list[str]:
    """Names of the columns under `key`."""
    return [str(name) for name in np.atleast_1d(adata.uns[key][_keys.NAMES])]  # zarr gives StringDType back
