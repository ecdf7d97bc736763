"""Training on the perturbations of a screen whose targets are known: cells, split, and endless steps."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from causcade.comparisons import read_perturbations
from causcade.models._training import Onward
from causcade.pretrain import Recipe
from causcade.pretrain.pair_inputs import PairInputs, pair_inputs
from causcade.pretrain.target_items import PairBatch, TargetScreen
from causcade.pretrain.tasks import TargetTask
from causcade.reference import level_groups
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.comparisons import Comparisons
    from causcade.nn.differential import Differential

__all__ = ["FEWEST", "KnownScreen", "PairData", "PairStep", "PairSteps", "Split", "read_known", "split_by_gene"]

logger = logging.getLogger(__name__)

FEWEST = 4  # perturbations with known targets: some to learn from, some to check with
_CONTROLS = 5000  # most that are kept, as many as scores are made with
_CELLS = 400  # most of a perturbation; a batch takes no more
_ENTRIES = 300_000_000  # most values that are kept (1.2 GB)


@dataclass(frozen=True)
class KnownScreen:
    """Cells of the perturbations whose targets are known.

    Attributes
    ----------
    screen
        Levelled values; regime ``i + 1`` is the perturbation ``names[i]``.
    names
        Of the perturbations.
    """

    screen: TargetScreen
    names: tuple[str, ...]

    def part(self, positions: NDArray[np.int64]) -> TargetScreen:
        """The screen with some of the perturbations only."""
        targets = {int(i) + 1: self.screen.targets[int(i) + 1] for i in positions}
        return replace(self.screen, targets=targets)


def read_known(adata: AnnData, *, min_cells: int, rng: np.random.Generator, **how: Any) -> KnownScreen:
    """Read controls and the perturbations that have measured known targets.

    Parameters
    ----------
    adata
        Annotated data with regimes.
    min_cells
        Fewest cells of a perturbation.
    rng
        Chooses cells where there are more than are kept: 5,000 controls, 400 cells of a perturbation (fewer if all
        would take more than 1.2 GB).
    **how
        ``layer``, ``values``, ``batch_key``, ``regimes_key``.

    Raises
    ------
    ValueError
        If fewer than four perturbations can be learned from.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*comparisons asked for")  # the small ones are left out below
        screen, pairs = read_perturbations(adata, **how)
        pairs = replace(pairs, control=_some(pairs.control, _CONTROLS, rng)).usable(screen.groups)
    enough = [i for i, cells in enumerate(pairs.cells) if len(pairs.known[i]) and len(cells) >= min_cells]
    _check_enough(pairs, enough, min_cells)
    room = (_ENTRIES // screen.n_genes - len(pairs.control)) // len(enough)
    cells = [_some(pairs.cells[i], min(_CELLS, max(room, min_cells)), rng) for i in enough]
    rows = np.concatenate([pairs.control, *cells])
    codes = np.repeat(np.arange(len(cells) + 1), [len(pairs.control), *map(len, cells)])
    values = level_groups(screen.rows(rows), screen.groups[rows], codes == 0)
    targets = {r: tuple(int(g) for g in pairs.known[i]) for r, i in enumerate(enough, start=1)}
    known = TargetScreen(torch.from_numpy(values), torch.from_numpy(codes), targets)
    return KnownScreen(known, tuple(pairs.names[i] for i in enough))


def _some(cells: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))


def _check_enough(pairs: Comparisons, enough: list[int], min_cells: int) -> None:
    """Say what is missing."""
    if len(enough) >= FEWEST:
        return
    with_target = [i for i, known in enumerate(pairs.known) if len(known)]
    advice = "Use released weights as they are: CDN.from_pretrained(name, adata)."
    if not with_target:
        msg = (
            f"None of {len(pairs):,} perturbations has a known target among the measured genes, so there is nothing to "
            f"learn from. Give targets= to causcade.pp.regimes or CDN.setup_anndata if you know them. {advice}"
        )
        raise ValueError(msg)
    small = [pairs.names[i] for i in with_target if i not in enough]
    why = f" {shorten(small)} have fewer than min_cells={min_cells} cells; lower it to use them." if small else ""
    msg = (
        f"Only {len(enough)} perturbations with a measured known target can be trained on; at least {FEWEST} are needed, "
        f"as some are held out.{why} {advice}"
    )
    raise ValueError(msg)


