"""Causes on screens simulated from real networks: TCD against trees, correlation, knock-outs and popularity.

``python -m benchmarks.tcd --network ecoli --told``: all of *E. coli*, with trees that were told the network as a measure.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from causcade import baselines, datasets, metrics, pretrained
from causcade.ensemble import score_pairs
from causcade.pairs import PairFeatures, pair_features
from causcade.scoring import cell_scorer, compose, noisy_or, pair_scorer, set_size
from causcade.simulate import grn, noise
from causcade.simulate.episodes import ScreenPrior, assay, draw_screen
from causcade.simulate.graphs import ancestors, path_lengths
from causcade.stats import Moments, PairStats, cell_values, log_normalise, pair_stats

Scores = np.ndarray
FEWER = np.log(0.2)  # trees are grown on a fifth of the pairs that are no causes, which raises their log odds
COLUMNS = (
    "column_auroc", "column_ap", "column_f1", "column_auroc_path2", "column_ap_path2", "column_auroc_blind",
    "row_auroc", "row_ap", "row_f1", "row_auroc_shuffled", "row_auroc_blind", "fnr1", "fnr2", "fnr3", "seconds",
)  # fmt: skip


class Clean(NamedTuple):
    """Cells before technical noise, and the graph."""

    x: torch.Tensor
    codes: torch.Tensor
    types: torch.Tensor
    adjacency: torch.Tensor


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


def simulate(
    network: str, half_response: str, sampling: str, seed: int, *, cells: int, kinetics: int | None = None
) -> Clean:
    """Clean cells of a screen in which every gene is knocked out once, 500 controls, ten cell types.

    ``steady`` samples every cell from the stationary law.  ``published`` runs each knocked-out cell for 15 steps from
    the noise-free steady state, as the released data were made, which leaves it a fifth of the intrinsic variance.
    ``kinetics`` draws kinetics and cells of the same graph with another seed.
    """
    adjacency, sign = real_network(network, seed)
    seed = seed if kinetics is None else kinetics
    model = grn.random_grn(adjacency, signs=sign, rng=seed)
    screen = partial(grn.simulate_cells, model, half_response=half_response)  # type: ignore[arg-type]
    everything = torch.arange(model.n_genes)
    if sampling == "steady":
        x, codes, types = screen(n_control=500, knockouts=everything, cells_per_knockout=cells, rng=seed + 1)
    else:
        short = grn.Sampling(burn_in=0.15, cells_per_chain=1, start_noise=False)
        control = screen(n_control=500, knockouts=everything[:0], cells_per_knockout=0, rng=seed + 1)
        knocked = screen(n_control=0, knockouts=everything, cells_per_knockout=cells, sampling=short, rng=seed + 2)
        x, codes, types = (torch.cat(pair) for pair in zip(control, knocked, strict=True))
    return Clean(x, codes, types, adjacency)


def measure(clean: Clean, fidelity: str, seed: int) -> Job:
    """Technical noise of 10x (its second profile), counts, statistics, features."""
    codes, types, adjacency = clean.codes, clean.types, clean.adjacency
    rate = noise.add_technical_noise(clean.x, noise.TECHNOLOGIES["10x-chromium"][1], rng=seed + 2)
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


@cache
def fit_trees(fidelity: str, n_screens: int = 6) -> baselines.PairTrees:
    """Trees on the same pair features, from screens of random graphs with the benchmark's design and technology."""
    prior = ScreenPrior(
        fidelities={fidelity: 1.0}, full_coverage=1.0, full_efficacy=1.0, ten_cells=1.0, groups_known=1.0, refit=0.0,
        types=(10, 10), genes=(500, 800), depth_shift=(-0.3, 0.3), technologies={"10x-chromium": 1.0},
        graph_kinds={"sparse_regulators": 4.0, "scale_free_out": 1.0},
    )  # fmt: skip
    pairs = []
    for i in range(n_screens):
        screen = draw_screen(prior, 99, i)
        counts, _ = assay(screen, prior, 99, i)
        features = pair_features(statistics(counts, screen.codes, screen.types, screen.single))
        pairs.append(some_pairs(features, ancestors(screen.grn.adjacency).numpy(), i))
    return grow(pairs)


def fit_told_trees(
    network: str, half_response: str, sampling: str, fidelity: str, seed: int, cells: int
) -> baselines.PairTrees:
    """Trees that were told the network: from two screens of it with other kinetics and cells.

    What statistics of single pairs say to someone who knows the places of these very genes; not a method.
    """
    pairs = []
    for i in (1, 2):
        clean = simulate(network, half_response, sampling, seed, cells=cells, kinetics=seed + 1000 * i)
        job = measure(clean, fidelity, seed + 1000 * i)
        pairs.append(some_pairs(job.features, job.truth, i))
    return grow(pairs)


