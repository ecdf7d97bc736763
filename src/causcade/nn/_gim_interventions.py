"""From features of a perturbation to what it does: targets and parameters of interventions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from causcade.nn._gim_config import GimConfig

__all__ = ["FeatureNetworks", "FreeInterventions", "Interventions", "build_interventions"]

_LEAST_LOG_SD = -6.0


@dataclass
class Interventions:
    """What is done in each environment, ``(k, d)`` each.

    Attributes
    ----------
    logits
        Of being a target.
    mean
        Hard: mean of a target (of its logarithm for zero-inflated values); shift: what is added.
    log_sd, zero_logit
        Hard only: log standard deviation of a target; and logit of a zero, for zero-inflated values.
    share
        How far cells follow the intervention in each gene, 0 to 1, whatever the logits are; None: wholly in the most
        probable targets.
    """

    logits: Tensor
    mean: Tensor
    log_sd: Tensor | None = None
    zero_logit: Tensor | None = None
    share: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """Most probable targets, bool."""
        return self.logits > 0

    @property
    def followed(self) -> Tensor:
        """Share, also where none is given."""
        return self.targets.to(self.mean.dtype) if self.share is None else self.share

    def detach(self) -> Interventions:
        """The same without gradient."""
        log_sd, zero, share = (None if p is None else p.detach() for p in (self.log_sd, self.zero_logit, self.share))
        return Interventions(self.logits.detach(), self.mean.detach(), log_sd, zero, share)


def _names(config: GimConfig) -> list[str]:
    names = ["logits", "mean"]
    if config.intervention == "hard":
        names += ["log_sd"] + (["zero_logit"] if config.mechanism == "zero_inflated" else [])
    return names


def _interventions(values: dict[str, Tensor]) -> Interventions:
    if "log_sd" in values:
        values["log_sd"] = values["log_sd"].clamp(min=_LEAST_LOG_SD)
    return Interventions(**values)


class FeatureNetworks(nn.Module):
    """One network from features to each of logits and parameters."""

    def __init__(self, config: GimConfig, n_features: int, n_genes: int, *, rng: torch.Generator | None = None) -> None:
        super().__init__()
        sizes = (n_features, *config.widths, n_genes)
        self.networks = nn.ModuleDict({name: _network(sizes, rng) for name in _names(config)})

    def forward(self, features: Tensor) -> Interventions:
        """Interventions of features ``(k, p)``."""
        return _interventions({name: net(features) for name, net in self.networks.items()})


class FreeInterventions(nn.Module):
    """Free logits and parameters of each environment seen; features are not looked at."""

    def __init__(self, config: GimConfig, n_environments: int, n_genes: int) -> None:
        super().__init__()
        self.free = nn.ParameterDict({n: nn.Parameter(torch.zeros(n_environments, n_genes)) for n in _names(config)})

    @torch.no_grad()
    def assign(self, values: dict[str, Tensor]) -> None:
        """Take these logits and parameters; names that there are not here are left out."""
        for name, value in values.items():
            if name in self.free:
                self.free[name].copy_(value)

    def forward(self, features: Tensor) -> Interventions:
        """Interventions of all environments, in their order."""
        return _interventions(dict(self.free.items()))


def _network(sizes: tuple[int, ...], rng: torch.Generator | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inside, outside)  # no draw from the global generator
        sd = (2 / (inside + outside)) ** 0.5  # Glorot
        layer.weight.data = sd * torch.randn(outside, inside, generator=rng)
        layer.bias.data = torch.zeros(outside)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def build_interventions(
    config: GimConfig, n_features: int, n_environments: int, n_genes: int, *, rng: torch.Generator | None = None
) -> FeatureNetworks | FreeInterventions:
    """Make the networks of a configuration, or free parameters without ``amortised``."""
    if config.amortised:
        return FeatureNetworks(config, n_features, n_genes, rng=rng)
    return FreeInterventions(config, n_environments, n_genes)
