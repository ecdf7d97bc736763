"""Acyclicity of edge probabilities: the spectral radius as a penalty, and its multiplier."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["DualState", "acyclicity_penalty", "edge_bce", "spectral_radius"]

_FLOOR = -1e4  # stands for log 0: far below any path of probabilities, and still a number after sums of logs
_PERIODS = 12  # cycles whose length divides this converge exactly


def spectral_radius(log_weights: Tensor, *, rng: torch.Generator | None = None, start: Tensor | None = None) -> Tensor:
    """Give the largest absolute eigenvalue of nonnegative matrices, by power iterations on logarithms.

    The gradient is that of an eigenvalue: it flows through the matrix between the two eigenvectors, not through the
    iterations. After as many steps as there are genes only cycles carry weight; the next 12 vectors of each side are
    averaged (each on the scale of its step), since a single cycle makes plain iterations swing for ever.

    Parameters
    ----------
    log_weights
        ``(batch, n, n)`` logarithm of the matrices; ``-inf`` for 0. Below -10,000 counts as that.
    rng
        Draws the start of the iterations: log-normal.
    start
        ``(2, batch, n)`` standard normal numbers instead, for the left and the right eigenvectors.

    Returns
    -------
    torch.Tensor
        ``(batch,)``, at least 0; 0 where the matrix is that of an acyclic graph.
    """
    logs = log_weights.clamp(min=_FLOOR)
    batch, n, _ = logs.shape
    fixed = logs.detach()
    if start is None:
        start = torch.randn(2, batch, n, generator=rng, device=logs.device, dtype=logs.dtype)
    (left, _), (right, size) = (_eigenvector(m, s) for m, s in ((fixed.transpose(1, 2), start[0]), (fixed, start[1])))
    both = left[:, :, None] + logs + right[:, None, :]
    radius = (both.flatten(1).logsumexp(1) - (left + right).logsumexp(1)).exp()
    # every walk of n steps leaves an acyclic graph, so one that is still large goes round
    return torch.where(size > _FLOOR / 2, radius, 0.0)


@torch.no_grad()
def _eigenvector(logs: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the dominant right eigenvector, ``(batch, n)``, and of its growth over ``n`` steps, ``(batch,)``."""
    burn = x.shape[1]
    total = x.new_zeros(len(x), 1)
    vectors, sizes = [], []
    for step in range(burn + _PERIODS + 1):
        size = x.logsumexp(1, keepdim=True)
        x, total = x - size, total + size
        if step >= burn:
            vectors.append(x)
            sizes.append(total)
        x = (logs + x[:, None, :]).logsumexp(2)
    growth = (sizes[-1] - sizes[0]) / _PERIODS  # of a whole period: exact where single steps swing
    mean = torch.stack([v + s - sizes[0] - k * growth for k, (v, s) in enumerate(zip(vectors, sizes, strict=True))][1:])
    return mean.logsumexp(0), sizes[0].squeeze(1)


def acyclicity_penalty(logits: Tensor, *, rng: torch.Generator | None = None, start: Tensor | None = None) -> Tensor:
    """Mean spectral radius of the edge probabilities of a batch; the diagonal does not count.

    Parameters
    ----------
    logits
        ``(batch, genes, genes)``, [cause, effect].
    rng, start
        Start of the power iterations, see :func:`spectral_radius`.
    """
    diagonal = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return spectral_radius(F.logsigmoid(logits.float()).masked_fill(diagonal, _FLOOR), rng=rng, start=start).mean()


def edge_bce(logits: Tensor, adjacency: Tensor) -> Tensor:
    """Binary cross-entropy over all pairs of different genes, in nats.

    Parameters
    ----------
    logits, adjacency
        ``(batch, genes, genes)``, [cause, effect]; a graph of one gene has loss 0.
    """
    n = logits.shape[1]
    off = ~torch.eye(n, dtype=torch.bool, device=logits.device).expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits[off], adjacency.to(logits)[off], reduction="sum")
    return loss / max(1, len(logits) * n * (n - 1))


class DualState:
    """Multiplier of the penalty: it rises as long as the (averaged) penalty stays above 0.

    Parameters
    ----------
    lr
        Step of the multiplier.
    every
        Calls of :meth:`update` between two steps.
    rate
        Weight of the newest penalty in the running average, which starts at 0.
    warmup
        Calls over which ``lr`` rises linearly from 0.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(self, lr: float = 1e-4, every: int = 500, rate: float = 1e-4, warmup: int = 50_000) -> None:
        if lr < 0 or every < 1 or not 0 < rate <= 1 or warmup < 0:
            msg = f"lr and warmup must not be negative, every at least 1, rate in (0, 1]; got {lr=}, {every=}, {rate=}, {warmup=}."
            raise ValueError(msg)
        self.lr, self.every, self.rate, self.warmup = lr, every, rate, warmup
        self.weight, self.average, self.calls = 0.0, 0.0, 0

    def update(self, penalty: float) -> float:
        """Take in the penalty of a step (below 0 counts as 0) and return the multiplier for the next one."""
        if not math.isfinite(penalty):
            msg = f"The acyclicity penalty is {penalty} at call {self.calls}; the logits are not finite."
            raise ValueError(msg)
        self.calls += 1
        self.average += self.rate * (max(penalty, 0.0) - self.average)
        if self.calls % self.every == 0:
            warm = min(1.0, self.calls / self.warmup) if self.warmup else 1.0
            self.weight = max(0.0, self.weight + self.lr * warm * self.average)
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {"weight": self.weight, "average": self.average, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.weight, self.average = float(state["weight"]), float(state["average"])
        self.calls = int(state["calls"])
