import networkx as nx
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from causcade.simulate.graphs import break_cycles, is_dag, stochastic_block, subgraph_module
from causcade.simulate.modules import _connected_parts


def network(seed=0, n=150, *, hubs=20):
    """Real networks in small: few regulators, self-loops, cycles, genes without any edge."""
    rng = np.random.default_rng(seed)
    adjacency = np.zeros((n, n), dtype=bool)
    adjacency[:hubs] = rng.random((hubs, n)) < 0.08
    adjacency[:, -5:] = False
    return torch.from_numpy(adjacency)


@pytest.mark.parametrize("seed", range(8))
def test_break_cycles_gives_a_maximal_dag(seed):
    given = network(seed)
    copy = given.clone()
    assert not is_dag(given)
    kept = break_cycles(given, rng=seed)
    assert torch.equal(given, copy)
    assert is_dag(kept)
    assert not (kept & ~given).any()
    # every edge dropped would close a cycle
    graph = nx.from_numpy_array(kept.numpy().astype(int), create_using=nx.DiGraph)
    dropped = (given & ~kept).nonzero().tolist()
    assert any(a != b for a, b in dropped)
    assert all(nx.has_path(graph, b, a) for a, b in dropped)


def test_break_cycles_leaves_a_dag_and_follows_rng():
    dag = torch.ones(8, 8, dtype=torch.bool).triu(1)
    assert torch.equal(break_cycles(dag, rng=0), dag)
    given = network(1)
    assert torch.equal(break_cycles(given, rng=3), break_cycles(given, rng=3))
    assert any(not torch.equal(break_cycles(given, rng=3), break_cycles(given, rng=seed)) for seed in range(4, 9))


def test_break_cycles_on_a_long_ring_needs_no_recursion():
    ring = torch.roll(torch.eye(3000, dtype=torch.bool), 1, dims=1)
    assert int(break_cycles(ring, rng=0).sum()) == 2999


@pytest.mark.parametrize("size", [1, 2, 30, 100])
def test_module_is_connected(size):
    adjacency = network(2)
    for seed in range(4):
        genes = subgraph_module(adjacency, size, rng=seed)
        assert genes.dtype == torch.long
        assert genes.tolist() == sorted(set(genes.tolist()))
        assert len(genes) == size
        part = adjacency[genes][:, genes]
        assert nx.is_connected(nx.from_numpy_array((part | part.T).numpy()))


def test_module_follows_communities():
    # two cliques joined by one edge: modularity keeps the first ten genes in one of them
    adjacency = torch.zeros(20, 20, dtype=torch.bool)
    adjacency[:10, :10] = adjacency[10:, 10:] = True
    adjacency[9, 10] = True
    for seed in range(10):
        genes = subgraph_module(adjacency.triu(1), 10, rng=seed)
        assert genes.tolist() in (list(range(10)), list(range(10, 20)))


def test_module_has_more_edges_than_random_walk():
    adjacency = stochastic_block(300, 4.0, blocks=10, damp=0.05, rng=0)

    def inside(top):
        chosen = [subgraph_module(adjacency, 30, top=top, rng=seed) for seed in range(6)]
        return np.mean([int(adjacency[genes][:, genes].sum()) for genes in chosen])

    assert inside(0.2) > 1.2 * inside(1.0)


def test_module_follows_rng():
    adjacency = network(3)
    assert torch.equal(subgraph_module(adjacency, 20, rng=1), subgraph_module(adjacency, 20, rng=1))
    assert not torch.equal(subgraph_module(adjacency, 20, rng=1), subgraph_module(adjacency, 20, rng=2))


@pytest.mark.parametrize(("size", "top", "words"), [(0, 0.2, "size"), (146, 0.2, "largest"), (5, 0.0, "top")])
def test_module_refuses(size, top, words):
    with pytest.raises(ValueError, match=words):
        subgraph_module(network(), size, top=top, rng=0)


def test_connected_parts_match_scipy():
    adjacency = network(4, hubs=8).numpy()
    linked = adjacency | adjacency.T
    count, expected = connected_components(csr_array(linked), directed=False)
    assert count > 3
    np.testing.assert_array_equal(_connected_parts(linked), expected)
