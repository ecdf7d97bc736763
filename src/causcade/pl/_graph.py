"""The causal graph that `causcade.tl.graph` wrote, as a network in layers or as a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.sparse import issparse

from causcade import _keys
from causcade.get._stored import check_count, looks_like_graph, names_of
from causcade.metrics import to_dag
from causcade.pl import _boxes, _matrix
from causcade.pl._style import finish, to_show

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["graph"]

_MOST: Final = {"edges": 300, "genes": 200}  # in one network


@dataclass(frozen=True)
class _Stored:
    """A graph as it lies in an AnnData: probabilities [cause, effect], which genes were perturbed, the edges called."""

    names: list[str]
    probability: np.ndarray
    perturbed: np.ndarray
    called: np.ndarray
    dag: np.ndarray


def graph(
    adata: AnnData,
    key: str = _keys.GRAPH,
    *,
    kind: Literal["network", "matrix"] = "network",
    threshold: float | None = None,
    dag: bool = True,
    n_edges: int | None = None,
    isolated: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the causal graph: arrows from cause to effect, as wide and dark as they are probable.

    Genes lie in layers, so that all arrows of the acyclic graph run one way: to the right, or downwards if that gives
    a handier picture. A thick orange frame marks the genes that were perturbed. Genes without an edge stand
    in rows below. As a matrix, all probabilities are seen: causes are rows, effects columns, both in an order in which
    causes come first, so the edges of the acyclic graph lie above the diagonal. A dot is a called edge, a cross one
    that would close a cycle. Take the matrix for graphs of many edges. The same result gives the same picture.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.graph` was run. Genes that were dropped since are left out.
    key
        The `key_added` of that call.
    kind
        ``"network"`` or ``"matrix"``.
    threshold
        Edges of at least this probability are called; None for the stored threshold.
    dag
        Leave out the edges that would close a cycle with more probable ones. If False, they are drawn too, dashed.
    n_edges
        Draw only so many edges, the most probable; None for all. Not used for a matrix.
    isolated
        Show the genes without an edge; in a network below it.
    ax
        Where to draw; None for a new figure. It gives up some room to the colour bar, and names shrink if there is
        too little.
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
        If there is no such result.
    ValueError
        If fewer than two of its genes are left, `threshold` is not within 0 and 1, `n_edges` is not positive, `kind` is
        unknown, or there are more than 300 edges or 200 genes to draw as a network.

    Examples
    --------
    >>> cc.tl.graph(adata, genes)
    >>> cc.pl.graph(adata)
    >>> cc.pl.graph(adata, kind="matrix")
    """
    if kind not in ("network", "matrix"):
        msg = f"kind must be 'network' or 'matrix', got {kind!r}."
        raise ValueError(msg)
    n_edges = None if n_edges is None else check_count(n_edges, "n_edges")
    stored = _stored(adata, key, threshold)
    drawn = stored.dag if dag else stored.called
    title = [f"Causal graph of {len(stored.names):,} genes", _number(stored)]
    show = to_show(ax, show=show)
    if kind == "matrix":
        ax = _matrix.draw(ax, _picture(stored, drawn, isolated=isolated or not drawn.any()), title)
    else:
        strong = _strongest(drawn, stored.probability, n_edges)
        title.append(_left_out(stored.called, drawn, strong))
        _check_size(strong, isolated=isolated)
        ax = _boxes.draw(ax, _picture(stored, strong), [line for line in title if line], isolated=isolated)
    return finish(ax, show=show, return_fig=return_fig)


