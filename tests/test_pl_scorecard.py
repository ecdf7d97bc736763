from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from causcade import pl
from causcade.evaluation._table import COLUMNS
from causcade.pl._style import STYLE


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def fake() -> pd.DataFrame:
    """Two metrics; the model wins one of them, and one method failed."""
    rows = []
    for metric, better, base in (("energy", "lower", 2.0), ("own", "higher", 0.5)):
        for method, kind, value, gain_low in (
            ("sum", "baseline", base, 0.0), ("net", "model", base / 2, 0.2 if better == "lower" else -0.3),
            ("mean", "baseline", 3 * base, -1.0), ("broken", "model", np.nan, np.nan),
        ):  # fmt: skip
            rows.append({
                "method": method, "kind": kind, "task": "effects", "split": "dose", "metric": metric, "value": value,
                "low": value - 0.1, "high": value + 0.1, "n": 0 if method == "broken" else 6, "baseline": base,
                "ceiling": 0.1, "gain_low": gain_low, "better": better,
                "status": "failed: no licence" if method == "broken" else "ok",
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["baseline"] = "sum"
    return table


def markers(ax: Axes) -> dict[float, tuple[float, str, str]]:
    """By place: value, marker and face."""
    found = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    return {
        line.get_ydata()[0]: (line.get_xdata()[0], line.get_marker(), to_hex(line.get_markerfacecolor()))
        for line in found
    }


def test_one_panel_for_each_metric_and_a_line_for_each_method() -> None:
    axes = pl.scorecard(fake())
    assert isinstance(axes, np.ndarray) and len(axes) == 2
    names = [t.get_text() for t in axes[0].get_yticklabels()]
    assert names == ["net", "broken", "sum", "mean"]  # models first
    assert [t.get_text() for t in axes[1].get_yticklabels()] == [""] * 4
    assert [ax.get_title() for ax in axes] == ["energy distance ←", "own →"]
    assert axes[0].figure.get_suptitle() == "effects, split: dose, 6 held-out perturbations"
    legend = [t.get_text() for t in axes[0].figure.legends[0].get_texts()]
    assert legend == ["model", "baseline", "filled: better (95 %)", "sum", "replicate"]


def test_marks_say_kind_value_and_whether_it_is_better() -> None:
    energy, own = pl.scorecard(fake())
    white, model = to_hex("white"), to_hex(STYLE["up"])
    assert markers(energy) == {0: (1.0, "o", model), 2: (2.0, "D", white), 3: (6.0, "D", white)}
    assert markers(own)[0] == (0.25, "o", white)
    assert [t.get_text() for t in energy.texts] == ["not scored"] and energy.texts[0].get_position()[1] == 1
    bars = sorted(tuple(line.get_xdata()) for line in energy.lines if line.get_label() == "_interval")
    assert bars[0] == pytest.approx((0.9, 1.1))
    lines = {line.get_label(): line.get_xdata()[0] for line in energy.lines}
    assert lines["_baseline"] == 2.0 and lines["_ceiling"] == 0.1


def test_all_values_lie_in_the_panel_however_wide_an_interval_is() -> None:
    table = fake()
    table.loc[1, ["low", "high"]] = -500.0, 500.0
    low, high = pl.scorecard(table)[0].get_xlim()
    assert low < 0.1 and high > 6 and high - low < 40


def test_one_perturbation_is_no_several() -> None:
    figure = pl.scorecard(fake().assign(n=1), return_fig=True)
    assert figure.get_suptitle().endswith("1 held-out perturbation")


def test_ax_takes_one_metric() -> None:
    ax = plt.figure().add_subplot()
    assert pl.scorecard(fake(), "own", ax=ax) is ax and ax.get_title() == "own →"
    with pytest.raises(ValueError, match="ax= takes one metric, not 2"):
        pl.scorecard(fake(), ax=ax)


def test_figure_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    figure = pl.scorecard(fake(), ["own", "energy"], return_fig=True)
    assert [ax.get_title() for ax in figure.axes] == ["own →", "energy distance ←"] and not shown
    assert pl.scorecard(fake(), show=True) is None and shown == [1]


@pytest.mark.parametrize("metrics", [None, "own"])
def test_text_stays_in_the_figure(metrics: str | None) -> None:
    table = fake().replace({"method": {"net": "a model with a rather long name of its own"}})
    figure = pl.scorecard(table, metrics, return_fig=True)
    figure.draw_without_rendering()
    box = figure.bbox
    for text in (*figure.axes[0].get_yticklabels(), figure.axes[-1].title, figure.legends[0]):
        found = text.get_window_extent()
        assert found.x0 >= box.x0 - 1 and found.x1 <= box.x1 + 1 and found.y0 >= -1 and found.y1 <= box.y1 + 1


@pytest.mark.parametrize(
    ("change", "metrics", "words"),
    [
        (lambda t: t.drop(columns=["ceiling"]), None, "lacks ceiling"),
        (lambda t: t, "missing", "no metric 'missing'"),
        (lambda t: pd.concat([t, t.assign(split="group")]), None, "2 tasks and splits"),
        (lambda t: pd.concat([t, t]), None, "repeated rows"),
        (lambda t: t[t["method"] == "broken"], None, "broken: failed: no licence"),
    ],
)
def test_unusable_tables_are_refused(change, metrics, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        pl.scorecard(change(fake()), metrics)
