"""Edge network on pair statistics: the quick one. Same answer as :class:`causcade.nn.avici.Avici`, from sums over cells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from causcade.edge_inputs import N_EDGE_FEATURES, edge_features
from causcade.nn.axial import AxialLayer

__all__ = ["EdgeStream", "EdgeStreamConfig"]


@dataclass(frozen=True)
class EdgeStreamConfig:
    """Sizes of an :class:`EdgeStream`.

    Attributes
    ----------
    width, layers, heads, hidden
        Width of the stream, number of layers, heads, and width of the feed-forward layers.
    triads
        Channels of each kind of product over third genes.
    features
        Number of input features per pair. Weights of an earlier version see the first ones only: new ones are added
        at the end.
    """

    width: int = 48
    layers: int = 6
    heads: int = 4
    hidden: int = 144
    triads: int = 8
    features: int = N_EDGE_FEATURES

    def to_dict(self) -> dict[str, Any]:
        """Plain dict for ``config.json``."""
        return asdict(self)


class Triads(nn.Module):
    """What two genes have to do with each other through every third one, and the other way round.

    Sums over k of ``i -> k -> j`` (chain), ``i <- k -> j`` (common cause) and ``i -> k <- j`` (common effect), per
    channel, and the entry of the reverse pair, projected back to the stream.

    Parameters
    ----------
    width
        Width of the stream.
    channels
        Products of each kind.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.factors = nn.Linear(width, 6 * channels)
        self.gates = nn.Linear(width, 6 * channels)
        self.reverse = nn.Linear(width, width)
        self.out = nn.Linear(3 * channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid ``(batch, n, n, width)``, [cause, effect], to its residual update."""
        h = self.norm(x)
        parts = (self.factors(h) * torch.sigmoid(self.gates(h))).permute(0, 3, 1, 2).chunk(6, 1)
        chain, fork, collider = parts[0] @ parts[1], parts[2].mT @ parts[3], parts[4] @ parts[5].mT
        products = torch.cat([chain, fork, collider], 1) / x.shape[1] ** 0.5
        update: Tensor = self.out(products.permute(0, 2, 3, 1)) + self.reverse(h.transpose(1, 2))
        return update


class EdgeStream(nn.Module):
    """Logits of the edges among a set of genes, from statistics of all ordered pairs.

    Equivariant to the order of the genes and invariant to the order of the cells; takes any number of either. Cells
    are summed up before the network sees them (:func:`causcade.edge_inputs.edge_features`), so its cost does not
    depend on their number.

    Parameters
    ----------
    config
        Sizes.

    Raises
    ------
    ValueError
        If it is of weights for more features than there are.
    """

    def __init__(self, config: EdgeStreamConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or EdgeStreamConfig()
        if not 0 < c.features <= N_EDGE_FEATURES:
            msg = f"features={c.features}, but this version of causcade makes {N_EDGE_FEATURES} of them; update it for these weights."
            raise ValueError(msg)
        self.embed = nn.Sequential(nn.Linear(c.features, 2 * c.width), nn.GELU(), nn.Linear(2 * c.width, c.width))
        self.triads = nn.ModuleList(Triads(c.width, c.triads) for _ in range(c.layers))
        self.layers = nn.ModuleList(AxialLayer(c.width, c.heads, c.hidden) for _ in range(c.layers))
        self.head = nn.Sequential(
            nn.LayerNorm(c.width), nn.Linear(c.width, 2 * c.width), nn.GELU(), nn.Linear(2 * c.width, 1)
        )
        self.skip = nn.Linear(c.features, 1)  # a direct way out: the net starts as a logistic regression
        nn.init.zeros_(self.head.get_parameter("3.weight"))
        nn.init.constant_(self.skip.bias, -2.5)  # about the share of edges

    def forward(self, values: Tensor, mask: Tensor, missing: Tensor | None = None) -> Tensor:
        """Give the logit of every edge.

        Parameters
        ----------
        values
            ``(batch, cells, genes)``, as :func:`causcade.simulate.domains.graph_values` makes them.
        mask
            ``(batch, cells, genes)``, 1 where that gene is known to be intervened on in that cell.
        missing
            bool ``(batch, cells, genes)``, True where the value is not known; None: none is.

        Returns
        -------
        torch.Tensor
            ``(batch, genes, genes)``, [cause, effect], float32; the diagonal has no meaning.

        Raises
        ------
        ValueError
            If the shapes differ, or there is no cell.
        """
        with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
            features = edge_features(values, mask, missing)[..., : self.config.features]
        x = self.embed(features)
        for triads, layer in zip(self.triads, self.layers, strict=True):
            x = layer(x + triads(x))
        logits: Tensor = (self.head(x) + self.skip(features)).squeeze(-1)
        return logits.float()

    @torch.no_grad()
    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())
