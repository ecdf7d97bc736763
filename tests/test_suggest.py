"""Which gene to perturb next: the numbers against plain sums, and what is and is not a candidate."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from causcade import get, pp, tl
from causcade.suggest import binary_entropy, gains

GENES = [f"G{i}" for i in range(8)]
NODES = ["G1", "G0", "G3", "G4", "G6"]  # of the graph, in an order of their own
LEFT = ["G1", "G4", "G6"]  # G0 and G3 were perturbed


def screen() -> ad.AnnData:
    rng = np.random.default_rng(0)
    labels = ["ctrl"] * 40 + ["G0"] * 10 + ["G3+G5"] * 10
    x = rng.poisson(rng.uniform(2, 20, 8), (60, 8)).astype(np.float32)
    obs = pd.DataFrame({"pert": labels}, index=[f"c{i}" for i in range(60)])
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))
    pp.regimes(adata, "pert", "ctrl")
    return adata


@pytest.fixture
def graph() -> ad.AnnData:
    """What cc.tl.graph writes."""
    adata = screen()
    rng = np.random.default_rng(1)
    inside = np.isin(GENES, NODES)[:, None] & np.isin(GENES, NODES) & ~np.eye(8, dtype=bool)
    for name in ("graph", "graph_sd", "graph_correlation"):
        adata.varp[name] = csr_matrix(np.where(inside, rng.uniform(0.01, 0.99, (8, 8)), 0).astype(np.float32))
    params = {"layer": "X", "values": "counts", "regimes_key": "regimes"}
    names, perturbed = np.array(NODES, dtype=object), np.array(["G0"], dtype=object)
    adata.uns["graph"] = {"names": names, "threshold": 0.5, "perturbed": perturbed, "weights": "w", "params": params}
    return adata


@pytest.fixture
def scored() -> ad.AnnData:
    """What cc.tl.causes writes, of G2 and G7; no spread."""
    adata = screen()
    rng = np.random.default_rng(2)
    adata.varm["causes"] = rng.normal(size=(8, 2)).astype(np.float32)
    adata.varm["causes_sd"] = rng.uniform(0.1, 1, (8, 2)).astype(np.float32)
    adata.varm["causes_correlation"] = rng.uniform(-1, 1, (8, 2)).astype(np.float32)
    params = {"layer": "X", "values": "counts", "regimes_key": "regimes"}
    adata.uns["causes"] = {"names": np.array(["G2", "G7"], dtype=object), "weights": "w", "params": params}
    return adata


def dense(adata: ad.AnnData, key: str) -> pd.DataFrame:
    return pd.DataFrame(adata.varp[key].toarray().astype(np.float64), index=GENES, columns=GENES)


def test_entropy_is_that_of_a_coin() -> None:
    p = np.array([[0.0, 1.0], [0.5, 0.2]])
    np.testing.assert_allclose(binary_entropy(p), stats.entropy(np.stack([p, 1 - p]), base=2))
    with pytest.raises(ValueError, match="between 0 and 1"):
        binary_entropy([0.2, 1.1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        binary_entropy([np.nan])


def test_gains_are_sums_over_pairs() -> None:
    found = gains([2, 0, 2], [0.5, 0.25, 1.0], 4, sd=[0.1, np.nan, 0.2], correlation=[-0.5, 0.5, 0.1])
    np.testing.assert_allclose(found["effects"], [0.25, np.nan, 1.5, np.nan])
    np.testing.assert_allclose(found["entropy"], [0.811278, np.nan, 1, np.nan], rtol=1e-5)
    np.testing.assert_allclose(found["spread"], [np.nan, np.nan, 0.3, np.nan])
    np.testing.assert_allclose(found["correlation"], [0.5, np.nan, 0.6, np.nan])
    assert set(gains([0], [0.5], 1)) == {"entropy", "effects"}
    turned = gains([0, 0, 1, 1], [0.4, 0.9, 0.2, 0.0], 2, reverse=[0.4, 0.9, 0.0, 0.0])["direction"]
    np.testing.assert_allclose(turned, [0.8 + 1.0, 0.0])  # an edge that is sure either way is worth one bit, no more
    uneven = gains([0], [0.6], 1, reverse=[0.2])["direction"]
    np.testing.assert_allclose(uneven, 0.8 * stats.entropy([0.75, 0.25], base=2))
    with pytest.raises(ValueError, match="spread must have one value per pair"):
        gains([0, 1], [0.5, 0.5], 2, sd=[0.1])


def test_of_a_graph_all_genes(graph: ad.AnnData) -> None:
    tl.suggest_perturbations(graph)
    table = get.suggestions(graph).set_index("gene")
    assert set(table.index) == set(LEFT)
    p = dense(graph, "graph").loc[LEFT, NODES]
    inside = p.to_numpy() > 0  # not the gene itself
    wanted = {
        "effects": p.sum(axis=1),
        "entropy": pd.Series((binary_entropy(p) * inside).sum(1), index=LEFT),
        "spread": dense(graph, "graph_sd").loc[LEFT, NODES].sum(axis=1),
        "correlation": dense(graph, "graph_correlation").loc[LEFT, NODES].sum(axis=1),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(table[name], values[table.index], rtol=1e-5, err_msg=name)
    x = graph.X[graph.obs["pert"] == "ctrl"]
    logged = np.log1p(x / x.sum(1, keepdims=True) * np.median(x.sum(1)))
    at = [GENES.index(g) for g in table.index]
    np.testing.assert_allclose(table["variance"], logged.var(0)[at], rtol=1e-4)
    back = dense(graph, "graph").T.loc[LEFT, NODES].to_numpy()
    either, share = p.to_numpy() + back, p.to_numpy() / np.where(inside, p.to_numpy() + back, 1)
    bits = (np.minimum(either, 1) * binary_entropy(share)).sum(1)
    np.testing.assert_allclose(table["direction"], pd.Series(bits, index=LEFT)[table.index], rtol=1e-5)
    assert graph.uns["suggestions"]["method"] == "entropy"
    assert table["entropy"].is_monotonic_decreasing and table["rank"].tolist() == [1, 2, 3]
    assert list(graph.uns["suggestions"]["perturbed"]) == ["G0", "G3", "G5"]
    outside = [i for i, g in enumerate(GENES) if g not in LEFT]
    assert np.isnan(graph.varm["suggestions"][outside]).all()


@pytest.mark.parametrize("method", ["direction", "effects", "entropy", "spread", "correlation", "variance"])
def test_each_method_ranks(graph: ad.AnnData, method: Any) -> None:
    tl.suggest_perturbations(graph, "G3", method=method)
    table = get.suggestions(graph)
    assert table[method].is_monotonic_decreasing
    assert table[f"rank_{method}"].tolist() == [1, 2, 3]
    p = dense(graph, "graph").loc[table["gene"], "G3"]
    np.testing.assert_allclose(table["effects"], p, rtol=1e-5)
    assert len(get.suggestions(graph, n_top=2)) == 2


def test_of_causes(scored: ad.AnnData) -> None:
    tl.suggest_perturbations(scored, ["G7"], key="causes", method="entropy")
    table = get.suggestions(scored).set_index("gene")
    assert set(table.index) == {"G1", "G2", "G4", "G6"}  # G7 is no cause of itself
    at = [GENES.index(g) for g in table.index]
    p = 1 / (1 + np.exp(-scored.varm["causes"][at, 1].astype(np.float64)))
    np.testing.assert_allclose(table["effects"], p, rtol=1e-5)
    np.testing.assert_allclose(table["entropy"], binary_entropy(p), rtol=1e-5)
    np.testing.assert_allclose(table["spread"], scored.varm["causes_sd"][at, 1] * p * (1 - p), rtol=1e-5)
    np.testing.assert_allclose(table["correlation"], np.abs(scored.varm["causes_correlation"][at, 1]), rtol=1e-5)
    tl.suggest_perturbations(scored, key="causes")
    both = get.suggestions(scored).set_index("gene")
    assert set(both.index) == {"G1", "G2", "G4", "G6", "G7"}
    assert scored.uns["suggestions"]["method"] == "entropy"
    with pytest.raises(ValueError, match="'direction' needs what"):
        tl.suggest_perturbations(scored, key="causes", method="direction")


def test_of_causes_of_all_pairs(screen: Any, tiny_weights: Any) -> None:
    tl.causes(screen, model=tiny_weights, n_half=0, n_draws=1, progress_bar=False)
    tl.suggest_perturbations(screen, ["G00", "G20"], key="causes", method="direction")
    table = get.suggestions(screen).set_index("gene")
    p = 1 / (1 + np.exp(-screen.varp["causes"].astype(np.float64)))
    at, interest = 15, [0, 20]  # G15
    either = p[at, interest] + p[interest, at]
    bits = np.minimum(either, 1) * binary_entropy(p[at, interest] / either)
    np.testing.assert_allclose(table.loc["G15", "direction"], bits.sum(), rtol=1e-5)


def test_a_screen_that_was_really_scored(screen: Any, tiny_weights: Any) -> None:
    tl.causes(screen, ["G01", "G20"], model=tiny_weights, n_half=0, n_draws=1, progress_bar=False)
    tl.suggest_perturbations(screen, key="causes", candidates=["G00", "G15", "G16"])
    table = get.suggestions(screen)
    assert sorted(table["gene"]) == ["G15", "G16"]  # G00 was perturbed
    assert "spread" not in table  # one draw, no halves


def test_without_regimes_all_are_candidates_and_values_may_be_missing(graph: ad.AnnData) -> None:
    graph.uns["graph"]["params"] |= {"regimes_key": "", "values": "continuous"}
    graph.X = graph.X - 5
    graph.X[3, 1] = np.nan
    tl.suggest_perturbations(graph, method="variance")
    table = get.suggestions(graph).set_index("gene")
    assert set(table.index) == set(NODES)
    np.testing.assert_allclose(table.loc["G1", "variance"], np.nanvar(graph.X[:, 1]), rtol=1e-5)


def test_methods_that_were_not_stored(graph: ad.AnnData) -> None:
    del graph.varp["graph_sd"]
    tl.suggest_perturbations(graph)
    assert "spread" not in get.suggestions(graph)
    with pytest.raises(ValueError, match="spread"):
        tl.suggest_perturbations(graph, method="spread")


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"genes": ["G2"]}, KeyError, "tl.graph"),
        ({"genes": []}, ValueError, "genes is empty"),
        ({"candidates": ["G2"]}, KeyError, "without scores"),
        ({"candidates": []}, ValueError, "candidates is empty"),
        ({"candidates": ["G0", "G3"]}, ValueError, "No candidate is left"),
        ({"method": 3}, ValueError, "method must be"),
        ({"method": "luck"}, ValueError, "method must be"),
        ({"key": "mine"}, KeyError, r"\['graph'\]|'graph'"),
        ({"key_added": "graph"}, ValueError, "key_added and key are both 'graph'"),
        ({"key_added": "a/b"}, ValueError, "key_added"),
    ],
)
def test_bad_arguments_leave_the_data_alone(
    graph: ad.AnnData, how: dict[str, Any], error: type[Exception], match: str, fingerprint: Any
) -> None:
    before = fingerprint(graph)
    with pytest.raises(error, match=match):
        tl.suggest_perturbations(graph, **how)
    assert fingerprint(graph) == before


def test_nothing_stored(graph: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="suggest_perturbations first"):
        get.suggestions(graph)
    tl.suggest_perturbations(graph, key_added="mine")
    with pytest.raises(KeyError, match="mine"):
        get.suggestions(graph)
    with pytest.raises(ValueError, match="n_top"):
        get.suggestions(graph, key="mine", n_top=0)
