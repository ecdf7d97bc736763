"""One call: split, fit, predict, score, next to baselines and to a replicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from causcade import _keys
from causcade._checks import at_least, generator
from causcade.evaluation._causes import evaluate_causes
from causcade.evaluation._effects import evaluate_effects
from causcade.evaluation._plan import Plan
from causcade.evaluation._screen import with_regimes
from causcade.evaluation._targets import evaluate_targets
from causcade.expression import is_summary
from causcade.regimes.labels import as_text
from causcade.screendata import Values
from causcade.summary import read_stored

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["evaluate"]

_TASKS: Final[dict[str, Callable[[AnnData, Plan], pd.DataFrame]]] = {
    "effects": evaluate_effects,
    "targets": evaluate_targets,
    "causes": evaluate_causes,
}


def evaluate(
    adata: AnnData,
    methods: Any = None,
    *,
    task: Literal["effects", "targets", "causes"] = "effects",
    split: str | None = None,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    sep: str | None = "+",
    targets: Any = None,
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    dose_key: str | None = None,
    groupby: str | None = None,
    hold_out: str | Sequence[str] | None = None,
    test_share: float | None = None,
    genes: int | Sequence[str] | None = None,
    features: pd.DataFrame | None = None,
    baseline: str | None = None,
    drop_targets: bool = True,
    similar: float = 0.9,
    max_cells: int = 500,
    n_repeats: int = 5,
    n_boot: int = 1000,
    rng: int | np.random.Generator | None = 0,
    regimes_key: str = _keys.REGIMES,
    progress_bar: bool = True,
) -> pd.DataFrame:
    """Compare models and simple baselines on a held-out part of your own screen. Nothing is written to `adata`.

    Parameters
    ----------
    adata
        Annotated data, with regimes of :func:`causcade.pp.regimes`, or pass `perturbation_key` and `control`.
    methods
        Names, functions, or a mapping from a name in the table to options, to ``(name, options)`` or to a function;
        ``None`` = all baselines.

        *effects*: baselines ``"observational"``, ``"perturbed_mean"``, ``"mean_shift_ridge"``, ``"mean_shift_mlp"``,
        ``"additive"``, ``"scaled_additive"``, ``"stronger_single"`` (combinations), ``"next_lower_dose"`` (doses),
        ``"elsewhere"`` (groups: the change in the other groups), see :mod:`causcade.effect_baselines`. Models ``"gim"``
        (options of :class:`causcade.models.GIM` and ``max_steps``, ``minutes``, ``n_fits``) and ``"gracevae"`` (of
        :class:`causcade.models.GraCEVAE` and ``max_epochs``, ``combinations``, ``early_stopping``). Functions
        ``f(train, labels)``: an AnnData of training cells (log values in ``.X``; ``.obs``: ``perturbation``, ``label``,
        ``dose``, ``group``, ``control``) and the labels asked for; they return a dict from labels to cells x genes.

        *targets*: names or folders of CDN weights, or a :class:`causcade.models.CDN` (options ``fused``, ``n_draws``,
        ``n_subsets``, ``candidates``, ``n_candidates``); baselines ``"lfc"``, ``"rank_sum"``, ``"popularity"`` (mean size
        of a gene's change by the other perturbations).

        *causes*: TCD weights or a :class:`causcade.models.TCD` (options ``n_draws``, ``size``, ``n_anchors``,
        ``compose``); baselines ``"knockout_t"`` (mean size of z of each effect under the other knock-outs) and
        ``"correlation"``.
    task
        ``"effects"``: what will an untried perturbation do. ``"targets"``: which gene did a perturbation act on.
        ``"causes"``: which genes does a knock-out change, told without its cells.
    split
        *effects*: ``"perturbation"`` (default; 30 % of the perturbed genes, with all combinations they are part of),
        ``"cluster"`` (the same in whole clusters of shared targets and alike effects), ``"combination"`` (all whose parts
        are there alone), ``"dose"`` (30 % of the doses above the lowest of each), ``"group"`` (one group of `groupby`).
        *targets*: ``"hidden"`` (default; a perturbation's own targets get the values of like control cells), ``"seen"``,
        ``"gene"`` (hidden, on clusters that popularity does not learn from). *causes*: ``"perturbation"``, each in turn.
    perturbation_key, control, sep, targets
        As in :func:`causcade.pp.regimes`; without the first two the regimes in ``.uns[regimes_key]`` are used.
    layer, values, batch_key
        As in :func:`causcade.tl.causes`. For effects batches are brought to the level of their controls, either side's own.
    dose_key, groupby
        Columns of ``.obs`` with doses, or with the groups of which one is held out; for these splits only.
    hold_out
        What to hold out, by name (perturbations, combinations, ``"name@dose"``, or one group), instead of a draw; for the
        other tasks the perturbations that are scored.
    test_share
        Share to be held out, where it is drawn: not for a group, and of the other tasks only for ``split="gene"``.
    genes
        Genes to work with: names, or the number of those that vary most in the training cells; effects only.
    features
        Table of numbers, a row for each perturbation, for ridge, MLP and GIM. Without it untried perturbations are
        described by how their target genes vary with others in the training cells, parts and doses by their names.
    baseline
        The baseline of the columns ``baseline``, ``scaled`` and ``gain``; ``None`` = the first listed for the split: the
        mean of the perturbed cells, the sum of the parts, the next lower dose, the change elsewhere; ``"lfc"``, or
        ``"popularity"`` where it is hidden; ``"knockout_t"``.
    drop_targets
        Score effects without the genes that held-out perturbations act on.
    similar
        Correlation of mean changes from which a held-out and a training perturbation count as near-duplicates.
    max_cells
        Most cells of a condition that are used, and four times as many controls.
    n_repeats
        Cuts of the true cells in two for the ceiling.
    n_boot
        Bootstrap samples of the perturbations for the 95 % intervals.
    rng
        Seed or generator of everything random.
    regimes_key
        ``key_added`` of :func:`causcade.pp.regimes`.
    progress_bar
        Show one.

    Returns
    -------
    One row per method and metric: ``method``, ``kind`` (``"model"`` or ``"baseline"``), ``task``, ``split``,
    ``metric``, ``value`` (mean over `n` perturbations) with ``low`` and ``high``, ``n``, ``baseline`` and ``ceiling``
    (values of the baseline and of a replicate on the same perturbations, as far as they have any), ``scaled`` (0 as the
    baseline, 1 as the replicate, over perturbations with all three; missing where the replicate is not better by more
    than chance), ``gain`` (how much better than the baseline, whichever direction is better) with ``gain_low`` and
    ``gain_high``, ``better`` (``"higher"`` or ``"lower"``), ``status`` (``"ok"``, or what could not be scored and why). The ceiling is one half of the true cells
    as a prediction of the other; nothing is corrected for halves being smaller. ``.attrs`` says what was held out, and
    what was found by the check for leakage. What metrics mean: the page on evaluation.

    Raises
    ------
    KeyError
        If a column, gene or perturbation is missing.
    ValueError
        If an argument is unusable, a method unknown, `adata` a summary, or there is too little to hold out. A method that fails raises
        nothing: its ``status`` says why.

    Warns
    -----
    UserWarning
        If cells, names, genes or near-duplicates are on both sides.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=40, n_control=100, cells_per_perturbation=30, rng=0)
    >>> table = cc.evaluate(adata, ["observational", "mean_shift_ridge"], progress_bar=False)
    >>> cc.pl.scorecard(table)
    """
    if task not in _TASKS:
        msg = f"task must be one of {', '.join(map(repr, _TASKS))}, not {task!r}."
        raise ValueError(msg)
    if isinstance(similar, bool) or not isinstance(similar, int | float) or not 0 < similar <= 1:
        msg = f"similar must be a correlation above 0 and at most 1, not {similar!r}."
        raise ValueError(msg)
    if is_summary(adata) and not read_stored(adata).complete:
        msg = (
            "adata is a summary (cc.pp.summarise), whose sums are of all cells: they cannot be split. Evaluate on the screen itself, or "
            "on the kept cells alone: del adata.uns['summary'] on a copy."
        )
        raise ValueError(msg)
    plan = Plan(
        methods, split, _names(hold_out), _share(test_share), layer, values, batch_key, dose_key, groupby, _genes(genes),
        features, baseline, bool(drop_targets), float(similar), at_least(max_cells, 10, "max_cells"),
        at_least(n_repeats, 1, "n_repeats"), at_least(n_boot, 0, "n_boot"), generator(rng), regimes_key, progress_bar,
    )  # fmt: skip
    read = with_regimes(
        adata, perturbation_key, control, sep=sep, targets=targets, layer=layer, regimes_key=regimes_key
    )
    return _TASKS[task](read, plan)


def _names(given: Any) -> list[str] | None:
    if given is None or isinstance(given, str):
        return None if given is None else [given]
    out = [as_text(n) for n in given] if isinstance(given, Sequence | np.ndarray | pd.Index | set) else []
    if not out:
        msg = f"hold_out must be a name or several names, or None to draw, not {given!r}."
        raise ValueError(msg)
    return out


def _share(given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float | np.number) or not 0 < given <= 1:
        msg = f"test_share must be a number above 0 and at most 1, not {given!r}."
        raise ValueError(msg)
    return float(given)


def _genes(given: Any) -> int | list[str] | None:
    if given is None:
        return None
    if isinstance(given, int | np.integer) or isinstance(given, bool):
        return at_least(given, 2, "genes")
    names = [] if isinstance(given, str | Mapping) or not np.iterable(given) else [str(g) for g in given]
    if len(names) < 2:
        msg = f"genes must be a number, at least two names, or None for all, not {given!r}."
        raise ValueError(msg)
    return names
