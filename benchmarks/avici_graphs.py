"""Graphs of simulated data sets: the edge network against classical methods, in the settings of the AVICI paper."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from sklearn.isotonic import IsotonicRegression

from benchmarks import gies_paths
from causcade import datasets, graph_baselines, pretrained
from causcade.metrics import f1_threshold, graph_report, r2_sortability, varsortability
from causcade.simulate.domains import GraphItem, draw_graph_item, graph_prior

#: SID and F1 of the paper (Table 1: d = 30, n = 1000, fully shifted, raw data) and its ECE (Table 4b).
PAPER = {
    ("linear", False): {"AVICI": (145.6, 0.672, 0.013), "GES": (215.6, 0.548, 0.031), "PC": (400.5, 0.338, 0.036)},
    ("rff", False): {"AVICI": (255.1, 0.618, 0.024), "GES": (346.3, 0.285, 0.068), "PC": (370.1, 0.421, 0.033)},
    ("grn", False): {"AVICI": (641.7, 0.0, 0.018), "GES": (573.6, 0.058, 0.092), "PC": (594.0, 0.061, 0.065)},
    ("linear", True): {"AVICI": (110.9, 0.819, 0.011), "GIES": (120.8, 0.736, 0.027)},
    ("rff", True): {"AVICI": (192.7, 0.707, 0.022), "GIES": (304.8, 0.338, 0.074)},
    ("grn", True): {"AVICI": (416.9, 0.338, 0.024), "GIES": (545.5, 0.092, 0.094)},
}
METRICS = ("f1", "sid", "shd", "auprc", "auroc", "ece", "ece_adaptive", "brier_skill", "acyclic")
TUNING = 10  # instances, in distribution, on which scores of baselines are turned into probabilities

BEST = ", best F1"  # edges called at the threshold of best expected F1, instead of at 0.5 as in the paper

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Scores without a scale of their own: they get one from the tuning instances.
SCORES: dict[str, Method] = {
    "correlation": graph_baselines.correlation,
    "precision": graph_baselines.precision,
    "sortnregress": graph_baselines.sortnregress,
    "R2-sortnregress": graph_baselines.r2_sortnregress,
    "LiNGAM": graph_baselines.lingam,
}


@dataclass(frozen=True)
class Setting:
    """A cell of the grid."""

    domain: str
    shifted: bool
    standardise: str
    interventional: bool

    @property
    def weights(self) -> str:
        """Weights of the domain."""
        return "avici-grn" if self.domain == "grn" else "avici-scm"


@cache
def _networks() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """E. coli and yeast, acyclic, with signs."""
    tables = (datasets.ecoli_network(), datasets.yeast_network())
    found = (datasets.network_dag(table, rng=0) for table in tables)
    return [(torch.as_tensor(adjacency), torch.as_tensor(sign)) for _, adjacency, sign in found]


def draw(setting: Setting, index: int, *, genes: int = 30, cells: int = 1000, tuning: bool = False) -> GraphItem:
    """Instance ``index``; those for tuning are others, and never shifted."""
    shifted = setting.shifted and not tuning
    prior = graph_prior(setting.domain, shifted=shifted, standardise=setting.standardise)
    if not setting.interventional:
        prior = replace(prior, interventional=0.0)
    network = _networks()[index % 2] if shifted and setting.domain == "grn" else None
    return draw_graph_item(prior, 20_001 if tuning else 10_001, index, genes=genes, cells=cells, network=network)


def probabilities(name: str, item: GraphItem) -> np.ndarray:
    """Edge probabilities of weights."""
    net = pretrained.load(name).net
    values = item.values
    with torch.no_grad():
        logits = net(values.nan_to_num(0.0)[None], item.mask[None].float(), values.isnan()[None])[0]
    out = logits.sigmoid().double().numpy()
    np.fill_diagonal(out, 0.0)
    return out


def oriented(graph: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Undirected edges (0.5 both ways) as they are in truth, else from the first gene to the second: the paper's favour."""
    both = (graph == 0.5) & (graph.T == 0.5)
    first = np.where(truth | truth.T, truth, np.triu(np.ones_like(truth)))
    return np.where(both, first.astype(float), graph)


SLOW = ("PC", "GES", "GIES")  # seconds to a minute each; the bootstrap of PC takes ten times as long as PC


