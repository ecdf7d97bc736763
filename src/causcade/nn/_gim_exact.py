"""Best linear mechanisms for given edges and interventions: what gradients take thousands of steps for."""

from __future__ import annotations

import torch
from torch import Tensor

from causcade.nn._gim_cells import Cells, upper_triangle
from causcade.nn._gim_interventions import Interventions
from causcade.nn._gim_mechanisms import LEAST_LOG_SD, LinearMechanisms

__all__ = ["solve_linear"]

_RULED_OUT = 1e-4  # edges less probable than this count as none
_RELATIVE = 1e-10
_AT_ONCE = 10_000_000  # numbers in a block of genes


@torch.no_grad()
def solve_linear(
    mechanisms: LinearMechanisms,
    cells: Cells,
    probability: Tensor,
    targets: Tensor,
    interventions: Interventions,
    variance: float,
) -> None:
    """Set weights, constants and noise to those of the highest expected log likelihood and prior.

    Causes of a gene are often nearly collinear and its noise small, so that steps of one size for all weights are too
    large for some and too small for others. Weights are a least-squares solution (with the noise of the last call in
    the prior), noise follows. At these values the objective has no gradient in them, and the gradients of the rest are
    those of what it can reach.

    Parameters
    ----------
    mechanisms
        Changed in place.
    cells
        With means and scatter.
    probability
        ``(d, d)`` of edges, [cause, effect]. Those below 1e-4 count as 0, and get no weight.
    targets
        ``(k, d)`` probabilities.
    interventions
        Parameters ``(k, d)``.
    variance
        Of the normal prior of weights.
    """
    if cells.means is None or cells.scatter is None:
        msg = "linear mechanisms need cells summed with moments=True."
        raise ValueError(msg)
    n, means, t = (x.double() for x in (cells.counts[:, :1], cells.means, targets))
    p, causes = _likely(probability.T.double())
    d = len(p)
    if mechanisms.bias is not None:  # the constant is one more cause, always there
        means = torch.cat([means, means.new_ones(len(means), 1)], 1)
        p, causes = torch.cat([p, p.new_ones(d, 1)], 1), torch.cat([causes, causes.new_full((d, 1), d)], 1)
    places = torch.cat([causes, torch.arange(d, device=p.device)[:, None]], 1)  # of each gene: its causes, and itself
    make = _sums_of_the_free if interventions.log_sd is not None else _sums_less_the_shift
    whole, squares, number = make(n, means, cells.scatter.double(), t, interventions.mean.double(), places)
    inner, outer = whole[:, :-1, :-1], whole[:, :-1, -1]  # of causes with each other, and with what is to be explained
    spread = torch.diag_embed(p * (1 - p) * torch.diagonal(inner, dim1=1, dim2=2))
    curvature = p[:, :, None] * inner * p[:, None, :] + spread
    ridge = (2 * mechanisms.log_sd.double()).exp()[:, None] / variance
    ridge = ridge + _RELATIVE * torch.diagonal(curvature, dim1=1, dim2=2)  # tells causes apart that are the same
    weight = torch.linalg.solve(curvature + torch.diag_embed(ridge), (p * outer)[..., None]).squeeze(-1)
    left = squares - 2 * (weight * p * outer).sum(1) + torch.einsum("ja,jab,jb->j", weight, curvature, weight)
    log_sd = 0.5 * (left.clamp(min=0) / number.clamp(min=1)).log().clamp(min=2 * LEAST_LOG_SD)
    known = number >= 1  # of a gene that is a target everywhere nothing is known
    mechanisms.log_sd.copy_(torch.where(known, log_sd, mechanisms.log_sd.double()))
    if mechanisms.bias is not None:
        mechanisms.bias.copy_(weight[:, -1])
        weight, causes = weight[:, :-1], causes[:, :-1]
    mechanisms.weight.zero_()
    mechanisms.weight.scatter_(0, causes.T, weight.T.to(mechanisms.weight.dtype))


Sums = tuple[Tensor, Tensor, Tensor]


def _sums_of_the_free(n: Tensor, means: Tensor, scatter: Tensor, t: Tensor, _: Tensor, places: Tensor) -> Sums:
    """Of each gene's places, over cells by how far they follow its mechanism: products; squares of the gene; cells."""
    sums = _square(scatter, t.shape[1], means.shape[1]) + n[:, :, None] * means[:, :, None] * means[:, None, :]
    size = max(1, _AT_ONCE // (len(n) * places.shape[1] ** 2))
    parts = [
        torch.einsum("kj,kjab->jab", 1 - s, sums[:, at[:, :, None], at[:, None, :]])
        for at, s in zip(places.split(size), t.split(size, 1), strict=True)
    ]
    whole = torch.cat(parts)
    return whole, whole[:, -1, -1], ((1 - t) * n).sum(0)


def _sums_less_the_shift(n: Tensor, means: Tensor, scatter: Tensor, t: Tensor, shift: Tensor, places: Tensor) -> Sums:
    """The same over all cells, with the expected shift taken from the gene."""
    d = t.shape[1]
    sums = _square(scatter.sum(0, keepdim=True), d, means.shape[1])[0] + (n * means).T @ means
    whole = sums[places[:, :, None], places[:, None, :]]
    squares, at = whole[:, -1, -1].clone(), n * t * shift
    whole[:, :-1, -1] -= (at.T @ means).gather(1, places[:, :-1])
    return whole, squares - (at * (2 * means[:, :d] - shift)).sum(0), n.sum().expand(d)


def _likely(probability: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and numbers of each gene's causes that are not as good as ruled out; as many places as any gene needs."""
    possible = torch.where(probability < _RULED_OUT, 0.0, probability)
    most = int((possible > 0).sum(1).max())
    found = possible.topk(most, dim=1)
    return found.values, found.indices


def _square(upper: Tensor, d: int, size: int) -> Tensor:
    """Symmetric matrices of upper triangles, with room for the constant."""
    rows, columns = upper_triangle(d, upper.device)
    out = upper.new_zeros(len(upper), size, size)
    out[:, rows, columns] = upper
    out[:, columns, rows] = upper
    return out
