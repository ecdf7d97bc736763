"""The GIM model: set-up with doses and features, training that goes on, answers, files."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from causcade import gimfit, models
from causcade.effect_baselines import mean_shift_ridge, next_lower_dose
from causcade.gimfit import GimTrainer, Interventions
from causcade.metrics import mean_distance
from causcade.models import GIM, _gim_features, _gim_training
from causcade.models._gim_answers import join
from causcade.models._gim_features import DoseScale

SMALL: dict[str, Any] = {"n_samples": 4, "n_acyclic": 4, "widths": (8,), "steps": 6, "check_every": 2, "log_every": 1}
QUICK: dict[str, Any] = {"progress_bar": False, "accelerator": "cpu"}
GENES = ["A", "B", "C", "D"]
DOSES = (0.1, 1.0, 10.0)


def drugs(*, scale: float = 1.0, n: int = 12, seed: int = 0, doses: Any = DOSES) -> ad.AnnData:
    """Drug x sets gene A, drug y sets gene C; A drives B. Log values, controls first."""
    rng = np.random.default_rng(seed)
    rows, labels, dose = [rng.normal(3, 0.3, (40, 4))], ["dmso"] * 40, [0.0] * 40
    for drug, gene in (("x", 0), ("y", 2)):
        for d in doses:
            cells = rng.normal(3, 0.3, (n, 4))
            cells[:, gene] -= np.log1p(d)
            rows.append(cells)
            labels += [drug] * n
            dose += [d * scale] * n
    x = np.maximum(np.concatenate(rows), 0)
    x[:, 1] = np.maximum(1 + 0.8 * x[:, 0] + rng.normal(0, 0.1, len(x)), 0)
    obs = pd.DataFrame({"drug": labels, "dose": dose}, index=[f"c{i}" for i in range(len(x))])
    return ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


SETUP: dict[str, Any] = {"perturbation_key": "drug", "control": "dmso", "dose_key": "dose", "values": "log"}


def new(adata: ad.AnnData | None = None, *, choices: dict[str, Any] | None = None, **setup: Any) -> GIM:
    adata = drugs() if adata is None else adata
    GIM.setup_anndata(adata, **(SETUP | setup))
    return GIM(adata, **(SMALL | (choices or {})))


@pytest.fixture(scope="module")
def trained() -> GIM:
    model = new()
    model.train(n_fits=2, **QUICK)
    return model


def table(adata: ad.AnnData, frame: Any) -> ad.AnnData:
    adata.uns["props"] = frame
    return adata


# --- set-up ---------------------------------------------------------------------------------------------------------


def test_treatments_are_perturbations_at_doses(trained: GIM) -> None:
    assert [(t.name, t.dose) for t in trained.treatments[1:]] == [(d, c) for d in "xy" for c in DOSES]
    data = trained.environments()
    assert np.bincount(data.codes).tolist() == [40] + [12] * 6
    np.testing.assert_array_equal(data.values, trained.adata.X)  # values="log" stay as they are


def test_unit_of_the_dose_does_not_matter(trained: GIM) -> None:
    other = new(drugs(scale=1e-6)).environments()
    np.testing.assert_allclose(other.features, trained.environments().features, atol=1e-6)


def test_doses_go_from_0_to_1_by_their_logarithm() -> None:
    scale = DoseScale.fit(np.array([0.0, 0.1, 10.0]))
    assert scale(0) == 0 and scale(10) == 1
    assert scale(0.1) == pytest.approx(np.log(2) / np.log(101)) and scale(1) == pytest.approx(np.log(11) / np.log(101))
    assert scale(100) > 1


def test_features_are_names_and_names_times_dose_standardised(trained: GIM) -> None:
    u = [trained.features.scale(d) for d in DOSES]  # type: ignore[misc]
    raw = np.array([[1, 0, a, 0] for a in u] + [[0, 1, 0, a] for a in u])
    expected = (raw - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(trained.environments().features[1:], expected, atol=1e-12)


def test_components_are_those_of_training_alone() -> None:
    frame = pd.DataFrame({"f": [1.0, 2, 900], "g": [0.0, 1, -900], "h": [3.0, 1, 0]}, index=["x", "y", "untried"])
    a, b = (new(table(drugs(), f), features="props", choices={"n_components": 2}) for f in (frame, frame.iloc[:2]))
    np.testing.assert_array_equal(a.environments().features, b.environments().features)
    assert a.environments().features.shape == (7, 2)
    with pytest.raises(ValueError, match=r"n_components=5 must lie between 1 and .*Pass a lower n_components"):
        new(table(drugs(), frame), features="props", choices={"n_components": 5})


def test_dose_0_is_a_treatment_unless_said() -> None:
    adata = drugs(doses=(0.0, 1.0, 10.0))
    assert [t.dose for t in new(adata).treatments[1:]] == [0, 1, 10, 0, 1, 10]
    model = new(drugs(doses=(0.0, 1.0, 10.0)), zero_dose_is_control=True)
    assert [t.dose for t in model.treatments[1:]] == [1, 10, 1, 10]
    assert (model.environments().codes == 0).sum() == 40 + 24


def test_doses_of_controls_do_not_matter() -> None:
    adata = drugs()
    adata.obs.loc[adata.obs["drug"] == "dmso", "dose"] = np.nan
    np.testing.assert_array_equal(new(adata).environments().features, new().environments().features)


def test_categories_of_numbers_are_doses() -> None:
    adata = drugs()
    adata.obs["dose"] = adata.obs["dose"].astype("float32").astype("category")
    assert [t.dose for t in new(adata).treatments[1:4]] == list(DOSES)  # 0.1, not the nearest float32


@pytest.mark.parametrize(
    ("change", "options", "error", "told"),
    [
        ({"dose": "10nM"}, {}, ValueError, r"dose_key\) is not numeric: '10nM'.*one unit"),
        ({"dose": np.nan}, {}, ValueError, "72 perturbed cells have no finite dose.*'c40' with nan"),
        ({"dose": -2.0}, {}, ValueError, "at least 0.*not logarithms"),
        ({"dose": np.inf}, {}, ValueError, "no finite dose"),
        ({"dose": 0.0}, {}, ValueError, "No perturbed cell has a dose above 0"),
        ({}, {"dose_key": "dosis"}, KeyError, "dose_key='dosis'.*'dose'"),
        ({}, {"dose_key": None, "zero_dose_is_control": True}, ValueError, "needs dose_key"),
        ({}, {"features": "propz"}, KeyError, "features='propz'.*'props'"),
        ({}, {"features": "text"}, ValueError, "must hold numbers only; 'name'"),
        ({}, {"features": "lacking"}, KeyError, r"no features of 'y'.*Close to 'y': 'Y'.*Add rows to .uns\['lacking'\]"),
        ({}, {"features": "twice"}, ValueError, "several rows of 'x'"),
        ({}, {"features": "gaps"}, ValueError, "no finite number for 'y' in 'f'"),
        ({}, {"features": "varies"}, ValueError, r"\.obsm\['varies'\] differs between cells of 'x'.*dose_key"),
        ({}, {"features": "smiles"}, KeyError, r"needs .uns\['smiles'\]"),
        ({}, {"values": "counts"}, ValueError, "raw counts are needed"),
        ({}, {"values": "raw"}, ValueError, "values must be one of 'counts'"),
        ({}, {"layer": "nope"}, KeyError, "nope"),
    ],
)  # fmt: skip
def test_bad_setup_says_what_and_changes_nothing(
    fingerprint: Any, change: dict[str, Any], options: dict[str, Any], error: type[Exception], told: str
) -> None:
    adata = drugs()
    for column, value in change.items():
        adata.obs[column] = np.where(adata.obs["drug"] == "dmso", adata.obs[column], np.array(value, dtype=object))
    adata.uns["props"] = pd.DataFrame({"f": [1.0, 2]}, index=["x", "y"])
    adata.uns["text"] = pd.DataFrame({"f": [1.0, 2], "name": ["a", "b"]}, index=["x", "y"])
    adata.uns["lacking"] = pd.DataFrame({"f": [1.0, 2]}, index=["x", "Y"])
    adata.uns["twice"] = pd.DataFrame({"f": [1.0, 2, 3]}, index=["x", "y", "x"])
    adata.uns["gaps"] = pd.DataFrame({"f": [1.0, np.nan]}, index=["x", "y"])
    adata.obsm["varies"] = np.arange(adata.n_obs, dtype=float)[:, None]
    before = fingerprint(adata)
    with pytest.raises(error, match=told):
        GIM.setup_anndata(adata, **(SETUP | options))
    assert fingerprint(adata) == before


def test_tables_of_uns_and_obsm_give_the_same() -> None:
    first = new(table(drugs(), pd.DataFrame({"f": [1.0, 3], "g": [2.0, 5]}, index=["x", "y"])), features="props")
    adata = drugs()
    adata.obsm["p"] = np.array([{"x": (1, 2), "y": (3, 5)}.get(d, (7, 7)) for d in adata.obs["drug"]], dtype=float)
    np.testing.assert_allclose(new(adata, features="p").environments().features, first.environments().features)


def test_smiles_become_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = {"CC": [1, 0], "CO": [0, 1]}
    fake = {
        "rdkit.Chem": SimpleNamespace(MolFromSmiles=lambda text: text if text in bits else None),
        "rdkit.Chem.rdFingerprintGenerator": SimpleNamespace(
            GetMorganGenerator=lambda radius, fpSize: SimpleNamespace(GetFingerprintAsNumPy=lambda m: np.array(bits[m]))
        ),
    }
    monkeypatch.setattr(_gim_features, "_BITS", 2)
    monkeypatch.setattr(_gim_features, "import_module", fake.__getitem__)
    adata = drugs()
    adata.obs["smiles"] = adata.obs["drug"].map({"x": "CC", "y": "CO", "dmso": ""})
    model = new(adata, features="smiles")
    np.testing.assert_array_equal(model.features.table.values, np.eye(2))
    other = drugs()
    other.uns["smiles"] = {"x": "CC", "y": "??"}
    with pytest.raises(ValueError, match="1 structures cannot be read as SMILES: 'y: ??'".replace("?", r"\?")):
        new(other, features="smiles")


def test_without_rdkit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(_gim_features, "import_module", absent)
    adata = drugs()
    adata.uns["smiles"] = {"x": "CC", "y": "CO"}
    with pytest.raises(ImportError, match="pip install rdkit"):
        new(adata, features="smiles")


def test_counts_are_scaled_by_all_genes_to_the_median_control() -> None:
    rng = np.random.default_rng(0)
    adata = drugs()
    adata.X = rng.poisson(4, adata.shape).astype(np.float32)
    GIM.setup_anndata(adata, **(SETUP | {"values": "counts"}))
    model = GIM(adata, ["D", "A"], **SMALL)
    total = adata.X.sum(1)
    size = np.median(total[(adata.obs["drug"] == "dmso").to_numpy()])
    np.testing.assert_allclose(
        model.environments().values, np.log1p(adata.X / total[:, None] * size)[:, [3, 0]], rtol=1e-5
    )
    assert model.units == f"natural log of 1 + counts scaled to {size:g} per cell"


def test_batches_are_brought_to_the_level_of_their_controls() -> None:
    adata = drugs()
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    adata.X[(adata.obs["batch"] == "a").to_numpy()] += 5
    model = new(adata, batch_key="batch")
    values, codes = model.environments().values, model.environments().codes
    batch = adata.obs["batch"].to_numpy()
    means = [values[(codes == 0) & (batch == b)].mean(0) for b in "ab"]
    np.testing.assert_allclose(*means, rtol=1e-5)
    with pytest.raises(ValueError, match=r"zero_inflated.*batch_key"):
        GIM(adata, mechanism="zero_inflated")


def test_small_treatments_are_left_out_with_a_warning() -> None:
    adata = drugs()[:-10].copy()
    with pytest.warns(UserWarning, match="1 treatments have fewer than min_cells=5 cells.*y at 10"):
        GIM.setup_anndata(adata, **SETUP, min_cells=5)
    assert [(t.name, t.dose) for t in GIM(adata, **SMALL).treatments[1:]] == [("x", d) for d in DOSES] + [
        ("y", 0.1), ("y", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("genes", "choices", "error", "told"),
    [
        (["A", "Z"], {}, KeyError, "1 of 2 genes are not in .var_names: 'Z'"),
        (["A", "A"], {}, ValueError, "genes occur twice: 'A'"),
        ("A", {}, ValueError, "at least two names"),
        (None, {"mechanisms": "mlp"}, ValueError, "no choice 'mechanisms'.*Close to 'mechanisms': 'mechanism'"),
        (None, {"n_fits": 3}, ValueError, r"argument of train\(\)"),
        (None, {"preset": "best"}, ValueError, "preset must be"),
        (None, {"mechanism": "cubic"}, ValueError, "mechanism='cubic'"),
    ],
)
def test_bad_choices(genes: Any, choices: dict[str, Any], error: type[Exception], told: str) -> None:
    adata = drugs()
    GIM.setup_anndata(adata, **SETUP)
    with pytest.raises(error, match=told):
        GIM(adata, genes, **choices)


def test_few_cells_get_a_wider_prior() -> None:
    model = new()
    assert model.config == gimfit.GimConfig.quick(**SMALL, variance_networks=0.02 * 8800 / 112)
    assert new(choices={"variance_networks": 0.3}).config.variance_networks == 0.3
    assert new(drugs(n=160)).config == gimfit.GimConfig.quick(**SMALL)  # 1,000 cells
    assert new(choices={"preset": "paper"}).config == gimfit.GimConfig(**SMALL)


def test_hundreds_of_genes_are_refused() -> None:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.random((60, 501), dtype=np.float32))
    adata.obs["drug"] = ["dmso"] * 30 + ["x"] * 30
    GIM.setup_anndata(adata, "drug", "dmso", values="log")
    with pytest.raises(ValueError, match=r"501 genes: a GIM can have at most 500.*Choose genes"):
        GIM(adata)
    assert len(GIM(adata, list(adata.var_names[:3])).genes) == 3


# --- training -------------------------------------------------------------------------------------------------------


def test_train_is_gimfit(trained: GIM) -> None:
    config = gimfit.GimConfig.from_dict(trained.config.to_dict() | {"n_fits": 2})
    direct = gimfit.fit(trained.environments(), config, rng=0, accelerator="cpu")
    np.testing.assert_array_equal(trained.fitted.edge_probability, direct.edge_probability)
    np.testing.assert_array_equal(trained.fitted.predict(n_cells=3, rng=1), direct.predict(n_cells=3, rng=1))
    np.testing.assert_array_equal(trained.history["soft"][1], direct.history[1]["soft"])
    assert trained.stopped == direct.stopped == ["steps", "steps"] and trained.is_trained


def test_interrupted_training_goes_on_as_if_nothing_had_happened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_gim_training, "_CHUNK", 2)
    whole, broken = new(), new()
    whole.train(8, n_fits=2, **QUICK)
    step = GimTrainer.train_step

    def stop(trainer: GimTrainer) -> None:
        if trainer.step == 5:
            raise KeyboardInterrupt
        step(trainer)

    monkeypatch.setattr(GimTrainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.train(8, n_fits=2, **QUICK)
    monkeypatch.setattr(GimTrainer, "train_step", step)
    assert broken.stopped == ["", ""] and broken.is_trained
    assert broken.history["soft"].shape == (4, 1)  # one fit begun, the last odd step lost
    broken.save(tmp_path / "m")
    for model in (broken, GIM.load(tmp_path / "m", drugs())):
        model.train(n_fits=2, **QUICK)
        assert model.stopped == ["steps", "steps"]
        for name in ("soft", "heldout", "cycles"):
            np.testing.assert_array_equal(model.history[name], whole.history[name], err_msg=name)
        np.testing.assert_array_equal(model.predict("x", 1.0).X, whole.predict("x", 1.0).X)


def test_another_call_goes_on_and_fits_can_be_added() -> None:
    model = new()
    model.train(4, **QUICK)
    model.train(4, n_fits=2, **QUICK)  # the first is finished: only the new one is fitted
    assert model.history["soft"].notna().sum().tolist() == [4, 4]
    model.train(3, n_fits=2, **QUICK)
    assert model.history["soft"].notna().sum().tolist() == [7, 7]


def test_schedules_end_where_they_were_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = GimTrainer.train_step

    def watch(trainer: GimTrainer) -> None:
        seen.append((trainer.alpha, trainer.target_cost, trainer.penalty[0] / len(trainer.values)))
        step(trainer)
        seen[-1] += (trainer.optimiser.param_groups[0]["lr"],)

    monkeypatch.setattr(GimTrainer, "train_step", watch)
    model = new()
    model.train(6, **QUICK)
    model.train(3, **QUICK)
    config = model.config
    assert len(seen) == 9 and seen[5][0] == pytest.approx(config.alpha_cap)
    for later in seen[6:]:  # ended, and not begun anew
        assert later[0] == pytest.approx(config.alpha_cap) and later[1] == pytest.approx(config.sparsity_targets)
        assert later[2] == pytest.approx(config.cycle_end)
        assert later[3] == pytest.approx(config.learning_rate * config.learning_rate_end)
    assert model.fitted.alphas == pytest.approx([config.alpha_cap])


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_sharpness_is_that_of_the_trainer(preset: str) -> None:
    model = new(choices={"preset": preset})
    model.train(3, **QUICK)
    trainer = GimTrainer(
        model.environments(), gimfit.GimConfig.from_dict(model.config.to_dict() | {"steps": 3}), seed=0
    )
    trainer.step = 3
    assert model.fitted.alphas == [trainer.alpha]


def test_time_is_a_limit_of_one_call() -> None:
    model = new()
    model.train(6, minutes=1e-9, **QUICK)
    assert model.stopped == ["time"] and len(model.history["soft"]) == 1
    model.train(**QUICK)
    assert model.stopped == ["steps"] and len(model.history["soft"]) == 6


def test_early_stopping_can_be_left_out() -> None:
    how = {"check_every": 1, "patience": 2, "cycle_tolerance": 100.0, "target_anneal": 0.0, "alpha_cap": 0.01,
           "tolerance": 1e6, "steps": 8}  # fmt: skip
    first, second = new(choices=how), new(choices=how)
    first.train(**QUICK)
    second.train(early_stopping=False, **QUICK)
    assert first.stopped == ["converged"] and len(first.history["soft"]) < 8
    assert second.stopped == ["steps"] and len(second.history["soft"]) == 8


def test_other_cells_are_refused(trained: GIM) -> None:
    model = new()
    model.train(2, **QUICK)
    model.adata.X[0, 0] += 1
    with pytest.raises(ValueError, match="not those that training began with"):
        model.train(2, **QUICK)


def test_untrained_model_refuses(tmp_path: Path) -> None:
    model = new()
    asks = (lambda: model.predict("x", 1.0), model.get_targets, model.get_graph, lambda: model.save(tmp_path / "m"))
    for ask in asks:
        with pytest.raises(RuntimeError, match=r"not trained. Call .train\(\)"):
            ask()
    assert not (tmp_path / "m").exists()


def test_many_genes_on_the_cpu_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    from causcade.models import _gim_model

    monkeypatch.setattr(_gim_model, "_MANY_GENES", 3)
    with pytest.warns(UserWarning, match="4 genes on the CPU"):
        new(choices={"preset": "paper", "n_samples": 20}).train(1, **QUICK)
    new().train(1, **QUICK)  # few draws: nothing to say


# --- answers --------------------------------------------------------------------------------------------------------


def test_predict_says_what_it_is(trained: GIM) -> None:
    out = trained.predict("x", [1.0, 3.0], n_cells=5)
    assert out.shape == (10, 4) and list(out.var_names) == GENES
    assert out.obs["dose"].tolist() == [1.0] * 5 + [3.0] * 5
    assert out.obs["in_training"].tolist() == [True] * 5 + [False] * 5
    assert out.obs["fit"].tolist() == [0, 0, 1, 1, 1] * 2
    assert out.uns["units"] == "as the values given: log-normalised expression"
    np.testing.assert_array_equal(out.X, trained.predict("x", [1.0, 3.0], n_cells=5).X)
    assert (out.X != trained.predict("x", [1.0, 3.0], n_cells=5, rng=1).X).any()


def test_predict_of_training_is_that_of_the_fit(trained: GIM) -> None:
    out = trained.predict(n_cells=4, rng=3)
    np.testing.assert_allclose(out.X, trained.fitted.predict(n_cells=4, rng=3).reshape(-1, 4), rtol=1e-5)
    assert list(dict.fromkeys(out.obs["perturbation"])) == ["dmso", "x", "y"]
    control = trained.predict("dmso", n_cells=4, rng=3)
    assert control.obs["dose"].isna().all() and control.n_obs == 4


def test_predict_takes_lists_and_doses_of_each(trained: GIM) -> None:
    out = trained.predict(["y", "x"], [1.0, 2.0], n_cells=1)
    assert list(zip(out.obs["perturbation"], out.obs["dose"], strict=True)) == [("y", 1.0), ("x", 2.0)]
    assert trained.predict(["y", "x"], 1.0, n_cells=1).obs["dose"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (("x",), ValueError, r"Pass dose= for 'x'; in training it was \[0.1, 1.0, 10.0\]"),
        ((None, 1.0), ValueError, "Pass perturbation="),
        (("x", -1.0), ValueError, "must be a number of at least 0"),
        (("x", "1"), ValueError, "must be a number"),
        ((["x", "y"], [1.0, 2.0, 3.0]), ValueError, "2 perturbations and 3 doses"),
        (([], 1.0), ValueError, "must not be empty"),
        (("xx", 1.0), KeyError, "no features of 'xx'.*features= to setup_anndata"),
        ((("x", "y"), (1.0, 2.0, 3.0)), ValueError, "a tuple with one for each"),
    ],
)
def test_bad_questions(trained: GIM, ask: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        trained.predict(*ask)
    with pytest.raises(error, match=told):
        trained.get_targets(*ask)


def test_dose_without_doses_is_refused() -> None:
    model = new(dose_key=None)
    model.train(1, **QUICK)
    assert len(model.treatments) == 3
    assert model.predict("x", n_cells=2).obs["dose"].isna().all()
    with pytest.raises(ValueError, match="without dose_key"):
        model.predict("x", 1.0)
    with pytest.raises(ValueError, match="without dose_key"):
        model.get_dose_response("x")


def test_untried_perturbations_are_known_by_their_features() -> None:
    frame = pd.DataFrame({"f": [1.0, 2, 1], "g": [0.0, 1, 0]}, index=["x", "y", "twin of x"])
    model = new(table(drugs(), frame), features="props")
    model.train(3, **QUICK)
    twin = model.predict("twin of x", 1.0, n_cells=6)
    np.testing.assert_array_equal(twin.X, model.predict("x", 1.0, n_cells=6).X)
    assert not twin.obs["in_training"].any()
    more = pd.DataFrame({"g": [1.0], "f": [2.0], "other": [0.0]}, index=["twin of y"])
    with pytest.raises(KeyError, match="no features of 'twin of y'"):
        model.predict("twin of y", 1.0)
    twin = model.predict("twin of y", 1.0, n_cells=6, features=more)
    np.testing.assert_array_equal(twin.X, model.predict("y", 1.0, n_cells=6).X)
    with pytest.raises(ValueError, match="features lacks 1 of the 2 columns of training: 'g'"):
        model.predict("z", 1.0, features=pd.DataFrame({"f": [1.0]}, index=["z"]))


def found(**parts: list[list[float]]) -> Interventions:
    return Interventions(**{name: torch.tensor(value) for name, value in parts.items()})


def test_shifts_of_a_combination_add_up() -> None:
    both = join(found(logits=[[2.0, -1, -3], [1, 4, -2]], mean=[[1.0, 50, 7], [10, 3, 8]]), [[0, 1], [1], []])
    assert both.logits[:2].tolist() == [[2, 4, -2], [1, 4, -2]] and torch.isneginf(both.logits[2]).all()
    assert both.mean[0, :2].tolist() == [11, 3]  # what is no target of a part adds nothing
    assert both.mean[1].tolist() == [10, 3, 8] and both.log_sd is None


def test_the_surer_part_sets_a_gene() -> None:
    one = found(logits=[[2.0, -1], [1, 4]], mean=[[1.0, 50], [10, 3]], log_sd=[[0.1, 0.2], [0.3, 0.4]])
    both = join(one, [[0, 1]])
    assert both.mean[0].tolist() == [1, 3]
    torch.testing.assert_close(both.log_sd[0], torch.tensor([0.1, 0.4]))  # type: ignore[index]


def test_shares_of_a_combination() -> None:
    """What parts add is the sum of their shares of a shift; the surer part's share counts for what is set."""
    parts = found(
        logits=[[2.0, -1, -3], [1, 4, -2]], mean=[[1.0, 50, 7], [10, 3, 8]], share=[[0.9, 0.2, 0], [0.7, 1, 0]]
    )
    both = join(parts, [[0, 1], [1], []])
    torch.testing.assert_close((both.followed * both.mean)[0], torch.tensor([0.9 + 7, 10 + 3, 0]))
    torch.testing.assert_close((both.followed * both.mean)[1], torch.tensor([7.0, 3, 0]))
    assert both.share is not None and both.share[2].tolist() == [0, 0, 0] and torch.isfinite(both.mean).all()
    set_ = replace(parts, log_sd=torch.zeros(2, 3))
    both = join(set_, [[0, 1]])
    torch.testing.assert_close(both.share, torch.tensor([[0.9, 1, 0]]))
    assert both.mean[0, :2].tolist() == [1, 3]


