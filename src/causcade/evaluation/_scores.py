"""Scores of predicted cells of each held-out condition, and of one half of the true cells as prediction of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from causcade import metrics, nulls
from causcade.evaluation._screen import Screen
from causcade.evaluation._splits import Split
from causcade.target_baselines import RankSum

__all__ = ["HIGHER", "VCC", "Truth", "changed", "de_overlap", "replicate", "score", "truth_of"]

Floats = NDArray[np.float64]

#: Whether a higher value is better, by metric, in the order of the table.
HIGHER: Final = {
    "pearson_control": True, "pearson_mean": True, "discrimination": True, "energy": False, "mse": False,
    "vcc_de_overlap": True, "vcc_discrimination": True, "vcc_mae": False,
}  # fmt: skip
#: What the score of the Virtual Cell Challenge is the mean of.
VCC: Final = ("vcc_de_overlap", "vcc_discrimination", "vcc_mae")

_ALPHA = 0.05


@dataclass(frozen=True)
class Truth:
    """What predictions are held against; all arrays are of the genes that are scored.

    Attributes
    ----------
    genes
        Positions of these genes.
    control, test_control
        Control cells of training, from which predicted changes are taken, and those held out, from which true ones are.
    average
        ``(n_genes,)`` mean of the perturbed conditions of training, each counting the same.
    labels, cells
        Of the conditions held out.
    """

    genes: NDArray[np.int64]
    control: Floats
    test_control: Floats
    average: Floats
    labels: tuple[str, ...]
    cells: tuple[Floats, ...]


def truth_of(screen: Screen, split: Split, values: Floats, *, drop_targets: bool) -> Truth:
    """Gather the held-out cells, without the genes that held-out perturbations act on.

    Parameters
    ----------
    screen, split
        Cells and sides.
    values
        ``(n_training_cells, n_genes)`` what methods learnt from.
    drop_targets
        Leave those genes out: how far a gene moves that is itself perturbed says little of a prediction.
    """
    targets = {g for c in split.asked for g in screen.conditions[c].targets} if drop_targets else set()
    genes = np.array([g for g in range(len(screen.genes)) if g not in targets], dtype=np.int64)
    if len(genes) < 2:
        msg = f"Only {len(genes)} genes are no target of a held-out perturbation; pass drop_targets=False."
        raise ValueError(msg)
    codes, groups = screen.codes[split.train], screen.groups[split.train]
    x = values[:, genes].astype(np.float64)
    mine = (codes == 0) & ((groups == split.group) if split.group else True)
    means = [x[codes == c].mean(0) for c in np.unique(codes[codes > 0])]
    here = [screen.values[screen.of(c, split.test)][:, genes].astype(np.float64) for c in (-1, *split.asked)]
    labels = tuple(screen.conditions[c].label for c in split.asked)
    return Truth(genes, x[mine], here[0], np.mean(means, axis=0), labels, tuple(here[1:]))


def score(truth: Truth, made: Mapping[str, Floats], rng: np.random.Generator) -> dict[str, Floats]:
    """Score predictions.

    Parameters
    ----------
    truth
        What they are held against.
    made
        Cells ``(n_cells, n_genes of truth)`` by label; labels may be missing.
    rng
        Draws as many predicted cells as there are true ones, where all cells count.

    Returns
    -------
    By metric ``(n_conditions,)``; NaN where there is no prediction, or no number.
    """
    out = {name: np.full(len(truth.labels), np.nan) for name in HIGHER}
    there = [i for i, label in enumerate(truth.labels) if label in made]
    for i in there:
        for name, value in _each(truth, made[truth.labels[i]], truth.cells[i], rng).items():
            out[name][i] = value
    if len(there) > 1:
        guess = np.stack([made[truth.labels[i]].mean(0) for i in there]) - truth.control.mean(0)
        change = np.stack([truth.cells[i].mean(0) for i in there]) - truth.test_control.mean(0)
        out["discrimination"][there] = metrics.perturbation_discrimination(guess, change)
        out["vcc_discrimination"][there] = metrics.perturbation_discrimination(guess, change, distance="cityblock")
    return out


def _each(truth: Truth, x: Floats, y: Floats, rng: np.random.Generator) -> dict[str, float]:
    guess, mean = x.mean(0), y.mean(0)
    base, test_base = truth.control.mean(0), truth.test_control.mean(0)
    nothing = np.zeros(len(base))
    out = {
        "pearson_control": _pearson(guess - base, mean - test_base, nothing),
        "pearson_mean": _pearson(guess, mean, truth.average),
        "mse": float(((guess - mean) ** 2).mean()),
        "vcc_mae": float(np.abs(guess - mean).mean()),
    }
    if len(x) > 1:
        several = x if len(x) <= len(y) else x[rng.choice(len(x), len(y), replace=False)]
        out["energy"] = metrics.energy_distance(several, y)
        out["vcc_de_overlap"] = de_overlap(*changed(several, truth.control), changed(y, truth.test_control)[1])
    return out


def _pearson(guess: Floats, mean: Floats, reference: Floats) -> float:
    """Correlation of changes; a prediction without any says nothing, which is a correlation of 0."""
    value = metrics.pearson_delta(guess, mean, reference)
    still = metrics.pearson_delta(mean, mean, reference)
    return 0.0 if np.isnan(value) and not np.isnan(still) else value


def changed(cells: Floats, control: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Change of the mean, and which genes differ: rank-sum test, Benjamini-Hochberg at 5 %.

    Parameters
    ----------
    cells, control
        ``(n_cells, n_genes)``.
    """
    z = RankSum(control).against(cells)
    return cells.mean(0) - control.mean(0), nulls.benjamini_hochberg(2 * norm.sf(np.abs(z))) < _ALPHA


