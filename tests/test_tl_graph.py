"""cc.tl.graph: what it writes, what it refuses, and what it leaves alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import sparse

from causcade import get, pp, tl
from causcade.models import AVICI
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig
from causcade.pretrained import load

GENES = ["G03", "G00", "G20", "G05"]
PARTS = ["", "_correlation", "_dag", "_knockout_t", "_precision", "_sd"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Folder of an untrained edge network that is sure of some edges."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = EdgeStream(EdgeStreamConfig(width=8, layers=1, heads=2, hidden=8, triads=2))
        torch.nn.init.normal_(net.head[-1].weight)
        torch.nn.init.normal_(net.skip.weight, std=0.3)
    folder = tmp_path / "tiny-edges"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    config = {"model": "AVICI", "network": "edges", "sizes": net.config.to_dict(), "subset": 100}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(adata: Any, model: Any, genes: Any = GENES, **how: Any) -> None:
    tl.graph(adata, genes, model=model, **{"n_draws": 2, "threshold": 0.15, "progress_bar": False} | how)


def test_writes_what_it_says(screen: Any, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = (screen.X.copy(), list(screen.obs), list(screen.var), list(screen.uns))
    with caplog.at_level(logging.INFO, logger="causcade"):
        assert run(screen, weights) is None  # type: ignore[func-returns-value]
    assert any("of them expected to be false" in r.message for r in caplog.records)
    assert sorted(screen.varp) == [f"graph{part}" for part in PARTS]
    at = screen.var_names.get_indexer(GENES)
    outside = np.ones((32, 32), dtype=bool)
    outside[np.ix_(at, at)] = np.eye(4, dtype=bool)
    for matrix in screen.varp.values():
        assert sparse.issparse(matrix) and matrix.format == "csr" and matrix.dtype == np.float32
        assert matrix.shape == (32, 32) and not matrix.toarray()[outside].any()
    result = screen.uns["graph"]
    assert list(result["names"]) == GENES and list(result["perturbed"]) == ["G03", "G00", "G05"]
    assert result["model"] == str(weights) and result["weights"] == load(weights).label
    assert (result["n_cells"], result["n_control"], result["threshold"]) == (84, 60, 0.15)
    p = screen.varp["graph"].toarray()[np.ix_(at, at)]
    called = p[~np.eye(4, dtype=bool)] >= 0.15
    assert 0 < result["n_called"] == called.sum() < 12
    assert result["n_false_expected"] == pytest.approx((1 - p[~np.eye(4, dtype=bool)][called]).sum(), rel=1e-5)
    assert result["params"] == {
        "layer": "X", "values": "counts", "batch_key": "", "regimes_key": "regimes", "n_draws": 2, "subset_size": 100,
        "threshold": 0.15, "others": "drop", "max_cells": 10000, "dag": True, "rng": 0,
    }  # fmt: skip
    t = screen.varp["graph_knockout_t"]
    assert t.nnz == 9 and not t.toarray()[20].any()  # G20 was not perturbed
    dag = screen.varp["graph_dag"].toarray()[np.ix_(at, at)]
    np.testing.assert_array_equal(dag[dag != 0], p[dag != 0])
    np.testing.assert_array_equal(screen.X, before[0])
    assert (list(screen.obs), list(screen.var), [*before[3], "graph"]) == (*before[1:3], list(screen.uns))
    assert not screen.varm


def test_rerun_leaves_nothing_behind(screen: Any, weights: Path) -> None:
    run(screen, weights)
    run(screen, weights, GENES[:3], n_draws=0, dag=False, rng=np.random.default_rng(0), fdr=0.5, threshold=None)
    assert sorted(screen.varp) == ["graph", "graph_correlation", "graph_knockout_t", "graph_precision"]
    assert screen.varp["graph"].nnz == 6
    params = screen.uns["graph"]["params"]
    assert params["fdr"] == 0.5 and "rng" not in params and "threshold" not in params
    assert list(get.graph(screen).columns) == [
        "cause", "effect", "probability", "called", "correlation", "precision", "knockout_t",
    ]  # fmt: skip


def test_other_keys(screen: Any, weights: Path) -> None:
    pp.regimes(screen, "pert", "control", key_added="mine")
    del screen.uns["regimes"]
    run(screen, weights, regimes_key="mine", key_added="net")
    assert {"net", "net_sd", "net_dag"} <= set(screen.varp) and screen.uns["net"]["params"]["regimes_key"] == "mine"
    run(screen, weights, regimes_key=None, key_added="net")
    assert screen.uns["net"]["params"]["regimes_key"] == "" and screen.uns["net"]["n_control"] == 156
    assert not len(screen.uns["net"]["perturbed"]) and not screen.varp["net_knockout_t"].nnz


@pytest.mark.parametrize("form", ["view", "csr", "csc", "backed"])
def test_any_container(screen: Any, weights: Path, form: str, tmp_path: Path) -> None:
    other = screen.copy()
    if form == "view":
        other = other[::-1, :]
    elif form == "backed":
        screen.write_h5ad(tmp_path / "a.h5ad")
        other = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    else:
        other.X = getattr(sparse, f"{form}_matrix")(screen.X)
    run(screen, weights, n_draws=0)
    run(other, weights, n_draws=0)
    for name in screen.varp:
        np.testing.assert_allclose(screen.varp[name].toarray(), other.varp[name].toarray(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("how", [{}, {"regimes_key": None, "n_draws": 0, "threshold": None, "fdr": 0.0}])
def test_survives_a_file(screen: Any, weights: Path, suffix: str, how: dict[str, Any], tmp_path: Path) -> None:
    run(screen, weights, **how)
    getattr(screen, f"write_{suffix}")(tmp_path / f"a.{suffix}")
    back = getattr(ad, f"read_{suffix}")(tmp_path / f"a.{suffix}")
    assert back.uns["graph"]["threshold"] == screen.uns["graph"]["threshold"]
    first, second = get.graph(screen), get.graph(back)
    assert len(first) == 12
    assert first.astype(str).equals(second.astype(str))
    run(back, weights, **how)  # may be overwritten
    assert get.graph(back).astype(str).equals(first.astype(str))


def test_a_part_of_the_genes_later(screen: Any, weights: Path) -> None:
    run(screen, weights)
    whole = get.graph(screen).set_index(["cause", "effect"])
    part = get.graph(screen[:, ["G20", "G05", "G00", "G07"]]).set_index(["cause", "effect"])
    assert len(part) == 6
    assert part.equals(whole.loc[part.index])


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"genes": ["G00", "G99"]}, KeyError, "'G99'"),
        ({"genes": ["G00"]}, ValueError, "at least two"),
        ({"values": "log"}, ValueError, "look like raw counts"),
        ({"n_draws": -1}, ValueError, "n_draws"),
        ({"subset_size": 1}, ValueError, "subset_size"),
        ({"fdr": 1.5}, ValueError, "fdr must be a number from 0 to 1"),
        ({"threshold": "0.5"}, ValueError, "threshold must be a number from 0 to 1 or 'f1', not '0.5'"),
        ({"dag": "yes"}, ValueError, "dag must be True or False"),
        ({"max_cells": 2}, ValueError, "max_cells"),
        ({"rng": -3}, ValueError, "rng"),
        ({"regimes_key": "none"}, KeyError, "no regimes in .uns\\['none'\\]"),
        ({"key_added": "regimes"}, ValueError, "overwrite the regimes"),
        ({"key_added": "regimes", "regimes_key": None}, ValueError, "overwrite the regimes"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
        ({"accelerator": "tpu"}, ValueError, "accelerator"),
        ({"model": AVICI}, ValueError, "not the class AVICI"),
        ({"model": "avici-none"}, ValueError, "No weights 'avici-none'"),
    ],
)
def test_errors_change_nothing(
    screen: Any, weights: Path, fingerprint: Any, how: dict[str, Any], error: type[Exception], text: str
) -> None:
    before = fingerprint(screen)
    with pytest.raises(error, match=text):
        run(screen, **{"model": weights} | how)
    assert fingerprint(screen) == before


def test_error_in_the_network_changes_nothing(screen: Any, weights: Path, fingerprint: Any, monkeypatch: Any) -> None:
    run(screen, weights)
    before = fingerprint(screen)
    monkeypatch.setattr(EdgeStream, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(screen, weights, n_draws=0)
    assert fingerprint(screen) == before


def test_other_results_are_safe(screen: Any, weights: Path, tiny_weights: Path, tiny_target_weights: Path) -> None:
    tl.causes(screen, ["G01"], model=tiny_weights, n_half=0, progress_bar=False)
    tl.targets(screen, ["G01"], model=tiny_target_weights, n_half=0, progress_bar=False)
    for key in ("causes", "targets"):
        with pytest.raises(ValueError, match=rf"\.uns\['{key}'\] holds something that cc\.tl\.graph did not write"):
            run(screen, weights, key_added=key)
    run(screen, weights)
    with pytest.raises(ValueError, match=r"cc\.tl\.causes did not write"):
        tl.causes(screen, ["G01"], model=tiny_weights, key_added="graph", progress_bar=False)
    with pytest.raises(KeyError, match="no cause scores under key='graph'"):
        get.causes(screen, key="graph")
    screen.varp["net_dag"] = np.zeros((32, 32))
    with pytest.raises(ValueError, match=r"\.varp\['net_dag'\] would be overwritten"):
        run(screen, weights, key_added="net")


def test_weights_of_other_tools(screen: Any, weights: Path, tiny_weights: Path, tiny_target_weights: Path) -> None:
    for folder, tool in ((tiny_weights, "causes"), (tiny_target_weights, "targets")):
        with pytest.raises(ValueError, match=rf"cc\.tl\.graph needs AVICI.*cc\.tl\.{tool}"):
            run(screen, folder)
    with pytest.raises(ValueError, match=r"cc\.tl\.causes needs TCD.*cc\.tl\.graph"):
        tl.causes(screen, ["G01"], model=weights, progress_bar=False)


def test_model_says_how_to_read(screen: Any, weights: Path) -> None:
    screen.layers["log"] = np.log1p(screen.X)
    model = AVICI.from_pretrained(weights, screen, layer="log", values="log", batch_key="batch")
    run(screen, model)
    params = screen.uns["graph"]["params"]
    assert (params["layer"], params["values"], params["batch_key"]) == ("log", "log", "batch")
    other = screen.copy()
    run(other, model, values="expression")
    assert other.uns["graph"]["params"]["layer"] == "X" and other.uns["graph"]["params"]["batch_key"] == ""