def test_effects_can_be_those_of_called_targets(trained: GIM) -> None:
    called = trained.predict("x", 1.0, n_cells=20, effects="called")
    direct = trained.fitted.sample(
        trained.fitted.interventions(trained.features(trained._ask("x", 1.0)).astype(np.float32), effects="called"),
        10, rng=0,
    )  # fmt: skip
    np.testing.assert_allclose(called.X[:10], direct[0], rtol=1e-5)
    assert (called.X != trained.predict("x", 1.0, n_cells=20).X).any()
    with pytest.raises(ValueError, match="effects must be"):
        trained.predict("x", 1.0, effects="best")  # type: ignore[arg-type]


def test_targets_and_comparison_with_called_effects(trained: GIM) -> None:
    test = drugs()
    expected, called = (
        trained.compare(test, baselines=(), n_cells=30, effects=e)["mean_distance"] for e in ("expected", "called")
    )
    assert (expected != called).any()
    found = trained._interventions(trained._ask(("x", "y"), 1.0), None, "union", trained.fitted, "called")
    value = trained.get_targets(("x", "y"), 1.0).set_index("gene")["value"].loc[GENES]
    fit = trained.fitted
    mean = np.mean([f.mean[0].numpy() * fit.scale + fit.center for f in found], axis=0)
    np.testing.assert_allclose(value, mean, rtol=1e-5)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_free_interventions_answer(intervention: str) -> None:
    model = new(choices={"intervention": intervention, "amortised": False, "steps": 2})
    model.train(**QUICK)
    out = model.get_targets("x", 1.0)
    assert np.isfinite(out[["probability", "value"]]).all(axis=None)
    assert np.isfinite(model.predict("x", 1.0, n_cells=3).X).all()


