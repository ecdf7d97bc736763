from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from causcade.reference import Reference, choose_candidates, level_groups


class Mean:
    """Shift of the means; counts what was prepared."""

    def __init__(self):
        self.prepared = []

    def prepare(self, control):
        self.prepared.append((control.n, control.mean.shape[0]))
        return control

    def score(self, state, perturbed, rng):
        return perturbed.mean - state.mean


def cells(n, genes=6, seed=0):
    return np.random.default_rng(seed).poisson(2.0, (n, genes)).astype(np.float32)


def exact_z(control, perturbed):
    """z of scipy's tie-corrected rank-sum test, from its p value."""
    p = [
        mannwhitneyu(b, a, alternative="greater", method="asymptotic", use_continuity=False).pvalue
        for a, b in zip(control.T, perturbed.T, strict=True)
    ]
    return norm.isf(p)


def test_differences_without_groups_are_the_textbook_ones():
    control, perturbed = cells(40), cells(15, seed=1) + 1
    zero = np.zeros(40, dtype=np.int64)
    lfc, z = Reference(control, zero, Mean(), None).differences(perturbed, zero[:15])
    np.testing.assert_allclose(lfc, perturbed.mean(0) - control.mean(0), atol=1e-5)
    np.testing.assert_allclose(z, exact_z(control, perturbed), rtol=1e-4)


def test_differences_are_taken_within_groups():
    control, perturbed = cells(40), cells(20, seed=1)
    perturbed[:, 2] += 3
    groups, others = np.repeat([0, 4], [30, 10]), np.repeat([0, 4], [5, 15])
    plain = Reference(control, groups, Mean(), None)
    expected = plain.differences(plain.level(perturbed, others), others)
    shift = np.where(groups == 4, 50.0, 0.0)[:, None].astype(np.float32)  # a batch effect that swamps everything
    moved = Reference(control + shift, groups, Mean(), None)
    levelled = moved.level(perturbed + np.where(others == 4, 50.0, 0.0)[:, None].astype(np.float32), others)
    lfc, z = moved.differences(levelled, others)
    np.testing.assert_allclose(lfc, expected[0], atol=1e-4)
    np.testing.assert_allclose(z, expected[1], atol=1e-4)
    by_group = [perturbed[others == g].mean(0) - control[groups == g].mean(0) for g in (0, 4)]
    np.testing.assert_allclose(lfc, (5 * by_group[0] + 15 * by_group[1]) / 20, atol=1e-4)
    zs = [exact_z(control[groups == g], perturbed[others == g]) for g in (0, 4)]
    weight = np.array([30 * 5 / 36, 10 * 15 / 26])
    np.testing.assert_allclose(z, (weight**0.5 @ np.array(zs)) / weight.sum() ** 0.5, rtol=1e-4)


def test_groups_are_brought_to_the_level_of_their_controls():
    values, groups = cells(60), np.repeat([0, 4, 9], [30, 20, 10])
    control = (np.arange(60) % 2 == 0) & (groups != 9)  # group 9 has none
    before = values.copy()
    moved = values + np.where(groups == 4, 50.0, 0.0)[:, None].astype(np.float32)
    out = level_groups(moved, groups, control)
    means = [out[control & (groups == g)].mean(0) for g in (0, 4)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-4)
    np.testing.assert_allclose(means[0], moved[control].mean(0), atol=1e-4)
    np.testing.assert_array_equal(out[groups == 9], moved[groups == 9])
    np.testing.assert_array_equal(values, before)
    own = Reference(moved[control], groups[control], Mean(), None)
    np.testing.assert_array_equal(out[groups == 4], own.level(moved[groups == 4], groups[groups == 4]))
    np.testing.assert_array_equal(level_groups(values, np.zeros(60, dtype=np.int64), control), values)
    with pytest.raises(ValueError, match="No control cells"):
        level_groups(values, groups, np.zeros(60, dtype=bool))


def test_group_of_one_control_and_absent_groups_are_fine():
    reference = Reference(cells(5), np.array([0, 0, 0, 0, 7]), Mean(), None)
    lfc, z = reference.differences(cells(3, seed=2), np.zeros(3, dtype=np.int64))
    assert np.isfinite(lfc).all()
    assert np.isfinite(z).all()


def test_constant_genes_have_no_difference():
    control = cells(20)
    control[:, 3] = 0
    perturbed = control[:8].copy()
    lfc, z = Reference(control, np.zeros(20, dtype=np.int64), Mean(), None).differences(
        perturbed, np.zeros(8, dtype=np.int64)
    )
    assert lfc[3] == z[3] == 0


def test_fixed_candidates_are_prepared_once():
    scorer, rng = Mean(), np.random.default_rng(0)
    fixed = np.array([4, 1])
    reference = Reference(cells(30), np.zeros(30, dtype=np.int64), scorer, fixed)
    for seed in (1, 2, 3):
        perturbed = cells(10, seed=seed)
        scores = reference.side.score(perturbed, fixed, 2, rng)
        np.testing.assert_allclose(scores, np.tile((perturbed - reference.mean).mean(0)[fixed], (2, 1)), atol=1e-5)
    assert scorer.prepared == [(30, 2)]
    assert reference.side.score(perturbed, np.array([0, 1, 2]), 1, rng).shape == (1, 3)
    assert scorer.prepared == [(30, 2), (30, 3)]


