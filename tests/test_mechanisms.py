import numpy as np
import pytest
import torch

from causcade.simulate._mechanisms import MECHANISMS, Ranges, draw_fourier

RANGES = Ranges(weight=(1.0, 3.0), bias=(-3.0, 3.0), length_scale=(0.7, 1.0), output_scale=(10.0, 20.0))
# 0 -> 2 <- 1, 3 alone
GRAPH = torch.zeros(4, 4, dtype=torch.bool)
GRAPH[[0, 1], 2] = True
mechanisms = pytest.mark.parametrize("name", MECHANISMS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


@mechanisms
def test_only_parents_have_a_say(name):
    mechanism = MECHANISMS[name](GRAPH, RANGES, generator())
    values, noise = normal(20, 4), normal(20, 4, seed=1)
    every = torch.arange(4)
    base = mechanism(values, every, noise)
    for cause in range(4):
        other = values.clone()
        other[:, cause] = normal(20, seed=2)
        changed = ~torch.isclose(mechanism(other, every, noise), base, atol=1e-5).all(0)
        assert changed.tolist() == GRAPH[cause].tolist()


@mechanisms
def test_some_nodes_are_a_part_of_all_nodes(name):
    mechanism = MECHANISMS[name](GRAPH, RANGES, generator())
    values, noise = normal(20, 4), normal(20, 4, seed=1)
    nodes = torch.tensor([2, 0])
    expected = mechanism(values, torch.arange(4), noise)[:, nodes]
    torch.testing.assert_close(mechanism(values, nodes, noise[:, nodes]), expected)


@pytest.mark.parametrize("name", ["linear", "polynomial", "sigmoid"])
def test_weights_and_biases_stay_in_range(name):
    full = torch.ones(30, 30, dtype=torch.bool).triu(1)
    mechanism = MECHANISMS[name](full, RANGES, generator())
    weights = mechanism.weight[full]
    assert float(weights.abs().min()) >= 1
    assert float(weights.abs().max()) <= 3
    assert float((weights > 0).double().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(mechanism.bias.abs().max()) <= 3
    assert float(mechanism.bias.min()) < 0 < float(mechanism.bias.max())


@pytest.mark.parametrize("name", [name for name in MECHANISMS if name != "mlp_nonadditive"])
def test_root_with_added_noise_is_bias_and_noise(name):
    mechanism = MECHANISMS[name](GRAPH, RANGES, generator())
    noise = normal(5, 1, seed=1)
    root = torch.tensor([3])
    torch.testing.assert_close(mechanism(normal(5, 4), root, noise), noise + mechanism.bias[root])


def test_polynomial_and_sigmoid_formulas():
    values, noise = normal(6, 4) * 3, torch.zeros(6, 1)
    two = torch.tensor([2])
    p = MECHANISMS["polynomial"](GRAPH, RANGES, generator())
    bounded = np.clip(values.numpy(), -3, 3)
    expected = bounded @ p.weight.numpy()[:, 2] + bounded**2 @ p.square.numpy()[:, 2] + float(p.bias[2])
    np.testing.assert_allclose(p(values, two, noise)[:, 0].numpy(), expected, rtol=1e-4, atol=1e-4)
    s = MECHANISMS["sigmoid"](GRAPH, RANGES, generator())
    slope, centre, weight = (t.numpy()[:2, 2] for t in (s.slope, s.centre, s.weight))
    bent = 1 / (1 + np.exp(-slope * (values.numpy()[:, :2] - centre)))
    expected = bent @ weight + float(s.bias[2])
    np.testing.assert_allclose(s(values, two, noise)[:, 0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_fourier_features_have_the_squared_exponential_kernel():
    # covariance of f(a) and f(b) over draws of f: scale^2 exp(-(a - b)^2 / (2 length^2))
    length, scale = 0.8, 3.0
    draws = []
    two = torch.tensor([[0, 1], [0, 0]], dtype=torch.bool)
    points = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.5, 0.0]])
    source = generator()
    for _ in range(1500):
        draws.append(draw_fourier(two, (length, length), (scale, scale), source)(points, torch.tensor([1]))[:, 0])
    values = torch.stack(draws).double()
    covariance = values.T @ values / len(values)
    distance = points[:, :1] - points[:, 0]
    expected = scale**2 * torch.exp(-(distance.double() ** 2) / (2 * length**2))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1.0)
