"""Genes to perturb next, as `causcade.tl.suggest_perturbations` stored them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from causcade import _keys
from causcade.get._stored import check_count, has, names_of
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["suggestions"]


def suggestions(adata: AnnData, *, key: str = _keys.SUGGESTIONS, n_top: int | None = None) -> pd.DataFrame:
    """Genes to perturb next, best first, with what each way to rank them says.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.suggest_perturbations` was run. Genes may have been dropped since.
    key
        The `key_added` of that call.
    n_top
        Only the first genes; None for all candidates.

    Returns
    -------
    One row per candidate, by the method of that call, ties in the order of the genes:

    `gene` : str
    `rank` : int
        1 for the gene to perturb first.
    `direction` : float
        Of relations with the genes of interest, what is not known of which is the cause, in bits; only where both ways
        were scored.
    `effects` : float
        Expected number of effects on the genes of interest.
    `entropy` : float
        What is not known of these effects, in bits (at most 1 per gene of interest).
    `spread` : float
        Summed standard errors of their probabilities, if these were asked for.
    `correlation` : float
        Summed absolute correlations with the genes of interest.
    `variance` : float
        Variance of log expression (of ``values="continuous"``: of the values) among controls.
    `rank_direction`, ... : float
        Rank of the candidate by each; ties share the best, NaN where the number is NaN.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If `n_top` is not positive.

    Examples
    --------
    >>> cc.tl.suggest_perturbations(adata)
    >>> cc.get.suggestions(adata, n_top=10)
    """
    n_top = None if n_top is None else check_count(n_top, "n_top")
    if not _is_there(adata, key):
        found = [str(k) for k in adata.uns if _is_there(adata, k)]
        there = f" There are some under {shorten(found)}: pass key=." if found else ""
        msg = f"There are no suggestions under key={key!r}.{there} Run cc.tl.suggest_perturbations first."
        raise KeyError(msg)
    names = names_of(adata, key)
    table = pd.DataFrame(np.asarray(adata.varm[key], dtype=np.float64), columns=pd.Index(names, dtype=object))
    table.insert(0, "gene", np.array(list(map(str, adata.var_names)), dtype=object))
    method = str(adata.uns[key][_keys.METHOD])
    table = table[table[method].notna()].sort_values(method, ascending=False, kind="stable", ignore_index=True)
    table.insert(1, "rank", np.arange(1, len(table) + 1))
    for name in names:
        table[f"rank_{name}"] = table[name].rank(ascending=False, method="min")
    return table[:n_top]


def _is_there(adata: AnnData, key: str) -> bool:
    return has(adata.uns.get(key), _keys.NAMES, _keys.METHOD) and key in adata.varm
