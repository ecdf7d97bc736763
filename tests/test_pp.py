import hashlib
import logging
import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from causcade import pp
from causcade.regimes import from_adata, parse_labels

LABELS = ["ctrl", "ctrl", "A", "A", "A+B", "B+A", "Z", "Z", "D+ctrl", "D"]


@pytest.fixture
def adata():
    x = sparse.csr_matrix(np.arange(40, dtype=np.float32).reshape(10, 4))
    obs = pd.DataFrame({"pert": LABELS, "other": 1}, index=[f"c{i}" for i in range(10)])
    var = pd.DataFrame({"ids": [f"ENSG{i:011d}" for i in range(4)]}, index=list("ABCD"))
    return ad.AnnData(x, obs=obs, var=var, layers={"dense": x.toarray()}, uns={"kept": {"a": 1}})


def fingerprint(adata):
    x = adata.X
    x = (x.data, x.indices, x.indptr) if sparse.issparse(x) else np.asarray(x)
    state = (x, adata.obs.to_dict(), list(adata.obs.index), adata.var.to_dict(), list(adata.var.index), dict(adata.uns))
    return hashlib.sha256(pickle.dumps((state, adata.is_view, [str(d) for d in adata.obs.dtypes]))).hexdigest()


def test_table(adata, caplog):
    with caplog.at_level(logging.INFO, logger="causcade"):
        assert pp.regimes(adata, "pert", "ctrl") is None
    table = adata.uns["regimes"]["table"]
    assert table.columns.tolist() == ["name", "targets", "n_cells", "kind", "n_measured"]
    assert table.to_numpy().tolist() == [
        ["ctrl", "", 2, "control", 0],
        ["A", "A", 2, "single", 1],
        ["A+B", "A+B", 2, "combination", 2],
        ["D", "D", 2, "single", 1],
        ["Z", "Z", 2, "single", 0],
    ]
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "Regimes(10 cells, 2 of them control; 1 combination, 3 single); targets not measured: 1 ('Z')"
    ]
    assert len(caplog.records) == 1


def assert_same(a, b):
    assert a.names.tolist() == b.names.tolist()
    assert a.targets == b.targets
    assert a.kind.tolist() == b.kind.tolist()
    np.testing.assert_array_equal(a.codes, b.codes)
    for i, j in zip(a.target_index, b.target_index, strict=True):
        np.testing.assert_array_equal(i, j)


def test_read_back_equals_parse(adata):
    pp.regimes(adata, "pert", "ctrl")
    r = from_adata(adata)
    assert_same(r, parse_labels(LABELS, list("ABCD"), "ctrl"))
    assert r.params["perturbation_key"] == "pert"
    assert r.find("B+A") == 2


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("kwargs", [{}, {"sep": None, "targets": {"A/x": ["C"], "A": []}}, {"gene_symbols": "ids"}])
def test_survives_writing(adata, tmp_path, suffix, kwargs):
    if kwargs.get("gene_symbols"):
        adata.var_names, adata.var["ids"] = adata.var["ids"].to_numpy(), adata.var_names.to_numpy()
    if "targets" in kwargs:
        adata.obs["pert"] = ["ctrl", "ctrl", "A/x", "A/x", *["A"] * 6]
    pp.regimes(adata, "pert", ["ctrl"], key_added="mine", **kwargs)
    path = tmp_path / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = ad.read_h5ad(path) if suffix == "h5ad" else ad.read_zarr(path)
    before, after = from_adata(adata, "mine"), from_adata(back, "mine")
    assert_same(before, after)
    assert before.params.keys() == after.params.keys()
    for key, value in before.params.items():
        assert np.array_equal(np.asarray(value, dtype=object), np.asarray(after.params[key], dtype=object)), key
    for name in ("table", "labels", "targets"):
        left, right = adata.uns["mine"][name], back.uns["mine"][name]
        assert left.astype(str).to_numpy().tolist() == right.astype(str).to_numpy().tolist()
        assert list(map(str, left.index)) == list(map(str, right.index))


