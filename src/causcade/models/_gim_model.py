"""Fits of a GIM from an AnnData: choices, training that can be gone on with, and files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from causcade._checks import at_least, generator
from causcade._device import pick_device
from causcade.gimfit import GimConfig, GimFit
from causcade.models._gim_core import TreatmentModel
from causcade.models._gim_files import read_folder, write_folder
from causcade.models._gim_training import Runs
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["GimModel"]

Preset = Literal["quick", "paper"]
_MANY_DRAWS = 16
_MANY_GENES = 50  # with drawn graphs: 0.7 s a step with linear mechanisms, 8 s with networks; 41 s and 15 GB at 200
_FEW_CELLS, _TUNED_CELLS = 1000, 8800  # the quick prior of the networks, made for many, holds few at the controls
_DECIDED = ("n_fits", "minutes", "patience")  # choices that belong to train


class GimModel(TreatmentModel):
    """What can be trained, saved and loaded; the questions are those of :class:`causcade.models.GIM`.

    Parameters
    ----------
    adata, genes, n_components, **choices
        As of that.
    """

    def __init__(
        self,
        adata: AnnData,
        genes: Sequence[str] | None = None,
        *,
        preset: Preset = "quick",
        n_components: int | None = None,
        **choices: Any,
    ) -> None:
        self.config = _check_choices(choices, preset)
        super().__init__(adata, genes, n_components)
        n = len(self._treated.cells)
        if preset == "quick" and "variance_networks" not in choices and n < _FEW_CELLS:
            self.config = replace(self.config, variance_networks=self.config.variance_networks * _TUNED_CELLS / n)
        if self._setup_args()["batch_key"] is not None and self.config.mechanism == "zero_inflated":
            msg = "mechanism='zero_inflated' needs values as they are, so it cannot be used with batch_key."
            raise ValueError(msg)
        self.n_components = n_components
        self._runs = Runs(self.config)
        self._model_summary_string = (
            f"GIM, {self.config.mechanism}, {self.config.intervention} interventions: {len(self._treated.cells):,} cells x "
            f"{len(self.genes)} genes, {len(self.treatments) - 1} treatments"
        )

    # --- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        max_steps: int | None = None,
        *,
        n_fits: int = 1,
        minutes: float | None = None,
        early_stopping: bool = True,
        accelerator: str = "auto",
        devices: int | str = "auto",
        rng: int | np.random.Generator | None = 0,
        progress_bar: bool = True,
    ) -> None:
        """Fit, or go on with what was interrupted.

        The state is kept every 20 steps: a fit that was interrupted (also by an error, or by `minutes`) goes on from
        there in the next call, as if nothing had happened. When all fits are finished, another call trains them further.

        Parameters
        ----------
        max_steps
            Steps that new fits are planned for; the schedules of their costs depend on it. ``None`` = ``steps`` of the
            model. For finished fits: steps to go on for.
        n_fits
            Fits from different starts, which give the spread; fits that are there count.
        minutes
            Stop after this time in this call, wherever it is; ``None`` = no limit.
        early_stopping
            Stop a fit when the held-out log likelihood has not risen for ``patience`` looks (2,000 steps) after all schedules
            have ended. Those of the quick preset end in the last tenth of its steps: only a longer fit can stop so.
        accelerator, devices
            ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device.
        rng
            Seed or generator of starts, draws and held-out cells of new fits. On the CPU the same seed gives the same.
        progress_bar
            Show one.

        Returns
        -------
        None. The terms of the objective are in ``.history``, why each fit stopped in ``.stopped``.

        Raises
        ------
        ValueError
            If a number is out of range, or the cells are not those of an earlier call.
        RuntimeError
            If the objective is no longer finite, or CUDA is asked for and absent.

        Warns
        -----
        UserWarning
            If there are so many genes that a step takes seconds on the CPU.
        """
        n_fits = at_least(n_fits, 1, "n_fits")
        max_steps = None if max_steps is None else at_least(max_steps, 1, "max_steps")
        checked = replace(self.config, minutes=minutes)  # refuses what is no time
        device = pick_device(accelerator, devices)
        if device == "cpu" and len(self.genes) > _MANY_GENES and self.config.n_samples > _MANY_DRAWS:
            note = f"{len(self.genes)} genes on the CPU: a step takes seconds. Take preset='quick', fewer genes, or a lower n_samples."
            warnings.warn(note, UserWarning, stacklevel=2)
        seeds = generator(rng).integers(2**31 - 2, size=n_fits).tolist()
        try:
            self._runs.train(
                self.environments(), seeds, max_steps=max_steps, minutes=checked.minutes,
                patience=self.config.patience if early_stopping else None, device=device, progress_bar=progress_bar,
            )  # fmt: skip
        finally:
            self._note()

    def _note(self) -> None:
        """Take over what the fits say."""
        self.is_trained_ = bool(self._runs.used)
        if self.is_trained_:
            each = [pd.DataFrame(h).set_index("step") for h in self.fitted.history]
            names = [] if not each else list(each[0].columns)
            self.history_ = {name: pd.concat([h[name] for h in each], axis=1, keys=range(len(each))) for name in names}

    @property
    def fitted(self) -> GimFit:
        """The fits as arrays: those that stopped, or before any did, those that were begun.

        Raises
        ------
        RuntimeError
            If there are none.
        """
        if not self._runs.used:
            msg = "This GIM is not trained. Call .train(), or load one: GIM.load(folder, adata)."
            raise RuntimeError(msg)
        return self._runs.result()

    @property
    def digest(self) -> str:
        """Checksum of the cells and features of training."""
        return self._runs.digest

    @property
    def stopped(self) -> list[str]:
        """Why each fit stopped: ``"steps"``, ``"time"``, ``"converged"``; empty for one that was interrupted."""
        return [run.stopped for run in self._runs.runs]

    # --- files ------------------------------------------------------------------------------------------------------

    def save(self, dir_path: str | Path, *, overwrite: bool = False, save_anndata: bool = False) -> None:  # type: ignore[override]
        """Write the model to a folder: ``model.safetensors`` and ``config.json``. Training can go on from there.

        Parameters
        ----------
        dir_path
            Folder; made if it is not there.
        overwrite
            Replace a model that is there.
        save_anndata
            Write the data as well, to ``adata.h5ad``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is a model in the folder and `overwrite` is false.
        """
        _ = self.fitted
        args = {name: value for name, value in self._setup_args().items() if name != "targets"}
        config = {
            "model": "GIM",
            "setup": args,
            "genes": list(self.genes),
            "n_components": self.n_components,
            "treatments": [
                [t.name, list(t.parts), [None if np.isnan(d) else d for d in t.doses]] for t in self.treatments
            ],
            "library_size": None if np.isnan(self.library_size) else self.library_size,
            **self._runs.plain(),
        }
        write_folder(Path(dir_path), config, self._runs.tensors(), overwrite=overwrite)
        if save_anndata:
            self.adata.write_h5ad(Path(dir_path) / "adata.h5ad")

    @classmethod
    def load(cls, dir_path: str | Path, adata: AnnData | None = None) -> Self:  # type: ignore[override]
        """Read what :meth:`save` wrote. No pickle is read.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            The data of training; ``None`` = those that were saved with the model. It is set up as it was then; ``targets``
            are read from its regimes, if it has some.

        Returns
        -------
        The model, with the same predictions; :meth:`train` would go on.

        Raises
        ------
        ValueError
            If there is no such model, or the treatments, their features or the total counts are not those of training.
        RuntimeError
            If the files are damaged.
        """
        config, tensors = read_folder(Path(dir_path))
        if adata is None:
            from anndata import read_h5ad

            adata = read_h5ad(Path(dir_path) / "adata.h5ad")
        args = dict(config["setup"])
        if args["regimes_key"] in adata.uns:
            args |= {"perturbation_key": None, "control": None, "sep": "+", "gene_symbols": None, "min_cells": 2}
        cls.setup_anndata(adata, **args)
        choices = {k: v for k, v in config["config"].items() if k not in _DECIDED[:2]}
        model = cls(adata, config["genes"], preset="paper", n_components=config["n_components"], **choices)
        model._runs = Runs.rebuilt(config, tensors)
        model._check_loaded(config)
        model._note()
        return model

    def _check_loaded(self, config: dict[str, Any]) -> None:
        """Refuse other treatments than those of training: the fits would be asked about the wrong ones."""
        saved = [
            (name, tuple(parts), [np.nan if d is None else d for d in doses])
            for name, parts, doses in config["treatments"]
        ]
        now = [(t.name, t.parts, list(t.doses)) for t in self.treatments]
        same = len(saved) == len(now) and all(
            a[:2] == b[:2] and np.array_equal(a[2], b[2], equal_nan=True) for a, b in zip(saved, now, strict=True)
        )
        if not same or not np.array_equal(self._runs.features, self.features(self.treatments).astype(np.float32)):
            msg = "The perturbations, doses or features of this AnnData are not those the model was trained on."
            raise ValueError(msg)
        size = np.nan if config["library_size"] is None else float(config["library_size"])
        if not np.isclose(self.library_size, size, rtol=1e-6, equal_nan=True):
            msg = (
                f"Controls of this AnnData have a median total of {self.library_size:g}, those the model was trained on "
                f"{size:g}: pass the same data, with all their genes."
            )
            raise ValueError(msg)


def _check_choices(choices: dict[str, Any], preset: str) -> GimConfig:
    known = [f.name for f in fields(GimConfig) if f.name not in _DECIDED[:2]]
    if unknown := [name for name in choices if name not in known]:
        where = " It is an argument of train()." if unknown[0] in _DECIDED else suggest(unknown[0], known)
        msg = f"GIM has no choice {shorten(unknown)}.{where} Choices: {', '.join(known)}."
        raise ValueError(msg)
    if preset not in ("quick", "paper"):
        msg = f"preset must be 'quick' or 'paper', not {preset!r}."
        raise ValueError(msg)
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in choices.items()}
    return GimConfig.quick(**plain) if preset == "quick" else GimConfig.from_dict(plain)
