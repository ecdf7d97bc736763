"""Continuous stand-ins for binary unknowns: Gumbel-sigmoid draws and a graph made of two latent vectors per gene."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Draws", "LatentGraph", "annealed", "closed_walks", "cosine_ramp", "gumbel_sigmoid", "sample_radius"]

_PERIODS = 12  # cycles whose length divides this converge exactly


class Draws(NamedTuple):
    """Draws of Bernoulli variables, both kinds from the same noise.

    Attributes
    ----------
    logits
        Logits of the soft draws.
    soft
        In (0, 1), differentiable.
    hard
        0 or 1, exact draws, without gradient; 1 where ``soft`` is above one half.
    """

    logits: Tensor
    soft: Tensor
    hard: Tensor


def gumbel_sigmoid(logits: Tensor, n: int, *, tau: float = 1.0, rng: torch.Generator | None = None) -> Draws:
    """Draw Bernoulli variables of given logits: soft and hard.

    Parameters
    ----------
    logits
        Any shape.
    n
        Number of draws, a new first axis.
    tau
        Inverse temperature: the soft draw is ``sigmoid(tau * (logistic noise + logits))``.
    rng
        Noise.
    """
    uniform = torch.rand(n, *logits.shape, generator=rng, device=logits.device, dtype=logits.dtype)
    tiny = torch.finfo(logits.dtype).eps
    uniform = uniform.clamp(tiny, 1 - tiny)  # the noise must stay finite
    relaxed = tau * (uniform.log() - (-uniform).log1p() + logits)
    return Draws(relaxed, relaxed.sigmoid(), (relaxed > 0).to(logits.dtype))


def annealed(step: int, slope: float, cap: float = math.inf) -> float:
    """Sharpness ``alpha`` after a number of steps: ``min(slope * step, cap)``."""
    return min(slope * step, cap)


def cosine_ramp(step: int, steps: int) -> float:
    """Half a cosine wave from 0 at step 0 to 1 at ``steps`` and after; 1 throughout if ``steps`` is 0."""
    done = min(1.0, step / steps) if steps > 0 else 1.0
    return 0.5 - 0.5 * math.cos(math.pi * done)


def sample_radius(graphs: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
    """Spectral radius of many weighted graphs, ``(n,)``: 0 if and only if a graph has no cycle (NO-BEARS).

    As :func:`causcade.nn.acyclic.spectral_radius`, but of the weights themselves, in double precision: much
    faster. After as many steps as there are genes only cycles carry weight; the mean over the next
    12 steps is the eigenvector, since a single cycle makes plain iterations swing for ever. The gradient is that of an
    eigenvalue.

    Parameters
    ----------
    graphs
        ``(n, d, d)``, not negative, no weight on the diagonal.
    rng
        Start of the power iterations: uniform, at least one half.
    """
    fixed = graphs.detach().double()
    shape = (2, len(fixed), fixed.shape[1], 1)
    start = 0.5 + torch.rand(shape, generator=rng, device=fixed.device, dtype=fixed.dtype)
    left, right = _eigenvector(fixed.transpose(1, 2), start[0]), _eigenvector(fixed, start[1])
    both = (left * right).sum((1, 2))
    cyclic = both > 0  # walks of d steps have left an acyclic graph: nothing remains of them
    outer = left * right.transpose(1, 2) / torch.where(cyclic, both, 1.0)[:, None, None]
    return torch.where(cyclic, (outer.to(graphs.dtype) * graphs).sum((1, 2)), 0.0)


def closed_walks(weights: Tensor) -> Tensor:
    """``tr((1 + W / d)^d) - d``, a scalar: 0 if and only if the weighted graph has no cycle (as in DiBS).

    Unlike the spectral radius it has a gradient on every cycle, not on the heaviest alone.

    Parameters
    ----------
    weights
        ``(d, d)``, not negative, no weight on the diagonal.
    """
    d = len(weights)
    step = torch.eye(d, dtype=weights.dtype, device=weights.device) + weights / d
    return torch.linalg.matrix_power(step, d).diagonal().sum() - d


@torch.no_grad()
def _eigenvector(graphs: Tensor, x: Tensor) -> Tensor:
    """Dominant right eigenvectors ``(n, d, 1)``; 0 where there is none."""
    least = torch.finfo(x.dtype).tiny
    logs = x.new_zeros(len(x), 1, 1)
    vectors, sizes = [], []
    for step in range(x.shape[1] + _PERIODS):
        x = graphs @ x
        norm = x.sum(1, keepdim=True)
        x = x / norm.clamp(min=least)
        if step >= x.shape[1]:
            logs = logs + norm.clamp(min=least).log()
            vectors.append(x)
            sizes.append(logs)
    growth = logs / _PERIODS  # of a whole period: exact where single steps swing
    return sum(
        (v * (s - k * growth).exp() for k, (v, s) in enumerate(zip(vectors, sizes, strict=True), 1)), x.new_zeros(())
    )


class LatentGraph(nn.Module):
    """Random graph whose edge logits are inner products: ``alpha * z_cause . z_effect``.

    Parameters
    ----------
    n_genes
        Number of genes.
    rank
        Length of the latent vectors; from ``n_genes`` on any graph can be represented (the default).
    sd
        Standard deviation of the start.
    rng
        Start: normal.
    """

    def __init__(
        self, n_genes: int, rank: int | None = None, *, sd: float = 1.0, rng: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.z = nn.Parameter(sd * torch.randn(2, n_genes, rank or n_genes, generator=rng))

    @torch.no_grad()
    def assign(self, scores: Tensor) -> None:
        """Take latent vectors that have these inner products; there must be as many as genes."""
        self.z.zero_()
        n = len(scores)
        self.z[0, :, :n], self.z[1, :, :n] = scores, torch.eye(n)

    def scores(self) -> Tensor:
        """Inner products ``(n_genes, n_genes)``, [cause, effect]; the graph of the fit has the positive ones."""
        return self.z[0] @ self.z[1].T

    def logits(self, alpha: float) -> Tensor:
        """Edge logits at a sharpness, [cause, effect]; ``-inf`` on the diagonal."""
        scores = alpha * self.scores()
        return scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)

    def probability(self, alpha: float) -> Tensor:
        """Edge probabilities, [cause, effect]; 0 on the diagonal."""
        return self.logits(alpha).sigmoid()

    def draw(self, n: int, alpha: float, *, tau: float = 1.0, rng: torch.Generator | None = None) -> Draws:
        """Draw graphs ``(n, n_genes, n_genes)``, [cause, effect], no edge on the diagonal."""
        return gumbel_sigmoid(self.logits(alpha), n, tau=tau, rng=rng)

    def hard(self) -> Tensor:
        """Most probable graph, bool ``(n_genes, n_genes)``, [cause, effect]; it may have cycles."""
        return self.logits(1.0).detach() > 0