def test_survives_writing_without_targets(adata, tmp_path):
    adata.obs["pert"] = ["healthy"] * 4 + ["ill"] * 6
    pp.regimes(adata, "pert", "healthy", targets={})
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        getattr(adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
        assert from_adata(read(tmp_path / f"a.{suffix}")).kind.tolist() == ["control", "unknown"]


def test_robust_to_subsetting_and_shuffling(adata):
    pp.regimes(adata, "pert", "ctrl")
    cells, genes = [9, 0, 3, 5, 8, 1, 2], [3, 1]
    part = adata[cells, genes]
    r = from_adata(part)
    assert r.names.tolist() == ["ctrl", "A", "A+B", "D", "Z"]
    assert r.codes.tolist() == [3, 0, 1, -1, 3, 0, 1]  # one cell of A+B is left: below min_cells
    assert [i.tolist() for i in r.target_index] == [[], [], [1], [0], []]
    assert r.n_cells.tolist() == [2, 2, 0, 2, 0]


def test_read_back_errors(adata):
    with pytest.raises(KeyError, match=r"Call cc\.pp\.regimes"):
        from_adata(adata)
    pp.regimes(adata, "pert", "ctrl")
    with pytest.raises(ValueError, match="is a control"):
        from_adata(adata[2:])
    other = adata.copy()
    other.obs["pert"] = [*LABELS[:-2], "new", "new"]
    with pytest.raises(ValueError, match=r"2 cells have labels.*'new'"):
        from_adata(other)
    other.obs["pert"] = pd.Series([*LABELS[:-1], None], index=other.obs_names)
    with pytest.raises(ValueError, match=r"1 cells have labels.*missing"):
        from_adata(other)
    del other.obs["pert"]
    with pytest.raises(KeyError, match="no column perturbation_key='pert'"):
        from_adata(other)


BAD = {
    "column": ({"perturbation_key": "prt"}, KeyError, "Close to 'prt': 'pert'.*'pert', 'other'"),
    "control": ({"control": "ctl"}, ValueError, "Close to 'ctl': 'ctrl'"),
    "no control": ({"control": None}, ValueError, r"Pass control=.*'ctrl' \(2 cells\)"),
    "no key": ({"perturbation_key": None}, ValueError, "Pass perturbation_key=.*'pert'"),
    "symbols": ({"gene_symbols": "idz"}, KeyError, "no column gene_symbols='idz'.*'ids'"),
    "key_added": ({"key_added": "a/b"}, ValueError, "key_added"),
    "min_cells": ({"min_cells": 0}, ValueError, "min_cells"),
    "too few": ({"min_cells": 3}, ValueError, "Only 2 control"),
    "mapping": ({"targets": 3}, ValueError, "targets must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_error_leaves_adata_unchanged(adata, case):
    kwargs, kind, text = BAD[case]
    before = fingerprint(adata)
    with pytest.raises(kind, match=text):
        pp.regimes(adata, **{"perturbation_key": "pert", "control": "ctrl", **kwargs})
    assert fingerprint(adata) == before


def test_nan_labels_leave_adata_unchanged(adata):
    adata.obs["pert"] = pd.Categorical([*LABELS[:-1], None])
    before = fingerprint(adata)
    with pytest.raises(ValueError, match=r"1 of 10 cells have no label in \.obs\['pert'\]"):
        pp.regimes(adata, "pert", "ctrl")
    assert fingerprint(adata) == before


def test_warning_as_error_leaves_adata_unchanged(adata):
    adata.obs["pert"] = [*LABELS[:-2], "A", "D"]
    before = fingerprint(adata)
    with pytest.raises(UserWarning, match="fewer than min_cells"):
        pp.regimes(adata, "pert", "ctrl")
    assert fingerprint(adata) == before


def test_left_out_perturbations_are_listed(adata):
    adata.obs["pert"] = [*LABELS[:-2], "A", "D"]
    with pytest.warns(UserWarning, match="1 perturbations have fewer"):
        pp.regimes(adata, "pert", "ctrl")
    table = adata.uns["regimes"]["table"].set_index("name")
    assert table.loc["D", "n_cells"] == 1
    assert from_adata(adata).codes[-1] == -1


@pytest.mark.parametrize("shape", [(0, 4), (10, 0)])
def test_empty(adata, shape):
    part = adata[: shape[0], : shape[1]].copy()
    with pytest.raises(ValueError, match=f"empty: {shape[0]} cells x {shape[1]} genes"):
        pp.regimes(part, "pert", "ctrl")


def test_repeated_names(adata):
    adata.obs_names = ["c0", "c0", *adata.obs_names[2:]]
    with pytest.warns(UserWarning, match="1 obs_names occur more than once: 'c0'"):
        pp.regimes(adata, "pert", "ctrl")
    adata.var_names = ["A", "A", "C", "D"]
    with pytest.raises(ValueError, match="1 var_names occur more than once: 'A'"):
        pp.regimes(adata, "pert", "ctrl")


def test_symbols_in_another_column_are_pointed_out(adata):
    adata.var_names, adata.var["symbol"] = adata.var["ids"].to_numpy(), adata.var_names.to_numpy()
    with pytest.warns(UserWarning, match=r"Ensembl.*3 of 4 are in \.var\['symbol'\]: pass gene_symbols='symbol'"):
        pp.regimes(adata, "pert", "ctrl")
    pp.regimes(adata, "pert", "ctrl", gene_symbols="symbol")
    assert [i.tolist() for i in from_adata(adata).target_index] == [[], [0], [0, 1], [3], []]


def test_view_becomes_actual(adata):
    view = adata[[0, 1, 2, 3]]
    pp.regimes(view, "pert", "ctrl")
    assert not view.is_view
    assert from_adata(view).names.tolist() == ["ctrl", "A"]
    assert "regimes" not in adata.uns


def test_backed(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    pp.regimes(backed, "pert", "ctrl")
    pp.regimes(adata, "pert", "ctrl")
    assert_same(from_adata(backed), from_adata(adata))
    with pytest.raises(ValueError, match="to_memory"):
        pp.regimes(backed[:4], "pert", "ctrl")
    backed.file.close()


def test_mudata_modality(adata):
    mudata = pytest.importorskip("mudata")
    with mudata.set_options(pull_on_update=False):
        protein = ad.AnnData(np.ones((10, 2), dtype=np.float32), obs=adata.obs[[]])
        mdata = mudata.MuData({"rna": adata, "protein": protein})
    pp.regimes(mdata["rna"], "pert", "ctrl")
    assert "regimes" in mdata["rna"].uns


def test_cellxgene(adata):
    adata.obs["genetic_perturbation_id"] = pd.Categorical(
        ["na", "nt", "a1", "a2", "a1 || b", "a1 || b", "a1 || nt", "z", "z", "na"]
    )
    strategy = ["no perturbations", "control", *["CRISPR knockout screen"] * 7, "no perturbations"]
    adata.obs["genetic_perturbation_strategy"] = pd.Categorical(strategy)
    guides = {"a1": {adata.var["ids"].iloc[0]: "A"}, "a2": {"ENSG0": "A"}, "b": {"B": "b"}, "z": {}}
    records = {i: {"role": "targeting", "derived_features": f} for i, f in guides.items()}
    adata.uns["genetic_perturbations"] = {**records, "nt": {"role": "control"}}
    pp.regimes(adata)
    r = from_adata(adata)
    assert r.names.tolist() == ["control", "A", "A || B", "z"]
    assert r.targets == ((), ("A",), ("A", "B"), ())
    assert r.kind.tolist() == ["control", "single", "combination", "unknown"]
    assert r.codes.tolist() == [0, 0, 1, 1, 2, 2, 1, 3, 3, 0]
    adata.uns["genetic_perturbations"]["a1"] = {"role": "targeting", "target_features": {"C": "c"}}
    pp.regimes(adata, min_cells=1)  # the older name of the field
    assert from_adata(adata).names.tolist() == ["control", "A", "B || C", "C", "z"]
    assert from_adata(adata).codes.tolist() == [0, 0, 3, 1, 2, 2, 3, 4, 4, 0]