def test_combinations(trained: GIM) -> None:
    out = trained.predict(("y", "x"), (10.0, 1.0), n_cells=2)
    assert out.obs["perturbation"].tolist() == ["x+y"] * 2 and out.obs["doses"].tolist() == ["1+10"] * 2
    same = trained.predict("x+y", 1.0, n_cells=2)
    assert same.obs["dose"].tolist() == [1.0] * 2
    both = trained.get_targets(("x", "y"), 1.0).set_index("gene")["logit"]
    parts = [trained.get_targets(name, 1.0).set_index("gene")["logit"].loc[both.index] for name in "xy"]
    assert (both >= np.maximum(*parts) - 1e-6).all()  # a gene is hit if either hits it
    summed = trained.get_targets(("x", "y"), 1.0, combine="features").set_index("gene")["logit"]
    assert (both != summed.loc[both.index]).any()
    with pytest.raises(ValueError, match="combine must be"):
        trained.predict("x+y", 1.0, combine="sum")  # type: ignore[arg-type]


def test_a_combination_of_training_is_asked_for_as_it_was() -> None:
    adata = drugs()
    adata.obs["drug"] = (
        adata.obs["drug"].where(adata.obs["dose"] != 10, "y+x").where(adata.obs["drug"] != "dmso", "dmso")
    )
    model = new(adata)
    model.train(3, **QUICK)
    assert [t.name for t in model.treatments[1:]] == ["x", "x", "x+y", "y", "y"]
    whole, features = (model.get_targets(("x", "y"), 10.0, combine=how) for how in ("union", "features"))
    pd.testing.assert_frame_equal(whole, features)
    single = model.features.table
    np.testing.assert_array_equal(
        single.row("x+y", ("x", "y"), [1, 1]), single.row("x", ["x"], [1]) + single.row("y", ["y"], [1])
    )


