"""What the cells say about every ordered pair of genes, ``[cause, effect]``: the inputs of the edge network's pair stream.

Sums over cells only, so nothing depends on their order. Genes are centred on their median, cut off at some median
absolute deviations and scaled, so units, outliers and the growth of variances along a causal order carry no
information.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from causcade.unmixing import MIXING_FEATURES, MIXING_GENE_FEATURES, mixing_features

__all__ = ["EDGE_FEATURES", "N_EDGE_FEATURES", "edge_features"]

_TINY = 1e-6
_CUT = 5.0  # in units of the spread: a Cauchy cell must not decide a correlation
_RIDGE, _BENT_RIDGE = 0.002, 0.02  # of regressions on genes, and on bent functions of them too
_MOST = 0.99999

#: Features of a pair, in order; all are given once more for ``[effect, cause]``.
EDGE_FEATURES = (
    # control cells: together, and given all other genes
    "control_r", "control_z", "control_partial", "control_partial_z",
    # cells in which the effect was left alone
    "free_r", "free_z", "free_partial", "free_partial_z", "free_coefficient",
    # the same, given all other genes and what is bent of them
    "given_partial", "given_partial_z", "given_coefficient",
    # cells in which the cause was acted on
    "acted_r", "acted_z", "shift", "shift_z", "spread", "residual_shift", "residual_shift_z", "residual_spread",
    # bent relations: one cause at a time, and given all other genes
    "bend", "bend_z", "curl", "curl_z", "bend_given", "bend_given_z", "curl_given", "curl_given_z",
    # does the size of what the cause leaves unexplained depend on it: one at a time, and given all other genes
    "left_linear", "left_bend", "left_given_linear", "left_given_bend",
)  # fmt: skip
_GENE_FEATURES = 7
_SET_FEATURES = 4
_OWN = 2 * len(EDGE_FEATURES) + 2 * _GENE_FEATURES + _SET_FEATURES
#: Those of this file, and behind them those of :mod:`causcade.unmixing`, in the same order.
N_EDGE_FEATURES = _OWN + 2 * len(MIXING_FEATURES) + 2 * len(MIXING_GENE_FEATURES)


@dataclass
class _Cells:
    """Cells of a batch, ready for sums.

    Attributes
    ----------
    basis
        ``(3, batch, cells, genes)``: the gene, its bend and its curl, uncorrelated and of spread 1; 0 where missing.
    whole
        ``(batch, cells, genes)``: the gene without a cut, in units of its spread.
    control, free, acted
        Weights: ``(batch, cells, 1)`` cells without a known intervention, ``(batch, cells, genes)`` those without
        one on that gene, and those with one.
    """

    basis: Tensor
    whole: Tensor
    control: Tensor
    free: Tensor
    acted: Tensor


def edge_features(values: Tensor, mask: Tensor, missing: Tensor | None = None) -> Tensor:
    """Pair statistics of batches of cells.

    Parameters
    ----------
    values
        ``(batch, cells, genes)``, any scale; what is missing counts as the gene's middle.
    mask
        ``(batch, cells, genes)``, nonzero where that gene is known to be intervened on in that cell.
    missing
        bool ``(batch, cells, genes)``, or None.

    Returns
    -------
    torch.Tensor
        float32 ``(batch, genes, genes, N_EDGE_FEATURES)``, [cause, effect], about -8 to 8: :data:`EDGE_FEATURES`, the
        same of the reverse, statistics of the cause, of the effect, and of the set. The diagonal is 0 in the former two.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no cell.
    """
    shapes = [tuple(t.shape) for t in (values, mask, missing) if t is not None]
    if values.ndim != 3 or len(set(shapes)) > 1 or not values.shape[1]:
        msg = f"values, mask and missing must all be (batch, cells, genes) with at least one cell; got {shapes}."
        raise ValueError(msg)
    cells = _prepare(values.float(), mask.float(), missing)
    free, residual, own = _free_features(cells)
    pair = [*_control_features(cells), *free, *_acted_features(cells, residual), *_bent_features(cells, own)]
    pair += _left_features(cells, residual)
    genes = values.shape[2]
    off = 1 - torch.eye(genes, device=values.device)[..., None]
    forward = torch.stack(pair, -1) * off
    whole = _set_features(cells)[:, None, None].expand(-1, genes, genes, -1)
    parts = [*_both_ways(forward, _gene_features(values, cells, own)), whole]
    parts += _both_ways(*mixing_features(cells.whole, cells.control))
    return torch.cat(parts, -1).nan_to_num(0.0).clamp(-8, 8)


def _both_ways(pair: Tensor, single: Tensor) -> list[Tensor]:
    """Features of the pair, of its reverse, of the cause and of the effect, ``(batch, genes, genes, .)`` each."""
    shape = (*pair.shape[:3], -1)
    return [pair, pair.transpose(1, 2), single[:, :, None].expand(shape), single[:, None].expand(shape)]


def _prepare(values: Tensor, mask: Tensor, missing: Tensor | None) -> _Cells:
    """Robust scale, basis functions and sets of cells."""
    seen = torch.ones_like(values) if missing is None else (~missing).float()
    known = values if missing is None else values.masked_fill(missing, torch.nan)
    middle = known.nanmedian(1, keepdim=True).values.nan_to_num(0.0)
    off = known - middle
    spread = 1.4826 * off.abs().nanmedian(1, keepdim=True).values.nan_to_num(0.0)
    size = off.square().nanmean(1, keepdim=True).nan_to_num(0.0).sqrt()
    # mostly zeros (counts): the median of the deviations is 0 too, and only their size is left
    spread = torch.where(spread > 1e-7 * size, spread, size).clamp(min=1e-12)
    whole = (off / spread).nan_to_num(0.0)
    x = _scaled(whole.clamp(-_CUT, _CUT), seen)
    bend = _scaled(_less(x.square(), (x,), seen), seen)
    curl = _scaled(_less(x.pow(3), (x, bend), seen), seen)
    acted = (mask > 0).float()
    return _Cells(torch.stack([x, bend, curl]), whole, 1 - acted.amax(2, keepdim=True), 1 - acted, acted)


def _scaled(x: Tensor, seen: Tensor) -> Tensor:
    n = seen.sum(1, keepdim=True).clamp(min=1)
    x = (x - (x * seen).sum(1, keepdim=True) / n) * seen
    return x / (x.square().sum(1, keepdim=True) / n).sqrt().clamp(min=0.02)  # a constant gene stays 0


def _less(x: Tensor, others: tuple[Tensor, ...], seen: Tensor) -> Tensor:
    """Take out what uncorrelated functions of spread 1 explain."""
    n = seen.sum(1, keepdim=True).clamp(min=1)
    x = (x - (x * seen).sum(1, keepdim=True) / n) * seen
    for other in others:
        x = x - other * ((x * other).sum(1, keepdim=True) / n)
    return x


def _together(causes: Tensor, effects: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Covariance ``[cause, effect]``, both variances and number of cells, in the cells of each effect.

    ``weight`` is ``(batch, cells, genes or 1)``: the cells that count for an effect.
    """
    weight = weight.expand_as(effects)
    n = weight.sum(1).clamp(min=1)[:, None]
    first, second = causes.mT @ weight / n, (effects * weight).sum(1)[:, None] / n
    cov = causes.mT @ (effects * weight) / n - first * second
    of_cause = (causes.square().mT @ weight / n - first.square()).clamp(min=0)
    of_effect = ((effects.square() * weight).sum(1)[:, None] / n - second.square()).clamp(min=0).expand_as(cov)
    return cov, of_cause, of_effect, n


