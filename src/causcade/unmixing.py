"""What non-Gaussian noise says about direction, for every ordered pair of genes, ``[cause, effect]``.

In a linear causal model the genes are a mixture of as many independent noises. Where these are not Gaussian, independent
component analysis finds them, and with them every direct effect and its direction (LiNGAM, Shimizu et al. 2006).
Here in batches, without a step that depends on the order of genes or cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MIXING_FEATURES", "MIXING_GENE_FEATURES", "mixing_features", "pair_asymmetry", "shortened", "unmix"]

#: Features of a pair, [cause, effect], and of a gene.
MIXING_FEATURES = ("unmixed", "unmixed_z", "asymmetry")
MIXING_GENE_FEATURES = ("tails_z", "lean_z", "clear")

_EXPECTED = 0.37456720  # of log cosh of a standard normal
_STEPS, _ROUNDS = 20, 30  # of the fixed point, and of the matching; more change little
_SHARPNESS = 20.0  # of the matching
_MOST_COEFFICIENT = 5.0
_LONG = 6.0  # spreads


def shortened(x: Tensor) -> Tensor:
    """Scale whole cells down to a largest value of 6: keeps linear relations, and heavy tails within bounds."""
    return x * (_LONG / x.abs().amax(-1, keepdim=True).clamp(min=_LONG))


def unmix(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Direct linear effects from independent components.

    Parameters
    ----------
    x
        ``(batch, cells, genes)``.
    weight
        ``(batch, cells, 1)``, 0 or 1: which cells count. They should all come from one linear model.

    Returns
    -------
    effects
        ``(batch, genes, genes)``, [cause, effect], in units of the genes' spread, -5 to 5; 0 on the diagonal.
    tails
        ``(batch, genes)`` how far from Gaussian the component is that was matched to each gene: mean log cosh less that
        of a Gaussian, below 0 for heavy tails. About 0: its effects are arbitrary.
    lean
        ``(batch, genes)`` skewness of that component.
    clear
        ``(batch, genes)`` 0 to 1, how clear the match was.
    """
    x, weight = x.double(), weight.double()
    n = weight.sum(1, keepdim=True).clamp(min=2)
    z, back = _whitened(x, weight, n)
    w = torch.eye(x.shape[2], dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
    for _ in range(_STEPS):
        g = torch.tanh(z @ w.mT) * weight
        slope = (weight - g.square()).sum(1) / n[:, 0]
        w = _orthogonal(g.mT @ z / n - slope[..., None] * w)
    found = z @ w.mT
    found = found / (found.square().sum(1, keepdim=True) / n).sqrt().clamp(min=1e-6)
    rows = w @ back
    match = _matching(rows / rows.norm(dim=2, keepdim=True).clamp(min=1e-12))
    own = rows + 1e-9 * (rows >= 0) - 1e-9 * (rows < 0)
    ratio = (-rows[:, :, :, None] / own[:, :, None, :]).clamp(-_MOST_COEFFICIENT, _MOST_COEFFICIENT)
    effects = torch.einsum("bcij,bcj->bij", ratio, match)
    effects = effects * (1 - torch.eye(x.shape[2], dtype=x.dtype, device=x.device))
    size = found.abs()
    log_cosh = ((size + torch.log1p(torch.exp(-2 * size)) - 0.6931471805599453) * weight).sum(1) / n[:, 0]
    skew = found.pow(3).sum(1) / n[:, 0]
    sign = torch.sign(torch.einsum("bcj,bcj->bc", match, rows))
    tails = torch.einsum("bcj,bc->bj", match, log_cosh - _EXPECTED)
    lean = torch.einsum("bcj,bc->bj", match, skew * sign)
    return tuple(t.float() for t in (effects, tails, lean, match.amax(1)))  # type: ignore[return-value]


def _whitened(x: Tensor, weight: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Cells without correlations, of spread 1 (0 where they do not count), and the symmetric matrix that does it."""
    x = (x - (x * weight).sum(1, keepdim=True) / n) * weight
    spread = (x.square().sum(1, keepdim=True) / n).sqrt()
    x = x / spread.clamp(min=1e-6)
    genes = x.shape[2]
    eye = torch.eye(genes, dtype=x.dtype, device=x.device)
    ridge = 1e-4 + 0.3 * genes / (genes + n)  # fewer cells than components cannot be told apart
    values, vectors = torch.linalg.eigh(x.mT @ x / n + ridge * eye)
    back = (vectors * values.clamp(min=1e-9).rsqrt()[:, None]) @ vectors.mT
    return x @ back, back


def _orthogonal(w: Tensor) -> Tensor:
    """Nearest orthogonal matrix."""
    left, _, right = torch.linalg.svd(w)
    return left @ right


def _matching(share: Tensor) -> Tensor:
    """Assign components (rows) to genes (columns), softly; rows and columns sum to one."""
    score = _SHARPNESS * share.abs().clamp(min=1e-6).log()
    for _ in range(_ROUNDS):
        score = score - score.logsumexp(2, keepdim=True)
        score = score - score.logsumexp(1, keepdim=True)
    return score.exp()


def pair_asymmetry(x: Tensor, weight: Tensor) -> Tensor:
    """Which of two genes is the likelier cause, one pair at a time (Hyvärinen and Smith 2013).

    Parameters
    ----------
    x, weight
        As for :func:`unmix`.

    Returns
    -------
    torch.Tensor
        ``(batch, genes, genes)``, antisymmetric: correlation times the difference of the two cross-moments with tanh,
        times the square root of the number of cells; above 0, the row causes the column (of noise with heavy tails).
    """
    n = weight.sum(1, keepdim=True).clamp(min=2)
    x = (x - (x * weight).sum(1, keepdim=True) / n) * weight
    x = x / (x.square().sum(1, keepdim=True) / n).sqrt().clamp(min=1e-6)
    bent = torch.tanh(x)
    cross = x.mT @ bent / n
    r = (x.mT @ x / n).clamp(-1, 1)
    return r * (cross - cross.mT) * n.sqrt()


def mixing_features(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Features of all pairs, ``(batch, genes, genes, MIXING_FEATURES)``, and of all genes.

    ``x`` is ``(batch, cells, genes)`` of any spread, ``weight`` as for :func:`unmix`.
    """
    x = shortened(x)
    effects, tails, lean, clear = unmix(x, weight)
    root = weight.sum((1, 2)).sqrt()[:, None]
    tails, lean = torch.asinh(4 * root * tails) / 2, torch.asinh(root * lean) / 2
    sure = effects * (root * clear * tails.abs())[:, None]
    pair = [torch.asinh(effects), torch.asinh(sure) / 3, torch.asinh(pair_asymmetry(x, weight))]
    off = 1 - torch.eye(x.shape[2], device=x.device)[..., None]
    return torch.stack(pair, -1) * off, torch.stack([tails, lean, clear], -1)
