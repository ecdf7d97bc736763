"""A simulated screen of single perturbations and pairs, moved by programs that act on one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["combination_screen"]

Floats = NDArray[np.float64]

_EDGE, _WEIGHT = 0.4, 0.8  # how often a program acts on a later one, and how strongly
_STRENGTH = (1.5, 2.5)  # standard deviations of a program
_NOISE = 0.3


def combination_screen(
    n_genes: int = 120,
    *,
    n_programs: int = 6,
    n_perturbations: int = 9,
    n_pairs: int = 10,
    n_control: int = 400,
    cells_per_perturbation: int = 100,
    rng: int | np.random.Generator | None = None,
) -> AnnData:
    """Simulate a screen of single perturbations and pairs of which the programs are known.

    A cell has one number per program: normal noise, plus what other programs give it along a random graph. A gene belongs to one
    program, and its value is a softplus of that number. Each perturbation shifts one program, either way; a pair adds two
    shifts. So changes of programs are additive and those of genes are not.

    Parameters
    ----------
    n_genes
        Number of genes; programs take turns.
    n_programs
        Number of programs.
    n_perturbations
        Number of single perturbations, at least as many as programs: each program is hit.
    n_pairs
        Number of pairs, chosen at random.
    n_control
        Number of control cells.
    cells_per_perturbation
        Number of cells of every perturbation and pair.
    rng
        Seed or generator of everything.

    Returns
    -------
    AnnData
        ``.X`` : float32, expression of log-like size (control cells first).
        ``.obs["perturbation"]`` : "control", "X0", ..., or a pair such as "X0+X3". No gene is a target.
        ``.uns["programs"]`` : ``graph`` ``(n_programs, n_programs)`` weights ``[cause, effect]``; ``decoder``
        ``(n_programs, n_genes)``; ``program`` and ``strength`` of every single perturbation.
        ``.uns["network"]`` : edges between genes of one program, as :func:`causcade.networks.match_network` takes it.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import causcade as cc
    >>> cc.simulate.combination_screen(30, n_control=50, cells_per_perturbation=10, rng=0).shape
    (240, 30)
    """
    from causcade._checks import generator

    _check(n_genes, n_programs, n_perturbations, n_pairs, n_control, cells_per_perturbation)
    gen = generator(rng)
    graph = np.triu(gen.choice([-1.0, 1.0], (n_programs, n_programs)) * (gen.random((n_programs,) * 2) < _EDGE), 1)
    graph *= _WEIGHT
    owner = np.arange(n_genes) % n_programs
    decoder = gen.normal(size=(n_programs, n_genes)) * (owner == np.arange(n_programs)[:, None])
    program = np.concatenate([np.arange(n_programs), gen.integers(n_programs, size=n_perturbations - n_programs)])
    strength = gen.choice([-1.0, 1.0], n_perturbations) * gen.uniform(*_STRENGTH, n_perturbations)
    every = [(i, j) for i in range(n_perturbations) for j in range(i)]
    pairs = gen.permutation(every)[:n_pairs].tolist() if every else []
    groups = [(), *((k,) for k in range(n_perturbations)), *map(tuple, pairs)]
    mix = np.linalg.inv(np.eye(n_programs) - graph) @ decoder
    sizes = [n_control if not parts else cells_per_perturbation for parts in groups]
    cells = []
    for parts, size in zip(groups, sizes, strict=True):
        z = gen.normal(size=(size, n_programs))
        for k in parts:
            z[:, program[k]] += strength[k]
        y = z @ mix + _NOISE * gen.normal(size=(size, n_genes))
        cells.append(np.logaddexp(0, y + 0.5))
    labels = ["+".join(sorted(f"X{k}" for k in parts)) or "control" for parts in groups]
    truth = {"graph": graph, "decoder": decoder, "program": program, "strength": strength}
    return _to_anndata(np.concatenate(cells), np.repeat(labels, sizes), labels, owner, truth)


def _check(n_genes: int, n_programs: int, n_perturbations: int, n_pairs: int, n_control: int, cells: int) -> None:
    from causcade._checks import at_least

    least = {"n_programs": (n_programs, 1), "n_genes": (n_genes, n_programs), "n_perturbations": (n_perturbations, n_programs),
             "n_pairs": (n_pairs, 0), "n_control": (n_control, 1), "cells_per_perturbation": (cells, 1)}  # fmt: skip
    for name, (number, low) in least.items():
        at_least(number, low, name)
    most = n_perturbations * (n_perturbations - 1) // 2
    if n_pairs > most:
        msg = f"n_pairs={n_pairs}, but {n_perturbations} perturbations have only {most} pairs."
        raise ValueError(msg)


def _to_anndata(
    values: Floats, label: NDArray[Any], labels: list[str], owner: NDArray[np.int64], truth: dict[str, Any]
) -> AnnData:
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(label, categories=labels)}, index=[f"cell{i + 1}" for i in range(len(label))]
    )
    var = pd.DataFrame({"program": owner}, index=[f"G{i}" for i in range(values.shape[1])])
    n = int(owner.max()) + 1
    edges = [(f"G{i}", f"G{i + n}", "GG", 1.0) for i in range(values.shape[1] - n)]
    network = pd.DataFrame(edges, columns=["source", "target", "kind", "weight"])
    return AnnData(values.astype(np.float32), obs=obs, var=var, uns={"programs": truth, "network": network})
