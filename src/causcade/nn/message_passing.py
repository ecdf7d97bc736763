"""Message passing over genes and pathways: GraphSAGE, GCN and GAT layers on sparse graphs (GraCE-VAE, section 4.2).

Values of nodes are ``(width, n_nodes, batch)``, genes first, then pathways: a sparse product serves all cells, and all
else runs along contiguous memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.nn._sage_blocks import Side, sage
from causcade.nn._sparse import Block, both_ways

__all__ = ["GeneGraph", "Layer", "MessagePassing", "Relation", "relations"]

LayerName = Literal["sage", "gcn", "gat"]
Form = Literal["reference", "typed"]
_SLOPE = 0.2  # of the LeakyReLU in attention


@dataclass(frozen=True)
class GeneGraph:
    """Edges among genes and pathways.

    Attributes
    ----------
    n_genes, n_pathways
        Nodes: genes come first.
    edges
        ``(2, n_edges)`` positions of the ends among genes or pathways, per kind: ``"GG"`` gene, gene; ``"PG"``
        pathway, gene; ``"PP"`` pathway, pathway.
    weights
        ``(n_edges,)`` per kind, above 0; a kind that is left out has weights of 1.
    """

    n_genes: int
    n_pathways: int
    edges: Mapping[str, NDArray[np.int64]]
    weights: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def n_nodes(self) -> int:
        """Genes and pathways."""
        return self.n_genes + self.n_pathways

    def nodes(self, kind: str) -> Tensor:
        """Edges of a kind as ``(2, n_edges)`` numbers of nodes."""
        start = {"G": 0, "P": self.n_genes}
        ends = torch.as_tensor(np.asarray(self.edges[kind]), dtype=torch.int64).reshape(2, -1)
        return ends + torch.tensor([[start[kind[0]]], [start[kind[1]]]])

    def weight(self, kind: str) -> Tensor:
        """Weights of the edges of a kind."""
        if self.weights is None or kind not in self.weights:
            return torch.ones(np.asarray(self.edges[kind]).reshape(2, -1).shape[1])
        return torch.as_tensor(np.asarray(self.weights[kind]), dtype=torch.float32)


class Relation(nn.Module):
    """Messages of one kind: who sends to whom.

    Parameters
    ----------
    sender, receiver
        ``(n_edges,)`` nodes.
    weight
        ``(n_edges,)``.
    n_nodes
        Nodes of the graph.
    """

    def __init__(self, sender: Tensor, receiver: Tensor, weight: Tensor, n_nodes: int) -> None:
        super().__init__()
        self.n_nodes = n_nodes
        self.sender: Tensor
        self.receiver: Tensor
        self.weight: Tensor
        # they belong to the graph, not to the weights of the network
        for name, value in {"sender": sender, "receiver": receiver, "weight": weight}.items():
            self.register_buffer(name, value, persistent=False)
        self._ready: dict[tuple[str, torch.device, torch.dtype], Block | None] = {}

    def product(self, values: Tensor, norm: Literal["mean", "symmetric"]) -> Tensor:
        """Sum over senders of their values, weighted to a mean, or as a GCN does with a loop at each node.

        Parameters
        ----------
        values
            ``(width, n_nodes, batch)``.
        norm
            ``"mean"``: 0 where nobody sends. ``"symmetric"``: ``D^-1/2 (A + I) D^-1/2`` with D the degrees of
            receivers.
        """
        key = (norm, values.device, values.dtype)
        if key not in self._ready:
            self._ready[key] = self._matrix(norm, values)
        return cast("Block", self._ready[key]).times(values)

    def block(self, ends: str, n_genes: int, like: Tensor) -> Block | None:
        """Means over senders of one sort for receivers of one sort.

        Parameters
        ----------
        ends
            Receivers and senders, ``"G"`` genes or ``"P"`` pathways: ``"GP"`` is what pathways send to genes.
        n_genes
            Genes come first among the nodes.
        like
            Device and type.

        Returns
        -------
        None where there is no such edge.
        """
        key = (ends, like.device, like.dtype)
        if key not in self._ready:
            self._ready[key] = self._part(ends, n_genes, like)
        return self._ready[key]

    @torch.no_grad()
    def _part(self, ends: str, n_genes: int, like: Tensor) -> Block | None:
        degree = self.weight.new_zeros(self.n_nodes).to(like).index_add_(0, self.receiver, self.weight.to(like))
        size = {"G": n_genes, "P": self.n_nodes - n_genes}
        keep = ((self.receiver < n_genes) == (ends[0] == "G")) & ((self.sender < n_genes) == (ends[1] == "G"))
        if not bool(keep.any()):
            return None
        to, of = (
            nodes[keep] - (0 if end == "G" else n_genes)
            for nodes, end in zip((self.receiver, self.sender), ends, strict=True)
        )
        value = self.weight.to(like)[keep] / degree[self.receiver[keep]]
        return both_ways(to, of, value, size[ends[0]], size[ends[1]])

    @torch.no_grad()
    def _matrix(self, norm: str, like: Tensor) -> Block:
        sender, receiver, weight = self.sender, self.receiver, self.weight.to(like)
        if norm == "symmetric":
            loop = torch.arange(self.n_nodes, device=sender.device)
            sender, receiver = torch.cat([sender, loop]), torch.cat([receiver, loop])
            weight = torch.cat([weight, torch.ones_like(loop, dtype=weight.dtype)])
        degree = weight.new_zeros(self.n_nodes).index_add_(0, receiver, weight)
        value = (
            weight / degree[receiver]
            if norm == "mean"
            else weight * (degree[receiver] * degree[sender]).clamp(min=1e-12).rsqrt()
        )
        return both_ways(receiver, sender, value, self.n_nodes, self.n_nodes)

    def attend(self, values: Tensor, to: Tensor, of: Tensor) -> Tensor:
        """Sum over senders, and the node itself, with weights that are a softmax over what is sent to a node.

        Parameters
        ----------
        values
            ``(heads, width, n_nodes, batch)``.
        to, of
            ``(heads, n_nodes, batch)`` parts of the scores by receiver and by sender.
        """
        loop = torch.arange(self.n_nodes, device=values.device)
        sender, receiver = torch.cat([self.sender, loop]), torch.cat([self.receiver, loop])
        score = F.leaky_relu(to[:, receiver] + of[:, sender], _SLOPE)
        score = score + torch.cat([self.weight.to(score).log(), score.new_zeros(self.n_nodes)])[:, None]
        place = receiver[:, None].expand_as(score)
        most = torch.full_like(to, -torch.inf).scatter_reduce(1, place, score.detach(), "amax")
        part = (score - most[:, receiver]).exp()
        total = torch.zeros_like(to).index_add(1, receiver, part)
        out = torch.zeros_like(values).index_add(2, receiver, part[:, None] * values[:, :, sender])
        return out / total[:, None]


def relations(graph: GeneGraph, form: Form = "reference") -> dict[str, Relation]:
    """Relations of a graph; messages go both ways along every edge.

    Parameters
    ----------
    graph
        Edges.
    form
        ``"reference"``: all edges are of one relation ``"all"``. ``"typed"``: ``"GG"``, ``"PG"`` (pathway to gene),
        ``"GP"`` (gene to pathway), ``"PP"`` (to the part) and ``"QP"`` (to the whole), as far as there are edges.
    """
    found: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    back = {"GG": "GG", "PG": "GP", "PP": "QP"}
    for kind in graph.edges:
        (first, second), weight = graph.nodes(kind), graph.weight(kind)
        if not len(weight):
            continue
        ways = ("all", "all") if form == "reference" else (kind, back[kind])
        found.setdefault(ways[0], []).append((first, second, weight))
        found.setdefault(ways[1], []).append((second, first, weight))
    out = {}
    for name, some in found.items():
        sender, receiver, weight = (torch.cat(parts) for parts in zip(*some, strict=True))
        out[name] = Relation(sender, receiver, weight, graph.n_nodes)
    return out


class Layer(nn.Module):
    """One round of messages.

    ``"sage"``: ``b + W_root x_v + sum_r W_r mean_{u in N_r(v)} x_u``. ``"gcn"``: ``b + sum_r W_r x (norm of A_r + I)``.
    ``"gat"``: ``b + sum_r`` attention over ``N_r(v)`` and v itself; heads are concatenated, or averaged with ``mean``.

    Parameters
    ----------
    name
        ``"sage"``, ``"gcn"`` or ``"gat"``.
    n_in, n_out
        Widths; with ``"gat"`` the output is ``heads * n_out`` wide, or ``n_out`` with ``mean``.
    n_kinds
        Number of relations.
    heads, mean
        Of ``"gat"``.
    """

    def __init__(
        self, name: LayerName, n_in: int, n_out: int, n_kinds: int, *, heads: int = 1, mean: bool = True
    ) -> None:
        super().__init__()
        if name not in ("sage", "gcn", "gat"):
            msg = f"layer must be 'sage', 'gcn' or 'gat', not {name!r}."
            raise ValueError(msg)
        self.name, self.heads, self.mean, self.n_out = name, heads, mean, n_out
        wide = n_out * heads if name == "gat" else n_out
        self.weight = _uniform(n_in, n_kinds, wide, n_in)
        self.root = _uniform(n_in, wide, n_in) if name == "sage" else None
        self.bias = nn.Parameter(torch.zeros(n_out if name != "gat" or mean else wide))
        if name == "gat":
            self.score_to = _uniform(n_out, n_kinds, heads, n_out)
            self.score_of = _uniform(n_out, n_kinds, heads, n_out)

    @property
    def width(self) -> int:
        """Width of the output."""
        return len(self.bias)

    def forward(self, values: Tensor, some: list[Relation], shared: Tensor | None = None) -> Tensor:
        """Pass messages.

        Parameters
        ----------
        values
            ``(n, n_nodes, batch)``.
        some
            The relations.
        shared
            ``(n_in - n, n_nodes, 1)`` further values that are the same for all cells; what is linear is done once.

        Returns
        -------
        ``(width, n_nodes, batch)``.
        """
        bias = self.bias[:, None, None]
        if self.name == "gat":
            if shared is not None:
                values = torch.cat([values, shared.expand(-1, -1, values.shape[2])])
            return sum((self._attend(values, relation, r) for r, relation in enumerate(some)), bias)
        n = len(values)
        if shared is not None:
            bias = bias + self._send(shared, some, slice(n, None))
        return self._send(values, some, slice(n)) + bias

    def _send(self, values: Tensor, some: list[Relation], columns: slice) -> Tensor:
        """What is linear: one dense product for all relations, sparse ones on its narrow side."""
        norm: Literal["mean", "symmetric"] = "mean" if self.name == "sage" else "symmetric"
        weights = [self.weight[r, :, columns] for r in range(len(some))] + (
            [] if self.root is None else [self.root[:, columns]]
        )
        n_out, n_in = weights[0].shape
        if n_in <= n_out:
            parts = [relation.product(values, norm) for relation in some]
            return _mix(torch.cat(weights, 1), torch.cat([*parts, values] if self.root is not None else parts))
        mixed = _mix(torch.cat(weights), values).split(n_out)
        sent = [relation.product(part, norm) for relation, part in zip(some, mixed, strict=False)]
        return sum(sent[1:], sent[0]) if self.root is None else sum(sent, mixed[-1])

    def _attend(self, values: Tensor, relation: Relation, r: int) -> Tensor:
        sent = _mix(self.weight[r], values).unflatten(0, (self.heads, self.n_out))
        to, of = (torch.einsum("hwnb,hw->hnb", sent, part[r]) for part in (self.score_to, self.score_of))
        got = relation.attend(sent, to, of)
        return got.mean(0) if self.mean else got.flatten(0, 1)


def _mix(weight: Tensor, values: Tensor) -> Tensor:
    """``(n_out, n_in)`` times ``(n_in, n_nodes, batch)``."""
    return (weight @ values.flatten(1)).unflatten(1, values.shape[1:])


def _uniform(n_in: int, *shape: int) -> nn.Parameter:
    bound = 1 / math.sqrt(n_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class MessagePassing(nn.Module):
    """Expression of cells, smoothed over a graph: one number per gene in, one out.

    ``"reference"`` is the published code: every node is one number (a pathway: noise), edges are of one relation, and
    with a single layer nothing that a pathway receives comes back. With ``"typed"`` every relation has weights of its
    own, pathways start from learned embeddings, and from two layers on they pass on what their genes do.

    Parameters
    ----------
    graph
        Genes, pathways and edges.
    layer, n_layers
        Kind and number of layers.
    form
        ``"reference"`` or ``"typed"``.
    width
        Width between layers (of each head, for ``"gat"``).
    heads
        Of ``"gat"`` between layers; the last has one.
    """

    def __init__(
        self,
        graph: GeneGraph,
        *,
        layer: LayerName = "sage",
        n_layers: int = 1,
        form: Form = "reference",
        width: int = 4,
        heads: int = 1,
    ) -> None:
        super().__init__()
        if form not in ("reference", "typed") or not 1 <= n_layers <= 3:
            msg = f"form must be 'reference' or 'typed' and n_layers from 1 to 3; got {form!r} and {n_layers!r}."
            raise ValueError(msg)
        self.n_genes, self.n_pathways, self.form = graph.n_genes, graph.n_pathways, form
        self.relations = nn.ModuleDict(dict(relations(graph, form)))
        self._kinds = [k for k in self.relations if k in ("all", "GG", "PG")]  # what reaches genes
        self._by_blocks = layer == "sage"
        self.layers = nn.ModuleList()
        n_in = 1
        if form == "typed":  # beside the expression of a gene: the embedding of a pathway
            self.embedding = nn.Parameter(torch.randn(width, graph.n_pathways))
            n_in += width
        for i in range(n_layers):
            last = i == n_layers - 1
            n_out, of = (1, 1) if last else (width, heads)
            n_kinds = len(self._kinds if last else self.relations)
            made = Layer(layer, n_in, n_out, n_kinds, heads=of, mean=last)
            self.layers.append(made)
            n_in = made.width

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Smooth ``(batch, n_genes)`` values.

        Parameters
        ----------
        x
            Expression.
        noise
            ``(n_pathways,)`` value of every pathway in ``"reference"``, the same for all cells; ``None`` = 0, its mean.

        Returns
        -------
        ``(batch, n_genes)``.
        """
        if self._by_blocks:
            return self._blocks(x, noise)
        values, shared = self._start(x, noise)
        for i, layer in enumerate(self.layers):
            values = layer(F.relu(values) if i else values, self._some(i), None if i else shared)
        return values[0, : self.n_genes].T

    def _some(self, i: int) -> list[Relation]:
        """Relations of a layer; the last has those alone that reach genes."""
        some = cast("dict[str, Relation]", dict(self.relations.items()))
        return [some[k] for k in (self._kinds if i == len(self.layers) - 1 else some)]

    def _blocks(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """The same with genes and pathways apart."""
        sides = {"G": Side(x.T.contiguous()[None], slice(0, 1))}
        if self.n_pathways and self.form == "typed":
            sides["P"] = Side(self.embedding[:, :, None], slice(1, None))
        elif self.n_pathways and noise is not None:
            sides["P"] = Side(noise.to(x)[None, :, None], slice(0, 1))
        layers = [cast("Layer", layer) for layer in self.layers]
        got = sage(layers, [self._some(i) for i in range(len(layers))], sides, self.n_genes, self.n_pathways)
        return got[0].T.expand(len(x), -1)

    def _start(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.form == "typed":
            shared = F.pad(self.embedding, (self.n_genes, 0))[:, :, None]
            return F.pad(x.T, (0, 0, 0, self.n_pathways))[None], shared
        noise = x.new_zeros(self.n_pathways) if noise is None else noise.to(x)
        return torch.cat([x.T, noise[:, None].expand(-1, len(x))])[None], None
