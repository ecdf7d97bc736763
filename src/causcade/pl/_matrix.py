"""A causal graph as a matrix of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.lines import Line2D

from causcade.pl._boxes import PERTURBED, Picture, causes_first, colour_bar, shades, short
from causcade.pl._style import STYLE, legend, new_axes, whole_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_CELL: Final = 0.17  # inches of a new figure
_SIDE: Final = (3.0, 14.0)
_LEAST_FONT: Final = 4.5
_CALLED: Final[dict[str, Any]] = {"marker": "o", "facecolor": "white", "edgecolor": "#222222"}
_CYCLE: Final[dict[str, Any]] = {"marker": "X", "facecolor": "white", "edgecolor": "#222222"}


def draw(ax: Axes | None, picture: Picture, title: list[str]) -> Axes:
    """Draw all probabilities, causes as rows; `ax` None for a figure of the size that it needs."""
    order = causes_first(picture)
    part = np.ix_(order, order)
    n = len(order)
    names = short([picture.names[k] for k in order])
    if ax is None:
        side = float(np.clip(_CELL * n, *_SIDE))
        letters = 0.085 * max(len(name) for name in names)
        ax = new_axes(1.08 * side + letters + 1.9, side + letters + 0.9)
    values = np.ma.masked_array(picture.probability[part], np.eye(n, dtype=bool))  # no gene causes itself
    image = ax.imshow(values, cmap=shades(white=True).with_extremes(bad="#D9D9D9"), vmin=0, vmax=1)
    ax.set_title("\n".join(title), fontsize=STYLE["title"])
    ax.set_ylabel("cause", fontsize=STYLE["font"])
    ax.set_xlabel("effect", fontsize=STYLE["font"])
    ax.spines[:].set_color("#BFBFBF")
    colour_bar(ax, image)
    cell = _cell(ax, n)
    _write_names(ax, names, picture.perturbed[order], cell)
    _mark(ax, cell, picture.dag[part], picture.called[part] & ~picture.dag[part])
    _draw_legend(ax, picture)
    return ax


def _write_names(ax: Axes, names: list[str], perturbed: np.ndarray, cell: float) -> None:
    """Write the genes along both sides, the perturbed ones in orange; leave them out where they cannot be read."""
    size = min(0.8 * cell, STYLE["small"])
    if size < _LEAST_FONT:
        ax.set(xticks=[], yticks=[], xlabel=f"effect ({len(names):,} genes)", ylabel=f"cause ({len(names):,} genes)")
        return
    places = np.arange(len(names))
    ax.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
    ax.set_yticks(places, names, fontsize=size, parse_math=False)
    ax.tick_params(length=0, pad=2)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        for label, hit in zip(labels, perturbed, strict=True):
            label.set(color=PERTURBED if hit else STYLE["ink"], fontweight="bold" if hit else "normal")


def _cell(ax: Axes, n: int) -> float:
    """Side of a cell in points."""
    whole_figure(ax).draw_without_rendering()  # places the axes, if a layout engine does
    ax.apply_aspect()
    return float(ax.get_window_extent().width * 72 / ax.figure.dpi / n)


def _mark(ax: Axes, cell: float, dag: np.ndarray, cycles: np.ndarray) -> None:
    """Mark called edges by dots, those that close a cycle by crosses."""
    for edges, look, share, label in ((dag, _CALLED, 0.34, "_called"), (cycles, _CYCLE, 0.6, "_cycle")):
        cause, effect = np.nonzero(edges)
        if len(cause):
            size = min(share * cell, 7.0)
            ax.scatter(effect, cause, s=size**2, linewidths=min(0.06 * cell, 0.7), label=label, **look)


def _draw_legend(ax: Axes, picture: Picture) -> None:
    handles = []
    look: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "#222222"}
    if picture.dag.any():
        handles.append(Line2D([], [], marker="o", markersize=4.5, label="called", **look))
    if (picture.called & ~picture.dag).any():
        handles.append(Line2D([], [], marker="X", markersize=6.5, label="closes a cycle", **look))
    if picture.perturbed.any():
        handles.append(Line2D([], [], marker="s", markersize=6, color=PERTURBED, linestyle="none", label="perturbed"))
    if handles:
        legend(ax, handles, loc="lower left", bbox_to_anchor=(1.0, 0.0))
