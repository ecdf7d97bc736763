"""Plots of what `tl` wrote, read through `get`.

All take ``ax`` (draw there), ``show`` (None: as matplotlib does, and not on a given ``ax``) and ``return_fig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from causcade import _keys, get
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cause_network", "causes"]

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
    "diverging": "RdBu_r",
    "t_limit": 6.0,  # beyond it, more is no more convincing, and the rest would look white
    "fdr": 0.1,
    "point": 52,
    "node": 90,
    "row": 0.25,  # inches per line of a list
}
_ROLES: Final = {"cause": ("o", "cause"), "effect": ("s", "effect"), "both": ("D", "cause and effect")}
_RANKS: Final = {f"rank_{_keys.KNOCKOUT_T}": "rank by\n|t|", f"rank_{_keys.POPULARITY}": "rank by\npopularity"}
_RANK_PLACES: Final = (22, 68)  # points right of the axes
_WIDEST, _THINNEST = 3.5, 0.5  # points


def causes(
    adata: AnnData,
    gene: str | None = None,
    *,
    n_top: int = 15,
    key: str = _keys.CAUSES,
    baselines: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the best candidate causes of a gene, with their spread and what the baselines say of them.

    The place is the cause score, the bar its standard deviation over draws. The colour is the knock-out t: how the
    gene moved when the candidate was perturbed (grey: it never was, alone). A marker is open where the false discovery
    rate is 0.1 or more, if there was a null.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.causes` was run.
    gene
        Effect gene; None if only one was scored.
    n_top
        Number of candidates.
    key
        The `key_added` of that call.
    baselines
        Write the rank of each candidate by size of the knock-out t and by popularity beside it.
    ax
        Where to draw; None for a new figure. It gives some room to the colour bar and the ranks.
    show
        Show the figure; None: if matplotlib is interactive and `ax` is None.
    return_fig
        Return the figure.

    Returns
    -------
    The figure if `return_fig`, None if shown, else the axes.

    Raises
    ------
    KeyError
        If there is no such result, or the gene was not scored.
    ValueError
        If `gene` is None and several were scored, it has no candidates, or `n_top` is not positive.

    Examples
    --------
    >>> cc.tl.causes(adata, ["SOX2", "MYC"])
    >>> cc.pl.causes(adata, "MYC")
    """
    n_top = get.check_count(n_top, "n_top")
    table = _table_of_one(adata, gene, key)
    top = table.head(n_top)
    show = _to_show(ax, show)
    ranks = [column for column in _RANKS if baselines and column in top]
    ax = _new_axes(5.2 + 0.8 * len(ranks), 1.5 + STYLE["row"] * len(top)) if ax is None else ax
    _draw_points(ax, top)
    _draw_colour_bar(ax, top, room=_RANK_PLACES[len(ranks) - 1] + 28 if ranks else 8)
    _draw_ranks(ax, top, ranks)
    _label_rows(ax, top)
    _legend_of_points(ax, top)
    ax.set_title(
        f"Causes of {top['effect'].iloc[0]} (top {len(top):,} of {len(table):,} candidates)",
        fontsize=STYLE["title"],
        pad=28 if ranks else 8,
    )
    return _finish(ax, show=show, return_fig=return_fig)


