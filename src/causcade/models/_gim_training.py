"""Fits of a GIM that can be interrupted, gone on with, and written to files without pickle."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from causcade.gimfit import Environments, GimConfig, GimFit, GimTrainer
from causcade.gimfit._trainer import HISTORY
from causcade.nn.gim import Gim

__all__ = ["Run", "Runs"]

logger = logging.getLogger(__name__)

_CHUNK = 20  # steps between copies of the state: what an interruption loses


@dataclass
class Run:
    """One fit.

    Attributes
    ----------
    seed
        Of its start, draws and held-out cells.
    planned, steps
        Steps it was planned for at first, and is now.
    state
        What :meth:`causcade.gimfit.GimTrainer.state_dict` gave last; None before the first step.
    device
        Where that was.
    alpha
        Sharpness of its edges then.
    """

    seed: int
    planned: int
    steps: int
    state: dict[str, Any] | None = None
    device: str = "cpu"
    alpha: float = 0.0

    @property
    def stopped(self) -> str:
        """Why it stopped; empty while it has not."""
        return "" if self.state is None else str(self.state["numbers"]["stopped"])

    @property
    def step(self) -> int:
        """Steps done."""
        return 0 if self.state is None else int(self.state["numbers"]["step"])


@dataclass
class Runs:
    """Several fits to the same cells.

    Attributes
    ----------
    config
        All choices; ``steps`` is that of a new fit, ``n_fits`` and ``minutes`` are not looked at.
    runs
        The fits.
    digest
        Of the cells and features they were fitted to.
    center, scale, features
        As in :class:`causcade.gimfit.GimFit`.
    """

    config: GimConfig
    runs: list[Run] = field(default_factory=list)
    digest: str = ""
    center: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scale: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    features: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    # --- training ---------------------------------------------------------------------------------------------------

    def read(self, data: Environments) -> None:
        """Take the cells, which must be the same each time.

        Raises
        ------
        ValueError
            If they are not those that the fits were begun with.
        """
        parts = (data.values, data.codes, data.features.astype(np.float32))
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
        if self.digest and digest != self.digest:
            msg = "The cells, doses or features are not those that training began with: make a new model for them."
            raise ValueError(msg)
        self.digest, self.features = digest, data.features.astype(np.float32)
        self.center, self.scale = np.zeros(data.n_genes), np.ones(data.n_genes)
        if self.config.standardise and self.config.mechanism != "zero_inflated":
            self.center, self.scale = data.scale()

    def train(
        self,
        data: Environments,
        seeds: list[int],
        *,
        max_steps: int | None,
        minutes: float | None,
        patience: int | None,
        device: str,
        progress_bar: bool,
    ) -> None:
        """Go on with what is not finished, or with all if all are; seeds beyond the fits that are there begin new ones."""
        self.read(data)
        planned = self.config.steps if max_steps is None else max_steps
        self.runs += [Run(seed, planned, planned) for seed in seeds[len(self.runs) :]]
        todo = [run for run in self.runs if run.stopped in ("", "time")]
        if not todo:
            todo = self.runs
            for run in todo:
                run.steps = run.step + planned
        end = None if minutes is None else time.monotonic() + 60 * minutes
        for k, run in enumerate(todo):
            share = None if end is None else max(end - time.monotonic(), 0.0) / (len(todo) - k) / 60
            logger.info("GIM fit %d of %d on %s", self.runs.index(run) + 1, len(self.runs), device)
            self._go_on(run, data, share, patience, device, progress_bar=progress_bar)

    def _go_on(
        self,
        run: Run,
        data: Environments,
        minutes: float | None,
        patience: int | None,
        device: str,
        *,
        progress_bar: bool,
    ) -> None:
        trainer = GimTrainer(data, self.config, seed=run.seed, device=device)
        if run.state is not None:
            state = run.state
            if run.device.partition(":")[0] != device.partition(":")[0]:  # generators of other devices differ
                state = state | {"rng": trainer.rng.get_state()}
            trainer.load_state_dict(state)
        spent = trainer.seconds / 60
        trainer.config = replace(
            self._schedule(run),
            minutes=None if minutes is None else spent + max(minutes, 1e-9),
            patience=patience,
        )
        trainer.stopped, trainer.waited = "", 0 if run.stopped == "converged" else trainer.waited
        with tqdm(total=run.steps, initial=trainer.step, disable=not progress_bar, desc="GIM") as bar:
            while trainer.step < run.steps and not trainer.stopped:
                before = trainer.step
                trainer.run(_CHUNK)
                bar.update(trainer.step - before)
                run.state, run.device, run.alpha = _copied(trainer.state_dict()), device, trainer.alpha

    def _schedule(self, run: Run) -> GimConfig:
        """Choices of a fit: what was planned first decides when schedules end, however long it goes on after them."""
        c, share = self.config, run.planned / run.steps
        if share == 1:
            return replace(c, steps=run.steps)
        return replace(
            c,
            steps=run.steps,
            target_anneal=c.target_anneal * share,
            alpha_anneal=None if c.alpha_anneal is None else c.alpha_anneal * share,
            cycle_anneal=None if c.cycle_anneal is None else c.cycle_anneal * share,
            learning_rate=c.learning_rate * c.learning_rate_end,
            learning_rate_end=1.0,
        )

    # --- results ----------------------------------------------------------------------------------------------------

    @property
    def used(self) -> list[Run]:
        """Fits that count: those that stopped; before any did, those that were begun."""
        return [r for r in self.runs if r.stopped] or [r for r in self.runs if r.step]

    def result(self) -> GimFit:
        """The fits that count, as one."""
        models = []
        for run in self.used:
            model = self._empty()
            model.load_state_dict(run.state["model"] if run.state is not None else {})
            models.append(model.eval())
        return GimFit(
            config=self.config,
            models=models,
            alphas=[r.alpha for r in self.used],
            features=self.features,
            center=self.center,
            scale=self.scale,
            history=[_columns(r) for r in self.used],
            stopped=[r.stopped for r in self.used],
        )

    def _empty(self) -> Gim:
        n, p = self.features.shape
        return Gim(self.config, len(self.center), p, n, rng=torch.Generator().manual_seed(0))

    # --- files ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All arrays, for a safetensors file."""
        out = {name: torch.as_tensor(getattr(self, name)) for name in ("center", "scale", "features")}
        for i, run in enumerate(self.runs):
            if run.state is None:
                continue
            out |= {f"fit{i}.model.{k}": v for k, v in run.state["model"].items()}
            for number, moments in run.state["optimiser"]["state"].items():
                out |= {f"fit{i}.adam.{number}.{k}": v for k, v in moments.items()}
            out[f"fit{i}.rng"] = run.state["rng"]
        return {name: value.contiguous() for name, value in out.items()}

    def plain(self) -> dict[str, Any]:
        """All else, in values that JSON can hold."""
        runs = []
        for run in self.runs:
            state = run.state or {}
            groups = state["optimiser"]["param_groups"] if state else []
            told = {name: getattr(run, name) for name in ("seed", "planned", "steps", "device", "alpha")}
            runs.append(told | {"groups": groups} | {name: state.get(name) for name in ("numbers", "history")})
        return {"config": self.config.to_dict(), "digest": self.digest, "runs": runs}

    @classmethod
    def rebuilt(cls, plain: dict[str, Any], tensors: dict[str, Tensor]) -> Runs:
        """Read what :meth:`plain` and :meth:`tensors` gave."""
        runs = []
        for i, told in enumerate(plain["runs"]):
            run = Run(told["seed"], told["planned"], told["steps"], device=told["device"], alpha=told["alpha"])
            mine = {k.removeprefix(f"fit{i}."): v for k, v in tensors.items() if k.startswith(f"fit{i}.")}
            if mine:
                adam: dict[int, dict[str, Tensor]] = {}
                for key, value in mine.items():
                    if key.startswith("adam."):
                        _, number, name = key.split(".")
                        adam.setdefault(int(number), {})[name] = value
                run.state = {
                    "model": {k.removeprefix("model."): v for k, v in mine.items() if k.startswith("model.")},
                    "optimiser": {"state": adam, "param_groups": told["groups"]},
                    "rng": mine["rng"],
                    **{name: told[name] for name in ("numbers", "history")},
                }
            runs.append(run)
        center, scale, features = (tensors[name].numpy() for name in ("center", "scale", "features"))
        return cls(GimConfig.from_dict(plain["config"]), runs, plain["digest"], center, scale, features)


def _columns(run: Run) -> dict[str, NDArray[np.float64]]:
    rows = np.array(run.state["history"] if run.state is not None else [], dtype=np.float64).reshape(-1, len(HISTORY))
    return dict(zip(HISTORY, rows.T, strict=True))


def _copied(state: Any) -> Any:
    """The same on the CPU, sharing nothing with what goes on changing."""
    if isinstance(state, Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else copy.copy(state)
