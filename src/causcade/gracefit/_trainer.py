"""Training of GraCE-VAEs: schedules, validation on held-out cells, early stopping."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from causcade._checks import at_least, generator
from causcade._device import pick_device
from causcade._halves import Halves
from causcade.gracefit._cells import PairedCells, Step, hold_out, steps
from causcade.gracefit._start import start_of
from causcade.nn._gracevae_interventions import TableInterventions
from causcade.nn.gracevae import GraceConfig, GraceVAE
from causcade.nn.message_passing import GeneGraph
from causcade.nn.mmd import mean_distance_width, mmd2

__all__ = ["GraceTrainer", "Trained", "fit_grace"]

logger = logging.getLogger(__name__)

_MOST = 64  # held-out cells of a regime that are looked at


@dataclass(frozen=True)
class Trained:
    """A fit.

    Attributes
    ----------
    net
        The model, on the CPU.
    temperature
        Sharpness of assignments for predictions.
    history
        Per column one number per epoch: ``mmd``, ``mse``, ``kl``, ``sparsity``, ``loss`` of training, and
        ``validation_mmd``, ``validation_mse``, ``validation_loss`` (NaN without held-out cells).
    epoch
        The epoch, from 0, whose weights these are.
    stopped
        ``"epochs"`` or ``"converged"``.
    """

    net: GraceVAE
    temperature: float
    history: dict[str, list[float]]
    epoch: int
    stopped: str


class GraceTrainer:
    """State of one fit.

    Parameters
    ----------
    data
        Cells.
    config
        All choices.
    graph
        Network of genes and pathways, or None.
    targets
        ``(n_perturbations,)`` gene of each perturbation, -1 = not measured; for intervention encoders with a graph.
    seed
        Decides the start, the cells held out, the batches and the noise.
    device
        Name of the torch device.

    Raises
    ------
    ValueError
        If no regime has two cells to learn from.
    """

    def __init__(
        self,
        data: PairedCells,
        config: GraceConfig,
        *,
        graph: GeneGraph | None = None,
        targets: Sequence[int] | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if config.kernel_width is None:
            config = config.but(kernel_width=_typical_distance(data))
        self.data, self.config, self.device = data, config, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = GraceVAE(
                config, data.n_genes, data.n_perturbations, graph=graph, targets=targets, n_embedding=data.n_embedding
            )
        self.net = net.to(self.device)
        self.random = np.random.default_rng(seed)
        self.noise = torch.Generator(self.device).manual_seed(seed)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=config.learning_rate, fused=True)
        self._divide()
        self._begin()
        self.epoch, self.end, self.stopped = 0, config.epochs, ""
        self.best, self.best_epoch = math.inf, 0
        self.kept: dict[str, Tensor] | None = None
        self.history: dict[str, list[float]] = {}
        self.room = Halves("an epoch of GraCE-VAE", "Lower batch_size (which changes the fit), or take fewer genes.")

    def _divide(self) -> None:
        codes = self.data.codes
        held = hold_out(codes, self.config.validation, self.random) if self.config.validation else codes < -1
        self.codes = np.where(held, -1, codes)
        sizes = np.bincount(self.codes[self.codes >= 0], minlength=len(self.data.parts))
        self.regimes = [int(r) for r in np.flatnonzero(sizes >= 2) if r > 0]
        controls = np.flatnonzero(self.codes == 0)
        if not self.regimes or not len(controls):
            msg = "No perturbation has two cells to learn from, or no control cell is left."
            raise ValueError(msg)
        self.partner = None
        if self.config.pairing == "fixed":
            self.partner = self.random.choice(controls, len(codes))
        held_codes = np.where(held, codes, -1)
        out = np.flatnonzero(held_codes == 0)
        apart = out if len(out) >= 2 else controls
        self.validation = []
        for regime in (int(r) for r in np.unique(held_codes[held_codes > 0])):
            cells = np.flatnonzero(held_codes == regime)[:_MOST]
            self.validation.append(Step(regime, cells, self.random.choice(apart, len(cells))))

    @torch.no_grad()
    def _begin(self) -> None:
        if self.config.start == "random":
            return
        start = start_of(self.data, self.codes, self.net.n_latent, dag=self.config.dag)
        to = lambda values: torch.from_numpy(values).to(self.net.outer.weight)
        self.net.start_at(to(start.control), to(start.direct), to(start.graph), to(start.shifts))
        if isinstance(self.net.interventions, TableInterventions):
            program = torch.from_numpy(start.program).to(self.device)
            self.net.interventions.start_at(program, to(start.strength))

    def _parts(self, regime: int) -> Tensor:
        return torch.tensor(self.data.parts[regime], device=self.device)

    def steps(self) -> Iterator[Step]:
        """Batches of an epoch."""
        return steps(self.codes, self.regimes, self.config.batch_size, self.partner, self.random)

    def step(self, cells: Step) -> Tensor:
        """Learn from a batch; ``mmd``, ``mse``, ``kl``, ``sparsity`` and what is minimised."""
        now = self.config.schedule(self.epoch)
        terms = self.net.terms(
            self.data.rows(cells.control, self.device),
            self.data.rows(cells.perturbed, self.device),
            self._parts(cells.regime),
            now.temperature,
            rng=self.noise,
            embedding=self.data.further(cells.control, self.device),
        )
        loss = terms.objective(self.config, now)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return torch.stack([terms.mmd, terms.mse, terms.kl, terms.sparsity, loss]).detach()

    def train_epoch(self) -> None:
        """One pass over the cells, and a look at those held out.

        Raises
        ------
        RuntimeError
            If the objective is no longer finite.
        """
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate(self.epoch, self.end)
        sums, n = torch.zeros(5, device=self.device), 0
        for step in self.steps():
            sums += self.step(step)
            n += 1
        means = (sums / n).tolist()
        if not all(map(math.isfinite, means)):
            msg = f"The objective is not finite in epoch {self.epoch}; lower learning_rate, or scale the data."
            raise RuntimeError(msg)
        self._log(dict(zip(("mmd", "mse", "kl", "sparsity", "loss"), means, strict=True)))
        self.epoch += 1
        if self.epoch >= self.end and not self.stopped:
            self.stopped = "epochs" if self.end == self.config.epochs else "converged"

    def _log(self, row: dict[str, float]) -> None:
        mmd, mse = self.validate()
        loss = self.config.mmd * mmd + mse
        row |= {"validation_mmd": mmd, "validation_mse": mse, "validation_loss": loss}
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        if self.epoch < self.config.full and self.config.epochs > 1:
            return  # the MMD does not count in full yet
        if math.isnan(loss) or loss < self.best:
            self.best, self.best_epoch = loss, self.epoch
            self.kept = copy.deepcopy(self.net.state_dict()) if self.config.keep == "best" else None
        elif self.config.patience is not None and self.epoch - self.best_epoch >= self.config.patience:
            self.end = min(self.end, self.epoch + 1 + self.config.tail)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean MMD over perturbations, and error of control cells, of cells held out; NaN if there are none.

        Noise is the same each time, so that epochs compare.
        """
        if not self.validation:
            return math.nan, math.nan
        self.net.eval()
        noise = torch.Generator(self.device).manual_seed(0)
        temperature = self.config.schedule(self.epoch).temperature
        found = []
        for step in self.validation:
            control = self.data.rows(step.control, self.device)
            made, again = self.net.generate(
                control, self._parts(step.regime), temperature, rng=noise,
                embedding=self.data.further(step.control, self.device),
            )  # fmt: skip
            true = self.data.rows(step.perturbed, self.device)
            mmd = mmd2(made, true, self.config.kernel_width or 1.0, self.config.n_kernels)
            found.append(torch.stack([mmd, ((again - control) ** 2).mean()]))
        mmd, mse = torch.stack(found).mean(0).tolist()
        return mmd, mse

    def run(self, *, progress_bar: bool = False) -> Trained:
        """Train to the end.

        Parameters
        ----------
        progress_bar
            Show one.
        """
        with tqdm(total=self.config.epochs, initial=self.epoch, disable=not progress_bar, desc="GraCE-VAE") as bar:
            while not self.stopped:
                self.room(lambda _: self.train_epoch(), 1)
                bar.update()
        return self.result()

    def result(self) -> Trained:
        """What was learnt in the epochs so far, of which there must be one."""
        if self.kept is not None:
            self.net.load_state_dict(self.kept)
        epoch = self.best_epoch if self.kept is not None else self.epoch - 1
        fixed = self.config.evaluation_temperature
        temperature = self.config.schedule(epoch).temperature if fixed is None else fixed
        return Trained(self.net.cpu().eval(), temperature, self.history, epoch, self.stopped)


