"""Training batches of networks that find targets: from causal models, simulated screens and real screens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causcade.contrasts import Summary, summarise
from causcade.simulate.episodes import Screen, ScreenPrior, assay
from causcade.simulate.shifts import Shifts
from causcade.stats import log_normalise

__all__ = ["PairBatch", "TargetScreen", "from_shifts", "from_target_screen", "measure_screen"]

_CONTROL = 2000  # most control cells of a batch


@dataclass(frozen=True)
class PairBatch:
    """One control set and perturbed sets over the same genes.

    Attributes
    ----------
    control, perturbed
        Summaries.
    targets
        bool ``(sets, genes)``.
    adjacency
        bool ``(genes, genes)``, [cause, effect]; None where the graph is not known.
    """

    control: Summary
    perturbed: list[Summary]
    targets: Tensor
    adjacency: Tensor | None


@dataclass(frozen=True)
class TargetScreen:
    """Cells of a screen whose targets are known.

    Attributes
    ----------
    values
        ``(cells, genes)`` log-normalised.
    codes
        ``(cells,)`` regime of every cell, 0 = control, -1 = unused.
    targets
        Regime -> positions of its targets.
    adjacency
        [cause, effect]; None for a real screen.
    """

    values: Tensor
    codes: Tensor
    targets: dict[int, tuple[int, ...]]
    adjacency: Tensor | None = None


def from_shifts(shifts: Shifts) -> PairBatch:
    """The sets of one causal model."""
    perturbed = summarise(shifts.perturbed)
    sets = [perturbed[i] for i in range(len(shifts.perturbed))]
    return PairBatch(summarise(shifts.control), sets, shifts.targets, shifts.adjacency)


def measure_screen(screen: Screen, prior: ScreenPrior, rng: int, index: int) -> TargetScreen:
    """One assay of a simulated screen."""
    counts, _ = assay(screen, prior, rng, index)
    total = counts.sum(1)
    y = log_normalise(counts, total, total[total > 0].median())
    targets: dict[int, tuple[int, ...]] = {r: (int(g),) for r, g in enumerate(screen.perturbed.tolist(), start=1)}
    return TargetScreen(y, screen.codes, targets, screen.grn.adjacency)


def from_target_screen(
    screen: TargetScreen, n_sets: int, n_genes: int, rng: np.random.Generator, *, hidden: float = 0.3
) -> PairBatch:
    """Cut a batch out of a screen.

    Parameters
    ----------
    screen
        A simulated or real screen.
    n_sets
        Perturbations.
    n_genes
        Genes (more if the targets need it); half of those that are no target are the most changed, the rest are random.
    rng
        Draws perturbations, genes and cells.
    hidden
        Share of batches in which the targets' own values are replaced by those of control cells: a protein was hit, not
        its message. In as many others that is done in a random part of the cells: a message that changed little.
        A known flaw: this also takes away the correlations of the hidden genes, a mark that a network can learn to see.
        The masks of :func:`causcade.tl.targets` keep the correlations with genes that did not change.

    Raises
    ------
    ValueError
        If no regime with cells has a known target.
    """
    present = set(screen.codes.unique().tolist())
    known = [r for r, t in screen.targets.items() if t and r in present]
    if not known:
        msg = f"No regime with cells has a known target, so there is nothing to learn; {len(screen.targets)} have targets."
        raise ValueError(msg)
    chosen = [int(r) for r in rng.choice(known, min(n_sets, len(known)), replace=False)]
    controls = _some(np.flatnonzero(screen.codes.numpy() == 0), rng, least=50, most=_CONTROL)
    cells = {r: _some(np.flatnonzero(screen.codes.numpy() == r), rng, least=10, most=400) for r in chosen}
    index = _choose_genes(screen, controls, cells, n_genes, rng)
    place = {int(g): i for i, g in enumerate(index)}
    targets = torch.zeros(len(chosen), len(index), dtype=torch.bool)
    part = _part_to_hide(hidden, rng)
    sets = []
    for row, r in enumerate(chosen):
        hit = [place[t] for t in screen.targets[r]]
        targets[row, hit] = True
        x = screen.values[torch.from_numpy(cells[r])][:, index]
        if part:
            rows = torch.from_numpy(np.flatnonzero(rng.random(len(x)) < part))
            for gene in hit:
                x[rows, gene] = screen.values[torch.from_numpy(rng.choice(controls, len(rows))), index[gene]]
        sets.append(summarise(x))
    control = summarise(screen.values[torch.from_numpy(controls)][:, index])
    adjacency = None if screen.adjacency is None else screen.adjacency[index][:, index]
    return PairBatch(control, sets, targets, adjacency)


def _part_to_hide(hidden: float, rng: np.random.Generator) -> float:
    """Share of the cells in which targets get the values of controls."""
    kind, part = rng.random(2)
    return 1.0 if kind < hidden else float(part) if kind < 2 * hidden else 0.0


def _some(cells: np.ndarray, rng: np.random.Generator, *, least: int, most: int) -> np.ndarray:
    """A random part of the cells, between `least` (or all) and all."""
    top = min(len(cells), most)
    low = min(least, top)
    return rng.choice(cells, int(rng.integers(low, top + 1)), replace=False)


def _error(x: Tensor) -> Tensor:
    """Squared standard error of the mean; 0 for a single cell."""
    return x.var(0) / len(x) if len(x) > 1 else torch.zeros(x.shape[1])


def _choose_genes(
    screen: TargetScreen,
    controls: np.ndarray,
    cells: dict[int, np.ndarray],
    n_genes: int,
    rng: np.random.Generator,
) -> Tensor:
    n = screen.values.shape[1]
    hit = sorted({t for r in cells for t in screen.targets[r]})
    size = min(n, max(n_genes, len(hit) + 2))
    base = screen.values[torch.from_numpy(controls)]
    change = torch.zeros(n)
    for rows in cells.values():
        x = screen.values[torch.from_numpy(rows)]
        noise = (_error(base) + _error(x) + 1e-6).sqrt()
        change = torch.maximum(change, ((x.mean(0) - base.mean(0)) / noise).abs())
    change[hit] = torch.inf
    order = change.argsort(descending=True)
    first = order[: len(hit) + (size - len(hit)) // 2]
    rest = order[len(first) :][torch.from_numpy(rng.permutation(n - len(first)))]
    return torch.cat([first, rest])[:size].sort().values
