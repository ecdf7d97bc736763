"""Pairs of control and perturbed cells from structural causal models: what networks that find targets learn from.

The models are those of the CDN paper (Appendix D.2): raw scale, uniform roots, Gaussian noise whose size is drawn anew
in every regime, so that a changed variance alone tells little. Graphs are [cause, effect].
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from causcade.simulate._dag import topological_order
from causcade.simulate._interventions import check_name
from causcade.simulate._random import Rng, numpy_generator
from causcade.simulate.graphs import erdos_renyi, scale_free

__all__ = ["INTERVENTIONS", "MECHANISMS", "ShiftPrior", "Shifts", "draw_shifts", "simulate_shifts"]

INTERVENTIONS = ("uniform", "normal", "shift", "scale")
_GRAPHS = {"erdos_renyi": erdos_renyi, "scale_free": scale_free}
Family = Callable[[int, torch.Generator], Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class ShiftPrior:
    """What pairs are drawn from; dicts give names with weights.

    Attributes
    ----------
    genes
        Numbers of genes with weights (as text, so that recipes can hold them).
    edges
        Expected edges per gene, drawn evenly from the list.
    graphs
        ``"erdos_renyi"`` and ``"scale_free"``.
    mechanisms
        Keys of :data:`MECHANISMS`; one for the whole model.
    interventions
        ``"uniform"`` and ``"normal"`` set a target anew in every cell; ``"shift"`` adds ±U(2, 4) and ``"scale"``
        multiplies by U(2, 4) or its inverse. One kind per regime.
    max_targets
        Regimes have 1 to so many targets.
    regimes
        Perturbed sets of a model.
    cells, control
        Cells of every regime and of the control (log-uniform).
    idle
        Share of regimes in which nothing was acted on.
    """

    genes: dict[str, float] = field(default_factory=lambda: {"10": 1.0, "20": 2.0})
    edges: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    graphs: dict[str, float] = field(default_factory=lambda: {"erdos_renyi": 1.0, "scale_free": 1.0})
    mechanisms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(MECHANISMS, 1.0))
    interventions: dict[str, float] = field(default_factory=lambda: dict.fromkeys(INTERVENTIONS, 1.0))
    max_targets: int = 3
    regimes: int = 6
    cells: tuple[int, int] = (900, 1000)
    control: tuple[int, int] = (900, 1000)
    idle: float = 0.05

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, for recipes and model cards."""
        return asdict(self)


@dataclass(frozen=True)
class Shifts:
    """A control set and perturbed sets of one model.

    Attributes
    ----------
    control
        ``(cells, genes)``.
    perturbed
        ``(regimes, cells, genes)``.
    targets
        bool ``(regimes, genes)``.
    adjacency
        bool ``(genes, genes)``, [cause, effect].
    mechanism, interventions
        Names; one intervention per regime.
    """

    control: Tensor
    perturbed: Tensor
    targets: Tensor
    adjacency: Tensor
    mechanism: str
    interventions: tuple[str, ...]


def draw_shifts(prior: ShiftPrior, rng: int, index: int, *, genes: int | None = None) -> Shifts:
    """Draw model ``index`` of a seed, with its control and perturbed sets (on the CPU).

    Parameters
    ----------
    prior
        What to draw from.
    rng, index
        A seed and a number; the same two give the same cells, whatever was drawn before.
    genes
        Number of genes, if it is not to be drawn.

    Raises
    ------
    ValueError
        If the prior names a graph, mechanism or intervention that does not exist.
    """
    r = random.Random(rng * 1_000_003 + index)
    n = int(_pick(r, prior.genes)) if genes is None else genes
    generator = torch.Generator().manual_seed(r.getrandbits(60))
    per_gene = r.choice(list(prior.edges))
    graph = _pick(r, prior.graphs)
    check_name("graph", graph, list(_GRAPHS))
    adjacency = _GRAPHS[graph](n, per_gene, rng=generator)
    mechanism = _pick(r, prior.mechanisms)
    targets = torch.zeros(prior.regimes, n, dtype=torch.bool)
    for row in targets:
        size = 0 if r.random() < prior.idle else r.randint(1, min(prior.max_targets, n))
        row[r.sample(range(n), size)] = True
    kinds = tuple(_pick(r, prior.interventions) for _ in range(prior.regimes))
    n0, n1 = (round(math.exp(r.uniform(*map(math.log, c)))) for c in (prior.control, prior.cells))
    return simulate_shifts(
        adjacency, targets, kinds, mechanism=mechanism, n_control=n0, n_per_regime=n1, rng=r.getrandbits(60)
    )


def _pick(r: random.Random, weights: dict[str, float]) -> str:
    return r.choices(list(weights), list(weights.values()))[0]


