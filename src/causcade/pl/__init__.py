"""Plots of what `tl` wrote, read through `get`.

All take ``ax`` (draw there), ``show`` (None: as matplotlib does, and not on a given ``ax``) and ``return_fig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx

from causcade import _keys, get
from causcade.pl import _network, _ranked
from causcade.pl._style import STYLE, finish, new_axes, to_show

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cause_network", "causes"]


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

    The place is the cause score, the bar its spread (`sd` of `causcade.tl.causes`). The colour is the knock-out t: how the
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
        Where to draw; None for a new figure. It gives up some room to the colour bar and the ranks; best in a figure
        with ``layout="constrained"``.
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
    table = _ranked.table_of_one(adata, gene, key)
    top = table.head(n_top)
    show = to_show(ax, show=show)
    ranks = [column for column in _ranked.RANKS if baselines and column in top]
    ax = new_axes(5.2 + 0.8 * len(ranks), 1.6 + STYLE["row"] * len(top)) if ax is None else ax
    _ranked.draw_points(ax, top)
    _ranked.draw_colour_bar(ax, top, n_ranks=len(ranks))
    _ranked.draw_ranks(ax, top, ranks)
    _ranked.label_rows(ax, top)
    _ranked.draw_legend(ax, top)
    title = f"Causes of {top['effect'].iloc[0]} (top {len(top):,} of {len(table):,})"
    ax.set_title(title, fontsize=STYLE["title"], pad=30 if ranks else 8)
    return finish(ax, show=show, return_fig=return_fig)


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
        If no candidate is left to draw, there are more than 200 genes to draw, `n_top` is not positive, or `min_probability` is not within 0 and 1.

    Examples
    --------
    >>> cc.tl.causes(adata, ["SOX2", "MYC", "NANOG"])
    >>> cc.pl.cause_network(adata, n_top=3)
    """
    edges = _network.strong_edges(adata, genes, get.check_count(n_top, "n_top"), key, min_probability)
    graph = nx.from_pandas_edgelist(edges, "cause", "effect", create_using=nx.DiGraph)
    layered = not set(edges["cause"]) & set(edges["effect"])
    places = _network.layers(edges) if layered else _network.free_places(graph)
    show = to_show(ax, show=show)
    ax = new_axes(*_network.figure_size(edges, graph.number_of_nodes(), layered=layered)) if ax is None else ax
    widths = _network.line_widths(edges["probability"])
    _network.set_limits(ax, places, layered=layered)
    _network.draw_edges(ax, edges, places, widths)
    _network.draw_nodes(ax, graph, places)
    _network.draw_legend(ax, graph, edges, widths)
    _network.draw_names(ax, graph, places, layered=layered)
    return finish(ax, show=show, return_fig=return_fig)
