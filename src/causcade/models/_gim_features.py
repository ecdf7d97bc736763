"""Features of perturbations and doses, as a network wants them: from names, tables or structures of drugs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse

from causcade._checks import at_least
from causcade.regimes.labels import shorten, split_label, suggest
from causcade.simulate.doses import FeatureMap

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["DoseScale", "FeatureTable", "Features", "Treatment", "as_dose", "read_table"]

Floats = NDArray[np.float64]

_BITS, _RADIUS = 1024, 2  # of Morgan fingerprints
_DOSE_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Treatment:
    """Perturbations given together, each at a dose (NaN: there are no doses); without parts it is the control."""

    name: str
    parts: tuple[str, ...]
    doses: tuple[float, ...]

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.name, self.parts, tuple(None if np.isnan(dose) else dose for dose in self.doses)

    def __eq__(self, other: object) -> bool:  # NaN is no dose, and equal to none
        return isinstance(other, Treatment) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def dose(self) -> float:
        """The dose, if it is the same for all parts; else NaN."""
        return self.doses[0] if len(set(self.doses)) == 1 else float("nan")


def as_dose(number: float) -> float:
    """Round to the digits of float32: doses that agree so far are one dose."""
    return float(f"{number:.{_DOSE_DIGITS}g}")


@dataclass(frozen=True)
class DoseScale:
    """Doses from 0 to 1: ``log1p(dose / lowest) / log1p(highest / lowest)``; the unit of the doses does not matter.

    Attributes
    ----------
    lowest, highest
        Of the doses above 0 in training.
    """

    lowest: float
    highest: float

    @classmethod
    def fit(cls, doses: Floats) -> DoseScale:
        """Take the scale of the doses of training."""
        above = doses[doses > 0]
        if not above.size:
            msg = "No perturbed cell has a dose above 0; leave out dose_key if there are no doses."
            raise ValueError(msg)
        return cls(float(above.min()), float(above.max()))

    def __call__(self, dose: float) -> float:
        """Scaled dose; above 1 beyond the highest of training."""
        return float(np.log1p(dose / self.lowest) / np.log1p(self.highest / self.lowest))


@dataclass(frozen=True)
class FeatureTable:
    """What is known of each perturbation.

    Attributes
    ----------
    names
        Perturbations.
    columns
        Features.
    values
        ``(names, columns)``.
    kind
        ``"one-hot"``, or where the table comes from.
    sep
        Joins the parts of a combination in names; their order does not matter.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: Floats
    kind: str
    sep: str | None = None

    @cached_property
    def _place(self) -> dict[tuple[str, ...], int]:
        return {tuple(sorted(split_label(name, self.sep))): i for i, name in enumerate(self.names)}

    def row(self, name: str, parts: Sequence[str], weights: Sequence[float]) -> Floats:
        """Features of a perturbation times the mean weight, or the weighted sum of its parts' if it has no row of its own.

        Raises
        ------
        KeyError
            If a part has no features; the message gives close matches.
        """
        if (own := self._place.get(tuple(sorted(parts)))) is not None:
            return np.asarray(np.mean(weights) * self.values[own])
        if absent := [part for part in parts if part not in self.names]:
            msg = f"There are no features of {shorten(absent)}.{suggest(absent[0], self.names)} {self._advice()}"
            raise KeyError(msg)
        rows = [w * self.values[self.names.index(part)] for part, w in zip(parts, weights, strict=True)]
        out: Floats = np.sum(rows, axis=0)
        return out

    def _advice(self) -> str:
        known = f"Known: {shorten(self.names)}."
        if self.kind == "one-hot":
            return (
                f"{known} Without features a model knows the perturbations of its training only; for others pass "
                "features= to setup_anndata (a table of .uns or .obsm)."
            )
        return f"{known} Add rows to {self.kind}, or pass features= with a DataFrame of more."

    def with_more(self, more: pd.DataFrame | None) -> FeatureTable:
        """Add rows of a frame (perturbation -> the same features); rows that are there stay."""
        if more is None:
            return self
        if self.kind == "one-hot":
            msg = "This model has no table of features that rows could be added to; pass features= to setup_anndata."
            raise ValueError(msg)
        if absent := [c for c in self.columns if c not in set(map(str, more.columns))]:
            msg = f"features lacks {len(absent)} of the {len(self.columns)} columns of training: {shorten(absent)}."
            raise ValueError(msg)
        new = more.set_axis(more.columns.astype(str), axis=1)[list(self.columns)]
        table = _from_frame(new[~new.index.astype(str).isin(self.names)], "features")
        return FeatureTable(
            self.names + table.names, self.columns, np.concatenate([self.values, table.values]), self.kind, self.sep
        )


