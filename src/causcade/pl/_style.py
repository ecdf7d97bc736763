"""What all plots share: fonts and colours, and how figures are made, shown and returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, told apart with any kind of colour vision
STYLE: Final[dict[str, Any]] = {
    "font": 9,
    "small": 8,
    "title": 10,
    "ink": "#222222",
    "bar": "#8C8C8C",
    "unknown": "#A6A6A6",
    "edge": "#5F5F5F",
    "cause": "#0072B2",
    "effect": "#D55E00",
    "both": "#009E73",
    "down": "#0072B2",
    "none": "#F7F7F7",
    "up": "#D55E00",
    "t_limit": 6.0,  # a larger |t| is no more convincing, and would make the others look white
    "lfc_limit": 1.0,  # natural log; a knock-down of the target itself is far beyond
    "fdr": 0.1,
    "point": 52,
    "star": 150,
    "node": 90,
    "row": 0.25,  # inches per line of a list
    "score": "#D55E00",
    "lfc": "#0072B2",
    "wilcoxon": "#56B4E9",
    "fused": "#222222",
    "chance": "#8C8C8C",
}


def to_show(ax: Axes | None, *, show: bool | None) -> bool:
    """Whether to show; unless told, a new figure is shown as matplotlib does."""
    return (ax is None and mpl.is_interactive()) if show is None else show


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure, size in inches."""
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def finish(ax: Axes, *, show: bool, return_fig: bool) -> Axes | Figure | None:
    """Show or not, and return what the user asked for."""
    if show:
        plt.show()
    if return_fig:
        return whole_figure(ax)
    return None if show else ax


def whole_figure(ax: Axes) -> Figure:
    """Return the figure of `ax`, also if that lies in a subfigure."""
    return ax.figure.figure  # type: ignore[return-value]


def legend(ax: Axes, handles: list[Line2D], **place: Any) -> None:
    """Draw a legend in the style of the house."""
    spacing: dict[str, Any] = {"handletextpad": 0.6, "columnspacing": 1.4}
    ax.legend(handles=handles, frameon=False, fontsize=STYLE["small"], **spacing, **place)


def legend_height(rows: int) -> float:
    """Height in points of a legend with so many rows."""
    return float(1.6 * STYLE["small"] * rows + 8)
