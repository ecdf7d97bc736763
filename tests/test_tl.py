from __future__ import annotations

import functools
import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file
from scipy import sparse

from causcade import causes, get, pp, tl
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.pretrained import Weights, load
from causcade.tl import _checks as checks
from causcade.tl._checks import check_place, load_weights

QUICK = {"n_half": 0, "progress_bar": False}


def scores(adata, weights, **how) -> dict[str, np.ndarray]:
    tl.causes(adata, ["G01", "G05"], model=weights, **{**QUICK, **how})
    return {key: np.asarray(value) for key, value in adata.varm.items()}


def test_writes_what_it_says(screen, tiny_weights, caplog):
    before = (screen.X.copy(), list(screen.obs), list(screen.var), list(screen.uns))
    with caplog.at_level(logging.INFO, logger="causcade"):
        assert tl.causes(screen, ["G05", "G01"], model=tiny_weights, n_null=2, progress_bar=False) is None
    assert [r.message for r in caplog.records if "on cpu" in r.message]
    sizes = {key: (value.shape, value.dtype.name) for key, value in screen.varm.items()}
    floats = ["", "_sd", "_pvalue", "_fdr", "_knockout_t", "_correlation"]
    assert sizes == {
        **{f"causes{part}": ((32, 2), "float32") for part in floats},
        "causes_n_draws": ((32, 2), "int32"),
        "causes_popularity": ((32, 1), "float32"),
    }
    result = screen.uns["causes"]
    assert list(result["names"]) == ["G05", "G01"]
    assert result["model"] == str(tiny_weights)
    assert result["weights"] == load(tiny_weights).label
    assert result["n_draws"] == 2
    assert result["params"]["rng"] == 0
    assert result["params"]["subset_size"] == 80  # twice as many as in training
    np.testing.assert_array_equal(screen.X, before[0])
    assert (list(screen.obs), list(screen.var), [*before[3], "causes"]) == (*before[1:3], list(screen.uns))
    assert not screen.varp
    table = get.causes(screen, "G01")
    assert len(table) == 31
    top = table.iloc[0]
    assert top["score"] == np.delete(screen.varm["causes"][:, 1], 1).max()


def test_sets_are_twice_as_large_as_in_training(screen, tiny_weights):
    config = json.loads((tiny_weights / "config.json").read_text()) | {"subset": 8}
    (tiny_weights / "config.json").write_text(json.dumps(config))
    how = {"genes": "G01", "model": tiny_weights, "n_half": 2, "progress_bar": False}
    tl.causes(screen, **how)
    for size in (16, 8):
        tl.causes(screen, **how, subset_size=size, key_added=f"of_{size}")
    assert screen.uns["causes"]["params"]["subset_size"] == 16
    np.testing.assert_array_equal(screen.varm["causes"], screen.varm["of_16"])
    assert np.abs(screen.varm["causes"] - screen.varm["of_8"]).max() > 1e-4


def test_one_gene_by_name(screen, tiny_weights):
    tl.causes(screen, "G01", model=str(tiny_weights), **QUICK)
    assert screen.varm["causes"].shape == (32, 1)


def test_all_pairs(screen, tiny_weights):
    tl.causes(screen, model=tiny_weights, key_added="mine", n_null=1, **QUICK)
    names = {f"mine{part}" for part in ("", "_sd", "_n_draws", "_pvalue", "_fdr", "_knockout_t", "_correlation")}
    assert set(screen.varp) == names
    assert set(screen.varm) == {"mine_popularity"}
    some = screen.copy()
    tl.causes(some, ["G07"], model=tiny_weights, **QUICK)
    np.testing.assert_allclose(screen.varp["mine"][:, 7], some.varm["causes"][:, 0], atol=1e-4)


def test_large_results_are_sparse(screen, tiny_weights, monkeypatch):
    tl.causes(screen, model=tiny_weights, **QUICK)
    dense = {key: np.asarray(value) for key, value in screen.varp.items()}
    monkeypatch.setattr("causcade.tl._causes._DENSE", 10)
    tl.causes(screen, model=tiny_weights, n_top=4, **QUICK)
    for key, value in dense.items():
        stored = screen.varp[key]
        assert sparse.issparse(stored)
        assert stored.format == "csr"
        rows, columns = stored.tocoo().coords
        assert (rows != columns).all()
        assert np.bincount(columns, minlength=32).tolist() == [4] * 32
        np.testing.assert_array_equal(stored.tocoo().data, value[rows, columns])
    own = dense["causes"].copy()
    np.fill_diagonal(own, -np.inf)
    rows = screen.varp["causes"].tocsc().indices[:4]
    assert set(rows) == set(np.argsort(-own[:, 0])[:4])
    tl.causes(screen, model=tiny_weights, n_top=500, **QUICK)
    assert screen.varp["causes"].nnz == 32 * 31


