"""Independence tests and local FCI: closed forms, known graphs, and graphs of causal-learn 0.1.3.8 (data/fci.json)."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from causcade import citests
from causcade.citests._fci import partial_correlations

PACKAGE = Path(citests.__file__).parent
TURNED = np.array([0, 1, 3, 2, 4, 6, 5, 7])  # token of the pair in the other order
ALL = np.arange(5)[None]


def correlation_of(edges: dict[tuple[int, int], float], n: int = 5) -> np.ndarray:
    """Correlations of the linear model x = B x + noise, exact; edges are (cause, effect)."""
    b = np.zeros((n, n))
    for (cause, effect), weight in edges.items():
        b[effect, cause] = weight
    mix = np.linalg.inv(np.eye(n) - b)
    covariance = mix @ mix.T
    sd = np.sqrt(covariance.diagonal())
    return covariance / sd / sd[:, None]


def sampled(seed: int, n: int, cells: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mix = np.linalg.inv(np.eye(n) - np.tril(rng.normal(0, 0.6, (n, n)), -1) * (rng.random((n, n)) < 0.5))
    return np.corrcoef((rng.normal(size=(cells, n)) @ mix.T).T)


def graph(r: np.ndarray, cells: int = 100_000, **kwargs: float) -> np.ndarray:
    return citests.local_fci(r, np.arange(len(r))[None], cells, **kwargs)[0]


def in_plain_python(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """`local_graphs` of a second copy of the package that finds no numba."""
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "numba", None)
        for name in [name for name in sys.modules if name.startswith("causcade.citests")]:
            m.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location("causcade.citests", PACKAGE / "__init__.py")
        assert spec is not None and spec.loader is not None
        copy = importlib.util.module_from_spec(spec)
        m.setitem(sys.modules, "causcade.citests", copy)
        spec.loader.exec_module(copy)
    return copy.local_graphs


# --- against causal-learn -----------------------------------------------------------------------------------------


def test_graphs_of_causal_learn() -> None:
    stored = json.loads((Path(__file__).parent / "data" / "fci.json").read_text())["graphs"]
    upper, seen = np.triu_indices(5, 1), set()
    for cells, correlations, tokens in stored:
        r = np.eye(5)
        r[upper] = correlations
        assert graph(np.maximum(r, r.T) + np.minimum(r, r.T) - np.eye(5), cells)[upper].tolist() == tokens
        seen.update(tokens)
    assert len(stored) >= 60 and seen == {1, 2, 3, 4, 5, 6, 7}


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5, 6])
def test_partial_correlations_are_those_of_the_inverse(k: int) -> None:
    r = sampled(k, k, 40)
    partial = np.zeros((2**k, k, k))
    partial_correlations(r, partial)
    for a, b in combinations(range(k), 2):
        rest = [c for c in range(k) if c not in (a, b)]
        for given in (s for size in range(k - 1) for s in combinations(rest, size)):
            inverse = np.linalg.inv(r[np.ix_((a, b, *given), (a, b, *given))])
            expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
            found = partial[sum(1 << c for c in given)]
            assert found[a, b] == found[b, a] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("cells", "alpha"), [(30, 0.05), (500, 0.05), (500, 1e-4)])
def test_critical_value_is_that_of_fisher(cells: int, alpha: float) -> None:
    # p of the z test is alpha at the edge
    edge = np.tanh(norm.isf(alpha / 2) / np.sqrt(cells - 3))
    for r, token in ((edge * 0.999, 1), (edge * 1.001, 7), (-edge * 1.001, 7)):
        assert graph(np.array([[1, r], [r, 1]]), cells, alpha=alpha)[0, 1] == token


def test_critical_value_counts_the_genes_given() -> None:
    r = correlation_of({(0, 1): 1.0, (1, 2): 1.0, (0, 2): 0.2}, 3)
    partial = np.zeros((8, 3, 3))
    partial_correlations(r, partial)
    free = (norm.isf(0.025) / np.arctanh(partial[0b010, 0, 2])) ** 2  # n - 1 - 3 at which the pair is just dependent
    assert graph(r, int(np.floor(free)) + 4)[0, 2] == 1
    assert graph(r, int(np.ceil(free)) + 4)[0, 2] == 7


def test_too_few_cells_reject_nothing() -> None:
    r = correlation_of({(0, 1): 3.0})
    for cells in (1, 2, 3):
        assert (graph(r, cells) == 1 - np.eye(5)).all()
    # one cell more: tests without a set can reject, those given one gene find all pairs independent
    many = np.full((3, 3), 0.99)
    assert (graph(many[:2, :2], 4) == 7 * (1 - np.eye(2))).all()
    assert (graph(many, 4) == 1 - np.eye(3)).all()
    assert (graph(many, 40) == 7 * (1 - np.eye(3))).all()


# --- known graphs -------------------------------------------------------------------------------------------------


def test_chain_and_fork_have_circles_only() -> None:
    for edges in ({(0, 1): 0.8, (1, 2): 0.8}, {(1, 0): 0.8, (1, 2): 0.8}):
        assert graph(correlation_of(edges, 3)).tolist() == [[0, 7, 1], [7, 0, 7], [1, 7, 0]]


def test_collider_has_arrows() -> None:
    assert graph(correlation_of({(0, 1): 0.8, (2, 1): 0.8}, 3)).tolist() == [[0, 6, 1], [5, 0, 5], [1, 6, 0]]


def test_effect_of_a_collider_is_directed() -> None:
    tokens = graph(correlation_of({(0, 2): 0.8, (1, 2): 0.8, (2, 3): 0.8, (3, 4): 0.8}))
    assert tokens[2, 3] == tokens[3, 4] == 2 and tokens[3, 2] == 3 and tokens[0, 2] == tokens[1, 2] == 6


def test_hidden_cause_is_bidirected() -> None:
    # 4 is behind 1 and 2 and left out; 0 -> 1, 3 -> 2 say that 1 and 2 cause each other neither way
    r = correlation_of({(0, 1): 0.8, (4, 1): 0.8, (4, 2): 0.8, (3, 2): 0.8})[:4, :4]
    tokens = graph(r)
    assert tokens[1, 2] == tokens[2, 1] == 4 and tokens[0, 1] == tokens[3, 2] == 6


def test_fewer_genes() -> None:
    assert graph(correlation_of({(0, 1): 0.8}, 2)).tolist() == [[0, 7], [7, 0]]
    four = graph(correlation_of({(0, 2): 0.8, (1, 2): 0.8, (2, 3): 0.8}, 4))
    assert four[2, 3] == 2 and four[0, 1] == 1


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_tokens_of_both_orders_agree(k: int) -> None:
    r, rng = sampled(3, 20, 200), np.random.default_rng(0)
    tokens = citests.local_fci(r, [rng.permutation(20)[:k] for _ in range(100)], 200)
    assert tokens.dtype == np.int8 and tokens.shape == (100, k, k)
    assert (tokens.transpose(0, 2, 1) == TURNED[tokens]).all()
    off = ~np.eye(k, dtype=bool)
    assert (tokens[:, off] >= 1).all() and (tokens[:, ~off] == 0).all()


def test_order_of_the_genes_does_not_matter() -> None:
    orders = np.array(list(permutations(range(5))))
    for edges in (
        {(0, 2): 0.8, (1, 2): 0.8, (2, 3): 0.8, (3, 4): 0.8},
        {(0, 1): 0.7, (0, 2): 0.6, (1, 3): 0.7, (2, 3): 0.8, (3, 4): 0.9},
    ):
        r = correlation_of(edges)
        straight = graph(r)
        for order, tokens in zip(orders, citests.local_fci(r, orders, 100_000), strict=True):
            assert (tokens == straight[np.ix_(order, order)]).all()


# --- degenerate genes ---------------------------------------------------------------------------------------------


def test_constant_gene_has_no_edges_and_changes_nothing() -> None:
    r = correlation_of({(0, 2): 0.8, (1, 2): 0.8, (2, 3): 0.8})
    r[4], r[:, 4] = np.nan, np.nan
    tokens = graph(r)
    assert (tokens[4, :4] == 1).all() and (tokens[:4, 4] == 1).all()
    assert (tokens[:4, :4] == graph(r[:4, :4])).all()
    assert (tokens == graph(np.nan_to_num(r))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_genes_keep_their_edge_only(dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(500, 5))
    x[:, 2] += x[:, 0]
    x[:, 1] = -2 * x[:, 0]
    r = np.corrcoef(x.T).astype(dtype)
    for sign in (1, -1):
        tokens = graph(sign * r * (1 - np.eye(5)) + np.eye(5), 500)  # also rounded beyond 1 or not
        assert tokens[0, 1] == 7 and tokens[0, 2] == tokens[1, 2] == 1


def test_sum_of_two_genes_is_no_error() -> None:
    x = np.random.default_rng(0).normal(size=(500, 5))
    x[:, 2] = x[:, 0] + x[:, 1]
    tokens = graph(np.corrcoef(x.T), 500)
    assert tokens[0, 2] == tokens[1, 2] == 6 and tokens[0, 1] == 1
    assert (graph(np.ones((5, 5)), 500)[~np.eye(5, dtype=bool)] >= 1).all()


# --- subsets ------------------------------------------------------------------------------------------------------


def test_subsets_are_distinct_and_counted() -> None:
    subsets, visits = citests.sample_subsets(np.abs(sampled(0, 30, 100)), 40, rng=0)
    assert subsets.shape == (40, 5) and subsets.dtype == np.int64
    assert all(len(set(s)) == 5 for s in subsets.tolist())
    expected = np.zeros((30, 30), int)
    for s in subsets:
        expected[np.ix_(s, s)] += 1
    assert (visits == expected).all()
    more, total = citests.sample_subsets(np.ones((30, 30)), 3, visits=visits, rng=0)
    assert total.sum() == expected.sum() + 3 * 25 and (visits == expected).all() and len(more) == 3


def test_law_of_the_draw() -> None:
    score = np.array([[9, 4, 1, 0], [4, 9, 2, 1], [1, 2, 9, 3], [0, 1, 3, 9]], float)
    seen = np.array([[0, 3, 0, 0], [3, 0, 0, 0], [0, 0, 0, 8], [0, 0, 8, 0]])
    weight = score / np.sqrt(1 + seen)
    np.fill_diagonal(weight, 0)
    rng, n = np.random.default_rng(0), 4000
    draws = np.stack([citests.sample_subsets(score, 1, k=3, visits=seen, rng=rng)[0][0] for _ in range(n)])
    for order in permutations(range(4), 3):
        first = weight[:, order[0]].sum() / weight.sum()
        second = weight[order[0], order[1]] / weight[order[0]].sum()
        left = [j for j in range(4) if j not in order[:2]]
        third = weight[order[:2], order[2]].sum() / weight[np.ix_(order[:2], left)].sum()
        p = first * second * third
        assert abs((draws == order).all(1).mean() - p) < 4 * np.sqrt(p * (1 - p) / n) + 1e-12


def test_weights_follow_the_visits() -> None:
    score = np.abs(sampled(1, 12, 50))
    rng = np.random.default_rng(4)
    together, _ = citests.sample_subsets(score, 30, rng=4)
    visits, alone = None, []
    for _ in range(30):  # the visits handed on one subset at a time, weights worked out afresh
        subset, visits = citests.sample_subsets(score, 1, visits=visits, rng=rng)
        alone.append(subset[0])
    assert (together == alone).all()


def test_random_subsets_cover_the_pairs_evenly() -> None:
    _, visits = citests.sample_subsets(np.ones((20, 20)), 200, rng=0)
    pairs = visits[np.triu_indices(20, 1)]
    assert pairs.min() > 0 and pairs.var() < 0.8 * pairs.mean()  # plain random subsets: about the mean


def test_few_genes_and_no_score() -> None:
    subsets, _ = citests.sample_subsets(np.ones((3, 3)), 4, rng=0)
    assert [sorted(s) for s in subsets.tolist()] == [[0, 1, 2]] * 4
    for empty in (np.zeros((9, 9)), np.full((9, 9), np.nan)):
        subsets, _ = citests.sample_subsets(empty, 300, rng=0)
        assert all(len(set(s)) == 5 for s in subsets.tolist())
        assert np.bincount(subsets[:, 0], minlength=9).min() > 15
    assert citests.sample_subsets(np.ones((1, 1)), 2, rng=0)[0].tolist() == [[0], [0]]


# --- both ---------------------------------------------------------------------------------------------------------


def test_local_graphs_join_both_samplers() -> None:
    r = sampled(5, 25, 200)
    subsets, tokens = citests.local_graphs(r, 200, 21, rng=3)
    rng = np.random.default_rng(3)
    first, visits = citests.sample_subsets(np.ones((25, 25)), 10, rng=rng)
    second, _ = citests.sample_subsets(np.abs(r), 11, visits=visits, rng=rng)
    assert (subsets == np.concatenate([first, second])).all()
    assert (tokens == citests.local_fci(r, subsets, 200)).all()
    again = citests.local_graphs(r, 200, 21, rng=3)
    assert all((a == b).all() for a, b in zip((subsets, tokens), again, strict=True))
    assert (citests.local_graphs(r, 200, 21, rng=4)[0] != subsets).any()
    assert citests.local_graphs(r[:3, :3], 200, 4, rng=0)[1].shape == (4, 3, 3)


def test_same_result_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = in_plain_python(monkeypatch)
    r = sampled(6, 12, 150)
    slow, fast = plain(r, 150, 20, rng=1), citests.local_graphs(r, 150, 20, rng=1)
    assert all((a == b).all() for a, b in zip(slow, fast, strict=True))
    assert not hasattr(plain.__globals__["search"], "py_func") and hasattr(citests.search, "py_func")


def test_input_is_left_alone() -> None:
    r = sampled(7, 8, 100)
    r[0, 1] = r[1, 0] = np.nan
    before = r.copy()
    citests.local_graphs(r, 100, 6, rng=0)
    assert np.array_equal(r, before, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subsets": [[0, 1, 1]]}, "subset 0 is"),
        ({"subsets": [[0, 1, 9]]}, "0 to 7"),
        ({"subsets": [[0.0, 1.0]]}, "integers"),
        ({"subsets": [list(range(7))]}, "2 to 6"),
        ({"correlation": np.ones((3, 4))}, "n_genes, n_genes"),
        ({"correlation": 3 * np.eye(8) + 2}, "covariance"),
        ({"alpha": 0.0}, "alpha"),
        ({"n_cells": 0}, "n_cells"),
    ],
)
def test_local_fci_refuses(change: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        citests.local_fci(**({"correlation": np.eye(8), "subsets": [[0, 1, 2]], "n_cells": 50} | change))


@pytest.mark.parametrize(
    "change",
    [{"score": -np.ones((4, 4))}, {"score": np.ones(4)}, {"visits": np.zeros((3, 3))}, {"k": 0}, {"n_subsets": -1}],
)
def test_sample_subsets_refuses(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"score|visits"):
        citests.sample_subsets(**({"score": np.ones((4, 4)), "n_subsets": 3} | change))
