"""Gene regulatory networks as stochastic differential equations with Hill kinetics.

The dynamics are those of SERGIO (Dibaeinia & Sinha, 2020): gene *i* is produced at rate ``P_i`` (a basal rate for
genes without regulators, else a sum of Hill functions of its regulators), decays at rate ``decay * x_i`` and carries
chemical-Langevin noise.  Three things make this implementation fast without changing the law:

* the half-response belongs to the regulator, so one Hill value per regulator and a matrix product replace a sum over
  edges;
* every cell type, knock-out and chain is a row of one tensor;
* genes that regulate nothing need no steps.  Given the path of their regulators the equation is linear: the mean is
  the production passed through an exponential filter, and under ``dpd`` noise the law around it is a Gamma cut off at
  0, where all genes are kept at every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from causcade.simulate import graphs
from causcade.simulate._dag import check_adjacency
from causcade.simulate._dynamics import NOISE_KINDS, hill_function, run, thin
from causcade.simulate._random import Rng, torch_generator

__all__ = ["GRN", "Sampling", "hill_function", "random_grn", "simulate_cells"]

NoiseKind = Literal["dpd", "sp", "spd"]
HalfResponse = Literal["wild-type", "refit"]


@dataclass(frozen=True)
class GRN:
    """Parameters of a gene regulatory network with several cell types.

    Attributes
    ----------
    adjacency
        ``(n, n)`` bool, ``[cause, effect]``, a DAG.
    strength
        ``(n, n)`` float, signed interaction strength ``k``; negative represses.
    basal
        ``(n_types, n)`` production rate of the genes without regulators (0 for all others).
    hill, decay, noise
        Hill exponent, decay rate (1 / time) and noise amplitude ``q``, one number each.
    noise_kind
        ``"dpd"`` (production and decay noise), ``"sp"`` (production only) or ``"spd"`` (one source for both).
    """

    adjacency: Tensor
    strength: Tensor
    basal: Tensor
    hill: float
    decay: float
    noise: float
    noise_kind: NoiseKind = "dpd"

    def __post_init__(self) -> None:
        """Check shapes and names."""
        n = check_adjacency(self.adjacency).shape[0]
        if self.strength.shape != (n, n) or self.basal.ndim != 2 or self.basal.shape[1] != n or not len(self.basal):
            msg = (
                f"A network of {n} genes needs strength ({n}, {n}) and basal (n_types, {n}) with n_types >= 1; "
                f"got {tuple(self.strength.shape)} and {tuple(self.basal.shape)}."
            )
            raise ValueError(msg)
        if self.noise_kind not in NOISE_KINDS:
            msg = f"Unknown noise_kind {self.noise_kind!r}; choose one of {list(NOISE_KINDS)}."
            raise ValueError(msg)
        if not (self.decay > 0 and self.hill > 0 and self.noise >= 0):
            msg = f"decay and hill must be above 0 and noise not below; got {self.decay}, {self.hill}, {self.noise}."
            raise ValueError(msg)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.adjacency.shape[0]

    @property
    def n_types(self) -> int:
        """Number of cell types."""
        return self.basal.shape[0]

    @property
    def regulators(self) -> Tensor:
        """Indices of the genes that regulate at least one other."""
        return self.adjacency.any(1).nonzero().squeeze(1)

    def steady_state(self, types: Tensor, keep: Tensor, half_response: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise-free steady state, level by level.

        Parameters
        ----------
        types
            ``(s,)`` cell type of every system.
        keep
            ``(s, n)`` factor on the production of every gene (0 for a knock-out, .5 for a halved production).
        half_response
            ``(n,)`` or ``(s, n)`` half-responses.  ``None`` re-estimates them in these systems, as the mean of each
            regulator over all of them (which is what "wild type" means when ``keep`` is all ones).

        Returns
        -------
        The means ``(s, n)`` and the half-responses used.
        """
        level = graphs.levels(self.adjacency)
        x = torch.zeros_like(keep)
        hill = torch.zeros_like(keep)
        used = torch.ones_like(keep) if half_response is None else half_response.expand_as(keep)
        repressed = self.strength.clamp(max=0).abs().sum(0)
        production = self.basal[types] + repressed
        for step in range(int(level.max()) + 1):
            genes = (level == step).nonzero().squeeze(1)
            value = keep[:, genes] * (production[:, genes] + hill @ self.strength[:, genes]) / self.decay
            x[:, genes] = value.clamp(min=0)
            if half_response is None:
                used = used.clone()
                used[:, genes] = x[:, genes].mean(0).clamp(min=1e-6)
            hill[:, genes] = hill_function(x[:, genes], used[:, genes], self.hill)
        return x, used


