"""Scores of whole graphs against hand examples, networkx, scikit-learn and the definition of SID."""

from __future__ import annotations

import sys
from itertools import combinations, permutations
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from sklearn import metrics as sk

from causcade import metrics
from causcade.metrics import _graphs


def graph(n: int, *edges: tuple[int, int]) -> np.ndarray:
    out = np.zeros((n, n), bool)
    for i, j in edges:
        out[i, j] = True
    return out


def random_dag(n: int, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    return (np.triu(rng.random((n, n)) < share, 1))[np.ix_(order, order)]


def random_probability(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, n))


CHAIN = graph(4, (0, 1), (1, 2), (2, 3))


# --- SHD and edges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guess", "distance"),
    [
        (CHAIN, 0),
        (graph(4), 3),
        (graph(4, (1, 0), (1, 2), (2, 3)), 1),  # reversed: one, not two
        (CHAIN | graph(4, (1, 0)), 1),  # both directions
        (CHAIN | graph(4, (0, 3)), 1),
        (CHAIN | graph(4, (0, 3), (3, 0)), 1),
        (CHAIN.T, 3),
        (CHAIN | np.eye(4, dtype=bool), 0),  # diagonal is ignored
    ],
)
def test_shd_by_hand(guess: np.ndarray, distance: int) -> None:
    assert metrics.shd(CHAIN, guess) == distance
    assert metrics.shd(CHAIN, np.where(guess, 0.6, 0.4)) == distance
    assert metrics.shd(CHAIN, np.where(guess, 0.3, 0.2), 0.25) == distance


def test_shd_is_the_edit_distance_of_oriented_graphs() -> None:
    truth, guess = random_dag(8, 0.3, 0), random_dag(8, 0.3, 1)
    expected = sum((truth[i, j], truth[j, i]) != (guess[i, j], guess[j, i]) for i, j in combinations(range(8), 2))
    assert metrics.shd(truth, guess) == expected > 0


def test_edge_recovery_equals_sklearn() -> None:
    truth, probability = random_dag(12, 0.3, 0), random_probability(12, 1)
    off = ~np.eye(12, dtype=bool)
    for threshold in (0.2, 0.5, 0.9):
        called = probability[off] >= threshold
        found = metrics.edge_recovery(truth, probability, threshold)
        expected = sk.precision_recall_fscore_support(truth[off], called, average="binary")[:3]
        np.testing.assert_allclose(found, expected)


def test_edge_recovery_without_edges() -> None:
    none = np.zeros((3, 3))
    precision, recall, f1 = metrics.edge_recovery(CHAIN[:3, :3], none)
    assert np.isnan(precision)
    assert (recall, f1) == (0, 0)
    assert np.isnan(metrics.edge_recovery(none, none)).all()


# --- SID ----------------------------------------------------------------------------------------------------------


def sid_by_definition(truth: np.ndarray, guess: np.ndarray) -> int:
    """Count pairs (i, j) for which the parents of i in the guess are no valid adjustment set in the truth."""
    true, n = nx.DiGraph(truth), len(truth)
    wrong = 0
    for i, j in permutations(range(n), 2):
        given = set(np.flatnonzero(guess[:, i]).tolist())
        if j in given:  # the guess says that i has no effect on j
            wrong += j in nx.descendants(true, i)
            continue
        on_path = {k for k in nx.descendants(true, i) if k == j or j in nx.descendants(true, k)}
        forbidden = on_path.union(*(nx.descendants(true, k) for k in on_path)) if on_path else set()
        proper = true.copy()
        proper.remove_edges_from([(i, k) for k in on_path if true.has_edge(i, k)])
        wrong += bool(given & forbidden) or not nx.is_d_separator(proper, {i}, {j}, given)
    return wrong


def test_sid_by_definition_on_known_examples() -> None:
    """The reference for the next test: examples worked out by Peters and Bühlmann's rules."""
    assert sid_by_definition(CHAIN, CHAIN) == 0
    assert sid_by_definition(CHAIN, CHAIN | graph(4, (0, 2), (0, 3))) == 0  # superfluous edges along the order
    assert sid_by_definition(graph(2, (0, 1)), graph(2, (1, 0))) == 2
    assert sid_by_definition(graph(2, (0, 1)), graph(2)) == 1  # effect of 1 on 0 is confounded without its parent


