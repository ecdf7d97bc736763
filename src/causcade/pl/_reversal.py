"""Perturbations by how far they push cells back; or the genes behind one of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from causcade import _keys, get
from causcade.get._stored import check_count
from causcade.pl import _ranked
from causcade.pl._style import STYLE, finish, new_axes, to_show

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["reversal"]

_KIND: Final = _ranked.Kind(
    name="perturbation",
    axis="reversal score (cosine)",
    ranks={"rank_top_correlation": "rank by\ncorrelation", "rank_closer": "rank by\ndistance"},
    colour="fraction",
    colour_label="share of the way back",
    limit=1.0,
    uncoloured="no share",
    spread=" ± sd",  # the score is no mean of draws
)


def reversal(
    adata: AnnData,
    perturbation: str | None = None,
    *,
    n_top: int = 15,
    key: str = _keys.REVERSAL,
    baselines: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw which perturbations push cells back, or the genes behind one of them.

    Without `perturbation`: the best perturbations by score, with their spread; the colour is the share of the way back,
    a marker is open where the false discovery rate is 0.1 or more, and ranks by the simple answers stand beside. With
    it: a point per gene, the change on the x axis and the effect on the y axis; what is reversed lies along the falling
    line, on which cells would be back at the first group, and the genes that add most are named.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.reversal` was run.
    perturbation
        Perturbation whose genes are drawn; None for the ranking.
    n_top
        Number of perturbations, or of genes that are named.
    key
        The `key_added` of that call.
    baselines
        Write ranks by the simple answers beside the ranking.
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
        If there is no such result, or the perturbation was not scored.
    ValueError
        If `n_top` is not positive.

    Examples
    --------
    >>> cc.tl.reversal(adata, ("healthy", "disease"), "state")
    >>> cc.pl.reversal(adata)
    >>> cc.pl.reversal(adata, "JAK2")
    """
    n_top = check_count(n_top, "n_top")
    table = get.reversal(adata, key=key)
    towards, away = map(str, np.atleast_1d(adata.uns[key]["groups"]))
    show = to_show(ax, show=show)
    if perturbation is None:
        title = f"What brings {away} back to {towards}"
        ax = _ranked.draw(ax, table, _KIND, n_top=n_top, baselines=baselines, title=title)
        if (table["score"].head(n_top) < 0).any():
            ax.axvline(0, color=STYLE["chance"], linewidth=0.8, zorder=0)
        return finish(ax, show=show, return_fig=return_fig)
    genes = get.reversal_genes(adata, perturbation, key=key)
    ax = new_axes(6.4, 4.6) if ax is None else ax
    _draw_genes(ax, genes, n_top)
    row = table.set_index("perturbation").loc[perturbation]
    said = f"{perturbation}: cosine {row['score']:.2f}, {row['fraction']:.0%} of the way back".replace("-", "−")
    ax.set_title(said, fontsize=STYLE["title"], parse_math=False)
    ax.set_xlabel(f"change, {away} less {towards}", fontsize=STYLE["font"], parse_math=False)
    ax.set_ylabel(f"effect of {perturbation}", fontsize=STYLE["font"], parse_math=False)
    return finish(ax, show=show, return_fig=return_fig)


def _draw_genes(ax: Axes, genes: pd.DataFrame, n_top: int) -> None:
    x, y = genes["change"].to_numpy(), genes["effect"].to_numpy()
    named = np.arange(len(genes)) < n_top
    look: dict[str, Any] = {"s": 16, "linewidths": 0, "rasterized": len(genes) > 2000}
    ax.scatter(x[~named], y[~named], color=STYLE["unknown"], alpha=0.6, **look)
    ax.scatter(x[named], y[named], color=STYLE["effect"], zorder=3, **look)
    limit = 1.1 * (max(float(np.abs(x).max(initial=0)), float(np.abs(y).max(initial=0))) or 1.0)
    wide = 1.6 * limit  # names stand beside the points
    ax.set(xlim=(-wide, wide), ylim=(-limit, limit), aspect="equal")
    ax.plot([-limit, limit], [limit, -limit], color=STYLE["chance"], linewidth=1, linestyle="--", zorder=0)
    for at in (ax.axhline, ax.axvline):
        at(0, color=STYLE["chance"], linewidth=0.6, zorder=0)
    for left in (True, False):
        mine = np.flatnonzero(named & ((x < 0) == left))
        edge, side = (-0.98 * wide, "left") if left else (0.98 * wide, "right")
        for i, place in zip(mine, _spaced(y[mine], 0.085 * limit), strict=True):
            ax.annotate(
                genes["gene"].iloc[i], (x[i], y[i]), (edge, place), ha=side, va="center", fontsize=STYLE["small"],
                arrowprops={"arrowstyle": "-", "color": STYLE["bar"], "linewidth": 0.5}, parse_math=False,
            )  # fmt: skip
    ax.tick_params(labelsize=STYLE["small"])
    ax.spines[["top", "right"]].set_visible(False)


def _spaced(places: np.ndarray, least: float) -> np.ndarray:
    """Places moved apart, in their order, to lie at least so far from each other."""
    order = np.argsort(places, kind="stable")
    out = places.astype(np.float64)
    for before, after in pairwise(order):
        out[after] = max(out[after], out[before] + least)
    return out - (out - places).mean() if len(out) else out
