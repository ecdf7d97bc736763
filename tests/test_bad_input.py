"""Bad input beyond the table of `input_cases.py`: the right error, saying what, where and how, and the AnnData unchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from causcade import pp, tl


def call_regimes(adata, weights, **how) -> None:
    pp.regimes(adata, **{"perturbation_key": "pert", "control": "control", **how})


def call_causes(adata, weights, **how) -> None:
    tl.causes(adata, **{"genes": ["G01"], "model": weights, "n_half": 0, "progress_bar": False, **how})


def call_all_pairs(adata, weights, **how) -> None:
    call_causes(adata, weights, **{"genes": None, **how})


def call_targets(adata, weights, **how) -> None:
    tl.targets(adata, **{"perturbations": ["G01"], "model": weights, "n_draws": 1, "progress_bar": False, **how})


def call_reversal(adata, weights, **how) -> None:
    few = {"perturbations": ["G01"], "within": "all", "n_draws": 2, "n_null": 1, "progress_bar": False}
    tl.reversal(adata, ("control", "G00"), "pert", **few, **how)


#: Entry points: add new functions here.
CALLS: dict[str, Callable[..., None]] = {
    "pp.regimes": call_regimes,
    "tl.causes": call_causes,
    "tl.causes, all pairs": call_all_pairs,
    "tl.targets": call_targets,
    "tl.reversal": call_reversal,
}
CAUSES = ("tl.causes", "tl.causes, all pairs", "tl.targets", "tl.reversal")  # what is read is checked alike


def put(value: float, cell: int = 7, gene: int = 3) -> Callable[[Any], Any]:
    """One bad value in X."""

    def change(adata):
        adata.X[cell, gene] = value

    return change


def put_sparse(value: float) -> Callable[[Any], Any]:
    def change(adata):
        put(value)(adata)
        adata.X = sparse.csr_matrix(adata.X)

    return change


def log_values(adata):
    adata.layers["counts"] = adata.X
    adata.X = np.log1p(adata.X)


def no_value_in_batch(adata):
    adata.obs["batch"] = pd.Categorical([None, *adata.obs["batch"][1:]])


def no_label(adata):
    adata.obs["pert"] = pd.Categorical([None, *adata.obs["pert"][1:]])


def fill_x(value: Any) -> Callable[[Any], Any]:
    def change(adata):
        adata.X = value(adata.X)

    return change


def forget(adata):
    del adata.uns["regimes"]


# name: what is done to the AnnData (a function changes it, or returns another), arguments, error, message, where else
BAD_DATA: dict[str, tuple[Any, dict, type[Exception], str, tuple[str, ...]]] = {
    "no cells": (lambda a: a[:0].copy(), {}, ValueError, "empty: 0 cells x 32 genes", tuple(CALLS)),
    "no genes": (lambda a: a[:, :0].copy(), {}, ValueError, "empty: 156 cells x 0 genes", tuple(CALLS)),
    "NaN, sparse": (put_sparse(np.nan), {}, ValueError, r"\.X holds nan \(cell 'c7', gene 'G03'\)", CAUSES),
    "NaN, log": (put(np.nan), {"values": "log"}, ValueError, r"\.X holds nan", CAUSES),
    "negative, expression": (
        put(-2),
        {"values": "expression"},
        ValueError,
        r"\.X holds negative values \(-2\): give counts",
        CAUSES,
    ),
    "log as counts": (log_values, {}, ValueError, r"raw counts are needed.*\(layer='counts'\)", CAUSES),
    "no X": (fill_x(lambda x: None), {}, ValueError, r"\.X is empty\. Pass layer=", CAUSES),
    "no regimes": (forget, {}, KeyError, r"no regimes in \.uns\['regimes'\]\. Call cc\.pp\.regimes", CAUSES),
    "other regimes": (None, {"regimes_key": "mine"}, KeyError, r"no regimes in \.uns\['mine'\]", CAUSES),
    "controls lost": (lambda a: a[60:].copy(), {}, ValueError, "None of the 96 cells is a control", CAUSES),
    "label lost": (no_label, {}, ValueError, "1 .*cells have (no label|labels)", tuple(CALLS)),
    "no batch column": (
        None,
        {"batch_key": "batches"},
        KeyError,
        r"no column 'batches' \(batch_key\)\. Close to 'batches': 'batch'",
        CAUSES,
    ),
    "no value in batch": (
        no_value_in_batch,
        {"batch_key": "batch"},
        ValueError,
        r"1 of 156 cells have no value in \.obs\['batch'\] \(batch_key\); fill or drop",
        CAUSES,
    ),
}
BAD_LABELS = {
    "no column": ({"perturbation_key": "perts"}, KeyError, r"no column perturbation_key='perts'.*Close.*'pert'"),
    "no control": ({"control": "ctrl"}, ValueError, "'ctrl'.*'control'"),
    "no control given": ({"control": None}, ValueError, r"Pass control=.*'control' \(60 cells\)"),
    "key_added": ({"key_added": "a/b"}, ValueError, "key_added must be non-empty text"),
    "empty key_added": ({"key_added": " "}, ValueError, "key_added must be non-empty text"),
}
BAD_ARGUMENTS = {
    "gene absent": (
        {"genes": ["G01", "g02"]},
        KeyError,
        r"1 of 2 genes are not in \.var_names: \['g02'\].*Close.*'G02'",
    ),
    "genes twice": ({"genes": ["G01", "G01"]}, ValueError, r"Genes occur twice: \['G01'\]"),
    "no genes": ({"genes": []}, ValueError, "No genes were given.*None for all pairs"),
    "genes a number": ({"genes": 3}, ValueError, "genes must be a gene name.*not 3"),
    "rng negative": ({"rng": -1}, ValueError, "rng must not be negative, got -1"),
    "rng text": ({"rng": "a"}, ValueError, "rng must be a non-negative int, a numpy Generator or None, not 'a'"),
    "rng bool": ({"rng": True}, ValueError, "rng must be a non-negative int.*not True"),
    "rng float": ({"rng": 1.0}, ValueError, "rng must be a non-negative int"),
    "key_added": ({"key_added": "a/b"}, ValueError, "key_added must be non-empty text.*'a/b'"),
    "key_added no text": ({"key_added": None}, ValueError, "key_added must be non-empty text"),
    "key_added of the regimes": ({"key_added": "regimes"}, ValueError, "would overwrite the regimes"),
    "n_draws": ({"n_draws": 0}, ValueError, "n_draws must be a whole number of at least 1, not 0"),
    "n_draws float": ({"n_draws": 1.5}, ValueError, "n_draws must be a whole number"),
    "n_half": ({"n_half": -1}, ValueError, "n_half must be a whole number of at least 0"),
    "n_null": ({"n_null": True}, ValueError, "n_null must be a whole number"),
    "n_top": ({"n_top": 0}, ValueError, "n_top must be a whole number of at least 1"),
    "subset_size": ({"subset_size": 2}, ValueError, "subset_size must be a whole number of at least 3"),
    "stable": ({"stable": "a"}, ValueError, "stable is a rank correlation.*not 'a'"),
    "stable NaN": ({"stable": float("nan")}, ValueError, "stable is a rank correlation"),
    "unknown model": ({"model": "tcd-nothing"}, ValueError, "No weights 'tcd-nothing': neither a released name"),
    "model a number": ({"model": 3}, ValueError, "model must be a released name, a folder or a trained TCD, not int"),
    "accelerator": ({"accelerator": "tpu"}, ValueError, "accelerator must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
    "no cuda": ({"accelerator": "cuda"}, RuntimeError, "finds no CUDA device; use accelerator='auto' or 'cpu'"),
    "devices": ({"devices": "all"}, ValueError, "devices must be 'auto' or the number of a device"),
}


@pytest.fixture
def weights_of(tiny_weights, tiny_target_weights):
    """Weights that fit an entry point."""
    return lambda call: tiny_target_weights if call == "tl.targets" else tiny_weights


@pytest.fixture
def refused(screen, weights_of, fingerprint, monkeypatch):
    """Make a call that must fail, and compare the AnnData before and after."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(call: str, change: Any, how: dict, kind: type[Exception], text: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            changed = change(screen) if change else None
        adata = screen if changed is None else changed
        before = fingerprint(adata)
        with pytest.raises(kind, match=text) as caught:
            CALLS[call](adata, weights_of(call), **how)
        assert type(caught.value) is kind
        assert fingerprint(adata) == before

    return run


