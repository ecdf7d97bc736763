"""What all models share: set-up of the AnnData, weights in and out, and messages a user can act on."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from safetensors.torch import save as to_safetensors
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField
from scvi.model.base import BaseModelClass

from causcade import _keys, pretrained
from causcade._files import into_place, put_pair
from causcade.pretrained import Weights
from causcade.regimes import from_adata, read_obs, to_uns
from causcade.screendata import ScreenData, Values, read_screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from torch import nn

    from causcade.regimes import Regimes

PERTURBATION = "perturbation"  # name of the field in scvi's registry


class ScreenModel(BaseModelClass):
    """A model of one screen: a subclass adds `train` and the questions it answers.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.

    Raises
    ------
    ValueError
        If `adata` was not set up, or is a copy of one that was.
    """

    #: Warnings about the design of a screen that do not concern this model.
    _unconcerned: ClassVar[tuple[str, ...]] = ()

    def __init__(self, adata: AnnData) -> None:
        name = type(self).__name__
        try:
            super().__init__(adata)
        except ValueError as error:
            msg = (
                f"This AnnData has not been set up for {name}, or is a copy (or subset) of one that was: set-up belongs "
                f"to one object. Call {name}.setup_anndata(adata, ...) on it, then {name}(adata)."
            )
            raise ValueError(msg) from error

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        perturbation_key: str | None = None,
        control: str | Sequence[str] | None = None,
        *,
        layer: str | None = None,
        values: Values = "counts",
        batch_key: str | None = None,
        sep: str | None = "+",
        gene_symbols: str | None = None,
        targets: Any = None,
        min_cells: int = 2,
        regimes_key: str = _keys.REGIMES,
        **kwargs: Any,
    ) -> None:
        """Say which cells are perturbed how and where the expression is. Labels and values are checked here.

        Parameters
        ----------
        adata
            Annotated data. Later steps need this very object, not a copy of it.
        perturbation_key, control, sep, gene_symbols, targets, min_cells
            As in :func:`causcade.pp.regimes`. Without `perturbation_key` and `control` the regimes that are already
            in ``.uns[regimes_key]`` are used, and the other four of these arguments are refused.
        layer
            Layer with the values; ``None`` = ``.X``.
        values
            What they are: ``"counts"``, ``"expression"`` or ``"log"``, see :func:`causcade.tl.causes`.
        batch_key
            Column of ``.obs`` (batch, cell type, time point) within whose groups effects and correlations are taken.
        regimes_key
            Where regimes are, or are stored.
        **kwargs
            For :meth:`load`, which passes the registry of the saved model.

        Returns
        -------
        None. Writes what :func:`causcade.pp.regimes` does to ``.uns[regimes_key]`` (with `perturbation_key` only), and
        the columns and ids that begin with ``_scvi_`` to ``.obs`` and ``.uns``.

        Raises
        ------
        KeyError
            If a column or the layer is missing.
        ValueError
            If labels or values are unusable, an argument would be ignored, or `adata` is a view. ``adata`` is unchanged
            after any error.

        Warns
        -----
        UserWarning
            As :func:`causcade.pp.regimes`.
        """
        setup = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup, kwargs)

    @classmethod
    def _set_up(cls, adata: AnnData, setup: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Find regimes, check labels and values, tell scvi-tools; `adata` is unchanged after any error."""
        args = setup["setup_args"]
        key, regimes_key = args["perturbation_key"], _keys.check_key(args["regimes_key"])
        how = {name: args[name] for name in ("sep", "gene_symbols", "targets", "min_cells")}
        if adata.is_view:
            msg = f"{cls.__name__}.setup_anndata needs an AnnData of its own, not a view: adata = adata.copy() first."
            raise ValueError(msg)
        notes: list[str] = []
        parse = key is not None or args["control"] is not None or regimes_key not in adata.uns
        if not parse and "source_registry" not in kwargs:  # a saved model repeats what it was set up with
            _check_unused(regimes_key, **how)
        with ExitStack() as undo:
            if parse:
                parsed = read_obs(adata, key, args["control"], **how)
                notes = [note for note in parsed.notes if not any(re.match(t, note) for t in cls._unconcerned)]
                undo.callback(_restore, adata, regimes_key, adata.uns.get(regimes_key))
                adata.uns[regimes_key] = to_uns(parsed)
            with warnings.catch_warnings():
                for text in cls._unconcerned:
                    warnings.filterwarnings("ignore", text)
                cls._check_data(adata, args)
            params = from_adata(adata, regimes_key).params
            cls._register(adata, args["layer"], params, args["batch_key"], setup, kwargs)
            undo.pop_all()
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=3)

    @classmethod
    def _check_data(cls, adata: AnnData, args: dict[str, Any]) -> None:
        """Refuse values and columns that the model cannot use."""
        wanted = ("layer", "values", "batch_key", "regimes_key")
        read_screen(adata, **{name: args[name] for name in wanted})

    @classmethod
    def _register(
        cls,
        adata: AnnData,
        layer: str | None,
        params: dict[str, Any],
        batch_key: str | None,
        setup: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> None:
        """Tell scvi-tools. It never reads cells for these models, so it must not rewrite the matrix either."""
        column = params.get("strategy_key") or params["perturbation_key"]  # CELLxGENE's ids are missing for controls
        fields = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
            CategoricalObsField(PERTURBATION, column),
        ]
        if batch_key is not None:
            fields.append(CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key))
        if not cls._is_set_up(adata):  # a copy carries the id of the original, whose place it would take
            adata.uns.pop("_scvi_uuid", None)
        manager = AnnDataManager(fields=fields, setup_method_args=setup)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*fewer than 3 cells.*", UserWarning)  # min_cells decides that here
            manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def _setup_args(self) -> dict[str, Any]:
        """Arguments of :meth:`setup_anndata`."""
        return dict(self.registry["setup_args"])

    def _screen(self) -> ScreenData:
        """The user's screen as it is now."""
        args = self._setup_args()
        wanted = {name: args[name] for name in ("layer", "values", "batch_key", "regimes_key")}
        return read_screen(self.adata, **wanted)

    def _regimes(self) -> Regimes:
        """Regimes of the cells as they are now."""
        return from_adata(self.adata, self._setup_args()["regimes_key"])

    @classmethod
    def _is_set_up(cls, adata: AnnData) -> bool:
        try:
            return cls._get_most_recent_anndata_manager(adata) is not None
        except ValueError:  # a copy of an AnnData that was set up
            return False

    def __repr__(self) -> str:
        """Say what it is; scvi-tools prints instead and returns nothing."""
        state = "trained" if self.is_trained_ else "not trained"
        return f"{self._model_summary_string}, {state}"

    def save(self, dir_path: str | Path, prefix: str | None = None, *, overwrite: bool = False, **how: Any) -> None:  # type: ignore[override]
        """Write the model to a folder, for :meth:`load`: wholly or not at all, so that an older one stays until then.

        Parameters
        ----------
        dir_path
            The folder; made if it is not there.
        prefix, overwrite, **how
            As in :meth:`scvi.model.base.BaseModelClass.save`.

        Raises
        ------
        ValueError
            If the folder is there and `overwrite` is false.
        """
        if Path(dir_path).exists() and not overwrite:
            msg = f"{dir_path} already exists; choose another folder, or pass overwrite=True."
            raise ValueError(msg)
        with into_place(Path(dir_path)) as half:
            super().save(str(half), prefix, overwrite=True, **how)


