"""Programs of a GraCE-VAE and their graph, as `causcade.tl.embed` stored them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causcade import _keys
from causcade.get._stored import has
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

__all__ = ["latent_graph", "programs"]

_PARTS = (_keys.NAMES, _keys.LATENT_GRAPH, _keys.PROGRAMS)


def programs(adata: AnnData, *, key: str = _keys.GRACEVAE) -> pd.DataFrame:
    """Say what hits each program and what it moves.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.embed` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    A copy: ``program``, ``kind`` (``"perturbation"``, ``"gene"``, ``"pathway"``), ``name``, ``score``, ``fdr``, as
    :meth:`causcade.models.GraCEVAE.get_programs` gives them. Programs that no perturbation acts on are not listed.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    table = _stored(adata, key)[_keys.PROGRAMS].reset_index(drop=True)
    text = ["program", "kind", "name"]  # zarr gives other kinds of text back
    return table.astype(dict.fromkeys(text, str)).astype(dict.fromkeys(text, object))


def latent_graph(adata: AnnData, *, key: str = _keys.GRACEVAE) -> pd.DataFrame:
    """Direct effects of programs on programs.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.embed` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    A copy: one row per cause, one column per effect; 0 on and below the diagonal.

    Raises
    ------
    KeyError
        If there is no such result.
    """
    stored = _stored(adata, key)
    names = pd.Index([str(name) for name in np.atleast_1d(stored[_keys.NAMES])], dtype=object)
    return pd.DataFrame(np.array(stored[_keys.LATENT_GRAPH]), index=names, columns=names)


def _stored(adata: AnnData, key: str) -> Mapping[str, Any]:
    stored: Any = adata.uns.get(key)
    if not has(stored, *_PARTS):
        found = [str(k) for k, v in adata.uns.items() if has(v, *_PARTS)]
        there = f" There are some under {shorten(found)}: pass key=." if found else ""
        msg = f"There are no programs under key={key!r}.{there} Run cc.tl.embed(adata, model) first."
        raise KeyError(msg)
    return stored  # type: ignore[no-any-return]
