"""What the choices of the TCD recipes are worth: short trainings with one choice taken back, several seeds each.

``python -m benchmarks.ablate --rows FILE``. ``benchmarks/rows/ablate.csv`` holds what is on the page about weights: a copy of it as
``FILE`` is gone on from.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import tcd
from causcade import metrics, pretrained
from causcade.heldout import score_heldout
from causcade.pretrain import Recipe, tasks
from causcade.pretrain.trainer import run

CHOICES: Final = (
    "all choices", "path products", "no anchored sets", "no sparse regulators", "no partial coverage", "no brief cells",
    "unbalanced loss",
)  # fmt: skip
KINDS: Final = ("seen", "graph", "half coverage")
KEYS: Final = ("recipe", "steps", "subset", "choice", "seed")  # of a training


def changed(recipe: Recipe, choice: str, steps: int, subset: int, seed: int) -> Recipe:
    """The recipe with a choice taken back, or one that was taken back made again, short, and without composition."""
    kinds = recipe.screen_prior().graph_kinds
    recipe = replace(recipe, sizes={k: v for k, v in recipe.sizes.items() if k != "rounds"}, compose_steps=0)
    change: dict[str, Any] = {
        "all choices": {},
        "path products": {"sizes": recipe.sizes | {"paths": 8}},
        "no anchored sets": {"anchored": 0.0},
        "no sparse regulators": {
            "prior": recipe.prior | {"graph_kinds": {k: v for k, v in kinds.items() if k != "sparse_regulators"}}
        },
        "no partial coverage": {"prior": recipe.prior | {"full_coverage": 1.0}},
        "no brief cells": {"prior": {k: v for k, v in recipe.prior.items() if k != "brief"}},
        "unbalanced loss": {},  # of the code, not of the recipe
    }[choice]
    return replace(
        recipe, name="ablation", start="", steps=steps, subset=subset, seed=seed, cooldown=steps // 3, **change
    )


def plain_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of all pairs alike: what :func:`causcade.nn.pair_stream.pair_loss` is without its weights of items."""
    return functional.binary_cross_entropy_with_logits(logits[valid], labels[valid])


def score(weights: pretrained.Weights, recipe: Recipe, jobs: dict[str, tcd.Job]) -> list[dict[str, Any]]:
    """Scores on simulated screens of the whole recipe's prior, and on a real network."""
    kinds = score_heldout(weights.net, weights.config, recipe.screen_prior())
    out = [{"test": kind, **kinds[kind]["TCD"]} for kind in KINDS]
    for name, job in jobs.items():
        scores = tcd.score_network(weights, job, targets=None, draws=1, anchors=0, size=None)
        report = metrics.cause_report(job.truth, np.nan_to_num(scores), path_length=job.paths, rng=0)
        out.append({"test": name, **{k: 100 * report[k] for k in kinds["seen"]["TCD"]}})
    return out


def train(recipe: Recipe, choice: str, steps: int, subset: int, seed: int, jobs: dict[str, tcd.Job]) -> list[dict]:
    """Rows of one training, one for each test."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        short = changed(recipe, choice, steps, subset, seed)
        loss = plain_loss if choice == "unbalanced loss" else tasks.pair_loss
        with patch.object(tasks, "pair_loss", loss):
            run(short, Path(folder), minutes=np.inf, device="cpu", resume=False, adopt=False, every=steps)
        found = score(pretrained.load(folder), recipe, jobs)
    about = dict(zip(KEYS, (label(recipe), steps, subset, choice, seed), strict=True))
    return [{**about, "cpu": time.process_time() - start, **row} for row in found]


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="tcd-grn-expression")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--subset", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", default=CHOICES, choices=CHOICES)
    parser.add_argument("--rows", type=Path, help="CSV of single results; what it holds is not run again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe.load(args.recipe)
    fidelities = recipe.screen_prior().fidelities
    clean = tcd.simulate("ecoli", "wild-type", "steady", 0, cells=10)
    jobs = {"E. coli": tcd.measure(clean, max(fidelities, key=fidelities.__getitem__), 0)}
    rows = pd.read_csv(args.rows) if args.rows and args.rows.exists() else pd.DataFrame(columns=list(KEYS))
    asked = [(label(recipe), args.steps, args.subset, c, seed) for seed in args.seeds for c in args.choices]
    for key in asked:
        if key not in keys_of(rows):
            rows = pd.concat([rows, pd.DataFrame(train(recipe, key[3], key[1], key[2], key[4], jobs))])
            print(f"{key[3]}, seed {key[4]}: {rows['cpu'].iloc[-1]:.0f} CPU s", flush=True)
            if args.rows:
                rows.to_csv(args.rows, index=False)
    print(summarise(rows[[key in asked for key in keys_of(rows)]]).to_string(index=False))


def label(recipe: Recipe) -> str:
    """Name and hash: rows of another recipe of that name are not those asked for."""
    return f"{recipe.name}@{recipe.digest()}"


def keys_of(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Which training each row is of."""
    return list(rows[list(KEYS)].itertuples(index=False, name=None))


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds; for what was taken back, the difference from the whole and its standard error, seed by seed."""
    out = []
    whole = CHOICES[0]
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
