"""Choices of a GraCE-VAE; where paper and published code differ, the code's, and why where it is neither's."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

__all__ = ["VARIANTS", "GraceConfig", "Schedule"]

Encoder = Literal["graph", "multihot", "plain"]
Form = Literal["reference", "typed"]
LayerName = Literal["sage", "gcn", "gat"]
Start = Literal["data", "random"]
Intervention = Literal["table", "lookup", "trivalue", "subgraph", "dropedge"]
Output = Literal["leaky", "linear"]
Pairing = Literal["fresh", "fixed"]
Keep = Literal["best", "last"]


@dataclass(frozen=True)
class Schedule:
    """Weights of one epoch: ``mmd`` and ``kl`` multiply the losses, ``temperature`` sharpens assignments."""

    mmd: float
    kl: float
    temperature: float


@dataclass(frozen=True)
class GraceConfig:
    """Model, objective and training of a GraCE-VAE.

    Attributes
    ----------
    n_latent
        Programs; None: one for each perturbation, as in the paper.
    hidden
        Width of encoder, decoder and intervention encoder.
    encoder
        ``"graph"``: message passing before the encoder; ``"multihot"``: for each pathway whether a gene of it is on, beside
        the genes; ``"plain"``: genes only (CMVAE). Without a network all are plain.
    form, layer, n_layers, width, heads
        Of the message passing, see :class:`causcade.nn.message_passing.MessagePassing`.
    dag
        Programs act on one another; False: they do not (VGAE).
    laplacian
        Weight of the mean squared difference between decoder rows of genes that share an edge. The published code uses
        1e-4 for VGAE and for intervention encoders with a graph.
    intervention
        How a perturbation finds its program: ``"table"``: free numbers; ``"lookup"``: a network on its one-hot code, as
        published; ``"trivalue"``: graph layers in which its target is marked; ``"subgraph"``: the same on the target's
        neighbours; ``"dropedge"``: learned values of nodes, edges of the target removed.
    start
        Where a fit begins. ``"data"``: at the additive model, see :mod:`causcade.gracefit`; with ``"table"`` perturbations that
        change the same genes are in the same program (one each, where there are as many). ``"random"``: as published.
    output
        What is applied to the decoder's output: ``"leaky"`` ReLU as published, or nothing.
    mmd, kl, sparsity
        Largest weight of the MMD and of the KL divergence, and weight of the absolute entries of the latent graph. At the
        published 2, the KL divergence of a screen goes to 0, and no program says anything of its cell.
    temperature
        Sharpness of the assignment of perturbations to programs at the end; it starts at 1.
    kernel_width, n_kernels
        Of the MMD; a width of None is the mean squared distance of two training cells. The published 1,000 fits
        5,000 genes.
    epochs, batch_size, learning_rate
        Adam; a batch holds cells of a single perturbation and as many controls.
    decay
        Share of the epochs, the last ones, in which the learning rate falls to a fiftieth: else the noise of batches stays
        in the weights. 0: it stays the same, as published.
    pairing
        ``"fresh"``: controls are drawn anew in every step; ``"fixed"``: once per perturbed cell, as published.
    validation
        Share of the cells of every perturbation, and of control, that is held out.
    patience
        After so many epochs without a better validation loss, once the MMD has its full weight, the last epochs begin, or
        the fit stops where there is no ``decay``; None: never.
    keep
        ``"last"``: weights of the last epoch; ``"best"``: of the epoch with the least validation loss once the MMD has its
        full weight, which is noisy where few cells are held out.
    evaluation_temperature
        Sharpness for predictions; None: that of the kept epoch. The published code goes back to 1.
    evaluation_noise
        Pathways are noise in predictions too, as published (with ``form="reference"``); else 0, its mean.
    """

    n_latent: int | None = None
    hidden: int = 128
    encoder: Encoder = "graph"
    form: Form = "typed"
    layer: LayerName = "sage"
    n_layers: int = 2
    width: int = 4
    heads: int = 1
    dag: bool = True
    laplacian: float = 0.0
    intervention: Intervention = "table"
    start: Start = "data"
    output: Output = "leaky"
    mmd: float = 8.0
    kl: float = 0.002
    sparsity: float = 1e-4
    temperature: float = 4.0
    kernel_width: float | None = None
    n_kernels: int = 10
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    decay: float = 0.2
    pairing: Pairing = "fresh"
    validation: float = 0.1
    patience: int | None = 20
    keep: Keep = "last"
    evaluation_temperature: float | None = None
    evaluation_noise: bool = False

    def __post_init__(self) -> None:
        """Check every choice."""
        choices: dict[str, Any] = {
            "encoder": Encoder, "form": Form, "layer": LayerName, "intervention": Intervention, "start": Start, "output": Output,
            "pairing": Pairing, "keep": Keep,
        }  # fmt: skip
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                msg = f"{name} must be one of {', '.join(get_args(kind))}, not {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in (
            "n_latent",
            "hidden",
            "width",
            "heads",
            "n_kernels",
            "epochs",
            "batch_size",
            "patience",
            "n_layers",
        ):
            value = getattr(self, name)
            if value is None and name in ("n_latent", "patience"):
                continue
            least = 2 if name == "batch_size" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                msg = f"{name} must be a whole number of at least {least}, not {value!r}."
                raise ValueError(msg)
        for name in ("mmd", "kl", "sparsity", "laplacian"):
            if not 0 <= getattr(self, name) < float("inf"):
                msg = f"{name} must be a number of at least 0, not {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in ("temperature", "kernel_width", "learning_rate", "evaluation_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                msg = f"{name} must be a number above 0, not {value!r}."
                raise ValueError(msg)
        for name, of in {"validation": "cells", "decay": "epochs"}.items():
            if not 0 <= getattr(self, name) < 1:
                msg = f"{name} must be a share of the {of}, from 0 to below 1, not {getattr(self, name)!r}."
                raise ValueError(msg)
        if self.n_layers > 3:
            msg = f"n_layers must be from 1 to 3, not {self.n_layers}."
            raise ValueError(msg)

    @property
    def full(self) -> int:
        """First epoch in which the MMD has its full weight: half way."""
        return self.epochs // 2

    @property
    def tail(self) -> int:
        """Number of epochs in which the learning rate falls."""
        return math.ceil(self.decay * self.epochs)

    def rate(self, epoch: int, end: int) -> float:
        """Learning rate in an epoch, counted from 0, if `end` is the number of epochs in all."""
        return self.learning_rate * (1 - 0.98 * _ramp(epoch, end - 1 - self.tail, end - 1) * (self.tail > 0))

    def schedule(self, epoch: int) -> Schedule:
        """Weights in an epoch, counted from 0.

        Of 100 epochs the MMD waits for 5 and rises until the 50th, the KL divergence waits for 10 and rises to the last,
        the temperature for 5 likewise. (The paper says that both end half way; the published code does this.)
        """
        wait, longer = round(0.05 * self.epochs), round(0.1 * self.epochs)
        last = self.epochs - 1
        return Schedule(
            self.mmd * _ramp(epoch, wait, self.full - 1),
            self.kl * _ramp(epoch, longer, last),
            1 + (self.temperature - 1) * _ramp(epoch, wait, last),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GraceConfig:
        """Config of :meth:`to_dict`, or of some choices.

        Raises
        ------
        ValueError
            If a name is unknown or a choice out of range.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            msg = f"Unknown choices {unknown}; there are {known}."
            raise ValueError(msg)
        return cls(**values)

    @classmethod
    def variant(cls, name: str, **choices: Any) -> GraceConfig:
        """Config of a named variant, with further choices.

        Raises
        ------
        ValueError
            If a name is unknown or a choice out of range.
        """
        if name not in VARIANTS:
            msg = f"variant must be one of {', '.join(VARIANTS)}, not {name!r}."
            raise ValueError(msg)
        return cls.from_dict(VARIANTS[name] | choices)

    def but(self, **choices: Any) -> GraceConfig:
        """Copy with other choices."""
        return replace(self, **choices)


