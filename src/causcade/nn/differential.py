"""Causal differential network: which genes were acted on, from a control set and a perturbed set of cells.

A structure learner turns each set into a grid (genes x genes); a differential network compares the grids.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from causcade.contrasts import N_CONTRASTS, N_NODE, N_STRUCTURE
from causcade.nn.axial import AxialLayer, PathProduct

__all__ = ["Differential", "DifferentialConfig", "SetInput", "graph_loss", "target_loss"]

_TOKENS = 8
_RELATIONS = (0, 1, 2, 3, 12, 13, 14, 15)  # contrasts of correlations and slopes; the others are of means and variances


@dataclass(frozen=True)
class DifferentialConfig:
    """Sizes and parts of a :class:`Differential`.

    Attributes
    ----------
    width, heads, hidden
        Width of the streams, heads, width of the feed-forward layers.
    structure_layers, difference_layers
        Axial layers of the structure learner and of the differential network.
    paths
        Channels of the two-step path product of each layer (0 = none).
    form
        ``"concat"`` or ``"difference"`` of the two grids (the paper's h_cat and h_diff).
    local
        Width of the stream of local graphs (tokens of FCI on small subsets); 0 = none.
    paper_inputs
        As in the paper, of the pair statistics the network sees only the correlation, and of the statistics of a gene
        only mean and variance.
    contrasts
        The differential network also sees how each gene's regression on each other changed (not in the paper).
    node_statistics
        Means and variances; without them only relations count (the paper's "no mu").
    codes
        Width of the random code of gene identities, the same for both sets (0 = none; the network is then
        equivariant without averaging over codes).
    """

    width: int = 32
    heads: int = 4
    hidden: int = 64
    structure_layers: int = 2
    difference_layers: int = 2
    paths: int = 8
    form: Literal["concat", "difference"] = "concat"
    local: int = 16
    paper_inputs: bool = False
    contrasts: bool = True
    node_statistics: bool = True
    codes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for ``config.json``."""
        return asdict(self)


@dataclass(frozen=True)
class SetInput:
    """What the structure learner sees of a batch of sets.

    Attributes
    ----------
    pairs
        ``(batch, genes, genes, N_STRUCTURE)``.
    subsets
        int64 ``(batch, subsets, k)`` genes of each subset.
    tokens
        int64 ``(batch, subsets, k, k)`` local graphs; 0 on the diagonal.
    """

    pairs: Tensor
    subsets: Tensor
    tokens: Tensor

    def to(self, device: torch.device | str) -> SetInput:
        """The same on another device."""
        return SetInput(self.pairs.to(device), self.subsets.to(device), self.tokens.to(device))

    def part(self, rows: Tensor) -> SetInput:
        """Some of the sets."""
        return SetInput(self.pairs[rows], self.subsets[rows], self.tokens[rows])


class _Grid(nn.Module):
    """Axial layers with path products on a genes x genes grid (further columns pass the path products by)."""

    def __init__(self, c: DifferentialConfig, n_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(AxialLayer(c.width, c.heads, c.hidden) for _ in range(n_layers))
        self.paths = nn.ModuleList(PathProduct(c.width, c.paths) for _ in range(n_layers if c.paths else 0))
        self.norm = nn.LayerNorm(c.width)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        for i, layer in enumerate(self.layers):
            if self.paths:
                square = x[:, :, :n]
                x = torch.cat([square + self.paths[i](square), x[:, :, n:]], 2)
            x = layer(x)
        normed: Tensor = self.norm(x)
        return normed


class _Local(nn.Module):
    """Attention inside each subset, then the mean over subsets into the grid."""

    def __init__(self, c: DifferentialConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(_TOKENS, c.local)
        self.pairs = nn.Linear(c.width, c.local)
        self.layer = AxialLayer(c.local, 2, 2 * c.local)
        self.out = nn.Linear(c.local + 1, c.width)

    def forward(self, x: Tensor, s: SetInput) -> Tensor:
        b, t, k = s.subsets.shape
        n, width = x.shape[1], self.embed.embedding_dim
        # place of every pair of a subset in the flattened grid
        place = (s.subsets[:, :, :, None] * n + s.subsets[:, :, None, :]).reshape(b, -1)
        seen = self.pairs(x).reshape(b, n * n, width).gather(1, place[..., None].expand(-1, -1, width))
        h = self.embed(s.tokens).reshape(b * t, k, k, width) + seen.reshape(b * t, k, k, width)
        h = self.layer(h).reshape(b, t * k * k, width)
        total = x.new_zeros(b, n * n, width).to(h.dtype).scatter_add_(1, place[..., None].expand(-1, -1, width), h)
        count = torch.zeros(b, n * n, device=x.device, dtype=h.dtype).scatter_add_(1, place, torch.ones_like(h[..., 0]))
        mean = total / count.clamp(min=1)[..., None]
        update: Tensor = self.out(torch.cat([mean, torch.log1p(count)[..., None]], -1))
        return update.reshape(b, n, n, -1)


class Differential(nn.Module):
    """Network of Wu et al. 2025 (sections 3.1 and 3.2), with true masks and scaled attention.

    Equivariant to the order of the genes (with ``codes``, on average over codes); takes any number of them.

    Parameters
    ----------
    config
        Sizes and parts.
    """

    def __init__(self, config: DifferentialConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or DifferentialConfig()
        w = c.width
        self.pairs = nn.Linear(N_STRUCTURE, w)
        self.local = _Local(c) if c.local else None
        self.code = nn.Linear(c.codes, 2 * w) if c.codes else None
        self.structure = _Grid(c, c.structure_layers)
        self.edge = nn.Sequential(nn.Linear(2 * w, w), nn.GELU(), nn.Linear(w, 2))
        self.merge = nn.Linear((2 if c.form == "concat" else 1) * w, w)
        self.contrast = nn.Sequential(nn.Linear(N_CONTRASTS, w), nn.GELU(), nn.Linear(w, w)) if c.contrasts else None
        self.node = nn.Sequential(nn.Linear(N_NODE, 2 * w), nn.GELU(), nn.Linear(2 * w, 3 * w))
        self.difference = _Grid(c, c.difference_layers)
        self.head = nn.Sequential(nn.Linear(3 * w, w), nn.GELU(), nn.Linear(w, 1))
        nn.init.constant_(self.head.get_parameter("2.bias"), -2.0)  # few genes are targets

    def encode(self, s: SetInput, code: Tensor | None = None) -> Tensor:
        """Structure learner: a grid ``(batch, genes, genes, width)`` of one set; ``[i, j]`` is about gene i and gene j."""
        pairs = _only(s.pairs, (0, -1)) if self.config.paper_inputs else s.pairs
        x = self.pairs(pairs)
        if self.code is not None and code is not None:
            rows, columns = self.code(code).chunk(2, -1)
            x = x + rows[:, :, None] + columns[:, None]
        if self.local is not None and s.subsets.shape[1]:
            x = x + self.local(x, s)
        grid: Tensor = self.structure(x)
        return grid

    def draw_codes(self, batch: int, genes: int, rng: torch.Generator) -> Tensor | None:
        """Random codes of gene identities, shared by the two sets of a pair."""
        if not self.config.codes:
            return None
        return torch.randn(batch, genes, self.config.codes, generator=rng, device=rng.device)

    def edges(self, grid: Tensor) -> Tensor:
        """Logits ``(batch, genes, genes, 3)`` of no edge, i -> j, i <- j; the last two swap with i and j."""
        out = self.edge(torch.cat([grid, grid.transpose(1, 2)], -1))
        forward, absent = out.unbind(-1)
        return torch.stack([(absent + absent.mT) / 2, forward, forward.mT], -1)

    def compare(self, before: Tensor, after: Tensor, contrasts: Tensor, node: Tensor) -> Tensor:
        """Differential network: logits ``(batch, genes)`` from the grids of control and perturbed set.

        Parameters
        ----------
        before, after
            Grids of :meth:`encode`.
        contrasts
            ``(batch, genes, genes, N_CONTRASTS)``.
        node
            ``(batch, genes, N_NODE)``.
        """
        y = self.merge(torch.cat([before, after], -1) if self.config.form == "concat" else after - before)
        if self.contrast is not None:
            contrasts = contrasts if self.config.node_statistics else _only(contrasts, _RELATIONS)
            y = y + self.contrast(contrasts.clamp(-8, 8))
        node = _only(node, (0, 2)) if self.config.paper_inputs else node
        stats = self.node(node.clamp(-8, 8) if self.config.node_statistics else torch.zeros_like(node))
        rows, columns, own = stats.chunk(3, -1)
        y = torch.cat([y + rows[:, :, None] + columns[:, None], own[:, :, None]], 2)
        y = self.difference(y)
        pooled = torch.cat([y.mean(2), y.amax(2), own], -1)
        logits: Tensor = self.head(pooled).squeeze(-1)
        return logits

    def forward(
        self, control: SetInput, perturbed: SetInput, contrasts: Tensor, node: Tensor, code: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Target logits ``(batch, genes)`` and edge logits of the control's graph."""
        before, after = self.encode(control, code), self.encode(perturbed, code)
        return self.compare(before, after, contrasts, node), self.edges(before)


def _only(x: Tensor, keep: tuple[int, ...]) -> Tensor:
    """Zero all features but some."""
    mask = torch.zeros(x.shape[-1]).to(x)
    mask[list(keep)] = 1
    return x * mask


def target_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over genes and pairs (the paper's L_I)."""
    return F.binary_cross_entropy_with_logits(logits, targets.float())


def graph_loss(logits: Tensor, adjacency: Tensor, shares: Tensor | None = None) -> Tensor:
    """Cross-entropy of none, forward, backward over unordered pairs (the paper's L_G); adjacency is [cause, effect].

    The mean over graphs, or the sum with a share of each.
    """
    n = adjacency.shape[-1]
    classes = adjacency.long() + 2 * adjacency.mT.long()
    upper = torch.ones(n, n, dtype=torch.bool, device=logits.device).triu(1)
    given, wanted = logits[:, upper].reshape(-1, 3), classes[:, upper].reshape(-1)
    if shares is None:
        return F.cross_entropy(given, wanted)
    each = F.cross_entropy(given, wanted, reduction="none").reshape(len(shares), -1)
    return (each.mean(1) * shares).sum()
