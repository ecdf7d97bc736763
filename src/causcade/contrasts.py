"""Summaries of sets of cells, and what tells two of them apart: the inputs of networks that look for targets.

All functions take any number of leading batch dimensions. Nothing here changes when genes are rescaled or shifted,
the same way in both sets: units and the growth of variances along a causal order carry no information.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "N_CONTRASTS",
    "N_NODE",
    "N_STRUCTURE",
    "Summary",
    "contrast_features",
    "node_features",
    "structure_features",
    "summarise",
]

N_STRUCTURE, N_CONTRASTS, N_NODE = 9, 16, 17
_TINY = 1e-8
_MOST = 0.999  # correlations are cut off here, so that Fisher's z stays finite


@dataclass(frozen=True)
class Summary:
    """What is kept of a set of cells.

    Attributes
    ----------
    n
        Number of cells.
    mean
        ``(..., genes)``.
    cov
        ``(..., genes, genes)`` covariance (divided by ``n``).
    bend
        ``(..., genes, genes)``; entry ``[i, j]`` is the correlation of gene i with the square of the centred gene j.
    kurtosis
        ``(..., genes)``, 3 for a Gaussian; 0 for a constant gene.
    """

    n: int
    mean: Tensor
    cov: Tensor
    bend: Tensor
    kurtosis: Tensor

    def genes(self, index: Tensor) -> Summary:
        """The summary of some of the genes."""
        rows = index[:, None]
        return Summary(
            self.n,
            self.mean[..., index],
            self.cov[..., rows, index],
            self.bend[..., rows, index],
            self.kurtosis[..., index],
        )

    def __getitem__(self, index: int | Tensor) -> Summary:
        """The summary at a place of the first batch dimension."""
        return Summary(self.n, self.mean[index], self.cov[index], self.bend[index], self.kurtosis[index])

    @property
    def correlation(self) -> Tensor:
        """``(..., genes, genes)``; 0 for constant genes, 1 on the diagonal."""
        sd = self.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        unit = torch.where(sd > _TINY, 1 / sd.clamp(min=_TINY), torch.zeros_like(sd))
        r = (self.cov * unit[..., :, None] * unit[..., None, :]).clamp(-1, 1)
        return r - torch.diag_embed(r.diagonal(dim1=-2, dim2=-1)) + torch.eye(r.shape[-1]).to(r)


def summarise(x: Tensor) -> Summary:
    """Summarise cells.

    Parameters
    ----------
    x
        ``(..., cells, genes)``, any scale; at least one cell.

    Raises
    ------
    ValueError
        If there is no cell or a value is not finite.
    """
    n = x.shape[-2]
    if n < 1:
        msg = "A set of cells must hold at least one cell to be summarised."
        raise ValueError(msg)
    if not torch.isfinite(x).all():
        msg = "Values to be summarised must be finite; drop or fill NaN and inf."
        raise ValueError(msg)
    first = x[..., :1, :]
    constant = (x == first).all(-2, keepdim=True)
    # the rounding of its mean would give a constant gene a spread
    centre = torch.where(constant, first, x.mean(-2, keepdim=True))
    mean, centred = centre[..., 0, :], x - centre
    cov = centred.mT @ centred / n
    sd = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = centred * torch.where(sd > _TINY, 1 / sd.clamp(min=_TINY), torch.zeros_like(sd))[..., None, :]
    square = unit.square()
    kurtosis = square.square().mean(-2)
    square = square - square.mean(-2, keepdim=True)
    spread = square.square().mean(-2).sqrt().clamp(min=1e-4)  # 0 for a gene of two equally likely values
    bend = (unit.mT @ square / n / spread[..., None, :]).clamp(-1, 1)
    return Summary(n, mean, cov, bend, kurtosis)


def _fisher(r: Tensor) -> Tensor:
    return torch.atanh(r.clamp(-_MOST, _MOST))


def _squash(z: Tensor, unit: float) -> Tensor:
    """Near linear for small values, logarithmic for large ones."""
    return torch.asinh(z) / unit


def _precision(r: Tensor, n: int) -> Tensor:
    """Inverse of a correlation matrix shrunk towards none (Schäfer and Strimmer 2005, from the correlations alone)."""
    size = r.shape[-1]
    off = r - torch.diag_embed(r.diagonal(dim1=-2, dim2=-1))
    noise = ((1 - off.square()).square().sum((-2, -1)) - size) / max(n - 1, 1)
    shrink = (noise / off.square().sum((-2, -1)).clamp(min=_TINY)).clamp(0.002, 1.0)[..., None, None]
    eye = torch.eye(size, dtype=torch.float64, device=r.device)
    return torch.linalg.inv(((1 - shrink) * off).double() + eye).to(r)


def _partial(precision: Tensor) -> Tensor:
    unit = precision.diagonal(dim1=-2, dim2=-1).clamp(min=_TINY).rsqrt()
    return -precision * unit[..., :, None] * unit[..., None, :]


def _free(n: int, size: int) -> float:
    """Degrees of freedom of a correlation given all other genes, floored where they run out."""
    return max(n - size - 1, 0.25 * n, 1.0)


def structure_features(s: Summary) -> Tensor:
    """Pair statistics of one set of cells, ``(..., genes, genes, N_STRUCTURE)``, all of order one.

    Correlation, partial correlation given all others, correlation with the square (both ways), each as it is and as
    evidence (Fisher's z over its standard error), and the diagonal.
    """
    r = s.correlation
    p = _partial(_precision(r, s.n))
    root = max(s.n - 3, 1) ** 0.5
    eye = torch.eye(r.shape[-1]).to(r).expand_as(r)
    parts = [
        r,
        _squash(_fisher(r) * root, 4),
        p,
        _squash(_fisher(p) * _free(s.n, r.shape[-1]) ** 0.5, 4),
        s.bend,
        s.bend.mT,
        _squash(_fisher(s.bend) * root, 4),
        _squash(_fisher(s.bend.mT) * root, 4),
        eye,
    ]
    return _without_diagonal(torch.stack(parts, -1), keep=(4, 6, 8))


def _without_diagonal(x: Tensor, keep: tuple[int, ...]) -> Tensor:
    """Zero the diagonal (a gene with itself) of all features but some."""
    size = x.shape[-2]
    mask = 1 - torch.eye(size).to(x)[..., None].repeat(1, 1, x.shape[-1])
    mask[..., list(keep)] = 1
    return x * mask


@dataclass(frozen=True)
class _Units:
    """Both sets in units of the control's standard deviations."""

    shift: Tensor  # (..., genes)
    before: Tensor  # (..., genes, genes) covariance
    after: Tensor


def _in_units(control: Summary, perturbed: Summary) -> _Units:
    sd = [s.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt() for s in (control, perturbed)]
    # a gene that only the perturbed cells express: its own spread stands in
    unit = torch.maximum(sd[0], 0.1 * sd[1])
    unit = torch.where(unit > _TINY, 1 / unit.clamp(min=_TINY), torch.zeros_like(unit))
    outer = unit[..., :, None] * unit[..., None, :]
    return _Units((perturbed.mean - control.mean) * unit, control.cov * outer, perturbed.cov * outer)


def contrast_features(control: Summary, perturbed: Summary) -> Tensor:
    """What changed between two sets, for gene i given gene j: ``(..., genes, genes, N_CONTRASTS)``, ``[i, j]``.

    If gene i was not acted on, its regression on its parents is the same in both sets. So: change of the correlation, of
    the slope of i on j, and the shift of mean and variance of i that j (with the control's slope) does not explain;
    each as evidence, some as size, all also for j given i; and changes of partial and of quadratic correlation.
    """
    u = _in_units(control, perturbed)
    n0, n1 = control.n, perturbed.n
    r0, r1 = control.correlation, perturbed.correlation
    root = (1 / max(n0 - 3, 1) + 1 / max(n1 - 3, 1)) ** -0.5
    change = _fisher(r1) - _fisher(r0)
    slope, shift, size, ratio, ratio_z = _given_one(u, n0, n1)
    bent = (_fisher(perturbed.bend) - _fisher(control.bend)) * root
    genes = r0.shape[-1]
    p0, p1 = (_partial(_precision(r, n)) for r, n in ((r0, n0), (r1, n1)))
    partial = (_fisher(p1) - _fisher(p0)) * (1 / _free(n0, genes) + 1 / _free(n1, genes)) ** -0.5
    eye = torch.eye(genes).to(r1).expand_as(partial)
    parts = [
        _squash(change * root, 3),
        change.clamp(-3, 3),
        *(t for x in (_squash(slope, 3), _squash(shift, 3), _squash(size, 1)) for t in (x, x.mT)),
        *(t for x in (ratio.clamp(-4, 4), _squash(ratio_z, 3)) for t in (x, x.mT)),
        _squash(bent, 3),
        _squash(bent.mT, 3),
        _squash(partial, 3),
        eye,
    ]
    return _without_diagonal(torch.stack(parts, -1), keep=(12, 13, 15))


def _given_one(u: _Units, n0: int, n1: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Regression of gene i on gene j, ``[i, j]``: slope change, unexplained shift (z, size), log variance ratio (, z)."""
    v0, v1 = (c.diagonal(dim1=-2, dim2=-1).clamp(min=0.01) for c in (u.before, u.after))
    b0, b1 = u.before / v0[..., None, :], u.after / v1[..., None, :]
    rest0 = (v0[..., :, None] - b0 * u.before).clamp(min=0.02)
    rest1 = (v1[..., :, None] - b1 * u.after).clamp(min=0.02)
    error0, error1 = rest0 / v0[..., None, :] / n0, rest1 / v1[..., None, :] / n1
    slope = (b1 - b0) / (error0 + error1).sqrt()
    left = u.shift[..., :, None] - b0 * u.shift[..., None, :]
    noise = rest0 / n0 + rest1 / n1 + error0 * u.shift[..., None, :].square()
    after = (v1[..., :, None] - 2 * b0 * u.after + b0.square() * v1[..., None, :]).clamp(min=0.02)
    ratio = (after / rest0).log()
    ratio_z = ratio / (2 / n0 + 2 / n1) ** 0.5
    return slope, left / noise.sqrt(), left / rest0.sqrt(), ratio, ratio_z


def node_features(control: Summary, perturbed: Summary) -> Tensor:
    """Statistics of every gene, ``(..., genes, N_NODE)``: change of mean and variance, alone and given all others.

    The shift given all others is the precision matrix times the shift: under a linear model it is zero but for the targets
    and their parents. Also shape (skewness, kurtosis), numbers of cells and genes, and the change relative to the largest.
    """
    u = _in_units(control, perturbed)
    n0, n1 = control.n, perturbed.n
    v0, v1 = (c.diagonal(dim1=-2, dim2=-1).clamp(min=1e-4) for c in (u.before, u.after))
    t = u.shift / (v0 / n0 + v1 / n1).sqrt()
    ratio = (v1.clamp(min=0.01) / v0.clamp(min=0.01)).log().clamp(-4, 4)
    heavy = ((control.kurtosis - 1).clamp(0.5, 20) / n0 + (perturbed.kurtosis - 1).clamp(0.5, 20) / n1).sqrt()
    skew0, skew1 = (s.bend.diagonal(dim1=-2, dim2=-1) for s in (control, perturbed))
    sizes = torch.tensor([n0, n1, u.shift.shape[-1]], dtype=t.dtype, device=t.device).log() / 5
    largest = [a / a.amax(-1, keepdim=True).clamp(min=_TINY) for a in (t.abs(), u.shift.abs())]
    parts = [
        _squash(u.shift, 1), _squash(t, 3), ratio, _squash(ratio / heavy, 3),
        *_given_all(u, control, perturbed),
        skew0, skew1, (control.kurtosis + 1).log() / 2, (perturbed.kurtosis + 1).log() / 2,
        *largest, *sizes.expand(*t.shape, 3).unbind(-1),
    ]  # fmt: skip
    return torch.stack(torch.broadcast_tensors(*parts), -1)


def _given_all(u: _Units, control: Summary, perturbed: Summary) -> list[Tensor]:
    """Shift and log variance ratio of each gene given all others, with the regressions of either set."""
    v0, v1 = (c.diagonal(dim1=-2, dim2=-1).clamp(min=0.01).sqrt() for c in (u.before, u.after))
    p0 = _precision(control.correlation, control.n) / v0[..., :, None] / v0[..., None, :]
    p1 = _precision(perturbed.correlation, perturbed.n) / v1[..., :, None] / v1[..., None, :]
    out = []
    for p, other in ((p0, u.after), (p1, u.before)):
        own = p.diagonal(dim1=-2, dim2=-1).clamp(min=_TINY)
        out.append(_squash((p @ u.shift[..., None]).squeeze(-1) / own.sqrt(), 1))
        out.append(((p @ other * p).sum(-1) / own).clamp(min=0.02).log().clamp(-4, 4))
    return out