def _stored(adata: AnnData, key: str, threshold: float | None) -> _Stored:
    """Read the graph, and call its edges."""
    if not looks_like_graph(adata, key):
        found = [str(k) for k in adata.uns if looks_like_graph(adata, k)]
        there_are = f" There are graphs under {', '.join(map(repr, found))}: pass key=." if found else ""
        msg = f"There is no causal graph under key={key!r}.{there_are} Run cc.tl.graph first."
        raise KeyError(msg)
    info = adata.uns[key]
    there = {name: k for k, name in enumerate(adata.var_names)}
    names = [name for name in names_of(adata, key) if name in there]
    if len(names) < 2:
        msg = f"Only {len(names)} of the genes under key={key!r} are left in the AnnData; a graph needs two."
        raise ValueError(msg)
    places = np.array([there[name] for name in names])
    probability = _dense(adata.varp[key], places)
    limit = _limit(info, threshold)
    called = (probability >= limit) & (probability > 0)
    dag_key = _keys.dag(key)
    if dag_key in adata.varp and limit >= np.float32(
        info["threshold"]
    ):  # the weakest edges were left out, so these stay
        dag = called & (_dense(adata.varp[dag_key], places) > 0)
    else:
        dag = to_dag(np.where(called, probability, -1), 0.0) & called
    perturbed = set(np.atleast_1d(info["perturbed"]).astype(str).tolist())
    return _Stored(names, probability, np.array([name in perturbed for name in names]), called, dag)


def _dense(matrix: Any, places: np.ndarray) -> np.ndarray:
    part = matrix[places][:, places]
    out = np.array(part.toarray() if issparse(part) else part, dtype=np.float32)
    np.fill_diagonal(out, 0)
    return out


def _limit(info: Any, threshold: float | None) -> np.float32:
    """Threshold in the precision of the probabilities, so that an edge right on it is called."""
    if threshold is None:
        return np.float32(info["threshold"])
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | np.number) or not 0 <= threshold <= 1:
        msg = f"threshold must be within 0 and 1, got {threshold!r}."
        raise ValueError(msg)
    return np.float32(threshold)


def _strongest(drawn: np.ndarray, probability: np.ndarray, n: int | None) -> np.ndarray:
    """Keep the `n` most probable edges."""
    causes, effects = np.nonzero(drawn)
    order = np.argsort(-probability[causes, effects], kind="stable")[:n]
    out = np.zeros_like(drawn)
    out[causes[order], effects[order]] = True
    return out


def _number(stored: _Stored) -> str:
    """How many edges were called, and how many of them are false as the probabilities have it."""
    n = int(stored.called.sum())
    if not n:
        highest = stored.probability.max()
        return f"no edge called: the highest probability is {highest:.2g}"
    sure = stored.probability[stored.called].astype(np.float64)
    edges = "edge" if n == 1 else "edges"
    return f"{n:,} {edges} (probability ≥ {_below(sure.min())}), expected false: {(1 - sure).sum():.1f}"


def _below(value: float) -> str:
    """Two digits, rounded down: all edges are at least this probable."""
    return f"{np.floor(100 * value) / 100:.2f}" if value >= 0.01 else f"{value:.1g}"


def _left_out(called: np.ndarray, drawn: np.ndarray, strong: np.ndarray) -> str:
    """What is called and not drawn."""
    cycles, weak = int((called & ~drawn).sum()), int((drawn & ~strong).sum())
    parts = [f"{cycles:,} that would close a cycle"] * bool(cycles) + [f"{weak:,} less probable"] * bool(weak)
    return f"not drawn: {' and '.join(parts)}" if parts else ""


def _check_size(drawn: np.ndarray, *, isolated: bool) -> None:
    edges = int(drawn.sum())
    genes = len(drawn) if isolated else int((drawn.any(0) | drawn.any(1)).sum())
    for n, word in ((edges, "edges"), (genes, "genes")):
        if n > _MOST[word]:
            msg = (
                f"{n:,} {word} are too many to read as a network (at most {_MOST[word]}): raise threshold=, pass n_edges="
                f"{' and isolated=False' if word == 'genes' else ''}, or draw kind='matrix'."
            )
            raise ValueError(msg)


def _picture(stored: _Stored, drawn: np.ndarray, *, isolated: bool = True) -> _boxes.Picture:
    keep = (drawn | drawn.T).any(0) | isolated
    part = np.ix_(keep, keep)
    names = [name for name, kept in zip(stored.names, keep, strict=True) if kept]
    return _boxes.Picture(
        names, stored.probability[part], stored.perturbed[keep], drawn[part], stored.called[part], stored.dag[part]
    )
