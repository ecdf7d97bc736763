"""Simulated graphs, cells and screens. Tensors in and out, but for :func:`screen` and :func:`combination_screen`, which make an AnnData.

What is asked for is loaded then, so that a submodule comes without the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from causcade.simulate.screen import screen  # bound now: the file of that name would hide the function later

if TYPE_CHECKING:
    from causcade.simulate.combinations import combination_screen
    from causcade.simulate.episodes import Screen, ScreenPrior, assay, draw_screen
    from causcade.simulate.graphs import (
        KINDS,
        ancestors,
        break_cycles,
        erdos_renyi,
        geometric,
        is_dag,
        levels,
        path_lengths,
        random_graph,
        scale_free,
        sparse_regulators,
        stochastic_block,
        subgraph_module,
        topological_order,
        watts_strogatz,
    )
    from causcade.simulate.grn import GRN, Sampling, random_grn, simulate_cells
    from causcade.simulate.noise import TECHNOLOGIES, Technology, add_technical_noise, count, technology
    from causcade.simulate.scm import SCM, Intervention, random_scm, sample_regimes

__all__ = [
    "GRN",
    "KINDS",
    "SCM",
    "TECHNOLOGIES",
    "Intervention",
    "Sampling",
    "Screen",
    "ScreenPrior",
    "Technology",
    "add_technical_noise",
    "ancestors",
    "assay",
    "break_cycles",
    "combination_screen",
    "count",
    "draw_screen",
    "erdos_renyi",
    "geometric",
    "is_dag",
    "levels",
    "path_lengths",
    "random_graph",
    "random_grn",
    "random_scm",
    "sample_regimes",
    "scale_free",
    "screen",
    "simulate_cells",
    "sparse_regulators",
    "stochastic_block",
    "subgraph_module",
    "technology",
    "topological_order",
    "watts_strogatz",
]

_FILES = ("combinations", "graphs", "grn", "noise", "episodes", "scm", "modules")
_HOMES = {
    "combinations": ("combination_screen",),
    "episodes": ("Screen", "ScreenPrior", "assay", "draw_screen"),
    "grn": ("GRN", "Sampling", "random_grn", "simulate_cells"),
    "noise": ("TECHNOLOGIES", "Technology", "add_technical_noise", "count", "technology"),
    "scm": ("SCM", "Intervention", "random_scm", "sample_regimes"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _FILES:
        return import_module(f"causcade.simulate.{name}")
    if name in __all__:
        home = next((file for file, names in _HOMES.items() if name in names), "graphs")
        return getattr(import_module(f"causcade.simulate.{home}"), name)
    msg = f"module 'causcade.simulate' has no attribute {name!r}; it has {', '.join(__all__)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
