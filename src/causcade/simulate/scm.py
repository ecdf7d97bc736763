"""Structural causal models with random mechanisms, and samples of them under interventions.

Graphs are [cause, effect]; samples are ``(cells, genes)``. All tensors live on the device of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import softplus

from causcade.simulate._dag import check_adjacency, levels
from causcade.simulate._interventions import Effects, Intervention, cell_effects, check_name
from causcade.simulate._mechanisms import MECHANISMS, FourierFunction, Mechanism, Ranges, draw_fourier, uniform
from causcade.simulate._random import Rng, torch_generator

__all__ = ["SCM", "Intervention", "random_scm", "sample_regimes"]

_REFERENCE_CELLS = 2000
_NOISES = ("gaussian", "uniform", "exponential", "student_t", "laplace", "cauchy")
_NO_VARIANCE = ("student_t", "cauchy")
_STANDARDISE = ("internal", "none", "post")


@dataclass(frozen=True)
class SCM:
    """A structural causal model with fixed mechanisms. Make one with :func:`random_scm`.

    Attributes
    ----------
    adjacency
        bool ``(d, d)``, [cause, effect], acyclic.
    mechanism
        Gives a gene from its parents and its noise.
    noise
        Law of the noise: ``"gaussian"``, ``"uniform"``, ``"exponential"`` (skewed, to the left in genes of odd number),
        ``"student_t"`` (2 degrees of freedom), ``"laplace"`` or ``"cauchy"``.
    noise_sd
        ``(d,)`` standard deviation of the noise (scale, where it has none: Student's t, Cauchy).
    noise_function
        None, or the function whose softplus takes the place of ``noise_sd`` (heteroscedastic noise).
    standardise
        ``"internal"``: genes are standardised as they are generated, before their children see them. ``"post"``:
        only what is returned is standardised. ``"none"``: neither.
    location, spread
        ``(d,)`` the mean and standard deviation used for that, fixed when the model is made so that the
        effects of interventions stay visible. Median and scaled interquartile range where noise has no variance.
    """

    adjacency: Tensor
    mechanism: Mechanism
    noise: str
    noise_sd: Tensor
    noise_function: FourierFunction | None
    standardise: str
    location: Tensor
    spread: Tensor
    _layers: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the names and put the genes in layers, causes first."""
        check_name("noise", self.noise, _NOISES)
        check_name("standardise", self.standardise, _STANDARDISE)
        level = levels(self.adjacency)
        layers = tuple((level == k).nonzero().squeeze(1) for k in range(int(level.max()) + 1))
        object.__setattr__(self, "_layers", layers)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.adjacency)

    @property
    def device(self) -> torch.device:
        """Where the model lives and samples."""
        return self.adjacency.device

    def draw_noise(self, n: int, *, rng: Rng = None) -> Tensor:
        """Draw the noise of ``n`` cells, ``(n, genes)``, of mean 0 and standard deviation 1 (scale 1 where it has none)."""
        return _draw_noise(self.noise, (n, self.n_genes), torch_generator(rng, self.device))

    def evaluate(self, noise: Tensor, *, intervention: Intervention | None = None, rng: Rng = None) -> Tensor:
        """Give the cells that follow from given noise; the same noise twice gives counterfactual pairs.

        Parameters
        ----------
        noise
            ``(n, genes)``, as from :meth:`draw_noise`.
        intervention
            Applied to all cells; None for control.
        rng
            Used by the two uniform kinds of intervention only.

        Returns
        -------
        torch.Tensor
            ``(n, genes)``.
        """
        codes = torch.zeros(len(noise), dtype=torch.long, device=self.device)
        return self._run(noise, cell_effects([intervention], codes, self.n_genes, torch_generator(rng, self.device)))

    def sample(self, n: int, *, intervention: Intervention | None = None, rng: Rng = None) -> Tensor:
        """Draw ``n`` cells.

        Parameters
        ----------
        n
            Cells.
        intervention
            Applied to all cells; None for control.
        rng
            Noise, and values drawn by the intervention.

        Returns
        -------
        torch.Tensor
            ``(n, genes)``.
        """
        generator = torch_generator(rng, self.device)
        return self.evaluate(self.draw_noise(n, rng=generator), intervention=intervention, rng=generator)

    def _raw(self, seen: Tensor, nodes: Tensor, noise: Tensor, effects: Effects | None) -> Tensor:
        sd = self.noise_sd[nodes]
        if self.noise_function is not None:
            sd = softplus(self.noise_function(seen, nodes))
        if effects is not None:
            sd = sd * effects.noise_scale[:, nodes]
        return self.mechanism(seen, nodes, noise[:, nodes] * sd)

    def _run(self, noise: Tensor, effects: Effects | None) -> Tensor:
        result = torch.zeros_like(noise)
        seen = torch.zeros_like(noise) if self.standardise == "post" else result
        for nodes in self._layers:
            location, spread = self.location[nodes], self.spread[nodes]
            x = (self._raw(seen, nodes, noise, effects) - location) / spread
            if effects is not None:
                soft = x * effects.scale[:, nodes] + effects.shift[:, nodes]
                x = torch.where(effects.is_set[:, nodes], effects.set_to[:, nodes], soft)
            result[:, nodes] = x
            if seen is not result:
                seen[:, nodes] = x * spread + location
        return result

    def _fit(self, noise: Tensor) -> None:
        """Set location and spread from control cells, a layer at a time, as children depend on them."""
        seen = torch.zeros_like(noise)
        for nodes in self._layers:
            raw = self._raw(seen, nodes, noise, None)
            if self.noise in _NO_VARIANCE:
                quarters = raw.quantile(torch.tensor([0.25, 0.5, 0.75], device=raw.device), dim=0)
                # 1.349 is the interquartile range of a standard normal
                location, spread = quarters[1], (quarters[2] - quarters[0]) / 1.349
            else:
                location, spread = raw.mean(0), raw.std(0)
            self.location[nodes], self.spread[nodes] = location, spread.clamp(min=1e-6)
            seen[:, nodes] = (raw - location) / self.spread[nodes] if self.standardise == "internal" else raw


