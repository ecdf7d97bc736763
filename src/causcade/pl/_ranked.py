"""Ranked causes of one gene: points with spread, a colour for the knock-out t, ranks by the baselines beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from causcade import _keys, get
from causcade.pl._style import STYLE, legend
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

#: Columns of numbers beside the points, and their headings
RANKS: Final = {f"rank_{_keys.KNOCKOUT_T}": "rank by\n|t|", f"rank_{_keys.POPULARITY}": "rank by\npopularity"}
_RANK_PLACES: Final = (22, 68)  # points right of the axes
_WITH_T, _WITHOUT_T, _OPEN = "_t", "_no_t", "_open"  # labels of the points; "_" keeps them out of legends
_COLOURS: Final = LinearSegmentedColormap.from_list("knockout_t", [STYLE["down"], STYLE["none"], STYLE["up"]])


def table_of_one(adata: AnnData, gene: str | None, key: str) -> pd.DataFrame:
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
        of = f" of {gene!r}" if gene else ""
        msg = f"There are no candidate causes{of} under key={key!r}: no other gene has a score."
        raise ValueError(msg)
    return table


def draw_points(ax: Axes, top: pd.DataFrame) -> None:
    """Draw one point per candidate, the best in row 0."""
    y = np.arange(len(top))
    if "sd" in top:
        shown = (top["sd"] > 0).to_numpy()
        ax.errorbar(
            top["score"][shown], y[shown], xerr=top["sd"][shown], fmt="none", ecolor=STYLE["bar"], elinewidth=1.2
        )
    t = _known_t(top)
    limit = _t_limit(t)
    style: dict[str, Any] = {"s": STYLE["point"], "edgecolors": STYLE["ink"], "linewidths": 0.7, "zorder": 3}
    known = np.isfinite(t)
    if known.any():
        style_t: dict[str, Any] = {"cmap": _COLOURS, "vmin": -limit, "vmax": limit, "label": _WITH_T}
        ax.scatter(top["score"][known], y[known], c=t[known], **style_t, **style)
    if not known.all():
        ax.scatter(top["score"][~known], y[~known], color=STYLE["unknown"], label=_WITHOUT_T, **style)
    if (open_ := _is_open(top)).any():
        ax.scatter(top["score"][open_], y[open_], color="white", s=STYLE["point"] / 5, zorder=4, label=_OPEN)


def _known_t(top: pd.DataFrame) -> np.ndarray:
    return top[_keys.KNOCKOUT_T].to_numpy(np.float64) if _keys.KNOCKOUT_T in top else np.full(len(top), np.nan)


def _t_limit(t: np.ndarray) -> float:
    """Symmetric limit of the colours."""
    largest = float(np.nanmax(np.abs(t), initial=0))
    return min(largest, STYLE["t_limit"]) or 1.0


def _is_open(top: pd.DataFrame) -> np.ndarray:
    """Whether a candidate does not pass the false discovery rate; one without a rate does not."""
    return ~(top["fdr"] < STYLE["fdr"]).to_numpy() if "fdr" in top else np.zeros(len(top), dtype=bool)


def draw_colour_bar(ax: Axes, top: pd.DataFrame, *, n_ranks: int) -> None:
    """Draw the colour bar right of `n_ranks` columns of numbers; it takes its place from `ax`."""
    points = next((c for c in ax.collections if c.get_label() == _WITH_T), None)
    if points is None:
        return
    t = _known_t(top)
    limit = _t_limit(t)
    figure = ax.figure
    width = ax.get_position().width * figure.bbox.width / figure.dpi * 72  # points
    constrained = isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)  # sees the ranks, leaves them room
    pad = 0.02 if constrained else min((_RANK_PLACES[n_ranks - 1] + 32 if n_ranks else 12) / width, 0.5)
    bar = figure.colorbar(points, ax=ax, pad=pad, fraction=0.04, aspect=14, shrink=0.75)
    ticks = np.linspace(-limit, limit, 5 if len(top) > 2 else 3)
    names = [f"{tick:.2g}".replace("-", "−") for tick in ticks]
    names[0] = f"≤ {names[0]}" if np.nanmin(t) < -limit else names[0]
    names[-1] = f"≥ {names[-1]}" if np.nanmax(t) > limit else names[-1]
    bar.set_ticks(list(ticks), labels=names, fontsize=STYLE["small"])
    bar.set_label("knock-out t", fontsize=STYLE["small"], color=STYLE["ink"])
    bar.outline.set_visible(False)


def draw_ranks(ax: Axes, top: pd.DataFrame, columns: Sequence[str]) -> None:
    """Ranks by the baselines, as columns of numbers right of the axes."""
    text: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "center",
        "fontsize": STYLE["small"],
        "color": STYLE["ink"],
    }
    for column, place in zip(columns, _RANK_PLACES, strict=False):
        ax.annotate(RANKS[column], (1, 1), (place, 5), xycoords="axes fraction", va="bottom", **text)
        for y, rank in enumerate(top[column]):
            word = "–" if np.isnan(rank) else f"{int(rank):,}"
            ax.annotate(word, (1, y), (place, 0), xycoords=ax.get_yaxis_transform(), va="center", **text)


def label_rows(ax: Axes, top: pd.DataFrame) -> None:
    """Write the names of the candidates, and what the axis means."""
    n = len(top)
    ax.set_ylim(n - 0.5, -0.5)  # best on top
    ax.set_yticks(range(n), list(top["cause"]), fontsize=STYLE["font"])
    spread = ", mean ± sd" if "sd" in top and top["sd"].notna().any() else ""
    ax.set_xlabel(f"cause score (logit){spread}", fontsize=STYLE["font"])
    ax.margins(x=0.06)
    ax.tick_params(axis="x", labelsize=STYLE["small"])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def draw_legend(ax: Axes, top: pd.DataFrame) -> None:
    """Say what the colour bar does not: below the label of the axis, or in the corner that a descending list leaves."""
    marker: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 7, "markeredgecolor": STYLE["ink"]}
    handles = []
    if "fdr" in top:
        dark: dict[str, Any] = {**marker, "markerfacecolor": STYLE["ink"]}
        handles.append(Line2D([], [], label=f"FDR < {STYLE['fdr']}", **dark))
        handles.append(
            Line2D([], [], label=f"FDR ≥ {STYLE['fdr']}", **{**marker, "markeredgewidth": 2.2}, markerfacecolor="white")
        )
    if _keys.KNOCKOUT_T in top and np.isnan(_known_t(top)).any():
        handles.append(Line2D([], [], label="never perturbed alone", **marker, markerfacecolor=STYLE["unknown"]))
    if handles and ax.figure.get_layout_engine() is None:  # nothing would make room below
        legend(ax, handles, loc="lower right")
    elif handles:
        below = ax.transAxes + ScaledTranslation(0, -34 / 72, ax.figure.dpi_scale_trans)
        legend(ax, handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=len(handles))
