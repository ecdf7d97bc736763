"""Training items: screens are measured, turned into network inputs, and cut into small sets of genes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from causcade.pairs import GENE_FEATURES, PairFeatures, pair_features
from causcade.pretrain.recipe import Recipe
from causcade.simulate.episodes import Screen, ScreenPrior, assay
from causcade.simulate.graphs import ancestors
from causcade.stats import Moments, cell_values, log_normalise, pair_stats

__all__ = ["Sample", "make_item", "make_samples", "screen_features"]


@dataclass
class Sample:
    """One assay of one screen, ready to be cut into training items; ``known``: which of the truth is (``None``: all)."""

    truth: Tensor
    features: PairFeatures | None = None
    values: Tensor | None = None
    codes: Tensor | None = None
    single: Tensor | None = None
    known: Tensor | None = None


def make_samples(screen: Screen, recipe: Recipe, prior: ScreenPrior, index: int) -> list[Sample]:
    """Measure a screen ``recipe.assays`` times; a tenth of the genes is left unmeasured half of the time."""
    truth = ancestors(screen.grn.adjacency)
    out = []
    for a in range(recipe.assays):
        seed = recipe.seed * 1_000_003 + index
        counts, _ = assay(screen, prior, seed, a)
        gen = torch.Generator(counts.device).manual_seed(seed * 31 + a)
        n = counts.shape[1]
        dropped = 0.1 * float(torch.randint(0, 2, (1,), generator=gen, device=counts.device))
        kept = torch.randperm(n, generator=gen, device=counts.device)[: n - round(dropped * n)].sort().values
        counts, single = counts[:, kept], screen.single[kept]
        labels = truth[kept][:, kept]
        if recipe.network == "pairs":
            out.append(Sample(labels, features=screen_features(counts, screen, single)))
        else:
            values = cell_values(counts, counts.sum(1))
            out.append(Sample(labels, values=values, codes=screen.codes, single=single))
    return out


def screen_features(counts: Tensor, screen: Screen, single: Tensor) -> PairFeatures:
    """Pair features of a measured screen."""
    total = counts.sum(1)
    y = log_normalise(counts, total, total[total > 0].median())
    groups = screen.types if screen.groups_known else torch.zeros_like(screen.types)
    moments = Moments.empty(len(screen.perturbed) + 1, int(groups.max()) + 1, y.shape[1], device=y.device)
    moments.update(y, screen.codes, groups)
    return pair_features(pair_stats(moments, single))


def choose_subset(sample: Sample, size: int, gen: torch.Generator, *, anchored: bool) -> Tensor:
    """Genes of a training item; anchored items hold half likely hubs (by footprint and degree, with noise).

    Where only some effects are known, the genes whose effects they are come first.
    """
    n, device = len(sample.truth), sample.truth.device
    order = torch.randperm(n, generator=gen, device=device)
    if sample.known is not None:
        first = sample.known.any(1)[order]
        return torch.cat([order[first], order[~first]])[:size]
    if not anchored or sample.features is None:
        return order[:size]
    genes = sample.features.genes
    hub = genes[:, GENE_FEATURES.index("footprint")] + genes[:, GENE_FEATURES.index("degree")]
    noise = torch.rand(n, generator=gen, device=device).clamp(1e-6, 1 - 1e-6)
    top = (hub + 0.5 * torch.log(-torch.log(noise))).topk(min(size // 2, n)).indices
    rest = order[~torch.isin(order, top)]
    return torch.cat([top, rest])[:size]


def make_item(
    sample: Sample, recipe: Recipe, gen: torch.Generator, *, size: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut an item out of a sample.

    Parameters
    ----------
    sample
        A measured screen.
    recipe
        Says how.
    gen
        Draws the genes (and cells).
    size
        Genes in the item, at most the sample's; ``None`` = the recipe's.

    Returns
    -------
    Network input, labels ``(size, size)`` ``[cause, effect]``, and which labels count (all that are known, but the diagonal).
    """
    anchored = float(torch.rand(1, generator=gen, device=gen.device)) < recipe.anchored
    size = min(size or recipe.subset, len(sample.truth))
    genes = choose_subset(sample, size, gen, anchored=anchored)
    if sample.features is not None:
        x = sample.features.block(genes, genes)
    else:
        x = _cell_item(sample, genes, recipe.cells, gen)
    valid = ~torch.eye(size, dtype=torch.bool, device=x.device)
    if sample.known is not None:
        valid &= sample.known[genes][:, genes]
    return x, sample.truth[genes][:, genes].float(), valid


def _cell_item(sample: Sample, genes: Tensor, n_cells: int, gen: torch.Generator) -> Tensor:
    """Cells in which nothing outside the subset is perturbed, ``(n_cells, len(genes), 2)``: value and mask."""
    if sample.values is None or sample.codes is None or sample.single is None:
        msg = "A sample for the cell network needs values, codes and single."
        raise ValueError(msg)
    regimes = sample.single[genes]
    allowed = torch.cat([torch.zeros(1, dtype=regimes.dtype, device=regimes.device), regimes[regimes >= 0]])
    pool = torch.isin(sample.codes, allowed).nonzero().squeeze(1)
    rows = pool[torch.randint(len(pool), (n_cells,), generator=gen, device=pool.device)]
    mask = (sample.codes[rows][:, None] == regimes[None]) & (regimes >= 0)[None]
    return torch.stack([sample.values[rows][:, genes], mask.float()], -1)
