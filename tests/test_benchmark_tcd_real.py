"""The benchmark of cause scores on real screens: percentiles, blind lists, directions, leads and the page's table."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import tcd_real

EVERY = np.ones(5, dtype=bool)


def test_percentile_counts_ties_half_and_leaves_the_effect_out() -> None:
    column = np.array([9.0, 2.0, 1.0, 2.0, 3.0])
    assert tcd_real.percentile(column, 1, 0, EVERY) == pytest.approx(0.5)  # 1 below, 2 level, 3 above
    assert tcd_real.percentile(column, 1, 0, np.array([1, 0, 1, 0, 0], bool)) == 1.0
    assert np.isnan(tcd_real.percentile(column, 1, 0, np.array([1, 1, 0, 0, 0], bool)))


def test_blind_lists_rank_alike_for_every_gene() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 5))
    blind = tcd_real.blind(scores)
    assert np.allclose(blind - blind[:1], (blind - blind[:1])[:, :1])
    assert np.allclose(blind[0] - blind[0, 0], (blind[3] - blind[3, 0]))


def test_hidden_knock_out_with_perfect_and_useless_scores() -> None:
    changed, perturbed = np.array([0, 1, 1, 0, 0], bool), np.array([0, 0, 0, 1, 1], bool)
    scores = np.zeros((5, 5))
    assert tcd_real.score_hidden(scores, 0, changed, perturbed) == {
        "column_auroc": 0.5, "column_ap": 0.5, "row_alike": 0.5, "row_all": 0.5,
    }  # fmt: skip
    scores[0, [1, 2]] = 1
    scores[3, [1, 2]] = 2  # a perturbed gene is above it
    found = tcd_real.score_hidden(scores, 0, changed, perturbed)
    assert found == {"column_auroc": 1, "column_ap": 1, "row_alike": 1, "row_all": pytest.approx(2 / 3)}


def test_regulators_above_and_below() -> None:
    scores = np.zeros((5, 5))
    scores[0, [2, 3]] = 1  # right, and above all; gene 1 is level with the rest but one
    scores[2, 1] = 1
    perturbed = np.array([1, 1, 0, 0, 0], bool)
    every, other, alike, column, direction = tcd_real.rank_regulators(
        scores, np.array([0, 1]), np.array([2, 3]), perturbed
    )
    assert (every, other) == (1.0, pytest.approx(1 / 3)) and alike == 0.5
    assert (column, direction) == (0.75, 0.625)  # direction: right, right, wrong, level


def test_leads_are_over_the_best_baseline_and_not_over_blind_lists() -> None:
    rows = pd.DataFrame(
        {"hidden": h, "method": m, "n_effects": 3} | dict.fromkeys(tcd_real.MEASURES, v + d)
        for h, d in (("A", 0.0), ("B", 0.1), ("C", 0.2))
        for m, v in (("TCD x", 0.5), ("blind x", 0.7), ("random", 0.4), ("list", 0.6))
    )
    first, *leads = tcd_real.leads(rows)
    assert first.startswith("3 knock-outs") and len(leads) == 4
    assert leads[0] == "column_auroc: TCD x 0.60, list 0.70; the baseline is ahead by 0.10 ± 0.00."


def test_page_table_escapes_bars() -> None:
    table = pd.DataFrame({"method": ["|t|", "x"], "value": [0.126, np.nan]})
    assert tcd_real.markdown(table)[2:4] == ["| \\|t\\| | 0.13 |", "| x |  |"]


def test_truth_is_of_controls_that_are_set_aside() -> None:
    adata = ad.AnnData(np.random.default_rng(0).poisson(3.0, (60, 5)).astype(np.float32))
    adata.var_names = list("ABCDE")
    adata.obs["perturbation"] = ["control"] * 30 + ["A"] * 15 + ["B"] * 15
    adata.X[30:45, :2] = 0  # the knock-out of A does away with A and B
    truth, judge = tcd_real.differs(adata, ["A", "B"], None, 0)
    assert truth.tolist()[0][:2] == [False, True] and not truth[1, 1]
    assert len(judge) == 15 and judge.max() < 30
    left = tcd_real.without(adata, ["A"], judge)
    assert left.obs["perturbation"].value_counts().to_dict() == {"control": 15, "B": 15}


def test_a_fold_learns_from_the_other_screens(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(tcd_real, "train", lambda recipe, out, **how: asked.append((recipe, out, how)))
    out = tcd_real.fold(tmp_path, "k562_tapseq", tmp_path / "screens")
    ((recipe, where, how),) = asked
    assert out == str(where) == str(tmp_path / "tcd-perturbseq-without-k562_tapseq")
    assert [name for name, _ in recipe.real] == ["hipsc_tf_ko", "thp1_eccite"]
    assert how["screens"] == tmp_path / "screens" and how["resume"]


def test_weights_are_not_scored_on_what_they_learned_from(monkeypatch, tmp_path, capsys) -> None:
    from types import SimpleNamespace

    configs = {"a": {}, "b": {"recipe": {"real": [["hipsc_tf_ko", "day"]]}}}
    monkeypatch.setattr(tcd_real.pretrained, "load", lambda name: SimpleNamespace(config=configs[name]))
    seen = []
    monkeypatch.setattr(tcd_real, "hide_each", lambda adata, weights, key: seen.append((adata.shape, weights, key)))
    monkeypatch.setattr(tcd_real, "leads", lambda rows: [])
    monkeypatch.setattr(tcd_real, "page", lambda *args: [])
    tcd_real.tables(["a", "b"], None, None)
    assert seen == [((14945, 103), ["a"], "day")]
    assert "thp1_eccite: skipped" in capsys.readouterr().out
