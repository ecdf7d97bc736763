"""Data sets with known causal graphs: linear and smooth causal models, and gene networks. What edge networks learn from.

The ranges are those of AVICI (Lorch et al. 2022), for training and for its shifted tests. Graphs are [cause, effect].
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from causcade.simulate import graphs, grn, noise
from causcade.simulate._graph_priors import DOMAINS, GraphPrior, graph_prior
from causcade.simulate._interventions import check_name
from causcade.simulate.scm import SCM, Intervention, random_scm, sample_regimes

__all__ = ["DOMAINS", "GraphItem", "GraphPrior", "Kind", "draw_graph_item", "graph_prior", "graph_values"]

Kind = Literal["scm", "counts"]

_REFERENCE_CELLS = 500  # behind the standardisation inside a causal model; 2,000 cost more than the item
_PUBLISHED_SIZE = ("watts_strogatz", "geometric")  # kinds whose number of edges follows from their own options


@dataclass(frozen=True)
class GraphItem:
    """A data set and its graph.

    Attributes
    ----------
    cells
        ``(cells, genes)`` values of a causal model, or molecule counts; NaN where missing. In random order.
    mask
        bool ``(cells, genes)``, True where that gene is known to be intervened on in that cell.
    adjacency
        bool ``(genes, genes)``, [cause, effect].
    kind
        How :func:`graph_values` must treat the cells: ``"scm"`` or ``"counts"``.
    domain
        Where it came from.
    """

    cells: Tensor
    mask: Tensor
    adjacency: Tensor
    kind: Kind
    domain: str

    @property
    def values(self) -> Tensor:
        """What networks and baselines are given, ``(cells, genes)``."""
        return graph_values(self.cells, self.kind)


def graph_values(x: Tensor, kind: Kind, *, total: Tensor | None = None) -> Tensor:
    """Standardise cells, for training and for use alike.

    Parameters
    ----------
    x
        ``(cells, genes)``; NaN is missing, and stays so.
    kind
        ``"scm"``: z score of every gene over all cells (0 for a constant gene). ``"counts"``: log2 of counts per
        million, less the smallest, over the standard deviation, both over all entries above 0; zeros are 0.
    total
        ``(cells,)`` counts over all genes measured, where ``x`` has only some of them; None: the sum over ``x``.

    Returns
    -------
    torch.Tensor
        float32 ``(cells, genes)``.

    Raises
    ------
    ValueError
        If the kind is unknown, ``x`` is no matrix, or a count is negative.
    """
    check_name("kind of values", kind, ("scm", "counts"))
    if x.ndim != 2:
        msg = f"x must be (cells, genes); got shape {tuple(x.shape)}."
        raise ValueError(msg)
    x = x.double()  # means of raw causal models can be far from 0
    if kind == "scm":
        centred = x - x.nanmean(0)
        sd = centred.square().nanmean(0).sqrt()
        # a constant gene is 0, whatever rounding left of it
        flat = sd <= 1e-9 * x.abs().nan_to_num(0.0).amax(0)
        return torch.where(flat, centred * 0.0, centred / torch.where(flat, 1.0, sd)).float()
    if bool((x < 0).any()):
        msg = "counts must not be negative: give molecule counts, or kind='scm' for values of another kind."
        raise ValueError(msg)
    size = (x.nansum(1) if total is None else total.to(x)).clamp(min=1e-12)
    logged = (x / size[:, None] * 1e6).log2()
    seen = logged[x > 0]
    if not len(seen):
        return x.float()
    sd = seen.std(unbiased=False)
    return torch.where(x > 0, (logged - seen.min()) / torch.where(sd > 1e-9, sd, 1.0), x).float()


def draw_graph_item(
    prior: GraphPrior,
    rng: int,
    index: int,
    *,
    genes: int | None = None,
    cells: int | None = None,
    network: tuple[Tensor, Tensor] | None = None,
) -> GraphItem:
    """Draw item ``index`` of a seed (on the CPU).

    Parameters
    ----------
    prior
        What to draw from.
    rng, index
        A seed and a number; with the arguments below they decide every draw, whatever was drawn before.
    genes, cells
        Numbers of genes and cells, if they are not to be drawn.
    network
        Gene networks: a real one to cut modules out of, as adjacency and signs (0 = draw), each ``(n, n)``,
        [cause, effect], in place of random graphs.

    Raises
    ------
    ValueError
        If the prior names something that does not exist.
    """
    r = random.Random(f"graph/{rng}/{index}")
    gen = torch.Generator().manual_seed(r.getrandbits(62))
    domain = _pick(r, prior.domains)
    check_name("domain", domain, DOMAINS)
    d = int(_pick(r, prior.genes))
    n = round(math.exp(r.uniform(*map(math.log, prior.cells))))
    d, n = d if genes is None else genes, n if cells is None else cells
    design = _design(prior, r, d, n)
    if domain == "grn":
        x, mask, adjacency = _gene_cells(prior, r, gen, design, network)
    else:
        adjacency = _graph(r, prior, d, prior.graphs, prior.edges, prior.power, gen)
        x, mask = _model_cells(prior, r, gen, adjacency, domain, design)
    order = torch.randperm(len(x), generator=gen)
    x, mask = x[order], mask[order]
    if r.random() < prior.hidden:
        mask = mask & (torch.rand(d, generator=gen) < r.random())
    if r.random() < prior.missing:
        x = x.masked_fill(torch.rand(x.shape, generator=gen) < 0.3 * r.random(), math.nan)
    return GraphItem(x, mask, adjacency, "counts" if domain == "grn" else "scm", domain)


def _pick(r: random.Random, weights: dict[str, float]) -> str:
    return r.choices(list(weights), list(weights.values()))[0]


def _design(prior: GraphPrior, r: random.Random, d: int, n: int) -> Tensor:
    """Cells of control, then of every gene's intervention, ``(1 + d,)``."""
    counts = torch.zeros(1 + d, dtype=torch.long)
    acted = round(n * r.uniform(*prior.share)) if r.random() < prior.interventional else 0
    covered = d if r.random() < prior.full_coverage else max(1, round(d * r.uniform(*prior.coverage)))
    chosen = torch.tensor(r.sample(range(d), covered))
    counts += torch.bincount(1 + chosen[torch.arange(acted) % covered], minlength=1 + d)
    counts[0] = n - acted
    return counts


