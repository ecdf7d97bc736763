"""Which gene to perturb next: the question, its arguments, and where the answer is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causcade import _keys, get
from causcade.get._stored import looks_like_causes, looks_like_graph
from causcade.graphs._values import read_values
from causcade.pp import _store
from causcade.regimes import from_adata
from causcade.regimes.labels import shorten, suggest
from causcade.suggest import METHODS, gains
from causcade.tl._checks import check_place

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.regimes import Regimes

__all__ = ["suggest_perturbations"]

Method = Literal["direction", "entropy", "effects", "spread", "correlation", "variance"]
_MOST_CELLS = 5_000  # controls for the variance


def suggest_perturbations(
    adata: AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    candidates: Sequence[str] | None = None,
    method: Method = "entropy",
    key: str = _keys.GRAPH,
    key_added: str = _keys.SUGGESTIONS,
) -> None:
    """Rank genes that no one has perturbed yet by what perturbing them is expected to tell.

    Reads the probabilities that :func:`causcade.tl.graph` or :func:`causcade.tl.causes` wrote: the less is known of a
    gene's effects on the genes of interest, the more its perturbation tells. How much faster than by chance, and by
    simple answers, that learns was measured on simulated screens; the page on the next experiment has the numbers.
    Nothing is random.

    Parameters
    ----------
    adata
        Annotated data on which :func:`causcade.tl.graph` or :func:`causcade.tl.causes` was run. Values, layer and
        regimes are those of that call.
    genes
        Genes of interest, whose causes are asked for; None: all genes of the graph, or all whose causes were scored.
    candidates
        Genes that could be perturbed (such as those for which there is a guide or a drug); None: all genes that have
        scores. Those already acted on, alone or with others, are left out.
    method
        What ranks. ``"entropy"``: what is not known of effects on `genes`, in bits; ``"direction"``: of relations with
        `genes`, what is not known of which is the cause, in bits, only where both ways were scored (graphs, and causes
        of all pairs); ``"effects"``: their expected number; ``"spread"``: summed standard errors of their probabilities;
        or a simple answer, ``"correlation"`` (summed absolute correlations with `genes`) or ``"variance"`` (of log
        expression among controls; worse than chance in the benchmark). All are stored.
    key
        The `key_added` of that call.
    key_added
        Stem of the keys below.

    Returns
    -------
    None. Writes, for ``key_added="suggestions"``,

    `.varm["suggestions"]` : float32 (n_vars, n_methods)
        Each method's number, higher = sooner; NaN for genes that are no candidates.
    `.uns["suggestions"]` : dict
        ``names`` (the methods), ``method``, ``genes`` (of interest), ``perturbed`` (genes that were acted on) and
        ``params``.

    Raises
    ------
    KeyError
        If there is no such result, its regimes or layer are gone, or a gene has no scores there.
    ValueError
        If no candidate is left, `genes` or `candidates` is empty, or `method` is unknown or was not stored. `adata` is
        unchanged after any error.

    Examples
    --------
    >>> cc.tl.graph(adata, genes)
    >>> cc.tl.suggest_perturbations(adata, ["NANOG"])
    >>> cc.get.suggestions(adata)
    """
    if not isinstance(method, str) or method not in METHODS:
        msg = f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}."
        raise ValueError(msg)
    if key_added == key:
        msg = f"key_added and key are both {key!r}: the suggestions would overwrite what they come from; change one."
        raise ValueError(msg)
    check_place(adata, key_added, "", "suggest_perturbations")
    how = _how(adata, key)
    pairs, interest = _pairs(adata, genes, key)
    regimes = from_adata(adata, how["regimes_key"]) if how["regimes_key"] else None
    acted = _acted(adata, regimes)
    chosen = _candidates(adata, pairs, candidates, acted)
    place = {str(name): i for i, name in enumerate(adata.var_names)}
    pairs = pairs[pairs["cause"].isin(chosen)]
    optional = {name: pairs[name] for name in ("reverse", "sd", "correlation") if name in pairs}
    found = gains(pairs["cause"].map(place), pairs["probability"], adata.n_vars, **optional)
    at = np.array([place[name] for name in chosen], dtype=np.int64)
    found["variance"] = np.full(adata.n_vars, np.nan)
    found["variance"][at] = _variance(adata, how, regimes, at)
    found = {name: x for name, x in found.items() if not np.isnan(x[at]).all()}
    if method not in found:
        msg = f"method={method!r} needs what is not under key={key!r}; there are {', '.join(found)}."
        raise ValueError(msg)
    result = {
        _keys.NAMES: np.array(list(found), dtype=object),
        _keys.METHOD: method,
        "genes": np.array(interest, dtype=object),
        "perturbed": np.array(sorted(acted), dtype=object),
        _keys.PARAMS: {"key": key, **how},
    }
    _store(adata, key_added, result)
    adata.varm[key_added] = np.stack(list(found.values()), axis=1).astype(np.float32)


def _how(adata: AnnData, key: str) -> dict[str, str]:
    """How the result under `key` was made."""
    if not (looks_like_graph(adata, key) or looks_like_causes(adata, key)):
        found = [str(k) for k in adata.uns if looks_like_graph(adata, k) or looks_like_causes(adata, k)]
        there = f" There are some under {shorten(found)}: pass key=." if found else ""
        msg = f"There is neither a graph nor are there cause scores under key={key!r}.{there} Run cc.tl.graph first."
        raise KeyError(msg)
    params: Mapping[str, Any] = adata.uns[key][_keys.PARAMS]
    return {name: str(params[name]) for name in ("layer", "values", "regimes_key")}


def _pairs(adata: AnnData, genes: Any, key: str) -> tuple[pd.DataFrame, list[str]]:
    """One row per cause and effect of interest, with the spread that of the probability."""
    graph = looks_like_graph(adata, key)
    table = get.graph(adata, key) if graph else get.causes(adata, key=key)
    known = list(dict.fromkeys(table["effect"]))
    asked = known if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(map(str, genes)))
    if not asked:
        msg = "genes is empty: name at least one gene of interest, or pass None for all that were scored."
        raise ValueError(msg)
    if absent := [g for g in asked if g not in set(known)]:
        msg = (
            f"{shorten(absent)} have no scores as effects under key={key!r}.{suggest(absent[0], known)} Run "
            f"cc.tl.{'graph' if graph else 'causes'} with them."
        )
        raise KeyError(msg)
    part = table[table["effect"].isin(asked)].copy()
    back = _reverse(part, table)
    if back is not None:
        part["reverse"] = back
    if not graph and "sd" in part:  # of the logit
        part["sd"] *= part["probability"] * (1 - part["probability"])
    return part, asked


def _reverse(part: pd.DataFrame, table: pd.DataFrame) -> np.ndarray | None:
    """Probability of each pair the other way round; None where one was not scored."""
    lookup = table.set_index(["effect", "cause"])["probability"]  # turned round
    back = lookup.reindex(pd.MultiIndex.from_frame(part[["cause", "effect"]])).to_numpy(np.float64)
    return None if np.isnan(back).any() else back


def _acted(adata: AnnData, regimes: Regimes | None) -> set[str]:
    """Measured genes that some regime with cells acted on."""
    if regimes is None:
        return set()
    some = [at for at, n in zip(regimes.target_index, regimes.n_cells, strict=True) if n]
    return {str(adata.var_names[i]) for at in some for i in at}


def _candidates(adata: AnnData, pairs: pd.DataFrame, candidates: Any, acted: set[str]) -> list[str]:
    scored = set(pairs["cause"])
    if candidates is None:
        asked = [name for name in map(str, adata.var_names) if name in scored]
    else:
        asked = [candidates] if isinstance(candidates, str) else list(dict.fromkeys(map(str, candidates)))
    if absent := [name for name in asked if name not in scored]:
        msg = f"candidates without scores: {shorten(absent)}.{suggest(absent[0], sorted(scored))}"
        raise KeyError(msg)
    left = [name for name in asked if name not in acted]
    if not left:
        msg = f"No candidate is left: all {len(asked):,} were acted on already, in some regime." if asked else (
            "candidates is empty: name genes that could be perturbed, or pass None for all that have scores."
        )  # fmt: skip
        raise ValueError(msg)
    return left


def _variance(adata: AnnData, how: dict[str, str], regimes: Regimes | None, at: np.ndarray) -> np.ndarray:
    """Variance among controls; of counts and expression after library sizes are brought to their median and logged."""
    cells = np.arange(adata.n_obs) if regimes is None else np.flatnonzero(regimes.codes == 0)
    cells = cells[:: -(-len(cells) // _MOST_CELLS)]
    layer = None if how["layer"] == "X" else how["layer"]
    x, total = read_values(adata, layer, how["values"], cells, at)  # type: ignore[arg-type]
    if total is not None:
        x = np.log1p(x * (np.median(total[total > 0]) / np.where(total > 0, total, 1))[:, None])
    seen = np.isfinite(x).sum(0) > 1
    out = np.full(x.shape[1], np.nan)
    out[seen] = np.nanvar(x[:, seen], axis=0)
    return out