def random_grn(
    adjacency: Tensor,
    *,
    n_types: int = 10,
    basal: tuple[float, float] = (1.0, 3.0),
    strength: tuple[float, float] = (1.0, 5.0),
    sign_beta: tuple[float, float] = (1.0, 1.0),
    signs: Tensor | None = None,
    hill: float = 2.0,
    decay: float = 0.8,
    noise: float = 1.0,
    noise_kind: NoiseKind = "dpd",
    rng: Rng = None,
) -> GRN:
    """Draw the kinetics of a network.

    Parameters
    ----------
    adjacency
        ``(n, n)`` bool DAG, ``[cause, effect]``.
    n_types
        Number of cell types; they differ in the basal rates of the master regulators.
    basal, strength
        Ranges of the uniform draws of basal rates (per master regulator and type) and ``|k|`` (per edge).
    sign_beta
        Parameters of the Beta distribution of the probability that a *regulator* activates; signs are drawn per edge.
    signs
        ``(n, n)`` known signs (+1, -1; 0 = draw).
    hill, decay, noise, noise_kind
        See :class:`GRN`.
    rng
        Seed or generator of the draws.

    Raises
    ------
    ValueError
        If the graph is not square or has a cycle, a range is upside down or negative, or there is no cell type.
    """
    adjacency = check_adjacency(adjacency)
    graphs.levels(adjacency)  # raises where there is a cycle, and names it
    for what, (low, high) in {"basal": basal, "strength": strength}.items():
        if not 0 <= low <= high:
            msg = f"{what} must be a range (low, high) with 0 <= low <= high; got {(low, high)}."
            raise ValueError(msg)
    if n_types < 1:
        msg = f"n_types must be at least 1; got {n_types}."
        raise ValueError(msg)
    n, device = adjacency.shape[0], adjacency.device
    gen = torch_generator(rng, device)
    a, b = (torch.full((n,), v, device=device) for v in sign_beta)
    # the Beta is two Gammas, drawn with the generator so that the seed decides
    gamma_a, gamma_b = torch._standard_gamma(a, generator=gen), torch._standard_gamma(b, generator=gen)
    activates = gamma_a / (gamma_a + gamma_b).clamp(min=1e-12)
    sign = torch.where(torch.rand((n, n), generator=gen, device=device) < activates[:, None], 1.0, -1.0)
    if signs is not None:
        sign = torch.where(signs != 0, signs.to(sign), sign)
    size = strength[0] + (strength[1] - strength[0]) * torch.rand((n, n), generator=gen, device=device)
    rate = basal[0] + (basal[1] - basal[0]) * torch.rand((n_types, n), generator=gen, device=device)
    roots = ~adjacency.any(0)
    return GRN(adjacency, sign * size * adjacency, rate * roots, hill, decay, noise, noise_kind)


@dataclass(frozen=True)
class Sampling:
    """How cells are taken from the dynamics.

    Attributes
    ----------
    dt
        Euler-Maruyama step.
    burn_in
        Time before the first cell of a chain.  Chains start at the noise-free steady state plus its intrinsic noise.
    interval
        Time between two cells of one chain.
    cells_per_chain
        Most cells taken from one wild-type chain; more cells make more chains.
    start_noise
        Add intrinsic noise at the start.  ``False`` with a short ``burn_in`` gives the nearly noise-free knock-out
        cells of the published data.
    """

    dt: float = 0.01
    burn_in: float = 2.0
    interval: float = 0.15
    cells_per_chain: int = 16
    start_noise: bool = True

    def __post_init__(self) -> None:
        """Check the times."""
        if not (self.dt > 0 and self.burn_in >= 0 and self.interval > 0 and self.cells_per_chain >= 1):
            msg = f"dt, interval and cells_per_chain must be above 0 and burn_in not below; got {self}."
            raise ValueError(msg)


