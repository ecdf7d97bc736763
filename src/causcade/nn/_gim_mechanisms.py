"""How a gene depends on its causes, for many graphs at once; the graph is folded into the weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from causcade.nn._gim_cells import Cells, upper_triangle
from causcade.nn._gim_config import GimConfig

__all__ = ["LEAST_LOG_SD", "LinearMechanisms", "MlpMechanisms", "build_mechanisms"]

LEAST_LOG_SD = -6.0  # a gene that never varies would drive its noise to nothing


class _Mechanisms(nn.Module):
    """Noise of all genes; what differs is the mean given the causes."""

    def __init__(self, n_genes: int, *, zeros: bool = False) -> None:
        super().__init__()
        self.log_sd = nn.Parameter(torch.zeros(n_genes))
        self.zero_logit = nn.Parameter(torch.zeros(n_genes)) if zeros else None

    def noise(self, *, detach: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log standard deviation and logit of a zero (None: no zeros apart), each ``(d,)``."""
        log_sd, zero = self.log_sd.clamp(min=LEAST_LOG_SD), self.zero_logit
        return (log_sd.detach(), zero.detach() if zero is not None else None) if detach else (log_sd, zero)

    def weights(self) -> list[nn.Parameter]:
        """All parameters of the means."""
        return [p for name, p in self.named_parameters() if name not in ("log_sd", "zero_logit")]

    def spread(self) -> list[nn.Parameter]:
        """All parameters of the noise."""
        return [p for name, p in self.named_parameters() if name in ("log_sd", "zero_logit")]


class LinearMechanisms(_Mechanisms):
    """Weighted sum of the causes; ``weight`` is [cause, effect]."""

    def __init__(self, n_genes: int, *, intercept: bool = True, rng: torch.Generator | None = None) -> None:
        super().__init__(n_genes)
        self.weight = nn.Parameter(0.1**0.5 * torch.randn(n_genes, n_genes, generator=rng))
        self.bias = nn.Parameter(torch.zeros(n_genes)) if intercept else None

    def mean(self, values: Tensor, graph: Tensor) -> Tensor:
        """Means ``(b, d)`` in one graph ``(d, d)``, [cause, effect]."""
        out = values @ (self.weight * graph)
        return out if self.bias is None else out + self.bias

    def residuals(self, cells: Cells, graphs: Tensor, *, detach: bool = False) -> tuple[Tensor, Tensor]:
        """Sums of residuals and of their squares, each ``(m, k, d)``, in graphs ``(m, d, d)``: exact from moments."""
        if cells.means is None or cells.scatter is None:
            msg = "linear mechanisms need cells summed with moments=True."
            raise ValueError(msg)
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if detach:
            weight, bias = weight.detach(), bias.detach() if bias is not None else None
        # residuals may be small differences of large sums; for many graphs double precision would cost too much
        exact = cells.means.dtype if len(graphs) == 1 else weight.dtype
        weight, graphs, number, means, scatter = (
            x.to(exact) for x in (weight, graphs, cells.counts[:, :1], cells.means, cells.scatter)
        )
        d = len(weight)
        outer = torch.eye(d, dtype=weight.dtype, device=weight.device) - weight * graphs  # residual = x @ outer
        mean = means @ outer - (0.0 if bias is None else bias)
        rows, columns = upper_triangle(d, weight.device)
        twice = 2.0 - (rows == columns).to(weight.dtype)
        products = (
            outer.index_select(1, rows) * outer.index_select(1, columns) * twice[:, None]
        )  # (m, d (d + 1) / 2, d)
        return number * mean, number * mean**2 + scatter @ products

    def expected(self, cells: Cells, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of residuals and of their squares, each ``(1, k, d)``: their means over independent edges ``(d, d)``."""
        if cells.means is None or cells.scatter is None:
            msg = "linear mechanisms need cells summed with moments=True."
            raise ValueError(msg)
        first, second = self.residuals(cells, probability[None])
        rows, columns = upper_triangle(len(probability), probability.device)
        squares = cells.scatter[:, rows == columns] + cells.counts[:, :1] * cells.means**2
        return first, second + squares @ (self.weight**2 * probability * (1 - probability)).to(squares.dtype)


class MlpMechanisms(_Mechanisms):
    """One network of tanh layers per gene."""

    def __init__(
        self, n_genes: int, hidden: tuple[int, ...] = (5,), *, zeros: bool = False, rng: torch.Generator | None = None
    ) -> None:
        super().__init__(n_genes, zeros=zeros)
        sizes = [n_genes, *hidden, 1]
        self.layers = nn.ParameterList()  # (effect, in, out) each
        self.biases = nn.ParameterList()
        for inside, outside in pairwise(sizes):
            sd = (2 / (inside + outside)) ** 0.5  # Glorot
            self.layers.append(nn.Parameter(sd * torch.randn(n_genes, inside, outside, generator=rng)))
            self.biases.append(nn.Parameter(torch.zeros(n_genes, outside)))

    def _means(self, values: Tensor, graphs: Tensor, *, detach: bool) -> Tensor:
        """Means ``(b, m, d)``."""
        layers, biases = [list(x) for x in (self.layers, self.biases)]
        if detach:
            layers, biases = [x.detach() for x in layers], [x.detach() for x in biases]
        m, d, _ = graphs.shape
        first = graphs[..., None] * layers[0].transpose(0, 1)  # (m, cause, effect, hidden)
        flat = first.transpose(0, 1).reshape(d, -1)  # one product for all graphs and genes
        out = (values @ flat).view(len(values), m, d, -1) + biases[0]
        for layer, bias in zip(layers[1:-1], biases[1:-1], strict=True):
            out = torch.einsum("bmjh,jhg->bmjg", out.tanh(), layer) + bias
        return torch.einsum("bmjh,jh->bmj", out.tanh(), layers[-1].squeeze(2)) + biases[-1].squeeze(1)

    def mean(self, values: Tensor, graph: Tensor) -> Tensor:
        """Means ``(b, d)`` in one graph ``(d, d)``, [cause, effect]."""
        return self._means(values, graph[None], detach=False)[:, 0]

    def residuals(self, cells: Cells, graphs: Tensor, *, detach: bool = False) -> tuple[Tensor, Tensor]:
        """Sums of residuals and of their squares over cells with a response, each ``(m, k, d)``."""
        if cells.values is None or cells.codes is None or cells.response is None:
            msg = "networks need the cells; sum them with moments=False."
            raise ValueError(msg)
        off = cells.response[:, None] - self._means(cells.values, graphs, detach=detach)
        if self.zero_logit is not None:
            off = off * (cells.values > 0).to(off.dtype)[:, None]
        n = len(cells.counts)
        first, second = (cells.weight * _sum_by(x, cells.codes, n) for x in (off, off**2))
        return first.transpose(0, 1), second.transpose(0, 1)


def _sum_by(x: Tensor, codes: Tensor, n: int) -> Tensor:
    return x.new_zeros(n, *x.shape[1:]).index_add(0, codes, x)


def build_mechanisms(
    config: GimConfig, n_genes: int, *, rng: torch.Generator | None = None
) -> LinearMechanisms | MlpMechanisms:
    """Make the mechanisms of a configuration."""
    if config.mechanism == "linear":
        return LinearMechanisms(n_genes, intercept=config.intercept, rng=rng)
    return MlpMechanisms(n_genes, config.hidden, zeros=config.mechanism == "zero_inflated", rng=rng)
