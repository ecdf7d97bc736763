"""The pair-stream network."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from causcade.nn.pair_stream import PairStream, PairStreamConfig, pair_loss
from causcade.pairs import N_FEATURES

SMALL = PairStreamConfig(width=8, layers=2, heads=2, hidden=16, paths=3)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def awake(config=SMALL):
    """A network whose head is not zero, as after a first step."""
    net = PairStream(config)
    torch.nn.init.normal_(net.head[-1].weight)
    return net


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_takes_any_number_of_genes_and_starts_as_a_logistic_regression(n) -> None:
    net, x = PairStream(), torch.randn(1, n, n, N_FEATURES) * 10
    logits = net(x)
    assert logits.shape == (1, n, n)
    want = net.skip(x.clamp(-8, 8)).squeeze(-1) + net.head[-1].bias
    torch.testing.assert_close(logits, want)
    assert -6 < PairStream()(torch.zeros(1, n, n, N_FEATURES)).mean() < -2  # few pairs are causes


def test_huge_features_stay_finite() -> None:
    x = torch.full((1, 4, 4, N_FEATURES), 1e30)
    assert awake()(x).isfinite().all()


@pytest.mark.parametrize("paths", [0, 3])
def test_gene_order_goes_through(paths) -> None:
    net = awake(PairStreamConfig(width=8, layers=2, heads=2, hidden=16, paths=paths))
    x, order = torch.randn(2, 6, 6, N_FEATURES), torch.randperm(6)
    got = net(x[:, order][:, :, order])
    torch.testing.assert_close(got, net(x)[:, order][:, :, order], rtol=1e-4, atol=1e-4)


def test_direction_counts() -> None:
    net, x = awake(), torch.randn(1, 5, 5, N_FEATURES)
    assert not torch.allclose(net(x.transpose(1, 2)), net(x).transpose(1, 2), atol=1e-2)


def test_a_pair_sees_the_pairs_beside_it() -> None:
    net, x = awake(), torch.randn(1, 5, 5, N_FEATURES)
    changed = x.clone()
    changed[0, 0, 1] += 3
    moved = (net(changed) - net(x)).abs()[0] > 1e-6
    assert moved[0].all()
    assert moved[:, 1].all()


def test_items_of_a_batch_do_not_mix() -> None:
    net, x = awake(), torch.randn(3, 4, 4, N_FEATURES)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)


def test_recomputing_changes_memory_only() -> None:
    net, x = awake(), torch.randn(1, 4, 4, N_FEATURES)
    grads = []
    for recompute in (False, True):
        net.zero_grad()
        logits = net(x, recompute=recompute)
        logits.square().mean().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_gradient_reaches_every_parameter() -> None:
    net = awake()
    net(torch.randn(2, 5, 5, N_FEATURES)).square().mean().backward()
    missed = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []


def test_number_of_parameters_and_config() -> None:
    net = PairStream(SMALL)
    assert net.n_parameters() == sum(p.numel() for p in net.parameters())
    assert PairStreamConfig(**SMALL.to_dict()) == SMALL
    assert PairStream().n_parameters() < 100_000
    assert PairStreamConfig().features == N_FEATURES


def test_loss_is_the_mean_of_each_item_over_its_own_entropy() -> None:
    logits = torch.randn(2, 6, 6)
    labels = (torch.rand(2, 6, 6) < torch.tensor([0.1, 0.4])[:, None, None]).float()
    valid = torch.ones(2, 6, 6, dtype=torch.bool)
    valid[1, 4:] = False
    want = 0.0
    for b in range(2):
        share = labels[b][valid[b]].double().mean()
        entropy = torch.distributions.Bernoulli(share).entropy()
        want += binary_cross_entropy_with_logits(logits[b][valid[b]], labels[b][valid[b]]).item() / (entropy + 0.02) / 2
    assert pair_loss(logits, labels, valid).item() == pytest.approx(want.item(), rel=1e-5)
    assert pair_loss(logits, torch.where(valid, labels, 1 - labels), valid) == pair_loss(logits, labels, valid)


def test_loss_of_an_item_without_causes_is_finite() -> None:
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    assert pair_loss(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3), valid).isfinite()
