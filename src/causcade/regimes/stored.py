"""Regimes in an AnnData: read from ``.obs``, stored in ``.uns``, read back. The only reader of labels in ``.obs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causcade import _keys
from causcade.regimes.labels import Genes, control_like, count_labels, shorten, suggest
from causcade.regimes.parse import Parsed, Regimes, check_settings, parse

if TYPE_CHECKING:
    from anndata import AnnData

_CELLXGENE_SEP = " || "
_CELLXGENE_CONTROL = ("control", "no perturbations")


def read_obs(
    adata: AnnData,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    *,
    sep: str | None = "+",
    gene_symbols: str | None = None,
    targets: Any = None,
    min_cells: int = 2,
) -> Parsed:
    """Read the regimes of an AnnData without changing it; see `causcade.pp.regimes` for arguments and errors."""
    check_settings(sep, min_cells)
    _check_shape(adata)
    genes = _genes(adata, gene_symbols)
    params: dict[str, Any] = {}
    if perturbation_key is None:
        values, cellxgene_control, targets = _read_cellxgene(adata, genes, targets)
        perturbation_key, sep = _keys.CELLXGENE_ID, _CELLXGENE_SEP
        control = cellxgene_control if control is None else control
        params["strategy_key"] = _keys.CELLXGENE_STRATEGY
    else:
        values = _column(adata, perturbation_key)
    where = f".obs[{perturbation_key!r}]"
    if control is None:
        _, labels, counts = count_labels(values)
        msg = f"Pass control=, the label or labels of control cells in {where}: {control_like(labels, counts)}."
        raise ValueError(msg)
    parsed = parse(values, genes, control, sep=sep, targets=targets, min_cells=min_cells, var=adata.var, where=where)
    params |= {"perturbation_key": perturbation_key, **parsed.regimes.params}
    if gene_symbols is not None:
        params["gene_symbols"] = gene_symbols
    parsed.regimes = replace(parsed.regimes, params=params)
    return parsed


def _check_shape(adata: AnnData) -> None:
    if adata.n_obs == 0 or adata.n_vars == 0:
        msg = f"The AnnData is empty: {adata.n_obs:,} cells x {adata.n_vars:,} genes."
        raise ValueError(msg)


def _genes(adata: AnnData, gene_symbols: str | None) -> Genes:
    if gene_symbols is None:
        return Genes(adata.var_names)
    if gene_symbols not in adata.var.columns:
        msg = (
            f".var has no column gene_symbols={gene_symbols!r}.{suggest(str(gene_symbols), adata.var.columns)} "
            f"Its columns are {shorten(list(adata.var.columns), 20)}."
        )
        raise KeyError(msg)
    return Genes(adata.var_names, adata.var[gene_symbols])


def _column(adata: AnnData, key: str, argument: str = "perturbation_key") -> pd.Series:
    columns = list(adata.obs.columns)
    if key not in columns:
        msg = (
            f".obs has no column {argument}={key!r}.{suggest(str(key), columns)} "
            f"Its columns are {shorten(columns, 20) or 'none'}."
        )
        raise KeyError(msg)
    column = adata.obs[key]
    return column if isinstance(column, pd.Series) else pd.Series(np.asarray(column))


def read_column(adata: AnnData, key: str, argument: str, *, complete: bool = True) -> tuple[np.ndarray, list[str]]:
    """Labels of the cells in a column of ``.obs``.

    Parameters
    ----------
    adata
        Annotated data, maybe lazy.
    key
        The column.
    argument
        Name of the argument that it was given for, for messages.
    complete
        Refuse cells without a value.

    Returns
    -------
    ``(n_cells,)`` which label, -1 where missing; and the labels as text, in the order of the cells.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If cells have no value.
    """
    codes, labels, _ = count_labels(_column(adata, key, argument))
    if complete and (n := int((codes < 0).sum())):
        msg = f"{n:,} of {len(codes):,} cells have no value in .obs[{key!r}] ({argument}); fill or drop them."
        raise ValueError(msg)
    return codes, labels


def _cellxgene_labels(adata: AnnData) -> pd.Series:
    """Label per cell: the perturbation ids, or for controls the strategy's word."""
    ids, strategy = _column(adata, _keys.CELLXGENE_ID), _column(adata, _keys.CELLXGENE_STRATEGY)
    ids, strategy = ids.astype(object), strategy.astype(object)
    labels = ids.where(~strategy.isin(_CELLXGENE_CONTROL), strategy)
    return labels.mask(labels == "na", "no perturbations")


def _read_cellxgene(adata: AnnData, genes: Genes, targets: Any) -> tuple[pd.Series, tuple[str, ...], Any]:
    if not {_keys.CELLXGENE_ID, _keys.CELLXGENE_STRATEGY} <= set(adata.obs.columns):
        msg = (
            "Pass perturbation_key=, the .obs column that holds the perturbation of each cell. The columns are "
            f"{shorten(list(adata.obs.columns), 20) or 'none'}."
        )
        raise ValueError(msg)
    values = _cellxgene_labels(adata)
    present = set(values.dropna().unique())
    control = tuple(c for c in _CELLXGENE_CONTROL if c in present) or _CELLXGENE_CONTROL[:1]
    if targets is None:
        records = adata.uns.get(_keys.CELLXGENE_UNS, {})
        targets = {str(i): _cellxgene_genes(record, genes, control[0]) for i, record in records.items()} or None
    return values, control, targets


