"""How much of a causal order simulated data give away through scale alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from causcade.metrics._ranking import Bools, Floats

_TIE = 1e-9  # relative difference below which two variances (or R2) are one value


def varsortability(x: ArrayLike, adjacency: ArrayLike) -> float:
    """How far marginal variances alone give the causal order (Reisach et al. 2021).

    Parameters
    ----------
    x
        (n_cells, n_genes) observational data.
    adjacency
        (n_genes, n_genes) ``[cause, effect]`` of an acyclic graph; non-zero is an edge.

    Returns
    -------
    Share of (ancestor, descendant, path length) triples in which the variance rises, ties counting half: 1 means
    sorting by variance gives the order, 0.5 that it says nothing. NaN without an edge.
    """
    values, edges = _data_and_graph(x, adjacency)
    return _order_agreement(values.var(axis=0), edges)


def r2_sortability(x: ArrayLike, adjacency: ArrayLike) -> float:
    """How far each gene's R2 given all others gives the causal order (Reisach et al. 2023).

    Unlike :func:`varsortability` it does not depend on the scale of the genes. Arguments and return as there.

    Raises
    ------
    ValueError
        With no more cells than genes, constant genes, or genes that others determine exactly.
    """
    values, edges = _data_and_graph(x, adjacency)
    n_cells, n_genes = values.shape
    sd = values.std(axis=0)
    if n_cells <= n_genes or (sd == 0).any():
        msg = f"R2 needs more cells ({n_cells}) than genes ({n_genes}) and no constant gene ({int((sd == 0).sum())})"
        raise ValueError(msg)
    z = (values - values.mean(axis=0)) / (sd * np.sqrt(n_cells))
    upper = np.linalg.qr(z, mode="r")
    if np.abs(np.diag(upper)).min() < 1e-10:
        msg = f"gene {int(np.abs(np.diag(upper)).argmin())} is a linear combination of others; drop it"
        raise ValueError(msg)
    inverse = solve_triangular(upper, np.eye(n_genes))
    return _order_agreement(1 - 1 / (inverse**2).sum(axis=1), edges)


def _data_and_graph(x: ArrayLike, adjacency: ArrayLike) -> tuple[Floats, Bools]:
    values, edges = np.asarray(x, dtype=np.float64), np.asarray(adjacency) != 0
    if values.ndim != 2 or edges.shape != (values.shape[1],) * 2:
        msg = f"x {values.shape} must be (n_cells, n_genes) and adjacency {edges.shape} (n_genes, n_genes)"
        raise ValueError(msg)
    if not np.isfinite(values).all():
        msg = "x holds NaN or infinite values"
        raise ValueError(msg)
    return values, edges


def _order_agreement(values: Floats, edges: Bools) -> float:
    cause, effect = values[:, None], values[None, :]
    tied = np.isclose(cause, effect, rtol=_TIE, atol=0)
    agree = np.where(tied, 0.5, effect > cause)
    step = edges.astype(np.float32)  # BLAS multiplies floats; counts are cut back to 0/1 at each step
    reached, total, right = edges, 0.0, 0.0
    for _ in range(len(values) - 1):
        if not reached.any():
            break
        total += reached.sum()
        right += agree[reached].sum()
        reached = reached.astype(np.float32) @ step > 0
    return float(right / total) if total else float("nan")
