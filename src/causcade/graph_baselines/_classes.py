"""PC, GES and GIES through the packages of others: one class of graphs that the data cannot tell apart."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.graph_baselines._cells import Bools, Floats, by_free_cells, check_cells, control_cells, standardise

_SPARE = 3


def pc(values: ArrayLike, mask: ArrayLike | None = None, *, alpha: float = 0.05) -> Floats:
    """PC algorithm (stable version, Fisher's z) on control cells. Needs the package ``causal-learn``.

    Parameters
    ----------
    values
        (n_cells, n_genes), dense.
    mask
        (n_cells, n_genes), nonzero where that gene was acted on in that cell; such cells are left out.
    alpha
        Level of the independence tests.

    Returns
    -------
    (n_genes, n_genes) ``[cause, effect]``: 1 for a directed edge, 0.5 in both directions for one of unknown or
    contradictory direction, otherwise 0.

    Raises
    ------
    ImportError
        Without ``causal-learn``.
    ValueError
        If shapes do not fit, a value is not finite, alpha lies outside 0 to 1, a gene does not vary, or cells hardly
        outnumber the genes.
    """
    x, free = check_cells(values, mask, _SPARE)
    if not 0 < alpha < 1:
        msg = f"alpha={alpha} must lie between 0 and 1"
        raise ValueError(msg)
    x = _varying(control_cells(x, free))
    search = _needs("causallearn.search.ConstraintBased.PC", "causal-learn", "pc")
    marks = np.asarray(search.pc(x, alpha, "fisherz", show_progress=False).G.graph)
    # entry [i, j] is the mark at i of the edge between i and j: -1 a tail, 1 an arrowhead
    return _undirected_by_half((marks != 0) & ((marks.T == 1) | (marks == marks.T)))


def ges(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Greedy equivalence search with the Gaussian BIC score, on control cells. Needs the package ``gies``.

    Parameters
    ----------
    values
        (n_cells, n_genes), dense; up to some tens of genes.
    mask
        (n_cells, n_genes), nonzero where that gene was acted on in that cell; such cells are left out.

    Returns
    -------
    (n_genes, n_genes) ``[cause, effect]``: 1 for a directed edge, 0.5 in both directions for an undirected one,
    otherwise 0.

    Raises
    ------
    ImportError
        Without ``gies``.
    ValueError
        As in :func:`pc`.
    """
    x, free = check_cells(values, mask, _SPARE)
    x = _varying(control_cells(x, free))
    return _search(_GaussianBIC(x, np.ones(x.shape, bool)), "ges")


def gies(values: ArrayLike, mask: ArrayLike | None = None) -> Floats:
    """Greedy interventional equivalence search (Hauser and Bühlmann 2012), on all cells. Needs the package ``gies``.

    The score is the Gaussian BIC of each gene over the cells in which it was not acted on, with one intercept in all
    of them. (The package's own score centres every set of cells acted on alike: it does not see that the mean moves,
    and a single cell of its kind says nothing.)

    Arguments, return and errors as in :func:`ges`, but for ``mask``, which says what was acted on.
    """
    x, free = check_cells(values, mask, _SPARE)
    return _search(_GaussianBIC(_varying(x), free), "gies")


class _GaussianBIC:
    """Score of a gene given its parents, as ``gies.fit`` asks for it."""

    def __init__(self, x: Floats, free: Bools) -> None:
        z = standardise(x)
        self.p = x.shape[1]
        self.interv = [np.flatnonzero(~row).tolist() for row in np.unique(free, axis=0)]
        self._penalty = 0.5 * np.log(len(x))
        self._n = free.sum(axis=0)
        self._covariance: list[Floats] = [np.empty(0)] * self.p
        for cells, effects in by_free_cells(free):
            covariance = np.cov(z[cells], rowvar=False, bias=True)
            for effect in effects:
                self._covariance[effect] = covariance
        self._known: dict[tuple[int, frozenset[int]], float] = {}

    def local_score(self, gene: int, parents: set[int]) -> float:
        key = (int(gene), frozenset(int(p) for p in parents))
        if key not in self._known:
            pa, c = sorted(key[1]), self._covariance[gene]
            left = c[gene, gene]
            if pa:
                left = left - c[gene, pa] @ np.linalg.lstsq(c[np.ix_(pa, pa)], c[pa, gene])[0]
            likelihood = -0.5 * self._n[gene] * (1 + np.log(max(left, 1e-10)))
            self._known[key] = float(likelihood - self._penalty * (len(pa) + 1))
        return self._known[key]

    def full_score(self, graph: NDArray[Any]) -> float:
        return sum(self.local_score(j, set(np.flatnonzero(graph[:, j]).tolist())) for j in range(self.p))


def _search(score: _GaussianBIC, name: str) -> Floats:
    return _undirected_by_half(_needs("gies", "gies", name).fit(score)[0] != 0)


def _undirected_by_half(edges: Bools) -> Floats:
    return np.where(edges & edges.T, 0.5, edges.astype(np.float64))


def _varying(x: Floats) -> Floats:
    flat = np.flatnonzero(~standardise(x).any(axis=0))
    if flat.size:
        msg = f"genes {flat[:5].tolist()} do not vary in the cells used; drop them"
        raise ValueError(msg)
    return x


def _needs(module: str, package: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        msg = f"{name} needs the package {package}; install it with: pip install {package}"
        raise ImportError(msg) from error