def some_pairs(features: PairFeatures, truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all causes and a fifth of the other pairs of a screen."""
    n, everything = features.n_genes, torch.arange(features.n_genes)
    take = ~np.eye(n, dtype=bool) & (truth | (np.random.default_rng(seed).random((n, n)) < 0.2))
    blocks = zip(everything.split(100), np.split(take, range(100, n, 100)), strict=True)
    return np.concatenate([features.block(g, everything).numpy()[t] for g, t in blocks]), truth[take]


def grow(pairs: list[tuple[np.ndarray, np.ndarray]]) -> baselines.PairTrees:
    """Trees from pairs of several screens."""
    x, y = zip(*pairs, strict=True)
    return baselines.PairTrees(n_trees=100, max_pairs=300_000, rng=0).fit(np.concatenate(x), np.concatenate(y))


def predict_trees(trees: baselines.PairTrees, features: PairFeatures) -> Scores:
    """Score all pairs block by block."""
    everything = torch.arange(features.n_genes)
    blocks = [trees.predict(features.block(some, everything).numpy()) for some in everything.split(100)]
    return np.concatenate(blocks)


def score_network(
    weights: pretrained.Weights, job: Job, *, targets: np.ndarray | None, draws: int, anchors: int, size: int | None
) -> Scores:
    """Shared-subset ensemble of a network, composed where all pairs are scored, as `tl.causes` does."""
    scores = score_sets(weights, job, targets=targets, draws=draws, anchors=anchors, size=size)
    return compose(weights.net, scores) if targets is None else scores


def score_sets(
    weights: pretrained.Weights, job: Job, *, targets: np.ndarray | None, draws: int, anchors: int, size: int | None
) -> Scores:
    """Shared-subset ensemble of a network."""
    size = size or set_size(weights.config)
    n = job.features.n_genes
    if weights.config["network"] == "pairs":
        score = pair_scorer(weights.net, job.features)
    else:
        values = cell_values(job.counts, job.counts.sum(1))
        score = cell_scorer(
            weights.net, values, job.codes, torch.arange(1, n + 1), n_cells=int(weights.config["cells"])
        )
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
    scores = np.nan_to_num(scores)
    r = metrics.cause_report(job.truth, scores, path_length=job.paths, rng=0)
    missed = metrics.false_negative_rate_by_path(job.truth, scores, job.paths)
    percent = {k: 100 * v for k, v in r.items() if not k.startswith("n_")}
    return {"method": name, **percent, **{f"fnr{k}": 100 * v for k, v in missed.items()}, "seconds": seconds}


def run(
    job: Job,
    fidelity: str,
    weights: dict[str, pretrained.Weights],
    args: argparse.Namespace,
    told: baselines.PairTrees | None = None,
) -> pd.DataFrame:
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
        rows.append(report("pair trees, noisy or", noisy_or(scores + FEWER), job, seconds))
    if told is not None:
        scores, seconds = timed(lambda: predict_trees(told, job.features))
        rows.append(report("pair trees, told the network", scores, job, seconds))
        rows.append(report("pair trees, told the network, noisy or", noisy_or(scores + FEWER), job, seconds))
    for name, w in weights.items():
        for anchors in args.anchors:
            scores, seconds = timed(
                lambda w=w, a=anchors: score_sets(w, job, targets=None, draws=args.draws, anchors=a, size=args.size)
            )
            label = f"TCD {name}" + (f" +{anchors} anchors" if anchors else "")
            if getattr(w.net, "compose", None) is None:
                rows.append(report(label, scores, job, seconds))
                continue
            composed, more = timed(lambda w=w, s=scores: compose(w.net, s))
            rows.append(report(label, composed, job, seconds + more))
            rows.append(report(f"{label}, not composed", scores, job, seconds))
            rows.append(report(f"{label}, noisy or", noisy_or(scores), job, seconds))
        if args.per_target:
            compare_per_target(w, job, np.nan_to_num(scores), seconds, args.per_target)
    return pd.DataFrame(rows).set_index("method")


def compare_per_target(w: pretrained.Weights, job: Job, shared: Scores, shared_seconds: float, n: int) -> None:
    """Print the paper's loop (one target at a time, anchors, five draws) beside the shared subsets, same targets."""
    candidates = np.flatnonzero(job.truth.any(0))
    some = np.random.default_rng(0).choice(candidates, min(n, len(candidates)), replace=False)
    looped = np.empty((len(job.truth), len(some)), np.float32)
    start = time.perf_counter()
    for k, target in enumerate(some):
        looped[:, k] = score_network(w, job, targets=np.array([target]), draws=5, anchors=20, size=None)[:, 0]
    seconds = (time.perf_counter() - start) / len(some)
    truth = job.truth[:, some]
    ways = {"shared": (shared[:, some], shared_seconds / len(job.truth)), "per target, anchors": (looped, seconds)}
    for way, (scores, each) in ways.items():
        row, ap = (np.nanmean(metrics.per_target(truth, scores, m, effects=some)) for m in ("auroc", "ap"))
        print(
            f"{w.name}, {way}: row AUROC {100 * row:.1f}, AP {100 * ap:.1f} on {len(some)} targets, {each:.3f} s/target"
        )


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=["ecoli", "yeast"], default="ecoli")
    parser.add_argument("--fidelity", nargs="+", default=["high", "low"])
    parser.add_argument("--half-response", nargs="+", help="default: wild-type refit; yeast: wild-type")
    parser.add_argument("--sampling", choices=["steady", "published"], help="default: published for refit only")
    parser.add_argument(
        "--weights", nargs="*", help="names or folders; default: all released ones; yeast: the one for the fidelity"
    )
    parser.add_argument("--draws", type=int, default=2, help="as of `tl.causes`")
    parser.add_argument(
        "--cells", type=int, help="of each knock-out; default: 10 (trees are always trained on 10), yeast: 5"
    )
    parser.add_argument("--anchors", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, help="genes in a set; default: as of `tl.causes`")
    parser.add_argument("--per-target", type=int, default=0, help="also time the per-target loop on so many targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-trees", action="store_true", help="always so for yeast, whose 20 million pairs are too many"
    )
    parser.add_argument("--told", action="store_true", help="also trees from other simulations of E. coli")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    parser.add_argument("--page", type=Path, help="only write this page from the tables in --out")
    args = parser.parse_args()
    large = args.network == "yeast"  # the cell network alone takes 20 quiet minutes a table there
    args.cells = args.cells or (5 if large else 10)
    args.half_response = args.half_response or (["wild-type"] if large else ["wild-type", "refit"])
    args.no_trees, args.told = args.no_trees or large, args.told and not large
    return args


