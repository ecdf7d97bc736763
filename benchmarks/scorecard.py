"""``cc.evaluate`` on real screens: models and simple baselines on what was not shown to them, with a replicate.

One screen comes with the package; ``--norman`` takes the file with a screen of combinations.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

import causcade as cc

QUIET: Final[dict[str, Any]] = {"progress_bar": False}
SHOWN: Final = {
    "effects": ["pearson_control", "pearson_mean", "discrimination", "energy", "vcc"],
    "targets": ["rank", "recall@5", "recall@20"],
    "causes": ["column_auroc", "column_ap"],
}
KINDS: Final = ["observational", "perturbed_mean", "mean_shift_ridge", "mean_shift_mlp"]

PAGE: Final = """# Real screens, one call each

`python -m benchmarks.scorecard --norman FILE` runs {func}`causcade.evaluate`. *value* is the mean over what was held out, with a 95 %
bootstrap interval over it; *gain* how much better than the baseline of the table (named in its first line), case by case, with its interval;
*ceiling* what one half of the held-out cells says of the other. One split with the default seed.
"""


def ipsc_effects() -> pd.DataFrame:
    """Seven of 23 knock-outs of iPS cells held out."""
    return cc.evaluate(cc.datasets.hipsc_tf_ko(), KINDS, batch_key="day", **_labels(), **QUIET)


def ipsc_targets() -> pd.DataFrame:
    """Which gene was knocked out, its own change hidden."""
    methods = ["cdn-screens", "popularity", "lfc", "rank_sum"]
    return cc.evaluate(cc.datasets.hipsc_tf_ko(), methods, task="targets", batch_key="day", **_labels(), **QUIET)


def ipsc_causes() -> pd.DataFrame:
    """Which genes a knock-out changes, all its cells hidden."""
    methods = ["tcd-grn-umi", "knockout_t", "correlation"]
    return cc.evaluate(cc.datasets.hipsc_tf_ko(), methods, task="causes", batch_key="day", **_labels(), **QUIET)


def norman_combinations(file: Path) -> pd.DataFrame:
    """Five doubles of which both genes were activated alone; 200 genes."""
    import anndata as ad

    adata = ad.read_h5ad(file)
    adata = adata[adata.obs["dataset"] == "norman19"].copy()
    methods = ["observational", "additive", "scaled_additive", "stronger_single", "mean_shift_ridge", "gracevae"]
    how = {"split": "combination", "values": "log", "genes": 200, "baseline": "additive"}
    return cc.evaluate(adata, methods, **_labels(), **how, **QUIET)


def _labels() -> dict[str, str]:
    return {"perturbation_key": "perturbation", "control": "control"}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The metrics to look at first, best method first; without those that could not be scored."""
    task = str(table["task"].iloc[0])
    columns = ["metric", "method", "value", "low", "high", "gain", "gain_low", "gain_high", "ceiling", "n", "better"]
    out = table.loc[table["metric"].isin(SHOWN[task]) & table["value"].notna(), columns].copy()
    out["metric"] = pd.Categorical(out["metric"], SHOWN[task], ordered=True)
    out["order"] = out["value"].where(out["better"] == "higher", -out["value"])
    out = out.sort_values(["metric", "order"], ascending=[True, False], kind="stable", ignore_index=True)
    return out.drop(columns=["order", "better"])


def write_page(found: dict[str, tuple[str, pd.DataFrame]], page: Path) -> None:
    """A page of the documentation from the tables."""
    lines = [PAGE]
    for question, table in found.values():
        lines += [f"## {question.rstrip('.')}", "", f"Baseline: `{table.attrs['baseline']}`.", ""]
        lines += ["| metric | method | value | gain | ceiling | n |", "|---|---|---|---|---|---|"]
        for row in shown(table).itertuples(index=False):
            cells = [str(row.metric), f"`{row.method}`", _interval(row.value, row.low, row.high)]
            cells += [
                "" if row.method == table.attrs["baseline"] else _interval(row.gain, row.gain_low, row.gain_high),
                _number(row.ceiling),
                str(row.n),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    page.write_text("\n".join(lines))


def _interval(value: float, low: float, high: float) -> str:
    return _number(value) + (f" ({_number(low)} to {_number(high)})" if pd.notna(low) else "")


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--norman", type=Path, help="h5ad with the cells of Norman et al. (2019), dataset norman19")
    parser.add_argument("--page", type=Path, help="write this page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, Callable[[], pd.DataFrame]] = {f.__name__: f for f in (ipsc_causes, ipsc_targets, ipsc_effects)}
    docs = {name: str(f.__doc__) for name, f in runs.items()}
    if args.norman:
        runs["norman"] = lambda: norman_combinations(args.norman)
        docs["norman"] = str(norman_combinations.__doc__)
    found = {}
    for name, run in runs.items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found[name] = (docs[name], run())
        print(
            f"\n## {name}: {docs[name]} Baseline {found[name][1].attrs['baseline']}. {time.perf_counter() - start:.0f} s\n"
        )
        print(shown(found[name][1]).round(2).to_string(index=False), flush=True)
    if args.page:
        write_page(found, args.page)


if __name__ == "__main__":
    main()
