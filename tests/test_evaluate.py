from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import ranksums

import causcade as cc
from causcade import citests, effect_baselines, metrics, pretrained
from causcade.evaluation import _asked, _causes, _leaks, _methods, _plan, _ranked, _scores, _splits, _table, _vcc
from causcade.evaluation._screen import Condition, Screen
from causcade.regimes.labels import split_label
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
    few = table["metric"] == "vcc_de_error"  # six of 20 genes differ
    assert (table.loc[~few, "status"] == "ok").all()
    assert table.loc[few, "status"].str.startswith("not defined here: fewer than ten genes truly differ").all()
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
    assert value(table, "mine", "discrimination", "status") == "not defined here: it needs two held-out perturbations"
    assert np.isnan(value(table, "mine", "mse", "low"))  # one perturbation has no interval
    assert value(table, "mine", "mse", "kind") == "model"


@pytest.mark.parametrize(("sep", "name"), [("_", "P0"), ("+", "HLA+A")])
def test_parts_are_found_by_the_screens_own_separator(sep: str, name: str) -> None:
    """In another order, and where the name of a gene holds the separator."""
    adata = additive_screen()
    labels = [str(x).replace("+", sep).replace("P0", name) for x in adata.obs["pert"]]
    new = ad.AnnData(adata.X, obs=pd.DataFrame({"pert": labels}, index=adata.obs_names), var=adata.var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cc.pp.regimes(new, "pert", "control", sep=sep, targets={name: name})
    how = {"split": "combination", "values": "log", "hold_out": f"P1{sep}{name}" if sep == "_" else f"{name}{sep}P1"}
    table = cc.evaluate(new, "additive", **how, **QUICK)
    assert table.attrs["held_out"] == [f"{name}{sep}P1"]
    assert value(table, "additive", "pearson_control") > 0.97


def test_a_summary_is_refused() -> None:
    adata = additive_screen()
    adata.X = np.rint(10 * np.asarray(adata.X)).astype(np.float32)
    small = cc.pp.summarise(adata, max_cells=10, max_controls=30, progress_bar=False)
    with pytest.raises(ValueError, match="sums are of all cells"):
        cc.evaluate(small, "observational", **QUICK)
    complete = cc.pp.summarise(adata, progress_bar=False)
    pd.testing.assert_frame_equal(
        cc.evaluate(complete, "observational", **QUICK), cc.evaluate(adata, "observational", **QUICK)
    )
    del small.uns["summary"]
    assert len(cc.evaluate(small, "observational", **QUICK))


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
    assert value(table, "partly", "discrimination", "n") == 3
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


def test_doses_are_told_apart_however_they_are_written() -> None:
    adata = dose_screen()
    how: dict[str, Any] = {
        "perturbation_key": "drug",
        "control": "control",
        "targets": {},
        "values": "log",
        "split": "dose",
    }
    for told in ("A@4", "A@4.0", " A @ 4e0"):
        table = cc.evaluate(adata, "observational", dose_key="dose", hold_out=told, **how, **QUICK)
        assert table.attrs["held_out"] == ["A@4"]
    with pytest.raises(KeyError, match="A@5"):
        cc.evaluate(adata, "observational", dose_key="dose", hold_out="A@5", **how, **QUICK)
    adata.obs["near"] = 1e6 + adata.obs["dose"]
    table = cc.evaluate(adata, "observational", dose_key="near", test_share=1, **how, **QUICK)
    assert len(set(table.attrs["held_out"])) == 6 and "A@1000002.0" in table.attrs["held_out"]


def test_groups_may_be_numbers() -> None:
    adata = additive_screen()
    adata.obs["day"] = np.tile([1.0, 2.0], adata.n_obs // 2)
    table = cc.evaluate(adata, "observational", split="group", groupby="day", hold_out=[2.0], values="log", **QUICK)
    assert table.attrs["held_out"] == ["2"]


def test_a_function_may_return_sparse_cells_and_is_told_targets_of_parts() -> None:
    adata, seen = additive_screen(), {}
    labels = adata.obs["pert"].astype(str).replace({"P0": "G00", "P0+P1": "G00+G12", "P4": "G14", "P1+P4": "G14+P1"})
    adata.obs["pert"] = labels
    cc.pp.regimes(adata, "pert", "control")

    def mean(train: ad.AnnData, asked: list[str]) -> dict[str, Any]:
        seen["table"] = train.uns["regimes"]["table"].set_index("name")
        return {label: sparse.csr_matrix(train.X) for label in asked}

    table = cc.evaluate(adata, {"mine": mean}, hold_out="P2", values="log", **QUICK)
    assert value(table, "mine", "mse", "status") == "ok"
    assert seen["table"].loc["G00+G12", "targets"] == "G00+G12"  # G12 was not perturbed alone


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
    conditions = tuple(Condition(name, name, split_label(name, "+"), targets) for name, targets in labels)
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


def test_cells_with_a_count_here_and_there_are_no_copies() -> None:
    screen = a_screen([("a", ()), ("b", ())])
    values = np.zeros((64, 15), dtype=np.float32)
    values[:, 0] = 1  # all the same, as cells of few counts are
    values[[40, 52]] = np.linspace(0.1, 2, 15)  # one of a and one of b
    screen = Screen(**{**vars(screen), "values": values})
    split = _splits.make_split(screen, "perturbation", ["a"], None, np.random.default_rng(0))
    assert _leaks.find_leaks(screen, split, 1.0)["cells"] == ["c40"]


def test_the_call_warns_of_controls_that_serve_both_sides() -> None:
    adata = additive_screen()[70:].copy()
    with pytest.warns(UserWarning, match="Possible leakage. Only 10 controls, which serve both sides"):
        table = cc.evaluate(adata, "observational", values="log", hold_out="P2", **QUICK)
    assert "only 10 controls" in table.attrs["note"]


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
    change, differs = _vcc.changed(kept, control)
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
    assert _vcc.de_overlap(guess, yes, differs) == pytest.approx(2 / 3)  # of 0, 1, 2 two are right
    assert _vcc.de_overlap(guess, np.array([0, 0, 0, 0, 1], bool), differs) == pytest.approx(1 / 3)
    assert np.isnan(_vcc.de_overlap(guess, yes, np.zeros(5, bool)))


def test_genes_called_directions_and_errors_by_hand() -> None:
    called, differs = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    guess, change = np.array([2.0, 1, 0, 0, -1]), np.array([1.0, 0, 3, 0, 2])
    assert _vcc.de_jaccard(called, differs) == pytest.approx(2 / 4)
    assert _vcc.de_jaccard(np.zeros(5, bool), np.zeros(5, bool)) == 1
    assert _vcc.de_direction(guess, called, change, differs) == pytest.approx(1 / 3)  # 1 of 2 called, of 3 that differ
    assert np.isnan(_vcc.de_direction(guess, np.zeros(5, bool), change, np.zeros(5, bool)))
    ten, more = np.ones(10, bool), np.arange(1.0, 11)
    assert _vcc.change_error(np.zeros(10), more, ten) == 1
    assert _vcc.change_error(more + 1, more, ten) == pytest.approx(10 / more.sum())
    assert np.isnan(_vcc.change_error(more, more, ten & (more > 1)))


#: Of cell-eval2 0.20.0, for what `drawn_changes` draws; the last three are (value, baseline, replicate) and scaled.
CELL_EVAL2 = {
    "vcc_de_overlap": [0.400000, 0.538462, 0.363636, 0.272727, 0.000000, 0.500000],
    "vcc_de_jaccard": [0.272727, 0.350000, 0.388889, 0.157895, 0.000000, 0.222222],
    "vcc_de_direction": [0.800000, 0.928571, 0.785714, 0.636364, 0.000000, 0.428571],
    "vcc_de_error": [0.196529, 0.595489, 0.682787, 0.990292, 2.630488, np.nan],
    "vcc_mae": [0.301145, 0.356113, 0.325204, 0.955755, 1.167995, 0.929292],
    "vcc_discrimination": [1.000000, 1.000000, 1.000000, 0.200000, 0.000000, 1.000000],
    "discrimination": [1.000000, 1.000000, 1.000000, 0.000000, 0.000000, 1.000000],
    "scaled": [0.500000, -0.250000, 1.200000],
}
TRIPLES = ((0.5, 0.4, 0.6, True), (0.35, 0.4, 0.6, True), (0.1, 0.7, 0.2, False))


def drawn_changes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and true changes of 30 genes by six perturbations, and p values of both."""
    gen = np.random.default_rng(1)
    guess, true = gen.normal(size=(6, 30)), gen.normal(size=(6, 30))
    guess[:3] = 0.5 * guess[:3] + true[:3]
    p = gen.uniform(0, 0.12, size=(2, 6, 30))
    p[1, 5, 8:] += 0.05  # few genes differ
    p[0, 4] += 0.05  # none is called
    return guess, true, p


def check_cell_eval2(theirs: dict[str, Any]) -> None:
    guess, true, p = drawn_changes()
    called = p < 0.05
    rows = [_vcc.de_scores(g, c, t, d) for g, c, t, d in zip(guess, called[0], true, called[1], strict=True)]
    for name in rows[0]:
        np.testing.assert_allclose([r[name] for r in rows], theirs[name], atol=1e-6, err_msg=name)
    for name, distance in _scores._DISTANCES.items():
        mine = metrics.perturbation_discrimination(guess, true, distance=distance)
        np.testing.assert_allclose(mine, theirs[name], atol=1e-6, err_msg=name)
    cells = tuple(np.stack([x, x]) for x in true)  # two cells each, controls of zeros
    labels, zero = tuple("abcdef"), np.zeros((2, 30))
    truth = _scores.Truth(np.arange(30), zero, zero, np.zeros(30), labels, cells)
    made = {k: np.stack([x, x]) for k, x in zip(labels, guess, strict=True)}
    whole = _scores.score(truth, made, np.random.default_rng(0))
    for name in ("vcc_mae", "vcc_discrimination", "discrimination"):
        np.testing.assert_allclose(whole[name], theirs[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose([_table._scaled(u, b, r, up=up) for u, b, r, up in TRIPLES], theirs["scaled"], atol=1e-6)


def test_scores_are_those_stored_of_cell_eval2() -> None:
    check_cell_eval2(CELL_EVAL2)


def test_scores_are_those_of_the_cell_eval2_that_is_installed() -> None:
    de = pytest.importorskip("cell_eval2.metrics.de")
    pl = pytest.importorskip("polars")
    prepare, delta, direction, scoring = (
        pytest.importorskip(f"cell_eval2.{name}") for name in ("de", "metrics.delta", "metrics.direction", "scoring")
    )
    discrimination = pytest.importorskip("cell_eval2.metrics.discrimination").discrimination_score
    guess, true, p = drawn_changes()
    names = [f"p{i}" for i in range(6)]
    frames = [
        pl.DataFrame({
            "target": np.repeat(names, 30), "feature": np.tile([f"g{i}" for i in range(30)], 6),
            "log2_fold_change": x.ravel(), "abs_log2_fold_change": np.abs(x).ravel(), "p_value": q.ravel(), "p_adj": q.ravel(),
        })
        for x, q in zip((guess, true), p, strict=True)
    ]  # fmt: skip
    none = prepare.resolve_target_genes(frames[1], names, target_gene_map={"*": None})
    both = prepare.prepare_de(*frames, control="control", target_resolution=none)
    bulk = [(np.array(["control", *names]), np.vstack([np.zeros(30), x])) for x in (guess, true)]
    sides: dict[str, Any] = {"pred_bulk": bulk[0], "real_bulk": bulk[1], "control": "control"}
    place = {"rank_denominator": "n-1", "exclude_target_gene": False}
    found = {
        "vcc_de_overlap": de.de_overlap(both, k=None),
        "vcc_de_jaccard": de.de_sig_jaccard(both),
        "vcc_de_direction": direction.de_direction_fidelity_yield_raw(both),
        "vcc_de_error": de.de_lfc_nmae(both),
        "vcc_mae": delta.mae(**sides),
        "vcc_discrimination": discrimination(distance="l1", **sides, **place),
        "discrimination": discrimination(distance="cosine", **sides, **place),
    }
    theirs = {name: [by.get(n, np.nan) for n in names] for name, by in found.items()}
    how = lambda r, up: scoring.Scoring(
        scored=True, direction="higher" if up else "lower", anchor=r, penalty="none", clamp_low=-9.0
    )
    check_cell_eval2(theirs | {"scaled": [scoring.score_one(u, b, how(r, up)) for u, b, r, up in TRIPLES]})


def test_the_score_of_the_challenge_is_the_mean_of_its_parts_scaled() -> None:
    table = cc.evaluate(
        additive_screen(0.8), ["stronger_single"], split="combination", values="log", baseline="perturbed_mean", **QUICK
    )
    parts = [value(table, "stronger_single", part, "scaled") for part in _vcc.VCC]
    assert value(table, "stronger_single", "vcc") == pytest.approx(np.mean(parts))
    assert 0 < value(table, "stronger_single", "vcc") < 1


def test_places_are_among_all_true_effects_whoever_is_left_out() -> None:
    gen = np.random.default_rng(4)
    labels, cells = tuple("abcdef"), tuple(gen.normal(size=(6, 12, 15)))
    truth = _scores.Truth(np.arange(15), np.zeros((4, 15)), np.zeros((4, 15)), np.zeros(15), labels, cells)
    made = {k: 0.2 * y + gen.normal(size=y.shape) for k, y in zip(labels, cells, strict=True)}
    whole = _scores.score(truth, made, gen)
    some = _scores.score(truth, {k: made[k] for k in "bd"}, gen)
    for name in ("discrimination", "vcc_discrimination"):
        assert np.isnan(some[name][[0, 2, 4, 5]]).all()
        np.testing.assert_array_equal(some[name][[1, 3]], whole[name][[1, 3]])


def test_the_replicate_has_controls_of_its_own() -> None:
    """Nothing differs, and the noise of a few shared controls would make both halves of the cells alike."""
    gen = np.random.default_rng(5)
    labels, cells = tuple("abcdefgh"), tuple(gen.normal(size=(8, 200, 40)))
    control, other = gen.normal(size=(2, 10, 40))
    truth = _scores.Truth(np.arange(40), control, other, np.zeros(40), labels, cells)
    assert abs(_scores.replicate(truth, 3, gen)["pearson_control"].mean()) < 0.25


def test_the_controls_of_a_batch_are_not_on_both_sides() -> None:
    """Perturbations that do nothing, each in one of six batches: the level of a batch is no effect that repeats."""
    gen = np.random.default_rng(0)
    rows = [("control", b) for b in range(6) for _ in range(20)]
    rows += [(f"P{p:02d}", p % 6) for p in range(12) for _ in range(40)]
    obs = pd.DataFrame(rows, columns=["pert", "plate"], index=[f"c{i}" for i in range(len(rows))]).astype(str)
    plates = gen.normal(3, 0.5, (6, 60))[[b for _, b in rows]]
    values = np.abs(plates + gen.normal(0, 0.5, plates.shape))
    adata = ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"G{i:02d}" for i in range(60)]))
    how: dict[str, Any] = {
        "perturbation_key": "pert",
        "control": "control",
        "targets": {},
        "values": "log",
        "test_share": 0.5,
    }
    for key in ("plate", None):
        table = cc.evaluate(adata, "observational", batch_key=key, similar=1.0, **how, **QUICK)
        repeats = value(table, "observational", "pearson_control", "ceiling") > 0.25
        places = value(table, "observational", "discrimination", "ceiling") > 0.75
        assert repeats == places == (key is None)  # plates that are not named do repeat


def test_held_out_cells_do_not_choose_the_genes() -> None:
    seen = []
    look = lambda train, labels: (seen.append(list(train.var_names)), {x: np.asarray(train.X) for x in labels})[1]
    cc.evaluate(additive_screen(), {"look": look}, values="log", hold_out="P0", genes=15, **QUICK)
    assert seen == [GENES[3:18]]  # P0 alone moves the first three, and nothing the last two


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
    assert up["scaled"] == pytest.approx((0.5 - 0.2) / (1 - 0.2))  # of the three that the baseline has, too
    assert down["gain"] == pytest.approx(-0.3) and down["gain_high"] < 0
    assert 0.4 <= up["low"] < 0.6 < up["high"] <= 0.9
    assert table.loc[("base", "r"), "status"] == "ok for 3 of 4" and table.loc[("base", "r"), "n"] == 3
    assert table.loc[("base", "r"), "scaled"] == 0


def test_a_replicate_without_all_numbers_scales_what_it_has() -> None:
    base, mine, top = np.array([0.1, 0.1, 0.5]), np.array([0.2, 0.2, 0.9]), np.array([0.3, 0.3, np.nan])
    outcomes = [_table.Outcome("base", "baseline", {"r": base}), _table.Outcome("mine", "model", {"r": mine})]
    how: dict[str, Any] = {"task": "t", "split": "s", "n_boot": 50, "rng": np.random.default_rng(0)}
    table = _table.make_table(outcomes, {"r": top}, {"r": True}, "base", **how)
    assert table["scaled"].tolist() == pytest.approx([0, 0.5])


def test_nothing_is_scaled_by_a_difference_that_may_be_noise() -> None:
    base, top = np.full(6, 0.4), np.array([0.9, 0.2, 0.7, 0.1, 0.6, 0.1])
    how: dict[str, Any] = {"task": "t", "split": "s", "n_boot": 300, "rng": np.random.default_rng(0)}
    outcomes = [_table.Outcome("base", "baseline", {"r": base}), _table.Outcome("mine", "model", {"r": base + 0.1})]
    unclear = _table.make_table(outcomes, {"r": top}, {"r": True}, "base", **how)
    assert top.mean() > 0.4 and unclear["scaled"].isna().all()
    clear = _table.make_table(outcomes, {"r": top + 0.4}, {"r": True}, "base", **how)
    assert clear["scaled"].tolist() == pytest.approx([0, 0.1 / (top.mean() + 0.4 - 0.4)])
    both = _table.Combined("all", ("r",), {"r": True}, "base")
    status = _table.make_table(outcomes, {"r": top}, {"r": True}, "base", combined=both, **how)["status"]
    assert status.tolist()[1] == "not defined here: a replicate is not clearly better than base in r"


def test_the_status_says_why_numbers_are_missing() -> None:
    found = [_table.Outcome("a", "baseline", {"r": np.array([np.nan, 1]), "e": np.full(2, np.nan)})]
    how: dict[str, Any] = {"task": "t", "split": "s", "n_boot": 9, "rng": np.random.default_rng(0)}
    table = _table.make_table(found, {}, {"r": True, "e": False}, "a", why={"r": "too cold", "e": "too hot"}, **how)
    assert table["status"].tolist() == ["ok for 1 of 2; else not defined: too cold", "not defined here: too hot"]


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


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local graphs in plain Python, which gives the same (test_citests.py): compiling costs more than all else here."""
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "numba", None)
        for name in [name for name in sys.modules if name.startswith("causcade.citests")]:
            m.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location("causcade.citests", Path(str(citests.__file__)))
        assert spec is not None and spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        m.setitem(sys.modules, "causcade.citests", plain)
        spec.loader.exec_module(plain)
    monkeypatch.setattr("causcade.set_inputs.local_graphs", plain.local_graphs)


@pytest.mark.usefixtures("uncompiled")
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


def test_causes_are_composed_as_asked(screen: ad.AnnData, tiny_weights: Any) -> None:
    more, asked = doubled(screen), {"hold_out": ["G00"], **QUICK}
    ways = (("no", False), ("plain", "plain"), ("learned", True))
    methods = {name: ("tcd-grn-umi", {"compose": way}) for name, way in ways} | {"default": "tcd-grn-umi"}
    methods |= {f"unlearned {name}": (str(tiny_weights), {"compose": way}) for name, way in ways}
    table = cc.evaluate(more, methods, task="causes", **asked)
    scores = {name: value(table, name, "column_auroc") for name in methods}
    assert len({scores[name] for name, _ in ways}) == 3
    assert scores["default"] == scores["learned"]
    assert scores["unlearned no"] == scores["unlearned learned"] != scores["unlearned plain"]
    with pytest.raises(ValueError, match="compose must be True, False or 'plain', not 'sum'"):
        cc.evaluate(more, {"net": (str(tiny_weights), {"compose": "sum"})}, task="causes", **asked)


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
        ({"test_share": "half"}, ValueError, "test_share must be a number"),
        ({"test_share": True}, ValueError, "test_share must be a number"),
        ({"test_share": 2, "task": "targets", "split": "gene"}, ValueError, "test_share must be a number"),
        ({"test_share": 0.5, "task": "targets"}, ValueError, "no use for test_share="),
        ({"test_share": 0.5, "task": "causes"}, ValueError, "no use for test_share="),
        ({"targets": {"P0": "G00"}}, ValueError, "targets= goes with perturbation_key="),
        ({"methods": {"perturbed_mean": lambda train, labels: {}}}, ValueError, "is the name of a baseline"),
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
