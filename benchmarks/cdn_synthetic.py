"""Targets in simulated causal models, the grid of the CDN paper (Tables 3, 11 and 12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.stats import kurtosis
from sklearn.metrics import average_precision_score, roc_auc_score

from causcade import pretrained, target_baselines
from causcade.contrasts import summarise
from causcade.scoring import target_scorer
from causcade.simulate.graphs import erdos_renyi
from causcade.simulate.shifts import Shifts, simulate_shifts

MECHANISMS = ("linear", "polynomial", "sigmoid")
INTERVENTIONS = {"hard": "uniform", "soft": "scale"}
CELLS = {10: 968, 20: 984, 100: 997}  # rows per regime of the published data

#: mAP and AUC of the paper, N = 20, E = 40: (intervention, mechanism, targets) -> CDN, MB+CI (Table 3).
PAPER = {
    ("hard", "linear", "1"): (".82 .96", ".47 .68"),
    ("hard", "linear", "3"): (".88 .95", ".58 .71"),
    ("hard", "polynomial", "1"): (".85 .97", ".77 .88"),
    ("hard", "polynomial", "3"): (".90 .96", ".79 .88"),
    ("soft", "linear", "1"): (".83 .95", ".46 .65"),
    ("soft", "linear", "3"): (".76 .89", ".49 .64"),
    ("soft", "polynomial", "1"): (".97 1.0", ".97 .98"),
    ("soft", "polynomial", "3"): (".96 .99", ".92 .94"),
}

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """A cell of the grid."""

    genes: int
    edges: int
    mechanism: str
    intervention: str


def draw(setting: Setting, graph: int, regimes: int | None) -> Shifts:
    """One data set: ``regimes`` (3N where None) distinct target sets, as many of one, two and three targets."""
    n = setting.genes
    rng = np.random.default_rng([77, n, setting.edges, graph])  # the same graphs for every mechanism and intervention
    adjacency = erdos_renyi(n, setting.edges / n, rng=rng)
    seen: list[tuple[int, ...]] = []
    for i in range(3 * n if regimes is None else regimes):
        size = min(1 + i % 3, n)
        while True:
            chosen = tuple(sorted(rng.choice(n, size, replace=False).tolist()))
            if chosen not in seen or len(seen) >= 3 * n:
                break
        seen.append(chosen)
    targets = torch.zeros(len(seen), n, dtype=torch.bool)
    for row, chosen in zip(targets, seen, strict=True):
        row[list(chosen)] = True
    cells = CELLS.get(n, 1000)
    return simulate_shifts(
        adjacency, targets, (INTERVENTIONS[setting.intervention],) * len(seen), mechanism=setting.mechanism,
        n_control=cells, n_per_regime=cells, rng=rng,
    )  # fmt: skip


def cdn_scores(name: str, shifts: Shifts, n_draws: int) -> tuple[np.ndarray, float]:
    """Logits ``(regimes, genes)`` of released weights, and seconds per pair."""
    weights = pretrained.load(name)
    scorer = target_scorer(weights.net, weights.config)
    start = time.perf_counter()
    state = scorer.prepare(summarise(shifts.control))
    rng = np.random.default_rng(0)
    scores = [
        np.mean([scorer.score(state, summarise(x), rng) for _ in range(n_draws)], axis=0) for x in shifts.perturbed
    ]
    return np.stack(scores), (time.perf_counter() - start) / len(shifts.perturbed)


def baselines(slow: bool) -> dict[str, Method]:  # noqa: FBT001
    """Baselines by name."""
    out: dict[str, Method] = {
        "|shift| / sd": lambda a, b: np.abs(b.mean(0) - a.mean(0)) / a.std(0),
        "|Wilcoxon|": lambda a, b: np.abs(target_baselines.rank_sum(a, b)),
        "|log variance ratio|": lambda a, b: np.abs(np.log(b.var(0) / a.var(0))),
        "|kurtosis change|": lambda a, b: np.abs(kurtosis(b) - kurtosis(a)),
    }
    if slow:
        out |= {"MB+CI": target_baselines.mb_ci, "DCI-like": target_baselines.edge_change}
    return out


def report(
    setting: Setting, method: str, graph: int, scores: np.ndarray, truth: np.ndarray, seconds: float
) -> list[dict]:
    """Mean AP and AUROC over the regimes with one, with three, and with any number of targets."""
    ap = np.array([average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)])
    auc = np.array([roc_auc_score(t, s) for t, s in zip(truth, scores, strict=True)])
    size = truth.sum(1)
    rows = []
    for name, keep in (("1", size == 1), ("3", size == 3), ("all", size > 0)):
        rows.append({**vars(setting), "method": method, "graph": graph, "targets": name, "mAP": ap[keep].mean(),
                     "AUC": auc[keep].mean(), "seconds": seconds})  # fmt: skip
    return rows


def run(
    weights: list[str], sizes: list[int], graphs: int, regimes: int | None, n_draws: int, *, slow: bool,
    mechanisms: tuple[str, ...] = MECHANISMS, densities: tuple[int, ...] = (1, 2), workers: int = 2,
) -> pd.DataFrame:  # fmt: skip
    """Score the whole grid in ``workers`` processes; one row per setting, method, graph and number of targets."""
    jobs = [
        (Setting(n, per_gene * n, mechanism, kind), graph)
        for n, per_gene, mechanism, kind in product(sizes, densities, mechanisms, INTERVENTIONS)
        for graph in range(graphs)
    ]
    one = delayed(_score_one)
    done = Parallel(n_jobs=workers)(one(*job, weights, regimes, n_draws, slow=slow) for job in jobs)
    return pd.DataFrame([row for rows in done for row in rows])


def _score_one(
    setting: Setting, graph: int, weights: list[str], regimes: int | None, n_draws: int, *, slow: bool
) -> list[dict]:
    torch.set_num_threads(1)
    shifts = draw(setting, graph, regimes)
    truth, rows = shifts.targets.numpy(), []
    for name in weights:
        scores, seconds = cdn_scores(name, shifts, n_draws)
        rows += report(setting, f"CDN {name.rsplit('/', 1)[-1]}", graph, scores, truth, seconds)
    control = shifts.control.numpy().astype(float)
    for name, method in baselines(slow).items():
        start = time.perf_counter()
        scores = np.stack([method(control, x.astype(float)) for x in shifts.perturbed.numpy()])
        rows += report(setting, name, graph, scores, truth, (time.perf_counter() - start) / len(truth))
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over graphs, next to the paper's numbers."""
    keys = ["genes", "edges", "mechanism", "intervention", "targets", "method"]
    grouped = table.groupby(keys, sort=False)[["mAP", "AUC", "seconds"]]
    mean, sd = grouped.mean(), grouped.std(ddof=0)
    out = mean.assign(mAP_sd=sd["mAP"], AUC_sd=sd["AUC"]).reset_index()
    place = [
        PAPER.get((i, m, t), ("", "")) if (g, e) == (20, 40) else ("", "")
        for g, e, m, i, t in out[["genes", "edges", "mechanism", "intervention", "targets"]].itertuples(index=False)
    ]
    out["paper_CDN"], out["paper_MB+CI"] = zip(*place, strict=True)
    return out
