"""Target probabilities of many perturbations at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.ticker import MaxNLocator

from causcade import _keys, get
from causcade.get._stored import check_count
from causcade.pl._boxes import shades, short
from causcade.pl._style import STYLE, finish, new_axes, to_show, whole_figure

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["target_map"]

_CELL: Final = 0.2  # inches of a new figure
_LEAST_FONT: Final = 4.5


def target_map(
    adata: AnnData,
    perturbations: str | Sequence[str] | None = None,
    *,
    n_genes: int = 50,
    key: str = _keys.TARGETS,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw target probabilities as a heat map: perturbations are rows, genes are columns.

    Genes are in the order of the perturbation in which they are most probable, so that each perturbation's own targets
    lie along the diagonal. A ring marks known targets. Grey: the gene was no candidate.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.targets` was run.
    perturbations
        Names, in this order; None for all that were scored.
    n_genes
        Most genes: those with the highest probability in any of the perturbations, and known targets.
    key
        The `key_added` of that call.
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
        If there is no such result, or a perturbation was not scored.
    ValueError
        If `n_genes` is not positive, or no gene has a score.

    Examples
    --------
    >>> cc.tl.targets(adata, model=gim)
    >>> cc.pl.target_map(adata)
    """
    n_genes = check_count(n_genes, "n_genes")
    table = get.targets(adata, perturbations, key=key)
    if table.empty:
        msg = f"There are no candidate targets under key={key!r}: no gene has a score."
        raise ValueError(msg)
    probability = table.pivot(index="perturbation", columns="gene", values="probability")
    probability = probability.loc[list(dict.fromkeys(table["perturbation"]))]
    known = _known(table, probability)
    genes = _genes(probability, known, n_genes)
    show = to_show(ax, show=show)
    total = probability.shape[1]
    ax = _draw(ax, probability[genes], known[genes], total)
    return finish(ax, show=show, return_fig=return_fig)


def _known(table: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    if "known" not in table:
        return like.notna() & False
    return table.pivot(index="perturbation", columns="gene", values="known").reindex_like(like).eq(True)


def _genes(probability: pd.DataFrame, known: pd.DataFrame, n: int) -> list[str]:
    """The most probable targets, in the order of the perturbations they belong to."""
    best = probability.max().where(~known.any(), 2.0).sort_values(ascending=False, kind="stable")
    kept = best.index[:n]
    values = probability[kept].fillna(-1.0).to_numpy()
    order = np.lexsort((-values.max(axis=0), values.argmax(axis=0)))
    return [str(gene) for gene in kept[order]]


def _draw(ax: Axes | None, probability: pd.DataFrame, known: pd.DataFrame, total: int) -> Axes:
    n_rows, n_columns = probability.shape
    rows, columns = short(list(map(str, probability.index))), short(list(map(str, probability.columns)))
    if ax is None:
        letters = 0.085 * max(map(len, rows)), 0.085 * max(map(len, columns))
        width, height = (float(np.clip(_CELL * n, 1.2, 14.0)) for n in (n_columns, n_rows))
        ax = new_axes(width + letters[0] + 1.6, height + letters[1] + 1.0)
    image = ax.imshow(
        np.ma.masked_invalid(probability.to_numpy(dtype=np.float64)),
        cmap=shades(white=True).with_extremes(bad="#D9D9D9"), vmin=0, vmax=1, aspect="auto",
    )  # fmt: skip
    said = f"{n_columns:,} genes" if n_columns == total else f"{n_columns:,} of {total:,} genes"
    ax.set_title(f"Targets of {n_rows:,} perturbations, {said}", fontsize=STYLE["title"])
    ax.set_xlabel("gene", fontsize=STYLE["font"])
    ax.set_ylabel("perturbation", fontsize=STYLE["font"])
    ax.spines[:].set_color("#BFBFBF")
    _bar(ax, image)
    cell = _cell(ax, n_rows, n_columns)
    _names(ax, rows, columns, cell)
    y, x = np.nonzero(known.to_numpy(dtype=bool))
    if len(x):
        ring = {"marker": "o", "facecolor": "none", "edgecolor": STYLE["up"], "linewidth": 1.4}
        ax.scatter(x, y, s=(0.62 * min(min(cell), 16)) ** 2, **ring)
        ax.set_xlabel("gene (ring: known target)", fontsize=STYLE["font"])
    return ax


def _bar(ax: Axes, image: object) -> None:
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05, aspect=16, shrink=0.8)  # type: ignore[arg-type]
    bar.set_label("target probability", fontsize=STYLE["small"], color=STYLE["ink"])
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.ax.tick_params(labelsize=STYLE["small"])
    bar.outline.set_visible(False)


def _cell(ax: Axes, n_rows: int, n_columns: int) -> tuple[float, float]:
    """Width and height of a cell in points."""
    whole_figure(ax).draw_without_rendering()  # places the axes, if a layout engine does
    box = ax.get_window_extent()
    return float(box.width * 72 / ax.figure.dpi / n_columns), float(box.height * 72 / ax.figure.dpi / n_rows)


def _names(ax: Axes, rows: list[str], columns: list[str], cell: tuple[float, float]) -> None:
    """Write names along both sides; leave them out where they cannot be read."""
    for axis, names, room in ((ax.xaxis, columns, cell[0]), (ax.yaxis, rows, cell[1])):
        size = min(0.8 * room, STYLE["small"])
        if size < _LEAST_FONT:
            axis.set_ticks([])
            continue
        turned: dict[str, Any] = {"rotation": 90} if axis is ax.xaxis else {}
        axis.set_ticks(np.arange(len(names)), names, fontsize=size, parse_math=False, **turned)
    ax.tick_params(length=0, pad=2)
