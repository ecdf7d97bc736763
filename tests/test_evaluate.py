from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ranksums

import causcade as cc
from causcade import effect_baselines, metrics, pretrained
from causcade.evaluation import _asked, _causes, _leaks, _methods, _plan, _ranked, _scores, _splits, _table
from causcade.evaluation._screen import Condition, Screen, parts_of
from causcade.screendata import read_screen
from causcade.splits import split_perturbations

QUICK: dict[str, Any] = {"progress_bar": False, "n_boot": 200, "n_repeats": 2}
GENES = [f"G{i:02d}" for i in range(20)]
SIMPLE = ["observational", "perturbed_mean", "additive", "scaled_additive", "stronger_single", "mean_shift_ridge"]


def additive_screen(noise: float = 0.3, n: int = 40) -> ad.AnnData:
    """Log values; P0 to P5 each move genes of their own, pairs move those of both, and no perturbed gene is measured."""
    gen = np.random.default_rng(0)
    effect = {f"P{i}": np.where(np.arange(20) // 3 == i, 1.5, 0.0) for i in range(6)}
    labels = ["control"] * 80 + [p for p in [*effect, "P0+P1", "P2+P3", "P1+P4", "P0+P5"] for _ in range(n)]
    mean = 3 + np.stack([sum((effect[p] for p in x.split("+") if p in effect), np.zeros(20)) for x in labels])
    x = np.abs(mean + gen.normal(0, noise, mean.shape)).astype(np.float32)
    obs = pd.DataFrame({"pert": pd.Categorical(labels)}, index=[f"c{i}" for i in range(len(labels))])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cc.pp.regimes(adata, "pert", "control", targets={})
    return adata


def dose_screen() -> ad.AnnData:
    gen = np.random.default_rng(1)
    rows = [("control", 0.0)] * 60 + [(d, x) for d in ("A", "B") for x in (1.0, 2.0, 4.0, 8.0) for _ in range(20)]
    direction = {"A": np.eye(20)[0] + np.eye(20)[1], "B": np.eye(20)[2], "control": np.zeros(20)}
    mean = 3 + np.stack([direction[d] * np.log1p(x) for d, x in rows])
    obs = pd.DataFrame(rows, columns=["drug", "dose"], index=[str(i) for i in range(len(rows))])
    values = (mean + gen.normal(0, 0.2, mean.shape)).astype(np.float32)
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=GENES))


def doubled(screen: ad.AnnData) -> ad.AnnData:
    """Every cell twice, 16 of each perturbation."""
    obs = pd.concat([screen.obs, screen.obs.set_axis([f"{name}b" for name in screen.obs_names])])
    return ad.AnnData(np.tile(screen.X, (2, 1)), obs=obs, var=screen.var.copy(), uns=dict(screen.uns))


def value(table: pd.DataFrame, method: str, metric: str, column: str = "value") -> Any:
    return table.set_index(["method", "metric"]).loc[(method, metric), column]


# --- the call -------------------------------------------------------------------------------------------------------


def test_combinations_that_add_up_are_predicted_by_the_sum(fingerprint: Any) -> None:
    adata = additive_screen()
    before = fingerprint(adata)
    table = cc.evaluate(adata, SIMPLE, split="combination", values="log", **QUICK)
    assert fingerprint(adata) == before
    assert list(table.columns) == list(_table.COLUMNS)
    assert set(table.attrs["held_out"]) == {"P0+P1", "P2+P3", "P1+P4", "P0+P5"}
    assert table.attrs["baseline"] == "additive" and table.attrs["leakage"] == {
        "cells": [], "aliases": [], "genes": [], "similar": [],
    }  # fmt: skip
    assert value(table, "additive", "pearson_control") > 0.97
    assert value(table, "additive", "discrimination") == 1
    assert value(table, "observational", "pearson_control") == 0
    assert value(table, "observational", "pearson_control", "gain_high") < 0
    assert value(table, "stronger_single", "mse", "gain_high") < 0  # lower is better, and it is higher
    assert value(table, "stronger_single", "mse") > value(table, "additive", "mse")
    assert (table["status"] == "ok").all()
    assert set(table.loc[table["method"] != "additive", "kind"]) == {"baseline"}


