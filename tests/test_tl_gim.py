"""What tools write of a fitted GIM, and how it is drawn. The fit is too short to mean anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import causcade as cc
from causcade import get, pl, tl
from causcade.models import GIM
from causcade.target_baselines import log_fold_change, rank_sum

SMALL: dict[str, Any] = {"n_samples": 4, "n_acyclic": 4, "widths": (8,), "steps": 4}
GENES = ["A", "B", "C", "D"]


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def screen(doses: tuple[float, ...] = (0.1, 10.0)) -> ad.AnnData:
    """Perturbations named after genes; the fifth gene is not in the model."""
    rng = np.random.default_rng(0)
    labels = ["ctrl"] * 30 + [drug for drug in ("A", "other") for _ in doses for _ in range(8)]
    dose = [0.0] * 30 + [d for _ in range(2) for d in doses for _ in range(8)]
    obs = pd.DataFrame({"drug": labels, "dose": dose}, index=[f"c{i}" for i in range(len(labels))])
    x = rng.random((len(labels), 5)).astype(np.float32)
    x[:, 0] -= (0.03 * np.array(dose) * (np.array(labels) == "A")).astype(np.float32)
    return ad.AnnData(np.maximum(x, 0), obs=obs, var=pd.DataFrame(index=["E", *GENES[::-1]]))


def fitted(adata: ad.AnnData, n_fits: int = 2, **setup: Any) -> GIM:
    GIM.setup_anndata(adata, "drug", "ctrl", values="log", **({"dose_key": "dose"} | setup))
    model = GIM(adata, GENES, **SMALL)
    model.train(n_fits=n_fits, progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def model() -> GIM:
    return fitted(screen())


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_are_those_of_the_model_at_the_highest_dose(model: GIM) -> None:
    adata = model.adata
    tl.targets(adata, model=model)
    assert list(adata.uns["targets"]["names"]) == ["A", "other"]
    assert adata.uns["targets"]["params"]["dose"].tolist() == [10, 10]
    expected = model.get_targets("A", 10.0).set_index("gene")
    for key, column in (("targets", "logit"), ("targets_sd", "logit_sd")):
        stored = pd.Series(adata.varm[key][:, 0], index=adata.var_names)
        np.testing.assert_allclose(stored[GENES], expected.loc[GENES, column], rtol=1e-5)
        assert np.isnan(stored["E"])
    hit, control = (
        ((adata.obs["drug"] == d) & (adata.obs["dose"] == c)).to_numpy() for d, c in (("A", 10), ("ctrl", 0))
    )
    values = adata[:, GENES].X
    at = adata.var_names.get_indexer(GENES)
    np.testing.assert_allclose(
        adata.varm["targets_lfc"][at, 0], log_fold_change(values[control], values[hit]), rtol=1e-4
    )
    np.testing.assert_allclose(adata.varm["targets_wilcoxon"][at, 0], rank_sum(values[control], values[hit]), rtol=1e-4)
    assert "targets_fused" not in adata.varm and "targets_fdr" not in adata.varm


def test_targets_can_be_read_and_known_ones_are_seen(model: GIM) -> None:
    tl.targets(model.adata, model=model)
    out = get.targets(model.adata, "A")
    assert sorted(out["gene"]) == GENES and out.set_index("gene")["known"].to_dict() == {g: g == "A" for g in GENES}
    assert "fused" not in out
    ranks = get.target_ranks(model.adata).set_index("perturbation")
    assert 1 <= ranks.loc["A", "score_position"] <= 4 and ranks.loc["other", "missing"] == "not measured"


def test_targets_replace_what_a_network_wrote(tiny_target_weights: Path, screen: Any) -> None:
    tl.targets(screen, ["G00"], model=tiny_target_weights, n_draws=1, n_null=1, progress_bar=False)
    assert "targets_fused" in screen.varm
    GIM.setup_anndata(screen)
    gim = GIM(screen, ["G00", "G01", "G02"], **SMALL)
    gim.train(2, progress_bar=False, accelerator="cpu")
    tl.targets(screen, ["G01", "G00"], model=gim)
    assert list(screen.uns["targets"]["names"]) == ["G01", "G00"]
    assert screen.varm["targets"].shape == (32, 2) and "dose" not in screen.uns["targets"]["params"]
    assert not {"targets_fused", "targets_fdr", "targets_pvalue"} & set(screen.varm)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"perturbations": "AA"}, KeyError, "'AA' were not in training.*In training: 'A', 'other'"),
        ({"perturbations": []}, ValueError, "No perturbations were given"),
        ({"n_null": 3, "masked": True}, ValueError, "With a GIM n_null, masked would be ignored"),
        ({"layer": "counts"}, ValueError, "layer would be ignored"),
        ({"key_added": "regimes"}, ValueError, "would overwrite the regimes"),
    ],
)
def test_bad_targets(model: GIM, fingerprint: Any, options: dict[str, Any], error: type[Exception], told: str) -> None:
    before = fingerprint(model.adata)
    with pytest.raises(error, match=told):
        tl.targets(model.adata, model=model, **options)
    assert fingerprint(model.adata) == before


def test_other_data_are_refused(model: GIM) -> None:
    for ask in (lambda a: tl.targets(a, model=model), lambda a: tl.dose_response(a, model, "A")):
        with pytest.raises(ValueError, match="fitted to other data"):
            ask(screen())
    with pytest.raises(ValueError, match=r"must be a trained causcade.models.GIM, not str"):
        tl.dose_response(model.adata, "gim", "A")  # type: ignore[arg-type]


# --- dose response --------------------------------------------------------------------------------------------------


def test_dose_response_is_stored_and_survives_files(model: GIM, tmp_path: Path) -> None:
    adata = model.adata.copy()
    adata.uns.clear()
    adata = fitted(screen()).adata
    own = fitted(adata)
    tl.dose_response(adata, own, "A", ["B", "A"], n_cells=20)
    expected = own.get_dose_response("A", ["B", "A"], n_cells=20)
    pd.testing.assert_frame_equal(get.dose_response(adata).reset_index(drop=True), expected, check_index_type=False)
    tl.targets(adata, model=own)
    for suffix, read in (("h5ad", ad.read_h5ad), ("zarr", ad.read_zarr)):
        getattr(adata, f"write_{suffix}")(tmp_path / f"a.{suffix}")
        back = read(tmp_path / f"a.{suffix}")
        pd.testing.assert_frame_equal(get.dose_response(back).reset_index(drop=True), expected, check_dtype=False)
        pd.testing.assert_frame_equal(get.targets(back), get.targets(adata), check_dtype=False)
        assert isinstance(pl.dose_response(back, return_fig=True), Figure)
        assert isinstance(pl.target_map(back, return_fig=True), Figure)


def test_dose_response_does_not_overwrite_others(model: GIM) -> None:
    tl.targets(model.adata, model=model)
    with pytest.raises(ValueError, match=r"holds something that cc.tl.dose_response did not write"):
        tl.dose_response(model.adata, model, "A", key_added="targets")
    tl.dose_response(model.adata, model, "A", n_cells=5)
    with pytest.raises(ValueError, match=r"holds something that cc.tl.targets did not write"):
        tl.targets(model.adata, model=model, key_added="dose_response")
    tl.dose_response(model.adata, model, "other", n_cells=5)  # its own may be replaced
    assert model.adata.uns["dose_response"]["perturbation"] == "other"
    with pytest.raises(KeyError, match=r"no dose response under key='x'.*'dose_response'"):
        get.dose_response(model.adata, key="x")


# --- pictures -------------------------------------------------------------------------------------------------------


def test_dose_response_draws_what_is_stored(model: GIM) -> None:
    tl.dose_response(model.adata, model, "A", GENES, n_cells=5, baselines=["ridge"])
    axes = pl.dose_response(model.adata)
    assert [ax.get_title() for ax in axes] == GENES
    table = get.dose_response(model.adata).query("gene == 'A'")
    lines = {line.get_label(): line for line in axes[0].lines}
    rows = table[table["source"] == "GIM"]
    np.testing.assert_allclose(lines["GIM"].get_xdata(), rows["dose"])
    np.testing.assert_allclose(lines["GIM"].get_ydata(), rows["mean"])
    assert lines["control cells"].get_ydata()[0] == pytest.approx(table[table["source"] == "control"]["mean"].item())
    assert "ridge" in lines and "next lower dose" not in lines
    assert axes[0].get_xscale() == "log"  # doses of 0.1 to 10
    assert axes[0].figure.get_supylabel() == "mean log expression"  # what the units say
    labels = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert {"GIM", "ridge", "± sd over fits", "data, ± sd of cells"} <= set(labels)


def test_a_single_fit_has_no_band() -> None:
    gim = fitted(screen(), n_fits=1)
    tl.dose_response(gim.adata, gim, "A", ["A"], n_cells=5)
    figure, ax = plt.subplots()
    assert pl.dose_response(gim.adata, ax=ax) is ax
    assert "± sd over fits" not in [t.get_text() for t in ax.get_legend().get_texts()]
    assert ax.get_xlabel() == "dose of A" and figure.axes == [ax]
    assert not ax.xaxis.label.get_parse_math()  # names may hold a dollar


def test_dose_response_refuses(model: GIM) -> None:
    tl.dose_response(model.adata, model, "A", ["A", "B"], n_cells=5)
    with pytest.raises(KeyError, match="'C' are not in this dose response"):
        pl.dose_response(model.adata, "C")
    with pytest.raises(ValueError, match="2 genes need a figure of their own"):
        pl.dose_response(model.adata, ax=plt.subplots()[1])


def test_target_map_draws_probabilities_in_the_order_asked_for(model: GIM) -> None:
    tl.targets(model.adata, model=model)
    ax = pl.target_map(model.adata, ["other", "A"])
    rows = [label.get_text() for label in ax.get_yticklabels()]
    columns = [label.get_text() for label in ax.get_xticklabels()]
    assert rows == ["other", "A"] and sorted(columns) == GENES
    table = get.targets(model.adata).pivot(index="perturbation", columns="gene", values="probability")
    np.testing.assert_allclose(ax.images[0].get_array(), table.loc[rows, columns])
    ring = ax.collections[0].get_offsets()
    assert [(rows[int(y)], columns[int(x)]) for x, y in ring] == [("A", "A")]
    assert "2 perturbations, 4 genes" in ax.get_title()
    few = pl.target_map(model.adata, n_genes=2)
    assert "2 of 4 genes" in few.get_title()
    assert "A" in [label.get_text() for label in few.get_xticklabels()]  # a known target is always drawn


def test_target_map_shows_what_was_no_candidate(screen: Any, tiny_target_weights: Path) -> None:
    tl.targets(
        screen,
        ["G00", "G03"],
        model=tiny_target_weights,
        candidates=["G00", "G01", "G02"],
        n_draws=1,
        progress_bar=False,
    )
    screen.varm["targets"][0, 1] = np.nan
    image = cc.pl.target_map(screen).images[0].get_array()
    assert np.ma.getmaskarray(image).sum() == 1
    with pytest.raises(ValueError, match="n_genes"):
        pl.target_map(screen, n_genes=0)
    with pytest.raises(KeyError, match="'G05' were not scored"):
        pl.target_map(screen, ["G05"])
