"""What an untried drug or dose does: GIM against baselines on simulated screens with known answers.

``python -m benchmarks.gim --synthetic`` runs the grid; ``--components`` the curve over the number of feature components.
``--real FOLDER`` takes the files of CellBox: real drugs at real doses. ``benchmarks/rows/gim.csv`` holds single results of the page:
a copy of it as ``--rows`` is gone on from (take rows out of it whose code has changed). UT-IGSP needs ``pip install --pre causaldag``, GnIES ``pip install gnies``; without them, ``--without UT-IGSP GnIES``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from benchmarks import gim_cellbox
from benchmarks.gim_synthetic import METHODS, TESTS, Setting, run, settings, summary

COMPONENTS = (2, 5, 10, 15, 20, 30)


def synthetic(args: argparse.Namespace) -> pd.DataFrame:
    """The grid; one data set of every setting before the next, so that a run can be stopped."""
    names = [m for m in METHODS if m not in args.without]
    grid = settings() if not args.mechanisms else [s for s in settings() if s.mechanism in args.mechanisms]
    jobs = [(s, i, 15) for i in range(args.instances) for s in grid]
    return summary(run(jobs, names, args.workers, args.rows), ["mechanism", "graph", "intervention", "method"])


def components(args: argparse.Namespace) -> pd.DataFrame:
    """Quality against the number of components, as the paper's Figure 4: new targets tell most."""
    setting = Setting("mlp", "ER", "hard") if not args.mechanisms else Setting(args.mechanisms[0], "ER", "hard")
    names = [m for m in ("GIM", "MLP") if m not in args.without]
    jobs = [(setting, i, c) for i in range(args.instances) for c in COMPONENTS]
    return summary(run(jobs, names, args.workers, args.rows), ["mechanism", "method", "components"])


def real(args: argparse.Namespace) -> pd.DataFrame:
    """Melanoma cells, proteins."""
    return gim_cellbox.table(args.real)


REAL = """## Real drugs at real doses

Melanoma cells (Korkut et al. 2015, in the layout of CellBox): 87 proteins and phenotypes in 89 conditions, one bulk measurement each: 12 drugs
alone, 11 of them at two doses, and 66 pairs. There is no single-cell screen with doses among the data at hand. *new dose*: the higher
dose of all 11 drugs is held out at once; *new pair*: pairs, in five parts. Features: which drug, and the logarithm of its dose. Medians
over held-out conditions: distance to what was measured (lower is better), and correlation with it. With one measurement of a condition no
target is worth its cost to GIM, so it says the same of every drug, and is no better than the mean: it needs cells, not bulk."""

INTRO = """20 genes, 40 expected edges, 40 perturbations of one or two targets at four doses with 50 cells each, 800 control
cells; Hill functions of the dose; 15 principal components of targets and strengths as features. *seen*: the training regimes,
with the cells learned from; *new dose*: the same perturbations at five other doses; *new targets*: 20 other perturbations. *mlp* cells are raw, *linear* ones
standardised gene by gene (raw ones grow without bound). Means over data sets ± standard error.

*Target F1*: of all (regime, gene) pairs, and the mean over regimes. *W2*: root of the transport cost of the entropic plan
(0.1), 50 predicted against 50 measured cells; *distance*: Euclidean, between means; both are medians over the
regimes of a data set (W2: over a quarter of them). Lower is better for SID, W2 and distance. *BaCaDI\\**: GIM with free targets and parameters per regime. Both begin with a greedy search over graphs (the quick preset). *GnIES* finds, by ranking, the genes whose noise changes in any
regime; *GIES* is told the targets, *PC* sees control cells; undirected edges count as they are in truth. *n*: data sets. Causal methods but GIM have nothing to say on perturbations not seen. Ridge and MLP predict
the change of the mean, by which control cells are moved. *called targets*: the fits of the row above, but genes are moved wholly where the
probability of being a target is above one half, and else not at all. Settings were chosen on other data sets. CPU seconds are of one thread."""


def _number(row: pd.Series, name: str, digits: int) -> str:
    value, error = row[name], row.get(f"{name}, se")
    if pd.isna(value):
        return ""
    return f"{value:.{digits}f}" + ("" if pd.isna(error) else f"±{error:.{digits}f}")