def test_nothing_of_an_earlier_call_stays(screen, tiny_weights):
    tl.causes(screen, ["G01"], model=tiny_weights, n_null=1, **QUICK)
    tl.causes(screen, ["G01", "G02"], model=tiny_weights, **QUICK)
    assert not [key for key in screen.varm if key.endswith(("pvalue", "fdr"))]
    tl.causes(screen, model=tiny_weights, n_null=1, **QUICK)
    assert set(screen.varm) == {"causes_popularity"}
    tl.causes(screen, ["G03"], model=tiny_weights, **QUICK)
    assert not screen.varp
    assert len(get.causes(screen)) == 31


def test_model_object(screen, tiny_weights):
    class Model:
        def as_weights(self):
            return load(tiny_weights)

    a, b = scores(screen.copy(), tiny_weights), scores(screen.copy(), Model())
    np.testing.assert_array_equal(a["causes"], b["causes"])


@pytest.mark.parametrize("rng", [7, np.int64(7), np.random.default_rng(7)], ids=["int", "numpy int", "generator"])
def test_rng(screen, tiny_weights, rng):
    how = {"subset_size": 8, "n_half": 2}
    a = scores(screen.copy(), tiny_weights, rng=7, **how)
    other = screen.copy()
    b = scores(other, tiny_weights, rng=rng, **how)
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)
    assert other.uns["causes"]["params"].get("rng") == (None if isinstance(rng, np.random.Generator) else 7)
    assert not np.array_equal(scores(screen.copy(), tiny_weights, rng=8, **how)["causes"], a["causes"])


def test_options_are_recorded(screen, tiny_weights):
    tl.causes(screen, "G01", model=tiny_weights, stable=0.9, batch_key="batch", n_draws=5, rng=2**70, **QUICK)
    params = screen.uns["causes"]["params"]
    assert params["stable"] == 0.9
    assert params["batch_key"] == "batch"
    assert params["compose"] == "no"  # some genes alone cannot be composed
    assert params["rng"] == str(2**70)
    assert screen.uns["causes"]["n_draws"] == 2  # all genes are in one set: the second draw agrees


