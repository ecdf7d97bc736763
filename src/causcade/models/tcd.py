"""TCD: targeted cause discovery, an amortized model of which genes drive a gene."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, Self

import pandas as pd
from scvi.module.base import LossOutput, auto_move_data
from torch import Tensor, nn
from torch.nn import functional as F

from causcade._checks import at_least, check_compose
from causcade._device import pick_device, pick_devices
from causcade.causes import Compose, Settings, score_causes
from causcade.models._base import CausalModel
from causcade.models._module import NetModule
from causcade.models._networks import untrained
from causcade.models._training import Design, EpisodeData, Episodes, Plan, fit, like_screen
from causcade.pretrain import Recipe
from causcade.simulate._random import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData

    from causcade.simulate.episodes import ScreenPrior

__all__ = ["TCD", "TCDModule"]

Preset = Literal["base", "paper"]
_NETWORK = {"base": "pairs", "paper": "cells"}


class TCDModule(NetModule):
    """Network and loss of :class:`TCD`. One item of a minibatch is a set of genes of one screen.

    Parameters
    ----------
    net
        A :class:`causcade.nn.pair_stream.PairStream` or :class:`causcade.nn.cells.CellStream`.
    """

    def _get_inference_input(self, tensors: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return {"x": tensors["x"]}

    @auto_move_data
    def inference(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(batch, genes, genes)``, [cause, effect].

        ``x`` is ``(batch, genes, genes, features)`` for pairs, ``(batch, cells, genes, 2)`` for cells.
        """
        return {"logits": self.net(x).float()}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Tensor]
    ) -> LossOutput:
        """Binary cross-entropy of "is an ancestor", mean over ordered pairs of different genes (TCD-DL, section 4)."""
        valid = tensors["valid"]  # off the diagonal
        loss = F.binary_cross_entropy_with_logits(inference_outputs["logits"][valid], tensors["labels"][valid])
        return LossOutput(loss=loss * tensors.get("share", 1.0), n_obs_minibatch=len(valid))

    def n_items(self, tensors: dict[str, Tensor]) -> int:
        """Sets of genes."""
        return len(tensors["valid"])

    def part(self, tensors: dict[str, Tensor], rows: Sequence[int], *, counts: bool = True) -> dict[str, Tensor]:
        """Some sets of genes; their loss has the weight of their pairs."""
        some = {name: value[list(rows)] for name, value in tensors.items()}
        return some | {"share": counts * some["valid"].sum() / tensors["valid"].sum()}


