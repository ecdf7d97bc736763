"""Random screens to learn from: a graph, its kinetics, a design of perturbations, and assays of the same cells.

The prior is a :class:`ScreenPrior`; screen ``i`` of seed ``s`` is the same on every machine of one kind, whatever was
drawn before.  Everything stays on the device it is drawn on.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from causcade.simulate import graphs, grn, noise

__all__ = ["Screen", "ScreenPrior", "assay", "draw_screen"]

Range = tuple[float, float]


@dataclass(frozen=True)
class ScreenPrior:
    """What screens are drawn from.  Ranges are uniform unless said otherwise; lists are drawn evenly.

    Attributes
    ----------
    genes
        Number of genes (log-uniform).
    dense_genes
        Most genes where more than 30 % of them regulate (the cost grows with the number of regulators).
    graph_kinds
        Kinds of :data:`causcade.simulate.graphs.KINDS` with weights.
    edges
        Edges per gene.
    hill, decay, noise, basal, strength, sign_beta
        Kinetics, see :func:`causcade.simulate.grn.random_grn`.
    types
        Number of cell types; half of the screens take the largest.
    technologies
        Names with weights.
    depth_shift
        Added to the log library size (in nats): a continuum of depth around the published settings.
    fidelities
        Fidelity of each assay of the same cells with weights.
    levels
        How well genes are captured: standard deviation of the log of a factor of each gene, new for each assay. Without it
        genes with many causes are expressed more, and a network learns to read causes off the mean, which no real
        screen bears out.
    programs
        What cells vary in that no gene here causes (cell cycle, growth, quality), new for each assay: one to three numbers of
        each cell move a share of the genes, in the log, with loadings of this standard deviation. Without it all
        correlation within a cell type comes from the graph.
    full_coverage, full_efficacy, refit, groups_known, ten_cells
        Share of screens in which every gene is perturbed, the perturbations are complete, half-responses are refitted,
        the cell types are known to the analyst, ten cells per perturbation (else log-uniform 2 to 400).
    brief
        Share of screens whose perturbed cells run only briefly from their noise-free steady state, as those of the published
        data did: they carry a fifth to a quarter of the intrinsic variance of the controls (in steps of `dt`, at most 0.05).
    max_cells
        Most perturbed cells.
    control
        Number of control cells (log-uniform).
    dt
        Euler-Maruyama step.
    """

    genes: Range = (60, 1200)
    dense_genes: int = 300
    graph_kinds: dict[str, float] = field(
        default_factory=lambda: {
            "erdos_renyi": 1.0,
            "scale_free_out": 2.0,
            "scale_free_in": 1.0,
            "scale_free_undirected": 1.0,
            "stochastic_block": 1.0,
            "sparse_regulators": 9.0,
        }
    )
    edges: Range = (1.0, 3.5)
    hill: Range = (1.8, 2.2)
    decay: Range = (0.65, 0.95)
    noise: Range = (0.8, 1.2)
    basal: tuple[Range, ...] = ((1.0, 3.0),)
    strength: tuple[Range, ...] = ((1.0, 5.0),)
    sign_beta: tuple[Range, ...] = ((1.0, 1.0), (0.5, 0.5))
    types: tuple[int, int] = (1, 10)
    technologies: dict[str, float] = field(
        default_factory=lambda: {"10x-chromium": 4.0, "illumina": 1.0, "drop-seq": 1.0}
    )
    depth_shift: Range = (-0.7, 1.5)
    fidelities: dict[str, float] = field(default_factory=lambda: {"low": 1.0})
    levels: Range = (0.0, 0.0)
    programs: Range = (0.0, 0.0)
    full_coverage: float = 0.5
    full_efficacy: float = 0.7
    refit: float = 0.15
    groups_known: float = 0.7
    ten_cells: float = 0.5
    brief: float = 0.0
    max_cells: int = 6000
    control: Range = (100, 600)
    dt: float = 0.05

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, for recipes and model cards; what came later is left out where it is not used, so that hashes stay."""
        later = ("levels", "programs", "brief")
        return {
            k: v for k, v in asdict(self).items() if k not in later or (any(v) if isinstance(v, list | tuple) else v)
        }


@dataclass(frozen=True)
class Screen:
    """Cells of a simulated screen before technical noise.

    Attributes
    ----------
    x
        ``(n_cells, n_genes)`` expression.
    codes, types
        Regime and cell type of every cell.
    perturbed
        ``(n_regimes - 1,)`` gene of each regime from 1 on.
    grn
        The network; ``grn.adjacency`` is ``[cause, effect]``.
    groups_known
        Whether the analyst is given the cell types.
    """

    x: Tensor
    codes: Tensor
    types: Tensor
    perturbed: Tensor
    grn: grn.GRN
    groups_known: bool

    @property
    def single(self) -> Tensor:
        """Regime of every gene, -1 where it was not perturbed."""
        out = torch.full((self.x.shape[1],), -1, device=self.x.device)
        out[self.perturbed] = torch.arange(1, len(self.perturbed) + 1, device=self.x.device)
        return out


def _between(r: random.Random, span: Range) -> float:
    return r.uniform(*span)


def _log_between(r: random.Random, span: Range) -> int:
    return round(math.exp(r.uniform(math.log(span[0]), math.log(span[1]))))


def _weighted(r: random.Random, weights: dict[str, float]) -> str:
    return r.choices(list(weights), list(weights.values()))[0]