def test_all_pairs_are_composed_where_the_model_can(screen, tiny_weights, tmp_path):
    net = load(tiny_weights).net
    composing = PairStream(PairStreamConfig(**{**net.config.to_dict(), "rounds": 1}))
    composing.load_state_dict(net.state_dict(), strict=False)
    folder = tmp_path / "composing"
    folder.mkdir()
    save_file(composing.state_dict(), folder / "model.safetensors")
    config = json.loads((tiny_weights / "config.json").read_text()) | {"sizes": composing.config.to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    found = {}
    for name, weights, how in (("plain", tiny_weights, {}), ("on", folder, {}), ("off", folder, {"compose": False})):
        adata = screen.copy()
        tl.causes(adata, model=weights, **QUICK, **how)
        found[name] = adata.varp["causes"]
        assert adata.uns["causes"]["params"]["compose"] == ("learned" if name == "on" else "no")
    np.testing.assert_array_equal(found["off"], found["plain"])
    off = ~np.eye(len(found["on"]), dtype=bool)
    assert (found["on"] > found["plain"])[off].any()
    tl.causes(screen, "G01", model=folder, **QUICK)
    assert screen.uns["causes"]["params"]["compose"] == "no"
    for weights in (tiny_weights, folder):  # an untrained composition is the plain one
        adata = screen.copy()
        tl.causes(adata, model=weights, compose="plain", **QUICK)
        np.testing.assert_array_equal(adata.varp["causes"], found["on"])
        assert adata.uns["causes"]["params"]["compose"] == "plain"
    with pytest.raises(ValueError, match=r"compose must be True, False or 'plain', not 'paths'"):
        tl.causes(screen, model=folder, compose="paths", **QUICK)


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


CONTAINERS = {
    "F-ordered": np.asfortranarray,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "int8": lambda x: x.astype(np.int8),
    "uint16": lambda x: x.astype(np.uint16),
    "readonly": readonly,
    "CSR": sparse.csr_matrix,
    "CSC": sparse.csc_matrix,
    "CSR array": sparse.csr_array,
    "CSC array of int": lambda x: sparse.csc_array(x.astype(np.int32)),
}


def assert_equal_scores(plain, other):
    assert set(plain) == set(other)
    for key, value in plain.items():
        np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("case", CONTAINERS)
@pytest.mark.parametrize("layer", [None, "raw"])
def test_container_does_not_matter(screen, tiny_weights, case, layer):
    plain = scores(screen.copy(), tiny_weights)
    x = CONTAINERS[case](screen.X)
    if layer is None:
        screen.X = x
    else:
        screen.layers["raw"], screen.X = x, None
    assert_equal_scores(plain, scores(screen, tiny_weights, layer=layer))


def test_bool_is_one_and_zero(screen, tiny_weights):
    screen.X = (screen.X > 4).astype(np.float32)
    plain = scores(screen.copy(), tiny_weights)
    screen.X = screen.X.astype(bool)
    assert_equal_scores(plain, scores(screen, tiny_weights))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_backed(screen, tiny_weights, tmp_path, form):
    plain = scores(screen.copy(), tiny_weights)
    screen.X = form(screen.X)
    screen.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert_equal_scores(plain, scores(backed, tiny_weights))
    backed.file.close()


def test_view(screen, tiny_weights):
    x = np.hstack([screen.X, np.ones((156, 2), np.float32)])
    big = ad.AnnData(x, obs=screen.obs, uns=screen.uns, var=pd.DataFrame(index=[*screen.var_names, "more1", "more2"]))
    plain = scores(screen.copy(), tiny_weights)
    view = big[:, :32]
    assert view.is_view
    assert_equal_scores(plain, scores(view, tiny_weights))
    assert not view.is_view
    assert not big.varm
    assert "causes" not in big.uns


def test_whole_numbers_may_be_expression(screen, tiny_weights):
    assert_equal_scores(scores(screen.copy(), tiny_weights), scores(screen, tiny_weights, values="expression"))


def test_other_entries_of_uns_are_not_overwritten(screen, tiny_weights):
    screen.uns["causes"] = "mine"
    with pytest.raises(ValueError, match="pass another key_added"):
        tl.causes(screen, "G01", model=tiny_weights, progress_bar=False)
    assert screen.uns["causes"] == "mine"


def test_a_class_is_no_model(screen, tiny_weights):
    class Model:
        def as_weights(self):
            raise AssertionError

    with pytest.raises(ValueError, match="not the class Model"):
        tl.causes(screen, "G01", model=Model, progress_bar=False)


# --- targets --------------------------------------------------------------------------------------------------------


class Shift:
    """Stands for the network: the size of the shift of the means."""

    def prepare(self, control):
        return control

    def score(self, state, perturbed, rng):
        return (perturbed.mean - state.mean).abs() + 0.01 * rng.random()


class Model:
    def __init__(self, **config):
        self.config = {"model": "CDN", **config}

    def as_weights(self):
        return Weights("tiny", None, self.config, "ab" * 32)


@pytest.fixture
def shift(monkeypatch):
    monkeypatch.setattr("causcade.targets.network_scorer", lambda weights, settings: Shift())
    return Model()


def target_scores(adata, model, *args, **how) -> dict[str, np.ndarray]:
    tl.targets(adata, *args, model=model, **{"progress_bar": False, **how})
    return {key: np.asarray(value) for key, value in adata.varm.items()}


def test_targets_writes_what_it_says(screen, shift, caplog):
    before = (screen.X.copy(), list(screen.obs), list(screen.var), list(screen.uns))
    with caplog.at_level(logging.INFO, logger="causcade"):
        assert tl.targets(screen, ["G05", "G01"], model=shift, n_null=2, progress_bar=False) is None
    assert [r.message for r in caplog.records if "tiny@abababababab on cpu" in r.message]
    sizes = {key: (value.shape, value.dtype.name) for key, value in screen.varm.items()}
    parts = ["", "_sd", "_pvalue", "_fdr", "_lfc", "_wilcoxon", "_fused"]
    assert sizes == {f"targets{part}": ((32, 2), "float32") for part in parts}
    result = screen.uns["targets"]
    assert list(result["names"]) == ["G05", "G01"]
    assert (result["model"], result["weights"], result["n_draws"]) == ("tiny", "tiny@abababababab", 4)
    assert result["params"] == {
        "layer": "X",
        "values": "counts",
        "batch_key": "",
        "candidates": "auto",
        "n_candidates": 1000,
        "min_candidates": 100,
        "n_draws": 4,
        "n_half": 2,
        "n_null": 2,
        "masked": False,
        "units": "logit",
        "regimes_key": "regimes",
        "rng": 0,
    }
    assert np.argmax(screen.varm["targets"], 0).tolist() == [5, 1]
    np.testing.assert_array_equal(screen.X, before[0])
    assert (list(screen.obs), list(screen.var), [*before[3], "targets"]) == (*before[1:3], list(screen.uns))
    assert not screen.varp


def test_all_perturbations_in_parts(screen, shift):
    whole = target_scores(screen.copy(), shift)
    assert whole["targets"].shape == (32, 12)
    part = target_scores(screen, shift, ["G04", "G11"])
    for key, value in part.items():
        np.testing.assert_array_equal(value, whole[key][:, [4, 11]], err_msg=key)


def test_masked_hides_the_target(screen, shift):
    plain = target_scores(screen.copy(), shift, "G07")
    masked = target_scores(screen, shift, "G07", masked=True)
    assert screen.uns["targets"]["params"]["masked"] is True
    assert abs(masked["targets_lfc"][7, 0]) < 0.3 * abs(plain["targets_lfc"][7, 0])
    assert np.argmax(plain["targets"][:, 0]) == 7


def test_candidates_by_name(screen, shift):
    scores = target_scores(screen, shift, ["G07"], candidates=["G30", "G07"])
    assert np.flatnonzero(np.isfinite(scores["targets"][:, 0])).tolist() == [7, 30]
    assert list(screen.uns["targets"]["params"]["candidates"]) == ["G30", "G07"]


def test_two_groups_without_regimes(screen, shift):
    with_regimes = target_scores(screen.copy(), shift, "G07", candidates="all")
    del screen.uns["regimes"]
    scores = target_scores(screen, shift, groups=("control", "G07"), groupby="pert", key_added="mine")
    assert list(screen.uns["mine"]["names"]) == ["G07"]
    params = screen.uns["mine"]["params"]
    assert (params["groupby"], params["reference"], params["regimes_key"]) == ("pert", "control", "")
    lfc, expected = scores["mine_lfc"], with_regimes["targets_lfc"]
    assert np.corrcoef(lfc[:, 0], expected[:, 0])[0, 1] > 0.999  # only the library size of the others is missing


def test_nothing_of_an_earlier_targets_call_stays(screen, shift):
    target_scores(screen, shift, n_null=1)
    again = target_scores(screen, shift, "G01")
    assert {value.shape for value in again.values()} == {(32, 1)}
    assert not [key for key in again if key.endswith(("pvalue", "fdr"))]


def test_causes_and_targets_keep_apart(screen, shift, tiny_weights):
    tl.causes(screen, "G01", model=tiny_weights, **QUICK)
    with pytest.raises(ValueError, match=r"cc\.tl\.targets did not write"):
        target_scores(screen, shift, key_added="causes")
    target_scores(screen, shift)
    with pytest.raises(ValueError, match=r"cc\.tl\.causes did not write"):
        tl.causes(screen, "G01", model=tiny_weights, key_added="targets", **QUICK)
    screen.uns["graph"] = {"names": ["G01"], "weights": "x", "threshold": 0.5, "params": {}}
    with pytest.raises(ValueError, match=r"cc\.tl\.causes did not write"):
        tl.causes(screen, "G01", model=tiny_weights, key_added="graph", **QUICK)
    check_place(screen, "graph", "regimes", "graph")
    assert "causes" in screen.varm


def test_a_model_answers_its_own_question(screen, shift, tiny_weights):
    with pytest.raises(ValueError, match=r"of TCD, but cc\.tl\.targets needs CDN\. They answer cc\.tl\.causes"):
        target_scores(screen, tiny_weights)
    with pytest.raises(ValueError, match=r"of CDN, but cc\.tl\.causes needs TCD\. They answer cc\.tl\.targets"):
        tl.causes(screen, "G01", model=shift, **QUICK)
    with pytest.raises(ValueError, match=r"of AVICI, but cc\.tl\.targets needs CDN\. They answer cc\.tl\.graph"):
        target_scores(screen, Model(model="AVICI"))
    with pytest.raises(ValueError, match=r"of TCD, but cc\.tl\.graph needs AVICI"):
        load_weights(tiny_weights, "AVICI")
    assert load_weights(Model(model="AVICI"), "AVICI").model == "AVICI"


def test_files_without_the_name_of_the_model_answer_their_own_question(screen, tiny_target_weights):
    config = json.loads((tiny_target_weights / "config.json").read_text())
    del config["model"]
    (tiny_target_weights / "config.json").write_text(json.dumps(config))
    target_scores(screen, tiny_target_weights, "G05", n_draws=1, n_half=0)
    with pytest.raises(ValueError, match=r"of CDN, but cc\.tl\.causes needs TCD"):
        tl.causes(screen, "G01", model=tiny_target_weights, **QUICK)


def test_what_the_model_was_set_up_with(screen, shift):
    screen.layers["counts"] = screen.X.copy()
    screen.X = np.zeros_like(screen.X)
    shift.adata = screen
    shift._setup_args = lambda: {
        "layer": "counts",
        "values": "counts",
        "batch_key": "batch",
        "regimes_key": "regimes",
    }
    target_scores(screen, shift, "G05")
    params = screen.uns["targets"]["params"]
    assert (params["layer"], params["batch_key"]) == ("counts", "batch")
    assert np.argmax(screen.varm["targets"][:, 0]) == 5


@pytest.mark.parametrize("rng", [7, np.int64(7), np.random.default_rng(7)], ids=["int", "numpy int", "generator"])
def test_rng_of_targets(screen, shift, rng):
    a = target_scores(screen.copy(), shift, "G05", rng=7, n_null=1)
    other = screen.copy()
    b = target_scores(other, shift, "G05", rng=rng, n_null=1)
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], err_msg=key)
    assert other.uns["targets"]["params"].get("rng") == (None if isinstance(rng, np.random.Generator) else 7)
    assert not np.array_equal(target_scores(screen, shift, "G05", rng=8)["targets"], a["targets"])


