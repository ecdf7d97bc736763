"""Technical noise, against the laws it is made of."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch

from causcade.simulate.noise import FIDELITIES, TECHNOLOGIES, Technology, add_technical_noise, count, technology

QUIET = Technology(0.0, 0.0, 0.0, 6.0, 0.3, 1e4, 0.0)  # everything above the smallest entry is kept


def expression(n_cells=2000, n_genes=30):
    return 1 + 4 * torch.rand(n_cells, n_genes, generator=torch.Generator().manual_seed(0))


def test_library_sizes_are_log_normal() -> None:
    log = add_technical_noise(expression(4000), QUIET, rng=0).sum(1).log()
    assert log.mean().item() == pytest.approx(6.0, abs=5 * 0.3 / 4000**0.5)
    assert log.std().item() == pytest.approx(0.3, rel=0.08)
    assert ((log - log.mean()) ** 3).mean().item() / 0.3**3 == pytest.approx(0, abs=0.2)


def test_proportions_within_a_cell_stay() -> None:
    x = expression(50)
    y = add_technical_noise(x, QUIET, rng=0)
    kept = y > 0
    assert kept.float().mean() > 0.99
    np.testing.assert_allclose(
        (y / y.sum(1, keepdim=True))[kept.all(1)], (x / x.sum(1, keepdim=True))[kept.all(1)], rtol=1e-4
    )


def test_outlier_genes_are_scaled_in_all_cells() -> None:
    x = torch.ones(3, 4000)
    tech = Technology(0.25, 3.0, 1.0, 8.0, 0.0, 0.0, 0.0)  # shape 0: half of all entries drop, whatever they are
    y = add_technical_noise(x, tech, rng=0).max(0).values
    y = y[y > 0] / y[y > 0].median()
    factor = y[y > 1.0001].log()  # against the common gene
    assert (y > 1.0001).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert factor.mean().item() == pytest.approx(3.0, abs=0.2)
    assert factor.std().item() == pytest.approx(1.0, abs=0.15)


def test_dropout_is_the_logistic_law() -> None:
    x = torch.full((3000, 2), 1.0)
    x[:, 1] = 3.0
    tech = Technology(0.0, 0.0, 0.0, np.log(40.0), 0.0, 2.0, 50.0)  # entries of 10 and 30 in every cell
    kept = (add_technical_noise(x, tech, rng=0) > 0).double().mean(0).numpy()
    middle = np.percentile(np.log1p([10.0, 30.0]), 50)
    want = 1 / (1 + np.exp(-2.0 * (np.log1p([10.0, 30.0]) - middle)))
    np.testing.assert_allclose(kept, want, atol=5 * 0.5 / 3000**0.5)


def test_more_drops_at_a_higher_percentile() -> None:
    x = expression(300) ** 3
    shares = [
        (add_technical_noise(x, Technology(0, 0, 1, 6, 0.3, 8, p), rng=0) == 0).float().mean()
        for p in range(10, 100, 20)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 < 0.7 < shares[-1]


def test_cells_without_expression_stay_empty() -> None:
    x = expression(20)
    x[3] = 0
    y = add_technical_noise(x, technology("drop-seq"), rng=0)
    assert y.isfinite().all()
    assert (y[3] == 0).all()


# --- counting -----------------------------------------------------------------------------------------------------


def test_high_fidelity_is_the_rate_itself() -> None:
    rate = expression(5)
    assert count(rate, "high") is rate


@pytest.mark.parametrize(("fidelity", "draws"), [("low", 1), ("medium", 100)])
def test_counts_are_means_of_poisson_draws(fidelity, draws) -> None:
    rate = torch.full((40_000,), 3.0)
    y = count(rate, fidelity, rng=0).double()
    assert ((y * draws).round() / draws - y).abs().max() < 1e-6
    assert y.mean().item() == pytest.approx(3.0, abs=5 * (3 / draws / 40_000) ** 0.5)
    assert y.var().item() == pytest.approx(3.0 / draws, rel=0.05)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_zero_rate_is_never_seen(fidelity) -> None:
    assert (count(torch.zeros(100), fidelity, rng=0) == 0).all()


def test_one_seed_gives_the_same_bits() -> None:
    x, state = expression(50), torch.random.get_rng_state()
    tech = technology("10x-chromium", rng=0)
    first, second, other = (count(add_technical_noise(x, tech, rng=s), rng=s) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- settings -----------------------------------------------------------------------------------------------------


def test_one_profile_is_taken_whole_unless_mixed() -> None:
    profiles = TECHNOLOGIES["10x-chromium"]
    drawn = [technology("10x-chromium", rng=seed) for seed in range(30)]
    assert set(map(astuple, drawn)) == set(map(astuple, profiles))
    mixed = [technology("10x-chromium", mix=True, rng=seed) for seed in range(30)]
    assert any(tech not in profiles for tech in mixed)
    for tech in mixed:
        for field in ("outlier_mean", "library_mean", "library_sd", "dropout_percentile"):
            assert getattr(tech, field) in {getattr(p, field) for p in profiles}


def test_screens_of_ten_x_are_mostly_zeros() -> None:
    tech = TECHNOLOGIES["10x-chromium"][0]
    y = count(add_technical_noise(expression(100, 1500) ** 2, tech, rng=0), rng=0)
    assert 0.8 < (y == 0).float().mean() < 0.98


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"technology '10X-chromum'\. Did you mean '10x-chromium'"):
        technology("10X-chromum")
    with pytest.raises(ValueError, match="fidelity 'hi'"):
        count(torch.ones(2), "hi")
    with pytest.raises(ValueError, match="negative or NaN"):
        count(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="negative or NaN"):
        count(torch.tensor([1.0, float("nan")]), "medium")
    with pytest.raises(ValueError, match=r"shape \(0, 5\)"):
        add_technical_noise(torch.zeros(0, 5), QUIET)
