"""Causes on screens simulated from real networks: TCD against trees, correlation, knock-outs and popularity.

``python -m benchmarks.tcd --network ecoli --fidelity high low --half-response wild-type refit``
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from causcade import baselines, datasets, metrics, pretrained
from causcade.ensemble import score_pairs
from causcade.pairs import PairFeatures, pair_features
from causcade.scoring import cell_scorer, pair_scorer
from causcade.simulate import grn, noise
from causcade.simulate.episodes import ScreenPrior, assay, draw_screen
from causcade.simulate.graphs import ancestors, path_lengths
from causcade.stats import Moments, PairStats, cell_values, log_normalise, pair_stats

Scores = np.ndarray
COLUMNS = ("column_auroc", "column_ap", "column_f1", "column_ap_path2", "row_auroc", "row_ap", "row_f1")


@dataclass
class Job:
    """One measured screen with its truth."""

    counts: torch.Tensor
    codes: torch.Tensor
    types: torch.Tensor
    truth: np.ndarray
    paths: np.ndarray
    stats: PairStats
    features: PairFeatures


def real_network(name: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A real network made acyclic, and its signs."""
    table = datasets.ecoli_network() if name == "ecoli" else datasets.yeast_network()
    _, adjacency, sign = datasets.network_dag(table, rng=seed)
    return torch.from_numpy(adjacency), torch.from_numpy(sign)


def simulate(network: str, half_response: str, seed: int, *, cells: int) -> tuple[torch.Tensor, ...]:
    """Clean cells of a screen in which every gene is knocked out once, 500 controls, ten cell types."""
    adjacency, sign = real_network(network, seed)
    model = grn.random_grn(adjacency, signs=sign, rng=seed)
    x, codes, types = grn.simulate_cells(
        model,
        n_control=500,
        knockouts=torch.arange(model.n_genes),
        cells_per_knockout=cells,
        half_response=half_response,  # type: ignore[arg-type]
        rng=seed + 1,
    )
    return x, codes, types, adjacency


def measure(x: torch.Tensor, codes: torch.Tensor, types: torch.Tensor, adjacency: torch.Tensor, fidelity: str, seed: int) -> Job:
    """Technical noise of 10x (parameters drawn one by one, as published), counts, statistics, features."""
    setting = noise.TECHNOLOGIES["10x-chromium"][1]
    rate = noise.add_technical_noise(x, setting, rng=seed + 2)
    counts = noise.count(rate, fidelity, rng=seed + 3)
    n = counts.shape[1]
    stats = statistics(counts, codes, types, torch.arange(1, n + 1))
    return Job(
        counts, codes, types, ancestors(adjacency).numpy(), path_lengths(adjacency).numpy(), stats, pair_features(stats)
    )


def statistics(counts: torch.Tensor, codes: torch.Tensor, types: torch.Tensor, single: torch.Tensor) -> PairStats:
    """Pair statistics within cell types, in blocks of cells."""
    total = counts.sum(1)
    scale = total[total > 0].median()
    moments = Moments.empty(int(codes.max()) + 1, int(types.max()) + 1, counts.shape[1])
    for at in range(0, len(counts), 4096):
        rows = slice(at, at + 4096)
        moments.update(log_normalise(counts[rows], total[rows], scale), codes[rows], types[rows])
    return pair_stats(moments, single)


def fit_trees(fidelity: str, n_screens: int = 3) -> baselines.PairTrees:
    """Trees on the same pair features, from screens of random graphs."""
    prior = ScreenPrior(fidelities={fidelity: 1.0}, full_coverage=1.0, full_efficacy=1.0, ten_cells=1.0, groups_known=1.0,
                        types=(10, 10), refit=0.0, genes=(700, 900), depth_shift=(0.0, 0.0),
                        graph_kinds={"sparse_regulators": 1.0, "scale_free_out": 1.0})  # fmt: skip
    x, y = [], []
    for i in range(n_screens):
        screen = draw_screen(prior, 99, i)
        counts, _ = assay(screen, prior, 99, i)
        features = pair_features(statistics(counts, screen.codes, screen.types, screen.single))
        n = features.n_genes
        off = ~np.eye(n, dtype=bool)
        y.append(ancestors(screen.grn.adjacency).numpy()[off])
        x.append(features.block(torch.arange(n), torch.arange(n)).numpy()[off])
    return baselines.PairTrees(max_pairs=400_000, rng=0).fit(np.concatenate(x), np.concatenate(y))