@pytest.mark.parametrize("case", CONTAINERS)
def test_container_does_not_matter_for_targets(screen, shift, case):
    plain = target_scores(screen.copy(), shift, ["G01"], n_draws=1)
    screen.X = CONTAINERS[case](screen.X)
    assert_equal_scores(plain, target_scores(screen, shift, ["G01"], n_draws=1))


def test_view_and_backed_file(screen, shift, tmp_path):
    plain = target_scores(screen.copy(), shift, ["G01"])
    view = screen[:, :]
    assert_equal_scores(plain, target_scores(view, shift, ["G01"]))
    assert not view.is_view
    assert not screen.varm
    screen.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert_equal_scores(plain, target_scores(backed, shift, ["G01"]))
    backed.file.close()


def test_survives_a_file(screen, shift, tmp_path):
    target_scores(screen, shift, ["G01", "G02"], candidates=["G01", "G02", "G03"])
    screen.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    for key, value in screen.varm.items():
        np.testing.assert_array_equal(value, back.varm[key])
    assert list(back.uns["targets"]["params"]["candidates"]) == ["G01", "G02", "G03"]
    assert set(back.uns["targets"]["params"]) == set(screen.uns["targets"]["params"])
    target_scores(back, shift, ["G01"])  # and can be overwritten


