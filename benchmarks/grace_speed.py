"""Seconds of a training step: ours, and the published formulation written out, in one run on the same threads."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from causcade.gracefit import GraceConfig, GraceTrainer, PairedCells
from causcade.nn.message_passing import GeneGraph

SIZES = {"genes": 5000, "perturbations": 105, "pathways": 2694, "GG": 6191, "PG": 22786, "PP": 2713}  # Norman et al.
CELLS = 57_000  # of single perturbations there
BATCH = 32


class Published(nn.Module):
    """GraCE-VAE as published, in double precision: one GraphSAGE layer of scalars by gathering and scattering along edges,
    an inverse for the latent model, cells against cells gene by gene for the MMD, every kernel by itself."""

    def __init__(self, genes: int, perturbations: int, edges: Tensor | None, pathways: int) -> None:
        super().__init__()
        p, hidden = perturbations, 128
        self.edges, self.pathways = edges, pathways
        self.own, self.near = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
        self.encoder, self.mean, self.variance = nn.Linear(genes, hidden), nn.Linear(hidden, p), nn.Linear(hidden, p)
        self.one, self.two = nn.Linear(p, hidden), nn.Linear(hidden, p)
        self.strength = nn.Parameter(torch.ones(p))
        self.graph = nn.Parameter(0.1 * torch.randn(p, p))
        self.inner, self.outer = nn.Linear(p, hidden), nn.Linear(hidden, genes)
        self.double()

    def smooth(self, x: Tensor) -> Tensor:
        """``(B, D)`` to the same."""
        if self.edges is None:
            return x
        noise = torch.randn(self.pathways, dtype=x.dtype).expand(len(x), -1)
        nodes = torch.cat([x, noise], 1)[:, :, None]
        sender, receiver = self.edges
        messages = nodes[:, sender]
        total = torch.zeros_like(nodes).index_add(1, receiver, messages)
        count = torch.zeros(nodes.shape[1], dtype=x.dtype).index_add(
            0, receiver, torch.ones_like(sender, dtype=x.dtype)
        )
        mean = total / count.clamp(min=1)[:, None]
        return (self.near(mean) + self.own(nodes))[:, : x.shape[1], 0]

    def objective(self, control: Tensor, perturbed: Tensor, code: Tensor, temperature: float) -> Tensor:
        """What one step minimises."""
        act = lambda v: nn.functional.leaky_relu(v, 0.2)
        hidden = act(self.encoder(self.smooth(control)))
        mean, variance = self.mean(hidden), nn.functional.softplus(self.variance(hidden))
        z = mean + variance.sqrt() * torch.randn_like(mean)
        program = (temperature * self.two(act(self.one(code)))).softmax(-1)
        mix = torch.inverse(torch.eye(len(self.graph), dtype=z.dtype) - torch.triu(self.graph, 1))
        made = act(self.outer(act(self.inner((z + program * (code @ self.strength)[:, None]) @ mix))))
        again = act(self.outer(act(self.inner(z @ mix))))
        kl = -0.5 * (1 + variance.log() - mean**2 - variance).sum(1).mean()
        sparsity = torch.triu(self.graph, 1).abs().sum()
        return 8 * kernels(made, perturbed) + ((again - control) ** 2).mean() + 2 * kl + 1e-4 * sparsity


def kernels(x: Tensor, y: Tensor, width: float = 1000.0, n: int = 10) -> Tensor:
    """Squared MMD, kernel by kernel."""
    both = torch.cat([x, y])
    shape = (len(both), len(both), both.shape[1])
    distance = ((both[None].expand(shape) - both[:, None].expand(shape)) ** 2).sum(2)
    total = sum(torch.exp(-distance / (width / 2 ** (n // 2) * 2**i)) for i in range(n))
    m = len(x)
    return (total[:m, :m] + total[m:, m:] - total[:m, m:] - total[m:, :m]).mean()


def graph(rng: np.random.Generator) -> GeneGraph:
    """Random edges, as many as the paper's."""
    size = {"G": SIZES["genes"], "P": SIZES["pathways"]}
    edges = {k: np.stack([rng.integers(size[end], size=SIZES[k]) for end in k]) for k in ("GG", "PG", "PP")}
    return GeneGraph(size["G"], size["P"], edges)


