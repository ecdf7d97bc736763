"""Where a fit begins: the additive model of what each perturbation does alone.

Perturbations that change the same genes share a program; those that change most genes come first in the latent order, as a
cause also moves the genes of its effects. The decoder moves the genes of a program as its perturbations do, less what other
programs explain of it: these are the first edges of the latent graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from causcade.gracefit._cells import Ints, PairedCells

__all__ = ["Start", "explain", "group_perturbations", "perturbation_changes", "start_of"]

Floats = NDArray[np.float64]

_ROUNDS = 20  # of reweighted least squares
_EFFECTS = 30  # programs that may explain another
_CELLS = 2000  # control cells that are looked at, at most
_GENES = 1000  # that changes are compared on
_STRONGEST = 10.0  # shift, in standard deviations of control cells


@dataclass(frozen=True)
class Start:
    """A start.

    Attributes
    ----------
    control
        ``(n_genes,)`` mean of control cells, of 2,000 if there are many.
    program
        ``(n_perturbations,)`` program of each perturbation.
    strength
        ``(n_perturbations,)`` its shift, in standard deviations of control cells along the program.
    direct
        ``(n_latent, n_genes)`` change of genes by a program when it rises by 1 and no other does.
    graph
        ``(n_latent, n_latent)``, [cause, effect], strictly upper triangular.
    """

    control: Floats
    program: Ints
    strength: Floats
    direct: Floats
    graph: Floats

    @property
    def shifts(self) -> Floats:
        """``(n_perturbations, n_latent)`` of exogenous parts."""
        out = np.zeros((len(self.program), len(self.direct)))
        out[np.arange(len(out)), self.program] = self.strength
        return out


def start_of(data: PairedCells, codes: Ints, n_latent: int, *, dag: bool = True) -> Start:
    """Find where to begin.

    Parameters
    ----------
    data
        Cells.
    codes
        ``(n_cells,)`` regimes of the cells in use.
    n_latent
        Number of programs.
    dag
        Programs may act on one another.
    """
    control = _controls(data, codes)
    change, noise = perturbation_changes(data, codes)
    scale = _scale(control)
    program, sign = group_perturbations(change / scale, noise / scale**2, n_latent)
    total = np.zeros((n_latent, data.n_genes))
    np.add.at(total, program, sign[:, None] * change)
    unit = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    spread = ((control - control.mean(0)) @ unit.T).std(0)
    spread = np.maximum(spread, 1e-3 * max(float(spread.max()), 1e-12))
    strength = np.clip((change * unit[program]).sum(1) / spread[program], -_STRONGEST, _STRONGEST)
    moves = unit * spread[:, None]
    graph = explain(moves / scale) if dag else np.zeros((n_latent, n_latent))
    return Start(control.mean(0), program, strength, moves - graph @ moves, graph)


def perturbation_changes(data: PairedCells, codes: Ints) -> tuple[Floats, Floats]:
    """Mean change of every gene by each perturbation; combinations count as sums of their parts.

    Parameters
    ----------
    data
        Cells.
    codes
        ``(n_cells,)`` regimes of the cells in use.

    Returns
    -------
    ``(n_perturbations, n_genes)`` changes (0 for a perturbation without cells), and the variance that noise gives them, as
    large as that of single cells is in control.
    """
    used = np.flatnonzero(codes >= 0)
    n = np.bincount(codes[used], minlength=len(data.parts)).astype(np.float64)
    pick = sparse.csr_array((np.ones(len(used)), (codes[used], used)), shape=(len(n), len(codes)))
    sums = pick @ data.values
    mean = np.asarray(sums.toarray() if sparse.issparse(sums) else sums, dtype=np.float64) / np.maximum(n, 1)[:, None]
    regimes = np.flatnonzero((n > 0) & (np.arange(len(n)) > 0))
    design = np.zeros((len(regimes), data.n_perturbations))
    for row, regime in enumerate(regimes):
        design[row, list(data.parts[regime])] = 1
    root = np.sqrt(n[regimes])
    inverse = np.linalg.pinv(design * root[:, None])
    change = inverse @ ((mean[regimes] - mean[0]) * root[:, None])
    noise = (inverse**2).sum(1) + (inverse @ root) ** 2 / max(n[0], 1)
    return change, noise[:, None] * _controls(data, codes).var(0)


def _controls(data: PairedCells, codes: Ints) -> Floats:
    """Control cells from all over the file, which may be in the order of batches."""
    cells = np.flatnonzero(codes == 0)
    found: Floats = data.rows(cells[:: max(1, math.ceil(len(cells) / _CELLS))]).double().numpy()
    return found


def _scale(control: Floats) -> Floats:
    """Standard deviation of genes, with a floor for those that are off."""
    scale = control.std(0)
    return np.maximum(scale, 0.1 * max(float(scale.max()), 1e-12))


def group_perturbations(change: Floats, noise: Floats, n: int) -> tuple[Ints, Floats]:
    """Put perturbations in groups by the direction of their change, up to sign.

    Parameters
    ----------
    change, noise
        Of :func:`perturbation_changes`, by scale of the genes.
    n
        Most groups.

    Returns
    -------
    ``(n_perturbations,)`` group of each, those first whose changes are spread over most genes (a cause also moves the
    genes of its effects), and a sign: -1 where the change is against that of the strongest in the group.
    """
    size = np.sqrt((change**2).sum(1)).clip(1e-12)
    cosine = np.clip((change @ change.T) / size[:, None] / size, -1, 1)
    group = np.arange(len(change), dtype=np.int64)
    if n < len(change):
        apart = squareform(np.clip(1 - np.abs(cosine), 0, None), checks=False)
        group = fcluster(linkage(apart, "average"), n, "maxclust") - 1
    heads = [int(np.flatnonzero(group == k)[size[group == k].argmax()]) for k in range(group.max() + 1)]
    rank = np.argsort(np.argsort([-breadth(change[head], noise[head]) for head in heads], kind="stable"))
    sign = np.where(cosine[np.arange(len(change)), np.array(heads)[group]] < 0, -1.0, 1.0)
    return rank[group].astype(np.int64), sign


def breadth(change: Floats, noise: Floats) -> float:
    """Number of genes that a change is spread over: the exponential of the entropy of its squares, less what noise gives."""
    share = np.clip(change**2 - noise, 0, None)
    share = share[share > 0] / max(float(share.sum()), 1e-300)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def explain(moves: Floats) -> Floats:
    """Find which later programs explain what a program does, but for few genes of its own.

    Regression with the least sum of absolute residuals: where most genes are those of other programs, these are met
    exactly, and the genes of the program itself stand out.

    Parameters
    ----------
    moves
        ``(n_latent, n_genes)`` total change of genes by each program.

    Returns
    -------
    ``(n_latent, n_latent)`` direct effects, [cause, effect], strictly upper triangular.
    """
    p = len(moves)
    if moves.shape[1] > _GENES:
        moves = moves[:, np.sort(np.argsort(-np.abs(moves).max(0), kind="stable")[:_GENES])]
    size = np.linalg.norm(moves, axis=1).clip(1e-12)
    graph = np.zeros((p, p))
    for i in range(p - 1):
        alike = np.abs(moves[i + 1 :] @ moves[i]) / size[i + 1 :]
        later = i + 1 + np.sort(np.argsort(-alike, kind="stable")[:_EFFECTS])
        graph[i, later] = _least_absolute(moves[later].T, moves[i])
    return graph


def _least_absolute(x: Floats, y: Floats) -> Floats:
    floor = 1e-2 * float(np.abs(y).mean()) + 1e-12
    ridge = 1e-3 * np.eye(x.shape[1]) * max(float((x**2).sum(0).max()), 1e-12)
    weight, found = np.ones(len(y)), np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        heavy = x * (weight / weight.mean())[:, None]
        found = np.linalg.solve(x.T @ heavy + ridge, heavy.T @ y)
        weight = 1 / np.maximum(np.abs(y - x @ found), floor)
    return found
