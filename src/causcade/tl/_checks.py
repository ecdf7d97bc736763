"""What all tools ask of their arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import causcade
from causcade import _keys, pretrained
from causcade._blocks import Blocks, checksum, rng_state
from causcade.pp import _check_writable
from causcade.pretrained import Weights
from causcade.screendata import ScreenData, Values

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "as_set_up",
    "blocks_of",
    "check_place",
    "check_resume",
    "check_stable",
    "load_weights",
    "names_of",
    "seed_of",
]

Tool = Literal["causes", "targets", "graph", "dose_response", "embed", "reversal", "suggest_perturbations"]
_TOOL_OF: dict[str, Tool] = {"TCD": "causes", "CDN": "targets", "AVICI": "graph"}


def check_place(adata: AnnData, key_added: str, regimes_key: str, tool: Tool) -> None:
    """Refuse to write where something else lies."""
    _keys.check_key(key_added)
    if key_added == regimes_key:
        msg = f"key_added and regimes_key are both {key_added!r}: the scores would overwrite the regimes; change one."
        raise ValueError(msg)
    _check_writable(adata)
    there = adata.uns.get(key_added)
    if there is None:
        _check_unused(adata, key_added)
        return
    of_tool = {
        "dose_response": {_keys.TABLE, _keys.UNITS},
        "embed": {_keys.NAMES, _keys.PROGRAMS},
        "reversal": {_keys.NAMES, _keys.TABLE},
        "suggest_perturbations": {_keys.NAMES, _keys.METHOD},
    }
    earlier = isinstance(there, Mapping) and of_tool.get(tool, {"names", "weights"}) <= set(there)
    if not earlier or _writer(there) != tool:
        msg = f".uns[{key_added!r}] holds something that cc.tl.{tool} did not write; pass another key_added."
        raise ValueError(msg)


def _writer(result: Mapping[str, Any]) -> Tool:
    """The tool that wrote a result: what only it stores says so."""
    if _keys.UNITS in result:
        return "dose_response"
    if _keys.PROGRAMS in result:
        return "embed"
    if _keys.METHOD in result:
        return "suggest_perturbations"
    if _keys.TABLE in result:
        return "reversal"
    if "threshold" in result:
        return "graph"
    return "targets" if "masked" in result.get(_keys.PARAMS, {}) else "causes"


def _check_unused(adata: AnnData, key: str) -> None:
    """Nothing may lie under a key that a first result writes or clears."""
    ours = [key, *(f"{key}_{part}" for part in _keys.PARTS)]
    ours.append(_keys.embedding(key))
    taken = [f".{slot}[{name!r}]" for slot in ("varm", "varp", "obsm") for name in ours if name in getattr(adata, slot)]
    if taken:
        msg = f"{', '.join(taken[:3])} would be overwritten by key_added={key!r}; pass another key_added, or delete it."
        raise ValueError(msg)


def as_set_up(
    model: Any, adata: AnnData, layer: str | None, values: Values, batch_key: str | None, regimes_key: str
) -> tuple[str | None, Values, str | None, str]:
    """Take what was left at its default from the ``setup_anndata`` of a model of the same data."""
    if getattr(model, "adata", None) is not adata:
        return layer, values, batch_key, regimes_key
    args = model._setup_args()
    return (
        args["layer"] if layer is None else layer,
        args["values"] if values == "counts" else values,
        args["batch_key"] if batch_key is None else batch_key,
        args["regimes_key"] if regimes_key == _keys.REGIMES else regimes_key,
    )


def load_weights(model: Any, kind: Literal["TCD", "CDN", "AVICI"]) -> Weights:
    """Weights of a name, a folder or a model object, if they answer this question."""
    if isinstance(model, str | Path):
        found: Weights = pretrained.load(model)
    elif hasattr(model, "as_weights") and not isinstance(model, type):
        found = model.as_weights()
    else:
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        msg = f"model must be a released name, a folder or a trained {kind}, not {what}."
        raise ValueError(msg)
    if (other := found.model) != kind:
        answers = f" They answer cc.tl.{_TOOL_OF[other]}." if other in _TOOL_OF else ""
        msg = f"The weights {found.name!r} are of {other}, but cc.tl.{_TOOL_OF[kind]} needs {kind}.{answers}"
        raise ValueError(msg)
    return found


def names_of(genes: Any) -> str | list[str]:
    """Return names of genes as a list, or the one name."""
    if isinstance(genes, str):
        return genes
    try:
        return list(genes)
    except TypeError as error:
        msg = f"genes must be a gene name, several of them, or None for all pairs, not {genes!r}."
        raise ValueError(msg) from error


def check_stable(value: Any) -> float | None:
    """Return a rank correlation, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not -1 <= value <= 1:
        msg = f"stable is a rank correlation, at most 1, or None to make all draws, not {value!r}."
        raise ValueError(msg)
    return float(value)


def seed_of(rng: Any) -> dict[str, int | str]:
    """The seed, to be stored; nothing for a generator, whose state nobody could restore."""
    if not isinstance(rng, int | np.integer):
        return {}
    return {"rng": int(rng) if rng < 2**63 else str(rng)}  # files hold 64 bits


def check_resume(value: Any, rng: Any) -> Path | None:
    """Return a folder, or None."""
    if value is None:
        return None
    if not isinstance(value, str | Path) or not str(value):
        msg = f"resume must be a folder, or None to keep nothing, not {value!r}."
        raise ValueError(msg)
    if rng is None:
        msg = "resume needs the same random numbers again: pass a seed, such as rng=0, not rng=None."
        raise ValueError(msg)
    return Path(value)


def blocks_of(
    folder: Path | None, tool: Tool, screen: ScreenData, weights: Weights, settings: Any, rng: np.random.Generator,
    **more: Any,
) -> Blocks:  # fmt: skip
    """Where finished blocks of a question are kept, and all that its answer depends on."""
    if folder is None:
        return Blocks()
    asked = {name: value for name, value in vars(settings).items() if name != "progress_bar"} | more
    asked |= {
        "tool": tool,
        "causcade": causcade.__version__,
        "model": checksum([weights.sha256, json.dumps(weights.config, sort_keys=True, default=str)]),
        "data": screen.checksum(),
        "rng": checksum([rng_state(rng)]),
    }
    return Blocks(folder, {name: checksum([v]) if isinstance(v, np.ndarray) else v for name, v in asked.items()})
