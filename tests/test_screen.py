"""A simulated screen as an AnnData."""

from __future__ import annotations

import inspect

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import causcade as cc
from causcade.simulate import graphs, screen

SMALL = {"n_genes": 30, "n_control": 60, "cells_per_perturbation": 4}


@pytest.fixture(scope="module")
def adata():
    return screen(**SMALL, rng=0)


def test_is_a_function_whatever_was_imported_before() -> None:
    import causcade.simulate.screen  # noqa: F401

    assert inspect.isfunction(cc.simulate.screen)
    assert all(getattr(cc.simulate, name) is not None for name in cc.simulate.__all__)
    assert dir(cc.simulate) == sorted(cc.simulate.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'scren'.*random_grn"):
        _ = cc.simulate.scren


def test_shapes_and_labels(adata) -> None:
    assert adata.shape == (60 + 30 * 4, 30)
    assert sp.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.var_names[[0, 29]].tolist() == ["G001", "G030"]
    assert adata.obs_names.is_unique
    counts = adata.obs["perturbation"].value_counts()
    assert counts["control"] == 60
    assert set(counts.index) == {"control", *adata.var_names}
    assert set(counts.drop("control")) == {4}
    assert adata.obs["cell_type"].nunique() == 3


def test_truth_is_acyclic_and_closed(adata) -> None:
    graph = torch.tensor(adata.varp["true_graph"].toarray() > 0)
    assert graph.any()
    assert graphs.is_dag(graph)
    assert torch.equal(graphs.ancestors(graph), torch.tensor(adata.varp["true_causes"].toarray() > 0))


def test_perturbed_genes_are_lost_in_their_cells(adata) -> None:
    own = adata.var_names.get_indexer(adata.obs["perturbation"])
    rows = np.flatnonzero(own >= 0)
    assert (adata.X.toarray()[rows, own[rows]] == 0).all()


def test_direct_effects_point_from_cause_to_effect() -> None:
    a = screen(20, n_control=400, cells_per_perturbation=60, n_types=1, fidelity="high", depth=1e5, rng=3)
    x, labels = np.log1p(a.X.toarray()), a.obs["perturbation"].to_numpy()
    control = x[labels == "control"]
    shift = np.stack([np.abs(x[labels == g].mean(0) - control.mean(0)) / control.std(0).clip(0.1) for g in a.var_names])
    edge, causes = a.varp["true_graph"].toarray() > 0, a.varp["true_causes"].toarray() > 0
    nothing = ~causes & ~causes.T & ~np.eye(20, dtype=bool)
    assert shift[edge].mean() > 1.5 * shift[edge.T].mean()
    assert shift[edge].mean() > 1.5 * shift[nothing].mean()


def test_one_seed_gives_the_same_screen(adata) -> None:
    again, other = screen(**SMALL, rng=0), screen(**SMALL, rng=1)
    assert (adata.X != again.X).nnz == 0
    assert adata.obs.equals(again.obs)
    assert (adata.varp["true_graph"] != again.varp["true_graph"]).nnz == 0
    assert (adata.X != other.X).nnz > 0
    assert (screen(**SMALL, rng=np.random.default_rng(0)).X != screen(**SMALL, rng=np.random.default_rng(0)).X).nnz == 0


def test_regimes_are_there_and_can_be_made_again(adata) -> None:
    table = adata.uns["regimes"]["table"]
    assert table["name"].tolist() == ["control", *adata.var_names]
    assert set(table["kind"]) == {"control", "single"}
    copy = adata.copy()
    cc.pp.regimes(copy, perturbation_key="perturbation", control="control")
    assert copy.uns["regimes"]["table"].equals(table)


@pytest.mark.parametrize("depth", [None, 500.0])
def test_survives_h5ad(tmp_path, depth) -> None:
    a = screen(**SMALL, depth=depth, rng=0)
    a.write_h5ad(tmp_path / "screen.h5ad")
    back = ad.read_h5ad(tmp_path / "screen.h5ad")
    assert (back.X != a.X).nnz == 0
    assert (back.varp["true_causes"] != a.varp["true_causes"]).nnz == 0
    assert back.uns["simulation"] == a.uns["simulation"]
    assert ("depth" in back.uns["simulation"]) == (depth is not None)
    assert back.uns["regimes"]["table"].equals(a.uns["regimes"]["table"])


def test_survives_zarr(adata, tmp_path) -> None:
    adata.write_zarr(tmp_path / "screen.zarr")
    back = ad.read_zarr(tmp_path / "screen.zarr")
    assert (back.X != adata.X).nnz == 0
    assert back.uns["simulation"] == adata.uns["simulation"]


def test_options_do_what_they_say() -> None:
    few = screen(**SMALL, n_perturbations=5, rng=0)
    assert few.obs["perturbation"].nunique() == 6
    assert few.n_obs == 60 + 5 * 4
    shallow, deep = (screen(**SMALL, depth=depth, rng=0).X.sum() for depth in (300.0, 3000.0))
    assert deep / shallow == pytest.approx(10, rel=0.3)
    fine = screen(**SMALL, fidelity="high", n_types=1, technology="drop-seq", kind="erdos_renyi", rng=0)
    assert fine.obs["cell_type"].nunique() == 1
    assert not (fine.X.data == np.round(fine.X.data)).all()
    assert fine.uns["simulation"]["technology"] == "drop-seq"
    active = screen(**SMALL, efficacy=-2.0, fidelity="high", rng=0)
    own = active.var_names.get_indexer(active.obs["perturbation"])
    rows = np.flatnonzero(own >= 0)
    x = active.X.toarray()
    activated = np.array([x[rows[own[rows] == g], g].mean() for g in range(30)])
    assert np.median(activated / x[own < 0].mean(0).clip(1e-6)) > 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "erdos"}, "kind of graph 'erdos'"),
        ({"technology": "10x"}, "technology '10x'"),
        ({"fidelity": "hi"}, "fidelity 'hi'"),
        ({"half_response": "wild"}, "half_response 'wild'"),
        ({"n_control": 0}, "n_control must be at least 1"),
        ({"cells_per_perturbation": 0}, "cells_per_perturbation must be at least 1"),
        ({"n_perturbations": 31}, "from 1 to n_genes=30"),
        ({"n_perturbations": 0}, "got 0"),
        ({"n_types": 0}, "n_types"),
        ({"depth": -1.0}, "depth"),
        ({"efficacy": 2.0}, "at most 1"),
        ({"n_genes": 0}, "0"),
        ({"n_genes": 10.0}, "n_genes must be a whole number; got 10.0"),
        ({"n_control": 60.5}, "n_control must be a whole number"),
        ({"cells_per_perturbation": "4"}, "cells_per_perturbation must be a whole number; got '4'"),
        ({"n_perturbations": 5.0}, "n_perturbations must be a whole number"),
        ({"n_types": True}, "n_types must be a whole number"),
    ],
    ids=str,
)
def test_bad_input_is_refused(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        screen(**{**SMALL, **options}, rng=0)
