"""The benchmark of released weights: which metric, the lead over the best baseline, and the page."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import weights

SCORES = {
    "seen": {"CDN": {"ap": 40.0, "rank": 1}, "lfc": {"ap": 35.04, "rank": 2}, "|t|": {"ap": 10.0, "rank": 9}},
    "screens": {"CDN": {"ap": 20.0, "rank": 1}, "lfc": {"ap": 25.0, "rank": 2}, "|t|": {"ap": float("nan"), "rank": 9}},
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(weights.pretrained, "load", lambda name: SimpleNamespace(model="CDN", name=name))
    monkeypatch.setattr(weights, "score_weights", lambda found, n: SCORES if (found.name, n) == ("cdn-x", 2) else {})
    return pd.DataFrame(weights.rows("cdn-x", 2))


def test_lead_is_over_the_best_baseline(table: pd.DataFrame) -> None:
    assert table["metric"].unique().tolist() == ["mAP"] and len(table) == 6
    own = table[table["method"] == "CDN"].set_index("kind")["lead"]
    assert own["seen"] == pytest.approx(4.96) and own["screens"] == -5
    assert table.loc[table["method"] != "CDN", "lead"].isna().all()


def test_page_marks_the_best_of_every_kind(table: pd.DataFrame, tmp_path: Path) -> None:
    weights.write_page(table, tmp_path / "page.md", 2)
    text = (tmp_path / "page.md").read_text()
    assert "## cdn-x: mAP\n\n| method | seen | screens |" in text
    assert "| CDN | **40.0** | 20.0 |" in text and "| lfc | 35.0 | **25.0** |" in text
    assert "| \\|t\\| | 10.0 |  |" in text


def test_weights_can_be_scored_on_the_screens_of_others() -> None:
    umi, expression = (weights.pretrained.load(f"tcd-grn-{name}") for name in ("umi", "expression"))
    changed = weights.with_prior_of(umi, "tcd-grn-expression")
    assert changed.config["recipe"]["prior"] == expression.config["recipe"]["prior"] != umi.config["recipe"]["prior"]
    assert changed.net is umi.net and changed.config["subset"] == umi.config["subset"]
    with pytest.raises(ValueError, match="different networks"):
        weights.with_prior_of(umi, "avici-grn")