@pytest.mark.parametrize(("case", "call"), [(name, call) for name, bad in BAD_DATA.items() for call in bad[4]])
def test_data(refused, case, call):
    change, how, kind, text, _ = BAD_DATA[case]
    refused(call, change, how, kind, text)


@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels(refused, case):
    refused("pp.regimes", None, *BAD_LABELS[case])


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments(refused, case):
    refused("tl.causes", None, *BAD_ARGUMENTS[case])


def test_earlier_results_stay_after_an_error(screen, tiny_weights, fingerprint):
    call_causes(screen, tiny_weights, n_null=1)
    before = fingerprint(screen)
    with pytest.raises(KeyError, match="G99"):
        call_all_pairs(screen, tiny_weights, genes=["G99"])
    assert fingerprint(screen) == before


def test_fingerprint_sees_every_slot(screen, fingerprint):
    before = {fingerprint(screen)}
    changes = [put(99), lambda a: a.layers.update(x=a.X.copy()), lambda a: a.obs.insert(0, "new", 1)]
    changes += [lambda a: a.var.insert(0, "new", 1), lambda a: a.uns.update(b={"c": np.arange(3)})]
    changes += [lambda a: a.varm.update(x=np.ones((32, 2))), lambda a: a.varm["x"].fill(2)]
    changes += [lambda a: a.varp.update(x=sparse.eye_array(32, format="csr")), lambda a: a.uns["b"]["c"].fill(7)]
    changes += [lambda a: a.uns["regimes"]["table"].insert(0, "new", 1)]
    for n, change in enumerate(changes):
        change(screen)
        before.add(fingerprint(screen))
        assert len(before) == n + 2, n


