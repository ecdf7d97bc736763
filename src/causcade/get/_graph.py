"""Edges of a causal graph as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from causcade import _keys
from causcade.get._stored import looks_like_graph, names_of
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["graph"]


def graph(adata: AnnData, key: str = _keys.GRAPH, *, min_probability: float = 0.0) -> pd.DataFrame:
    """Edges between genes, most probable first, next to the baselines.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.graph` was run. Genes may have been dropped since; edges are those among
        the genes that are still there.
    key
        The `key_added` of that call.
    min_probability
        Leave out less probable edges.

    Returns
    -------
    One row per ordered pair of different genes of the graph; ties in the order of the genes:

    `cause`, `effect` : str
    `probability` : float
        That the one directly causes the other, among these genes.
    `sd` : float
        Its approximate standard error.
    `called` : bool
        Whether the probability reaches the threshold, ``adata.uns[key]["threshold"]``.
    `in_dag` : bool
        Whether a called edge is left when the weakest of every cycle is taken out.
    `correlation`, `precision` : float
        Absolute correlation and partial correlation, in cells in which the effect was not perturbed.
    `knockout_t` : float
        Size of Welch's t of the effect, cells with the cause perturbed against controls; NaN where it was not.

    Columns that were not stored are left out.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If `min_probability` is not a number from 0 to 1.

    Examples
    --------
    >>> cc.tl.graph(adata, ["GATA1", "KLF1", "TAL1", "MYC"])
    >>> cc.get.graph(adata, min_probability=0.1)
    """
    _check_probability(min_probability)
    if not looks_like_graph(adata, key):
        found = [str(k) for k in adata.uns if looks_like_graph(adata, k)]
        there = f" There are graphs under {shorten(found)}: pass key=." if found else ""
        msg = f"There is no causal graph under key={key!r}.{there} Run cc.tl.graph first."
        raise KeyError(msg)
    place = {str(name): i for i, name in enumerate(adata.var_names)}
    names = np.array([name for name in names_of(adata, key) if name in place], dtype=object)
    at = np.array([place[name] for name in names], dtype=np.int64)
    probability = _block(adata, key, at)
    causes, effects = np.nonzero(~np.eye(len(names), dtype=bool) & (probability >= min_probability))
    order = np.argsort(-probability[causes, effects], kind="stable")
    causes, effects = causes[order], effects[order]
    table = {"cause": names[causes], "effect": names[effects], "probability": probability[causes, effects]}
    parts = _parts(adata, key, at, names, probability)
    return pd.DataFrame(table | {name: matrix[causes, effects] for name, matrix in parts.items()})


def _check_probability(value: Any) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        msg = f"min_probability must be a number from 0 to 1, not {value!r}."
        raise ValueError(msg)


def _parts(
    adata: AnnData, key: str, at: np.ndarray, names: np.ndarray, probability: np.ndarray
) -> dict[str, np.ndarray]:
    """Further columns, as matrices of the genes of the graph."""
    parts: dict[str, np.ndarray] = {}
    if _keys.sd(key) in adata.varp:
        parts["sd"] = _block(adata, _keys.sd(key), at)
    parts["called"] = probability >= float(np.float32(adata.uns[key]["threshold"]))  # as the probabilities are stored
    if _keys.dag(key) in adata.varp:
        parts["in_dag"] = _block(adata, _keys.dag(key), at) != 0
    for name in (_keys.CORRELATION, _keys.PRECISION, _keys.KNOCKOUT_T):
        if (stored := _keys.baseline(key, name)) in adata.varp:
            parts[name] = _block(adata, stored, at)
    if _keys.KNOCKOUT_T in parts:
        perturbed = {str(name) for name in np.atleast_1d(adata.uns[key]["perturbed"])}
        parts[_keys.KNOCKOUT_T][[name not in perturbed for name in names]] = np.nan
    return parts


def _block(adata: AnnData, key: str, at: np.ndarray) -> np.ndarray:
    """Entries among some genes, dense."""
    stored = adata.varp[key]
    some = (
        sparse.csr_array(stored)[at][:, at].toarray() if sparse.issparse(stored) else np.asarray(stored)[np.ix_(at, at)]
    )
    return some.astype(np.float64)
