"""Edge network on pair statistics: invariances, and that it learns what one triad and one direction are."""

from __future__ import annotations

import pytest
import torch

from causcade.nn.acyclic import edge_bce
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig, Triads


@pytest.fixture
def net() -> EdgeStream:
    torch.manual_seed(0)
    net = EdgeStream(EdgeStreamConfig(width=16, layers=2, heads=2, hidden=32, triads=4)).eval()
    torch.nn.init.normal_(net.head.get_parameter("3.weight"))  # zero at the start: nothing would be tested
    return net


def draw(cells: int = 80, genes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(2, cells, genes, generator=gen)
    return x, (torch.rand(2, cells, genes, generator=gen) < 0.1).float()


@torch.no_grad()
def test_equivariant_to_genes_and_invariant_to_cells(net) -> None:
    x, mask = (t.double() for t in draw())
    genes, cells = torch.tensor([2, 0, 4, 1, 3]), torch.randperm(80, generator=torch.Generator().manual_seed(0))
    out = net(x, mask)
    torch.testing.assert_close(net(x[..., genes], mask[..., genes]), out[:, genes][:, :, genes], atol=1e-4, rtol=0)
    torch.testing.assert_close(net(x[:, cells], mask[:, cells]), out, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("cells", "genes"), [(1, 2), (7, 1), (30, 12)])
def test_any_number_of_genes_and_cells(net, cells: int, genes: int) -> None:
    x, mask = draw(cells, genes)
    out = net(x, mask)
    assert out.shape == (2, genes, genes) and out.dtype == torch.float32 and out.isfinite().all()


@torch.no_grad()
def test_interventions_are_seen(net) -> None:
    x, mask = draw()
    assert not torch.allclose(net(x, mask), net(x, torch.zeros_like(mask)), atol=1e-3)


@torch.no_grad()
def test_triads_are_chain_fork_and_collider() -> None:
    torch.manual_seed(0)
    triads = Triads(6, 1)
    torch.nn.init.zeros_(triads.reverse.weight)
    torch.nn.init.zeros_(triads.reverse.bias)
    torch.nn.init.zeros_(triads.out.bias)
    x = torch.randn(1, 4, 4, 6)
    h = triads.norm(x)
    f = triads.factors(h) * torch.sigmoid(triads.gates(h))
    for i, j in ((0, 1), (3, 2)):
        chain = sum(f[0, i, k, 0] * f[0, k, j, 1] for k in range(4))
        fork = sum(f[0, k, i, 2] * f[0, k, j, 3] for k in range(4))
        collider = sum(f[0, i, k, 4] * f[0, j, k, 5] for k in range(4))
        expected = torch.stack([chain, fork, collider]) / 2 @ triads.out.weight.T
        torch.testing.assert_close(triads(x)[0, i, j], expected, atol=1e-5, rtol=1e-4)


def test_it_learns_a_direction_from_interventions() -> None:
    """Two genes, one causes the other; which one shows in the cells in which it was set."""
    torch.manual_seed(0)
    net = EdgeStream(EdgeStreamConfig(width=16, layers=1, heads=2, hidden=32, triads=4))
    optimiser = torch.optim.AdamW(net.parameters(), lr=5e-3)

    def items(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cause = torch.randint(2, (n,))
        x, mask = torch.randn(n, 60, 2), torch.zeros(n, 60, 2)
        mask[:, :15, 0] = mask[:, 15:30, 1] = 1
        rows = torch.arange(n)
        add = torch.zeros_like(x)
        add[rows, :, 1 - cause] = x[rows, :, cause]
        truth = torch.zeros(n, 2, 2, dtype=torch.bool)
        truth[rows, cause, 1 - cause] = True
        return x + add * (1 - mask), mask, truth

    for _ in range(40):
        x, mask, truth = items(16)
        loss = edge_bce(net(x, mask), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, mask, truth = items(100)
    with torch.no_grad():
        logits = net.eval()(x, mask)
    right = (logits[:, 0, 1] > logits[:, 1, 0]) == truth[:, 0, 1]
    assert right.float().mean() > 0.95


def test_weights_for_more_features_are_refused_and_for_fewer_see_the_first() -> None:
    with pytest.raises(ValueError, match="features=1000, but this version of causcade makes"):
        EdgeStream(EdgeStreamConfig(features=1000))
    values = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros_like(values)
    old, new = (EdgeStream(EdgeStreamConfig(width=8, layers=0, heads=1, hidden=8, features=n)) for n in (7, 12))
    state = old.state_dict()
    for name in ("embed.0.weight", "skip.weight"):
        state[name] = torch.nn.functional.pad(state[name], (0, 5))
    new.load_state_dict(state)
    torch.testing.assert_close(new(values, mask), old(values, mask))
