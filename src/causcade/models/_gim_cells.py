"""Cells of a screen by treatment: perturbation and dose read from an AnnData, values as a GIM wants them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from causcade.expression import Expression, read_expression
from causcade.models._gim_features import FeatureTable, Treatment, as_dose, read_table
from causcade.reference import GroupLevels
from causcade.regimes import Regimes, from_adata
from causcade.regimes.labels import count_labels, shorten, split_label, suggest
from causcade.screendata import _read_groups

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "SCALED",
    "GimValues",
    "Levels",
    "Treated",
    "library_size",
    "open_values",
    "read_doses",
    "read_treated",
    "read_unseen",
    "read_values",
    "units",
]

GimValues = Literal["counts", "expression", "log", "continuous"]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

_KINDS = {"counts": True, "expression": None, "log": False, "continuous": None}
SCALED = ("counts", "expression")
_BLOCK = 1024


@dataclass(frozen=True)
class Treated:
    """Cells by treatment.

    Attributes
    ----------
    cells
        Positions of the cells in use.
    codes
        ``(n_cells,)`` treatment of each, 0 = control.
    treatments
        The control, then every perturbation at every dose.
    table
        Features of the perturbations.
    """

    cells: Positions
    codes: Positions
    treatments: tuple[Treatment, ...]
    table: FeatureTable


def read_treated(adata: AnnData, args: dict[str, Any]) -> Treated:
    """Find the cells of every treatment; `args` are those of ``GIM.setup_anndata``.

    Raises
    ------
    KeyError
        If a column, a key or features of a perturbation are missing.
    ValueError
        If doses or features are unusable.

    Warns
    -----
    UserWarning
        If treatments have fewer than ``min_cells`` cells, or cells share no group with a control.
    """
    regimes = from_adata(adata, args["regimes_key"])
    sep = regimes.params.get("sep")
    codes = regimes.codes.copy()
    doses = read_doses(adata, args["dose_key"], codes > 0)
    if args["zero_dose_is_control"]:
        codes[(codes > 0) & (doses == 0)] = 0
    codes = _with_control(adata, codes, args["batch_key"])
    treatments, of_cell = _treatments(regimes, codes, doses, sep, int(regimes.params.get("min_cells", 1)))
    table = _read_table(adata, args["features"], treatments, of_cell, sep)
    for t in treatments[1:]:
        table.row(t.name, t.parts, [1.0] * len(t.parts))
    cells = np.flatnonzero(of_cell >= 0)
    return Treated(cells, of_cell[cells], treatments, table)


def _with_control(adata: AnnData, codes: Positions, batch_key: str | None) -> Positions:
    groups = _read_groups(adata, batch_key)
    alone = (codes >= 0) & ~np.isin(groups, np.unique(groups[codes == 0]))
    if alone.any():
        note = (
            f"{int(alone.sum()):,} cells lie in groups of .obs[{batch_key!r}] (batch_key) without a control cell and are "
            "left out."
        )
        warnings.warn(note, UserWarning, stacklevel=6)
    return np.where(alone, -1, codes)


def _treatments(
    regimes: Regimes, codes: Positions, doses: Floats, sep: str | None, least: int
) -> tuple[tuple[Treatment, ...], Positions]:
    """All perturbations at all doses with enough cells, and the treatment of every cell (-1: left out)."""
    found = [Treatment(str(regimes.names[0]), (), ())]
    of_cell = np.where(codes == 0, 0, -1)
    few, genes = [], {gene for some in regimes.targets for gene in some}
    for regime in np.unique(codes[codes > 0]):
        mine = codes == regime
        name = str(regimes.names[regime])
        parts = split_label(name, sep, genes)
        levels = [np.nan] if np.isnan(doses[mine]).all() else np.unique(doses[mine]).tolist()
        for dose in levels:
            cells = mine if np.isnan(dose) else mine & (doses == dose)
            if cells.sum() < least:
                few.append(f"{name} at {dose:g}")
                continue
            of_cell[cells] = len(found)
            found.append(Treatment(name, parts, (float(dose),) * len(parts)))
    if few:
        note = f"{len(few)} treatments have fewer than min_cells={least} cells and are left out: {shorten(few)}."
        warnings.warn(note, UserWarning, stacklevel=6)
    if len(found) < 2:
        msg = "No perturbation is left: a model needs control cells and at least one perturbation (at a dose)."
        raise ValueError(msg)
    return tuple(found), of_cell


def _read_table(
    adata: AnnData, features: str | None, treatments: Sequence[Treatment], of_cell: Positions, sep: str | None
) -> FeatureTable:
    singles = sorted({part for t in treatments for part in t.parts})
    place = {name: i for i, name in enumerate(singles)}
    single = np.array([place[t.parts[0]] if len(t.parts) == 1 else -1 for t in treatments] + [-1], dtype=np.int64)
    return read_table(adata, features, singles, single[of_cell], sep)


def read_doses(adata: AnnData, key: str | None, needed: NDArray[np.bool_]) -> Floats:
    """Dose of every cell; NaN without a key, and for cells that need none.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If doses are text, missing, infinite or negative where they are needed.
    """
    if key is None:
        return np.full(adata.n_obs, np.nan)
    if key not in adata.obs:
        columns = list(map(str, adata.obs.columns))
        msg = f".obs has no column dose_key={key!r}.{suggest(str(key), columns)} It has {shorten(columns, 20)}."
        raise KeyError(msg)
    given = adata.obs[key].to_numpy(dtype=object)
    try:
        if any(isinstance(dose, str) for dose in given[needed]):
            raise TypeError
        doses = pd.to_numeric(pd.Series(np.where(needed, given, np.nan))).to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        shown = shorten(list(dict.fromkeys(map(str, given[needed]))))
        msg = (
            f".obs[{key!r}] (dose_key) is not numeric: {shown}. Give numbers, all in one unit, such as 0.01 for 10 nM."
        )
        raise ValueError(msg) from error
    bad = needed & ~(np.isfinite(doses) & (doses >= 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        msg = (
            f"{int(bad.sum()):,} perturbed cells have no finite dose of at least 0 in .obs[{key!r}] (dose_key); the "
            f"first is {str(adata.obs_names[first])!r} with {doses[first]:g}. Doses are plain numbers, not logarithms."
        )
        raise ValueError(msg)
    return np.array([as_dose(dose) for dose in doses])


# --- values ---------------------------------------------------------------------------------------------------------


def open_values(adata: AnnData, layer: str | None, values: GimValues) -> Expression:
    """Open and check the values.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If they are not what `values` says.
    """
    if values not in _KINDS:
        msg = f"values must be one of {', '.join(map(repr, _KINDS))}, not {values!r}."
        raise ValueError(msg)
    source = read_expression(adata, layer, counts=_KINDS[values])
    if values != "continuous" and source.minimum < 0:
        msg = (
            f"{source.where} holds negative values ({source.minimum:g}), but values={values!r}. Give those, or pass "
            "values='continuous' for any real numbers."
        )
        raise ValueError(msg)
    return source


def library_size(source: Expression, values: GimValues, control: Positions) -> float:
    """Median total of control cells, which counts of all cells are brought to; NaN for other values."""
    if values not in SCALED:
        return float("nan")
    total = source.total_counts[control]
    return float(np.median(total[total > 0])) if (total > 0).any() else 1.0


def read_values(source: Expression, values: GimValues, cells: Positions, genes: Positions, size: float) -> Floats:
    """Values ``(cells, genes)``; counts are scaled to `size` per cell (over all genes there are), then log1p."""
    parts = [source.rows(cells[s : s + _BLOCK])[:, genes] for s in range(0, len(cells), _BLOCK)]
    x = np.concatenate(parts).astype(np.float64)
    if values not in SCALED:
        return x
    total = source.total_counts[cells]
    return np.asarray(np.log1p(x * (size / np.where(total > 0, total, 1.0))[:, None]))


class Levels:
    """Brings groups of cells (batches) to the level of their own controls.

    Parameters
    ----------
    control
        Values of the controls.
    groups
        Their groups.
    """

    def __init__(self, control: Floats, groups: NDArray[np.str_]) -> None:
        self.labels, codes = np.unique(groups, return_inverse=True)
        self._levels = GroupLevels(control, codes)  # type: ignore[arg-type]

    def __call__(self, values: Floats, groups: NDArray[np.str_]) -> Floats:
        """Values with these differences taken out.

        Raises
        ------
        ValueError
            If a group has no controls.
        """
        if new := sorted(set(groups) - set(self.labels)):
            msg = (
                f"The groups {shorten(new)} (batch_key) have no control cell in training, so nothing says their level."
            )
            raise ValueError(msg)
        return np.asarray(self._levels.level(values, np.searchsorted(self.labels, groups)))  # type: ignore[arg-type]


def units(values: GimValues, size: float, batch_key: str | None) -> str:
    """Say what predicted numbers are."""
    said = {
        "log": "as the values given: log-normalised expression",
        "continuous": "as the values given",
    }.get(values, f"natural log of 1 + {values} scaled to {size:g} per cell")
    return said if batch_key is None else f"{said}; groups of {batch_key!r} at the level of all controls"


def read_unseen(
    adata: AnnData, regimes: Regimes, labels: dict[str, str], args: dict[str, Any]
) -> tuple[Positions, Positions, tuple[Treatment, ...]]:
    """Cells of other data by treatment; controls are left out. Perturbations may be new, the columns may not.

    Returns
    -------
    Positions of cells, treatment of each, treatments.
    """
    key = regimes.params["perturbation_key"]
    if key not in adata.obs:
        msg = f".obs has no column {key!r}, by which the model was set up. It has {shorten(list(adata.obs), 20)}."
        raise KeyError(msg)
    codes, found, _ = count_labels(adata.obs[key])
    sep = regimes.params.get("sep")
    control = {str(c) for c in regimes.params["control"]}
    names, genes = [], {gene for some in regimes.targets for gene in some}
    for label in found:
        parts = sorted(part for part in split_label(label, sep, genes) if part not in control)
        names.append(labels.get(label.strip(), (sep or "+").join(parts)) if parts else "")
    name_of = np.array([*names, ""], dtype=object)[codes]
    perturbed = (name_of != "") & (name_of != str(regimes.names[0]))
    doses = read_doses(adata, args["dose_key"], perturbed)
    if args["zero_dose_is_control"]:
        perturbed &= doses != 0
    cells = np.flatnonzero(perturbed)
    if not cells.size:
        msg = f"No cell of .obs[{key!r}] is perturbed: there is nothing to compare with."
        raise ValueError(msg)
    table = pd.DataFrame({"name": name_of[cells].astype(str), "dose": doses[cells]})
    group = table.groupby(["name", "dose"], dropna=False, sort=True)
    of_cell = group.ngroup().to_numpy(dtype=np.int64)
    treatments = []
    for name, dose in group.size().index:
        several = split_label(str(name), sep, genes)
        treatments.append(Treatment(str(name), several, (float(dose),) * len(several)))
    return cells, of_cell, tuple(treatments)
