"""Training of one model, and of several for a fit."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from causcade._checks import generator
from causcade._device import pick_device
from causcade._halves import Halves
from causcade.gimfit._environments import Environments
from causcade.gimfit._result import GimFit
from causcade.gimfit._start import start_from_search
from causcade.nn.gim import Cells, Gim, GimConfig
from causcade.nn.relax import annealed, cosine_ramp

__all__ = ["HISTORY", "GimTrainer", "fit"]

#: Columns of the history.
HISTORY = ("step", "soft", "hard", "prior", "edges", "targets", "cycles", "multiplier", "weight", "heldout")


class GimTrainer:
    """State of one fit: it can be stopped, stored and gone on with.

    Parameters
    ----------
    data
        Cells by environment.
    config
        All choices; ``n_fits`` is not looked at.
    seed
        Decides the start, the draws and the cells held out.
    device
        Name of the torch device.

    Attributes
    ----------
    model
        The model, in units of the observational cells if ``standardise``.
    history
        Rows of step, soft and hard log likelihood, prior, expected edges and targets, cycle measure, its multiplier
        and weight, and held-out log likelihood per cell (NaN before the first look).
    stopped
        ``"steps"``, ``"time"``, ``"converged"``, or empty while it runs.
    """

    def __init__(self, data: Environments, config: GimConfig, *, seed: int = 0, device: str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        start = torch.Generator().manual_seed(seed)
        self.model = Gim(config, data.n_genes, data.n_features, len(data), rng=start).to(self.device)
        self.rng = torch.Generator(self.device).manual_seed(seed + 1)
        fitted = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(fitted, lr=config.learning_rate, fused=True)
        self.seed, self.begun = seed, config.graph != "searched"
        self._read(data, start)
        self.step, self.multiplier, self.weight = 0, 0.0, config.cycle_start
        self.heldout, self.best, self.waited = math.nan, -math.inf, 0
        self.seconds, self.stopped = 0.0, ""
        self.history: list[list[float]] = []
        self.room = Halves("a step of GIM", "Take fewer genes, or lower batch_size (which changes the fit).")

    def _read(self, data: Environments, start: torch.Generator) -> None:
        values = data.values.astype(np.float64)
        if self.config.mechanism == "zero_inflated":
            if values.min() < 0:
                msg = f"zero-inflated log-normal values must not be negative; the least is {values.min():g}. Use log1p counts."
                raise ValueError(msg)
        elif self.config.standardise:
            mean, sd = data.scale()
            values = (values - mean) / sd
        self.features = torch.as_tensor(data.features, dtype=torch.float32, device=self.device)
        held = min(self.config.n_holdout, len(values) // 5)
        order = torch.randperm(len(values), generator=start)
        rows = torch.as_tensor(values, dtype=torch.float32)
        codes = torch.as_tensor(data.codes, dtype=torch.int64)
        self.values, self.codes = (x[order[held:].sort().values].to(self.device) for x in (rows, codes))
        out, of = (x[order[:held]].to(self.device) for x in (rows, codes))
        n = len(data)
        self.all = self.model.summarise(self.values, self.codes, n) if self.model.moments else None
        self.out = self.model.summarise(out, of, n) if held else None
        self.n_out = held

    def _cells(self) -> Cells:
        """All cells as moments, or a random batch."""
        if self.all is not None:
            return self.all
        n, size = len(self.values), self.config.batch_size
        if size >= n:
            return self.model.summarise(self.values, self.codes, len(self.features))
        rows = torch.randperm(n, generator=self.rng, device=self.device)[:size]
        return self.model.summarise(self.values[rows], self.codes[rows], len(self.features), weight=n / size)

    @property
    def alpha(self) -> float:
        """Sharpness of edges now; never 0, so that every score has a gradient."""
        c = self.config
        if c.graph == "searched":
            return c.alpha_cap
        slope = c.alpha_slope if c.alpha_anneal is None else c.alpha_cap / max(1.0, c.alpha_anneal * c.steps)
        return annealed(self.step + 1, slope, c.alpha_cap)

    @property
    def target_cost(self) -> float:
        """Cost of an expected target now."""
        c = self.config
        risen = cosine_ramp(self.step, round(c.target_anneal * c.steps))
        if c.target_start is not None:
            return c.target_start + risen * (c.sparsity_targets - c.target_start)
        return c.sparsity_targets * {"up": risen, "down": 1 - risen, "constant": 1.0}[c.target_schedule]

    @property
    def penalty(self) -> tuple[float, float]:
        """Multiplier of the cycle measure and weight of its square now."""
        c = self.config
        if c.cycle_anneal is None:
            return self.multiplier, self.weight
        grown = (c.cycle_end / c.cycle_start) ** min(1.0, self.step / (c.cycle_anneal * c.steps))
        return len(self.values) * c.cycle_start * grown, 0.0

    def _slow_down(self) -> None:
        c = self.config
        rate = c.learning_rate * (1 - (1 - c.learning_rate_end) * cosine_ramp(self.step, c.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def train_step(self) -> None:
        """One step of Adam, and every ``check_every`` steps a look at the held-out cells.

        Raises
        ------
        RuntimeError
            If the objective is no longer finite.
        """
        if not self.begun:
            start_from_search(self.model, self.values, self.codes, self.features, seed=self.seed)
            self.begun = True
        terms = self.model.terms(self._cells(), self.features, alpha=self.alpha, rng=self.rng)
        loss = -terms.objective(self.config.sparsity_graph, self.target_cost, *self.penalty)
        # nats per cell: of a size that Adam's epsilon never matters for
        self._slow_down()
        self.optimiser.zero_grad()
        (loss / len(self.values)).backward()
        self.optimiser.step()
        self.step += 1
        if self.step % self.config.log_every == 0 or self.step == 1:
            self._log(terms.soft, terms.hard, terms.prior, terms.edges, terms.targets, terms.cycles.mean())
        if self.step % self.config.check_every == 0:
            if not math.isfinite(float(loss.detach())):
                msg = f"The objective became {float(loss.detach())} at step {self.step}; lower learning_rate, or scale the data."
                raise RuntimeError(msg)
            self._check(float(terms.cycles.detach().mean()))
        if not self.stopped and self.step >= self.config.steps:
            self.stopped = "steps"

    def _log(self, *terms: Tensor) -> None:
        row = torch.stack([t.detach() for t in terms]).double().cpu().tolist()
        self.history.append([float(self.step), *row, *self.penalty, self.heldout])

    def _check(self, cycles: float) -> None:
        """Raise the penalty of cycles if converged; stop if nothing gets better any more."""
        c = self.config
        before = self.heldout
        if self.out is not None:
            score = self.model.score(self.out, self.features, alpha=self.alpha)
            self.heldout = float(score) / self.n_out
        converged = self.out is None or self.heldout < before + c.tolerance
        if c.cycle_anneal is None and converged and cycles > c.cycle_tolerance:
            self.multiplier += self.weight * cycles
            self.weight *= c.cycle_growth
        settled = self.step >= c.target_anneal * c.steps and self.alpha >= c.alpha_cap and cycles <= c.cycle_tolerance
        if not settled or self.out is None:
            return
        better = self.heldout > self.best + c.tolerance
        self.best, self.waited = max(self.best, self.heldout), 0 if better else self.waited + 1
        if c.patience is not None and self.waited >= c.patience:
            self.stopped = "converged"

    def run(self, steps: int | None = None, *, progress_bar: bool = False) -> None:
        """Train until the fit stops, or for so many steps.

        Parameters
        ----------
        steps
            At most so many in this call.
        progress_bar
            Show one.
        """
        end = self.config.steps if steps is None else min(self.step + steps, self.config.steps)
        begin, before = time.monotonic(), self.seconds
        with tqdm(total=self.config.steps, initial=self.step, disable=not progress_bar, desc="GIM") as bar:
            while self.step < end and not self.stopped:
                self.room(lambda _: self.train_step(), 1)
                bar.update()
                self.seconds = before + time.monotonic() - begin
                if self.config.minutes is not None and self.seconds >= 60 * self.config.minutes and not self.stopped:
                    self.stopped = "time"

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors, numbers and lists of numbers."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": self.rng.get_state(),
            "numbers": {name: getattr(self, name) for name in _NUMBERS},
            "history": [list(row) for row in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; data, configuration and seed must be those of the trainer that wrote it."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.set_state(state["rng"].cpu())
        for name in _NUMBERS:
            setattr(self, name, state["numbers"].get(name, True))  # "begun" is newer than some states
        self.history = [list(row) for row in state["history"]]


_NUMBERS = ("step", "multiplier", "weight", "heldout", "best", "waited", "seconds", "stopped", "begun")


def fit(
    data: Environments,
    config: GimConfig | None = None,
    *,
    rng: int | np.random.Generator | None = None,
    progress_bar: bool = False,
    accelerator: str = "auto",
) -> GimFit:
    """Fit a model, or several from different starts.

    Parameters
    ----------
    data
        Cells by environment.
    config
        All choices; None: the defaults.
    rng
        Decides starts, draws and held-out cells. On the CPU the same number gives the same fit.
    progress_bar
        Show one for each fit.
    accelerator
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    The fit.

    Raises
    ------
    ValueError
        If there is only one environment, or zero-inflated values are negative.
    RuntimeError
        If the objective is no longer finite.
    """
    config = config or GimConfig()
    if len(data) < 2:
        msg = "data has one environment only; a fit needs the observational one and at least one perturbation."
        raise ValueError(msg)
    device = pick_device(accelerator)
    seeds = generator(rng).integers(2**31 - 2, size=config.n_fits).tolist()
    trainers = []
    for seed in seeds:
        trainer = GimTrainer(data, config, seed=seed, device=device)
        trainer.run(progress_bar=progress_bar)
        trainers.append(trainer)
    mean, sd = np.zeros(data.n_genes), np.ones(data.n_genes)
    if config.standardise and config.mechanism != "zero_inflated":
        mean, sd = data.scale()
    history = [{n: np.array(c) for n, c in zip(HISTORY, zip(*t.history, strict=True), strict=True)} for t in trainers]
    return GimFit(
        config=config,
        models=[t.model.cpu().eval() for t in trainers],
        alphas=[t.alpha for t in trainers],
        features=data.features.astype(np.float32),
        center=mean,
        scale=sd,
        history=history,
        stopped=[t.stopped for t in trainers],
    )
