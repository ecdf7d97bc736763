"""What `tl.embed` writes of a fitted GraCE-VAE. The fit is too short to mean anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from causcade import get, pp, tl
from causcade.models import GraCEVAE

GENES = [f"G{i:02d}" for i in range(20)]
NETWORK = pd.DataFrame(
    [("G00", "G01", "GG")] + [("P1", g, "PG") for g in GENES[:4]] + [("P2", g, "PG") for g in GENES[6:9]],
    columns=["source", "target", "kind"],
)


def simulated() -> ad.AnnData:
    """Counts: X1 raises genes 0 to 4, X2 genes 5 to 9; one combination is there."""
    rng = np.random.default_rng(0)
    labels = ["ctrl"] * 40 + ["X1"] * 20 + ["X2"] * 20 + ["X1+X2"] * 12
    rates = np.full((len(labels), len(GENES)), 6.0)
    for name, genes in {"X1": slice(0, 5), "X2": slice(5, 10)}.items():
        rates[[name in label.split("+") for label in labels], genes] *= 3
    obs = pd.DataFrame({"pert": labels}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(rng.poisson(rates).astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


def fitted(adata: ad.AnnData, n_fits: int = 1, **choices: Any) -> GraCEVAE:
    GraCEVAE.setup_anndata(adata, "pert", "ctrl", targets={})
    model = GraCEVAE(adata, NETWORK, hidden=8, batch_size=10, n_fits=n_fits, **choices)
    model.train(2, progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def trained() -> GraCEVAE:
    return fitted(simulated(), n_fits=2, n_latent=4)


@pytest.fixture
def model(trained: GraCEVAE) -> GraCEVAE:
    """The trained model, its data as before any tool."""
    for slot in (trained.adata.uns, trained.adata.obsm, trained.adata.varm):
        for key in [k for k in slot if "gracevae" in k or "mine" in k]:
            del slot[key]
    return trained


def test_what_is_stored_is_what_the_model_says(model: GraCEVAE) -> None:
    adata = model.adata
    tl.embed(adata, model, fit=1, n_top=3)
    np.testing.assert_array_equal(adata.obsm["X_gracevae"], model.get_latent_representation(fit=1))
    graph = model.get_latent_graph(fit=1)
    pd.testing.assert_frame_equal(get.latent_graph(adata), graph, check_dtype=False, check_index_type=False)
    pd.testing.assert_frame_equal(get.programs(adata), model.get_programs(3, fit=1), check_dtype=False)
    assigned, stored = model.get_assignments(fit=1), adata.uns["gracevae"]
    assert stored["perturbations"].tolist() == assigned.index.tolist()
    np.testing.assert_allclose(stored["assignments"], assigned[graph.columns])
    np.testing.assert_allclose(stored["strength"], assigned["strength"])
    assert stored["params"] == {"fit": 1, "n_fits": 2, "exogenous": False, "n_top": 3}
    tl.embed(adata, model, exogenous=True)
    np.testing.assert_array_equal(adata.obsm["X_gracevae"], model.get_latent_representation(exogenous=True))


def test_loadings_are_at_their_genes_and_programs(model: GraCEVAE) -> None:
    tl.embed(model.adata, model)
    loadings = pd.DataFrame(model.adata.varm["gracevae_loadings"], index=GENES, columns=["P0", "P1", "P2", "P3"])
    table = model.get_programs(len(GENES)).query("kind == 'gene'")
    assert loadings.notna().all().sum() == table["program"].nunique() < 4  # the others are hit by nothing
    for row in table.itertuples():
        assert loadings.loc[row.name, row.program] == pytest.approx(row.score, rel=1e-5)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_survives_files(model: GraCEVAE, tmp_path: Path, suffix: str) -> None:
    adata = model.adata
    tl.embed(adata, model, key_added="mine")
    getattr(adata, f"write_{suffix}")(tmp_path / "a")
    back = {"h5ad": ad.read_h5ad, "zarr": ad.read_zarr}[suffix](tmp_path / "a")
    pd.testing.assert_frame_equal(get.programs(back, key="mine"), get.programs(adata, key="mine"))
    pd.testing.assert_frame_equal(get.latent_graph(back, key="mine"), get.latent_graph(adata, key="mine"))
    np.testing.assert_array_equal(back.obsm["X_mine"], adata.obsm["X_mine"])
    np.testing.assert_array_equal(back.varm["mine_loadings"], adata.varm["mine_loadings"])
    kept = back[:50, ["G05", "G01"]]
    assert kept.obsm["X_mine"].shape == (50, 4) and kept.varm["mine_loadings"].shape == (2, 4)
    for name in ("assignments", "strength"):
        np.testing.assert_array_equal(back.uns["mine"][name], adata.uns["mine"][name])


def test_its_own_result_is_replaced_and_nothing_else(model: GraCEVAE) -> None:
    adata = model.adata
    tl.embed(adata, model)
    first = adata.obsm["X_gracevae"]
    tl.embed(adata, model, fit=1)
    assert not np.array_equal(adata.obsm["X_gracevae"], first)
    adata.obsm["X_mine"] = np.ones((adata.n_obs, 2))
    with pytest.raises(ValueError, match=r"\.obsm\['X_mine'\] would be overwritten"):
        tl.embed(adata, model, key_added="mine")
    assert "mine" not in adata.uns
    with pytest.raises(KeyError, match=r"no programs under key='mine'.*'gracevae'"):
        get.programs(adata, key="mine")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fit": 2}, "fit must be"),
        ({"n_top": 0}, "n_top"),
        ({"key_added": "regimes"}, "would overwrite the regimes"),
        ({"key_added": "a/b"}, "key_added"),
        ({"key_added": "_scvi_manager_uuid"}, "cc.tl.embed did not write"),
    ],
)
def test_unchanged_after_an_error(model: GraCEVAE, fingerprint: Any, options: dict[str, Any], told: str) -> None:
    before = fingerprint(model.adata)
    with pytest.raises(ValueError, match=told):
        tl.embed(model.adata, model, **options)
    assert fingerprint(model.adata) == before


def test_refuses_other_models_and_data(model: GraCEVAE, fingerprint: Any) -> None:
    other = simulated()
    before = fingerprint(other)
    with pytest.raises(ValueError, match="fitted to other data"):
        tl.embed(other, model)
    with pytest.raises(ValueError, match=r"causcade\.models\.GraCEVAE, not str"):
        tl.embed(other, "gracevae")  # type: ignore[arg-type]
    assert fingerprint(other) == before
    GraCEVAE.setup_anndata(other, "pert", "ctrl", targets={})
    with pytest.raises(RuntimeError, match=r"Call .train\(\)"):
        tl.embed(other, GraCEVAE(other))


def test_other_tools_do_not_take_it_for_theirs(model: GraCEVAE, tiny_weights: Path, screen: Any) -> None:
    tl.embed(model.adata, model)
    with pytest.raises(KeyError, match=r"no .*causes"):
        get.causes(model.adata, key="gracevae")
    screen.uns["gracevae"] = model.adata.uns["gracevae"]
    with pytest.raises(ValueError, match=r"cc.tl.causes did not write"):
        tl.causes(screen, ["G01"], model=tiny_weights, key_added="gracevae", progress_bar=False)


def test_a_combination_whose_cells_were_taken_out_was_not_in_training() -> None:
    adata = simulated()
    pp.regimes(adata, "pert", "ctrl", targets={})
    rest = adata[adata.obs["pert"] != "X1+X2"].copy()
    GraCEVAE.setup_anndata(rest)  # with the regimes that are there
    model = GraCEVAE(rest, hidden=8, batch_size=10)
    model.train(1, progress_bar=False, accelerator="cpu")
    made = model.predict([["X1"], ["X1", "X2"]], 5, kind="mean")
    assert made.obs["in_training"].tolist() == [True, False]
    assert np.isfinite(made.layers["additive"]).all()
