"""Reversal: the question, its arguments, and where the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from causcade import _keys
from causcade._checks import at_least, generator
from causcade.comparisons import MIN_CELLS, Comparisons, label_groups, read_perturbations
from causcade.pp import _store
from causcade.reversal import Change, ReversalScores, ReversalSettings, Within, score_reversal
from causcade.screendata import Values
from causcade.tl._checks import check_place, seed_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["reversal"]

_FEWEST = 4 * MIN_CELLS  # controls of a group that tell the change alone; half of them may be needed elsewhere
_COLUMNS = ("score", "sd", "pvalue", "fdr", "fraction", "fraction_sd", "size", "n_cells", "top_correlation", "closer")


def reversal(
    adata: AnnData,
    groups: tuple[str, str],
    groupby: str,
    *,
    perturbations: str | Sequence[str] | None = None,
    within: Within = "group",
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    n_draws: int = 50,
    n_null: int = 100,
    n_top: int = 100,
    rng: int | np.random.Generator | None = 0,
    regimes_key: str = _keys.REGIMES,
    key_added: str = _keys.REVERSAL,
    progress_bar: bool = True,
) -> None:
    """Say which measured perturbations push cells of one group back towards another.

    The change of state is the difference of mean log-normalised expression between the groups; the effect of a
    perturbation that of its cells and controls. The score is the cosine between the effect and the change with its
    sign turned, over all genes but the perturbation's own known targets: that a knocked-down gene falls says nothing
    of what it does. It is no model: it ranks what was measured, and does not extrapolate.

    Cells that could tell both the change and an effect (controls of the second group, above all) are dealt in two
    halves, one for each, as the noise of shared cells would look like a reversal.

    Parameters
    ----------
    adata
        Annotated data with regimes (:func:`causcade.pp.regimes`). For a MuData pass ``mdata["rna"]``.
    groups, groupby
        Labels ``(towards, from)`` of the column `groupby` of ``.obs``, such as ``("healthy", "disease")``: asked is
        what brings cells of the second group back to the first. The change is told by their control cells where both
        groups have at least 12, else by all of their cells. The column may be that of the perturbations.
    perturbations
        Names of perturbations (``causcade.get.regimes(adata)``); ``None`` = all.
    within
        Where effects are measured: ``"group"``, among cells of the second group, or ``"all"``, among all cells, which
        supposes that a perturbation does the same in any group.
    layer
        Layer with the values; ``None`` = ``.X``.
    values
        What they are: ``"counts"`` (raw, whole), ``"expression"`` (non-negative, linear scale) or ``"log"``
        (log-normalised). Never guessed.
    batch_key
        Column of ``.obs`` (batch, donor, time point). Effects are taken, and labels permuted, within its groups; so is
        the change, if a batch has both groups. Cells of a batch without controls are left out.
    n_draws
        Bootstrap samples of the cells that give the spread; 0 = none.
    n_null
        Permutations of the labels (perturbed or control) for p values and FDR; 0 = none. They are of how far cells go
        back (``fraction``); standardised draws of all perturbations are pooled. It is the null of a perturbation that
        does *nothing*: one with any strong effect is likely to pass, as few effects are wholly across a change.
        Significant and a high score together mean a reversal.
    n_top
        Genes with the largest change, for the simple correlation.
    rng
        Seed or generator; decides who is dealt where, samples (of more than 5,000 cells of a kind), bootstrap and
        permutations. The same seed gives the same result.
    regimes_key
        ``key_added`` of :func:`causcade.pp.regimes`.
    key_added
        Stem of the keys below.
    progress_bar
        Show one.

    Returns
    -------
    None. Writes, for ``key_added="reversal"`` and ``k`` perturbations,

    `.uns["reversal"]` : dict
        ``table`` (DataFrame, a row per perturbation; columns as in :func:`causcade.get.reversal`), ``names`` (the
        perturbations), ``groups``, ``n_control``, ``n_before``, ``n_after`` (cells behind effects and change) and
        ``params``.
    `.varm["reversal"]` : float32 (n_vars, k)
        Effects: mean log-normalised expression (natural logarithm, unless ``values="log"`` are in another), perturbed
        minus control; NaN for the known targets of the perturbation.
    `.varm["reversal_change"]` : float32 (n_vars, 1)
        The change: second group minus first.

    Raises
    ------
    KeyError
        If regimes, the layer, a column, a group or a perturbation is missing.
    ValueError
        If values are not what `values` says, the groups are not two, too few cells are left, or a parameter is out of
        range. `adata` is unchanged after any error.

    Warns
    -----
    UserWarning
        If perturbations have too few cells and are skipped, or no batch has both groups.

    Examples
    --------
    >>> cc.pp.regimes(adata, "perturbation", "control")
    >>> cc.tl.reversal(adata, ("healthy", "disease"), "state")
    >>> cc.get.reversal(adata)
    """
    check_place(adata, key_added, regimes_key, "reversal")
    settings = ReversalSettings(
        at_least(n_draws, 0, "n_draws"),
        at_least(n_null, 0, "n_null"),
        at_least(n_top, 3, "n_top"),
        progress_bar,
    )
    if within not in ("group", "all"):
        msg = f"within must be 'group' or 'all', not {within!r}."
        raise ValueError(msg)
    gen = generator(rng)
    screen, pairs = read_perturbations(
        adata, perturbations, layer=layer, values=values, batch_key=batch_key, regimes_key=regimes_key
    )
    names, codes = label_groups(adata, groups, groupby)
    before, after = (np.flatnonzero(codes == k) for k in (0, 1))
    alone = [np.intersect1d(cells, pairs.control) for cells in (before, after)]
    by_control = min(map(len, alone)) >= _FEWEST
    change = Change(*(alone if by_control else (before, after)))
    if within == "group":
        pairs = _among(pairs, after, names[1])
    scores = score_reversal(screen, change, pairs, settings, gen)
    params = {
        "groupby": str(groupby),
        "within": within,
        "change_cells": "control" if by_control else "all",
        "layer": "X" if layer is None else layer,
        "values": values,
        "batch_key": batch_key or "",
        "regimes_key": regimes_key,
        "n_draws": settings.n_draws,
        "n_null": settings.n_null,
        "n_top": min(settings.n_top, adata.n_vars),
        **seed_of(rng),
    }
    _write(adata, key_added, scores, names, params)


def _among(pairs: Comparisons, cells: np.ndarray, group: str) -> Comparisons:
    """Comparisons within one group of cells."""
    control = np.intersect1d(pairs.control, cells)
    acted = tuple(np.intersect1d(c, cells) for c in pairs.cells)
    for word, n in (("control", len(control)), ("perturbed", max(map(len, acted)))):
        if n < MIN_CELLS:
            msg = (
                f"Group {group!r} has {n} {word} cells{' of any one perturbation' if word == 'perturbed' else ''}, so "
                "nothing was measured within it: pass within='all' to take effects from all cells."
            )
            raise ValueError(msg)
    return replace(pairs, control=control, cells=acted)


def _write(adata: AnnData, key: str, scores: ReversalScores, groups: tuple[str, str], params: dict[str, Any]) -> None:
    """Store scores; all values exist before the first is written."""
    columns = {name: x for name in _COLUMNS if (x := getattr(scores, name)) is not None}
    table = pd.DataFrame({"perturbation": np.array(scores.names, dtype=object), **columns})
    table.index = table.index.astype(str)
    result = {
        _keys.TABLE: table,
        _keys.NAMES: np.array(scores.names, dtype=object),
        "groups": np.array(groups, dtype=object),
        "n_control": scores.n_control,
        "n_before": scores.n_before,
        "n_after": scores.n_after,
        _keys.PARAMS: params,
    }
    _store(adata, key, result)  # first: a view becomes actual here, and stays the same object after
    adata.varm[key] = scores.effects
    adata.varm[_keys.change(key)] = scores.change[:, None]
