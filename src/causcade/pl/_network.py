"""Causes of several genes as a graph: where the nodes lie, and where their names do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke

from causcade import get
from causcade.pl._style import STYLE, legend, whole_figure

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_ROLES: Final = {"cause": ("o", "cause"), "effect": ("s", "effect"), "both": ("D", "cause and effect")}
_WIDEST, _THINNEST = 3.5, 0.5  # points
_MOST = 200  # genes in one picture
_SIDES: Final = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def strong_edges(
    adata: AnnData, genes: str | Sequence[str] | None, n_top: int, key: str, min_probability: float | None
) -> pd.DataFrame:
    """Pairs to draw, as `causcade.get.causes` lists them."""
    if min_probability is not None and not 0 <= min_probability <= 1:
        msg = f"min_probability must be within 0 and 1, got {min_probability!r}."
        raise ValueError(msg)
    edges = get.causes(adata, genes, key=key, n_top=n_top)
    if edges.empty:
        msg = f"There is nothing to draw under key={key!r}: no pair of these genes has a score."
        raise ValueError(msg)
    strong = edges if min_probability is None else edges[edges["probability"] >= min_probability]
    if strong.empty:
        highest = edges["probability"].max()
        msg = f"No candidate has a probability of min_probability={min_probability} or more; the highest is {highest:.2g}."
        raise ValueError(msg)
    if (n := len(set(strong["cause"]) | set(strong["effect"]))) > _MOST:
        msg = (
            f"{n:,} genes are too many to read in one picture (at most {_MOST}): name fewer genes=, lower n_top= or "
            "raise min_probability=."
        )
        raise ValueError(msg)
    return strong


def layers(edges: pd.DataFrame) -> dict[str, np.ndarray]:
    """Causes on the left, effects on the right; causes lie near the effects that they have, so few lines cross."""
    effects = list(dict.fromkeys(edges["effect"]))
    height = dict(zip(effects, _spread(len(effects)), strict=True))
    mean_height = edges.assign(y=edges["effect"].map(height)).groupby("cause", sort=False)["y"].mean()
    ordered = mean_height.sort_values(ascending=False, kind="stable").index  # equal ones stay in the order of rank
    left = zip(ordered, _spread(len(ordered)), strict=True)
    return {**{g: np.array([0.0, y]) for g, y in left}, **{g: np.array([1.0, y]) for g, y in height.items()}}


def _spread(n: int) -> np.ndarray:
    """Return `n` heights from top to bottom, in the middle of equal parts of 0 to 1."""
    return 1 - (np.arange(n) + 0.5) / n


def free_places(graph: nx.DiGraph) -> dict[str, np.ndarray]:
    """Kamada and Kawai's layout, with parts that are not connected a little further apart than the widest of them."""
    known = dict(nx.all_pairs_shortest_path_length(graph.to_undirected(as_view=True)))
    apart = 1 + max(max(row.values()) for row in known.values())
    distances = {a: {b: row.get(b, apart) for b in graph} for a, row in known.items()}
    return nx.kamada_kawai_layout(graph, dist=distances)


def figure_size(edges: pd.DataFrame, n_nodes: int, *, layered: bool) -> tuple[float, float]:
    """Inches of a new figure."""
    if layered:
        longest = max(edges["cause"].nunique(), edges["effect"].nunique())
        return 6.0, max(2.4, 0.9 + 1.1 * STYLE["row"] * longest)
    side = min(4.5 + 0.16 * n_nodes, 14)
    return side + 1.4, side


def line_widths(probability: pd.Series) -> np.ndarray:
    """Line widths, proportional to the probability."""
    return np.maximum(_WIDEST * (probability / probability.max()).to_numpy(), _THINNEST)


def set_limits(ax: Axes, places: dict[str, np.ndarray], *, layered: bool) -> None:
    """Leave room for names around the nodes."""
    where = np.array(list(places.values()))
    low, high = where.min(axis=0), where.max(axis=0)
    margin = np.maximum((high - low) * (0.35 if layered else 0.16, 0.04 if layered else 0.1), 0.05)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set_axis_off()


def _turn(
    cause: tuple[float, ...], effect: tuple[float, ...], others: list[np.ndarray], *, both: bool, near: float = 0.06
) -> float:
    """How far an arrow is bent: 0 unless another one runs back, more if a gene lies on the straight line."""
    start, along = np.array(cause), np.array(effect) - np.array(cause)
    length = float(np.hypot(*along)) or 1.0
    for at in others:
        share = float((at - start) @ along) / length**2
        if 0 < share < 1 and np.hypot(*(start + share * along - at)) < near * length:
            return 0.3
    return 0.18 if both else 0.0


