"""A small network from the features of perturbations to mean changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from causcade._checks import at_least, generator
from causcade.effect_baselines._fitted import (
    EffectBaseline,
    Floats,
    Ints,
    Regimes,
    check_training,
    held_out_groups,
    standardiser,
)

__all__ = ["mean_shift_mlp"]

_LOOK_EVERY = 10  # steps between looks at the regimes held out


def mean_shift_mlp(
    cells: ArrayLike,
    codes: ArrayLike,
    features: ArrayLike | None = None,
    *,
    perturbation: ArrayLike | None = None,
    dose: ArrayLike | None = None,
    hold_out: Literal["regime", "perturbation"] = "regime",
    hidden: Sequence[int] = (100, 100),
    learning_rate: float = 1e-3,
    max_steps: int = 3000,
    patience: int = 300,
    n_folds: int = 5,
    rng: int | np.random.Generator | None = 0,
) -> EffectBaseline:
    """Predict the mean change of a perturbation by tanh networks on its features.

    The regimes are cut in folds; for every fold one network learns from the others (mean squared error, Adam, all
    regimes in each step) and stops when that fold gets no better. The prediction is the mean of the networks, so
    that all regimes are learned from. Features and changes are standardised for it.

    Parameters
    ----------
    cells, codes
        (n_cells, n_genes) training cells; (n_cells,) 0 for control, k for row ``k - 1`` of what follows.
    features
        (regimes, features). Needed.
    perturbation, dose
        (regimes,). The first is used by ``hold_out`` only, the second not at all.
    hold_out
        What stays together in a fold: one regime, or all regimes of one perturbation, which suits predictions of
        new perturbations.
    hidden
        Units of each hidden layer.
    learning_rate
        Of Adam.
    max_steps, patience
        Most steps, and steps without a better fold before a network stops.
    n_folds
        Folds and networks, 2 or more; as many as can be held out if that is fewer.
    rng
        Folds and first weights. A seed gives the same networks; torch's own generator is not touched.

    Returns
    -------
    EffectBaseline
        ``info``: ``held_out_mse`` per gene of the folds, and ``steps``, the mean of the networks.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, control or a regime has no cells, there is nothing to hold
        out, or an option is out of range.
    """
    training = check_training(cells, codes, features, perturbation, dose, ("features",))
    sizes = [at_least(units, 1, "hidden") for units in hidden]
    max_steps, patience = at_least(max_steps, 1, "max_steps"), at_least(patience, 1, "patience")
    if not 0 < learning_rate < np.inf:
        msg = f"learning_rate={learning_rate} must be above 0"
        raise ValueError(msg)
    draw = generator(rng)
    folds = _folds(held_out_groups(training, hold_out), at_least(n_folds, 2, "n_folds"), draw)
    scaled = standardiser(training.regimes.matrix)
    mean, size = training.change.mean(axis=0), training.change.std() or 1.0
    x, y = _tensor(scaled(training.regimes.matrix)), _tensor((training.change - mean) / size)
    n = int(folds.max()) + 1
    nets = _Networks.drawn([x.shape[1], *sizes, y.shape[1]], n, int(draw.integers(2**63 - 1)))
    held = torch.from_numpy(folds == np.arange(n)[:, None])
    best, steps = _train(nets, x, y, held, learning_rate, max_steps, patience)

    def change(new: Regimes) -> Floats:
        with torch.no_grad():
            out = nets(_tensor(scaled(new.matrix))).mean(0)
        return mean + size * out.double().numpy()

    error = float((best * held.sum(1)).sum() / len(x)) * float(size) ** 2
    info = {"held_out_mse": error, "steps": float(steps.double().mean())}
    return EffectBaseline("mean_shift_mlp", training.control, info, ("features",), change, x.shape[1])


def _folds(groups: Ints, n_folds: int, draw: np.random.Generator) -> Ints:
    """Fold of every regime; groups stay together, and folds have about as many groups each."""
    n_groups = int(groups.max()) + 1
    fold_of_group = draw.permutation(np.arange(n_groups) % min(n_folds, n_groups))
    return np.asarray(fold_of_group[groups], dtype=np.int64)


@dataclass(frozen=True)
class _Networks:
    """Several tanh networks side by side: for each layer weights (networks, in, out) and constants (networks, 1, out)."""

    weights: list[Tensor]
    constants: list[Tensor]

    @classmethod
    def drawn(cls, sizes: Sequence[int], n: int, seed: int) -> _Networks:
        """Draw first weights; torch's own generator stays as it was."""
        draw = torch.Generator().manual_seed(seed)
        weights = [torch.randn(n, i, o, generator=draw) * (2 / (i + o)) ** 0.5 for i, o in pairwise(sizes)]
        return cls(weights, [torch.zeros(n, 1, o) for o in sizes[1:]])

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.constants]

    def __call__(self, x: Tensor) -> Tensor:
        """(rows, in) -> (networks, rows, out)."""
        value = x.expand(len(self.weights[0]), *x.shape)
        for k, (weight, constant) in enumerate(zip(self.weights, self.constants, strict=True)):
            value = torch.baddbmm(constant, value.tanh() if k else value, weight)
        return value


def _train(
    nets: _Networks, x: Tensor, y: Tensor, held: Tensor, learning_rate: float, max_steps: int, patience: int
) -> tuple[Tensor, Tensor]:
    """Train every network on what it does not hold out, and put back its best weights; their error and step.

    The loss is a sum over networks and Adam works entry by entry, so that networks do not heed one another.
    """
    parameters = [p.requires_grad_(True) for p in nets.parameters]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    kept = [p.detach().clone() for p in parameters]
    best, best_step = torch.full((len(held),), torch.inf), torch.zeros(len(held), dtype=torch.long)
    running = torch.ones(len(held), dtype=torch.bool)
    learnt = (~held).float() / (~held).sum(1, keepdim=True)
    for step in range(max_steps + 1):
        error = (nets(x) - y).square().mean(2)
        if step % _LOOK_EVERY == 0 or step == max_steps:
            now = (error.detach() * held).sum(1) / held.sum(1)
            better = running & (now < best)
            best[better], best_step[better] = now[better], step
            for old, new in zip(kept, parameters, strict=True):
                old[better] = new.detach()[better]
            running &= step - best_step < patience
            if not running.any():
                break
        optimiser.zero_grad()
        (error * learnt).sum().backward()
        optimiser.step()
    for old, new in zip(kept, parameters, strict=True):
        new.requires_grad_(False).copy_(old)
    return best, best_step


def _tensor(array: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