def _evidence(r: Tensor, n: Tensor, used: float = 0.0) -> Tensor:
    """Fisher's z over its standard error, near linear for small values and logarithmic for large ones."""
    free = torch.maximum(n - used - 3, 0.25 * n).clamp(min=1)
    return torch.asinh(torch.atanh(r.clamp(-_MOST, _MOST)) * free.sqrt()) / 3


def _correlation(causes: Tensor, effects: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation ``[cause, effect]`` in the cells of each effect, and its evidence."""
    cov, of_cause, of_effect, n = _together(causes, effects, weight)
    r = _ratio(cov, of_cause, of_effect)
    return r, _evidence(r, n)


def _ratio(cov: Tensor, a: Tensor, b: Tensor) -> Tensor:
    size = (a * b).sqrt()
    return torch.where(size > 1e-4, cov / size.clamp(min=1e-4), torch.zeros_like(cov)).clamp(-1, 1)


def _control_features(c: _Cells) -> list[Tensor]:
    x, weight = c.basis[0], c.control
    n = weight.sum(1).clamp(min=1)[..., None]
    mean = (x * weight).sum(1, keepdim=True) / n
    centred = (x - mean) * weight
    cov = centred.mT @ centred / n
    spread = cov.diagonal(dim1=1, dim2=2)
    r = _ratio(cov, spread[:, :, None], spread[:, None])
    inverse = _inverse(r, n)
    scale = inverse.diagonal(dim1=1, dim2=2).clamp(min=_TINY).rsqrt()
    partial = (-inverse * scale[:, :, None] * scale[:, None]).clamp(-1, 1)
    return [r, _evidence(r, n), partial, _evidence(partial, n, x.shape[2])]


def _inverse(r: Tensor, n: Tensor, least: float = _RIDGE) -> Tensor:
    """Inverse of a correlation matrix, shrunk the more the fewer cells there are to the genes."""
    genes = r.shape[-1]
    eye = torch.eye(genes, device=r.device)
    ridge = least + genes / (genes + n.expand(*r.shape[:-2], 1, 1)) * 0.1
    return torch.linalg.inv((r * (1 - eye) + (1 + ridge) * eye).double()).float()


@dataclass
class _Regression:
    """Regressions of every effect on functions of all other genes, in the cells in which it was left alone.

    Attributes
    ----------
    partial, coefficient
        ``(functions, batch, cause, effect)``; 0 on the diagonal.
    unexplained
        ``(batch, genes)`` share of the effect's variance.
    n
        ``(batch, 1, effect)`` cells.
    """

    partial: Tensor
    coefficient: Tensor
    unexplained: Tensor
    n: Tensor


def _regress(basis: Tensor, free: Tensor) -> _Regression:
    functions, genes = basis.shape[0], basis.shape[-1]
    inverse, n = _inverses(basis, free)
    each = torch.arange(genes, device=basis.device)
    row = inverse[:, each, each]  # (batch, effect, functions x genes): the effect's own row
    own = row[:, each, each].clamp(min=_TINY)
    diagonal = inverse.diagonal(dim1=2, dim2=3).clamp(min=_TINY)
    off = 1 - torch.eye(genes, device=basis.device)
    partial = (-row * (own[..., None] * diagonal).rsqrt()).clamp(-1, 1)
    first, second = (
        t.mT.unflatten(1, (functions, genes)).transpose(0, 1) * off for t in (partial, -row / own[..., None])
    )
    return _Regression(first, second, 1 / own, n[:, None])


def _inverses(basis: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of every effect's own correlation matrix of all functions, ``(batch, effect, ., .)``, and its cells."""
    everything = torch.cat(list(basis), -1)  # (batch, cells, functions x genes)
    genes, n = free.shape[2], free.sum(1).clamp(min=1)
    cov = _free_covariances(everything, free, n)
    spread = cov.diagonal(dim1=2, dim2=3)
    r = _ratio(cov, spread[..., :, None], spread[..., None, :])
    each = torch.arange(genes, device=free.device)
    for k in range(1, len(basis)):  # an effect is not explained by its own bend and curl
        r[:, each, each + k * genes, :] = 0
        r[:, each, :, each + k * genes] = 0
    return _inverse(r, n[..., None, None], _RIDGE if len(basis) == 1 else _BENT_RIDGE), n


def _free_covariances(x: Tensor, free: Tensor, n: Tensor) -> Tensor:
    """Covariances of all functions in the cells of every effect, ``(batch, effect, ., .)``.

    Sums over all cells less those over the few in which the effect was acted on; in double precision, or the
    differences would be inexact.
    """
    x, weight = x.double(), free.double()
    whole = x.mT @ x
    mean = weight.mT @ x / n[..., None]
    cov = torch.empty(*n.shape, *whole.shape[1:], device=x.device)
    for j in range(free.shape[2]):
        out = 1 - weight[:, :, j]
        some = out.amax(0).nonzero().squeeze(1)
        left_out = x[:, some] * out[:, some, None]
        m = mean[:, j, :, None]
        cov[:, j] = ((whole - left_out.mT @ left_out) / n[:, j, None, None] - m * m.mT).float()
    return cov


def _free_features(c: _Cells) -> tuple[list[Tensor], Tensor, _Regression]:
    """Features, residuals ``(batch, cells, genes)`` and the regression with bent functions."""
    x = c.basis[0]
    features = list(_correlation(x, x, c.free))
    for functions in (1, 3):
        found = _regress(c.basis[:functions], c.free)
        partial = found.partial[0]
        features += [partial, _evidence(partial, found.n, _used(functions * x.shape[2]))]
        features.append(torch.asinh(found.coefficient[0]))
    residual = x - sum(c.basis[k] @ found.coefficient[k] for k in range(3))
    return features, residual, found


def _used(functions: int) -> float:
    """Degrees of freedom that a shrunken regression uses, about."""
    return float(min(functions, 100))


def _acted_features(c: _Cells, residual: Tensor) -> list[Tensor]:
    """What becomes of the effect, and of its residual, where the cause was acted on; [cause, effect]."""
    x = c.basis[0]
    cov, of_effect, of_cause, n = (t.mT for t in _together(x, x, c.acted))
    r = _ratio(cov, of_cause, of_effect)
    base = c.control / c.control.sum(1, keepdim=True).clamp(min=1)
    features = [r, _evidence(r, n)]
    for values in (x, residual):
        mean = (values * base).sum(1)[:, None]
        spread = (values.square() * base).sum(1)[:, None] - mean.square()
        total = c.acted.sum(1).clamp(min=1)[..., None]
        there = c.acted.mT @ values / total
        around = (c.acted.mT @ values.square() / total - there.square()).clamp(min=0)
        size = spread.clamp(min=0.01).sqrt()
        shift = (there - mean) / size
        error = (1 / total + 1 / c.control.sum(1).clamp(min=1)[..., None]).sqrt()
        wider = (around.clamp(min=1e-3) / spread.clamp(min=1e-3)).log() * ((total - 1).clamp(min=0) / 8).sqrt()
        any_cell = (c.acted.sum(1) > 0)[..., None] & (c.control.sum(1) > 1)[..., None]
        for feature in (torch.asinh(shift), torch.asinh(shift / error) / 3, torch.asinh(wider)):
            features.append(torch.where(any_cell, feature, 0.0))
    return features


def _bent_features(c: _Cells, given: _Regression) -> list[Tensor]:
    x = c.basis[0]
    features: list[Tensor] = []
    for k in (1, 2):
        features += _correlation(c.basis[k], x, c.free)
    for k in (1, 2):
        features += [given.partial[k], _evidence(given.partial[k], given.n, _used(3 * x.shape[2]))]
    return features


def _left_features(c: _Cells, residual: Tensor) -> list[Tensor]:
    """Evidence that the size of the residual depends on the cause: it does not where the model is additive and whole."""
    x, bend = c.basis[0], c.basis[1]
    slopes = [_slope(c.basis[k], x, c.free) for k in range(3)]
    n = c.free.sum(1).clamp(min=1)[:, None]
    weight = c.free / n
    # residual of every effect on every single cause, without holding cells x genes x genes for long
    first = [c.basis[k].mT @ weight for k in (0, 1)]
    of_cause = [(c.basis[k].square().mT @ weight - first[k].square()).clamp(min=0) for k in (0, 1)]
    linear: list[Tensor] = []
    bent: list[Tensor] = []
    for j in range(x.shape[2]):
        left = x[:, :, j, None].expand_as(x)
        for k in range(3):
            left = torch.addcmul(left, c.basis[k], slopes[k][:, None, :, j], value=-1)
        size = left.abs()
        weighted = size * weight[:, :, j, None]
        mean = weighted.sum(1)
        spread = (weighted * size).sum(1) - mean.square()
        for which, found in ((0, linear), (1, bent)):
            cov = (c.basis[which] * weighted).sum(1) - first[which][:, :, j] * mean
            found.append(_ratio(cov, of_cause[which][:, :, j], spread.clamp(min=0)))
    features = [torch.stack(linear, 2), torch.stack(bent, 2)]
    whole = residual.abs()
    features += [_correlation(x, whole, c.free)[0], _correlation(bend, whole, c.free)[0]]
    return [_evidence(f, n) for f in features]


def _slope(causes: Tensor, effects: Tensor, weight: Tensor) -> Tensor:
    cov, of_cause, _, _ = _together(causes, effects, weight)
    return cov / of_cause.clamp(min=0.05)


def _gene_features(values: Tensor, c: _Cells, given: _Regression) -> Tensor:
    """Statistics of every gene, ``(batch, genes, _GENE_FEATURES)``."""
    x = c.basis[0]
    n = c.control.sum(1).clamp(min=1)
    mean = (x * c.control).sum(1) / n
    spread = ((x.square() * c.control).sum(1) / n - mean.square()).clamp(min=1e-4)
    acted = c.acted.sum(1)
    zeros = (values == 0).float().mean(1)
    skew, tail = x.pow(3).mean(1), x.pow(4).mean(1)
    parts = [spread.log(), given.unexplained.clamp(min=1e-4).log(), acted.log1p() / 4, (acted > 0).float(), skew]
    parts += [(tail.clamp(min=0.1) / 3).log(), zeros]
    return torch.stack(parts, -1)


def _set_features(c: _Cells) -> Tensor:
    """Numbers of control cells, of acted-on cells, of genes, and share of genes acted on; ``(batch, _SET_FEATURES)``."""
    control, cells = c.control.sum((1, 2)), c.control.shape[1]
    genes = torch.full_like(control, float(c.free.shape[2]))
    covered = (c.acted.sum(1) > 0).float().mean(1)
    return torch.stack([control.log1p() / 4, (cells - control).log1p() / 4, genes.log() / 2, covered], -1)
