"""Share of known targets among the first candidates, a curve for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from causcade import get
from causcade.get._stored import FUSED, LFC, WILCOXON
from causcade.pl._style import STYLE, legend, legend_height

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_SUBSETS: Final = ("all", "trivial", "non-trivial")
_NEEDED: Final = ("n_candidates", "trivial", "score_position")
#: Methods in the order of the legend: words and lines, which differ without their colours
_METHODS: Final = {
    "score": ("", "-", 2.2),
    FUSED: ("fused", "-.", 1.8),
    LFC: ("|log fold change|", "--", 1.8),
    WILCOXON: ("Wilcoxon", ":", 2.2),
}


def table_and_model(adata: AnnData | pd.DataFrame, key: str) -> tuple[pd.DataFrame, str]:
    """Ranks of the known targets, and the name of the model."""
    if not isinstance(adata, pd.DataFrame):
        return get.target_ranks(adata, key=key), str(adata.uns[key].get("model", "model"))
    if lacking := [column for column in _NEEDED if column not in adata]:
        msg = f"The table lacks {', '.join(lacking)}. Pass what cc.get.target_ranks returns."
        raise ValueError(msg)
    return adata, "model"


def choose(table: pd.DataFrame, subset: str) -> tuple[pd.DataFrame, int]:
    """Targets of the subset, and how many more there are that have no rank."""
    if subset not in _SUBSETS:
        msg = f"subset must be one of {', '.join(map(repr, _SUBSETS))}, got {subset!r}."
        raise ValueError(msg)
    has_rank = table["score_position"].notna()
    ranked = table[has_rank]
    chosen = ranked if subset == "all" else ranked[ranked["trivial"].astype(bool) == (subset == "trivial")]
    if chosen.empty:
        msg = (
            f"There is no known target to draw: of {len(table):,} targets {len(ranked):,} were candidates, and "
            f"{int(ranked['trivial'].sum()):,} of these are trivial (subset={subset!r})."
        )
        raise ValueError(msg)
    return chosen, int((~has_rank).sum())


def draw_curves(ax: Axes, table: pd.DataFrame, model: str) -> None:
    """Draw one step curve per method, and what chance would give."""
    n = table["n_candidates"].to_numpy(np.float64)
    first = 1 / n.max()
    for method, (word, line, width) in _METHODS.items():
        if f"{method}_position" not in table:
            continue
        position = table[f"{method}_position"].to_numpy(np.float64)
        position = np.where(np.isnan(position), n, position)  # a method without a value puts the target last
        share = np.arange(1, len(n) + 1) / len(n)
        x, y = np.concatenate([[first / 2], np.sort(position / n), [1.0]]), np.concatenate([[0.0], share, [1.0]])
        mean = np.mean(1 - (position - 1) / n)
        look: dict[str, Any] = {"color": STYLE[method], "linestyle": line, "linewidth": width}
        ax.step(x, y, where="post", label=f"{word or model} ({mean:.2f})", **look)
    p = np.geomspace(first, 1, 200)
    chance = np.mean(np.floor(p[:, None] * n + 1e-9) / n, axis=1)
    label = f"chance ({np.mean((1 + 1 / n) / 2):.2f})"
    ax.plot(p, chance, color=STYLE["chance"], linewidth=1, label=label, zorder=1)


def label_axes(ax: Axes, table: pd.DataFrame, subset: str, n_missing: int) -> None:
    """Write what the axes mean, how many targets there are, and how many have no rank."""
    first = 1 / table["n_candidates"].max()
    ax.set_xscale("log")
    ax.set_xlim(first * 0.9, 1.05)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("top share of the candidates (%, log scale)", fontsize=STYLE["font"])
    ax.set_ylabel("share of known targets found", fontsize=STYLE["font"])
    which = {"all": "Known targets", "trivial": "Trivial targets", "non-trivial": "Non-trivial targets"}[subset]
    left_out = f"\n{n_missing:,} more were no candidates" if n_missing else ""
    ax.set_title(f"{which} found (n = {len(table):,}){left_out}", fontsize=STYLE["title"])
    ax.tick_params(labelsize=STYLE["small"])
    ax.grid(color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{100 * p:g}"))
    _draw_legend(ax)


def _draw_legend(ax: Axes) -> None:
    """Name the lines beside the axes, or above the curves where nothing would make room beside them."""
    text: dict[str, Any] = {"handlelength": 2.8, "title": "method (mean rank)", "title_fontsize": STYLE["small"]}
    if ax.figure.get_layout_engine() is not None:
        legend(ax, ax.get_lines(), loc="center left", bbox_to_anchor=(1.0, 0.5), **text)
        return
    ax.set_yticks(np.linspace(0, 1, 6))
    height = ax.get_position().height * ax.figure.bbox.height / ax.figure.dpi * 72
    ax.set_ylim(-0.02, 1.02 / max(1 - legend_height(4) / height, 0.3))
    legend(ax, ax.get_lines(), loc="upper left", ncols=2, **text)
