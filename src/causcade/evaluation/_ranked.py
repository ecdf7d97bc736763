"""What the tasks "targets" and "causes" share: weights as methods, and differences of cells from controls."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causcade import pretrained
from causcade.evaluation._asked import Asked, read_methods
from causcade.reference import Reference
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from causcade.contrasts import Summary
    from causcade.pretrained import Weights

__all__ = ["Plain", "Sides", "as_options", "learnt_from", "quiet", "read_ranked", "said", "share_controls"]

Floats = NDArray[np.floating]
Positions = NDArray[np.int64]


class Plain:
    """A scorer that says nothing: for the simple rankings that are found on the way."""

    def prepare(self, control: Summary) -> None:
        """Nothing depends on the controls."""

    def score(self, state: None, perturbed: Summary, rng: np.random.Generator) -> NDArray[np.floating]:
        """No evidence."""
        return np.zeros(len(perturbed.mean))


class Sides:
    """Control cells that sets of cells are compared with, gene by gene and within groups.

    Parameters
    ----------
    values, groups
        ``(n_controls, n_genes)`` log values and ``(n_controls,)`` groups.
    """

    def __init__(self, values: Floats, groups: Positions) -> None:
        self._reference = Reference(np.asarray(values, dtype=np.float32), groups, Plain(), np.arange(1))

    def against(self, values: Floats, groups: Positions) -> tuple[Floats, Floats]:
        """Change of the mean and z of the rank-sum test, ``(n_genes,)`` each."""
        return self._reference.differences(self._reference.level(np.asarray(values, np.float32), groups), groups)


def share_controls(codes: Positions, groups: Positions, rng: np.random.Generator) -> tuple[Positions, Positions]:
    """Two halves of the controls, dealt within groups."""
    order = rng.permutation(np.flatnonzero(codes == 0))
    order = order[np.argsort(groups[order], kind="stable")]
    return np.sort(order[::2]), np.sort(order[1::2])


def read_ranked(
    methods: Any, baselines: Sequence[str], model: str, options: Sequence[str], must: str
) -> list[tuple[Asked, Weights | None]]:
    """Methods that rank genes, with the weights of those that are models.

    Parameters
    ----------
    methods, baselines
        As of :func:`causcade.evaluation._asked.read_methods`.
    model
        What weights must be of: ``"CDN"`` or ``"TCD"``.
    options
        Known options of models.
    must
        Baseline that is always there.

    Raises
    ------
    ValueError
        If weights are of another model, or an option is unknown.
    """
    with_weights = lambda m: (
        hasattr(m, "as_weights")
        or (isinstance(m, str) and (m in pretrained.available() or (Path(m) / "config.json").is_file()))
    )
    asked = read_methods(methods, baselines, with_weights, pretrained.available(), (must,))
    out: list[tuple[Asked, Weights | None]] = []
    for a in asked:
        known = options if a.kind == "model" else ()
        if unknown := sorted(set(a.options) - set(known)):
            msg = f"methods[{a.name!r}] has no option {shorten(unknown)}; it takes {', '.join(known) or 'none'}."
            raise ValueError(msg)
        weights = None
        if a.kind == "model":
            weights = pretrained.load(a.what) if isinstance(a.what, str) else a.what.as_weights()
            if weights.model != model:
                msg = f"methods: the weights {a.name!r} are of {weights.model}; this task needs those of {model}."
                raise ValueError(msg)
        out.append((a, weights))
    return out


def learnt_from(asked: Asked, weights: Weights | None) -> str:
    """What weights may have seen of this very screen, for the column of the status; ``"ok"`` if nothing."""
    if weights is None:
        return "ok"
    config = weights.config
    if "recipe" not in config:
        return "ok, if these weights learnt from other screens, which their file does not say"
    screens = [str(name) for name, *_ in config["recipe"].get("real", [])]
    if asked.options.get("fused"):
        screens += [str(name) for name in config.get("fusion_screens", [])]
    known = ", ".join(dict.fromkeys(screens))
    return f"learnt from the real screens {known}: too good if this is one of them" if known else "ok"


def said(error: Exception) -> str:
    """An error in one line of a table."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"failed: {type(error).__name__}: {text}"


def quiet() -> warnings.catch_warnings[None]:
    """Context in which nothing warns: what a method says of a screen is no news to who compares methods."""
    return warnings.catch_warnings(action="ignore")  # type: ignore[return-value]


def as_options(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of some names that are given."""
    return {n: options[n] for n in names if n in options}