def draw_edges(ax: Axes, edges: pd.DataFrame, places: dict[str, np.ndarray], widths: np.ndarray) -> None:
    """Draw arrows from cause to effect; two that join the same genes, or pass over a third, are bent apart."""
    pairs = list(zip(edges["cause"], edges["effect"], strict=True))
    both_ways = {(a, b) for a, b in pairs} & {(b, a) for a, b in pairs}
    room = np.sqrt(STYLE["node"]) / 2 + 2
    for pair, width in zip(pairs, widths, strict=True):
        cause, effect = tuple(places[pair[0]]), tuple(places[pair[1]])
        others = [at for gene, at in places.items() if gene not in pair]
        bend = f"arc3,rad={_turn(cause, effect, others, both=pair in both_ways)}"
        look: dict[str, Any] = {
            "linewidth": width,
            "mutation_scale": 8 + 2 * width,
            "color": STYLE["edge"],
            "alpha": 0.75,
        }
        arrow = FancyArrowPatch(
            cause, effect, arrowstyle="-|>", connectionstyle=bend, shrinkA=room, shrinkB=room, zorder=1, **look
        )
        ax.add_patch(arrow)


def _role(graph: nx.DiGraph, gene: str) -> str:
    if graph.in_degree(gene) == 0:
        return "cause"
    return "both" if graph.out_degree(gene) else "effect"


def draw_nodes(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray]) -> None:
    """Draw one marker per gene; shape and colour say whether it is a cause, an effect or both."""
    for role, (marker, _) in _ROLES.items():
        where = np.array([places[g] for g in graph if _role(graph, g) == role])
        if len(where):
            look: dict[str, Any] = {
                "s": STYLE["node"],
                "edgecolors": "white",
                "linewidths": 0.8,
                "zorder": 2,
                "label": f"_{role}",
            }
            ax.scatter(*where.T, marker=marker, color=STYLE[role], **look)


def draw_names(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray], *, layered: bool) -> None:
    """Write names outside of the two layers, or where they cover least."""
    if layered:
        sides = {g: (-1 if graph.out_degree(g) else 1, 0) for g in graph}
    else:
        sides = _free_sides(ax, graph, places)
    names = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center", 1: "bottom"}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for gene, (x, y) in sides.items():
        look: dict[str, Any] = {
            "ha": names[0][x],
            "va": names[1][y],
            "fontsize": STYLE["font"],
            "color": STYLE["ink"],
            "zorder": 4,
        }
        ax.annotate(gene, tuple(places[gene]), (8 * x, 7 * y), textcoords="offset points", path_effects=halo, **look)


def _free_sides(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Side of each node where its name covers least of the nodes, lines and names placed before."""
    whole_figure(ax).draw_without_rendering()  # places the axes, if a layout engine does
    points = {g: ax.transData.transform(places[g]) * 72 / ax.figure.dpi for g in graph}
    along = np.linspace(0.05, 0.95, 19)[:, None]
    lines = np.concatenate([points[a] + along * (points[b] - points[a]) for a, b in graph.edges])
    nodes = np.array(list(points.values()))
    taken: list[np.ndarray] = []
    sides = {}
    for gene in sorted(graph, key=lambda g: (-graph.degree(g), g)):
        boxes = {side: _text_box(points[gene], gene, side) for side in _SIDES}
        cost = {
            side: 50 * sum(_overlap(box, other) for other in taken) + 20 * _inside(nodes, box) + _inside(lines, box)
            for side, box in boxes.items()
        }
        sides[gene] = min(cost, key=lambda side: cost[side])  # of equal ones the first
        taken.append(boxes[sides[gene]])
    return sides


def _text_box(point: np.ndarray, text: str, side: tuple[int, int]) -> np.ndarray:
    """Corners [[left, bottom], [right, top]] of a name beside a node, in points, from the usual width of letters."""
    size = np.array([0.62 * STYLE["font"] * len(text), 1.15 * STYLE["font"]])
    low = point + np.array(side) * (8, 7) + size * (np.array(side) - 1) / 2
    return np.array([low, low + size])


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[0] < b[1]).all() and (b[0] < a[1]).all())


def _inside(points: np.ndarray, box: np.ndarray) -> int:
    return int(((points > box[0] - 3) & (points < box[1] + 3)).all(axis=1).sum())


def draw_legend(ax: Axes, graph: nx.DiGraph, edges: pd.DataFrame, widths: np.ndarray) -> None:
    """Say what markers mean, and how wide the strongest and the weakest arrow are."""
    roles = {_role(graph, gene) for gene in graph}
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8, "markeredgecolor": "white"}
    handles = [
        Line2D([], [], marker=marker, color=STYLE[role], label=word, **look)
        for role, (marker, word) in _ROLES.items()
        if role in roles
    ]
    probability = edges["probability"].to_numpy()
    for i in dict.fromkeys((int(probability.argmax()), int(probability.argmin()))):
        handles.append(
            Line2D([], [], color=STYLE["edge"], linewidth=widths[i], label=f"probability {probability[i]:.2g}")
        )
    legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
