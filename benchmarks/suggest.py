"""Does a suggested knock-out teach more than a random one? Learning curves on simulated screens whose graph is known.

A screen starts with controls alone. Round by round, each way to choose adds its two favourite knock-outs, and the
graph (AVICI) or the causes (TCD, ``causes``) are scored anew against the truth. Random choices are repeated.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from causcade import pretrained
from causcade.causes import Settings, score_causes
from causcade.metrics import average_precision
from causcade.screendata import read_screen
from causcade.simulate import screen
from causcade.simulate.domains import draw_graph_item, graph_prior, graph_values
from causcade.suggest import gains

METHODS = ("random", "variance", "correlation", "effects", "entropy", "direction")
TASKS = ("linear", "rff", "grn", "causes")
_SEED = 20_261


@dataclass(frozen=True)
class Instance:
    """A screen of which parts can be shown.

    ``probability(done)`` gives those of all pairs, [cause, effect], once the genes ``done`` were knocked out.
    """

    truth: np.ndarray
    probability: Callable[[Sequence[int]], np.ndarray]
    variance: np.ndarray
    correlation: np.ndarray


def draw(task: str, index: int, *, genes: int = 20, cells: int = 600) -> Instance:
    """Instance ``index`` of a task: 40 % of the cells are controls, every gene has as many of the others."""
    return _causes(index, genes, cells) if task == "causes" else _graph(task, index, genes, cells)


def _graph(domain: str, index: int, genes: int, cells: int) -> Instance:
    net = pretrained.load("avici-grn" if domain == "grn" else "avici-scm").net
    prior = replace(graph_prior(domain), share=(0.6, 0.6))
    item = draw_graph_item(prior, _SEED, index, genes=genes, cells=cells)
    regime = torch.where(item.mask.any(1), item.mask.int().argmax(1), -1)

    def probability(done: Sequence[int]) -> np.ndarray:
        rows = (regime == -1) | torch.isin(regime, torch.tensor(list(done), dtype=torch.long))
        with torch.no_grad():
            values = graph_values(item.cells[rows], item.kind)
            logits = net(values[None], item.mask[rows][None].float(), values.isnan()[None])[0]
        return logits.sigmoid().double().numpy()

    control = item.cells[regime == -1].double().numpy()
    return Instance(item.adjacency.numpy(), probability, *_simple(control, counts=item.kind == "counts"))


def _causes(index: int, genes: int, cells: int) -> Instance:
    weights = pretrained.load("tcd-grn-umi")
    each = round(0.6 * cells / genes)
    adata = screen(n_genes=genes, n_control=cells - each * genes, cells_per_perturbation=each, rng=_SEED + index)
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    how = Settings(n_draws=1, n_half=0, progress_bar=False)

    def probability(done: Sequence[int]) -> np.ndarray:
        some = adata[np.isin(labels, ["control", *adata.var_names[list(done)]])].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # nothing was perturbed at first
            data = read_screen(some)
        return expit(score_causes(data, weights, None, how, np.random.default_rng(0)).mean.astype(np.float64))

    control = adata.X[labels == "control"].toarray().astype(np.float64)
    truth = adata.varp["true_causes"].toarray() > 0
    return Instance(truth, probability, *_simple(control, counts=True))


def _simple(control: np.ndarray, *, counts: bool) -> tuple[np.ndarray, np.ndarray]:
    """What the simple ways need, of controls alone."""
    if counts:
        size = control.sum(1, keepdims=True)
        control = np.log1p(control * np.median(size) / np.maximum(size, 1))
    with np.errstate(all="ignore"):
        correlation = np.nan_to_num(np.corrcoef(control.T))
    return control.var(0), correlation


def choose(
    method: str, found: np.ndarray, instance: Instance, interest: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """One number per gene, higher = sooner."""
    n = len(found)
    if method == "random":
        return rng.random(n)
    if method == "variance":
        return instance.variance
    cause, effect = np.nonzero(~np.eye(n, dtype=bool) & np.isin(np.arange(n), interest))
    pairs = {"reverse": found[effect, cause], "correlation": instance.correlation[cause, effect]}
    return gains(cause, found[cause, effect], n, **pairs)[method]


def curve(
    method: str, instance: Instance, interest: np.ndarray, *, rounds: int, size: int, rng: np.random.Generator
) -> list[float]:
    """AUPRC of the pairs whose effect is of interest, before the first round and after each."""
    off = ~np.eye(len(instance.truth), dtype=bool) & np.isin(np.arange(len(instance.truth)), interest)
    done: list[int] = []
    scores = []
    for step in range(rounds + 1):
        found = instance.probability(done)
        scores.append(average_precision(instance.truth[off], found[off]))
        if step < rounds:
            order = np.argsort(-choose(method, found, instance, interest, rng), kind="stable")
            done += [int(g) for g in order if int(g) not in done][:size]
    return scores


def one(task: str, index: int, *, rounds: int, size: int, repeats: int, genes: int, cells: int) -> list[dict]:
    """All methods on one instance, for the whole graph and for three genes of interest that have a cause."""
    instance = draw(task, index, genes=genes, cells=cells)
    with_cause = np.flatnonzero(instance.truth.any(0))
    if len(with_cause) < 3:
        return []
    some = np.random.default_rng([_SEED, index]).choice(with_cause, 3, replace=False)
    cache: dict[tuple[int, ...], np.ndarray] = {}  # methods often agree

    def once(done: Sequence[int]) -> np.ndarray:
        key = tuple(sorted(done))
        if key not in cache:
            cache[key] = instance.probability(key)
        return cache[key]

    known = replace(instance, probability=once)
    rows = []
    for interest, genes_of in (("all", np.arange(genes)), ("three", some)):
        for method in METHODS:
            for k in range(repeats if method == "random" else 1):
                rng = np.random.default_rng([_SEED, index, k])
                scores = curve(method, known, genes_of, rounds=rounds, size=size, rng=rng)
                where = {"task": task, "interest": interest, "instance": index, "method": method, "repeat": k}
                rows += [{**where, "knockouts": size * r, "auprc": s} for r, s in enumerate(scores)]
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean AUPRC by knock-outs, and the mean gain over random choices of all rounds with its standard error."""
    keys = ["task", "interest", "method"]
    per = rows.groupby([*keys, "instance", "knockouts"])["auprc"].mean().unstack("knockouts")
    later = per.columns[per.columns > 0]
    chance = per.xs("random", level="method")
    table = []
    for key, mine in per.groupby(level=keys, sort=False):
        left = mine.droplevel("method")
        gain = (left[later] - chance.loc[left.index, later]).mean(1)
        table.append(
            {**dict(zip(keys, key, strict=True)), **mine.mean(), "gain": gain.mean(), "se": gain.sem(), "n": len(mine)}
        )
    out = pd.DataFrame(table)
    out["order"] = out["method"].map(METHODS.index)
    return out.sort_values(["task", "interest", "order"], kind="stable", ignore_index=True).drop(columns="order")


