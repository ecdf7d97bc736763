"""CDN: causal differential networks, an amortized model of what a perturbation acted on."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from scvi.module.base import LossOutput
from torch import nn

from causcade._checks import at_least, generator
from causcade._device import pick_device, pick_devices
from causcade.comparisons import MIN_CELLS, read_perturbations
from causcade.models._base import CausalModel
from causcade.models._module import NetModule
from causcade.models._networks import untrained
from causcade.models._pair_training import PairData, PairStep, PairSteps, read_known, split_by_gene
from causcade.models._training import Plan, fit
from causcade.nn.differential import DifferentialConfig
from causcade.pretrain import Recipe
from causcade.targets import TargetSettings, score_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from causcade.screendata import ScreenData
    from causcade.simulate.shifts import ShiftPrior

__all__ = ["CDN", "CDNModule"]

Preset = Literal["base", "paper"]
_NETWORK = "differential"
_RECIPE = "cdn-screens"  # of the preset "base", and of the causal models to train on
_PAPER: dict[str, Any] = {
    "width": 64,
    "heads": 8,
    "structure_layers": 4,
    "difference_layers": 3,
    "paths": 0,
    "form": "concat",
    "paper_inputs": True,
    "contrasts": False,
    "codes": 16,
}
_KEPT = ("n_subsets", "size", "fusion")  # what weights say on how they are asked; training does not change it


class CDNModule(NetModule):
    """Network and loss of :class:`CDN`. A minibatch is one control set, or several, with perturbed sets.

    The loss encodes a control once for all its perturbed sets, so there is no inference apart.

    Parameters
    ----------
    net
        A :class:`causcade.nn.differential.Differential`.
    """

    unused = True  # edges, where no graph is known

    def loss(self, tensors: dict[str, PairStep], *_: Any) -> LossOutput:
        """L_I, and L_G of the controls whose graph is known (CDN, section 3.3), see :meth:`CDN.train`."""
        step = tensors["step"]
        return LossOutput(loss=step.loss(self.net, self.device), n_obs_minibatch=len(step.inputs))  # type: ignore[arg-type]

    def n_items(self, tensors: dict[str, PairStep]) -> int:
        """Perturbed sets."""
        return len(tensors["step"])

    def part(self, tensors: dict[str, PairStep], rows: Sequence[int], *, counts: bool = True) -> dict[str, PairStep]:
        """Some perturbed sets with their controls."""
        return {"step": tensors["step"].part(rows, counts=counts)}


class CDN(CausalModel):
    """Causal differential networks: which genes did this perturbation act on?

    A structure learner turns the control cells, and the perturbed cells, into a grid of genes by genes, from
    correlations and from causal graphs of small subsets of genes (CDN, section 3.1). A differential network compares
    the two grids, along with means and variances, and gives every gene a logit that it was acted on (section 3.2).
    Both are trained together on pairs of sets whose targets are known (section 3.3). Most users want
    :meth:`from_pretrained`, or just :func:`causcade.tl.targets`.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    preset
        ``"base"``: the network of the released weights, which also sees how each gene's regression on each other
        changed. ``"paper"``: sizes and inputs of the published one, with attention inside each local graph.
    subset
        Most genes of a training step.
    rng
        Seed or generator of the first weights.
    **sizes
        Of the network, instead of the preset's: ``width``, ``heads``, ``structure_layers``, ``form``, ... of
        :class:`causcade.nn.differential.DifferentialConfig`.

    Attributes
    ----------
    split_
        ``"train"`` and ``"held_out"``: names of the perturbations that :meth:`train` used and did not use. Scores of
        the former are no evidence of how good the model is.

    Raises
    ------
    ValueError
        If the preset or a size is unknown, a size is out of range, or `adata` was not set up.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=8, rng=0)
    >>> cc.models.CDN.setup_anndata(adata)
    >>> model = cc.models.CDN(adata, width=8, heads=1, hidden=8, paths=0)
    >>> model.train(1, steps_per_epoch=2, n_validation=1, progress_bar=False)
    >>> model.get_targets(["G001"], progress_bar=False).shape
    (20, 1)
    """

    _module_cls = CDNModule
    # what a screen cannot tell about causes is no matter here
    _unconcerned: ClassVar[tuple[str, ...]] = ("No measured gene was perturbed alone", ".*share no group of")

    def __init__(
        self,
        adata: AnnData,
        preset: Preset = "base",
        *,
        subset: int = 100,
        rng: int | np.random.Generator | None = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata)
        if preset not in ("base", "paper"):
            msg = f"preset must be one of ['base', 'paper'], not {preset!r}."
            raise ValueError(msg)
        self.subset = at_least(subset, 2, "subset")
        start = _PAPER if preset == "paper" else Recipe.load(_RECIPE).sizes
        self.module = self._module_cls(untrained(_NETWORK, start | sizes, rng))
        self._model_summary_string = (
            f"CDN: {adata.n_obs:,} cells x {adata.n_vars:,} genes, "
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters"
        )
        self.recipe_: dict[str, Any] = {}
        self.asked_: dict[str, Any] = {}
        self.split_: dict[str, list[str]] = {}
        self.steps_ = 0
        self.init_params_ = self._get_init_params(locals())

    @property
    def net(self) -> nn.Module:
        """The network."""
        found: nn.Module = self.module.net
        return found

    def _config(self) -> dict[str, Any]:
        return self.asked_ | {
            "network": _NETWORK,
            "sizes": self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            "subset": self.subset,
            "recipe": self.recipe_,
            "steps": self.steps_,
        }

    @classmethod
    def _from_config(cls, adata: AnnData, config: dict[str, Any]) -> Self:
        sizes = DifferentialConfig(**config["sizes"]).to_dict()  # what a config leaves out is not the preset's
        model = cls(adata, subset=int(config["subset"]), **sizes)
        model.asked_ = {name: config[name] for name in _KEPT if name in config}
        return model

    def train(
        self,
        max_epochs: int = 10,
        *,
        share: float = 0.5,
        steps_per_epoch: int = 50,
        batch_size: int = 16,
        n_validation: int = 16,
        validation_share: float = 0.2,
        min_cells: int = 8,
        lr: float = 3e-4,
        early_stopping: bool = False,
        prior: ShiftPrior | None = None,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: int | str | Sequence[int] = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on perturbations of your screen whose targets are known; fine-tune after :meth:`from_pretrained`.

        Steps on your screen alternate at random with steps on simulated causal models, so that what those taught is
        not forgotten. In part of the former the targets' own expression is hidden, wholly or in some of the cells:
        scores do not come to rest on it alone. Whole perturbations are held out for validation, with all others that
        share a target with them; a combination with targets on both sides is not used. A second call goes on with
        other steps and the same perturbations held out.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        share
            Share of the steps on your screen, above 0 and at most 1.
        steps_per_epoch
            Steps of the optimiser in an epoch.
        batch_size
            Perturbed sets in a step (fewer where there are more than 20 genes, for even cost).
        n_validation
            Steps on held-out perturbations that give ``validation_loss``; drawn once per call.
        validation_share
            Share of the perturbations that is held out, about; above 0 and at most 0.5.
        min_cells
            Fewest cells of a perturbation to be used, at least 3.
        lr
            Learning rate of AdamW, with warm-up and cool-down.
        early_stopping
            Stop when ``validation_loss`` has not fallen for five epochs.
        prior
            What causal models are drawn from; ``None`` = as for the released weights.
        num_workers
            Processes that prepare steps ahead.
        accelerator, devices
            ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device; ``[0, 1]`` for two that share every step
            (on the CPU two processes), with the same losses but for rounding. Then ``strategy="ddp"``, ... may be given.
        rng
            Seed or generator of split, cells and models. The same seed gives the same weights, whatever `num_workers`
            (on one kind of machine).
        progress_bar
            Show one.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`.

        Returns
        -------
        None. Losses are in ``.history``. ``validation_loss``: binary cross-entropy in nats of being a target, summed
        over genes, divided by ten, mean over held-out perturbations (the paper's L_I, but for the number of genes).
        ``train_loss``: the same of what is trained on, plus, for causal models, the cross-entropy of their edges (L_G).
        It varies with the mix of an epoch's steps: ``validation_loss`` tells how training goes.

        Raises
        ------
        ValueError
            If a number is out of range, no perturbation has a known target that is measured, fewer than four with
            `min_cells` cells have, or they share too many targets to hold some out.
        RuntimeError
            If the loss is not finite, or CUDA is asked for and absent.
        """
        at_least(max_epochs, 1, "max_epochs")
        at_least(num_workers, 0, "num_workers")
        _within(share, 1.0, "share")
        pick_devices(accelerator, devices)
        gen = generator(rng)
        recipe = Recipe(
            type(self).__name__,
            network=_NETWORK,
            sizes=self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            prior=asdict(Recipe.load(_RECIPE).shift_prior() if prior is None else prior),
            subset=self.subset,
            batch=at_least(batch_size, 1, "batch_size"),
            steps=max_epochs * at_least(steps_per_epoch, 1, "steps_per_epoch"),
            lr=lr,
            real_share=float(share),
            seed=int(gen.integers(2**31)),
        )
        n_validation = at_least(n_validation, 1, "n_validation")
        train, validation = self._steps(
            recipe, at_least(min_cells, MIN_CELLS, "min_cells"), _within(validation_share, 0.5, "validation_share"), gen
        )
        data = PairData(
            train, validation, per_epoch=steps_per_epoch, n_validation=n_validation, first=self.steps_,
            num_workers=num_workers,
        )  # fmt: skip
        if self.origin_:
            self.origin_["changed"] = True
        self.recipe_ = asdict(recipe)
        try:
            fit(
                self, Plan(self.module, lr=lr), data, max_epochs=max_epochs, early_stopping=early_stopping,
                accelerator=accelerator, devices=devices, progress_bar=progress_bar, **trainer_kwargs,
            )  # fmt: skip
        finally:
            self.steps_ = data.sampler.next

    def _steps(
        self, recipe: Recipe, min_cells: int, held_out: float, rng: np.random.Generator
    ) -> tuple[PairSteps, PairSteps]:
        """Steps for training and for validation; notes which perturbations are in which."""
        known = read_known(self.adata, min_cells=min_cells, rng=rng, **self._reading())
        split = split_by_gene(known, held_out, rng, earlier=self.split_.get("held_out", ()))
        self.split_ = {side: [known.names[i] for i in chosen] for side, chosen in vars(split).items()}
        apart = replace(recipe, seed=recipe.seed + 2**31, real_share=1.0)
        return PairSteps(recipe, known.part(split.train)), PairSteps(apart, known.part(split.held_out))

    def _reading(self) -> dict[str, Any]:
        """How the screen is to be read."""
        args = self._setup_args()
        return {name: args[name] for name in ("layer", "values", "batch_key", "regimes_key")}

    def get_targets(
        self,
        perturbations: str | Sequence[str] | None = None,
        *,
        n_draws: int = 4,
        candidates: Literal["auto", "all", "de"] | Sequence[str] = "auto",
        masked: bool = False,
        accelerator: str = "auto",
        devices: int | str = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
    ) -> pd.DataFrame:
        """Score every gene as a target of some perturbations. Writes nothing.

        The same numbers as ``causcade.tl.targets(adata, perturbations, model=self)``, which adds spread, null,
        baselines and a fused score.

        Parameters
        ----------
        perturbations
            Names of perturbations; ``None`` = all.
        n_draws, candidates, masked, accelerator, devices, rng, progress_bar
            As in :func:`causcade.tl.targets`.

        Returns
        -------
        Mean logits, one row per gene, one column per perturbation; NaN where the gene was no candidate.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If there is no such perturbation or candidate.
        ValueError
            If a parameter is out of range, or no perturbation has 3 cells.

        Warns
        -----
        UserWarning
            If perturbations have fewer than 3 usable cells: they get no column.
        """
        weights = self.as_weights()
        if not isinstance(masked, bool | np.bool_):
            msg = f"masked must be True or False, not {masked!r}."
            raise ValueError(msg)
        settings = TargetSettings(
            n_draws=at_least(n_draws, 1, "n_draws"),
            masked=bool(masked),
            device=pick_device(accelerator, devices),
            progress_bar=progress_bar,
        )
        gen = generator(rng)
        screen, pairs = read_perturbations(self.adata, perturbations, **self._reading())
        settings = replace(settings, candidates=_positions(candidates, screen))
        scores = score_targets(screen, pairs, weights, settings, gen)
        return pd.DataFrame(scores.mean, index=pd.Index(screen.genes), columns=pd.Index(scores.names))


def _positions(candidates: Any, screen: ScreenData) -> Any:
    """One of the words (checked where it is used), or positions of genes."""
    if isinstance(candidates, str):
        return candidates
    if not np.iterable(candidates):
        msg = f"candidates must be 'auto', 'all', 'de' or at least two names of genes, not {candidates!r}."
        raise ValueError(msg)
    return screen.find([str(c) for c in candidates])


def _within(value: Any, most: float, name: str) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 < value <= most:
        msg = f"{name} must be a number above 0 and at most {most:g}, not {value!r}."
        raise ValueError(msg)
    return float(value)
