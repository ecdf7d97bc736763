"""Steps of the stochastic differential equations of a gene regulatory network. Public through ``grn``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from causcade.simulate.grn import GRN, Sampling

__all__ = ["NOISE_KINDS", "hill_function", "run", "thin"]

#: Stationary variance of a gene at constant production, in units of ``noise**2`` times its mean.
NOISE_KINDS = {"dpd": 1.0, "sp": 0.5, "spd": 2.0}


def hill_function(x: Tensor, half: Tensor, exponent: float) -> Tensor:
    """Hill activation ``x**n / (half**n + x**n)``, 0 at ``x <= 0``."""
    ratio = (x.clamp(min=0) / half).pow(exponent).clamp_(max=1e30)  # infinity over infinity is no number
    return ratio / (1 + ratio)


def run(
    grn: GRN,
    start: Tensor,
    types: Tensor,
    keep: Tensor,
    half: Tensor,
    n_takes: int,
    sampling: Sampling,
    gen: torch.Generator,
) -> Tensor:
    """Euler-Maruyama over a block of chains.

    Parameters
    ----------
    grn
        The network.
    start
        ``(n_chains, n_genes)`` noise-free steady state.
    types
        ``(n_chains,)`` cell type.
    keep, half
        ``(n_chains, n_genes)`` factor on the production and half-response of every gene.
    n_takes
        Cells taken from every chain.
    sampling
        Steps and times.
    gen
        Randomness.

    Returns
    -------
    ``(n_takes, n_chains, n_genes)``.
    """
    dpd = grn.noise_kind == "dpd" and sampling.start_noise  # short chains are not stationary: step every gene
    steps = grn.regulators if dpd else torch.arange(grn.n_genes, device=start.device)
    reg = grn.regulators
    where = torch.searchsorted(steps, reg)  # regulators among the stepped genes
    base_all = grn.basal[types] + grn.strength.clamp(max=0).abs().sum(0)
    into_steps, into_all = grn.strength[reg][:, steps].contiguous(), grn.strength[reg]
    base, kept, half_reg = base_all[:, steps], keep[:, steps], half[:, reg]
    x = _start(grn, start[:, steps], sampling, gen)
    filtered = hill_function(start[:, reg], half_reg, grn.hill) / grn.decay
    first = max(1, round(sampling.burn_in / sampling.dt))
    gap = max(1, round(sampling.interval / sampling.dt))
    out = torch.empty((n_takes, *start.shape), device=start.device)
    noise, root = torch.empty_like(x), grn.noise * math.sqrt(sampling.dt)
    for t in range(1, first + gap * (n_takes - 1) + 1):
        hill = hill_function(x[:, where], half_reg, grn.hill)
        # full repression is 0, which rounding must not make negative: it goes under a root
        production = torch.addmm(base, hill, into_steps).mul_(kept).clamp_(min=0)
        noise.normal_(generator=gen)
        amplitude = _amplitude(production, x, grn)
        x.add_(production - grn.decay * x, alpha=sampling.dt).addcmul_(amplitude, noise, value=root).clamp_(min=0)
        filtered.add_(hill - grn.decay * filtered, alpha=sampling.dt)
        if t >= first and (t - first) % gap == 0:
            taken = _unstepped(grn, filtered, base_all, into_all, keep, gen) if dpd else x
            out[(t - first) // gap] = taken.index_copy_(1, steps, x) if dpd else taken
    return out


def _start(grn: GRN, steady: Tensor, sampling: Sampling, gen: torch.Generator) -> Tensor:
    """Steady state with its intrinsic noise."""
    x = steady.clone()
    if sampling.start_noise:
        sd = grn.noise * math.sqrt(NOISE_KINDS[grn.noise_kind])
        x += sd * x.clamp(min=0).sqrt() * torch.randn(x.shape, generator=gen, device=x.device)
        x.clamp_(min=0)
    return x


def _amplitude(production: Tensor, x: Tensor, grn: GRN) -> Tensor:
    if grn.noise_kind == "dpd":  # two independent sources have the law of one
        return (production + grn.decay * x).sqrt_()
    if grn.noise_kind == "sp":
        return production.sqrt()
    return production.sqrt() + (grn.decay * x).sqrt()


def _unstepped(grn: GRN, filtered: Tensor, base: Tensor, into: Tensor, keep: Tensor, gen: torch.Generator) -> Tensor:
    """Genes that regulate nothing at one time, drawn from their conditional mean and variance (``dpd``)."""
    mean = (torch.addmm(base / grn.decay, filtered, into) * keep).clamp_(min=0)
    cells = mean + grn.noise * mean.sqrt() * torch.randn(mean.shape, generator=gen, device=mean.device)
    return cells.clamp_(min=0)


def thin(x: Tensor, rows: Tensor, genes: Tensor, lost: Tensor, grn: GRN, gen: torch.Generator) -> None:
    """Perturb genes that regulate nothing in place.

    Scaling by ``s = 1 - lost`` and adding variance ``c * noise**2 * s (1 - s) * x`` (``c`` in :data:`NOISE_KINDS`)
    gives the stationary mean and variance of a production scaled by ``s``, and keeps the covariance with the
    regulators.  Where production grows (``s > 1``) the mean is right and the variance ``s`` times too large.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` unperturbed cells; changed.
    rows, genes, lost
        Cells, the gene perturbed in each, and the share of its production that is lost.
    grn
        The network.
    gen
        Randomness.
    """
    scale = (1 - lost).clamp(min=0)
    value = x[rows, genes]
    spread = (scale * (1 - scale)).clamp(min=0) * value
    sd = grn.noise * math.sqrt(NOISE_KINDS[grn.noise_kind])
    draw = torch.randn(value.shape, generator=gen, device=x.device)
    x[rows, genes] = (scale * value + sd * spread.sqrt() * draw).clamp(min=0)
