"""Whatever the package writes into an AnnData survives h5ad and zarr, and can be read by `get` and by scanpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from causcade import get, pp, tl


def regimes(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    pp.regimes(adata, "pert", "control", key_added="mine")
    return lambda a: get.regimes(a, key="mine")


def causes(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    tl.causes(adata, ["G01", "G05"], model=weights, n_null=2, n_half=2, batch_key="batch", progress_bar=False)
    return get.causes


def causes_of_one(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    adata.var_names = [name.replace("G01", "HLA-A/B") for name in adata.var_names]
    adata.obs["pert"] = [label.replace("G01", "HLA-A/B") for label in adata.obs["pert"]]
    pp.regimes(adata, "pert", "control")
    tl.causes(adata, "HLA-A/B", model=weights, n_half=0, n_draws=1, stable=0.5, rng=None, progress_bar=False)
    return get.causes


def all_pairs(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    tl.causes(adata, model=weights, n_null=1, n_half=0, key_added="mine", progress_bar=False)
    return lambda a: get.causes(a, ["G01", "G20"], key="mine")


def all_pairs_sparse(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    monkeypatch.setattr("causcade.tl._causes._DENSE", 10)
    tl.causes(adata, model=weights, n_null=1, n_half=0, n_top=5, progress_bar=False)
    return get.causes


def targets(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    how = {"n_draws": 2, "n_null": 1, "batch_key": "batch", "progress_bar": False}
    tl.targets(adata, ["G00", "G03"], model=weights, masked=True, key_added="mine", **how)
    return lambda a: get.targets(a, key="mine")


def targets_of_groups(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    tl.targets(adata, groupby="batch", groups=("a", "b"), model=weights, candidates="de", n_half=2, progress_bar=False)
    return get.targets


def suggestions_from_causes(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    causes(adata, weights, monkeypatch)
    tl.suggest_perturbations(adata, ["G05"], key="causes", candidates=["G20", "G21"], key_added="next")
    return lambda a: get.suggestions(a, key="next")


def reversal(adata, weights, monkeypatch) -> Callable[[Any], pd.DataFrame]:
    adata.obs["state"] = np.where(np.arange(adata.n_obs) % 4 < 2, "ill", "well")
    how = {"n_draws": 4, "n_null": 3, "batch_key": "batch", "progress_bar": False}
    tl.reversal(adata, ("well", "ill"), "state", perturbations=["G00", "G03"], **how)
    return get.reversal


#: Everything that writes: each returns how to read the result. Add new functions here.
WRITERS = [
    regimes,
    causes,
    causes_of_one,
    all_pairs,
    all_pairs_sparse,
    targets,
    targets_of_groups,
    suggestions_from_causes,
    reversal,
]
FORMATS = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}


def assert_equal(left: Any, right: Any, where: str) -> None:
    """The same values, whatever they are kept in."""
    if isinstance(left, pd.DataFrame):
        assert list(left.columns) == list(right.columns), where
        assert left.astype(str).to_numpy().tolist() == right.astype(str).to_numpy().tolist(), where
        assert list(map(str, left.index)) == list(map(str, right.index)), where
    elif hasattr(left, "items"):
        assert set(left) == set(right), where
        for key, value in left.items():
            assert_equal(value, right[key], f"{where}/{key}")
    elif sparse.issparse(left):
        assert sparse.issparse(right), where
        for a, b in zip(left.tocsr().tocoo().coords, right.tocsr().tocoo().coords, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=where)
        np.testing.assert_array_equal(left.tocsr().data, right.tocsr().data, err_msg=where)
    else:
        a, b = np.asarray(left), np.asarray(right)
        if a.dtype.kind in "OUST":
            assert list(map(str, np.atleast_1d(a))) == list(map(str, np.atleast_1d(b))), where
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)
            assert a.dtype == b.dtype or a.ndim == 0, where


def written(adata, suffix, folder):
    path = folder / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    return FORMATS[suffix](path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("writer", WRITERS, ids=lambda w: w.__name__)
def test_survives(screen, tiny_weights, tiny_target_weights, tmp_path, monkeypatch, writer, suffix):
    weights = tiny_target_weights if writer.__name__.startswith("targets") else tiny_weights
    read = writer(screen, weights, monkeypatch)
    back = written(screen, suffix, tmp_path)
    for slot in ("uns", "varm", "varp", "obs", "var"):
        assert_equal(getattr(screen, slot), getattr(back, slot), slot)
    before, after = read(screen), read(back)
    assert len(before) > 0
    assert list(before.columns) == list(after.columns)
    for column in before:
        if before[column].dtype.kind == "f":
            np.testing.assert_array_equal(before[column], after[column], err_msg=column)
        else:
            assert before[column].astype(str).tolist() == after[column].astype(str).tolist(), column


@pytest.mark.parametrize(("suffix", "as_view"), [("h5ad", True), ("zarr", False)])
def test_asked_again_after_reading(screen, tiny_weights, tmp_path, suffix, as_view):
    """Regimes read back give the same scores, and what was read can be written again."""
    causes(screen, tiny_weights, None)
    back = written(screen, suffix, tmp_path)
    again = back[:, :] if as_view else back
    causes(again, tiny_weights, None)
    for key, value in screen.varm.items():
        np.testing.assert_array_equal(value, again.varm[key], err_msg=key)
    (tmp_path / "twice").mkdir()
    assert_equal(screen.uns, written(again, suffix, tmp_path / "twice").uns, "uns")


def test_scanpy_reads_it(screen, tiny_weights, tmp_path, monkeypatch):
    sc = pytest.importorskip("scanpy")
    causes(screen, tiny_weights, monkeypatch)
    screen.write_h5ad(tmp_path / "a.h5ad")
    back = sc.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(get.causes(back), get.causes(screen), check_dtype=False)
    sc.pp.normalize_total(back)
    sc.pp.log1p(back)
    assert back[:, ["G01", "G05"]].varm["causes"].shape == (2, 2)
