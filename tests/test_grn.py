"""Dynamics of gene regulatory networks, against the closed forms of their stationary laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade.simulate import graphs
from causcade.simulate.grn import GRN, Sampling, hill_function, random_grn, simulate_cells

SHARE = {"dpd": 1.0, "sp": 0.5, "spd": 2.0}  # stationary variance / (noise**2 * mean)
ONE_CELL = Sampling(dt=0.02, burn_in=2.0, cells_per_chain=1)


def network(edges, n, *, basal=20.0, noise=0.5, kind="dpd", n_types=1, hill=2.0):
    """A network from ``{(cause, effect): strength}``; roots have one basal rate."""
    strength = torch.zeros(n, n)
    for (i, j), k in edges.items():
        strength[i, j] = k
    adjacency = torch.zeros(n, n, dtype=torch.bool)
    adjacency[tuple(zip(*edges, strict=True)) if edges else ([], [])] = True
    roots = ~adjacency.any(0)
    return GRN(adjacency, strength, basal * roots.float().expand(n_types, n), hill, 0.8, noise, kind)


def cells(grn, n_control=0, knockouts=(), per=0, sampling=ONE_CELL, rng=0, **options):
    return simulate_cells(
        grn,
        n_control=n_control,
        knockouts=torch.tensor(knockouts, dtype=torch.long),
        cells_per_knockout=per,
        sampling=sampling,
        rng=rng,
        **options,
    )


# --- stationary laws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("burn_in", [0.02, 2.0], ids=["start", "after burn-in"])
@pytest.mark.parametrize("kind", SHARE)
def test_root_gene_has_its_stationary_law(kind, burn_in) -> None:
    grn = network({(0, 1): 20.0}, 2, kind=kind)
    x, _, _ = cells(grn, 4000, sampling=Sampling(dt=0.02, burn_in=burn_in, cells_per_chain=1))
    mean, variance = 20 / 0.8, SHARE[kind] * 0.5**2 * 20 / 0.8
    assert x[:, 0].mean().item() == pytest.approx(mean, abs=5 * (variance / 4000) ** 0.5)
    assert x[:, 0].var().item() == pytest.approx(variance, rel=0.1)


def test_genes_without_children_have_the_law_of_stepped_genes() -> None:
    n = 6000
    leaf = network({(0, 1): 30.0, (0, 2): -30.0}, 5, basal=8.0)
    stepped = network({(0, 1): 30.0, (0, 2): -30.0, (1, 3): 0.0, (2, 4): 0.0}, 5, basal=8.0)  # children that do nothing
    assert leaf.regulators.tolist() == [0]
    assert stepped.regulators.tolist() == [0, 1, 2]
    a, b = (np.cov(cells(grn, n, rng=seed)[0][:, :3].T.numpy()) for seed, grn in enumerate((leaf, stepped)))
    sd = np.sqrt(np.outer(np.diag(b), np.diag(b)))
    np.testing.assert_allclose(a / sd, b / sd, atol=5 * (2 * 2 / n) ** 0.5)
    assert a[0, 1] > 0.1 * sd[0, 1] > 0 > -0.1 * sd[0, 2] > a[0, 2]  # regulation shows
    means = [cells(grn, n, rng=seed)[0][:, :3].mean(0) for seed, grn in enumerate((leaf, stepped))]
    np.testing.assert_allclose(*means, atol=5 * (2 * np.diag(b).max() / n) ** 0.5)


def test_network_without_edges_or_with_one_gene() -> None:
    x, codes, _ = cells(network({}, 1), 3000, [0], 10)
    assert x[codes == 0].var().item() == pytest.approx(0.25 * 25, rel=0.12)
    assert (x[codes == 1] == 0).all()


def test_many_cells_of_a_chain_have_the_law_of_single_cells() -> None:
    grn = network({(0, 1): 20.0}, 2, n_types=3)
    x, _, types = cells(grn, 3001, sampling=Sampling(dt=0.02, interval=1.0, cells_per_chain=16))
    assert x.shape == (3001, 2)
    assert torch.bincount(types).tolist() in ([1001, 1000, 1000], [1000, 1001, 1000], [1000, 1000, 1001])
    assert x[:, 0].mean().item() == pytest.approx(25, abs=0.4)
    assert x[:, 0].var().item() == pytest.approx(0.25 * 25, rel=0.15)


# --- steady state -------------------------------------------------------------------------------------------------


def test_steady_state_by_hand() -> None:
    grn = network({(0, 1): -6.0, (1, 2): 4.0}, 3)
    keep = torch.ones(2, 3)
    keep[1, 0] = 0
    wild, half = grn.steady_state(torch.zeros(1, dtype=torch.long), keep[:1])
    np.testing.assert_allclose(wild[0], [25, 3 / 0.8, 2 / 0.8], rtol=1e-6)  # every Hill value is one half
    assert torch.equal(wild[0, :2], half[0, :2])
    lost, _ = grn.steady_state(torch.zeros(1, dtype=torch.long), keep[1:], half[0])
    np.testing.assert_allclose(lost[0], [0, 6 / 0.8, 4 * 0.8 / 0.8], rtol=1e-6)  # H(2) = 4 / 5


def test_half_response_is_the_mean_over_cell_types() -> None:
    grn = network({(0, 1): 6.0}, 2, n_types=2)
    grn = GRN(grn.adjacency, grn.strength, torch.tensor([[8.0, 0.0], [24.0, 0.0]]), 2.0, 0.8, 1.0)
    x, half = grn.steady_state(torch.arange(2), torch.ones(2, 2))
    np.testing.assert_allclose(half[:, 0], [20, 20])
    np.testing.assert_allclose(x[:, 1], [6 * 0.25 / 1.25 / 0.8, 6 * 2.25 / 3.25 / 0.8], rtol=1e-6)


def test_hill_function() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 1e6])
    np.testing.assert_allclose(hill_function(x, torch.tensor(1.0), 3.0), [0, 0, 1 / 2, 8 / 9, 1], rtol=1e-6)
    assert hill_function(torch.tensor(1.0), torch.tensor(1e-6), 10.0) == 1  # and not infinity / infinity


# --- perturbations ------------------------------------------------------------------------------------------------


def test_knockout_moves_descendants_only() -> None:
    grn = network({(0, 1): -30.0, (1, 2): 30.0, (3, 4): 30.0}, 5, noise=0.3)
    x, codes, _ = cells(grn, 1000, [0, 4], 1000)
    control, root, leaf = (x[codes == r].mean(0).numpy() for r in range(3))
    error = 5 * (2 * 0.09 * 40 / 1000) ** 0.5
    assert (x[codes == 1, 0] == 0).all()
    assert (x[codes == 2, 4] == 0).all()
    np.testing.assert_allclose(control, [25, 15 / 0.8, 15 / 0.8, 25, 15 / 0.8], atol=error)
    np.testing.assert_allclose(root[1:3], [30 / 0.8, 24 / 0.8], atol=error)
    np.testing.assert_allclose(root[3:], control[3:], atol=error)
    np.testing.assert_allclose(leaf[:4], control[:4], atol=error)
    np.testing.assert_allclose(x[codes == 1, 3].var(), x[codes == 0, 3].var(), rtol=0.25)


def test_refit_erases_indirect_effects() -> None:
    grn = network({(0, 1): -30.0, (1, 2): 30.0}, 3, noise=0.1)
    shift = {}
    for half_response in ("wild-type", "refit"):
        x, codes, _ = cells(grn, 200, [0], 200, half_response=half_response)
        shift[half_response] = (x[codes == 1].mean(0) - x[codes == 0].mean(0)).abs()
    assert shift["refit"][1] == pytest.approx(15 / 0.8, rel=0.02)  # the child still answers
    assert shift["wild-type"][2] == pytest.approx(9 / 0.8, rel=0.02)
    assert shift["refit"][2] < 0.02 * shift["wild-type"][2]


@pytest.mark.parametrize("kind", SHARE)
def test_knock_down_of_a_leaf_has_the_law_of_halved_production(kind) -> None:
    grn = network({}, 2, kind=kind)
    x, codes, _ = cells(grn, 10, [0, 1], 3000, efficacy=torch.tensor([0.4, 1.0]))
    low = x[codes == 1, 0]
    mean, variance = 0.6 * 25, SHARE[kind] * 0.25 * 0.6 * 25
    assert low.mean().item() == pytest.approx(mean, abs=5 * (variance / 3000) ** 0.5)
    assert low.var().item() == pytest.approx(variance, rel=0.12)
    assert (x[codes == 2, 1] == 0).all()


def test_knock_down_of_a_regulator_has_the_law_of_halved_production() -> None:
    x, codes, _ = cells(network({(0, 1): 20.0}, 2), 10, [0], 3000, efficacy=0.4)
    assert x[codes == 1, 0].mean().item() == pytest.approx(15, abs=0.2)
    assert x[codes == 1, 0].var().item() == pytest.approx(0.25 * 15, rel=0.12)


def test_negative_efficacy_activates() -> None:
    x, codes, _ = cells(network({(0, 1): 20.0}, 2, noise=0.1), 100, [0, 1], 300, efficacy=-1.0)
    control, regulator, leaf = (x[codes == r].mean(0) for r in range(3))
    assert regulator[0] == pytest.approx(50, rel=0.02)
    assert regulator[1] == pytest.approx(20 * 0.8 / 0.8, rel=0.02)  # H(2) = 4 / 5
    assert leaf[1] == pytest.approx(2 * control[1].item(), rel=0.02)


def test_full_repression_is_zero_and_never_nan() -> None:
    edges = {(0, j): -k for j, k in zip(range(1, 40), torch.rand(39).tolist(), strict=True)}
    edges |= {(j, 40 + j % 3): -0.1 * j for j in range(1, 40)}
    x, codes, _ = cells(network(edges, 43, hill=4.0), 50, [0], 50, efficacy=-1e5)
    assert x.isfinite().all()
    assert x[codes == 1, 1:40].max() < 1e-3


# --- design -------------------------------------------------------------------------------------------------------


def small(**options):
    adjacency = graphs.random_graph(12, kind="erdos_renyi", edges_per_gene=2.0, rng=0)
    return random_grn(adjacency, **{"n_types": 3, "rng": 1, **options})


def test_regimes_and_types_are_dealt_as_asked() -> None:
    per = torch.tensor([7, 0, 9])
    x, codes, types = cells(small(), 20, [3, 5, 0], per)
    assert x.shape == (36, 12)
    assert torch.bincount(codes, minlength=4).tolist() == [20, 7, 0, 9]
    assert torch.equal(codes, codes.sort().values)
    for regime in (0, 1, 3):
        dealt = torch.bincount(types[codes == regime], minlength=3)
        assert dealt.max() - dealt.min() <= 1
    assert (x >= 0).all()
    assert (x[codes == 1, 3] == 0).all()
    assert (x[codes == 3, 0] == 0).all()


def test_nothing_asked_gives_nothing() -> None:
    x, codes, types = cells(small())
    assert x.shape == (0, 12)
    assert len(codes) == len(types) == 0


def test_one_seed_gives_the_same_bits() -> None:
    state = torch.random.get_rng_state()
    first, second, other = (cells(small(), 30, [1, 2], 5, rng=seed)[0] for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_grn_draws_within_its_ranges() -> None:
    adjacency = graphs.random_graph(60, kind="erdos_renyi", edges_per_gene=3.0, rng=0)
    grn = random_grn(adjacency, n_types=4, basal=(1.0, 2.0), strength=(3.0, 4.0), rng=0)
    roots = ~adjacency.any(0)
    assert grn.n_genes == 60
    assert grn.n_types == 4
    assert torch.equal(grn.strength != 0, adjacency)
    assert ((grn.strength.abs()[adjacency] >= 3) & (grn.strength.abs()[adjacency] <= 4)).all()
    assert ((grn.basal[:, roots] >= 1) & (grn.basal[:, roots] <= 2)).all()
    assert (grn.basal[:, ~roots] == 0).all()
    assert 0.2 < (grn.strength[adjacency] > 0).float().mean() < 0.8
    assert torch.equal(
        random_grn(adjacency, n_types=4, rng=3).strength, random_grn(adjacency, n_types=4, rng=3).strength
    )


def test_signs_follow_the_regulator_and_what_is_known() -> None:
    adjacency = torch.ones(40, 40, dtype=torch.bool).triu(1)
    strength = random_grn(adjacency, sign_beta=(0.05, 0.05), rng=0).strength[:20]
    activating = (strength > 0).sum(1) / adjacency[:20].sum(1)
    assert ((activating < 0.1) | (activating > 0.9)).float().mean() > 0.75  # a regulator mostly does one thing
    assert (random_grn(adjacency, sign_beta=(1e4, 1e-4), rng=0).strength >= 0).all()
    signs = torch.zeros(40, 40)
    signs[0], signs[1] = 1, -1
    known = random_grn(adjacency, signs=signs, rng=0).strength
    assert (known[0, 1:] > 0).all()
    assert (known[1, 2:] < 0).all()


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adjacency", "options", "says"),
    [
        (torch.zeros(2, 3), {}, "square"),
        (torch.tensor([[0, 1], [1, 0]]), {}, "cycle"),
        (torch.zeros(2, 2), {"n_types": 0}, "n_types"),
        (torch.zeros(2, 2), {"basal": (3.0, 1.0)}, "basal"),
        (torch.zeros(2, 2), {"strength": (-1.0, 1.0)}, "strength"),
        (torch.zeros(2, 2), {"noise_kind": "pds"}, r"noise_kind 'pds'.*'dpd', 'sp', 'spd'"),
        (torch.zeros(2, 2), {"decay": 0.0}, "decay"),
    ],
)
def test_random_grn_refuses(adjacency, options, says) -> None:
    with pytest.raises(ValueError, match=says):
        random_grn(adjacency, **options)


def test_grn_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"basal \(n_types, 2\)"):
        GRN(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(1, 3), 2.0, 0.8, 1.0)


@pytest.mark.parametrize(
    ("design", "says"),
    [
        ({"knockouts": [0, 12]}, r"from 0 to 11; got \[12\]"),
        ({"knockouts": [-1]}, r"got \[-1\]"),
        ({"knockouts": [[0]]}, "positions"),
        ({"n_control": -1}, "must not be negative"),
        ({"knockouts": [0], "per": -2}, "must not be negative"),
        ({"knockouts": [0, 1], "per": torch.tensor([1, 2, 3])}, r"cells_per_knockout .* got \(3,\)"),
        ({"knockouts": [0], "per": 1, "efficacy": 1.5}, "at most 1"),
        ({"knockouts": [0], "per": 1, "efficacy": float("nan")}, "NaN"),
        ({"knockouts": [0], "per": 1, "half_response": "wild"}, "half_response 'wild'"),
    ],
)
def test_simulate_cells_refuses(design, says) -> None:
    with pytest.raises(ValueError, match=says):
        cells(small(), **design)


def test_float_knockouts_and_bad_times_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32"):
        simulate_cells(small(), n_control=1, knockouts=torch.tensor([0.5]), cells_per_knockout=1)
    with pytest.raises(ValueError, match="dt"):
        Sampling(dt=0.0)
