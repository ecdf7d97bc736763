"""Pair statistics of the edge network: against numpy where there is a closed form, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade.edge_inputs import (
    EDGE_FEATURES,
    N_EDGE_FEATURES,
    _free_covariances,
    _left_features,
    _prepare,
    edge_features,
)

N, D = 400, 5


@pytest.fixture(scope="module")
def cells() -> tuple[torch.Tensor, torch.Tensor]:
    """A chain 0 -> 1 -> 2, 3 alone, 4 a bent effect of 0; a quarter of the cells have 1 set to a value."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, (N, D))  # bounded: nothing is cut off
    mask = np.zeros((N, D), dtype=bool)
    mask[300:, 1] = True
    x[:, 1] = np.where(mask[:, 1], rng.uniform(0.5, 2.0, N), 0.8 * x[:, 0] + 0.5 * x[:, 1])
    x[:, 2] = 0.9 * x[:, 1] + 0.3 * x[:, 2]
    x[:, 4] = x[:, 0] ** 2 + 0.2 * x[:, 4]
    return torch.from_numpy(x).float()[None], torch.from_numpy(mask).float()[None]


def feature(features: torch.Tensor, name: str, *, reverse: bool = False) -> np.ndarray:
    return features[0, :, :, EDGE_FEATURES.index(name) + reverse * len(EDGE_FEATURES)].numpy()


def test_shape_and_reverse(cells) -> None:
    f = edge_features(*cells)
    assert f.shape == (1, D, D, N_EDGE_FEATURES)
    for name in EDGE_FEATURES:
        np.testing.assert_array_equal(feature(f, name, reverse=True), feature(f, name).T)
        assert not feature(f, name).diagonal().any()


def test_control_correlations_are_those_of_numpy(cells) -> None:
    x = cells[0][0, :300].numpy()
    f = edge_features(*cells)
    off = ~np.eye(D, dtype=bool)
    np.testing.assert_allclose(feature(f, "control_r")[off], np.corrcoef(x.T)[off], atol=1e-4)
    inverse = np.linalg.inv(np.corrcoef(x.T))
    partial = -inverse / np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal()))
    np.testing.assert_allclose(feature(f, "control_partial")[off], partial[off], atol=0.02)  # a little shrunken


def test_an_effect_is_judged_in_the_cells_in_which_it_was_left_alone(cells) -> None:
    x, f = cells[0][0].numpy(), edge_features(*cells)
    free = feature(f, "free_r")
    assert free[0, 1] == pytest.approx(np.corrcoef(x[:300, 0], x[:300, 1])[0, 1], abs=1e-4)  # effect 1: controls only
    assert free[1, 0] == pytest.approx(np.corrcoef(x[:, 0], x[:, 1])[0, 1], abs=1e-4)  # effect 0: all cells
    partial = feature(f, "free_partial")
    assert partial[1, 2] > 0.9 and abs(partial[0, 2]) < 0.15  # 1 screens 0 off from 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_covariances_of_the_cells_left_alone(share: float) -> None:
    rng = np.random.default_rng(0)
    x, free = rng.normal(size=(2, 200, 6)) + 3, rng.random((2, 200, 3)) >= share
    weight = torch.from_numpy(free).float()
    out = _free_covariances(torch.from_numpy(x).float(), weight, weight.sum(1).clamp(min=1))
    for b in range(2):
        for j in range(3):
            expected = np.cov(x[b, free[b, :, j]].T, bias=True)
            np.testing.assert_allclose(out[b, j], expected, atol=1e-5)


def test_what_is_left_is_correlated_with_the_cause_in_the_cells_left_alone(cells) -> None:
    prepared = _prepare(*cells, None)
    x, bend, curl = (b[0].numpy().astype(np.float64) for b in prepared.basis)
    for cause, effect in ((0, 1), (4, 1), (1, 2)):
        free = cells[1][0, :, effect].numpy() == 0
        y = x[free, effect]
        size = x[free, effect].copy()
        for function in (x, bend, curl):
            f = function[free, cause]
            size -= function[free, cause] * np.cov(f, y, bias=True)[0, 1] / max(f.var(), 0.05)
        for k, function in enumerate((x, bend)):
            r = np.corrcoef(function[free, cause], np.abs(size))[0, 1]
            z = np.arcsinh(np.arctanh(r) * np.sqrt(free.sum() - 3)) / 3
            residual = torch.zeros_like(prepared.basis[0])
            assert _left_features(prepared, residual)[k][0, cause, effect] == pytest.approx(z, abs=1e-4)


