"""Composition of cause scores along paths: if A drives K and K drives B, then A drives B.

The networks see a set of a hundred genes at a time, in which the genes between a cause and a far effect are mostly
missing.  A composition takes the scores of all pairs of the whole screen, so that no intermediate gene is missing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Composition"]

_LIMIT = 15.0  # of logits
_ROWS = 256  # causes in a block, where no gradient is wanted
_TINY = 1e-5
_N_CHANNELS = 2
_N_FEATURES = 4 + 8 * _N_CHANNELS


class Composition(nn.Module):
    """Rounds of composition; equivariant to the order of the genes, for any number of them.

    A round multiplies probabilities along paths through one other gene, ``sum over k of p[i, k]^2 p[k, j]^2``, and joins
    them with the pair's own by a noisy-or.  A small network then corrects the result by what else the matrix says about the
    pair: longer paths, common causes and effects, how many causes and effects either gene has.  It starts at no correction.

    Parameters
    ----------
    rounds
        Number of rounds.
    hidden
        Width of the correcting network.

    Raises
    ------
    ValueError
        If there are no rounds.
    """

    def __init__(self, rounds: int = 1, hidden: int = 24) -> None:
        super().__init__()
        if rounds < 1:
            msg = f"A composition has at least 1 round, not {rounds}."
            raise ValueError(msg)
        self.rounds = nn.ModuleList(_Round(hidden) for _ in range(rounds))

    def forward(self, logits: Tensor) -> Tensor:
        """Composed logits ``(n, n)``, ``[cause, effect]``, of the logits of all pairs of a screen.

        The diagonal is not used, and NaN counts as no evidence for a cause.
        """
        x = logits.float().nan_to_num(nan=-_LIMIT)
        for a_round in self.rounds:
            x = a_round(x.clamp(-_LIMIT, _LIMIT))
        return x.clamp(-_LIMIT, _LIMIT)


class _Round(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([1.0, 2.0]))  # the last is the one whose paths are joined
        self.shift = nn.Parameter(torch.zeros(_N_CHANNELS))
        self.root = nn.Parameter(torch.tensor(0.5))
        self.correct = nn.Sequential(
            nn.Linear(_N_FEATURES, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )
        nn.init.zeros_(self.correct.get_parameter("4.weight"))
        nn.init.zeros_(self.correct.get_parameter("4.bias"))

    def forward(self, x: Tensor) -> Tensor:
        off = 1 - torch.eye(len(x), device=x.device)
        channels = [(p * F.logsigmoid(x + s)).exp() * off for p, s in zip(self.power, self.shift, strict=True)]
        if torch.is_grad_enabled():
            return self._rows(x, channels, torch.arange(len(x), device=x.device))
        blocks = torch.arange(len(x), device=x.device).split(_ROWS)
        return torch.cat([self._rows(x, channels, rows) for rows in blocks])

    def _rows(self, x: Tensor, channels: list[Tensor], rows: Tensor) -> Tensor:
        """Composed logits of some causes."""
        own, n = x[rows], len(x)
        seen = [own, x.T[rows]]
        for p in channels:
            through = p[rows] @ p
            seen += [_log(m) for m in (through, through @ p, p.T[rows] @ p, p[rows] @ p.T)]
            effects, causes = _log(p.mean(1)), _log(p.mean(0))
            seen += [effects[rows, None].expand_as(own), effects.expand_as(own)]
            seen += [causes[rows, None].expand_as(own), causes.expand_as(own)]
        joined = _noisy_or(own, through, self.root)
        seen += [joined, torch.full_like(own, math.log(n))]
        corrected: Tensor = joined + self.correct(0.3 * torch.stack(seen, -1)).squeeze(-1)
        return corrected


def _log(x: Tensor) -> Tensor:
    return (x + _TINY).log()


def _noisy_or(own: Tensor, through: Tensor, root: Tensor) -> Tensor:
    """Logit of "direct or along a path", where a path is there with probability ``(1 - exp(-through)) ** root``."""
    path = (root * (-torch.expm1(-through)).clamp(1e-7, 1 - _TINY).log()).exp().clamp(max=1 - _TINY)
    neither = (torch.log1p(-path) + F.logsigmoid(-own)).clamp(max=-1e-7)
    return torch.log(-torch.expm1(neither)) - neither
