"""Speed and agreement of the gene-network simulator: ours, a per-gene loop and sergio_rs on one job.

``python -m benchmarks.simulate [--threads 2] [--genes 200] [--quick] [--write]``
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import gammaincc

from causcade import datasets
from causcade.simulate import graphs, grn, modules, noise

sergio_rs = import_module("sergio_rs") if find_spec("sergio_rs") else None

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "simulate.md"
START, END = "<!-- benchmarks.simulate: start -->", "<!-- benchmarks.simulate: end -->"
HEAD = f"---\norphan: true\n---\n\n# Gene-network simulator: speed and agreement\n\n{START}\n{END}\n"
LOW, HIGH = 1.0, 3.0  # basal rates, the ends of the published range
Moments = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Timing:
    name: str
    task: str
    seconds: np.ndarray  # wall and CPU, of the timed part
    factor: float  # how many such parts the job has

    def markdown(self) -> str:
        cells = [f"{s:.2f}" for s in self.seconds] + [f"{f:.1f}" for f in (self.factor, *self.seconds * self.factor)]
        return f"| {self.name} | {self.task} | {' | '.join(cells)} |"


def timed(name: str, task: str, run: Callable[[], Any], factor: float = 1.0) -> tuple[Any, Timing]:
    clock = lambda: np.array([time.perf_counter(), time.process_time()])
    start, result = clock(), run()
    return result, Timing(name, task, clock() - start, factor)


def network(n_genes: int | None, rng: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Adjacency [cause, effect] and signs of E. coli's network, or of a module of it."""
    adjacency, sign = map(torch.from_numpy, datasets.network_dag(datasets.ecoli_network(), rng=rng)[1:])
    genes = modules.subgraph_module(adjacency, n_genes, rng=rng) if n_genes else torch.arange(len(adjacency))
    return adjacency[genes][:, genes], sign[genes][:, genes]


def path_lengths(net: grn.GRN, cells: int) -> np.ndarray:
    """Steps of every gene in the per-gene loop: 15 a cell, 10 more for every level below it."""
    return 15 * cells + 10 * graphs.levels(net.adjacency.T).numpy()


