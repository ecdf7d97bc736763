"""Training the composition of scores: whole simulated screens, scored by the network as a user's would be."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from causcade.ensemble import score_pairs
from causcade.nn.pair_stream import PairStream, pair_loss
from causcade.pairs import PairFeatures
from causcade.pretrain.items import make_samples
from causcade.pretrain.recipe import Recipe
from causcade.scoring import pair_scorer, set_size
from causcade.simulate.episodes import draw_screen

__all__ = ["ComposeTask"]

_POOL, _REFRESH, _BATCH = 24, 4, 2  # screens held, steps between two new ones, screens of a step
_FIRST = 1_000_000  # screens that the network was not trained on: there it is surer of itself than on a user's
_MOST = 800  # genes; larger screens are cut, because time grows with their cube: beyond, sums over genes are larger than any seen


class ComposeTask:
    """Loss of the composition of a pair network, whose other weights stay as they are.

    Parameters
    ----------
    recipe
        Says what screens to draw.
    device
        Where to draw and learn.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.prior = recipe.screen_prior()
        least, most = self.prior.genes
        # With many screens that a set holds whole, which lack nothing, the composition learns to distrust paths.
        if least < recipe.subset < most:
            self.prior = replace(self.prior, genes=(recipe.subset, most))
        self.pool: dict[int, tuple[Tensor, Tensor]] = {}

    def scored(self, net: nn.Module, index: int) -> tuple[Tensor, Tensor]:
        """Scores of all pairs of a new screen, of sets as large as those of a user, and the truth."""
        seed, number = self.recipe.seed, _FIRST + index
        screen = draw_screen(self.prior, seed, number, device=self.device)
        (sample,) = make_samples(screen, replace(self.recipe, assays=1), self.prior, number)
        score = pair_scorer(net, cast("PairFeatures", sample.features), device=self.device)
        rng = np.random.default_rng([seed, index])
        scores = score_pairs(score, len(sample.truth), size=set_size(vars(self.recipe)), rng=rng).mean
        return torch.from_numpy(scores).to(self.device), sample.truth

    def fill_pool(self, net: nn.Module, step: int) -> list[int]:
        """Hold the screens that belong to this step and return the indices of those that have causes."""
        newest = step // _REFRESH
        wanted = range(newest, newest + _POOL)
        self.pool = {i: pair for i, pair in self.pool.items() if i in wanted}
        for index in wanted:
            if index not in self.pool:
                self.pool[index] = self.scored(net, index)
        known = [i for i in wanted if self.pool[i][1].any()]
        if not known:
            msg = f"None of {_POOL} simulated screens has a cause; raise `genes` or `edges` of the prior."
            raise ValueError(msg)
        return known

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Loss of a step."""
        if not isinstance(net, PairStream) or net.compose is None:
            msg = f"{type(net).__name__} has no composition to train."
            raise ValueError(msg)
        known, losses = self.fill_pool(net, step), []
        gen = torch.Generator().manual_seed(self.recipe.seed * 7_919 + step)
        for _ in range(_BATCH):
            scores, truth = self.pool[known[int(torch.randint(len(known), (1,), generator=gen))]]
            some = torch.randperm(len(truth), generator=gen)[:_MOST].to(self.device)
            valid = ~torch.eye(len(some), dtype=torch.bool, device=self.device)
            composed, labels = net.compose(scores[some][:, some]), truth[some][:, some].float()
            losses.append(pair_loss(composed[None], labels[None], valid[None]))
        return torch.stack(losses).mean()
