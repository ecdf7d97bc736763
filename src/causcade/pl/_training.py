"""How a training went: its loss, and scores on held-out kinds with the best baseline beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from causcade import pretrained
from causcade._files import CONFIG
from causcade.pl._style import STYLE, finish, legend, legend_height, new_axes, to_show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito; seven colours and eight markers come together again after 56 kinds
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
_MARKERS: Final = "os^DvPX*"
_FILES: Final = {"loss": "log.json", "validation": "validation.json"}


def training(
    folder: str | Path,
    *,
    what: Literal["loss", "validation"] = "loss",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Draw the course of a training: its loss by step, or scores on held-out kinds of screen.

    The loss of steps that learn to compose scores is drawn apart, as it is of other screens. Scores are those of the averaged
    weights after so many steps. The best baseline of each kind is written beside its
    line, and drawn as a dotted one.

    Parameters
    ----------
    folder
        Folder of ``python -m causcade.pretrain`` (its ``--out``), or, where there is none of that name, the name of released
        weights.
    what
        ``"loss"``, mean of the steps between two lines of the log; ``"validation"``, where the training was run with
        ``--validate``.
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
        If `what` is neither of the two, or the folder holds no such record.

    Examples
    --------
    >>> cc.pl.training("tcd-grn-umi", what="validation")
    """
    record = _read(folder, what)
    show = to_show(ax, show=show)
    ax = new_axes(6.8, 3.9) if ax is None else ax
    if what == "loss":
        _draw_loss(ax, record, _sets(folder))
    else:
        _draw_scores(ax, record)
    name = Path(folder).resolve().name
    name = f"…{name[-39:]}" if len(name) > 40 else name
    ax.set_title(f"Training of {name}", fontsize=STYLE["title"])
    ax.set_xlabel("training steps", fontsize=STYLE["font"])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=STYLE["small"])
    ax.grid(color="#E6E6E6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(ax, show=show, return_fig=return_fig)


def _read(folder: str | Path, what: str) -> list[Any]:
    if what not in _FILES:
        msg = f"what must be one of {', '.join(map(repr, _FILES))}, got {what!r}."
        raise ValueError(msg)
    places = Path(folder) / _FILES[what], pretrained.folder_of(folder) / _FILES[what]
    record: list[Any] = next((json.loads(file.read_text()) for file in places if file.is_file()), [])
    if not record:
        msg = (
            f"There is no {what} in {_FILES[what]!r} of {str(folder)!r}. Give the --out of a run of python -m "
            f"causcade.pretrain{', with --validate N' if what == 'validation' else ''}; weights that were released before "
            "such records were kept have none."
        )
        raise ValueError(msg)
    return record


def _sets(folder: str | Path) -> float:
    """Steps on sets of genes; those after them learn to compose, and have a loss of their own."""
    places = Path(folder) / CONFIG, pretrained.folder_of(folder) / CONFIG
    config: dict[str, Any] = next((json.loads(file.read_text()) for file in places if file.is_file()), {})
    recipe = config.get("recipe", {})
    return float(recipe["steps"]) if recipe.get("compose_steps") else np.inf


def _draw_loss(ax: Axes, log: list[list[float]], sets: float) -> None:
    steps, _, loss = np.array(log, float).T
    for which, colour, label in (
        (steps <= sets, STYLE["cause"], "on sets of genes"),
        (steps > sets, _COLOURS[1], "on whole screens, composing"),
    ):
        if which.any():
            marker = "o" if which.sum() < 20 else None
            ax.plot(steps[which], loss[which], color=colour, linewidth=1.2, marker=marker, markersize=3, label=label)
    if (steps > sets).any():
        ax.legend(frameon=False, fontsize=STYLE["small"])
    ax.set_ylabel("mean loss since the point before", fontsize=STYLE["font"])


def _draw_scores(ax: Axes, record: list[dict[str, Any]]) -> None:
    steps = [entry["step"] for entry in record]
    model = record[-1]["model"]
    kinds = list(dict.fromkeys(kind for entry in record for kind in entry["scores"]))
    for i, kind in enumerate(kinds):
        each = [entry["scores"].get(kind, {}) for entry in record]
        last = next(methods for methods in reversed(each) if methods)
        others = {name: value for name, value in last.items() if name != model and np.isfinite(value)}
        best = max(others, key=others.__getitem__, default="")
        beside = f"{kind} ({best} {others[best]:.3g})" if best else kind
        look: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
        values = [methods.get(model, np.nan) for methods in each]
        ax.plot(steps, values, markersize=4, linewidth=1.4, label=beside, **look)
        if best:
            ax.axhline(others[best], color=look["color"], linestyle=":", linewidth=1.0)
    ax.set_ylabel(f"{record[-1]['metric']} of {model}", fontsize=STYLE["font"])
    _draw_legend(ax, len(kinds))


def _draw_legend(ax: Axes, rows: int) -> None:
    """Name the lines beside the axes, or below the curves where nothing would make room beside them."""
    text: dict[str, Any] = {"title": "kind (best baseline, dotted)", "title_fontsize": STYLE["small"]}
    handles: Any = ax.get_legend_handles_labels()[0]
    if ax.figure.get_layout_engine() is not None:
        legend(ax, handles, loc="center left", bbox_to_anchor=(1.0, 0.5), **text)
        return
    height = ax.get_position().height * ax.figure.bbox.height / ax.figure.dpi * 72
    low, high = ax.get_ylim()
    share = min(legend_height(rows + 1) / height, 0.7)
    ax.set_ylim(low - (high - low) * share / (1 - share), high)
    legend(ax, handles, loc="lower left", **text)