def test_perturbations_of_few_cells_get_no_column(screen, shift):
    small = screen[np.r_[0:62, 68:156]].copy()
    with pytest.warns(UserWarning, match="1 with fewer than 3 usable cells are skipped: 'G00'"):
        target_scores(small, shift)
    assert list(small.uns["targets"]["names"]) == [f"G{g:02d}" for g in range(1, 12)]
    assert small.varm["targets"].shape == (32, 11)


BAD_QUESTIONS = {
    "groups alone": ({"groups": ("a", "b")}, ValueError, "groups=.*groupby=.*together"),
    "groupby alone": ({"groupby": "pert"}, ValueError, "together"),
    "both": ({"perturbations": "G01", "groups": ("G01", "G02"), "groupby": "pert"}, ValueError, "either"),
    "masked groups": ({"masked": True, "groups": ("G01", "G02"), "groupby": "pert"}, ValueError, "groups have none"),
    "masked": ({"masked": 1}, ValueError, "masked must be True or False"),
    "group": ({"groups": ("G01", "G99"), "groupby": "pert"}, KeyError, "no group 'G99'"),
    "perturbation": ({"perturbations": "G99"}, KeyError, "no regime 'G99'"),
    "candidates": ({"candidates": "some"}, ValueError, "candidates must be 'auto', 'all', 'de' or at least two"),
    "one candidate": ({"candidates": ["G01"]}, ValueError, "at least two names"),
    "candidates a number": ({"candidates": 3}, ValueError, "at least two names"),
    "candidate": ({"candidates": ["G01", "g02"]}, KeyError, r"not in \.var_names: \['g02'\].*'G02'"),
    "candidates twice": ({"candidates": ["G01", "G01"]}, ValueError, "Genes occur twice"),
    "n_candidates": ({"n_candidates": 1}, ValueError, "n_candidates must be a whole number of at least 2"),
    "n_draws": ({"n_draws": 0}, ValueError, "n_draws must be"),
    "n_half": ({"n_half": -1}, ValueError, "n_half must be"),
    "n_null": ({"n_null": 1.0}, ValueError, "n_null must be"),
    "rng": ({"rng": -1}, ValueError, "rng must not be negative"),
    "key_added": ({"key_added": "a/b"}, ValueError, "key_added must be non-empty text"),
    "key of the regimes": ({"key_added": "regimes"}, ValueError, "would overwrite the regimes"),
    "model": ({"model": 3}, ValueError, "a folder or a trained CDN, not int"),
    "no weights": ({"model": "cdn-nothing"}, ValueError, "No weights 'cdn-nothing'"),
    "layer": ({"layer": "x"}, KeyError, "no layer 'x'"),
    "regimes": ({"regimes_key": "mine"}, KeyError, r"no regimes in \.uns\['mine'\]"),
    "batch": ({"batch_key": "bat"}, KeyError, "no column 'bat'"),
    "values": ({"values": "log"}, ValueError, "look like raw counts"),
}


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_bad_questions_leave_the_data_alone(screen, shift, fingerprint, case):
    how, kind, text = BAD_QUESTIONS[case]
    before = fingerprint(screen)
    with pytest.raises(kind, match=text) as caught:
        tl.targets(screen, **{"model": shift, "progress_bar": False, **how})
    assert type(caught.value) is kind
    assert fingerprint(screen) == before