def test_targets_are_those_of_the_fits(trained: GIM) -> None:
    out = trained.get_targets()
    fit = trained.fitted
    matrix = out.pivot(index=["perturbation", "dose"], columns="gene", values="probability")[GENES]
    np.testing.assert_allclose(matrix, fit.targets()[1:], rtol=1e-5)
    sd = out.pivot(index=["perturbation", "dose"], columns="gene", values="sd")[GENES]
    np.testing.assert_allclose(sd, fit.target_sd()[1:], atol=1e-6)
    assert out.groupby(["perturbation", "dose"])["probability"].apply(lambda p: p.is_monotonic_decreasing).all()
    means = [fit.interventions(number=k).mean.numpy() * fit.scale + fit.center for k in range(2)]
    value = out.pivot(index=["perturbation", "dose"], columns="gene", values="value")[GENES]
    np.testing.assert_allclose(value, np.mean(means, axis=0)[1:], rtol=1e-5)


def test_graph_is_that_of_the_fits(trained: GIM) -> None:
    out = trained.get_graph()
    matrix = out.pivot(index="cause", columns="effect", values="probability").loc[GENES, GENES].fillna(0)
    np.testing.assert_array_equal(matrix, trained.fitted.edge_probability)
    called = out[out["in_dag"]]
    assert (called["probability"] >= 0.5).all() and len(called) == trained.fitted.graph.sum()
    assert (trained.get_graph(min_probability=0.5)["probability"] >= 0.5).all()
    assert out["sd"].notna().all() and len(out) == 12