def write_page(tables: Path, page: Path) -> None:
    """Write the docs page from the CSV tables of earlier runs."""
    lines = [
        "# Benchmark: causes on real networks",
        "",
        "Screens simulated from real networks, which no weights were trained on: `python -m benchmarks.tcd --told`, and for",
        "yeast `python -m benchmarks.tcd --network yeast --draws 1`.",
        "All numbers but seconds are percent. *Column* scores rank the effects of a regulator: a ranking that ignores",
        "the target has AUROC 50. *Row* scores rank the causes of a target, which finding hubs is enough for: see",
        "`row_auroc_shuffled`, the row AUROC after the scores were handed to other targets. `column_auroc_blind` is one",
        "list of effects for all regulators. `fnr1`, `fnr2`, `fnr3`: share of causes missed by distance, at the true",
        "number of pairs. TCD deals the genes into sets twice, as `tl.causes` does, where it does not say otherwise. The rows of",
        "`tcd-paper` on yeast and those of sets of 96 are of earlier runs.",
        "*Pair trees, told the network* are no method: they were trained on two other simulations of this very network",
        "(`--told`), and show how much statistics of single pairs hold for someone who knows it. *Not composed* is",
        '`tl.causes(compose=False)`, *noisy or* is `compose="plain"` (of trees: the same noisy or over their scores); *four draws* is',
        "`--draws 4`, *sets of 96* is `--size 96`, as in training. Seconds are of a machine that did other things too.",
        "",
    ]
    for path in sorted(tables.glob("tcd_*.csv")):
        frame = pd.read_csv(path, index_col="method")
        frame = frame[[c for c in COLUMNS if c in frame]].round(1)
        _, network, half, fidelity = path.stem.split("_")
        lines += [f"## {network}, half-response {half}, {fidelity} fidelity", ""]
        lines += ["| method | " + " | ".join(frame.columns) + " |", "|---" * (frame.shape[1] + 1) + "|"]
        for method, row in frame.iterrows():
            name = str(method).replace("|", "\\|")
            lines.append(f"| {name} | " + " | ".join("" if np.isnan(v) else f"{v:g}" for v in row) + " |")
        lines.append("")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines))


def main() -> None:
    """Simulate, measure, score, print."""
    args = arguments()
    if args.page:
        write_page(args.out, args.page)
        return
    for half in args.half_response:
        start, sampling = time.perf_counter(), args.sampling or ("published" if half == "refit" else "steady")
        clean = simulate(args.network, half, sampling, args.seed, cells=args.cells)
        seconds = time.perf_counter() - start
        print(
            f"\n# {args.network}, half-response {half}, sampling {sampling}: {tuple(clean.x.shape)} in {seconds:.1f} s"
        )
        for fidelity in args.fidelity:
            job = measure(clean, fidelity, args.seed)
            released = "tcd-grn-umi" if fidelity == "low" else "tcd-grn-expression"
            usual = (
                [released]
                if args.network == "yeast"
                else ["tcd-grn-expression", "tcd-grn-umi", "tcd-perturbseq", "tcd-paper"]
            )
            names = args.weights or [n for n in usual if n in pretrained.available()]
            told = None
            if args.told:
                told = fit_told_trees(args.network, half, sampling, fidelity, args.seed, args.cells)
            frame = run(job, fidelity, {n: pretrained.load(n) for n in names}, args, told)
            depth, load = float(job.counts.sum(1).mean()), os.getloadavg()[0]
            print(f"\n## {half} / {fidelity}: mean {depth:.0f} molecules per cell, load {load:.1f}")
            print(frame[[c for c in COLUMNS if c in frame]].round(1).to_string())
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                frame.to_csv(args.out / f"tcd_{args.network}_{half}_{fidelity}.csv")
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
