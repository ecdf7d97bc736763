"""Pair-stream network: cause logits of all ordered pairs of a set of genes, from pair statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from causcade.nn.axial import AxialLayer, PathProduct
from causcade.nn.compose import Composition
from causcade.pairs import N_FEATURES

__all__ = ["PairStream", "PairStreamConfig", "pair_loss"]


@dataclass(frozen=True)
class PairStreamConfig:
    """Sizes of a :class:`PairStream`.

    Attributes
    ----------
    width, layers, heads, hidden
        Width of the stream, number of axial layers, heads, and width of the feed-forward layers.
    paths
        Channels of the two-step path product in each layer (0 = none).
    features
        Number of input features per pair.
    rounds
        Rounds of the composition of the scores of a whole screen (0 = none), see :mod:`causcade.nn.compose`.
    """

    width: int = 32
    layers: int = 4
    heads: int = 4
    hidden: int = 96
    paths: int = 8
    features: int = N_FEATURES
    rounds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for ``config.json``."""
        return {k: v for k, v in asdict(self).items() if v or k != "rounds"}


class PairStream(nn.Module):
    """Axial transformer over the grid (causes x effects) of a set of genes.

    Equivariant to the order of the genes; takes any number of them.

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: PairStreamConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PairStreamConfig()
        self.embed = nn.Sequential(nn.Linear(c.features, 2 * c.width), nn.GELU(), nn.Linear(2 * c.width, c.width))
        self.layers = nn.ModuleList(AxialLayer(c.width, c.heads, c.hidden) for _ in range(c.layers))
        self.paths = nn.ModuleList(PathProduct(c.width, c.paths) for _ in range(c.layers if c.paths else 0))
        self.head = nn.Sequential(
            nn.LayerNorm(c.width), nn.Linear(c.width, 2 * c.width), nn.GELU(), nn.Linear(2 * c.width, 1)
        )
        self.skip = nn.Linear(c.features, 1)  # a direct way out: the net starts as a logistic regression
        nn.init.zeros_(self.head.get_parameter("3.weight"))
        nn.init.constant_(self.skip.bias, -4.0)  # about the share of cause pairs
        #: Composes the scores of all pairs of a screen; learned last, while the rest stays as it is.
        self.compose = Composition(c.rounds).requires_grad_(False) if c.rounds else None

    def forward(self, features: Tensor, *, recompute: bool = False) -> Tensor:
        """Logits ``(batch, n, n)``, ``[cause, effect]``, not composed, of features ``(batch, n, n, n_features)``.

        ``recompute`` trades time for memory in the backward pass.
        """
        features = features.clamp(-8, 8)
        x = self.embed(features)
        for i, layer in enumerate(self.layers):
            if self.paths:
                x = x + self.paths[i](x)
            x = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
        return (self.head(x) + self.skip(features)).squeeze(-1)

    @torch.no_grad()
    def n_parameters(self) -> int:
        """Number of parameters, those of a composition included."""
        return sum(p.numel() for p in self.parameters())


def pair_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of each item over the entropy of its share of causes, averaged over items.

    Dense graphs have many causes and an entropy of their own that no network can remove; undivided they would drown the
    sparse ones.  The weight is one number per item, so probabilities stay calibrated within it.
    """
    axes, used = (1, 2), valid.float()
    n = used.sum(axes).clamp(min=1)
    each = (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * used).sum(axes) / n
    share = ((labels * used).sum(axes) / n).clamp(1e-4, 0.5)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    return (each / (entropy + 0.02)).mean()
