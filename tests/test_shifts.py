"""Pairs of control and perturbed cells: what a regime does, and what it leaves alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from causcade.simulate.graphs import is_dag
from causcade.simulate.shifts import INTERVENTIONS, MECHANISMS, ShiftPrior, Shifts, draw_shifts, simulate_shifts

CHAIN = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()  # 0 -> 1 -> 2
SMALL = ShiftPrior(genes={"6": 1.0, "9": 1.0}, cells=(40, 80), control=(100, 200))


def hit(*genes: int, n: int = 3) -> Tensor:
    """One regime for each of `genes`."""
    return torch.eye(n).bool()[list(genes)]


def chain(kind: str, *genes: int, rng: int = 0, mechanism: str = "linear") -> Shifts:
    kinds = (kind,) * len(genes)
    return simulate_shifts(
        CHAIN, hit(*genes), kinds, mechanism=mechanism, n_control=4000, n_per_regime=4000, rng=rng
    )  # fmt: skip


def line(x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Slope, intercept and sd of the residual of a regression of y on x."""
    slope, intercept = np.polyfit(x.numpy(), y.numpy(), 1)
    return float(slope), float(intercept), float((y - slope * x - intercept).std())


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_cells_depend_on_seed_and_index_alone() -> None:
    first = draw_shifts(SMALL, 0, 3)
    torch.rand(7)
    draw_shifts(SMALL, 0, 2)
    again = draw_shifts(SMALL, 0, 3)
    for name in ("control", "perturbed", "targets", "adjacency"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert (first.mechanism, first.interventions) == (again.mechanism, again.interventions)
    for other in (draw_shifts(SMALL, 0, 4), draw_shifts(SMALL, 1, 3)):
        assert other.control.shape != first.control.shape or not torch.equal(other.control, first.control)


def test_draws_follow_the_prior() -> None:
    found = [draw_shifts(SMALL, 0, i) for i in range(40)]
    assert {s.control.shape[1] for s in found} == {6, 9}
    assert {s.mechanism for s in found} == set(MECHANISMS)
    assert {k for s in found for k in s.interventions} == set(INTERVENTIONS)
    assert {int(n) for s in found for n in s.targets.sum(1)} == {0, 1, 2, 3}
    for s in found:
        n = s.control.shape[1]
        assert is_dag(s.adjacency)
        assert s.perturbed.shape[::2] == (6, n)
        assert s.targets.shape == (6, n)
        assert 40 <= s.perturbed.shape[1] <= 80
        assert 100 <= s.control.shape[0] <= 200
        assert s.control.isfinite().all()
        assert s.perturbed.isfinite().all()


def test_parts_of_the_prior_can_be_fixed() -> None:
    prior = replace(SMALL, idle=1.0, mechanisms={"nn": 1.0}, interventions={"scale": 1.0}, edges=(0.0,))
    s = draw_shifts(prior, 0, 0, genes=4)
    assert not s.targets.any()
    assert (s.mechanism, set(s.interventions), s.control.shape[1]) == ("nn", {"scale"}, 4)
    one = draw_shifts(replace(SMALL, idle=0.0, max_targets=5), 0, 0, genes=2)
    assert set(one.targets.sum(1).tolist()) == {1, 2}  # no more targets than genes
    dense = [draw_shifts(replace(SMALL, edges=(e,)), 0, 0, genes=9).adjacency.sum() for e in (1.0, 4.0)]
    assert dense[0] < dense[1]


def test_prior_is_plain_json() -> None:
    text = json.dumps(SMALL.to_dict())
    back = json.loads(text)
    assert set(back) == set(ShiftPrior.__dataclass_fields__)
    assert back["cells"] == [40, 80]
    assert json.loads(json.dumps(ShiftPrior(**back).to_dict())) == back
    same, other = draw_shifts(ShiftPrior(**back), 0, 1), draw_shifts(SMALL, 0, 1)
    assert torch.equal(same.perturbed, other.perturbed)


# --- what regimes do ----------------------------------------------------------------------------------------------


def test_roots_are_uniform() -> None:
    s = chain("uniform", 2)
    for x in (s.control[:, 0], s.perturbed[0, :, 0]):
        assert x.min() > -1
        assert x.max() < 1
        assert float(x.var()) == pytest.approx(1 / 3, abs=0.02)
        assert abs(x.mean()) < 0.04


@pytest.mark.parametrize(("kind", "variance"), [("uniform", 1 / 3), ("normal", 1.0)])
def test_hard_targets_lose_their_parents(kind: str, variance: float) -> None:
    s = chain(kind, 1)
    assert abs(np.corrcoef(s.control[:, :2].T)[0, 1]) > 0.2
    x = s.perturbed[0]
    assert abs(np.corrcoef(x[:, :2].T)[0, 1]) < 0.06
    assert float(x[:, 1].var()) == pytest.approx(variance, rel=0.08)
    assert abs(x[:, 1].mean()) < 0.08
    assert abs(np.corrcoef(x[:, 1:].T)[0, 1]) > 0.1  # but keep their children


def test_shift_moves_the_target_and_what_follows() -> None:
    moved = []
    for rng in range(6):
        s = chain("shift", 1, rng=rng)
        change = s.perturbed[0].mean(0) - s.control.mean(0)
        moved.append(float(change[1]))
        slope, *_ = line(s.control[:, 1], s.control[:, 2])
        assert abs(change[0]) < 0.05
        assert float(change[2]) == pytest.approx(slope * float(change[1]), abs=0.2)
    assert all(1.9 < abs(m) < 4.1 for m in moved)
    assert {m > 0 for m in moved} == {True, False}
    assert np.ptp(np.abs(moved)) > 0.3


def test_scale_multiplies_the_target() -> None:
    up = []
    for rng in range(6):
        s = chain("scale", 0, rng=rng)
        factor = float(s.perturbed[0, :, 0].abs().max())  # a root: from -1 to 1 before
        up.append(factor > 1)
        assert 1.99 < factor <= 4 if up[-1] else 0.249 < factor <= 0.5
        assert line(s.perturbed[0, :, 0], s.perturbed[0, :, 1])[0] == pytest.approx(
            line(s.control[:, 0], s.control[:, 1])[0], abs=0.15
        )
    assert set(up) == {True, False}


def test_scale_includes_the_parents_and_the_noise() -> None:
    s = chain("scale", 1)
    before, *_, noise = line(s.control[:, 0], s.control[:, 1])
    after, *_, noise_after = line(s.perturbed[0, :, 0], s.perturbed[0, :, 1])
    factor = after / before
    assert 1.8 < max(factor, 1 / factor) < 4.4
    assert 1 / 1.5 < noise_after / noise / factor < 1.5


@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_all_others_keep_their_regression_up_to_the_size_of_noise(kind: str) -> None:
    s = simulate_shifts(CHAIN, hit(0, 1, 2), (kind,) * 3, n_control=6000, n_per_regime=6000, rng=1)
    sizes = []
    for parent, child, regimes in ((0, 1, (0, 2)), (1, 2, (0, 1))):
        slope, intercept, size = line(s.control[:, parent], s.control[:, child])
        assert 0.39 < size < 0.4 * math.sqrt(2) * 1.02
        for r in regimes:
            x = s.perturbed[r]
            rest = x[:, child] - slope * x[:, parent] - intercept
            assert abs(rest.mean()) < 0.1
            assert line(x[:, parent], rest)[0] == pytest.approx(0, abs=0.1)
            sizes.append(float(rest.std()) / size)
    assert all(1 / math.sqrt(2) - 0.03 < ratio < math.sqrt(2) + 0.03 for ratio in sizes)
    assert np.ptp(sizes) > 0.03  # and it is drawn anew


def test_regimes_without_a_target_change_the_noise_only() -> None:
    s = simulate_shifts(CHAIN, torch.zeros(4, 3).bool(), ("shift",) * 4, n_control=4000, n_per_regime=4000, rng=0)
    assert (s.perturbed.mean(1) - s.control.mean(0)).abs().max() < 0.06
    ratios = s.perturbed[:, :, 0].std(1) / s.control[:, 0].std()
    torch.testing.assert_close(ratios, torch.ones(4), atol=0.04, rtol=0)


def test_several_targets_are_moved_apart() -> None:
    targets = torch.tensor([[True, False, True]])
    lonely = torch.zeros(3, 3).bool()
    s = simulate_shifts(lonely, targets, ("shift",), n_control=500, n_per_regime=500, rng=0)
    change = (s.perturbed[0].mean(0) - s.control.mean(0)).abs()
    assert change[[0, 2]].min() > 1.9
    assert abs(change[0] - change[2]) > 0.01
    assert change[1] < 0.15


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_passes_changes_on(mechanism: str) -> None:
    found = []
    for rng in range(3):
        s = chain("shift", 0, rng=rng, mechanism=mechanism)
        a, b = s.control[:, 1], s.perturbed[0, :, 1]
        assert s.perturbed.isfinite().all()
        assert a.std() > 0.05
        found.append(float((a.mean() - b.mean()).abs() / a.std() + (a.std() / b.std()).log().abs()))
        assert torch.equal(s.adjacency, CHAIN)
    assert max(found) > 0.5


@pytest.mark.parametrize("mechanism", ["linear", "nn_add", "polynomial", "sigmoid"])
def test_additive_noise_has_its_size(mechanism: str) -> None:
    """Within narrow bins of its one parent, a gene spreads as its noise does."""
    s = chain("uniform", 2, mechanism=mechanism)
    order = s.control[:, 0].argsort()
    spread = float(s.control[order, 1].reshape(100, 40).var(1).mean().sqrt())
    assert 0.39 < spread < 0.4 * math.sqrt(2) * 1.03


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown mechanism 'cubic'.*linear"):
        simulate_shifts(CHAIN, hit(0), ("shift",), mechanism="cubic")
    with pytest.raises(ValueError, match=r"unknown intervention 'hard'.*uniform"):
        simulate_shifts(CHAIN, hit(0, 1), ("shift", "hard"))
    with pytest.raises(ValueError, match=r"\(regimes, genes\) = \(2, 3\), not \(1, 3\)"):
        simulate_shifts(CHAIN, hit(0), ("shift", "scale"))
    with pytest.raises(ValueError, match=r"= \(1, 3\), not \(1, 4\)"):
        simulate_shifts(CHAIN, hit(0, n=4), ("shift",))
    with pytest.raises(ValueError, match="square"):
        simulate_shifts(CHAIN[:, :2], hit(0), ("shift",))
    with pytest.raises(ValueError, match="cycle"):
        simulate_shifts(CHAIN | CHAIN.T, hit(0), ("shift",))


@pytest.mark.parametrize("part", ["graphs", "mechanisms", "interventions"])
def test_names_in_a_prior_are_checked(part: str) -> None:
    with pytest.raises(ValueError, match=r"unknown .* 'mine'"):
        draw_shifts(replace(SMALL, **{part: {"mine": 1.0}}), 0, 0)
