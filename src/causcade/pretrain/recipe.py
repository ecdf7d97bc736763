"""Recipes: everything that decides a training run, one JSON file per released weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from causcade.nn.cells import CellStream, CellStreamConfig
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.simulate.episodes import ScreenPrior

__all__ = ["NETWORKS", "Recipe", "build_network"]

NETWORKS: dict[str, tuple[type, type]] = {
    "pairs": (PairStream, PairStreamConfig),
    "cells": (CellStream, CellStreamConfig),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes
    ----------
    name
        Name of the weights.
    network
        ``"pairs"`` (the ``base`` preset) or ``"cells"`` (the ``paper`` preset).
    sizes
        Arguments of the network's config.
    prior
        Arguments of :class:`ScreenPrior`.
    subset, cells
        Genes and (cell network) cells of a training item.
    anchored
        Share of items in which half of the subset are likely hubs.
    batch, steps, warmup, cooldown
        Items per step, steps, linear warm-up, linear cool-down.
    lr, weight_decay, clip, ema
        AdamW, gradient clipping, decay of the averaged weights.
    pool, refresh, assays
        Screens held, steps between two new ones, assays of each.
    seed
        Of everything.
    use
        What the weights are for, in a few words.

    Raises
    ------
    ValueError
        If `steps` is below 1, or `prior` has fields that :class:`ScreenPrior` has not.
    """

    name: str
    network: str = "pairs"
    sizes: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    subset: int = 96
    cells: int = 200
    anchored: float = 0.5
    batch: int = 4
    steps: int = 3000
    warmup: int = 100
    cooldown: int = 600
    lr: float = 2e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.995
    pool: int = 24
    refresh: int = 8
    assays: int = 3
    seed: int = 0
    use: str = ""

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            msg = f"steps of recipe {self.name!r} must be a whole number of at least 1, not {self.steps!r}."
            raise ValueError(msg)
        known = list(ScreenPrior.__dataclass_fields__)
        if unknown := sorted(set(self.prior) - set(known)):
            msg = f"The prior of recipe {self.name!r} has unknown fields {unknown}; known are {known}."
            raise ValueError(msg)

    @classmethod
    def load(cls, name_or_path: str) -> Recipe:
        """Read a bundled recipe by name, or a JSON file.

        Raises
        ------
        ValueError
            If there is no such recipe, or it has fields that no recipe has.
        """
        path = Path(name_or_path)
        if path.suffix == ".json":
            if not path.is_file():
                msg = f"There is no recipe file {str(path)!r}; give the path of a .json file, or a bundled name."
                raise ValueError(msg)
            return cls._from_text(path.read_text())
        folder = resources.files("causcade") / "recipes"
        names = sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))
        if name_or_path not in names:
            msg = f"No recipe {name_or_path!r}; bundled recipes are {names}, or give the path of a .json file."
            raise ValueError(msg)
        return cls._from_text((folder / f"{name_or_path}.json").read_text())

    @classmethod
    def _from_text(cls, text: str) -> Recipe:
        values = json.loads(text)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown or "name" not in values:
            msg = f"A recipe needs a name and has only the fields {list(cls.__dataclass_fields__)}; unknown: {unknown}."
            raise ValueError(msg)
        return cls(**values)

    def screen_prior(self) -> ScreenPrior:
        """The prior; JSON lists become tuples."""
        return ScreenPrior(**{k: _tuples(v) for k, v in self.prior.items()})

    def digest(self) -> str:
        """Short hash of the recipe and of the whole prior, defaults included."""
        everything = {**asdict(self), "prior": self.screen_prior().to_dict()}
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def build_network(recipe: Recipe) -> PairStream | CellStream:
    """The untrained network of a recipe."""
    if recipe.network not in NETWORKS:
        msg = f"Unknown network {recipe.network!r} in recipe {recipe.name!r}; choose one of {list(NETWORKS)}."
        raise ValueError(msg)
    network, config = NETWORKS[recipe.network]
    return network(config(**recipe.sizes))
