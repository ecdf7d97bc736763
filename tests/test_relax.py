import math

import numpy as np
import pytest
import torch

from causcade.nn.relax import LatentGraph, annealed, closed_walks, cosine_ramp, gumbel_sigmoid, sample_radius


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- draws --------------------------------------------------------------------------------------------------------


def test_hard_draws_have_the_probability_of_the_logits() -> None:
    logits = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0])
    draws = gumbel_sigmoid(logits, 20_000, tau=0.3, rng=seeded())
    torch.testing.assert_close(draws.hard.mean(0), logits.sigmoid(), atol=0.015, rtol=0)
    assert set(draws.hard.unique().tolist()) == {0.0, 1.0}


def test_soft_and_hard_draws_share_their_noise() -> None:
    draws = gumbel_sigmoid(torch.zeros(50), 40, rng=seeded())
    assert torch.equal(draws.hard.bool(), draws.soft > 0.5)
    assert torch.equal(draws.soft, draws.logits.sigmoid())
    sharp = gumbel_sigmoid(torch.zeros(50), 40, tau=1e4, rng=seeded())
    torch.testing.assert_close(sharp.soft, draws.hard, atol=0.01, rtol=0)  # the same noise, at no temperature


def test_draws_follow_their_generator() -> None:
    a, b, c = (gumbel_sigmoid(torch.zeros(20), 3, rng=seeded(s)).soft for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_only_soft_draws_carry_a_gradient() -> None:
    logits = torch.zeros(4, requires_grad=True)
    draws = gumbel_sigmoid(logits, 5, rng=seeded())
    assert not draws.hard.requires_grad
    draws.soft.sum().backward()
    assert logits.grad is not None and (logits.grad > 0).all()


def test_certain_variables_stay_certain() -> None:
    draws = gumbel_sigmoid(torch.tensor([-torch.inf, torch.inf]), 100, rng=seeded())
    assert torch.equal(draws.soft, torch.tensor([0.0, 1.0]).expand(100, 2))
    assert torch.equal(draws.hard, draws.soft)


# --- schedules ----------------------------------------------------------------------------------------------------


def test_sharpness_rises_to_its_cap() -> None:
    assert [annealed(t, 0.5, 2.0) for t in (0, 1, 4, 100)] == [0.0, 0.5, 2.0, 2.0]
    assert annealed(1000, 0.05) == 50


def test_cosine_ramp() -> None:
    assert [cosine_ramp(t, 100) for t in (0, 50, 100, 200)] == pytest.approx([0, 0.5, 1, 1])
    assert cosine_ramp(25, 100) == pytest.approx((1 - math.sqrt(0.5)) / 2)
    assert cosine_ramp(0, 0) == 1


# --- cycles -------------------------------------------------------------------------------------------------------


def graphs_of(n: int, *, power: float = 1.0) -> torch.Tensor:
    weights = torch.rand(6, n, n, generator=seeded()) ** power
    return weights * (1 - torch.eye(n))


@pytest.mark.parametrize("power", [1.0, 20.0], ids=["dense", "nearly sparse"])
def test_radius_is_the_largest_eigenvalue(power: float) -> None:
    graphs = graphs_of(8, power=power)
    expected = torch.linalg.eigvals(graphs).abs().amax(1)
    torch.testing.assert_close(sample_radius(graphs, rng=seeded()), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_radius_of_a_single_cycle(length: int) -> None:
    graph = torch.zeros(1, 7, 7)
    for i in range(length):
        graph[0, i, (i + 1) % length] = 0.5 + 0.1 * i
    expected = math.prod(0.5 + 0.1 * i for i in range(length)) ** (1 / length)
    assert sample_radius(graph, rng=seeded()).item() == pytest.approx(expected, rel=1e-4)


def test_radius_of_an_acyclic_graph_is_zero_and_of_a_batch_each_its_own() -> None:
    graphs = graphs_of(7)
    graphs[1] = graphs[1].triu()
    graphs[2] = 0
    radius = sample_radius(graphs, rng=seeded())
    assert radius[1] == 0 and radius[2] == 0 and (radius[[0, 3, 4, 5]] > 0.5).all()


def test_gradient_of_the_radius() -> None:
    graph = graphs_of(6)[:1].requires_grad_()
    sample_radius(graph, rng=seeded()).sum().backward()
    assert graph.grad is not None
    step = 1e-3
    for at in ((0, 1), (4, 2)):
        moved = graph.detach().clone().double()
        moved[0][at] += step
        change = torch.linalg.eigvals(moved).abs().max() - torch.linalg.eigvals(graph.detach().double()).abs().max()
        assert graph.grad[0][at].item() == pytest.approx(change.item() / step, rel=0.02)


def test_acyclic_graphs_give_no_gradient_and_no_nan() -> None:
    graph = graphs_of(5).triu().requires_grad_()
    sample_radius(graph, rng=seeded()).sum().backward()
    assert graph.grad is not None and (graph.grad == 0).all()


def test_descent_on_the_radius_breaks_cycles() -> None:
    latent = LatentGraph(6, rng=seeded())
    optimiser = torch.optim.Adam(latent.parameters(), lr=0.1)
    radii = []
    rng = seeded(1)
    for _ in range(60):
        radius = sample_radius(latent.draw(8, 5.0, rng=rng).soft, rng=rng).mean()
        optimiser.zero_grad()
        radius.backward()
        optimiser.step()
        radii.append(radius.item())
    assert radii[0] > 1 and radii[-1] < 0.2 * radii[0]


# --- the graph ----------------------------------------------------------------------------------------------------


def test_latent_graph_is_cause_by_effect_without_diagonal() -> None:
    latent = LatentGraph(3, 2, rng=seeded())
    with torch.no_grad():
        latent.z.zero_()
        latent.z[0, 1] = torch.tensor([2.0, 0.0])  # as a cause
        latent.z[1, 2] = torch.tensor([3.0, 0.0])  # as an effect
    assert latent.scores()[1, 2] == 6
    assert latent.hard().nonzero().tolist() == [[1, 2]]
    probability = latent.probability(0.5)
    assert probability[1, 2].item() == pytest.approx(torch.tensor(3.0).sigmoid().item())
    assert (probability.diagonal() == 0).all() and probability[0, 1] == 0.5
    draws = latent.draw(200, 0.5, rng=seeded())
    for graphs in (draws.soft, draws.hard):
        assert graphs.shape == (200, 3, 3) and (graphs.diagonal(dim1=1, dim2=2) == 0).all()


def test_diagonal_gives_no_nan_gradient() -> None:
    latent = LatentGraph(4, rng=seeded())
    draws = latent.draw(10, 1.0, rng=seeded())
    (draws.soft.sum() + sample_radius(draws.soft, rng=seeded()).sum() + latent.probability(1.0).sum()).backward()
    assert latent.z.grad is not None and latent.z.grad.isfinite().all() and latent.z.grad.abs().sum() > 0


def test_rank_from_number_of_genes() -> None:
    assert LatentGraph(5, rng=seeded()).z.shape == (2, 5, 5)
    assert LatentGraph(5, 3, rng=seeded()).z.shape == (2, 5, 3)


def test_closed_walks_count_every_cycle() -> None:
    dag = torch.triu(torch.rand(5, 5, generator=torch.Generator().manual_seed(0)), 1)
    assert closed_walks(dag).item() == pytest.approx(0, abs=1e-5)
    one = dag.clone()
    one[3, 1] = 0.4
    two = one.clone()
    two[4, 0] = 0.4
    assert 0 < closed_walks(one).item() < closed_walks(two).item()
    values = np.linalg.eigvals(np.eye(5) + two.double().numpy() / 5)
    assert closed_walks(two).item() == pytest.approx((values**5).sum().real - 5, rel=1e-4)
    two.requires_grad_()
    closed_walks(two).backward()
    assert two.grad is not None and two.grad[3, 1] > 0 and two.grad[4, 0] > 0
