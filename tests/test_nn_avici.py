"""The edge network: what it must not depend on, and what it must."""

from __future__ import annotations

import json

import pytest
import torch

from causcade.nn.avici import Avici, AviciConfig

SMALL = AviciConfig(width=16, heads=2, hidden=32, layers=2, out=8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Avici(SMALL).eval()


def inputs(cells=9, genes=6, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, cells, genes, generator=g)
    return values, torch.rand(values.shape, generator=g) < 0.2, torch.rand(values.shape, generator=g) < 0.2


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def test_equivariant_to_genes_and_invariant_to_cells(net) -> None:
    x = inputs()
    genes, cells = torch.randperm(6), torch.randperm(9)
    before = net(*x)
    assert before.shape == (2, 6, 6)
    close(net(*(t[:, :, genes] for t in x)), before[:, genes][:, :, genes])
    close(net(*(t[:, cells] for t in x)), before)
    assert (before - before.transpose(1, 2)).abs().max() > 1e-3  # cause and effect differ


@pytest.mark.parametrize(("cells", "genes"), [(1, 1), (1, 4), (40, 2), (3, 25)])
def test_any_number_of_genes_and_cells(net, cells, genes) -> None:
    logits = net(*inputs(cells, genes))
    assert logits.shape == (2, genes, genes)
    assert logits.isfinite().all()


def test_items_of_a_batch_do_not_mix(net) -> None:
    x = inputs(batch=3)
    close(net(*x)[1:2], net(*(t[1:2] for t in x)))


def test_logits_start_low_and_stay_in_range(net) -> None:
    assert net.temperature.item() == 2.0
    assert net.bias.item() == -3.0
    logits = net(*inputs()[:2])
    bound = float(net.temperature.detach().exp())
    assert logits.min() >= -3 - bound - 1e-4
    assert logits.max() <= -3 + bound + 1e-4
    with torch.no_grad():
        net.bias += 1.0
        close(net(*inputs()[:2]), logits + 1.0)
        net.temperature += 1.0
        close(net(*inputs()[:2]), (logits + 3.0) * torch.e - 2.0, atol=1e-4)


def test_interventions_and_missing_entries_are_seen(net) -> None:
    values, mask, missing = inputs()
    before = net(values, mask)
    assert (net(values, torch.zeros_like(mask)) - before).abs().max() > 1e-4
    assert (net(values, mask, missing) - before).abs().max() > 1e-4
    close(net(values, mask, torch.zeros_like(missing)), before)
    close(net(values, mask.float()), before)
    zeroed = values.masked_fill(missing, 0.0)
    assert (net(zeroed, mask) - net(zeroed, mask, missing)).abs().max() > 1e-4  # missing is not 0


def test_missing_values_have_no_influence(net) -> None:
    values, mask, missing = inputs()
    before = net(values, mask, missing)
    close(net(values.masked_fill(missing, torch.nan), mask, missing), before)
    close(net(values.masked_fill(missing, 7.0), mask, missing), before)


def test_pool_leaves_missing_cells_out_unless_all_are(net) -> None:
    h = torch.randn(1, 4, 2, 16)
    missing = torch.tensor([[[True, True], [True, False], [True, True], [True, False]]])
    pooled = net._pool(h, missing)
    close(pooled[0, 0], h[0, :, 0].amax(0))
    close(pooled[0, 1], h[0, [1, 3], 1].amax(0))


def test_gene_missing_in_all_cells_gives_finite_logits_and_gradients(net) -> None:
    values, mask, missing = inputs()
    missing[:, :, 0] = True
    values[:, :, 0] = torch.nan
    net(values, mask, missing).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_pieces_change_memory_only(net, piece) -> None:
    x = inputs(cells=11)
    whole = net(*x)
    net.piece = piece
    with torch.no_grad():
        close(net(*x), whole.detach())


def test_inputs_are_not_changed(net) -> None:
    x = inputs()
    copies = [t.clone() for t in x]
    with torch.no_grad():
        net(*x)
    assert all(torch.equal(a, b) for a, b in zip(x, copies, strict=True))


def test_half_precision_is_close(net) -> None:
    x = inputs()
    before = net(*x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(*x)
    assert half.dtype == torch.float32
    close(half, before, atol=0.15)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = Avici(AviciConfig(width=16, heads=2, hidden=32, layers=2, out=8, dropout=0.3))
    x = inputs()
    assert (net(*x) - net(*x)).abs().max() > 1e-3
    with torch.no_grad():
        assert (net(*x) - net(*x)).abs().max() > 1e-3  # training without gradients: still dropped
    net.eval()
    close(net(*x), net(*x), atol=0)


def test_sizes() -> None:
    published = Avici(AviciConfig(width=128, heads=8, head_width=32, hidden=512, layers=8, feeds=2, out=128))
    assert published.n_parameters() == pytest.approx(4.2e6, rel=0.03)
    assert len(published.updates) == 32
    assert len(Avici(SMALL).updates) == 6
    back = AviciConfig(**json.loads(json.dumps(SMALL.to_dict())))
    assert back == SMALL


def test_bad_arguments_are_named(net) -> None:
    values, mask, missing = inputs()
    with pytest.raises(ValueError, match=r"at least one cell.*\(2, 9, 6\), \(2, 9, 5\)"):
        net(values, mask[..., :5])
    with pytest.raises(ValueError, match="missing must all be"):
        net(values, mask, missing[:1])
    with pytest.raises(ValueError, match="at least one cell"):
        net(values[:, :0], mask[:, :0])
    with pytest.raises(ValueError, match="feeds must be 1 or 2"):
        AviciConfig(feeds=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heads must divide width"):
        Avici(AviciConfig(width=10, heads=4))
