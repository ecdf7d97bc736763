"""Features of ordered gene pairs ``[cause, effect]``, computed from the pair statistics of a screen.

They feed the pair-stream network and the tree baseline alike.  Products over third genes (``cause -> k -> effect``) are
taken over *all* genes before any subset is cut out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from causcade._gram import gram
from causcade.stats import PairStats

__all__ = [
    "GENE_FEATURES",
    "N_FEATURES",
    "PAIR_FEATURES",
    "SCREEN_FEATURES",
    "PairFeatures",
    "pair_features",
]

#: Features of a pair, in order; ``reverse`` ones are those of ``[effect, cause]``.
PAIR_FEATURES = (
    "z", "abs_z", "effect", "abs_z_detected", "z_nonzero",
    "reverse_abs_z", "reverse_effect", "reverse_abs_z_detected",
    "residual", "abs_residual", "correlation", "abs_correlation", "between", "partial", "abs_partial",
    "z_times_correlation", "reverse_z_times_correlation",
    "two_effects", "reverse_two_effects", "effect_correlation", "reverse_effect_correlation",
    "correlation_squared", "profile", "response",
)  # fmt: skip
#: Features of one gene, given for the cause and for the effect.
GENE_FEATURES = (
    "mean", "detection", "spread", "self_effect", "footprint", "regulated", "degree", "partial_degree",
    "perturbed", "cells",
)  # fmt: skip
SCREEN_FEATURES = ("n_cells", "n_genes", "depth", "coverage")
#: Statistics of pairs, and what they are multiplied by; some by the root of the number of cells too.
_SCALES = {
    "z": 1.0, "effect": 3.0, "z_detected": 1.0, "z_nonzero": 1.0,
    "residual": 0.5, "correlation": 0.5, "between": 2.0, "partial": 0.5,
}  # fmt: skip
_BY_CELLS = ("residual", "correlation", "partial", "z_times_correlation")
N_FEATURES = len(PAIR_FEATURES) + 2 * len(GENE_FEATURES) + len(SCREEN_FEATURES)


@dataclass(frozen=True)
class PairFeatures:
    """Features of all pairs of a screen, kept as statistics until a block is asked for.

    Attributes
    ----------
    matrices
        ``(n_genes, n_genes)`` each, ``[cause, effect]``, by name: statistics as they are. Scales, ``asinh``, absolute values
        and transposes are for blocks: a few targets need a small part of all pairs.
    scales
        What each is multiplied by before ``asinh``.
    genes
        ``(n_genes, len(GENE_FEATURES))``.
    screen
        ``(len(SCREEN_FEATURES),)``.
    """

    matrices: dict[str, Tensor]
    scales: dict[str, Tensor | float]
    genes: Tensor
    screen: Tensor

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.genes.shape[0]

    def block(self, causes: Tensor, effects: Tensor) -> Tensor:
        """Features of ``causes`` x ``effects``, ``(len(causes), len(effects), N_FEATURES)``."""
        forward, backward = (causes[:, None], effects[None]), (effects[None], causes[:, None])
        stems = {name: name.replace("abs_", "") for name in PAIR_FEATURES}
        made = {
            stem: self._values(stem.removeprefix("reverse_"), backward if stem.startswith("reverse_") else forward)
            for stem in dict.fromkeys(stems.values())
        }
        columns = [made[stem].abs() if stem != name else made[stem] for name, stem in stems.items()]
        pair = torch.stack(columns, -1)
        shape = pair.shape[:2]
        of_cause = self.genes[causes][:, None].expand(*shape, -1)
        of_effect = self.genes[effects][None].expand(*shape, -1)
        return torch.cat([pair, of_cause, of_effect, self.screen.expand(*shape, -1)], -1)

    def _values(self, name: str, where: tuple[Tensor, Tensor]) -> Tensor:
        parts = name.split("_times_")
        value = self.matrices[parts[0]][where]
        for other in parts[1:]:
            value = value * self.matrices[other][where]
        value = value * self.scales[name]
        return value if name == "between" else torch.asinh(value)


def pair_features(s: PairStats) -> PairFeatures:
    """Compute the features of a screen from its pair statistics.

    z-scores, correlations (times the root of the number of cells) and products are squashed by ``asinh``, so that their
    size is bounded gently and their sign kept.

    Parameters
    ----------
    s
        Pair statistics, ``[cause, effect]``.
    """
    root = s.n_cells**0.5
    strong = _soft(s.z, 1.5)
    off = s.residual
    matrices = {name: getattr(s, name) for name in _SCALES}
    scales: dict[str, Tensor | float] = {
        name: by * root if name in _BY_CELLS else by for name, by in (_SCALES | {"z_times_correlation": 0.1}).items()
    }
    for name, product in _products(strong, off, s.perturbed):
        matrices[name], scales[name] = product, _scale(product)
    return PairFeatures(matrices, scales, _gene_features(s), _screen_features(s))


def _products(strong: Tensor, off: Tensor, perturbed: Tensor) -> Iterator[tuple[str, Tensor]]:
    """By way of third genes. Rows of the matrix of effects are zero but for perturbed genes: only those are multiplied."""
    yield "correlation_squared", gram(off)
    hit = perturbed.nonzero()[:, 0]
    some = strong[hit]
    yield "two_effects", torch.zeros_like(strong).index_copy_(0, hit, some[:, hit] @ some)
    yield "effect_correlation", torch.zeros_like(strong).index_copy_(0, hit, some @ off)
    alike = torch.zeros_like(some).index_copy_(1, hit, gram(some.T))
    yield "profile", torch.zeros_like(strong).index_copy_(0, hit, alike)
    yield "response", gram(some)


def _soft(x: Tensor, by: float) -> Tensor:
    """Soft threshold without the diagonal: noise of many weak effects must not add up in products."""
    return (x.sign() * (x.abs() - by).clamp(min=0)).clone().fill_diagonal_(0).clamp(-30, 30)


def _scale(product: Tensor) -> Tensor:
    """Takes the diagonal out, and brings the root mean square of the rest to 3."""
    n = len(product)
    product.fill_diagonal_(0)
    return 3 / (product.square().sum() / max(n * (n - 1), 1)).sqrt().clamp(min=1e-9)


def _gene_features(s: PairStats) -> Tensor:
    n = s.n_genes
    z = s.z.clone().fill_diagonal_(0).clamp(-30, 30)
    rows = s.perturbed.to(z.dtype)
    footprint = z.square().sum(1) / max(n - 1, 1) - rows
    regulated = z.square().sum(0) / rows.sum().clamp(min=1) - 1
    degree = s.residual.square().sum(1) * s.n_cells / n - 1
    partial = s.partial.square().sum(1) * s.n_cells / n - 1
    columns = (
        s.mean - s.mean.mean(),
        2 * s.detection - 1,
        torch.log(s.spread.clamp(min=1e-3)),
        torch.asinh(s.z.diagonal()),
        torch.asinh(5 * footprint),
        torch.asinh(5 * regulated),
        torch.asinh(degree),
        torch.asinh(partial),
        rows,
        torch.log1p(s.cells) / 3,
    )
    return torch.stack([c.to(torch.float32) for c in columns], -1)


def _screen_features(s: PairStats) -> Tensor:
    values = torch.tensor([s.n_cells, s.n_genes, s.depth, 1.0], dtype=torch.float32, device=s.z.device)
    out = torch.log(values.clamp(min=1)) / 5 - 1
    out[3] = s.perturbed.float().mean()
    return out
