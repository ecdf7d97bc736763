"""Message passing over genes and pathways: GraphSAGE, GCN and GAT layers on sparse graphs (GraCE-VAE, section 4.2).

Values of nodes are ``(width, n_nodes, batch)``, genes first, then pathways: a sparse product serves all cells, and all
else runs along contiguous memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

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


class _Rows(NamedTuple):
    """A sparse matrix by rows: bags of columns with their values."""

    columns: Tensor
    start: Tensor
    value: Tensor

    def times(self, dense: Tensor) -> Tensor:
        """Product with a dense matrix; far faster than torch's sparse formats on the CPU, and the same every time."""
        return F.embedding_bag(self.columns, dense, self.start, mode="sum", per_sample_weights=self.value)


def _rows(row: Tensor, column: Tensor, value: Tensor, n: int) -> _Rows:
    order = torch.argsort(row * n + column)
    count = torch.bincount(row, minlength=n)
    return _Rows(column[order], count.cumsum(0) - count, value[order])


class _Product(torch.autograd.Function):
    """Sparse matrix times dense; the gradient needs the transpose, which is kept ready."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: _Rows, transposed: _Rows) -> Tensor:
        ctx.transposed = transposed
        return matrix.times(dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed.times(gradients[0].contiguous()), None, None


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
    from_genes
        Whether genes are among the senders.
    """

    def __init__(
        self, sender: Tensor, receiver: Tensor, weight: Tensor, n_nodes: int, *, from_genes: bool = True
    ) -> None:
        super().__init__()
        self.from_genes = from_genes
        self.n_nodes = n_nodes
        self.sender: Tensor
        self.receiver: Tensor
        self.weight: Tensor
        # they belong to the graph, not to the weights of the network
        for name, value in {"sender": sender, "receiver": receiver, "weight": weight}.items():
            self.register_buffer(name, value, persistent=False)
        self._ready: dict[tuple[str, torch.device, torch.dtype], tuple[_Rows, _Rows]] = {}

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
            self._ready[key] = self._matrices(norm, values)
        some = [_Product.apply(part.contiguous(), *self._ready[key]) for part in values]  # type: ignore[no-untyped-call]
        return some[0][None] if len(some) == 1 else torch.stack(some)

    @torch.no_grad()
    def _matrices(self, norm: str, like: Tensor) -> tuple[_Rows, _Rows]:
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
        n = self.n_nodes
        return _rows(receiver, sender, value, n), _rows(sender, receiver, value, n)

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
        out[name] = Relation(sender, receiver, weight, graph.n_nodes, from_genes=name in ("all", "GG", "GP"))
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

    def forward(
        self, values: Tensor, some: list[Relation], shared: Tensor | None = None, *, genes_only: bool = False
    ) -> Tensor:
        """Pass messages.

        Parameters
        ----------
        values
            ``(n, n_nodes, batch)``.
        some
            The relations.
        shared
            ``(n_in - n, n_nodes, 1)`` further values that are the same for all cells; what is linear is done once.
        genes_only
            Pathways are 0 in ``values``, so what they send need not be summed.

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
        active = [
            r for r, relation in enumerate(some) if relation.from_genes or not (genes_only and self.name == "sage")
        ]
        if shared is not None:
            bias = bias + self._send(shared, some, slice(n, None), list(range(len(some))))
        return self._send(values, some, slice(n), active) + bias

    def _send(self, values: Tensor, some: list[Relation], columns: slice, active: list[int]) -> Tensor:
        """What is linear: one dense product for all relations, sparse ones on its narrow side."""
        norm: Literal["mean", "symmetric"] = "mean" if self.name == "sage" else "symmetric"
        some = [some[r] for r in active]
        weights = [self.weight[r, :, columns] for r in active] + ([] if self.root is None else [self.root[:, columns]])
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
        values, shared = self._start(x, noise)
        some = cast("dict[str, Relation]", dict(self.relations.items()))
        for i, layer in enumerate(self.layers):
            kinds = self._kinds if i == len(self.layers) - 1 else list(some)
            values = layer(
                F.relu(values) if i else values,
                [some[k] for k in kinds],
                None if i else shared,
                genes_only=not i and self.form == "typed",
            )
        return values[0, : self.n_genes].T

    def _start(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.form == "typed":
            shared = F.pad(self.embedding, (self.n_genes, 0))[:, :, None]
            return F.pad(x.T, (0, 0, 0, self.n_pathways))[None], shared
        noise = x.new_zeros(self.n_pathways) if noise is None else noise.to(x)
        return torch.cat([x.T, noise[:, None].expand(-1, len(x))])[None], None
