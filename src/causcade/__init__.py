"""Causes and targets in single-cell perturbation data.

Submodules load when they are first used: ``import causcade`` itself imports nothing outside the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causcade import (
        baselines,
        datasets,
        ensemble,
        get,
        metrics,
        models,
        networks,
        nulls,
        pl,
        pp,
        pretrained,
        regimes,
        simulate,
        tl,
    )
    from causcade.evaluation import evaluate

    __version__: str

__all__ = [
    "__version__",
    "baselines",
    "datasets",
    "ensemble",
    "evaluate",
    "get",
    "metrics",
    "models",
    "networks",
    "nulls",
    "pl",
    "pp",
    "pretrained",
    "regimes",
    "simulate",
    "tl",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name == "evaluate":  # a function, in a folder of another name: a module of its name would take its place
        from causcade.evaluation import evaluate

        return evaluate
    if name in __all__:
        from importlib import import_module

        return import_module(f"causcade.{name}")
    msg = f"module 'causcade' has no attribute {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("causcade")
    except PackageNotFoundError:  # run from a checkout, as pretraining on a bare machine does
        return "0+unknown"