@pytest.mark.parametrize("seed", range(6))
def test_sid_equals_its_definition(seed: int) -> None:
    pytest.importorskip("gadjid")
    truth, guess = random_dag(7, 0.4, seed), random_dag(7, 0.4, seed + 50)
    assert metrics.sid(truth, guess) == sid_by_definition(truth, guess) > 0
    assert metrics.sid(guess, truth) == sid_by_definition(guess, truth)


def test_sid_hands_over_what_the_package_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(truth: np.ndarray, guess: np.ndarray, *, edge_direction: str) -> tuple[float, int]:
        seen.update(truth=truth, guess=guess, edge_direction=edge_direction)
        return 0.5, 3

    monkeypatch.setitem(sys.modules, "gadjid", SimpleNamespace(sid=fake))
    assert metrics.sid(CHAIN, np.where(CHAIN, 0.7, 0.1)) == 3
    assert seen["edge_direction"] == "from row to column"
    for name in ("truth", "guess"):
        assert seen[name].dtype == np.int8
        np.testing.assert_array_equal(seen[name], CHAIN)


def test_sid_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gadjid", None)
    with pytest.raises(ImportError, match=r"pip install 'causcade\[sid\]'"):
        metrics.sid(CHAIN, CHAIN)
    assert np.isnan(metrics.graph_report(CHAIN, CHAIN)["sid"])


def test_sid_refuses_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gadjid", SimpleNamespace())
    cyclic = CHAIN | graph(4, (3, 0))
    with pytest.raises(ValueError, match=r"graph has a cycle; to_dag"):
        metrics.sid(CHAIN, cyclic)
    with pytest.raises(ValueError, match="truth has a cycle"):
        metrics.sid(cyclic, CHAIN)
    assert np.isnan(metrics.graph_report(cyclic, CHAIN)["sid"])


def test_report_takes_sid_of_the_graph_without_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(_graphs, "sid", lambda truth, guess: seen.append(guess) or 5)
    probability = np.where(CHAIN, 0.9, 0.0)
    probability[3, 0] = 0.6
    report = metrics.graph_report(CHAIN, probability)
    assert (report["sid"], report["acyclic"], report["shd"]) == (5, 0, 1)
    np.testing.assert_array_equal(seen[0], CHAIN)


# --- cycles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_is_acyclic_equals_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = []
    for share in (0.05, 0.1, 0.2):
        edges = rng.random((8, 8)) < share
        np.fill_diagonal(edges, 0)
        found.append(metrics.is_acyclic(edges))
        assert found[-1] == nx.is_directed_acyclic_graph(nx.DiGraph(edges))
        assert metrics.is_acyclic(edges | np.eye(8, dtype=bool)) == found[-1]


@pytest.mark.parametrize("method", ["add", "remove"])
def test_to_dag_by_hand(method: Any) -> None:
    p = np.zeros((4, 4))
    for (i, j), value in {(0, 1): 0.9, (1, 2): 0.8, (2, 0): 0.6, (2, 1): 0.7, (2, 3): 0.55, (3, 0): 0.4}.items():
        p[i, j] = value
    np.testing.assert_array_equal(metrics.to_dag(p, method=method), graph(4, (0, 1), (1, 2), (2, 3)))
    np.testing.assert_array_equal(metrics.to_dag(p, 0.85, method=method), graph(4, (0, 1)))


