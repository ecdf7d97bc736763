"""Programs of cells and the latent graph of a fitted GraCE-VAE, to be written where tools write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from causcade import _keys
from causcade._checks import at_least
from causcade.pp import _store
from causcade.tl._checks import check_place

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from causcade.models.gracevae import GraCEVAE

__all__ = ["embed"]


def embed(
    adata: AnnData,
    model: GraCEVAE,
    *,
    fit: int = 0,
    exogenous: bool = False,
    n_top: int = 10,
    key_added: str = _keys.GRACEVAE,
) -> None:
    """Store the programs of every cell, the latent graph, and what each program moves.

    Parameters
    ----------
    adata
        The data that the model was made with.
    model
        A trained :class:`causcade.models.GraCEVAE`.
    fit
        Which fit; programs of different fits are not the same.
    exogenous
        Give of each program the part that does not come from other programs.
    n_top
        Most genes, and most pathways, of each program in the table.
    key_added
        Name of the result.

    Returns
    -------
    None. Writes

    ``.obsm["X_" + key_added]`` : array ``(n_cells, n_latent)``
        Programs, for ``scanpy.pp.neighbors(adata, use_rep="X_gracevae")`` and the like. An encoder that has learnt from
        control cells: in a perturbed cell the shift is read as part of its programs.
    ``.varm[key_added + "_loadings"]`` : array ``(n_genes, n_latent)``
        Change of each gene in control cells when the program rises by 1; NaN for programs that no perturbation acts on.
    ``.uns[key_added]`` : dict
        ``names`` of the programs (the columns of both); ``graph`` ``(n_latent, n_latent)``, [cause, effect];
        ``programs``, the table of :meth:`causcade.models.GraCEVAE.get_programs`; ``perturbations``, ``assignments``
        ``(n_perturbations, n_latent)`` and ``strength``, as :meth:`~causcade.models.GraCEVAE.get_assignments` has them;
        ``model`` and ``params``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If the model is of other data or another kind, a number is out of range, or something else lies under
        `key_added`. `adata` is unchanged after any error.

    Examples
    --------
    >>> cc.tl.embed(adata, model)
    >>> cc.pl.latent_graph(adata)
    """
    if not _is_gracevae(model):
        msg = f"model must be a trained causcade.models.GraCEVAE, not {type(model).__name__}."
        raise ValueError(msg)
    if model.adata is not adata:
        msg = "This GraCEVAE was fitted to other data: pass the AnnData it was made with (model.adata)."
        raise ValueError(msg)
    n_top = at_least(n_top, 1, "n_top")
    check_place(adata, key_added, model._setup_args()["regimes_key"], "embed")
    cells = model.get_latent_representation(exogenous=exogenous, fit=fit)
    programs = model.get_programs(adata.n_vars, fit=fit)
    result, names = _result(model, fit, programs, n_top)
    result[_keys.PARAMS] = {"fit": int(fit), "n_fits": len(model.nets), "exogenous": bool(exogenous), "n_top": n_top}
    loadings = _loadings(programs, adata, names)
    _store(adata, key_added, result)  # all values exist before the first is written
    adata.obsm[_keys.embedding(key_added)] = cells
    adata.varm[_keys.loadings(key_added)] = loadings


def _is_gracevae(model: Any) -> TypeGuard[GraCEVAE]:
    """Say whether a model is a GraCE-VAE, without importing models."""
    return type(model).__name__ == "GraCEVAE" and hasattr(model, "get_latent_graph")


def _result(model: GraCEVAE, fit: int, programs: pd.DataFrame, n_top: int) -> tuple[dict[str, Any], list[str]]:
    graph, assigned = model.get_latent_graph(fit=fit), model.get_assignments(fit=fit)
    names = [str(name) for name in graph.columns]
    rank = programs.groupby(["program", "kind"], sort=False).cumcount()
    table = programs[(rank < n_top) | (programs["kind"] == "perturbation")].reset_index(drop=True)
    table.index = table.index.astype(str)  # files hold text only
    result = {
        _keys.NAMES: np.asarray(names, dtype=object),
        _keys.LATENT_GRAPH: graph.to_numpy(np.float32),
        _keys.PROGRAMS: table.astype({"fdr": np.float64}),
        "perturbations": np.asarray(assigned.index.astype(str), dtype=object),
        "assignments": assigned[names].to_numpy(np.float32),
        "strength": assigned["strength"].to_numpy(np.float32),
        "model": "GraCEVAE",
    }
    return result, names


def _loadings(programs: pd.DataFrame, adata: AnnData, names: list[str]) -> np.ndarray:
    genes = programs[programs["kind"] == "gene"]
    row = adata.var_names.astype(str).get_indexer(genes["name"].astype(str))
    column = {name: k for k, name in enumerate(names)}
    out = np.full((adata.n_vars, len(names)), np.nan, dtype=np.float32)
    out[row, genes["program"].map(column).to_numpy()] = genes["score"].to_numpy(np.float32)
    return out
