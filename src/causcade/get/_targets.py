"""Candidate targets of perturbations as a table, and where the known targets stand among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import rankdata

from causcade import _keys
from causcade.get._stored import FUSED, LFC, WILCOXON, check_count, has, looks_like_targets, names_of
from causcade.regimes.labels import Genes, shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["target_ranks", "targets"]

_SIGNED: Final = (LFC, WILCOXON)  # ranked by size, whatever the sign
_METHODS: Final = ("score", LFC, WILCOXON, FUSED)  # by the names of their columns


def targets(
    adata: AnnData,
    perturbation: str | Sequence[str] | None = None,
    *,
    key: str = _keys.TARGETS,
    n_top: int | None = None,
) -> pd.DataFrame:
    """Candidate targets of perturbations, best first, next to the baselines.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.targets` was run. Genes and cells may have been dropped since; candidates
        are those that are still there, and ranks are among them.
    perturbation
        Perturbation or perturbations; None for all that were scored.
    key
        The `key_added` of that call.
    n_top
        Only the best candidates of each perturbation; None for all.

    Returns
    -------
    One row per perturbation and candidate gene, by perturbation (in the order asked for), then rank:

    `perturbation`, `gene` : str
        Genes that were no candidates of that perturbation are not listed.
    `rank` : int
        1 for the highest score; ties in the order of the genes.
    `score`, `probability` : float
        Mean score over draws (a logit), and its logistic function.
    `sd` : float
        Spread of the score.
    `pvalue`, `fdr` : float
        Against the null, if one was asked for.
    `lfc`, `wilcoxon`, `fused` : float
        Log fold change (natural log) and z of the rank-sum test, perturbed against control; score that joins those
        two with the model's.
    `lfc_rank`, `wilcoxon_rank`, `fused_rank` : float
        Rank among the candidates, 1 for the best, by size of the first two whatever the sign; ties share the best
        rank, NaN where the value is NaN.
    `known` : bool
        Whether the gene is a target of that perturbation according to the regimes.

    Columns that were not stored are left out, and so is `known` if the regimes are gone.

    Raises
    ------
    KeyError
        If there is no such result, or a perturbation was not scored.
    ValueError
        If `perturbation` is empty, `n_top` is not positive, or the stored parts do not belong together.

    Examples
    --------
    >>> cc.tl.targets(adata)
    >>> cc.get.targets(adata, "drug X", n_top=10)
    """
    n_top = None if n_top is None else check_count(n_top, "n_top")
    result = _read(adata, key)
    blocks = [_block(result, name, n_top) for name in _asked(result, perturbation, key)]
    return pd.DataFrame({c: np.concatenate([block[c] for block in blocks]) for c in blocks[0]} if blocks else {})


def target_ranks(adata: AnnData, *, key: str = _keys.TARGETS) -> pd.DataFrame:
    """Where the known targets stand among the candidates, by the model and by the baselines.

    Parameters
    ----------
    adata
        Annotated data with regimes (`causcade.pp.regimes`) on which `causcade.tl.targets` was run.
    key
        The `key_added` of that call.

    Returns
    -------
    One row per perturbation with a known target, and target (a combination has several), as they were scored:

    `perturbation`, `target` : str
    `n_candidates` : int
        Candidate genes of that perturbation that are still there.
    `missing` : str
        Empty for a target with ranks, else why it has none: "not measured" or "no candidate".
    `trivial` : bool
        The target has the largest absolute log fold change of all candidates, without a tie. False without ranks.
    `score_position`, `lfc_position`, `wilcoxon_position`, `fused_position` : float
        Place among the candidates by each column of :func:`causcade.get.targets`, 1 for the best (log fold change and
        Wilcoxon's z by size). Ties count against the target. NaN without ranks.
    `score_normalised_rank`, ... : float
        1 - (position - 1) / n_candidates: 1 for the best, near 0 for the last.

    Columns of parts that were not stored are left out. If no target is known, there are no rows.

    Raises
    ------
    KeyError
        If there is no such result, or no regimes.
    ValueError
        If the stored parts do not belong together.

    Examples
    --------
    >>> table = cc.get.target_ranks(adata)
    >>> table.groupby("trivial")[["score_normalised_rank", "lfc_normalised_rank"]].mean()
    """
    result = _read(adata, key)
    if result.known is None:
        where = f"There are no regimes in .uns[{result.regimes_key!r}], and with them no known targets."
        msg = f"{where} Run cc.pp.regimes(adata, perturbation_key=, control=) first."
        if not result.regimes_key:  # groups of cells were compared, not regimes
            msg = f"The scores under key={key!r} are of groups of cells, whose targets are not known: nothing to rank."
        raise KeyError(msg)
    methods = [name for name in _METHODS if name in result.parts]
    rows = [
        _rank_row(result, perturbation, target, place, methods)
        for perturbation in result.names
        for target, place in result.known.get(perturbation, ())
    ]
    ranks = [f"{name}_{what}" for name in methods for what in ("position", "normalised_rank")]
    dtypes = {"n_candidates": np.int64, "missing": object, "trivial": bool, **dict.fromkeys(ranks, np.float64)}
    columns = ["perturbation", "target", *dtypes]
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(dtypes)


@dataclass(frozen=True)
class _Result:
    """What `causcade.tl.targets` stored.

    ``parts`` are arrays (n_vars, n_perturbations) by column name. ``known`` are, per perturbation, the names of its
    targets and their positions (None: not measured); None without regimes. ``sep`` joins names of combinations.
    """

    names: list[str]
    genes: np.ndarray
    parts: dict[str, np.ndarray]
    known: Mapping[str, list[tuple[str, int | None]]] | None
    regimes_key: str
    sep: str | None


def _read(adata: AnnData, key: str) -> _Result:
    if not looks_like_targets(adata, key):
        found = [str(k) for k in adata.uns if looks_like_targets(adata, k)]
        there = f" There are target scores under {shorten(found)}: pass key=." if found else ""
        msg = f"There are no target scores under key={key!r}.{there} Run cc.tl.targets first."
        raise KeyError(msg)
    names = names_of(adata, key)
    regimes_key = str(adata.uns[key].get(_keys.PARAMS, {}).get("regimes_key", _keys.REGIMES))
    known, sep = _known(adata, regimes_key)
    genes = np.array(list(map(str, adata.var_names)), dtype=object)
    return _Result(names, genes, _parts(adata, key, len(names)), known, regimes_key, sep)


def _parts(adata: AnnData, key: str, n_perturbations: int) -> dict[str, np.ndarray]:
    stored_under = {
        "score": key,
        "sd": _keys.sd(key),
        "pvalue": _keys.pvalue(key),
        "fdr": _keys.fdr(key),
        **{name: _keys.baseline(key, name) for name in (LFC, WILCOXON, FUSED)},
    }
    parts = {name: np.asarray(adata.varm[k]) for name, k in stored_under.items() if k in adata.varm}
    for name, matrix in parts.items():
        if matrix.ndim != 2 or matrix.shape[1] != n_perturbations:
            msg = (
                f".varm[{stored_under[name]!r}] has shape {matrix.shape}, but .uns[{key!r}] names {n_perturbations:,} "
                "perturbations. They are not of one run: run cc.tl.targets again."
            )
            raise ValueError(msg)
    return parts


def _known(adata: AnnData, key: str) -> tuple[dict[str, list[tuple[str, int | None]]] | None, str | None]:
    """Known targets per regime, and what joins combinations.

    Labels of cells are not read: what was intervened on is known even where the cells are gone.
    """
    stored = adata.uns.get(key)
    if not has(stored, _keys.TABLE, _keys.TARGETS, _keys.PARAMS):
        return None, None
    params = stored[_keys.PARAMS]
    symbols = params.get("gene_symbols")
    if symbols is not None and symbols not in adata.var.columns:
        msg = f".var has lost the column {symbols!r} in which .uns[{key!r}] finds targets: restore it."
        raise KeyError(msg)
    genes = Genes(adata.var_names, None if symbols is None else adata.var[symbols])
    names = [str(name) for name in stored[_keys.TABLE]["name"]]
    known: dict[str, list[tuple[str, int | None]]] = {}
    frame = stored[_keys.TARGETS]
    for regime, gene in zip(frame["regime"].astype(int), frame["gene"].astype(str), strict=True):
        place = genes.position(gene)
        known.setdefault(names[regime], []).append((gene if place is None else genes.names[place], place))
    sep = params.get("sep")
    return known, None if sep is None else str(sep)


def _asked(result: _Result, perturbation: Any, key: str) -> list[str]:
    """Perturbations to list, as they are named; parts of a combination may come in any order."""
    if perturbation is None:
        return result.names
    asked = [perturbation] if isinstance(perturbation, str) else list(dict.fromkeys(map(str, perturbation)))
    if not asked:
        msg = "perturbation is empty: name at least one, or pass None for all that were scored."
        raise ValueError(msg)
    names = set(result.names)
    if sep := result.sep:
        turned = {name: sep.join(sorted(part.strip() for part in name.split(sep))) for name in asked}
        asked = list(
            dict.fromkeys(turned[name] if name not in names and turned[name] in names else name for name in asked)
        )
    if unknown := [name for name in asked if name not in names]:
        msg = (
            f"The targets of {shorten(unknown)} were not scored under key={key!r}.{suggest(unknown[0], result.names)} "
            f"Scored: {shorten(result.names, 10)}. For others, run cc.tl.targets(adata, perturbations)."
        )
        raise KeyError(msg)
    return asked


def _block(result: _Result, name: str, n_top: int | None) -> dict[str, np.ndarray]:
    """Columns of the table for one perturbation."""
    j = result.names.index(name)
    score = result.parts["score"][:, j]
    candidates = np.flatnonzero(~np.isnan(score))
    best = np.argsort(-score[candidates], kind="stable")[:n_top]  # among the candidates
    top = candidates[best]
    block = {
        "perturbation": np.full(len(top), name, dtype=object),
        "gene": result.genes[top],
        "rank": np.arange(1, len(top) + 1),
    }
    for part, matrix in result.parts.items():
        block[part] = matrix[top, j]
        if part == "score":
            block["probability"] = expit(score[top])
        elif part in _METHODS:
            strength = _strength(part, matrix[candidates, j])
            block[f"{part}_rank"] = rankdata(-strength, method="min", nan_policy="omit")[best]
    if result.known is not None:
        places = [place for _, place in result.known.get(name, ()) if place is not None]
        block["known"] = np.isin(top, places)
    return block


def _strength(part: str, values: np.ndarray) -> np.ndarray:
    return np.abs(values.astype(np.float64)) if part in _SIGNED else values.astype(np.float64)


def _rank_row(
    result: _Result, perturbation: str, target: str, place: int | None, methods: Sequence[str]
) -> dict[str, Any]:
    """Place of one known target among the candidates of its perturbation."""
    j = result.names.index(perturbation)
    score = result.parts["score"][:, j]
    candidates = np.flatnonzero(~np.isnan(score))
    row: dict[str, Any] = {"perturbation": perturbation, "target": target, "n_candidates": len(candidates)}
    row["missing"] = "not measured" if place is None else "no candidate" if np.isnan(score[place]) else ""
    for name in methods:
        position = np.nan
        if place is not None and not row["missing"]:
            strength = _strength(name, result.parts[name][:, j])
            at_least = np.count_nonzero(strength[candidates] >= strength[place])
            position = np.nan if np.isnan(strength[place]) else float(at_least)
        row[f"{name}_position"] = position
        row[f"{name}_normalised_rank"] = 1 - (position - 1) / max(len(candidates), 1)
    row["trivial"] = row[f"{LFC}_position"] == 1
    return row
