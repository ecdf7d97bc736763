"""The training loop: pool of simulated screens, steps, averaged weights, checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import time
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from causcade._files import put, put_pair
from causcade.pretrain.recipe import Recipe, build_network
from causcade.pretrain.tasks import build_task

__all__ = ["Trainer", "run"]

logger = logging.getLogger(__name__)


class Trainer:
    """State of a run: network, averaged weights, optimiser, step."""

    def __init__(self, recipe: Recipe, device: str, screens: Path | None = None, *, fresh: bool = True) -> None:
        self.recipe, self.device = recipe, torch.device(device)
        self.task = build_task(recipe, self.device, screens)
        torch.manual_seed(recipe.seed)
        self.net = build_network(recipe).to(self.device)
        self.start: dict[str, Any] = {}
        if recipe.start and fresh:  # a checkpoint will be loaded otherwise
            state, self.start = _start(recipe.start)
            self.net.load_state_dict(_widened(state, self.net.state_dict()))
        self.average = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        composing = [p.requires_grad_() for p in _composition(self.net)]
        mine = {id(p) for p in composing}
        others = [p for p in self.net.parameters() if id(p) not in mine]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
        ]
        last = {"params": composing, "weight_decay": recipe.weight_decay}
        self.optimiser = torch.optim.AdamW([*groups, *([last] if composing else [])], lr=recipe.lr)
        self.step, self.seconds, self.composing = 0, 0.0, False
        self.log: list[list[float]] = []
        self.recent: list[float] = []  # losses since the last line of the log
        self.validation: list[dict[str, Any]] = []
        self.stages: list[list[Any]] = [[recipe.digest(), 0]]

    def rate(self) -> float:
        """Learning rate of the step: warm-up, constant, linear cool-down; once more, twice as high, for the composition."""
        r, k = self.recipe, self.step - self.recipe.steps
        if r.compose_steps and k >= 0:
            return 2 * r.lr * min(1.0, (k + 1) / 20, max(0.0, 2 * (1 - k / r.compose_steps)))
        return r.lr * min(1.0, (self.step + 1) / max(r.warmup, 1), max(0.0, (r.steps - self.step) / max(r.cooldown, 1)))

    def train_step(self) -> float:
        """One optimiser step; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        if self.recipe.compose_steps and self.step >= self.recipe.steps and not self.composing:
            self.net.load_state_dict(self.average)  # it composes the scores of what will be released
            self.composing = True
        loss = self.task.loss(self.net, self.step)
        value = float(loss.detach())
        if not math.isfinite(value):
            msg = f"The loss became {value} at step {self.step}; the last checkpoint is intact, lower `lr`."
            raise RuntimeError(msg)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        self.recent.append(value)
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, weight in self.net.state_dict().items():
            self.average[name].lerp_(weight, 1 - keep)
        return value

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the weights; a reader sees the old file or the new one, never half."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "net": self.net.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "recipe": self.recipe.digest(),
            "stages": self.stages,
            "start": self.start,
            "composing": self.composing,
            "task": self.task.state_dict(),
            "log": self.log,
            "recent": self.recent,
            "validation": self.validation,
        }
        whole = io.BytesIO()
        torch.save(state, whole)
        put(folder / "checkpoint.pt", whole.getvalue())
        data = save({k: v.cpu().contiguous() for k, v in self.average.items()})
        told = self.config() | {"sha256": hashlib.sha256(data).hexdigest()}
        put_pair(folder, data, json.dumps(told, indent=1) + "\n")
        put(folder / "log.json", json.dumps(self.log))
        if self.validation or (folder / "validation.json").exists():  # one of an earlier run would belie this one
            put(folder / "validation.json", json.dumps(self.validation))

    def validate(self, folder: Path, n_screens: int = 4) -> dict[str, float]:
        """Score the averaged weights and the baselines on every held-out kind, and keep all scores.

        Training goes on as if nothing had been scored: nothing is drawn from its generators.

        Parameters
        ----------
        folder
            Where :meth:`save` has just written the weights.
        n_screens
            As of :func:`causcade.heldout.score_weights`; the default is that of model cards.

        Returns
        -------
        ``kind -> score`` of the weights.
        """
        from causcade.heldout import MEASURES, score_weights  # needs scipy, which a bare training machine may lack
        from causcade.pretrained import load

        with torch.random.fork_rng(devices=[]):  # scored on the CPU
            weights = load(folder.resolve())  # a relative path may be a released name
            found = score_weights(weights, n_screens)
        metric, word, _ = MEASURES[weights.model]
        scores = {kind: {name: row[metric] for name, row in methods.items()} for kind, methods in found.items()}
        entry = {"step": self.step, "metric": word, "model": weights.model, "scores": scores}
        self.validation = [*(old for old in self.validation if old["step"] != self.step), entry]
        return {kind: row[weights.model] for kind, row in scores.items()}

    def due(self, validate: int) -> bool:
        """Whether scores of this step are wanted (every ``validate`` steps and after the last; 0: never) and lacking."""
        wanted = validate and self.step and (self.step % validate == 0 or self.step == self.recipe.all_steps)
        return bool(wanted) and self.step not in [entry["step"] for entry in self.validation]

    def note(self) -> list[float]:
        """Add a line to the log: step, seconds, mean loss since the line before."""
        self.log.append([self.step, round(self.seconds), sum(self.recent) / len(self.recent)])
        self.recent = []
        return self.log[-1]

    def config(self) -> dict[str, Any]:
        """What a reader needs to rebuild the network, and how it came about."""
        r = self.recipe
        return {
            "model": r.model,
            "use": r.use,
            "network": r.network,
            "sizes": self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            "subset": r.subset,
            "cells": r.cells,
            "recipe": asdict(r),
            "recipe_hash": r.digest(),
            "stages": self.stages,
            "start": self.start,
            "steps": self.step,
            "seconds": round(self.seconds),
            "device": str(self.device),
        }

    def _groups(self, state: dict[str, Any]) -> dict[str, Any]:
        """State of the optimiser, with a new group for a composition that the checkpoint has not, or has in other sizes."""
        saved, now = state["optimiser"], self.optimiser.state_dict()["param_groups"]
        if _takes(state["net"], self.net.state_dict()):
            return dict(saved)
        kept = {place for group in saved["param_groups"][:2] for place in group["params"]}
        moments = {place: value for place, value in saved["state"].items() if place in kept}
        return {"state": moments, "param_groups": [*saved["param_groups"][:2], *now[2:]]}

    def load(self, folder: Path, *, adopt: bool = False) -> None:
        """Continue from a checkpoint; ``adopt`` allows a changed recipe (schedule only, or a fine-tuning start)."""
        state = torch.load(folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.digest() and not adopt:
            msg = f"{folder} was made by recipe {state['recipe']}, not {self.recipe.digest()}; use another --out, or --adopt."
            raise ValueError(msg)
        self.net.load_state_dict(_fitted(state["net"], self.net.state_dict()))
        self.average = _fitted(state["average"], self.average)
        self.optimiser.load_state_dict(self._groups(state))
        self.composing = state.get("composing", False)
        self.step, self.seconds = state["step"], state["seconds"]
        self.stages, self.start = state["stages"], state.get("start", {})
        self.task.load_state_dict(state.get("task", {}))
        if state["recipe"] != self.recipe.digest():
            self.stages = [*self.stages, [self.recipe.digest(), self.step]]
        self.log, self.recent = state.get("log", []), state.get("recent", [])
        self.validation = state.get("validation", [])
        if "log" not in state and (folder / "log.json").exists():
            self.log = json.loads((folder / "log.json").read_text())


def _start(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a released name or a folder, and what they are. ``NAME@HASH`` says which: a later release may have the name."""
    wanted, _, digest = name.partition("@")
    released = Path(str(resources.files("causcade"))) / "weights" / wanted
    folder = released if released.is_dir() else Path(wanted)
    if not (folder / "model.safetensors").is_file():
        known = sorted(p.name for p in released.parent.iterdir() if p.is_dir())
        msg = f"No weights to start from at {wanted!r}: give a folder with model.safetensors, or one of {known}."
        raise ValueError(msg)
    config = json.loads((folder / "config.json").read_text())
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if sha256 != config["sha256"] or not sha256.startswith(digest):
        msg = (
            f"{folder.name} holds weights {sha256[:12]}, but its config.json says {config['sha256'][:12]} and the recipe "
            f"{digest or 'any'}. Weights that a later release replaced are in the history of the repository: give their "
            "folder, as FOLDER@HASH."
        )
        raise ValueError(msg)
    return load_file(folder / "model.safetensors"), {"name": folder.name, "sha256": sha256, "steps": config["steps"]}


def _composition(net: nn.Module) -> list[nn.Parameter]:
    """Parameters of the composition of a pair network, where it has one."""
    found = getattr(net, "compose", None)
    return [] if found is None else list(found.parameters())


def _fitted(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the composition, a part of its own, from ``wanted`` where the state has none, or one of other sizes."""
    if _takes(state, wanted):
        return dict(state)
    rest = {name: value for name, value in state.items() if not name.startswith("compose.")}
    return rest | {name: value for name, value in wanted.items() if name.startswith("compose.")}


def _takes(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    """Whether both have the same composition, or none."""
    mine, theirs = (
        {name: value.shape for name, value in s.items() if name.startswith("compose.")} for s in (state, wanted)
    )
    return mine == theirs


def _widened(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give inputs that were added since (at the end) a weight of zero: the network answers as it did."""
    out = _fitted(state, wanted)
    for name, value in wanted.items():
        more = value.shape[-1] - out[name].shape[-1] if value.ndim == 2 and name in out else 0
        if more > 0:
            out[name] = functional.pad(out[name], (0, more))
    return out


def run(
    recipe: Recipe,
    out: Path,
    *,
    minutes: float,
    device: str,
    resume: bool,
    adopt: bool,
    every: int,
    screens: Path | None = None,
    validate: int = 0,
) -> Trainer:
    """Train until the recipe's steps or the minutes are used up, saving every ``every`` steps.

    Every ``validate`` steps (0: never), and after the last one, held-out kinds are scored.

    Raises
    ------
    ValueError
        If `out` holds a run and `resume` is false, or the run of another recipe and `adopt` is false; if `validate` is
        negative.
    """
    if validate < 0:
        msg = f"validate is a number of steps, 0 for none, not {validate}."
        raise ValueError(msg)
    if validate:
        _check_scoring()
    there = (out / "checkpoint.pt").exists()
    if there and not resume:
        msg = f"{out} already holds the checkpoint of a run; pass --resume to continue or another --out."
        raise ValueError(msg)
    trainer = Trainer(recipe, device, screens, fresh=not there)
    if there:
        trainer.load(out, adopt=adopt)
    logger.info("%s: step %d of %d on %s", recipe.name, trainer.step, recipe.all_steps, device)
    if trainer.due(validate):  # the run was stopped while this was scored, or nothing was to be scored then
        _score(trainer, out)
    start = time.monotonic()
    while trainer.step < recipe.all_steps and time.monotonic() - start < 60 * minutes:
        before = time.monotonic()
        trainer.train_step()
        trainer.seconds += time.monotonic() - before
        if trainer.step % every == 0 or trainer.step in (recipe.steps, recipe.all_steps):
            logger.info("step %d  %.0f s  loss %.4f", *trainer.note())
            trainer.save(out)
        if trainer.due(validate):
            _score(trainer, out)
    trainer.save(out)
    return trainer


def _check_scoring() -> None:
    try:
        import causcade.heldout  # noqa: F401
    except ImportError as error:
        msg = (
            f"Scores on held-out kinds need {error.name}, which is not installed: install it, or leave out --validate."
        )
        raise RuntimeError(msg) from error


def _score(trainer: Trainer, out: Path) -> None:
    trainer.save(out)
    scores = ", ".join(f"{kind} {score:.3g}" for kind, score in trainer.validate(out).items())
    logger.info("step %d  held out: %s", trainer.step, scores)
    trainer.save(out)