def _cellxgene_genes(record: Mapping[str, Any], genes: Genes, control: str) -> str | list[str]:
    """Genes that one CELLxGENE guide acts on, by id or symbol, whichever is measured; a control guide is control."""
    if record.get("role", "targeting") != "targeting":
        return control
    for slot in ("intended_features", "derived_features", "target_features"):
        if isinstance(found := record.get(slot), Mapping) and found:
            names = [str(s) if i not in genes and str(s) in genes else str(i) for i, s in found.items()]
            return names[0] if len(names) == 1 else names
    return []


def to_uns(parsed: Parsed) -> dict[str, Any]:
    """Return what `causcade.pp.regimes` stores.

    ``table`` is for people, ``labels`` and ``targets`` are for `from_adata`, ``params`` says how it was made.
    Everything survives h5ad and zarr; a parameter that is None is left out.
    """
    regimes = parsed.regimes
    joint = regimes.params.get("sep") or "+"
    n_targets = [len(t) for t in regimes.targets]
    table = pd.DataFrame(
        {
            "name": regimes.names,
            "targets": np.array([joint.join(t) for t in regimes.targets], dtype=object),
            "n_cells": parsed.n_labelled,
            "kind": regimes.kind,
            "n_measured": np.array([len(i) for i in regimes.target_index], dtype=np.int64),
        },
        index=[str(i) for i in range(len(regimes))],
    )
    label_frame = {
        "label": np.array(list(parsed.label_regime), dtype=object),
        "regime": np.array(list(parsed.label_regime.values()), dtype=np.int64),
    }
    target_frame = {
        "regime": np.repeat(np.arange(len(regimes)), n_targets),
        "gene": np.array([g for t in regimes.targets for g in t], dtype=object),
    }
    params = {k: v for k, v in regimes.params.items() if v is not None}
    frames = {_keys.LABELS: _frame(label_frame), _keys.TARGETS: _frame(target_frame)}
    return {_keys.TABLE: table, **frames, _keys.PARAMS: params}


def _frame(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    frame.index = pd.Index([str(i) for i in range(len(frame))], dtype=object)
    return frame


def from_adata(adata: AnnData, key: str = _keys.REGIMES) -> Regimes:
    """Regimes that `causcade.pp.regimes` found, for the cells and genes that `adata` has now.

    Cells and genes may have been dropped or reordered since. Regimes keep their names and order; one whose cells are
    all gone has no cells (`Regimes.n_cells` is 0).

    Parameters
    ----------
    adata
        Annotated data on which `causcade.pp.regimes` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    The regimes.

    Raises
    ------
    KeyError
        If `causcade.pp.regimes` was not run, or its column is gone.
    ValueError
        If cells have labels that were not there then, or no label, or no control cell is left.
    """
    stored = adata.uns.get(key)
    parts = {_keys.TABLE, _keys.LABELS, _keys.TARGETS, _keys.PARAMS}
    if not isinstance(stored, Mapping) or not parts <= set(stored):
        msg = f"There are no regimes in .uns[{key!r}]. Call cc.pp.regimes(adata, perturbation_key=, control=) first."
        raise KeyError(msg)
    _check_shape(adata)
    params: dict[str, Any] = {"sep": None, **stored[_keys.PARAMS]}
    # zarr gives NumPy's StringDType back, which does not cast to str
    params["control"] = np.array([str(c) for c in np.atleast_1d(params["control"])], dtype=object)
    genes = _genes(adata, params.get("gene_symbols"))
    table, frame = stored[_keys.TABLE], stored[_keys.TARGETS]
    names = table["name"].astype(str).to_numpy(dtype=object)
    listed: list[list[str]] = [[] for _ in names]
    for regime, gene in zip(frame["regime"].astype(int), frame["gene"].astype(str), strict=True):
        listed[regime].append(gene)
    return Regimes(
        names=names,
        targets=tuple(map(tuple, listed)),
        target_index=tuple(genes.positions(t) for t in listed),
        kind=table["kind"].astype(str).to_numpy(dtype=object),
        codes=_lookup(adata, stored[_keys.LABELS], params, len(names), key),
        params=params,
    )


def _lookup(adata: AnnData, frame: pd.DataFrame, params: dict[str, Any], n_regimes: int, key: str) -> np.ndarray:
    column = params["perturbation_key"]
    values = _cellxgene_labels(adata) if "strategy_key" in params else _column(adata, column)
    codes, labels, counts = count_labels(values)
    place = {str(label).strip(): int(i) for label, i in zip(frame["label"], frame["regime"], strict=True)}
    new = [label for label in labels if label.strip() not in place]
    n_bad = int((codes < 0).sum()) + sum(int(counts[labels.index(label)]) for label in new)
    if n_bad:
        told = shorten(new) if new else "missing labels"
        msg = (
            f"{n_bad:,} cells have labels in .obs[{column!r}] that were not there when .uns[{key!r}] was written: "
            f"{told}. Call cc.pp.regimes again."
        )
        raise ValueError(msg)
    regime = np.array([place[label.strip()] for label in labels], dtype=np.int64)[codes]
    n_labelled = np.bincount(regime, minlength=n_regimes)
    if n_labelled[0] == 0:
        msg = f"None of the {adata.n_obs:,} cells is a control. Keep control cells when subsetting."
        raise ValueError(msg)
    few = np.flatnonzero(n_labelled < int(params.get("min_cells", 1)))
    return np.where(np.isin(regime, few[few > 0]), -1, regime)
