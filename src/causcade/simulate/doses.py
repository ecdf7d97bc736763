"""Simulated drug screens with doses, as GIM (Schneider et al. 2025) was tested on, and features of perturbations.

A perturbation acts on one or two genes; how strongly is a saturating function of its dose, one per gene. Training
cells, new doses of known perturbations, and new perturbations come apart. Graphs are [cause, effect].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from causcade.simulate._features import FeatureMap, perturbation_features
from causcade.simulate._interventions import Effects, check_name
from causcade.simulate._mechanisms import Linear, Mechanism, Network
from causcade.simulate._random import Rng, torch_generator
from causcade.simulate.graphs import random_graph
from causcade.simulate.scm import SCM

__all__ = ["DoseRegimes", "DoseStudy", "FeatureMap", "draw_dose_study", "hill", "perturbation_features"]

_HALF_DOSE, _STEEPNESS = 0.75, 4
_STRENGTH = (2.0, 6.0)
_WEIGHT = (0.25, 3.0)
_HIDDEN = 5
_NOISE_VARIANCE = 0.1
_HARD_VARIANCE = 0.5  # above that of the noise, so that a small dose still tells a set gene from a free one
_REFERENCE_CELLS = 2000
_MECHANISMS = ("linear", "mlp")
_INTERVENTIONS = ("hard", "shift")


@dataclass(frozen=True)
class DoseRegimes:
    """Cells of several regimes, a regime being one perturbation at one dose.

    Attributes
    ----------
    cells
        float32 ``(cells, genes)``, regime by regime.
    codes
        int64 ``(cells,)``: 0 is control (only in training cells), k is row ``k - 1`` of what follows.
    targets
        bool ``(regimes, genes)``, True where that gene is acted on.
    values
        float32 ``(regimes, genes)``: mean of the gene (hard) or what is added to it (shift); 0 off target.
    dose
        float32 ``(regimes,)``.
    perturbation
        int64 ``(regimes,)`` index of the perturbation. Numbers run on from training to new perturbations.
    """

    cells: Tensor
    codes: Tensor
    targets: Tensor
    values: Tensor
    dose: Tensor
    perturbation: Tensor

    @property
    def raw_features(self) -> Tensor:
        """Targets beside values, ``(regimes, 2 genes)``; :func:`perturbation_features` makes features of them."""
        return torch.cat([self.targets.to(self.values), self.values], dim=1)


@dataclass(frozen=True)
class DoseStudy:
    """A causal model, training cells, and two tests. Make one with :func:`draw_dose_study`.

    Attributes
    ----------
    scm
        The causal model.
    intervention
        ``"hard"`` or ``"shift"``.
    train
        Control cells, then every perturbation at every dose of training.
    new_doses
        The same perturbations at other doses.
    new_perturbations
        Perturbations not in training (other targets, other strengths), at the doses of training.
    """

    scm: SCM
    intervention: str
    train: DoseRegimes
    new_doses: DoseRegimes
    new_perturbations: DoseRegimes

    @property
    def adjacency(self) -> Tensor:
        """The true graph, bool ``(genes, genes)``, [cause, effect]."""
        return self.scm.adjacency


def hill(strength: Tensor, dose: Tensor) -> Tensor:
    """Response to a dose: 0 without any, half of ``strength`` at 0.75, ``strength`` at most.

    Parameters
    ----------
    strength
        Response to an unlimited dose; of any shape that broadcasts with ``dose``.
    dose
        0 or more.

    Returns
    -------
    torch.Tensor
        ``strength / (1 + (0.75 / dose)^4)``.
    """
    power = dose**_STEEPNESS
    return strength * power / (power + _HALF_DOSE**_STEEPNESS)


def draw_dose_study(
    n_genes: int = 20,
    *,
    graph: str = "erdos_renyi",
    edges_per_gene: float = 2.0,
    mechanism: Literal["linear", "mlp"] = "linear",
    intervention: Literal["hard", "shift"] = "hard",
    n_perturbations: int = 40,
    n_new: int = 20,
    doses: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    new_doses: Sequence[float] = (0.25, 0.75, 1.25, 1.75, 2.25),
    n_control: int = 800,
    n_per_regime: int = 50,
    standardise: Literal["none", "internal", "post"] = "none",
    rng: Rng = None,
) -> DoseStudy:
    """Draw a causal model, perturbations with doses, and cells. The defaults are those of the paper.

    Linear weights are uniform with absolute values 0.25 to 3 and no constant; the ``"mlp"`` is one tanh layer of 5
    units per gene whose weights and biases are standard normal. Noise is Gaussian of variance 0.1. Targets are one
    or two genes, all such sets being equally likely; the strength of each target is uniform with absolute values
    2 to 6. A hard intervention draws the gene from a normal of variance 0.5 around the :func:`hill` response; a
    shift adds the response.

    Parameters
    ----------
    n_genes
        Genes.
    graph, edges_per_gene
        Kind (:data:`~causcade.simulate.KINDS`) and expected edges divided by genes. The paper's scale-free graphs
        are ``"scale_free_in"`` if they are those of DiBS, which it does not say.
    mechanism, intervention
        See above.
    n_perturbations, n_new
        Perturbations in training, and new ones. No two act on the same genes, so that those of the new ones are new.
    doses, new_doses
        Doses above 0 of training and new perturbations, and of the test of new doses.
    n_control, n_per_regime
        Control cells, and cells of one perturbation at one dose (in the tests as well, where the paper is silent).
    standardise
        As in :class:`~causcade.simulate.SCM`. ``"none"`` as in the paper, where variances grow along the order of
        the genes and give it away; ``"post"`` and ``"internal"`` apply interventions in the units of what comes back.
    rng
        Graph, mechanisms, perturbations, noise. The training cells do not depend on ``n_new`` or ``new_doses``.

    Returns
    -------
    DoseStudy

    Raises
    ------
    ValueError
        If a name is unknown, a number or a dose is not positive, or there are fewer target sets than perturbations.
    """
    check_name("mechanism", mechanism, _MECHANISMS)
    check_name("intervention", intervention, _INTERVENTIONS)
    _check(n_genes, n_perturbations, n_new, n_control, n_per_regime)
    train_doses, other_doses = _check_doses("doses", doses), _check_doses("new_doses", new_doses)
    generator = torch_generator(rng)
    adjacency = random_graph(n_genes, kind=graph, edges_per_gene=edges_per_gene, rng=generator)
    scm = _draw_scm(adjacency, mechanism, standardise, generator)
    sets = _draw_sets(n_genes, n_perturbations + n_new, generator)
    hard = intervention == "hard"

    def sample(strength: Tensor, start: int, at: Tensor, controls: int) -> DoseRegimes:
        return _sample(scm, strength, start, at, controls, n_per_regime, generator, hard=hard)

    # in this order, so that tests have no say in what is trained on
    known = sets[:n_perturbations] * _signed(_STRENGTH, (n_perturbations, n_genes), generator)
    train = sample(known, 0, train_doses, n_control)
    other = sample(known, 0, other_doses, 0)
    new = sets[n_perturbations:] * _signed(_STRENGTH, (n_new, n_genes), generator)
    return DoseStudy(scm, intervention, train, other, sample(new, n_perturbations, train_doses, 0))


def _check(n_genes: int, n_perturbations: int, n_new: int, n_control: int, n_per_regime: int) -> None:
    numbers = {
        "n_genes": (n_genes, 2),
        "n_perturbations": (n_perturbations, 1),
        "n_new": (n_new, 0),
        "n_control": (n_control, 1),
        "n_per_regime": (n_per_regime, 1),
    }
    for name, (number, least) in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
            msg = f"{name} must be a whole number of at least {least}, not {number!r}"
            raise ValueError(msg)
    sets = n_genes + n_genes * (n_genes - 1) // 2
    if n_perturbations + n_new > sets:
        msg = (
            f"{n_genes} genes have {sets} sets of one or two targets, fewer than "
            f"{n_perturbations} perturbations and {n_new} new ones; take more genes or fewer perturbations"
        )
        raise ValueError(msg)


def _check_doses(name: str, doses: Sequence[float]) -> Tensor:
    values = torch.tensor([float(dose) for dose in doses])
    if not len(values) or not bool((values.isfinite() & (values > 0)).all()) or len(values.unique()) < len(values):
        msg = f"{name} must be different numbers above 0, at least one; got {list(doses)}"
        raise ValueError(msg)
    return values


def _draw_scm(adjacency: Tensor, mechanism: str, standardise: Any, generator: torch.Generator) -> SCM:
    d = len(adjacency)
    draw = _linear if mechanism == "linear" else _network
    scm = SCM(
        adjacency=adjacency,
        mechanism=draw(adjacency, generator),
        noise="gaussian",
        noise_sd=torch.full((d,), math.sqrt(_NOISE_VARIANCE)),
        noise_function=None,
        standardise=standardise,
        location=torch.zeros(d),
        spread=torch.ones(d),
    )
    if standardise != "none":
        scm._fit(scm.draw_noise(_REFERENCE_CELLS, rng=generator))
    return scm


def _linear(adjacency: Tensor, generator: torch.Generator) -> Mechanism:
    d = len(adjacency)
    return Linear(_signed(_WEIGHT, (d, d), generator) * adjacency, torch.zeros(d))


def _network(adjacency: Tensor, generator: torch.Generator) -> Mechanism:
    d = len(adjacency)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inner = normal(d, d, _HIDDEN) * adjacency[:, :, None]
    return Network(inner, normal(d, _HIDDEN), normal(d, _HIDDEN), normal(d), None)


def _signed(low_high: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = low_high
    size = low + (high - low) * torch.rand(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -size, size)


def _draw_sets(d: int, n: int, generator: torch.Generator) -> Tensor:
    """Different sets of one or two genes, bool ``(n, genes)``."""
    first, second = torch.triu_indices(d, d)  # a pair of equal genes is a set of one
    chosen = torch.randperm(len(first), generator=generator)[:n]
    hit = torch.zeros(n, d, dtype=torch.bool)
    row = torch.arange(n)
    hit[row, first[chosen]] = True
    hit[row, second[chosen]] = True
    return hit


def _sample(
    scm: SCM,
    strength: Tensor,
    start: int,
    doses: Tensor,
    n_control: int,
    n_per_regime: int,
    generator: torch.Generator,
    *,
    hard: bool,
) -> DoseRegimes:
    n, d = strength.shape
    values = hill(strength[:, None, :], doses[None, :, None]).reshape(n * len(doses), d)
    targets = (strength != 0).repeat_interleave(len(doses), 0)
    codes = torch.arange(1, len(values) + 1).repeat_interleave(n_per_regime)
    codes = torch.cat([codes.new_zeros(n_control), codes])
    noise = scm.draw_noise(len(codes), rng=generator)
    effects = _effects(targets, values, codes, generator, hard=hard)
    return DoseRegimes(
        cells=scm._run(noise, effects),
        codes=codes,
        targets=targets,
        values=values,
        dose=doses.repeat(n),
        perturbation=torch.arange(start, start + n).repeat_interleave(len(doses)),
    )


def _effects(targets: Tensor, values: Tensor, codes: Tensor, generator: torch.Generator, *, hard: bool) -> Effects:
    d = targets.shape[1]
    acted_on = torch.cat([targets.new_zeros(1, d), targets])[codes]
    response = torch.cat([values.new_zeros(1, d), values])[codes]
    jitter = math.sqrt(_HARD_VARIANCE) * torch.randn(len(codes), d, generator=generator)
    one, nothing = torch.ones(len(codes), d), torch.zeros(len(codes), d)
    if hard:
        return Effects(acted_on, response + jitter, nothing, one, one)
    return Effects(torch.zeros_like(acted_on), nothing, response, one, one)
