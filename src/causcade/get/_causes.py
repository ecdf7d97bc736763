"""Candidate causes of genes as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit
from scipy.stats import rankdata

from causcade import _keys
from causcade.get._stored import check_count, looks_like_causes, names_of
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["causes"]

_SIGNED: Final = (_keys.KNOCKOUT_T, _keys.CORRELATION)  # ranked by size, whatever the sign
_BASELINES: Final = (_keys.KNOCKOUT_T, _keys.POPULARITY, _keys.CORRELATION)


def causes(
    adata: AnnData, gene: str | Sequence[str] | None = None, *, key: str = _keys.CAUSES, n_top: int | None = None
) -> pd.DataFrame:
    """Candidate causes of genes, best first, next to the baselines.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.causes` was run. Genes and cells may have been dropped since; candidates
        are the genes that are still there, and ranks are among them.
    gene
        Effect gene or genes; None for all that were scored (of a result of all pairs, those still in ``.var_names``).
    key
        The `key_added` of that call.
    n_top
        Only the best candidates of each effect gene; None for all.

    Returns
    -------
    One row per effect and candidate cause, by effect (in the order asked for), then rank:

    `effect`, `cause` : str
        The gene itself is no candidate, nor is a pair without a score.
    `rank` : int
        1 for the highest score; ties in the order of the genes.
    `score`, `probability` : float
        Mean cause score over draws (a logit), and its logistic function.
    `sd`, `n_draws`
        Spread of the score as `causcade.tl.causes` says, and how often the pair was scored.
    `pvalue`, `fdr`
        Against the null, if one was asked for.
    `knockout_t`, `popularity`, `correlation`
        Baselines: signed z of the effect gene where the candidate was perturbed alone (NaN where it never was); how
        much the candidate's perturbation changes at all, whatever the effect gene; correlation of the two.
    `rank_knockout_t`, `rank_popularity`, `rank_correlation` : float
        Rank of the candidate by the size of each baseline, over all candidates (of sparse pairs, those stored); ties
        share the best rank, NaN where the baseline is NaN.

    Columns that were not stored are left out.

    Raises
    ------
    KeyError
        If there is no such result, or a gene was not scored.
    ValueError
        If `gene` is empty, `n_top` is not positive, or the stored parts do not belong together.

    Examples
    --------
    >>> cc.tl.causes(adata, ["SOX2", "MYC"])
    >>> cc.get.causes(adata, "MYC", n_top=10)
    """
    n_top = None if n_top is None else check_count(n_top, "n_top")
    names = _names(adata, key)
    paired = _is_paired(adata, key, names)
    place = {str(name): i for i, name in enumerate(adata.var_names)}
    effects = _effects(adata, gene, names, place if paired else None, key)
    column_of = place if paired else {name: j for j, name in enumerate(names)}
    parts = _parts(adata, key, paired=paired, n_effects=adata.n_vars if paired else len(names))
    candidates = np.array(list(map(str, adata.var_names)), dtype=object)
    blocks = []
    for effect in effects:
        values = {name: _column(matrix, column_of[effect]) for name, matrix in parts.items()}
        blocks.append(_rank(effect, values, candidates, place.get(effect), n_top))
    return pd.DataFrame({c: np.concatenate([block[c] for block in blocks]) for c in blocks[0]} if blocks else {})


def _names(adata: AnnData, key: str) -> list[str]:
    """Effect genes that were scored."""
    if not looks_like_causes(adata, key):
        found = [str(k) for k in adata.uns if looks_like_causes(adata, k)]
        there = f" There are cause scores under {shorten(found)}: pass key=." if found else ""
        msg = f"There are no cause scores under key={key!r}.{there} Run cc.tl.causes first."
        raise KeyError(msg)
    return names_of(adata, key)


def _is_paired(adata: AnnData, key: str, names: list[str]) -> bool:
    """Whether the scores are of all pairs, in ``.varp``, and not of some effect genes, in ``.varm``."""
    if key not in adata.varm:
        return True
    if (width := adata.varm[key].shape[1]) == len(names):
        return False
    if key in adata.varp:
        return True
    msg = _mixed(f".varm[{key!r}] has {width:,} columns, but .uns[{key!r}] names {len(names):,} effect genes.")
    raise ValueError(msg)


def _mixed(what: str) -> str:
    return f"{what} They are not of one run: run cc.tl.causes again."


def _effects(adata: AnnData, gene: Any, names: list[str], place: Mapping[str, int] | None, key: str) -> list[str]:
    """Effect genes to list; with `place`, those that are still measured."""
    if gene is None:
        return names if place is None else [name for name in names if name in place]
    asked = [gene] if isinstance(gene, str) else list(dict.fromkeys(map(str, gene)))
    if not asked:
        msg = "gene is empty: name at least one effect gene, or pass None for all that were scored."
        raise ValueError(msg)
    known = set(names)
    if unknown := [name for name in asked if name not in known]:
        msg = (
            f"The causes of {shorten(unknown)} were not scored under key={key!r}.{suggest(unknown[0], names)} "
            f"Scored: {shorten(names, 10)}. For others, run cc.tl.causes(adata, genes)."
        )
        raise KeyError(msg)
    if place is not None and (gone := [name for name in asked if name not in place]):
        msg = (
            f"{shorten(gone)} left the AnnData, and with it the scores in .varp[{key!r}]. Ask before dropping genes, "
            f"or score the causes of chosen genes, cc.tl.causes(adata, genes): these scores stay."
        )
        raise KeyError(msg)
    return asked


def _parts(adata: AnnData, key: str, *, paired: bool, n_effects: int) -> dict[str, Any]:
    """Stored matrices by column name, each (n_vars, n_effects), or (n_vars, 1) if alike for all effects."""
    stored_under = {
        "score": key,
        "sd": _keys.sd(key),
        "n_draws": _keys.n_draws(key),
        "pvalue": _keys.pvalue(key),
        "fdr": _keys.fdr(key),
        **{name: _keys.baseline(key, name) for name in _BASELINES},
    }
    parts = {}
    for name, part_key in stored_under.items():
        slot = adata.varp if paired and name != _keys.POPULARITY else adata.varm
        if part_key not in slot:
            continue
        matrix = slot[part_key]
        matrix = matrix.tocsc() if sparse.issparse(matrix) else np.asarray(matrix)
        width = matrix.shape[1] if matrix.ndim == 2 else 0
        if width != (expected := 1 if name == _keys.POPULARITY else n_effects):
            msg = _mixed(f"{part_key!r} has {width:,} columns where {key!r} needs {expected:,}.")
            raise ValueError(msg)
        parts[name] = matrix
    return parts


def _column(matrix: Any, j: int) -> np.ndarray:
    """Column `j`, dense; what a sparse matrix does not store is missing, not zero."""
    if not sparse.issparse(matrix):
        return matrix[:, j if matrix.shape[1] > 1 else 0]
    stored = slice(matrix.indptr[j], matrix.indptr[j + 1])
    missing = np.nan if np.issubdtype(matrix.dtype, np.floating) else 0
    column = np.full(matrix.shape[0], missing, dtype=matrix.dtype)
    column[matrix.indices[stored]] = matrix.data[stored]
    return column


def _rank(
    effect: str, values: dict[str, np.ndarray], candidates: np.ndarray, own: int | None, n_top: int | None
) -> dict[str, np.ndarray]:
    """Columns of the table for one effect gene, which is row `own` if it is still there."""
    usable = ~np.isnan(values["score"])
    if own is not None:
        usable[own] = False
    order = np.flatnonzero(usable)
    top = order[np.argsort(-values["score"][order], kind="stable")][:n_top]
    block = {
        "effect": np.full(len(top), effect, dtype=object),
        "cause": candidates[top],
        "rank": np.arange(1, len(top) + 1),
    }
    for name, value in values.items():
        block[name] = value[top]
        if name == "score":
            block["probability"] = expit(value[top])
        elif name in _BASELINES:
            block[f"rank_{name}"] = _baseline_ranks(np.abs(value) if name in _SIGNED else value, own)[top]
    return block


def _baseline_ranks(strength: np.ndarray, own: int | None) -> np.ndarray:
    down = -strength.astype(np.float64)
    if own is not None:
        down[own] = np.nan
    return rankdata(down, method="min", nan_policy="omit")
