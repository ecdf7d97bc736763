from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from causcade.nn.cells import CellStream, CellStreamConfig
from causcade.pairs import pair_features
from causcade.pretrained import load
from causcade.scoring import cell_scorer, pair_scorer
from causcade.screendata import read_screen


class Spy(nn.Module):
    """Keeps its inputs; answers with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x[0])
        return x.new_zeros(1, x.shape[2], x.shape[2])


@pytest.fixture
def net() -> CellStream:
    torch.manual_seed(0)
    return CellStream(CellStreamConfig(width=4, layers=1, heads=2, hidden=8))


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five genes; regime 1 hits gene 3, 2 gene 0, 3 gene 4, 4 no single gene. A value names its cell and gene."""
    codes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 4])
    values = torch.arange(10.0)[:, None] + torch.arange(5.0) / 10
    return values, codes, torch.tensor([2, -1, -1, 1, 3])


def test_pair_scorer_is_the_network(screen, tiny_weights):
    features = pair_features(read_screen(screen).stats())
    weights = load(tiny_weights)
    genes = np.array([7, 0, 3])
    got = pair_scorer(weights.net, features)(genes, np.random.default_rng(0))
    chosen = torch.from_numpy(genes)
    with torch.inference_mode():
        expected = weights.net(features.block(chosen, chosen)[None])[0].numpy()
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32
    back = pair_scorer(weights.net, features)(genes[::-1].copy(), np.random.default_rng(0))
    np.testing.assert_allclose(back, got[::-1, ::-1], atol=1e-5)


def test_cell_scorer_uses_only_cells_of_the_set(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=7, n_draws=3)(np.array([4, 1, 0]), np.random.default_rng(0))
    assert len(spy.seen) == 3
    for x in spy.seen:
        assert x.shape == (7, 3, 2)
        rows = x[:, 1, 0].long()  # gene 1, whose value is the number of the cell and a tenth
        assert sorted(rows.tolist()) == [0, 1, 2, 5, 6, 7, 8]  # controls, and where genes 0 and 4 are perturbed
        torch.testing.assert_close(x[..., 0], values[rows][:, [4, 1, 0]])
        expected = torch.stack([codes[rows] == 3, torch.zeros(7), codes[rows] == 2], 1).float()
        torch.testing.assert_close(x[..., 1], expected)


def test_cell_scorer_without_a_perturbed_gene_uses_controls(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=5, n_draws=1)(np.array([1, 2]), np.random.default_rng(0))
    assert set(spy.seen[0][:, 0, 0].long().tolist()) == {0, 1, 2}
    assert spy.seen[0][..., 1].sum() == 0


def test_draws_go_through_the_cells_before_they_repeat(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=4, n_draws=2)(np.array([0, 1, 4]), np.random.default_rng(0))
    rows = torch.cat([x[:, 1, 0] for x in spy.seen]).long().tolist()
    assert len(rows) == 8
    assert len(set(rows)) == 7


def test_cell_scorer_averages_the_network(cells, net):
    values, codes, single = cells
    spy, genes = Spy(), np.array([0, 3, 2])
    cell_scorer(spy, values, codes, single, n_cells=3, n_draws=2)(genes, np.random.default_rng(4))
    got = cell_scorer(net, values, codes, single, n_cells=3, n_draws=2)(genes, np.random.default_rng(4))
    with torch.inference_mode():
        expected = torch.stack([net(x[None])[0] for x in spy.seen]).mean(0)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_order_of_cells_does_not_matter(cells, net):
    values, codes, single = cells
    genes, order = np.array([0, 3, 1]), torch.from_numpy(np.random.default_rng(1).permutation(10))
    n_cells = 7  # all that are allowed

    def run(v, c):
        return cell_scorer(net, v, c, single, n_cells=n_cells, n_draws=1)(genes, np.random.default_rng(0))

    np.testing.assert_allclose(run(values[order], codes[order]), run(values, codes), atol=1e-5)


def test_numbering_of_regimes_does_not_matter(cells, net):
    values, codes, single = cells
    new = torch.tensor([0, 4, 1, 2, 3])
    renumbered = torch.where(single >= 0, new[single.clamp(min=0)], -1)
    genes = np.array([4, 3, 1])
    a = cell_scorer(net, values, codes, single, n_cells=4)(genes, np.random.default_rng(0))
    b = cell_scorer(net, values, new[codes], renumbered, n_cells=4)(genes, np.random.default_rng(0))
    np.testing.assert_array_equal(a, b)
