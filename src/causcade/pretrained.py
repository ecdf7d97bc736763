"""Released weights: a name or a folder -> network, config, checksum.  No pickle is ever read."""

from __future__ import annotations

import builtins
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from causcade._files import CONFIG, config_of
from causcade.pretrain.recipe import MODELS, NETWORKS

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__all__ = ["Weights", "available", "folder_of", "list", "load"]


@dataclass(frozen=True)
class Weights:
    """A trained network and where it comes from.

    Attributes
    ----------
    name
        Released name, or the path of a folder.
    net
        The network, in evaluation mode on the CPU.
    config
        ``config.json``: network, sizes, size of a subset, the recipe.
    sha256
        Of ``model.safetensors``.
    """

    name: str
    net: nn.Module
    config: dict[str, Any]
    sha256: str

    @property
    def label(self) -> str:
        """``name@sha256`` (twelve digits), as stored with results."""
        return f"{self.name}@{self.sha256[:12]}"

    @property
    def model(self) -> str:
        """The model they are of: ``"TCD"`` (causes), ``"CDN"`` (targets) or ``"AVICI"`` (graph)."""
        return _model_of(self.config)


def _folder() -> Path:
    return Path(str(resources.files("causcade") / "weights"))


def available() -> builtins.list[str]:
    """Names of the weights in the package."""
    return sorted(p.parent.name for p in _folder().glob("*/config.json"))


def folder_of(name: str | Path) -> Path:
    """Folder of released weights, or, where no weights have this name, the path as it was given.

    Parameters
    ----------
    name
        A name of :func:`available`, or a folder.
    """
    return _folder() / str(name) if str(name) in available() else Path(name)


def _model_of(config: dict[str, Any]) -> str:
    """What a config says, or for files of other hands, which may lack it, the model that has the network."""
    if "model" in config:
        return str(config["model"])
    return next(model for model, networks in MODELS.items() if config["network"] in networks)


def load(name: str | Path) -> Weights:
    """Load released weights by name, or weights of your own from a folder.

    Parameters
    ----------
    name
        A name of :func:`available`, or a folder with ``config.json`` and ``model.safetensors`` as written by
        ``python -m causcade.pretrain`` or ``TCD.save_pretrained``.

    Raises
    ------
    ValueError
        If there are no such weights.
    RuntimeError
        If the files are damaged, are a pickle, do not fit each other, or hold weights that are not finite.
    """
    released, folder = str(name) in available(), folder_of(name)
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        msg = (
            f"No weights {str(name)!r}: neither a released name ({', '.join(available()) or 'none'}) nor a folder with "
            "config.json and model.safetensors."
        )
        raise ValueError(msg)
    data = (folder / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    config = _read_config(config_of(folder, sha256))
    expected = config.get("sha256")
    if (released and expected is None) or (expected is not None and expected != sha256):
        msg = f"The weights {str(name)!r} are damaged: sha256 {sha256[:12]}, expected {str(expected)[:12]}. Reinstall."
        raise RuntimeError(msg)
    return Weights(str(name), _build(folder, config), config, sha256)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
        known = config["network"] in NETWORKS
        absent = {"sizes", "subset", *(["cells"] if config["network"] == "cells" else [])} - set(config)
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is no config of causcade weights ({error})."
        raise RuntimeError(msg) from error
    if not known:
        msg = f"{path} asks for network {config['network']!r}; known are {sorted(NETWORKS)}."
        raise RuntimeError(msg)
    if absent:
        msg = f"{path} lacks {sorted(absent)}; write it as python -m causcade.pretrain does."
        raise RuntimeError(msg)
    _check_values(path, config)
    return dict(config)


def _check_values(path: Path, config: dict[str, Any]) -> None:
    if config["network"] not in MODELS.get(_model_of(config), ()):
        msg = f"{path} is of a model {config['model']!r} with network {config['network']!r}; known are {MODELS}."
        raise RuntimeError(msg)
    for name, least in (("subset", 2), ("cells", 1)):
        value = config.get(name, least)
        if type(value) is not int or value < least:
            msg = f"{path}: {name} must be a whole number of at least {least}, not {value!r}."
            raise RuntimeError(msg)


def _build(folder: Path, config: dict[str, Any]) -> nn.Module:
    network, sizes = NETWORKS[config["network"]]
    try:
        net = network(sizes(**config["sizes"]))
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        first = str(error).splitlines()[0]
        msg = f"{folder / 'model.safetensors'} cannot be read as weights of {config['network']!r}: {first}"
        raise RuntimeError(msg) from error
    if bad := [name for name, weight in net.state_dict().items() if not weight.isfinite().all()]:
        msg = f"{folder / 'model.safetensors'} has weights that are not finite: {', '.join(bad[:3])}; train again."
        raise RuntimeError(msg)
    return net.eval()


def list() -> pd.DataFrame:
    """Weights in the package as a table.

    Returns
    -------
    One row per name: what the weights are for, their network, training steps, seconds and device, and their scores on
    held-out kinds, NaN where a kind is of another model. Baselines beside them are in the model cards.
    """
    import pandas as pd

    rows = []
    for name in available():
        config = _read_config(_folder() / name / CONFIG)
        row = {"name": name, **{k: config.get(k) for k in ("use", "network", "steps", "seconds", "device")}}
        rows.append({**row, **config.get("scores", {})})
    return pd.DataFrame(rows).set_index("name") if rows else pd.DataFrame()
