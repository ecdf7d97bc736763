"""Training on simulated screens: endless episodes, and a quiet call of the trainer."""

from __future__ import annotations

import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import torch
from scvi.train import TrainRunner
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from causcade._device import pick_devices
from causcade.models._plan import Plan
from causcade.models._several import LOGGERS, ignore_notices, several
from causcade.pretrain import Recipe, make_item, make_samples
from causcade.simulate.episodes import Screen, ScreenPrior, draw_screen

if TYPE_CHECKING:
    from causcade.models._base import CausalModel
    from causcade.models._pair_training import PairData
    from causcade.regimes import Regimes
    from causcade.screendata import Values

logger = logging.getLogger(__name__)

FEWEST_GENES = 20  # of a simulated screen: below, several kinds of graph cannot be drawn
MOST_GENES = 200  # likewise: the cost of a screen grows with the square
MOST_CONTROLS = 1000
MOST_CELLS = 6000

_Watch = Callable[[TrainRunner, Plan], AbstractContextManager[None]]


@dataclass(frozen=True)
class Design:
    """What a simulated screen is cut down to, so that it looks like the user's.

    Attributes
    ----------
    coverage
        Share of the genes that are perturbed alone, at most.
    cells
        Cells per perturbation, at most; ``None`` = as drawn.
    """

    coverage: float = 1.0
    cells: int | None = None


def like_screen(
    regimes: Regimes, n_genes: int, *, values: Values = "counts", n_groups: int = 1
) -> tuple[ScreenPrior, Design]:
    """Prior and design of simulated screens that resemble one of a user.

    Taken over are the number of genes (within 20 to 200), of controls (at most 1,000), of cells per perturbation and
    of groups, the share of genes perturbed alone, and the kind of values. Networks, kinetics, technologies and depths
    stay those of the general prior.

    Parameters
    ----------
    regimes
        Of the user's cells.
    n_genes
        Measured genes.
    values
        ``"counts"``, ``"expression"`` or ``"log"``.
    n_groups
        Batches or cell types the analyst knows; 1 = none.
    """
    alone = [len(t) == len(i) == 1 for t, i in zip(regimes.targets, regimes.target_index, strict=True)]
    perturbed = {int(i[0]) for i, single in zip(regimes.target_index, alone, strict=True) if single}
    sizes = regimes.n_cells[np.asarray(alone) & (regimes.n_cells > 0)]
    cells = int(np.median(sizes)) if len(sizes) else None
    coverage = len(perturbed) / n_genes
    n = min(max(n_genes, FEWEST_GENES), MOST_GENES)
    controls = min(max(int(regimes.n_cells[0]), 2), MOST_CONTROLS)
    prior = ScreenPrior(
        genes=(n, n),
        control=(controls, controls),
        types=(1, min(max(n_groups, 3), 10)),
        groups_known=1.0 if n_groups > 1 else 0.0,
        fidelities={"high": 1.0} if values == "expression" else {"low": 1.0},
        full_coverage=coverage,  # the other screens draw their coverage evenly; both are cut to the user's
        ten_cells=1.0 if cells is not None and 8 <= cells <= 12 else 0.0,
        max_cells=MOST_CELLS,
    )
    return prior, Design(coverage, cells)


def thin(screen: Screen, design: Design, rng: torch.Generator) -> Screen:
    """Leave perturbations and cells out at random until the screen has the design.

    Parameters
    ----------
    screen
        A simulated screen.
    design
        Most perturbations and cells per perturbation.
    rng
        Generator on the device of the screen.
    """
    n = min(math.ceil(design.coverage * screen.x.shape[1] - 1e-9), len(screen.perturbed))
    order = torch.randperm(len(screen.codes), generator=rng, device=screen.x.device)
    order = order[screen.codes[order].argsort(stable=True)]  # random within regimes
    codes = screen.codes[order]
    rank = torch.arange(len(codes), device=codes.device) - torch.searchsorted(codes, codes)
    most = len(codes) if design.cells is None else design.cells
    # regimes are numbered in random order, so the first n are a random choice of genes
    rows = order[(codes == 0) | ((codes <= n) & (rank < most))].sort().values
    return replace(
        screen,
        x=screen.x[rows],
        codes=screen.codes[rows],
        types=screen.types[rows],
        perturbed=screen.perturbed[:n],
    )


