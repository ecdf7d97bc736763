"""GraCE-VAE: cells to programs that act on one another, perturbations that shift programs, and back to cells.

Shapes: B cells, D genes, p programs. The latent graph is ``(p, p)``, [cause, effect], strictly upper triangular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn._gracevae_config import VARIANTS, GraceConfig, Schedule
from causcade.nn._gracevae_interventions import GraphInterventions, LookupInterventions, TableInterventions
from causcade.nn.message_passing import GeneGraph, MessagePassing, relations
from causcade.nn.mmd import mean_distance_width, mmd2

__all__ = ["VARIANTS", "GraceConfig", "GraceVAE", "Schedule", "Terms"]

_SLOPE = 0.2
_QUIET = -2.0  # before the softplus: a variance of 0.13


@dataclass
class Terms:
    """Parts of the objective; all are scalars.

    Attributes
    ----------
    mmd
        Squared MMD between generated and real perturbed cells.
    mse
        Mean squared error of control cells, over cells and genes.
    kl
        KL divergence of the posterior from a standard normal, summed over programs, mean over cells.
    sparsity
        Sum of the absolute entries of the latent graph.
    laplacian
        Mean squared difference of decoder rows over edges between genes; 0 unless asked for.
    """

    mmd: Tensor
    mse: Tensor
    kl: Tensor
    sparsity: Tensor
    laplacian: Tensor

    def objective(self, config: GraceConfig, now: Schedule) -> Tensor:
        """What is minimised (GraCE-VAE, section 4.4)."""
        return (
            now.mmd * self.mmd + self.mse + now.kl * self.kl + config.sparsity * self.sparsity
            + config.laplacian * self.laplacian
        )  # fmt: skip


class GraceVAE(nn.Module):
    """Encoder, latent causal model, interventions and decoder.

    Parameters
    ----------
    config
        All choices.
    n_genes, n_perturbations
        Sizes.
    graph
        Network of genes and pathways; None or one without edges: a plain encoder.
    targets
        ``(n_perturbations,)`` gene that each acts on, -1 = not measured; needed by intervention encoders with a graph.
    n_embedding
        Width of further values of each cell that the encoder gets.
    """

    def __init__(
        self,
        config: GraceConfig,
        n_genes: int,
        n_perturbations: int,
        *,
        graph: GeneGraph | None = None,
        targets: Sequence[int] | None = None,
        n_embedding: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.n_genes, self.n_perturbations = config, n_genes, n_perturbations
        p, hidden = config.n_latent or n_perturbations, config.hidden
        known = graph if graph is not None and _n_edges(graph) else None
        self.passing, self.membership, n_in = self._graph_parts(known)
        self.first = _linear(n_in + n_embedding, hidden)
        self.mean = _linear(hidden, p)
        self.variance = _linear(hidden, p)
        self.interventions = self._interventions(known, targets, p)
        self.graph = nn.Parameter(0.1 * torch.randn(p, p)) if config.dag else None
        self.inner = _linear(p, hidden)
        self.outer = _linear(hidden, n_genes)
        self.edges: Tensor | None
        edges = known.nodes("GG") if known is not None and "GG" in known.edges and config.laplacian else None
        self.register_buffer("edges", edges, persistent=False)

    def _graph_parts(self, graph: GeneGraph | None) -> tuple[MessagePassing | None, nn.Module | None, int]:
        c, n = self.config, self.n_genes
        if graph is None or c.encoder == "plain":
            return None, None, n
        if c.encoder == "graph":
            form = {"layer": c.layer, "n_layers": c.n_layers, "form": c.form, "width": c.width, "heads": c.heads}
            return MessagePassing(graph, **form), None, n  # type: ignore[arg-type]
        members = relations(graph, "typed").get("GP")
        return None, members, n if members is None else n + graph.n_pathways

    def _interventions(self, graph: GeneGraph | None, targets: Sequence[int] | None, p: int) -> nn.Module:
        c = self.config
        if c.intervention == "table":
            return TableInterventions(self.n_perturbations, p)
        if c.intervention == "lookup":
            return LookupInterventions(self.n_perturbations, p, c.hidden)
        if graph is None or targets is None or len(targets) != self.n_perturbations:
            msg = (
                f"intervention={c.intervention!r} needs a network with edges, and the target of each of the "
                f"{self.n_perturbations} perturbations; use intervention='lookup'."
            )
            raise ValueError(msg)
        return GraphInterventions(graph, targets, p, c.hidden, c.intervention)

    @property
    def n_latent(self) -> int:
        """Number of programs."""
        return self.inner.in_features

    def latent_graph(self) -> Tensor:
        """Direct effects ``(p, p)``, [cause, effect], of programs on programs; 0 on and below the diagonal."""
        if self.graph is None:
            return torch.zeros(self.n_latent, self.n_latent, device=self.inner.weight.device)
        return torch.triu(self.graph, 1)

    def encode(self, x: Tensor, embedding: Tensor | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(B, p)`` of the exogenous part of the programs.

        Parameters
        ----------
        x
            ``(B, D)`` expression.
        embedding
            ``(B, n_embedding)`` further values.
        noise
            ``(n_pathways,)`` values of the pathways in the reference form; None: 0.
        """
        parts = [x if self.passing is None else self.passing(x, noise)]
        if self.membership is not None:
            parts.append(self._on(x))
        if embedding is not None:
            parts.append(embedding)
        values = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        # in this order, few cells by many genes are twice as fast on the CPU
        hidden = F.leaky_relu((self.first.weight @ values.T).T + self.first.bias, _SLOPE)
        return self.mean(hidden), F.softplus(self.variance(hidden))

    @torch.no_grad()
    def _on(self, x: Tensor) -> Tensor:
        """Whether a gene of each pathway is above 0, ``(B, n_pathways)``."""
        members = self.membership
        n: int = members.n_nodes  # type: ignore[union-attr,assignment]
        values = F.pad((x > 0).to(x.dtype).T, (0, 0, 0, n - self.n_genes))[None]
        return (members.product(values, "mean")[0, self.n_genes :].T > 0).to(x.dtype)  # type: ignore[union-attr,operator]

    @torch.no_grad()
    def start_at(self, control: Tensor, direct: Tensor, graph: Tensor, shifts: Tensor) -> None:
        """Begin with a decoder that is straight as far as perturbations move programs, and near 0 in control cells.

        Parameters
        ----------
        control
            ``(D,)`` mean of control cells.
        direct
            ``(p, D)`` change of genes by each program itself.
        graph
            ``(p, p)``, [cause, effect]; not used without a latent graph.
        shifts
            ``(n_perturbations, p)`` of the exogenous parts of programs.
        """
        if self.graph is not None:
            self.graph.copy_(graph)
        n = min(self.n_latent, self.config.hidden)
        first, second = torch.eye(n).to(direct), direct
        if n < self.n_latent:  # as near as a narrow layer can come
            u, s, v = torch.linalg.svd(direct, full_matrices=False)
            first, second = u[:, :n], s[:n, None] * v[:n]
        self.inner.weight[: first.shape[1]] = first.T
        bias = 1 + 1.5 * (-(self.propagate(shifts) @ first)).amax(0).clamp(min=0)  # combinations go further
        self.inner.bias[: first.shape[1]] = bias
        self.outer.weight[:, : first.shape[1]] = second.T
        self.outer.bias.copy_(control - bias @ second)
        self.variance.bias.fill_(_QUIET)

    def noise(self, rng: torch.Generator) -> Tensor | None:
        """Draw what pathways hold in the reference form: the same for all cells."""
        if self.passing is None or self.passing.form != "reference":
            return None
        return torch.randn(self.passing.n_pathways, generator=rng, device=rng.device)

    def assignment(self, parts: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Soft programs ``(k, p)``, rows sum to 1, and strengths ``(k,)`` of perturbations."""
        logits, strength = self.interventions(parts)
        return (temperature * logits).softmax(-1), strength

    def shift(self, parts: Tensor, temperature: float) -> Tensor:
        """Shift ``(p,)`` by some perturbations together: each is encoded alone, and shifts add up."""
        program, strength = self.assignment(parts, temperature)
        return strength @ program

    def propagate(self, z: Tensor) -> Tensor:
        """Programs ``u = z + u G`` from their exogenous parts, ``(B, p)``."""
        if self.graph is None:
            return z
        # unit-triangular, so that the diagonal need not be there
        u: Tensor = torch.linalg.solve_triangular(-self.latent_graph(), z, upper=True, left=False, unitriangular=True)
        return u

    def decode(self, u: Tensor) -> Tensor:
        """Expression ``(B, D)`` of programs."""
        y: Tensor = self.outer(F.leaky_relu(self.inner(u), _SLOPE))
        return F.leaky_relu(y, _SLOPE) if self.config.output == "leaky" else y

    def terms(
        self,
        control: Tensor,
        perturbed: Tensor,
        parts: Tensor,
        temperature: float,
        *,
        rng: torch.Generator,
        embedding: Tensor | None = None,
    ) -> Terms:
        """All parts of the objective, for cells of one perturbation or combination.

        Parameters
        ----------
        control
            ``(B, D)`` control cells, which are turned into perturbed ones.
        perturbed
            ``(B', D)`` real perturbed cells.
        parts
            ``(k,)`` numbers of the perturbations.
        temperature
            Sharpness of their assignment.
        rng
            Noise, on the device of the model.
        embedding
            ``(B, n_embedding)`` of the control cells.
        """
        c = self.config
        mean, variance = self.encode(control, embedding, self.noise(rng))
        z = mean + variance.sqrt() * _normal(mean, rng)
        both = self.decode(self.propagate(torch.cat([z + self.shift(parts, temperature), z])))
        made, again = both.split(len(z))
        width = mean_distance_width(made, perturbed) if c.kernel_width is None else c.kernel_width
        kl = -0.5 * (1 + variance.clamp(min=1e-20).log() - mean**2 - variance).sum(1).mean()
        return Terms(
            mmd2(made, perturbed, width, c.n_kernels),
            F.mse_loss(again, control),
            kl,
            self.latent_graph().abs().sum(),
            self._laplacian(),
        )

    def _laplacian(self) -> Tensor:
        if self.edges is None:
            return torch.zeros((), device=self.inner.weight.device)
        rows = self.outer.weight
        return ((rows[self.edges[0]] - rows[self.edges[1]]) ** 2).sum(1).mean()

    @torch.no_grad()
    def generate(
        self,
        control: Tensor,
        parts: Tensor,
        temperature: float,
        *,
        rng: torch.Generator | None = None,
        embedding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn control cells into perturbed ones.

        Parameters
        ----------
        control
            ``(B, D)``.
        parts
            ``(k,)`` numbers of the perturbations; none: control.
        temperature
            Sharpness of their assignment.
        rng
            Noise of the exogenous parts; None: their means.
        embedding
            ``(B, n_embedding)`` of the cells.

        Returns
        -------
        ``(B, D)`` the cells with the perturbation, and the same cells (with the same noise) without.
        """
        noise = self.noise(rng) if self.config.evaluation_noise and rng is not None else None
        z, variance = self.encode(control, embedding, noise)
        if rng is not None:
            z = z + variance.sqrt() * _normal(z, rng)
        shifted = z + self.shift(parts, temperature) if len(parts) else z
        made, plain = self.decode(self.propagate(torch.cat([shifted, z]))).tensor_split(2)  # also of no cell
        return made, plain


def _n_edges(graph: GeneGraph) -> int:
    """Edges that reach a gene; without them a network has nothing to say."""
    return sum(graph.nodes(kind).shape[1] for kind in graph.edges if kind != "PP")


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    """As published: weights normal with standard deviation 0.02, biases 0."""
    made = nn.Linear(n_in, n_out)
    nn.init.normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)
    return made
