"""Networks as set scorers: what the ensemble calls for every set of genes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causcade.ensemble import SetScore
from causcade.pairs import PairFeatures


def pair_scorer(net: nn.Module, features: PairFeatures, *, device: torch.device | str = "cpu") -> SetScore:
    """Scores of a pair-stream network; the cells were used up when the features were made.

    Parameters
    ----------
    net
        A :class:`causcade.nn.pair_stream.PairStream`.
    features
        Pair features of the screen.
    device
        Where the network runs.
    """
    net = net.to(device).eval()

    def score(genes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        chosen = torch.from_numpy(genes)
        with torch.inference_mode():
            return net(features.block(chosen, chosen)[None].to(device))[0].float().cpu().numpy()

    return score


def cell_scorer(
    net: nn.Module,
    values: Tensor,
    codes: Tensor,
    single: Tensor,
    *,
    n_cells: int = 200,
    n_draws: int = 2,
    device: torch.device | str = "cpu",
) -> SetScore:
    """Scores of a cell-stream network, averaged over draws of cells (TCD-DL, algorithm 2).

    Only cells in which nothing outside the set is perturbed are drawn, keyed by gene.

    Parameters
    ----------
    net
        A :class:`causcade.nn.cells.CellStream`.
    values
        ``(n_cells, n_genes)`` from :func:`causcade.stats.cell_values`.
    codes
        ``(n_cells,)`` regime of every cell, 0 = control.
    single
        ``(n_genes,)`` regime that perturbs each gene alone, -1 = none.
    n_cells, n_draws
        Cells in a forward pass (the network is tied to the number it was trained with), and draws of them.
    device
        Where the network runs.
    """
    net = net.to(device).eval()

    def score(genes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        chosen = torch.from_numpy(genes)
        regimes = single[chosen]
        pool = torch.isin(codes, torch.cat([regimes.new_zeros(1), regimes[regimes >= 0]])).nonzero().squeeze(1)
        order = torch.from_numpy(rng.permutation(len(pool)))
        total = np.zeros((len(genes), len(genes)), np.float32)
        for draw in range(n_draws):
            take = pool[order[(torch.arange(n_cells) + draw * n_cells) % len(pool)]]
            mask = (codes[take][:, None] == regimes[None]) & (regimes >= 0)[None]
            x = torch.stack([values[take][:, chosen], mask.float()], -1)
            with torch.inference_mode():
                total += net(x[None].to(device))[0].float().cpu().numpy()
        total /= n_draws
        return total

    return score
