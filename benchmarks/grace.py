"""Untried combinations: GraCE-VAE and its variants against simple baselines, on a real screen and on simulated ones.

``python -m benchmarks.grace --real FILE --network STRING --reactome GMT RELATIONS`` takes an h5ad with log values, ``.obs["perturbation"]`` and controls named "control";
``--synthetic`` and ``--speed`` need nothing. Rows are kept in ``--rows``: what is there is not run again. ``--page`` writes the
docs page from the tables in ``--out``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from benchmarks import grace_speed
from benchmarks.grace_screens import METHODS, Case, one, real, simulated
from causcade.networks import reactome, read_network

NAMES = {"r change": 2, "r change, top 20": 2, "r to mean": 2, "R2 top 20": 2, "RMSE top 20": 3, "MMD top 20": 3, "energy": 3,
         "discrimination": 2, "program ARI": 2, "graph AUPRC": 2, "graph AUPRC, chance": 2, "cpu": 1}  # fmt: skip


def run(task: str, args: argparse.Namespace) -> pd.DataFrame:
    """Rows of a task; one seed of every method before the next, so that a run can be stopped."""
    parts = [read_network(file) for file in args.network] + ([reactome(*args.reactome)] if args.reactome else [])
    network = pd.concat(parts) if parts else None
    keys = ["task", "method", "seed", "epochs"]
    there = args.rows is not None and args.rows.exists()
    found = pd.read_csv(args.rows) if there else pd.DataFrame(columns=keys)
    for seed in range(args.seeds):
        done = {tuple(row) for row in found[keys].to_numpy().tolist()}
        case: Case | None = None
        for method in (m for m in args.methods if (task, m, seed, args.epochs) not in done):
            if case is None:
                case = real(args.real, network, seed, args.epochs) if task == "real" else simulated(seed, args.epochs)
            new = pd.DataFrame(one(case, method, seed)).assign(task=task, epochs=args.epochs)
            found = pd.concat([found, new], ignore_index=True) if len(found) else new
            if args.rows is not None:
                args.rows.parent.mkdir(parents=True, exist_ok=True)
                found.to_csv(args.rows, index=False)
    mine = (found["task"] == task) & found["method"].isin(args.methods)
    return found[mine & (found["epochs"] == args.epochs) & (found["seed"] < args.seeds)]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation over seeds, as text."""
    out = []
    for (test, method), block in rows.groupby(["test", "method"], sort=False):
        told = {name: _spread(block[name], digits) for name, digits in NAMES.items() if name in block}
        out.append({"test": test, "method": method} | told | {"seeds": len(block)})
    table = pd.DataFrame(out).sort_values("test", kind="stable", ignore_index=True)
    return table.loc[:, (table != "").any()]


def _spread(values: pd.Series, digits: int) -> str:
    if values.isna().all():
        return ""
    spread = f"±{values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


INTRO = """Mean ± standard deviation over seeds; a seed draws another split and another start. *Singles*: perturbations of the training
data, cells held out. *Doubles*: combinations whose parts are there alone and that were in no way in training. *r change*:
Pearson correlation of predicted and observed mean change against control, over all genes, or the 20 that change most; *r to mean*:
the same against the mean of the perturbed cells of training. *R2*, *RMSE*, *MMD* (ten kernels around the mean squared distance of two cells) on the 20; *energy*:
distance of predicted and observed cells, all genes; *discrimination*: 1 = each prediction is nearest to its own truth, 0.5 = by chance. Lower is better for
RMSE, MMD and energy. *additive* moves control cells by both mean shifts (additive in means and on cells), *stronger single* predicts the cells of the part
that moves more, *perturbed mean* moves by the mean of all shifts. *Corrupted graph*: ends of edges swapped, degrees kept (where hubs have most of the edges, many come back to where they were). *Start alone*: what GraCE begins with, not trained. *As published*: the
published code's choices, one start, no validation; it too learns from the combinations that the others learn from. Without pathways *multi-hot* is
CMVAE. CPU seconds are of one thread on a machine that did other things too."""

REAL = """The combination screen: 18 single perturbations, 10 combinations that are learned from and 5 held-out ones of Norman et al. (2019), 500 genes,
100 cells each; its network (STRING, Reactome): 268 genes with
an edge, 829 pathways; of the 72 edges between genes, 57 % are still there when corrupted, of those to pathways 9 %. Choices of the loss were made on held-out cells of single perturbations, in other splits of the same screen. With so few perturbations nothing about how perturbations interact can be
learned; what can be shown is whether a model does harm."""

