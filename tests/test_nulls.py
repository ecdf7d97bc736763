import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, kstest

from causcade import nulls


def screen(seed=0, n_cells=3000):
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 12, n_cells), rng.choice(["a", "b", "c"], n_cells, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize("kind", ["none", "str", "object", "categorical", "int"])
def test_permutation_keeps_counts_per_group_and_what_is_left_out(kind):
    codes, groups = screen()
    given = {
        "none": None,
        "str": groups,
        "object": groups.astype(object),
        "categorical": pd.Categorical(groups),
        "int": np.unique(groups, return_inverse=True)[1],
    }[kind]
    before = codes.copy()
    new = nulls.permute_codes(codes, groups=given, rng=0)
    np.testing.assert_array_equal(codes, before)
    np.testing.assert_array_equal(new == -1, codes == -1)
    assert 0.7 < (new != codes)[codes >= 0].mean() < 1
    for group in [slice(None)] if kind == "none" else [groups == g for g in "abc"]:
        np.testing.assert_array_equal(np.sort(new[group]), np.sort(codes[group]))


def test_permutation_follows_the_seed_and_groups_of_one_stay():
    codes, _ = screen(1)
    np.testing.assert_array_equal(nulls.permute_codes(codes, rng=5), nulls.permute_codes(codes, rng=5))
    assert (nulls.permute_codes(codes, rng=5) != nulls.permute_codes(codes, rng=6)).any()
    np.testing.assert_array_equal(nulls.permute_codes(codes, groups=np.arange(codes.size), rng=0), codes)


def test_permutation_is_uniform():
    rng = np.random.default_rng(2)
    draws = np.array([nulls.permute_codes(np.arange(3), rng=rng) for _ in range(6000)])
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert counts.size == 6
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


def test_control_split_draws_real_sizes_from_control_cells_only():
    codes = np.repeat([0, 1, 2, 3, 5, -1], [100, 10, 20, 15, 60, 7])
    seen = set()
    rng = np.random.default_rng(3)
    for _ in range(40):
        new = nulls.control_split(codes, rng)
        assert (new[codes != 0] == -1).all()
        assert (new[codes == 0] >= 0).all()
        labels, sizes = np.unique(new[new > 0], return_counts=True)
        assert all(size == (codes == label).sum() for label, size in zip(labels, sizes, strict=True))
        assert (new == 0).sum() >= 50
        seen.update(labels.tolist())
    assert seen == {1, 2, 3}  # 60 cells never fit into 50
    assert 5 in nulls.control_split(np.repeat([0, 5], [100, 60]), 0, control_fraction=0.3)


def test_pvalues_by_hand():
    null = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    np.testing.assert_allclose(nulls.empirical_pvalues([2.0, 8.0], null), [3 / 4, 1 / 4])
    observed = np.array([[2.0, 8.0], [0.0, 6.0]])
    draws = np.array([[[1.0, 5.0], [2.0, 6.0]], [[3.0, 7.0], [9.0, 1.0]]])
    np.testing.assert_allclose(nulls.pooled_pvalues(observed, draws, pool="pair"), [[2 / 3, 1 / 3], [1, 2 / 3]])
    np.testing.assert_allclose(nulls.pooled_pvalues(observed, draws), [[4 / 5, 1 / 5], [1, 3 / 5]])
    np.testing.assert_allclose(nulls.pooled_pvalues(observed, draws, pool="all"), [[7 / 9, 2 / 9], [1, 4 / 9]])


@pytest.mark.parametrize("pool", ["effect", "pair", "all"])
def test_pvalues_are_uniform_when_nothing_is_there(pool):
    rng = np.random.default_rng(4)
    observed, null = rng.standard_normal((400, 5)), rng.standard_normal((99, 400, 5))
    p = nulls.pooled_pvalues(observed, null, pool=pool)
    assert kstest(p.ravel() - rng.random(p.shape).ravel() / 100 * (pool == "pair"), "uniform").pvalue > 0.01
    assert (p > 0).all()


def test_pooled_pvalues_never_undercut_their_level():
    # With few draws a p value below 1 / (1 + draws) would be a false claim.
    rng = np.random.default_rng(5)
    hits = [(nulls.pooled_pvalues(rng.random((1, 1)), rng.random((9, 1, 1))) <= 0.1).item() for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(0.1, abs=0.02)


def test_pairs_outside_keep_stay_out_of_the_pool():
    rng = np.random.default_rng(6)
    observed, null = rng.random((20, 2)), rng.random((5, 20, 2))
    keep = np.ones((20, 2), bool)
    keep[0, 0] = keep[3, 1] = False
    for call in (nulls.pooled_pvalues, nulls.empirical_fdr):
        clean = call(observed[1:, :1], null[:, 1:, :1])
        observed[~keep], null[:, ~keep] = np.nan, np.inf
        out = call(observed, null, keep=keep)
        assert np.isnan(out[~keep]).all()
        np.testing.assert_array_equal(out[1:, :1], clean)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_benjamini_hochberg_equals_scipy(axis):
    p = np.random.default_rng(7).random((40, 6)) ** 3
    p[3] = p[4]
    expected = np.reshape(false_discovery_control(p, axis=axis), p.shape)
    np.testing.assert_allclose(nulls.benjamini_hochberg(p, axis), expected)


def test_benjamini_hochberg_does_not_count_tests_that_were_not_made():
    p = np.random.default_rng(8).random(30) ** 4
    holed = np.insert(p, [0, 10, 30], np.nan)
    out = nulls.benjamini_hochberg(holed)
    assert np.isnan(out[[0, 11, 32]]).all()
    np.testing.assert_allclose(out[np.isfinite(out)], false_discovery_control(p))
    assert np.isnan(nulls.benjamini_hochberg([np.nan, np.nan])).all()


def test_fdr_by_hand():
    observed = np.array([[5.0], [4.0], [3.0], [1.0]])
    null = np.array([[[4.0], [2.0], [1.0], [0.0]], [[0.5], [2.5], [1.0], [0.0]]])
    # Null counts at or above 5, 4, 3, 1 are 0, 1, 1, 5; one is added, two draws.
    np.testing.assert_allclose(nulls.empirical_fdr(observed, null).ravel(), [1 / 3, 1 / 3, 1 / 3, 3 / 4])


def mixture(rng, n=500, n_true=60, k=3):
    real = np.zeros((n, k), bool)
    real[:n_true] = True
    return real, rng.standard_normal((n, k)) + 3.5 * real, rng.standard_normal((20, n, k))


@pytest.mark.parametrize(
    "adjust",
    [
        lambda x, null: nulls.empirical_fdr(x, null),
        lambda x, null: nulls.empirical_fdr(x, null, pool="all"),
        lambda x, null: nulls.benjamini_hochberg(nulls.pooled_pvalues(x, null)),
    ],
    ids=["direct-effect", "direct-all", "benjamini-hochberg"],
)
def test_false_discoveries_are_controlled_and_true_ones_found(adjust):
    rng = np.random.default_rng(9)
    false, found = [], []
    for _ in range(40):
        real, x, null = mixture(rng)
        called = adjust(x, null) <= 0.1
        false.append((called & ~real).sum() / max(called.sum(), 1))
        found.append(called[real].mean())
    assert 0.05 < np.mean(false) < 0.105
    assert np.mean(found) > 0.8


def test_fdr_is_monotone_bounded_and_equal_for_ties():
    rng = np.random.default_rng(10)
    observed, null = rng.integers(0, 8, (60, 1)).astype(float), rng.integers(0, 7, (4, 60, 1)).astype(float)
    q = nulls.empirical_fdr(observed, null).ravel()
    order = np.argsort(observed.ravel())
    assert (np.diff(q[order]) <= 0).all()
    assert np.unique(np.column_stack([observed.ravel(), q]), axis=0).shape[0] == 8
    assert q.min() > 0
    assert q.max() <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nulls.permute_codes([0.0, 1.0]), "integers"),
        (lambda: nulls.permute_codes([0, 1], groups=[1]), "groups has shape"),
        (lambda: nulls.permute_codes([0, 1], groups=[1.0, np.nan]), "1 missing"),
        (lambda: nulls.permute_codes([0, 1], groups=np.array(["a", None], object)), "groups holds 1 missing"),
        (lambda: nulls.control_split([0, 0, 1, 1]), "smallest of 1 regimes has 2 cells"),
        (lambda: nulls.control_split([0, 0]), "no regime"),
        (lambda: nulls.control_split([0, 0, 1], control_fraction=1), "control_fraction"),
        (lambda: nulls.empirical_pvalues([1.0], np.ones((3, 2))), "n_draws, 1"),
        (lambda: nulls.empirical_pvalues([1.0], np.ones((0, 1))), "with a draw"),
        (lambda: nulls.empirical_pvalues([np.nan], np.ones((3, 1))), "observed holds 1 NaN"),
        (lambda: nulls.pooled_pvalues([[1.0]], np.ones((3, 1, 1)), pool="cause"), "pool='cause'"),
        (lambda: nulls.empirical_fdr([[1.0]], np.ones((3, 1, 1)), pool="pair"), "pool='pair'"),
        (lambda: nulls.pooled_pvalues([1.0], np.ones((3, 1))), "n_causes, n_effects"),
        (lambda: nulls.benjamini_hochberg([0.5, 1.2]), "between 0 and 1"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