def _row(row: pd.Series, tests: tuple[str, ...] = TESTS) -> dict[str, str]:
    out = {}
    for test in tests:
        pooled, each = _number(row, f"target_f1, {test}", 2), _number(row, f"target_f1_env, {test}", 2)
        out[f"target F1, {test}"] = f"{pooled} / {each}" if pooled else ""
    for test in tests:
        out[f"W2, {test}"] = _number(row, f"w2, {test}", 2)
    for test in tests:
        out[f"distance, {test}"] = _number(row, f"mean_distance, {test}", 2)
    return out


def _markdown(rows: list[dict[str, str]]) -> list[str]:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([r[n] for n in names] for r in rows)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def draw_components(table: pd.DataFrame, file: Path) -> None:
    """W2 and target F1 of untried targets by the number of feature components, with standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.subplots(1, 2)
    columns = {
        "w2, new targets": "W2, new targets (lower is better)",
        "target_f1, new targets": "target F1, new targets",
    }
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        for method, colour, marker in (("GIM", "#0072B2", "o"), ("MLP", "#D55E00", "s")):
            part = table[(table["method"] == method) & table[column].notna()].sort_values("components")
            if len(part):
                ax.errorbar(
                    part["components"], part[column], part[f"{column}, se"], color=colour, marker=marker, markersize=4,
                    capsize=2, label=method,
                )  # fmt: skip
        ax.set_xlabel("feature components")
        ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(file, dpi=130)


def write_page(page: Path, folder: Path) -> None:
    """Docs page from the tables in a folder."""
    lines = ["# Benchmark: untried drugs and doses", "", "Made by `python -m benchmarks.gim`.", "", INTRO, ""]
    if (file := folder / "gim_synthetic.csv").exists():
        for (mechanism, graph, acted), block in pd.read_csv(file).groupby(
            ["mechanism", "graph", "intervention"], sort=False
        ):
            lines += [f"## {mechanism}, {graph}, {acted}", ""]
            lines += _markdown([
                {"method": r["method"], "edge F1": _number(r, "edge_f1", 2), "SID": _number(r, "sid", 0), **_row(r),
                 "CPU s": f"{r['cpu']:.2g}" if r["cpu"] < 10 else f"{r['cpu']:.0f}", "n": str(r["instances"])}
                for _, r in block.iterrows()
            ])  # fmt: skip
    if (file := folder / "gim_components.csv").exists():
        table = pd.read_csv(file)
        lines += ["## How much the features must say", "", f"{table['mechanism'][0]}, ER, hard; untried targets.", ""]
        draw_components(table, page.with_name("gim_components.png"))
        alt = "W2 falls and target F1 rises with the number of feature components; from 10 on GIM is at or below the MLP in W2"
        lines += [f"![{alt}](gim_components.png)", ""]
        lines += _markdown([
            {"method": r["method"], "components": str(r["components"]), **_row(r, TESTS[1:]), "n": str(r["instances"])}
            for _, r in table.iterrows()
        ])  # fmt: skip
    if (file := folder / "gim_real.csv").exists():
        lines += [REAL, ""]
        lines += _markdown([
            {"test": r["test"], "method": r["method"], "distance": f"{r['distance']:.2f}",
             "correlation": "" if pd.isna(r["correlation"]) else f"{r['correlation']:.2f}",
             "scored": f"{r['scored']} of {r['conditions']}"}
            for _, r in pd.read_csv(file).iterrows()
        ])  # fmt: skip
    page.write_text("\n".join(lines))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    tasks = {"synthetic": synthetic, "components": components, "real": real}
    for part in ("synthetic", "components"):
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--real", type=Path, help="folder with the files of CellBox")
    parser.add_argument("--mechanisms", nargs="+", choices=["linear", "mlp"], help="default: both (components: mlp)")
    parser.add_argument("--without", nargs="*", default=[], choices=list(METHODS), help="methods to leave out")
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="file of single results; what it holds is not run again")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    parser.add_argument("--page", type=Path, help="write this page from the tables in --out")
    args = parser.parse_args()
    wanted = [name for name in tasks if getattr(args, name)] or ([] if args.page else ["synthetic", "components"])
    for name in wanted:
        table = tasks[name](args)
        print(f"\n## {name}\n\n{table.round(3).to_string(index=False)}", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(args.out / f"gim_{name}.csv", index=False)
    if args.page:
        write_page(args.page, args.out)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