def _graph(prior: ScreenPrior, r: random.Random, gen: torch.Generator, device: torch.device) -> Tensor:
    kind, n = _weighted(r, prior.graph_kinds), _log_between(r, prior.genes)
    options: dict[str, Any] = {}
    if kind == "sparse_regulators":
        options = {
            "fraction": math.exp(r.uniform(math.log(0.03), math.log(0.3))),
            "power": r.uniform(0.4, 1.3),
            "upstream": r.uniform(0.1, 1.0),
        }
    elif kind == "stochastic_block":
        options = {"blocks": r.choice([5, 10]), "damp": r.choice([0.1, 0.2])}
    elif kind.startswith("scale_free"):
        options = {"power": r.choice([0.5, 0.8, 1.0, 1.2, 1.5])}
    if kind not in ("sparse_regulators", "scale_free_out"):
        n = min(n, prior.dense_genes)
    edges: float = _between(r, prior.edges)
    if kind.startswith("scale_free"):
        edges = max(1, round(edges))
    if kind in ("watts_strogatz", "geometric"):
        edges = min(edges, 3.0)
    return graphs.random_graph(n, kind=kind, edges_per_gene=edges, rng=gen, device=device, **options)


def draw_screen(prior: ScreenPrior, rng: int, index: int, *, device: torch.device | str = "cpu") -> Screen:
    """Draw screen ``index`` of a seed.

    Parameters
    ----------
    prior
        What to draw from.
    rng, index
        A seed and a number; together they decide every draw.
    device
        Where to draw.
    """
    r, device = random.Random(f"{rng}/{index}"), torch.device(device)
    gen = torch.Generator(device).manual_seed(r.getrandbits(62))
    adjacency = _graph(prior, r, gen, device)
    n = adjacency.shape[0]
    network = grn.random_grn(
        adjacency,
        n_types=prior.types[1] if r.random() < 0.5 else r.randint(*prior.types),
        basal=r.choice(prior.basal),
        strength=r.choice(prior.strength),
        sign_beta=r.choice(prior.sign_beta),
        hill=_between(r, prior.hill),
        decay=_between(r, prior.decay),
        noise=_between(r, prior.noise),
        rng=gen,
    )
    covered = n if r.random() < prior.full_coverage else r.randint(0, n)
    perturbed = torch.randperm(n, generator=gen, device=device)[:covered]
    cells = 10 if r.random() < prior.ten_cells else _log_between(r, (2, 400))
    cells = max(1, min(cells, prior.max_cells // max(covered, 1)))
    efficacy: float | Tensor = 1.0
    if r.random() >= prior.full_efficacy:  # knock-downs of uneven strength; one screen in six activates
        low = r.uniform(0.3, 0.9)
        efficacy = low + (1 - low) * torch.rand(covered, generator=gen, device=device)
        efficacy = -2 * efficacy if r.random() < 1 / 6 else efficacy
    controls, refit, known = _log_between(r, prior.control), r.random() < prior.refit, r.random() < prior.groups_known
    simulate = partial(
        grn.simulate_cells,
        network,
        efficacy=efficacy,
        half_response="refit" if refit else "wild-type",
        rng=gen,
    )
    steady = grn.Sampling(dt=prior.dt, burn_in=2.0, interval=0.4)
    if prior.brief and r.random() < prior.brief:
        brief = grn.Sampling(dt=min(prior.dt, 0.05), burn_in=0.15, cells_per_chain=1, start_noise=False)
        parts = (
            simulate(n_control=controls, knockouts=perturbed, cells_per_knockout=0, sampling=steady),
            simulate(n_control=0, knockouts=perturbed, cells_per_knockout=cells, sampling=brief),
        )
        x, codes, types = (torch.cat(pair) for pair in zip(*parts, strict=True))
    else:
        x, codes, types = simulate(n_control=controls, knockouts=perturbed, cells_per_knockout=cells, sampling=steady)
    return Screen(x, codes, types, perturbed, network, known)


def assay(screen: Screen, prior: ScreenPrior, rng: int, index: int) -> tuple[Tensor, str]:
    """Measure the cells of a screen once: technology, depth and fidelity drawn from the prior.

    Parameters
    ----------
    screen
        The cells.
    prior
        What to draw from.
    rng, index
        A seed and a number; together they decide every draw.

    Returns
    -------
    Counts (or expected counts, at high fidelity) ``(n_cells, n_genes)`` and a text that names the setting.
    """
    r = random.Random(f"assay/{rng}/{index}")
    gen = torch.Generator(screen.x.device).manual_seed(r.getrandbits(62))
    name, fidelity = _weighted(r, prior.technologies), _weighted(r, prior.fidelities)
    tech = noise.technology(name, mix=r.random() < 0.5, rng=r.getrandbits(31))
    shift = _between(r, prior.depth_shift)
    tech = replace(tech, library_mean=tech.library_mean + shift)
    x = screen.x
    if any(prior.levels):
        factor = torch.randn(x.shape[1], generator=gen, device=x.device) * _between(r, prior.levels)
        x = x * factor.exp()
    if any(prior.programs):
        x = x * _programs(x, _between(r, prior.programs), r, gen).exp()
    rate = noise.add_technical_noise(x, tech, rng=gen)
    return noise.count(rate, fidelity, rng=gen), f"{name} {fidelity} {shift:+.1f}"


def _programs(x: Tensor, spread: float, r: random.Random, gen: torch.Generator) -> Tensor:
    """Log factors ``(n_cells, n_genes)`` of what cells vary in together."""
    cells, genes = (torch.randn(size, generator=gen, device=x.device) for size in ((len(x), 3), (3, x.shape[1])))
    taking_part = torch.rand(genes.shape, generator=gen, device=x.device) < r.uniform(0.1, 1.0)
    taking_part[r.randint(1, 3) :] = False
    return cells @ (genes * taking_part * spread)
