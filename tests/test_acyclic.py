"""The spectral radius against numpy's eigenvalues, and the multiplier against its rule."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from causcade.nn.acyclic import DualState, acyclicity_penalty, edge_bce, spectral_radius


def radius(weights, seed=0):
    logs = torch.as_tensor(np.asarray(weights)).log()
    return spectral_radius(logs, rng=torch.Generator().manual_seed(seed)).numpy()


def largest(weights):
    return np.array([np.abs(np.linalg.eigvals(w)).max() for w in weights])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_radius_is_the_largest_eigenvalue(n, share) -> None:
    rng = np.random.default_rng(n)
    weights = rng.random((6, n, n)) ** 3 * (rng.random((6, n, n)) < share)
    np.testing.assert_allclose(radius(weights), largest(weights), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 30, 60])
def test_acyclic_graphs_have_radius_zero(n) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(n)
    chain, full, some = np.eye(n, k=1), np.triu(np.ones((n, n)), 1), np.triu(rng.random((n, n)), 1)
    dags = np.stack([w[np.ix_(order, order)] for w in (chain, full, some, 0 * some)])
    np.testing.assert_allclose(radius(dags), 0.0, atol=1e-6)


@pytest.mark.parametrize("length", range(2, 10))
def test_single_cycles_have_the_geometric_mean_of_their_edges(length) -> None:
    rng = np.random.default_rng(length)
    weights = np.zeros((1, 12, 12))
    edges = 0.3 + 0.6 * rng.random(length)
    weights[0, np.arange(length), (np.arange(length) + 1) % length] = edges
    weights[0, 0, 10] = weights[0, 10, 11] = 1.0  # a tail
    want = edges.prod() ** (1 / length)
    for seed in range(3):  # whatever the start
        tolerance = 1e-5 if 12 % length == 0 else 0.02
        np.testing.assert_allclose(radius(weights, seed), want, rtol=tolerance)


def test_gradient_is_that_of_the_eigenvalue() -> None:
    rng = np.random.default_rng(0)
    w = rng.random((6, 6))
    weights = torch.tensor(w[None], requires_grad=True)
    spectral_radius(weights.log()).sum().backward()
    want = np.zeros_like(w)
    for at in np.ndindex(6, 6):
        up, down = w.copy(), w.copy()
        up[at] += 1e-5
        down[at] -= 1e-5
        want[at] = (largest([up]) - largest([down]))[0] / 2e-5
    assert weights.grad is not None
    np.testing.assert_allclose(weights.grad[0].numpy(), want, atol=1e-4)


def test_penalty_is_the_mean_radius_without_the_diagonal() -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 12, 12, generator=g) * 3 - 2
    p = torch.sigmoid(logits).masked_fill(torch.eye(12, dtype=torch.bool), 0.0).numpy()
    want = largest(p).mean()
    assert float(acyclicity_penalty(logits, rng=g)) == pytest.approx(want, rel=1e-3)
    logits.diagonal(dim1=1, dim2=2).fill_(50.0)
    assert float(acyclicity_penalty(logits, rng=g)) == pytest.approx(want, rel=1e-3)


def test_following_the_penalty_breaks_a_cycle_and_nothing_else() -> None:
    logits = torch.full((1, 5, 5), -8.0)
    logits[0, 0, 1], logits[0, 1, 0], logits[0, 2, 3] = 2.0, 0.5, 3.0
    before, logits = logits.clone(), logits.requires_grad_()
    for _ in range(100):
        (slope,) = torch.autograd.grad(acyclicity_penalty(logits), logits)
        logits = (logits - slope).detach().requires_grad_()
    change = (logits - before).detach()[0]
    assert logits[0, 1, 0] < -1  # the weaker of the two gives way
    assert change[1, 0] < change[0, 1] < 0
    change[[0, 1], [1, 0]] = 0.0
    assert change.abs().max() < 0.2


def test_penalty_and_gradient_are_finite_for_extreme_logits() -> None:
    for size in (1, 2, 40):
        logits = (torch.randn(2, size, size) * 200).requires_grad_()
        acyclicity_penalty(logits).backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_edge_bce_leaves_the_diagonal_out() -> None:
    p = torch.tensor([[[0.9, 0.2], [0.4, 0.9]]])
    loss = edge_bce(torch.logit(p), torch.tensor([[[1, 1], [0, 0]]]))
    assert float(loss) == pytest.approx(-(math.log(0.2) + math.log(0.6)) / 2, rel=1e-5)
    assert float(edge_bce(torch.zeros(3, 1, 1), torch.zeros(3, 1, 1))) == 0.0


def test_multiplier_follows_its_rule() -> None:
    dual = DualState(lr=0.1, every=2, rate=0.5, warmup=4)
    seen = [dual.update(1.0) for _ in range(4)]
    # averages .5, .75, .875, .9375; steps after the second (half of lr) and the fourth call
    np.testing.assert_allclose(seen, [0.0, 0.05 * 0.75, 0.05 * 0.75, 0.05 * 0.75 + 0.1 * 0.9375])
    before = dual.weight
    for _ in range(200):
        dual.update(-1.0)  # below 0 counts as 0: the multiplier never falls
    assert dual.weight >= before
    assert dual.average == pytest.approx(0.0, abs=1e-12)


def test_multiplier_goes_on_from_its_state() -> None:
    one = DualState(lr=0.1, every=3, rate=0.2, warmup=10)
    penalties = np.random.default_rng(0).random(20)
    for p in penalties[:8]:
        one.update(float(p))
    two = DualState(lr=0.1, every=3, rate=0.2, warmup=10)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for p in penalties[8:]:
        assert one.update(float(p)) == two.update(float(p))
    assert one.weight > 0


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="every=0"):
        DualState(every=0)
    with pytest.raises(ValueError, match="rate=2"):
        DualState(rate=2)
    with pytest.raises(ValueError, match="penalty is nan"):
        DualState().update(math.nan)