def _typical_distance(data: PairedCells) -> float:
    """Mean squared distance of two of about 1,000 cells, spread over the regimes."""
    cells = np.argsort(data.codes, kind="stable")[int((data.codes < 0).sum()) :]
    x = data.rows(cells[:: max(1, len(cells) // 1000)]).double()
    return max(float(mean_distance_width(x, x[:0])), 1e-6)


def fit_grace(
    data: PairedCells,
    config: GraceConfig | None = None,
    *,
    graph: GeneGraph | None = None,
    targets: Sequence[int] | None = None,
    n_fits: int = 1,
    rng: int | np.random.Generator | None = 0,
    progress_bar: bool = False,
    accelerator: str = "auto",
) -> list[Trained]:
    """Fit a model, or several from different starts.

    Parameters
    ----------
    data
        Cells.
    config
        All choices; None: the defaults.
    graph
        Network of genes and pathways; None: a plain encoder (CMVAE).
    targets
        ``(n_perturbations,)`` gene of each perturbation, -1 = not measured; for intervention encoders with a graph.
    n_fits
        Number of fits.
    rng
        Decides starts, cells held out, batches and noise. On the CPU the same number gives the same fit.
    progress_bar
        Show one for each fit.
    accelerator
        ``"auto"`` (a GPU if there is one), ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    The fits.

    Raises
    ------
    ValueError
        If there is too little to learn from, or a choice needs a network that is not there.
    RuntimeError
        If the objective is no longer finite, or CUDA is asked for and absent.
    """
    config, device = config or GraceConfig(), pick_device(accelerator)
    seeds = generator(rng).integers(2**31 - 2, size=at_least(n_fits, 1, "n_fits")).tolist()
    logger.info("fitting GraCE-VAE on %s", device)
    out = []
    for seed in seeds:
        trainer = GraceTrainer(data, config, graph=graph, targets=targets, seed=seed, device=device)
        out.append(trainer.run(progress_bar=progress_bar))
    return out