def draw_curves(rows: pd.DataFrame, file: Path) -> None:
    """Mean AUPRC by knock-outs; a panel per task and interest."""
    from matplotlib.figure import Figure

    panels = list(rows.groupby(["interest", "task"], sort=False))
    n = rows["task"].nunique()
    figure = Figure(figsize=(2.6 * n, 5.2), layout="constrained")
    axes = figure.subplots(2, n, squeeze=False, sharex=True)
    colours = dict(zip(METHODS, ("#222222", "#8C8C8C", "#56B4E9", "#E69F00", "#0072B2", "#D55E00"), strict=True))
    for ((interest, task), part), ax in zip(panels, _by_row(axes, panels), strict=True):
        for method in METHODS:
            mean = part[part["method"] == method].groupby("knockouts")["auprc"].mean()
            style = "--" if method == "random" else "-"
            ax.plot(mean.index, mean, style, marker="o", markersize=3, color=colours[method], label=method)
        ax.set_title(f"{task}, {'whole graph' if interest == 'all' else 'three genes'}", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("knock-outs", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("AUPRC", fontsize=9)
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(file, dpi=150)


def _by_row(axes: np.ndarray, panels: list) -> list:
    tasks = list(dict.fromkeys(task for (_, task), _ in panels))
    return [axes[["all", "three"].index(interest), tasks.index(task)] for (interest, task), _ in panels]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--size", type=int, default=2, help="knock-outs per round")
    parser.add_argument("--repeats", type=int, default=3, help="of random choices")
    parser.add_argument("--genes", type=int, default=20)
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--rows", type=Path, help="CSV to write, and to go on from")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = pd.read_csv(args.rows).to_dict("records") if args.rows and args.rows.exists() else []
    done = {(r["task"], r["instance"]) for r in rows}
    how = {name: getattr(args, name) for name in ("rounds", "size", "repeats", "genes", "cells")}
    start = time.process_time()
    for task in args.tasks:
        for index in range(args.instances):
            if (task, index) not in done:
                rows += one(task, index, **how)
                if args.rows:
                    pd.DataFrame(rows).to_csv(args.rows, index=False)
    found = pd.DataFrame(rows)
    print(summary(found).round(3).to_string(index=False))
    print(f"{time.process_time() - start:.0f} CPU seconds")
    if args.figure:
        draw_curves(found, args.figure)


if __name__ == "__main__":
    main()
