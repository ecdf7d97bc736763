"""One Lightning plan: a step is dealt to the processes that train together, and into parts where memory runs out."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, distributed

from causcade._files import writing
from causcade._halves import Halves

if TYPE_CHECKING:
    from causcade.models._module import NetModule

__all__ = ["Plan"]

_ADVICE = (
    "Lower the number of genes that are trained on together (subset, or genes of the prior) or the network's sizes."
)


class _Known(torch.autograd.Function):
    """A loss whose gradient is known: backward hands it over, so that DDP averages it and Lightning clips it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        return None, None, *(scale * g for g in ctx.gradients)


class Plan(lightning.LightningModule):
    """AdamW with a linear warm-up and a linear cool-down; the loss is the module's.

    Parameters
    ----------
    module
        The module: it gives a ``LossOutput``, and divides a batch into parts whose losses add up.
    lr, weight_decay
        Of AdamW; norms and biases are not decayed.
    warmup, cooldown
        Share of the steps.

    Attributes
    ----------
    n_steps
        Steps that are done.
    snapshot
        File that gets state and losses after every epoch; None: none does.
    """

    def __init__(
        self,
        module: NetModule,
        *,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        warmup: float = 0.05,
        cooldown: float = 0.25,
    ) -> None:
        super().__init__()
        self.module, self.lr, self.weight_decay = module, lr, weight_decay
        self.warmup, self.cooldown = warmup, cooldown
        self.n_steps = 0
        self.snapshot: Path | None = None
        self._halves = {name: Halves(f"a step of {name}", _ADVICE) for name in ("training", "validation")}

    def get_extra_state(self) -> dict[str, Any]:
        """What the weights do not say: Lightning brings both from the processes that trained."""
        return {"n_steps": self.n_steps, "module": self.module.state()}

    def set_extra_state(self, state: Any) -> None:
        """Go on from there."""
        self.n_steps = state["n_steps"]
        self.module.set_state(state["module"])

    def on_train_start(self) -> None:
        """Die of SIGTERM where several train: Lightning's handler waits for the others, which wait for this one."""
        if self.snapshot is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_epoch_start(self) -> None:
        """Keep the epochs that are done, for the case that this one is not."""
        if self.snapshot is not None and self.n_steps and self.trainer.is_global_zero:
            history = getattr(self.logger, "history", {})  # of scvi-tools; another logger keeps its own
            losses = {name: table[name].astype(float).tolist() for name, table in history.items()}
            with writing(self.snapshot) as file:  # the waiting process may read it at any time
                torch.save({"plan": self.state_dict(), "losses": losses}, file)

    def on_train_batch_end(self, *_: Any) -> None:
        """Count the steps that are done."""
        self.n_steps += 1

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Loss of a batch; its gradient is worked out here, in parts if need be."""
        rows, n_processes = self._mine(batch)
        loss, penalty, gradients = self._halves["training"](lambda n: self._learn(batch, rows, n), max(1, len(rows)))
        whole, penalty = _sum(torch.stack([loss, penalty]))
        if not bool(torch.isfinite(whole)):
            msg = f"The training loss became {float(whole)} at step {self.global_step}. Lower lr (now {self.lr:g})."
            raise RuntimeError(msg)
        self._log("train_loss", whole, batch)
        self.module.after_step(float(penalty))
        # several processes average their gradients, which are to be added
        used = [(p, g) for p, g in zip(self._weights(), gradients, strict=True) if g is not None]
        known: Tensor = _Known.apply(loss, [g for _, g in used], *(p for p, _ in used))
        return known * n_processes

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Log the loss of a validation batch."""
        rows, _ = self._mine(batch)
        loss = self._halves["validation"](lambda n: self._look(batch, rows, n), max(1, len(rows)))
        self._log("validation_loss", _sum(loss), batch)

    def _log(self, name: str, loss: Tensor, batch: dict[str, Any]) -> None:
        n = self.module.n_items(batch)
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=n, sync_dist=True)

    def _mine(self, batch: dict[str, Any]) -> tuple[range, int]:
        """Items of a batch that this process works on, and the number of processes."""
        there = distributed.is_available() and distributed.is_initialized()
        rank, n = (distributed.get_rank(), distributed.get_world_size()) if there else (0, 1)
        return range(self.module.n_items(batch))[rank::n], n

    def _parts(self, batch: dict[str, Any], rows: range, n_parts: int) -> list[dict[str, Any]]:
        if len(rows) == self.module.n_items(batch) and n_parts == 1:
            return [batch]
        if not rows:  # fewer items than processes; the others still wait for a gradient of the same parameters
            return [self.module.part(batch, range(1), counts=False)]
        return [self.module.part(batch, rows[i::n_parts]) for i in range(n_parts)]

    def _weights(self) -> list[torch.nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def _learn(self, batch: dict[str, Any], rows: range, n_parts: int) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Loss, penalty and gradient of some items."""
        scaler = getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())  # half precision: small numbers must not vanish
        parameters = self._weights()
        loss, penalty = torch.zeros((2,), device=self.device)
        total: list[Tensor | None] = [None] * len(parameters)
        for part in self._parts(batch, rows, n_parts):
            *_, out = self.module(part)
            found = torch.autograd.grad(out.loss * scale, parameters, allow_unused=True)
            loss = loss + out.loss.detach()
            penalty = penalty + out.extra_metrics.get("penalty", 0.0)
            total = [_add(a, None if b is None else b / scale) for a, b in zip(total, found, strict=True)]
        return loss, penalty, total

    @torch.no_grad()
    def _look(self, batch: dict[str, Any], rows: range, n_parts: int) -> Tensor:
        losses = [self.module(part)[-1].loss for part in self._parts(batch, rows, n_parts)]
        return torch.stack(losses).sum()

    def rate(self, step: int, steps: float) -> float:
        """Learning rate of a step as a share of ``lr``; ``steps`` may be infinite (no cool-down)."""
        warm = min(1.0, (step + 1) / max(1.0, self.warmup * steps)) if math.isfinite(steps) else 1.0
        cool = (steps - step) / max(1.0, self.cooldown * steps) if math.isfinite(steps) else 1.0
        return min(warm, max(cool, 0.0), 1.0)

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser and schedule, stepped once per batch."""
        parameters = list(self.module.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, lr=self.lr)
        steps = float(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.rate(step, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _sum(value: Tensor) -> Tensor:
    """Sum over the processes that train together."""
    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
    return value
