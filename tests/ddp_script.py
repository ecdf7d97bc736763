"""Run by test_several: trains in one process and in two, which fork, and prints what came out as JSON."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import Any

import torch

import causcade as cc
from causcade.models._plan import Plan
from causcade.simulate.domains import GraphPrior

GRAPHS = GraphPrior(domains={"linear": 1.0}, genes={"10": 0.5, "30": 0.5}, cells=(50, 50))
SIZES: dict[str, Any] = {
    "TCD": {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "paths": 2},
    "CDN": {"width": 8, "heads": 1, "hidden": 8, "paths": 0, "codes": 3},
    "AVICI": {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "triads": 1},
}
# odd batches, and graphs of 30 genes that come alone: one of two processes has less to do, or nothing
HOW: dict[str, Any] = {
    "TCD": {"episodes_per_epoch": 2, "batch_size": 3},
    "CDN": {"steps_per_epoch": 2, "batch_size": 5},
    "AVICI": {"steps_per_epoch": 2, "batch_size": 3, "prior": GRAPHS, "acyclic": {"lr": 0.5, "every": 1, "rate": 1.0}},
}
TWO: dict[str, Any] = {"devices": [0, 1], "strategy": "ddp_fork"}


def new(name: str) -> Any:
    adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=8, rng=0)
    kind = getattr(cc.models, name)
    kind.setup_anndata(adata)
    return kind(adata, **SIZES[name])


def train(model: Any, epochs: int = 2, **how: Any) -> None:
    fixed: dict[str, Any] = {"lr": 1e-2, "n_validation": 1, "accelerator": "cpu", "progress_bar": False}
    model.train(epochs, **(fixed | HOW[type(model).__name__] | how))


def told(model: Any) -> dict[str, Any]:
    return {
        "losses": {k: model.history[k].to_numpy(float).ravel().tolist() for k in ("train_loss", "validation_loss")},
        "steps": model.episodes_ if hasattr(model, "episodes_") else model.steps_,
        "dual": getattr(model, "dual_", None),
        "size": float(sum(p.detach().abs().sum() for p in model.net.parameters())),
        "trained": model.is_trained,
    }


def curves(name: str) -> list[dict[str, Any]]:
    """One process and two; a second call goes on (of one model: the way back is the same for all)."""
    out = []
    for how in (TWO, {}):
        model = new(name)
        train(model, **how)
        if name == "AVICI":
            train(model, 1, **how)
        out.append(told(model))
    return out


def stopped() -> dict[str, Any]:
    """A rate that is far too high, and early stopping: no better after the first epoch."""
    model = new("TCD")
    train(model, 5, lr=30.0, early_stopping=True, early_stopping_patience=1, gradient_clip_val=None, **TWO)
    return told(model)


def broken() -> str:
    real = Plan._learn
    Plan._learn = lambda self, *a: (torch.tensor(float("nan")), *real(self, *a)[1:])  # type: ignore[method-assign]
    try:
        train(new("TCD"), **TWO)
    except RuntimeError as error:
        return str(error)
    finally:
        Plan._learn = real  # type: ignore[method-assign]
    return ""


def interrupted() -> dict[str, Any]:
    """Ctrl-C in the third epoch, heard by this process alone, as in a notebook."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    real = Plan.training_step

    def step(self: Plan, batch: Any, number: int) -> Any:
        if self.n_steps == 5 and self.global_rank == 0:
            os.kill(os.getppid(), signal.SIGINT)
        return real(self, batch, number)

    Plan.training_step = step  # type: ignore[method-assign]
    model, heard = new("TCD"), False
    try:
        train(model, 100, **TWO)
    except KeyboardInterrupt:
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        Plan.training_step = real  # type: ignore[method-assign]
    return told(model) | {"heard": heard}


def ended(how: signal.Signals) -> dict[str, Any]:
    """One of the processes is ended from outside in the third epoch."""
    real = Plan.training_step

    def step(self: Plan, batch: Any, number: int) -> Any:
        if self.n_steps == 5 and self.global_rank == 1:
            os.kill(os.getpid(), how)
        return real(self, batch, number)

    Plan.training_step = step  # type: ignore[method-assign]
    model = new("TCD")
    try:
        train(model, 100, **TWO)
    except RuntimeError as error:
        return told(model) | {"says": str(error)}
    finally:
        Plan.training_step = real  # type: ignore[method-assign]
    return {}


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: curves(name) for name in SIZES}
    found |= {"stopped": stopped(), "broken": broken(), "interrupted": interrupted()}
    found |= {how.name: ended(how) for how in (signal.SIGKILL, signal.SIGTERM)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")