def test_to_dag_variants_differ_where_one_removal_breaks_two_cycles() -> None:
    # cycles 0 -> 1 -> 2 -> 0 and 1 -> 2 -> 3 -> 1: leaving out 1 -> 2 breaks both, but 3 -> 1 is weaker and goes first
    p = np.zeros((4, 4))
    for (i, j), value in {(2, 0): 0.95, (0, 1): 0.9, (1, 2): 0.6, (2, 3): 0.8, (3, 1): 0.55}.items():
        p[i, j] = value
    added, removed = metrics.to_dag(p), metrics.to_dag(p, method="remove")
    np.testing.assert_array_equal(added, graph(4, (2, 0), (0, 1), (2, 3), (3, 1)))
    np.testing.assert_array_equal(removed, graph(4, (2, 0), (0, 1), (2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_to_dag_leaves_out_only_the_weakest_of_cycles(seed: int) -> None:
    p = random_probability(9, seed)
    called = metrics.to_dag(p, 0.4)
    assert nx.is_directed_acyclic_graph(nx.DiGraph(called))
    for i, j in np.argwhere((p >= 0.4) & ~called & ~np.eye(9, dtype=bool)):
        stronger = nx.DiGraph(called & (p > p[i, j]))
        stronger.add_nodes_from(range(9))
        assert nx.has_path(stronger, j, i)
    removed = metrics.to_dag(p, 0.4, method="remove")
    assert nx.is_directed_acyclic_graph(nx.DiGraph(removed))
    assert not (removed & ~called).any()


def test_to_dag_keeps_an_acyclic_graph() -> None:
    truth = random_dag(15, 0.3, 0)
    for method in ("add", "remove"):
        np.testing.assert_array_equal(metrics.to_dag(truth, method=method), truth)


def test_to_dag_does_not_orient_ties_by_position() -> None:
    tied = np.full((12, 12), 0.8)
    first = metrics.to_dag(tied)
    assert first.sum() == 66
    assert not np.triu(first).sum() == 66
    np.testing.assert_array_equal(first, metrics.to_dag(tied, rng=0))
    assert (first != metrics.to_dag(tied, rng=1)).any()


# --- probabilities ------------------------------------------------------------------------------------------------


def test_expected_false_edges_by_hand() -> None:
    p = np.array([[1, 0.9, 0.5], [0.4, 1, 0.7], [0.1, 0, 1]])
    assert metrics.expected_false_edges(p) == pytest.approx(0.1 + 0.5 + 0.3)
    assert metrics.expected_false_edges(p, 0.95) == 0


def test_choose_threshold_by_hand() -> None:
    p = np.array([[0, 0.9, 0.7], [0.7, 0, 0.6], [0.1, 0.0, 0]])
    assert metrics.choose_threshold(p, 0.1) == 0.9
    assert metrics.choose_threshold(p, 0.2) == 0.9  # one edge of 0.7 would do, but both are called: .7 / 3 > .2
    assert metrics.choose_threshold(p, 0.24) == 0.7
    assert metrics.choose_threshold(p, 0.05) == np.inf
    assert metrics.choose_threshold(p, 1) == 0


@pytest.mark.parametrize("fdr", [0.05, 0.2, 0.5])
def test_choose_threshold_calls_the_largest_set_within_its_bound(fdr: float) -> None:
    p = random_probability(12, 3).round(2)  # with ties
    off = ~np.eye(12, dtype=bool)
    fits = [t for t in np.unique(p[off]) if (1 - p[off & (p >= t)]).mean() <= fdr + 1e-12]
    assert metrics.choose_threshold(p, fdr) == min(fits)


def test_f1_threshold_by_hand() -> None:
    p = np.array([[1, 0.4, 0.4], [0.1, 1, 0.4], [0.0, 0.0, 0.3]])  # the diagonal does not count
    assert metrics.f1_threshold(p) == 0.4  # 2 * 1.2 / (3 + 1.3); with .1 too: 2 * 1.3 / (4 + 1.3)
    assert metrics.f1_threshold(np.zeros((3, 3))) == np.inf
    assert metrics.f1_threshold(np.ones((3, 3))) == 1


def test_f1_threshold_is_best_for_calibrated_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = (rng.random((200, 200)) ** 6).round(2)  # with ties, and few of them above .5
    np.fill_diagonal(p, 0)
    truth = rng.random(p.shape) < p
    levels = np.unique(p)[1:]
    f1 = [metrics.graph_report(truth, p, threshold=t)["f1"] for t in levels[:95]]
    chosen = metrics.graph_report(truth, p, threshold=metrics.f1_threshold(p))["f1"]
    assert chosen == pytest.approx(max(f1), abs=0.003)
    assert chosen > metrics.graph_report(truth, p)["f1"] + 0.02
    assert metrics.f1_threshold(p) == pytest.approx(chosen / 2, abs=0.03)


def test_false_edges_of_calibrated_probabilities_are_as_expected() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((150, 150)) ** 3
    truth = rng.random(p.shape) < p
    threshold = metrics.choose_threshold(p, 0.2)
    report = metrics.graph_report(truth, p, threshold=threshold)
    assert report["n_false"] == pytest.approx(report["n_false_expected"], rel=0.05)
    assert report["n_false"] / report["n_called"] == pytest.approx(0.2, abs=0.01)
    assert report["precision"] == pytest.approx(1 - report["n_false"] / report["n_called"])
    assert max(report["ece"], report["ece_adaptive"]) < 0.02


# --- report -------------------------------------------------------------------------------------------------------


def test_report_equals_its_parts_off_the_diagonal() -> None:
    truth, p = random_dag(14, 0.3, 0), random_probability(14, 5)
    off = ~np.eye(14, dtype=bool)
    labels, values = truth[off], p[off]
    report = metrics.graph_report(truth, p)
    np.fill_diagonal(p, np.nan)
    assert report == pytest.approx(metrics.graph_report(truth, p), nan_ok=True)
    expected = {
        "auroc": sk.roc_auc_score(labels, values),
        "auprc": sk.average_precision_score(labels, values),
        "f1": sk.f1_score(labels, values >= 0.5),
        "brier": sk.brier_score_loss(labels, values),
        "brier_skill": 1 - sk.brier_score_loss(labels, values) / labels.var(),
        "ece": metrics.expected_calibration_error(labels, values),
        "ece_adaptive": metrics.expected_calibration_error(
            labels[values > 0.05], values[values > 0.05], n_bins=10, bins="mass"
        ),
        "prevalence": labels.mean(),
        "direction_accuracy": np.mean([p[i, j] > p[j, i] for i, j in np.argwhere(truth)]),
        "f1_at_true_count": metrics.f1_at_true_count(labels, values),
        "n_true": truth.sum(),
        "n_called": (values >= 0.5).sum(),
        "n_false": ((values >= 0.5) & ~labels).sum(),
        "n_false_expected": (1 - values[values >= 0.5]).sum(),
        "shd": metrics.shd(truth, p),
    }
    assert {k: report[k] for k in expected} == pytest.approx(expected)
    assert set(report) - set(expected) == {"sid", "precision", "recall", "acyclic"}


def test_report_of_the_truth_is_perfect() -> None:
    truth = random_dag(10, 0.3, 1)
    report = metrics.graph_report(truth, truth.astype(float))
    perfect = ("precision", "recall", "f1", "f1_at_true_count", "auroc", "auprc", "direction_accuracy", "brier_skill")
    assert {report[k] for k in (*perfect, "acyclic")} == {1.0}
    assert {report[k] for k in ("shd", "brier", "ece", "ece_adaptive", "n_false", "n_false_expected")} == {0}


def test_report_of_scores_leaves_calibration_out() -> None:
    truth = random_dag(10, 0.3, 1)
    scores = 5 * random_probability(10, 0) - 1
    report = metrics.graph_report(truth, scores, threshold=2.0, calibrated=False)
    assert all(np.isnan(report[k]) for k in ("brier", "brier_skill", "ece", "ece_adaptive", "n_false_expected"))
    assert report["n_called"] == (scores[~np.eye(10, dtype=bool)] >= 2).sum()
    assert set(report) == set(metrics.graph_report(truth, truth))


def test_adaptive_ece_needs_an_edge_that_may_be_true() -> None:
    report = metrics.graph_report(CHAIN, np.full((4, 4), 0.01))
    assert np.isnan(report["ece_adaptive"])
    assert report["ece"] == pytest.approx(0.25 - 0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.shd(CHAIN, CHAIN[:3]), "must be"),
        (lambda: metrics.shd(CHAIN[:3], CHAIN), "must be dense, of one shape"),
        (lambda: metrics.shd(CHAIN * 0.5, CHAIN), "0/1"),
        (lambda: metrics.shd(CHAIN, np.full((4, 4), np.nan)), "12 NaN"),
        (lambda: metrics.shd([[0]], [[0]]), "no pair"),
        (lambda: metrics.graph_report(CHAIN, CHAIN * 2.0), "are they logits"),
        (lambda: metrics.expected_false_edges(CHAIN * 2.0), "logits or scores"),
        (lambda: metrics.choose_threshold(CHAIN, 1.5), "fdr=1.5"),
        (lambda: metrics.to_dag(CHAIN, method="best"), "'best' is not one of add, remove"),
        (lambda: metrics.is_acyclic(CHAIN[0]), "n_genes, n_genes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
