"""What a training step is: draws inputs for a recipe's network and gives the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from causcade.nn.differential import Differential
from causcade.nn.pair_stream import pair_loss
from causcade.pretrain.compose_task import ComposeTask
from causcade.pretrain.graph_task import GraphTask
from causcade.pretrain.items import Sample, make_item, make_samples
from causcade.pretrain.pair_inputs import pair_inputs
from causcade.pretrain.recipe import Recipe
from causcade.pretrain.target_items import PairBatch, TargetScreen, from_shifts, from_target_screen, measure_screen
from causcade.simulate.episodes import draw_screen
from causcade.simulate.shifts import draw_shifts

if TYPE_CHECKING:
    from causcade.realcauses import CauseScreen

_DRAWS = 4  # of every real screen that are held

__all__ = ["CauseTask", "TargetTask", "Task", "build_task", "pair_batch_loss"]


class Task(Protocol):
    """Draws what step ``step`` trains on (from the recipe's seed and the step alone) and gives the loss."""

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Loss of a step."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the network and the optimiser."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""


class _Stateless:
    """A task whose steps depend on the recipe alone."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""


def _in_half(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class CauseTask(_Stateless):
    """Causes in simulated screens, for pair and cell networks; in real ones too, for pair networks."""

    def __init__(self, recipe: Recipe, device: torch.device, folder: Path | None = None) -> None:
        self.recipe, self.device, self.prior = recipe, device, recipe.screen_prior()
        self.pool: dict[int, list[Sample]] = {}
        self.real = [load_cause_screen(name, batch_key, folder) for name, batch_key in recipe.real]
        self.drawn: dict[tuple[int, int], Sample] = {}
        self.composing = ComposeTask(recipe, device)

    def fill_pool(self, step: int) -> list[int]:
        """Hold the screens that belong to this step and return their indices."""
        newest = step // self.recipe.refresh
        wanted = list(range(newest, newest + self.recipe.pool))
        for index in [i for i in self.pool if i not in set(wanted)]:
            del self.pool[index]
        for index in wanted:
            if index not in self.pool:
                screen = draw_screen(self.prior, self.recipe.seed, index, device=self.device)
                self.pool[index] = make_samples(screen, self.recipe, self.prior, index)
        return wanted

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Items of the step: inputs, labels, valid."""
        wanted, r = self.fill_pool(step), self.recipe
        gen = torch.Generator(self.device).manual_seed(r.seed * 7_919 + step)
        chosen: list[Sample] = []
        for _ in range(r.batch):
            if chosen and r.sizes_alike:
                least = min(r.subset, len(chosen[0].truth))
                wanted = [i for i in wanted if max(len(s.truth) for s in self.pool[i]) >= least]
            samples = self.pool[wanted[int(torch.randint(len(wanted), (1,), generator=gen, device=gen.device))]]
            chosen.append(samples[int(torch.randint(len(samples), (1,), generator=gen, device=gen.device))])
        size = min(r.subset, *(len(sample.truth) for sample in chosen))  # no padding: absent genes must not be attended
        x, labels, valid = zip(*(make_item(sample, r, gen, size=size) for sample in chosen), strict=True)
        return torch.stack(x), torch.stack(labels), torch.stack(valid)

    def real_batch(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Items of a step on one real screen, from a few draws of what is hidden; every `refresh` steps there is a new one."""
        r, newest, which = self.recipe, step // self.recipe.refresh, int(rng.integers(len(self.real)))
        self.drawn = {key: sample for key, sample in self.drawn.items() if key[1] >= newest}
        items = []
        for draw in rng.integers(_DRAWS, size=r.batch):
            key = which, newest + int(draw)
            if key not in self.drawn:
                self.drawn[key] = self.real[which].sample(np.random.default_rng([r.seed, *key, 3]))
            gen = torch.Generator().manual_seed(int(rng.integers(2**62)))
            items.append(make_item(self.drawn[key], r, gen))
        x, labels, valid = (torch.stack(parts).to(self.device) for parts in zip(*items, strict=True))
        return x, labels, valid

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Loss of a step; after the recipe's ``steps``, of the composition."""
        if step >= self.recipe.steps:
            self.pool, self.drawn = {}, {}
            return self.composing.loss(net, step - self.recipe.steps)
        rng = np.random.default_rng([self.recipe.seed, step, 2])
        from_real = self.real and rng.random() < self.recipe.real_share
        x, labels, valid = self.real_batch(step, rng) if from_real else self.batch(step)
        with _in_half(self.device):
            logits = net(x)
        return pair_loss(logits.float(), labels, valid)


class TargetTask(_Stateless):
    """Targets in pairs of control and perturbed cells, for differential networks.

    A step takes its pairs from causal models, from a pool of simulated screens, or from real screens, by the shares of the
    recipe.
    """

    def __init__(self, recipe: Recipe, device: torch.device, folder: Path | None = None) -> None:
        self.recipe, self.device = recipe, device
        self.prior, self.screens = recipe.shift_prior(), recipe.screen_prior()
        self.pool: dict[int, TargetScreen] = {}
        self.real = [load_target_screen(name, batch_key, folder) for name, batch_key in recipe.real]

    def batches(self, step: int) -> list[PairBatch]:
        """Pairs of a step; all have the same number of genes."""
        r = self.recipe
        rng = np.random.default_rng([r.seed, step])
        source = rng.random()
        if source < r.real_share and self.real:
            return [self._cut(self.real[int(rng.integers(len(self.real)))], rng)]
        if source < r.real_share + r.screen_share:
            return [self._cut(self._simulated(step, rng), rng)]
        genes = int(rng.choice([int(g) for g in self.prior.genes], p=_shares(self.prior.genes)))
        pairs = self._pairs(genes)
        prior = replace(self.prior, regimes=min(self.prior.regimes, pairs))
        models = range(step * r.batch, step * r.batch + max(1, pairs // prior.regimes))
        return [from_shifts(draw_shifts(prior, r.seed, i, genes=genes)) for i in models]

    def _pairs(self, genes: int) -> int:
        """Pairs of a step: ``batch`` up to 20 genes; beyond, fewer, so that steps cost about the same."""
        return max(2, min(self.recipe.batch, self.recipe.batch * 400 // genes**2))

    def _cut(self, screen: TargetScreen, rng: np.random.Generator) -> PairBatch:
        most = min(self.recipe.subset, screen.values.shape[1])
        genes = int(rng.integers(min(16, most), most + 1))
        return from_target_screen(screen, self._pairs(genes), genes, rng)

    def _simulated(self, step: int, rng: np.random.Generator) -> TargetScreen:
        """A screen of the pool, or the next one where no gene of it was perturbed."""
        wanted = self._fill_pool(step)
        first = int(rng.integers(len(wanted)))
        for index in (*wanted[first:], *wanted[:first]):
            if self.pool[index].targets:
                return self.pool[index]
        msg = (
            f"No gene is perturbed in any of the {len(wanted)} screens of step {step}; raise `pool` or `full_coverage`."
        )
        raise ValueError(msg)

    def _fill_pool(self, step: int) -> list[int]:
        newest = step // self.recipe.refresh
        wanted = list(range(newest, newest + self.recipe.pool))
        self.pool = {i: s for i, s in self.pool.items() if i in set(wanted)}
        for index in wanted:
            if index not in self.pool:
                screen = draw_screen(self.screens, self.recipe.seed, index)
                self.pool[index] = measure_screen(screen, self.screens, self.recipe.seed, index)
        return wanted

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Loss of a step: L_I + graph_weight x L_G."""
        if not isinstance(net, Differential):
            msg = f"Targets are learned by a differential network, not by {type(net).__name__}."
            raise ValueError(msg)
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        low, high = self.recipe.subsets
        n_subsets = int(rng.integers(low, high + 1))
        return pair_batch_loss(net, self.batches(step), n_subsets, rng, self.recipe.graph_weight, self.device)


def pair_batch_loss(
    net: Differential,
    batches: list[PairBatch],
    n_subsets: int,
    rng: np.random.Generator,
    graph_weight: float,
    device: torch.device,
) -> Tensor:
    """L_I (sum over genes, per ten) + ``graph_weight`` x L_G of batches over the same number of genes."""
    return pair_inputs(batches, n_subsets, rng).loss(net, graph_weight, device)


def _shares(weights: dict[str, float]) -> np.ndarray:
    values = np.array(list(weights.values()), dtype=float)
    return values / values.sum()


def load_target_screen(name: str, batch_key: str | None, folder: Path | None) -> TargetScreen:
    """Read a real screen for fine-tuning: of the package, or ``NAME.h5ad`` in a folder."""
    from causcade.realscreens import (
        BUNDLED,
        read_target_screen,
    )  # needs anndata, which a bare training machine may lack

    path = name if name in BUNDLED or folder is None else str(folder / f"{name}.h5ad")
    return read_target_screen(path, batch_key)


def load_cause_screen(name: str, batch_key: str | None, folder: Path | None) -> CauseScreen:
    """Read a real screen whose knock-outs are to be told: of the package, or ``NAME.h5ad`` in a folder."""
    from causcade.realcauses import read_cause_screen  # needs anndata, which a bare training machine may lack
    from causcade.realscreens import BUNDLED

    path = name if name in BUNDLED or folder is None else str(folder / f"{name}.h5ad")
    return read_cause_screen(path, batch_key)


def build_task(recipe: Recipe, device: torch.device, screens: Path | None = None) -> Task:
    """The task of a recipe's network; real screens that are not in the package lie in the folder ``screens``."""
    if recipe.model == "AVICI":
        return GraphTask(recipe, device)
    return (
        TargetTask(recipe, device, screens) if recipe.network == "differential" else CauseTask(recipe, device, screens)
    )
