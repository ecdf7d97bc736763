"""From summaries to the inputs of a differential network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade.citests import local_graphs
from causcade.contrasts import Summary, contrast_features, node_features, structure_features, summarise
from causcade.set_inputs import pair_input, set_input


def sets(*sizes: int, genes: int = 7) -> list[Summary]:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(genes, genes))
    return [summarise(torch.from_numpy(rng.normal(size=(n, genes)) @ mix)) for n in sizes]


@pytest.mark.parametrize("sizes", [(40, 40, 40), (40, 60, 10)], ids=["as many cells", "other numbers of cells"])
def test_every_set_gets_its_own_features(sizes: tuple[int, ...]) -> None:
    control, *some = sets(100, *sizes)
    got = set_input(some, 6, np.random.default_rng(0))
    contrasts, node = pair_input(control, some)
    assert got.pairs.dtype == contrasts.dtype == node.dtype == torch.float32
    for i, s in enumerate(some):
        torch.testing.assert_close(got.pairs[i], structure_features(s).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(contrasts[i], contrast_features(control, s).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(node[i], node_features(control, s).float(), rtol=1e-4, atol=1e-5)


def test_local_graphs_are_those_of_each_set() -> None:
    some, rng = sets(40, 300), np.random.default_rng(5)
    got = set_input(some, 8, np.random.default_rng(5), k=4)
    assert got.subsets.shape == (2, 8, 4)
    assert got.tokens.shape == (2, 8, 4, 4)
    assert got.subsets.dtype == got.tokens.dtype == torch.int64
    for i, s in enumerate(some):
        subsets, tokens = local_graphs(s.correlation.numpy(), s.n, 8, k=4, rng=rng)
        np.testing.assert_array_equal(got.subsets[i], subsets)
        np.testing.assert_array_equal(got.tokens[i], tokens)
    again = set_input(some, 8, np.random.default_rng(5), k=4)
    assert torch.equal(again.subsets, got.subsets)
    assert not torch.equal(set_input(some, 8, np.random.default_rng(6), k=4).subsets, got.subsets)


def test_few_genes_and_no_subsets() -> None:
    three = set_input(sets(30, genes=3), 4, np.random.default_rng(0))
    assert three.subsets.shape == (1, 4, 3)
    assert three.tokens.diagonal(dim1=2, dim2=3).sum() == 0
    none = set_input(sets(30), 0, np.random.default_rng(0))
    assert none.subsets.shape == (1, 0, 5)
    assert none.tokens.shape == (1, 0, 5, 5)
    alone = set_input(sets(30, genes=1), 4, np.random.default_rng(0))
    assert alone.pairs.shape[:3] == (1, 1, 1)
    assert alone.subsets.shape[1] == 0
    one = set_input(sets(30), 1, np.random.default_rng(0))
    assert one.subsets.shape == (1, 1, 5)


def test_constant_genes_have_no_edges() -> None:
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    x[:, [1, 3]] = 5.3
    got = set_input([summarise(x)], 2, np.random.default_rng(0))
    order = got.subsets[0, 0]
    edges = got.tokens[0, 0] > 1
    assert not edges[torch.isin(order, torch.tensor([1, 3]))].any()


def test_sets_over_other_genes_are_refused() -> None:
    some = [*sets(30), *sets(30, genes=4)]
    with pytest.raises(ValueError, match=r"2 sets over \[4, 7\] genes"):
        set_input(some, 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"1 sets over \[4, 7\] genes"):
        pair_input(some[0], some[1:])
    with pytest.raises(ValueError, match="0 sets"):
        pair_input(some[0], [])
    with pytest.raises(ValueError, match="0 sets"):
        set_input([], 4, np.random.default_rng(0))
