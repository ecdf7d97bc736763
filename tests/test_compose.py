"""Composition of scores along paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade import scoring
from causcade.nn.compose import Composition
from causcade.nn.pair_stream import PairStream, PairStreamConfig


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def awake(rounds=2):
    """A composition whose corrections are not zero, as after a first step."""
    made = Composition(rounds)
    for a_round in made.rounds:
        torch.nn.init.normal_(a_round.correct[-1].weight)
    return made


def logits_of(n):
    return torch.randn(n, n) * 3 - 4


def test_starts_as_a_noisy_or_over_paths_through_one_gene():
    x = logits_of(9)
    p = x.double().sigmoid().fill_diagonal_(0)
    along = torch.zeros(9, 9, dtype=torch.float64)
    for i in range(9):
        for j in range(9):
            along[i, j] = sum(p[i, k] ** 2 * p[k, j] ** 2 for k in range(9))
    want = torch.logit(1 - (1 - x.double().sigmoid()) * (1 - (1 - torch.exp(-along)).sqrt()))
    off = ~torch.eye(9, dtype=torch.bool)
    torch.testing.assert_close(Composition(1)(x).double()[off], want[off], rtol=1e-3, atol=1e-3)


def test_a_certain_path_makes_an_effect_likely_and_its_reverse_not():
    x = torch.full((5, 5), -8.0)
    x[0, 1] = x[1, 2] = x[2, 3] = 8.0
    with torch.no_grad():
        once, twice = Composition(1)(x), Composition(2)(x)
    assert once[0, 2] > 0.5
    assert once[1, 3] > 0.5
    assert once[0, 3] < -3  # three steps need a second round
    assert twice[0, 3] > 0
    others = torch.ones(5, 5, dtype=torch.bool).fill_diagonal_(fill_value=False)
    others[[0, 1, 2, 0, 1, 0], [1, 2, 3, 2, 3, 3]] = False
    assert twice[others].max() < -3


def test_the_order_of_the_genes_does_not_matter():
    x, order, net = logits_of(40), torch.randperm(40), awake()
    with torch.no_grad():
        torch.testing.assert_close(net(x)[order][:, order], net(x[order][:, order]), rtol=1e-4, atol=1e-4)


def test_blocks_of_causes_give_what_the_whole_gives():
    x, net = logits_of(300), awake(1)  # more than a block
    with torch.no_grad():
        blocks = net(x)
    off = ~torch.eye(300, dtype=torch.bool)
    torch.testing.assert_close(blocks[off], net(x).detach()[off], rtol=1e-4, atol=1e-4)


def test_the_diagonal_and_missing_scores_say_nothing():
    x, net = logits_of(12), awake()
    off = ~torch.eye(12, dtype=torch.bool)
    with torch.no_grad():
        want = net(x)
        other = x.clone()
        other.fill_diagonal_(7.0)
        torch.testing.assert_close(net(other)[off], want[off])
        missing, least = x.clone(), x.clone()
        missing[2, 3], least[2, 3] = float("nan"), -15.0
        torch.testing.assert_close(net(missing)[off], net(least)[off])


@pytest.mark.parametrize("value", [-1e9, 1e9, 0.0, float("inf"), -float("inf")])
@pytest.mark.parametrize("n", [1, 2, 20])
def test_extreme_scores_stay_finite_with_finite_gradients(n, value):
    net = awake()
    out = net(torch.full((n, n), value))
    assert out.isfinite().all()
    out.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_there_are_rounds():
    with pytest.raises(ValueError, match="at least 1 round, not -1"):
        Composition(-1)


def test_a_network_composes_only_if_it_has_a_composition():
    scores = logits_of(6).numpy()
    scores[0, 1] = np.nan
    plain = PairStream(PairStreamConfig(width=8, layers=1, heads=1, hidden=8, paths=0))
    assert scoring.compose(plain, scores) is scores
    net = PairStream(PairStreamConfig(width=8, layers=1, heads=1, hidden=8, paths=0, rounds=1))
    composed = scoring.compose(net, scores)
    stays = np.eye(6, dtype=bool)
    stays[0, 1] = True
    np.testing.assert_array_equal(composed[stays], scores[stays])
    assert (composed[~stays] > scores[~stays]).all()  # untrained: a noisy or
    assert composed.dtype == np.float32
    state = torch.get_rng_state()
    np.testing.assert_array_equal(scoring.noisy_or(scores), composed)
    assert torch.equal(torch.get_rng_state(), state)
    assert scoring.noisy_or(scores[:0, :0]).shape == (0, 0)


def test_the_composition_leaves_the_first_weights_of_the_rest_alone():
    def made(rounds):
        torch.manual_seed(3)
        return PairStream(PairStreamConfig(width=8, layers=1, heads=1, hidden=8, paths=0, rounds=rounds)).state_dict()

    plain, composing = made(0), made(2)
    assert {n for n in composing if n not in plain} == {n for n in composing if n.startswith("compose.")}
    assert all(torch.equal(composing[n], w) for n, w in plain.items())
