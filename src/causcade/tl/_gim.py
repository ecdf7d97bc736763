"""What a fitted GIM says, to be written where tools write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from causcade import _keys
from causcade.pp import _store
from causcade.regimes.labels import shorten, suggest
from causcade.target_baselines import RankSum, log_fold_change
from causcade.targets import TargetScores
from causcade.tl._checks import check_place, seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from causcade.models.gim import GIM

__all__ = ["dose_response", "is_gim", "score_by_gim"]


def is_gim(model: Any) -> TypeGuard[GIM]:
    """Say whether a model is a GIM, without importing models."""
    return type(model).__name__ == "GIM" and hasattr(model, "get_dose_response")


def _check_own(adata: AnnData, model: GIM) -> None:
    if model.adata is not adata:
        msg = "This GIM was fitted to other data: pass the AnnData it was made with (model.adata)."
        raise ValueError(msg)


def score_by_gim(
    adata: AnnData, model: GIM, perturbations: Any, given: dict[str, Any]
) -> tuple[TargetScores, dict[str, Any]]:
    """Target scores of a GIM in the layout of `causcade.tl.targets`, and what is stored beside them.

    Raises
    ------
    KeyError
        If a perturbation was not in training.
    ValueError
        If the model is of other data, or an argument would be ignored.
    RuntimeError
        If it is not trained.
    """
    _check_own(adata, model)
    if ignored := [name for name, value in given.items() if value not in (None, 0, False, "auto")]:
        msg = f"With a GIM {', '.join(ignored)} would be ignored; leave out, or pass a CDN as model."
        raise ValueError(msg)
    places = _highest(model, perturbations)
    treatments = [model.treatments[place] for place in places]
    doses = [t.dose for t in treatments]
    names = [t.name for t in treatments]
    table = model.get_targets(names, None if np.isnan(doses).all() else doses)
    at = adata.var_names.astype(str).get_indexer(list(model.genes))
    shape = (adata.n_vars, len(names))
    part = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("logit", "logit_sd", "lfc", "wilcoxon")}
    data = model.environments()
    control = data.values[data.codes == 0]
    ranks = RankSum(control)
    for j, (name, place) in enumerate(zip(names, places, strict=True)):
        rows = table[table["perturbation"] == name].set_index("gene").loc[list(model.genes)]
        cells = data.values[data.codes == place]
        part["logit"][at, j], part["logit_sd"][at, j] = rows["logit"], rows["logit_sd"]
        part["lfc"][at, j], part["wilcoxon"][at, j] = log_fold_change(control, cells), ranks.against(cells)
    count = np.where(np.isnan(part["logit"]), 0, len(model.fitted.models)).astype(np.int32)
    nothing = np.full(shape, np.nan, dtype=np.float32)
    scores = TargetScores(
        tuple(names), part["logit"], part["logit_sd"], count, None, None, part["lfc"], part["wilcoxon"], nothing
    )
    return scores, _describe(model, names, doses)


def _highest(model: GIM, perturbations: Any) -> list[int]:
    """Positions of perturbations at their highest dose."""
    place: dict[str, int] = {}
    for i, t in enumerate(model.treatments[1:], start=1):
        if t.name not in place or t.dose > model.treatments[place[t.name]].dose:
            place[t.name] = i
    asked = list(place) if perturbations is None else perturbations
    asked = [asked] if isinstance(asked, str) else list(dict.fromkeys(map(str, asked)))
    if absent := [name for name in asked if name not in place]:
        msg = f"{shorten(absent)} were not in training.{suggest(absent[0], place)} In training: {shorten(list(place))}."
        raise KeyError(msg)
    if not asked:
        msg = "No perturbations were given; name at least one, or pass None for all."
        raise ValueError(msg)
    return [place[name] for name in asked]


def _describe(model: GIM, names: list[str], doses: list[float]) -> dict[str, Any]:
    args, config = model._setup_args(), model.config
    params = {
        "layer": "X" if args["layer"] is None else args["layer"],
        "values": args["values"],
        "batch_key": args["batch_key"] or "",
        "regimes_key": args["regimes_key"],
        "masked": False,
        "units": "logit",
        "mechanism": config.mechanism,
        "intervention": config.intervention,
    }
    if not np.isnan(doses).all():
        params["dose"] = np.array(doses)
    return {
        "names": np.asarray(names, dtype=object),
        "model": "GIM",
        "weights": f"GIM@{model.digest[:12]}",
        "n_draws": len(model.fitted.models),
        "params": params,
    }


def dose_response(
    adata: AnnData,
    model: GIM,
    perturbation: str,
    genes: Sequence[str] | None = None,
    *,
    doses: Sequence[float] | None = None,
    baselines: Sequence[str] = ("next_lower_dose", "ridge"),
    n_cells: int = 500,
    rng: int | np.random.Generator | None = 0,
    key_added: str = _keys.DOSE_RESPONSE,
) -> None:
    """Store how genes change along the dose of a perturbation: data, a fitted GIM, and baselines beside it.

    Parameters
    ----------
    adata
        The data that the model was made with.
    model
        A trained :class:`causcade.models.GIM`, set up with ``dose_key``.
    perturbation
        Its name.
    genes, doses, baselines, n_cells, rng
        As in :meth:`causcade.models.GIM.get_dose_response`.
    key_added
        Key in ``.uns`` of the result.

    Returns
    -------
    None. Writes ``.uns[key_added]``, a dict with ``table`` (the DataFrame of that method, as `causcade.get.dose_response`
    returns it), ``perturbation``, ``units``, ``model`` and ``params``.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    KeyError
        If the perturbation or a gene is unknown.
    ValueError
        If the model is of other data or has no doses, a dose or baseline is unusable, or something else lies under
        `key_added`. `adata` is unchanged after any error.

    Examples
    --------
    >>> cc.tl.dose_response(adata, gim, "vorinostat")
    >>> cc.pl.dose_response(adata)
    """
    if not is_gim(model):
        msg = f"model must be a trained causcade.models.GIM, not {type(model).__name__}."
        raise ValueError(msg)
    check_place(adata, key_added, _keys.REGIMES, "dose_response")
    _check_own(adata, model)
    table = model.get_dose_response(perturbation, genes, doses=doses, baselines=baselines, n_cells=n_cells, rng=rng)
    table.index = table.index.astype(str)
    result = {
        _keys.TABLE: table,
        "perturbation": str(perturbation),
        _keys.UNITS: model.units,
        "model": "GIM",
        _keys.PARAMS: {"n_cells": int(n_cells), "n_fits": len(model.fitted.models), **seed_of(rng)},
    }
    _store(adata, key_added, result)