def methods(setting: Setting, weights: list[str]) -> dict[str, Method | str]:
    """What is compared: weights by name, functions otherwise. GES without interventions, GIES with them."""
    out: dict[str, Method | str] = {f"AVICI {Path(name).name}{how}": name for name in weights for how in ("", BEST)}
    pc = Varying(graph_baselines.pc, control=True)
    out |= SCORES | {"PC": pc}
    if setting.interventional:
        out["GIES"] = Varying(graph_baselines.gies, control=False)
    else:
        out["GES"] = Varying(graph_baselines.ges, control=True)
    return out | {"PC, bootstrap": graph_baselines.dag_bootstrap(pc, n_boot=10)}


class Varying:
    """A method that refuses genes that do not vary in the cells it uses (control or all), on the others: no edges there."""

    def __init__(self, method: Method, *, control: bool) -> None:
        self.method, self.control = method, control

    def __call__(self, values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        used = values if mask is None or not self.control else values[~np.asarray(mask, bool).any(axis=1)]
        keep = np.flatnonzero(np.ptp(used, axis=0) > 0)
        out = np.zeros((values.shape[1],) * 2)
        out[np.ix_(keep, keep)] = self.method(values[:, keep], None if mask is None else np.asarray(mask)[:, keep])
        return out


def tune(setting: Setting, n: int = TUNING) -> dict[str, tuple[IsotonicRegression, float]]:
    """For every kind of score, its map to probabilities and the threshold of the best F1, on instances of their own."""
    items = [draw(setting, i, tuning=True) for i in range(n)]
    off = ~np.eye(items[0].adjacency.shape[0], dtype=bool)
    truth = np.concatenate([i.adjacency.numpy()[off] for i in items])
    out = {}
    for name, function in SCORES.items():
        values = np.concatenate([_call(function, i)[off] for i in items])
        levels = np.quantile(values, np.linspace(0.5, 0.999, 100))
        f1 = [2 * (truth & (values >= t)).sum() / ((values >= t).sum() + truth.sum()) for t in levels]
        out[name] = (IsotonicRegression(out_of_bounds="clip").fit(values, truth), float(levels[int(np.argmax(f1))]))
    return out


def _call(function: Method, item: GraphItem) -> np.ndarray:
    # sorting by variance needs the variances, which z scores have no more
    x = item.cells if function is graph_baselines.sortnregress and item.kind == "scm" else item.values
    values = x.nan_to_num(0.0).numpy().astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(values, item.mask.numpy())


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """TimeoutError after so many CPU seconds of this process: a few searches of GES and of the bootstrap of PC do not end."""

    def stop(*_: object) -> None:
        msg = f"not ended after {seconds:g} CPU seconds"
        raise TimeoutError(msg)

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def one(setting: Setting, index: int, wanted: dict[str, Method | str], tuned: dict, limit: float = 300.0) -> list[dict]:
    """Some methods on one instance; one that took more than ``limit`` CPU seconds has no scores."""
    torch.set_num_threads(1)
    gies_paths.patch()
    item = draw(setting, index)
    truth, rows = item.adjacency.numpy(), []
    for name, method in wanted.items():
        start, graph = time.process_time(), None
        try:
            with at_most(limit):
                graph = probabilities(method, item) if isinstance(method, str) else _call(method, item)
        except TimeoutError:
            pass
        seconds = time.process_time() - start
        made_by = pretrained.load(method).sha256[:12] if isinstance(method, str) else ""
        scores = {} if graph is None else _scores(name, truth, graph, tuned)
        rows.append(
            {**vars(setting), "method": name, "instance": index, "sha256": made_by, "seconds": seconds, **scores}
        )
    return rows


def _scores(name: str, truth: np.ndarray, graph: np.ndarray, tuned: dict) -> dict[str, float]:
    if name in tuned:
        scale, threshold = tuned[name]
        report = graph_report(truth, graph, threshold=threshold, calibrated=False)
        off = ~np.eye(len(truth), dtype=bool)
        probability = np.zeros_like(graph)
        probability[off] = scale.predict(graph[off])
        calibrated = graph_report(truth, probability)
        return report | {k: calibrated[k] for k in ("ece", "ece_adaptive", "brier", "brier_skill")}
    point = oriented(graph, truth) if name in ("PC", "GES", "GIES") else graph
    if name.endswith(BEST):
        return graph_report(truth, graph, threshold=f1_threshold(graph))
    report = graph_report(truth, graph)
    return report | {
        k: v for k, v in graph_report(truth, point).items() if k in ("shd", "sid", "f1", "precision", "recall")
    }


def sortability(setting: Setting, n: int) -> dict[str, float]:
    """How far variance and predictability give the order away, on control cells; of molecule counts after logarithms."""
    var, r2 = [], []
    for i in range(n):
        item = draw(setting, i)
        cells = item.cells if item.kind == "scm" else item.values
        control = cells[~item.mask.any(1)].nan_to_num(0.0).double().numpy()
        try:
            var.append(varsortability(control, item.adjacency.numpy()))
            r2.append(r2_sortability(control, item.adjacency.numpy()))
        except ValueError:  # constant genes
            continue
    return {**vars(setting), "varsortability": float(np.mean(var)), "R2-sortability": float(np.mean(r2))}


def run(
    settings: list[Setting],
    weights: dict[str, list[str]],
    n: int,
    workers: int,
    rows: Path | None = None,
    **most: float,
) -> pd.DataFrame:
    """One row per setting, instance and method. What is in the file ``rows`` already is not run again.

    ``n`` instances, of the slow methods and the bootstrap only as many as ``most`` (``slow``, ``bootstrap``) says, and
    none for longer than ``most["seconds"]`` of the CPU.
    """
    limit = dict.fromkeys(SLOW, most["slow"]) | {"PC, bootstrap": most["bootstrap"]}
    keys = ["domain", "shifted", "standardise", "interventional", "method", "instance", "sha256"]
    found = (
        pd.read_csv(rows).fillna({"sha256": ""}) if rows is not None and rows.exists() else pd.DataFrame(columns=keys)
    )
    known = {pretrained.load(name).sha256[:12] for names in weights.values() for name in names}
    for setting in settings:
        done = {tuple(r) for r in found[keys].to_numpy().tolist()}
        jobs = []
        for i in range(n):
            wanted = {}
            for name, method in methods(setting, weights[setting.domain]).items():
                made_by = pretrained.load(method).sha256[:12] if isinstance(method, str) else ""
                skip = i >= limit.get(name, n) or (*vars(setting).values(), name, i, made_by) in done
                wanted |= {} if skip else {name: method}
            if wanted:
                jobs.append((i, wanted))
        if jobs:
            tuned = tune(setting) if any(name in SCORES for _, w in jobs for name in w) else {}
            made = Parallel(n_jobs=workers)(delayed(one)(setting, i, w, tuned, most["seconds"]) for i, w in jobs)
            found = pd.concat([found, pd.DataFrame([row for each in made for row in each])], ignore_index=True)
            if rows is not None:
                rows.parent.mkdir(parents=True, exist_ok=True)
                found.to_csv(rows, index=False)
        mine = found[
            found["sha256"].isin(known | {""})
            & (found[list(vars(setting))] == list(vars(setting).values())).all(axis=1)
        ]
        table = summary(mine).drop(columns=list(vars(setting)))
        print(f"\n{setting}\n{table.round(3).to_string(index=False)}", flush=True)
    return found[found["sha256"].isin(known | {""})]  # not those of weights that were replaced


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over instances, with standard errors of SID and F1."""
    keys = ["domain", "standardise", "shifted", "interventional", "method"]
    grouped = rows.groupby(keys, sort=False)
    table = grouped[[*METRICS, "seconds"]].mean(numeric_only=True).reset_index()
    for name in ("f1", "sid"):
        table[f"{name}_se"] = grouped[name].sem().to_numpy()
    table["instances"] = grouped["f1"].count().to_numpy()  # that ended
    table["asked"] = grouped.size().to_numpy()
    return table


def scaling(weights: str, sizes: list[int], cells: list[int], n: int) -> pd.DataFrame:
    """AUPRC, F1 and seconds by number of genes and of cells (in distribution, interventional, standardised)."""
    rows = []
    domain = "grn" if "grn" in weights else "rff"
    base = Setting(domain, shifted=False, standardise="internal", interventional=True)
    for genes, n_cells in [(d, 1000) for d in sizes] + [(30, c) for c in cells if c != 1000]:
        found = []
        for i in range(n):
            item = draw(base, i, genes=genes, cells=n_cells)
            start = time.process_time()
            graph = probabilities(weights, item)
            seconds = time.process_time() - start
            report = graph_report(item.adjacency.numpy(), graph)
            found.append({**{k: report[k] for k in ("auprc", "f1", "brier_skill", "ece")}, "CPU seconds": seconds})
        rows.append({"weights": weights, "genes": genes, "cells": n_cells, **pd.DataFrame(found).mean().to_dict()})
    return pd.DataFrame(rows)


def settings(domains: list[str]) -> list[Setting]:
    """The whole grid."""
    out = []
    for domain in domains:
        for standardise in ("internal", "none") if domain != "grn" else ("internal",):
            for shifted in (False, True):
                out += [Setting(domain, shifted, standardise, interventional=i) for i in (True, False)]
    return out


__all__ = ["PAPER", "Setting", "oriented", "run", "scaling", "settings", "sortability", "summary"]
