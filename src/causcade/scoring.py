"""Networks as set scorers: what the ensemble calls for every set of genes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causcade._halves import Halves
from causcade.contrasts import Summary, node_features
from causcade.ensemble import SetScore
from causcade.nn.avici import Avici
from causcade.nn.axial import AxialLayer
from causcade.nn.compose import Composition
from causcade.nn.differential import Differential
from causcade.pairs import PairFeatures
from causcade.set_inputs import pair_input, set_input

__all__ = [
    "Fitting", "Prepared", "TargetScorer", "cell_scorer", "compose", "noisy_or", "pair_scorer", "set_size", "target_scorer",
]  # fmt: skip

T = TypeVar("T")
_FEWER = "Lower subset_size, the number of genes that go through the network together."
_FINEST = 64  # parts of a grid; beyond, it is the grid itself that does not fit


class Fitting:
    """A network that goes through its work in parts once memory of the device has run out; the answers are the same.

    Parameters
    ----------
    net
        The network.
    advice
        What to do where that does not help.
    """

    def __init__(self, net: nn.Module, advice: str) -> None:
        self.net, self.halves = net, Halves("scoring", f"{advice} Or pass accelerator='cpu'.")

    def __call__(self, work: Callable[[], T]) -> T:
        """Give what a call of the network gives; it may be called again, so random numbers are drawn before."""
        return self.halves(lambda parts: self._run(work, parts), _FINEST)

    def _run(self, work: Callable[[], T], parts: int) -> T:
        for module in self.net.modules() if parts > 1 else ():
            if isinstance(module, AxialLayer):
                module.parts = parts
            elif isinstance(module, Avici):
                module.piece = max(1, Avici.piece // parts)
        return work()


def set_size(config: Mapping[str, Any]) -> int:
    """Genes that go through a network of causes together.

    Twice as many as in training for a network of pairs: more of the genes between a cause and a far effect are then
    beside them, and scores of real networks and of simulated screens are better (``docs/weights.md``).

    Parameters
    ----------
    config
        ``config.json`` of the weights.
    """
    return int(config["subset"]) * (2 if config["network"] == "pairs" else 1)


def pair_scorer(net: nn.Module, features: PairFeatures, *, device: torch.device | str = "cpu") -> SetScore:
    """Scores of a pair-stream network; the cells were used up when the features were made.

    Parameters
    ----------
    net
        A :class:`causcade.nn.pair_stream.PairStream`.
    features
        Pair features of the screen.
    device
        Where the network runs.
    """
    net = net.to(device).eval()
    fitting = Fitting(net, _FEWER)

    @torch.inference_mode()
    def score(genes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        chosen = torch.from_numpy(genes)
        given = features.block(chosen, chosen)[None]
        return fitting(partial(_ask, net, given, device))

    return score


def noisy_or(logits: NDArray[np.float32], *, device: torch.device | str = "cpu") -> NDArray[np.float32]:
    """Compose any scores of all pairs by a noisy-or over paths through one gene: a composition that has learned nothing.

    Parameters
    ----------
    logits
        ``(n_genes, n_genes)``, ``[cause, effect]``. The diagonal stays, and so does what is not finite.
    device
        Where to.
    """
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, though they count for nothing
        composition = Composition().to(device)
    return _composed(composition, logits)


def compose(net: nn.Module, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compose the scores of all pairs of a screen along paths, where the network has learned to; others stay as they are.

    Parameters
    ----------
    net
        A network of :mod:`causcade.nn`, on any device.
    logits
        ``(n_genes, n_genes)``, ``[cause, effect]``. The diagonal stays, and so does what is not finite.
    """
    composition = getattr(net, "compose", None)
    return logits if composition is None else _composed(composition, logits)


