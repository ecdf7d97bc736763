"""Reliability diagram: whether edges of probability p are true in a share p of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike
from scipy.sparse import issparse

from causcade.get._stored import check_count
from causcade.metrics import brier_skill, expected_calibration_error
from causcade.pl._style import STYLE, finish, legend, new_axes, to_show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration"]

_UNSURE: Final = 0.05  # as in metrics.graph_report: below lie most pairs of a sparse graph
_LOOKS: Final = (
    ("#D55E00", "o"),
    ("#0072B2", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#E69F00", "P"),
    ("#222222", "X"),
)
_Z: Final = 1.959964  # two-sided 95 %
_STRIP: Final = (-0.38, 0.26)  # lower end and height of the histogram, below the shares


def calibration(
    truth: ArrayLike | Sequence[ArrayLike],
    probabilities: ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike | Sequence[ArrayLike]],
    *,
    n_bins: int = 10,
    adaptive: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw how often edges are true, against the probability that was stated.

    Points on the diagonal: the probabilities mean what they say. Below it they are too high. Bars are 95 % intervals
    (Wilson) as if pairs were independent, which those of one graph are not quite. The legend gives the expected
    calibration error (ECE; 0 is best) and the Brier skill (1 perfect, 0 no better than the share of true edges). The
    strip at the foot counts the pairs in 20 equal parts of 0 to 1, on a logarithmic scale.

    Parameters
    ----------
    truth
        (n_genes, n_genes) 0/1 or bool, ``[cause, effect]``, dense or sparse, or a list of such. The diagonal is ignored.
    probabilities
        Edge probabilities of the same shape, or a list of as many; or a dictionary of these by name of method, of at
        most seven.
    n_bins
        Number of bins.
    adaptive
        Bins of equal size among the pairs of probability above 0.05, and one more for the others; the ECE is that
        of the pairs above 0.05, ``ece_adaptive`` of `causcade.metrics.graph_report`. If False, equal parts of 0 to 1,
        and the ECE over all pairs.
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
    ValueError
        If numbers or shapes differ, truth is not 0/1, a probability is NaN or not within 0 and 1, there are no or
        more than seven methods, or `n_bins` is not positive.

    Examples
    --------
    >>> cc.pl.calibration(truth, {"AVICI": probability, "DAG bootstrap": share})
    """
    n_bins = check_count(n_bins, "n_bins")
    methods = dict(probabilities) if isinstance(probabilities, Mapping) else {"model": probabilities}
    if not 0 < len(methods) <= len(_LOOKS):
        msg = f"probabilities must be of 1 to {len(_LOOKS)} methods, got {len(methods)}."
        raise ValueError(msg)
    graphs = _graphs(truth, "truth")
    labels = _off_diagonal(graphs)
    if not np.isin(labels, (0, 1)).all():
        msg = "truth must hold 0 and 1 only; call its edges first."
        raise ValueError(msg)
    values = {str(name): _values(given, graphs, f"probabilities[{name!r}]") for name, given in methods.items()}
    show = to_show(ax, show=show)
    ax = new_axes(6.9, 4.6) if ax is None else ax
    ax.plot([0, 1], [0, 1], color=STYLE["chance"], linewidth=1, linestyle="--", zorder=1)
    for (name, stated), (colour, marker) in zip(values.items(), _LOOKS, strict=False):
        label = f"{name} ({_scores(labels, stated, n_bins, adaptive=adaptive)})"
        _draw_points(ax, labels, stated, _edges(stated, n_bins, adaptive=adaptive), label, colour, marker)
    _label_axes(ax, labels, len(graphs))
    _draw_strip(ax, values)
    return finish(ax, show=show, return_fig=return_fig)


def _graphs(given: Any, name: str) -> list[np.ndarray]:
    """One array or several as a list of square ones."""
    try:
        graphs = [given] if getattr(given, "ndim", None) == 2 else list(given)
        if graphs and not issparse(graphs[0]) and np.ndim(graphs[0]) == 1:  # one graph as nested lists
            graphs = [given]
        numbers = [np.asarray(g.toarray() if issparse(g) else g, dtype=np.float64) for g in graphs]
    except (TypeError, ValueError) as error:
        msg = f"{name} must be an array (n_genes, n_genes), or a list of such ({error})."
        raise ValueError(msg) from error
    if not numbers:
        msg = f"{name} holds no graph."
        raise ValueError(msg)
    for k, graph in enumerate(numbers):
        if graph.ndim != 2 or graph.shape[0] != graph.shape[1] or len(graph) < 2:
            msg = f"{name}: graph {k} has shape {graph.shape}; it must be (n_genes, n_genes), [cause, effect]."
            raise ValueError(msg)
    return numbers


