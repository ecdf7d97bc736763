"""Task "causes": which genes does a knock-out change, told without its cells?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from tqdm.auto import tqdm

from causcade import metrics, nulls
from causcade._checks import check_compose
from causcade.causes import Settings, score_causes
from causcade.evaluation._asked import Asked
from causcade.evaluation._ranked import Sides, as_options, learnt_from, quiet, read_ranked, said, share_controls
from causcade.evaluation._screen import quiet_screen
from causcade.evaluation._splits import LEAST
from causcade.evaluation._table import Outcome, make_table
from causcade.regimes import from_adata
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.evaluation._plan import Plan
    from causcade.pretrained import Weights
    from causcade.screendata import ScreenData

__all__ = ["evaluate_causes"]

Floats = NDArray[np.float64]

_BASELINES: Final = ("knockout_t", "correlation")
_OPTIONS: Final = ("n_draws", "size", "n_anchors", "compose")
_HIGHER: Final = {"column_auroc": True, "column_ap": True}
_ALPHA: Final = 0.05
_NONE: Final = "no gene, or every gene, truly differs (rank-sum test, 5 % FDR)"


@dataclass(frozen=True)
class _Hidden:
    """One knock-out: the screen without it, and what it truly does.

    Attributes
    ----------
    gene
        Its position.
    screen
        The screen without its cells, and without half of the controls.
    differs
        ``(n_genes,)`` genes that it changes (Benjamini-Hochberg at 5 %).
    replicate
        By metric, mean scores of one half of its cells as a prediction of the other.
    """

    gene: int
    screen: ScreenData
    differs: NDArray[np.bool_]
    replicate: dict[str, float]


def evaluate_causes(adata: AnnData, plan: Plan) -> pd.DataFrame:
    """Hide every knock-out in turn and score rankings of its effects; see :func:`causcade.evaluate`."""
    split = plan.choose(plan.split or "perturbation", ("perturbation",), "split")
    plan.refuse("causes", "dose_key", "groupby", "features", "genes", "test_share")
    baseline = plan.choose(plan.baseline or "knockout_t", _BASELINES, "baseline")
    methods = read_ranked(plan.methods, _BASELINES, "TCD", _OPTIONS, baseline)
    for asked, _ in methods:
        check_compose(asked.options.get("compose", True))
    screen = quiet_screen(
        adata, layer=plan.layer, values=plan.values, batch_key=plan.batch_key, regimes_key=plan.regimes_key
    )
    genes = _asked(screen, plan)
    seed = int(plan.rng.integers(2**31))
    found: dict[str, list[dict[str, float]]] = {a.name: [] for a, _ in methods}
    failed: dict[str, str] = {}
    ceiling, prevalence = [], []
    for hidden in tqdm(_hide(adata, screen, genes, plan), "knock-outs", len(genes), disable=not plan.progress_bar):
        ceiling.append(hidden.replicate)
        prevalence.append(hidden.differs.mean())
        for asked, weights in methods:
            if asked.name not in failed:
                row, why = _run(asked, weights, hidden, seed)
                found[asked.name].append(row)
                failed |= {asked.name: why} if why else {}
    columns = lambda rows: {m: np.array([r[m] for r in rows]) for m in _HIGHER}
    outcomes = [
        Outcome(a.name, a.kind, status=failed[a.name]) if a.name in failed
        else Outcome(a.name, a.kind, columns(found[a.name]), learnt_from(a, w)) for a, w in methods
    ]  # fmt: skip
    table = make_table(
        outcomes, columns(ceiling), _HIGHER, baseline, task="causes", split=split, n_boot=plan.n_boot, rng=plan.rng,
        why=dict.fromkeys(_HIGHER, _NONE),
    )  # fmt: skip
    names = [str(screen.genes[g]) for g in genes]
    table.attrs.update(
        baseline=baseline, held_out=names, perturbations=names, n_genes=screen.n_genes, leakage={},
        prevalence=float(np.mean(prevalence)), note="",
    )  # fmt: skip
    return table


def _asked(screen: ScreenData, plan: Plan) -> list[int]:
    """Genes whose knock-outs are hidden in turn."""
    n_cells = np.bincount(screen.codes[screen.codes >= 0], minlength=screen.n_regimes)
    able = [g for g, r in enumerate(screen.single) if r >= 0 and n_cells[r] >= LEAST]
    names = [str(screen.genes[g]) for g in able]
    if len(able) < 2 or n_cells[0] < 2 * LEAST:
        msg = (
            f"task='causes' needs two measured genes that were perturbed alone in {LEAST} cells, and {2 * LEAST} controls; "
            f"there are {len(able)} and {n_cells[0]}."
        )
        raise ValueError(msg)
    if plan.hold_out is None:
        return able
    if absent := [n for n in plan.hold_out if n not in names]:
        msg = f"hold_out: {shorten(absent)} was not perturbed alone in {LEAST} cells.{suggest(absent[0], names)}"
        raise KeyError(msg)
    return [able[names.index(n)] for n in dict.fromkeys(plan.hold_out)]


def _hide(adata: AnnData, screen: ScreenData, genes: Sequence[int], plan: Plan) -> Iterator[_Hidden]:
    """The screen without each knock-out. Half of the controls are for the truth, or their noise would be on both sides."""
    regimes = from_adata(adata, plan.regimes_key)
    learn, judge = share_controls(screen.codes, screen.groups, plan.rng)
    for _ in screen.blocks():  # normalised once for all
        pass
    sides = [Sides(screen.rows(c), screen.groups[c]) for c in (learn, judge)]
    for gene in genes:
        acts = [r for r, index in enumerate(regimes.target_index) if gene in index]
        codes = screen.codes.copy()
        codes[np.isin(regimes.codes, acts)] = -1
        codes[judge] = -1
        single = screen.single.copy()
        single[gene] = -1
        cells = np.flatnonzero(screen.codes == screen.single[gene])
        cells = plan.rng.permutation(cells)[: plan.max_cells]
        differs = _calls(sides[1].against(screen.rows(cells), screen.groups[cells])[1], gene)
        best = [_replicate(screen, sides, plan.rng.permutation(cells), gene) for _ in range(plan.n_repeats)]
        mean = {m: _mean([b[m] for b in best]) for m in _HIGHER}
        yield _Hidden(gene, replace(screen, codes=codes, single=single), differs, mean)


def _calls(z: NDArray[np.floating], gene: int) -> NDArray[np.bool_]:
    """Genes that differ, but the one that is perturbed."""
    called = nulls.benjamini_hochberg(2 * norm.sf(np.abs(z))) < _ALPHA
    called[gene] = False
    return np.asarray(called)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _replicate(screen: ScreenData, sides: Sequence[Sides], cells: NDArray[np.int64], gene: int) -> dict[str, float]:
    half = len(cells) // 2
    z = [
        side.against(screen.rows(some), screen.groups[some])[1]
        for side, some in zip(sides, (cells[:half], cells[half:]), strict=True)
    ]
    return _score(np.abs(z[0]), _calls(z[1], gene), gene)


def _score(scores: NDArray[np.floating], differs: NDArray[np.bool_], gene: int) -> dict[str, float]:
    """Scores of a ranking of effects; NaN where all or none differ."""
    keep = np.arange(len(differs)) != gene
    labels, values = differs[keep], np.nan_to_num(np.asarray(scores, dtype=np.float64)[keep], nan=-np.inf)
    return {"column_auroc": metrics.auroc(labels, values), "column_ap": metrics.average_precision(labels, values)}


def _run(asked: Asked, weights: Weights | None, hidden: _Hidden, seed: int) -> tuple[dict[str, float], str]:
    try:
        if weights is None:
            scores = _simple(str(asked.what), hidden)
        else:
            settings = Settings(**{"n_draws": 2} | as_options(asked.options, *_OPTIONS), n_half=0, progress_bar=False)
            with quiet():
                found = score_causes(hidden.screen, weights, None, settings, np.random.default_rng(seed))
            scores = found.mean[hidden.gene]
        return _score(scores, hidden.differs, hidden.gene), ""
    except Exception as error:  # noqa: BLE001
        return {}, said(error)


def _simple(name: str, hidden: _Hidden) -> NDArray[np.floating]:
    """Scores ``(n_genes,)`` of a baseline."""
    with quiet():
        stats = hidden.screen.stats()
    if name == "correlation":
        return np.abs(stats.correlation.numpy()[hidden.gene])
    z = np.abs(stats.z.numpy().astype(np.float64))
    np.fill_diagonal(z, np.nan)  # a gene's own knock-out tells nothing of how it answers to others
    others = z[stats.perturbed.numpy()]
    n = np.isfinite(others).sum(0)
    return np.asarray(np.nansum(others, axis=0) / np.maximum(n, 1))