SYNTHETIC = """Six programs that act on one another (expected 6 edges among 15 pairs), each moving 20 genes of its own of 120, softplus; nine
perturbations of one program each, either sign; 400 control cells and 100 of each perturbation; ten held-out pairs. *Program ARI*:
do perturbations of the same program share one (adjusted Rand index, 0 = chance). *Graph AUPRC*: the latent graph, programs matched to
the true ones by the perturbations they share, direction counts. The row *additive* has the ARI of grouping mean changes by
their direction alone, which is where the default begins.

**The latent graph is not identified by the likelihood.** With shifts, a linear latent model and a decoder that begins with free weights W, the
pair (G, W) and the pair (0, (I - G)^-1 W) give the same cells under every perturbation. What is found above chance comes from
the order of the programs and from how the fit moves, not from a guarantee."""

SPEED = """5,000 genes, 105 perturbations, a network of 2,694 pathways with as many edges as the paper's, 32 cells a step: forward, backward and
optimiser. *published*: the formulation of the published code written out (double precision, gathering and scattering along edges, the MMD from cells against
cells gene by gene, kernel by kernel, an inverse for the latent model), random weights. Medians of steps that take turns. *Ratio*: published by
ours. The published code itself took 521 ms of one thread for a step of CMVAE when it was run for its specification, less than what is written out
here. An epoch is of 57,000 perturbed cells, as many as of single perturbations in the screen of
Norman et al., with validation. The (virtual) machine gives more or less from minute to
minute: compare ratios."""


def _markdown(table: pd.DataFrame) -> list[str]:
    lines = [list(table.columns), ["---"] * table.shape[1], *table.fillna("").astype(str).to_numpy().tolist()]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _best(table: pd.DataFrame) -> str:
    """Say which method comes nearest to the mean change of held-out doubles, and where GraCE is."""
    doubles = table[table["test"] == "doubles"].set_index("method")["r change"].dropna()
    score = doubles.astype(str).str.split("±").str[0].astype(float).sort_values(ascending=False)
    told = f"Nearest to the mean change of held-out doubles: **{score.index[0]}** ({doubles[score.index[0]]})"
    return told + (
        f"; GraCE is number {score.index.get_loc('GraCE') + 1} of {len(score)}." if "GraCE" in score else "."
    )


def write_page(page: Path, folder: Path) -> None:
    """Docs page from the tables in a folder."""
    lines = ["# Benchmark: untried combinations", "", "Made by `python -m benchmarks.grace`.", "", INTRO, ""]
    parts = {"real": ("Real screen", REAL), "synthetic": ("Simulated screen", SYNTHETIC), "speed": ("Speed", SPEED)}
    for part, (title, text) in parts.items():
        if not (file := folder / f"grace_{part}.csv").exists():
            continue
        table = pd.read_csv(file)
        lines += [f"## {title}", "", text, ""]
        if part == "speed":
            lines += _markdown(table.round(2))
            continue
        lines += [_best(table), ""]
        for test, block in table.groupby("test", sort=False):
            lines += [f"### {test}", "", *_markdown(block.drop(columns="test").dropna(axis=1, how="all"))]
    page.write_text("\n".join(lines))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", help="h5ad of a real screen")
    parser.add_argument(
        "--network", type=Path, nargs="*", default=[], help="its networks, as networks.read_network reads them"
    )
    parser.add_argument("--reactome", type=Path, nargs=2, help="gene sets and hierarchy of pathways of Reactome")
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--speed", action="store_true", help="time of a step against the published formulation")
    parser.add_argument("--threads", type=int, nargs="+", default=[2], help="for --speed")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rows", type=Path, help="file of single results; what it holds is not run again")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    parser.add_argument("--page", type=Path, help="write this page from the tables in --out")
    args = parser.parse_args()
    if args.page and args.out is None:
        parser.error("--page needs --out, the folder of the tables")
    given = {"real": args.real, "synthetic": args.synthetic, "speed": args.speed}
    wanted = [name for name in given if given[name]] or ([] if args.page else ["synthetic"])
    for task in wanted:
        table = (
            pd.concat([grace_speed.table(threads=n) for n in args.threads])
            if task == "speed"
            else summary(run(task, args))
        )
        print(f"\n## {task}\n\n{table.to_string(index=False)}", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(args.out / f"grace_{task}.csv", index=False)
    if args.page:
        write_page(args.page, args.out)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
