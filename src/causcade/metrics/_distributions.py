"""Scores of predicted cells and mean effects of perturbations. Cells are (n_cells, n_genes), all in the same units."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from causcade.metrics._ranking import Floats

_BLOCK = 2**22  # entries of a distance matrix held at a time
_TOLERANCE = 1e-6
_LOOSE = 0.05  # share of the mass that marginals, and of the cost that bounds, may be off


def sinkhorn_w2(pred: ArrayLike, true: ArrayLike, eps: float = 0.1, *, max_iter: int = 2000) -> float:
    """Wasserstein-2 distance with entropic regularisation. Needs the package ``POT``.

    The root of the transport cost ``<P, C>``: C holds squared Euclidean distances and P is the plan that minimises
    ``<P, C> - eps * entropy(P)``. The entropy is no part of what is returned, so numbers differ from those of OTT,
    whose cost has it. ``eps`` is absolute, in squared units of the values: it blurs the plan, and a set of cells has
    a distance above 0 to itself unless its cells lie further apart than about the root of ``eps``.

    Sinkhorn's iterations start at the solution without entropy. Where ``eps`` is tiny beside the costs they need not
    converge. What is returned then lies where the entropic cost must: from the exact cost to ``eps * log(n)`` above it,
    n being the smaller number of cells.

    Parameters
    ----------
    pred, true
        (n_cells, n_genes); numbers of cells may differ, every cell has the same mass.
    eps
        Regularisation; 0 gives the exact distance.
    max_iter
        Most iterations.

    Returns
    -------
    0 or more, in the units of the values.

    Warns
    -----
    RuntimeWarning
        If the iterations did not converge and those bounds lie more than 5 % apart.

    Raises
    ------
    ImportError
        Without ``POT``.
    ValueError
        If shapes do not fit, a value is not finite, or ``eps`` is negative.
    """
    x, y = _two(pred, true)
    if not 0 <= eps < np.inf:
        msg = f"eps={eps} must be 0 or more"
        raise ValueError(msg)
    ot = _pot()
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    cost = cdist(x, y, "sqeuclidean")
    plan, log = ot.emd(a, b, cost, numItermax=10_000_000, log=True)
    least = float((plan * cost).sum())
    if eps == 0:
        return float(np.sqrt(max(least, 0.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plan is checked below
        # cold starts need thousands of iterations and overflow where costs are large
        start = (np.asarray(log["u"]), np.asarray(log["v"]))
        options = {"numItermax": max_iter, "stopThr": _TOLERANCE, "warmstart": start, "warn": False}
        plan = np.asarray(ot.bregman.sinkhorn_stabilized(a, b, cost, eps, **options))
    off = float(np.abs(plan.sum(axis=0) - b).sum() + np.abs(plan.sum(axis=1) - a).sum())
    # the entropy of a plan lies between the logs of the larger number of cells and of the product of both
    room = eps * float(np.log(min(len(x), len(y))))
    if not off < _LOOSE and room > _LOOSE * least:
        msg = f"Sinkhorn did not converge in {max_iter} iterations (marginals off by {off:.2g}); raise eps or max_iter"
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
    found = float((plan * cost).sum()) if off < _LOOSE else least
    return float(np.sqrt(np.clip(found, least, least + room)))


def mean_distance(pred: ArrayLike, true: ArrayLike) -> float:
    """Euclidean distance between the mean predicted and the mean true cell.

    Parameters
    ----------
    pred, true
        Cells (n_cells, n_genes), or their mean (n_genes,).

    Returns
    -------
    0 or more, in the units of the values.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is not finite.
    """
    return float(np.linalg.norm(np.subtract(*_means({"pred": pred, "true": true}))))


def pearson_delta(pred: ArrayLike, true: ArrayLike, reference: ArrayLike) -> float:
    """Pearson correlation over genes between predicted and true change of the mean.

    Parameters
    ----------
    pred, true
        Cells (n_cells, n_genes), or their mean (n_genes,).
    reference
        What both are compared to, the same for both, in the same form: real control cells, or the mean of the
        perturbed ones. Against control a constant guess, the mean perturbed cell, already scores high, as all
        perturbations share a part of their effect; against the mean of the perturbed cells it does not.

    Returns
    -------
    Between -1 and 1; NaN where a change is the same in all genes, as that of a prediction equal to the reference.

    Raises
    ------
    ValueError
        If shapes do not fit or a value is not finite.
    """
    guess, truth, base = _means({"pred": pred, "true": true, "reference": reference})
    changes = [change - change.mean() for change in (guess - base, truth - base)]
    sizes = [float(np.linalg.norm(change)) for change in changes]
    # rounding of equal means is no change
    if min(sizes) <= 1e-12 * max(1.0, float(np.abs([guess, truth, base]).max())):
        return float("nan")
    return float(np.clip(changes[0] @ changes[1] / (sizes[0] * sizes[1]), -1, 1))


def kde_nll(pred: ArrayLike, true: ArrayLike, bandwidth: Literal["scalar", "scott"] = "scalar") -> float:
    """Mean negative log density of the true cells under a Gaussian kernel density of the predicted ones.

    Scott's factor is ``m ** (-1 / (d + 4))`` for m predicted cells and d genes.

    Parameters
    ----------
    pred
        (m, n_genes) predicted cells.
    true
        (n_cells, n_genes).
    bandwidth
        ``"scalar"``: the factor is the standard deviation of the kernel in every gene, whatever their spread, so
        values must be of a scale near 1 (as in scikit-learn and, as printed, in the GIM paper). ``"scott"``: the
        kernel has the covariance of the predicted cells, times the squared factor (as in scipy). Numbers differ much.

    Returns
    -------
    In nats per cell; lower is better, and it may be negative.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, the bandwidth is unknown, or, for ``"scott"``, the covariance of
        the predicted cells is singular.
    """
    x, y = _two(pred, true)
    m, d = x.shape
    if bandwidth not in ("scalar", "scott"):
        msg = f"unknown bandwidth {bandwidth!r}. Known: scalar, scott"
        raise ValueError(msg)
    log_scale = d * np.log(m ** (-1 / (d + 4)))
    shift = x.mean(axis=0)
    x, y = x - shift, y - shift
    if bandwidth == "scott":
        root = _covariance_root(x)
        log_scale += float(np.log(np.diag(root)).sum())
        # whitened by the covariance, distances are those of Mahalanobis
        x, y = (solve_triangular(root, points.T, lower=True).T for points in (x, y))
    width = m ** (-2 / (d + 4))
    log_density = np.concatenate(
        [logsumexp(-cdist(part, x, "sqeuclidean") / (2 * width), axis=1) for part in _parts(y, m)]
    )
    return float(np.log(m) + 0.5 * d * np.log(2 * np.pi) + log_scale - log_density.mean())


def energy_distance(pred: ArrayLike, true: ArrayLike, *, unbiased: bool = True) -> float:
    """Energy distance, ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` with Euclidean distances, over all pairs; no root.

    Parameters
    ----------
    pred, true
        (n_cells, n_genes).
    unbiased
        Leave out the distance of a cell to itself. The mean over draws is then the distance of the distributions, 0
        for the same one, and a single value may be negative; numbers of cells do not matter. With False the value is
        0 or more, 0 for identical samples, and larger for few cells; its root is ``scipy.stats.energy_distance`` for
        one gene.

    Returns
    -------
    In the units of the values.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or ``unbiased`` and there are fewer than two cells of either.
    """
    x, y = _two(pred, true)
    if unbiased and min(len(x), len(y)) < 2:
        msg = f"the unbiased energy distance needs two cells of each; got {len(x)} and {len(y)}"
        raise ValueError(msg)

    def mean_pair(points: Floats, others: Floats, pairs: int) -> float:
        return sum(float(cdist(part, others).sum()) for part in _parts(points, len(others))) / pairs

    own = [mean_pair(z, z, len(z) * (len(z) - 1 if unbiased else len(z))) for z in (x, y)]
    return 2 * mean_pair(x, y, len(x) * len(y)) - sum(own)


def perturbation_discrimination(
    pred: ArrayLike, true: ArrayLike, *, distance: Literal["cosine", "euclidean", "cityblock"] = "cosine"
) -> Floats:
    """Place of a perturbation's own true effect among all true effects, by distance to its predicted one.

    Parameters
    ----------
    pred, true
        (n_perturbations, n_genes) mean changes, against the same reference. Drop the genes that were targeted: their
        own change gives the perturbation away.
    distance
        ``"cosine"`` heeds the direction alone, and a prediction gains nothing by being too large; an effect of 0 is
        at right angles to all. The other two heed the size as well.

    Returns
    -------
    (n_perturbations,): 1 where no other true effect is nearer, 0 where all are. Ties count half, so that one
    prediction for all perturbations has the mean 0.5.

    Raises
    ------
    ValueError
        If shapes differ, there are fewer than two perturbations, a value is not finite, or the distance is unknown.
    """
    x, y = _two(pred, true)
    if x.shape != y.shape or len(x) < 2:
        msg = (
            f"pred {x.shape} and true {y.shape} must both be (n_perturbations, n_genes), with at least 2 perturbations"
        )
        raise ValueError(msg)
    if distance not in ("cosine", "euclidean", "cityblock"):
        msg = f"unknown distance {distance!r}. Known: cosine, euclidean, cityblock"
        raise ValueError(msg)
    if distance == "cosine":
        gap = 1 - _unit(x) @ _unit(y).T
    else:
        gap = cdist(x, y, distance)
    own = np.diag(gap)[:, None]
    # equal vectors may differ by rounding
    tied = np.isclose(gap, own, rtol=1e-9, atol=1e-12)
    nearer = ((gap < own) & ~tied).sum(axis=1) + 0.5 * (tied.sum(axis=1) - 1)
    return np.asarray(1 - nearer / (len(x) - 1), dtype=np.float64)


def _unit(rows: Floats) -> Floats:
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(size > 0, size, 1.0)


def _covariance_root(centred: Floats) -> Floats:
    """Lower Cholesky factor of the covariance."""
    m, d = centred.shape
    if m > d:
        covariance = centred.T @ centred / (m - 1)
        scale = np.sqrt(np.diag(covariance))
        if scale.all():
            values = np.linalg.eigvalsh(covariance / np.outer(scale, scale))
            if values[0] > 1e-10 * values[-1]:
                return np.linalg.cholesky(covariance)
    msg = (
        f"the covariance of the {m} predicted cells of {d} genes is singular; give more cells, drop constant or "
        "duplicate genes, or use bandwidth='scalar'"
    )
    raise ValueError(msg)


def _parts(points: Floats, n_others: int) -> list[Floats]:
    step = max(1, _BLOCK // max(1, n_others))
    return [points[start : start + step] for start in range(0, len(points), step)]


def _two(pred: ArrayLike, true: ArrayLike) -> tuple[Floats, Floats]:
    x, y = _finite("pred", pred), _finite("true", true)
    for name, cells in {"pred": x, "true": y}.items():
        if cells.ndim != 2 or 0 in cells.shape:
            msg = f"{name} has shape {cells.shape}; it must be 2-D with at least one row and one gene"
            raise ValueError(msg)
    if x.shape[1] != y.shape[1]:
        msg = f"pred has {x.shape[1]} genes, true has {y.shape[1]}; both need the same genes in the same order"
        raise ValueError(msg)
    return x, y


def _means(given: dict[str, ArrayLike]) -> list[Floats]:
    out = {}
    for name, value in given.items():
        array = _finite(name, value)
        if array.ndim not in (1, 2) or 0 in array.shape:
            msg = f"{name} has shape {array.shape}; it must be cells (n_cells, n_genes) or their mean (n_genes,)"
            raise ValueError(msg)
        out[name] = array.mean(axis=0) if array.ndim == 2 else array
    sizes = {name: len(mean) for name, mean in out.items()}
    if len(set(sizes.values())) > 1:
        msg = f"numbers of genes differ: {sizes}"
        raise ValueError(msg)
    return list(out.values())


def _finite(name: str, value: ArrayLike) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        msg = f"{name} holds NaN or infinite numbers, the first at {np.argwhere(~np.isfinite(array))[0].tolist()}"
        raise ValueError(msg)
    return array


def _pot() -> Any:
    try:
        return import_module("ot")
    except ImportError as error:
        msg = "the Wasserstein distance needs the package POT: pip install 'causcade[ot]'"
        raise ImportError(msg) from error
