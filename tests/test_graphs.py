"""The graph of some genes: which cells, which values, what is scored, called and set beside it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.special import expit
from scipy.stats import ttest_ind

from causcade import graph_baselines, metrics, pp
from causcade.graphs import (
    GraphCells,
    GraphSettings,
    edge_probabilities,
    knockout_t,
    read_graph_cells,
    score_graph,
)
from causcade.nn.avici import Avici, AviciConfig
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig
from causcade.pretrained import Weights
from causcade.simulate.domains import graph_values

QUIET = GraphSettings(n_draws=0, progress_bar=False)
GENES = ["G03", "G00", "G20", "G05"]  # G20 is not perturbed


class Seen(torch.nn.Module):
    """Logit: covariance of two genes, less 1; what it is given is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[Any, ...]] = []

    def forward(self, values: Any, mask: Any, missing: Any = None) -> Any:
        self.given.append((values[0].numpy(), mask[0].numpy(), None if missing is None else missing[0].numpy()))
        x = values - values.mean(1, keepdim=True)
        return x.mT @ x / x.shape[1] - 1


def weights(net: torch.nn.Module | None = None, **config: Any) -> Weights:
    return Weights("test", Seen() if net is None else net, config, "0" * 64)


def read(adata: Any, genes: Any = GENES, seed: int = 0, **how: Any) -> GraphCells:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only .* control cells")
        return read_graph_cells(adata, genes, rng=np.random.default_rng(seed), **how)


def probabilities(cells: GraphCells, net: Any = None, seed: int = 0, **settings: Any) -> np.ndarray:
    return edge_probabilities(cells, weights(net), replace(QUIET, **settings), np.random.default_rng(seed))


def score(cells: GraphCells, net: Any = None, seed: int = 0, **settings: Any) -> Any:
    return score_graph(cells, weights(net), replace(QUIET, **settings), np.random.default_rng(seed))


def plain(x: np.ndarray, mask: Any = None, genes: Any = None, **parts: Any) -> GraphCells:
    """Cells made by hand."""
    mask = np.zeros(x.shape, dtype=bool) if mask is None else mask
    regime = np.where(mask.any(1), 1 + mask.argmax(1), 0)
    names = np.array([f"g{i}" for i in range(x.shape[1])] if genes is None else genes)
    return GraphCells(names, x.astype(np.float32), mask, None, regime, x.astype(np.float64), "scm", **parts)


