"""Perturbations that reverse a change of state, as `causcade.tl.reversal` stored them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causcade import _keys
from causcade.get._stored import check_count, has, names_of
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["reversal", "reversal_genes"]


def reversal(adata: AnnData, *, key: str = _keys.REVERSAL) -> pd.DataFrame:
    """Perturbations by how far they push cells back, best first, next to simple answers.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.reversal` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    One row per perturbation, highest score first, ties in their order:

    `perturbation` : str
    `rank` : int
        1 for the highest score.
    `score` : float
        Cosine between the effect and the change with its sign turned: 1 = straight back, 0 = across, -1 = further away.
    `sd` : float
        Its spread over bootstrap samples of the cells.
    `pvalue`, `fdr` : float
        Of `fraction` against permuted labels, one-sided: small for what goes back at all, however little of its effect
        that is.
    `fraction`, `fraction_sd` : float
        How far back along the change the effect goes, 1 = all the way, and its spread. With a strong effect in other
        directions, too, cells do not come near the first group: see `closer`.
    `size` : float
        Length of the effect over that of the change. Noise adds to it, the more the fewer cells.
    `n_cells` : int
        Perturbed cells used.
    `top_correlation`, `closer` : float
        Simple answers: Pearson correlation of effect and reversed change over the genes that changed most, and by
        which share the mean of perturbed cells is nearer to the first group (1 = there, negative = further).
    `rank_top_correlation`, `rank_closer` : int
        Ranks by those; ties share the best.

    Columns that were not stored are left out.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> cc.tl.reversal(adata, ("healthy", "disease"), "state")
    >>> cc.get.reversal(adata).head()
    """
    table = _stored(adata, key)[_keys.TABLE].copy()
    table["perturbation"] = table["perturbation"].astype(str).astype(object)
    table = table.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    table.insert(1, "rank", np.arange(1, len(table) + 1))
    for name in ("top_correlation", "closer"):
        table[f"rank_{name}"] = table[name].rank(ascending=False, method="min").astype(np.int64)
    return table


def reversal_genes(
    adata: AnnData, perturbation: str, *, key: str = _keys.REVERSAL, n_top: int | None = None
) -> pd.DataFrame:
    """Genes by what they add to the score of one perturbation.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.reversal` was run. Of genes dropped since nothing is known.
    perturbation
        Its name.
    key
        The `key_added` of that call.
    n_top
        Only the first genes; None for all.

    Returns
    -------
    One row per gene but the known targets of the perturbation, largest contribution first: ``gene``, ``change`` (second group less the first), ``effect``
    (perturbed less control), both of mean log-normalised expression, and ``contribution`` to the cosine: over all genes
    these add up to the score.

    Raises
    ------
    KeyError
        If there is no such result, or the perturbation was not scored.
    ValueError
        If `n_top` is not positive.

    Examples
    --------
    >>> cc.get.reversal_genes(adata, "JAK2", n_top=10)
    """
    n_top = None if n_top is None else check_count(n_top, "n_top")
    _stored(adata, key)
    names = names_of(adata, key)
    if perturbation not in names:
        msg = (
            f"{perturbation!r} was not scored under key={key!r}.{suggest(str(perturbation), names)} Scored: "
            f"{shorten(names, 10)}."
        )
        raise KeyError(msg)
    effect = np.asarray(adata.varm[key], dtype=np.float64)[:, names.index(perturbation)]
    change = np.asarray(adata.varm[_keys.change(key)], dtype=np.float64)[:, 0]
    counts = ~np.isnan(effect)
    genes, change, effect = (
        np.array(list(map(str, adata.var_names)), dtype=object)[counts],
        change[counts],
        effect[counts],
    )
    length = float(np.linalg.norm(effect) * np.linalg.norm(change))
    share = -effect * change / length if length else np.zeros_like(effect)
    columns = {"gene": genes, "change": change, "effect": effect}
    table = pd.DataFrame({**columns, "contribution": share})
    return table.sort_values("contribution", ascending=False, kind="stable", ignore_index=True)[:n_top]


def _stored(adata: AnnData, key: str) -> Mapping[str, Any]:
    if not _is_reversal(adata, key):
        found = [str(k) for k in adata.uns if _is_reversal(adata, k)]
        there = f" There are reversals under {shorten(found)}: pass key=." if found else ""
        msg = f"There is no reversal under key={key!r}.{there} Run cc.tl.reversal first."
        raise KeyError(msg)
    stored: Mapping[str, Any] = adata.uns[key]
    return stored


def _is_reversal(adata: AnnData, key: str) -> bool:
    return has(adata.uns.get(key), _keys.TABLE, _keys.NAMES, "groups") and _keys.change(key) in adata.varm
