"""The genes of a network among the measured ones, and a count of all that was not found."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from causcade.networks._tables import COLUMNS, KINDS, check_table
from causcade.nn.message_passing import GeneGraph
from causcade.regimes.labels import Genes, explain_mismatch, shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Ints", "Network", "code", "match_network"]

logger = logging.getLogger(__name__)

_FEW = 0.05  # share of the measured genes in a network below which something may be wrong with the names

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """Edges among measured genes and pathways.

    Attributes
    ----------
    genes
        ``(n_genes,)`` var_names, in their order.
    pathways
        ``(n_pathways,)`` names, sorted.
    edges
        Per kind ``(2, n_edges)``: positions of source and target among genes or pathways. Each pair once; GG has no
        order. No loops.
    weights
        Per kind ``(n_edges,)``.
    report
        One row per kind: ``n_rows`` of the table, ``n_used``, and why others were not: ``n_unmatched`` (an end is not
        measured, or a pathway without measured genes), ``n_loops``, ``n_repeated``.
    nodes
        Numbers of ``genes_matched`` (measured, in the table), ``genes_unmatched`` (in the table, not measured),
        ``genes_without_edge`` (measured, no edge left), ``pathways``, ``pathways_left_out``.
    unmatched
        Names of the genes that were not measured.
    notes
        What may be wrong with the names.
    """

    genes: NDArray[Any]
    pathways: NDArray[Any]
    edges: dict[str, Ints]
    weights: dict[str, NDArray[np.float64]]
    report: pd.DataFrame
    nodes: dict[str, int]
    unmatched: NDArray[Any]
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """Say how much matched."""
        used = ", ".join(f"{e.shape[1]:,} {kind}" for kind, e in self.edges.items())
        reached = len(self.genes) - self.nodes["genes_without_edge"]
        return (
            f"Network({reached:,} of {len(self.genes):,} measured genes with an edge, {len(self.pathways):,} pathways; "
            f"edges: {used or 'none'}; {self.nodes['genes_unmatched']:,} genes of the table not measured)"
        )

    @property
    def n_edges(self) -> int:
        """Number of edges of all kinds."""
        return sum(e.shape[1] for e in self.edges.values())

    def to_table(self) -> pd.DataFrame:
        """Edges that are used, as a table in the format of :func:`read_network`; ``.attrs["pathways"]`` names all pathways."""
        ends = {"G": self.genes, "P": self.pathways}
        parts = [
            pd.DataFrame({"source": ends[k[0]][e[0]], "target": ends[k[1]][e[1]], "kind": k, "weight": self.weights[k]})
            for k, e in self.edges.items()
        ]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
        table.attrs["pathways"] = self.pathways.tolist()
        return table

    def graph(self) -> GeneGraph:
        """Edges as arrays, for a network."""
        return GeneGraph(len(self.genes), len(self.pathways), self.edges, self.weights)


def match_network(
    table: pd.DataFrame,
    genes: AnnData | Iterable[str],
    *,
    gene_symbols: str | None = None,
    kinds: Sequence[str] = KINDS,
    pathways: Literal["measured", "all"] | Sequence[str] = "measured",
) -> Network:
    """Find the genes of a network among the measured ones. Nothing is dropped without being counted.

    Parameters
    ----------
    table
        Of :func:`read_network`.
    genes
        Annotated data, or the names of the measured genes.
    gene_symbols
        Column of ``.var`` with the names that the network uses, looked up before ``.var_names``.
    kinds
        Kinds of edges to use, e.g. ``("GG", "PG")``.
    pathways
        ``"measured"``: those with a measured gene; ``"all"``: also those without, as in the paper's main model. Or their
        names.

    Returns
    -------
    The network; ``.report`` and ``.nodes`` say what matched.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the table is no network, or a kind is unknown.

    Warns
    -----
    UserWarning
        If less than 5 % of the measured genes have an edge, with what may be wrong.
    """
    table = check_table(table, "GG", None)
    if unknown := sorted(set(kinds) - set(KINDS)):
        msg = f"kinds must be among {list(KINDS)}, not {unknown}."
        raise ValueError(msg)
    if isinstance(pathways, str) and pathways not in ("measured", "all"):
        msg = f"pathways must be 'measured', 'all' or names, not {pathways!r}."
        raise ValueError(msg)
    known, var = _genes(genes, gene_symbols)
    table = table[table["kind"].isin(list(kinds))]
    wanted = _gene_names(table)
    place = pd.Series({name: known.position(name) for name in wanted}, dtype=object).dropna().astype(np.int64)
    kept = _pathways(table, place, pathways)
    ends = {"G": place, "P": pd.Series(np.arange(len(kept)), index=kept)}
    edges, weights, rows = {}, {}, []
    for kind in (k for k in KINDS if (table["kind"] == k).any()):
        edges[kind], weights[kind], counts = _edges(table[table["kind"] == kind], ends[kind[0]], ends[kind[1]])
        rows.append({"kind": kind, **counts})
    unmatched = np.array(sorted(set(wanted) - set(place.index)), dtype=str)
    matched = np.unique(place.to_numpy(dtype=np.int64)).size
    nodes = {
        "genes_matched": matched,
        "genes_unmatched": len(unmatched),
        "genes_without_edge": len(known.names) - _reached(edges),
        "pathways": len(kept),
        "pathways_left_out": len(set(_listed(table)) - set(kept)),
    }
    report = pd.DataFrame(rows, columns=["kind", "n_rows", "n_used", "n_unmatched", "n_loops", "n_repeated"])
    names = np.asarray(known.names, dtype=str)
    found = Network(names, kept, edges, weights, report, nodes, unmatched)
    logger.info("%r", found)
    return _doubt(found, list(wanted), known, var)


def _genes(genes: Any, gene_symbols: str | None) -> tuple[Genes, pd.DataFrame | None]:
    if not hasattr(genes, "var_names"):
        if gene_symbols is not None:
            msg = "gene_symbols= names a column of .var: pass the AnnData as genes."
            raise ValueError(msg)
        return Genes(genes), None
    if gene_symbols is not None and gene_symbols not in genes.var:
        msg = (
            f".var has no column {gene_symbols!r}.{suggest(gene_symbols, genes.var)} Its columns are {list(genes.var)}."
        )
        raise KeyError(msg)
    return Genes(genes.var_names, None if gene_symbols is None else genes.var[gene_symbols]), genes.var


def _gene_names(table: pd.DataFrame) -> NDArray[Any]:
    """Names of all genes in a table, sorted."""
    between = table["kind"] == "GG"
    genes = pd.concat([table.loc[between, "source"], table.loc[between | (table["kind"] == "PG"), "target"]])
    return np.array(sorted(set(genes)), dtype=str)


def _listed(table: pd.DataFrame) -> NDArray[Any]:
    nested = table["kind"] == "PP"
    found = pd.concat([table.loc[nested | (table["kind"] == "PG"), "source"], table.loc[nested, "target"]])
    return np.array(sorted(set(found)), dtype=str)


def _reached(edges: dict[str, Ints]) -> int:
    """Number of genes with an edge."""
    genes = [edges["GG"].ravel()] if "GG" in edges else []
    genes += [edges["PG"][1]] if "PG" in edges else []
    return int(np.unique(np.concatenate(genes)).size) if genes else 0


def _pathways(table: pd.DataFrame, place: pd.Series, which: str | Sequence[str]) -> NDArray[np.str_]:
    if not isinstance(which, str):
        return np.array(sorted(set(map(str, which))), dtype=str)
    if which == "all":
        return np.asarray(_listed(table), dtype=str)
    used = table[(table["kind"] == "PG") & table["target"].isin(place.index)]
    return np.array(sorted(set(used["source"])), dtype=str)


def _edges(
    table: pd.DataFrame, first: pd.Series, second: pd.Series
) -> tuple[Ints, NDArray[np.float64], dict[str, int]]:
    """Positions and weights of the edges of one kind, and why others are not among them."""
    both = table["source"].isin(first.index) & table["target"].isin(second.index)
    used = table[both]
    ends = np.stack([first[used["source"]].to_numpy(np.int64), second[used["target"]].to_numpy(np.int64)])
    weight = used["weight"].to_numpy(np.float64)
    same = table["kind"].iloc[0] != "PG"  # both ends of one sort
    loop = (ends[0] == ends[1]) & same
    ends, weight = ends[:, ~loop], weight[~loop]
    if table["kind"].iloc[0] == "GG":
        ends = np.sort(ends, axis=0)
    _, at = np.unique(code(ends), return_index=True)
    ends = ends[:, at]
    counts = {
        "n_rows": len(table),
        "n_used": ends.shape[1],
        "n_unmatched": int((~both).sum()),
        "n_loops": int(loop.sum()),
        "n_repeated": len(weight) - ends.shape[1],
    }
    return ends, weight[at], counts


def _doubt(found: Network, wanted: list[str], known: Genes, var: pd.DataFrame | None) -> Network:
    reached = len(found.genes) - found.nodes["genes_without_edge"]
    if reached >= _FEW * len(found.genes) and found.n_edges:
        return found
    wanted = list(map(str, wanted))  # numpy's text says so in messages
    absent = [name for name in wanted if name not in known][:200]
    folded = {name.casefold() for name in known.names}
    case = sum(name.casefold() in folded for name in absent)
    why = [f"{case:,} of {len(absent):,} differ in case only"] if case else []
    if told := explain_mismatch(absent, known, var):
        why.append(told)
    note = (
        f"Only {reached:,} of {len(found.genes):,} measured genes ({shorten(known.names, 3)}) have an edge in the "
        f"network ({shorten(wanted, 3)}), and {found.n_edges:,} edges are left"
        + (f": {'; '.join(why)}." if why else ".")
    )
    warnings.warn(note, UserWarning, stacklevel=3)
    return replace(found, notes=[note])


def code(ends: Ints) -> Ints:
    """One number per pair: unique rows of two columns take numpy a hundred times longer."""
    return ends[0] << 32 | ends[1]