def noise(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


# --- which cells ----------------------------------------------------------------------------------------------------


def test_controls_and_perturbations_of_the_genes(screen: Any) -> None:
    cells = read(screen)
    labels = screen.obs["pert"].to_numpy()
    used = np.isin(labels, ["control", "G03", "G00", "G05"])
    assert len(cells) == used.sum() == 84
    assert cells.genes.tolist() == GENES
    assert cells.perturbed == ["G03", "G00", "G05"]
    for j, gene in enumerate(GENES):
        np.testing.assert_array_equal(cells.mask[:, j], labels[used] == gene)
    np.testing.assert_array_equal(cells.control, labels[used] == "control")
    total = torch.from_numpy(screen.X.sum(1)[used].astype(np.float64))
    x = torch.from_numpy(screen[used, GENES].X.astype(np.float64))
    np.testing.assert_allclose(cells.values, graph_values(x, "counts", total=total), atol=1e-6)
    assert cells.kind == "counts" and cells.missing is None


def test_combinations_need_all_their_targets(screen: Any) -> None:
    labels = screen.obs["pert"].to_numpy().astype(object)
    labels[labels == "G01"] = "G00+G03"
    labels[labels == "G02"] = "G00+G04"
    labels[labels == "G06"] = "G00+elsewhere"
    screen.obs["pert"] = labels
    pp.regimes(screen, "pert", "control")
    cells = read(screen)
    both = cells.mask.sum(1) == 2
    assert both.sum() == 8 and len(cells) == 92
    assert cells.mask[both].tolist() == [[True, True, False, False]] * 8
    kept = read(screen, others="keep")
    assert len(kept) == 156
    assert kept.mask.sum() == cells.mask.sum()
    assert kept.control.sum() == 60


def test_small_regimes_stay_out(screen: Any) -> None:
    screen.obs["pert"] = screen.obs["pert"].astype(str).replace("G10", "G11")
    with pytest.warns(UserWarning, match="min_cells"):
        pp.regimes(screen, "pert", "control", min_cells=9)
    with pytest.warns(UserWarning, match="None of these genes was perturbed"):
        assert len(read(screen, others="keep")) == 76


def test_no_regimes(screen: Any) -> None:
    del screen.uns["regimes"]
    with pytest.raises(KeyError, match=r"no regimes in \.uns\['regimes'\].*regimes_key=None"):
        read(screen)
    cells = read(screen, regimes_key=None)
    assert len(cells) == 156 and cells.control.all() and not cells.mask.any()


def test_of_many_cells_some_are_taken(screen: Any) -> None:
    cells = read(screen, max_cells=41)
    assert len(cells) == 41
    assert np.bincount(cells.regime)[[0, 1, 4, 6]].tolist() in ([20, *c] for c in ([8, 8, 5], [7, 7, 7]))
    assert cells.control.sum() == 20 and cells.mask.sum(0).tolist() == [7, 7, 0, 7]
    few = read(screen[np.r_[0:30, 60:76]].copy(), GENES[:2], max_cells=36)  # G00 only: 8 perturbed cells of the genes
    assert few.control.sum() == 28 and few.mask.sum(0).tolist() == [0, 8]
    same, other = (read(screen, max_cells=41, seed=s) for s in (0, 1))
    np.testing.assert_array_equal(same.values, cells.values)
    assert not np.array_equal(other.values, cells.values)


# --- which values ---------------------------------------------------------------------------------------------------


def test_log_and_continuous_are_z_scores(screen: Any) -> None:
    screen.layers["log"] = np.log1p(screen.X)
    screen.layers["scaled"] = screen.layers["log"] - 2
    log = read(screen, values="log", layer="log")
    assert log.kind == "scm"
    np.testing.assert_allclose(log.values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(log.values.std(0), 1, atol=1e-5)
    scaled = read(screen, values="continuous", layer="scaled")
    np.testing.assert_allclose(scaled.values, log.values, atol=1e-5)
    np.testing.assert_allclose(scaled.unscaled + 2, log.unscaled, atol=1e-6)
    with pytest.raises(ValueError, match=r"negative values .*values='continuous'"):
        read(screen, values="expression", layer="scaled")
    with pytest.raises(ValueError, match="look like raw counts"):
        read(screen, values="log")
    with pytest.raises(ValueError, match="whole numbers"):
        read(screen, layer="log")


def test_missing_values(screen: Any) -> None:
    screen.layers["z"] = np.log1p(screen.X)
    screen.layers["z"][::7, 3] = np.nan
    screen.layers["z"][:, 30] = np.nan  # of no concern
    cells = read(screen, values="continuous", layer="z", batch_key="batch")
    assert cells.missing is not None
    np.testing.assert_array_equal(cells.missing[:, 0], np.isnan(cells.unscaled[:, 0]))
    assert not cells.missing[:, 1:].any() and cells.missing.any()
    assert not cells.values[cells.missing].any()
    net = Seen()
    out = score(cells, net)
    assert net.given[0][2].sum() == cells.missing.sum()
    assert np.isfinite(out.probability).all() and np.isfinite(out.correlation).all()
    seen = cells.unscaled[~cells.missing[:, 0]]
    assert out.varsortability == pytest.approx(metrics.varsortability(seen[seen_control(cells)], out.dag), nan_ok=True)
    screen.layers["z"][5, 3] = np.inf
    with pytest.raises(ValueError, match=r"infinite value \(cell 'c5', gene 'G03'\)"):
        read(screen, values="continuous", layer="z")


def seen_control(cells: GraphCells) -> np.ndarray:
    return cells.control[~cells.missing[:, 0]]  # type: ignore[index]


def test_groups_are_at_one_level_and_zeros_stay(screen: Any) -> None:
    b = screen.obs["batch"].to_numpy() == "b"
    screen.X[b, 3] *= 6
    raw, cells = read(screen), read(screen, batch_key="batch")
    used = np.isin(screen.obs["pert"], ["control", *GENES])
    counts, b = screen[used, GENES].X, b[used]
    x, before = (np.where(counts > 0, c.values, np.nan)[cells.control] for c in (cells, raw))
    second = b[cells.control]
    assert abs(np.nanmean(before[second, 0]) - np.nanmean(before[~second, 0])) > 0.5
    np.testing.assert_allclose(np.nanmean(x[second], 0), np.nanmean(x[~second], 0), atol=1e-4)
    np.testing.assert_allclose(np.nanmean(x, 0), np.nanmean(before, 0), atol=1e-4)
    assert (counts == 0).any() and not cells.values[counts == 0].any()
    np.testing.assert_array_equal(cells.unscaled, raw.unscaled)
    apart = screen.obs["batch"].to_numpy().astype(object)
    apart[60:64] = "c"  # half of G00
    screen.obs["batch"] = apart
    with pytest.warns(UserWarning, match=r"4 of 84 cells lie in groups of \.obs\['batch'\]"):
        assert len(read(screen, batch_key="batch")) == 80


@pytest.mark.parametrize("form", ["csr", "csc", "view"])
def test_any_container(screen: Any, form: str, tmp_path: Any) -> None:
    expected = read(screen)
    if form == "view":
        other = screen[:, ::-1]
    else:
        other = screen.copy()
        other.X = sparse.csr_matrix(screen.X) if form == "csr" else sparse.csc_matrix(screen.X)
    for values in ("counts", "continuous"):
        a, b = read(screen, values=values), read(other, values=values)
        np.testing.assert_allclose(a.values, b.values, atol=1e-6)
    np.testing.assert_array_equal(expected.mask, read(other).mask)


def test_backed(screen: Any, tmp_path: Any) -> None:
    screen.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for values in ("counts", "continuous"):
        np.testing.assert_allclose(read(screen, values=values).values, read(back, values=values).values, atol=1e-6)
    back.file.close()


# --- what is refused and said ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"genes": "G00"}, ValueError, "at least two names"),
        ({"genes": ["G00"]}, ValueError, "at least two names"),
        ({"genes": None}, ValueError, "at least two names"),
        ({"genes": ["G00", "G01", "G00"]}, ValueError, "genes occur twice: 'G00'"),
        ({"genes": ["G00", "g01", "x"]}, KeyError, "2 of 3 genes are not in .var_names: 'g01', 'x'. Close to 'g01': 'G01'"),
        ({"values": "raw"}, ValueError, "values must be one of 'counts'"),
        ({"others": "mask"}, ValueError, "others must be one of 'drop', 'keep', not 'mask'"),
        ({"max_cells": 5}, ValueError, "max_cells must be a whole number of at least 6"),
        ({"batch_key": "btch"}, KeyError, "'btch'.*Close to 'btch': 'batch'"),
        ({"layer": "no"}, KeyError, "no layer 'no'"),
        ({"layer": "no", "values": "continuous"}, KeyError, "no layer 'no'"),
    ],
)  # fmt: skip
def test_bad_arguments(screen: Any, how: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read(screen, **how)


def test_too_few_cells(screen: Any) -> None:
    small = screen[np.r_[0:1, 60:62]].copy()
    with pytest.raises(ValueError, match=r"1 genes have fewer than 3 cells .*: 'G00'.*3 are used, 1 of them control"):
        read(small, ["G00", "G20"])
    with pytest.warns(UserWarning, match="Only 4 control cells"):
        read_graph_cells(screen[np.r_[0:4, 60:68]].copy(), GENES, rng=np.random.default_rng(0))


def test_constant_genes_are_named(screen: Any) -> None:
    screen.X[:, 20] = 0
    with pytest.warns(UserWarning, match="1 genes do not vary in these cells.*: 'G20'"):
        cells = read(screen)
    out = score(cells, EdgeStream(EdgeStreamConfig(width=8, layers=1, heads=1, hidden=8, triads=1)).eval())
    assert np.isfinite(out.probability).all() and not out.correlation[2].any() and np.isnan(out.r2_sortability)


def test_constant_genes_have_no_edges(screen: Any) -> None:
    screen.X[:, 20] = 0
    with pytest.warns(UserWarning, match="probability 0: 'G20'"):
        cells = read(screen)
    out = score(cells, Seen(), n_draws=2)
    assert not out.probability[2].any() and not out.probability[:, 2].any() and not out.sd[2].any()
    off = ~np.eye(4, dtype=bool)
    assert (out.probability[:, [0, 1, 3]][[0, 1, 3]][off[:3, :3]] > 0).all()


def test_text_is_no_value(screen: Any) -> None:
    screen.layers["c"] = screen.X.astype(complex)
    with pytest.raises(ValueError, match="not real numbers"):
        read(screen, layer="c", values="continuous")


# --- probabilities --------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_network(screen: Any) -> None:
    cells, net = read(screen), Seen()
    out = probabilities(cells, net)
    values, mask, missing = net.given[0]
    np.testing.assert_array_equal(values, cells.values)
    np.testing.assert_array_equal(mask, cells.mask)
    assert missing is None and len(net.given) == 1
    expected = expit(np.cov(cells.values.T, bias=True) - 1)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert out.dtype == np.float32


@pytest.mark.parametrize("kind", ["edges", "avici"])
def test_order_of_genes_does_not_matter(screen: Any, kind: str) -> None:
    torch.manual_seed(0)
    net: Any = EdgeStream(EdgeStreamConfig(width=8, layers=1, heads=2, hidden=8, triads=2))
    if kind == "avici":
        net = Avici(AviciConfig(width=8, layers=1, heads=2, hidden=8, out=4))
    else:
        torch.nn.init.normal_(net.head[-1].weight)
    a, b = (pd.DataFrame(probabilities(read(screen, g), net), g, g) for g in (GENES, GENES[::-1]))
    np.testing.assert_allclose(a, b.loc[GENES, GENES], atol=1e-4)
    assert not np.allclose(a, a.T, atol=1e-6)


def test_sets_of_many_genes() -> None:
    x = noise(60, 9)
    mask = np.zeros(x.shape, dtype=bool)
    mask[20:60, :8] = np.repeat(np.eye(8, dtype=bool), 5, axis=0)
    x[mask] = -3
    cells, net = plain(x, mask), Seen()
    with pytest.warns(UserWarning, match="9 genes are more than .* sets of 4"):
        out = probabilities(cells, net, subset_size=4)
    assert np.isfinite(out).all() and (out[~np.eye(9, dtype=bool)] > 0).all()
    assert {v.shape[1] for v, _, _ in net.given} <= {3, 4} and len(net.given) > 5
    for _, m, _ in net.given:  # only cells of the set's genes, 20 controls and 5 of each perturbed one
        assert (m.sum(0) <= 5).all() and len(m) == 20 + m.sum()
    kept = Seen()
    with pytest.warns(UserWarning, match="sets of 4"):
        probabilities(replace(cells, others="keep"), kept, subset_size=4)
    assert {len(m) for _, m, _ in kept.given} == {60}


def test_logits_are_averaged_over_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = plain(noise(30, 5))
    sets = [np.array([0, 1, 2]), np.array([0, 1, 3]), np.array([4, 2, 3]), np.array([0, 1, 4])]
    monkeypatch.setattr("causcade.graphs._score.cover_pairs", lambda *_, **__: iter(sets))

    class Counting(torch.nn.Module):
        called = 0

        def forward(self, values: Any, *_: Any) -> Any:
            self.called += 1
            return torch.full((1, 3, 3), float(self.called))

    with pytest.warns(UserWarning, match="sets of 3"):
        out = probabilities(cells, Counting(), subset_size=3)
    assert out[0, 1] == pytest.approx(expit((1 + 2 + 4) / 3), abs=1e-5)
    assert out[2, 3] == pytest.approx(expit(3.0), abs=1e-5)


def test_too_many_genes() -> None:
    with pytest.raises(ValueError, match="1,001 genes: a graph can have at most 1,000"):
        probabilities(plain(np.zeros((6, 1001))))
    wide = ad.AnnData(np.ones((6, 1001), dtype=np.float32))
    with pytest.raises(ValueError, match="1,001 genes: a graph can have at most 1,000"):  # and not after minutes
        read(wide, list(wide.var_names), regimes_key=None)


@pytest.mark.parametrize(
    ("domains", "kind", "text"),
    [
        ({"grn": 1.0}, "scm", "trained on counted cells.*'avici-scm'"),
        ({"linear": 1.0, "grn": 0.0}, "counts", "trained on continuous values.*'avici-grn'"),
        (None, "counts", "trained on continuous values"),
        ({"grn": 1.0}, "counts", None),
        ({"grn": 1.0, "rff": 1.0}, "scm", None),
        (None, "scm", None),
    ],
)
def test_weights_for_other_values(domains: Any, kind: Any, text: str | None) -> None:
    prior = {} if domains is None else {"domains": domains}
    cells = replace(plain(noise(10, 3)), kind=kind)
    args = (cells, weights(recipe={"prior": prior}), QUIET, np.random.default_rng(0))
    if text is None:
        edge_probabilities(*args)
    else:
        with pytest.warns(UserWarning, match=text):
            edge_probabilities(*args)


# --- spread ---------------------------------------------------------------------------------------------------------


def test_spread_is_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    draws = [rng.multivariate_normal(np.zeros(3), scale, 200) for _ in range(120)]
    truth = np.std([probabilities(plain(x)) for x in draws], axis=0)
    found = np.mean([score(plain(x), n_draws=10, seed=i).sd for i, x in enumerate(draws[:20])], axis=0)
    off = ~np.eye(3, dtype=bool)
    assert 0.85 < found[off].mean() / truth[off].mean() < 1.2


def test_halves_share_no_cell_and_all_regimes(screen: Any) -> None:
    cells, net = read(screen), Seen()
    out = score(cells, net, n_draws=3)
    assert len(net.given) == 1 + 4  # rounded up to pairs
    first, second = net.given[1], net.given[2]
    assert len(first[0]) + len(second[0]) == 84
    assert sorted(map(tuple, np.concatenate([first[0], second[0]]))) == sorted(map(tuple, cells.values))
    for half in (first, second):
        assert half[1].sum(0).tolist() == [4, 4, 0, 4]
    assert (out.sd[~np.eye(4, dtype=bool)] > 0).all() and not out.sd.diagonal().any()


def test_spread_of_few_cells() -> None:
    out = score(plain(noise(5, 2)), n_draws=2)
    assert np.isnan(out.sd[0, 1]) and out.sd[0, 0] == 0
    assert score(plain(noise(5, 2))).sd is None


def test_seeds(screen: Any) -> None:
    cells = read(screen)
    a, b, c = (score(cells, n_draws=2, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.sd, b.sd)
    assert not np.array_equal(a.sd, c.sd)
    np.testing.assert_array_equal(a.probability, c.probability)


# --- what is called -------------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Probabilities that are given."""

    def __init__(self, probability: Any) -> None:
        super().__init__()
        self.logits = torch.logit(torch.as_tensor(probability, dtype=torch.float32))

    def forward(self, *_: Any) -> Any:
        return self.logits[None]


CYCLE = np.array([[0.5, 0.95, 0.1], [0.2, 0.5, 0.9], [0.85, 0.3, 0.5]])


def test_called_edges_and_graph_without_cycles(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="causcade"):
        out = score(plain(noise(20, 3)), Fixed(CYCLE), fdr=0.11)
    assert out.threshold == pytest.approx(0.85)
    assert out.n_called == 3 and out.n_false_expected == pytest.approx(0.3, abs=1e-5)
    assert np.argwhere(out.dag).tolist() == [[0, 1], [1, 2]]
    texts = [r.message for r in caplog.records]
    assert any("3 genes from 20 cells (20 control) with test@000000000000 on cpu" in t for t in texts)
    assert any("3 edges called (probability at least 0.85), 0.3 of them expected to be false; 2" in t for t in texts)


def test_threshold_can_be_chosen_and_may_not_exist() -> None:
    cells = plain(noise(20, 3))
    assert score(cells, Fixed(CYCLE), threshold=0.92).n_called == 1
    best = score(cells, Fixed(CYCLE), threshold="f1")
    assert best.threshold == metrics.f1_threshold(best.probability) and best.n_called > 1
    none = score(cells, Fixed(CYCLE), fdr=0.01)
    assert none.threshold == np.inf and none.n_called == 0 and none.n_false_expected == 0
    assert not none.dag.any() and np.isnan(none.varsortability) and np.isnan(none.r2_sortability)


def test_sortability_is_that_of_the_control_cells() -> None:
    x = noise(80, 3) * [1, 2, 3]
    mask = np.zeros(x.shape, dtype=bool)
    mask[60:, 0] = True
    x[60:, 0] = 100
    out = score(plain(x, mask), Fixed(CYCLE), threshold=0.8)
    assert out.varsortability == metrics.varsortability(x[:60], out.dag) == 1
    assert out.r2_sortability == metrics.r2_sortability(x[:60], out.dag)


# --- baselines ------------------------------------------------------------------------------------------------------


def test_baselines_are_those_of_the_package(screen: Any) -> None:
    cells = read(screen)
    out = score(cells)
    np.testing.assert_allclose(out.correlation, graph_baselines.correlation(cells.values, cells.mask), atol=1e-6)
    np.testing.assert_allclose(out.precision, graph_baselines.precision(cells.values, cells.mask), atol=1e-6)
    np.testing.assert_array_equal(out.knockout_t, knockout_t(cells))


def test_knockout_t_is_welch_of_single_perturbations(screen: Any) -> None:
    labels = screen.obs["pert"].to_numpy().astype(object)
    labels[labels == "G01"] = "G00+G03"
    screen.obs["pert"] = labels
    pp.regimes(screen, "pert", "control")
    cells = read(screen)
    out = knockout_t(cells)
    alone = cells.mask.sum(1) == 1
    for i in (0, 1, 3):
        mine = cells.mask[:, i] & alone
        expected = np.abs(ttest_ind(cells.values[mine], cells.values[cells.control], equal_var=False).statistic)
        off = np.arange(4) != i
        np.testing.assert_allclose(out[i, off], expected[off], rtol=1e-3)
    assert np.isnan(out[2, [0, 1, 3]]).all() and not out.diagonal().any()
    only = replace(cells, mask=cells.mask & ~alone[:, None])  # combinations, for want of better
    both = cells.mask.sum(1) == 2
    expected = np.abs(ttest_ind(cells.values[both], cells.values[cells.control], equal_var=False).statistic)
    np.testing.assert_allclose(knockout_t(only)[0, 1:], expected[1:], rtol=1e-3)


def test_knockout_t_leaves_missing_values_out() -> None:
    x = noise(30, 2) + 5
    mask = np.zeros(x.shape, dtype=bool)
    mask[20:, 0] = True
    missing = np.zeros(x.shape, dtype=bool)
    missing[[3, 22], 1] = True
    cells = replace(plain(np.where(missing, 0, x), mask), missing=missing)
    kept = x[~missing[:, 1], 1]
    expected = ttest_ind(kept[19:], kept[:19], equal_var=False).statistic
    assert knockout_t(cells)[0, 1] == pytest.approx(abs(expected), rel=1e-4)


def test_knockout_t_without_variance_or_cells() -> None:
    x = np.ones((10, 2))
    mask = np.zeros(x.shape, dtype=bool)
    mask[6:, 0] = True
    mask[5, 1] = True
    out = knockout_t(plain(x, mask))
    assert np.isnan(out[0, 1]) and np.isnan(out[1, 0])


def test_counts_given_as_continuous_values_are_named(screen: Any) -> None:
    screen.X = np.log1p(np.asarray(screen.X, dtype=np.float64))
    screen.X[: int(0.6 * len(screen.X)), 20] = 0
    with pytest.warns(UserWarning, match=r"genes have one value, their least, in more than half .*avici-grn.*'G20'"):
        read(screen, values="log")


def test_genes_that_are_hardly_seen_are_named(screen: Any) -> None:
    screen.X[:, 20] = 0
    screen.X[3, 20] = 2
    with pytest.warns(UserWarning, match=r"1 genes are above 0 in fewer than 5 .*: 'G20'"):
        read(screen)


@pytest.mark.parametrize(
    ("net", "room"),
    [
        (EdgeStream(EdgeStreamConfig(width=4, layers=2, heads=2, hidden=12, triads=2)), 20),
        (Avici(AviciConfig(width=4, layers=2, heads=2, hidden=12, out=4)), 260),
    ],
    ids=["edges", "cells"],
)
def test_probabilities_in_parts_are_the_same(
    net: Any, room: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once memory of the device has run out."""
    cells = plain(noise(40, 8))
    expected = probabilities(cells, net)
    real, seen, most = torch.nn.GELU.forward, [], [room]

    def limited(self: torch.nn.GELU, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] == 12:  # the width of these layers alone
            seen.append(x[..., 0].numel())
            if seen[-1] > most[0]:
                raise torch.cuda.OutOfMemoryError
        return real(self, x)

    monkeypatch.setattr(torch.nn.GELU, "forward", limited)
    np.testing.assert_allclose(score(cells, net, n_draws=2).probability, expected, rtol=1e-4, atol=1e-6)
    assert max(seen) > room >= seen[-1]
    assert sum("ran out in scoring" in m for m in caplog.messages) == 1
    most[0] = 0
    with pytest.raises(RuntimeError, match=r"even in 64 parts.*Lower subset_size or max_cells"):
        probabilities(cells, net)