def simulate_cells(
    grn: GRN,
    *,
    n_control: int,
    knockouts: Tensor,
    cells_per_knockout: int | Tensor,
    efficacy: float | Tensor = 1.0,
    half_response: HalfResponse = "wild-type",
    sampling: Sampling | None = None,
    rng: Rng = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of a screen: controls first, then the perturbed cells, knock-out by knock-out.

    Parameters
    ----------
    grn
        The network.
    n_control
        Number of control cells.
    knockouts
        ``(k,)`` gene index of every single-gene perturbation.
    cells_per_knockout
        Number of cells of each, one number or ``(k,)``.
    efficacy
        Share of the production that is lost (1 = knock-out, .5 = production halved; negative = activation), one
        number or ``(k,)``.
    half_response
        ``"wild-type"``: half-responses stay what they are in unperturbed cells, so effects travel down the network.
        ``"refit"``: they are re-estimated inside every perturbation as the published code does, which erases most
        indirect effects (parity only).
    sampling
        Steps and times, see :class:`Sampling`.
    rng
        Seed or generator.

    Returns
    -------
    Expression ``(n_cells, n)`` (molecules, before technical noise, non-negative), the regime of every cell
    ``(n_cells,)`` (0 = control, ``1 + position in knockouts``), its cell type ``(n_cells,)``.

    Raises
    ------
    ValueError
        If a knock-out is no gene, a number of cells is negative, an efficacy is above 1, or a name is unknown.
    """
    sampling, device = sampling or Sampling(), grn.adjacency.device
    gen = torch_generator(rng, device)
    knockouts, counts, lost = _design(grn, n_control, knockouts, cells_per_knockout, efficacy)
    if half_response not in get_args(HalfResponse):
        msg = f"Unknown half_response {half_response!r}; choose one of {get_args(HalfResponse)}."
        raise ValueError(msg)
    perturbed = torch.repeat_interleave(torch.arange(1, len(knockouts) + 1, device=device), counts)
    codes = torch.cat([torch.zeros(n_control, dtype=torch.long, device=device), perturbed])
    types = _spread_types(codes, grn.n_types, gen)
    x = torch.empty((len(codes), grn.n_genes), device=device)

    wild_half = grn.steady_state(torch.arange(grn.n_types, device=device), torch.ones_like(grn.basal))[1][0]
    regulates = grn.adjacency.any(1)
    # what a leaf keeps of its production is thinned out of a steady cell; not so where cells are quieter than steady ones
    alone = regulates[knockouts] if sampling.start_noise else regulates[knockouts] | (lost < 1)
    own = torch.cat([torch.zeros(1, dtype=torch.bool, device=device), alone])[codes]
    gene = torch.cat([torch.zeros(1, dtype=torch.long, device=device), knockouts])[codes]
    mean = _fill_wild_type(grn, x, (~own).nonzero().squeeze(1), types, gene, wild_half, sampling, gen)
    if bool(own.any()):
        half = wild_half.expand(len(knockouts), -1)
        half = _refit(grn, knockouts, lost, half) if half_response == "refit" else half
        _fill_perturbed(grn, x, own.nonzero().squeeze(1), codes, types, knockouts, lost, half, sampling, gen)
    leaf = ((codes > 0) & ~own).nonzero().squeeze(1)
    if len(leaf):
        thin(x, leaf, gene[leaf], (1 - lost[codes[leaf] - 1]).clamp(min=0), mean[leaf], grn, gen)
    return x, codes, types


def _design(
    grn: GRN, n_control: int, knockouts: Tensor, cells: int | Tensor, efficacy: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Check a design and give genes, numbers of cells and lost production, one per regime."""
    device = grn.adjacency.device
    knockouts = torch.as_tensor(knockouts, device=device)
    if knockouts.ndim != 1 or (len(knockouts) and (knockouts.is_floating_point() or knockouts.dtype == torch.bool)):
        msg = f"knockouts must be gene positions (k,); got {knockouts.dtype} of shape {tuple(knockouts.shape)}."
        raise ValueError(msg)
    wrong = knockouts[(knockouts < 0) | (knockouts >= grn.n_genes)]
    if len(wrong):
        msg = f"knockouts must be from 0 to {grn.n_genes - 1}; got {wrong[:5].tolist()}."
        raise ValueError(msg)
    counts = torch.as_tensor(cells, device=device)
    lost = torch.as_tensor(efficacy, dtype=torch.float32, device=device)
    for what, value in {"cells_per_knockout": counts, "efficacy": lost}.items():
        if value.shape not in ((), (len(knockouts),)):
            msg = f"{what} must be one number or one for each of {len(knockouts)} knockouts; got {tuple(value.shape)}."
            raise ValueError(msg)
    if n_control < 0 or bool((counts < 0).any()):
        msg = f"n_control and cells_per_knockout must not be negative; got {n_control} and {counts.tolist()}."
        raise ValueError(msg)
    if not bool((lost <= 1).all()):
        msg = "efficacy is the share of production that is lost: at most 1, below 0 for activation; got more, or NaN."
        raise ValueError(msg)
    return knockouts.long(), counts.expand(len(knockouts)), lost.expand(len(knockouts))


def _spread_types(codes: Tensor, n_types: int, gen: torch.Generator) -> Tensor:
    """Deal cell types evenly within every regime, starting at a random type."""
    n_regimes = int(codes.max()) + 1 if len(codes) else 0
    offset = torch.randint(n_types, (n_regimes,), generator=gen, device=codes.device)
    first = torch.searchsorted(codes, torch.arange(n_regimes, device=codes.device))
    return (torch.arange(len(codes), device=codes.device) - first[codes] + offset[codes]) % n_types


def _fill_wild_type(
    grn: GRN,
    x: Tensor,
    cells: Tensor,
    types: Tensor,
    gene: Tensor,
    half: Tensor,
    sampling: Sampling,
    gen: torch.Generator,
) -> Tensor:
    """Draw unperturbed cells: chains of ``cells_per_chain`` cells, shuffled over the cells of their type.

    Returns for every cell the conditional mean of its ``gene``, from which a perturbation of that gene is drawn.
    """
    mean = torch.zeros(len(x), device=x.device)
    if not len(cells):
        return mean
    wanted = torch.bincount(types[cells], minlength=grn.n_types)
    n_takes = min(sampling.cells_per_chain, math.ceil(int(wanted.max()) / 8))  # at least eight chains a type
    chain_types = torch.repeat_interleave(
        torch.arange(grn.n_types, device=x.device), (wanted + n_takes - 1).div(n_takes, rounding_mode="floor")
    )
    keep = torch.ones((len(chain_types), grn.n_genes), device=x.device)
    start, _ = grn.steady_state(chain_types, keep, half)
    taken, means = run(grn, start, chain_types, keep, half.expand_as(keep), n_takes, sampling, gen)
    for kind in range(grn.n_types):
        mine, chains = cells[types[cells] == kind], (chain_types == kind).nonzero().squeeze(1)
        order = torch.randperm(n_takes * len(chains), generator=gen, device=x.device)[: len(mine)]
        take, chain = order // max(len(chains), 1), chains[order % max(len(chains), 1)]
        x[mine], mean[mine] = taken[take, chain], means[take, chain, gene[mine]]
    return mean


def _fill_perturbed(
    grn: GRN,
    x: Tensor,
    cells: Tensor,
    codes: Tensor,
    types: Tensor,
    knockouts: Tensor,
    lost: Tensor,
    half: Tensor,
    sampling: Sampling,
    gen: torch.Generator,
    block: int = 4096,
) -> None:
    """Cells of perturbations that need a chain of their own for every cell.  ``half`` is by regime."""
    for at in range(0, len(cells), block):
        rows = cells[at : at + block]
        regime = codes[rows] - 1
        keep = torch.ones((len(rows), grn.n_genes), device=x.device)
        keep[torch.arange(len(rows), device=x.device), knockouts[regime]] = 1 - lost[regime]
        start, _ = grn.steady_state(types[rows], keep, half[regime])
        x[rows] = run(grn, start, types[rows], keep, half[regime], 1, sampling, gen)[0][0]


def _refit(grn: GRN, knockouts: Tensor, lost: Tensor, wild: Tensor) -> Tensor:
    """Half-responses re-estimated inside each perturbation over all cell types, ``(k, n)``; ``wild`` if nothing is regulated."""
    types = torch.arange(grn.n_types, device=knockouts.device)
    out = wild.clone()
    regulates = grn.adjacency.any(1)
    for r in range(len(knockouts)):
        if not bool(regulates[knockouts[r]]):
            continue
        keep = torch.ones((grn.n_types, grn.n_genes), device=knockouts.device)
        keep[:, knockouts[r]] = 1 - lost[r]
        out[r] = grn.steady_state(types, keep)[1][0]
    return out
