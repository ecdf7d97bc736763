"""Scores of predicted cells of each held-out condition, and of one half of the true cells as prediction of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from causcade import metrics
from causcade.evaluation._screen import Screen
from causcade.evaluation._splits import Split, level_side
from causcade.evaluation._vcc import changed, de_scores

__all__ = ["HIGHER", "WHY", "Truth", "replicate", "score", "truth_of"]

Floats = NDArray[np.float64]

#: Whether a higher value is better, by metric, in the order of the table.
HIGHER: Final = {
    "pearson_control": True, "pearson_mean": True, "discrimination": True, "energy": False, "mse": False,
    "vcc_de_overlap": True, "vcc_de_jaccard": True, "vcc_de_direction": True, "vcc_de_error": False,
    "vcc_discrimination": True, "vcc_mae": False,
}  # fmt: skip
_ALONE = "it needs two held-out perturbations"
_ONE_CELL = "a single cell was predicted"
_NONE = f"no gene truly differs (rank-sum test, 5 % FDR), or {_ONE_CELL}"
#: Why there may be no number, by metric.
WHY: Final = {
    "discrimination": _ALONE, "vcc_discrimination": _ALONE, "energy": _ONE_CELL, "vcc_de_overlap": _NONE,
    "vcc_de_jaccard": _ONE_CELL, "vcc_de_direction": _NONE,
    "vcc_de_error": f"fewer than ten genes truly differ (rank-sum test, 5 % FDR), or {_ONE_CELL}",
}  # fmt: skip

_DISTANCES: Final[dict[str, Literal["cosine", "cityblock"]]] = {
    "discrimination": "cosine", "vcc_discrimination": "cityblock",
}  # fmt: skip


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
    again
        These cells with batches at the level of the controls of training, as predictions have them; where there are several.
    """

    genes: NDArray[np.int64]
    control: Floats
    test_control: Floats
    average: Floats
    labels: tuple[str, ...]
    cells: tuple[Floats, ...]
    again: tuple[Floats, ...] = ()


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
    by = lambda side: tuple(
        level_side(screen, screen.of(c, split.test), side)[:, genes].astype(np.float64) for c in (-1, *split.asked)
    )
    here, again = by(split.test), by(split.train)
    labels = tuple(screen.conditions[c].label for c in split.asked)
    return Truth(genes, x[mine], here[0], np.mean(means, axis=0), labels, here[1:], again[1:])


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
    if there and len(truth.labels) > 1:
        change = np.stack([y.mean(0) for y in truth.cells]) - truth.test_control.mean(0)
        guess = np.zeros_like(change)  # who leaves some out is still asked to tell the others from these
        guess[there] = np.stack([made[truth.labels[i]].mean(0) for i in there]) - truth.control.mean(0)
        for name, distance in _DISTANCES.items():
            out[name][there] = metrics.perturbation_discrimination(guess, change, distance=distance)[there]
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
        out |= de_scores(*changed(several, truth.control), *changed(y, truth.test_control))
    return out


def _pearson(guess: Floats, mean: Floats, reference: Floats) -> float:
    """Correlation of changes; a prediction without any says nothing, which is a correlation of 0."""
    value = metrics.pearson_delta(guess, mean, reference)
    still = metrics.pearson_delta(mean, mean, reference)
    return 0.0 if np.isnan(value) and not np.isnan(still) else value


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
        first = [y[o[: len(o) // 2]] for y, o in zip(truth.again or truth.cells, order, strict=True)]
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