@pytest.mark.parametrize("mechanism", ["linear", "mlp", "zero_inflated"])
@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_every_kind_answers(mechanism: str, intervention: str) -> None:
    model = new(choices={"mechanism": mechanism, "intervention": intervention, "steps": 2})
    model.train(**QUICK)
    assert np.isfinite(model.predict(("x", "y"), 1.0, n_cells=3).X).all()
    assert np.isfinite(model.get_targets()[["probability", "value"]]).all(axis=None)
    assert model.get_targets()["sd"].isna().all()  # a single fit has no spread


def test_a_model_without_networks_knows_its_treatments_only() -> None:
    model = new(choices={"amortised": False})
    model.train(2, **QUICK)
    assert model.predict("x", 1.0, n_cells=2).n_obs == 2
    asked = model.get_dose_response("x", ["A"], n_cells=2, baselines="ridge").query("source == 'GIM'")  # type: ignore[arg-type]
    assert asked["dose"].tolist() == list(DOSES)
    with pytest.raises(ValueError, match="amortised=False knows the treatments of its training only, not 'x at 2'"):
        model.predict("x", 2.0)


def test_doses_are_asked_for_to_the_digits_they_are_read_with() -> None:
    model = new(choices={"amortised": False})
    model.train(1, **QUICK)
    out = model.predict("x", pd.Index(np.float32([0.1, 1.0])), n_cells=1)
    assert out.obs["in_training"].all() and out.obs["dose"].tolist() == [0.1, 1.0]


