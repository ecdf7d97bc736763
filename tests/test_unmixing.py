"""Directions from non-Gaussian noise: known models are found again, and what must not matter does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from causcade.unmixing import mixing_features, pair_asymmetry, shortened, unmix

# 0 -> 1 -> 2 <- 3
EFFECTS = torch.zeros(4, 4)
EFFECTS[0, 1], EFFECTS[1, 2], EFFECTS[3, 2] = 1.0, -0.8, 0.7
DRAWS = {
    "laplace": lambda rng, shape: rng.laplace(size=shape) / np.sqrt(2),
    "uniform": lambda rng, shape: rng.uniform(-np.sqrt(3), np.sqrt(3), shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "gaussian": lambda rng, shape: rng.normal(size=shape),
}


def cells(law: str, n: int = 4000, seed: int = 0) -> torch.Tensor:
    noise = torch.from_numpy(DRAWS[law](np.random.default_rng(seed), (1, n, 4)))
    return noise @ torch.linalg.inv(torch.eye(4) - EFFECTS).double()


@pytest.mark.parametrize("law", ["laplace", "uniform", "exponential"])
def test_direct_effects_are_found_with_their_direction(law) -> None:
    x = cells(law)
    effects, tails, lean, clear = unmix(x, torch.ones(1, len(x[0]), 1))
    spread = x.std(1)[0].float()
    np.testing.assert_allclose(effects[0], EFFECTS * spread[:, None] / spread, atol=0.12)
    sign = {"laplace": -1, "uniform": 1, "exponential": -1}[law]
    assert (sign * tails > 0.01).all() and (clear > 0.95).all()
    expected = {"laplace": 0.0, "uniform": 0.0, "exponential": 2.0}[law]
    np.testing.assert_allclose(lean[0], np.full(4, expected), atol=0.4)


def test_gaussian_noise_is_told_from_the_others() -> None:
    tails = {law: unmix(cells(law), torch.ones(1, 4000, 1))[1].abs().max() for law in DRAWS}
    assert tails["gaussian"] < 0.5 * min(t for law, t in tails.items() if law != "gaussian")


def test_tails_are_those_of_scipy() -> None:
    # one gene: its own component, up to the little that whitening leaves
    x = torch.from_numpy(np.random.default_rng(0).laplace(size=(1, 20_000, 1)))
    tails = unmix(x, torch.ones(1, 20_000, 1))[1]
    law = stats.laplace(scale=np.sqrt(0.5))
    expected = law.expect(lambda z: np.logaddexp(z, -z)) - stats.norm.expect(lambda z: np.logaddexp(z, -z))
    assert float(tails) == pytest.approx(expected, abs=0.002)


def test_asymmetry_points_from_cause_to_effect() -> None:
    found = pair_asymmetry(cells("laplace"), torch.ones(1, 4000, 1))[0]
    torch.testing.assert_close(found, -found.T)
    assert min(found[0, 1], found[1, 2], found[3, 2]) > 0.6
    assert pair_asymmetry(cells("gaussian"), torch.ones(1, 4000, 1)).abs().max() < 0.4


def test_order_of_genes_and_of_cells_does_not_matter() -> None:
    x, weight = cells("gaussian", 300), torch.ones(1, 300, 1)
    weight[:, 200:] = 0
    genes, order = torch.tensor([2, 0, 3, 1]), torch.randperm(300, generator=torch.Generator().manual_seed(0))
    pair, single = mixing_features(x, weight)
    again, alone = mixing_features(x[:, order][:, :, genes], weight[:, order])
    torch.testing.assert_close(again, pair[:, genes][:, :, genes], atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, single[:, genes], atol=1e-5, rtol=0)


def test_cells_without_weight_say_nothing() -> None:
    x, weight = cells("laplace", 500), torch.ones(1, 500, 1)
    weight[:, 400:] = 0
    other = x.clone()
    other[:, 400:] = torch.randn(1, 100, 4, generator=torch.Generator().manual_seed(0)).double() * 5
    for first, second in zip(mixing_features(x, weight), mixing_features(other, weight), strict=True):
        torch.testing.assert_close(first, second)


def test_shortening_keeps_linear_relations_and_ends_long_cells() -> None:
    x = torch.tensor([[[1.0, 2.0], [300.0, 600.0], [-60.0, -120.0]]])
    short = shortened(x)
    torch.testing.assert_close(short[..., 1], 2 * short[..., 0])
    assert short.abs().max() == pytest.approx(6.0)
    torch.testing.assert_close(short[:, 0], x[:, 0])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_hardly_any_cell(n) -> None:
    x, weight = cells("laplace", 5), torch.zeros(1, 5, 1)
    weight[:, :n] = 1
    assert all(f.isfinite().all() for f in mixing_features(x, weight))


def test_a_constant_gene_has_no_effect() -> None:
    x = cells("laplace", 500)
    x[..., 3] = 0
    effects = unmix(x, torch.ones(1, 500, 1))[0][0]
    assert effects[3].abs().max() < 0.05
