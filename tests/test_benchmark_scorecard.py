"""The benchmark of scorecards: which rows are shown, in which order, and the page made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import scorecard


def table() -> pd.DataFrame:
    rows = [
        ("energy", "a", 0.5, "lower"), ("energy", "b", 0.1, "lower"), ("pearson_mean", "a", np.nan, "higher"),
        ("pearson_control", "a", 0.2, "higher"), ("pearson_control", "b", 0.8, "higher"), ("mse", "a", 1.0, "lower"),
    ]  # fmt: skip
    out = pd.DataFrame(rows, columns=["metric", "method", "value", "better"])
    out["task"] = "effects"
    for name in ("low", "high", "gain", "gain_low", "gain_high", "ceiling"):
        out[name] = np.nan
    out["n"] = 3
    out.loc[4, ["low", "high"]] = [0.7, 0.9]
    out.attrs["baseline"] = "a"
    return out


def test_best_method_first_whichever_way_the_metric_goes() -> None:
    shown = scorecard.shown(table())
    expected = [("pearson_control", "b"), ("pearson_control", "a"), ("energy", "b"), ("energy", "a")]
    assert list(zip(shown["metric"], shown["method"], strict=True)) == expected


def test_page_holds_the_numbers(tmp_path: Path) -> None:
    scorecard.write_page({"x": ("What happens.", table())}, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "## What happens\n\nBaseline: `a`." in text
    assert "| pearson_control | `b` | 0.80 (0.70 to 0.90) |  |  | 3 |" in text
    assert "mse" not in text and "nan" not in text
