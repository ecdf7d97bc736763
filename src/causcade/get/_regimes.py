"""The table of regimes that `causcade.pp.regimes` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from causcade import _keys
from causcade.get._stored import has
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["regimes"]


def regimes(adata: AnnData, *, key: str = _keys.REGIMES) -> pd.DataFrame:
    """Table of the regimes that `causcade.pp.regimes` found.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.pp.regimes` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    A copy: one row per regime, control first, with ``name``, ``targets``, ``n_cells``, ``kind`` and ``n_measured``, as
    they were then.

    Raises
    ------
    KeyError
        If there are no such regimes.
    """
    stored = adata.uns.get(key)
    if not has(stored, _keys.TABLE, _keys.LABELS):
        found = [str(k) for k, v in adata.uns.items() if has(v, _keys.TABLE, _keys.LABELS)]
        there = f" There are regimes under {shorten(found)}: pass key=." if found else ""
        msg = (
            f"There are no regimes in .uns[{key!r}].{there} "
            "Run cc.pp.regimes(adata, perturbation_key=, control=) first."
        )
        raise KeyError(msg)
    return stored[_keys.TABLE].copy()
