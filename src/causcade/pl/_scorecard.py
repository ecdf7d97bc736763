"""Scores of models and baselines side by side, one panel for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from causcade.pl._style import STYLE, to_show, whole_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["scorecard"]

_NEEDED: Final = (
    "method", "kind", "task", "split", "metric", "value", "low", "high", "n", "baseline", "ceiling", "gain_low", "better",
    "status",
)  # fmt: skip
_WORDS: Final = {
    "pearson_control": "Pearson, change to control",
    "pearson_mean": "Pearson, to perturbed mean",
    "discrimination": "discrimination (cosine)",
    "energy": "energy distance",
    "mse": "mean squared error",
    "vcc_de_overlap": "overlap of changed genes",
    "vcc_de_jaccard": "genes called, Jaccard",
    "vcc_de_direction": "direction of called genes",
    "vcc_de_error": "relative error of changes",
    "vcc_discrimination": "discrimination (L1)",
    "vcc_mae": "mean absolute error",
    "vcc": "Virtual Cell score",
    "ap": "average precision",
    "rank": "mean rank of the target",
    "column_auroc": "AUROC of effects",
    "column_ap": "average precision of effects",
}
_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "model": {"marker": "o", "color": STYLE["up"], "markersize": 7},
    "baseline": {"marker": "D", "color": STYLE["down"], "markersize": 5.5},
}
_BASELINE: Final[dict[str, Any]] = {"color": STYLE["down"], "linestyle": (0, (4, 3)), "linewidth": 1.2}
_CEILING: Final[dict[str, Any]] = {"color": STYLE["ink"], "linestyle": ":", "linewidth": 1.6}
_COLUMNS, _PANEL, _NAMES = 3, 2.6, 1.5  # panels in a row, inches of a panel and of the names
_MARKS = 5  # that the legend explains


def scorecard(
    table: pd.DataFrame,
    metrics: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw what `causcade.evaluate` found: a panel for each metric, a line for each method.

    Circles are models, diamonds baselines, bars their 95 % intervals over perturbations. A marker is filled where the
    method is better than the named baseline: the whole 95 % interval of its paired gain lies above 0. The dashed line is
    that baseline, the dotted one a replicate (one half of the true cells as a prediction of the other). The arrow
    in a title says which direction is better.

    Parameters
    ----------
    table
        What `causcade.evaluate` returned, of one task and split.
    metrics
        Metrics, in this order; None for all that any method has.
    ax
        Where to draw; for one metric only. None for a new figure.
    show
        Show the figure; None: if matplotlib is interactive and `ax` is None.
    return_fig
        Return the figure.

    Returns
    -------
    The figure if `return_fig`, None if shown, else the axes: an array of them for several metrics.

    Raises
    ------
    ValueError
        If the table lacks columns or rows, is of several tasks or splits, a metric is not in it, or `ax` is given for
        several metrics.

    Examples
    --------
    >>> table = cc.evaluate(adata, ["additive", "gracevae"], split="combination")
    >>> cc.pl.scorecard(table)
    """
    chosen = _choose(table, metrics)
    if ax is not None and len(chosen) > 1:
        msg = f"ax= takes one metric, not {len(chosen)}: pass metrics= one of {', '.join(chosen)}, or leave out ax."
        raise ValueError(msg)
    methods = _order(table)
    shown = to_show(ax, show=show)
    axes = [ax] if ax is not None else _new_axes(len(chosen), len(methods))
    for k, (panel, metric) in enumerate(zip(axes, chosen, strict=True)):
        _draw(panel, table[table["metric"] == metric].set_index("method").loc[methods], metric)
        panel.set_yticks(range(len(methods)), methods if k % _COLUMNS == 0 else [""] * len(methods))
    if ax is None:
        _tell(axes, table)
    if shown:
        plt.show()
    if return_fig:
        return whole_figure(axes[0])
    return None if shown else axes[0] if len(axes) == 1 else np.array(axes, dtype=object)


def _choose(table: pd.DataFrame, metrics: str | Sequence[str] | None) -> list[str]:
    """Metrics to draw."""
    if lacking := [c for c in _NEEDED if c not in getattr(table, "columns", ())]:
        msg = f"The table lacks {', '.join(lacking)}. Pass what cc.evaluate returns."
        raise ValueError(msg)
    kinds = table[["task", "split"]].drop_duplicates()
    if len(kinds) != 1 or table.duplicated(["method", "metric"]).any():
        msg = (
            f"A scorecard is of one table of cc.evaluate; this one has {len(kinds)} tasks and splits"
            f"{' and repeated rows' if len(kinds) == 1 else ''}."
        )
        raise ValueError(msg)
    known = list(dict.fromkeys(table["metric"]))
    if metrics is None:
        chosen = [m for m in known if table.loc[table["metric"] == m, "value"].notna().any()]
    else:
        chosen = [metrics] if isinstance(metrics, str) else list(metrics)
    if unknown := [m for m in chosen if m not in known]:
        msg = f"There is no metric {', '.join(map(repr, unknown))} in the table; it has {', '.join(known)}."
        raise ValueError(msg)
    if not chosen:
        why = dict.fromkeys(f"{m}: {s}" for m, s in zip(table["method"], table["status"], strict=True))
        msg = f"Nothing was scored, so there is nothing to draw. {'; '.join(list(why)[:3])}."
        raise ValueError(msg)
    return chosen