def cause_network(
    adata: AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    n_top: int = 5,
    key: str = _keys.CAUSES,
    min_probability: float | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the best candidate causes of several genes as one graph, arrows from cause to effect.

    Causes are ancestors, not parents: an arrow says that the cause changes the effect, directly or through others. If
    no gene is both, causes are on the left and effects on the right. The same result gives the same picture.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.causes` was run.
    genes
        Effect genes; None for all that were scored.
    n_top
        Number of candidates of each effect gene.
    key
        The `key_added` of that call.
    min_probability
        Leave out candidates with a lower probability (logistic function of the score).
    ax
        Where to draw; None for a new figure.
    show
        Show the figure; None: if matplotlib is interactive and `ax` is None.
    return_fig
        Return the figure.

    Returns
    -------
    The figure if `return_fig`, None if shown, else the axes.

    Raises
    ------
    KeyError
        If there is no such result, or a gene was not scored.
    ValueError
        If no candidate is left to draw, `n_top` is not positive, or `min_probability` is not within 0 and 1.

    Examples
    --------
    >>> cc.tl.causes(adata, ["SOX2", "MYC", "NANOG"])
    >>> cc.pl.cause_network(adata, n_top=3)
    """
    edges = _strong_edges(adata, genes, get.check_count(n_top, "n_top"), key, min_probability)
    graph = nx.from_pandas_edgelist(edges, "cause", "effect", create_using=nx.DiGraph)
    layered = not set(edges["cause"]) & set(edges["effect"])
    places = _layers(edges) if layered else _free_places(graph)
    show = _to_show(ax, show)
    ax = _new_axes(*_network_size(edges, graph.number_of_nodes(), layered=layered)) if ax is None else ax
    widths = _widths(edges["probability"])
    _set_limits(ax, places, layered=layered)
    _draw_edges(ax, edges, places, widths)
    _draw_nodes(ax, graph, places)
    _legend_of_network(ax, graph, edges, widths)
    _label_nodes(ax, graph, places, layered=layered)
    return _finish(ax, show=show, return_fig=return_fig)


# --- figures ------------------------------------------------------------------------------------------------------


def _to_show(ax: Axes | None, show: bool | None) -> bool:
    return (ax is None and mpl.is_interactive()) if show is None else show


def _new_axes(width: float, height: float) -> Axes:
    return plt.figure(figsize=(width, height), layout="constrained").add_subplot()


def _finish(ax: Axes, *, show: bool, return_fig: bool) -> Axes | Figure | None:
    if show:
        plt.show()
    if return_fig:
        return ax.figure
    return None if show else ax


# --- ranked causes of one gene ------------------------------------------------------------------------------------


def _table_of_one(adata: AnnData, gene: str | None, key: str) -> pd.DataFrame:
    """All candidates of one effect gene."""
    if gene is not None and not isinstance(gene, str):
        msg = f"gene must be one name, got {gene!r}. Several genes go into cc.pl.cause_network, or one ax each."
        raise ValueError(msg)
    table = get.causes(adata, gene, key=key)
    effects = list(dict.fromkeys(table.get("effect", ())))
    if len(effects) > 1:
        msg = f"The causes of {len(effects):,} genes were scored: say which to draw, gene= one of {shorten(effects)}."
        raise ValueError(msg)
    if table.empty:
        msg = f"There are no candidate causes{f' of {gene!r}' if gene else ''} under key={key!r}: no other gene has a score."
        raise ValueError(msg)
    return table


def _draw_points(ax: Axes, top: pd.DataFrame) -> None:
    y = np.arange(len(top))
    if "sd" in top:
        shown = (top["sd"] > 0).to_numpy()
        ax.errorbar(
            top["score"][shown], y[shown], xerr=top["sd"][shown], fmt="none", ecolor=STYLE["bar"], elinewidth=1.2
        )
    t = _known_t(top)
    limit = _t_limit(t)
    style = {"s": STYLE["point"], "edgecolors": STYLE["ink"], "linewidths": 0.7, "zorder": 3}
    known = np.isfinite(t)
    if known.any():
        style_t = {"cmap": STYLE["diverging"], "vmin": -limit, "vmax": limit, "label": "_t"}
        ax.scatter(top["score"][known], y[known], c=t[known], **style_t, **style)
    if not known.all():
        ax.scatter(top["score"][~known], y[~known], color=STYLE["unknown"], label="_unknown", **style)
    if (open_ := _is_open(top)).any():
        ax.scatter(top["score"][open_], y[open_], color="white", s=STYLE["point"] / 5, zorder=4, label="_open")


def _known_t(top: pd.DataFrame) -> np.ndarray:
    return top[_keys.KNOCKOUT_T].to_numpy(np.float64) if _keys.KNOCKOUT_T in top else np.full(len(top), np.nan)


def _t_limit(t: np.ndarray) -> float:
    """Symmetric limit of the colours."""
    largest = float(np.nanmax(np.abs(t), initial=0))
    return min(largest, STYLE["t_limit"]) or 1.0


def _is_open(top: pd.DataFrame) -> np.ndarray:
    """Whether a candidate does not pass the false discovery rate; one without a rate does not."""
    return ~(top["fdr"] < STYLE["fdr"]).to_numpy() if "fdr" in top else np.zeros(len(top), dtype=bool)


def _draw_colour_bar(ax: Axes, top: pd.DataFrame, *, room: float) -> None:
    """Take place for the colour bar from `ax`, leaving `room` points for the ranks."""
    points = next((c for c in ax.collections if c.get_label() == "_t"), None)
    if points is None:
        return
    t = _known_t(top)
    limit = _t_limit(t)
    low, high = bool(np.nanmin(t) < -limit), bool(np.nanmax(t) > limit)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[low, high]
    figure = ax.figure
    constrained = figure.get_layout_engine() is not None
    width = ax.get_position().width * figure.bbox.width / figure.dpi * 72  # points
    pad = 0.03 if constrained else min((room + 8) / width, 0.5)  # a layout engine sees the ranks and leaves the room
    bar = figure.colorbar(points, ax=ax, pad=pad, fraction=0.05, aspect=16, shrink=0.8, extend=extend)
    bar.set_label("knock-out t of the gene", fontsize=STYLE["small"], color=STYLE["ink"])
    bar.ax.tick_params(labelsize=STYLE["small"])
    bar.outline.set_visible(False)


def _draw_ranks(ax: Axes, top: pd.DataFrame, columns: Sequence[str]) -> None:
    """Ranks by the baselines, as columns of numbers right of the axes."""
    text = {"textcoords": "offset points", "ha": "center", "fontsize": STYLE["small"], "color": STYLE["ink"]}
    for column, place in zip(columns, _RANK_PLACES, strict=False):
        ax.annotate(_RANKS[column], (1, 1), (place, 5), xycoords="axes fraction", va="bottom", **text)
        for y, rank in enumerate(top[column]):
            word = "–" if np.isnan(rank) else f"{int(rank):,}"
            ax.annotate(word, (1, y), (place, 0), xycoords=ax.get_yaxis_transform(), va="center", **text)


def _label_rows(ax: Axes, top: pd.DataFrame) -> None:
    n = len(top)
    ax.set_ylim(n - 0.5, -0.5)  # best on top
    ax.set_yticks(range(n), list(top["cause"]), fontsize=STYLE["font"])
    spread = ", mean ± s.d. over draws" if "sd" in top else ""
    ax.set_xlabel(f"cause score (logit){spread}", fontsize=STYLE["font"])
    ax.margins(x=0.06)
    ax.tick_params(axis="x", labelsize=STYLE["small"])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _legend_of_points(ax: Axes, top: pd.DataFrame) -> None:
    """Say what is not in the colour bar, below the label of the axis."""
    marker = {"marker": "o", "linestyle": "none", "markersize": 7, "markeredgecolor": STYLE["ink"]}
    handles = []
    if "fdr" in top:
        dark = {**marker, "markerfacecolor": STYLE["ink"]}
        handles.append(Line2D([], [], label=f"FDR < {STYLE['fdr']}", **dark))
        handles.append(
            Line2D([], [], label=f"FDR ≥ {STYLE['fdr']}", **{**marker, "markeredgewidth": 2.2}, markerfacecolor="white")
        )
    if _keys.KNOCKOUT_T in top and np.isnan(_known_t(top)).any():
        handles.append(Line2D([], [], label="never perturbed alone", **marker, markerfacecolor=STYLE["unknown"]))
    if handles:
        below = ax.transAxes + ScaledTranslation(0, -34 / 72, ax.figure.dpi_scale_trans)
        _legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=len(handles))


def _legend(ax: Axes, handles: list[Line2D], **place: Any) -> None:
    ax.legend(handles=handles, frameon=False, fontsize=STYLE["small"], handletextpad=0.4, columnspacing=1.2, **place)


# --- causes of several genes as a graph ---------------------------------------------------------------------------


def _strong_edges(
    adata: AnnData, genes: str | Sequence[str] | None, n_top: int, key: str, min_probability: float | None
) -> pd.DataFrame:
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
    return strong


def _layers(edges: pd.DataFrame) -> dict[str, np.ndarray]:
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


def _free_places(graph: nx.DiGraph) -> dict[str, np.ndarray]:
    """Kamada and Kawai's layout, with parts that are not connected a little further apart than the widest of them."""
    known = dict(nx.all_pairs_shortest_path_length(graph.to_undirected(as_view=True)))
    apart = 1 + max(max(row.values()) for row in known.values())
    distances = {a: {b: row.get(b, apart) for b in graph} for a, row in known.items()}
    return nx.kamada_kawai_layout(graph, dist=distances)


def _network_size(edges: pd.DataFrame, n_nodes: int, *, layered: bool) -> tuple[float, float]:
    """Inches of a new figure."""
    if layered:
        longest = max(edges["cause"].nunique(), edges["effect"].nunique())
        return 6.0, max(2.4, 0.9 + 1.1 * STYLE["row"] * longest)
    side = min(4.5 + 0.16 * n_nodes, 14)
    return side + 1.4, side


def _widths(probability: pd.Series) -> np.ndarray:
    """Line widths, proportional to the probability."""
    return np.maximum(_WIDEST * (probability / probability.max()).to_numpy(), _THINNEST)


def _set_limits(ax: Axes, places: dict[str, np.ndarray], *, layered: bool) -> None:
    where = np.array(list(places.values()))
    low, high = where.min(axis=0), where.max(axis=0)
    margin = np.maximum((high - low) * (0.35 if layered else 0.16, 0.04 if layered else 0.1), 0.05)
    ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    ax.set_axis_off()


def _draw_edges(ax: Axes, edges: pd.DataFrame, places: dict[str, np.ndarray], widths: np.ndarray) -> None:
    pairs = list(zip(edges["cause"], edges["effect"], strict=True))
    both_ways = {(a, b) for a, b in pairs} & {(b, a) for a, b in pairs}
    room = np.sqrt(STYLE["node"]) / 2 + 2
    for pair, width in zip(pairs, widths, strict=True):
        cause, effect = places[pair[0]], places[pair[1]]
        bend = "arc3,rad=0.18" if pair in both_ways else "arc3,rad=0"
        look = {"linewidth": width, "mutation_scale": 8 + 2 * width, "color": STYLE["edge"], "alpha": 0.75}
        arrow = FancyArrowPatch(
            cause, effect, arrowstyle="-|>", connectionstyle=bend, shrinkA=room, shrinkB=room, zorder=1, **look
        )
        ax.add_patch(arrow)


def _role(graph: nx.DiGraph, gene: str) -> str:
    if graph.in_degree(gene) == 0:
        return "cause"
    return "both" if graph.out_degree(gene) else "effect"


def _draw_nodes(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray]) -> None:
    for role, (marker, _) in _ROLES.items():
        where = np.array([places[g] for g in graph if _role(graph, g) == role])
        if len(where):
            look = {"s": STYLE["node"], "edgecolors": "white", "linewidths": 0.8, "zorder": 2, "label": f"_{role}"}
            ax.scatter(*where.T, marker=marker, color=STYLE[role], **look)


def _label_nodes(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray], *, layered: bool) -> None:
    if layered:
        sides = {g: (-1 if graph.out_degree(g) else 1, 0) for g in graph}
    else:
        sides = _free_sides(ax, graph, places)
    names = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center", 1: "bottom"}
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for gene, (x, y) in sides.items():
        look = {"ha": names[0][x], "va": names[1][y], "fontsize": STYLE["font"], "color": STYLE["ink"], "zorder": 4}
        ax.annotate(gene, places[gene], (8 * x, 7 * y), textcoords="offset points", path_effects=halo, **look)


def _free_sides(ax: Axes, graph: nx.DiGraph, places: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    """Side of each node where its name covers least of the nodes, lines and names placed before."""
    ax.figure.draw_without_rendering()  # places the axes, if a layout engine does
    points = {g: ax.transData.transform(places[g]) * 72 / ax.figure.dpi for g in graph}
    along = np.linspace(0.05, 0.95, 19)[:, None]
    lines = np.concatenate([points[a] + along * (points[b] - points[a]) for a, b in graph.edges])
    nodes = np.array(list(points.values()))
    taken: list[np.ndarray] = []
    sides = {}
    for gene in sorted(graph, key=lambda g: (-graph.degree(g), g)):
        boxes = {
            side: _text_box(points[gene], gene, side)
            for side in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
        }
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


def _legend_of_network(ax: Axes, graph: nx.DiGraph, edges: pd.DataFrame, widths: np.ndarray) -> None:
    roles = {_role(graph, gene) for gene in graph}
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            linestyle="none",
            markersize=8,
            markeredgecolor="white",
            color=STYLE[role],
            label=word,
        )
        for role, (marker, word) in _ROLES.items()
        if role in roles
    ]
    probability = edges["probability"].to_numpy()
    for i in dict.fromkeys((int(probability.argmax()), int(probability.argmin()))):
        handles.append(
            Line2D([], [], color=STYLE["edge"], linewidth=widths[i], label=f"probability {probability[i]:.2g}")
        )
    _legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3)