def per_gene_loop(
    net: grn.GRN, cells: int, knocked_out: int = -1, half: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """One simulation in SERGIO's structure: level by level, gene after gene, step after step.

    Kinder than the original, which loops over types too.  ``half=None``: estimated in this run, as there.
    """
    gen, steps = np.random.default_rng(seed), path_lengths(net, cells)
    strength, basal = net.strength.numpy().astype(float), net.basal.numpy().astype(float)
    when = gen.integers(-15 * cells, 0, cells)  # the same times for all genes
    path, out = {}, np.empty((net.n_types, cells, net.n_genes))
    for gene in np.argsort(-steps, kind="stable"):
        causes = np.flatnonzero(strength[:, gene])
        means = out[..., causes].mean(1).T
        halves = means.mean(1).clip(1e-9) if half is None else half[causes]  # 0 where the cause is knocked out
        edges = [(path[r], strength[r, gene], h, mean) for r, h, mean in zip(causes, halves, means, strict=True)]
        path[gene] = _walk(net, basal[:, gene], edges, float(gene != knocked_out), steps[gene], gen)
        out[..., gene] = path[gene][when].T
    return out


def _walk(net: grn.GRN, basal: np.ndarray, edges: list, keep: float, n: int, gen: np.random.Generator) -> np.ndarray:
    def production(values: list[np.ndarray]) -> np.ndarray:
        total = basal.copy()
        for x, (_, k, half, _) in zip(values, edges, strict=True):
            hill = x**net.hill / (half**net.hill + x**net.hill)
            total += k * hill if k > 0 else -k * (1 - hill)
        return keep * total

    path = np.empty((n, len(basal)))
    path[0] = production([mean for *_, mean in edges]) / net.decay
    for t in range(1, n):
        made, lost = production([p[t - 1] for p, *_ in edges]), net.decay * path[t - 1]
        shock = np.sqrt(made) * gen.standard_normal(len(basal)) + np.sqrt(lost) * gen.standard_normal(len(basal))
        path[t] = np.maximum(path[t - 1] + 0.01 * (made - lost) + net.noise * 0.1 * shock, 0)
    return path


def time_loop(net: grn.GRN, per_type: int, n_parts: int, seed: int) -> list[Timing]:
    """Wild type with two cells a type, the factor from the number of gene-steps; ``n_parts`` knock-outs."""
    name, genes = "per-gene loop", np.random.default_rng(seed).choice(net.n_genes, n_parts, replace=False)
    factor = path_lengths(net, per_type).sum() / path_lengths(net, 2).sum()
    _, wild = timed(name, "wild type", lambda: per_gene_loop(net, 2, seed=seed), factor)
    knock_out = lambda: [per_gene_loop(net, 1, g, seed=seed) for g in genes]
    return [wild, timed(name, "knock-outs", knock_out, net.n_genes / n_parts)[1]]


def rust_network(net: grn.GRN) -> tuple[Any, Any]:
    """Network and basal rates: only random rates are possible there, so narrow ranges leave ``LOW`` or ``HIGH``."""
    rust, genes = sergio_rs.GRN(), [sergio_rs.Gene(f"{i:05d}", net.decay) for i in range(net.n_genes)]
    for i, j in net.adjacency.nonzero().tolist():
        rust.add_interaction(genes[i], genes[j], float(net.strength[i, j]), None, int(net.hill))
    rust.set_mrs()
    return rust, sergio_rs.MrProfile.from_random(rust, net.n_types, (LOW, LOW + 1e-6), (HIGH, HIGH + 1e-6), 0)


def rust_cells(rust: tuple[Any, Any], net: grn.GRN, cells: int, every: int = 15, seed: int = 0) -> np.ndarray:
    """Array (n_types, cells, n_genes); NaN for genes without any edge, which are not simulated there."""
    table = sergio_rs.Sim(rust[0], cells, 10, every, 0.01, net.noise, seed).simulate(rust[1])
    x = np.full((net.n_types, cells, net.n_genes), np.nan)
    x[..., [int(g) for g in table["Genes"]]] = table.drop("Genes").to_numpy().T.reshape(net.n_types, cells, -1)
    return x


def time_rust(net: grn.GRN, per_type: int, n_cells: int, n_parts: int, seed: int) -> list[Timing]:
    """The whole wild type, ``n_parts`` knock-outs (which follow another law there) and the noise of the wild type."""
    name, rust = "sergio_rs", rust_network(net)
    x, wild = timed(name, "wild type", lambda: rust_cells(rust, net, per_type, seed=seed))
    present = np.flatnonzero(net.adjacency.any(0) | net.adjacency.any(1))
    genes = np.random.default_rng(seed).choice(present, n_parts, replace=False)
    knock_out = lambda: [rust_cells(rust[0].ko_perturbation(f"{g:05d}", rust[1]), net, 1) for g in genes]
    _, out = timed(name, "knock-outs", knock_out, net.n_genes / n_parts)
    flat = np.ascontiguousarray(x.reshape(-1, net.n_genes)[:, present].T)
    make = lambda: sergio_rs.add_technical_noise(flat, sergio_rs.NoiseSetting.DS4, 0)
    return [wild, out, timed(name, "noise", make, n_cells / flat.shape[1])[1]]


def time_ours(net: grn.GRN, per_type: int, seed: int) -> tuple[list[Timing], int]:
    genes, tech = torch.arange(net.n_genes), noise.TECHNOLOGIES["10x-chromium"][0]
    job = {"n_control": per_type * net.n_types, "knockouts": genes, "cells_per_knockout": net.n_types, "rng": seed}
    (x, *_), dynamics = timed("causcade", "wild type and knock-outs", lambda: grn.simulate_cells(net, **job))
    add = lambda: noise.count(noise.add_technical_noise(x, tech, rng=0), rng=1)
    return [dynamics, timed("causcade", "noise", add)[1]], len(x)


def speed(n_genes: int | None, per_type: int, n_parts: int, seed: int = 0) -> list[str]:
    adjacency, sign = network(n_genes, seed)
    net = grn.random_grn(adjacency, n_types=10, signs=sign, rng=seed)
    rows, n_cells = time_ours(net, per_type, seed)
    rows += time_loop(net, per_type, n_parts, seed)
    rows += time_rust(net, per_type, n_cells, 4 * n_parts, seed) if sergio_rs else []
    total: defaultdict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for r in rows:
        total["noise" if r.task == "noise" else "dynamics", r.name] += r.factor * r.seconds
    ratios = {key: value / total[key[0], "causcade"] for key, value in total.items() if key[1] != "causcade"}
    return [
        f"{net.n_genes} genes, {int(adjacency.sum())} edges; {10 * per_type} wild-type cells, 10 cells (one of each of "
        f"10 types) of {net.n_genes} knock-outs. A factor above 1: a part was timed and extrapolated.\n",
        "| | task | timed: wall s | CPU s | factor | job: wall s | CPU s |\n|---|---|---|---|---|---|---|",
        *(row.markdown() for row in rows),
        "\n| seconds of the job, relative to causcade | wall | CPU |\n|---|---|---|",
        *(f"| {what}: {name} | {wall:.1f} x | {cpu:.1f} x |" for (what, name), (wall, cpu) in ratios.items()),
    ]


def reflected(mean: np.ndarray, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Moments where production is constant and x held at zero: x + mean is Gamma(4 mean/q², rate 2/q²) above mean."""
    shape, cut = 4 * mean / q**2, 2 * mean / q**2
    mass = gammaincc(shape, cut)
    first = shape * q**2 / 2 * gammaincc(shape + 1, cut) / mass
    second = shape * (shape + 1) * q**4 / 4 * gammaincc(shape + 2, cut) / mass
    return first - mean, second - first**2


def compare(a: Moments, b: Moments, genes: np.ndarray) -> str:
    """Table cells of ``a`` against ``b``, seed by seed: (means, variances) of (n_types, n_genes)."""
    rows = []
    for (mean_a, var_a), (mean_b, var_b) in zip(a, b, strict=True):
        m, n = mean_a[:, genes].ravel(), mean_b[:, genes].ravel()
        off, ratio = 100 * (m / n - 1), np.median(var_a[:, genes] / var_b[:, genes])
        corr = np.corrcoef(np.log(m), np.log(n))[0, 1] if np.ptp(n) else np.nan
        rows.append((np.median(np.abs(off)), np.median(off), corr, ratio))
    mean, se = np.mean(rows, 0), np.std(rows, 0, ddof=1) / np.sqrt(len(rows))
    return " | ".join(f"{v:.{d}f} ± {s:.{d}f}" for v, s, d in zip(mean, se, (1, 1, 3, 3), strict=True))


def matched_cells(n_genes: int, n_types: int, cells: int, seeds: int, every: int) -> tuple[grn.GRN, Moments, Moments]:
    """Moments of wild-type cells of ours and of sergio_rs, seed by seed, on one set of parameters."""
    adjacency, sign = network(n_genes, 1)
    net = grn.random_grn(adjacency, n_types=n_types, signs=sign, rng=1)
    rust, sampling = rust_network(net), grn.Sampling(cells_per_chain=1)
    theirs = [rust_cells(rust, net, cells, every, seed) for seed in range(seeds)]
    rates = np.where(np.mean(theirs, (0, 2)) * net.decay > 2, HIGH, LOW)  # read off the genes without regulators
    net, ours = replace(net, basal=torch.from_numpy(rates).float() * ~adjacency.any(0)), []
    job = {"n_control": n_types * cells, "knockouts": torch.arange(0), "cells_per_knockout": 1, "sampling": sampling}
    for x, _, types in (grn.simulate_cells(net, **job, rng=seed) for seed in range(seeds)):
        ours.append(np.stack([x[types == t].double().numpy() for t in range(n_types)]))
    return net, *([(x.mean(1), x.var(1)) for x in xs] for xs in (ours, theirs))


def agreement(n_genes: int, n_types: int, cells: int, seeds: int, every: int) -> list[str]:
    net, ours, theirs = matched_cells(n_genes, n_types, cells, seeds, every)
    leaf, target = ~net.adjacency.any(1).numpy(), net.adjacency.any(0).numpy()
    root, mean = ~target & ~leaf, np.where(target, 1, net.basal.numpy() / net.decay)
    free, held = (mean, net.noise**2 * mean), reflected(mean, net.noise)
    laws = ("b/λ, q²b/λ (not held at 0)", [free] * seeds), ("held at 0 (cut-off Gamma)", [held] * seeds)
    pairs = [
        ("sergio_rs, other seeds: all genes", "sergio_rs", theirs[1:] + theirs[:1], theirs, target | ~leaf),
        ("causcade: regulators", "sergio_rs", ours, theirs, ~leaf),
        ("causcade: genes that regulate nothing", "sergio_rs", ours, theirs, leaf & target),
        *((f"causcade: {root.sum()} roots", law, ours, form, root) for law, form in laws),
        *((f"sergio_rs: {root.sum()} roots", law, theirs, form, root) for law, form in laws),
    ]
    return [
        f"Wild type: {n_genes} genes, {n_types} types x {cells} cells; ± SE over {seeds} seeds. "
        f"sergio_rs: one cell in {every} steps; causcade: default steps, one cell a chain.\n",
        "| | against | means: median abs. difference % | median difference % | correlation of logs "
        "| variances: median ratio |\n|---|---|---|---|---|---|",
        *(f"| {a} | {b} | {compare(x, y, genes)} |" for a, b, x, y, genes in pairs),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--genes", type=int, help="a module of the network instead of all of it")
    parser.add_argument("--quick", action="store_true", help="60 genes, few cells")
    parser.add_argument("--write", action="store_true", help="also into docs/benchmarks/simulate.md")
    args, load = parser.parse_args(argv), os.getloadavg()[0]
    torch.set_num_threads(args.threads)
    lines = speed(60, 10, 1) if args.quick else speed(args.genes, 50, 4)
    if sergio_rs:
        lines += ["", *(agreement(30, 3, 100, 2, 50) if args.quick else agreement(100, 3, 300, 4, 250))]
    ends = f"\n{args.threads} threads, {os.cpu_count()} cores, load {load:.1f} to {os.getloadavg()[0]:.1f}."
    text = "\n".join([*lines, ends])
    print(text)
    if args.write:
        PAGE.parent.mkdir(exist_ok=True, parents=True)
        page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
        PAGE.write_text(f"{page.split(START)[0]}{START}\n\n{text}\n\n{END}{page.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