class TCD(CausalModel):
    """Targeted cause discovery: which genes drive this gene, directly or through others?

    A network is trained on simulated screens, whose causes are known, and asked about yours. Most users want
    :meth:`from_pretrained`, or just :func:`causcade.tl.causes`.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    preset
        ``"base"``: a transformer over pairs of genes, fed with statistics of the regimes. ``"paper"``: the published
        transformer over cells and genes (TCD-DL, appendix B.1); slower, and for counts or expression only.
    subset
        Genes of a training item; ``"base"`` scores twice as many together, ``"paper"`` as many.
    cells
        ``"paper"``: cells in a forward pass.
    rng
        Seed or generator of the first weights.
    **sizes
        Of the network, instead of the preset's: ``width``, ``layers``, ``heads``, ``hidden``, ... of
        :class:`causcade.nn.pair_stream.PairStreamConfig` or :class:`causcade.nn.cells.CellStreamConfig`.

    Raises
    ------
    ValueError
        If the preset or a size is unknown, a size is out of range, or `adata` was not set up.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=5, rng=0)
    >>> cc.models.TCD.setup_anndata(adata)
    >>> model = cc.models.TCD(adata, width=8, layers=1, heads=1, hidden=8, paths=0)
    >>> model.train(1, episodes_per_epoch=2, n_validation=1, progress_bar=False)
    >>> model.get_causes(["G001"], progress_bar=False).shape
    (20, 1)
    """

    _module_cls = TCDModule

    def __init__(
        self,
        adata: AnnData,
        preset: Preset = "base",
        *,
        subset: int = 96,
        cells: int = 200,
        rng: int | np.random.Generator | None = 0,
        **sizes: Any,
    ) -> None:
        super().__init__(adata)
        if preset not in _NETWORK:
            msg = f"preset must be one of {list(_NETWORK)}, not {preset!r}."
            raise ValueError(msg)
        self.preset, self.subset = preset, at_least(subset, 3, "subset")
        self.cells = at_least(cells, 2, "cells")
        self.module = self._module_cls(untrained(_NETWORK[preset], sizes, rng))
        self._model_summary_string = (
            f"TCD, preset {preset!r}: {adata.n_obs:,} cells x {adata.n_vars:,} genes, "
            f"{sum(p.numel() for p in self.net.parameters()):,} parameters"
        )
        self.recipe_: dict[str, Any] = {}
        self.episodes_ = 0
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
            "subset": self.subset,
            "cells": self.cells,
            "recipe": self.recipe_,
            "steps": self.episodes_,
        }

    @classmethod
    def _from_config(cls, adata: AnnData, config: dict[str, Any]) -> Self:
        (preset,) = [p for p, network in _NETWORK.items() if network == config["network"]]
        return cls(adata, preset, subset=int(config["subset"]), cells=int(config["cells"]), **config["sizes"])  # type: ignore[arg-type]

    def train(
        self,
        max_epochs: int = 20,
        *,
        episodes_per_epoch: int = 50,
        batch_size: int = 4,
        n_validation: int = 8,
        lr: float = 1e-3,
        early_stopping: bool = False,
        prior: ScreenPrior | None = None,
        num_workers: int = 0,
        accelerator: str = "auto",
        devices: int | str | Sequence[int] = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on simulated screens that resemble yours; fine-tune after :meth:`from_pretrained`.

        Your expression is not used: only the design of the screen (numbers of genes, controls and cells, share of
        genes perturbed). A second call goes on with new screens. A composition (`rounds`) stays as it was, also where it was
        learned for the scores of other weights, or, of a new network, not at all.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        episodes_per_epoch
            Screens simulated in an epoch, each for one step of the optimiser.
        batch_size
            Sets of genes taken from a screen.
        n_validation
            Screens held out for ``validation_loss``; drawn once per call.
        lr
            Learning rate of AdamW, with warm-up and cool-down.
        early_stopping
            Stop when ``validation_loss`` has not fallen for five epochs.
        prior
            What screens are drawn from; ``None`` = like yours.
        num_workers
            Processes that simulate ahead (on the CPU; with 0 and one device, screens are simulated where the network
            trains).
        accelerator, devices
            ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device; ``[0, 1]`` for two that share every step
            (on the CPU two processes), with the same losses but for rounding. Then ``strategy="ddp"``, ... may be given.
        rng
            Seed or generator of the screens. The same seed gives the same weights, whatever `num_workers` (on one
            kind of machine).
        progress_bar
            Show one.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`.

        Returns
        -------
        None. Losses are in ``.history``: ``train_loss`` and ``validation_loss``, mean binary cross-entropy in nats.

        Raises
        ------
        ValueError
            If a number is out of range.
        RuntimeError
            If the loss is not finite, or CUDA is asked for and absent.
        """
        at_least(max_epochs, 1, "max_epochs")
        at_least(num_workers, 0, "num_workers")
        places = pick_devices(accelerator, devices)
        recipe = Recipe(
            type(self).__name__,
            network=_NETWORK[self.preset],
            sizes=self.net.config.to_dict(),  # type: ignore[operator,union-attr]
            subset=self.subset,
            cells=self.cells,
            batch=at_least(batch_size, 1, "batch_size"),
            lr=lr,
            assays=min(2, batch_size),
            seed=int(numpy_generator(rng).integers(2**31)),
        )
        prior, design = self._like_mine() if prior is None else (prior, Design())
        data = EpisodeData(
            Episodes(recipe, prior, design, "cpu" if num_workers or len(places) > 1 else places[0]),
            per_epoch=at_least(episodes_per_epoch, 1, "episodes_per_epoch"),
            n_validation=at_least(n_validation, 1, "n_validation"),
            first=self.episodes_,
            num_workers=num_workers,
        )
        if self.origin_:
            self.origin_["changed"] = True
        self.recipe_ = asdict(recipe) | {"prior": prior.to_dict(), "design": asdict(design)}
        try:
            fit(
                self, Plan(self.module, lr=lr), data, max_epochs=max_epochs, early_stopping=early_stopping,
                accelerator=accelerator, devices=devices, progress_bar=progress_bar, **trainer_kwargs,
            )  # fmt: skip
        finally:
            self.episodes_ = data.sampler.next

    def _like_mine(self) -> tuple[ScreenPrior, Design]:
        args = self._setup_args()
        key = args["batch_key"]
        n_groups = 1 if key is None else int(self.adata.obs[key].nunique())
        return like_screen(self._regimes(), self.adata.n_vars, values=args["values"], n_groups=n_groups)

    def get_causes(
        self,
        genes: str | Sequence[str] | None = None,
        *,
        n_draws: int = 2,
        subset_size: int | None = None,
        n_anchors: int = 0,
        stable: float | None = None,
        compose: Compose = True,
        accelerator: str = "auto",
        devices: int | str = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
    ) -> pd.DataFrame:
        """Score every gene as a cause of some genes. Writes nothing.

        The same numbers as ``causcade.tl.causes(adata, genes, model=self)``, which adds spread, null and baselines.

        Parameters
        ----------
        genes
            Effect genes; ``None`` = all.
        n_draws, subset_size, n_anchors, stable, compose, accelerator, devices, rng, progress_bar
            As in :func:`causcade.tl.causes`.

        Returns
        -------
        Mean logits, one row per cause (all genes), one column per effect. The entry of a gene with itself means
        nothing.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If a gene is not measured.
        ValueError
            If a parameter is out of range.
        """
        weights = self.as_weights()
        settings = Settings(
            n_draws=at_least(n_draws, 1, "n_draws"),
            n_half=0,
            size=None if subset_size is None else at_least(subset_size, 3, "subset_size"),
            n_anchors=at_least(n_anchors, 0, "n_anchors"),
            stable=stable,
            compose=check_compose(compose),
            device=pick_device(accelerator, devices),
            progress_bar=progress_bar,
        )
        gen = numpy_generator(rng)
        screen = self._screen()
        wanted = None if genes is None else screen.find(genes if isinstance(genes, str) else list(genes))
        scores = score_causes(screen, weights, wanted, settings, gen)
        columns = screen.genes if wanted is None else screen.genes[wanted]
        return pd.DataFrame(scores.mean, index=pd.Index(screen.genes), columns=pd.Index(columns))
