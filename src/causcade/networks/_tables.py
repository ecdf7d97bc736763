"""Tables of edges, read from whatever holds them."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from causcade.regimes.labels import suggest

__all__ = ["COLUMNS", "KINDS", "check_table", "reactome", "read_network"]

KINDS = ("GG", "PG", "PP")
COLUMNS = ["source", "target", "kind", "weight"]


def read_network(
    source: pd.DataFrame | str | Path | Iterable[Sequence[Any]],
    kind: str | None = None,
    *,
    columns: Sequence[str | int] | None = None,
    header: bool = True,
) -> pd.DataFrame:
    """Read edges into a table of one format.

    Parameters
    ----------
    source
        A DataFrame, pairs ``(source, target)`` or triples with a weight, or a file: ``.gmt`` (gene sets), or
        ``.csv``, ``.tsv`` or ``.txt`` (tabs) with one edge per line; any of them may end in ``.gz``. Files on the web
        come with :func:`causcade.datasets.fetch`, which checks them.
    kind
        Kind of all edges, where the source has no column ``kind``: ``None`` = ``"PG"`` for gene sets, else ``"GG"``.
    columns
        Columns of source and target, and of the weight if there is a third: names or positions. ``None`` = those
        called ``source``, ``target`` and ``weight``, or else the first two.
    header
        Whether the first line of a file names its columns.

    Returns
    -------
    DataFrame with ``source``, ``target`` (text), ``kind`` and ``weight`` (above 0; 1 where none was given), rows as in
    the source.

    Raises
    ------
    ValueError
        If there is no edge, a column is missing, a name is empty, a kind unknown, or a weight not above 0.
    """
    if isinstance(source, str | Path) and _stem(source).endswith(".gmt"):
        table = _read_gmt(Path(source))
        return check_table(table.drop(columns="id"), kind or "PG", None)
    if isinstance(source, pd.DataFrame):
        table = source
    elif isinstance(source, str | Path):
        sep = "," if _stem(source).endswith(".csv") else "\t"
        # a gene may be called "NA" or "nan"
        table = pd.read_csv(source, sep=sep, header=0 if header else None, dtype=str, keep_default_na=False)
    else:
        table = pd.DataFrame([tuple(row) for row in source])
        table.columns = pd.Index(["source", "target", "weight"][: table.shape[1]])
    return check_table(table, kind or "GG", columns)


def reactome(gmt: str | Path, hierarchy: str | Path | None = None) -> pd.DataFrame:
    """Read Reactome's gene sets and the hierarchy of its pathways, which names pathways by their ids.

    Parameters
    ----------
    gmt
        Reactome's gene sets: name, id, genes.
    hierarchy
        Reactome's relations of pathways: id of the parent, id of the child; all species. Those of the species of the
        gene sets are kept.

    Returns
    -------
    As :func:`read_network`. Pathways go by their names (with the id where two have one name); those of the hierarchy
    that have no gene set keep their id.

    Raises
    ------
    ValueError
        As :func:`read_network`.
    """
    sets = _read_gmt(Path(gmt))
    pairs = sets[["source", "id"]].drop_duplicates()
    shared = pairs["source"].duplicated(keep=False)
    names = dict(
        zip(pairs["id"], pairs["source"].where(~shared, pairs["source"] + " (" + pairs["id"] + ")"), strict=True)
    )
    parts = [check_table(sets.assign(source=sets["id"].map(names)).drop(columns="id"), "PG", None)]
    if hierarchy is not None:
        species = tuple({"-".join(i.split("-")[:2]) + "-" for i in names})
        table = read_network(hierarchy, "PP", header=False)
        own = table["source"].str.startswith(species) & table["target"].str.startswith(species)
        parts.append(
            table[own].assign(**{c: table.loc[own, c].map(lambda i: names.get(i, i)) for c in ("source", "target")})
        )
    return pd.concat(parts, ignore_index=True)


def _stem(path: str | Path) -> str:
    return str(path).lower().removesuffix(".gz")


def _read_gmt(path: Path) -> pd.DataFrame:
    """One row per member: pathway (source), its second field (id), gene (target)."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines if line.strip()]
    if short := [row[0] for row in rows if len(row) < 2]:
        msg = f"{path}: {len(short)} lines have no second field, the first {short[0]!r}. A line is: name, text, genes, tabs between."
        raise ValueError(msg)
    members = [(row[0], row[1], gene) for row in rows for gene in row[2:] if gene.strip()]
    return pd.DataFrame(members, columns=["source", "id", "target"], dtype=str)


def check_table(table: pd.DataFrame, kind: str, columns: Sequence[str | int] | None) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame):
        msg = f"A network is a table of edges, not {type(table).__name__}; causcade.networks.read_network reads files and lists."
        raise ValueError(msg)
    names = _columns(table, columns)
    out = pd.DataFrame({role: table[name].to_numpy() for role, name in names.items()})
    if out.empty:
        msg = "The network has no edge."
        raise ValueError(msg)
    for role in ("source", "target"):
        missing = out[role].isna()
        out[role] = out[role].astype(str).str.strip()
        if bad := int((missing | (out[role] == "")).sum()):
            msg = f"{bad:,} of {len(out):,} edges have no {role}; drop them first."
            raise ValueError(msg)
    out["kind"] = table["kind"].astype(str).to_numpy() if "kind" in table else kind
    if unknown := sorted(set(out["kind"]) - set(KINDS)):
        msg = f"Kinds of edges must be in {list(KINDS)}, not {unknown[:5]}."
        raise ValueError(msg)
    weight = pd.to_numeric(out["weight"], errors="coerce") if "weight" in out else pd.Series(1.0, out.index)
    fine = (weight > 0) & np.isfinite(weight)
    if not fine.all():
        msg = f"{int((~fine).sum()):,} edges have a weight that is no number above 0; leave them out, or the column."
        raise ValueError(msg)
    return out.assign(weight=weight.astype(np.float64))[COLUMNS]


def _columns(table: pd.DataFrame, columns: Sequence[str | int] | None) -> dict[str, Any]:
    """Column of the table for source, target and perhaps weight."""
    if columns is None:
        if {"source", "target"} <= set(table.columns):
            return {role: role for role in ("source", "target", "weight") if role in table.columns}
        if table.shape[1] < 2:
            msg = f"A network needs two columns, source and target; there is {list(table.columns)}."
            raise ValueError(msg)
        return dict(zip(("source", "target"), table.columns[:2], strict=True))
    if len(columns) not in (2, 3):
        msg = f"columns= names source, target and perhaps weight, not {list(columns)}."
        raise ValueError(msg)
    place = [table.columns[c] if isinstance(c, int) and c < table.shape[1] else c for c in columns]
    if absent := [c for c in place if c not in table.columns]:
        msg = f"The network has no column {absent[0]!r}.{suggest(str(absent[0]), map(str, table.columns))} It has {list(table.columns)}."
        raise ValueError(msg)
    return dict(zip(("source", "target", "weight"), place, strict=False))
