"""The AnnData of a summary: made from a pass, joined from parts, saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from causcade import _keys
from causcade._files import beside
from causcade.onepass._plan import Plan
from causcade.onepass._run import Part
from causcade.regimes.labels import as_text
from causcade.summary import Stored

__all__ = ["annotated", "build", "check_path", "save"]

_PARTS = ("value", "square", "nonzero")
_GRAIN = 1024.0  # library sizes are rounded to 1 / 1024, so that sums of them are exact


def build(
    adata: ad.AnnData,
    plan: Plan,
    part: Part,
    rows: sparse.csr_array,
    regimes: dict[str, Any],
    batches: Sequence[str],
    params: dict[str, Any],
) -> ad.AnnData:
    """Put the result of a pass together.

    Parameters
    ----------
    adata
        The screen; its rows of ``.obs`` and ``.var`` are taken over.
    plan, part, rows
        The pass, its sums, and the kept cells.
    regimes
        What :func:`causcade.pp.regimes` stores.
    batches
        Their names.
    params
        What else to say of how it was made; ``first_cell`` and ``regimes_key`` must be there.
    """
    obs = _rows(adata.obs, plan.kept)
    obs[_keys.summary("total_counts")] = part.totals[plan.kept]
    obs[_keys.summary("key")] = plan.keys[plan.kept]
    obs[_keys.summary("cell")] = plan.kept + params["first_cell"]
    stratum = plan.codes.astype(np.int64) * plan.n_groups + plan.groups
    shape, most = (plan.n_regimes, plan.n_groups), plan.n_regimes * plan.n_groups
    total = np.rint(part.totals * _GRAIN) / _GRAIN
    told = params | {"scale": plan.scale, "n_cells": plan.n_cells, "n_kept": len(plan.kept)}
    value, square, nonzero = _finished(part.table, plan)
    cells = np.bincount(stratum, minlength=most).reshape(shape).astype(np.float64)
    totals = np.bincount(stratum, weights=total, minlength=most).reshape(shape).astype(np.float64)
    names = tuple(map(as_text, regimes[_keys.TABLE]["name"]))
    stored = Stored(cells, totals, value, square, nonzero, names, tuple(batches), told)
    return annotated(rows, obs, _rows(adata.var, plan.genes), stored, regimes)


def _finished(table: NDArray[np.float64], plan: Plan) -> list[NDArray[np.float64]]:
    """Rows of regimes, of batches, and of controls by batch, from those that the pass filled."""
    r, b = plan.n_regimes, plan.n_groups
    if b > 1:
        controls = table[r + b :]
        table[0] = controls.sum(0)
        table[r : r + b] += controls
    return [table[:, :, i] for i in range(len(_PARTS))]


def _rows(frame: Any, index: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows of a table, which may be lazy."""
    some = frame.iloc[index]
    return (some if isinstance(some, pd.DataFrame) else some.to_memory()).copy()


def annotated(
    x: sparse.csr_array, obs: pd.DataFrame, var: pd.DataFrame, stored: Stored, regimes: dict[str, Any]
) -> ad.AnnData:
    """The AnnData of kept cells and of sums."""
    sums = {_keys.summary(p): np.ascontiguousarray(getattr(stored, p).T) for p in _PARTS}
    summary = {
        _keys.CELLS: stored.cells.astype(np.int64),
        _keys.TOTALS: stored.totals,
        _keys.REGIMES: np.asarray(stored.regimes, dtype=object),
        _keys.NAMES: np.asarray(stored.batches, dtype=object),
        _keys.PARAMS: stored.params,
    }
    uns = {stored.params["regimes_key"]: regimes, _keys.SUMMARY: summary}
    return ad.AnnData(sparse.csr_matrix(x), obs=obs, var=var, uns=uns, varm=sums)


def check_path(path: str | Path | None) -> Path | None:
    """Return where to save, if it can be saved there.

    Raises
    ------
    ValueError
        If it is no ``.h5ad`` or ``.zarr``, or its folder does not exist.
    """
    if path is None:
        return None
    place = Path(path)
    if place.suffix not in (".h5ad", ".zarr"):
        msg = f"path must end in .h5ad or .zarr, not {place.name!r}."
        raise ValueError(msg)
    if not place.parent.is_dir():
        msg = f"There is no folder {str(place.parent)!r} to save {place.name!r} in; make it first."
        raise ValueError(msg)
    return place


def save(adata: ad.AnnData, path: Path) -> None:
    """Write it wholly or not at all: beside its place first, then moved there."""
    with beside(path) as half:
        if path.suffix == ".h5ad":
            adata.write_h5ad(half)
        else:
            adata.write_zarr(half)