@dataclass(frozen=True)
class Features:
    """From treatments to the numbers that go into the network; fitted to the treatments of training alone.

    A row holds the features of the perturbation and, with doses, the same again times the scaled dose; those of a
    combination are sums over its parts. They are standardised, and rotated to principal components if asked for.
    """

    table: FeatureTable
    scale: DoseScale | None
    map: FeatureMap

    @classmethod
    def fit(cls, table: FeatureTable, treatments: Sequence[Treatment], n_components: int | None) -> Features:
        """Take scales and components from the treatments of training."""
        doses = np.array([dose for t in treatments for dose in t.doses])
        scale = None if np.isnan(doses).all() else DoseScale.fit(doses)
        raw = _raw(table, scale, treatments)
        return cls(table, scale, _standardise(raw) if n_components is None else _rotate(raw, n_components))

    def __call__(self, treatments: Sequence[Treatment], more: pd.DataFrame | None = None) -> Floats:
        """``(treatments, features)``; the control has zeros, which nothing looks at."""
        out = np.zeros((len(treatments), len(self.map.components)))
        some = [i for i, t in enumerate(treatments) if t.parts]
        if some:
            out[some] = self.map(_raw(self.table.with_more(more), self.scale, [treatments[i] for i in some]))
        return out


def _raw(table: FeatureTable, scale: DoseScale | None, treatments: Sequence[Treatment]) -> Floats:
    rows = []
    for t in treatments:
        row = table.row(t.name, t.parts, [1.0] * len(t.parts))
        if scale is not None:
            row = np.concatenate([row, table.row(t.name, t.parts, [scale(dose) for dose in t.doses])])
        rows.append(row)
    return np.stack(rows)


def _standardise(raw: Floats) -> FeatureMap:
    """Mean 0 and standard deviation 1; what never varies is left out, unless nothing does."""
    sd = raw.std(axis=0)
    varies = sd > 1e-12 * np.abs(raw).max(axis=0, initial=1.0)
    kept = varies if varies.any() else np.ones_like(varies)
    return FeatureMap(raw.mean(axis=0), np.where(varies, sd, 1.0), np.eye(len(sd))[kept])


def _rotate(raw: Floats, n_components: int) -> FeatureMap:
    try:
        return FeatureMap.fit(raw, at_least(n_components, 1, "n_components"))
    except ValueError as error:
        msg = f"{error}: the {len(raw)} perturbations (and doses) of training have no more. Pass a lower n_components."
        raise ValueError(msg) from error


def read_table(
    adata: AnnData, features: str | None, names: Sequence[str], regime: NDArray[np.int64], sep: str | None
) -> FeatureTable:
    """Table of features, checked: every perturbation of training has a row, or all its parts do.

    Parameters
    ----------
    adata
        Annotated data.
    features
        None: one column per perturbation; ``"smiles"``; or a key of ``.uns`` or ``.obsm``.
    names
        Single perturbations.
    regime
        ``(n_cells,)`` position in `names` of the perturbation of each cell, -1 for cells of none or of several.
    sep
        Joins the parts of a combination in the names of rows.
    """
    table = replace(_read(adata, features, names, regime), sep=sep)
    if len(table._place) < len(table.names):
        same = [name for i, name in enumerate(table.names) if i not in table._place.values()]
        msg = f"{table.kind} has several rows of the combination {shorten(same)}, in another order; keep one of each."
        raise ValueError(msg)
    return table


def _read(adata: AnnData, features: str | None, names: Sequence[str], regime: NDArray[np.int64]) -> FeatureTable:
    if features is None:
        return FeatureTable(tuple(names), tuple(names), np.eye(len(names)), "one-hot")
    if features == "smiles":
        return _fingerprints(_read_smiles(adata, names, regime))
    if features in adata.obsm:
        given = adata.obsm[features]
        frame = (
            given if isinstance(given, pd.DataFrame) else pd.DataFrame(given.toarray() if issparse(given) else given)
        )
        return _from_cells(frame, features, names, regime)
    if features in adata.uns:
        return _from_frame(adata.uns[features], f".uns[{features!r}]")
    known = [*map(str, adata.obsm), *(str(k) for k, v in adata.uns.items() if isinstance(v, pd.DataFrame))]
    msg = (
        f"There is no features={features!r} in .obsm or .uns.{suggest(str(features), known)} Pass a numeric .obsm key, "
        "a table in .uns (one row per perturbation), 'smiles', or None for one-hot."
    )
    raise KeyError(msg)


