"""How a training went: its loss, and scores on held-out kinds with the best baseline beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from causcade import pretrained
from causcade.pl._style import STYLE, finish, new_axes, to_show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito; lines differ in their markers too
_LOOKS: Final = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#222222", "X"),
)  # fmt: skip
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

    Scores are those of the averaged weights after so many steps. The best baseline of each kind is written beside its
    line, and drawn as a dotted one.

    Parameters
    ----------
    folder
        Folder of ``python -m causcade.pretrain`` (its ``--out``), or the name of released weights.
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
    name = Path(folder).name
    if what == "loss":
        _draw_loss(ax, record)
    else:
        _draw_scores(ax, record)
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
    file = pretrained.folder_of(folder) / _FILES[what]
    record = json.loads(file.read_text()) if file.is_file() else []
    if not record:
        msg = (
            f"There is no {what} in {_FILES[what]!r} of {str(folder)!r}. Give the --out of a run of python -m "
            f"causcade.pretrain{', with --validate N' if what == 'validation' else ''}; weights that were released before "
            "such records were kept have none."
        )
        raise ValueError(msg)
    return list(record)


def _draw_loss(ax: Axes, log: list[list[float]]) -> None:
    steps, _, loss = np.array(log, float).T
    ax.plot(steps, loss, color=STYLE["cause"], linewidth=1.2)
    ax.set_ylabel("mean loss since the point before", fontsize=STYLE["font"])


def _draw_scores(ax: Axes, record: list[dict[str, Any]]) -> None:
    steps = [entry["step"] for entry in record]
    model = record[-1]["model"]
    for (kind, methods), (colour, marker) in zip(record[-1]["scores"].items(), _cycle(), strict=False):
        values = [entry["scores"].get(kind, {}).get(model, np.nan) for entry in record]
        others = {name: value for name, value in methods.items() if name != model and np.isfinite(value)}
        best = max(others, key=others.__getitem__, default="")
        beside = f"{kind} ({best} {others[best]:.3g})" if best else kind
        ax.plot(steps, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=beside)
        if best:
            ax.axhline(others[best], color=colour, linestyle=":", linewidth=1.0)
    ax.set_ylabel(f"{record[-1]['metric']} of {model}", fontsize=STYLE["font"])
    ax.legend(
        title="held-out kind (best baseline, dotted)", frameon=False, fontsize=STYLE["small"], title_fontsize=STYLE["small"],
        loc="center left", bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip


def _cycle() -> list[tuple[str, str]]:
    return [*_LOOKS, *((colour, "*") for colour, _ in _LOOKS)]