@dataclass(frozen=True)
class Split:
    """Positions of perturbations: no gene is a target on both sides.

    Attributes
    ----------
    train, held_out
        What is trained on, and what is not.
    """

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_by_gene(known: KnownScreen, share: float, rng: np.random.Generator, *, earlier: Sequence[str] = ()) -> Split:
    """Hold perturbations out, with all that share a target with them.

    A combination of a gene that is held out with one that is not is on neither side. At least half of the
    perturbations stay for training.

    Parameters
    ----------
    known
        Perturbations and their targets.
    share
        Share of the perturbations to hold out, about.
    rng
        Chooses them.
    earlier
        Names that were held out before: they stay so.

    Raises
    ------
    ValueError
        If too many perturbations share a target.
    """
    targets = [known.screen.targets[r] for r in range(1, len(known.names) + 1)]
    size = np.array([len(t) for t in targets])
    rows, columns = np.repeat(np.arange(len(targets)), size), np.concatenate(targets)
    shape = (len(targets), known.screen.values.shape[1])
    hits = sparse.csr_array((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape=shape)
    out = np.zeros(shape[1], dtype=np.int64)
    for name in set(earlier) & set(known.names):
        out[list(targets[known.names.index(name)])] = 1
    again = bool(out.any())
    for i in [] if again else rng.permutation(len(targets)):
        trial = out.copy()
        trial[list(targets[i])] = 1
        if 2 * (hits @ trial == 0).sum() >= len(targets):
            out = trial
        if (hits @ out == size).sum() >= share * len(targets):
            break
    train = hits @ out == 0
    apart = hits @ (train @ hits) == 0  # share nothing with what is trained on
    split = Split(np.flatnonzero(train), np.flatnonzero(apart))
    if not len(split.held_out) or not len(split.train):
        msg = (
            f"The {len(targets)} perturbations with known targets share too many of these: none can be held out with all "
            "that share a target with it and leave half for training. Add perturbations of other genes, or use released "
            "weights as they are: CDN.from_pretrained(name, adata)."
        )
        raise ValueError(msg)
    left = len(targets) - len(split.train) - len(split.held_out)
    logger.info(
        "training on %d perturbations, %d are held out%s", len(split.train), len(split.held_out),
        f", {left} that have targets on both sides are left out" if left else "",
    )  # fmt: skip
    return split


@dataclass
class PairStep:
    """What one step of training needs.

    Attributes
    ----------
    batches
        Pairs of sets over the same number of genes.
    recipe
        Seed, local graphs, weight of the graph loss.
    index
        Number of the step; decides the local graphs.
    """

    batches: list[PairBatch]
    recipe: Recipe
    index: int

    def to(self, *_: Any, **__: Any) -> PairStep:
        """Stay on the CPU, where local graphs are learned; the loss moves what the network sees."""
        return self

    @cached_property
    def inputs(self) -> PairInputs:
        """What the network sees; local graphs are learned once, for all parts of the step."""
        rng = np.random.default_rng([self.recipe.seed, self.index, 1])
        low, high = self.recipe.subsets
        return pair_inputs(self.batches, int(rng.integers(low, high + 1)), rng)

    def part(self, rows: Sequence[int], *, counts: bool = True) -> PairStep:
        """Some of the perturbed sets, see :meth:`causcade.pretrain.pair_inputs.PairInputs.part`."""
        some = PairStep([], self.recipe, self.index)
        some.inputs = self.inputs.part(rows, counts=counts)
        return some

    def loss(self, net: Differential, device: torch.device) -> Tensor:
        """L_I, plus L_G where the graph is known; the same each time."""
        return self.inputs.loss(net, self.recipe.graph_weight, device)

    def __len__(self) -> int:
        """Return the number of perturbed sets."""
        return sum(len(b.perturbed) for b in self.batches)


class PairSteps(Dataset[dict[str, PairStep]]):
    """Endless steps; number ``i`` depends on the seed and ``i`` alone, whoever makes it and when.

    Parameters
    ----------
    recipe
        Seed, sizes, causal models, and share of the steps on the screen.
    screen
        Perturbations to learn from.
    """

    def __init__(self, recipe: Recipe, screen: TargetScreen) -> None:
        self.task = TargetTask(recipe, torch.device("cpu"))
        self.task.real = [screen]

    def __getitem__(self, index: int) -> dict[str, PairStep]:
        """Step ``index``, under the key ``"step"``."""
        return {"step": PairStep(self.task.batches(index), self.task.recipe, index)}


class PairData(lightning.LightningDataModule):
    """Steps for training, new in every epoch, and some that stay for validation.

    Parameters
    ----------
    train, validation
        Where steps come from.
    per_epoch, n_validation
        Steps of an epoch, and of the validation.
    first
        Number of the first training step; later calls of ``train`` go on where the last one stopped.
    num_workers
        Processes that prepare steps ahead; the steps do not depend on it.
    """

    def __init__(
        self,
        train: PairSteps,
        validation: PairSteps,
        *,
        per_epoch: int,
        n_validation: int,
        first: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self._train, self._validation, self._n_validation = train, validation, n_validation
        self.sampler, self.num_workers = Onward(first, per_epoch), num_workers
        self._kept: list[dict[str, PairStep]] = []

    def train_dataloader(self) -> DataLoader[dict[str, PairStep]]:
        """Steps of the next epoch."""
        return DataLoader(self._train, batch_size=None, sampler=self.sampler, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[dict[str, PairStep]]:
        """The same steps each time; made once."""
        self._kept = self._kept or list(self._made())
        return DataLoader(self._kept, batch_size=None)  # type: ignore[arg-type]

    def _made(self) -> Iterator[dict[str, PairStep]]:
        yield from (self._validation[i] for i in range(self._n_validation))