def test_values_are_those_of_the_metrics() -> None:
    """One held-out combination, scored by hand with the same cells."""
    adata, seen = additive_screen(), {}

    def look(train: ad.AnnData, labels: list[str]) -> dict[str, np.ndarray]:
        seen["train"] = train.copy()
        return {labels[0]: np.asarray(train.X)[train.obs["perturbation"] == "P2"].astype(float)}

    table = cc.evaluate(adata, {"mine": look}, split="combination", values="log", hold_out="P3+P2", **QUICK)
    train = seen["train"]
    assert table.attrs["held_out"] == ["P2+P3"]
    assert "P2+P3" not in set(train.obs["perturbation"]) and train.n_obs == adata.n_obs - 40 - 40
    control = np.asarray(train.X)[train.obs["control"].to_numpy()].astype(float)
    here = np.asarray(adata.X)[(adata.obs["pert"] == "P2+P3").to_numpy()].astype(float)
    mine = np.asarray(train.X)[(train.obs["perturbation"] == "P2").to_numpy()].astype(float)
    used = {tuple(row) for row in control}
    other = np.array([row for row in np.asarray(adata.X)[:80].astype(float) if tuple(row) not in used])
    assert len(control) == len(other) == 40  # half of the controls are for the truth
    expected = np.corrcoef(mine.mean(0) - control.mean(0), here.mean(0) - other.mean(0))[0, 1]
    assert value(table, "mine", "pearson_control") == pytest.approx(expected, abs=1e-6)
    assert value(table, "mine", "mse") == pytest.approx(((mine.mean(0) - here.mean(0)) ** 2).mean(), rel=1e-5)
    assert value(table, "mine", "energy") == pytest.approx(metrics.energy_distance(mine, here), rel=1e-5)
    assert value(table, "mine", "discrimination", "status") == "not defined here"
    assert np.isnan(value(table, "mine", "mse", "low"))  # one perturbation has no interval
    assert value(table, "mine", "mse", "kind") == "model"


def test_a_perfect_prediction_is_as_good_as_a_replicate() -> None:
    adata = additive_screen()
    truth = {p: np.asarray(adata.X)[(adata.obs["pert"] == p).to_numpy()] for p in ("P0+P1", "P1+P4")}
    table = cc.evaluate(
        adata, {"oracle": lambda _, labels: {p: truth[p] for p in labels}, "none": ("observational", {})},
        split="combination", values="log", hold_out=list(truth), baseline="perturbed_mean", **QUICK,
    )  # fmt: skip
    for metric in ("pearson_mean", "mse", "vcc_mae", "vcc"):
        assert value(table, "oracle", metric, "scaled") >= 1, metric
        assert value(table, "perturbed_mean", metric, "scaled") == 0
        assert value(table, "oracle", metric, "gain_low") > 0
    assert value(table, "none", "vcc") < value(table, "oracle", "vcc")
    assert value(table, "perturbed_mean", "vcc") == pytest.approx(0)


def test_a_method_that_fails_says_why_and_ends_nothing() -> None:
    def broken(train: ad.AnnData, labels: list[str]) -> dict[str, np.ndarray]:
        msg = "no licence"
        raise RuntimeError(msg)

    def partly(train: ad.AnnData, labels: list[str]) -> dict[str, np.ndarray]:
        return {label: np.asarray(train.X) for label in labels[1:]}

    table = cc.evaluate(
        additive_screen(), {"broken": broken, "partly": partly, "shape": lambda _, x: {x[0]: np.zeros((3, 2))},
                            "next_lower_dose": {}, "gracevae": {"no_such_choice": 1}},
        split="combination", values="log", **QUICK,
    )  # fmt: skip
    status = table.drop_duplicates("method").set_index("method")["status"]
    assert status["broken"] == "failed: RuntimeError: no licence"
    assert status["partly"].startswith("no prediction for 1 of 4")
    assert "cells x 20 genes" in status["shape"]
    assert "says nothing about split='combination'" in status["next_lower_dose"]
    assert "no_such_choice" in status["gracevae"]
    assert value(table, "partly", "mse", "n") == 3
    assert set(status.index) >= {"additive", "perturbed_mean"} and status["additive"] == "ok"
    assert table.loc[table["method"] == "broken", "value"].isna().all()


