"""Genes to perturb next, with the ranks that simple answers give them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from causcade import _keys, get
from causcade.get._stored import check_count
from causcade.pl import _ranked
from causcade.pl._style import finish, to_show

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["suggestions"]

_AXES: Final = {
    "direction": "unknown direction of relations (bits)",
    "effects": "expected number of effects",
    "entropy": "unknown about its effects (bits)",
    "spread": "summed standard errors",
    "correlation": "summed absolute correlation",
    "variance": "variance of log expression",
}
_KIND: Final = _ranked.Kind(
    name="gene", axis="", ranks={}, colour="", colour_label="", limit=1.0, uncoloured="not perturbed yet"
)
_BESIDE: Final = ("entropy", "direction", "correlation", "variance")


def suggestions(
    adata: AnnData,
    *,
    n_top: int = 15,
    key: str = _keys.SUGGESTIONS,
    baselines: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw which genes to perturb next, and their ranks by the other ways to choose.

    Parameters
    ----------
    adata
        Annotated data on which `causcade.tl.suggest_perturbations` was run.
    n_top
        Number of genes.
    key
        The `key_added` of that call.
    baselines
        Write the ranks by three other methods beside it.
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
        If there is no such result.
    ValueError
        If `n_top` is not positive.

    Examples
    --------
    >>> cc.tl.suggest_perturbations(adata)
    >>> cc.pl.suggestions(adata)
    """
    n_top = check_count(n_top, "n_top")
    table = get.suggestions(adata, key=key)
    method = str(adata.uns[key][_keys.METHOD])
    table["score"] = table[method]
    others = [name for name in _BESIDE if name != method and name in table][:3]
    kind = replace(_KIND, axis=_AXES[method], ranks={f"rank_{name}": f"rank by\n{name}" for name in others})
    show = to_show(ax, show=show)
    ax = _ranked.draw(ax, table, kind, n_top=n_top, baselines=baselines, title="Genes to perturb next")
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    return finish(ax, show=show, return_fig=return_fig)
