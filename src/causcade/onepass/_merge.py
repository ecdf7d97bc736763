"""Summaries of parts of a screen joined to that of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from causcade import _keys
from causcade.expression import is_summary
from causcade.onepass._build import annotated
from causcade.onepass._labels import regime_of
from causcade.onepass._plan import lowest_keys
from causcade.regimes.labels import as_text, shorten
from causcade.summary import Stored, read_stored

__all__ = ["merge"]

#: What must be the same for all parts.
_COMMON = ("values", "batch_key", "scale", "seed", "max_cells", "max_controls", "regimes_key")


def merge(parts: Sequence[ad.AnnData]) -> ad.AnnData:
    """Join summaries of parts of a screen; see :func:`causcade.pp.merge_summaries`."""
    summaries = _checked(parts)
    order = np.argsort([int(s.params["first_cell"]) for s in summaries])
    parts, summaries = [parts[i] for i in order], [summaries[i] for i in order]
    key = str(summaries[0].params["regimes_key"])
    regimes, places = _join_regimes([p.uns[key] for p in parts])
    stored = _join_sums(summaries, places, tuple(regimes[_keys.TABLE]["name"]))
    cells = ad.concat([ad.AnnData(p.X, obs=p.obs, var=p.var) for p in parts], merge="same")
    codes = np.concatenate([at[regime_of(p, p.uns[key], key)] for p, at in zip(parts, places, strict=True)])
    params = stored.params
    most = np.where(np.arange(stored.n_regimes) == 0, int(params["max_controls"]), int(params["max_cells"]))
    kept = lowest_keys(cells.obs[_keys.summary("key")].to_numpy().astype(np.uint64), codes, most)
    params["n_kept"] = len(kept)
    x = sparse.csr_array(sparse.csr_array(cells.X)[kept])
    return annotated(x, cells.obs.iloc[kept].copy(), parts[0].var.copy(), stored, regimes)


def _checked(parts: Sequence[ad.AnnData]) -> list[Stored]:
    """Refuse what is no summary, or of other genes, units or numbers."""
    if not parts or not all(is_summary(p) for p in parts):
        msg = "Give at least one summary, each made by cc.pp.summarise."
        raise ValueError(msg)
    summaries = [read_stored(p) for p in parts]
    first = summaries[0].params
    for part, summary in zip(parts, summaries, strict=True):
        if not part.var_names.equals(parts[0].var_names):
            msg = "The parts have other genes, or in another order; summarise all with the same genes=."
            raise ValueError(msg)
        if other := [name for name in _COMMON if summary.params[name] != first[name]]:
            told = ", ".join(f"{n} {first[n]!r} and {summary.params[n]!r}" for n in other)
            msg = f"The parts were made in different ways: {told}. Pass the same to each; a number for scale, and rng."
            raise ValueError(msg)
    spans = sorted((int(s.params["first_cell"]), int(s.params["n_cells"])) for s in summaries)
    for (start, n), (following, _) in itertools.pairwise(spans):
        if following < start + n:
            msg = (
                f"Two parts both hold cell number {following:,}: pass first_cell=, the number of cells in the parts before, "
                "to cc.pp.summarise of each."
            )
            raise ValueError(msg)
    return summaries


def _join_regimes(stored: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[NDArray[np.int64]]]:
    """Regimes of all parts, control first, the others by name; and where those of each part are among them."""
    tables = [s[_keys.TABLE] for s in stored]
    controls = {as_text(t["name"].iloc[0]) for t in tables}
    if len(controls) > 1:
        msg = f"The parts have different controls: {shorten(sorted(controls))}."
        raise ValueError(msg)
    joined = pd.concat([t.assign(name=t["name"].map(as_text)) for t in tables])
    size = joined.groupby("name", sort=False)["n_cells"].sum()
    joined = joined.drop_duplicates("name")
    joined = pd.concat([joined.iloc[:1], joined.iloc[1:].sort_values("name")])
    joined["n_cells"] = size.loc[joined["name"]].to_numpy()
    joined.index = pd.Index([str(i) for i in range(len(joined))], dtype=object)
    place = {name: i for i, name in enumerate(joined["name"])}
    places = [np.array([place[as_text(n)] for n in t["name"]], dtype=np.int64) for t in tables]
    frames = {}
    for key in (_keys.LABELS, _keys.TARGETS):
        moved = [s[key].assign(regime=at[s[key]["regime"].astype(int)]) for s, at in zip(stored, places, strict=True)]
        frame = pd.concat(moved).drop_duplicates()
        frame = frame.sort_values("regime", kind="stable") if key == _keys.TARGETS else frame
        frame.index = pd.Index([str(i) for i in range(len(frame))], dtype=object)
        frames[key] = frame
    return {_keys.TABLE: joined, **frames, _keys.PARAMS: dict(stored[0][_keys.PARAMS])}, places


def _join_sums(summaries: Sequence[Stored], places: Sequence[NDArray[np.int64]], names: tuple[str, ...]) -> Stored:
    batches = sorted({b for s in summaries for b in s.batches})
    n_regimes, n_batches, n_genes = len(names), len(batches), summaries[0].value.shape[1]
    cells, totals = np.zeros((n_regimes, n_batches)), np.zeros((n_regimes, n_batches))
    rows = n_regimes + (2 * n_batches if n_batches > 1 else 0)
    sums = {part: np.zeros((rows, n_genes)) for part in ("value", "square", "nonzero")}
    for s, at in zip(summaries, places, strict=True):
        group = np.array([batches.index(b) for b in s.batches])
        cells[np.ix_(at, group)] += s.cells
        totals[np.ix_(at, group)] += s.totals
        for part, out in sums.items():
            out[at] += s.by_regime(part)
            if n_batches > 1:
                out[n_regimes + group] += s.by_batch(part)
                out[n_regimes + n_batches + group] += s.of_controls(part)
    params = dict(summaries[0].params)
    params["n_cells"] = sum(int(s.params["n_cells"]) for s in summaries)
    return Stored(cells, totals, sums["value"], sums["square"], sums["nonzero"], names, tuple(batches), params)
