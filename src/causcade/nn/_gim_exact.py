"""Best linear mechanisms for given edges and interventions: what gradients take thousands of steps for."""

from __future__ import annotations

import torch
from torch import Tensor

from causcade.nn._gim_cells import Cells, upper_triangle
from causcade.nn._gim_interventions import Interventions
from causcade.nn._gim_mechanisms import LEAST_LOG_SD, LinearMechanisms

__all__ = ["solve_linear"]


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
        ``(d, d)`` of edges, [cause, effect].
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
    n, means, p, t = (x.double() for x in (cells.counts[:, :1], cells.means, probability.T, targets))
    d = len(p)
    ones = means.new_ones(len(means), 1)
    if mechanisms.bias is not None:  # the constant is one more cause, always there
        means, p = torch.cat([means, ones], 1), torch.cat([p, p.new_ones(d, 1)], 1)
    scatter = cells.scatter.double()
    hard = interventions.log_sd is not None
    free = (1 - t) * n if hard else n.expand(-1, d)  # cells that follow the mechanism, by gene
    if hard:
        inner = _square((1 - t).T @ scatter, d, means.shape[1])  # (effect, cause, cause)
        inner = inner + torch.einsum("kj,ka,kb->jab", free, means, means)
        moved = torch.zeros_like(p)
        at = torch.zeros_like(t)
    else:
        inner = _square(scatter.sum(0, keepdim=True), d, means.shape[1]) + (n * means).T @ means
        inner = inner.expand(d, -1, -1)
        at = t * interventions.mean.double()
        moved = (n * at).T @ means
    effects = torch.arange(d, device=p.device)
    outer = inner[effects, effects] - moved  # products of causes with what is to be explained
    own = torch.diagonal(inner, dim1=1, dim2=2)
    squares = own[effects, effects]
    if not hard:
        shift = interventions.mean.double()
        squares = squares - (n * at * (2 * means[:, :d] - shift)).sum(0)
    curvature = p[:, :, None] * inner * p[:, None, :] + torch.diag_embed(p * (1 - p) * own)
    ridge = (2 * mechanisms.log_sd.double()).exp()[:, None] / variance
    weight = torch.linalg.solve(curvature + torch.diag_embed(ridge.expand_as(p)), (p * outer)[..., None])[..., 0]
    left = squares - 2 * (weight * p * outer).sum(1) + torch.einsum("ja,jab,jb->j", weight, curvature, weight)
    number = free.sum(0)
    log_sd = 0.5 * (left.clamp(min=0) / number.clamp(min=1)).log().clamp(min=2 * LEAST_LOG_SD)
    known = number >= 1  # of a gene that is a target everywhere nothing is known
    mechanisms.log_sd.copy_(torch.where(known, log_sd, mechanisms.log_sd.double()))
    mechanisms.weight.copy_(weight[:, :d].T)
    if mechanisms.bias is not None:
        mechanisms.bias.copy_(weight[:, d])


def _square(upper: Tensor, d: int, size: int) -> Tensor:
    """Symmetric matrices of upper triangles, with room for the constant."""
    rows, columns = upper_triangle(d, upper.device)
    out = upper.new_zeros(len(upper), size, size)
    out[:, rows, columns] = upper
    out[:, columns, rows] = upper
    return out