def test_labels_of_controls_add_nothing(trained: GIM) -> None:
    assert trained._ask(["x+dmso", ("dmso", "x"), ("dmso", "x"), "dmso+dmso"], [1.0, 1.0, (5.0, 1.0), 1.0]) == [
        *trained._ask(["x"] * 3, 1.0),
        trained.treatments[0],
    ]
    adata = drugs()
    adata.obs["drug"] = np.where(np.arange(adata.n_obs) < 20, "vehicle", adata.obs["drug"])
    model = new(adata, control=["dmso", "vehicle"])
    assert model._ask(["vehicle", "dmso"], 1.0) == [model.treatments[0]] * 2


def test_numbers_are_names() -> None:
    adata = drugs()
    adata.obs["drug"] = adata.obs["drug"].map({"dmso": 0, "x": 1, "y": 2})
    model = new(adata, control="0")
    assert model._ask(1, 0.1) == model._ask("1", 0.1) == [model.treatments[1]]


def test_the_control_has_no_targets_and_no_doses(trained: GIM) -> None:
    assert (
        list(trained.get_targets("dmso")) == list(trained.get_targets("x", 1.0)) and trained.get_targets("dmso").empty
    )
    with pytest.raises(ValueError, match="'dmso' is the control, which has no dose"):
        trained.get_dose_response("dmso")


def test_dose_response_at_one_dose_or_of_a_combination(trained: GIM) -> None:
    one = trained.get_dose_response("x", ["A"], doses=3.0, n_cells=5)  # type: ignore[arg-type]
    assert one.query("source == 'GIM'")["dose"].tolist() == [3.0]
    adata = drugs()
    adata.obs.loc[(adata.obs["drug"] == "y") & (adata.obs["dose"] == 1), ["drug", "dose"]] = ["y+x", 2.0]
    model = new(adata)
    model.train(1, **QUICK)
    out = model.get_dose_response("y+x", ["A"], n_cells=5)
    assert 2.0 in out.query("source == 'GIM'")["dose"].tolist()
    assert out.query("source == 'data'")["dose"].tolist() == [2.0]


@pytest.mark.parametrize("ask", ["compare", "get_dose_response"])
def test_no_cells_are_refused(trained: GIM, ask: str) -> None:
    with pytest.raises(ValueError, match="n_cells must be a whole number of at least 1"):
        getattr(trained, ask)({"compare": drugs(), "get_dose_response": "x"}[ask], n_cells=0)


def test_a_row_of_a_combination_is_found_in_any_order() -> None:
    adata = drugs()
    adata.obs.loc[(adata.obs["drug"] == "y") & (adata.obs["dose"] == 1), "drug"] = "y+x"
    rows = pd.DataFrame({"f": [1.0, 2, 7]}, index=["x", "y", "y+x"])
    model = new(table(adata, rows), features="props")
    assert model.features.table.row("x+y", ("x", "y"), [1, 1]).tolist() == [7]
    low, high = (model.features.scale(d) for d in (0.1, 10.0))  # type: ignore[misc]
    for doses in ((0.1, 10.0), (10.0, 0.1)):  # of several doses no part's alone counts
        raw = _gim_features._raw(model.features.table, model.features.scale, model._ask(("x", "y"), doses))
        np.testing.assert_allclose(raw, [[7, 7 * (low + high) / 2]])
    with pytest.raises(ValueError, match=r"several rows of the combination 'y\+x'"):
        new(table(drugs(), pd.concat([rows, pd.DataFrame({"f": [0.0]}, index=["x+y"])])), features="props")


