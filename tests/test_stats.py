"""Pair statistics, against the same numbers from numpy and scipy on the cells themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade.stats import MIN_CONTROLS, Moments, cell_values, log_normalise, pair_stats, single_target_regimes

MATRICES = "effect z z_detected z_nonzero correlation residual between partial".split()


def cells(n_control=60, per=8, n_genes=6, n_groups=1, rng=0, perturbed=4):
    """Values with zeros, a regime for each of the first genes, groups dealt unevenly."""
    r = np.random.default_rng(rng)
    codes = np.concatenate([np.zeros(n_control, int), np.repeat(np.arange(1, perturbed + 1), per)])
    y = r.gamma(2.0, 1.0, (len(codes), n_genes))
    y[:, 1] += 0.5 * y[:, 0]
    y[codes == 1] *= 0.6
    y *= r.random(y.shape) < 0.8
    return y, codes, r.integers(0, n_groups, len(codes))


def moments_of(y, codes, groups, *, dtype=torch.float64, blocks=1):
    m = Moments.empty(codes.max() + 1, groups.max() + 1, y.shape[1])
    for rows in np.array_split(np.arange(len(y)), blocks):
        m.update(torch.tensor(y[rows], dtype=dtype), torch.tensor(codes[rows]), torch.tensor(groups[rows]))
    return m


def stats_of(y, codes, groups, single=(1, 2, 3, 4, -1, -1), **options):
    return pair_stats(moments_of(y, codes, groups, **options), torch.tensor(single))


def centred(y, by):
    return y - np.stack([y[by == b].mean(0) for b in by])


def off_diagonal(matrix):
    matrix = np.array(matrix, dtype=float)
    np.fill_diagonal(matrix, 0)
    return matrix


# --- sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [2, 7, 92])
def test_blocks_do_not_matter(blocks) -> None:
    y, codes, groups = cells(n_groups=3)
    whole, parts = moments_of(y, codes, groups), moments_of(y, codes, groups, blocks=blocks)
    for name in ("cells", "value", "detected", "group_value", "group_detected", "gram"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_sums_are_the_sums() -> None:
    y, codes, groups = cells(n_groups=2)
    m = moments_of(y, codes, groups)
    np.testing.assert_allclose(m.gram, y.T @ y)
    np.testing.assert_allclose(m.value[2], y[codes == 2].sum(0))
    np.testing.assert_allclose(m.group_detected[1], (y[groups == 1] > 0).sum(0))
    assert m.cells[0, 1] == ((codes == 0) & (groups == 1)).sum()


def test_left_out_cells_do_not_count() -> None:
    y, codes, groups = cells(n_groups=2)
    marked = np.where(np.arange(len(codes)) % 5 == 0, -1, codes)
    want, got = stats_of(y[marked >= 0], codes[marked >= 0], groups[marked >= 0]), stats_of(y, marked, groups)
    for name in MATRICES:
        torch.testing.assert_close(getattr(got, name), getattr(want, name))
    assert got.n_cells == (marked >= 0).sum()


def test_single_target_regimes() -> None:
    targets = [np.array([], int), np.array([2]), np.array([0, 1]), np.array([2]), np.array([0])]
    assert single_target_regimes(targets, 4).tolist() == [4, -1, 1, -1]


# --- effects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_control", [MIN_CONTROLS, 60])
def test_z_is_the_two_sample_z_against_controls(n_control) -> None:
    y, codes, groups = cells(n_control)
    s = stats_of(y, codes, groups)
    resid = centred(y, codes)
    sd = np.sqrt((resid**2).sum(0) / (len(y) - 5))
    np.testing.assert_allclose(s.spread, sd, rtol=1e-6)
    for gene in range(4):
        effect = (y[codes == gene + 1].mean(0) - y[codes == 0].mean(0)) / sd
        np.testing.assert_allclose(s.effect[gene], effect, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(s.z[gene], effect / np.sqrt(1 / 8 + 1 / n_control), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_control", [0, MIN_CONTROLS - 1])
def test_few_controls_are_joined_by_all_other_cells(n_control) -> None:
    y, codes, groups = cells(n_control)
    s = stats_of(y, codes, groups)
    for gene in range(4):
        mine = codes == gene + 1
        effect = (y[mine].mean(0) - y[~mine].mean(0)) / s.spread.numpy()
        np.testing.assert_allclose(s.effect[gene], effect, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(s.z[gene], effect / np.sqrt(1 / 8 + 1 / (~mine).sum()), rtol=1e-5, atol=1e-6)


def test_z_of_detection_is_the_binomial_z() -> None:
    y, codes, groups = cells()
    s, seen = stats_of(y, codes, groups), y > 0
    rate = seen.mean(0)
    difference = seen[codes == 1].mean(0) - seen[codes == 0].mean(0)
    want = difference / np.sqrt(rate * (1 - rate) * (1 / 8 + 1 / 60))
    np.testing.assert_allclose(s.z_detected[0], want, rtol=1e-5, atol=1e-6)


def test_z_of_detected_values_is_the_one_sample_z() -> None:
    y, codes, groups = cells()
    s = stats_of(y, codes, groups)
    for gene in range(6):
        mine, every = y[codes == 1, gene], y[:, gene]
        mine, every = mine[mine > 0], every[every > 0]
        want = (mine.mean() - every.mean()) * np.sqrt(len(mine)) / every.std()
        assert s.z_nonzero[0, gene].item() == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_group_means_are_removed() -> None:
    y, codes, groups = cells(n_groups=3)
    y += 1.0  # all detected, so that a shift is a shift
    shift = np.random.default_rng(1).random((3, 6)) * 5
    plain, moved = stats_of(y, codes, groups), stats_of(y + shift[groups], codes, groups)
    for name in ("effect", "z", "correlation", "residual", "partial", "spread"):
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain.correlation, off_diagonal(np.corrcoef(centred(y, groups).T)), atol=1e-6)


# --- correlations -------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_numpy() -> None:
    y, codes, groups = cells()
    s = stats_of(y, codes, groups)
    residual = np.corrcoef(centred(y, codes).T)
    np.testing.assert_allclose(s.correlation, off_diagonal(np.corrcoef(y.T)), atol=1e-6)
    np.testing.assert_allclose(s.residual, off_diagonal(residual), atol=1e-6)
    precision = np.linalg.inv(residual + 0.05 * np.eye(6))
    scale = np.sqrt(np.diag(precision))
    np.testing.assert_allclose(s.partial, off_diagonal(-precision / np.outer(scale, scale)), atol=1e-6)
    assert s.correlation[0, 1] > 0.2


def test_between_is_the_correlation_of_group_means() -> None:
    y, codes, groups = cells(n_groups=5)
    means = np.stack([y[groups == g].mean(0) for g in range(5)])
    np.testing.assert_allclose(stats_of(y, codes, groups).between, off_diagonal(np.corrcoef(means.T)), atol=1e-6)
    assert (stats_of(y, codes, groups.clip(max=2)).between == 0).all()  # three groups say nothing


def test_vectors_are_those_of_numpy() -> None:
    y, codes, groups = cells(n_groups=2)
    s = stats_of(y, codes, groups)
    np.testing.assert_allclose(s.mean, y.mean(0), rtol=1e-6)
    np.testing.assert_allclose(s.detection, (y > 0).mean(0), rtol=1e-6)
    assert s.cells.tolist() == [8, 8, 8, 8, 0, 0]
    assert s.perturbed.tolist() == [True] * 4 + [False] * 2
    assert (s.n_cells, s.n_control, s.n_genes) == (92, 60, 6)
    assert s.depth == pytest.approx((y > 0).sum(1).mean())


# --- degenerate data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 3.3, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_gene_is_silent(dtype, value) -> None:
    y, codes, groups = cells(600, 20, n_groups=2)
    y[:, 2] = value
    s = stats_of(y, codes, groups, dtype=dtype)
    for name in MATRICES:
        matrix = getattr(s, name)
        assert matrix.isfinite().all(), name
        assert (matrix[:, 2] == 0).all(), name
    assert (s.correlation[2] == 0).all()
    assert s.spread[2] == 0


def test_constant_pair_does_not_correlate() -> None:
    y, codes, groups = cells(600, 20)
    y[:, 2:5] = [3.3, 2.7, 1.9]
    s = stats_of(y, codes, groups, dtype=torch.float32)
    assert (s.correlation[2:5] == 0).all()
    assert (s.residual[2:5] == 0).all()
    assert (s.partial[2:5] == 0).all()


def test_nothing_perturbed_means_no_effects() -> None:
    y, codes, groups = cells(perturbed=0)
    s = stats_of(y, codes, groups, single=[-1] * 6)
    for name in ("effect", "z", "z_detected", "z_nonzero"):
        assert (getattr(s, name) == 0).all()
    assert not s.perturbed.any()
    assert (s.cells == 0).all()


def test_regime_without_cells_is_not_perturbed() -> None:
    y, codes, groups = cells()
    used = codes != 2
    s = stats_of(y[used], codes[used], groups[used])
    assert s.perturbed.tolist() == [True, False, True, True, False, False]
    assert (s.z[1] == 0).all()
    assert all(getattr(s, name).isfinite().all() for name in MATRICES)


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_very_few_cells_stay_finite(n_cells) -> None:
    y, _, _ = cells()
    s = stats_of(
        y[:n_cells], np.arange(n_cells), np.zeros(n_cells, int), single=[min(1, n_cells - 1), -1, -1, -1, -1, -1]
    )
    for name in MATRICES:
        assert getattr(s, name).isfinite().all(), name


def test_single_precision_agrees_with_double() -> None:
    y, codes, groups = cells(400, 30, n_groups=2)
    single, double = (stats_of(y, codes, groups, dtype=d) for d in (torch.float32, torch.float64))
    for name in MATRICES:
        torch.testing.assert_close(getattr(single, name), getattr(double, name), rtol=1e-3, atol=1e-4)


def test_gene_order_goes_through() -> None:
    y, codes, groups = cells(n_groups=4)
    order = np.array([3, 0, 5, 1, 4, 2])
    single = np.array([1, 2, 3, 4, -1, -1])
    plain, moved = stats_of(y, codes, groups, single), stats_of(y[:, order], codes, groups, single[order])
    for name in MATRICES:
        torch.testing.assert_close(getattr(moved, name), getattr(plain, name)[order][:, order], rtol=1e-4, atol=1e-5)


def test_bad_input_is_refused() -> None:
    y, codes, groups = cells(n_groups=2)
    m = moments_of(y, codes, groups)
    block = torch.tensor(y)
    with pytest.raises(ValueError, match=r"codes must be below 5 .* got 0 to 5"):
        m.update(block, torch.tensor(codes) + (torch.tensor(codes) == 4))
    with pytest.raises(ValueError, match=r"groups must be below 2 .* got -1 to"):
        m.update(block, torch.tensor(codes), torch.tensor(groups) - 1)
    with pytest.raises(ValueError, match=r"y must be \(rows, 6\)"):
        m.update(block[:, :4], torch.tensor(codes))
    with pytest.raises(ValueError, match="91 codes"):
        m.update(block, torch.tensor(codes[1:]))
    np.testing.assert_allclose(m.gram, y.T @ y)  # unchanged
    with pytest.raises(ValueError, match="no cells"):
        pair_stats(Moments.empty(2, 1, 3), torch.tensor([1, -1, -1]))
    with pytest.raises(ValueError, match=r"single must be \(6,\)"):
        pair_stats(m, torch.tensor([9, 1, 1, 1, 1, 1]))


# --- normalisation ------------------------------------------------------------------------------------------------


def test_log_normalise() -> None:
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0], [5.0, 0.0]])
    got = log_normalise(x, x.sum(1), 8.0)
    np.testing.assert_allclose(got, np.log1p([[2, 6], [0, 0], [8, 0]]), rtol=1e-6)


def test_cell_values_standardise_what_was_detected() -> None:
    x = torch.tensor(np.random.default_rng(0).poisson(2.0, (50, 20)), dtype=torch.float32)
    x[7] = 0
    got = cell_values(x, x.sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log2(x.numpy() / x.numpy().sum(1, keepdims=True) * 1e6)
    log = log[x.numpy() > 0]
    np.testing.assert_allclose(got[x > 0], (log - log.mean()) / log.std(ddof=1) + 10, rtol=1e-4)
    assert (got[x == 0] == 0).all()
    assert (cell_values(torch.zeros(3, 4), torch.zeros(3)) == 0).all()