def de_overlap(guess: Floats, called: NDArray[np.bool_], differs: NDArray[np.bool_]) -> float:
    """Overlap of the genes that differ with as many that are predicted to change most (Virtual Cell Challenge).

    Parameters
    ----------
    guess, called
        ``(n_genes,)`` predicted change, and whether it is called significant.
    differs
        ``(n_genes,)`` whether it truly changes.

    Returns
    -------
    Share of the genes that truly differ; NaN if none does.
    """
    true = np.flatnonzero(differs)
    if not true.size:
        return float("nan")
    mine = np.flatnonzero(called)
    top = mine[np.argsort(-np.abs(guess[mine]), kind="stable")][: true.size]
    return float(np.isin(top, true).sum() / true.size)


def replicate(truth: Truth, n_repeats: int, rng: np.random.Generator) -> dict[str, Floats]:
    """Score one random half of the true cells as a prediction of the other, each against controls of its own.

    Returns
    -------
    By metric ``(n_conditions,)`` means over `n_repeats` cuts. Halves hold fewer cells than the whole, so this is rather too
    low a ceiling; nothing is corrected for that.
    """
    found = []
    for _ in range(n_repeats):
        order = [rng.permutation(len(y)) for y in truth.cells]
        first = [y[o[: len(o) // 2]] for y, o in zip(truth.cells, order, strict=True)]
        other = [y[o[len(o) // 2 :]] for y, o in zip(truth.cells, order, strict=True)]
        half = Truth(truth.genes, truth.control, truth.test_control, truth.average, truth.labels, tuple(other))
        found.append(score(half, dict(zip(truth.labels, first, strict=True)), rng))
    return {name: _mean([f[name] for f in found]) for name in HIGHER}


def _mean(rows: Sequence[Floats]) -> Floats:
    """Mean over rows of what is a number."""
    stacked = np.stack(rows)
    n = np.isfinite(stacked).sum(0)
    total = np.where(np.isfinite(stacked), stacked, 0).sum(0)
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan), dtype=np.float64)
