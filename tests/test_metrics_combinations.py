import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import ttest_ind
from sklearn.metrics import r2_score

from causcade.metrics import changed_genes, changed_group, mean_r2, mean_rmse, mmd


def cells(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.gamma(2, 1, size=(n, 8)) * np.arange(1, 9) + shift


def test_reference_mmd_is_the_published_sum() -> None:
    x, y = cells(9), cells(6, 2, 1)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(sum(np.exp(-cdist(a, b, "sqeuclidean") / (3.125 * 2**i)) for i in range(10))))

    want = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert mmd(x, y, 100.0, mode="reference") == pytest.approx(want, rel=1e-9)
    assert mmd(x, x, 100.0, mode="reference") == pytest.approx(0, abs=1e-9)


def test_exact_mmd_does_not_depend_on_numbers_of_cells() -> None:
    same = [mmd(cells(20, seed=2 * s), cells(60, seed=2 * s + 1), 300.0) for s in range(100)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 10
    assert mmd(cells(50), cells(50, 3, 1)) > max(same)
    d = cdist(y := cells(30, seed=3), y, "sqeuclidean")
    x = cells(20)
    assert mmd(x, y) == pytest.approx(mmd(x, y, d.sum() / (30 * 29)))


def test_r2_and_rmse() -> None:
    x, y = cells(9), cells(6, 1, 1)
    a, b = x.mean(0), y.mean(0)
    assert mean_r2(x, y) == pytest.approx(r2_score(b, a)) == mean_r2(a, b)
    assert mean_r2(x, y, mode="reference") == pytest.approx(r2_score(a, b))
    assert mean_r2(a[::-1], b) < 0 == mean_r2(a[::-1], b, mode="reference")
    assert np.isnan(mean_r2(a, np.ones(8)))
    assert mean_rmse(x, y) == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
    want = np.sqrt(np.mean((x[:6] - y) ** 2) / np.mean(y**2))
    assert mean_rmse(x, y, mode="reference") == pytest.approx(want)
    # the published error prefers the mean cell to a right distribution
    right = cells(200, seed=5)
    true = cells(200, seed=6)
    flat = np.tile(true.mean(0), (200, 1))
    assert mean_rmse(flat, true, mode="reference") < mean_rmse(right, true, mode="reference")


def test_changed_genes_are_those_of_welch() -> None:
    x, y = cells(40), cells(30, 0, 1)
    x[:, 3] += 5
    t = ttest_ind(x, y, equal_var=False).statistic
    assert changed_genes(x, y, 5).tolist() == np.argsort(-np.abs(t))[:5].tolist()
    x[:, 0], y[:, 0], x[:, 1], y[:, 1] = 1, 2, 1, 1
    order = changed_genes(x, y, 8)
    assert order[0] == 0 and order[-1] == 1


def test_group_of_a_single_perturbation() -> None:
    groups = ["KLF1", "AHR+KLF1", "SET", "IRF1+SET"]
    assert changed_group("KLF1", groups) == "KLF1"
    assert changed_group("KLF1", groups, mode="reference") == "AHR+KLF1"
    assert changed_group("SET", groups, mode="reference") == "IRF1+SET"
    with pytest.raises(KeyError, match="no group for 'MYC'"):
        changed_group("MYC", groups)


@pytest.mark.parametrize("function", [mmd, mean_r2, mean_rmse])
def test_unknown_modes_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="unknown mode 'fast'"):
        function(cells(3), cells(3), mode="fast")  # type: ignore[operator]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="two cells of each"):
        mmd(cells(1), cells(3))
    with pytest.raises(ValueError, match="width"):
        mmd(cells(3), cells(3), 0.0)
    with pytest.raises(ValueError, match="all true values are 0"):
        mean_rmse(cells(3), 0 * cells(3), mode="reference")
    with pytest.raises(ValueError, match="n_top"):
        changed_genes(cells(3), cells(3), 0)
