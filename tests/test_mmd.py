import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from causcade.nn.mmd import mean_distance_width, mmd2


def naive(x: np.ndarray, y: np.ndarray, width: float, n_kernels: int) -> float:
    """The definition: every kernel by itself, over all pairs."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        d = cdist(a, b, "sqeuclidean")
        first = width / 2 ** (n_kernels // 2)
        return float(np.mean(sum(np.exp(-d / (first * 2**i)) for i in range(n_kernels))))

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def cells(n: int, shift: float = 0.0, seed: int = 0, d: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2, 1, size=(n, d)) + shift


@pytest.mark.parametrize("n_kernels", [10, 5, 1])
@pytest.mark.parametrize("width", [1000.0, 100.0, 20.0])
def test_is_its_definition(width: float, n_kernels: int) -> None:
    x, y = cells(9), cells(7, 0.5, 1)
    got = mmd2(torch.tensor(x), torch.tensor(y), width, n_kernels)
    assert float(got) == pytest.approx(naive(x, y, width, n_kernels), rel=1e-10)
    assert float(mmd2(torch.tensor(x).float(), torch.tensor(y).float(), width, n_kernels)) == pytest.approx(
        float(got), rel=1e-3
    )


def test_published_kernels_run_from_31_to_16000() -> None:
    x, y = np.zeros((1, 1)), np.full((1, 1), 30.0)
    want = 2 * sum(1 - np.exp(-900 / w) for w in (31.25, 62.5, 125, 250, 500, 1000, 2000, 4000, 8000, 16000))
    assert float(mmd2(torch.tensor(x), torch.tensor(y))) == pytest.approx(want)


def test_float32_holds_far_from_the_origin() -> None:
    x, y = cells(30, 1000), cells(30, 1000.2, 1)
    got = mmd2(torch.tensor(x).float(), torch.tensor(y).float(), 50.0)
    assert float(got) == pytest.approx(naive(x, y, 50.0, 10), rel=1e-2)


def test_unbiased_is_zero_on_average_and_biased_is_not() -> None:
    draws = [[torch.tensor(cells(20, seed=2 * s + k)) for k in (0, 1)] for s in range(200)]
    unbiased = np.array([float(mmd2(x, y, 50.0, unbiased=True)) for x, y in draws])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(len(unbiased))
    assert min(float(mmd2(x, y, 50.0)) for x, y in draws) > 0.1


def test_width_is_the_mean_distance_of_two_cells() -> None:
    x, y = cells(6), cells(5, 1, 1)
    d = cdist(np.concatenate([x, y]), np.concatenate([x, y]), "sqeuclidean")
    assert float(mean_distance_width(torch.tensor(x), torch.tensor(y))) == pytest.approx(d.sum() / (11 * 10))


def test_gradient_is_right() -> None:
    x, y = torch.tensor(cells(4, d=3)).requires_grad_(True), torch.tensor(cells(5, 1, 1, d=3))
    assert torch.autograd.gradcheck(lambda x: mmd2(x, y, 5.0, 4), x)
    assert torch.autograd.gradcheck(lambda y: mmd2(x.detach(), y, 5.0, 4), y.requires_grad_(True))


@pytest.mark.parametrize(("n", "m", "unbiased"), [(0, 3, False), (3, 0, False), (1, 3, True), (3, 1, True)])
def test_says_how_many_cells_it_needs(n: int, m: int, *, unbiased: bool) -> None:
    with pytest.raises(ValueError, match=f"MMD needs {1 + unbiased} or more cells of each; got {n} and {m}"):
        mmd2(torch.zeros(n, 4), torch.zeros(m, 4), unbiased=unbiased)
