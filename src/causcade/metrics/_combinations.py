"""Scores of predicted cells of combinations: mean change and distribution, exact or as the published code computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.metrics._distributions import _means, _two

Mode = Literal["exact", "reference"]


def mmd(
    pred: ArrayLike, true: ArrayLike, width: float | None = None, *, n_kernels: int = 10, mode: Mode = "exact"
) -> float:
    """Squared maximum mean discrepancy with a sum of Gaussian kernels (see :func:`causcade.nn.mmd.mmd2`).

    Parameters
    ----------
    pred, true
        (n_cells, n_genes).
    width
        Of the middle kernel, in squared units of the values; None = mean squared distance of two of the true cells.
        GraCE-VAE's published numbers use 1,000 for singles and 100 for doubles: they do not compare with one another.
    n_kernels
        Number of kernels; the value goes up to twice that.
    mode
        ``"exact"``: unbiased, 0 on average for the same distribution, and numbers of cells do not matter;
        ``"reference"``: the biased one of the published code, above 0 and larger for few cells.

    Returns
    -------
    The lower, the better.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, the mode is unknown, there are too few cells, or the width is not
        above 0.
    """
    import torch

    from causcade.nn.mmd import mean_distance_width, mmd2

    x, y = (torch.from_numpy(cells) for cells in _two(pred, true))
    _check_mode(mode)
    if mode == "exact" and min(len(x), len(y)) < 2:
        msg = f"the unbiased MMD needs two cells of each; got {len(x)} and {len(y)}"
        raise ValueError(msg)
    if width is None:
        width = float(mean_distance_width(y, y[:0])) if len(y) > 1 else 0.0
    if not 0 < width < np.inf:
        msg = f"width={width} must be above 0"
        raise ValueError(msg)
    return float(mmd2(x, y, width, n_kernels, unbiased=mode == "exact"))


def mean_r2(pred: ArrayLike, true: ArrayLike, *, mode: Mode = "exact") -> float:
    """Share of the variance over genes of the mean true cell that the mean predicted one explains.

    Parameters
    ----------
    pred, true
        Cells (n_cells, n_genes), or their mean (n_genes,). Levels of genes differ far more than effects do: even control
        cells score high over all genes, so give the genes that change.
    mode
        ``"reference"``: as published, prediction and truth are swapped, and negative values count as 0.

    Returns
    -------
    At most 1; NaN where the genes have the same mean.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or the mode is unknown.
    """
    _check_mode(mode)
    guess, truth = _means({"pred": pred, "true": true})
    base = guess if mode == "reference" else truth
    total = float(((base - base.mean()) ** 2).sum())
    if total == 0:
        return float("nan")
    score = 1 - float(((guess - truth) ** 2).sum()) / total
    return max(score, 0.0) if mode == "reference" else score


def mean_rmse(pred: ArrayLike, true: ArrayLike, *, mode: Mode = "exact") -> float:
    """Root mean squared error over genes.

    Parameters
    ----------
    pred, true
        Cells (n_cells, n_genes), or with ``"exact"`` also their mean (n_genes,).
    mode
        ``"exact"``: of the means, in the units of the values. ``"reference"``: as published, of arbitrarily paired cells
        (the first with the first; as many as both have), relative to the root mean square of the true ones. That
        punishes a correct spread of cells: the mean cell, repeated, does best.

    Returns
    -------
    0 or more.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, the mode is unknown, or all true values are 0 with ``"reference"``.
    """
    _check_mode(mode)
    if mode == "exact":
        guess, truth = _means({"pred": pred, "true": true})
        return float(np.sqrt(((guess - truth) ** 2).mean()))
    x, y = _two(pred, true)
    n = min(len(x), len(y))
    size = float((y[:n] ** 2).mean())
    if size == 0:
        msg = "all true values are 0, so there is no relative error"
        raise ValueError(msg)
    return float(np.sqrt(((x[:n] - y[:n]) ** 2).mean() / size))


def changed_genes(cells: ArrayLike, control: ArrayLike, n_top: int = 20) -> NDArray[np.int64]:
    """Find the genes that change most, by absolute Welch t.

    Parameters
    ----------
    cells, control
        (n_cells, n_genes).
    n_top
        How many.

    Returns
    -------
    Positions, the largest change first; genes that vary nowhere come last.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or there are fewer than two cells of either.
    """
    x, y = _two(cells, control)
    if min(len(x), len(y)) < 2 or n_top < 1:
        msg = f"two cells of each and n_top of at least 1 are needed; got {len(x)} and {len(y)} cells, {n_top=}"
        raise ValueError(msg)
    difference = x.mean(axis=0) - y.mean(axis=0)
    error = np.sqrt(x.var(axis=0, ddof=1) / len(x) + y.var(axis=0, ddof=1) / len(y))
    t = np.divide(difference, error, out=np.where(difference == 0, 0.0, np.inf), where=error > 0)
    return np.argsort(-np.abs(t), kind="stable")[:n_top].astype(np.int64)


def changed_group(perturbation: str, groups: Sequence[str], *, mode: Mode = "exact") -> str:
    """Say under which name the changed genes of a perturbation are looked up.

    Parameters
    ----------
    perturbation
        Its name.
    groups
        Names that have a list.
    mode
        ``"exact"``: that very name; ``"reference"``: as published, the first in alphabetical order that holds it, which
        for a single perturbation is often a combination.

    Returns
    -------
    One of `groups`.

    Raises
    ------
    KeyError
        If there is none.
    ValueError
        If the mode is unknown.
    """
    _check_mode(mode)
    found = [g for g in sorted(groups) if (g == perturbation if mode == "exact" else perturbation in g)]
    if not found:
        msg = f"no group for {perturbation!r} among {len(groups)} names"
        raise KeyError(msg)
    return found[0]


def _check_mode(mode: str) -> None:
    if mode not in ("exact", "reference"):
        msg = f"unknown mode {mode!r}. Known: exact, reference"
        raise ValueError(msg)
