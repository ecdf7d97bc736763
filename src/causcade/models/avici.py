"""AVICI: amortized causal structure learning, a model of which genes act directly on which."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import pandas as pd
import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.utils.data import Dataset

from causcade._checks import at_least, generator
from causcade._device import pick_device, pick_devices
from causcade.graphs import MOST_CELLS, GraphSettings, Others, edge_probabilities, read_graph_cells
from causcade.models._base import CausalModel
from causcade.models._module import NetModule
from causcade.models._networks import untrained
from causcade.models._pair_training import PairData, PairSteps
from causcade.models._training import Plan, fit
from causcade.nn.acyclic import DualState, acyclicity_penalty, edge_bce
from causcade.pretrain import Recipe
from causcade.pretrain.graph_task import GraphBatch, GraphBatches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from causcade.simulate.domains import GraphPrior

__all__ = ["AVICI", "AVICIModule"]

Preset = Literal["base", "paper"]
_NETWORK = {"base": "edges", "paper": "avici"}
_RECIPE = {"counts": "avici-grn", "expression": "avici-grn", "log": "avici-scm"}  # by the values of the user
_PAPER: dict[str, Any] = {
    "width": 128, "heads": 8, "head_width": 32, "hidden": 512, "layers": 8, "feeds": 2, "out": 128,
}  # fmt: skip
_SUBSET = 100  # genes that go through the network together; all weights must say so
_ENDLESS = 2**31  # steps; a sampler says when to stop


class AVICIModule(NetModule):
    """Network and loss of :class:`AVICI`. A minibatch is some simulated data sets of one size.

    Parameters
    ----------
    net
        A :class:`causcade.nn.edge_stream.EdgeStream` or :class:`causcade.nn.avici.Avici`.

    Attributes
    ----------
    dual
        Multiplier of the acyclicity penalty.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.dual = DualState(lr=0)

    def _get_inference_input(self, tensors: dict[str, Any], *_: Any, **__: Any) -> dict[str, GraphBatch]:
        return {"step": tensors["step"]}

    def inference(self, step: GraphBatch) -> dict[str, Tensor]:
        """Logits ``(batch, genes, genes)``, [cause, effect]."""
        return {"logits": self.net(step.values, step.mask, step.missing)}

    def loss(self, tensors: dict[str, Any], inference_outputs: dict[str, Tensor], *_: Any) -> LossOutput:
        """Binary cross-entropy of the edges and, in training, the penalty of cycles (AVICI, sections 3.2 and 4.3)."""
        logits, share = inference_outputs["logits"], tensors.get("share", 1.0)
        loss = edge_bce(logits, tensors["step"].adjacency)
        told = {}
        if self.training and self.dual.lr:
            start = tensors["start"] if "start" in tensors else self._start(tensors)
            penalty = acyclicity_penalty(logits, start=start)
            loss = loss + self.dual.weight * penalty
            told = {"penalty": penalty.detach() * share}
        return LossOutput(loss=loss * share, n_obs_minibatch=len(logits), extra_metrics=told)

    def _start(self, tensors: dict[str, Any]) -> Tensor:
        """Start of the power iterations of each data set, the same whatever part of the step they are in."""
        adjacency = tensors["step"].adjacency
        rng = torch.Generator(adjacency.device).manual_seed(self.dual.calls)
        return torch.randn(2, *adjacency.shape[:2], generator=rng, device=adjacency.device)

    def n_items(self, tensors: dict[str, Any]) -> int:
        """Data sets."""
        return len(tensors["step"].adjacency)

    def part(self, tensors: dict[str, Any], rows: Sequence[int], *, counts: bool = True) -> dict[str, Any]:
        """Some data sets."""
        step = GraphBatch(*(value[list(rows)] for value in vars(tensors["step"]).values()))
        share = counts * len(rows) / self.n_items(tensors)
        return {"step": step, "share": share, "start": self._start(tensors)[:, list(rows)]}

    def after_step(self, penalty: float) -> None:
        """Raise the multiplier of the penalty."""
        if self.dual.lr:
            self.dual.update(penalty)

    def state(self) -> dict[str, Any]:
        """The multiplier."""
        return self.dual.state_dict()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a multiplier."""
        self.dual.load_state_dict(state)


class AVICI(CausalModel):
    """Amortized causal structure learning: what is the causal graph among these genes, and how sure is each edge?

    A network is trained on simulated cells whose graph is known, and asked about yours. Most users want
    :meth:`from_pretrained`, or just :func:`causcade.tl.graph`, which also takes continuous values and cells without
    regimes.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    preset
        ``"base"``: the network of the released weights, fed with statistics of all pairs of genes. ``"paper"``: the
        published one, with attention over cells and over genes; slower.
    rng
        Seed or generator of the first weights.
    **sizes
        Of the network, instead of the preset's: ``width``, ``layers``, ``heads``, ``hidden``, ... of
        :class:`causcade.nn.edge_stream.EdgeStreamConfig` or :class:`causcade.nn.avici.AviciConfig`.

    Raises
    ------
    ValueError
        If the preset or a size is unknown, a size is out of range, or `adata` was not set up.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=8, rng=0)
    >>> cc.models.AVICI.setup_anndata(adata)
    >>> model = cc.models.AVICI(adata, width=8, layers=1, heads=1, hidden=8, triads=1)
    >>> prior = cc.simulate.domains.GraphPrior(domains={"linear": 1.0}, genes={"5": 1.0}, cells=(50, 50))
    >>> model.train(1, steps_per_epoch=2, n_validation=1, prior=prior, progress_bar=False)
    >>> model.get_graph(["G001", "G002", "G003"], progress_bar=False).shape
    (3, 3)
    """

    _module_cls = AVICIModule

    def __init__(
        self,
        adata: AnnData,
        preset: Preset = "base",
        *,
        rng: int | np.random.Generator | None = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata)
        if preset not in _NETWORK:
            msg = f"preset must be one of {list(_NETWORK)}, not {preset!r}."
            raise ValueError(msg)
        self.preset = preset
        start = _PAPER if preset == "paper" else Recipe.load("avici-grn").sizes
        self.module = self._module_cls(untrained(_NETWORK[preset], start | sizes, rng))
        self._model_summary_string = (
            f"AVICI, preset {preset!r}: {adata.n_obs:,} cells x {adata.n_vars:,} genes, "
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters"
        )
        self.recipe_: dict[str, Any] = {}
        self.dual_: dict[str, Any] = {}
        self.steps_ = 0
        self.init_params_ = self._get_init_params(locals())

    @property
    def net(self) -> nn.Module:
        """The network."""
        found: nn.Module = self.module.net
        return found

    def _config(self) -> dict[str, Any]:
        return {
            "network": _NETWORK[self.preset],
            "sizes": self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            "subset": _SUBSET,
            "recipe": self.recipe_,
            "steps": self.steps_,
        }

    @classmethod
    def _from_config(cls, adata: AnnData, config: dict[str, Any]) -> Self:
        (preset,) = [p for p, network in _NETWORK.items() if network == config["network"]]
        model = cls(adata, preset, **config["sizes"])  # type: ignore[arg-type]
        model.recipe_ = dict(config.get("recipe") or {})  # what fine-tuning goes on with
        return model

    def train(
        self,
        max_epochs: int = 20,
        *,
        steps_per_epoch: int = 100,
        batch_size: int = 8,
        n_validation: int = 16,
        lr: float = 1e-3,
        early_stopping: bool = False,
        prior: GraphPrior | None = None,
        acyclic: dict[str, Any] | None = None,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: int | str | Sequence[int] = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on simulated data sets whose graph is known; fine-tune after :meth:`from_pretrained`.

        Your cells are not used: nobody knows their graph. A second call goes on with other data sets.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        steps_per_epoch
            Steps of the optimiser in an epoch.
        batch_size
            Data sets in a step (of 20 genes; fewer of larger, more of smaller ones, for even cost).
        n_validation
            Steps on other data sets that give ``validation_loss``; drawn once per call.
        lr
            Learning rate of AdamW, with warm-up and cool-down.
        early_stopping
            Stop when ``validation_loss`` has not fallen for five epochs.
        prior
            What data sets are drawn from (:class:`causcade.simulate.domains.GraphPrior`); ``None`` = as the weights
            were trained, or for new ones as the released weights for your kind of values: gene networks for counts and
            expression, causal models for log values.
        acyclic
            Arguments of :class:`causcade.nn.acyclic.DualState`, the multiplier of the penalty of cycles; ``{"lr": 0}``
            leaves them alone, ``None`` = as in the recipe.
        num_workers
            Processes that simulate ahead.
        accelerator, devices
            ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device; ``[0, 1]`` for two that share every step
            (on the CPU two processes), with the same losses but for rounding. Then ``strategy="ddp"``, ... may be given.
        rng
            Seed or generator of the data sets. The same seed gives the same weights, whatever `num_workers` (on one
            kind of machine).
        progress_bar
            Show one.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`.

        Returns
        -------
        None. Losses are in ``.history``. ``validation_loss``: binary cross-entropy of the edges, mean over pairs of
        genes, in nats. ``train_loss``: the same of what is trained on, plus the penalty of cycles.

        Raises
        ------
        ValueError
            If a number is out of range.
        RuntimeError
            If the loss is not finite, or CUDA is asked for and absent.
        """
        at_least(max_epochs, 1, "max_epochs")
        at_least(num_workers, 0, "num_workers")
        pick_devices(accelerator, devices)
        start = self._start()
        recipe = Recipe(
            type(self).__name__,
            network=_NETWORK[self.preset],
            sizes=self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            prior=asdict(start.graph_prior() if prior is None else prior),
            subset=_SUBSET,
            batch=at_least(batch_size, 1, "batch_size"),
            steps=max_epochs * at_least(steps_per_epoch, 1, "steps_per_epoch"),
            lr=lr,
            acyclic=start.acyclic if acyclic is None else dict(acyclic),
            seed=int(generator(rng).integers(2**31)),
        )
        dual = DualState(**recipe.acyclic)
        if self.dual_:
            dual.load_state_dict(self.dual_)
        apart = replace(recipe, seed=recipe.seed + 2**31)
        data = PairData(
            _steps(recipe), _steps(apart), per_epoch=steps_per_epoch,
            n_validation=at_least(n_validation, 1, "n_validation"), first=self.steps_, num_workers=num_workers,
        )  # fmt: skip
        if self.origin_:
            self.origin_["changed"] = True
        self.recipe_, self.module.dual = asdict(recipe), dual
        try:
            fit(
                self, Plan(self.module, lr=lr), data, max_epochs=max_epochs, early_stopping=early_stopping,
                accelerator=accelerator, devices=devices, progress_bar=progress_bar, **trainer_kwargs,
            )  # fmt: skip
        finally:
            self.steps_, self.dual_ = data.sampler.next, dual.state_dict()

    def _start(self) -> Recipe:
        """The recipe whose prior and penalty are the default."""
        found = Recipe.load(_RECIPE[self._setup_args()["values"]])
        kept = {name: self.recipe_[name] for name in ("prior", "acyclic") if name in self.recipe_}
        return replace(found, **kept)

    def get_graph(
        self,
        genes: Sequence[str],
        *,
        others: Others = "drop",
        max_cells: int = MOST_CELLS,
        subset_size: int = 100,
        accelerator: str = "auto",
        devices: int | str = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
    ) -> pd.DataFrame:
        """Give the probability of every edge among some genes. Writes nothing.

        The same numbers as ``causcade.tl.graph(adata, genes, model=self)``, which adds spread, a called graph and
        baselines.

        Parameters
        ----------
        genes
            Nodes of the graph: 2 to 1,000 names.
        others, max_cells, subset_size, accelerator, devices, rng, progress_bar
            As in :func:`causcade.tl.graph`.

        Returns
        -------
        One row per cause, one column per effect, with a diagonal of 0.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If a gene is not measured.
        ValueError
            If a gene is named twice or has fewer than 3 cells in which it was not perturbed, or a parameter is out of
            range.

        Warns
        -----
        UserWarning
            As :func:`causcade.tl.graph`.
        """
        weights = self.as_weights()
        settings = GraphSettings(
            n_draws=0,
            subset_size=at_least(subset_size, 2, "subset_size"),
            device=pick_device(accelerator, devices),
            progress_bar=progress_bar,
        )
        gen = generator(rng)
        args = self._setup_args()
        how = {name: args[name] for name in ("layer", "values", "batch_key", "regimes_key")}
        cells = read_graph_cells(self.adata, genes, **how, others=others, max_cells=max_cells, rng=gen)
        probability = edge_probabilities(cells, weights, settings, gen)
        return pd.DataFrame(probability, index=pd.Index(cells.genes), columns=pd.Index(cells.genes))


class _Steps(Dataset[dict[str, GraphBatch]]):
    """Endless steps; number ``i`` depends on the seed and ``i`` alone, whoever makes it and when."""

    def __init__(self, batches: GraphBatches) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> dict[str, GraphBatch]:
        """Step ``index``, under the key ``"step"``."""
        return {"step": self.batches[index]}


def _steps(recipe: Recipe) -> PairSteps:
    by_pairs = recipe.network == "edges"
    batches = GraphBatches(recipe.graph_prior(), recipe.seed, recipe.batch, _ENDLESS, by_pairs=by_pairs)
    return cast("PairSteps", _Steps(batches))  # steps are all that is asked of them
