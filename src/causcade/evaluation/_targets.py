"""Task "targets": which gene did a perturbation act on? Its own change may be hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from causcade import metrics
from causcade._device import pick_device
from causcade.comparisons import Comparisons, read_perturbations
from causcade.evaluation._asked import Asked
from causcade.evaluation._ranked import Plain, Sides, as_options, learnt_from, quiet, read_ranked, said, share_controls
from causcade.evaluation._splits import LEAST
from causcade.evaluation._table import Outcome, make_table
from causcade.regimes.labels import shorten, suggest
from causcade.splits import split_perturbations
from causcade.target_baselines import signature_match
from causcade.targets import TargetScores, TargetSettings, score_targets

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.evaluation._plan import Plan
    from causcade.pretrained import Weights
    from causcade.screendata import ScreenData

__all__ = ["evaluate_targets"]

Floats = NDArray[np.float64]

_BASELINES: Final = ("lfc", "rank_sum", "popularity")
_SPLITS: Final = ("hidden", "seen", "gene")
_OPTIONS: Final = ("fused", "n_draws", "n_subsets", "candidates", "n_candidates")
_HIGHER: Final = dict.fromkeys(("ap", "rank", "recall@1", "recall@5", "recall@20"), True)


@dataclass(frozen=True)
class _Case:
    """A screen, its perturbations with known targets, and which of them are asked for."""

    screen: ScreenData
    pairs: Comparisons
    asked: NDArray[np.int64]
    settings: TargetSettings

    @property
    def known(self) -> list[NDArray[np.int64]]:
        """Targets of those asked for."""
        return [self.pairs.known[i] for i in self.asked]


def evaluate_targets(adata: AnnData, plan: Plan) -> pd.DataFrame:
    """Rank genes as targets and score the rankings; see :func:`causcade.evaluate`."""
    split = plan.choose(plan.split or "hidden", _SPLITS, "split")
    plan.refuse("targets", "dose_key", "groupby", "features", "genes")
    if split != "gene":
        plan.refuse("targets", "test_share")
    usual = "lfc" if split == "seen" else "popularity"  # a change that is hidden is no baseline
    baseline = plan.choose(plan.baseline or usual, _BASELINES, "baseline")
    methods = read_ranked(plan.methods, _BASELINES, "CDN", _OPTIONS, baseline)
    case, plain, note = _prepare(adata, split, plan)
    seed = int(plan.rng.integers(2**31))
    outcomes = [
        _run(a, w, case, plain, split, seed) for a, w in tqdm(methods, "methods", disable=not plan.progress_bar)
    ]
    table = make_table(
        outcomes, _ceiling(case, plan, plan.rng), _HIGHER, baseline, task="targets", split=split, n_boot=plan.n_boot,
        rng=plan.rng,
    )  # fmt: skip
    names = [case.pairs.names[i] for i in case.asked]
    table.attrs.update(
        baseline=baseline,
        held_out=names,
        perturbations=names,
        n_genes=case.screen.n_genes,
        leakage=_leaks(outcomes),
        note=note,
    )
    return table


def _leaks(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    return {"weights": [f"{o.method}: {o.status}" for o in outcomes if o.status.startswith("learnt from")]}


def _prepare(adata: AnnData, split: str, plan: Plan) -> tuple[_Case, TargetScores, str]:
    """Perturbations with known targets and enough cells, their simple rankings, and which are asked for."""
    with quiet():
        screen, pairs = read_perturbations(
            adata, layer=plan.layer, values=plan.values, batch_key=plan.batch_key, regimes_key=plan.regimes_key
        )
    able = [i for i, (c, k) in enumerate(zip(pairs.cells, pairs.known, strict=True)) if len(c) >= LEAST and len(k)]
    if len(able) < 2 or len(pairs.control) < 2 * LEAST:
        msg = (
            f"task='targets' needs two perturbations with a measured known target and {LEAST} cells, and {2 * LEAST} "
            f"controls; there are {len(able)} and {len(pairs.control)}."
        )
        raise ValueError(msg)
    pairs = _only(pairs, able)
    settings = TargetSettings(masked=split != "seen", max_cells=plan.max_cells, n_draws=1, progress_bar=False)
    with quiet():
        plain = score_targets(screen, pairs, None, replace(settings, candidates=np.arange(2)),
                              np.random.default_rng(0), scorer=Plain())  # fmt: skip
    asked, note = _asked(pairs, plan, split, plain)
    device = pick_device("cpu")
    return _Case(screen, pairs, asked, replace(settings, device=device, n_draws=4)), plain, note


def _only(pairs: Comparisons, some: Sequence[int]) -> Comparisons:
    names, cells, known = ([x[i] for i in some] for x in (pairs.names, pairs.cells, pairs.known))
    return replace(pairs, names=tuple(map(str, names)), cells=tuple(cells), known=tuple(known))  # type: ignore[arg-type]


def _asked(pairs: Comparisons, plan: Plan, split: str, plain: TargetScores) -> tuple[NDArray[np.int64], str]:
    if plan.hold_out is not None:
        if absent := [n for n in plan.hold_out if n not in pairs.names]:
            msg = (
                f"hold_out: {shorten(absent)} is no perturbation with a measured known target and {LEAST} cells."
                f"{suggest(absent[0], pairs.names)}"
            )
            raise KeyError(msg)
        return np.array([pairs.names.index(n) for n in dict.fromkeys(plan.hold_out)]), ""
    if split != "gene":
        return np.arange(len(pairs)), ""
    share = 0.3 if plan.test_share is None else min(plan.test_share, 0.99)
    test = split_perturbations([tuple(k.tolist()) for k in pairs.known], plain.lfc.T, test_share=share, rng=plan.rng)
    return np.flatnonzero(test), "weights are used as they are, so nothing was fitted to the training clusters"


def _run(asked: Asked, weights: Weights | None, case: _Case, plain: TargetScores, split: str, seed: int) -> Outcome:
    try:
        if weights is None:
            scores = _simple(str(asked.what), case, plain, split)
        else:
            scores = _by_weights(asked, weights, case, seed)
        reports = [metrics.target_report(scores[:, [j]], [known]) for j, known in enumerate(case.known)]
    except Exception as error:  # noqa: BLE001
        return Outcome(asked.name, asked.kind, status=said(error))
    return Outcome(
        asked.name, asked.kind, {m: np.array([r[m] for r in reports]) for m in _HIGHER}, learnt_from(asked, weights)
    )


def _simple(name: str, case: _Case, plain: TargetScores, split: str) -> Floats:
    """Scores ``(n_genes, n_asked)`` of a baseline."""
    if name != "popularity":
        return np.abs((plain.lfc if name == "lfc" else plain.wilcoxon)[:, case.asked]).astype(np.float64)
    size, held = np.abs(plain.lfc).astype(np.float64), set(case.asked.tolist())
    out = []
    for i in case.asked:
        mine = set(case.pairs.known[i].tolist())
        others = [
            j for j, known in enumerate(case.pairs.known)
            if not mine & set(known.tolist()) and (split != "gene" or j not in held)
        ]  # fmt: skip
        out.append(size[:, others].mean(1) if others else np.zeros(len(size)))
    return np.stack(out, axis=1)


def _by_weights(asked: Asked, weights: Weights, case: _Case, seed: int) -> Floats:
    more: dict[str, Any] = as_options(asked.options, *_OPTIONS[1:])
    if not isinstance(more.get("candidates", "auto"), str):
        more["candidates"] = case.screen.find(list(more["candidates"]))
    settings = replace(case.settings, **more)
    with quiet():
        found = score_targets(
            case.screen, _only(case.pairs, case.asked.tolist()), weights, settings, np.random.default_rng(seed)
        )
    scores = found.fused if asked.options.get("fused") else found.mean
    return scores.astype(np.float64)


def _ceiling(case: _Case, plan: Plan, rng: np.random.Generator) -> dict[str, Floats]:
    """Targets found by the most alike of the same perturbations in the other half of the cells.

    Where the own change is hidden, it is left out of the comparison. Only genes that were perturbed can be found so.
    """
    found = []
    codes = np.full(len(case.screen.codes), -1)
    codes[case.pairs.control] = 0
    for _ in range(plan.n_repeats):
        control = share_controls(codes, case.screen.groups, rng)
        seed = int(rng.integers(2**31))
        halves = [_half(case, plan.max_cells, c, h, seed) for h, c in enumerate(control)]
        found.append([_matched(case, halves, int(i)) for i in case.asked])
    reports = [[metrics.target_report(s[:, None], [k]) for s, k in zip(one, case.known, strict=True)] for one in found]
    return {m: np.mean([[r[m] for r in one] for one in reports], axis=0) for m in _HIGHER}


def _half(case: _Case, most: int, control: NDArray[np.int64], h: int, seed: int) -> Floats:
    """Changes ``(n_perturbations, n_genes)`` in one half of the cells; the seed deals the cells."""
    groups = case.screen.groups
    chosen = np.random.default_rng(seed).permutation(control)[:most]
    side = Sides(case.screen.rows(chosen), groups[chosen])
    out = []
    for i, cells in enumerate(case.pairs.cells):
        half = np.random.default_rng([seed, i]).permutation(cells)[:most][h::2]
        out.append(side.against(case.screen.rows(half), groups[half])[0])
    return np.stack(out).astype(np.float64)


def _matched(case: _Case, halves: Sequence[Floats], i: int) -> Floats:
    hidden = case.pairs.known[i] if case.settings.masked else None
    alike = signature_match(halves[1][i], halves[0], exclude=hidden)
    scores = np.full(case.screen.n_genes, np.nan)
    for value, known in zip(alike, case.pairs.known, strict=True):
        scores[known] = np.fmax(scores[known], value)
    return scores
