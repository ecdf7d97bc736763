"""Predictions of a GraCE-VAE beside measured cells. Predictions are made up, so that what is drawn is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import sparse
from scipy.stats import pearsonr
from sklearn.decomposition import PCA

from causcade import get, pl, pp
from causcade.metrics import energy_distance
from causcade.models import GraCEVAE

GENES = [f"G{i}" for i in range(8)]


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def screen(*, counts: bool = False) -> ad.AnnData:
    """A raises genes 0 to 2, B genes 2 to 4, together gene 7 too; C+A is there, C alone is not."""
    rng = np.random.default_rng(0)
    labels = ["ctrl"] * 30 + ["A"] * 20 + ["B"] * 20 + ["B+A"] * 16 + ["C+A"] * 4
    mean = np.full((len(labels), len(GENES)), 5.0)
    for name, genes in {"A": slice(0, 3), "B": slice(2, 5)}.items():
        mean[[name in label.split("+") for label in labels], genes] += 4
    mean[[label == "B+A" for label in labels], 7] += 3
    x = rng.poisson(mean) if counts else np.maximum(mean + rng.normal(size=mean.shape), 0)
    obs = pd.DataFrame({"pert": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = ad.AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    pp.regimes(adata, "pert", "ctrl", targets={})
    return adata


def means(adata: ad.AnnData, names: tuple[str, ...] = ("A+B",), **params: Any) -> ad.AnnData:
    """A made-up prediction: genes in another order, change 0.1, 0.2, ..."""
    order = GENES[::-1]
    out = ad.AnnData(np.zeros((len(names), 8), dtype=np.float32), var=pd.DataFrame(index=order))
    out.obs["perturbation"], out.obs["in_training"] = list(names), False
    control = adata[adata.obs["pert"] == "ctrl", order].X.mean(0)
    out.var["control"] = control
    out.layers["change"] = np.tile(np.arange(1.0, 9.0) / 10, (len(names), 1))
    out.layers["additive"] = np.tile(control + np.arange(8.0) ** 2, (len(names), 1))
    out.layers["sd"] = np.full((len(names), 8), np.nan)
    out.uns["params"] = {"layer": "X", "values": "log", "regimes_key": "regimes", "library_size": 0.0} | params
    return out


def cells(adata: ad.AnnData, n: int = 12) -> ad.AnnData:
    out = means(adata)
    made = ad.AnnData(np.ones((n, 8), dtype=np.float32), var=out.var)
    made.X[:, 0] = np.arange(n)
    made.obs["perturbation"], made.obs["in_training"] = "A+B", False
    made.uns["params"] = out.uns["params"]
    return made


def texts(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [t.get_text() for t in found.get_texts()] if found else []


def points(ax: Axes, label: str) -> np.ndarray:
    (found,) = [c for c in ax.collections if c.get_label() == label]
    return np.asarray(found.get_offsets())


# --- the table ------------------------------------------------------------------------------------------------------


def test_table_has_every_gene_in_its_place() -> None:
    adata = screen()
    table = get.effects(adata, means(adata)).set_index("gene")
    mine, control = (adata[adata.obs["pert"] == p].X.astype(float) for p in ("B+A", "ctrl"))
    np.testing.assert_allclose(table.loc[GENES, "observed"], mine.mean(0) - control.mean(0), rtol=1e-6)
    se = np.sqrt(mine.var(0, ddof=1) / 16 + control.var(0, ddof=1) / 30)
    np.testing.assert_allclose(table.loc[GENES, "se"], se, rtol=1e-6)
    np.testing.assert_allclose(table.loc[GENES, "predicted"], np.arange(8, 0, -1) / 10)
    np.testing.assert_allclose(table.loc[GENES, "additive"], np.arange(7.0, -1, -1) ** 2, atol=1e-5)
    assert table["observed"].abs().is_monotonic_decreasing and table.index[0] == "G2" and table["sd"].isna().all()


def test_counts_are_brought_to_the_library_size_of_the_model() -> None:
    adata = screen(counts=True)
    predicted = means(adata, values="counts", library_size=80.0, layer="raw")
    adata.layers["raw"], adata.X = sparse.csr_matrix(adata.X), np.zeros_like(adata.X)
    x = adata.layers["raw"].toarray()
    y = np.log1p(80 * x / x.sum(1, keepdims=True))
    expected = y[adata.obs["pert"] == "B+A"].mean(0) - y[adata.obs["pert"] == "ctrl"].mean(0)
    table = get.effects(adata, predicted).set_index("gene")
    np.testing.assert_allclose(table.loc[GENES, "observed"], expected, rtol=1e-4, atol=1e-6)


def test_a_fitted_model_agrees_with_its_own_data(fingerprint: Any) -> None:
    """Of a single perturbation the additive prediction is the observed change, in any units."""
    adata = screen(counts=True)
    GraCEVAE.setup_anndata(adata)
    model = GraCEVAE(adata, hidden=8, batch_size=8)
    model.train(1, progress_bar=False, accelerator="cpu")
    before = fingerprint(adata)
    predicted = model.predict([["A"], ["A", "B"]], 10, kind="mean")
    table = get.effects(adata, predicted, "A")
    np.testing.assert_allclose(table["additive"], table["observed"], atol=1e-5)
    expected = predicted[0].to_df("change").iloc[0].loc[table["gene"]]
    np.testing.assert_allclose(table["predicted"], expected, rtol=1e-6)
    assert "in training" in pl.effects(adata, predicted, "A+B").get_title()
    assert isinstance(pl.prediction(adata, model.predict(["A", "C"], 10), return_fig=True), Figure)
    assert fingerprint(adata) == before


# --- effects --------------------------------------------------------------------------------------------------------


def test_effects_draws_both_predictions_and_their_correlations() -> None:
    adata = screen()
    ax = pl.effects(adata, means(adata), n_top=3)
    table = get.effects(adata, means(adata))
    np.testing.assert_allclose(points(ax, "_model"), table[["observed", "predicted"]])
    np.testing.assert_allclose(points(ax, "_additive"), table[["observed", "additive"]])
    r = {c: pearsonr(table["observed"], table[c]).statistic for c in ("predicted", "additive")}
    assert texts(ax) == [f"model, r = {r['predicted']:.2f}", f"additive, r = {r['additive']:.2f}".replace("-", "−")]
    assert sorted(t.get_text() for t in ax.texts) == sorted(table["gene"][:3])
    assert ax.get_title() == "A+B, not in training" and ax.get_xlim() == ax.get_ylim()


def test_effects_without_an_additive_prediction() -> None:
    adata = screen()
    predicted = means(adata, ("A+B", "A+C"))
    predicted.layers["additive"][1] = np.nan
    figure, ax = plt.subplots()
    assert pl.effects(adata, predicted, "A+C", ax=ax) is ax and figure.axes == [ax]
    assert texts(ax)[1] == "additive: a part was never alone" and "_additive" not in [
        c.get_label() for c in ax.collections
    ]
    predicted.layers["change"][1] = 0
    assert texts(pl.effects(adata, predicted, "A+C"))[0] == "model, r: no change"


def test_names_of_genes_do_not_meet() -> None:
    adata, predicted = screen(), means(screen())
    predicted.layers["change"][:] = 0.5  # all at one height
    ax = pl.effects(adata, predicted, n_top=5)
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # without the lines to their points
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize(
    ("change", "perturbation", "error", "told"),
    [
        (lambda a, p: (a, p[:0]), None, ValueError, "predicted is empty"),
        (lambda a, p: (a, means(a, ("A+B", "B"))), None, ValueError, "2 combinations were predicted; name one"),
        (lambda a, p: (a, p), "A+D", KeyError, r"'A\+D' was not predicted.*'A\+B'"),
        (lambda a, p: (a, means(a, ("B+D",))), None, KeyError, r"no cells of 'B\+D'"),
        (lambda a, p: (a, cells(a)), None, ValueError, "kind='mean'"),
        (lambda a, p: (a, a), None, ValueError, "GraCEVAE.predict"),
        (lambda a, p: (a[:, :5].copy(), p), None, ValueError, r"5 genes, the model 8.*predicted.var_names"),
    ],
)
def test_effects_refuses(change: Any, perturbation: str | None, error: type[Exception], told: str) -> None:
    adata = screen()
    adata, predicted = change(adata, means(adata))
    with pytest.raises(error, match=told):
        pl.effects(adata, predicted, perturbation)
    assert plt.get_fignums() == []


# --- cells ---------------------------------------------------------------------------------------------------------


def test_prediction_draws_on_components_of_measured_cells() -> None:
    adata, made = screen(), cells(screen())
    ax = pl.prediction(adata, made)
    of = {p: adata[adata.obs["pert"] == p, made.var_names].X.astype(float) for p in ("ctrl", "A", "B", "B+A")}
    axes = PCA(2, svd_solver="full").fit(np.concatenate([of["ctrl"], of["B+A"]]))
    for key, x in {"control": of["ctrl"], "measured": of["B+A"], "generated": made.X.astype(float)}.items():
        drawn = points(ax, f"_{key}")
        np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(axes.transform(x), axis=0), atol=1e-6)
        np.testing.assert_allclose(points(ax, f"_mean_{key}")[0], axes.transform(x).mean(0), atol=1e-6)
    additive = of["A"].mean(0) + of["B"].mean(0) - of["ctrl"].mean(0)
    np.testing.assert_allclose(points(ax, "_mean_additive"), axes.transform(additive[None]), atol=1e-6)
    assert texts(ax) == ["control (30)", "measured (16)", "generated (12)", "additive mean"]
    far = [energy_distance(x, of["B+A"]) for x in (made.X, of["ctrl"])]
    title = f"A+B, not in training\nenergy distance: generated {far[0]:.2g}, control {far[1]:.2g}"
    assert ax.get_title() == title


def test_prediction_of_what_was_not_measured() -> None:
    adata, made = screen(), cells(screen())
    ax = pl.prediction(adata[adata.obs["pert"] != "B+A"].copy(), made)
    assert texts(ax) == ["control (30)", "generated (12)", "additive mean"]
    assert ax.get_title().endswith("not measured")
    ax = pl.prediction(adata[~adata.obs["pert"].isin(["B+A", "A"])].copy(), made)
    assert texts(ax) == ["control (30)", "generated (12)"]


def test_names_of_genes_may_hold_the_separator() -> None:
    adata, made = screen(), cells(screen())
    adata.var_names = ["HLA+A", *GENES[1:]]
    adata.obs["pert"] = adata.obs["pert"].replace({"A": "HLA+A", "B+A": "B+HLA+A", "C+A": "C+HLA+A"})
    pp.regimes(adata, "pert", "ctrl")
    made.obs["perturbation"] = "B+HLA+A"
    made.var_names = ["HLA+A" if g == "G0" else g for g in made.var_names]
    assert "additive mean" in texts(pl.prediction(adata, made))


def test_prediction_takes_few_cells_and_the_same_ones() -> None:
    adata, made = screen(), cells(screen())
    one, two, other = (pl.prediction(adata, made, max_cells=5, rng=rng) for rng in (0, 0, 1))
    assert texts(one)[:3] == ["control (5)", "measured (5)", "generated (5)"]
    assert np.array_equal(points(one, "_control"), points(two, "_control"))
    assert not np.array_equal(points(one, "_control"), points(other, "_control"))
    assert "too few cells" in pl.prediction(adata, made, max_cells=1).get_title()


def test_prediction_refuses() -> None:
    adata = screen()
    with pytest.raises(ValueError, match="kind='cells'"):
        pl.prediction(adata, means(adata))
    with pytest.raises(ValueError, match="max_cells"):
        pl.prediction(adata, cells(adata), max_cells=0)
    with pytest.raises(KeyError, match="'B' was not predicted"):
        pl.prediction(adata, cells(adata), "B")
    assert plt.get_fignums() == []
