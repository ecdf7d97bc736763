"""Recipes: everything that decides a training run, one JSON file per released weight."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from causcade.nn.avici import Avici, AviciConfig
from causcade.nn.cells import CellStream, CellStreamConfig
from causcade.nn.differential import Differential, DifferentialConfig
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.simulate._graph_priors import GraphPrior
from causcade.simulate.episodes import ScreenPrior
from causcade.simulate.shifts import ShiftPrior

__all__ = ["MODELS", "NETWORKS", "Recipe", "build_network"]

NETWORKS: dict[str, tuple[type, type]] = {
    "pairs": (PairStream, PairStreamConfig),
    "cells": (CellStream, CellStreamConfig),
    "differential": (Differential, DifferentialConfig),
    "edges": (EdgeStream, EdgeStreamConfig),
    "avici": (Avici, AviciConfig),
}
#: Networks of each model.
MODELS: dict[str, tuple[str, ...]] = {"TCD": ("pairs", "cells"), "CDN": ("differential",), "AVICI": ("edges", "avici")}
_PRIORS: dict[str, Any] = {"differential": ShiftPrior, "edges": GraphPrior, "avici": GraphPrior}
# By model: fields that its hash never holds, and fields that it holds only where they are set. They came after its first
# weights, whose hashes stay.
_UNHASHED: dict[str, tuple[set[str], set[str]]] = {
    "TCD": (
        {"screens", "screen_share", "subsets", "graph_weight", "acyclic", "reuse"},
        {"start", "sizes_alike", "compose_steps", "real", "real_share"},
    ),
    "CDN": ({"reuse"}, {"start", "acyclic", "sizes_alike", "compose_steps"}),
    "AVICI": (set(), {"sizes_alike", "compose_steps"}),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Attributes
    ----------
    name
        Name of the weights.
    network
        ``"pairs"`` and ``"cells"`` (TCD, presets ``base`` and ``paper``), ``"differential"`` (CDN), ``"edges"`` and
        ``"avici"`` (AVICI, presets ``base`` and ``paper``).
    sizes
        Arguments of the network's config.
    prior
        Arguments of :class:`ScreenPrior`; for a differential network of :class:`ShiftPrior`; for edge networks of
        :class:`GraphPrior`.
    subset, cells
        Genes (of an item cut out of a screen, at most) and, for the cell network, cells of a training item.
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
    screens, screen_share
        Differential network: arguments of :class:`ScreenPrior`, and the share of steps on such simulated screens.
    real, real_share
        Differential and pair networks: real screens to fine-tune on, each (name or path, column of batches or
        null), and the share of steps on them.
    subsets
        Differential network: fewest and most local graphs of a set of cells.
    graph_weight
        Differential network: weight of the loss on the control's graph.
    start
        Name (or folder) of weights to start from, as ``NAME`` or, for certain ones, ``NAME@HASH``; "" = none.
    acyclic
        Edge networks: arguments of :class:`causcade.nn.acyclic.DualState`.
    sizes_alike
        Pair networks: a step whose first item is smaller than `subset` takes the others from screens that are not smaller
        still, instead of cutting them all down to the smallest. For priors with screens below `subset` genes.
    reuse
        Edge networks: steps in which every drawn item is used, each time with other cells. They are `pool` steps apart.
    compose_steps
        Pair networks with rounds of composition: steps on whole screens in which these are learned, after `steps`.

    Raises
    ------
    ValueError
        If `steps` is below 1, `compose_steps` or `real` does not fit the network, or `prior` has fields that :class:`ScreenPrior`
        has not.
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
    screens: dict[str, Any] = field(default_factory=dict)
    screen_share: float = 0.0
    real: tuple[tuple[str, str | None], ...] = ()
    real_share: float = 0.0
    subsets: tuple[int, int] = (8, 40)
    graph_weight: float = 1.0
    start: str = ""
    acyclic: dict[str, Any] = field(default_factory=dict)
    reuse: int = 1
    sizes_alike: bool = False
    compose_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "reuse"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                msg = f"{name} of recipe {self.name!r} must be a whole number of at least 1, not {value!r}."
                raise ValueError(msg)
        rounds = self.sizes.get("rounds", 0) if self.network == "pairs" else 0
        if type(rounds) is not int or rounds < 0:
            msg = f"sizes of recipe {self.name!r} have rounds={rounds!r}: a whole number, 0 for none."
            raise ValueError(msg)
        if type(self.compose_steps) is not int or self.compose_steps < 0 or (self.compose_steps and not rounds):
            msg = (
                f"compose_steps of recipe {self.name!r} is {self.compose_steps!r}: it must be a whole number, and 0 but for "
                "pair networks whose `sizes` have rounds of composition."
            )
            raise ValueError(msg)
        if self.real and self.network not in ("pairs", "differential"):
            msg = f"Recipe {self.name!r} has real screens, which networks {self.network!r} do not learn from."
            raise ValueError(msg)
        object.__setattr__(self, "real", _tuples(list(self.real)))
        object.__setattr__(self, "subsets", tuple(self.subsets))
        first = _PRIORS.get(self.network, ScreenPrior)
        for what, given, prior in (("prior", self.prior, first), ("screens", self.screens, ScreenPrior)):
            known = list(prior.__dataclass_fields__)
            if unknown := sorted(set(given) - set(known)):
                msg = f"The {what} of recipe {self.name!r} has unknown fields {unknown}; known are {known}."
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

    @property
    def all_steps(self) -> int:
        """Steps of the whole run: on sets of genes, then on whole screens."""
        return self.steps + self.compose_steps

    def screen_prior(self) -> ScreenPrior:
        """The prior of simulated screens; JSON lists become tuples."""
        given = self.screens if self.network == "differential" else self.prior
        return ScreenPrior(**{k: _tuples(v) for k, v in given.items()})

    def shift_prior(self) -> ShiftPrior:
        """The prior of causal models (differential network)."""
        return ShiftPrior(**{k: _tuples(v) for k, v in self.prior.items()})

    def graph_prior(self) -> GraphPrior:
        """The prior of labelled graphs (edge networks)."""
        return GraphPrior(**{k: _tuples(v) for k, v in self.prior.items()})

    @property
    def model(self) -> str:
        """The model that the network belongs to."""
        return next(model for model, networks in MODELS.items() if self.network in networks)

    def digest(self) -> str:
        """Short hash of the recipe and of the whole prior, defaults included."""
        left_out, optional = _UNHASHED[self.model]
        everything = {k: v for k, v in asdict(self).items() if k not in left_out and (v or k not in optional)}
        if self.network == "differential":
            everything |= {"prior": self.shift_prior().to_dict(), "screens": self.screen_prior().to_dict()}
        else:
            prior = self.graph_prior() if self.model == "AVICI" else self.screen_prior()
            everything["prior"] = prior.to_dict()
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:12]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def build_network(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe."""
    if recipe.network not in NETWORKS:
        msg = f"Unknown network {recipe.network!r} in recipe {recipe.name!r}; choose one of {list(NETWORKS)}."
        raise ValueError(msg)
    network, config = NETWORKS[recipe.network]
    net: nn.Module = network(config(**recipe.sizes))
    return net


def made_by(config: dict[str, Any]) -> str:
    """Say by which recipes weights were made, from their ``config.json``: a line of their card."""
    stages = ", ".join(f"{digest} from step {step}" for digest, step in config["stages"])
    start = config.get("start")
    before = f" on top of the {start['steps']} steps of {start['name']} ({start['sha256'][:12]})" if start else ""
    return f"Recipe {config['recipe_hash']} (stages: {stages}){before}."
