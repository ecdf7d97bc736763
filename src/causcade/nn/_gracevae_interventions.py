"""Which program a perturbation acts on, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn._gracevae_config import Intervention
from causcade.nn.message_passing import GeneGraph, Layer, Relation, relations

__all__ = ["GraphInterventions", "LookupInterventions", "TableInterventions"]

_WIDTH = 64
_LEARNED = 32
_SLOPE = 0.2


class LookupInterventions(nn.Module):
    """A network on the one-hot code of a perturbation, and a free signed strength (GraCE-VAE, section 4.3).

    Parameters
    ----------
    n_perturbations, n_latent, hidden
        Sizes.
    """

    def __init__(self, n_perturbations: int, n_latent: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_perturbations, hidden)
        self.second = nn.Linear(hidden, n_latent)
        self.strength = nn.Parameter(torch.ones(n_perturbations))

    def forward(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(k, n_latent)`` and strengths ``(k,)`` of the perturbations with these numbers."""
        hidden = F.leaky_relu(self.first.weight.T[parts] + self.first.bias, _SLOPE)
        return self.second(hidden), self.strength[parts]


class TableInterventions(nn.Module):
    """Free logits of every perturbation and program, and a free signed strength.

    Parameters
    ----------
    n_perturbations, n_latent
        Sizes.
    """

    def __init__(self, n_perturbations: int, n_latent: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(0.1 * torch.randn(n_perturbations, n_latent))
        self.strength = nn.Parameter(torch.ones(n_perturbations))

    def forward(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(k, n_latent)`` and strengths ``(k,)`` of the perturbations with these numbers."""
        return self.logits[parts], self.strength[parts]

    @torch.no_grad()
    def start_at(self, program: Tensor, strength: Tensor, share: float = 0.8) -> None:
        """Give most of each shift to one program; the rest is spread over the others, which can take over.

        Parameters
        ----------
        program, strength
            ``(n_perturbations,)``.
        share
            What the program gets.
        """
        self.logits.zero_()
        ahead = math.log(share / (1 - share) * max(1, self.logits.shape[1] - 1))
        self.logits[torch.arange(len(program)), program] = ahead
        self.strength.copy_(strength)


class GraphInterventions(nn.Module):
    """Graph layers around the target of a perturbation, read out at it (GraCE-VAE, section 6.6).

    Perturbations whose target is not measured have a node of their own, without edges.

    Parameters
    ----------
    graph
        Genes, pathways and edges.
    targets
        ``(n_perturbations,)`` gene that each acts on, -1 = none of the measured.
    n_latent, hidden
        Sizes.
    kind
        ``"trivalue"``, ``"subgraph"`` or ``"dropedge"``, see :class:`causcade.nn.gracevae.GraceConfig`.
    """

    def __init__(
        self, graph: GeneGraph, targets: Sequence[int], n_latent: int, hidden: int, kind: Intervention
    ) -> None:
        super().__init__()
        self.kind = kind
        own = torch.arange(len(targets)) + graph.n_nodes
        wanted = torch.as_tensor(list(targets), dtype=torch.int64)
        self.node: Tensor
        self.edges: Tensor
        self.register_buffer("node", torch.where(wanted >= 0, wanted, own), persistent=False)
        every = relations(graph, "reference").get("all")
        edges = torch.zeros(2, 0, dtype=torch.int64) if every is None else torch.stack([every.sender, every.receiver])
        self.register_buffer("edges", edges, persistent=False)
        n = graph.n_nodes + len(targets)
        self.n_nodes = n
        self.learned = nn.Parameter(0.1 * torch.randn(_LEARNED, n))
        marked = 0 if kind == "dropedge" else 1
        self.layers = nn.ModuleList([Layer("gcn", _LEARNED + marked, _WIDTH, 1), Layer("gcn", _WIDTH, _WIDTH, 1)])
        self.norms = nn.ModuleList([nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)])
        self.head = nn.Sequential(nn.Linear(_WIDTH, hidden), nn.LeakyReLU(_SLOPE), nn.Linear(hidden, n_latent))
        self.size = nn.Linear(_WIDTH, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.strength = nn.Parameter(torch.ones(len(targets)))
        self._ready: dict[tuple[int, torch.device], tuple[Relation, Tensor, int]] = {}

    def forward(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(k, n_latent)`` and strengths ``(k,)`` of the perturbations with these numbers."""
        found = torch.stack([self._read(int(part)) for part in parts])
        return self.head(found), torch.tanh(self.size(found)[:, 0]) * self.scale + self.strength[parts]

    def _read(self, part: int) -> Tensor:
        """What the layers say at the target, ``(width,)``."""
        relation, nodes, at = self._place(part)
        values = self.learned[:, nodes, None]
        if self.kind != "dropedge":
            mark = torch.full_like(values[:1], -1.0)
            mark[0, torch.isin(nodes, self.node)] = 0.0  # could have been the target
            mark[0, at] = 1.0
            values = torch.cat([mark, values])
        hidden = self._layer(0, values, relation)
        hidden = hidden + self._layer(1, hidden, relation)
        return hidden[:, at, 0]

    def _layer(self, i: int, values: Tensor, relation: Relation) -> Tensor:
        out: Tensor = self.layers[i](values, [relation])
        return F.relu(self.norms[i](out.movedim(0, -1))).movedim(-1, 0)

    @torch.no_grad()
    def _place(self, part: int) -> tuple[Relation, Tensor, int]:
        """Edges, nodes and the target's place among these."""
        key = (part, self.node.device)
        if key not in self._ready:
            target, (sender, receiver) = self.node[part], self.edges
            nodes = torch.arange(self.n_nodes, device=target.device)
            keep = torch.ones_like(sender, dtype=torch.bool)
            if self.kind == "dropedge":
                keep = (sender != target) & (receiver != target)
            elif self.kind == "subgraph":
                nodes = torch.unique(torch.cat([target[None], sender[receiver == target]]))
                keep = torch.isin(sender, nodes) & torch.isin(receiver, nodes)
            ends = torch.searchsorted(nodes, torch.stack([sender[keep], receiver[keep]]))
            relation = Relation(ends[0], ends[1], torch.ones_like(ends[0], dtype=torch.float32), len(nodes))
            self._ready[key] = (relation, nodes, int(torch.searchsorted(nodes, target)))
        return self._ready[key]
