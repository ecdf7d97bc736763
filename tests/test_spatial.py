import networkx as nx
import numpy as np
import pytest
import torch

from causcade.simulate._spatial import _rewire, _torus_distance, geometric, watts_strogatz


@pytest.mark.parametrize(("n", "dim", "sides"), [(30, 2, (6, 5)), (27, 3, (3, 3, 3)), (1000, 3, (10, 10, 10))])
def test_torus_matches_networkx(n, dim, sides):
    lattice = _torus_distance(n, dim, "cpu") == 1
    expected = nx.grid_graph(sides[::-1], periodic=True)
    assert int(lattice.sum()) == 2 * expected.number_of_edges()
    assert sorted(lattice.sum(0).tolist()) == sorted(dict(expected.degree()).values())
    if n == 30:
        assert nx.is_isomorphic(nx.from_numpy_array(lattice.numpy()), expected)


def test_rewire_moves_a_share_and_keeps_the_count():
    skeleton = _torus_distance(100, 2, "cpu") == 1
    moved = _rewire(skeleton, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(moved, moved.T)
    assert not moved.diagonal().any()
    assert int(moved.sum()) == int(skeleton.sum())
    assert float((moved & skeleton).sum() / skeleton.sum()) == pytest.approx(0.7, abs=0.1)
    complete = ~torch.eye(5, dtype=torch.bool)
    assert torch.equal(_rewire(complete, 1.0, torch.Generator().manual_seed(0)), complete)


def test_watts_strogatz_without_rewiring_is_the_lattice():
    adjacency = watts_strogatz(36, rewire=0.0, rng=0)
    assert torch.equal(adjacency | adjacency.T, _torus_distance(36, 2, "cpu") == 1)
    wide = watts_strogatz(36, 3.0, rewire=0.0, rng=0)
    near = _torus_distance(36, 2, "cpu")
    skeleton = wide | wide.T
    assert skeleton[near == 1].all()
    assert not skeleton[near > 2].any()


def test_geometric_links_what_is_near():
    # graphs of points in the plane have many triangles
    graph = nx.from_numpy_array(geometric(200, radius=0.12, rng=0).numpy()).to_undirected()
    assert nx.transitivity(graph) > 0.4
    expected = np.pi * 0.12**2 - 8 / 3 * 0.12**3 + 0.12**4 / 2
    density = np.mean([float(geometric(200, radius=0.12, rng=seed).sum()) for seed in range(10)]) / (199 * 100)
    assert density == pytest.approx(expected, rel=0.06)
    assert int(geometric(50, 2.0, rng=0).sum()) == 100