def test_models_by_name() -> None:
    """Fits of a few steps: that they run, know what they are asked, and say what they cannot do."""
    adata = additive_screen()
    few = {"gracevae": {"max_epochs": 1, "hidden": 8}, "gim": {"max_steps": 2, "n_samples": 4, "n_acyclic": 4}}
    doubles = cc.evaluate(adata, few, split="combination", values="log", hold_out=["P0+P1", "P2+P3"], **QUICK)
    for method in few:
        assert value(doubles, method, "mse", "status") == "ok", value(doubles, method, "mse", "status")
        assert np.isfinite(value(doubles, method, "energy"))
        assert value(doubles, method, "mse", "kind") == "model"
    singles = cc.evaluate(adata, {"gracevae": {}}, values="log", hold_out="P0", **QUICK)
    assert "knows the perturbations of training only" in value(singles, "gracevae", "mse", "status")


def test_same_seed_same_table() -> None:
    methods = {"additive": {}, "mean_shift_mlp": {"max_steps": 5}}
    tables = [
        cc.evaluate(additive_screen(), methods, split="combination", values="log", rng=r, **QUICK) for r in (3, 3, 4)
    ]
    other = tables.pop()
    pd.testing.assert_frame_equal(*tables)
    assert value(other, "mean_shift_mlp", "mse", "status") == "ok"
    assert not np.array_equal(tables[0]["value"], other["value"], equal_nan=True)


# --- splits ---------------------------------------------------------------------------------------------------------


def test_new_perturbations_are_nowhere_in_training() -> None:
    seen = {}

    def look(train: ad.AnnData, labels: list[str]) -> dict[str, np.ndarray]:
        seen["names"] = set(train.obs["perturbation"])
        return {label: np.asarray(train.X) for label in labels}

    cc.evaluate(additive_screen(), look, values="log", hold_out=["P0"], **QUICK)
    assert not any("P0" in name.split("+") for name in seen["names"])
    assert {"P1", "P1+P4", "control"} <= seen["names"]
    ridge = cc.evaluate(additive_screen(), "mean_shift_ridge", values="log", hold_out=["P0"], **QUICK)
    assert "there are no features of" in value(ridge, "mean_shift_ridge", "mse", "status")


def test_features_tell_of_new_perturbations() -> None:
    adata = additive_screen()
    features = pd.DataFrame(np.eye(6)[:, :5], index=[f"P{i}" for i in range(6)])
    errors = {}
    for alike in (0, 3):  # P5 does what its features say: the same as another
        features.loc["P5"] = np.eye(5)[alike]
        adata.X[(adata.obs["pert"] == "P5").to_numpy()] = adata.X[(adata.obs["pert"] == "P0").to_numpy()] + np.float32(
            0.01
        )
        with pytest.warns(UserWarning, match="P5 ~ P0"):
            told = cc.evaluate(adata, "mean_shift_ridge", values="log", hold_out="P5", features=features, **QUICK)
        assert value(told, "mean_shift_ridge", "mse", "status") == "ok"
        errors[alike] = value(told, "mean_shift_ridge", "mse")
    assert errors[0] < 0.2 * errors[3]


