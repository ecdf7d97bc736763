"""Genes along the dose: data, model and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import matplotlib.pyplot as plt
import numpy as np

from causcade import _keys, get
from causcade.pl._style import STYLE, finish, to_show
from causcade.regimes.labels import shorten, suggest

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dose_response"]

_COLUMNS: Final = 3
_PANEL: Final = (2.5, 2.1)  # inches
_MOST: Final = 30
_POINTS: Final[dict[str, Any]] = {
    "fmt": "o", "color": STYLE["ink"], "markersize": 4.5, "elinewidth": 1, "ecolor": STYLE["bar"], "zorder": 4,
}  # fmt: skip
_DATA, _MODEL = "data", "GIM"
_COLOURS: Final = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # of baselines
_DASHES: Final = ((0, (4, 2)), (0, (1, 1.4)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)), (0, (8, 3)))


def dose_response(
    adata: AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    key: str = _keys.DOSE_RESPONSE,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure | None:
    """Draw means of genes along the dose: data, the model, and the baselines beside it.

    Points are means of the cells at each dose of training, with bars of one standard deviation of the cells (not an
    error of the mean). The orange line is the model, its band one standard
    deviation over fits (none for a single fit). Dashed lines are baselines; grey is the mean of control cells.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.dose_response` was run.
    genes
        Some of the genes of that call; None for all.
    key
        The `key_added` of that call.
    ax
        Where to draw a single gene; None for a new figure.
    show
        Show the figure; None: if matplotlib is interactive and `ax` is None.
    return_fig
        Return the figure.

    Returns
    -------
    The figure if `return_fig`, None if shown, else the axes (an array of them for several genes).

    Raises
    ------
    KeyError
        If there is no such result, or it does not have a gene.
    ValueError
        If there are more than 30 genes, or several for one `ax`.

    Examples
    --------
    >>> cc.tl.dose_response(adata, gim, "vorinostat")
    >>> cc.pl.dose_response(adata)
    """
    table = get.dose_response(adata, key=key)
    names = _names(table, genes)
    if ax is not None and len(names) > 1:
        msg = f"{len(names)} genes need a figure of their own: leave ax=None, or pass one gene."
        raise ValueError(msg)
    show = to_show(ax, show=show)
    axes = _new(len(names)) if ax is None else [ax]
    for panel, gene in zip(axes, names, strict=True):
        _draw(panel, table[table["gene"] == gene], gene)
    stored = adata.uns[key]
    _label(axes, str(stored["perturbation"]), str(stored[_keys.UNITS]), new=ax is None)
    done = finish(axes[0], show=show, return_fig=return_fig)
    if return_fig or show or len(axes) == 1:
        return done
    return np.array(axes, dtype=object)


def _names(table: pd.DataFrame, genes: str | Sequence[str] | None) -> list[str]:
    there = list(dict.fromkeys(table["gene"]))
    asked = there if genes is None else [genes] if isinstance(genes, str) else list(dict.fromkeys(genes))
    if absent := [g for g in asked if g not in there]:
        msg = (
            f"{shorten(absent)} are not in this dose response.{suggest(absent[0], there)} It has {shorten(there, 10)}."
        )
        raise KeyError(msg)
    if not 0 < len(asked) <= _MOST:
        msg = f"{len(asked)} genes; between 1 and {_MOST} can be drawn."
        raise ValueError(msg)
    return asked


def _new(n: int) -> list[Axes]:
    columns = min(n, _COLUMNS)
    rows = -(-n // columns)
    beside, above = (2.0, 0.3) if n == 1 else (0.5, 0.8)  # room for the legend
    size = (_PANEL[0] * columns + beside, _PANEL[1] * rows + above)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for spare in axes.flat[n:]:
        figure.delaxes(spare)
    if rows > 1:  # the lowest of every column has the numbers
        for panel in axes.flat[max(n - columns, 0) : n]:
            panel.tick_params(labelbottom=True)
    return list(axes.flat[:n])


def _draw(ax: Axes, table: pd.DataFrame, gene: str) -> None:
    control = table[table["source"] == "control"]
    ax.axhline(float(control["mean"].iloc[0]), color=STYLE["unknown"], linewidth=1.2, label="control cells", zorder=1)
    others = [s for s in dict.fromkeys(table["source"]) if s not in ("control", _DATA, _MODEL)]
    for k, name in enumerate(others):
        rows = table[table["source"] == name].sort_values("dose", kind="stable")
        steps: dict[str, Any] = {"drawstyle": "steps-pre"} if name == "next_lower_dose" else {}
        look: dict[str, Any] = {
            "color": _COLOURS[k % len(_COLOURS)],
            "linestyle": _DASHES[k % len(_DASHES)],
            "linewidth": 1.4,
        }
        ax.plot(rows["dose"], rows["mean"], label=name.replace("_", " "), zorder=2, **look, **steps)
    model = table[table["source"] == _MODEL].sort_values("dose", kind="stable")
    ax.plot(model["dose"], model["mean"], color=STYLE["up"], linewidth=2, label=_MODEL, zorder=3)
    if model["sd"].notna().any():
        low, high = model["mean"] - model["sd"], model["mean"] + model["sd"]
        ax.fill_between(model["dose"], low, high, color=STYLE["up"], alpha=0.2, linewidth=0, label="± sd over fits")
    data = table[table["source"] == _DATA]
    if len(data):
        ax.errorbar(data["dose"], data["mean"], yerr=data["sd"], label="data, ± sd of cells", **_POINTS)
    _scale(ax, model["dose"].to_numpy(), data["dose"].to_numpy())
    ax.set_title(gene, fontsize=STYLE["font"], parse_math=False)
    ax.tick_params(labelsize=STYLE["small"])
    ax.spines[["top", "right"]].set_visible(False)


def _scale(ax: Axes, drawn: np.ndarray, seen: np.ndarray) -> None:
    """Take logarithms where doses span more than a factor of ten."""
    doses = np.concatenate([drawn, seen])
    above = doses[doses > 0]
    if above.size and above.max() > 10 * above.min():
        if (doses == 0).any():
            ax.set_xscale("symlog", linthresh=float(above.min()))
        else:
            ax.set_xscale("log")


def _label(axes: list[Axes], perturbation: str, units: str, *, new: bool) -> None:
    figure = axes[0].figure
    handles, labels = axes[0].get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": STYLE["small"], "handlelength": 2.4}
    if not new:
        for panel in axes:
            panel.set_xlabel(f"dose of {perturbation}", fontsize=STYLE["font"], parse_math=False)
            panel.set_ylabel("mean", fontsize=STYLE["font"])
        axes[0].legend(handles, labels, **style)
        return
    figure.supxlabel(f"dose of {perturbation}", fontsize=STYLE["font"], parse_math=False)
    figure.supylabel("mean log expression" if "log" in units else "mean", fontsize=STYLE["font"])
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": min(len(axes), 3)}
    if len(axes) == 1:
        place = {"loc": "outside right upper"}
    figure.legend(handles, labels, **place, **style)  # type: ignore[union-attr]