def test_tables_of_obsm_may_be_sparse_or_have_names() -> None:
    adata = drugs()
    values = np.array([{"x": (1, 2), "y": (3, 5)}.get(d, (7, 7)) for d in adata.obs["drug"]], dtype=float)
    adata.obsm["sparse"] = csr_matrix(values)
    adata.obsm["named"] = pd.DataFrame(values, columns=["f", "g"], index=adata.obs_names)
    for key in ("sparse", "named"):
        assert new(adata, features=key).features.table.values.tolist() == [[1, 2], [3, 5]]
    model = new(adata, features="named")
    more = pd.DataFrame({"g": [2.0], "f": [1.0]}, index=["twin of x"])
    np.testing.assert_array_equal(
        model.features(model._ask("twin of x", 1.0), more), model.features(model._ask("x", 1.0))
    )


# --- comparison -----------------------------------------------------------------------------------------------------


def test_compare_scores_model_and_baselines_on_the_same_cells(trained: GIM) -> None:
    test = drugs(seed=5, doses=(0.1, 5.0))
    out = trained.compare(test, n_cells=50)
    assert list(dict.fromkeys(out["method"])) == [
        "GIM",
        "observational",
        "perturbed_mean",
        "next_lower_dose",
        "ridge",
        "mlp",
    ]
    assert out.groupby("method").size().eq(4).all() and (out["n_cells"] == 12).all()
    assert out["in_training"].tolist() == ([True] * 6 + [False] * 6) * 2
    true = test.X[((test.obs["drug"] == "x") & (test.obs["dose"] == 5)).to_numpy()]
    lower = trained.adata.X[((trained.adata.obs["drug"] == "x") & (trained.adata.obs["dose"] == 1)).to_numpy()]
    row = out.query("perturbation == 'x' and dose == 5").set_index("method")["mean_distance"]
    assert row["next_lower_dose"] == pytest.approx(mean_distance(lower, true), rel=1e-5)
    data = trained.environments()
    ridge = mean_shift_ridge(data.values, data.codes, data.features[1:])
    asked = trained._ask("x", 5.0)
    assert row["ridge"] == pytest.approx(mean_distance(ridge.predict(trained.features(asked))[0], true), rel=1e-5)


