"""Training steps of the edge network: labelled graphs in, cross-entropy of the edges and the cost of cycles out."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from causcade.nn.acyclic import DualState, acyclicity_penalty, edge_bce
from causcade.nn.avici import Avici
from causcade.nn.edge_stream import EdgeStream
from causcade.pretrain.recipe import Recipe
from causcade.simulate.domains import GraphPrior, draw_graph_item

__all__ = ["GraphBatch", "GraphBatches", "GraphTask"]

# Size of a full item (20 genes, 200 cells): batches of larger ones are smaller, so that steps cost about the same.
_GRID, _PAIRS = 4_000, 400
_MOST_ITEMS = 2  # times as many where items are small
_MOST_WORKERS = 12


@dataclass
class GraphBatch:
    """Items of a step, of one size.

    Attributes
    ----------
    values, mask, missing
        ``(batch, cells, genes)``, see :class:`causcade.nn.avici.Avici`; values float32, the others bool.
    adjacency
        bool ``(batch, genes, genes)``, [cause, effect].
    """

    values: Tensor
    mask: Tensor
    missing: Tensor
    adjacency: Tensor

    def to(self, device: torch.device) -> GraphBatch:
        """The same on another device."""
        return GraphBatch(*(t.to(device, non_blocking=True) for t in vars(self).values()))


class GraphBatches(Dataset[GraphBatch], Sized):
    """The batch of every step, from the seed and the step alone.

    Parameters
    ----------
    prior
        What items are drawn from; the numbers of genes and of cells are drawn once per batch.
    rng
        Seed of everything.
    batch
        Items of a step where they have up to 4,000 entries (20 genes, 200 cells); beyond, fewer in proportion.
    steps
        Length of the sequence.
    by_pairs
        Let the batch depend on pairs of genes, as the cost of :class:`EdgeStream` does, not on entries: ``batch`` at 20
        genes, fewer beyond, up to twice as many below.
    reuse, pool
        Drawing can cost more than learning: every batch is given `reuse` times, `pool` steps apart, each time with
        other cells (40 to 100 % of them, now and then without interventions).
    """

    def __init__(
        self,
        prior: GraphPrior,
        rng: int,
        batch: int,
        steps: int,
        *,
        by_pairs: bool = False,
        reuse: int = 1,
        pool: int = 24,
    ) -> None:
        self.prior, self.rng, self.batch, self.steps, self.by_pairs = prior, rng, batch, steps, by_pairs
        self.reuse, self.pool = reuse, pool
        self._kept: dict[int, GraphBatch] = {}

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    def size(self, step: int) -> tuple[int, int, int]:
        """Items, cells and genes of a step."""
        r = random.Random(f"graph sizes/{self.rng}/{step}")
        genes = int(r.choices(list(self.prior.genes), list(self.prior.genes.values()))[0])
        low, high = self.prior.cells
        cells = round(low * (high / low) ** r.random())
        if self.by_pairs:
            return max(1, min(self.batch * _MOST_ITEMS, self.batch * _PAIRS // genes**2)), cells, genes
        return max(1, min(self.batch, self.batch * _GRID // (genes * cells))), cells, genes

    def __getitem__(self, step: int) -> GraphBatch:
        """Items of a step."""
        if self.reuse == 1:
            return self._draw(step)
        block, place = divmod(step, self.reuse * self.pool)
        group = block * self.pool + place % self.pool
        self._kept = {g: kept for g, kept in self._kept.items() if g // self.pool == block}
        if group not in self._kept:
            self._kept[group] = self._draw(group)
        return self._thinned(self._kept[group], step)

    def _draw(self, step: int) -> GraphBatch:
        n, cells, genes = self.size(step)
        first = step * self.batch * (_MOST_ITEMS if self.by_pairs else 1)
        items = [draw_graph_item(self.prior, self.rng, first + i, genes=genes, cells=cells) for i in range(n)]
        values = torch.stack([item.values for item in items])
        missing = values.isnan()
        mask, adjacency = (torch.stack([getattr(item, name) for item in items]) for name in ("mask", "adjacency"))
        return GraphBatch(values.nan_to_num(0.0), mask, missing, adjacency)

    def _thinned(self, batch: GraphBatch, step: int) -> GraphBatch:
        """Some of the cells (they are in random order); in a tenth of the steps those without interventions come first."""
        r = random.Random(f"graph cells/{self.rng}/{step}")
        cells = batch.values.shape[1]
        keep = max(min(cells, 20), round(cells * r.uniform(0.4, 1.0)))
        gen = torch.Generator().manual_seed(r.getrandbits(62))
        order = torch.rand(batch.values.shape[:2], generator=gen)
        if r.random() < 0.1:
            order = order + batch.mask.any(2)
        chosen = order.argsort(1)[:, :keep, None].expand(-1, -1, batch.values.shape[2])
        values, mask, missing = (t.gather(1, chosen) for t in (batch.values, batch.mask, batch.missing))
        return GraphBatch(values, mask, missing, batch.adjacency)


class GraphTask:
    """Edges in causal models and gene networks, for the edge network.

    Parameters
    ----------
    recipe
        ``seed``, ``batch`` and ``steps``; ``prior`` unless it is given here.
    device
        Where the network is. Items are drawn on the CPU.
    prior
        What items are drawn from; None: that of the recipe.
    acyclic
        Arguments of :class:`causcade.nn.acyclic.DualState`; ``{"lr": 0}`` leaves cycles alone. None: the recipe's.
    num_workers
        Processes that draw batches ahead; 0 draws them when they are asked for. None: 0 on a CPU, otherwise all but
        two cores, at most 12. The batches are the same.

    Attributes
    ----------
    dual
        Multiplier of the acyclicity penalty: the one part of a run that is not in the network or the optimiser.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        *,
        prior: GraphPrior | None = None,
        acyclic: dict[str, Any] | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.prior = prior or recipe.graph_prior()
        self.dual = DualState(**(recipe.acyclic if acyclic is None else acyclic))
        by_pairs = recipe.network == "edges"
        self.batches = GraphBatches(
            self.prior, recipe.seed, recipe.batch, recipe.steps, by_pairs=by_pairs,
            reuse=recipe.reuse, pool=recipe.pool,
        )  # fmt: skip
        if num_workers is None:
            num_workers = 0 if device.type == "cpu" else max(0, min(_MOST_WORKERS, (os.cpu_count() or 1) - 2))
        self.num_workers = num_workers
        self._ahead: Iterator[GraphBatch] = iter(())
        self._next = -1

    def batch(self, step: int) -> GraphBatch:
        """Items of a step, on the device."""
        if not self.num_workers:
            return self.batches[step].to(self.device)
        if step != self._next:
            self._ahead, self._next = self._from(step), step
        self._next += 1
        return next(self._ahead).to(self.device)

    def _from(self, step: int) -> Iterator[GraphBatch]:
        return iter(
            DataLoader(
                self.batches,
                batch_size=None,
                sampler=range(step, self.recipe.steps),
                num_workers=self.num_workers,
                prefetch_factor=4,
            )
        )

    def loss(self, net: nn.Module, step: int) -> Tensor:
        """Loss of a step: cross-entropy per pair of genes + multiplier x mean spectral radius.

        Raises
        ------
        ValueError
            If the network is of another kind.
        """
        if not isinstance(net, Avici | EdgeStream):
            msg = f"Edges are learned by an Avici or EdgeStream network, not by {type(net).__name__}."
            raise ValueError(msg)
        batch = self.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = net(batch.values, batch.mask, batch.missing)
        loss = edge_bce(logits, batch.adjacency)
        if not self.dual.lr:
            return loss
        generator = torch.Generator(self.device).manual_seed((self.recipe.seed * 1_000_003 + step) % 2**62)
        penalty = acyclicity_penalty(logits, rng=generator)
        weight = self.dual.weight
        if net.training:
            self.dual.update(float(penalty.detach()))
        return loss + weight * penalty

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold besides the network and the optimiser."""
        return self.dual.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.dual.load_state_dict(state)
