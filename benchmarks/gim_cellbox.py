"""Real drugs at real doses: GIM against baselines on melanoma cells (Korkut et al. 2015, as CellBox has them).

Bulk proteins, one measurement of each of 89 conditions (11 drugs at two doses or one, and pairs of drugs at the low dose), as log
ratios to untreated cells. The only data with doses at hand; a cell is a condition here.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from causcade import effect_baselines, metrics
from causcade.gimfit import Environments, GimConfig, fit

Doses = dict[str, float]
N_CELLS = 200
STEPS = 1500  # of 87 proteins: half a minute


@dataclass(frozen=True)
class Screen:
    """``values`` (conditions, proteins); ``doses`` of each drug in each condition."""

    values: np.ndarray
    proteins: list[str]
    doses: list[Doses]

    @property
    def drugs(self) -> list[str]:
        """Names."""
        return sorted({name for some in self.doses for name in some})

    def levels(self, conditions: list[Doses], lowest: Doses) -> np.ndarray:
        """Doses of each drug as multiples of its lowest, ``(n, drugs)``."""
        return np.array([[some.get(d, 0.0) / lowest[d] for d in self.drugs] for some in conditions])


def read(folder: Path) -> Screen:
    """The files of CellBox; the last 12 nodes are activities of drugs and stay out."""
    lines = (folder / "expr_index.txt").read_text().splitlines()
    doses = [
        {p.split("|")[0]: float(p.split("|")[1]) for p in line.split()[0].split(",")} for line in lines if line.strip()
    ]
    names = (folder / "node_Index.csv").read_text().split()
    keep = [i for i, name in enumerate(names) if i < len(names) - 12]
    values = pd.read_csv(folder / "expr.csv", header=None).to_numpy(dtype=np.float64)[:, keep]
    return Screen(values, [names[i] for i in keep], doses)


def splits(screen: Screen, folds: int = 5) -> dict[str, list[np.ndarray]]:
    """Conditions that are held out: the higher dose of every drug that has two, at once; pairs in folds."""
    single = {i: next(iter(some.items())) for i, some in enumerate(screen.doses) if len(some) == 1}
    least = {d: min(x for n, x in single.values() if n == d) for d, _ in single.values()}
    high = np.array([i for i, (d, x) in single.items() if x > least[d]])
    alone = set(single.values())
    pairs = [i for i, some in enumerate(screen.doses) if len(some) == 2 and set(some.items()) <= alone]
    order = np.random.default_rng(0).permutation(pairs)
    return {"new dose": [high], "new pair": [np.sort(part) for part in np.array_split(order, folds)]}


def predictions(screen: Screen, held: np.ndarray) -> dict[str, np.ndarray]:
    """Means ``(held-out conditions, proteins)`` by method."""
    train = np.setdiff1d(np.arange(len(screen.doses)), held)
    several = [[screen.doses[i] for i in rows] for rows in (train, held)]
    lowest = {d: min(some[d] for some in screen.doses if d in some) for d in screen.drugs}
    level, asked = (screen.levels(some, lowest) for some in several)
    top = level.max(0)
    features, new = (np.concatenate([x > 0, np.log1p(x) / np.log1p(top)], 1) for x in (level, asked))
    # one line of zeros is control: values are log ratios to untreated cells
    cells = np.concatenate([np.zeros((1, screen.values.shape[1])), screen.values[train]])
    codes = np.arange(len(cells))
    out = {"untreated": np.zeros((len(held), cells.shape[1])), "mean": np.tile(cells[1:].mean(0), (len(held), 1))}
    out |= _sums(screen, train, several[1])
    for name, function in {"ridge": "mean_shift_ridge", "MLP": "mean_shift_mlp"}.items():
        out[name] = getattr(effect_baselines, function)(cells, codes, features).mean_change(new)
    return out | {"GIM, shift": _gim(cells, codes, features, new, "shift")}


def _sums(screen: Screen, train: np.ndarray, asked: list[Doses]) -> dict[str, np.ndarray]:
    """Sum of the single treatments at the asked dose, or the next lower one that was seen."""
    alone = {next(iter(screen.doses[i].items())): screen.values[i] for i in train if len(screen.doses[i]) == 1}
    rows, scaled = [], []
    for some in asked:
        parts = []
        for drug, dose in some.items():
            seen = max((x for d, x in alone if d == drug and x <= dose), default=None)
            parts.append((np.nan, np.nan) if seen is None else (alone[drug, seen], alone[drug, seen] * dose / seen))
        rows.append(sum(p[0] for p in parts) + np.zeros(screen.values.shape[1]))
        scaled.append(sum(p[1] for p in parts) + np.zeros(screen.values.shape[1]))
    return {"next lower dose, summed": np.stack(rows), "the same, in proportion to the dose": np.stack(scaled)}


def _gim(cells: np.ndarray, codes: np.ndarray, features: np.ndarray, new: np.ndarray, intervention: str) -> np.ndarray:
    spread = cells[1:].std(0)
    rows = np.concatenate([np.zeros((1, features.shape[1])), features])
    config = GimConfig.quick(
        intervention=intervention, standardise=False, steps=STEPS, n_holdout=0, variance_networks=176 / len(cells)
    )
    found = fit(Environments(cells / spread, codes, rows), config, rng=0, accelerator="cpu")
    return found.predict(new, N_CELLS, rng=1).mean(1) * spread


def table(folder: Path) -> pd.DataFrame:
    """Median over held-out conditions of the distance and of the correlation with what was measured."""
    torch.set_num_threads(1)
    screen, found = read(folder), []
    for test, parts in splits(screen).items():
        for held in parts:
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = predictions(screen, held)
            for method, means in made.items():
                for i, row in zip(held, means, strict=True):
                    true, zero = screen.values[i], np.zeros(len(row))
                    flat = not np.isfinite(row).all() or np.ptp(row) == 0
                    r = np.nan if flat else metrics.pearson_delta(row, true, zero)
                    found.append((test, method, float(np.linalg.norm(row - true)), r))
            print(f"{test}: {len(held)} conditions, {time.process_time() - start:.0f} CPU s", flush=True)
    rows = pd.DataFrame(found, columns=["test", "method", "distance", "correlation"])
    grouped = rows.groupby(["test", "method"], sort=False)
    return grouped.median().assign(scored=grouped["distance"].count(), conditions=grouped.size()).reset_index()


__all__ = ["read", "splits", "table"]
