"""Ranked genes: points with spread, a colour for how they moved, ranks by the baselines beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from causcade import _keys, get
from causcade.get._stored import FUSED, LFC, WILCOXON, looks_like_targets, names_of
from causcade.pl._style import STYLE, legend, legend_height, new_axes
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_RANK_PLACES: Final = (22, 68, 114)  # points right of the axes
_WITH_COLOUR, _NO_COLOUR, _OPEN, _KNOWN = "_t", "_no_t", "_open", "_known"  # of points; "_" keeps them out of legends
_COLOURS: Final = LinearSegmentedColormap.from_list("up_or_down", [STYLE["down"], STYLE["none"], STYLE["up"]])


@dataclass(frozen=True)
class Kind:
    """What a list of genes is of: the columns of its table, and the words for them.

    ``ranks`` are columns of numbers beside the points, and their headings; ``limit`` that of the colours; ``spread`` what the
    axis says of the score where there is one.
    """

    name: str
    axis: str
    ranks: Mapping[str, str]
    colour: str
    colour_label: str
    limit: float
    uncoloured: str
    spread: str = ", mean ± sd"


CAUSES: Final = Kind(
    name="cause",
    axis="cause score (logit)",
    ranks={f"rank_{_keys.KNOCKOUT_T}": "rank by\n|t|", f"rank_{_keys.POPULARITY}": "rank by\npopularity"},
    colour=_keys.KNOCKOUT_T,
    colour_label="knock-out t",
    limit=STYLE["t_limit"],
    uncoloured="never perturbed alone",
)
TARGETS: Final = Kind(
    name="gene",
    axis="target score (logit)",
    ranks={
        f"{LFC}_rank": "rank by\n|LFC|",
        f"{WILCOXON}_rank": "rank by\nWilcoxon",
        f"{FUSED}_rank": "fused\nrank",
    },
    colour=LFC,
    colour_label="log fold change\n(natural log)",
    limit=STYLE["lfc_limit"],
    uncoloured="no fold change",
)


def causes_of_one(adata: AnnData, gene: str | None, key: str) -> pd.DataFrame:
    """All candidate causes of one effect gene."""
    if gene is not None and not isinstance(gene, str):
        msg = f"gene must be one name, got {gene!r}. Several genes go into cc.pl.cause_network, or one ax each."
        raise ValueError(msg)
    table = get.causes(adata, gene, key=key)
    effects = list(dict.fromkeys(table.get("effect", ())))
    if len(effects) > 1:
        msg = f"The causes of {len(effects):,} genes were scored: say which to draw, gene= one of {shorten(effects)}."
        raise ValueError(msg)
    if table.empty:
        of = f" of {gene!r}" if gene else ""
        msg = f"There are no candidate causes{of} under key={key!r}: no other gene has a score."
        raise ValueError(msg)
    return table


def targets_of_one(adata: AnnData, perturbation: str | None, key: str) -> pd.DataFrame:
    """All candidate targets of one perturbation."""
    if perturbation is not None and not isinstance(perturbation, str):
        msg = f"perturbation must be one name, got {perturbation!r}. Draw several with one ax each."
        raise ValueError(msg)
    if perturbation is None and looks_like_targets(adata, key) and len(names := names_of(adata, key)) > 1:
        msg = (
            f"The targets of {len(names):,} perturbations were scored: say which to draw, perturbation= one of "
            f"{shorten(names)}."
        )
        raise ValueError(msg)
    table = get.targets(adata, perturbation, key=key)
    if table.empty:
        of = f" of {perturbation!r}" if perturbation else ""
        msg = f"There are no candidate targets{of} under key={key!r}: no gene has a score."
        raise ValueError(msg)
    return table


def draw(ax: Axes | None, table: pd.DataFrame, kind: Kind, *, n_top: int, baselines: bool, title: str) -> Axes:
    """Draw the `n_top` best of a table."""
    top = table.head(n_top)
    ranks = [column for column in kind.ranks if baselines and column in top]
    ax = new_axes(5.2 + 0.8 * len(ranks), 1.6 + STYLE["row"] * len(top)) if ax is None else ax
    draw_points(ax, top, kind)
    draw_colour_bar(ax, top, kind, n_ranks=len(ranks))
    draw_ranks(ax, top, kind, ranks)
    label_rows(ax, top, kind)
    draw_legend(ax, table, top, kind)
    title = f"{title} (top {len(top):,} of {len(table):,})"
    ax.set_title(title, fontsize=STYLE["title"], pad=30 if ranks else 8)
    return ax


def draw_points(ax: Axes, top: pd.DataFrame, kind: Kind) -> None:
    """Draw one point per candidate, the best in row 0; what is known to be right is a star."""
    y = np.arange(len(top))
    if "sd" in top:
        shown = (top["sd"] > 0).to_numpy()
        ax.errorbar(
            top["score"][shown], y[shown], xerr=top["sd"][shown], fmt="none", ecolor=STYLE["bar"], elinewidth=1.2
        )
    colour = _colour_values(top, kind)
    limit = _colour_limit(colour, kind)
    style: dict[str, Any] = {"edgecolors": STYLE["ink"], "linewidths": 0.7, "zorder": 3}
    coloured, known = np.isfinite(colour), is_known(top)
    style_c: dict[str, Any] = {"cmap": _COLOURS, "vmin": -limit, "vmax": limit}
    for rows, marker, size, label in (
        (~known, "o", STYLE["point"], _WITH_COLOUR),
        (known, "*", STYLE["star"], _KNOWN),
    ):
        if (with_ := rows & coloured).any():
            ax.scatter(
                top["score"][with_], y[with_], c=colour[with_], marker=marker, s=size, label=label, **style_c, **style
            )
        if (without := rows & ~coloured).any():
            grey = {"color": STYLE["unknown"], "label": _NO_COLOUR}
            ax.scatter(top["score"][without], y[without], marker=marker, s=size, **grey, **style)
    if (open_ := _is_open(top)).any():
        ax.scatter(top["score"][open_], y[open_], color="white", s=STYLE["point"] / 5, zorder=4, label=_OPEN)


def is_known(top: pd.DataFrame) -> np.ndarray:
    """Whether a gene is known to be right."""
    return top["known"].to_numpy(bool) if "known" in top else np.zeros(len(top), dtype=bool)


def _colour_values(top: pd.DataFrame, kind: Kind) -> np.ndarray:
    return top[kind.colour].to_numpy(np.float64) if kind.colour in top else np.full(len(top), np.nan)


def _colour_limit(values: np.ndarray, kind: Kind) -> float:
    """Symmetric limit of the colours."""
    largest = float(np.nanmax(np.abs(values), initial=0))
    return min(largest, kind.limit) or 1.0


def _is_open(top: pd.DataFrame) -> np.ndarray:
    """Whether a candidate does not pass the false discovery rate; one without a rate does not."""
    return ~(top["fdr"] < STYLE["fdr"]).to_numpy() if "fdr" in top else np.zeros(len(top), dtype=bool)


def draw_colour_bar(ax: Axes, top: pd.DataFrame, kind: Kind, *, n_ranks: int) -> None:
    """Draw the colour bar right of `n_ranks` columns of numbers; it takes its place from `ax`."""
    points = next((c for c in ax.collections if c.get_label() in (_WITH_COLOUR, _KNOWN)), None)
    if points is None:
        return
    values = _colour_values(top, kind)
    limit = _colour_limit(values, kind)
    figure = ax.figure
    width = ax.get_position().width * figure.bbox.width / figure.dpi * 72  # points
    constrained = isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)  # sees the ranks, leaves them room
    pad = 0.02 if constrained else min((_RANK_PLACES[n_ranks - 1] + 32 if n_ranks else 12) / width, 0.5)
    bar = figure.colorbar(points, ax=ax, pad=pad, fraction=0.04, aspect=14, shrink=0.75)
    ticks = np.linspace(-limit, limit, 5 if len(top) > 2 else 3)
    names = [f"{tick:.2g}".replace("-", "−") for tick in ticks]
    names[0] = f"≤ {names[0]}" if np.nanmin(values) < -limit else names[0]
    names[-1] = f"≥ {names[-1]}" if np.nanmax(values) > limit else names[-1]
    bar.set_ticks(list(ticks), labels=names, fontsize=STYLE["small"])
    bar.set_label(kind.colour_label, fontsize=STYLE["small"], color=STYLE["ink"])
    bar.outline.set_visible(False)


def draw_ranks(ax: Axes, top: pd.DataFrame, kind: Kind, columns: Sequence[str]) -> None:
    """Ranks by the baselines, as columns of numbers right of the axes."""
    text: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "center",
        "fontsize": STYLE["small"],
        "color": STYLE["ink"],
    }
    for column, place in zip(columns, _RANK_PLACES, strict=False):
        ax.annotate(kind.ranks[column], (1, 1), (place, 5), xycoords="axes fraction", va="bottom", **text)
        for y, rank in enumerate(top[column]):
            word = "–" if np.isnan(rank) else f"{int(rank):,}"
            ax.annotate(word, (1, y), (place, 0), xycoords=ax.get_yaxis_transform(), va="center", **text)


def label_rows(ax: Axes, top: pd.DataFrame, kind: Kind) -> None:
    """Write the names of the candidates, and what the axis means."""
    n = len(top)
    ax.set_ylim(n - 0.5, -0.5)  # best on top
    ax.set_yticks(range(n), list(top[kind.name]), fontsize=STYLE["font"])
    for label, known in zip(ax.get_yticklabels(), is_known(top), strict=True):
        label.set_fontweight("bold" if known else "normal")
    spread = kind.spread if "sd" in top and top["sd"].notna().any() else ""
    ax.set_xlabel(f"{kind.axis}{spread}", fontsize=STYLE["font"])
    ax.margins(x=0.06)
    ax.tick_params(axis="x", labelsize=STYLE["small"])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def draw_legend(ax: Axes, table: pd.DataFrame, top: pd.DataFrame, kind: Kind) -> None:
    """Say what the colour bar does not: below the label of the axis, or below the points."""
    marker: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 7, "markeredgecolor": STYLE["ink"]}
    handles = []
    if "fdr" in top:
        dark: dict[str, Any] = {**marker, "markerfacecolor": STYLE["ink"]}
        handles.append(Line2D([], [], label=f"FDR < {STYLE['fdr']}", **dark))
        handles.append(
            Line2D([], [], label=f"FDR ≥ {STYLE['fdr']}", **{**marker, "markeredgewidth": 2.2}, markerfacecolor="white")
        )
    if kind.colour in top and np.isnan(_colour_values(top, kind)).any():
        handles.append(Line2D([], [], label=kind.uncoloured, **marker, markerfacecolor=STYLE["unknown"]))
    handles += _known_handles(table, top, kind, marker)
    if handles and ax.figure.get_layout_engine() is None:  # nothing would make room below
        height = ax.get_position().height * ax.figure.bbox.height / ax.figure.dpi * 72
        room = len(top) / max(height / legend_height(len(handles)) - 1, 1)
        ax.set_ylim(len(top) - 0.5 + room, -0.5)
        legend(ax, handles, loc="lower right")
    elif handles:
        below = ax.transAxes + ScaledTranslation(0, -34 / 72, ax.figure.dpi_scale_trans)
        legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=len(handles))


def _known_handles(table: pd.DataFrame, top: pd.DataFrame, kind: Kind, marker: dict[str, Any]) -> list[Line2D]:
    """Explain the star, and name what is known but too far down to be drawn."""
    handles = []
    if is_known(top).any():
        star = {**marker, "marker": "*", "markersize": 11, "markerfacecolor": "white"}
        handles.append(Line2D([], [], label="known target", **star))
    below = table.iloc[len(top) :]
    for gene, rank in below.loc[is_known(below), [kind.name, "rank"]].itertuples(index=False):
        handles.append(Line2D([], [], linestyle="none", label=f"known target {gene}: rank {rank:,}"))
    return handles