def published(edges: GeneGraph | None, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of the published formulation."""
    nodes = None if edges is None else torch.cat([edges.nodes(k) for k in edges.edges], 1)
    both = None if nodes is None else torch.cat([nodes, nodes.flip(0)], 1)
    net = Published(SIZES["genes"], SIZES["perturbations"], both, SIZES["pathways"])
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    code = torch.zeros(BATCH, SIZES["perturbations"], dtype=torch.float64)
    code[:, 3] = 1

    def step() -> None:
        optimiser.zero_grad()
        net.objective(x.double(), y.double(), code, 2.0).backward()
        optimiser.step()

    return step


def ours(data: PairedCells, variant: str, edges: GeneGraph | None) -> GraceTrainer:
    """A trainer, as a user's fit has it."""
    return GraceTrainer(data, GraceConfig.variant(variant), graph=edges)


def cells(rng: np.random.Generator, each: int) -> PairedCells:
    """Random sparse values; as many cells of every perturbation."""
    n = SIZES["perturbations"]
    values = rng.random(((n + 1) * each, SIZES["genes"]), dtype=np.float32)
    values *= rng.random(values.shape, dtype=np.float32) < 0.2
    return PairedCells(values, np.repeat(np.arange(n + 1), each), ((), *((k,) for k in range(n))), n)


def table(repeats: int = 20, each: int = CELLS // SIZES["perturbations"], threads: int = 2) -> pd.DataFrame:
    """Milliseconds of a step (medians, wall and CPU time) and ratios to the published formulation; seconds of an epoch."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    data, edges = cells(rng, each), graph(rng)
    x, y = data.rows(np.arange(BATCH)), data.rows(np.arange(BATCH) + each)
    trainers = {"default (typed graph)": ours(data, "grace", edges), "reference": ours(data, "reference", edges),
                "CMVAE": ours(data, "cmvae", None)}  # fmt: skip
    steps = {"published GraCE-VAE": published(edges, x, y), "published CMVAE": published(None, x, y)}
    steps |= {name: _step(trainer) for name, trainer in trainers.items()}
    seconds = _take_turns(steps, repeats)
    rows = []
    for name in steps:
        of = seconds["published CMVAE" if "CMVAE" in name else "published GraCE-VAE"]
        row: dict[str, float | str] = {"method": name}
        for kind, told in enumerate(("ms", "CPU ms")):
            row[told] = 1e3 * float(np.median(seconds[name][:, kind]))
            row["ratio" if told == "ms" else "CPU ratio"] = float(np.median(of[:, kind])) / (1e-3 * float(row[told]))
        rows.append(row | (_epoch(trainers[name]) if name in trainers else {}))
    return pd.DataFrame(rows).assign(threads=threads, load=round(os.getloadavg()[0], 1))


def _take_turns(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Wall and CPU seconds of every step; the first round is warm-up."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for i in range(repeats + 1):
        for name, step in steps.items():
            for _ in range(1 if name.startswith("published") else 3):
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                if i:
                    found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: np.array(pairs) for name, pairs in found.items()}


def _step(trainer: GraceTrainer) -> Callable[[], None]:
    batches = itertools.cycle(trainer.steps())

    def step() -> None:
        trainer.step(next(batches))

    return step


def _epoch(trainer: GraceTrainer) -> dict[str, float]:
    """Seconds of an epoch of all cells with validation."""
    n = sum(1 for _ in trainer.steps())
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train_epoch()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"epoch s": wall, "steps": n, "100 epochs, h": wall / 36, "100 epochs, CPU h": cpu / 36}
