"""How genes change along the dose, as `causcade.tl.dose_response` stored it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from causcade import _keys
from causcade.get._stored import has
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["dose_response"]


def dose_response(adata: AnnData, *, key: str = _keys.DOSE_RESPONSE) -> pd.DataFrame:
    """Means of genes along the dose of a perturbation: data, model and baselines.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.dose_response` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    A copy: one row per ``source`` (``"control"``, ``"data"``, ``"GIM"``, baselines), ``gene`` and ``dose``, with ``mean``,
    ``sd`` (of cells for control and data, over fits for GIM) and ``n_cells``.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    stored = adata.uns.get(key)
    if not has(stored, _keys.TABLE, _keys.UNITS):
        found = [str(k) for k, v in adata.uns.items() if has(v, _keys.TABLE, _keys.UNITS)]
        there = f" There are some under {shorten(found)}: pass key=." if found else ""
        msg = f"There is no dose response under key={key!r}.{there} Run cc.tl.dose_response(adata, model, name) first."
        raise KeyError(msg)
    table = stored[_keys.TABLE].copy()
    return table.astype({"source": str, "gene": str}).astype({"source": object, "gene": object})
