"""Predicted against observed change of a combination, gene by gene, with the additive prediction beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from scipy.stats import pearsonr

from causcade.get import _effects
from causcade.get._stored import check_count
from causcade.pl._network import _inside, _overlap
from causcade.pl._style import STYLE, finish, legend, new_axes, to_show, whole_figure

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["effects"]

_MODEL: Final[dict[str, Any]] = {"marker": "o", "color": STYLE["up"]}
_ADDITIVE: Final[dict[str, Any]] = {"marker": "D", "color": STYLE["down"]}
_SIZES: Final = (20, 11)  # of genes with a name and of the others, points squared
_REACHES: Final = (7, 16, 28, 42, 60, 80)  # of names from their points, points
_LEAST: Final = 3  # genes of which a correlation is taken


def effects(
    adata: AnnData,
    predicted: AnnData,
    perturbation: str | None = None,
    *,
    n_top: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the predicted change of every gene against the observed one, with the additive prediction beside it.

    Orange circles are the model, blue diamonds the sum of the changes of the parts alone: the one nearer to the dashed line
    is right. The two of a gene are joined for the genes that changed most, which have their names beside the model's;
    bars there are one standard error of the observed change and one standard deviation over fits. The legend has the
    correlation with the observed change over all genes.

    Parameters
    ----------
    adata
        Annotated data with measured cells, see :func:`causcade.get.effects`. Cells that the model has not seen say most.
    predicted
        What ``GraCEVAE.predict(..., kind="mean")`` returned.
    perturbation
        Combination; None if only one was predicted.
    n_top
        Number of genes with a name.
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
        If the combination was not predicted or not measured, or there are no regimes.
    ValueError
        If `predicted` is not of this kind, several were predicted and none is named, genes differ, or `n_top` is not
        positive.

    Examples
    --------
    >>> means = model.predict([["KLF1", "MAP2K6"]], kind="mean")
    >>> cc.pl.effects(adata, means)
    """
    n_top = check_count(n_top, "n_top")
    table = _effects.effects(adata, predicted, perturbation)
    row = _effects.one_of(predicted, perturbation, kind="mean")
    name, seen = str(predicted.obs["perturbation"].iloc[row]), bool(predicted.obs["in_training"].iloc[row])
    show = to_show(ax, show=show)
    ax = new_axes(5.0, 5.0) if ax is None else ax
    _draw(ax, table, n_top)
    ax.set_title(f"{name}, {'' if seen else 'not '}in training", fontsize=STYLE["title"], parse_math=False)
    _name_genes(ax, table.head(n_top), table)
    return finish(ax, show=show, return_fig=return_fig)


def _draw(ax: Axes, table: pd.DataFrame, n_top: int) -> None:
    x, model, additive = (table[c].to_numpy() for c in ("observed", "predicted", "additive"))
    known = bool(np.isfinite(additive).all())
    values = np.concatenate([x, model, additive[np.isfinite(additive)]])
    low, high = float(values.min()), float(values.max())
    room = 0.06 * max(high - low, 1e-6)
    line: dict[str, Any] = {"color": STYLE["unknown"], "linewidth": 0.8, "zorder": 0}
    ax.axline((0, 0), slope=1, linestyle=(0, (4, 3)), **line)
    ax.axhline(0, **line)
    ax.axvline(0, **line)
    size = np.where(np.arange(len(x)) < n_top, *_SIZES)
    told = [Line2D([], [], linestyle="none", label=f"model, {_correlation(model, x)}", **_MODEL)]
    if known:
        ax.vlines(x[:n_top], model[:n_top], additive[:n_top], color=STYLE["bar"], linewidth=0.8, zorder=1)
        ax.scatter(x, additive, s=size, linewidths=0.7, zorder=2, facecolor="none",
                   marker="D", edgecolors=STYLE["down"], label="_additive")  # fmt: skip
        told.append(
            Line2D(
                [],
                [],
                linestyle="none",
                markerfacecolor="none",
                label=f"additive, {_correlation(additive, x)}",
                **_ADDITIVE,
            )
        )
    else:
        told.append(Line2D([], [], linestyle="none", label="additive: a part was never alone"))
    ax.scatter(x, model, s=1.3 * size, linewidths=0.4, edgecolors="white", zorder=3, label="_model", **_MODEL)
    _bars(ax, table.head(n_top))
    ax.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlabel("observed change", fontsize=STYLE["font"])
    ax.set_ylabel("predicted change", fontsize=STYLE["font"])
    ax.tick_params(labelsize=STYLE["small"])
    ax.spines[["top", "right"]].set_visible(False)
    legend(ax, told, loc="upper left", borderaxespad=0.2)


def _correlation(pred: np.ndarray, true: np.ndarray) -> str:
    """Pearson's r as text."""
    if len(pred) < _LEAST or np.ptp(pred) == 0 or np.ptp(true) == 0:
        return "r: no change"
    return f"r = {pearsonr(pred, true).statistic:.2f}".replace("-", "−")


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    error = {"xerr": table["se"], "yerr": table["sd"]}
    look: dict[str, Any] = {"fmt": "none", "ecolor": STYLE["up"], "elinewidth": 0.7, "alpha": 0.7, "zorder": 2}
    ax.errorbar(table["observed"], table["predicted"], **{k: v for k, v in error.items() if v.notna().all()}, **look)


def _name_genes(ax: Axes, table: pd.DataFrame, every: pd.DataFrame) -> None:
    """Write names where they cover least of the points and of one another; a line joins those that lie further off."""
    whole_figure(ax).draw_without_rendering()  # places the axes, if a layout engine does
    inches = 72 / ax.figure.dpi
    drawn = [every[["observed", column]].dropna().to_numpy() for column in ("predicted", "additive")]
    points = ax.transData.transform(np.concatenate(drawn)) * inches
    frame = ax.get_window_extent().get_points() * inches
    taken: list[np.ndarray] = []
    for gene, x, y in zip(table["gene"], table["observed"], table["predicted"], strict=True):
        at = ax.transData.transform((x, y)) * inches
        shift, box = _free_place(at, str(gene), points, taken, frame)
        taken.append(box)
        line = {"arrowstyle": "-", "color": STYLE["bar"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        look: dict[str, Any] = {"fontsize": STYLE["small"], "color": STYLE["ink"], "zorder": 5, "parse_math": False}
        name = ax.annotate(
            str(gene), (x, y), tuple(shift), textcoords="offset points", ha="center", va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")], arrowprops=line, **look,
        )  # fmt: skip
        name.set_in_layout(False)  # or it would move the axes, and itself


def _free_place(
    at: np.ndarray, gene: str, points: np.ndarray, taken: list[np.ndarray], frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift of a name from its point, and its box, in points: of some places around the one that covers least."""
    half = np.array([0.37 * STYLE["small"] * len(gene), 0.62 * STYLE["small"]])  # capitals and digits are wide
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for reach in _REACHES:
        for angle in np.arange(0, 2 * np.pi, np.pi / 6):
            way = np.array([np.cos(angle), np.sin(angle)])
            shift = way * (reach + half * np.abs(way))
            box = np.array([at + shift - half, at + shift + half])
            outside = float(np.maximum(frame[0] - box[0], 0).sum() + np.maximum(box[1] - frame[1], 0).sum())
            cost = 100 * sum(_overlap(box, other) for other in taken) + 3 * _inside(points, box) + outside + 0.3 * reach
            if best is None or cost < best[0]:
                best = cost, shift, box
    return (best[1], best[2]) if best is not None else (np.zeros(2), np.zeros((2, 2)))