def _from_frame(frame: Any, where: str) -> FeatureTable:
    if not isinstance(frame, pd.DataFrame):
        msg = f"{where} must be a DataFrame with one row per perturbation, not {type(frame).__name__}."
        raise ValueError(msg)
    names = [str(name).strip() for name in frame.index]
    if double := sorted({n for n in names if names.count(n) > 1}):
        msg = f"{where} has several rows of {shorten(double)}; keep one of each."
        raise ValueError(msg)
    text = [str(c) for c in frame.columns if frame[c].dtype.kind not in "buif"]
    if text or not frame.shape[1]:
        msg = f"{where} must hold numbers only; {shorten(text) or 'it has no columns'}. Encode or drop such columns."
        raise ValueError(msg)
    values = frame.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        msg = f"{where} has no finite number for {names[row]!r} in {str(frame.columns[column])!r}; fill or drop it."
        raise ValueError(msg)
    return FeatureTable(tuple(names), tuple(map(str, frame.columns)), values, where)


def _from_cells(frame: pd.DataFrame, key: str, names: Sequence[str], regime: NDArray[np.int64]) -> FeatureTable:
    """One row per perturbation of a table with one row per cell, where all cells of a perturbation agree."""
    where = f".obsm[{key!r}]"
    rows = []
    for i, name in enumerate(names):
        cells = frame.to_numpy()[regime == i]
        if len(cells) == 0:
            continue  # seen in combinations only; asked for later if it is needed
        if (cells != cells[0]).any():
            msg = (
                f"{where} differs between cells of {name!r}: features belong to a perturbation. Give the dose by "
                "dose_key, not as a feature."
            )
            raise ValueError(msg)
        rows.append((name, cells[0]))
    return _from_frame(pd.DataFrame([r for _, r in rows], index=[n for n, _ in rows], columns=frame.columns), where)


def _read_smiles(adata: AnnData, names: Sequence[str], regime: NDArray[np.int64]) -> dict[str, str]:
    if "smiles" in adata.uns:
        found = adata.uns["smiles"]
        if isinstance(found, pd.DataFrame) and found.shape[1] == 1:
            found = found.iloc[:, 0]
        if not isinstance(found, Mapping | pd.Series):
            msg = ".uns['smiles'] must be a dict, or a DataFrame or Series with perturbations as index."
            raise ValueError(msg)
        return {str(name): str(text) for name, text in found.items()}
    if "smiles" not in adata.obs:
        msg = "features='smiles' needs .uns['smiles'] (perturbation -> SMILES) or a column .obs['smiles']."
        raise KeyError(msg)
    column = adata.obs["smiles"].astype(str).to_numpy()
    out = {}
    for i, name in enumerate(names):
        texts = sorted(set(column[regime == i]))
        if len(texts) > 1:
            msg = f".obs['smiles'] has several structures for {name!r}: {shorten(texts)}. Keep one."
            raise ValueError(msg)
        if texts:
            out[name] = texts[0]
    return out


def _fingerprints(smiles: Mapping[str, str]) -> FeatureTable:
    """Morgan fingerprints (radius 2, 1,024 bits)."""
    try:
        chem, generators = import_module("rdkit.Chem"), import_module("rdkit.Chem.rdFingerprintGenerator")
    except ImportError as error:
        msg = "features='smiles' needs rdkit: pip install rdkit. Or put features of your own in .uns or .obsm."
        raise ImportError(msg) from error
    make = generators.GetMorganGenerator(radius=_RADIUS, fpSize=_BITS)
    molecules = {name: chem.MolFromSmiles(text) for name, text in smiles.items()}
    if bad := [f"{name}: {smiles[name]}" for name, molecule in molecules.items() if molecule is None]:
        msg = f"{len(bad)} structures cannot be read as SMILES: {shorten(bad)}."
        raise ValueError(msg)
    rows = np.array([make.GetFingerprintAsNumPy(m) for m in molecules.values()], dtype=np.float64)
    return FeatureTable(tuple(molecules), tuple(f"bit{b}" for b in range(_BITS)), rows, ".uns['smiles']")
