"""Task "effects": what will an untried perturbation, combination or dose do, or one in another group of cells?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from causcade.evaluation import _methods as methods
from causcade.evaluation._asked import Asked, read_methods
from causcade.evaluation._leaks import find_leaks, warn_of
from causcade.evaluation._ranked import said
from causcade.evaluation._scores import HIGHER, WHY, Truth, replicate, score, truth_of
from causcade.evaluation._screen import Screen, read_conditions
from causcade.evaluation._splits import SPLITS, Split, level_side, make_split
from causcade.evaluation._table import Combined, Outcome, make_table
from causcade.evaluation._vcc import VCC
from causcade.reference import GroupLevels
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.evaluation._plan import Plan

__all__ = ["evaluate_effects"]

_ZERO: Final = "perturbed_mean"  # of the Virtual Cell Challenge


def evaluate_effects(adata: AnnData, plan: Plan) -> pd.DataFrame:
    """Split, fit, predict and score; see :func:`causcade.evaluate`."""
    name = plan.choose(plan.split or "perturbation", SPLITS, "split")
    if (name == "dose") != (plan.dose_key is not None):
        msg = "split='dose' needs dose_key=, and dose_key= is for split='dose' only."
        raise ValueError(msg)
    if (name == "group") != (plan.groupby is not None):
        msg = "split='group' needs groupby=, and groupby= is for split='group' only."
        raise ValueError(msg)
    baseline = plan.choose(plan.baseline or methods.DEFAULT_BASELINE[name], methods.BASELINES[name], "baseline")
    every = list(dict.fromkeys(b for several in methods.BASELINES.values() for b in several))
    wanted = list(methods.BASELINES[name]) if plan.methods is None else plan.methods
    asked = read_methods(
        wanted, every, lambda m: callable(m) or (isinstance(m, str) and m in methods.MODELS),
        list(methods.MODELS), (baseline, _ZERO),
    )  # fmt: skip
    table_of_features = _check_features(plan.features)
    screen, split = _prepare(adata, name, plan)
    leaks = find_leaks(screen, split, plan.similar)
    warn_of(leaks, split.note)
    data = methods.Learning(screen, split, _level(screen, split), table_of_features, int(plan.rng.integers(2**31)))
    truth = truth_of(screen, split, data.values, drop_targets=plan.drop_targets)
    seed = int(plan.rng.integers(2**31))
    outcomes = [_run(a, data, truth, seed) for a in tqdm(asked, desc="methods", disable=not plan.progress_bar)]
    ceiling = replicate(truth, plan.n_repeats, plan.rng)
    table = make_table(
        outcomes, ceiling, HIGHER, baseline, task="effects", split=name, n_boot=plan.n_boot, rng=plan.rng,
        combined=Combined("vcc", VCC, HIGHER, _ZERO), why=WHY,
    )  # fmt: skip
    table.attrs.update(
        baseline=baseline,
        held_out=[split.group] if split.group else list(truth.labels),
        perturbations=list(truth.labels),
        n_training=len(data.seen),
        n_genes=len(truth.genes),
        leakage=leaks,
        note=split.note,
    )
    return table


def _prepare(adata: AnnData, name: str, plan: Plan) -> tuple[Screen, Split]:
    names = None if plan.genes is None or isinstance(plan.genes, int) else list(plan.genes)
    screen = read_conditions(
        adata, layer=plan.layer, values=plan.values, batch_key=plan.batch_key, dose_key=plan.dose_key,
        groupby=plan.groupby, regimes_key=plan.regimes_key, genes=names, max_cells=plan.max_cells, rng=plan.rng,
    )  # fmt: skip
    split = make_split(screen, name, plan.hold_out, plan.test_share, plan.rng)
    if isinstance(plan.genes, int) and plan.genes < len(screen.genes):
        spread = level_side(screen, split.train, split.train).var(
            0, dtype=np.float64
        )  # of training cells: the others must not choose
        screen = screen.only(np.sort(np.argsort(-spread, kind="stable")[: plan.genes]))
    return screen, split


def _level(screen: Screen, split: Split) -> Any:
    """Training cells; for a held-out group the other groups are brought to the level of its controls."""
    x = level_side(screen, split.train, split.train)
    if not split.group:
        return x
    groups, control = screen.groups[split.train], screen.codes[split.train] == 0
    numbers = np.unique(groups, return_inverse=True)[1]
    levels = GroupLevels(x[control], numbers[control])
    here = x[control & (groups == split.group)].mean(0, dtype=np.float64)
    return (levels.level(x, numbers) + (here - levels.mean)).astype(np.float32)


def _run(asked: Asked, data: methods.Learning, truth: Truth, seed: int) -> Outcome:
    """Outcome of a method; that one fails must not end the others."""
    try:
        made = methods.predict(asked.what, data, asked.options)
        scores = score(truth, {k: v[:, truth.genes] for k, v in made.items()}, np.random.default_rng(seed))
    except Exception as error:  # noqa: BLE001
        return Outcome(asked.name, asked.kind, status=said(error))
    missing = [label for label in truth.labels if label not in made]
    status = f"no prediction for {len(missing)} of {len(truth.labels)}: {shorten(missing)}" if missing else "ok"
    return Outcome(asked.name, asked.kind, scores, status)


def _check_features(given: Any) -> pd.DataFrame | None:
    if given is None:
        return None
    if not isinstance(given, pd.DataFrame) or given.empty or given.index.has_duplicates:
        msg = "features must be a DataFrame of numbers with one row for each perturbation, its name as index."
        raise ValueError(msg)
    table = given.set_axis(given.index.astype(str))
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    if bad := [str(c) for c in numbers if not np.isfinite(numbers[c]).all()]:
        msg = f"features holds what is no finite number in the columns {shorten(bad)}."
        raise ValueError(msg)
    return numbers
