"""Features of two sets of cells, against closed forms of linear models."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from causcade.contrasts import (
    N_CONTRASTS,
    N_NODE,
    N_STRUCTURE,
    Summary,
    contrast_features,
    node_features,
    structure_features,
    summarise,
)

# places of contrasts [i, j], gene i given gene j
CORRELATION, SLOPE, SHIFT, SIZE, RATIO, RATIO_Z, PARTIAL = 0, 2, 4, 6, 8, 10, 14
GIVEN_ALL, RATIO_GIVEN_ALL = 4, 5  # places of gene statistics

X, Y = 0, 1
WEIGHT, NOISE = 0.8, 0.6  # y = 0.8 x + e, x of variance 1


def cells(seed: int, n: int, genes: int, *batch: int) -> Tensor:
    """Skewed, correlated values."""
    rng = np.random.default_rng(seed)
    mixed = rng.gamma(2.0, 1.0, (*batch, n, genes)) @ rng.normal(size=(genes, genes))
    return torch.from_numpy(mixed + rng.normal(size=genes))


def population(mean: list[float], cov: list[list[float]], n: int = 10_000) -> Summary:
    """Moments without sampling noise."""
    m, c = torch.tensor(mean, dtype=torch.float64), torch.tensor(cov, dtype=torch.float64)
    return Summary(n, m, c, torch.zeros_like(c), torch.full_like(m, 3.0))


def x_to_y(
    *, shift_x: float = 0.0, shift_y: float = 0.0, var_x: float = 1.0, weight: float = WEIGHT, noise: float = NOISE
) -> Summary:
    cov = [[var_x, weight * var_x], [weight * var_x, weight**2 * var_x + noise**2]]
    return population([shift_x, weight * shift_x + shift_y], cov)


def all_features(a: Summary, b: Summary) -> list[Tensor]:
    return [structure_features(a), structure_features(b), contrast_features(a, b), node_features(a, b)]


# --- moments ------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_numpy() -> None:
    x = cells(0, 50, 4)
    s, a = summarise(x), x.numpy()
    square = (a - a.mean(0)) ** 2
    np.testing.assert_allclose(s.mean, a.mean(0))
    np.testing.assert_allclose(s.cov, np.cov(a.T, bias=True))
    np.testing.assert_allclose(s.correlation, np.corrcoef(a.T))
    np.testing.assert_allclose(s.bend, np.corrcoef(a.T, square.T)[:4, 4:])
    np.testing.assert_allclose(s.kurtosis, stats.kurtosis(a, fisher=False))
    assert s.n == 50


@pytest.mark.parametrize(("x", "told"), [(torch.zeros(0, 3), "at least one cell"), (torch.tensor([[math.nan]]), "NaN")])
def test_no_cells_and_nan_are_refused(x: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        summarise(x)
    with pytest.raises(ValueError, match="finite"):
        summarise(torch.tensor([[1.0, math.inf]]))


def test_parts_of_a_summary() -> None:
    x, index = cells(1, 30, 5, 3), torch.tensor([4, 0, 2])
    whole = summarise(x)
    for got, expected in ((whole[1], summarise(x[1])), (whole.genes(index), summarise(x[..., index]))):
        assert got.n == expected.n == 30
        for name in ("mean", "cov", "bend", "kurtosis"):
            torch.testing.assert_close(getattr(got, name), getattr(expected, name))


def test_constant_genes_correlate_with_nothing() -> None:
    x = cells(2, 1000, 3).float()
    x[:, 1:] = torch.tensor([5.3, 0.1])  # neither is a binary fraction: their means are rounded
    s = summarise(x)
    assert torch.equal(s.correlation, torch.eye(3))
    assert torch.equal(s.mean[1:], x[0, 1:])
    assert s.kurtosis[1:].tolist() == [0, 0]
    zeros = x.clone()
    zeros[:, 1:] = 0
    for a, b in zip(all_features(s, s), all_features(summarise(zeros), summarise(zeros)), strict=True):
        assert torch.equal(a, b)


# --- what must not matter -----------------------------------------------------------------------------------------


def test_units_do_not_matter() -> None:
    a, b = cells(3, 60, 5), cells(4, 80, 5) * 1.5 + 1
    scale, shift = torch.tensor([1e-3, 0.2, 1, 30, 1e4]), torch.tensor([100.0, -3, 0, 7, -1e4])
    before = all_features(summarise(a), summarise(b))
    after = all_features(summarise(a * scale + shift), summarise(b * scale + shift))
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert before[2].abs().max() > 1


def test_genes_may_come_in_any_order() -> None:
    a, b, order = cells(5, 60, 6), cells(6, 40, 6), torch.tensor([3, 0, 5, 1, 4, 2])
    straight = all_features(summarise(a), summarise(b))
    turned = all_features(summarise(a[:, order]), summarise(b[:, order]))
    for x, y in zip(straight[:3], turned[:3], strict=True):
        torch.testing.assert_close(x[order][:, order], y)
    torch.testing.assert_close(straight[3][order], turned[3])


def test_batched_is_single() -> None:
    control, x = summarise(cells(7, 50, 4)), cells(8, 30, 4, 3)
    whole = summarise(x)
    for i in range(3):
        single = summarise(x[i])
        torch.testing.assert_close(structure_features(whole)[i], structure_features(single))
        torch.testing.assert_close(contrast_features(control, whole)[i], contrast_features(control, single))
        torch.testing.assert_close(node_features(control, whole)[i], node_features(control, single))
    assert contrast_features(control, whole).shape == (3, 4, 4, N_CONTRASTS)
    assert structure_features(whole).shape == (3, 4, 4, N_STRUCTURE)
    assert node_features(control, whole).shape == (3, 4, N_NODE)


def _constant(x: Tensor) -> Tensor:
    x[:, :2] = 5.3
    return x


HARD = {
    "constant genes": lambda: (_constant(cells(0, 20, 4)), cells(1, 20, 4)),
    "constant after": lambda: (cells(0, 20, 4), _constant(cells(1, 20, 4))),
    "all constant": lambda: (torch.full((9, 3), 0.1), torch.full((7, 3), 0.3)),
    "one cell": lambda: (cells(0, 20, 4), cells(1, 1, 4)),
    "one cell each": lambda: (cells(0, 1, 4), cells(1, 1, 4)),
    "fewer cells than genes": lambda: (cells(0, 6, 40), cells(1, 3, 40)),
    "equal genes": lambda: (cells(0, 20, 2).repeat(1, 2), cells(1, 20, 2).repeat(1, 2)),
    "one gene": lambda: (cells(0, 20, 1), cells(1, 20, 1)),
    "far apart": lambda: (cells(0, 20, 4), 1e6 * cells(1, 20, 4)),
    "two values": lambda: (torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 5), torch.tensor([[1.0, 1.0], [0.0, 1.0]])),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_sets_have_finite_features(case: str) -> None:
    for a, b in (HARD[case](), HARD[case]()[::-1]):
        for x in all_features(summarise(a.float()), summarise(b.float())):
            assert x.isfinite().all()
            assert x.abs().max() < 40


def test_a_gene_with_itself_tells_nothing() -> None:
    a, b = summarise(cells(0, 60, 4)), summarise(cells(1, 60, 4))
    for features, keep in ((structure_features(a), [4, 6]), (contrast_features(a, b), [12, 13])):
        diagonal = features.diagonal(dim1=0, dim2=1).T
        assert (diagonal[:, -1] == 1).all()
        assert (features[..., -1].sum(), len(features)) == (4, 4)
        others = [i for i in range(diagonal.shape[1] - 1) if i not in keep]
        assert (diagonal[:, others] == 0).all()


# --- structure ----------------------------------------------------------------------------------------------------


def test_partial_correlation_of_a_chain_vanishes() -> None:
    chain = population([0, 0, 0], [[1, 0.8, 0.64], [0.8, 1, 0.8], [0.64, 0.8, 1]], n=100_000)
    f = structure_features(chain)
    assert f[0, 2, 0] == pytest.approx(0.64)
    assert math.sinh(4 * f[0, 2, 1]) == pytest.approx(math.atanh(0.64) * math.sqrt(100_000 - 3))
    r = chain.correlation.numpy() * (1 - 0.002) + 0.002 * np.eye(3)  # shrunk as little as it goes
    inverse = np.linalg.inv(r)
    assert f[0, 1, 2] == pytest.approx(-inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1]))
    assert abs(f[0, 2, 2]) < 0.01


def test_fewer_cells_shrink_more() -> None:
    off = []
    for n in (5, 50, 100_000):
        s = population([0, 0, 0], [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]], n=n)
        off.append(float(structure_features(s)[0, 1, 2]))
    # shrinkage of Schäfer and Strimmer: sum of (1 - r^2)^2 / (n - 1) over the sum of r^2
    expected = []
    for n in (5, 50, 100_000):
        shrink = min(1, max(0.002, (1 - 0.25) ** 2 / (n - 1) / 0.25))
        r = 0.5 * (1 - shrink)
        expected.append(r / (1 + r))  # partial correlation of three equicorrelated genes
    assert off == pytest.approx(expected)


def test_bend_knows_which_gene_is_the_parabola() -> None:
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    f = structure_features(summarise(torch.stack([x**2, x], 1)))
    assert f[0, 1, 4] == pytest.approx(1, abs=1e-3)  # x^2 with the square of x
    assert abs(f[1, 0, 4]) < 1e-6
    assert (f[1, 0, 5], f[0, 1, 5]) == (f[0, 1, 4], f[1, 0, 4])


# --- closed forms of x -> y ---------------------------------------------------------------------------------------


def test_shift_of_the_cause_is_explained_by_it() -> None:
    f = contrast_features(x_to_y(), x_to_y(shift_x=2.0))
    for place in (CORRELATION, SLOPE, RATIO, RATIO_Z, PARTIAL):
        assert f[Y, X, place] == f[X, Y, place] == 0
    assert abs(f[Y, X, SHIFT]) < 1e-6
    assert abs(f[Y, X, SIZE]) < 1e-6
    # x given y: 2 - b (0.8 x 2) of a residual variance 1 - 0.8 b, with b = 0.8 / (0.64 + 0.36)
    left, rest = 2 - 0.8 * 1.6, 1 - 0.8 * 0.8
    assert math.sinh(f[X, Y, SIZE]) == pytest.approx(left / math.sqrt(rest))
    assert f[X, Y, SHIFT] > 0.5
    assert torch.equal(f[..., SHIFT].T, f[..., SHIFT + 1])


def test_shift_of_the_effect_is_not_explained_by_the_cause() -> None:
    f = contrast_features(x_to_y(), x_to_y(shift_y=1.5))
    assert math.sinh(f[Y, X, SIZE]) == pytest.approx(1.5 / NOISE)
    z = 1.5 / math.sqrt(NOISE**2 * 2 / 10_000)
    assert math.sinh(3 * f[Y, X, SHIFT]) == pytest.approx(z)
    assert f[Y, X, RATIO] == f[Y, X, SLOPE] == 0


def test_cause_of_another_variance_keeps_the_slope_of_its_effect() -> None:
    f = contrast_features(x_to_y(), x_to_y(var_x=4.0))
    assert abs(f[Y, X, SLOPE]) < 1e-6
    assert abs(f[Y, X, RATIO]) < 1e-6
    assert f[X, Y, SLOPE] > 1  # 3.2 / 2.92 for 0.8
    b = 0.8
    after = 4 - 2 * b * 3.2 + b**2 * (0.64 * 4 + 0.36)
    assert f[X, Y, RATIO] == pytest.approx(math.log(after / (1 - 0.64)))
    assert f[Y, X, CORRELATION] == f[X, Y, CORRELATION] > 0


def test_unexplained_shift_is_that_of_the_slope_of_the_control() -> None:
    f = contrast_features(x_to_y(), x_to_y(var_x=4.0, shift_x=2.0))
    left, rest = 2 - 0.8 * 1.6, 1 - 0.64  # the slope of x on y was 0.8; y moves by 1.6
    assert math.sinh(f[X, Y, SIZE]) == pytest.approx(left / math.sqrt(rest))
    rest_after = 4 - 3.2**2 / 2.92
    noise = rest / 10_000 + rest_after / 10_000 + rest / 10_000 * 1.6**2  # the last: of the slope
    assert math.sinh(3 * f[X, Y, SHIFT]) == pytest.approx(left / math.sqrt(noise))
    assert abs(f[Y, X, SHIFT]) < 1e-6


def test_bend_that_changed_is_known_by_its_gene() -> None:
    before, after = x_to_y(), x_to_y()
    after.bend[Y, X] = 0.5
    f = contrast_features(before, after)
    z = math.atanh(0.5) / math.sqrt(2 / (10_000 - 3))
    assert math.sinh(3 * f[Y, X, 12]) == pytest.approx(z)
    assert math.sinh(3 * f[X, Y, 13]) == pytest.approx(z)
    assert f[X, Y, 12] == f[Y, X, 13] == 0


def test_noise_of_the_effect_is_its_variance_ratio() -> None:
    f = contrast_features(x_to_y(), x_to_y(noise=2 * NOISE))
    assert f[Y, X, RATIO] == pytest.approx(math.log(4))
    assert math.sinh(3 * f[Y, X, RATIO_Z]) == pytest.approx(math.log(4) / math.sqrt(4 / 10_000))
    assert abs(f[Y, X, SLOPE]) < 1e-6
    assert abs(f[Y, X, SHIFT]) < 1e-6


def test_effect_that_is_set_loses_its_slope() -> None:
    f = contrast_features(x_to_y(), x_to_y(weight=0.0, noise=1.0))
    error = math.sqrt((NOISE**2 + 1) / 10_000)
    assert math.sinh(3 * f[Y, X, SLOPE]) == pytest.approx(-WEIGHT / error)
    assert f[Y, X, PARTIAL] < -1


def test_shift_given_all_others_points_at_targets_and_their_parents() -> None:
    """x -> y -> z with a shift of y: the precision matrix times the shift."""
    cov = np.array([[1, 0.8, 0.64], [0.8, 1, 0.8], [0.64, 0.8, 1]])
    chain = population([0, 0, 0], cov.tolist(), n=100_000)
    moved = population([0, 1, 0.8], cov.tolist(), n=100_000)
    f = node_features(chain, moved)
    inverse = np.linalg.inv(cov)
    expected = inverse @ [0, 1, 0.8] / np.sqrt(np.diag(inverse))
    assert expected[2] == pytest.approx(0)  # a child of the target
    np.testing.assert_allclose(f[:, GIVEN_ALL].sinh().numpy(), expected, atol=0.02)
    np.testing.assert_allclose(f[:, RATIO_GIVEN_ALL].numpy(), 0, atol=0.02)
    assert f[:, 0].argmax() == 1
    np.testing.assert_allclose(f[:, 0].sinh().numpy(), [0, 1, 0.8], atol=1e-6)
    assert f[:, 12].tolist() == pytest.approx([0, 1, 0.8])  # relative to the largest


def test_node_features_are_classical_statistics() -> None:
    a, b = cells(9, 300, 3), cells(10, 200, 3) * 1.3 + 0.5
    f = node_features(summarise(a), summarise(b))
    t = stats.ttest_ind(b, a, equal_var=False).statistic
    np.testing.assert_allclose((3 * f[:, 1]).sinh().numpy(), t, rtol=0.01)  # variances are divided by n here
    np.testing.assert_allclose(f[:, 2].numpy(), (b.var(0) / a.var(0)).log().numpy(), atol=0.01)
    np.testing.assert_allclose(f[:, 14:].numpy(), np.tile(np.log([300, 200, 3]) / 5, (3, 1)), rtol=1e-6)
    np.testing.assert_allclose(f[:, 10].numpy(), np.log(stats.kurtosis(a, fisher=False) + 1) / 2)


def test_a_gene_that_only_perturbed_cells_express_is_seen() -> None:
    a, b = cells(11, 50, 2), cells(12, 50, 2)
    a[:, 0] = 0
    b[:, 0] += 5 - b[:, 0].mean()
    f = node_features(summarise(a), summarise(b))
    assert math.sinh(f[0, 0]) == pytest.approx(50 / float(b[:, 0].std(correction=0)))  # in tenths of its own spread


# --- evidence is on one scale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "shape"),
    [(CORRELATION, "pair"), (SLOPE, "pair"), (SHIFT, "pair"), (RATIO_Z, "pair"), (PARTIAL, "pair"), (1, "node")],
)
def test_evidence_has_unit_spread_where_nothing_changed(place: int, shape: str) -> None:
    rng = np.random.default_rng(0)
    mix = np.array([[1, 0.7, 0.3], [0, 1, -0.6], [0, 0, 1]])
    draw: Callable[[int], Summary] = lambda n: summarise(torch.from_numpy(rng.normal(size=(600, n, 3)) @ mix))
    a, b = draw(150), draw(300)
    f = contrast_features(a, b)[:, X, Y, place] if shape == "pair" else node_features(a, b)[:, X, place]
    z = np.sinh(3 * f.numpy())
    assert z.std() == pytest.approx(1, abs=0.1)
    # partial correlations of fewer cells are shrunk more
    assert abs(z.mean()) < (0.4 if place == PARTIAL else 0.15)