class CausalModel(ScreenModel):
    """A model whose network serves any genes and labels: a subclass also says how it is rebuilt.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.

    Raises
    ------
    ValueError
        If `adata` was not set up, or is a copy of one that was.
    """

    def __init__(self, adata: AnnData) -> None:
        super().__init__(adata)
        # where the weights come from; the trailing underscore makes scvi-tools save it
        self.origin_: dict[str, Any] = {}

    # --- what a subclass says ---------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def net(self) -> nn.Module:
        """The network that weights belong to."""

    @abstractmethod
    def _config(self) -> dict[str, Any]:
        """What rebuilds the network: ``network``, ``sizes``, ..., and how it was trained. JSON values only."""

    @classmethod
    @abstractmethod
    def _from_config(cls, adata: AnnData, config: dict[str, Any]) -> Self:
        """Untrained model with the network of a config."""

    # --- weights ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse to answer from random weights."""
        if not self.is_trained_:
            name = type(self).__name__
            msg = f"This {name} is not trained. Call .train(), or take weights: {name}.from_pretrained(name, adata)."
            raise RuntimeError(msg)

    def as_weights(self) -> Weights:
        """Network, config and checksum, as :func:`causcade.pretrained.load` gives them.

        Returns
        -------
        Weights
            A copy on the CPU. Its name is that of the released weights for as long as they are unchanged.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check()
        net = copy.deepcopy(self.net).cpu().eval()
        if self.origin_ and not self.origin_["changed"]:
            return Weights(self.origin_["name"], net, self.origin_["config"], self.origin_["sha256"])
        config = {"model": type(self).__name__, **self._config()}
        if self.origin_:
            config["fine_tuned_from"] = f"{self.origin_['name']}@{self.origin_['sha256'][:12]}"
        return Weights(type(self).__name__, net, config, hashlib.sha256(_to_bytes(net)).hexdigest())

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the weights without the data: for other screens, other genes, other people.

        Parameters
        ----------
        folder
            Gets ``model.safetensors`` and ``config.json``; made if it is not there.
        overwrite
            Replace weights that are there.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there are weights in the folder and `overwrite` is false.
        """
        weights, folder = self.as_weights(), Path(folder)
        there = [name for name in ("config.json", "model.safetensors") if (folder / name).exists()]
        if there and not overwrite:
            msg = f"{folder} already holds {' and '.join(there)}; choose another folder, or pass overwrite=True."
            raise ValueError(msg)
        data = _to_bytes(weights.net)
        config = weights.config | {"sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps(config, indent=1) + "\n"  # before any file is touched: it may fail
        put_pair(folder, data, text)

    @classmethod
    def from_pretrained(cls, name: str | Path, adata: AnnData, *args: Any, **setup: Any) -> Self:
        """Model with released weights, or weights of your own, for any genes and any labels.

        Parameters
        ----------
        name
            A name of :func:`causcade.pretrained.available`, or a folder that :meth:`save_pretrained` wrote.
        adata
            Annotated data.
        *args, **setup
            Arguments of :meth:`setup_anndata`. Without any, an earlier set-up of `adata` is kept, or the regimes in
            ``.uns["regimes"]`` are used.

        Returns
        -------
        A trained model; :meth:`train` would fine-tune it.

        Raises
        ------
        ValueError
            If there are no such weights, they belong to another model, or `adata` is unusable.
        RuntimeError
            If the files are damaged.
        """
        weights = pretrained.load(name)
        if weights.model != cls.__name__:
            known = weights.model
            msg = f"The weights {str(name)!r} are of {known}, not of {cls.__name__}: use causcade.models.{known}."
            raise ValueError(msg)
        if args or setup or not cls._is_set_up(adata):
            cls.setup_anndata(adata, *args, **setup)
        model = cls._from_config(adata, weights.config)
        model.net.load_state_dict(weights.net.state_dict())
        model.origin_ = {
            "name": weights.name, "sha256": weights.sha256, "config": weights.config, "changed": False,
        }  # fmt: skip
        model.is_trained_ = True
        model.module.eval()
        return model


def _to_bytes(net: nn.Module) -> bytes:
    return to_safetensors({name: weight.cpu().contiguous() for name, weight in net.state_dict().items()})


def _check_unused(key: str, *, sep: str | None, gene_symbols: str | None, targets: Any, min_cells: int) -> None:
    """Refuse arguments that only making regimes anew would use."""
    given = {
        "sep": sep != "+",
        "gene_symbols": gene_symbols is not None,
        "targets": targets is not None,
        "min_cells": min_cells != 2,
    }
    if ignored := [name for name, is_given in given.items() if is_given]:
        msg = (
            f"The regimes in .uns[{key!r}] are used, so {', '.join(ignored)} would be ignored. Pass perturbation_key and "
            f"control to make them anew, or leave {', '.join(ignored)} out."
        )
        raise ValueError(msg)


def _restore(adata: AnnData, key: str, before: Any) -> None:
    if before is None:
        del adata.uns[key]
    else:
        adata.uns[key] = before
