"""From summaries of sets of cells to the inputs of a differential network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from causcade.citests import local_graphs
from causcade.contrasts import Summary, contrast_features, node_features, structure_features
from causcade.nn.differential import SetInput

__all__ = ["pair_input", "set_input"]


def set_input(sets: Sequence[Summary], n_subsets: int, rng: np.random.Generator, *, k: int = 5) -> SetInput:
    """What the structure learner sees of some sets of cells over the same number of genes.

    Parameters
    ----------
    sets
        Summaries without batch dimension.
    n_subsets
        Subsets of genes on which local graphs are learned: half at random, half where correlations are large.
    rng
        Draws the subsets.
    k
        Genes in a subset (fewer if there are not so many).

    Raises
    ------
    ValueError
        If there is no set, or the sets differ in their number of genes.
    """
    _check(sets)
    whole = _stacked(sets)
    pairs = torch.stack([structure_features(s) for s in sets]) if whole is None else structure_features(whole)
    pairs = pairs.float()
    genes = pairs.shape[1]
    k = min(k, genes)
    if n_subsets < 1 or k < 2:
        return SetInput(pairs, torch.zeros(len(sets), 0, k, dtype=torch.long), torch.zeros(len(sets), 0, k, k).long())
    found = [local_graphs(s.correlation.double().cpu().numpy(), s.n, n_subsets, k=k, rng=rng) for s in sets]
    subsets = torch.from_numpy(np.stack([f[0] for f in found])).long()
    tokens = torch.from_numpy(np.stack([f[1] for f in found])).long()
    return SetInput(pairs, subsets.to(pairs.device), tokens.to(pairs.device))


def pair_input(control: Summary, perturbed: Sequence[Summary]) -> tuple[Tensor, Tensor]:
    """Contrasts ``(sets, genes, genes, .)`` and gene statistics ``(sets, genes, .)`` of perturbed sets against a control.

    Raises
    ------
    ValueError
        If there is no set, or a set has another number of genes than the control.
    """
    _check(perturbed, control)
    whole = _stacked(perturbed)
    if whole is not None:
        return contrast_features(control, whole).float(), node_features(control, whole).float()
    contrasts = torch.stack([contrast_features(control, s).float() for s in perturbed])
    return contrasts, torch.stack([node_features(control, s).float() for s in perturbed])


def _check(sets: Sequence[Summary], *control: Summary) -> None:
    genes = sorted({s.mean.shape[-1] for s in (*sets, *control)})
    if not sets or len(genes) > 1:
        msg = f"Sets of cells must be over the same genes; got {len(sets)} sets over {genes} genes."
        raise ValueError(msg)


def _stacked(sets: Sequence[Summary]) -> Summary | None:
    """One batched summary, faster to work on, if all sets have the same number of cells."""
    if len({s.n for s in sets}) > 1:
        return None
    parts = zip(*((s.mean, s.cov, s.bend, s.kurtosis) for s in sets), strict=True)
    return Summary(sets[0].n, *(torch.stack(p) for p in parts))
