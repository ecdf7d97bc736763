"""A causal graph as boxes in layers with arrows between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator

from causcade.pl._layered import Layout, layered, topological_order
from causcade.pl._style import STYLE, legend, new_axes, whole_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PERTURBED", "Picture", "causes_first", "colour_bar", "draw", "shades", "short"]

PERTURBED: Final = STYLE["effect"]
_FACES: Final = {True: "#FCEBDD", False: "#F4F5F7"}
_FRAME: Final = "#9AA3AD"
_WIDTHS: Final = (0.8, 2.6)  # of arrows, points
_LONGEST: Final = 18  # letters of a name; a longer one loses its middle
_BOX: Final = (12.0, 16.0)  # room beside the letters, height; points
_MARGIN: Final = 8.0
_ROW: Final = (5.0, 6.0, 30.0)  # between single genes, between their rows, above them
_LEAST_WIDTH: Final = 310.0
_LARGEST: Final = 36.0  # inches


@dataclass(frozen=True)
class Picture:
    """What is drawn: names, (n, n) probabilities, who was perturbed, the edges drawn, called, and of the acyclic graph."""

    names: list[str]
    probability: np.ndarray
    perturbed: np.ndarray
    drawn: np.ndarray
    called: np.ndarray
    dag: np.ndarray


def causes_first(picture: Picture) -> list[int]:
    """Order the genes so that causes come before effects; those without an edge come last."""
    linked = np.flatnonzero((picture.called | picture.called.T).any(0)).tolist()
    order = topological_order(_pairs(picture.dag), linked)
    return order + [k for k in range(len(picture.names)) if k not in set(linked)]


def shades(*, white: bool = False) -> LinearSegmentedColormap:
    """From pale (or white) to dark blue."""
    return LinearSegmentedColormap.from_list("probability", ["#FFFFFF" if white else "#A9CCE3", "#0072B2", "#06263F"])


def colour_bar(ax: Axes, colours: ScalarMappable) -> None:
    """Draw a colour bar of the edge probability right of `ax`, which gives up some room."""
    bar = ax.figure.colorbar(colours, ax=ax, pad=0.02, fraction=0.04, aspect=16, shrink=0.6)
    bar.set_label("edge probability", fontsize=STYLE["small"], color=STYLE["ink"])
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.ax.tick_params(labelsize=STYLE["small"])
    bar.outline.set_visible(False)


def draw(ax: Axes | None, picture: Picture, title: list[str], *, isolated: bool) -> Axes:
    """Draw the network; `ax` None for a figure of the size that it needs."""
    labels = short(picture.names)
    sizes = np.array([(_letters(label) + _BOX[0], _BOX[1]) for label in labels])
    forward, back = _directed(picture)
    layout = layered(sizes, [*forward, *((j, i) for i, j in back)])
    rest = [k for k in range(len(labels)) if k not in layout.centres] if isolated else []
    width = max(layout.size[0], _LEAST_WIDTH)
    shift = np.array([(width - layout.size[0]) / 2, 0])
    centres = {k: at + shift for k, at in layout.centres.items()}
    routes = [route + shift for route in layout.routes]
    single, depth = _rows(sizes, rest, width)
    height = layout.size[1] + depth
    if ax is None:
        room = (width + 2 * _MARGIN) / 72 + 0.9, (height + 2 * _MARGIN) / 72 + 0.5 + 0.2 * len(title)
        ax = new_axes(min(room[0], _LARGEST), min(max(room[1], 1.8), _LARGEST))
    ax.set_title("\n".join(title), fontsize=STYLE["title"])
    arrows = _arrow_looks(picture, forward + back)
    if arrows is not None:
        colour_bar(ax, arrows[0])
    _draw_legend(ax, picture)
    scale = _set_limits(ax, layout, width, depth)
    if arrows is not None:
        closes = np.array([not picture.dag[pair] for pair in forward + back])
        turned = [route[::-1] for route in routes[len(forward) :]]  # laid out along the order
        _draw_arrows(ax, forward + back, [*routes[: len(forward)], *turned], closes, arrows, scale)
    _draw_boxes(ax, picture, labels, layout.sizes, {**centres, **single}, scale)
    _say_single(ax, rest, scale)
    return ax


def _pairs(graph: np.ndarray) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in np.argwhere(graph)]


def _directed(picture: Picture) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Edges along the order of the acyclic graph, and those against it; either may close a cycle."""
    place = {node: k for k, node in enumerate(causes_first(picture))}
    pairs = _pairs(picture.drawn)
    return [e for e in pairs if place[e[0]] < place[e[1]]], [e for e in pairs if place[e[0]] > place[e[1]]]


def short(names: list[str]) -> list[str]:
    """Names without their middle if they are long, unless two would then read alike."""
    short = [n if len(n) <= _LONGEST else f"{n[: _LONGEST - 8]}…{n[-7:]}" for n in names]
    return [s if short.count(s) == 1 else n for s, n in zip(short, names, strict=True)]


def _letters(text: str) -> float:
    """Width of a text in points."""
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=STYLE["font"]), ismath=False)
    return float(width)