class Episodes(Dataset[dict[str, Tensor]]):
    """Endless training batches; number ``i`` depends on the seed and ``i`` alone, whoever makes it and when.

    A batch holds ``recipe.batch`` items: random sets of genes of one simulated screen, which was measured
    ``recipe.assays`` times.

    Parameters
    ----------
    recipe
        Seed, network, and sizes of the items.
    prior, design
        What screens are like.
    device
        Where they are drawn.
    """

    def __init__(self, recipe: Recipe, prior: ScreenPrior, design: Design, device: str = "cpu") -> None:
        smallest = min(int(prior.genes[0]), prior.dense_genes)
        # a tenth of the genes may be unmeasured; items of one size need no padding
        self.recipe = replace(recipe, subset=min(recipe.subset, smallest - round(0.1 * smallest)))
        self.prior, self.design, self.device = prior, design, device

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Batch ``index``: ``x``, and ``labels`` and ``valid`` of shape ``(batch, genes, genes)``, [cause, effect]."""
        r = self.recipe
        rng = torch.Generator(self.device).manual_seed(r.seed * 7_919 + index)
        screen = thin(draw_screen(self.prior, r.seed, index, device=self.device), self.design, rng)
        samples = make_samples(screen, r, self.prior, index)
        items = [make_item(samples[i % len(samples)], r, rng) for i in range(r.batch)]
        return {
            name: torch.stack(parts)
            for name, parts in zip(("x", "labels", "valid"), zip(*items, strict=True), strict=True)
        }


class Onward(Sampler[int]):
    """Numbers that go on where the last epoch stopped.

    Parameters
    ----------
    first
        The first number.
    per_epoch
        How many an epoch takes.
    """

    def __init__(self, first: int, per_epoch: int) -> None:
        self.next, self.per_epoch = first, per_epoch

    def __iter__(self) -> Iterator[int]:
        """Take the numbers of an epoch, with the first of them: a loader with workers makes an iterator in vain."""
        start, self.next = self.next, self.next + self.per_epoch
        yield from range(start, start + self.per_epoch)

    def __len__(self) -> int:
        """Numbers in an epoch."""
        return self.per_epoch


class EpisodeData(lightning.LightningDataModule):
    """Simulated screens for training, new in every epoch, and some that stay for validation.

    Parameters
    ----------
    episodes
        Where batches come from; validation has a seed of its own.
    per_epoch, n_validation
        Batches of an epoch, and of the validation.
    first
        Number of the first training batch; later calls of ``train`` go on where the last one stopped.
    num_workers
        Processes that simulate ahead; the batches do not depend on it.
    """

    def __init__(
        self, episodes: Episodes, *, per_epoch: int, n_validation: int, first: int = 0, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.episodes, self.num_workers = episodes, num_workers
        self.sampler = Onward(first, per_epoch)
        held_out = replace(episodes.recipe, seed=episodes.recipe.seed + 2**31)
        self._validation = Episodes(held_out, episodes.prior, episodes.design, episodes.device)
        self._n_validation = n_validation
        self._kept: list[dict[str, Tensor]] = []

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches of the next epoch."""
        return DataLoader(self.episodes, batch_size=None, sampler=self.sampler, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The same batches each time; made once."""
        if not self._kept:
            self._kept = [self._validation[i] for i in range(self._n_validation)]
        return DataLoader(self._kept, batch_size=None)  # type: ignore[arg-type]


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its notices on hardware and workers, and as before afterwards."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [each.level for each in loggers]
    try:
        with warnings.catch_warnings():
            ignore_notices()
            for each in loggers:
                each.setLevel(logging.ERROR)
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@contextmanager
def _interruptible(model: CausalModel, plan: Plan) -> Iterator[None]:
    """Let Ctrl-C be what it is: Lightning makes an exit of it, and is deaf to the next. The model stays usable."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if main:
            signal.signal(signal.SIGINT, handler)
        if plan.n_steps:
            model.is_trained_ = True
            logger.warning("interrupted after %s steps: the model keeps what it has learnt", f"{plan.n_steps:,}")
        raise KeyboardInterrupt from None


def fit(
    model: CausalModel,
    plan: Plan,
    data: EpisodeData | PairData,
    *,
    max_epochs: int,
    accelerator: str = "auto",
    devices: int | str | Sequence[int] = "auto",
    progress_bar: bool = True,
    **trainer_kwargs: Any,
) -> None:
    """Run the trainer of scvi-tools.

    Parameters
    ----------
    model
        Gets ``history``, and counts as trained afterwards.
    plan, data
        What is trained on what.
    max_epochs
        Number of epochs.
    accelerator, devices
        As in :func:`causcade.tl.causes`; or numbers of several devices, which train together in one process each.
    progress_bar
        Show one.
    **trainer_kwargs
        Arguments of :class:`scvi.train.Trainer`; they go before the defaults here.
    """
    names = pick_devices(accelerator, devices)
    logger.info("training %s on %s", type(model).__name__, " ".join(names))
    settings: dict[str, Any] = {
        "early_stopping_monitor": "validation_loss",
        "early_stopping_patience": 5,
        "check_val_every_n_epoch": 1,  # else scvi-tools loses the validation loss of a second training
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 1,
        "enable_progress_bar": progress_bar,
        "enable_model_summary": False,
    }
    first = data.sampler.next
    was_trained = model.is_trained_
    # scvi-tools adds to a history that is there, and drops the new one where a trained model has none
    model.is_trained_ = was_trained and bool(model.history_)
    model.module.train()
    try:
        with (
            quiet(),
            _interruptible(model, plan),
            _together(model, settings | trainer_kwargs, names) as (chosen, watch),
        ):
            runner = TrainRunner(model, training_plan=plan, data_splitter=data, max_epochs=max_epochs, **chosen)
            with watch(runner, plan):
                runner()
    finally:
        model.module.eval()
        model.is_trained_ = model.is_trained_ or was_trained
        if len(names) > 1:  # other processes took the steps
            data.sampler.next = first + -(-plan.n_steps // data.sampler.per_epoch) * data.sampler.per_epoch


@contextmanager
def _together(
    model: CausalModel, settings: dict[str, Any], devices: list[str]
) -> Iterator[tuple[dict[str, Any], _Watch]]:
    """Arguments of the trainer, and what is to be around its run."""
    if len(devices) > 1:
        with several(settings, devices, unused=model.module.unused) as how:
            yield how.settings, how.watch
        return
    kind, _, number = devices[0].partition(":")
    where = {"accelerator": "cpu" if kind == "cpu" else "gpu", "devices": 1 if kind == "cpu" else [int(number)]}
    yield where | settings, lambda *_: nullcontext()