def _graph(
    r: random.Random,
    prior: GraphPrior,
    d: int,
    kinds: dict[str, float],
    edges: tuple[float, ...],
    power: tuple[float, ...],
    gen: torch.Generator,
) -> Tensor:
    kind, per_gene = _pick(r, kinds), r.choice(edges)
    options: dict[str, Any] = {}
    if kind.startswith("scale_free"):
        options = {"power": r.choice(power)}
    elif kind == "stochastic_block":
        options = {"blocks": r.choice(prior.blocks)}
    elif kind == "watts_strogatz":
        options = {"dim": r.choice(prior.dim)}
    size = None if kind in _PUBLISHED_SIZE else per_gene
    return graphs.random_graph(d, kind=kind, edges_per_gene=size, rng=gen, **options)


def _model_cells(
    prior: GraphPrior, r: random.Random, gen: torch.Generator, adjacency: Tensor, domain: str, design: Tensor
) -> tuple[Tensor, Tensor]:
    standardise = _pick(r, prior.standardise)
    shrink = 0.1 if standardise == "internal" else 1.0  # standardised parents are about ten times smaller
    low, high = r.choice(prior.length)
    model = random_scm(
        adjacency,
        mechanism=domain,
        noise=_pick(r, prior.noises),
        heteroscedastic=r.random() < prior.heteroscedastic,
        standardise="none",
        weight_range=r.choice(prior.weight),
        bias_range=prior.bias,
        noise_sd_range=prior.noise_sd,
        length_scale_range=(low * shrink, high * shrink),
        output_scale_range=r.choice(prior.output),
        rng=gen,
    )
    if standardise == "internal":
        model = _standardised(model, gen)
    targets = [t for t in range(len(adjacency)) if design[1 + t]]
    interventions = [Intervention((t,), "signed_uniform", prior.value) for t in targets]
    most = int(design[1:].max())
    x, codes, mask = sample_regimes(model, int(design[0]), most, interventions, rng=gen)
    wanted = torch.cat([design[:1], design[1:][targets]])  # of each regime; some have one cell less than the most
    first = torch.searchsorted(codes, torch.arange(len(wanted)))
    keep = torch.arange(len(codes)) - first[codes] < wanted[codes]
    return x[keep], mask[keep]


def _standardised(model: SCM, gen: torch.Generator) -> SCM:
    size = model.noise_function
    if size is not None:  # it was drawn for raw parents
        size = replace(size, frequency=10 * size.frequency)
    model = replace(model, standardise="internal", noise_function=size)
    model._fit(model.draw_noise(_REFERENCE_CELLS, rng=gen))
    return model


def _gene_cells(
    prior: GraphPrior,
    r: random.Random,
    gen: torch.Generator,
    design: Tensor,
    network: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    signs = None
    if network is None:
        adjacency = _graph(r, prior, len(design) - 1, prior.gene_graphs, prior.gene_edges, prior.gene_power, gen)
    else:
        module = graphs.subgraph_module(network[0], len(design) - 1, rng=r.getrandbits(60))
        adjacency, signs = (t[module][:, module] for t in network)
        adjacency = graphs.break_cycles(adjacency, rng=r.getrandbits(60))
    genes = grn.random_grn(
        adjacency,
        n_types=r.randint(*prior.types),
        basal=r.choice(prior.basal),
        strength=r.choice(prior.strength),
        sign_beta=r.choice(prior.sign_beta),
        signs=signs,
        hill=r.uniform(*r.choice(prior.hill)),
        decay=r.uniform(*r.choice(prior.decay)),
        noise=r.uniform(*r.choice(prior.noise)),
        rng=gen,
    )
    knocked = design[1:].nonzero().squeeze(1)
    x, codes, _ = grn.simulate_cells(
        genes,
        n_control=int(design[0]),
        knockouts=knocked,
        cells_per_knockout=design[1:][knocked],
        sampling=grn.Sampling(dt=prior.dt, interval=0.4),
        rng=gen,
    )
    mask = torch.zeros(x.shape, dtype=torch.bool)
    acted = codes > 0
    mask[acted, knocked[codes[acted] - 1]] = True
    tech = noise.technology(_pick(r, prior.technologies), mix=True, rng=gen)
    return noise.count(noise.add_technical_noise(x, tech, rng=gen), rng=gen), mask, adjacency