def test_an_error_while_scoring_leaves_the_data_alone(screen, shift, fingerprint, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more")

    target_scores(screen, shift, "G01")
    before = fingerprint(screen)
    monkeypatch.setattr(Shift, "score", fail)
    with pytest.raises(RuntimeError, match="no more"):
        target_scores(screen, shift)
    assert fingerprint(screen) == before


def test_drugs_without_known_targets(screen, shift):
    screen.obs["pert"] = [label.replace("G", "drug ") for label in screen.obs["pert"]]
    pp.regimes(screen, "pert", "control", targets={})
    scores = target_scores(screen, shift, "drug 05")
    assert np.argmax(scores["targets"][:, 0]) == 5


def test_targets_do_not_take_the_place_of_other_things(screen, tiny_target_weights, fingerprint):
    """Parts of a result are named after its key: no key may be a part of another result, nor have one of the user's."""
    how = {"model": tiny_target_weights, "n_draws": 1, "n_half": 0, "progress_bar": False}
    tl.targets(screen, ["G01"], **how)
    screen.varm["drug_fdr"] = np.ones((32, 1))
    before = fingerprint(screen)
    for key in ("targets_lfc", "drug"):
        with pytest.raises(ValueError, match=r"would be overwritten by key_added"):
            tl.targets(screen, ["G01"], key_added=key, **how)
        assert fingerprint(screen) == before
    tl.targets(screen, ["G02", "G03"], **how)  # an earlier result of its own may
    assert screen.varm["targets"].shape == (32, 2)


def test_few_cells_and_no_null_are_told(screen, tiny_target_weights):
    few = screen[np.r_[0:60, 60:64, 68:76]].copy()
    few.obs["batch"] = ["c"] * 60 + ["c"] * 12
    how = {"model": tiny_target_weights, "n_draws": 1, "n_half": 0, "progress_bar": False}
    with pytest.warns(UserWarning, match="1 perturbations have fewer than 5 cells.*G00"):
        tl.targets(few, **how)
    few = screen[np.r_[0:10, 60:68]].copy()
    few.obs["batch"] = [f"b{i % 8}" for i in range(18)]
    with pytest.warns(UserWarning, match="have no null.*G00"):
        tl.targets(few, batch_key="batch", n_null=1, key_added="t", **how)
    assert np.isnan(few.varm["t_fdr"]).all()


# --- what is cut short goes on ----------------------------------------------------------------------------------------


def ask_causes(adata, weights, **how) -> None:
    given = {"subset_size": 8, "n_half": 2, "n_null": 2, "n_anchors": 2, "progress_bar": False}
    tl.causes(adata, ["G01", "G05", "G09"], model=weights, **given | how)


def ask_targets(adata, weights, **how) -> None:
    given = {"n_draws": 2, "n_null": 2, "batch_key": "batch", "candidates": "de", "n_candidates": 6}
    tl.targets(adata, model=weights, progress_bar=False, **given | how)


@pytest.fixture
def long_work(request, monkeypatch, tiny_weights, tiny_cell_weights):
    """A question of many blocks, and what is called for each set of genes or draw of a perturbation."""
    monkeypatch.setattr("causcade.ensemble._TOGETHER", 3)
    monkeypatch.setattr("causcade.targets._TOGETHER", 2)
    if request.param.startswith("causes"):
        weights = tiny_weights if request.param == "causes" else tiny_cell_weights
        name = "causcade.causes.pair_scorer" if request.param == "causes" else "causcade.causes.cell_scorer"
        plain = {"causcade.causes.pair_scorer": causes.pair_scorer, "causcade.causes.cell_scorer": causes.cell_scorer}[
            name
        ]
        return functools.partial(ask_causes, weights=weights), name, plain
    how = {"candidates": "all"} if "all" in request.param else {}
    return functools.partial(ask_targets, weights=Model(), **how), "causcade.targets.network_scorer", lambda *_: Shift()


def stop_at(monkeypatch, name: str, plain, n: int) -> list[int]:
    """Ctrl-C in the n-th score; the list counts them."""
    seen = [0]

    def watched(score):
        def call(*args, **how):
            if seen[0] == n:
                raise KeyboardInterrupt
            seen[0] += 1
            return score(*args, **how)

        return call

    def scorer(*args, **how):
        made = plain(*args, **how)
        if not hasattr(made, "score"):
            return watched(made)
        monkeypatch.setattr(made, "score", watched(made.score))
        return made

    monkeypatch.setattr(name, scorer)
    return seen


@pytest.mark.parametrize(
    ("long_work", "kind"),
    [("causes", "generator"), ("causes of cells", "seed"), ("targets", "seed"), ("targets, all genes", "generator")],
    indirect=["long_work"],
)
def test_interrupted_work_goes_on_with_the_same_bytes(
    screen, long_work, monkeypatch, tmp_path, fingerprint, kind
) -> None:
    ask, name, plain = long_work
    rng = (lambda: 3) if kind == "seed" else (lambda: np.random.Generator(np.random.MT19937(3)))
    whole = screen.copy()
    seen = stop_at(monkeypatch, name, plain, -1)
    ask(whole, rng=rng())
    every, before, made = seen[0], fingerprint(screen), 0
    for stop in (every // 4, every // 4, 1):  # the last within the block it goes on with
        seen = stop_at(monkeypatch, name, plain, stop)
        with pytest.raises(KeyboardInterrupt):
            ask(screen, rng=rng(), resume=tmp_path / "kept")
        assert fingerprint(screen) == before
        made += seen[0]
    seen = stop_at(monkeypatch, name, plain, -1)
    ask(screen, rng=rng(), resume=str(tmp_path / "kept"))
    assert fingerprint(screen) == fingerprint(whole)
    assert every <= made + seen[0] <= every + 3 * 8  # a block at most is made twice
    assert not (tmp_path / "kept").exists()


OTHERS = {
    "rng": ({"rng": 4}, "rng"),
    "draws": ({"n_draws": 3}, r"n_draws \(2, now 3\)"),
    "null": ({"n_null": 1}, r"n_null \(2, now 1\)"),
    "batches": ({"batch_key": None}, "data"),
    "values": ({"values": "expression"}, "data"),
}


@pytest.mark.parametrize(
    "case", [*OTHERS, "one count", "two genes swapped", "names", "weights", "asked", "the other tool"]
)
@pytest.mark.parametrize("tool", ["causes", "targets"])
def test_blocks_of_another_question_are_refused(
    screen, monkeypatch, tiny_weights, tmp_path, fingerprint, tool, case
) -> None:
    kept = tmp_path / "kept"
    if tool == "causes":
        ask, name, plain = (
            functools.partial(ask_causes, weights=tiny_weights),
            "causcade.causes.pair_scorer",
            causes.pair_scorer,
        )
    else:
        ask, name, plain = (
            functools.partial(ask_targets, weights=Model()),
            "causcade.targets.network_scorer",
            lambda *_: Shift(),
        )
    stop_at(monkeypatch, name, plain, 20)
    how = {"batch_key": "batch", "resume": kept}
    with pytest.raises(KeyboardInterrupt):
        ask(screen, **how)
    files = sorted(p.name for p in kept.iterdir())
    changed, text = OTHERS.get(case, ({}, "data"))
    if case == "one count":
        screen.X[7, 3] += 1
    elif case == "two genes swapped":  # the same totals of cells
        screen.X[:, [20, 21]] = screen.X[:, [21, 20]]
    elif case == "names":
        screen.var_names = [*screen.var_names[:-1], "other"]
    elif case == "weights":
        load = checks.load_weights
        monkeypatch.setattr(f"causcade.tl._{tool}.load_weights", lambda *a: replace(load(*a), sha256="cd" * 32))
        text = "model"
    elif case == "asked":
        text = "genes" if tool == "causes" else "perturbations"
        ask = functools.partial(
            tl.causes, genes="G02", subset_size=8, n_half=2, n_null=2, n_anchors=2, model=tiny_weights
        )
        if tool == "targets":
            ask = functools.partial(ask_targets, weights=Model(), perturbations=["G02"])
    elif case == "the other tool":
        ask, text = (
            (functools.partial(ask_targets, weights=Model()), "tool")
            if tool == "causes"
            else (functools.partial(ask_causes, weights=tiny_weights), "tool")
        )
    before = fingerprint(screen)
    with pytest.raises(ValueError, match=f"holds blocks of another question; different: .*{text}"):
        ask(screen, **how | changed)
    assert fingerprint(screen) == before
    assert sorted(p.name for p in kept.iterdir()) == files


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"resume": 3}, "resume must be a folder, or None to keep nothing, not 3"),
        ({"resume": ""}, "resume must be a folder"),
        ({"resume": "kept", "rng": None}, "resume needs the same random numbers again: pass a seed"),
    ],
)
@pytest.mark.parametrize("ask", [ask_causes, ask_targets])
def test_bad_folders(screen, tiny_weights, shift, ask, how, text, monkeypatch, tmp_path, fingerprint) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = fingerprint(screen)
    with pytest.raises(ValueError, match=text):
        ask(screen, tiny_weights if ask is ask_causes else shift, **how)
    assert fingerprint(screen) == before
    assert not list(Path().iterdir())