def test_masked_genes_look_like_controls_of_their_group():
    rng = np.random.default_rng(0)
    control = rng.standard_normal((400, 3)).astype(np.float32)
    groups = np.repeat([0, 1], 200)
    reference = Reference(control, groups, Mean(), None)
    perturbed = rng.standard_normal((300, 3)).astype(np.float32)
    perturbed[:, 1] = 5 + 2 * perturbed[:, 0]  # shifted, wider, and correlated
    others = np.repeat([0, 1], 150)
    before = perturbed.copy()
    out = reference.mask(perturbed, others, np.array([1]), rng)
    np.testing.assert_array_equal(perturbed, before)
    np.testing.assert_array_equal(out[:, [0, 2]], before[:, [0, 2]])
    assert abs(out[:, 1].mean()) < 0.2
    assert abs(out[:, 1].std() - 1) < 0.15
    assert abs(np.corrcoef(out[:, 0], out[:, 1])[0, 1]) < 0.15  # uncorrelated, as in the controls
    for group in (0, 1):
        assert set(out[others == group, 1]) <= set(reference.values[groups == group, 1])


def test_masked_genes_keep_the_correlations_of_controls():
    """A gene without its correlations would give itself away as masked."""
    rng = np.random.default_rng(1)

    def draw(n, shift=0.0):
        x = rng.standard_normal((n, 4))
        x[:, 1] = 0.9 * x[:, 0] + 0.4 * x[:, 1] + shift
        x[:, 3] = (x[:, 0] > 1) * 2.0 + (x[:, 3] > 2)  # many ties
        return x.astype(np.float32)

    zero = np.zeros(400, dtype=np.int64)
    reference = Reference(draw(400), zero, Mean(), None)
    perturbed = draw(200, shift=3.0)
    out = reference.mask(perturbed, zero[:200], np.array([1, 3]), rng)
    assert np.corrcoef(out[:, 0], out[:, 1])[0, 1] > 0.75
    assert np.corrcoef(out[:, 0], out[:, 3])[0, 1] > 0.6
    assert abs(out[:, 1].mean() - reference.values[:, 1].mean()) < 0.25
    assert np.abs(reference.differences(out, zero[:200])[1][1]) < 3


def test_mask_of_nothing_changes_nothing():
    perturbed = cells(10)
    zero = np.zeros(10, dtype=np.int64)
    out = Reference(cells(10, seed=1), zero, Mean(), None).mask(
        perturbed, zero, np.zeros(0, dtype=np.int64), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(out, perturbed)


def test_candidates():
    z = np.array([0.1, -9.0, 5.0, 0.2, -6.0, 0.0, np.nan, 1.0])
    lfc = np.array([0.5, 0.0, 0.1, -3.0, 0.1, 0.2, 2.0, 0.0])
    assert choose_candidates(z, lfc, 8, 2).tolist() == [1, 2, 4]  # significant, whatever the fold change
    assert choose_candidates(z, lfc, 2, 2).tolist() == [1, 4]  # the largest of them
    assert choose_candidates(z, lfc, 8, 5).tolist() == [1, 2, 3, 4, 6]  # filled by fold change
    assert choose_candidates(z, lfc, 8, 100).tolist() == list(range(8))
    assert choose_candidates(np.zeros(8), lfc, 3, 3).tolist() == [0, 3, 6]
    assert choose_candidates(np.array([1e3, -1e4, 50.0]), lfc[:3], 2, 1).tolist() == [0, 1]  # p values of zero


def test_significant_means_adjusted():
    z = np.r_[2.2, np.zeros(99)]  # p = .028, after adjustment 1
    assert len(choose_candidates(z, np.zeros(100), 100, 1)) == 1
    lfc = np.r_[0, np.ones(99)]
    assert 0 not in choose_candidates(z, lfc, 100, 1)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_values_given_are_not_changed(n_groups):
    control = cells(10)
    before = control.copy()
    groups = np.arange(10) % n_groups
    reference = Reference(control, groups, Mean(), None)
    reference.differences(reference.level(control[:4], groups[:4]), groups[:4])
    np.testing.assert_array_equal(control, before)


def test_candidates_taken_from_a_summary_of_all_genes_score_the_same():
    class Structure(Mean):
        def score(self, state, perturbed, rng):
            return perturbed.cov[0] - state.cov[0] + state.bend[:, 1] + state.kurtosis

    control, perturbed, genes = cells(50), cells(20, seed=1), np.array([1, 2, 5])
    zero, rng = np.zeros(50, dtype=np.int64), np.random.default_rng(0)
    each, whole = (Reference(control, zero, Structure(), None, whole=w) for w in (False, True))
    a, b = (r.side.score(perturbed, genes, 1, rng) for r in (each, whole))
    np.testing.assert_allclose(a, b, atol=1e-5)
