"""What the cells of a screen of *E. coli* hold: trees and a network that are told the network, by cells per knock-out.

``python -m benchmarks.tcd_told --weights NAME``. None of them is a method. Both learn from other simulations of this very graph, in
which kinetics and cells are drawn anew, so they know what no one knows of a new screen, and show what an aim asks for.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import tcd
from causcade import baselines, pretrained
from causcade.nn.pair_stream import pair_loss
from causcade.pretrain import Recipe
from causcade.pretrain.items import Sample, make_item
from causcade.scoring import noisy_or

MEASURES: Final = ("column_auroc", "column_ap", "column_auroc_path2", "column_ap_path2", "row_auroc", "row_ap")


def samples(clean: list[tcd.Clean], fidelity: str, seed: int) -> list[Sample]:
    """Measured simulations, ready to be cut into sets of genes."""
    jobs = [tcd.measure(one, fidelity, seed + i) for i, one in enumerate(clean)]
    return [Sample(torch.from_numpy(job.truth), features=job.features) for job in jobs]


def teach(net: nn.Module, screens: list[Sample], recipe: Recipe, steps: int, seed: int) -> nn.Module:
    """Go on training a copy of the network on sets of genes of these screens alone, with a falling learning rate."""
    told = copy.deepcopy(net).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(told.parameters(), lr=recipe.lr / 2, weight_decay=recipe.weight_decay)
    gen = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr / 2 * (1 - step / steps)
        chosen = torch.randint(len(screens), (recipe.batch,), generator=gen).tolist()
        items = [make_item(screens[i], recipe, gen) for i in chosen]
        x, labels, valid = (torch.stack(part) for part in zip(*items, strict=True))
        loss = pair_loss(told(x), labels, valid)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(told.parameters(), recipe.clip)
        optimiser.step()
    return told.eval()


def limits(half: str, fidelity: str, cells: int, weights: pretrained.Weights, args: argparse.Namespace) -> pd.DataFrame:
    """Scores of one screen: the weights as they are, and trees and network told."""
    sampling = "published" if half == "refit" else "steady"
    job = tcd.measure(tcd.simulate("ecoli", half, sampling, args.seed, cells=cells), fidelity, args.seed)
    others = [
        tcd.simulate("ecoli", half, sampling, args.seed, cells=cells, kinetics=args.seed + 1000 * i)
        for i in range(1, args.screens + 1)
    ]
    screens = samples(others, fidelity, args.seed + 1000)
    del others
    pairs = [
        tcd.some_pairs(s.features, s.truth.numpy(), i)  # type: ignore[arg-type]
        for i, s in enumerate(screens)
    ]
    trees = tcd.predict_trees(tcd.grow(pairs), job.features)
    start = time.process_time()
    recipe = Recipe(**weights.config["recipe"])
    told = replace(weights, net=teach(weights.net, screens, recipe, args.steps, args.seed))
    print(f"taught {args.steps} steps in {time.process_time() - start:.0f} CPU s", flush=True)
    rows = {
        "knock-out |t|": baselines.knockout_t(job.stats.z.numpy()),
        "trees, told the network": trees,
        "trees, told the network, noisy or": noisy_or(trees + tcd.FEWER),
        **{
            name: tcd.score_network(w, job, targets=None, draws=2, anchors=0, size=None)
            for name, w in ((f"TCD {weights.name}", weights), (f"TCD {weights.name}, told the network", told))
        },
    }
    found = [tcd.report(name, np.nan_to_num(scores), job, 0.0) for name, scores in rows.items()]
    about = {"half_response": half, "fidelity": fidelity, "cells": cells}
    return pd.DataFrame([{**about, **row} for row in found])


def main() -> None:
    """Simulate, teach, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="tcd-grn-umi", help="name or folder")
    parser.add_argument("--half-response", nargs="+", default=["wild-type", "refit"])
    parser.add_argument("--fidelity", nargs="+", default=["high", "low"])
    parser.add_argument("--cells", type=int, nargs="+", default=[10], help="of each knock-out")
    parser.add_argument("--screens", type=int, default=3, help="other simulations to learn from")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="CSV of the rows")
    args = parser.parse_args()
    weights = pretrained.load(args.weights)
    if weights.config["network"] != "pairs":
        parser.error(
            f"--weights: {args.weights} is a {weights.config['network']!r} network; give one of pairs, as tcd-grn-umi"
        )
    parts: list[pd.DataFrame] = []
    for half in args.half_response:
        for fidelity in args.fidelity:
            for cells in args.cells:
                parts.append(limits(half, fidelity, cells, weights, args))
                print(f"\n## {half}, {fidelity} fidelity, {cells} cells per knock-out")
                print(parts[-1].set_index("method")[list(MEASURES)].round(1).to_string(), flush=True)
                if args.out:
                    pd.concat(parts).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
