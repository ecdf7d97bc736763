"""The cell-stream network."""

from __future__ import annotations

import pytest
import torch

from causcade.nn.cells import CellStream, CellStreamConfig

SMALL = CellStreamConfig(width=8, layers=2, heads=4, hidden=16)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grid(batch=2, cells=12, genes=6):
    return torch.stack([torch.randn(batch, cells, genes), torch.randint(0, 2, (batch, cells, genes)).float()], -1)


def test_the_default_is_the_network_of_the_paper() -> None:
    net = CellStream()
    assert net.n_parameters() == 62_000
    assert net.config.to_dict() == {"width": 16, "layers": 10, "heads": 16, "hidden": 96, "tied": True, "scale": "none"}


@pytest.mark.parametrize("tied", [True, False])
def test_gene_order_goes_through_and_cell_order_does_not_matter(tied) -> None:
    net, x = CellStream(CellStreamConfig(width=8, layers=2, heads=4, hidden=16, tied=tied)).eval(), grid()
    with torch.no_grad():
        logits, genes, cells = net(x), torch.randperm(6), torch.randperm(12)
        assert logits.shape == (2, 6, 6)
        torch.testing.assert_close(net(x[:, :, genes]), logits[:, genes][:, :, genes], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net(x[:, cells]), logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, logits.transpose(1, 2), atol=1e-3)


def test_default_network_is_equivariant_to_one_in_ten_thousand() -> None:
    net, x = CellStream().eval(), grid(1, 20, 8)
    genes = torch.randperm(8)
    with torch.no_grad():
        torch.testing.assert_close(net(x[:, :, genes]), net(x)[:, genes][:, :, genes], rtol=1e-4, atol=1e-4)


def test_values_and_mask_both_count() -> None:
    net, x = CellStream(SMALL), grid()
    flipped, moved = x.clone(), x.clone()
    flipped[..., 1] = 1 - flipped[..., 1]
    moved[..., 0] += torch.randn_like(moved[..., 0])
    assert not torch.allclose(net(x), net(flipped), atol=1e-4)
    assert not torch.allclose(net(x), net(moved), atol=1e-4)


def test_items_of_a_batch_do_not_mix() -> None:
    net, x = CellStream(SMALL), grid()
    torch.testing.assert_close(net(x)[1:], net(x[1:]), rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_parameter() -> None:
    net = CellStream(SMALL)
    net(grid()).square().mean().backward()
    missed = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []
    assert all(p.grad.isfinite().all() for p in net.parameters())