def test_view_of_a_backed_file(screen, weights_of, tmp_path):
    import anndata as ad

    screen.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for name, call in CALLS.items():
        with pytest.raises(ValueError, match="Load it first"):
            call(backed[:, :20], weights_of(name))
    backed.file.close()


def test_all_zero_cells_warn(screen, tiny_weights):
    screen.X[[3, 80]] = 0
    with pytest.warns(UserWarning, match=r"2 of 156 cells in \.X are zero.*filter_cells"):
        call_causes(screen, tiny_weights)
    assert np.isfinite(screen.varm["causes"]).all()


def test_no_counts_at_all(screen, tiny_weights):
    screen.X[:] = 0
    with pytest.warns(UserWarning, match="156 of 156 cells"):
        call_causes(screen, tiny_weights, n_null=1, n_half=2)
    assert np.isfinite(screen.varm["causes"]).all()
    assert not np.nan_to_num(screen.varm["causes_knockout_t"]).any()


def test_constant_and_silent_genes(screen, tiny_weights):
    screen.X[:, 20], screen.X[:, 21] = 3, 0
    call_causes(screen, tiny_weights, genes=["G20", "G21", "G01"], n_null=1, n_half=2)
    for key in ("causes", "causes_sd", "causes_fdr", "causes_correlation"):
        assert np.isfinite(screen.varm[key]).all(), key


def test_two_cells_and_two_genes(screen, tiny_weights):
    small = screen[[0, 1, 60, 61], [0, 20]].copy()
    call_all_pairs(small, tiny_weights, n_half=2, n_null=1)
    assert small.varp["causes"].shape == (2, 2)
    assert np.isfinite(small.varp["causes"]).all()
