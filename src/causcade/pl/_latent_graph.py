"""Programs of a GraCE-VAE as boxes, with the effects that they have on one another as arrows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from causcade import _keys, get
from causcade.get._stored import check_count
from causcade.pl._boxes import _is_upright, _letters, _set_limits, _way
from causcade.pl._layered import layered
from causcade.pl._style import STYLE, finish, legend, new_axes, to_show

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["latent_graph"]

_WIDTHS: Final = (0.8, 3.2)  # of arrows, points
_LINE: Final = 11.5  # points
_PAD: Final = (12.0, 9.0)
_MARGIN: Final = 8.0
_LEAST: Final = 310.0
_LARGEST: Final = 36.0  # inches
_GAPS: Final = (6.0, 6.0, 30.0)  # between single boxes, between their rows, above them
_SHARES: Final = (0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2)  # of an arrow, where its weight may stand
_ROOM: Final = np.array([24.0, 8.0])  # of a weight, points
_MOST: Final = 300  # arrows
_SIGNS: Final[dict[bool, tuple[str, str, Any]]] = {
    True: ("raises", STYLE["up"], "-"),
    False: ("lowers", STYLE["down"], (0, (4, 1.6))),
}


def latent_graph(
    adata: AnnData,
    key: str = _keys.GRACEVAE,
    *,
    n_edges: int = 20,
    n_top: int = 3,
    isolated: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the programs that perturbations act on, and the strongest of their effects on one another.

    A box has the program's name and the perturbations that act on it (in bold), and the genes that change most when it rises; ↑ and ↓ say
    which way. Solid orange arrows raise, dashed blue ones lower; a wider one has a larger weight, which stands on it. The order,
    sign and scale of programs are not identified, and other fits find others: compare fits before you believe an arrow.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.embed` was run.
    key
        The `key_added` of that call.
    n_edges
        Most arrows: those of the largest absolute weight.
    n_top
        Genes in each box, and perturbations.
    isolated
        Show programs without an arrow, below.
    ax
        Where to draw; None for a new figure. Letters shrink if there is too little room.
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
        If a number is not positive, or there are more than 300 arrows to draw.

    Examples
    --------
    >>> cc.tl.embed(adata, model)
    >>> cc.pl.latent_graph(adata)
    """
    n_edges, n_top = check_count(n_edges, "n_edges"), check_count(n_top, "n_top")
    graph, table = get.latent_graph(adata, key=key), get.programs(adata, key=key)
    hit = [name for name in graph.index if name in set(table["program"])]
    weights = graph.loc[hit, hit].to_numpy(dtype=np.float64)
    pairs = _strongest(weights, n_edges)
    if len(pairs) > _MOST:
        msg = f"{len(pairs):,} arrows are too many to read (at most {_MOST}): lower n_edges."
        raise ValueError(msg)
    texts = [_text(name, table[table["program"] == name], n_top) for name in hit]
    show = to_show(ax, show=show)
    title = [f"{len(hit)} of {len(graph)} programs are acted on by perturbations"]
    total = int((weights != 0).sum())
    if total > len(pairs):
        title.append(f"{len(pairs):,} strongest of {total:,} effects among them")
    ax = _draw(ax, hit, texts, weights, pairs, title, isolated=isolated or not pairs)
    return finish(ax, show=show, return_fig=return_fig)


def _strongest(weights: np.ndarray, n: int) -> list[tuple[int, int]]:
    """Pairs [cause, effect] of the largest absolute weights."""
    causes, effects = np.nonzero(weights)
    order = np.argsort(-np.abs(weights[causes, effects]), kind="stable")[:n]
    return [(int(causes[k]), int(effects[k])) for k in order]


def _text(name: str, table: pd.DataFrame, n: int) -> list[str]:
    """Lines of a box."""
    hits, genes = (_listed(table[table["kind"] == kind], n) for kind in ("perturbation", "gene"))
    more = int((table["kind"] == "perturbation").sum()) - n
    return [f"{name}: {hits}" + (f" +{more}" if more > 0 else ""), genes]


def _listed(table: pd.DataFrame, n: int) -> str:
    rows = table.head(n)
    return " ".join(f"{g}{'↑' if s > 0 else '↓'}" for g, s in zip(rows["name"], rows["score"], strict=True))