def _ramp(epoch: int, start: int, end: int) -> float:
    """0 up to an epoch, 1 from another on, straight between."""
    if end <= start:
        return float(epoch >= end)
    return min(1.0, max(0.0, (epoch - start) / (end - start)))


_PUBLISHED: dict[str, Any] = {
    "form": "reference", "n_layers": 1, "intervention": "lookup", "start": "random", "kl": 2.0, "kernel_width": 1000.0, "learning_rate": 1e-3, "decay": 0.0, "pairing": "fixed",
    "keep": "last", "patience": None, "validation": 0.0, "evaluation_temperature": 1.0, "evaluation_noise": True,
}  # fmt: skip

#: Named choices. ``"reference"`` and ``"reference-cmvae"`` train and predict as the published code does, with the weights
#: of the losses published for the screen of Norman et al.
VARIANTS: dict[str, dict[str, Any]] = {
    "grace": {},
    "cmvae": {"encoder": "plain"},
    "multihot": {"encoder": "multihot"},
    "vgae": {"dag": False, "laplacian": 1e-4},
    "reference": _PUBLISHED,
    "reference-cmvae": _PUBLISHED | {"encoder": "plain", "mmd": 12.0, "kl": 4.0, "sparsity": 1e-3, "temperature": 6.0},
}