@torch.inference_mode()
def _composed(composition: nn.Module, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not len(logits):
        return logits
    device = next(composition.parameters()).device
    composed: NDArray[np.float32] = composition(torch.tensor(logits, device=device)).cpu().numpy()
    stays = np.eye(len(logits), dtype=bool) | ~np.isfinite(logits)
    return np.where(stays, logits, composed).astype(np.float32, copy=False)


def cell_scorer(
    net: nn.Module,
    values: Tensor,
    codes: Tensor,
    single: Tensor,
    *,
    n_cells: int = 200,
    n_draws: int = 2,
    device: torch.device | str = "cpu",
) -> SetScore:
    """Scores of a cell-stream network, averaged over draws of cells (TCD-DL, algorithm 2).

    Only cells in which nothing outside the set is perturbed are drawn, keyed by gene.

    Parameters
    ----------
    net
        A :class:`causcade.nn.cells.CellStream`.
    values
        ``(n_cells, n_genes)`` from :func:`causcade.stats.cell_values`.
    codes
        ``(n_cells,)`` regime of every cell, 0 = control.
    single
        ``(n_genes,)`` regime that perturbs each gene alone, -1 = none.
    n_cells, n_draws
        Cells in a forward pass (the network is tied to the number it was trained with), and draws of them.
    device
        Where the network runs.
    """
    net = net.to(device).eval()
    fitting = Fitting(net, _FEWER)

    def score(genes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        chosen = torch.from_numpy(genes)
        regimes = single[chosen]
        pool = torch.isin(codes, torch.cat([regimes.new_zeros(1), regimes[regimes >= 0]])).nonzero().squeeze(1)
        order = torch.from_numpy(rng.permutation(len(pool)))
        total = np.zeros((len(genes), len(genes)), np.float32)
        for draw in range(n_draws):
            take = pool[order[(torch.arange(n_cells) + draw * n_cells) % len(pool)]]
            mask = (codes[take][:, None] == regimes[None]) & (regimes >= 0)[None]
            x = torch.stack([values[take][:, chosen], mask.float()], -1)[None]
            with torch.inference_mode():
                total += fitting(partial(_ask, net, x, device))
        total /= n_draws
        return total

    return score


def _ask(net: nn.Module, x: Tensor, device: torch.device | str) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = net(x.to(device))[0].float().cpu().numpy()
    return logits


@dataclass(frozen=True)
class Prepared:
    """A control set ready to be compared with many perturbed sets."""

    control: Summary
    grids: tuple[Tensor, ...]  # of all genes, one per draw; none where genes are dealt into sets


def target_scorer(
    net: nn.Module, config: dict[str, Any], device: torch.device | str = "cpu", *, n_draws: int = 4
) -> TargetScorer:
    """Scorer of a differential network as its config says."""
    return TargetScorer(
        net, n_control=n_draws, n_subsets=config.get("n_subsets"), size=int(config.get("size", 128)), device=device
    )


class TargetScorer:
    """Logits that each gene was acted on, by a differential network; every call is one draw of local graphs.

    Parameters
    ----------
    net
        A :class:`causcade.nn.differential.Differential`.
    n_control
        Draws of the control's local graphs (and of identity codes) to choose from.
    n_subsets
        Local graphs of a set of cells in each draw; None: two for every gene, from 20 to 100.
    size
        Most genes the network sees at once. More are dealt into sets, each with the most changed genes in it (a quarter of
        the set), so time grows linearly with the number of genes and memory not at all.
    device
        Where the network runs.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        n_control: int = 4,
        n_subsets: int | None = None,
        size: int = 128,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = cast("Differential", net.to(device).eval())
        self.n_control, self.n_subsets, self.size, self.device = n_control, n_subsets, size, device
        self.fitting = Fitting(self.net, "Take fewer genes: candidates=, or adata[:, genes].")

    def _budget(self, genes: int) -> int:
        return min(max(2 * genes, 20), 100) if self.n_subsets is None else self.n_subsets

    def _codes(self, genes: int, draw: int) -> Tensor | None:
        """Identities are the same for the control and every perturbed set of a draw."""
        generator = torch.Generator(self.device).manual_seed(draw)
        return self.net.draw_codes(1, genes, generator)

    def _grid(self, cells: Summary, draw: int, rng: np.random.Generator) -> Tensor:
        given = set_input([cells], self._budget(cells.mean.shape[-1]), rng)
        codes = self._codes(cells.mean.shape[-1], draw)
        return self.fitting(lambda: self.net.encode(given.to(self.device), codes))

    @torch.inference_mode()
    def prepare(self, control: Summary) -> Prepared:
        """Do what depends on the control only, once for all perturbations. Its local graphs have a fixed seed."""
        if control.mean.shape[-1] > self.size:
            return Prepared(control, ())
        grids = (self._grid(control, d, np.random.default_rng([17, d])) for d in range(self.n_control))
        return Prepared(control, tuple(grids))

    @torch.inference_mode()
    def score(self, state: Prepared, perturbed: Summary, rng: np.random.Generator) -> NDArray[np.float32]:
        """Logits of one draw, ``(genes,)``."""
        draw = int(rng.integers(self.n_control))
        if state.grids:
            return self._compare(state.control, perturbed, state.grids[draw], draw, rng)
        return self._dealt(state.control, perturbed, draw, rng)

    def _compare(
        self, control: Summary, perturbed: Summary, before: Tensor, draw: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        after = self._grid(perturbed, draw, rng)
        contrasts, node = pair_input(control, [perturbed])
        where = self.device
        logits = self.fitting(lambda: self.net.compare(before, after, contrasts.to(where), node.to(where)))
        return logits[0].float().cpu().numpy()

    def _dealt(self, control: Summary, perturbed: Summary, draw: int, rng: np.random.Generator) -> NDArray[np.float32]:
        genes = control.mean.shape[-1]
        change = node_features(control, perturbed)[:, 1].abs()
        order = change.argsort(descending=True).cpu().numpy()
        anchors, rest = order[: self.size // 4], rng.permutation(order[self.size // 4 :])
        n_sets = -(-len(rest) // (self.size - len(anchors)))
        total, count = np.zeros(genes, np.float32), np.zeros(genes, np.float32)
        for part in np.array_split(rest, n_sets):
            chosen = np.sort(np.concatenate([anchors, part]))
            index = torch.from_numpy(chosen)
            before = self._grid(control.genes(index), draw, rng)
            total[chosen] += self._compare(control.genes(index), perturbed.genes(index), before, draw, rng)
            count[chosen] += 1
        return total / count