def _draw(
    ax: Axes | None,
    names: list[str],
    texts: list[list[str]],
    weights: np.ndarray,
    pairs: list[tuple[int, int]],
    title: list[str],
    *,
    isolated: bool,
) -> Axes:
    sizes = np.array([(1.1 * max(map(_letters, t)) + _PAD[0], _LINE * len(t) + _PAD[1]) for t in texts])
    layout = layered(sizes, pairs)
    rest = [k for k in range(len(texts)) if k not in layout.centres] if isolated else []
    width = max(layout.size[0], _LEAST)
    shift = np.array([(width - layout.size[0]) / 2, 0])
    single, depth = _rows(sizes, rest, width)
    if ax is None:
        room = (width + 2 * _MARGIN) / 72 + 0.2, (layout.size[1] + depth + 2 * _MARGIN) / 72 + 0.5 + 0.2 * len(title)
        ax = new_axes(min(room[0], _LARGEST), min(max(room[1], 1.8), _LARGEST))
    ax.set_title("\n".join(title), fontsize=STYLE["title"])
    _say_signs(ax, [weights[p] > 0 for p in pairs])
    scale = _set_limits(ax, layout, width, depth)
    if pairs:
        _draw_arrows(ax, names, weights, pairs, [route + shift for route in layout.routes], scale)
    places = {k: at + shift for k, at in layout.centres.items()} | single
    for k, at in places.items():
        _draw_box(ax, names[k], texts[k], layout.sizes[k] if k in layout.centres else sizes[k], at, scale)
    if rest:
        said = f"{len(rest)} {'program' if len(rest) == 1 else 'programs'} without an arrow:"
        ax.text(0, 4 - _GAPS[2], said, fontsize=STYLE["small"] * scale, color="#6B6B6B", va="bottom")
    return ax


def _rows(sizes: np.ndarray, rest: list[int], width: float) -> tuple[dict[int, np.ndarray], float]:
    """Places of single boxes, row by row below the others (y < 0), and how deep the rows reach."""
    places: dict[int, np.ndarray] = {}
    height = float(sizes[:, 1].max())
    x, y = 0.0, -_GAPS[2] - height / 2
    for k in rest:
        if x and x + sizes[k, 0] > width:
            x, y = 0.0, y - height - _GAPS[1]
        places[k] = np.array([x + sizes[k, 0] / 2, y])
        x += sizes[k, 0] + _GAPS[0]
    return places, (height / 2 - y if rest else 0.0)


def _say_signs(ax: Axes, up: list[bool]) -> None:
    told = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=word)
        for sign, (word, colour, dash) in _SIGNS.items()
        if sign in up
    ]
    if told:
        legend(ax, told, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, handlelength=2.6)


def _draw_arrows(
    ax: Axes,
    names: list[str],
    weights: np.ndarray,
    pairs: list[tuple[int, int]],
    routes: list[np.ndarray],
    scale: float,
) -> None:
    """Arrows with their weights; the strongest lie on top."""
    most = max(abs(weights[p]) for p in pairs)
    upright = _is_upright(routes)
    placed: list[np.ndarray] = []
    for pair, route in zip(pairs[::-1], routes[::-1], strict=True):
        weight = float(weights[pair])
        _, colour, dash = _SIGNS[weight > 0]
        width = _WIDTHS[0] + abs(weight) / most * (_WIDTHS[1] - _WIDTHS[0])
        path = _way(route, upright=upright)
        look: dict[str, Any] = {
            "color": colour,
            "linestyle": dash,
            "linewidth": width * scale,
            "mutation_scale": (5 + 2 * width) * scale,
            "gid": f"{names[pair[0]]}>{names[pair[1]]}",
            "zorder": 1 + 0.5 * abs(weight) / most,
        }
        ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", shrinkA=0, shrinkB=0, **look))
        at = _free_place(path, placed, scale)
        placed.append(at)
        text: dict[str, Any] = {"fontsize": 0.85 * STYLE["small"] * scale, "color": colour, "zorder": 2}
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5 * scale}  # a wide arrow would hide it
        ax.text(at[0], at[1], f"{weight:.2g}".replace("-", "−"), ha="center", va="center", bbox=ground, **text)


def _free_place(path: Path, taken: list[np.ndarray], scale: float) -> np.ndarray:
    """Place of a weight on its arrow, near the middle, away from the other weights."""
    line: np.ndarray = np.asarray(path.cleaned(curves=False).vertices)[:-1]  # the last is a stop
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    best: np.ndarray = line[0]
    room = -1.0
    for share in _SHARES:
        at = np.array([np.interp(share * along[-1], along, line[:, k]) for k in range(2)])
        free = min((float(np.max(np.abs(at - other) / _ROOM)) for other in taken), default=1.0) * scale
        if free > room:
            best, room = at, free
        if free >= 1:
            break
    return best


def _draw_box(ax: Axes, name: str, lines: list[str], size: np.ndarray, at: np.ndarray, scale: float) -> None:
    (x, y), (w, h) = at, size
    look: dict[str, Any] = {"facecolor": "#F4F5F7", "edgecolor": "#9AA3AD", "linewidth": 0.8 * scale, "zorder": 3}
    shape = "round,pad=0,rounding_size=4"
    ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=shape, label=f"_{name}", **look))
    top = y + _LINE * (len(lines) - 1) / 2
    for k, line in enumerate(lines):
        text: dict[str, Any] = {"fontsize": STYLE["font"] * scale, "color": STYLE["ink"], "zorder": 4}
        weight = "bold" if k == 0 else "normal"
        ax.text(
            x, top - k * _LINE, line, ha="center", va="center_baseline", parse_math=False, fontweight=weight, **text
        )