def test_a_kept_answer_is_written_again_after_an_error_at_the_end(screen, tiny_weights, tmp_path, monkeypatch) -> None:
    """Blocks are taken away only when the scores are in the AnnData."""
    with monkeypatch.context() as patch:
        patch.setattr("causcade.tl._causes._write", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask_causes(screen, tiny_weights, resume=tmp_path / "kept")
    seen = stop_at(monkeypatch, "causcade.causes.pair_scorer", causes.pair_scorer, -1)
    ask_causes(screen, tiny_weights, resume=tmp_path / "kept")
    assert seen == [0]
    assert not (tmp_path / "kept").exists()


def test_two_processes_may_share_a_folder(screen, tiny_weights, tmp_path, monkeypatch, fingerprint) -> None:
    """The second does the whole work while the first is at its fifth set, and takes the folder away."""
    whole, other = screen.copy(), screen.copy()
    ask_causes(whole, tiny_weights)
    monkeypatch.setattr("causcade.ensemble._TOGETHER", 3)
    calls, plain = itertools.count(), causes.pair_scorer

    def scorer(*args, **how):
        score = plain(*args, **how)

        def call(*args):
            if next(calls) == 4:
                ask_causes(other, tiny_weights, resume=tmp_path / "kept")
            return score(*args)

        return call

    monkeypatch.setattr(causes, "pair_scorer", scorer)
    ask_causes(screen, tiny_weights, resume=tmp_path / "kept")
    assert fingerprint(screen) == fingerprint(other) == fingerprint(whole)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("ask", [ask_causes, ask_targets])
def test_memory_and_time_are_told(screen, tiny_weights, shift, ask, caplog) -> None:
    with caplog.at_level(logging.INFO, logger="causcade"):
        ask(screen, tiny_weights if ask is ask_causes else shift)
    what = "Scores of causes among 32 genes" if ask is ask_causes else "Targets of 12 perturbations among 32 genes"
    told = [m for m in caplog.messages if m.startswith(what)]
    assert len(told) == 1 and "GB, and" in told[0] and told[0].endswith("are free.")
    (time,) = (i for i, m in enumerate(caplog.messages) if m.endswith(" to go"))
    assert time > caplog.messages.index(told[0])
