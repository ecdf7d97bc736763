"""What an intervention does to every gene of every cell. Public through ``scm``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Effects", "Intervention", "cell_effects", "check_name"]

_KINDS = ("hard", "uniform", "signed_uniform", "shift", "scale", "noise_scale")


def check_name(what: str, value: str, known: Sequence[str]) -> None:
    """Refuse a name that is not known."""
    if value not in known:
        msg = f"unknown {what} {value!r}. Known: {', '.join(known)}"
        raise ValueError(msg)


@dataclass(frozen=True)
class Intervention:
    """What one regime does to its targets. Values are in the units of the samples that come back.

    Attributes
    ----------
    targets
        Positions of the genes acted on.
    kind
        ``"hard"``: the gene is set to ``value``. ``"uniform"``: it is drawn, cell by cell, from
        ``value = (low, high)``. ``"signed_uniform"``: the same with a random sign. ``"shift"``: ``value`` is
        added. ``"scale"``: the gene, noise included, is multiplied by ``value``. ``"noise_scale"``: only its noise
        is multiplied.
    value
        One number for all targets, or one per target; for the two uniform kinds the pair ``(low, high)``.
    """

    targets: tuple[int, ...]
    kind: Literal["hard", "uniform", "signed_uniform", "shift", "scale", "noise_scale"] = "hard"
    value: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        """Check what does not need the model."""
        check_name("kind of intervention", self.kind, _KINDS)
        object.__setattr__(self, "targets", tuple(int(t) for t in self.targets))
        if len(set(self.targets)) != len(self.targets):
            msg = f"targets of an intervention must differ; got {self.targets}"
            raise ValueError(msg)
        value = np.asarray(self.value, dtype=float)
        if not np.isfinite(value).all():
            msg = f"value of an intervention must be finite; got {self.value!r}"
            raise ValueError(msg)
        if self.kind.endswith("uniform"):
            if value.shape != (2,) or value[0] > value[1]:
                msg = f"a {self.kind!r} intervention needs value=(low, high); got {self.value!r}"
                raise ValueError(msg)
        elif value.shape not in ((), (len(self.targets),)):
            msg = f"value must be one number or one for each of the {len(self.targets)} targets; got {self.value!r}"
            raise ValueError(msg)
        # a plain number or tuple, so that interventions compare and hash
        object.__setattr__(self, "value", value.tolist() if value.ndim == 0 else tuple(value.tolist()))


@dataclass(frozen=True)
class Effects:
    """What is done to every gene in every cell; all ``(cells, genes)``."""

    is_set: Tensor
    set_to: Tensor
    shift: Tensor
    scale: Tensor
    noise_scale: Tensor


def cell_effects(
    interventions: Sequence[Intervention | None], codes: Tensor, d: int, generator: torch.Generator
) -> Effects | None:
    """Look up every cell's intervention; None where no regime has one."""
    if all(i is None for i in interventions):
        return None
    # per regime: is_set, low, high, signed, shift, scale, noise_scale
    table = torch.zeros(7, len(interventions), d)
    table[5:] = 1
    for r, intervention in enumerate(interventions):
        if intervention is not None:
            _fill(table[:, r], intervention, d)
    is_set, low, high, signed, shift, scale, noise_scale = table.to(codes.device)[:, codes].unbind(0)
    draws = torch.rand(2, len(codes), d, generator=generator, device=codes.device)
    value = low + (high - low) * draws[0]
    value = torch.where((signed > 0) & (draws[1] < 0.5), -value, value)
    return Effects(is_set > 0, value, shift, scale, noise_scale)


def _fill(table: Tensor, intervention: Intervention, d: int) -> None:
    targets = list(intervention.targets)
    bad = [t for t in targets if not 0 <= t < d]
    if bad:
        msg = f"intervention targets {bad} are not in this model of {d} genes (0 to {d - 1})"
        raise ValueError(msg)
    if intervention.kind.endswith("uniform"):
        low_high = torch.tensor(intervention.value)
        table[0, targets] = 1
        table[1:3, targets] = low_high[:, None].expand(2, len(targets)).to(table)
        table[3, targets] = float(intervention.kind == "signed_uniform")
        return
    value = torch.tensor(intervention.value).to(table).expand(len(targets))
    if intervention.kind == "hard":
        table[0, targets] = 1
        table[1:3, targets] = value
    else:
        table[{"shift": 4, "scale": 5, "noise_scale": 6}[intervention.kind], targets] = value
