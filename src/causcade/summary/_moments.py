"""What is taken from moments to be put into others."""

from __future__ import annotations

import torch
from torch import Tensor

from causcade.stats import Moments, _correlation, _means, _scatter

__all__ = ["around_means", "residual_correlation", "residual_freedom", "residual_variance"]


def residual_correlation(moments: Moments) -> Tensor:
    """Correlation of genes after the means of regimes and groups are taken out, ``(n_genes, n_genes)``, diagonal 0.

    Parameters
    ----------
    moments
        Sums over cells, with their products.
    """
    _, resid = _scatter(moments, *_means(moments))
    return _correlation(resid, 1e-6 * moments.squares).to(torch.float32)


def around_means(moments: Moments) -> Tensor:
    """``(n_genes,)`` part of the sums of squares that is due to the means of groups, and of regimes within groups."""
    group_mean, centred = _means(moments)
    by_regime, by_group = moments.cells.sum(1), moments.cells.sum(0)
    return (by_group[:, None] * group_mean.square()).sum(0) + (by_regime[:, None] * centred.square()).sum(0)


def residual_freedom(moments: Moments) -> Tensor:
    """Degrees of freedom of what is left, as in :func:`causcade.stats.pair_stats`."""
    by_regime, by_group = moments.cells.sum(1), moments.cells.sum(0)
    return (by_regime.sum() - (by_regime > 0).sum() - (by_group > 0).sum() + 1).clamp(min=1)


def residual_variance(moments: Moments) -> Tensor:
    """``(n_genes,)`` variance of what is left."""
    return (moments.squares - around_means(moments)).clamp(min=0) / residual_freedom(moments)
