"""Control, measured and generated cells of a combination on the principal components of the measured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA

from causcade._checks import generator
from causcade.get import _effects
from causcade.get._stored import check_count
from causcade.metrics import energy_distance
from causcade.pl._style import STYLE, finish, legend, new_axes, to_show

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["prediction"]

_LOOKS: Final[dict[str, dict[str, Any]]] = {
    "control": {"marker": "o", "color": "#9AA3AD"},
    "measured": {"marker": "s", "color": STYLE["down"]},
    "generated": {"marker": "^", "color": STYLE["up"]},
    "additive": {"marker": "D", "facecolor": "none", "edgecolor": STYLE["ink"]},
}


def prediction(
    adata: AnnData,
    predicted: AnnData,
    perturbation: str | None = None,
    *,
    max_cells: int = 500,
    rng: int | np.random.Generator | None = 0,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw control cells, measured cells of a combination and generated ones on two principal components.

    Components are those of the control cells and the measured ones (of the generated ones if the combination was not measured).
    Large markers are means; the black diamond is the additive prediction of the mean. The title has the energy distance
    to the measured cells over all genes (0: the same distribution): generated cells should be far nearer than control
    cells, and little can be told from the picture alone.

    Parameters
    ----------
    adata
        Annotated data with measured cells, see :func:`causcade.get.effects`. Cells that the model has not seen say most.
    predicted
        What ``GraCEVAE.predict(...)`` returned, with ``kind="cells"``.
    perturbation
        Combination; None if only one was predicted.
    max_cells
        Most cells of each kind, drawn at random.
    rng
        Seed or generator of that draw.
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
        If the combination was not predicted, or there are no regimes.
    ValueError
        If `predicted` is not of this kind, several were predicted and none is named, genes differ, there are fewer than
        two genes, or `max_cells` is not positive.

    Examples
    --------
    >>> cells = model.predict(["KLF1", "MAP2K6"])
    >>> cc.pl.prediction(adata, cells)
    """
    max_cells, gen = check_count(max_cells, "max_cells"), generator(rng)
    row = _effects.one_of(predicted, perturbation, kind="cells")
    name, seen = str(predicted.obs["perturbation"].iloc[row]), bool(predicted.obs["in_training"].iloc[row])
    if predicted.n_vars < 2:
        msg = "Two principal components need two genes or more."
        raise ValueError(msg)
    found = _effects.read_measured(adata, predicted, name)
    made = np.asarray(predicted.X)[(predicted.obs["perturbation"].astype(str) == name).to_numpy()].astype(np.float64)
    groups = {"control": found.control, "measured": found.combination, "generated": made}
    groups = {key: _some(x, max_cells, gen) for key, x in groups.items() if len(x)}
    show = to_show(ax, show=show)
    ax = new_axes(5.4, 4.4) if ax is None else ax
    _draw(ax, groups, found.additive, gen)
    title = [f"{name}, {'' if seen else 'not '}in training", _distances(groups)]
    ax.set_title("\n".join(title), fontsize=STYLE["title"], parse_math=False)
    return finish(ax, show=show, return_fig=return_fig)


def _some(cells: np.ndarray, most: int, gen: np.random.Generator) -> np.ndarray:
    return cells if len(cells) <= most else cells[np.sort(gen.choice(len(cells), most, replace=False))]


def _distances(groups: dict[str, np.ndarray]) -> str:
    if "measured" not in groups:
        return "not measured"
    if min(len(x) for x in groups.values()) < 2:
        return "too few cells for a distance"
    far = {key: energy_distance(groups[key], groups["measured"]) for key in ("generated", "control")}
    said = ", ".join(f"{key} {value:.2g}" for key, value in far.items()).replace("-", "−")
    return f"energy distance: {said}"


def _draw(ax: Axes, groups: dict[str, np.ndarray], additive: np.ndarray | None, gen: np.random.Generator) -> None:
    real = np.concatenate([groups["control"], groups.get("measured", groups["generated"])])
    axes = PCA(2, svd_solver="full").fit(real)
    parts = {key: axes.transform(x) for key, x in groups.items()}
    points = np.concatenate(list(parts.values()))
    kinds = np.repeat(list(parts), [len(x) for x in parts.values()])
    order = gen.permutation(len(points))  # none lies on top of all others
    for key in parts:
        mine = order[kinds[order] == key]
        ax.scatter(points[mine, 0], points[mine, 1], s=12, alpha=0.45, linewidths=0, rasterized=len(points) > 1000,
                   zorder=1 + 0.1 * list(parts).index(key), label=f"_{key}", **_LOOKS[key])  # fmt: skip
    means = {key: x.mean(0) for key, x in parts.items()}
    if additive is not None:
        means["additive"] = axes.transform(additive[None])[0]
    for key, at in means.items():
        look: dict[str, Any] = {"edgecolor": "white", "s": 120, **_LOOKS[key]}
        if key == "additive":
            look["s"] = 70
        ax.scatter(at[0], at[1], linewidths=1.4, zorder=4, label=f"_mean_{key}", **look)
    for axis, share, k in (
        (ax.xaxis, axes.explained_variance_ratio_[0], 1),
        (ax.yaxis, axes.explained_variance_ratio_[1], 2),
    ):
        axis.set_label_text(f"PC{k} ({share:.0%})", fontsize=STYLE["font"])
    ax.set(xticks=[], yticks=[])
    ax.spines[["top", "right"]].set_visible(False)
    words = {key: f"{key} ({len(groups[key]):,})" for key in parts} | {"additive": "additive mean"}
    told = []
    for key in means:
        marker, colour = _LOOKS[key]["marker"], _LOOKS[key].get("color", STYLE["ink"])
        face = "none" if key == "additive" else colour
        told.append(
            Line2D(
                [],
                [],
                linestyle="none",
                markersize=7,
                label=words[key],
                marker=marker,
                color=colour,
                markerfacecolor=face,
            )
        )
    legend(ax, told, loc="upper left", bbox_to_anchor=(1.0, 1.0))