def _order(table: pd.DataFrame) -> list[str]:
    """Models first, then baselines, as they were asked for."""
    kinds = table.drop_duplicates("method").set_index("method")["kind"]
    return [*kinds.index[kinds == "model"], *kinds.index[kinds != "model"]]


def _new_axes(n: int, n_methods: int) -> list[Axes]:
    columns, rows = min(n, _COLUMNS), -(-n // _COLUMNS)
    legend = -(-_MARKS // _legend_columns(n)) - 1
    size = (_NAMES + _PANEL * columns, rows * (STYLE["row"] * n_methods + 0.85) + 0.75 + 0.22 * legend)
    figure = plt.figure(figsize=size, layout="constrained")
    return [figure.add_subplot(rows, columns, k + 1) for k in range(n)]


def _legend_columns(n: int) -> int:
    """Entries that fit side by side under so many panels."""
    return {1: 2, 2: 3}.get(n, _MARKS)


def _draw(ax: Axes, rows: pd.DataFrame, metric: str) -> None:
    """One panel; the first method is at the top."""
    up = rows["better"].iloc[0] == "higher"
    for y, (_, row) in enumerate(rows.iterrows()):
        if not np.isfinite(row["value"]):
            continue
        look = _LOOKS["model" if row["kind"] == "model" else "baseline"]
        if np.isfinite(row["low"]):
            ax.plot(
                [row["low"], row["high"]],
                [y, y],
                color=look["color"],
                linewidth=1.3,
                alpha=0.7,
                zorder=2,
                label="_interval",
            )
        better = row["gain_low"] > 0
        ax.plot(row["value"], y, linestyle="none", zorder=3, markeredgewidth=1.4,
                markerfacecolor=look["color"] if better else "white", **look)  # fmt: skip
    for column, look in (("baseline", _BASELINE), ("ceiling", _CEILING)):
        if (known := rows[column].dropna()).size:  # those of methods that say little are of fewer perturbations
            ax.axvline(float(known.loc[rows.loc[known.index, "n"].idxmax()]), zorder=1, label=f"_{column}", **look)
    _limit(ax, rows)
    for y, (_, row) in enumerate(rows.iterrows()):
        if not np.isfinite(row["value"]):
            ax.text(0.03, y, "not scored", transform=ax.get_yaxis_transform(), va="center", fontsize=STYLE["small"],
                    color=STYLE["bar"], style="italic", backgroundcolor="white")  # fmt: skip
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_title(f"{_WORDS.get(metric, metric)} {'→' if up else '←'}", fontsize=STYLE["font"], parse_math=False)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(labelsize=STYLE["small"], length=2)
    ax.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _limit(ax: Axes, rows: pd.DataFrame) -> None:
    """Show all values; an interval may run out of the panel if it is far wider than they lie apart."""
    points = rows[["value", "baseline", "ceiling"]].to_numpy(np.float64)
    points = points[np.isfinite(points)]
    ends = rows[["low", "high"]].to_numpy(np.float64)
    low, high = float(points.min()), float(points.max())
    room = max(high - low, 0.02 * max(abs(low), abs(high)), 1e-9)
    ends = ends[np.isfinite(ends)]
    if ends.size:
        low, high = max(min(low, float(ends.min())), low - room), min(max(high, float(ends.max())), high + room)
    ax.set_xlim(low - 0.06 * (high - low + room), high + 0.06 * (high - low + room))


def _tell(axes: Sequence[Axes], table: pd.DataFrame) -> None:
    """Write above what was asked, and below what the marks are."""
    figure = whole_figure(axes[0])
    first, name = table.iloc[0], str(table.attrs.get("baseline", "baseline"))
    n = int(table["n"].max())
    figure.suptitle(
        f"{first['task']}, split: {first['split']}, {n:,} held-out perturbation{'s' * (n != 1)}",
        fontsize=STYLE["title"],
    )
    told = [Line2D([], [], linestyle="none", markeredgewidth=1.4, markerfacecolor="white", label=kind, **_LOOKS[kind])
            for kind in _LOOKS if kind in set(table["kind"])]  # fmt: skip
    told.append(Line2D([], [], linestyle="none", marker="o", color=STYLE["ink"], label="filled: better (95 %)"))
    told += [Line2D([], [], label=name, **_BASELINE), Line2D([], [], label="replicate", **_CEILING)]
    figure.legend(
        handles=told,
        loc="outside lower center",
        ncols=_legend_columns(len(axes)),
        frameon=False,
        fontsize=STYLE["small"],
    )