def _rows(sizes: np.ndarray, rest: list[int], width: float) -> tuple[dict[int, np.ndarray], float]:
    """Places of single genes, row by row below the network (y < 0), and how deep the rows reach."""
    places: dict[int, np.ndarray] = {}
    x, y = 0.0, -_ROW[2] - _BOX[1] / 2
    for k in rest:
        if x and x + sizes[k, 0] > width:
            x, y = 0.0, y - _BOX[1] - _ROW[1]
        places[k] = np.array([x + sizes[k, 0] / 2, y])
        x += sizes[k, 0] + _ROW[0]
    return places, (_BOX[1] / 2 - y if rest else 0.0)


def _set_limits(ax: Axes, layout: Layout, width: float, depth: float) -> float:
    """Make a unit of the axes a point, or less where there is too little room; return how much less."""
    ax.set(xlim=(-_MARGIN, width + _MARGIN), ylim=(-depth - _MARGIN, layout.size[1] + _MARGIN))
    ax.set_aspect("equal", adjustable="box")
    ax.set_axis_off()
    whole_figure(ax).draw_without_rendering()  # places the axes, if a layout engine does
    ax.apply_aspect()
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    return min(points / (width + 2 * _MARGIN), 1.0)


def _arrow_looks(picture: Picture, pairs: list[tuple[int, int]]) -> tuple[ScalarMappable, np.ndarray] | None:
    """Colours, and the probability of each edge; None without an edge."""
    if not pairs:
        return None
    values = np.array([picture.probability[pair] for pair in pairs], dtype=float)
    low = np.floor(10 * values.min() + 1e-6) / 10
    return ScalarMappable(Normalize(min(low, 0.9), 1), shades()), values


def _draw_arrows(
    ax: Axes,
    pairs: list[tuple[int, int]],
    routes: list[np.ndarray],
    closes: np.ndarray,
    looks: tuple[ScalarMappable, np.ndarray],
    scale: float,
) -> None:
    """Draw arrows, the most probable on top; dashed if they close a cycle."""
    colours, values = looks
    upright = _is_upright(routes)
    shares = np.asarray(colours.norm(values))
    for e in np.argsort(values, kind="stable"):
        width = _WIDTHS[0] + shares[e] * (_WIDTHS[1] - _WIDTHS[0])
        path = _way(routes[e], upright=upright)
        look: dict[str, Any] = {
            "color": colours.to_rgba(values[e]),
            "linewidth": width * scale,
            "linestyle": (0, (3, 1.6)) if closes[e] else "-",
            "mutation_scale": (5 + 2 * width) * scale,
            "joinstyle": "miter",
            "capstyle": "butt",
            "gid": "{}>{}".format(*pairs[e]),
            "zorder": 1 + 0.5 * shares[e],
        }
        ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", shrinkA=0, shrinkB=0, **look))


def _is_upright(routes: list[np.ndarray]) -> bool:
    """Whether arrows leave their boxes downwards."""
    return abs(routes[0][1, 0] - routes[0][0, 0]) < abs(routes[0][1, 1] - routes[0][0, 1])


def _way(route: np.ndarray, *, upright: bool) -> Path:
    """Straight along the boxes, curved between the layers."""
    bend = np.array([0.0, 1.0] if upright else [1.0, 0.0])
    points, codes = [route[0]], [Path.MOVETO]
    for k, (a, b) in enumerate(pairwise(route)):
        reach = bend * (b - a) / (2 if k % 2 else 3)
        points += [a + reach, b - reach, b]
        codes += [Path.CURVE4] * 3
    return Path(np.array(points), codes)


def _draw_boxes(
    ax: Axes, picture: Picture, labels: list[str], sizes: np.ndarray, places: dict[int, np.ndarray], scale: float
) -> None:
    for k, (x, y) in places.items():
        perturbed = bool(picture.perturbed[k])
        w, h = sizes[k]
        look: dict[str, Any] = {
            "facecolor": _FACES[perturbed],
            "edgecolor": PERTURBED if perturbed else _FRAME,
            "linewidth": (1.8 if perturbed else 0.8) * scale,
            "zorder": 3,
        }
        shape = "round,pad=0,rounding_size=4"
        ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, label=f"_{picture.names[k]}", **look))
        text: dict[str, Any] = {"fontsize": STYLE["font"] * scale, "color": STYLE["ink"], "zorder": 4}
        ax.text(x, y, labels[k], ha="center", va="center_baseline", parse_math=False, **text)


def _say_single(ax: Axes, rest: list[int], scale: float) -> None:
    if rest:
        text = {"fontsize": STYLE["small"] * scale, "color": "#6B6B6B", "va": "bottom"}
        genes = "gene" if len(rest) == 1 else "genes"
        ax.text(0, -_ROW[2] + 4, f"{len(rest)} {genes} without an edge:", **text)  # type: ignore[arg-type]


def _draw_legend(ax: Axes, picture: Picture) -> None:
    handles = []
    if picture.perturbed.any():
        look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgewidth": 1.8}
        face = {"markerfacecolor": _FACES[True], "markeredgecolor": PERTURBED}
        handles.append(Line2D([], [], marker="s", label="perturbed", **look, **face))
    if (picture.drawn & ~picture.dag).any():
        handles.append(Line2D([], [], color="#0072B2", linestyle=(0, (3, 1.6)), label="closes a cycle"))
    if handles:
        legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, handlelength=2.6)
