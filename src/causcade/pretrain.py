"""How released weights are made: ``python -m causcade.pretrain RECIPE --out FOLDER [--minutes M]``.

Needs torch, numpy and safetensors only.  Screens are simulated on the training device and pass through a small pool, so
that each is measured and subsampled several times before it is replaced.  What is drawn depends on the seed and the
step alone; a run that is stopped and resumed draws what an unbroken one would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import time
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn.cells import CellStream, CellStreamConfig
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.pairs import GENE_FEATURES, PairFeatures, pair_features
from causcade.simulate.episodes import Screen, ScreenPrior, assay, draw_screen
from causcade.simulate.graphs import ancestors
from causcade.stats import Moments, cell_values, log_normalise, pair_stats

__all__ = ["NETWORKS", "Recipe", "Sample", "Trainer", "build_network", "main", "run", "screen_features"]

logger = logging.getLogger(__name__)
NETWORKS: dict[str, tuple[type, type]] = {
    "pairs": (PairStream, PairStreamConfig),
    "cells": (CellStream, CellStreamConfig),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes
    ----------
    name
        Name of the weights.
    network
        ``"pairs"`` (the ``base`` preset) or ``"cells"`` (the ``paper`` preset).
    sizes
        Arguments of the network's config.
    prior
        Arguments of :class:`ScreenPrior`.
    subset, cells
        Genes and (cell network) cells of a training item.
    anchored
        Share of items in which half of the subset are likely hubs.
    batch, steps, warmup, cooldown
        Items per step, steps, linear warm-up, linear cool-down.
    lr, weight_decay, clip, ema
        AdamW, gradient clipping, decay of the averaged weights.
    pool, refresh, assays
        Screens held, steps between two new ones, assays of each.
    seed
        Of everything.
    """

    name: str
    network: str = "pairs"
    sizes: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    subset: int = 96
    cells: int = 200
    anchored: float = 0.5
    batch: int = 4
    steps: int = 3000
    warmup: int = 100
    cooldown: int = 600
    lr: float = 2e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.995
    pool: int = 24
    refresh: int = 4
    assays: int = 3
    seed: int = 0

    @classmethod
    def load(cls, name_or_path: str) -> Recipe:
        """Read a bundled recipe by name, or a JSON file.

        Raises
        ------
        ValueError
            If there is no such recipe, or it has fields that no recipe has.
        """
        path = Path(name_or_path)
        if path.suffix == ".json":
            return cls._from_text(path.read_text())
        folder = resources.files("causcade") / "recipes"
        names = sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))
        if name_or_path not in names:
            msg = f"No recipe {name_or_path!r}; bundled recipes are {names}, or give the path of a .json file."
            raise ValueError(msg)
        return cls._from_text((folder / f"{name_or_path}.json").read_text())

    @classmethod
    def _from_text(cls, text: str) -> Recipe:
        values = json.loads(text)
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown or "name" not in values:
            msg = f"A recipe needs a name and has only the fields {known}; got {sorted(values)}, unknown: {unknown}."
            raise ValueError(msg)
        return cls(**values)

    def screen_prior(self) -> ScreenPrior:
        """The prior; JSON lists become tuples."""
        return ScreenPrior(**{k: _tuples(v) for k, v in self.prior.items()})

    def digest(self) -> str:
        """Short hash of the recipe."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@dataclass
class Sample:
    """One assay of one screen, ready to be cut into training items."""

    truth: Tensor
    features: PairFeatures | None = None
    values: Tensor | None = None
    codes: Tensor | None = None
    single: Tensor | None = None


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
    """Genes of a training item; anchored items hold half likely hubs (by footprint and degree, with noise)."""
    n, device = len(sample.truth), sample.truth.device
    order = torch.randperm(n, generator=gen, device=device)
    if not anchored or sample.features is None:
        return order[:size]
    genes = sample.features.genes
    hub = genes[:, GENE_FEATURES.index("footprint")] + genes[:, GENE_FEATURES.index("degree")]
    noise = torch.rand(n, generator=gen, device=device).clamp(1e-6, 1 - 1e-6)
    top = (hub - 0.5 * torch.log(-torch.log(noise)).neg()).topk(min(size // 2, n)).indices
    rest = order[~torch.isin(order, top)]
    return torch.cat([top, rest])[:size]


def make_item(sample: Sample, recipe: Recipe, gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cut an item out of a sample: network input, labels ``(subset, subset)``, and which labels count."""
    anchored = float(torch.rand(1, generator=gen, device=gen.device)) < recipe.anchored
    genes = choose_subset(sample, recipe.subset, gen, anchored=anchored)
    if sample.features is not None:
        x = sample.features.block(genes, genes)
    else:
        x = _cell_item(sample, genes, recipe.cells, gen)
    valid = torch.zeros((recipe.subset, recipe.subset), dtype=torch.bool, device=x.device)
    k = len(genes)
    valid[:k, :k] = ~torch.eye(k, dtype=torch.bool, device=x.device)
    labels = torch.zeros((recipe.subset, recipe.subset), device=x.device)
    labels[:k, :k] = sample.truth[genes][:, genes].float()
    return x, labels, valid


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