def test_without_features_targets_are_described_by_what_they_vary_with() -> None:
    adata = cc.simulate.screen(n_genes=20, n_control=60, cells_per_perturbation=15, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = cc.evaluate(adata, "mean_shift_ridge", test_share=0.3, **QUICK)
        few = cc.evaluate(adata, "mean_shift_ridge", test_share=0.3, genes=8, drop_targets=False, **QUICK)
    assert value(table, "mean_shift_ridge", "mse", "status") == "ok"
    assert table.attrs["n_genes"] == 20 - len(table.attrs["perturbations"]) and few.attrs["n_genes"] == 8


def test_doses_above_the_lowest_are_held_out() -> None:
    adata = dose_screen()
    table = cc.evaluate(
        adata, split="dose", values="log", perturbation_key="drug", control="control", targets={}, dose_key="dose",
        test_share=0.5, methods=["mean_shift_ridge", "observational"], **QUICK,
    )  # fmt: skip
    held = table.attrs["held_out"]
    assert len(held) == 3 and not {"A@1", "B@1"} & set(held)
    assert value(table, "next_lower_dose", "pearson_control") > 0.9
    assert value(table, "mean_shift_ridge", "mse") < value(table, "observational", "mse")
    named = cc.evaluate(
        adata, "next_lower_dose", split="dose", values="log", perturbation_key="drug", control="control", targets={},
        dose_key="dose", hold_out="A@8", **QUICK,
    )  # fmt: skip
    here = np.asarray(adata.X)[((adata.obs["drug"] == "A") & (adata.obs["dose"] == 8)).to_numpy()].astype(float)
    lower = np.asarray(adata.X)[((adata.obs["drug"] == "A") & (adata.obs["dose"] == 4)).to_numpy()].astype(float)
    expected = float(((here.mean(0) - lower.mean(0)) ** 2).mean())
    assert value(named, "next_lower_dose", "mse") == pytest.approx(expected, rel=1e-5)


def test_groups_are_brought_to_the_level_of_the_one_held_out() -> None:
    adata = additive_screen()
    group = np.where(np.arange(adata.n_obs) % 2, "late", "early")
    adata.obs["day"] = group
    adata.X = adata.X + np.where(group == "late", 2.0, 0.0)[:, None].astype(np.float32) * np.linspace(0, 1, 20)
    seen = {}

    def look(train: ad.AnnData, labels: list[str]) -> dict[str, np.ndarray]:
        seen["obs"], seen["x"] = train.obs.copy(), np.asarray(train.X)
        return {label: np.asarray(train.X) for label in labels}

    table = cc.evaluate(
        adata, ["elsewhere", look], split="group", groupby="day", hold_out="late", values="log", **QUICK
    )
    obs = seen["obs"]
    assert set(obs.loc[obs["group"] == "late", "perturbation"]) == {"control"}
    means = [seen["x"][(obs["control"] & (obs["group"] == g)).to_numpy()].mean(0) for g in ("early", "late")]
    np.testing.assert_allclose(*means, atol=1e-4)
    assert value(table, "elsewhere", "pearson_control") > 0.95
    assert value(table, "elsewhere", "mse", "gain") == 0
    assert value(table, "perturbed_mean", "mse", "gain_high") < 0


def a_screen(labels: list[tuple[str, tuple[int, ...]]], n: int = 12) -> Screen:
    gen = np.random.default_rng(0)
    conditions = tuple(Condition(name, name, parts_of(name, "+"), targets) for name, targets in labels)
    codes = np.repeat(np.arange(len(labels) + 1), [40, *[n] * len(labels)])
    values = gen.normal(size=(len(codes), 15)).astype(np.float32)
    return Screen(
        values, codes, np.full(len(codes), "", dtype=object), np.zeros(len(codes), dtype=np.int64), conditions,
        tuple(f"g{i}" for i in range(15)), np.array([f"c{i}" for i in range(len(codes))]), "control", "+",
    )  # fmt: skip


def test_guides_of_one_gene_stay_together() -> None:
    screen = a_screen([(f"g{i // 2}-{i % 2}", (i // 2,)) for i in range(12)])
    for seed in range(5):
        split = _splits.make_split(screen, "perturbation", None, 0.4, np.random.default_rng(seed))
        genes = {screen.conditions[c].targets for c in split.asked}
        train = {screen.conditions[c - 1].targets for c in screen.codes[split.train] if c}
        assert genes and not genes & train and len(split.asked) == 2 * len(genes)
        assert not (split.train & split.test).any()


def test_clusters_are_those_of_split_perturbations() -> None:
    screen = a_screen([(f"p{i}", (i,)) for i in range(9)])
    split = _splits.make_split(screen, "cluster", None, None, np.random.default_rng(5))
    gen = np.random.default_rng(5)
    _splits._share_controls(screen, gen)
    control = screen.values[screen.codes == 0].mean(0, dtype=np.float64)
    effects = np.stack([screen.values[screen.codes == c].mean(0, dtype=np.float64) - control for c in range(1, 10)])
    test = split_perturbations([(i,) for i in range(9)], effects, rng=gen)
    assert list(split.asked) == np.flatnonzero(test).tolist()


def test_few_controls_serve_both_sides_and_it_is_said() -> None:
    screen = a_screen([("a", ()), ("b", ())])
    kept = ("values", "codes", "groups", "batches", "cells")
    few = Screen(**{k: v[30:] if k in kept else v for k, v in vars(screen).items()})
    split = _splits.make_split(few, "perturbation", ["a"], None, np.random.default_rng(0))
    assert "serve both sides" in split.note and (split.train & split.test).sum() == 10


# --- leaks ----------------------------------------------------------------------------------------------------------


def test_leaks_are_found() -> None:
    screen = a_screen([("TP53", (0,)), ("tp-53", ()), ("MYC", (1,)), ("MYC guide", (1,)), ("other", (2,))])
    values = screen.values.copy()
    values[screen.codes == 5] += 3 * np.linspace(-1, 1, 15)  # "other" does what TP53 does
    values[screen.codes == 1] += 3 * np.linspace(-1, 1, 15)
    twin = np.flatnonzero(screen.codes == 1)[0], np.flatnonzero(screen.codes == 4)[0]
    values[twin[1]] = values[twin[0]]
    screen = Screen(**{**vars(screen), "values": values})
    train = (screen.codes != 1) & (screen.codes != 3) & ~((screen.codes == 0) & (np.arange(len(values)) % 2 == 0))
    test = ~train
    leaks = _leaks.find_leaks(screen, _splits.Split("perturbation", train, test, (0, 2)), 0.9)
    assert leaks["aliases"] == ["TP53 ~ tp-53"]
    assert leaks["genes"] == ["MYC ~ MYC guide"]
    assert leaks["cells"] == [str(screen.cells[twin[0]])]
    assert len(leaks["similar"]) == 1 and leaks["similar"][0].startswith("TP53 ~ other (r = 0.9")
    with pytest.warns(UserWarning, match="Possible leakage.*MYC guide"):
        _leaks.warn_of(leaks)


def test_the_call_warns_of_near_duplicates() -> None:
    adata = additive_screen()
    labels = adata.obs["pert"].astype(str).to_numpy()
    adata.X[labels == "P3"] = adata.X[labels == "P2"] + np.float32(0.001)
    with pytest.warns(UserWarning, match="P2 ~ P3|P3 ~ P2"):
        cc.evaluate(adata, "observational", values="log", hold_out="P2", **QUICK)


# --- scores and table -----------------------------------------------------------------------------------------------


def test_changed_genes_are_those_of_a_rank_sum_test() -> None:
    gen = np.random.default_rng(0)
    control, cells = gen.normal(size=(40, 12)), gen.normal(size=(30, 12)) + np.arange(12) / 6
    kept = np.asfortranarray(cells.copy())
    change, differs = _scores.changed(kept, control)
    np.testing.assert_array_equal(kept, cells)  # whatever the order in memory
    p = np.array([ranksums(cells[:, g], control[:, g]).pvalue for g in range(12)])
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((p[order] * 12 / np.arange(1, 13))[::-1])[::-1]
    expected = np.zeros(12, bool)
    expected[order[adjusted < 0.05]] = True
    np.testing.assert_array_equal(differs, expected)
    np.testing.assert_allclose(change, cells.mean(0) - control.mean(0))


def test_overlap_of_changed_genes() -> None:
    guess = np.array([5.0, -4, 3, 2, 1])
    yes, differs = np.ones(5, bool), np.array([True, True, False, False, True])
    assert _scores.de_overlap(guess, yes, differs) == pytest.approx(2 / 3)  # of 0, 1, 2 two are right
    assert _scores.de_overlap(guess, np.array([0, 0, 0, 0, 1], bool), differs) == pytest.approx(1 / 3)
    assert np.isnan(_scores.de_overlap(guess, yes, np.zeros(5, bool)))


def test_overlap_and_discrimination_are_those_of_cell_eval2() -> None:
    de = pytest.importorskip("cell_eval2.metrics.de")
    pl = pytest.importorskip("polars")
    discrimination = pytest.importorskip("cell_eval2.metrics.discrimination")
    gen = np.random.default_rng(1)
    names = [f"p{i}" for i in range(6)]
    guess, true = gen.normal(size=(6, 30)), gen.normal(size=(6, 30))
    guess[:3] = 0.5 * guess[:3] + true[:3]
    p = gen.uniform(0, 0.12, size=(2, 6, 30))
    frames = [
        pl.DataFrame({
            "target": np.repeat(names, 30), "feature": np.tile([f"g{i}" for i in range(30)], 6),
            "log2_fold_change": x.ravel(), "abs_log2_fold_change": np.abs(x).ravel(), "p_value": q.ravel(), "p_adj": q.ravel(),
        })
        for x, q in zip((guess, true), p, strict=True)
    ]  # fmt: skip
    theirs = de.de_overlap(de_pred=frames[0], de_real=frames[1], k=None, control="control")
    for i, name in enumerate(names):
        assert _scores.de_overlap(guess[i], p[0, i] < 0.05, p[1, i] < 0.05) == pytest.approx(theirs[name]), name
    bulk = [(np.array(["control", *names]), np.vstack([np.zeros(30), x])) for x in (guess, true)]
    for ours, distance in (("cityblock", "l1"), ("cosine", "cosine")):
        scores = discrimination.discrimination_score(
            pred_bulk=bulk[0], real_bulk=bulk[1], control="control", distance=distance, rank_denominator="n-1",
            exclude_target_gene=False,
        )  # fmt: skip
        mine = metrics.perturbation_discrimination(guess, true, distance=ours)  # type: ignore[arg-type]
        np.testing.assert_allclose(mine, [scores[n] for n in names])


def test_targeted_genes_are_not_scored() -> None:
    some = a_screen([("a", (3,)), ("b", (4,)), ("c", (5,))])
    split = _splits.make_split(some, "perturbation", ["a", "b"], None, np.random.default_rng(0))
    truth = _scores.truth_of(some, split, some.values[split.train], drop_targets=True)
    assert list(truth.genes) == [g for g in range(15) if g not in (3, 4)]
    assert len(_scores.truth_of(some, split, some.values[split.train], drop_targets=False).genes) == 15


def test_intervals_and_gains_are_of_the_perturbations() -> None:
    base, mine = np.array([0.1, 0.2, 0.3, np.nan]), np.array([0.4, 0.6, 0.5, 0.9])
    table = _table.make_table(
        [_table.Outcome("base", "baseline", {"r": base, "e": base}), _table.Outcome("mine", "model", {"r": mine, "e": mine})],
        {"r": np.ones(4), "e": np.zeros(4)}, {"r": True, "e": False}, "base", task="t", split="s", n_boot=500,
        rng=np.random.default_rng(0),
    ).set_index(["method", "metric"])  # fmt: skip
    up, down = table.loc[("mine", "r")], table.loc[("mine", "e")]
    assert up["value"] == pytest.approx(0.6) and up["n"] == 4
    assert up["baseline"] == pytest.approx(0.2) and up["gain"] == pytest.approx(0.3)
    assert up["scaled"] == pytest.approx((0.6 - 0.2) / (1 - 0.2))
    assert down["gain"] == pytest.approx(-0.3) and down["gain_high"] < 0
    assert 0.4 <= up["low"] < 0.6 < up["high"] <= 0.9
    assert table.loc[("base", "r"), "status"] == "ok for 3 of 4" and table.loc[("base", "r"), "n"] == 3
    assert table.loc[("base", "r"), "scaled"] == 0


# --- targets and causes ---------------------------------------------------------------------------------------------


def test_targets_are_found_by_their_own_change_unless_it_is_hidden(screen: ad.AnnData) -> None:
    names = [f"G{g:02d}" for g in range(12)]
    labels = screen.obs["pert"].astype(str)
    more = doubled(screen)
    assert set(labels) >= set(names)
    seen = cc.evaluate(more, task="targets", split="seen", **QUICK)
    hidden = cc.evaluate(more, task="targets", **QUICK)
    assert value(seen, "lfc", "recall@1") > 0.9 and value(seen, "popularity", "recall@1") < 0.3
    assert value(hidden, "lfc", "recall@1") < 0.3
    assert value(hidden, "lfc", "ap", "ceiling") > value(hidden, "lfc", "ap")
    assert set(hidden["split"]) == {"hidden"} and hidden.attrs["held_out"] == names
    some = cc.evaluate(more, "rank_sum", task="targets", split="seen", hold_out=["G03"], **QUICK)
    assert value(some, "rank_sum", "rank", "n") == 1 and value(some, "rank_sum", "recall@5") == 1


def test_targets_by_weights(screen: ad.AnnData, tiny_target_weights: Any) -> None:
    more = doubled(screen)
    table = cc.evaluate(
        more, {"net": (str(tiny_target_weights), {"n_draws": 1}), "fused": (str(tiny_target_weights), {"fused": True})},
        task="targets", split="gene", hold_out=["G00", "G03"], **QUICK,
    )  # fmt: skip
    assert value(table, "net", "ap", "status").startswith("ok, if these weights learnt from other screens")
    assert 0 < value(table, "net", "ap") <= 1
    assert value(table, "net", "ap", "kind") == "model"
    assert value(table, "fused", "rank") != value(table, "net", "rank")
    assert table.attrs["baseline"] == "popularity"


def test_weights_that_learnt_from_real_screens_are_told_of() -> None:
    for options, said in (({}, "ok"), ({"fused": True}, "k562_tapseq")):
        asked = _asked.Asked("w", "cdn-screens", "model", options)
        assert said in _ranked.learnt_from(asked, pretrained.load("cdn-screens"))
    tuned = _ranked.learnt_from(_asked.Asked("w", "cdn-perturbseq", "model"), pretrained.load("cdn-perturbseq"))
    assert "hipsc_tf_ko" in tuned and "too good" in tuned


def test_causes_hide_the_knockout_that_is_asked_for(screen: ad.AnnData, tiny_weights: Any) -> None:
    more = doubled(screen)
    table = cc.evaluate(more, ["correlation", str(tiny_weights)], task="causes", hold_out=["G00", "G03"], **QUICK)
    name = tiny_weights.name
    assert set(table["method"]) == {"correlation", "knockout_t", name}
    assert (
        value(table, name, "column_auroc", "status").startswith("ok, if") and 0 < value(table, name, "column_auroc") < 1
    )
    assert value(table, "correlation", "column_auroc") > 0.7  # G00 drives G01 and G02, G03 drives G04 and G05
    assert value(table, "correlation", "column_auroc", "ceiling") > 0.85


def test_a_hidden_knockout_tells_nothing(screen: ad.AnnData) -> None:
    """Other cells in its place change the truth, and no ranking."""
    other = doubled(screen)
    mine = (other.obs["pert"] == "G00").to_numpy()
    other.X[mine] = other.X[mine][:, np.random.default_rng(0).permutation(other.n_vars)]
    found = []
    for adata in (doubled(screen), other):
        rng = np.random.default_rng(0)
        plan = _plan.Plan(**dict.fromkeys(_plan.Plan.__dataclass_fields__))  # type: ignore[arg-type]
        plan.rng, plan.max_cells, plan.n_repeats, plan.regimes_key = rng, 100, 1, "regimes"
        (hidden,) = _causes._hide(adata, read_screen(adata), [0], plan)
        found.append((hidden.differs, *(_causes._simple(name, hidden) for name in ("knockout_t", "correlation"))))
    assert not np.array_equal(found[0][0], found[1][0])
    for before, after in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_array_equal(before, after)


# --- bad arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"task": "effect"}, ValueError, "task must be one of"),
        ({"split": "doubles"}, ValueError, "split must be one of"),
        ({"methods": "aditive"}, ValueError, "Close to 'aditive': 'additive'"),
        ({"methods": []}, ValueError, "methods is empty"),
        ({"methods": ["additive", "additive"]}, ValueError, "come twice"),
        ({"split": "dose"}, ValueError, "needs dose_key"),
        ({"groupby": "pert"}, ValueError, "needs groupby"),
        ({"hold_out": "P9"}, KeyError, "P9"),
        ({"hold_out": "P0+P1"}, ValueError, "cannot be held out"),
        ({"hold_out": []}, ValueError, "hold_out must be"),
        ({"test_share": 0}, ValueError, "test_share"),
        ({"baseline": "additive"}, ValueError, "baseline must be one of"),
        ({"genes": ["G00", "G99"]}, KeyError, "G99"),
        ({"genes": 1}, ValueError, "genes"),
        ({"similar": 2}, ValueError, "similar"),
        ({"max_cells": 3}, ValueError, "max_cells"),
        ({"features": [1]}, ValueError, "features must be a DataFrame"),
        ({"values": "counts"}, ValueError, "raw counts are needed"),
        ({"task": "targets"}, ValueError, "task='targets' needs two perturbations"),
        ({"task": "causes"}, ValueError, "task='causes' needs two measured genes"),
        ({"task": "causes", "genes": 5}, ValueError, "no use for genes="),
        ({"task": "targets", "methods": "tcd-grn-umi"}, ValueError, "are of TCD"),
    ],
)
def test_bad_arguments_raise(how: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cc.evaluate(additive_screen(), **{"values": "log", **QUICK, **how})


def test_labels_that_are_not_there() -> None:
    adata = additive_screen()
    del adata.uns["regimes"]
    with pytest.raises(ValueError, match="Pass perturbation_key"):
        cc.evaluate(adata, values="log", **QUICK)
    with pytest.raises(ValueError, match="No cell has the control label"):
        cc.evaluate(adata, values="log", perturbation_key="pert", control="ctrl", **QUICK)


def test_every_listed_baseline_exists() -> None:
    names = {b for several in _methods.BASELINES.values() for b in several} - {"elsewhere"}
    assert names <= set(effect_baselines.__all__)
