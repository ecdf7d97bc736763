"""Generative intervention model: a causal model, and networks from features of a perturbation to interventions in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn._gim_cells import Cells, summarise
from causcade.nn._gim_config import GimConfig
from causcade.nn._gim_exact import solve_linear
from causcade.nn._gim_interventions import Interventions, build_interventions
from causcade.nn._gim_mechanisms import LinearMechanisms, build_mechanisms
from causcade.nn.relax import LatentGraph, closed_walks, gumbel_sigmoid, sample_radius

__all__ = ["Cells", "Gim", "GimConfig", "Interventions", "Terms", "gene_log_likelihood", "log_mean", "summarise"]

_LOG_2PI = math.log(2 * math.pi)


@dataclass
class Terms:
    """Parts of the objective, in nats; all are scalars but the last.

    Attributes
    ----------
    soft
        Log likelihood of soft graphs and targets: gradient for the latent graph and the interventions only.
    hard
        Log likelihood of hard graphs: gradient for mechanisms and noise only. ``"expected"`` gives the soft one again,
        without any gradient, and all gradients to the first.
    prior
        Log density of the normal priors, without constants.
    edges, targets
        Expected number of edges, and of targets over all environments but the observational one.
    cycles
        ``(n_acyclic,)`` spectral radius of independent soft graphs; or ``(1,)`` of the edge probabilities.
    """

    soft: Tensor
    hard: Tensor
    prior: Tensor
    edges: Tensor
    targets: Tensor
    cycles: Tensor

    def objective(self, sparsity_graph: float, sparsity_targets: float, multiplier: float, weight: float) -> Tensor:
        """What is maximised; soft and hard count both, but no parameter sees both."""
        penalty = (multiplier * self.cycles + weight / 2 * self.cycles**2).mean()
        return (
            self.soft + self.hard + self.prior - sparsity_graph * self.edges - sparsity_targets * self.targets - penalty
        )


def log_mean(log_likelihood: Tensor, form: str = "node") -> Tensor:
    """Log of the average likelihood over draws of the graph; a scalar.

    Given the causal model, edges into different genes are independent, and so the average over graphs is a product
    over genes. ``"node"`` uses that: each gene averages over its own draws of its causes, so ``m`` draws stand for
    ``m ** d`` graphs. It is the log of the paper's quantity without bias from the product over genes.

    Parameters
    ----------
    log_likelihood
        ``(m, k, d)`` by draw, environment and gene.
    form
        ``"node"``; ``"environment"``: each environment averages over its own draws, as if each had its own graph;
        ``"joint"``: over all at once, as the paper prints it: of thousands of cells the best single draw decides;
        ``"mean"`` or ``"expected"``: mean of the logs, a lower bound in which all draws count.

    Raises
    ------
    ValueError
        If the form is unknown.
    """
    if form in ("mean", "expected"):
        return log_likelihood.mean(0).sum()
    together: dict[str, tuple[int, ...]] = {"node": (1,), "environment": (2,), "joint": (1, 2)}
    if form not in together:
        msg = f"likelihood {form!r} is not one of node, environment, joint, mean, expected."
        raise ValueError(msg)
    return (log_likelihood.sum(together[form]).logsumexp(0) - math.log(len(log_likelihood))).sum()


def gene_log_likelihood(
    cells: Cells,
    residuals: tuple[Tensor, Tensor],
    noise: tuple[Tensor, Tensor | None],
    targets: Tensor,
    interventions: Interventions,
) -> Tensor:
    """Log likelihood ``(m, k, d)`` of all cells of each environment, gene by gene.

    Parameters
    ----------
    cells
        Sums of cells.
    residuals
        Sums of residuals and of their squares ``(m, k, d)`` in each graph.
    noise
        Log standard deviation and logit of a zero.
    targets
        ``(m, k, d)`` or ``(k, d)``, 0 to 1: the log densities without and with the intervention are mixed by it.
    interventions
        Its parameters, ``(m, k, d)`` or ``(k, d)``. With ``log_sd`` they are hard, without they are shifts.
    """
    first, second = residuals
    log_sd, zero = noise
    base = _normal(cells.counts, second, log_sd)
    zeros = _zeros(cells, zero)
    at = interventions.mean
    if interventions.log_sd is None:
        off = second - 2 * at * first + cells.counts * at**2
        changed = _normal(cells.counts, off, log_sd) - base
    else:
        off = cells.second - 2 * at * cells.first + cells.counts * at**2
        changed = _normal(cells.counts, off, interventions.log_sd) - base
        changed = changed + _zeros(cells, interventions.zero_logit) - zeros
    return base + zeros + cells.jacobian + targets * changed


def _normal(counts: Tensor, squares: Tensor, log_sd: Tensor) -> Tensor:
    return -counts * (log_sd + 0.5 * _LOG_2PI) - 0.5 * squares * (-2 * log_sd).exp()


def _zeros(cells: Cells, logit: Tensor | None) -> Tensor:
    if logit is None:
        return torch.zeros_like(cells.counts)
    return cells.zeros * F.logsigmoid(logit) + cells.counts * F.logsigmoid(-logit)


class Gim(nn.Module):
    """Latent graph, mechanisms and interventions, with the objective they are fitted by.

    Environment 0 is observational: it has no targets.

    Parameters
    ----------
    config
        All choices.
    n_genes, n_features, n_environments
        Sizes; the number of environments only matters without ``amortised``.
    rng
        Start of all parameters (a generator of the CPU).
    """

    def __init__(
        self, config: GimConfig, n_genes: int, n_features: int, n_environments: int, *, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.config = config
        self.graph = LatentGraph(n_genes, config.rank, sd=config.start_sd, rng=rng)
        self.mechanisms = build_mechanisms(config, n_genes, rng=rng)
        self.interventions = build_interventions(config, n_features, n_environments, n_genes, rng=rng)
        if config.exact_weights:
            self.mechanisms.requires_grad_(False)
        if config.graph == "searched":
            self.graph.requires_grad_(False)

    @property
    def moments(self) -> bool:
        """Whether second moments of the cells are enough."""
        return self.config.mechanism == "linear"

    def summarise(self, values: Tensor, codes: Tensor, n: int, *, weight: float = 1.0) -> Cells:
        """Sums of cells as the mechanisms need them."""
        logarithm = self.config.mechanism == "zero_inflated"
        return summarise(values, codes, n, logarithm=logarithm, moments=self.moments, weight=weight)

    def target_logits(self, logits: Tensor, alpha: float) -> Tensor:
        """Target logits at a sharpness of edges; ``-inf`` in environment 0."""
        scaled = 0.5 * alpha * logits if self.config.anneal_targets else logits
        seen = torch.arange(len(logits), device=logits.device)[:, None] > 0
        return torch.where(seen, scaled, -torch.inf)

    def terms(self, cells: Cells, features: Tensor, *, alpha: float, rng: torch.Generator) -> Terms:
        """All parts of the objective.

        Parameters
        ----------
        cells
            Of :meth:`summarise`.
        features
            ``(k, p)``, of all environments.
        alpha
            Sharpness of edges.
        rng
            Draws of graphs, targets and parameters, on the device of the model.
        """
        c = self.config
        found = self.interventions(features)
        logits = self.target_logits(found.logits, alpha)
        drawn = self._draw_parameters(found, rng)
        if c.likelihood == "expected":
            soft = hard = self._expected(cells, logits.sigmoid(), drawn, alpha, rng)
            hard = hard.detach()  # one value with the gradients of both
        else:
            soft, hard = self._drawn(cells, logits, drawn, alpha, rng)
        return Terms(
            soft,
            hard,
            self.log_prior(),
            self.graph.probability(alpha).sum(),
            logits.sigmoid().sum(),
            self._cycles(alpha, rng),
        )

    def _cycles(self, alpha: float, rng: torch.Generator) -> Tensor:
        c = self.config
        if c.graph == "searched":
            return self.graph.z.new_zeros(1)  # it has none
        if c.cycle_measure == "trace":
            return closed_walks(self.graph.probability(alpha))[None]
        if c.cycle_measure == "expected_radius":
            return sample_radius(self.graph.probability(alpha)[None], rng=rng)
        return sample_radius(self.graph.draw(c.n_acyclic, alpha, tau=c.tau, rng=rng).soft, rng=rng)

    def _drawn(
        self, cells: Cells, logits: Tensor, found: Interventions, alpha: float, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Soft and hard log likelihood from draws of graphs and targets."""
        c, m = self.config, self.mechanisms
        graphs = self.graph.draw(c.n_samples, alpha, tau=c.tau, rng=rng)
        targets = gumbel_sigmoid(logits, c.n_samples, tau=c.tau, rng=rng).soft
        residuals = m.residuals(cells, graphs.soft, detach=True)
        soft = gene_log_likelihood(cells, residuals, m.noise(detach=True), targets, found)
        residuals = m.residuals(cells, graphs.hard)
        hard = gene_log_likelihood(cells, residuals, m.noise(), targets.detach(), found.detach())
        return log_mean(soft, c.likelihood), log_mean(hard, c.likelihood)

    def _expected(
        self, cells: Cells, targets: Tensor, found: Interventions, alpha: float, rng: torch.Generator
    ) -> Tensor:
        """Mean log likelihood: exact in the targets, and in the graph for linear mechanisms."""
        if isinstance(self.mechanisms, LinearMechanisms):
            probability = self.graph.probability(alpha)
            if self.config.exact_weights:
                solve_linear(self.mechanisms, cells, probability, targets, found, self.config.variance_weights)
            residuals = self.mechanisms.expected(cells, probability)
        else:
            graphs = self.graph.draw(self.config.n_samples, alpha, tau=self.config.tau, rng=rng)
            # hard graphs, with the gradient passed on to the soft ones: one pass instead of two
            residuals = self.mechanisms.residuals(cells, graphs.hard + graphs.soft - graphs.soft.detach())
        return log_mean(gene_log_likelihood(cells, residuals, self.mechanisms.noise(), targets, found), "expected")

    def _draw_parameters(self, found: Interventions, rng: torch.Generator) -> Interventions:
        sd = self.config.parameter_sd
        if sd == 0:
            return found

        def draw(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            shape = (self.config.n_samples, *x.shape)
            return x + sd * torch.randn(shape, generator=rng, device=x.device, dtype=x.dtype)

        mean = draw(found.mean)
        return Interventions(
            found.logits, found.mean if mean is None else mean, draw(found.log_sd), draw(found.zero_logit)
        )

    def log_prior(self) -> Tensor:
        """Log density of the normal priors, without constants."""
        c = self.config
        d = self.graph.z.shape[1]
        groups: list[tuple[list[nn.Parameter], float]] = [
            ([self.graph.z] if c.graph == "relaxed" else [], c.variance_graph or 1 / d),
            (self.mechanisms.weights(), c.variance_weights),
            (self.mechanisms.spread(), c.variance_log_sd),
            (list(self.interventions.parameters()), c.variance_networks if c.amortised else c.variance_free),
        ]
        parts = [torch.cat([p.flatten() for p in some]).square().sum() / variance for some, variance in groups if some]
        return -0.5 * torch.stack(parts).sum()

    @torch.no_grad()
    def score(self, cells: Cells, features: Tensor, *, alpha: float) -> Tensor:
        """Log likelihood of cells in the most probable graph, with the probabilities of targets as they are.

        That graph may still have cycles; nothing is drawn.
        """
        found = self.interventions(features)
        graph = self.graph.hard().to(cells.counts.dtype)[None]
        targets = self.target_logits(found.logits, alpha).sigmoid()
        residuals = self.mechanisms.residuals(cells, graph)
        return gene_log_likelihood(cells, residuals, self.mechanisms.noise(), targets, found).sum()

    @torch.no_grad()
    def sample(self, graph: Tensor, interventions: Interventions, n: int, *, rng: torch.Generator) -> Tensor:
        """Draw cells ``(k, n, d)``, of ``n`` in each environment, along an acyclic graph.

        Parameters
        ----------
        graph
            ``(d, d)``, [cause, effect], acyclic: a cyclic one gives no distribution, and this does not look.
        interventions
            Parameters ``(k, d)``. A gene is moved by its share of a shift; of a hard intervention, mean, log standard
            deviation and logit of zeros lie by that share between those of its causes and of the intervention.
        n
            Cells in each environment.
        rng
            Noise, on the device of the model.
        """
        k, d = interventions.logits.shape
        made = _Noise(k, n, d, self.mechanisms.log_sd, rng)
        log_sd, zero = self.mechanisms.noise()
        share, hard = interventions.followed[:, None], interventions.log_sd is not None
        at, log_sd = interventions.mean[:, None], log_sd.expand(k, 1, d)
        if interventions.log_sd is not None:
            log_sd = _between(log_sd, interventions.log_sd[:, None], share)
        if zero is not None:
            zero = zero.expand(k, 1, d)
            if interventions.zero_logit is not None:
                zero = _between(zero, interventions.zero_logit[:, None], share)
        shift = torch.zeros(()) if hard else torch.where(share > 0, share * at, 0.0)
        values = torch.zeros_like(made.normal)
        for _ in range(d):  # each round is right for genes one step further from the roots; the noise stays the same
            mean = self.mechanisms.mean(values.flatten(0, 1), graph.to(values.dtype)).view(k, n, d)
            new = made.values(_between(mean, at, share) if hard else mean + shift, log_sd, zero)
            if torch.equal(new, values):
                break
            values = new
        return values


def _between(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Values between two; at either end the other may be anything."""
    return torch.where(share <= 0, own, torch.where(share >= 1, other, own.lerp(other, share)))


class _Noise:
    """Noise of cells, drawn once."""

    def __init__(self, k: int, n: int, d: int, like: Tensor, rng: torch.Generator) -> None:
        self.normal = torch.randn(k, n, d, generator=rng, device=like.device, dtype=like.dtype)
        self.uniform = torch.rand(k, n, d, generator=rng, device=like.device, dtype=like.dtype)

    def values(self, mean: Tensor, log_sd: Tensor, zero_logit: Tensor | None) -> Tensor:
        out = mean + log_sd.exp() * self.normal
        if zero_logit is None:
            return out
        return torch.where(self.uniform < zero_logit.sigmoid(), 0.0, out.exp())
