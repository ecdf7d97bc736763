import networkx as nx
import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path
from sklearn import metrics as sk
from sklearn.linear_model import LinearRegression

from causcade import metrics

SKLEARN = {"auroc": sk.roc_auc_score, "ap": sk.average_precision_score}


def tied_problem(rng, n=30, k=None, dtype=np.float32):
    """Sparse truth and scores on a coarse grid, so that nearly every score is tied."""
    k = n if k is None else k
    truth = rng.random((n, k)) < 0.2
    scores = (rng.integers(0, 6, (n, k)) + truth * rng.integers(0, 3, (n, k))).astype(dtype)
    return truth, scores


def ancestors_of(n, p, seed):
    order = np.triu(np.random.default_rng(seed).random((n, n)) < p, 1)
    length = shortest_path(order, unweighted=True)
    return order, np.isfinite(length) & (length > 0), length


@pytest.mark.parametrize("levels", [2, 5, 10_000])
@pytest.mark.parametrize("seed", range(3))
def test_one_dimensional_scores_equal_sklearn(levels, seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.random(200) < 0.3, rng.integers(0, levels, 200).astype(float)
    assert metrics.auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        sk.average_precision_score(labels, scores), abs=1e-12
    )


def test_one_dimensional_scores_by_hand():
    labels, scores = [1, 0, 1, 0], [3, 2, 2, 1]
    assert metrics.auroc(labels, scores) == (1 + 1 + 0.5 + 1) / 4
    assert metrics.average_precision(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert metrics.f1_at_true_count(labels, scores) == (1 + 0.5) / 2  # second place is shared by a hit and a miss
    assert metrics.auroc([1, 0], [np.inf, -np.inf]) == 1


def test_f1_of_ties_is_the_mean_over_random_tie_breaking():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(40) < 0.3, rng.integers(0, 3, 40).astype(float)
    k = labels.sum()
    broken = [labels[np.lexsort((rng.random(40), -scores))[:k]].mean() for _ in range(5000)]
    assert metrics.f1_at_true_count(labels, scores) == pytest.approx(np.mean(broken), abs=0.008)


def test_one_class_has_no_score():
    for score in (metrics.auroc, metrics.average_precision, metrics.f1_at_true_count):
        assert np.isnan(score([0, 0], [1.0, 2.0]))
        assert np.isnan(score([1, 1], [1.0, 2.0]))


@pytest.mark.parametrize("metric", ["auroc", "ap"])
def test_matrix_scores_equal_a_loop_over_sklearn(metric):
    truth, scores = tied_problem(np.random.default_rng(1))
    truth[:, 3], truth[:, 7], truth[7, :] = False, True, False
    off = ~np.eye(len(truth), dtype=bool)

    def one(labels, values):
        return SKLEARN[metric](labels, values) if 0 < labels.sum() < labels.size else np.nan

    rows = [one(truth[off[:, j], j], scores[off[:, j], j]) for j in range(len(truth))]
    columns = [one(truth[i, off[i]], scores[i, off[i]]) for i in range(len(truth))]
    np.testing.assert_allclose(metrics.per_target(truth, scores, metric), rows, atol=1e-12)
    np.testing.assert_allclose(metrics.per_regulator(truth, scores, metric), columns, atol=1e-12)
    assert np.isnan(rows[3])
    assert np.isnan(rows[7])
    assert np.isnan(columns[7])


def test_matrix_f1_equals_the_one_dimensional_one():
    truth, scores = tied_problem(np.random.default_rng(2), 12)
    expected = [metrics.f1_at_true_count(np.delete(truth[:, j], j), np.delete(scores[:, j], j)) for j in range(12)]
    np.testing.assert_allclose(metrics.per_target(truth, scores, "f1"), expected)


def test_some_effects_score_as_in_the_full_matrix():
    truth, scores = tied_problem(np.random.default_rng(3))
    chosen = np.array([20, 3, 11])
    full = metrics.per_target(truth, scores, "ap")[chosen]
    part = metrics.per_target(truth[:, chosen], scores[:, chosen], "ap", effects=chosen)
    np.testing.assert_array_equal(part, full)


def test_keep_leaves_pairs_out():
    truth, scores = tied_problem(np.random.default_rng(4))
    keep = np.random.default_rng(5).random(truth.shape) < 0.7
    used = keep[:, 0].copy()
    used[0] = False
    scores[~keep] = np.nan  # what is left out may be unknown
    value = metrics.per_target(truth, scores, keep=keep)[0]
    assert value == pytest.approx(sk.roc_auc_score(truth[used, 0], scores[used, 0]), abs=1e-12)


def test_the_diagonal_is_ignored():
    truth, scores = tied_problem(np.random.default_rng(6))
    before = metrics.cause_report(truth, scores)
    np.fill_diagonal(truth, True)
    np.fill_diagonal(scores, np.nan)
    assert metrics.cause_report(truth, scores) == before


@pytest.mark.parametrize("metric", ["auroc", "ap", "f1"])
def test_invariant_to_monotone_transforms_and_to_gene_order(metric):
    rng = np.random.default_rng(7)
    truth, scores = tied_problem(rng, dtype=np.float64)
    order = rng.permutation(len(truth))
    for per in (metrics.per_target, metrics.per_regulator):
        value = per(truth, scores, metric)
        np.testing.assert_array_equal(per(truth, np.exp(scores) * 3 - 5, metric), value)
        moved = per(truth[np.ix_(order, order)], scores[np.ix_(order, order)], metric)
        np.testing.assert_allclose(moved, value[order], rtol=1e-13)


def test_a_ranking_blind_to_the_target_gives_one_half_per_regulator():
    rng = np.random.default_rng(8)
    _, truth, _ = ancestors_of(40, 0.1, 8)
    blind = np.repeat(rng.standard_normal(40)[:, None], 40, axis=1).astype(np.float32)
    values = metrics.per_regulator(truth, blind)
    assert set(values[np.isfinite(values)]) == {0.5}
    report = metrics.cause_report(truth, blind)
    assert report["column_auroc"] == 0.5
    assert report["row_auroc_lift"] == 0
    assert report["row_ap_lift"] == 1
    assert report["row_auroc_shuffled"] == pytest.approx(report["row_auroc"], abs=0.03)
    assert report["row_auroc_centred"] == report["column_auroc_centred"] == 0.5


def hub_truth(n=60, hubs=4, seed=0):
    """Few hubs with many random targets each."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((n, n), bool)
    truth[:hubs] = rng.random((hubs, n)) < 0.7
    truth[:, :hubs] = False
    return truth


def test_popularity_wins_the_row_score_on_hubs_and_the_report_shows_it():
    truth = hub_truth()
    popular = np.repeat(truth.sum(1)[:, None], 60, axis=1)
    report = metrics.cause_report(truth, popular)
    assert report["row_auroc"] > 0.95
    assert report["column_auroc"] == 0.5
    assert report["row_auroc_regulators"] < 0.75  # among hubs alone, little is left
    perfect = metrics.cause_report(truth, truth.astype(np.float32))
    for name in ("row_auroc", "row_ap", "row_f1", "column_auroc", "column_ap", "row_auroc_regulators"):
        assert perfect[name] == 1
    assert perfect["row_auroc_centred"] > 0.95
    assert perfect["row_auroc_lift"] > 0
    assert perfect["column_auroc_shuffled"] < 0.6
    assert report["row_auroc"] - perfect["row_auroc_shuffled"] < 0.3


def test_report_shuffle_uses_the_scores_of_other_targets_only():
    # Scores that know only each target's own causes: any other target's scores are worthless.
    n = 50
    truth = np.zeros((n, n), bool)
    truth[np.arange(n), (np.arange(n) + 1) % n] = True
    report = metrics.cause_report(truth, truth.astype(float), rng=3)
    assert report["row_auroc"] == 1
    assert report["row_auroc_shuffled"] < 0.5
    assert report["column_auroc_shuffled"] < 0.5


def test_report_equals_its_parts():
    _, truth, length = ancestors_of(40, 0.08, 9)
    rng = np.random.default_rng(10)
    scores = (truth + rng.standard_normal(truth.shape)).astype(np.float32)
    report = metrics.cause_report(truth, scores, path_length=length)
    off = ~np.eye(40, dtype=bool)
    rows = metrics.per_target(truth, scores)
    assert report["row_auroc"] == pytest.approx(np.nanmean(rows))
    assert report["column_ap"] == pytest.approx(np.nanmean(metrics.per_regulator(truth, scores, "ap")))
    assert report["n_targets"] == np.isfinite(rows).sum()
    assert report["prevalence"] == pytest.approx(truth[off].mean())
    assert report["direction_accuracy"] == metrics.direction_accuracy(truth, scores)
    blind = np.broadcast_to((np.where(off, scores, 0).sum(1) / 39)[:, None], scores.shape)
    assert report["row_auroc_blind"] == pytest.approx(np.nanmean(metrics.per_target(truth, blind)))
    far = [
        sk.roc_auc_score(truth[i, k], scores[i, k])
        for i in range(40)
        if 0 < truth[i, k := off[i] & (length[i] != 1)].sum() < k.sum()
    ]
    assert report["column_auroc_path2"] == pytest.approx(np.mean(far))
    given = metrics.cause_report(truth, scores, popularity=truth.sum(1))
    assert given["row_auroc_blind"] == pytest.approx(
        np.nanmean(metrics.per_target(truth, np.repeat(truth.sum(1)[:, None], 40, 1)))
    )


def test_report_of_some_effects():
    _, truth, length = ancestors_of(30, 0.15, 11)
    scores = np.random.default_rng(12).standard_normal(truth.shape)
    chosen = np.array([25, 29, 12])
    report = metrics.cause_report(truth[:, chosen], scores[:, chosen], path_length=length[:, chosen], effects=chosen)
    assert report["row_auroc"] == pytest.approx(np.nanmean(metrics.per_target(truth, scores)[chosen]))
    assert report["n_targets"] == 3


def test_random_scores_get_the_prevalence_in_average_precision():
    _, truth, _ = ancestors_of(150, 0.03, 13)
    report = metrics.cause_report(truth, np.random.default_rng(14).random(truth.shape))
    assert report["row_auroc"] == pytest.approx(0.5, abs=0.02)
    assert report["column_ap"] == pytest.approx(report["column_prevalence"], rel=0.25)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_double_centring_is_the_least_squares_fit(missing):
    from causcade.metrics._report import _double_centre

    rng = np.random.default_rng(15)
    n, k = 8, 6
    scores, keep = rng.standard_normal((n, k)), rng.random((n, k)) >= missing
    keep[np.arange(k), np.arange(k)] = False
    i, j = np.nonzero(keep)
    design = np.hstack([np.eye(n)[i], np.eye(k)[j]])
    fitted = design @ np.linalg.lstsq(design, scores[keep], rcond=None)[0]
    np.testing.assert_allclose(_double_centre(scores, keep)[keep], scores[keep] - fitted, atol=1e-10)


def test_centring_leaves_nothing_of_additive_scores():
    # What is left is rounding of float32, which must not be ranked.
    rng = np.random.default_rng(22)
    scores = (rng.standard_normal((40, 1)) + rng.standard_normal(40)).astype(np.float32)
    report = metrics.cause_report(ancestors_of(40, 0.1, 22)[1], scores)
    assert report["row_auroc_centred"] == report["column_auroc_centred"] == 0.5


def test_direction_accuracy():
    truth = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    scores = np.array([[0, 2, 1], [1, 0, 3], [1, 4, 0]], float)  # right, tied, wrong
    assert metrics.direction_accuracy(truth, scores) == 0.5
    assert metrics.direction_accuracy(truth, truth.astype(float)) == 1
    assert metrics.direction_accuracy(truth, scores + scores.T) == 0.5
    assert np.isnan(metrics.direction_accuracy(truth | truth.T, scores))  # mutual causes have no direction


def test_false_negatives_by_path_by_hand():
    truth = np.triu(np.ones((4, 4), bool), 1)
    length = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    scores = np.zeros((4, 4))
    scores[0, 1], scores[1, 2], scores[2, 3], scores[0, 2] = 9, 8, 7, 6
    scores[3, 0], scores[2, 0] = 5, 4
    assert metrics.false_negative_rate_by_path(truth, scores, length) == {1: 0, 2: 0.5, 3: 1}
    assert metrics.false_negative_rate_by_path(truth, scores, length, n_positives=3) == {1: 0, 2: 1, 3: 1}
    assert metrics.false_negative_rate_by_path(truth, scores, length, threshold=8) == {
        1: pytest.approx(1 / 3),
        2: 1,
        3: 1,
    }
    tied = metrics.false_negative_rate_by_path(truth, np.ones((4, 4)), length, n_positives=3)
    assert tied == {d: pytest.approx(1 - 3 / 12) for d in (1, 2, 3)}
    assert set(metrics.false_negative_rate_by_path(truth, scores, length, n_positives=0).values()) == {1}
    assert set(metrics.false_negative_rate_by_path(truth, scores, length, n_positives=12).values()) == {0}


def test_probability_scores():
    rng = np.random.default_rng(16)
    p = rng.random(20_000)
    labels = rng.random(20_000) < p
    assert metrics.brier(labels, p) == pytest.approx(sk.brier_score_loss(labels, p))
    assert metrics.brier_skill(labels, labels) == 1
    base = np.full(p.shape, labels.mean())
    assert metrics.brier_skill(labels, base) == pytest.approx(0)
    assert metrics.expected_calibration_error(labels, base) == pytest.approx(0, abs=1e-12)
    for bins in ("width", "mass"):
        assert metrics.expected_calibration_error(labels, p, bins=bins) < 0.02
    assert metrics.expected_calibration_error([0, 1, 1, 1], [0.1, 0.3, 0.9, 1.0], n_bins=2) == pytest.approx(
        0.5 * 0.3 + 0.5 * 0.05
    )
    skewed = np.sort(p**4)
    hits = rng.random(p.size) < skewed
    parts = zip(np.array_split(hits, 5), np.array_split(skewed, 5), strict=True)
    expected = np.mean([abs(h.mean() - s.mean()) for h, s in parts])
    assert metrics.expected_calibration_error(hits, skewed, n_bins=5, bins="mass") == pytest.approx(expected)
    assert np.isnan(metrics.brier_skill([1, 1], [0.2, 0.3]))


def linear_scm(rng, n_cells, edges):
    x = rng.standard_normal((n_cells, len(edges)))
    for j in range(len(edges)):
        x[:, j] += x @ (edges[:, j] * 1.5)
    return x


def test_sortability_of_a_chain_is_one_and_scaling_hides_only_the_variance():
    edges = np.eye(6, k=1)
    x = linear_scm(np.random.default_rng(17), 4000, edges)
    assert metrics.varsortability(x, edges) == 1
    assert metrics.varsortability(-x, edges[::-1, ::-1].T) == 1
    assert metrics.varsortability(x[:, ::-1], edges) == 0
    z = (x - x.mean(0)) / x.std(0)
    assert metrics.varsortability(z, edges) == 0.5
    assert metrics.r2_sortability(z, edges) == pytest.approx(metrics.r2_sortability(x, edges))


def test_sortability_counts_each_path_length_once():
    edges = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    scale = np.array([1.0, 3.0, 2.0])
    x = np.array([[1.0], [-1.0]]) * scale
    # 0->1 right, 1->2 wrong, 0->2 right, and again over 1.
    assert metrics.varsortability(x, edges) == 3 / 4
    graph = nx.from_numpy_array(np.triu(np.random.default_rng(18).random((9, 9)) < 0.4, 1), create_using=nx.DiGraph)
    sd = np.random.default_rng(19).permutation(9) + 1.0
    pairs = {(i, j, len(p)) for i in graph for j in graph for p in nx.all_simple_paths(graph, i, j) if i != j}
    expected = np.mean([sd[j] > sd[i] for i, j, _ in pairs])
    assert metrics.varsortability(np.array([[1.0], [-1.0]]) * sd, nx.to_numpy_array(graph)) == pytest.approx(expected)


def test_r2_sortability_equals_regressions():
    rng = np.random.default_rng(20)
    edges = np.triu(rng.random((7, 7)) < 0.4, 1)
    x = linear_scm(rng, 500, edges) * rng.uniform(0.1, 10, 7)
    r2 = [LinearRegression().fit(np.delete(x, j, 1), x[:, j]).score(np.delete(x, j, 1), x[:, j]) for j in range(7)]
    same = np.array([[1.0], [-1.0]]) * np.sqrt(r2)  # variances that are the R2
    assert metrics.r2_sortability(x, edges) == metrics.varsortability(same, edges)
    assert np.isnan(metrics.varsortability(x, np.zeros((7, 7))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, s: metrics.per_target(t, s[:, :5]), "one shape"),
        (lambda t, s: metrics.per_target(s, t), "truth and the scores swapped"),
        (lambda t, s: metrics.per_target(t, s, "auc"), "auroc, ap, f1"),
        (lambda t, s: metrics.per_target(t[:, :5], s[:, :5]), "effects="),
        (lambda t, s: metrics.per_target(t[:, :2], s[:, :2], effects=[1, 99]), "positions between 0 and 11"),
        (lambda t, s: metrics.per_target(t, s, keep=t[:2]), "keep"),
        (lambda t, s: metrics.per_regulator(t, np.where(np.eye(12, k=1) > 0, np.nan, s)), r"11 NaN.*cause 0, effect 1"),
        (lambda t, s: metrics.cause_report(t, np.where(t, np.inf, s)), "infinite"),
        (lambda t, s: metrics.cause_report(t, s, popularity=s[:3]), "popularity"),
        (lambda t, s: metrics.cause_report(t, s, path_length=np.zeros_like(s)), "causes and effects swapped"),
        (lambda t, s: metrics.false_negative_rate_by_path(t, s, s[:3]), "path_length has shape"),
        (lambda t, s: metrics.false_negative_rate_by_path(t, s, s * 0 + 1, n_positives=133), "n_positives=133"),
        (lambda t, s: metrics.false_negative_rate_by_path(t, s, s * 0 + 1, n_positives=3, threshold=1), "not both"),
        (lambda t, s: metrics.auroc(t, s * np.nan), "144 NaN"),
        (lambda t, s: metrics.auroc([], []), "non-empty"),
        (lambda t, s: metrics.brier(t, s), "logits"),
        (lambda t, s: metrics.expected_calibration_error([0], [0.5], n_bins=0), "n_bins=0"),
        (lambda t, s: metrics.varsortability(s, t[:3]), "adjacency"),
        (lambda t, s: metrics.varsortability(s * np.nan, t), "x holds NaN"),
        (lambda t, s: metrics.r2_sortability(s, t), "more cells"),
        (lambda t, s: metrics.r2_sortability(np.tile(np.random.default_rng(0).random((30, 6)), 2), t), "combination"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    truth, scores = tied_problem(np.random.default_rng(21), 12)
    with pytest.raises(ValueError, match=message):
        call(truth, scores + 2)
