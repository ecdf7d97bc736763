import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from causcade.gracefit import GraceTrainer
from causcade.models import GraCEVAE
from causcade.models._grace_cells import ask, parts_of_regimes, regime_means
from causcade.models._grace_programs import pathway_table
from causcade.networks import match_network, read_network
from causcade.regimes import from_adata, parse_labels

GENES = [f"G{i:02d}" for i in range(24)]
NETWORK = pd.DataFrame(
    [("G00", "G01", "GG"), ("G02", "G03", "GG"), ("P1", "G00", "PG"), ("P1", "G05", "PG"), ("P2", "G06", "PG")]
    + [("P3", g, "PG") for g in ("G06", "G07", "G08")],
    columns=["source", "target", "kind"],
)


def simulated(*, csr: bool = False) -> ad.AnnData:
    """Counts: X1 raises genes 0 to 5, X2 genes 6 to 11, G12 genes 12 to 17; one combination is there."""
    rng = np.random.default_rng(0)
    labels = ["ctrl"] * 60 + ["X1"] * 30 + ["X2"] * 30 + ["G12"] * 30 + ["X2+X1"] * 20
    rates = np.full((len(labels), len(GENES)), 6.0)
    for name, genes in {"X1": slice(0, 6), "X2": slice(6, 12), "G12": slice(12, 18)}.items():
        rates[[name in label.split("+") for label in labels], genes] *= 3
    counts = rng.poisson(rates * rng.lognormal(0, 0.1, rates.shape)).astype(np.float32)
    obs = pd.DataFrame({"pert": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = ad.AnnData(sparse.csr_matrix(counts) if csr else counts, obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["X_other"] = rng.normal(size=(len(labels), 3))
    return adata


def make(adata: ad.AnnData, network: Any = None, variant: str = "grace", **choices: Any) -> GraCEVAE:
    GraCEVAE.setup_anndata(adata, "pert", "ctrl")
    return GraCEVAE(adata, network, variant, **({"hidden": 16, "epochs": 4, "batch_size": 10} | choices))


def trained(**choices: Any) -> GraCEVAE:
    model = make(simulated(), NETWORK, **choices)
    model.train(progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def model() -> GraCEVAE:
    return trained(epochs=8, n_latent=3, n_fits=2)


def test_predicts_cells_of_an_untried_combination(model: GraCEVAE) -> None:
    made = model.predict(["X1", "G12"], n_cells=50)
    assert made.shape == (50, len(GENES)) and list(made.var_names) == GENES
    assert made.obs["perturbation"].unique().tolist() == ["G12+X1"] and not made.obs["in_training"].any()
    assert made.obs["fit"].value_counts().to_dict() == {0: 25, 1: 25}
    assert made.uns["units"] == "log1p of values scaled to the median library size"
    change = made.X.mean(0) - model.predict("ctrl", 50).X.mean(0)
    raised = np.isin(np.arange(24), np.r_[0:6, 12:18])  # by both; the others make up for it in the library size
    assert change[raised].min() > 0.1 and change[~raised].max() < -0.1
    means = model.predict(["X1", "G12"], kind="mean")
    assert np.corrcoef(means.layers["change"][0], means.layers["additive"][0] - means.var["control"])[0, 1] > 0.9


def test_means_come_with_the_additive_prediction(model: GraCEVAE) -> None:
    made = model.predict([["X1"], ("X2", "X1"), "G12+X2"], kind="mean")
    assert made.obs["perturbation"].tolist() == ["X1", "X1+X2", "G12+X2"]
    assert made.obs["in_training"].tolist() == [True, True, False]
    screen, regimes = model._quiet_screen(), model._regimes()
    values = screen.rows(np.arange(170)).astype(float)
    means = {name: values[regimes.codes == i].mean(0) for i, name in enumerate(regimes.names)}
    assert np.allclose(regime_means(screen, regimes.codes, len(regimes)), list(means.values()), atol=1e-5)
    assert np.allclose(made.layers["additive"][0], means["X1"], atol=1e-5)
    assert np.allclose(made.layers["additive"][2], means["X2"] + means["G12"] - means["ctrl"], atol=1e-5)
    assert made.layers["sd"].max() > 0
    plain = model.predict("ctrl", kind="mean")
    assert np.allclose(plain.layers["change"], 0) and np.allclose(plain.layers["additive"][0], means["ctrl"], atol=1e-5)


def test_additive_is_missing_where_a_part_was_never_alone() -> None:
    adata = simulated()
    adata = adata[adata.obs["pert"] != "X1"].copy()
    model = make(adata)
    model.train(1, progress_bar=False, accelerator="cpu")
    made = model.predict(["X1", "G12"], 10, kind="mean")
    assert np.isnan(made.layers["additive"]).all() and np.isnan(made.layers["sd"]).all() and np.isfinite(made.X).all()


def test_same_seed_same_answer_and_saved_is_loaded(model: GraCEVAE, tmp_path: Path) -> None:
    one, two = trained(), trained()
    ask_for = {"n_cells": 20, "rng": 3}
    x = one.predict(["X1", "G12"], **ask_for).X
    assert np.array_equal(x, two.predict(["X1", "G12"], **ask_for).X)
    two.train(progress_bar=False, accelerator="cpu", rng=1)
    assert not np.array_equal(x, two.predict(["X1", "G12"], **ask_for).X)
    model.save(tmp_path / "m")
    again = GraCEVAE.load(tmp_path / "m", simulated(), accelerator="cpu")
    assert np.array_equal(again.predict("X1+G12", **ask_for).X, model.predict("X1+G12", **ask_for).X)
    pd.testing.assert_frame_equal(again.get_programs(), model.get_programs())
    assert list(again.history) == list(model.history) and again.temperature_ == model.temperature_


def test_sparse_data_and_order_of_labels_do_not_matter() -> None:
    csr = make(simulated(csr=True), NETWORK)
    csr.train(progress_bar=False, accelerator="cpu")
    assert np.allclose(csr.predict(["X1"], 20).X, trained().predict(["X1"], 20).X)


def test_adata_is_only_read(fingerprint: Any) -> None:
    adata = simulated()
    model = make(adata)
    before = fingerprint(adata)
    model.train(1, progress_bar=False, accelerator="cpu")
    model.predict(["X1"], 5)
    model.get_latent_representation()
    model.get_programs()
    assert fingerprint(adata) == before


def test_latent_answers(model: GraCEVAE) -> None:
    graph = model.get_latent_graph()
    assert graph.shape == (3, 3) and list(graph.index) == ["P0", "P1", "P2"] == list(graph.columns)
    assert not np.tril(graph).any() and graph.iloc[0, 1] != 0
    u, z = model.get_latent_representation(), model.get_latent_representation(exogenous=True)
    assert u.shape == (170, 3) and np.allclose(u, z + u @ graph.to_numpy(), atol=1e-4)
    share = model.get_assignments(fit=1)
    assert set(share.drop(columns="strength").to_numpy().argmax(1)) == {0, 1, 2}  # one program each
    assert list(share.index) == ["G12", "X1", "X2"] and np.allclose(share.drop(columns="strength").sum(axis=1), 1)
    with pytest.raises(ValueError, match="fit must be"):
        model.get_latent_graph(fit=2)


def test_programs_list_what_they_move(model: GraCEVAE) -> None:
    table = model.get_programs(6)
    assert list(table.columns) == ["program", "kind", "name", "score", "fdr"]
    assert sorted(table.loc[table["kind"] == "perturbation", "name"]) == ["G12", "X1", "X2"]
    genes = table[table["kind"] == "gene"]
    assert (genes.groupby("program").size() == 6).all()
    assert (genes.groupby("program")["score"].apply(lambda s: np.abs(s).is_monotonic_decreasing)).all()


def test_pathways_are_a_hypergeometric_test() -> None:
    from scipy.stats import fisher_exact

    network = match_network(read_network(NETWORK), GENES)
    table = pathway_table(network, [6, 7, 20]).set_index("name")
    # genes with a pathway: 0, 5, 6, 7, 8; two of them chosen, both in P3 (6, 7, 8)
    assert table.loc["P3", "pvalue"] == pytest.approx(fisher_exact([[2, 1], [0, 2]], alternative="greater")[1])
    assert table.loc["P3", "score"] == pytest.approx(2 / 3) and list(table.index) == ["P3", "P2"]
    assert pathway_table(match_network(read_network(NETWORK), GENES, kinds=("GG",)), [1]).empty


def test_network_that_matches_nothing_is_told_and_trained_without() -> None:
    other = NETWORK.assign(source="A", target=[f"B{i}" for i in range(len(NETWORK))])
    with pytest.warns(UserWarning) as told:
        model = make(simulated(), other)
    assert any("works without" in str(w.message) for w in told) and any("0 of 24" in str(w.message) for w in told)
    assert model.graph is None and "no network" in repr(model)
    model.train(1, progress_bar=False, accelerator="cpu")
    plain = make(simulated())
    plain.train(1, progress_bar=False, accelerator="cpu")
    assert np.array_equal(model.predict(["X1"], 5).X, plain.predict(["X1"], 5).X)


def test_genes_in_another_order_are_refused(model: GraCEVAE, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    with pytest.warns(UserWarning, match="var_names"):
        again = GraCEVAE.load(tmp_path / "m", simulated()[:, GENES[::-1]].copy(), accelerator="cpu")
    for ask_it in (lambda: again.predict(["X1"]), again.get_latent_representation):
        with pytest.raises(ValueError, match="in their order"):
            ask_it()


def test_network_with_all_pathways_is_saved_whole(tmp_path: Path) -> None:
    table = read_network(pd.concat([NETWORK, NETWORK.iloc[-1:].assign(source="EMPTY", target="GONE")]))
    network = match_network(table, GENES, pathways="all")
    model = make(simulated(), network)
    model.train(1, progress_bar=False, accelerator="cpu")
    model.save(tmp_path / "m")
    again = GraCEVAE.load(tmp_path / "m", simulated(), accelerator="cpu")
    assert "EMPTY" in again.network.pathways
    assert np.array_equal(again.predict("X1", 5).X, model.predict("X1", 5).X)


def test_pathways_as_inputs_need_gene_sets() -> None:
    for network in (None, NETWORK[NETWORK["kind"] == "GG"]):
        with pytest.warns(UserWarning, match="needs gene sets"):
            make(simulated(), network, "multihot")


@pytest.mark.parametrize("variant", ["cmvae", "multihot", "vgae", "reference", "reference-cmvae"])
def test_variants_train(variant: str) -> None:
    model = make(simulated(), NETWORK, variant)
    model.train(2, progress_bar=False, accelerator="cpu")
    assert np.isfinite(model.predict(["X1", "G12"], 5).X).all()


def test_combinations_can_be_left_out_of_training() -> None:
    other = simulated()
    other.X[-20:] = other.X[-20:, ::-1]  # the combination's cells, with the same library sizes
    made = {}
    for name, adata in {"as they are": simulated(), "others": other}.items():
        for combinations in (True, False):
            one = make(adata)
            one.train(1, progress_bar=False, accelerator="cpu", combinations=combinations)
            made[name, combinations] = one.predict([["X1"], ["X1", "X2"]], 5)
            assert made[name, combinations].obs["in_training"].tolist() == [True] * 5 + [combinations] * 5
    assert np.array_equal(made["as they are", False].X, made["others", False].X)
    assert not np.array_equal(made["as they are", True].X, made["others", True].X)


def test_what_training_has_not_seen_is_not_predicted() -> None:
    adata = simulated()
    adata.obs.iloc[70, 0] = "RARE"  # one cell: left out
    adata = adata[adata.obs["pert"] != "X2"].copy()  # with X1 only
    with pytest.warns(UserWarning, match="RARE"):
        model = make(adata, n_fits=2)
    model.train(1, progress_bar=False, accelerator="cpu", combinations=False)
    for name in ("RARE", "X2"):
        with pytest.raises(KeyError, match=f"no cell of '{name}'"):
            model.predict([["X1"], [name]], 5)
    assert list(model.get_assignments().index) == ["G12", "X1"]
    told = model.get_programs()
    assert set(told.loc[told["kind"] == "perturbation", "name"]) == {"G12", "X1"}
    model.train(1, progress_bar=False, accelerator="cpu")
    assert model.predict(["X2"], 1).shape == (1, 24)  # fewer cells than fits


def test_embedding_and_graph_interventions() -> None:
    model = make(simulated(), NETWORK, embedding_key="X_other", intervention="subgraph")
    model.train(1, progress_bar=False, accelerator="cpu")
    assert model.targets == [12, -1, -1] and model.predict(["X1"], 5).shape == (5, 24)
    model.adata.obsm["X_sparse"] = sparse.csr_matrix(model.adata.obsm["X_other"])
    assert np.array_equal(
        GraCEVAE(model.adata, embedding_key="X_sparse")._embedding(model.adata), model._embedding(model.adata)
    )
    with pytest.raises(KeyError, match="'X_other'"):
        make(simulated(), embedding_key="X_othre")


def test_parts_of_labels() -> None:
    regimes = parse_labels(["c", "A", "HLA-B", "A-HLA-B", "c"], ["A", "HLA-B"], "c", sep="-", min_cells=1)
    assert parts_of_regimes(regimes) == [(), ("A",), ("A", "HLA-B"), ("HLA-B",)]
    drugs = parse_labels(["c", "x", "x+y", "CD4+"], ["A"], "c", targets={}, min_cells=1)
    assert parts_of_regimes(drugs) == [(), ("CD4+",), ("x",), ("x", "y")]


def test_questions() -> None:
    adata = simulated()
    GraCEVAE.setup_anndata(adata, "pert", "ctrl")
    regimes, names = from_adata(adata), ["G12", "X1", "X2"]
    assert ask(["X2", "X1"], names, regimes) == ask("X2+X1", names, regimes) == [("X1", "X2")]
    assert ask([["X2"], ["X1", "G12"]], names, regimes) == [("X2",), ("G12", "X1")]
    assert ask(["X2+X1", "G12"], names, regimes) == [("X1", "X2"), ("G12",)]
    assert ask("ctrl", names, regimes) == [()] and ask(["X1", "ctrl"], names, regimes) == [("X1",)]
    assert ask([1, 2], ["1", "2"], regimes) == ask((2, 1.0), ["1", "2"], regimes) == [("1", "2")]
    assert ask("X1+G12+X", ["G12+X", "X1"], regimes) == [("G12+X", "X1")] and ask(2, ["2"], regimes) == [("2",)]
    with pytest.raises(KeyError, match=r"G012.*Close to .*G12"):
        ask(["G012"], names, regimes)
    for wrong in ([], ["X1", "X1"]):
        with pytest.raises(ValueError, match="different perturbations"):
            ask(wrong, names, regimes)


def test_errors_say_what_to_do(model: GraCEVAE) -> None:
    adata = simulated()
    fresh = make(adata)
    with pytest.raises(RuntimeError, match=r"Call .train\(\)"):
        fresh.predict(["X1"])
    with pytest.raises(ValueError, match="kind must be"):
        model.predict(["X1"], kind="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variant must be"):
        GraCEVAE(adata, None, "gears")
    with pytest.raises(ValueError, match="other genes"):
        GraCEVAE(adata, match_network(read_network(NETWORK), GENES[::-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(fresh).endswith("not trained")


def test_ctrl_c_leaves_a_usable_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, left = GraceTrainer.train_epoch, [3]

    def epoch(self: GraceTrainer) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(GraceTrainer, "train_epoch", epoch)
    model = make(simulated(), n_fits=3)
    with pytest.raises(KeyboardInterrupt):
        model.train(5, progress_bar=False, accelerator="cpu")
    assert model.is_trained and len(model.history["loss"].dropna()) == 2 and len(model.nets) == 1
    made = model.predict(["X1"], 8)
    assert np.isfinite(made.X).all()
    model.save(tmp_path / "m")
    assert np.array_equal(GraCEVAE.load(tmp_path / "m", simulated(), accelerator="cpu").predict(["X1"], 8).X, made.X)
    left[0] = 1
    other = make(simulated())
    with pytest.raises(KeyboardInterrupt):
        other.train(5, progress_bar=False, accelerator="cpu")
    assert not other.is_trained


@pytest.mark.parametrize("kept", [0, 1])
def test_ctrl_c_between_fits_keeps_each_once(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last one twice, nor an error of another kind before the first."""
    real, left = GraceTrainer.__init__, [kept]

    def start(self: GraceTrainer, *args: Any, **how: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, *args, **how)

    monkeypatch.setattr(GraceTrainer, "__init__", start)
    model = make(simulated(), n_fits=3)
    with pytest.raises(KeyboardInterrupt):
        model.train(2, progress_bar=False, accelerator="cpu")
    assert model.is_trained == bool(kept)
    assert not kept or len(model.nets) == kept