def test_intervened_cells_tell_effects_from_causes(cells) -> None:
    x, f = cells[0][0].numpy(), edge_features(*cells)
    acted = feature(f, "acted_r")
    assert acted[1, 2] == pytest.approx(np.corrcoef(x[300:, 1], x[300:, 2])[0, 1], abs=1e-4)
    assert abs(acted[1, 0]) < 0.25
    assert not acted[[0, 2, 3, 4]].any()  # nothing was done to these
    shift = np.sinh(feature(f, "shift"))
    control, there = x[:300, 2], x[300:, 2]
    assert shift[1, 2] == pytest.approx((there.mean() - control.mean()) / control.std(), rel=0.02)
    assert abs(shift[1, 0]) < 0.3
    assert (
        abs(feature(f, "residual_shift_z")[1, 2]) < abs(feature(f, "shift_z")[1, 2]) / 2
    )  # the edge explains the shift


def test_bent_relations_are_seen_where_correlation_is_blind(cells) -> None:
    f = edge_features(*cells)
    assert abs(feature(f, "free_r")[0, 4]) < 0.15
    assert feature(f, "bend")[0, 4] > 0.9
    assert abs(feature(f, "bend")[3, 4]) < 0.2
    assert feature(f, "bend_given")[0, 4] > 0.8


def test_noise_that_grows_with_the_cause_is_seen() -> None:
    rng = np.random.default_rng(1)
    cause, noise = rng.standard_normal((2, 1000))
    for size, low, high in ((np.exp(0.7 * cause), 0.9, 8), (1.0, -0.6, 0.6)):
        x = torch.from_numpy(np.stack([cause, 0.5 * cause + noise * size], 1)).float()[None]
        f = edge_features(x, torch.zeros_like(x))
        assert low < feature(f, "left_linear")[0, 1] < high
        assert low < feature(f, "left_given_linear")[0, 1] < high


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_units_do_not_matter(cells, scale: float) -> None:
    x, mask = cells
    units = scale * torch.arange(1, D + 1)
    pair = 2 * len(EDGE_FEATURES)
    a, b = edge_features(x, mask), edge_features(x * units + 3 * scale, mask)
    torch.testing.assert_close(a[..., :pair], b[..., :pair], atol=2e-3, rtol=0)


def test_order_of_cells_and_genes_does_not_matter(cells) -> None:
    x, mask = cells
    rows, genes = torch.randperm(N, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 0, 4, 2, 1])
    a, b = edge_features(x, mask), edge_features(x[:, rows][..., genes], mask[:, rows][..., genes])
    torch.testing.assert_close(a[:, genes][:, :, genes], b, atol=2e-3, rtol=0)


def test_items_of_a_batch_do_not_mix(cells) -> None:
    x, mask = cells
    both = edge_features(torch.cat([x, x.flip(2)]), torch.cat([mask, mask.flip(2)]))
    torch.testing.assert_close(both[:1], edge_features(x, mask), atol=1e-4, rtol=0)


def test_a_few_wild_cells_do_not_decide(cells) -> None:
    x, mask = cells[0].clone(), cells[1]
    before = feature(edge_features(x, mask), "control_r")
    x[0, :3, 3] = 1e4
    x[0, :3, 0] = -1e4
    after = feature(edge_features(x, mask), "control_r")
    assert abs(after[0, 3] - before[0, 3]) < 0.35  # the plain correlation would be -1
    assert abs(after[1, 2] - before[1, 2]) < 0.05


def test_missing_values_are_not_read(cells) -> None:
    x, mask = cells
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing[0, ::7, 2] = True
    a = edge_features(x.masked_fill(missing, 99.0), mask, missing)
    b = edge_features(x.masked_fill(missing, torch.nan), mask, missing)
    torch.testing.assert_close(a[..., :-20], b[..., :-20])
    assert feature(a, "free_r")[1, 2] > 0.8


def test_extremes_stay_finite() -> None:
    x = torch.randn(1, 30, 4, generator=torch.Generator().manual_seed(0))
    x[..., 1] = 2.0  # constant
    x[..., 2] = x[..., 0]  # a copy
    everything = torch.ones_like(x)
    for values, mask in (
        (x, torch.zeros_like(x)),
        (x, everything),
        (x[:, :1], torch.zeros_like(x[:, :1])),
        (x[..., :1], everything[..., :1]),
    ):
        f = edge_features(values, mask)
        assert f.isfinite().all() and f.abs().max() <= 8
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing[..., 3] = True
    assert edge_features(x, torch.zeros_like(x), missing).isfinite().all()
    assert not feature(edge_features(x, torch.zeros_like(x)), "control_r")[1].any()


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 5, 3\).*\(1, 5, 2\)"):
        edge_features(torch.zeros(1, 5, 3), torch.zeros(1, 5, 2))
    with pytest.raises(ValueError, match="at least one cell"):
        edge_features(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
