import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from causcade import baselines, metrics


def effects(seed=0, n=20):
    return np.random.default_rng(seed).standard_normal((n, n))


def test_knockout_t_is_absolute_and_puts_unperturbed_causes_last():
    z = effects()
    z[3] = np.nan
    scores = baselines.knockout_t(z)
    assert scores.dtype == np.float32
    assert (scores[3] == 0).all()
    np.testing.assert_array_equal(np.delete(scores, 3, 0), np.abs(np.delete(z, 3, 0)).astype(np.float32))
    assert np.isnan(z[3]).all()  # the input is left alone


def test_knockout_t_takes_some_effects():
    assert baselines.knockout_t(effects()[:, :4]).shape == (20, 4)


def test_correlation_is_absolute_and_constant_genes_get_nothing():
    x = np.random.default_rng(1).standard_normal((50, 5))
    corr = np.corrcoef(x.T)
    corr[2, :], corr[:, 2] = np.nan, np.nan
    scores = baselines.correlation(corr)
    assert (scores[2] == 0).all()
    assert scores[0, 1] == np.float32(abs(corr[0, 1]))
    assert (scores == scores.T).all()
    assert metrics.direction_accuracy(np.triu(np.ones((5, 5)), 1) > 0, scores) == 0.5


def test_popularity_is_the_mean_over_other_genes_for_every_target():
    scores = effects(2)
    np.fill_diagonal(scores, np.nan)
    out = baselines.popularity(scores)
    expected = np.nanmean(scores, axis=1)
    np.testing.assert_allclose(out, np.repeat(expected[:, None], 20, 1), rtol=1e-5)
    assert (out == out[:, :1]).all()


def test_true_popularity_counts_descendants():
    ancestors = np.triu(np.ones((5, 5), bool))  # with the diagonal, which does not count
    np.testing.assert_array_equal(baselines.true_popularity(ancestors)[:, 2], [4, 3, 2, 1, 0])
    assert baselines.true_popularity(ancestors).dtype == np.float32


def test_popularity_rankings_score_one_half_per_regulator():
    truth = np.triu(np.random.default_rng(3).random((30, 30)) < 0.3, 1)
    for scores in (baselines.popularity(effects(4, 30)), baselines.true_popularity(truth)):
        values = metrics.per_regulator(truth, scores)
        assert set(values[np.isfinite(values)]) == {0.5}


def test_random_scores_follow_the_seed():
    a, b = baselines.random_scores(40, rng=1), baselines.random_scores(40, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.float32
    assert (a != baselines.random_scores(40, rng=2)).any()
    assert abs(a.mean() - 0.5) < 0.05


def test_rank_average_uses_ranks_over_all_pairs():
    a, b = effects(5, 8), np.round(effects(6, 8))
    off = ~np.eye(8, dtype=bool)
    expected = (rankdata(a[off]) + 3 * rankdata(b[off])) / 4 / 56
    np.testing.assert_allclose(baselines.rank_average([a, b], weights=[1, 3])[off], expected, rtol=1e-6)
    np.testing.assert_array_equal(baselines.rank_average([np.exp(a), b * 7]), baselines.rank_average([a, b]))
    a2 = a.copy()
    np.fill_diagonal(a2, np.nan)
    np.testing.assert_array_equal(baselines.rank_average([a2, b]), baselines.rank_average([a, b]))
    assert (np.argsort(baselines.rank_average([a])[off]) == np.argsort(a[off])).all()


def pair_problem(seed, n=60):
    """A pair is a cause when two features agree; neither alone tells."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, n, 4)).astype(np.float32)
    labels = (features[..., 0] * features[..., 1] > 0.8) & (rng.random((n, n)) < 0.9)
    features[rng.random(features.shape) < 0.02] = np.nan
    return features, labels


def test_pair_trees_learn_from_pairs_of_features_and_repeat_exactly():
    features, labels = pair_problem(0)
    trees = baselines.PairTrees(n_trees=12).fit(features, labels)
    other, truth = pair_problem(1)
    scores = trees.predict(other)
    assert scores.shape == (60, 60)
    assert scores.dtype == np.float32
    assert roc_auc_score(truth.ravel(), scores.ravel()) > 0.9
    again = baselines.PairTrees(n_trees=12).fit(features.reshape(-1, 4), labels.ravel())
    np.testing.assert_array_equal(again.predict(other.reshape(-1, 4)), scores.ravel())


def test_pair_trees_predict_in_blocks(monkeypatch):
    features, labels = pair_problem(2, 20)
    trees = baselines.PairTrees(n_trees=3).fit(features, labels)
    whole = trees.predict(features)
    monkeypatch.setattr(baselines, "_PREDICT_ROWS", 7)
    np.testing.assert_array_equal(trees.predict(features), whole)


def test_pair_trees_keep_their_odds_when_they_sample():
    features, labels = pair_problem(3, 120)
    rare = labels & (np.random.default_rng(4).random(labels.shape) < 0.2)
    trees = baselines.PairTrees(n_trees=10, max_pairs=3000).fit(features, rare)
    probability = 1 / (1 + np.exp(-trees.predict(features)))
    # Without weights the mean would be that of the sample, 341 in 3000: five times too high.
    assert probability.mean() == pytest.approx(rare.mean(), rel=0.8)


def test_pair_trees_sample_keeps_all_causes():
    y = np.arange(1000) < 50
    rows, weight = baselines.PairTrees(max_pairs=200)._sample(y, np.random.default_rng(0))
    assert rows.size == np.unique(rows).size == 200
    assert y[rows].sum() == 50
    assert weight[y[rows]].tolist() == [1] * 50
    assert weight.sum() == pytest.approx(1000)


def test_pair_trees_before_fit():
    with pytest.raises(RuntimeError, match="fit"):
        baselines.PairTrees().predict(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.knockout_t([1.0, 2.0]), "2-D"),
        (lambda: baselines.knockout_t([[1.0, np.inf]]), "cause 0, effect 1"),
        (lambda: baselines.correlation([[4.0, 1.0], [1.0, 4.0]]), "covariance"),
        (lambda: baselines.popularity(np.ones((2, 3))), "square"),
        (lambda: baselines.popularity([[0, np.nan], [1, 0]]), "no mean"),
        (lambda: baselines.rank_average([]), r"got \[\]"),
        (lambda: baselines.rank_average([np.ones((2, 2)), np.ones((3, 3))]), "one shape"),
        (lambda: baselines.rank_average([np.ones((2, 2))], weights=[-1]), "weights"),
        (lambda: baselines.rank_average([[[0, np.nan], [1, 0]]]), "no rank"),
        (lambda: baselines.PairTrees().fit(np.ones((4, 2)), np.ones(3)), "labels' shape"),
        (lambda: baselines.PairTrees().fit(np.ones((4, 2)), np.ones(4)), "both 0 and 1"),
        (lambda: baselines.PairTrees(n_trees=1).fit(np.eye(40), np.arange(40) % 2).predict(np.ones((4, 2))), "fit saw"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
