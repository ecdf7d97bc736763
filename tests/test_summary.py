"""A summary asked instead of cells: effects of all cells, and answers that are those of the cells if all were kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import causcade.summary._screen
from causcade import nulls, pp, tl
from causcade.comparisons import read_perturbations
from causcade.screendata import ScreenData, read_screen
from causcade.stats import Moments, pair_stats
from causcade.summary import SummaryScreen
from causcade.summary._moments import residual_correlation


@pytest.fixture
def large(screen):
    """The small screen three times over: enough cells to leave some out."""
    import anndata as ad

    adata = ad.concat([screen] * 3, index_unique="-")
    adata.X = np.random.default_rng(1).poisson(adata.X + 0.3).astype(np.float32)
    pp.regimes(adata, "pert", "control")
    return adata


def summarise(adata, **how):
    return pp.summarise(adata, **{"batch_key": "batch", "progress_bar": False, **how})


def some(adata, **how):
    return summarise(adata, **{"max_cells": 12, "max_controls": 60, **how})


def forced(adata):
    """A summary of all cells that does not know it."""
    out = summarise(adata)
    out.uns["summary"]["params"]["n_cells"] += 1
    return out


# --- all cells were kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_key", ["batch", None])
def test_causes_of_a_whole_summary_are_those_of_the_cells(large, tiny_weights, batch_key):
    small = summarise(large)
    for adata in (large, small):
        tl.causes(adata, ["G01", "G20"], model=tiny_weights, batch_key=batch_key, n_null=1, progress_bar=False)
    for part in ("", "_sd", "_fdr", "_knockout_t", "_popularity", "_correlation"):
        np.testing.assert_array_equal(large.varm[f"causes{part}"], small.varm[f"causes{part}"])


def test_targets_of_a_whole_summary_are_those_of_the_cells(large, tiny_target_weights):
    small = summarise(large)
    for adata in (large, small):
        tl.targets(adata, ["G01"], model=tiny_target_weights, batch_key="batch", n_draws=1, progress_bar=False)
    for part in ("", "_lfc", "_wilcoxon"):
        np.testing.assert_array_equal(large.varm[f"targets{part}"], small.varm[f"targets{part}"])


def test_graph_of_a_whole_summary_is_that_of_the_cells(large):
    small = summarise(large)
    for adata in (large, small):
        tl.graph(adata, ["G00", "G01", "G02"], batch_key="batch", n_draws=0, progress_bar=False)
    for part in ("", "_correlation", "_knockout_t"):
        np.testing.assert_array_equal(large.varp[f"graph{part}"].toarray(), small.varp[f"graph{part}"].toarray())


@pytest.mark.parametrize("batch_key", ["batch", None])
def test_sums_and_cells_together_give_the_statistics_of_the_cells(large, batch_key):
    cells, small = read_screen(large, batch_key=batch_key), read_screen(forced(large), batch_key=batch_key)
    assert isinstance(small, SummaryScreen)
    assert not isinstance(cells, SummaryScreen)
    expected, found = cells.stats(), small.stats()
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-4, atol=2e-5, err_msg=name)


# --- some were not ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_key", ["batch", None])
def test_effects_are_those_of_all_cells(large, batch_key):
    cells, small = read_screen(large, batch_key=batch_key), read_screen(some(large), batch_key=batch_key)
    assert len(small.codes) == 204 < len(cells.codes)
    expected, found = cells.stats(), small.stats()
    for name in ("z", "effect", "z_detected", "z_nonzero", "spread", "mean", "detection", "perturbed", "cells"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=2e-5, err_msg=name)
    assert found.n_control == expected.n_control == 180
    close = np.corrcoef(found.correlation.numpy().ravel(), expected.correlation.numpy().ravel())[0, 1]
    assert 0.5 < close < 0.999


def test_correlations_rest_on_fewer_cells(large):
    found = read_screen(some(large), batch_key="batch").stats()
    weights = np.repeat([3.0, 2.0], [60, 144])
    assert found.n_cells == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_baselines_of_causes_and_changes_of_targets_are_exact(large, tiny_weights, tiny_target_weights):
    small = some(large)
    for adata in (large, small):
        tl.causes(adata, ["G01", "G20"], model=tiny_weights, batch_key="batch", n_half=2, progress_bar=False)
        tl.targets(adata, ["G01", "G03"], model=tiny_target_weights, batch_key="batch", n_draws=1, progress_bar=False)
    for name in ("causes_knockout_t", "causes_popularity", "targets_lfc"):
        np.testing.assert_allclose(small.varm[name], large.varm[name], rtol=1e-4, atol=2e-5, err_msg=name)
    assert np.isfinite(small.varm["causes_sd"]).all()
    assert not np.array_equal(small.varm["targets_wilcoxon"], large.varm["targets_wilcoxon"])


def test_masked_changes_are_those_of_masked_cells(large, tiny_target_weights):
    small = some(large)
    how = {"model": tiny_target_weights, "n_draws": 1, "progress_bar": False}
    tl.targets(small, ["G01"], masked=True, key_added="masked", **how)
    tl.targets(small, ["G01"], **how)
    own = small.var_names.get_loc("G01")
    assert abs(small.varm["masked_lfc"][own, 0]) < abs(small.varm["targets_lfc"][own, 0]) / 2


def test_genes_may_be_dropped_and_reordered(large):
    small = some(large)
    order = np.random.default_rng(0).permutation(small.n_vars)[:25]
    z = read_screen(small, batch_key="batch").stats().z.numpy()
    cut = read_screen(small[:, order].copy(), batch_key="batch").stats().z.numpy()
    np.testing.assert_allclose(cut, z[np.ix_(order, order)], rtol=1e-5, atol=1e-5)


def test_guides_of_one_gene_are_joined(large):
    labels = large.obs["pert"].astype(str)
    labels[(labels == "G03") & (np.arange(len(labels)) % 2 == 0)] = "sgG03-2"
    large.obs["pert"] = labels
    names = {x: [x] for x in labels.unique() if x not in ("control", "sgG03-2")}
    pp.regimes(large, "pert", "control", targets={**names, "sgG03-2": ["G03"]})
    cells, small = read_screen(large), read_screen(some(large))
    np.testing.assert_allclose(small.stats().z, cells.stats().z, rtol=1e-4, atol=2e-5)


def test_rare_labels_are_left_out_of_all_sums(large):
    labels = large.obs["pert"].astype(str).to_numpy().copy()
    labels[labels == "G05"] = "control"
    labels[7] = "G05"
    large.obs["pert"] = labels
    with pytest.warns(UserWarning, match="fewer than min_cells"):
        pp.regimes(large, "pert", "control")
    cells, small = read_screen(large, batch_key="batch"), read_screen(some(large), batch_key="batch")
    expected, found = cells.moments(), small.moments()
    for name in ("cells", "value", "detected", "group_value", "group_detected"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-4, err_msg=name)


# --- halves and permutations --------------------------------------------------------------------------------------


def scatter(screen: ScreenData, n: int = 12) -> tuple[float, float]:
    """How far effects of halves of the cells differ, and how large those of permuted labels are."""
    whole = screen.moments()
    apart, permuted = [], []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        first, second = (screen.stats(h).effect.numpy() for h in screen.halves(whole, rng))
        apart.append(first - second)
        codes = nulls.permute_codes(screen.codes, groups=screen.groups, rng=rng).astype(np.int64)
        permuted.append(replace(screen, codes=codes).stats().effect.numpy())
    return float(np.std(apart)), float(np.std(permuted))


def test_halves_and_permutations_scatter_as_those_of_all_cells(large):
    wanted, found = (scatter(read_screen(a, batch_key="batch")) for a in (large, some(large)))
    kept = large[some(large).obs["summary_cell"].to_numpy()].copy()
    plain = scatter(read_screen(kept, batch_key="batch"))
    for cells, summary, naive in zip(wanted, found, plain, strict=True):
        assert summary == pytest.approx(cells, rel=0.1)
        assert naive > 1.25 * cells  # so it is not what kept cells alone would say


def test_halves_of_all_cells_are_near_those_of_the_cells(large):
    small = read_screen(forced(large), batch_key="batch")
    whole = small.moments()
    first, second = small.halves(whole, np.random.default_rng(0))
    np.testing.assert_allclose(first.value + second.value, whole.value, rtol=0.02, atol=1)
    np.testing.assert_allclose(first.cells, whole.cells / 2)


def test_correlations_are_taken_from_some_of_the_kept(large, monkeypatch):
    monkeypatch.setattr(causcade.summary._screen, "_CORRELATED", 150)
    small = read_screen(some(large), batch_key="batch")
    cells, weight = small._sample
    assert 130 <= len(cells) <= 150
    assert (np.diff(cells) > 0).all()
    counts = np.bincount(small.raw[cells])
    assert counts.min() >= 8
    per_regime = np.bincount(small.raw[cells], weights=weight)
    np.testing.assert_allclose(per_regime, [180, *[24] * 12])  # each regime counts as large as it is
    monkeypatch.setattr(causcade.summary._screen, "_KEEP", 0)
    again = read_screen(some(large), batch_key="batch")
    torch.testing.assert_close(again.moments().residual, small.moments().residual)


# --- statistics ---------------------------------------------------------------------------------------------------


def test_weighted_cells_count_as_often(screen):
    data = read_screen(screen, batch_key="batch")
    y = torch.cat([b for _, b in data.blocks()])
    times = torch.from_numpy(np.random.default_rng(0).integers(1, 4, len(y)))
    codes, groups = torch.from_numpy(data.codes), torch.from_numpy(data.groups)
    weighted, repeated = (Moments.empty(data.n_regimes, 2, data.n_genes) for _ in range(2))
    weighted.update(y, codes, groups, times.double())
    repeated.update(*(t.repeat_interleave(times, 0) for t in (y, codes, groups)))
    for name in ("cells", "value", "detected", "group_value", "group_detected", "gram"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name), rtol=1e-5, atol=1e-4)


def test_residual_correlation_stands_for_products(screen):
    data = read_screen(screen, batch_key="batch")
    whole, single = data.moments(), torch.from_numpy(data.single)
    from_squares = replace(whole, gram=whole.squares.clone(), residual=residual_correlation(whole), effective=50.0)
    a, b = pair_stats(whole, single), pair_stats(from_squares, single)
    for name in ("z", "correlation", "residual", "partial", "spread"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5)
    assert (a.n_cells, b.n_cells) == (len(data.codes), 50.0)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_cells_of_a_summary_may_not_be_dropped(large):
    small = some(large)
    with pytest.raises(ValueError, match="summary with 204 cells, but 100 are left"):
        read_screen(small[:100].copy())
    del small.uns["summary"]
    assert not isinstance(read_screen(small[:100].copy()), SummaryScreen)


@pytest.mark.parametrize(
    ("how", "match"),
    [({"batch_key": "pert"}, "no sums for batch_key='pert'"), ({"values": "expression"}, "is of values='counts'")],
)
def test_a_summary_is_asked_for_what_it_knows(large, how, match):
    with pytest.raises(ValueError, match=match):
        read_screen(some(large), **how)


def test_regimes_may_not_be_made_anew(large):
    small = some(large)
    labels = small.obs["pert"].astype(str)
    small.obs["pert"] = labels.where(labels != "G07", "G06")
    pp.regimes(small, "pert", "control")
    with pytest.raises(ValueError, match="sums for the 13 regimes it was made with"):
        read_screen(small)


def test_sums_that_are_gone(large):
    small = some(large)
    del small.varm["summary_square"]
    with pytest.raises(ValueError, match="no 'summary_square'"):
        read_screen(small)


def test_changes_need_controls_in_every_group(large):
    batch = large.obs["batch"].astype(str).to_numpy().copy()
    batch[np.flatnonzero(large.obs["pert"] == "G01")[:15]] = "alone"
    large.obs["batch"] = batch
    with pytest.warns(UserWarning, match="without a reference cell"):
        screen, pairs = read_perturbations(some(large), ["G01", "G02"], batch_key="batch")
    assert screen.mean_change(pairs.cells[0]) is None
    assert screen.mean_change(pairs.cells[1]) is not None
    assert screen.mean_change(np.concatenate(pairs.cells)) is None


def test_a_batch_without_kept_cells_keeps_its_place(large):
    batch = large.obs["batch"].astype(str).to_numpy().copy()
    controls = np.flatnonzero(large.obs["pert"] == "control")
    batch[controls[3]] = "0 first in order"
    large.obs["batch"] = pd.Categorical(batch)
    seeds = (some(large, rng=seed) for seed in range(20))
    small = next(s for s in seeds if controls[3] not in s.obs["summary_cell"].to_numpy())
    screen = read_screen(small, batch_key="batch")
    assert screen.n_groups == 3
    np.testing.assert_allclose(screen.moments().cells.sum(0), [1, *np.bincount(large.obs["batch"].cat.codes)[1:]])
