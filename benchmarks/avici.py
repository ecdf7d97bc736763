"""The causal graph: AVICI against classical methods, on simulated graphs, on Sachs, and in seconds.

``python -m benchmarks.avici`` runs all of it; ``--graphs``, ``--scaling``, ``--sachs``, ``--speed`` parts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd
import torch

from benchmarks import avici_graphs, avici_sachs, avici_speed
from causcade import pretrained


def _weights(args: argparse.Namespace) -> dict[str, list[str]]:
    """Weights of every domain: given ones, else the released ones."""
    if args.weights:
        return dict.fromkeys(("linear", "rff", "grn"), args.weights)
    names = [n for n in pretrained.available() if n.startswith("avici")]
    counts = [n for n in names if "grn" in n]
    smooth = [n for n in names if n not in counts]
    return {"linear": smooth, "rff": smooth, "grn": counts}


def graphs(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """The grid, and how sortable its data sets are."""
    settings = avici_graphs.settings(args.domains)
    weights = _weights(args) if args.weights != [] else {domain: [] for domain in args.domains}
    most = {"slow": args.slow, "bootstrap": args.bootstrap, "seconds": args.seconds}
    rows = avici_graphs.run(settings, weights, args.instances, args.workers, args.rows, **most)
    sortable = pd.DataFrame([avici_graphs.sortability(s, min(args.instances, 10)) for s in settings])
    return {"graphs": avici_graphs.summary(rows), "sortability": sortable}


def scaling(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """More genes, fewer cells."""
    sizes, cells = [10, 20, 30, 50, 100], [50, 100, 200, 500, 1000, 3000, 10_000]
    names = dict.fromkeys(w for found in _weights(args).values() for w in found)
    return {"scaling": pd.concat([avici_graphs.scaling(n, sizes, cells, max(args.instances // 3, 2)) for n in names])}


def sachs(args: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Real cells."""
    table = avici_sachs.scores(_weights(args)["linear"])
    return {"sachs": table, "sachs-sortability": pd.DataFrame([avici_sachs.sortability()])}


def speed(_: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Seconds."""
    return {"speed": avici_speed.table()}


INTRO = {
    "graphs": """## Simulated graphs

30 genes, 1,000 cells (*int*: 500 of them with an intervention on one gene, *obs*: none). *shifted*: graphs, mechanisms, noise (Laplace, Cauchy, heteroscedastic) and
interventions (gene networks: modules of E. coli and yeast, kinetics, assays) outside the training ranges, as in the paper.
*internal*: genes are standardised as they are generated, so that neither variance nor predictability tells the order; *none*:
raw causal models, as published. All methods are given z scores of each gene, but sortnregress raw values. Scores without a scale (correlation, precision, sortnregress, LiNGAM) get their threshold
and their probabilities (isotonic regression) from ten instances of their own, in distribution. PC, GES and GIES are helped as in
the paper: undirected edges count as they are in truth; their values 0, 0.5, 1 stand as probabilities. AVICI calls edges at p >= .5, as in the
paper; *best F1*: at the threshold where its own probabilities expect the best F1 (`tl.graph(threshold="f1")`). GES and GIES (of the package
`gies`) search with a quicker helper that decides the same. A method that did not end within 300 CPU seconds (gene networks: 60) is left out for that
instance: *n*, the last column, tells how many ended of how many were asked. *paper*: its Tables 1 and 4, shifted and raw; other draws than ours, so a yardstick and no rival.""",
    "sortability": """### How sortable the data are

0.5: variance (predictability) says nothing on the order of the genes; 1 or 0: it gives it away.""",
    "scaling": """## More genes, fewer cells

In distribution, with interventions (smooth models, or gene networks). AVICI was trained on 2 to 50 genes
and 50 to 3,000 cells.""",
    "sachs": """## Sachs

11 proteins and lipids in 5,846 cells, 1,755 of them controls; five inhibitors or activators, taken as interventions on one protein
each. The consensus graph has 18 edges and a cycle (so there is no SID), and is itself disputed. Correlation and the like call as many edges as are true. The
appendix of the paper, which has its numbers for these data, is not at hand.""",
    "speed": """## Seconds

One forward pass, wall seconds, best of two (of one at 100 genes), compiling excluded. *published, JAX* is the architecture of the paper written anew
in JAX, with random weights: the published package does not import with today's JAX.""",
}


