"""Features of ordered gene pairs ``[cause, effect]``, computed from the pair statistics of a screen.

They feed the pair-stream network and the tree baseline alike.  Products over third genes (``cause -> k -> effect``) are
taken over *all* genes before any subset is cut out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
N_FEATURES = len(PAIR_FEATURES) + 2 * len(GENE_FEATURES) + len(SCREEN_FEATURES)


@dataclass(frozen=True)
class PairFeatures:
    """Features of all pairs of a screen, kept as matrices until a block is asked for.

    Attributes
    ----------
    matrices
        ``(n_genes, n_genes)`` each, ``[cause, effect]``, by name; absolute values and transposes are made on demand.
    genes
        ``(n_genes, len(GENE_FEATURES))``.
    screen
        ``(len(SCREEN_FEATURES),)``.
    """

    matrices: dict[str, Tensor]
    genes: Tensor
    screen: Tensor

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.genes.shape[0]

    def block(self, causes: Tensor, effects: Tensor) -> Tensor:
        """Features of ``causes`` x ``effects``, ``(len(causes), len(effects), N_FEATURES)``."""
        forward = (causes[:, None], effects[None])
        backward = (effects[None], causes[:, None])
        columns = []
        for name in PAIR_FEATURES:
            absolute, stem = "abs_" in name, name.replace("abs_", "")
            where = backward if stem.startswith("reverse_") else forward
            value = self.matrices[stem.removeprefix("reverse_")][where]
            columns.append(value.abs() if absolute else value)
        pair = torch.stack(columns, -1)
        shape = pair.shape[:2]
        of_cause = self.genes[causes][:, None].expand(*shape, -1)
        of_effect = self.genes[effects][None].expand(*shape, -1)
        return torch.cat([pair, of_cause, of_effect, self.screen.expand(*shape, -1)], -1)


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
    z = torch.asinh(s.z)
    matrices = {
        "z": z,
        "effect": torch.asinh(3 * s.effect),
        "z_detected": torch.asinh(s.z_detected),
        "z_nonzero": torch.asinh(s.z_nonzero),
        "residual": torch.asinh(0.5 * root * s.residual),
        "correlation": torch.asinh(0.5 * root * s.correlation),
        "between": 2 * s.between,
        "partial": torch.asinh(0.5 * root * s.partial),
        "z_times_correlation": torch.asinh(s.z * s.correlation * 0.1 * root),
        "correlation_squared": _squash(off @ off),
    }
    matrices |= {name: _squash(product) for name, product in _through_effects(strong, off, s.perturbed)}
    return PairFeatures(matrices, _gene_features(s), _screen_features(s))


def _through_effects(strong: Tensor, off: Tensor, perturbed: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Products with the matrix of effects, whose rows are zero but for perturbed genes: only those are multiplied."""
    hit = perturbed.nonzero()[:, 0]
    some = strong[hit]
    yield "two_effects", torch.zeros_like(strong).index_copy_(0, hit, some[:, hit] @ some)
    yield "effect_correlation", torch.zeros_like(strong).index_copy_(0, hit, some @ off)
    alike = torch.zeros_like(some).index_copy_(1, hit, some @ some.T)
    yield "profile", torch.zeros_like(strong).index_copy_(0, hit, alike)
    yield "response", some.T @ some


def _soft(x: Tensor, by: float) -> Tensor:
    """Soft threshold without the diagonal: noise of many weak effects must not add up in products."""
    return (x.sign() * (x.abs() - by).clamp(min=0)).clone().fill_diagonal_(0).clamp(-30, 30)


def _squash(product: Tensor) -> Tensor:
    """Scale by the root mean square of the off-diagonal entries, then asinh."""
    n = len(product)
    product = product.clone().fill_diagonal_(0)
    scale = (product.square().sum() / max(n * (n - 1), 1)).sqrt().clamp(min=1e-9)
    return torch.asinh(3 * product / scale)


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
