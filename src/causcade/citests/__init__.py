"""Local causal graphs: Fisher-z independence tests and FCI on many small subsets of genes.

Everything follows from the correlation matrix and the number of cells. A pair of genes gets one token per graph::

    1 no edge    2 a -> b    3 a <- b    4 a <-> b    5 a <-o b    6 a o-> b    7 a o-o b    (0: the diagonal)

With numba a graph takes some microseconds; without, the same code runs in plain Python, some thousand times slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.citests._fci import MAX_NODES, critical_values, search
from causcade.citests._sampling import sample_subsets, square

__all__ = ["local_fci", "local_graphs", "sample_subsets"]


def local_fci(correlation: ArrayLike, subsets: ArrayLike, n_cells: int, *, alpha: float = 0.05) -> NDArray[np.int8]:
    """FCI with Fisher-z tests on every subset of genes.

    PC-stable skeleton, colliders, possible-d-sep pass and the rules R1 to R4 in the order of causal-learn 0.1.3.8,
    the last version whose graphs have no marks outside the tokens. Its habits are kept: the separating set is the
    union of all that were accepted at a depth; the possible-d-sep pass passes over the first set of each size, unless
    it is the only one, and notes its set for one order of the pair. Where conflicting tests leave it to the order of
    the genes in a subset, so does this. (With six genes causal-learn also leaves it to the order of Python sets.)

    Parameters
    ----------
    correlation
        ``(n_genes, n_genes)`` Pearson correlations; the diagonal is ignored. A constant gene (NaN or 0 with all
        others) has no edges. A gene that is a function of the genes in a set is independent of the rest given them:
        of two equal genes each has no edge but to the other. (causal-learn fails on both.)
    subsets
        int ``(n_subsets, k)``, k from 2 to 6, different genes in each row.
    n_cells
        Cells behind the correlations. With ``n_cells <= s + 3`` a test given s genes cannot reject, so the pair is
        independent (causal-learn fails below).
    alpha
        Level of every test.

    Returns
    -------
    int8 ``(n_subsets, k, k)``: token of the ordered pair (a, b) of positions in the subset, see the module.

    Raises
    ------
    ValueError
        If a shape does not fit, a gene is out of range or twice in a subset, a correlation is beyond 1, or ``alpha``
        is not between 0 and 1.
    """
    r, nodes = np.asarray(correlation), np.asarray(subsets)
    _check_graphs(r, nodes, n_cells, alpha)
    blocks = np.nan_to_num(r[nodes[:, :, None], nodes[:, None, :]].astype(np.float64))
    if blocks.size and np.abs(blocks).max() > 1 + 1e-4:
        msg = f"correlations must lie from -1 to 1; got {blocks.min():g} to {blocks.max():g}. Is it a covariance?"
        raise ValueError(msg)
    tokens = np.zeros(blocks.shape, np.int8)
    search(blocks, critical_values(nodes.shape[1], n_cells, alpha), tokens)
    return tokens


def local_graphs(
    correlation: ArrayLike,
    n_cells: int,
    n_subsets: int,
    *,
    k: int = 5,
    alpha: float = 0.05,
    rng: int | np.random.Generator | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Draw subsets of genes and their graphs: the first half at random, then by correlation, visits carried on.

    Parameters
    ----------
    correlation
        ``(n_genes, n_genes)`` Pearson correlations, as in :func:`local_fci`.
    n_cells
        Cells behind them.
    n_subsets
        How many; ``n_subsets // 2`` of them at random.
    k
        Genes in a subset, 2 to 6; with fewer genes, all of them.
    alpha
        Level of every test.
    rng
        Which genes are drawn.

    Returns
    -------
    subsets : numpy.ndarray
        int64 ``(n_subsets, min(k, n_genes))``.
    tokens : numpy.ndarray
        int8 ``(n_subsets, min(k, n_genes), min(k, n_genes))``, as from :func:`local_fci`.

    Raises
    ------
    ValueError
        As :func:`sample_subsets` and :func:`local_fci` do.
    """
    score = np.abs(square("correlation", correlation))
    gen, half = np.random.default_rng(rng), n_subsets // 2
    at_random, visits = sample_subsets(np.ones_like(score), half, k=k, rng=gen)
    by_score, _ = sample_subsets(score, n_subsets - half, k=k, visits=visits, rng=gen)
    subsets = np.concatenate([at_random, by_score])
    return subsets, local_fci(correlation, subsets, n_cells, alpha=alpha)


def _check_graphs(r: NDArray[Any], nodes: NDArray[Any], n_cells: int, alpha: float) -> None:
    if r.ndim != 2 or r.shape[0] != r.shape[1]:
        msg = f"correlation must be (n_genes, n_genes); got {r.shape}."
    elif nodes.ndim != 2 or not 2 <= nodes.shape[1] <= MAX_NODES or nodes.dtype.kind not in "iu":
        msg = f"subsets must be integers (n_subsets, 2 to {MAX_NODES}); got {nodes.dtype} {nodes.shape}."
    elif nodes.size and (nodes.min() < 0 or nodes.max() >= len(r)):
        msg = f"subsets must lie from 0 to {len(r) - 1}, the last gene; got {nodes.min()} to {nodes.max()}."
    elif (np.diff(np.sort(nodes, 1), axis=1) == 0).any():
        first = int(np.flatnonzero((np.diff(np.sort(nodes, 1), axis=1) == 0).any(1))[0])
        msg = f"the genes of a subset must differ; subset {first} is {nodes[first].tolist()}."
    elif not 0 < alpha < 1 or n_cells < 1:
        msg = f"alpha must lie between 0 and 1 and n_cells be at least 1; got {alpha} and {n_cells}."
    else:
        return
    raise ValueError(msg)
