from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from causcade import get, tl
from causcade.pretrained import load

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
    assert result["params"]["subset_size"] == 40
    np.testing.assert_array_equal(screen.X, before[0])
    assert (list(screen.obs), list(screen.var), [*before[3], "causes"]) == (*before[1:3], list(screen.uns))
    assert not screen.varp
    table = get.causes(screen, "G01")
    assert len(table) == 31
    top = table.iloc[0]
    assert top["score"] == np.delete(screen.varm["causes"][:, 1], 1).max()


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
    monkeypatch.setattr(tl, "_DENSE", 10)
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
    assert params["rng"] == str(2**70)
    assert screen.uns["causes"]["n_draws"] == 2  # all genes are in one set: the second draw agrees


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
