import numpy as np
import pytest
import torch
from benchmarks import grace_speed
from benchmarks.grace_speed import Published, graph, kernels, published

from causcade.nn.gracevae import GraceConfig, GraceVAE
from causcade.nn.mmd import mmd2

SMALL = {"genes": 30, "perturbations": 6, "pathways": 8, "GG": 20, "PG": 25, "PP": 5}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grace_speed, "SIZES", SMALL)


def test_kernels_one_by_one_are_ours_at_once() -> None:
    x, y = torch.rand(6, 30).double(), torch.rand(6, 30).double()
    assert torch.allclose(kernels(x, y, 5.0), mmd2(x, y, 5.0))


@pytest.mark.usefixtures("small")
def test_published_formulation_is_the_reference_variant() -> None:
    edges = graph(np.random.default_rng(0))
    both = torch.cat([edges.nodes(k) for k in edges.edges], 1)
    old = Published(30, 6, torch.cat([both, both.flip(0)], 1), 8)
    new = GraceVAE(GraceConfig.variant("reference"), 30, 6, graph=edges).double()
    layer = new.passing.layers[0]
    pairs = {
        layer.weight: old.near.weight[None], layer.bias: old.near.bias, layer.root: old.own.weight,
        new.first.weight: old.encoder.weight, new.first.bias: old.encoder.bias,
        new.mean.weight: old.mean.weight, new.mean.bias: old.mean.bias,
        new.variance.weight: old.variance.weight, new.variance.bias: old.variance.bias,
        new.interventions.first.weight: old.one.weight, new.interventions.first.bias: old.one.bias,
        new.interventions.second.weight: old.two.weight, new.interventions.second.bias: old.two.bias,
        new.graph: old.graph, new.inner.weight: old.inner.weight, new.inner.bias: old.inner.bias,
        new.outer.weight: old.outer.weight, new.outer.bias: old.outer.bias,
    }  # fmt: skip
    for ours, theirs in pairs.items():
        ours.data.copy_(theirs.data.reshape(ours.shape))
    x, y = torch.rand(4, 30).double(), torch.rand(4, 30).double()
    code = torch.eye(6).double()[[2] * 4]
    torch.manual_seed(3)
    want = old.objective(x, y, code, 2.0)
    torch.manual_seed(3)
    pathways = torch.randn(8, dtype=torch.float64)
    noise = torch.randn(4, 6, dtype=torch.float64)
    mean, variance = new.encode(x, None, pathways)
    z = mean + variance.sqrt() * noise
    made, again = new.decode(new.propagate(torch.cat([z + new.shift(torch.tensor([2]), 2.0), z]))).split(4)
    kl = -0.5 * (1 + variance.log() - mean**2 - variance).sum(1).mean()
    ours = 8 * mmd2(made, y) + ((again - x) ** 2).mean() + 2 * kl + 1e-4 * new.latent_graph().abs().sum()
    assert torch.allclose(want, ours)


@pytest.mark.usefixtures("small")
def test_a_step_learns() -> None:
    step = published(graph(np.random.default_rng(0)), torch.rand(32, 30), torch.rand(32, 30))
    net = step.__closure__[[type(c.cell_contents).__name__ for c in step.__closure__].index("Published")].cell_contents
    before = net.outer.weight.detach().clone()
    step()
    assert not torch.equal(before, net.outer.weight) and net.near.weight.grad is not None
