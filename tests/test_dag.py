import re
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch

from causcade.simulate.graphs import ancestors, is_dag, levels, path_lengths, topological_order


def digraph(adjacency):
    return nx.from_numpy_array(adjacency.numpy().astype(int), create_using=nx.DiGraph)


def random_digraph(seed, n=25, p=0.08, *, acyclic=False):
    rng = np.random.default_rng(seed)
    adjacency = rng.random((n, n)) < p
    if acyclic:
        order = rng.permutation(n)
        adjacency = np.triu(adjacency, 1)[order][:, order]
    return torch.from_numpy(adjacency)


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_longest_paths_from_roots(seed):
    adjacency = random_digraph(seed, acyclic=True)
    expected = {
        gene: max((level[parent] + 1 for parent in graph.predecessors(gene)), default=0)
        for graph in [digraph(adjacency)]
        for level in [{g: k for k, layer in enumerate(nx.topological_generations(graph)) for g in layer}]
        for gene in graph
    }
    assert levels(adjacency).tolist() == [expected[g] for g in range(len(adjacency))]
    assert int(levels(adjacency).max()) == nx.dag_longest_path_length(digraph(adjacency))


@pytest.mark.parametrize("seed", range(5))
def test_topological_order_puts_causes_first(seed):
    adjacency = random_digraph(seed, acyclic=True)
    order = topological_order(adjacency)
    assert sorted(order.tolist()) == list(range(len(adjacency)))
    assert not adjacency[order][:, order].tril().any()


@pytest.mark.parametrize("acyclic", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_ancestors_match_networkx(seed, acyclic):
    adjacency = random_digraph(seed, acyclic=acyclic)
    closure = nx.transitive_closure(digraph(adjacency), reflexive=None)
    expected = nx.to_numpy_array(closure, nodelist=range(len(adjacency))) > 0
    np.fill_diagonal(expected, val=False)
    assert expected.any()
    np.testing.assert_array_equal(ancestors(adjacency).numpy(), expected)


@pytest.mark.parametrize("max_length", [None, 1, 3, 0])
@pytest.mark.parametrize("acyclic", [True, False])
def test_path_lengths_match_networkx(max_length, acyclic):
    adjacency = random_digraph(1, acyclic=acyclic)
    expected = np.zeros(adjacency.shape, dtype=int)
    for a, row in nx.all_pairs_shortest_path_length(digraph(adjacency), cutoff=max_length):
        for b, length in row.items():
            expected[a, b] = length
    np.testing.assert_array_equal(path_lengths(adjacency, max_length).numpy(), expected)


def test_long_chain_closes():
    chain = torch.diag(torch.ones(99), 1)
    assert torch.equal(ancestors(chain), torch.ones(100, 100, dtype=torch.bool).triu(1))
    assert int(path_lengths(chain)[0, 99]) == 99
    assert levels(chain).tolist() == list(range(100))


@pytest.mark.parametrize("function", [levels, topological_order])
def test_cycle_is_named(function):
    adjacency = torch.zeros(6, 6, dtype=torch.bool)
    # 5 hangs off the cycle 1 -> 2 -> 4 -> 1 and is not part of it
    for a, b in [(0, 1), (1, 2), (2, 4), (4, 1), (4, 5)]:
        adjacency[a, b] = True
    assert not is_dag(adjacency)
    with pytest.raises(ValueError, match="cycle") as error:
        function(adjacency)
    cycle = [int(gene) for gene in re.search(r"cycle: ([\d> -]+)\.", str(error.value))[1].split(" -> ")]
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {1, 2, 4}
    assert all(adjacency[a, b] for a, b in pairwise(cycle))


def test_self_loop_is_a_cycle_and_no_ancestor():
    loop = torch.eye(2, dtype=torch.bool)
    assert not is_dag(loop)
    assert not ancestors(loop).any()
    assert not path_lengths(loop).any()
    with pytest.raises(ValueError, match="0 -> 0"):
        levels(loop)


def test_input_is_unchanged_and_checked():
    adjacency = random_digraph(0, acyclic=True)
    copy = adjacency.clone()
    for function in (levels, topological_order, ancestors, path_lengths, is_dag):
        function(adjacency)
    assert torch.equal(adjacency, copy)
    with pytest.raises(ValueError, match="square"):
        levels(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="torch tensor"):
        levels(np.zeros((2, 2)))