class Trainer:
    """State of a run: network, averaged weights, optimiser, pool, step."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.recipe, self.device, self.prior = recipe, torch.device(device), recipe.screen_prior()
        torch.manual_seed(recipe.seed)
        self.net = build_network(recipe).to(self.device)
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        decay = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.lr,
        )
        self.step, self.seconds, self.log = 0, 0.0, []  # type: ignore[var-annotated]
        self.pool: dict[int, list[Sample]] = {}

    def rate(self) -> float:
        """Learning rate of the step: warm-up, constant, linear cool-down."""
        r = self.recipe
        return r.lr * min(1.0, (self.step + 1) / max(r.warmup, 1), max(0.0, (r.steps - self.step) / max(r.cooldown, 1)))

    def fill_pool(self) -> list[int]:
        """Hold the screens that belong to this step and return their indices."""
        newest = self.step // self.recipe.refresh
        wanted = list(range(newest, newest + self.recipe.pool))
        for index in [i for i in self.pool if i not in set(wanted)]:
            del self.pool[index]
        for index in wanted:
            if index not in self.pool:
                screen = draw_screen(self.prior, self.recipe.seed, index, device=self.device)
                self.pool[index] = make_samples(screen, self.recipe, self.prior, index)
        return wanted

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Items of the step: inputs, labels, valid."""
        wanted, r = self.fill_pool(), self.recipe
        gen = torch.Generator(self.device).manual_seed(r.seed * 7_919 + self.step)
        items = []
        for _ in range(r.batch):
            samples = self.pool[wanted[int(torch.randint(len(wanted), (1,), generator=gen, device=gen.device))]]
            pick = int(torch.randint(len(samples), (1,), generator=gen, device=gen.device))
            items.append(make_item(samples[pick], r, gen))
        return _stack(items)

    def train_step(self) -> float:
        """One optimiser step; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        x, labels, valid = self.batch()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.net(x)
        loss = F.binary_cross_entropy_with_logits(logits.float()[valid], labels[valid])
        value = float(loss.detach())
        if not math.isfinite(value):
            msg = f"The loss became {value} at step {self.step}; the last checkpoint is intact, lower `lr`."
            raise RuntimeError(msg)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, weight in self.net.state_dict().items():
            self.average[name].lerp_(weight, 1 - keep)
        return value

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the weights; a reader sees the old file or the new one, never half."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "net": self.net.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "recipe": self.recipe.digest(),
        }
        torch.save(state, folder / "checkpoint.tmp")
        os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")
        save_file({k: v.cpu().contiguous() for k, v in self.average.items()}, folder / "model.tmp")
        os.replace(folder / "model.tmp", folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config(), indent=1) + "\n")
        (folder / "log.json").write_text(json.dumps(self.log))

    def config(self) -> dict[str, Any]:
        """What a reader needs to rebuild the network, and how it came about."""
        r = self.recipe
        return {
            "model": "TCD",
            "network": r.network,
            "sizes": self.net.config.to_dict(),
            "subset": r.subset,
            "cells": r.cells,
            "recipe": asdict(r),
            "recipe_hash": r.digest(),
            "steps": self.step,
            "seconds": round(self.seconds),
            "device": str(self.device),
        }

    def load(self, folder: Path, *, adopt: bool = False) -> None:
        """Continue from a checkpoint; ``adopt`` allows a changed recipe (schedule only, or a fine-tuning start)."""
        state = torch.load(folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.digest() and not adopt:
            msg = f"{folder} was made by recipe {state['recipe']}, not {self.recipe.digest()}; use another --out, or --adopt."
            raise ValueError(msg)
        self.net.load_state_dict(state["net"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        if (folder / "log.json").exists():
            self.log = json.loads((folder / "log.json").read_text())


def _stack(items: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack items; smaller screens are padded with zeros, whose labels do not count."""
    size = items[0][1].shape[0]
    inputs = []
    for x, _, _ in items:
        full = x.new_zeros((x.shape[0] if x.shape[-1] == 2 else size, size, x.shape[-1]))
        full[: x.shape[0], : x.shape[1]] = x
        inputs.append(full)
    return torch.stack(inputs), torch.stack([i[1] for i in items]), torch.stack([i[2] for i in items])


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe."""
    if recipe.network not in NETWORKS:
        msg = f"Unknown network {recipe.network!r} in recipe {recipe.name!r}; choose one of {list(NETWORKS)}."
        raise ValueError(msg)
    network, config = NETWORKS[recipe.network]
    return network(config(**recipe.sizes))


def run(recipe: Recipe, out: Path, *, minutes: float, device: str, resume: bool, adopt: bool, every: int) -> Trainer:
    """Train until the recipe's steps or the minutes are used up, saving every ``every`` steps."""
    trainer = Trainer(recipe, device)
    if resume and (out / "checkpoint.pt").exists():
        trainer.load(out, adopt=adopt)
    logger.info("%s: step %d of %d on %s", recipe.name, trainer.step, recipe.steps, device)
    start, spent, recent = time.monotonic(), trainer.seconds, []  # type: ignore[var-annotated]
    while trainer.step < recipe.steps and time.monotonic() - start < 60 * minutes:
        recent.append(trainer.train_step())
        trainer.seconds = spent + time.monotonic() - start
        if trainer.step % every == 0 or trainer.step == recipe.steps:
            trainer.log.append([trainer.step, round(trainer.seconds), sum(recent) / len(recent)])
            logger.info("step %d  %.0f s  loss %.4f", *trainer.log[-1])
            recent = []
            trainer.save(out)
    trainer.save(out)
    return trainer


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m causcade.pretrain", description=__doc__)
    parser.add_argument("recipe", help="name of a bundled recipe, or path of a .json")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, weights and log")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop (resumable) after this long")
    parser.add_argument("--steps", type=int, help="override the recipe's number of steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--adopt", action="store_true", help="continue although the recipe changed")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe.load(args.recipe)
    if args.steps:
        recipe = replace(recipe, steps=args.steps)
    run(
        recipe, args.out, minutes=args.minutes, device=args.device, resume=args.resume, adopt=args.adopt,
        every=args.every,
    )  # fmt: skip


if __name__ == "__main__":
    main()
