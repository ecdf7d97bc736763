"""A model in a folder: numbers in safetensors, all else in JSON, nothing that could run code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from causcade._files import CONFIG, TENSORS, config_of, put_pair

__all__ = ["read_folder", "write_folder"]


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], *, overwrite: bool) -> None:
    """Write both files.

    Raises
    ------
    ValueError
        If one is there and `overwrite` is false.
    """
    there = [name for name in (CONFIG, TENSORS) if (folder / name).exists()]
    if there and not overwrite:
        msg = f"{folder} already holds {' and '.join(there)}; choose another folder, or pass overwrite=True."
        raise ValueError(msg)
    data = save(tensors)
    told = config | {"sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(told, indent=1, default=lambda x: x.tolist())  # of NumPy and pandas; before any file is touched
    put_pair(folder, data, text + "\n")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files.

    Raises
    ------
    ValueError
        If they are not there, or of another model.
    RuntimeError
        If they do not belong together.
    """
    if not all((folder / name).exists() for name in (CONFIG, TENSORS)):
        msg = f"There is no saved GIM in {folder}: {CONFIG} and {TENSORS} are needed."
        raise ValueError(msg)
    data = (folder / TENSORS).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    config = json.loads(config_of(folder, sha256).read_text())
    if config.get("model") != "GIM":
        msg = f"{folder} holds a model {config.get('model')!r}, not a GIM."
        raise ValueError(msg)
    if sha256 != config["sha256"]:
        msg = f"{folder / TENSORS} is damaged, or not the one that {CONFIG} was written with."
        raise RuntimeError(msg)
    return config, load(data)
