"""How a variable follows from its parents: one class per family, parameters of all variables in one tensor.

Every mechanism is called with the values of all variables ``(n, d)``, the positions of the variables wanted
``(k,)`` and their scaled noise ``(n, k)``, and gives ``(n, k)``. Parameters are masked by the graph
[cause, effect], so that non-parents have no say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MECHANISMS", "FourierFunction", "Mechanism", "Ranges", "draw_fourier", "uniform"]

_FEATURES = 100
_HIDDEN = 10
_POLYNOMIAL_BOUND = 3.0


@dataclass(frozen=True)
class Ranges:
    """Ranges the parameters of a mechanism are drawn from."""

    weight: tuple[float, float]
    bias: tuple[float, float]
    length_scale: tuple[float, float]
    output_scale: tuple[float, float]


def uniform(low_high: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw evenly from a range."""
    low, high = low_high
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def _signed(low_high: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    sign = torch.rand(shape, generator=generator, device=generator.device) < 0.5
    size = uniform(low_high, shape, generator)
    return torch.where(sign, -size, size)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class Linear:
    """Weighted sum of the parents, plus bias and noise."""

    weight: Tensor  # (d, d) [cause, effect]
    bias: Tensor  # (d,)

    def __call__(self, values: Tensor, nodes: Tensor, noise: Tensor) -> Tensor:
        return values @ self.weight[:, nodes] + self.bias[nodes] + noise


@dataclass(frozen=True)
class Polynomial:
    """Weighted sum of the parents and of their squares, plus bias and noise.

    Parents count as at most 3 either way; without a bound, squares of squares run away along the order.
    """

    weight: Tensor  # (d, d) [cause, effect]
    square: Tensor  # (d, d) [cause, effect]
    bias: Tensor  # (d,)

    def __call__(self, values: Tensor, nodes: Tensor, noise: Tensor) -> Tensor:
        values = values.clamp(-_POLYNOMIAL_BOUND, _POLYNOMIAL_BOUND)
        curved = values @ self.weight[:, nodes] + values.square() @ self.square[:, nodes]
        return curved + self.bias[nodes] + noise


@dataclass(frozen=True)
class Sigmoid:
    """Weighted sum of a sigmoid of every parent, each with its own slope and midpoint, plus bias and noise."""

    weight: Tensor  # (d, d) [cause, effect]
    slope: Tensor  # (d, d)
    centre: Tensor  # (d, d)
    bias: Tensor  # (d,)

    def __call__(self, values: Tensor, nodes: Tensor, noise: Tensor) -> Tensor:
        # (n, d, k)
        bent = torch.sigmoid(self.slope[:, nodes] * (values[:, :, None] - self.centre[:, nodes]))
        return (bent * self.weight[:, nodes]).sum(1) + self.bias[nodes] + noise


@dataclass(frozen=True)
class Network:
    """A tanh network of one hidden layer; the noise is added, or is one more input."""

    inner: Tensor  # (d, d, hidden) [cause, effect, unit]
    inner_bias: Tensor  # (d, hidden)
    outer: Tensor  # (d, hidden)
    bias: Tensor  # (d,)
    noise_in: Tensor | None  # (d, hidden); None: noise is added

    def __call__(self, values: Tensor, nodes: Tensor, noise: Tensor) -> Tensor:
        hidden = torch.einsum("nd,dkh->nkh", values, self.inner[:, nodes]) + self.inner_bias[nodes]
        if self.noise_in is not None:
            hidden = hidden + noise[:, :, None] * self.noise_in[nodes]
        result = (torch.tanh(hidden) * self.outer[nodes]).sum(-1) + self.bias[nodes]
        return result if self.noise_in is not None else result + noise


@dataclass(frozen=True)
class FourierFunction:
    """Random Fourier features: a draw from a Gaussian process with a squared-exponential kernel."""

    frequency: Tensor  # (d, d, features) [cause, effect, feature], already divided by the length scale
    phase: Tensor  # (d, features)
    amplitude: Tensor  # (d, features), output scale included

    def __call__(self, values: Tensor, nodes: Tensor) -> Tensor:
        angle = torch.einsum("nd,dkf->nkf", values, self.frequency[:, nodes]) + self.phase[nodes]
        return torch.einsum("nkf,kf->nk", angle.cos_(), self.amplitude[nodes])


@dataclass(frozen=True)
class Fourier:
    """A smooth random function of all parents together, plus bias and noise."""

    function: FourierFunction
    bias: Tensor  # (d,)

    def __call__(self, values: Tensor, nodes: Tensor, noise: Tensor) -> Tensor:
        return self.function(values, nodes) + self.bias[nodes] + noise


Mechanism = Callable[[Tensor, Tensor, Tensor], Tensor]


def draw_fourier(
    adjacency: Tensor,
    length_scale: tuple[float, float],
    output_scale: tuple[float, float],
    generator: torch.Generator,
) -> FourierFunction:
    """Draw one function per variable; a variable without parents has a constant."""
    d = len(adjacency)
    length = uniform(length_scale, (d, 1), generator)
    scale = uniform(output_scale, (d, 1), generator)
    return FourierFunction(
        frequency=_normal((d, d, _FEATURES), generator) / length * adjacency[:, :, None],
        phase=uniform((0, 2 * math.pi), (d, _FEATURES), generator),
        amplitude=_normal((d, _FEATURES), generator) * scale * math.sqrt(2 / _FEATURES),
    )


def _weights(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Tensor:
    return _signed(ranges.weight, tuple(adjacency.shape), generator) * adjacency


def _linear(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Linear:
    return Linear(_weights(adjacency, ranges, generator), uniform(ranges.bias, (len(adjacency),), generator))


def _polynomial(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Polynomial:
    first, second = (_weights(adjacency, ranges, generator) for _ in range(2))
    return Polynomial(first, second, uniform(ranges.bias, (len(adjacency),), generator))


def _sigmoid(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Sigmoid:
    shape = tuple(adjacency.shape)
    return Sigmoid(
        weight=_weights(adjacency, ranges, generator),
        slope=uniform((0.5, 2.0), shape, generator),
        centre=uniform((-2.0, 2.0), shape, generator),
        bias=uniform(ranges.bias, (len(adjacency),), generator),
    )


def _network(adjacency: Tensor, ranges: Ranges, generator: torch.Generator, *, additive: bool) -> Network:
    d = len(adjacency)
    hidden = _HIDDEN if additive else 2 * _HIDDEN
    has_parents = adjacency.any(0)[:, None]
    return Network(
        inner=_normal((d, d, hidden), generator) * adjacency[:, :, None],
        inner_bias=_normal((d, hidden), generator),
        # a root whose noise is added is bias and noise, as in the other families
        outer=_normal((d, hidden), generator) * (has_parents if additive else 1),
        bias=uniform(ranges.bias, (d,), generator),
        noise_in=None if additive else _normal((d, hidden), generator),
    )


def _mlp(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Network:
    return _network(adjacency, ranges, generator, additive=True)


def _mlp_nonadditive(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Network:
    return _network(adjacency, ranges, generator, additive=False)


def _rff(adjacency: Tensor, ranges: Ranges, generator: torch.Generator) -> Fourier:
    function = draw_fourier(adjacency, ranges.length_scale, ranges.output_scale, generator)
    # without this the constant of a root has the size of the output scale
    function.amplitude.mul_(adjacency.any(0)[:, None])
    return Fourier(function, uniform(ranges.bias, (len(adjacency),), generator))


MECHANISMS: dict[str, Callable[[Tensor, Ranges, torch.Generator], Mechanism]] = {
    "linear": _linear,
    "mlp": _mlp,
    "mlp_nonadditive": _mlp_nonadditive,
    "rff": _rff,
    "polynomial": _polynomial,
    "sigmoid": _sigmoid,
}