def _values(given: Any, truth: list[np.ndarray], name: str) -> np.ndarray:
    """Probabilities of all pairs, in the order of the truth."""
    graphs = _graphs(given, name)
    if len(graphs) != len(truth):
        msg = f"{name} holds {len(graphs)} graphs, but truth {len(truth)}; give one for each."
        raise ValueError(msg)
    for k, (graph, true) in enumerate(zip(graphs, truth, strict=True)):
        if graph.shape != true.shape:
            msg = f"{name}: graph {k} has shape {graph.shape}, but that of truth is {true.shape}."
            raise ValueError(msg)
    values = _off_diagonal(graphs)
    if n_bad := int(np.isnan(values).sum()):
        msg = f"{name} holds {n_bad:,} NaN; give pairs that were not scored a probability, or drop those genes."
        raise ValueError(msg)
    if values.min() < 0 or values.max() > 1:
        msg = f"{name} lies between {values.min():g} and {values.max():g}, not 0 and 1; are these logits or scores?"
        raise ValueError(msg)
    return values


def _off_diagonal(graphs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([graph[~np.eye(len(graph), dtype=bool)] for graph in graphs])


def _edges(stated: np.ndarray, n_bins: int, *, adaptive: bool) -> np.ndarray:
    """Borders of the bins; a bin holds its upper border, so equal probabilities stay together."""
    if not adaptive:
        return np.linspace(0, 1, n_bins + 1)
    unsure = stated[stated > _UNSURE]
    inner = np.quantile(unsure, np.linspace(0, 1, n_bins + 1)[1:-1], method="lower") if unsure.size else []
    return np.unique(np.concatenate([[0.0, _UNSURE], inner, [1.0]]))


def _scores(labels: np.ndarray, stated: np.ndarray, n_bins: int, *, adaptive: bool) -> str:
    """ECE and Brier skill in words."""
    counts = stated > _UNSURE if adaptive else np.ones(len(stated), dtype=bool)
    ece = np.nan
    if counts.any():
        bins: Any = "mass" if adaptive else "width"
        ece = expected_calibration_error(labels[counts], stated[counts], n_bins=n_bins, bins=bins)
    skill = brier_skill(labels, stated)
    words = ["–" if np.isnan(value) else f"{value:.{digits}f}" for value, digits in ((ece, 3), (skill, 2))]
    return f"ECE {words[0]}, skill {words[1]}".replace("-", "−")


def _wilson(hits: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the 95 % interval of a share."""
    share, z2 = hits / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return middle - half, middle + half


def _draw_points(
    ax: Axes, labels: np.ndarray, stated: np.ndarray, edges: np.ndarray, label: str, colour: str, marker: str
) -> None:
    """Mean probability and share of true edges of each bin that is not empty."""
    which = np.clip(np.searchsorted(edges, stated, side="left") - 1, 0, len(edges) - 2)
    n = np.bincount(which, minlength=len(edges) - 1)
    full = n > 0
    mean = np.bincount(which, stated, minlength=len(n))[full] / n[full]
    hits = np.bincount(which, labels, minlength=len(n))[full]
    share = hits / n[full]
    low, high = _wilson(hits, n[full])
    bars = np.clip([share - low, high - share], 0, None)
    look: dict[str, Any] = {"color": colour, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    ax.errorbar(mean, share, bars, marker=marker, linewidth=1.5, elinewidth=1, capsize=2, label=label, **look)


def _label_axes(ax: Axes, labels: np.ndarray, n_graphs: int) -> None:
    ax.set(xlim=(-0.02, 1.02), ylim=(_STRIP[0], 1.02), yticks=np.linspace(0, 1, 6))
    ax.set_xlabel("edge probability", fontsize=STYLE["font"])
    ax.set_ylabel("share of pairs that are edges", fontsize=STYLE["font"], y=0.5 - 0.36 * _STRIP[0])
    graphs = f", {n_graphs:,} graphs" if n_graphs > 1 else ""
    edges = "1 edge" if labels.sum() == 1 else f"{int(labels.sum()):,} edges"
    title = f"Calibration ({edges} among {labels.size:,} pairs{graphs})"
    ax.set_title(title, fontsize=STYLE["title"])
    ax.tick_params(labelsize=STYLE["small"])
    ax.grid(color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_bounds(0, 1)
    handles: Any = ax.get_legend_handles_labels()[0]
    if ax.figure.get_layout_engine() is not None:
        legend(ax, handles, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=2.4)
    else:
        legend(ax, handles, loc="upper left", handlelength=2.4)


def _draw_strip(ax: Axes, values: dict[str, np.ndarray]) -> None:
    """Count the pairs by probability, at the foot of the diagram."""
    left, right = ax.get_xlim()
    strip = ax.inset_axes((left, _STRIP[0], right - left, _STRIP[1]), transform=ax.transData, label="pairs")
    borders = np.linspace(0, 1, 21)
    for (name, stated), (colour, _) in zip(values.items(), _LOOKS, strict=False):
        count = np.histogram(stated, borders)[0]
        strip.stairs(np.maximum(count, 0.5), borders, color=colour, linewidth=1.5, baseline=0.5, label=f"_{name}")
    most = max(stated.size for stated in values.values())
    strip.set(xlim=(left, right), xticks=[], yscale="log")
    strip.set_ylim(0.5, 2 * most)
    strip.yaxis.set_major_locator(LogLocator(numticks=4))
    strip.yaxis.set_minor_locator(NullLocator())
    strip.yaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    strip.set_ylabel("pairs", fontsize=STYLE["font"])
    strip.tick_params(labelsize=STYLE["small"])
    strip.spines[["top", "right", "bottom"]].set_visible(False)