def _draw_noise(law: str, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    device = generator.device
    if law == "gaussian":
        return torch.randn(shape, generator=generator, device=device)
    if law == "uniform":
        return (2 * torch.rand(shape, generator=generator, device=device) - 1) * math.sqrt(3)
    if law == "cauchy":
        return torch.empty(shape, device=device).cauchy_(generator=generator)
    if law == "student_t":
        u = torch.rand(shape, generator=generator, device=device, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        return ((2 * u - 1) / (2 * u * (1 - u)).sqrt()).float()  # quantiles of 2 degrees of freedom
    pair = torch.empty((2, *shape), device=device).exponential_(generator=generator)
    if law == "exponential":
        return (pair[0] - 1) * (1 - 2 * (torch.arange(shape[1], device=device) % 2))
    return (pair[0] - pair[1]) / math.sqrt(2)


def random_scm(
    adjacency: Tensor,
    *,
    mechanism: str = "linear",
    noise: str = "gaussian",
    heteroscedastic: bool = False,
    standardise: str = "internal",
    weight_range: tuple[float, float] = (1.0, 3.0),
    bias_range: tuple[float, float] = (-3.0, 3.0),
    noise_sd_range: tuple[float, float] = (0.2, 2.0),
    length_scale_range: tuple[float, float] | None = None,
    output_scale_range: tuple[float, float] = (10.0, 20.0),
    rng: Rng = None,
    device: str | torch.device | None = None,
) -> SCM:
    """Draw the mechanisms of a structural causal model on a given graph.

    Standardising internally keeps variance and predictability from growing along the causal order, which
    would give the order away to methods that only sort by them.

    Parameters
    ----------
    adjacency
        ``(d, d)``, [cause, effect], acyclic.
    mechanism
        ``"linear"``; ``"mlp"`` (tanh network, noise added); ``"mlp_nonadditive"`` (noise is one of its inputs);
        ``"rff"`` (a Gaussian process by 100 random Fourier features); ``"polynomial"`` (with squares, parents
        bounded to ±3);
        ``"sigmoid"``.
    noise
        Law of the noise, see :class:`SCM`.
    heteroscedastic
        The standard deviation of a gene's noise is the softplus of a random smooth function of its parents
        (output scale 2) in place of a number from ``noise_sd_range``.
    standardise
        ``"internal"``, ``"none"`` or ``"post"``; see :class:`SCM`. Means and standard deviations come from 2,000
        control cells drawn here.
    weight_range
        Absolute values of weights; signs are random. Linear, polynomial and sigmoid only.
    bias_range, noise_sd_range
        Added constant and standard deviation of the noise.
    length_scale_range, output_scale_range
        Of random Fourier features. None: (0.7, 1) where parents are standardised internally, otherwise (7, 10),
        as the values are then about ten times larger.
    rng
        Every parameter and the cells behind the standardisation.
    device
        Where the model lives; None: where ``adjacency`` is.

    Returns
    -------
    SCM

    Raises
    ------
    ValueError
        If a name is unknown, a range is not (low, high), or the graph has a cycle.
    """
    adjacency = check_adjacency(adjacency)
    adjacency = adjacency if device is None else adjacency.to(device)
    check_name("mechanism", mechanism, tuple(MECHANISMS))
    generator = torch_generator(rng, adjacency.device)
    smooth = (0.7, 1.0) if standardise == "internal" else (7.0, 10.0)
    length = smooth if length_scale_range is None else length_scale_range
    ranges = Ranges(weight_range, bias_range, length, output_scale_range)
    for name, (low, high) in {**vars(ranges), "noise_sd": noise_sd_range}.items():
        if not low <= high or (low <= 0 and name in ("length_scale", "noise_sd")):
            above = "" if name in ("weight", "bias", "output_scale") else " above 0"
            msg = f"{name}_range must be (low, high){above}; got {(low, high)}"
            raise ValueError(msg)
    d = len(adjacency)
    model = SCM(
        adjacency=adjacency,
        mechanism=MECHANISMS[mechanism](adjacency, ranges, generator),
        noise=noise,
        noise_sd=uniform(noise_sd_range, (d,), generator),
        noise_function=draw_fourier(adjacency, smooth, (2.0, 2.0), generator) if heteroscedastic else None,
        standardise=standardise,
        location=torch.zeros(d, device=adjacency.device),
        spread=torch.ones(d, device=adjacency.device),
    )
    if standardise != "none":
        model._fit(model.draw_noise(_REFERENCE_CELLS, rng=generator))
    return model


def sample_regimes(
    scm: SCM, n_control: int, n_per_regime: int, interventions: Sequence[Intervention], *, rng: Rng = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a screen: control cells, then cells of every intervention, in one pass.

    Parameters
    ----------
    scm
        The model.
    n_control, n_per_regime
        Cells without intervention, and cells of each intervention.
    interventions
        One per regime.
    rng
        Noise, and values drawn by interventions.

    Returns
    -------
    x : torch.Tensor
        ``(cells, genes)``.
    codes : torch.Tensor
        int64 ``(cells,)``; 0 is control, r is ``interventions[r - 1]``. Cells are in this order.
    mask : torch.Tensor
        bool ``(cells, genes)``; True where that gene was acted on in that cell.
    """
    generator = torch_generator(rng, scm.device)
    n_regimes = len(interventions)
    codes = torch.arange(1, n_regimes + 1, device=scm.device).repeat_interleave(n_per_regime)
    codes = torch.cat([codes.new_zeros(n_control), codes])
    noise = scm.draw_noise(len(codes), rng=generator)
    x = scm._run(noise, cell_effects([None, *interventions], codes, scm.n_genes, generator))
    acted_on = torch.zeros(n_regimes + 1, scm.n_genes, dtype=torch.bool)
    for r, intervention in enumerate(interventions, start=1):
        acted_on[r, list(intervention.targets)] = True
    return x, codes, acted_on.to(scm.device)[codes]
