import networkx as nx
import numpy as np
import pytest
import torch

from causcade.simulate.graphs import (
    KINDS,
    ancestors,
    erdos_renyi,
    geometric,
    is_dag,
    levels,
    random_graph,
    scale_free,
    sparse_regulators,
    stochastic_block,
    watts_strogatz,
)

kinds = pytest.mark.parametrize("kind", KINDS)


def gini(degrees):
    x = np.sort(degrees.double().numpy())
    ranks = np.arange(1, len(x) + 1)
    return float((2 * ranks - len(x) - 1) @ x / (len(x) * x.sum()))


@kinds
@pytest.mark.parametrize("n", [1, 2, 3, 10, 47])
def test_always_acyclic(kind, n):
    for seed in range(6):
        adjacency = random_graph(n, kind=kind, edges_per_gene=3.0, rng=seed)
        assert adjacency.shape == (n, n)
        assert adjacency.dtype == torch.bool
        assert is_dag(adjacency)


@kinds
def test_rng_decides(kind):
    a, b, c = (random_graph(40, kind=kind, rng=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a, random_graph(40, kind=kind, rng=torch.Generator().manual_seed(1)))


@kinds
def test_labels_and_order_are_unrelated(kind):
    # edges of the first to the second half and back are alike only if labels are shuffled
    total = sum(random_graph(40, kind=kind, rng=seed).double() for seed in range(40))
    down, up = float(total.triu(1).sum()), float(total.tril(-1).sum())
    assert abs(down - up) < 0.15 * (down + up)


@kinds
@pytest.mark.parametrize("edges", [1.0, 2.5])
def test_expected_number_of_edges(kind, edges):
    n = 120
    counts = [int(random_graph(n, kind=kind, edges_per_gene=edges, rng=seed).sum()) for seed in range(20)]
    # the first genes of an order have fewer to choose from
    assert np.mean(counts) == pytest.approx(edges * n, rel=0.09 if kind == "sparse_regulators" else 0.05)


@kinds
def test_no_edges_when_none_are_wanted(kind):
    assert not random_graph(10, kind=kind, edges_per_gene=0, rng=0).any()


def test_erdos_renyi_is_binomial_and_capped():
    counts = [int(erdos_renyi(30, 2.0, rng=seed).sum()) for seed in range(200)]
    pairs, p = 435, 60 / 435
    assert np.mean(counts) == pytest.approx(60, abs=4 * np.sqrt(pairs * p * (1 - p) / 200))
    assert np.var(counts) == pytest.approx(pairs * p * (1 - p), rel=0.35)
    assert int(erdos_renyi(60, 1e6, rng=0).sum()) == pytest.approx(0.99 * 60 * 59 / 2, abs=20)


def test_scale_free_direction_of_hubs():
    n, m = 400, 2
    out = scale_free(n, m, direction="out", rng=0)
    assert int(out.sum()) == m * n - 3
    assert int(out.sum(0).max()) == m  # parents
    assert int(out.sum(1).max()) > 40
    assert gini(out.sum(1)) > 0.6 > 0.1 > gini(out.sum(0))
    assert torch.equal(scale_free(n, m, direction="in", rng=0).sum(0).sort()[0], out.sum(1).sort()[0])
    both = scale_free(n, m, direction="undirected", rng=0)
    assert int(both.sum()) == m * n - 3
    hub = (both.sum(0) + both.sum(1)).argmax()
    assert min(both.sum(0)[hub], both.sum(1)[hub]) >= 5


def test_scale_free_power_strengthens_hubs():
    largest = [
        np.mean([int(scale_free(300, 2, power=power, rng=seed).sum(1).max()) for seed in range(4)])
        for power in (0, 1, 1.5)
    ]
    assert largest[0] < 0.7 * largest[1] < 0.5 * largest[2]


def test_scale_free_matches_exact_law_of_small_graph():
    # gene 2 sends its one link to gene 0 (degree 1, weight 2) or gene 1 (weight 1): P(chain) = 1/3
    chains = [int(levels(scale_free(3, 1, direction="in", rng=seed)).max()) == 2 for seed in range(600)]
    assert np.mean(chains) == pytest.approx(1 / 3, abs=0.06)


def test_scale_free_fraction_of_a_link():
    parents = scale_free(500, 1.5, direction="out", rng=0).sum(0)
    assert set(parents.tolist()) == {0, 1, 2}
    assert float(parents.double().mean()) == pytest.approx(1.5, abs=0.1)


def test_stochastic_block_is_modular():
    def modularity(damp, seed):
        graph = nx.from_numpy_array(stochastic_block(120, 4.0, damp=damp, rng=seed).numpy()).to_undirected()
        return nx.community.modularity(graph, nx.community.louvain_communities(graph, seed=0))

    # the borders are random, so one block can hold nearly all genes: the mean over graphs counts
    apart, mixed = (np.mean([modularity(damp, seed) for seed in range(6)]) for damp in (0.02, 1.0))
    assert apart > mixed + 0.1
    apart = stochastic_block(60, 2.0, blocks=5, damp=0.0, rng=1)
    assert nx.number_connected_components(nx.from_numpy_array((apart | apart.T).numpy())) >= 5
    assert stochastic_block(3, 1.0, blocks=10, rng=0).shape == (3, 3)


def test_sparse_regulators_shape():
    adjacency = sparse_regulators(400, 2.3, fraction=0.1, rng=0)
    children = adjacency.sum(1)
    assert int((children > 0).sum()) <= 40
    top = children.sort(descending=True).values
    assert float(top[:4].sum() / top.sum()) > 0.35
    assert gini(adjacency.sum(0)) < 0.5
    regulators = children > 0
    assert adjacency[:, regulators].any()
    assert int(levels(adjacency).max()) >= 3
    flat = sparse_regulators(400, 2.3, fraction=0.1, power=0.0, rng=0).sum(1)
    assert int(flat.max()) < int(top[0]) / 2
    assert 0 < float(ancestors(adjacency).double().mean()) < 0.05


def test_random_graph_passes_options():
    assert torch.equal(
        random_graph(30, kind="stochastic_block", blocks=2, rng=3), stochastic_block(30, 2.0, blocks=2, rng=3)
    )
    assert torch.equal(random_graph(30, kind="scale_free_in", rng=3), scale_free(30, 2.0, direction="in", rng=3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_graph(5, kind="erdos_reny"), "did you mean 'erdos_renyi'"),
        (lambda: random_graph(5, kind="zzz"), "Known: erdos_renyi"),
        (lambda: erdos_renyi(0, 1.0), "at least 1; got 0"),
        (lambda: erdos_renyi(2.5, 1.0), "got 2.5"),
        (lambda: erdos_renyi(True, 1.0), "whole number"),
        (lambda: erdos_renyi(5, -1.0), "edges_per_gene"),
        (lambda: erdos_renyi(5, float("nan")), "got nan"),
        (lambda: scale_free(5, 1.0, power=-1), "power"),
        (lambda: scale_free(5, 1.0, direction="both"), "direction"),
        (lambda: stochastic_block(5, 1.0, damp=2), "damp"),
        (lambda: stochastic_block(5, 1.0, blocks=0), "blocks"),
        (lambda: watts_strogatz(5, rewire=1.5), "rewire"),
        (lambda: geometric(5, radius=-1), "radius"),
        (lambda: sparse_regulators(5, 1.0, fraction=1.1), "fraction"),
        (lambda: erdos_renyi(5, 1.0, rng=-3), "bad rng"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=f"(?i){words}"):
        call()
