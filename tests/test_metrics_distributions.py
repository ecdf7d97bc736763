"""Scores of predicted cells and effects against closed forms, scipy, scikit-learn and plain loops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KernelDensity

from causcade.metrics import _distributions as d


def normal(n: int, genes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, genes))


# --- Wasserstein --------------------------------------------------------------------------------------------------


def test_w2_of_a_shift_is_its_length() -> None:
    pytest.importorskip("ot")
    x = normal(60, 4)
    assert d.sinkhorn_w2(x, x + np.array([3, 0, 4, 0]), eps=0) == pytest.approx(5, rel=1e-9)
    assert d.sinkhorn_w2(x, x + np.array([3, 0, 4, 0])) == pytest.approx(5, rel=0.02)
    assert d.sinkhorn_w2(x, x[::-1], eps=0) == pytest.approx(0, abs=1e-7)


def test_w2_of_gaussians() -> None:
    pytest.importorskip("ot")
    x, y = normal(1000, 1), 1 + 2 * normal(1000, 1, 1)
    # means 1 apart, standard deviations 1 apart
    assert d.sinkhorn_w2(x, y, eps=0) == pytest.approx(2**0.5, rel=0.1)


def test_w2_with_unequal_numbers_is_that_of_quantiles() -> None:
    pytest.importorskip("ot")
    x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.0], [10.0]])
    # sorted: 0, 1 go to 0 and 2, 3 to 10, a quarter each
    assert d.sinkhorn_w2(x, y, eps=0) ** 2 == pytest.approx((0 + 1 + 64 + 49) / 4)


@pytest.mark.parametrize("eps", [0.1, 1.0])
def test_w2_plan_is_the_entropic_one(eps: float) -> None:
    ot = pytest.importorskip("ot")
    x, y = 0.5 * normal(12, 2), 0.5 * normal(9, 2, 1) + 0.2
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    plan = ot.sinkhorn(np.full(12, 1 / 12), np.full(9, 1 / 9), cost, eps, numItermax=50_000, stopThr=1e-12)
    assert d.sinkhorn_w2(x, y, eps=eps, max_iter=50_000) ** 2 == pytest.approx((plan * cost).sum(), rel=1e-4)
    assert d.sinkhorn_w2(x, y, eps=eps) > d.sinkhorn_w2(x, y, eps=0)


def test_w2_of_a_blurred_set_to_itself_is_not_zero() -> None:
    pytest.importorskip("ot")
    x = 0.1 * normal(40, 2)
    assert d.sinkhorn_w2(x, x, eps=10) == pytest.approx((2 * x.var(axis=0).sum()) ** 0.5, rel=0.01)  # the product plan
    far = 100 * np.eye(5)
    assert d.sinkhorn_w2(far, far) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_w2_where_costs_dwarf_eps(scale: float) -> None:
    pytest.importorskip("ot")
    x, y = scale * normal(80, 5), scale * (normal(20, 5, 1) + 0.5)
    exact = d.sinkhorn_w2(x, y, eps=0) ** 2
    assert exact <= d.sinkhorn_w2(x, y) ** 2 * (1 + 1e-12) <= (exact + 0.1 * np.log(20)) * (1 + 1e-9)


def test_w2_is_the_exact_one_where_sinkhorn_breaks_down(monkeypatch: pytest.MonkeyPatch) -> None:
    ot = pytest.importorskip("ot")
    x, y = 100 * normal(30, 3), 100 * normal(20, 3, 1)
    monkeypatch.setattr(ot.bregman, "sinkhorn_stabilized", lambda *a, **k: np.zeros((30, 20)))
    assert d.sinkhorn_w2(x, y) == d.sinkhorn_w2(x, y, eps=0)


def test_w2_says_when_it_did_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(4, 2), normal(3, 2, 1)
    bad = SimpleNamespace(sinkhorn_stabilized=lambda *a, **k: np.full((4, 3), 0.2))
    fake = SimpleNamespace(
        emd=lambda *a, **k: (np.full((4, 3), 1 / 12), {"u": np.zeros(4), "v": np.zeros(3)}), bregman=bad
    )
    monkeypatch.setitem(sys.modules, "ot", fake)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match="did not converge"):
        d.sinkhorn_w2(x, y, eps=1.0)


def test_w2_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"causcade\[ot\]"):
        d.sinkhorn_w2(normal(3, 2), normal(3, 2))
    with pytest.raises(ValueError, match="eps=-1"):
        d.sinkhorn_w2(normal(3, 2), normal(3, 2), eps=-1)


# --- means --------------------------------------------------------------------------------------------------------


def test_mean_distance() -> None:
    x = normal(50, 3)
    assert d.mean_distance(x, x.mean(axis=0) + np.array([3, 0, 4])) == pytest.approx(5)
    assert d.mean_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)


def test_pearson_delta_depends_on_the_reference() -> None:
    common, own = normal(1, 30)[0], 0.3 * normal(1, 30, 1)[0]
    control = np.zeros(30)
    true, guess = common + own, common + 0.01 * normal(1, 30, 2)[0]
    assert d.pearson_delta(guess, true, control) == pytest.approx(np.corrcoef(guess, true)[0, 1])
    assert d.pearson_delta(guess, true, control) > 0.9
    assert abs(d.pearson_delta(guess, true, common)) < 0.5
    assert np.isnan(d.pearson_delta(common, true, common))
    assert np.isnan(d.pearson_delta(common + 1, true, common))


def test_pearson_delta_of_cells_is_that_of_their_means() -> None:
    pred, true, control = normal(20, 6), normal(30, 6, 1) + 1, normal(40, 6, 2)
    base = control.mean(axis=0)
    expected = np.corrcoef(pred.mean(axis=0) - base, true.mean(axis=0) - base)[0, 1]
    assert d.pearson_delta(pred, true, control) == pytest.approx(expected)
    assert d.pearson_delta(2 * true, 2 * true, control) == pytest.approx(1)


# --- density ------------------------------------------------------------------------------------------------------


def test_kde_scalar_is_that_of_scikit_learn() -> None:
    pred, true = 3 * normal(200, 4), normal(30, 4, 1)
    theirs = KernelDensity(bandwidth=200 ** (-1 / 8)).fit(pred).score_samples(true)
    assert d.kde_nll(pred, true) == pytest.approx(-theirs.mean(), rel=1e-9)


def test_kde_scott_is_that_of_scipy() -> None:
    pred, true = normal(200, 4) @ normal(4, 4, 2), normal(30, 4, 1)
    theirs = stats.gaussian_kde(pred.T, "scott").logpdf(true.T)
    assert d.kde_nll(pred, true, "scott") == pytest.approx(-theirs.mean(), rel=1e-9)


def test_kde_scott_follows_the_units_and_scalar_does_not() -> None:
    pred, true = normal(100, 3), normal(20, 3, 1)
    moved = d.kde_nll(1e3 * pred + 7, 1e3 * true + 7, "scott") - d.kde_nll(pred, true, "scott")
    assert moved == pytest.approx(3 * np.log(1e3))
    assert abs(d.kde_nll(1e3 * pred, 1e3 * true) - d.kde_nll(pred, true) - 3 * np.log(1e3)) > 100


def test_kde_far_away_is_finite() -> None:
    # one kernel: half the squared distance over the squared bandwidth (1 for one cell)
    assert d.kde_nll([[0.0]], [[1e4]]) == pytest.approx(0.5e8 + 0.5 * np.log(2 * np.pi))


def test_kde_and_energy_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pred, true = normal(50, 3), normal(40, 3, 1)
    whole = d.kde_nll(pred, true), d.energy_distance(pred, true)
    monkeypatch.setattr(d, "_BLOCK", 130)
    assert (d.kde_nll(pred, true), d.energy_distance(pred, true)) == pytest.approx(whole)


@pytest.mark.parametrize("case", ["few", "constant", "twin"])
def test_kde_scott_refuses_singular_covariances(case: str) -> None:
    pred = normal(3 if case == "few" else 50, 3)
    if case != "few":
        pred[:, 2] = 1.0 if case == "constant" else pred[:, 0]
    with pytest.raises(ValueError, match="singular"):
        d.kde_nll(pred, normal(5, 3), "scott")
    with pytest.raises(ValueError, match="unknown bandwidth 'silverman'"):
        d.kde_nll(pred, normal(5, 3), "silverman")  # type: ignore[arg-type]


# --- energy -------------------------------------------------------------------------------------------------------


def test_biased_energy_distance_is_the_square_of_that_of_scipy() -> None:
    x, y = normal(40, 1), normal(25, 1, 1) + 0.5
    theirs = stats.energy_distance(x[:, 0], y[:, 0])
    assert d.energy_distance(x, y, unbiased=False) == pytest.approx(theirs**2)
    assert d.energy_distance(x, x, unbiased=False) == pytest.approx(0, abs=1e-12)


def test_unbiased_energy_distance_by_loops_and_without_bias() -> None:
    x, y = normal(5, 3), normal(4, 3, 1)

    def pairs(a: np.ndarray, b: np.ndarray, *, own: bool) -> float:
        return float(
            np.mean([np.linalg.norm(a[i] - b[j]) for i in range(len(a)) for j in range(len(b)) if not (own and i == j)])
        )

    expected = 2 * pairs(x, y, own=False) - pairs(x, x, own=True) - pairs(y, y, own=True)
    assert d.energy_distance(x, y) == pytest.approx(expected)
    rng = np.random.default_rng(3)
    draws = [rng.normal(size=(2, 10, 2)) for _ in range(300)]
    unbiased, biased = (np.array([d.energy_distance(*z, unbiased=u) for z in draws]) for u in (True, False))
    assert abs(unbiased.mean()) < 4 * unbiased.std() / 300**0.5
    assert biased.mean() > 20 * biased.std() / 300**0.5
    with pytest.raises(ValueError, match="two cells"):
        d.energy_distance(x, y[:1])


# --- discrimination -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["cosine", "euclidean", "cityblock"])
def test_discrimination_of_truth_chance_and_reverse(distance: Any) -> None:
    true = normal(7, 20)
    assert d.perturbation_discrimination(true, true, distance=distance).tolist() == [1.0] * 7
    same = np.tile(true.mean(axis=0), (7, 1))
    assert d.perturbation_discrimination(same, true, distance=distance).mean() == pytest.approx(0.5)
    assert d.perturbation_discrimination(np.zeros((7, 20)), true, distance=distance).mean() == pytest.approx(0.5)
    assert d.perturbation_discrimination(true[::-1], true, distance=distance)[0] < 1


def test_discrimination_by_hand() -> None:
    true = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # the first prediction points at the second effect; its own is next, the third comes last
    pred = np.array([[0.5, 1.0], [0.0, 9.0], [1.0, 0.0]])
    assert d.perturbation_discrimination(pred, true).tolist() == [0.5, 1.0, 0.0]


def test_discrimination_by_size_is_no_matter_of_the_cosine() -> None:
    true = np.array([[1.0, 0.1], [2.0, -0.2], [0.5, 0.5]])
    pred = 10 * true
    assert d.perturbation_discrimination(pred, true).tolist() == [1.0, 1.0, 1.0]
    assert d.perturbation_discrimination(pred, true, distance="euclidean")[0] < 1


def test_discrimination_ties_count_half() -> None:
    true = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert d.perturbation_discrimination(true, true).tolist() == [0.75, 0.75, 1.0]


def test_discrimination_refuses() -> None:
    with pytest.raises(ValueError, match="unknown distance"):
        d.perturbation_discrimination(normal(3, 2), normal(3, 2), distance="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 perturbations"):
        d.perturbation_discrimination(normal(1, 2), normal(1, 2))
    with pytest.raises(ValueError, match="at least 2 perturbations"):
        d.perturbation_discrimination(normal(3, 2), normal(4, 2))


# --- bad input ----------------------------------------------------------------------------------------------------

CELLS = [d.sinkhorn_w2, d.mean_distance, d.kde_nll, d.energy_distance, d.perturbation_discrimination]


@pytest.mark.parametrize("score", [*CELLS, lambda x, y: d.pearson_delta(x, y, y)], ids=lambda f: f.__name__)
def test_bad_values_and_shapes(score: Callable[[Any, Any], Any]) -> None:
    x, bad = normal(5, 3), normal(5, 3)
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"true holds NaN or infinite numbers, the first at \[1, 2\]"):
        score(x, bad)
    bad[1, 2] = np.inf
    with pytest.raises(ValueError, match="pred holds NaN or infinite"):
        score(bad, x)
    with pytest.raises(ValueError, match="genes"):
        score(x, x[:, :2])
    for empty in (x[:0], x[:, :0], x[None]):
        with pytest.raises(ValueError, match="shape"):
            score(empty, x)