def write_page(page: Path, folder: Path) -> None:
    """Docs page from the tables in a folder."""
    lines = ["# Benchmark: causal graphs", "", "Made by `python -m benchmarks.avici`.", ""]
    for part, intro in INTRO.items():
        files = [f for f in (folder / f"avici_{part}.csv", folder / f"avici_{part}-sortability.csv") if f.exists()]
        lines += [intro, ""] if files else []
        for file in files:
            table = pd.read_csv(file)
            lines += _grid(table) if part == "graphs" else _markdown(table)
    page.write_text("\n".join(lines))


def _grid(table: pd.DataFrame) -> list[str]:
    """One table per setting."""
    lines = []
    keys = ["domain", "standardise", "shifted", "interventional"]
    for (domain, standardise, shifted, acted), block in table.groupby(keys, sort=False):
        title = [
            domain,
            "raw" if standardise == "none" else "",
            "shifted" if shifted else "",
            "int" if acted else "obs",
        ]
        lines += [f"### {', '.join(t for t in title if t)}", ""]
        rows = [
            {"method": r.method, "F1": f"{r.f1:.2f}±{r.f1_se:.2f}", "SID": f"{r.sid:.0f}±{r.sid_se:.0f}", "SHD": f"{r.shd:.1f}",
             "AUPRC": f"{r.auprc:.2f}", "ECE": f"{r.ece:.3f}", "ECE, p > .05": f"{r.ece_adaptive:.2f}",
             "Brier skill": f"{r.brier_skill:.2f}", "acyclic": f"{r.acyclic:.2f}", "CPU s": f"{r.seconds:.2g}", "n": r.instances if r.instances == r.asked else f"{r.instances} of {r.asked}"}
            for r in block.itertuples() if r.instances
        ]  # fmt: skip
        rows += [{"method": r.method, "n": f"0 of {r.asked}"} for r in block.itertuples() if not r.instances]
        if shifted and (domain == "grn" or standardise == "none"):
            for name, (sid, f1, ece) in avici_graphs.PAPER[domain, bool(acted)].items():
                rows.append({"method": f"*paper: {name}*", "F1": f1, "SID": f"{sid:.0f}", "ECE": ece})
        lines += _markdown(pd.DataFrame(rows).fillna(""))
    return lines


def _markdown(table: pd.DataFrame) -> list[str]:
    cells = [[str(c) for c in table.columns], ["---"] * len(table.columns)]
    cells += [[_text(v) for v in row] for row in table.itertuples(index=False)]
    return [f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in cells] + [""]


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.3g}"
    return str(value)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for part in ("graphs", "scaling", "sachs", "speed"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--weights", nargs="*", help="names or folders, or none; default: the released ones")
    parser.add_argument("--domains", nargs="+", default=["linear", "rff", "grn"], choices=["linear", "rff", "grn"])
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--slow", type=int, default=30, help="instances for PC, GES and GIES")
    parser.add_argument("--bootstrap", type=int, default=3, help="instances for the bootstrap of PC")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the CPU, after which a method is stopped")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="file of single results; what it holds is not run again")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    parser.add_argument("--page", type=Path, help="write this page from the tables in --out")
    args = parser.parse_args()
    tasks = {"graphs": graphs, "scaling": scaling, "sachs": sachs, "speed": speed}
    wanted = [name for name in tasks if getattr(args, name)] or ([] if args.page else list(tasks))
    for name in wanted:
        for title, table in tasks[name](args).items():
            print(f"\n## {title}\n\n{table.round(3).to_string(index=False)}", flush=True)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                table.to_csv(args.out / f"avici_{title}.csv", index=False)
    if args.page:
        write_page(args.page, args.out)
    print(f"\n{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