def test_compare_levels_batches_as_training_did() -> None:
    adata = drugs()
    adata.obs["batch"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    adata.X[(adata.obs["batch"] == "a").to_numpy()] += 5
    model = new(adata, batch_key="batch")
    model.train(1, **QUICK)
    out = model.compare(adata, baselines=["observational"], n_cells=5).query(
        "method == 'observational' and dose == 0.1"
    )
    assert (out["mean_distance"] < 1).all()  # without levelling they are 2.5 apart
    adata2 = adata.copy()
    adata2.obs["batch"] = "c"
    with pytest.raises(ValueError, match=r"groups 'c'.*no control cell in training"):
        model.compare(adata2)


def test_compare_refuses_what_it_cannot_use(trained: GIM) -> None:
    with pytest.raises(ValueError, match="Unknown baselines 'best'; known are observational"):
        trained.compare(drugs(), baselines=["best"])
    with pytest.raises(ValueError, match=r"No cell .* is perturbed"):
        trained.compare(drugs()[:40].copy())
    with pytest.raises(KeyError, match="1 of the 4 genes of the model are not measured: 'D'"):
        trained.compare(drugs()[:, :3].copy())
    with pytest.raises(KeyError, match="no column 'drug'"):
        trained.compare(ad.AnnData(np.ones((3, 4), dtype=np.float32)))


def test_compare_knows_treatments_without_doses() -> None:
    model = new(dose_key=None, choices={"amortised": False})
    model.train(1, **QUICK)
    assert model.compare(drugs(seed=5), baselines=["ridge"], n_cells=5)["in_training"].all()
    again = pickle.loads(pickle.dumps(model.treatments[1]))
    assert again == model.treatments[1] != model.treatments[2] and again in set(model.treatments)


def test_compare_takes_single_cells(trained: GIM) -> None:
    test = drugs(seed=5, doses=(0.1, 5.0))[np.r_[40:52, 64]].copy()  # 12 cells of x, one of y
    out = trained.compare(test, n_cells=5).set_index("perturbation")
    assert out["energy_distance"].isna().tolist() == [False] * 6 + [True] * 6
    assert out["mean_distance"].notna().all()


def test_compare_needs_all_genes_that_counts_are_scaled_by() -> None:
    adata = drugs()
    adata.X = np.random.default_rng(0).poisson(4, adata.shape).astype(np.float32)
    GIM.setup_anndata(adata, **(SETUP | {"values": "counts"}))
    model = GIM(adata, ["A", "B"], **SMALL)
    model.train(1, **QUICK)
    whole = model.compare(adata, baselines=["ridge"], n_cells=5)
    pd.testing.assert_frame_equal(
        model.compare(adata[:, ["C", "A", "D", "B"]].copy(), baselines=["ridge"], n_cells=5), whole
    )
    with pytest.raises(ValueError, match=r"2 genes .* not in both: 'C', 'D'.*total over all 4 genes"):
        model.compare(adata[:, ["A", "B"]].copy())


def test_baselines_of_new_perturbations_leave_out_perturbations() -> None:
    frame = pd.DataFrame({"f": [1.0, 2, 1.5], "g": [0.0, 1, 3]}, index=["x", "y", "z"])
    adata = table(drugs(), frame)
    model = new(adata, features="props")
    model.train(1, **QUICK)
    test = drugs(seed=5)
    test.obs["drug"] = test.obs["drug"].replace("x", "z")
    out = (
        model.compare(test, baselines=["ridge"], n_cells=5)
        .query("method == 'ridge' and dose == 1")
        .set_index("perturbation")
    )
    data = model.environments()
    names = [t.name for t in model.treatments[1:]]
    seen = set()
    for name, hold_out in (("y", "regime"), ("z", "perturbation")):
        ridge = mean_shift_ridge(data.values, data.codes, data.features[1:], perturbation=names, hold_out=hold_out)  # type: ignore[arg-type]
        seen.add(ridge.info["penalty"])
        true = test.X[((test.obs["drug"] == name) & (test.obs["dose"] == 1)).to_numpy()]
        made = ridge.predict(model.features(model._ask(name, 1.0)))[0]
        assert out["mean_distance"][name] == pytest.approx(mean_distance(made, true), rel=1e-5)
    assert len(seen) == 2


def test_dose_response_holds_data_model_and_baselines(trained: GIM) -> None:
    out = trained.get_dose_response("x", ["B", "A"], n_cells=50)
    assert list(dict.fromkeys(out["gene"])) == ["B", "A"]
    data = out.query("source == 'data' and gene == 'A'")
    cells = trained.adata[(trained.adata.obs["drug"] == "x").to_numpy()]
    expected = pd.Series(cells.X[:, 0].astype(float)).groupby(cells.obs["dose"].to_numpy())
    np.testing.assert_allclose(data["mean"], expected.mean())
    np.testing.assert_allclose(data["sd"], expected.std(ddof=0))
    model = out.query("source == 'GIM' and gene == 'A'")
    assert model["dose"].min() == 0.1 and model["dose"].max() == 10 and {1.0} <= set(model["dose"])
    assert (model["sd"] >= 0).all() and model["sd"].notna().all()
    env = trained.environments()
    base = next_lower_dose(env.values, env.codes, perturbation=[t.name for t in trained.treatments[1:]],
                           dose=[t.dose for t in trained.treatments[1:]])  # fmt: skip
    change = base.predict(perturbation=["x"], dose=[10.0])[0].mean(0)[0]
    assert out.query("source == 'next_lower_dose' and gene == 'A' and dose == 10")["mean"].item() == pytest.approx(
        change
    )
    assert trained.get_dose_response("x", n_cells=5)["gene"].iloc[0] in ("A", "B")  # what the drug changes
    with pytest.raises(KeyError, match="'Z' are not among the 4 genes"):
        trained.get_dose_response("x", ["Z"], n_cells=5)


# --- files ----------------------------------------------------------------------------------------------------------


def test_save_and_load_answer_the_same(trained: GIM, tmp_path: Path) -> None:
    trained.save(tmp_path / "m", save_anndata=True)
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["adata.h5ad", "config.json", "model.safetensors"]
    for adata in (drugs(), trained.adata.copy(), None):
        again = GIM.load(tmp_path / "m", adata)
        np.testing.assert_array_equal(again.predict("x", 3.0).X, trained.predict("x", 3.0).X)
        pd.testing.assert_frame_equal(again.get_targets(), trained.get_targets())
        pd.testing.assert_frame_equal(again.get_graph(), trained.get_graph())
        assert again.stopped == trained.stopped and again.units == trained.units
    with pytest.raises(ValueError, match="overwrite=True"):
        trained.save(tmp_path / "m")


def test_set_up_with_arrays_can_be_saved(tmp_path: Path) -> None:
    adata = drugs()
    adata.obs["drug"] = adata.obs["drug"].map({"dmso": 0, "x": 1, "y": 2})
    for i, control in enumerate((np.int64(0), np.array(["0"]))):
        model = new(adata.copy(), control=control)
        model.train(1, **QUICK)
        model.save(tmp_path / str(i))
        assert GIM.load(tmp_path / str(i), adata.copy()).treatments == model.treatments


def test_loading_needs_all_genes_that_counts_are_scaled_by(tmp_path: Path) -> None:
    adata = drugs()
    adata.X = np.random.default_rng(0).poisson(4, adata.shape).astype(np.float32)
    GIM.setup_anndata(adata, **(SETUP | {"values": "counts"}))
    model = GIM(adata, ["A", "B"], **SMALL)
    model.train(1, **QUICK)
    model.save(tmp_path)
    assert GIM.load(tmp_path, adata.copy()).units == model.units
    with pytest.raises(ValueError, match=r"median total of .*with all their genes"):
        GIM.load(tmp_path, adata[:, ["A", "B"]].copy())


def test_loaded_model_is_refused_other_data_and_damaged_files(trained: GIM, tmp_path: Path) -> None:
    trained.save(tmp_path)
    with pytest.raises(ValueError, match="not those the model was trained on"):
        GIM.load(tmp_path, drugs(doses=(0.1, 1.0)))
    with pytest.raises(ValueError, match="There is no saved GIM"):
        GIM.load(tmp_path / "nowhere", drugs())
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(RuntimeError, match="damaged"):
        GIM.load(tmp_path, drugs())
    config = json.loads((tmp_path / "config.json").read_text()) | {"model": "TCD"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="a model 'TCD', not a GIM"):
        GIM.load(tmp_path, drugs())


def test_predictions_survive_files(trained: GIM, tmp_path: Path) -> None:
    out = trained.predict("x", [1.0, 3.0], n_cells=3)
    out.write_h5ad(tmp_path / "p.h5ad")
    back = ad.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_array_equal(out.X, back.X)
    assert back.uns["units"] == out.uns["units"] and back.obs["dose"].tolist() == out.obs["dose"].tolist()


def test_models_offers_gim_lazily() -> None:
    assert models.GIM is GIM and "GIM" in dir(models)


def test_repr_says_what_it_is(trained: GIM) -> None:
    assert repr(trained) == "GIM, linear, hard interventions: 112 cells x 4 genes, 6 treatments, trained"
