"""Steps of the stochastic differential equations of a gene regulatory network. Public through ``grn``."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from causcade.simulate.grn import GRN, Sampling

__all__ = ["NOISE_KINDS", "hill_function", "reflected", "run", "thin"]

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
) -> tuple[Tensor, Tensor]:
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
    Cells ``(n_takes, n_chains, n_genes)``, and for each gene the mean given the path of its regulators.
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
    out, means = (torch.empty((n_takes, *start.shape), device=start.device) for _ in range(2))
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
            at = (t - first) // gap
            means[at] = (torch.addmm(base_all / grn.decay, filtered, into_all) * keep).clamp_(min=0)
            out[at] = _unstepped(grn, means[at], gen).index_copy_(1, steps, x) if dpd else x
    return out, means


def _start(grn: GRN, steady: Tensor, sampling: Sampling, gen: torch.Generator) -> Tensor:
    """Steady state with its intrinsic noise."""
    x = steady.clone()
    if sampling.start_noise and grn.noise_kind == "dpd":
        return _unstepped(grn, x, gen)
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


def _unstepped(grn: GRN, mean: Tensor, gen: torch.Generator) -> Tensor:
    """Genes that regulate nothing at one time, given the mean that their regulators' path leaves them (``dpd``)."""
    q = max(grn.noise, 1e-6) ** 2
    return reflected(mean / q, gen) * q


def reflected(mean: Tensor, gen: torch.Generator) -> Tensor:
    """Stationary draws of ``dx = (m - x) dt + sqrt(m + x) dW`` that is kept above 0 at every step.

    ``x + m`` is a Feller diffusion, so ``x + m`` has the law Gamma(4 m, rate 2) cut off below ``m``.  Drawn through a
    table of quantiles over ``log m`` and a normal score.

    Parameters
    ----------
    mean
        ``m`` of every draw: production over decay, in units of the squared noise amplitude.
    gen
        Randomness.
    """
    logs, table, scores = (t.to(mean.device) for t in _quantiles())
    score = torch.randn(mean.shape, generator=gen, device=mean.device).clamp_(-4.99, 4.99)
    bounded = mean.clamp(math.exp(logs[0]), math.exp(logs[-1]) * 0.999)
    i = (bounded.log() - logs[0]) / (logs[1] - logs[0])
    j = (score - scores[0]) / (scores[1] - scores[0])
    i0, j0 = i.floor().clamp_(0, len(logs) - 2).long(), j.floor().clamp_(0, len(scores) - 2).long()
    u, v = i - i0, j - j0
    flat, at = table.reshape(-1), i0 * len(scores) + j0
    low = torch.lerp(flat[at], flat[at + 1], v)
    draw = torch.lerp(low, torch.lerp(flat[at + len(scores)], flat[at + len(scores) + 1], v), u)
    # beyond the table the law is Gaussian (above) or all mass is at 0 (below)
    return torch.where(mean > bounded, mean + mean.sqrt() * score, draw * (mean / bounded).clamp(max=1)).clamp_(min=0)


@cache
def _quantiles() -> tuple[Tensor, Tensor, Tensor]:
    """Grid of ``log m``, quantiles ``(grid, scores)``, normal scores."""
    logs = torch.linspace(math.log(1e-3), math.log(400.0), 150, dtype=torch.float64)
    scores = torch.linspace(-5, 5, 201, dtype=torch.float64)
    m = logs.exp()[:, None]
    x = torch.linspace(0, 1, 3000, dtype=torch.float64)[None] ** 2 * (m + 12 * m.sqrt() + 12)
    upper = torch.special.gammaincc(4 * m, 2 * (x + m)) / torch.special.gammaincc(4 * m, 2 * m)  # survival, falls
    wanted = torch.special.erfc(scores / math.sqrt(2)) / 2
    place = torch.searchsorted(-upper, -wanted.expand(len(m), -1).contiguous()).clamp(1, x.shape[1] - 1)
    high, low = upper.gather(1, place - 1), upper.gather(1, place)
    share = ((high - wanted) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    table = torch.lerp(x.gather(1, place - 1), x.gather(1, place), share)
    return logs.float(), table.float(), scores.float()


def thin(x: Tensor, rows: Tensor, genes: Tensor, scale: Tensor, mean: Tensor, grn: GRN, gen: torch.Generator) -> None:
    """Perturb genes that regulate nothing in place.

    Under ``dpd`` noise they are drawn anew from the mean that their regulators' path leaves them, times ``scale``.
    Otherwise scaling and adding variance ``c * noise**2 * s (1 - s) * x`` (``c`` in :data:`NOISE_KINDS`) gives the
    stationary mean and variance of a production scaled by ``s``; where production grows the variance is ``s`` times
    too large.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` unperturbed cells; changed.
    rows, genes, scale
        Cells, the gene perturbed in each, and the factor on its production.
    mean
        Conditional mean of that gene in that cell, before the perturbation.
    grn
        The network.
    gen
        Randomness.
    """
    if grn.noise_kind == "dpd":
        x[rows, genes] = _unstepped(grn, mean * scale, gen)
        return
    value = x[rows, genes]
    spread = (scale * (1 - scale)).clamp(min=0) * value
    sd = grn.noise * math.sqrt(NOISE_KINDS[grn.noise_kind])
    draw = torch.randn(value.shape, generator=gen, device=x.device)
    x[rows, genes] = (scale * value + sd * spread.sqrt() * draw).clamp(min=0)
