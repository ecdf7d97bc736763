"""What labelled graphs and their cells are drawn from. Public through ``domains``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from causcade.simulate._interventions import check_name

__all__ = ["DOMAINS", "GraphPrior", "graph_prior"]

DOMAINS = ("linear", "rff", "grn")
Range = tuple[float, float]


@dataclass(frozen=True)
class GraphPrior:
    """What items are drawn from. Dicts give names with weights, tuples of ranges and of numbers are drawn evenly.

    Attributes
    ----------
    domains
        ``"linear"``, ``"rff"`` (causal models) and ``"grn"`` (gene networks, counted as molecules).
    genes
        Numbers of genes (as text, so that recipes can hold them).
    cells
        Number of cells (log-uniform).
    interventional, share
        Share of items with interventions, and range of the share of their cells that have one.
    full_coverage, coverage
        Share of those items in which every gene is intervened on, and for the others the range of the share of genes.
    hidden
        Share of those items in which some of the interventions are not in the mask.
    missing
        Share of items with missing entries (NaN), up to 30 % of them.
    graphs, edges, power, blocks, dim
        Kinds of :data:`causcade.simulate.graphs.KINDS`; edges per gene; preference of scale-free graphs; communities;
        dimensions of small worlds.
    weight, bias, noise_sd, value
        Linear models: absolute weights. All causal models: constants, noise, absolute values that interventions set.
    noises, heteroscedastic
        Laws of the noise, and the share of models in which its size depends on the parents.
    length, output
        Length and output scale of smooth models on raw parents; a tenth of the length on standardised ones.
    standardise
        ``"internal"`` (genes are standardised as they are generated, so neither variance nor predictability tells the
        order) or ``"none"`` (raw, as published).
    gene_graphs, gene_edges, gene_power
        Graphs of gene networks.
    decay, noise, basal, strength, sign_beta, hill, types, technologies
        Kinetics and assay, see :func:`causcade.simulate.grn.random_grn` and :mod:`causcade.simulate.noise`.
    dt
        Euler-Maruyama step.
    """

    domains: dict[str, float] = field(default_factory=lambda: {"linear": 1.0, "rff": 1.0})
    genes: dict[str, float] = field(default_factory=lambda: {str(d): 1.0 for d in (2, 5, 10, 20, 30, 40, 50)})
    cells: tuple[int, int] = (100, 400)
    interventional: float = 0.5
    share: Range = (0.1, 0.5)
    full_coverage: float = 0.5
    coverage: Range = (0.1, 1.0)
    hidden: float = 0.1
    missing: float = 0.1
    graphs: dict[str, float] = field(
        default_factory=lambda: {"erdos_renyi": 2.0, "scale_free_in": 1.0, "scale_free_out": 1.0}
    )
    edges: tuple[float, ...] = (1.0, 2.0, 3.0)
    power: tuple[float, ...] = (1.0,)
    blocks: tuple[int, ...] = (5, 10)
    dim: tuple[int, ...] = (2, 3)
    weight: tuple[Range, ...] = ((1.0, 3.0),)
    bias: Range = (-3.0, 3.0)
    noise_sd: Range = (0.2, 2.0)
    value: Range = (1.0, 3.0)
    noises: dict[str, float] = field(default_factory=lambda: {"gaussian": 1.0})
    heteroscedastic: float = 0.0
    length: tuple[Range, ...] = ((7.0, 10.0),)
    output: tuple[Range, ...] = ((10.0, 20.0),)
    standardise: dict[str, float] = field(default_factory=lambda: {"internal": 1.0})
    gene_graphs: dict[str, float] = field(default_factory=lambda: {"erdos_renyi": 1.0, "scale_free_out": 1.0})
    gene_edges: tuple[float, ...] = (1.0, 2.0, 3.0)
    gene_power: tuple[float, ...] = (0.5, 1.0, 1.5)
    decay: tuple[Range, ...] = ((0.7, 0.9),)
    noise: tuple[Range, ...] = ((0.9, 1.1),)
    basal: tuple[Range, ...] = ((1.0, 3.0),)
    strength: tuple[Range, ...] = ((1.0, 5.0),)
    sign_beta: tuple[Range, ...] = ((1.0, 1.0), (0.5, 0.5))
    hill: tuple[Range, ...] = ((1.9, 2.1),)
    types: tuple[int, int] = (5, 10)
    technologies: dict[str, float] = field(default_factory=lambda: {"10x-chromium": 1.0})
    dt: float = 0.05

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, for recipes and model cards."""
        return asdict(self)


_TEST: dict[str, Any] = {"genes": {"30": 1.0}, "cells": (1000, 1000), "interventional": 1.0, "share": (0.5, 0.5)}
_TEST |= {"full_coverage": 1.0, "hidden": 0.0, "missing": 0.0}
_SHIFTED: dict[str, Any] = {
    "graphs": dict.fromkeys(("scale_free_in", "watts_strogatz", "stochastic_block", "geometric"), 1.0),
    "edges": (2.0,),
    "power": (0.5, 1.5),
    "weight": ((0.5, 2.0), (2.0, 4.0)),
    "noises": {"laplace": 1.0, "cauchy": 1.0, "gaussian": 1.0},
    "heteroscedastic": 0.5,
    "length": ((5.0, 8.0), (8.0, 12.0)),
    "output": ((8.0, 12.0), (18.0, 22.0)),
    "full_coverage": 0.0,
    "coverage": (0.5, 0.5),
    "value": (1.0, 5.0),
    "decay": ((0.5, 0.5), (1.5, 1.5)),
    "noise": ((0.5, 0.5), (1.5, 1.5)),
    "basal": ((0.5, 2.0), (2.0, 4.0)),
    "strength": ((1.0, 3.0), (3.0, 7.0)),
    "sign_beta": ((0.2588, 0.2499),),
    "hill": ((1.5, 1.5), (2.5, 2.5)),
    "technologies": dict.fromkeys(("illumina", "drop-seq", "smart-seq"), 1.0),
}


def graph_prior(domain: str, *, shifted: bool = False, standardise: str = "internal") -> GraphPrior:
    """Give the prior of the paper's test sets: 30 genes, 500 control and 500 interventional cells.

    Parameters
    ----------
    domain
        ``"linear"``, ``"rff"`` or ``"grn"``.
    shifted
        Graphs, mechanisms, noise, interventions and assays outside the training ranges, and half of the genes
        intervened on. Gene networks then come from a real network, given to :func:`draw_graph_item`.
    standardise
        ``"internal"``, or ``"none"`` for raw causal models, as published.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    check_name("domain", domain, DOMAINS)
    check_name("standardise", standardise, ("internal", "none"))
    return GraphPrior(
        **_TEST | {"domains": {domain: 1.0}, "standardise": {standardise: 1.0}} | (_SHIFTED if shifted else {})
    )
