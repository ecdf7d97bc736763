"""Regime and batch of every cell, as a pass needs them: labels that are too rare to analyse count too."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causcade import _keys
from causcade.regimes import from_adata, read_column, read_obs, to_uns
from causcade.regimes.stored import _lookup

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["read_batches", "read_labels", "regime_of"]

logger = logging.getLogger(__name__)


def read_labels(
    adata: AnnData, perturbation_key: str | None, control: Any, regimes_key: str
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """What `causcade.pp.regimes` would store, or has stored, and the regime of every cell.

    Parameters
    ----------
    adata
        Annotated data.
    perturbation_key, control
        As in :func:`causcade.pp.regimes`; both ``None`` = take the regimes in ``.uns[regimes_key]``.
    regimes_key
        Where they are.
    """
    if perturbation_key is None and control is None and regimes_key in adata.uns:
        stored = _in_memory(adata.uns[regimes_key])
        if not {_keys.TABLE, _keys.LABELS, _keys.TARGETS, _keys.PARAMS} <= set(stored):
            from_adata(adata, regimes_key)  # says what is wrong
    else:
        parsed = read_obs(adata, perturbation_key, control)
        for note in parsed.notes:
            warnings.warn(note, UserWarning, stacklevel=4)
        parsed.report(logger)
        stored = to_uns(parsed)
    codes = regime_of(adata, stored, regimes_key)
    table = stored[_keys.TABLE]
    stored[_keys.TABLE] = table.assign(n_cells=np.bincount(codes, minlength=len(table)))
    return stored, codes


def _in_memory(value: Any) -> Any:
    """A copy of what lies in ``.uns``, of which a lazy AnnData may hold the tables elsewhere."""
    for load in ("to_memory", "compute"):  # a lazy table is a mapping too
        if hasattr(value, load):
            return getattr(value, load)()
    if isinstance(value, Mapping):
        return {str(k): _in_memory(v) for k, v in value.items()}
    return copy.deepcopy(value)


def regime_of(adata: AnnData, stored: Mapping[str, Any], regimes_key: str) -> NDArray[np.int64]:
    """Regime of every cell by what `causcade.pp.regimes` stored, however few cells it has."""
    params = {"sep": None, **stored[_keys.PARAMS], "min_cells": 1}
    return _lookup(adata, stored[_keys.LABELS], params, len(stored[_keys.TABLE]), regimes_key).astype(np.int64)


def read_batches(adata: AnnData, key: str | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Sorted names of the batches, and the batch of every cell.

    Parameters
    ----------
    adata
        Annotated data.
    key
        Column of ``.obs``; ``None`` = one batch.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If cells have no value there.
    """
    if key is None:
        return ("",), np.zeros(adata.n_obs, dtype=np.int64)
    codes, labels = read_column(adata, key, "batch_key")
    order = np.argsort(np.array(labels, dtype=object))
    place = np.empty(len(labels), dtype=np.int64)
    place[order] = np.arange(len(labels))
    return tuple(labels[i] for i in order), place[codes]
