"""A GraCE-VAE of an AnnData: its networks, and how they are fitted."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from scvi.module.base import LossOutput
from torch import nn

from causcade._checks import at_least, generator
from causcade._device import pick_device
from causcade.gracefit import GraceTrainer, PairedCells, Trained
from causcade.models import _grace_cells as cells
from causcade.models._base import ScreenModel
from causcade.models._module import NetModule
from causcade.networks import Network, match_network
from causcade.nn.gracevae import GraceConfig, GraceVAE
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.screendata import ScreenData

__all__ = ["GraCEVAEModule", "GraceModel"]


logger = logging.getLogger(__name__)


class GraCEVAEModule(NetModule):
    """The networks of :class:`GraCEVAE`, one for each fit; :mod:`causcade.gracefit` trains them."""

    def loss(self, *_: Any, **__: Any) -> LossOutput:
        """Not used: a step needs cells of one perturbation in pairs with controls, which a fit draws itself."""
        raise NotImplementedError


class GraceModel(ScreenModel):
    """What can be trained, saved and loaded; the questions are those of :class:`causcade.models.GraCEVAE`.

    Parameters
    ----------
    adata, network, variant, embedding_key, n_fits, rng, **choices
        As of that.
    """

    _module_cls = GraCEVAEModule
    _unconcerned = ("No measured gene was perturbed alone.*", ".*share no group of .obs.*")

    def __init__(
        self,
        adata: AnnData,
        network: pd.DataFrame | Network | None = None,
        variant: str = "grace",
        *,
        embedding_key: str | None = None,
        n_fits: int = 1,
        rng: int | np.random.Generator | None = 0,
        **choices: Any,
    ) -> None:
        super().__init__(adata)
        self.config = GraceConfig.variant(variant, **choices)
        self.network = _match(network, adata)
        if self.config.encoder == "multihot" and (self.network is None or "PG" not in self.network.edges):
            note = "encoder='multihot' needs gene sets (edges of kind 'PG'); without, the model works on genes alone (as CMVAE)."
            warnings.warn(note, UserWarning, stacklevel=2)
        if isinstance(network, Network):
            network = network.to_table()  # what is saved
        regimes = self._regimes()
        parts = cells.parts_of_regimes(regimes)
        #: Names of the perturbations, sorted; a combination joins several.
        self.perturbations = sorted({p for some in parts for p in some})
        self.targets = cells.targets_of(self.perturbations, regimes, list(map(str, adata.var_names)))
        self.embedding_key = embedding_key
        self._embedding(adata)
        seeds = generator(rng).integers(2**31 - 2, size=at_least(n_fits, 1, "n_fits")).tolist()
        self.module = self._module_cls(nn.ModuleList([self._untrained(seed) for seed in seeds]))
        self.temperature_ = [1.0] * n_fits
        #: Parts of each single perturbation or combination that training has learnt from.
        self.learnt_: list[tuple[str, ...]] = []
        self.genes_: list[str] = list(map(str, adata.var_names))
        network_told = "no network" if self.graph is None else repr(self.network)
        self._model_summary_string = (
            f"GraCE-VAE, variant {variant!r}: {adata.n_obs:,} cells x {adata.n_vars:,} genes, {len(self.perturbations):,} "
            f"perturbations, {self.nets[0].n_latent} programs, {network_told}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def nets(self) -> list[GraceVAE]:
        """The network of each fit."""
        return list(cast("Any", self.module.net))

    @property
    def graph(self) -> Any:
        """Edges of the network as the encoder sees them, or None."""
        return None if self.network is None or not _reaches_genes(self.network) else self.network.graph()

    def _untrained(self, seed: int) -> GraceVAE:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedding = self._embedding(self.adata)
            return GraceVAE(
                self.config, self.adata.n_vars, len(self.perturbations), graph=self.graph, targets=self.targets,
                n_embedding=0 if embedding is None else embedding.shape[1],
            ).eval()  # fmt: skip

    def _embedding(self, adata: AnnData) -> NDArray[np.float32] | None:
        key = self.embedding_key
        if key is None:
            return None
        if key not in adata.obsm:
            msg = f".obsm has no {key!r} (embedding_key).{suggest(key, adata.obsm)} It has {shorten(list(adata.obsm)) or 'nothing'}."
            raise KeyError(msg)
        found: Any = adata.obsm[key]
        found = np.asarray(found.toarray() if sparse.issparse(found) else found, dtype=np.float32)
        if not np.isfinite(found).all():
            msg = f".obsm[{key!r}] (embedding_key) holds NaN or infinite numbers."
            raise ValueError(msg)
        return cast("NDArray[np.float32]", found)

    def _quiet_screen(self) -> ScreenData:
        with warnings.catch_warnings():
            for text in self._unconcerned:
                warnings.filterwarnings("ignore", text)
            return self._screen()

    # --- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int | None = None,
        *,
        combinations: bool = True,
        early_stopping: bool = True,
        accelerator: str = "auto",
        devices: int | str = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
    ) -> None:
        """Fit to the cells; a second call starts anew.

        Parameters
        ----------
        max_epochs
            Epochs that the schedules are planned for; ``None`` = ``epochs`` of the model (100).
        combinations
            Learn from combinations that are in the data too; the paper learns from single perturbations alone.
        early_stopping
            Begin the last epochs, in which the learning rate falls, when the loss of held-out cells has not fallen for
            ``patience`` epochs.
        accelerator, devices
            ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device.
        rng
            Seed or generator of starts, batches, noise and held-out cells. On the CPU the same seed gives the same model.
        progress_bar
            Show one.

        Returns
        -------
        None. Losses are in ``.history``, one column per fit.

        Raises
        ------
        ValueError
            If a number is out of range, or there is too little to learn from.
        RuntimeError
            If the loss is not finite, or CUDA is asked for and absent.
        """
        config = self.config if max_epochs is None else self.config.but(epochs=at_least(max_epochs, 1, "max_epochs"))
        config = config if early_stopping else config.but(patience=None)
        device = pick_device(accelerator, devices)
        seeds = generator(rng).integers(2**31 - 2, size=len(self.nets)).tolist()
        data = cells.paired_cells(
            self._quiet_screen(), self._regimes(), self.perturbations, self._embedding(self.adata),
            combinations=combinations,
        )  # fmt: skip
        fits: list[Trained] = []
        begun: list[GraceTrainer] = []
        try:
            for seed in seeds:
                begun.append(
                    GraceTrainer(data, config, graph=self.graph, targets=self.targets, seed=seed, device=device)
                )
                fits.append(begun[-1].run(progress_bar=progress_bar))
        except KeyboardInterrupt:
            if len(begun) > len(fits) and begun[-1].epoch:
                fits.append(begun[-1].result())
            if fits:
                logger.warning(
                    "interrupted: the model keeps %s of %s fits, the last of %s epochs",
                    len(fits),
                    len(seeds),
                    len(fits[-1].history["loss"]),
                )
                self._keep(fits, data, begun[0].regimes)
            raise
        self._keep(fits, data, begun[0].regimes)

    def _keep(self, fits: list[Trained], data: PairedCells, regimes: Sequence[int]) -> None:
        self.init_params_["non_kwargs"]["n_fits"] = len(fits)  # what a saved model is built anew with
        self.module.net = nn.ModuleList([fit.net for fit in fits])
        self.temperature_ = [fit.temperature for fit in fits]
        self.learnt_ = [tuple(self.perturbations[i] for i in data.parts[regime]) for regime in regimes]
        self.history_ = {
            name: pd.concat([pd.Series(fit.history[name], name=i) for i, fit in enumerate(fits)], axis=1)
            for name in fits[0].history
        }
        self.is_trained_ = True
        self.module.eval()

    def _check(self) -> None:
        if not self.is_trained_:
            msg = "This GraCEVAE is not trained. Call .train() first."
            raise RuntimeError(msg)
        if self.genes_ != list(map(str, self.adata.var_names)):  # scvi-tools loads it with a warning alone
            msg = "The genes of this AnnData are not those of the saved model, in their order. Load with adata[:, model.genes_].copy()."
            raise ValueError(msg)

    def _known(self) -> list[int]:
        """Numbers of the perturbations that training has learnt from, alone or in combinations."""
        return [i for i, name in enumerate(self.perturbations) if any(name in some for some in self.learnt_)]

    def _net(self, fit: int) -> GraceVAE:
        """A fit, on the CPU."""
        self._check()
        if isinstance(fit, bool) or not isinstance(fit, int) or not 0 <= fit < len(self.nets):
            msg = f"fit must be a whole number from 0 to {len(self.nets) - 1}, not {fit!r}."
            raise ValueError(msg)
        net = self.nets[fit]
        return net if net.inner.weight.device.type == "cpu" else copy.deepcopy(net).cpu()


def _match(network: pd.DataFrame | Network | None, adata: AnnData) -> Network | None:
    if network is None:
        return None
    if isinstance(network, Network):
        found = network
    else:
        listed = getattr(network, "attrs", {}).get("pathways")  # of a network that was saved
        found = match_network(network, adata, pathways="measured" if listed is None else listed)
    if list(found.genes) != list(map(str, adata.var_names)):
        msg = (
            "The network was matched to other genes than those of this AnnData. Call match_network(table, adata) again."
        )
        raise ValueError(msg)
    if not _reaches_genes(found):
        note = "The network has no edge to a measured gene, so the model works without one (as CMVAE)."
        warnings.warn(note, UserWarning, stacklevel=3)
    return found


def _reaches_genes(network: Network) -> bool:
    return any(ends.shape[1] for kind, ends in network.edges.items() if kind != "PP")