def simulate_shifts(
    adjacency: Tensor,
    targets: Tensor,
    interventions: tuple[str, ...],
    *,
    mechanism: str = "linear",
    n_control: int = 1000,
    n_per_regime: int = 1000,
    rng: Rng = None,
) -> Shifts:
    """Simulate a control set and a perturbed set for every regime.

    Parameters
    ----------
    adjacency
        bool ``(genes, genes)``, [cause, effect], acyclic.
    targets
        bool ``(regimes, genes)``.
    interventions
        A name of :data:`INTERVENTIONS` for every regime.
    mechanism
        A key of :data:`MECHANISMS`.
    n_control, n_per_regime
        Cells.
    rng
        Draws the model and the cells.

    Raises
    ------
    ValueError
        If a name is unknown, shapes do not fit, or the graph has a cycle.
    """
    check_name("mechanism", mechanism, list(MECHANISMS))
    for kind in interventions:
        check_name("intervention", kind, INTERVENTIONS)
    n = len(adjacency)
    if targets.shape != (len(interventions), n):
        msg = f"targets must be (regimes, genes) = {(len(interventions), n)}, not {tuple(targets.shape)}."
        raise ValueError(msg)
    g = torch.Generator().manual_seed(int(numpy_generator(rng).integers(2**62)))
    regime = torch.arange(len(targets) + 1).repeat_interleave(torch.tensor([n_control] + [n_per_regime] * len(targets)))
    x = torch.zeros(len(regime), n)
    for gene in topological_order(adjacency).tolist():
        parents = adjacency[:, gene].nonzero().squeeze(1)
        if len(parents):
            # sizes of noise differ between regimes by up to the root of two, as in the published data
            sizes = 0.4 * (1 + torch.rand(len(targets) + 1, generator=g)).sqrt()
            noise = sizes[regime] * torch.randn(len(regime), generator=g)
            value = MECHANISMS[mechanism](len(parents), g)(x[:, parents], noise)
        else:
            value = _uniform(len(regime), -1, 1, g)
        x[:, gene] = _act(value, regime, targets[:, gene], interventions, g)
    control, rest = x[:n_control], x[n_control:]
    return Shifts(
        control, rest.reshape(len(targets), n_per_regime, n), targets, adjacency, mechanism, tuple(interventions)
    )


def _act(value: Tensor, regime: Tensor, hit: Tensor, kinds: tuple[str, ...], g: torch.Generator) -> Tensor:
    """Apply what the regimes do to one gene."""
    for r in hit.nonzero().squeeze(1).tolist():
        rows = (regime == r + 1).nonzero().squeeze(1)
        size = float(_uniform(1, 2, 4, g))
        up = bool(torch.rand(1, generator=g) < 0.5)
        if kinds[r] == "uniform":
            value[rows] = _uniform(len(rows), -1, 1, g)
        elif kinds[r] == "normal":
            value[rows] = torch.randn(len(rows), generator=g)
        elif kinds[r] == "shift":
            value[rows] += size if up else -size
        else:
            value[rows] *= size if up else 1 / size
    return value


def _uniform(n: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=g)


def _signed(n: int, low: float, high: float, g: torch.Generator) -> Tensor:
    return _uniform(n, low, high, g) * (1 - 2 * (torch.rand(n, generator=g) < 0.5).float())


def _linear(n: int, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    weight = _signed(n, 0.25, 1.0, g)
    return lambda x, e: x @ weight + e


def _layer(n: int, out: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    bound = 1 / math.sqrt(n)
    return torch.randn(n, out, generator=g), _uniform(out, -bound, bound, g)


def _nn(n: int, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    (w1, b1), (w2, b2) = _layer(n + 1, 20, g), _layer(20, 1, g)
    return lambda x, e: (torch.tanh(torch.cat([x, e[:, None]], 1) @ w1 + b1) @ w2 + b2).squeeze(1)


def _nn_add(n: int, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    (w1, b1), (w2, b2) = _layer(n, 10, g), _layer(10, 1, g)
    return lambda x, e: (torch.tanh(x @ w1 + b1) @ w2 + b2).squeeze(1) + e


def _polynomial(n: int, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    first, second = _signed(n, 0.25, 1.0, g), _signed(n, 0.25, 1.0, g)
    constant = _uniform(1, -1, 1, g)
    # terms stop at one, as squares of squares run away along the order
    return lambda x, e: constant + (x * first + x.square() * second).clamp(-1, 1).sum(1) + e


def _sigmoid(n: int, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    height = 1 + torch.empty(n).exponential_(4.0, generator=g)
    slope, place = _signed(n, 0.5, 2.0, g), _uniform(n, -2, 2, g)

    def function(x: Tensor, e: Tensor) -> Tensor:
        inner = slope * (x + place)
        return (height * inner / (1 + inner.abs())).sum(1) + e

    return function


#: How a gene follows from its parents and its noise.
MECHANISMS: dict[str, Family] = {
    "linear": _linear,
    "nn": _nn,
    "nn_add": _nn_add,
    "polynomial": _polynomial,
    "sigmoid": _sigmoid,
}