def predict_trees(trees: baselines.PairTrees, features: PairFeatures) -> Scores:
    """Score all pairs block by block."""
    everything = torch.arange(features.n_genes)
    blocks = [trees.predict(features.block(some, everything).numpy()) for some in everything.split(100)]
    return np.concatenate(blocks)


def score_network(
    weights: pretrained.Weights, job: Job, *, targets: np.ndarray | None, draws: int, anchors: int, size: int | None
) -> Scores:
    """Shared-subset ensemble of a network."""
    size = size or int(weights.config["subset"])
    n = job.features.n_genes
    if weights.config["network"] == "pairs":
        score = pair_scorer(weights.net, job.features)
    else:
        values = cell_values(job.counts, job.counts.sum(1))
        score = cell_scorer(weights.net, values, job.codes, torch.arange(1, n + 1), n_cells=int(weights.config["cells"]))
    return score_pairs(
        score, n, targets=targets, size=size, n_draws=draws, n_anchors=anchors, rng=np.random.default_rng(0)
    ).mean


def timed(call: Callable[[], Scores]) -> tuple[Scores, float]:
    """Result and wall seconds."""
    start = time.perf_counter()
    out = call()
    return out, time.perf_counter() - start


def report(name: str, scores: Scores, job: Job, seconds: float) -> dict[str, Any]:
    """One row of the table, in percent."""
    r = metrics.cause_report(job.truth, np.nan_to_num(scores), path_length=job.paths, rng=0)
    return {"method": name, **{k: 100 * v for k, v in r.items()}, "seconds": seconds}


def run(job: Job, fidelity: str, weights: dict[str, pretrained.Weights], args: argparse.Namespace) -> pd.DataFrame:
    """All methods on one screen."""
    s, rows = job.stats, []
    z, knockout = s.z.numpy(), baselines.knockout_t(s.z.numpy())
    plain = {
        "knock-out |t|": knockout,
        "correlation": baselines.correlation(s.correlation.numpy()),
        "partial correlation": baselines.correlation(s.partial.numpy()),
        "popularity (from data)": baselines.popularity(np.abs(z)),
        "popularity (true)": baselines.true_popularity(job.truth),
        "random": baselines.random_scores(len(z), 0),
    }
    rows += [report(name, scores, job, 0.0) for name, scores in plain.items()]
    if not args.no_trees:
        trees = fit_trees(fidelity)
        scores, seconds = timed(lambda: predict_trees(trees, job.features))
        rows.append(report("pair trees", scores, job, seconds))
    for name, w in weights.items():
        for anchors in args.anchors:
            scores, seconds = timed(
                lambda w=w, a=anchors: score_network(w, job, targets=None, draws=args.draws, anchors=a, size=args.size)
            )
            rows.append(report(f"TCD {name}" + (f" +{anchors} anchors" if anchors else ""), scores, job, seconds))
    return pd.DataFrame(rows).set_index("method")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["ecoli", "yeast"], default="ecoli")
    parser.add_argument("--fidelity", nargs="+", default=["high", "low"])
    parser.add_argument("--half-response", nargs="+", default=["wild-type", "refit"])
    parser.add_argument("--weights", nargs="*", default=None, help="names or folders")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--anchors", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-trees", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    args = parser.parse_args()
    cells = 10 if args.network == "ecoli" else 5
    for half in args.half_response:
        start = time.perf_counter()
        clean = simulate(args.network, half, args.seed, cells=cells)
        print(f"\n# {args.network}, half-response {half}: {tuple(clean[0].shape)} simulated in {time.perf_counter() - start:.1f} s")
        for fidelity in args.fidelity:
            job = measure(*clean, fidelity, args.seed)
            names = args.weights or ["tcd-grn-umi" if fidelity == "low" else "tcd-grn-expression"]
            frame = run(job, fidelity, {n: pretrained.load(n) for n in names}, args)
            print(f"\n## {half} / {fidelity}: mean {float(job.counts.sum(1).mean()):.0f} molecules per cell, load {os.getloadavg()[0]:.1f}")
            print(frame.round(1).to_string())
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                frame.to_csv(args.out / f"tcd_{args.network}_{half}_{fidelity}.csv")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
