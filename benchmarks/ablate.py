"""What the choices of the TCD recipes are worth: short trainings with one choice taken back, several seeds each.

``python -m benchmarks.ablate --rows FILE``: half an hour of one core for each seed. ``FILE`` holds what is done.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from benchmarks import tcd
from causcade import metrics, pretrained
from causcade.heldout import score_heldout
from causcade.pretrain import Recipe
from causcade.pretrain.trainer import run

#: What is taken back. The first is the recipe itself; graphs are "all kinds alike" without the shallow sparse ones.
CHOICES: Final[dict[str, dict[str, Any]]] = {
    "all choices": {},
    "no path products": {"sizes": {"width": 32, "layers": 3, "heads": 2, "hidden": 64, "paths": 0}},
    "no anchored sets": {"anchored": 0.0},
    "no sparse regulators": {
        "prior": {
            "graph_kinds": {
                "erdos_renyi": 1.0, "scale_free_out": 2.0, "scale_free_in": 1.0, "scale_free_undirected": 1.0,
                "stochastic_block": 1.0,
            }
        }
    },
    "no partial coverage": {"prior": {"full_coverage": 1.0}},
}  # fmt: skip
KINDS: Final = ("seen", "graph", "half coverage")


def changed(recipe: Recipe, choice: str, steps: int, subset: int, seed: int) -> Recipe:
    """The recipe with a choice taken back, short."""
    changes = dict(CHOICES[choice])
    prior = recipe.prior | changes.pop("prior", {})
    short = {"steps": steps, "subset": subset, "seed": seed, "cooldown": steps // 3}
    return replace(recipe, name="ablation", prior=prior, **short, **changes)


def score(weights: pretrained.Weights, recipe: Recipe, jobs: dict[str, tcd.Job]) -> list[dict[str, Any]]:
    """Scores on simulated screens of the whole recipe's prior, and on a real network."""
    kinds = score_heldout(weights.net, weights.config, recipe.screen_prior())
    out = [{"test": kind, **kinds[kind]["TCD"]} for kind in KINDS]
    for name, job in jobs.items():
        scores = tcd.score_network(weights, job, targets=None, draws=1, anchors=0, size=None)
        report = metrics.cause_report(job.truth, np.nan_to_num(scores), path_length=job.paths, rng=0)
        out.append({"test": name, **{k: 100 * report[k] for k in kinds["seen"]["TCD"]}})
    return out


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="tcd-grn-expression")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--subset", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--rows", type=Path, help="CSV of single results; what it holds is not run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(Recipe.load(args.recipe), start="")
    fidelity = max(recipe.screen_prior().fidelities, key=recipe.screen_prior().fidelities.__getitem__)
    jobs = {"E. coli": tcd.measure(tcd.simulate("ecoli", "wild-type", "steady", 0, cells=10), fidelity, 0)}
    rows = pd.read_csv(args.rows).to_dict("records") if args.rows and args.rows.exists() else []
    done = {(row["choice"], row["seed"]) for row in rows}
    for seed in args.seeds:
        for choice in args.choices:
            if (choice, seed) in done:
                continue
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                short = changed(recipe, choice, args.steps, args.subset, seed)
                run(
                    short, Path(folder), minutes=np.inf, device="cpu", resume=False, adopt=False, every=args.steps
                )  # fmt: skip
                found = score(pretrained.load(folder), recipe, jobs)
            seconds = time.process_time() - start
            rows += [{"choice": choice, "seed": seed, "cpu": seconds, **row} for row in found]
            print(f"{choice}, seed {seed}: {seconds:.0f} CPU s", flush=True)
            if args.rows:
                pd.DataFrame(rows).to_csv(args.rows, index=False)
    print(summarise(pd.DataFrame(rows)).to_string(index=False))


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds; for what was taken back, the difference from the whole and its standard error, seed by seed."""
    out = []
    whole = next(iter(CHOICES))
    for (test, choice), part in rows.groupby(["test", "choice"], sort=False):
        line: dict[str, Any] = {"test": test, "choice": choice, "seeds": len(part)}
        base = rows[(rows["test"] == test) & (rows["choice"] == whole)].set_index("seed")
        for measure in ("column_auroc", "column_ap", "row_auroc", "row_ap"):
            values = part.set_index("seed")[measure]
            gain = (values - base[measure]).dropna()
            error = f" ± {gain.sem():.1f}" if len(gain) > 1 else ""
            line[measure] = f"{values.mean():.1f}" if choice == whole else f"{gain.mean():+.1f}{error}"
        out.append(line)
    return pd.DataFrame(out)


if __name__ == "__main__":
    main()
