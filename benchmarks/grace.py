"""Untried combinations: GraCE-VAE and its variants against simple baselines, on a real screen and on simulated ones.

``python -m benchmarks.grace --real FILE [--network FILE]`` takes an h5ad with log values, ``.obs["perturbation"]`` and controls named "control";
``--synthetic`` needs nothing. Rows are kept in ``--rows``: what is there is not run again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pandas as pd

from benchmarks.grace_screens import METHODS, Case, one, real, simulated
from causcade.networks import read_network

NAMES = {"r change": 2, "r change, top 20": 2, "r to mean": 2, "R2 top 20": 2, "RMSE top 20": 3, "MMD top 20": 3, "energy": 3,
         "discrimination": 2, "program ARI": 2, "graph AUPRC": 2, "graph AUPRC, chance": 2, "cpu": 1}  # fmt: skip


def run(task: str, args: argparse.Namespace) -> pd.DataFrame:
    """Rows of a task; one seed of every method before the next, so that a run can be stopped."""
    network = None if args.network is None else read_network(args.network)
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", help="h5ad of a real screen")
    parser.add_argument("--network", type=Path, help="its network, as causcade.networks.read_network reads it")
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rows", type=Path, help="file of single results; what it holds is not run again")
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    args = parser.parse_args()
    wanted = [name for name, given in (("real", args.real), ("synthetic", args.synthetic)) if given] or ["synthetic"]
    for task in wanted:
        table = summary(run(task, args))
        print(f"\n## {task}\n\n{table.to_string(index=False)}", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(args.out / f"grace_{task}.csv", index=False)
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
