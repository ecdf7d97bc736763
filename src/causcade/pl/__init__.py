"""Plots of what `tl` wrote, read through `get`.

All take ``ax`` (draw there), ``show`` (None: as matplotlib does, and not on a given ``ax``) and ``return_fig``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import networkx as nx

from causcade import _keys
from causcade.get._stored import check_count
from causcade.pl import _network, _ranked, _recall
from causcade.pl._calibration import calibration
from causcade.pl._dose_response import dose_response
from causcade.pl._effects import effects
from causcade.pl._graph import graph
from causcade.pl._latent_graph import latent_graph
from causcade.pl._prediction import prediction
from causcade.pl._reversal import reversal
from causcade.pl._scorecard import scorecard
from causcade.pl._style import finish, new_axes, to_show
from causcade.pl._suggestions import suggestions
from causcade.pl._target_map import target_map
from causcade.pl._training import training

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "calibration",
    "cause_network",
    "causes",
    "dose_response",
    "effects",
    "graph",
    "latent_graph",
    "prediction",
    "recall_curve",
    "reversal",
    "scorecard",
    "suggestions",
    "target_map",
    "targets",
    "training",
]


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
    n_top = check_count(n_top, "n_top")
    table = _ranked.causes_of_one(adata, gene, key)
    show = to_show(ax, show=show)
    title = f"Causes of {table['effect'].iloc[0]}"
    ax = _ranked.draw(ax, table, _ranked.CAUSES, n_top=n_top, baselines=baselines, title=title)
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
    edges = _network.strong_edges(adata, genes, check_count(n_top, "n_top"), key, min_probability)
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


def targets(
    adata: AnnData,
    perturbation: str | None = None,
    *,
    n_top: int = 15,
    key: str = _keys.TARGETS,
    baselines: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the best candidate targets of a perturbation, with their spread and what the baselines say of them.

    The place is the target score, the bar its spread. The colour is the log fold change (natural log), perturbed
    against control. A marker is open where the false discovery rate is 0.1 or more, if there was a null. A known target
    is a star with its name in bold; one that is too far down to be drawn is named below.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.targets` was run.
    perturbation
        Perturbation; None if only one was scored.
    n_top
        Number of candidates.
    key
        The `key_added` of that call.
    baselines
        Write the rank of each candidate by size of the fold change, by Wilcoxon's z and by the fused score beside it.
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
        If there is no such result, or the perturbation was not scored.
    ValueError
        If `perturbation` is None and several were scored, it has no candidates, or `n_top` is not positive.

    Examples
    --------
    >>> cc.tl.targets(adata)
    >>> cc.pl.targets(adata, "drug X")
    """
    n_top = check_count(n_top, "n_top")
    table = _ranked.targets_of_one(adata, perturbation, key)
    show = to_show(ax, show=show)
    title = f"Targets of {table['perturbation'].iloc[0]}"
    ax = _ranked.draw(ax, table, _ranked.TARGETS, n_top=n_top, baselines=baselines, title=title)
    return finish(ax, show=show, return_fig=return_fig)


def recall_curve(
    adata: AnnData | pd.DataFrame,
    *,
    subset: Literal["all", "trivial", "non-trivial"] = "all",
    key: str = _keys.TARGETS,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw how many known targets are near the top of the lists, by the model and by the baselines.

    At p on the x axis (logarithmic) stands the share of known targets among the first p % of the candidates.
    The legend gives the mean normalised rank, which is 1 at best and 0.5 by chance. Targets that were no candidates
    have no rank; they are left out, and counted below the title.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.targets` was run, or a table as `causcade.get.target_ranks` returns it, of
        one data set or several.
    subset
        All known targets; those that a look at the largest absolute log fold change finds ("trivial"); the others.
    key
        The `key_added` of that call; not used with a table.
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
        If there is no such result, or no regimes.
    ValueError
        If `subset` is none of the three, the table lacks columns, or no target of the subset has a rank.

    Examples
    --------
    >>> cc.tl.targets(adata)
    >>> cc.pl.recall_curve(adata, subset="non-trivial")
    """
    table, model = _recall.table_and_model(adata, key)
    chosen, n_missing = _recall.choose(table, subset)
    show = to_show(ax, show=show)
    ax = new_axes(6.8, 3.9) if ax is None else ax
    _recall.draw_curves(ax, chosen, model)
    _recall.label_axes(ax, chosen, subset, n_missing)
    return finish(ax, show=show, return_fig=return_fig)
