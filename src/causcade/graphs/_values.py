"""Values of some genes in some cells, read in blocks, and as edge networks want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from causcade.expression import _check_size, _dense, _open, _where, read_expression
from causcade.simulate.domains import Kind, graph_values

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["GraphValues", "read_values", "standardise"]

GraphValues = Literal["counts", "expression", "log", "continuous"]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Positions = NDArray[np.int64]

_COUNTED = {"counts": True, "expression": None, "log": False}
_BLOCK = 1024


def read_values(
    adata: AnnData, layer: str | None, values: GraphValues, cells: Positions, positions: Positions
) -> tuple[Doubles, Doubles | None]:
    """Values of the genes in the cells, and of counts the total over all genes."""
    if values == "continuous":
        return _read_continuous(adata, layer, cells, positions), None
    source = read_expression(adata, layer, counts=_COUNTED[values])
    if source.minimum < 0:
        msg = (
            f"{source.where} holds negative values ({source.minimum:g}), but values={values!r}: give those, or pass "
            "values='continuous' with weights for them (model='avici-scm')."
        )
        raise ValueError(msg)
    x = _by_blocks(source.rows, cells, positions)
    return x, None if values == "log" else source.total_counts[cells]


def _by_blocks(rows: Callable[[Positions], NDArray[Any]], cells: Positions, positions: Positions) -> Doubles:
    """Columns of some rows, without holding all their genes at once."""
    parts = [rows(cells[s : s + _BLOCK])[:, positions] for s in range(0, len(cells), _BLOCK)]
    return np.concatenate(parts).astype(np.float64)


def _read_continuous(adata: AnnData, layer: str | None, cells: Positions, positions: Positions) -> Doubles:
    _check_size(adata)
    source = _open(adata, layer)
    if np.dtype(source.dtype).kind not in "buif":
        msg = f"{_where(layer)} holds {source.dtype}, not real numbers. Convert it first, e.g. .astype('float32')."
        raise ValueError(msg)
    x = _by_blocks(lambda some: _dense(source[some], np.float64), cells, positions)
    if (bad := np.argwhere(np.isinf(x))).size:
        cell, gene = bad[0]
        where = f"cell {str(adata.obs_names[cells[cell]])!r}, gene {str(adata.var_names[positions[gene]])!r}"
        msg = f"{_where(layer)} holds an infinite value ({where}); make it NaN if it is missing."
        raise ValueError(msg)
    return x


def standardise(
    x: Doubles, missing: Bools, total: Doubles | None, kind: Kind, groups: Positions, control: Bools
) -> tuple[Floats, Doubles]:
    """Values for networks, and those in the units of the user."""
    if kind == "counts":
        size = None if total is None else torch.from_numpy(total)
        logged = graph_values(torch.from_numpy(x), kind, total=size).numpy().astype(np.float64)
        return _level(logged, x > 0, groups, control).astype(np.float32), logged
    z = graph_values(torch.from_numpy(_level(x, ~missing, groups, control)), kind)
    return z.nan_to_num(0.0).numpy(), x


def _level(x: Doubles, seen: Bools, groups: Positions, control: Bools) -> Doubles:
    """Bring groups to the level of their controls, in entries that are seen.

    Unlike :func:`causcade.reference.level_groups` it leaves zeros of counts as they are: networks know them as such, and
    get worse when they are moved.
    """
    labels, group = np.unique(groups, return_inverse=True)
    if len(labels) == 1:
        return x
    values, used = np.where(seen, x, 0.0), seen & control[:, None]
    total = np.stack([values[control & (group == g)].sum(0) for g in range(len(labels))])
    n = np.stack([used[group == g].sum(0) for g in range(len(labels))])
    offset = total / np.maximum(n, 1) - total.sum(0) / np.maximum(n.sum(0), 1)
    return np.where(seen, x - np.where(n > 0, offset, 0.0)[group], x)
