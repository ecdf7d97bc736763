"""How many calls of ``tl.causes`` at an FDR are wrong: ``python -m benchmarks.null``.

The null permutes all labels, so its rate holds where no perturbation does anything. Here some do.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

import causcade as cc


def calls(seed: int, model: str, *, effects: bool, thresholds: tuple[float, ...]) -> list[dict[str, float]]:
    """Calls and wrong calls on one simulated screen; without effects the labels are dealt at random."""
    adata = cc.simulate.screen(
        n_genes=50, n_control=200, cells_per_perturbation=15, n_perturbations=25, n_types=3, rng=50 + seed
    )
    truth = adata.varp["true_causes"].toarray() > 0
    if not effects:
        adata.obs["perturbation"] = np.random.default_rng(seed).permutation(adata.obs["perturbation"].to_numpy())
        cc.pp.regimes(adata, "perturbation", "control")
        truth = np.zeros_like(truth)
    cc.tl.causes(adata, model=model, n_half=0, n_null=20, batch_key="cell_type", rng=seed, progress_bar=False)
    fdr, off = np.asarray(adata.varp["causes_fdr"]), ~np.eye(adata.n_vars, dtype=bool)
    return [
        {"FDR below": t, "calls": int(((fdr < t) & off).sum()), "wrong": int(((fdr < t) & off & ~truth).sum())}
        for t in thresholds
    ]


def main() -> None:
    """Print calls, wrong calls and their share, with and without effects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screens", type=int, default=5)
    parser.add_argument("--model", default="tcd-perturbseq", help="weights; the default is that of `tl.causes`")
    args = parser.parse_args()
    for effects in (True, False):
        rows = [
            row
            for seed in range(args.screens)
            for row in calls(seed, args.model, effects=effects, thresholds=(0.05, 0.1, 0.2))
        ]
        table = pd.DataFrame(rows).groupby("FDR below").sum()
        table["share wrong"] = (table["wrong"] / table["calls"].clip(lower=1)).round(2)
        print(
            f"\n{args.screens} screens, perturbations {'with' if effects else 'without'} effects\n{table.to_string()}"
        )


if __name__ == "__main__":
    main()
