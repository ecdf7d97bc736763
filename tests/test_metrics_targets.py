"""Target rankings against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from causcade.metrics import recall_at, recall_curve, target_rank, target_report


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("target", "rank"), [(3, 1.0), (1, 0.75), (0, 0.5), (2, 0.25)])
def test_rank_is_one_minus_position_over_candidates(target: int, rank: float) -> None:
    assert target_rank([1.0, 2.0, 0.0, 5.0], target) == rank


def test_ties_count_against_the_target() -> None:
    assert target_rank(np.zeros(4), 2) == 0.25
    assert target_rank([1.0, 1.0, 0.0, 2.0], 0) == 0.5


def test_nan_comes_last() -> None:
    scores = [np.nan, -5.0, 1.0, np.nan]
    assert target_rank(scores, 1) == 0.75
    assert target_rank(scores, 0) == 0.25  # also below the other NaN
    assert target_rank([-np.inf, np.nan], 0) == 0.5


def test_rank_among_candidates_only() -> None:
    scores = [9.0, 8.0, 7.0, 6.0, 5.0]
    assert target_rank(scores, 3, candidates=[3, 4]) == 1
    assert target_rank(scores, 3, candidates=np.array([1, 0, 0, 1, 0], bool)) == 0.5
    with pytest.raises(ValueError, match="target 0 is not among the 2 candidates"):
        target_rank(scores, 0, candidates=[3, 4])
    with pytest.raises(ValueError, match="not among"):
        target_rank(scores, -1)
    with pytest.raises(ValueError, match="candidates must be integer positions between 0 and 4"):
        target_rank(scores, 0, candidates=[0, 5])
    with pytest.raises(ValueError, match="1-D"):
        target_rank(np.ones((2, 2)), 0)


def test_recall_at() -> None:
    assert recall_at([0, 1, 4, 5], (1, 2, 5)) == {1: 0.25, 2: 0.5, 5: 0.75}
    assert np.isnan(recall_at([])[1])
    with pytest.raises(ValueError, match="positions"):
        recall_at([-1.0])
    with pytest.raises(ValueError, match="at least 1"):
        recall_at([0], (0,))


def test_recall_curve_steps_where_the_target_is() -> None:
    ranks = [target_rank(np.arange(10)[::-1], t) for t in range(10)]  # positions 0 to 9 of 10
    grid = np.arange(11) / 10
    np.testing.assert_allclose(recall_curve(ranks, grid), grid)
    assert recall_curve([1.0], [0.0, 1e-3]).tolist() == [0, 1]


def test_area_under_recall_curve_is_the_mean_rank(rng: np.random.Generator) -> None:
    ranks = 1 - rng.integers(0, 50, 30) / 50
    middles = (np.arange(5000) + 0.5) / 5000
    assert recall_curve(ranks, middles).mean() == pytest.approx(ranks.mean(), abs=1e-12)
    for bad in ([], [1.5], [np.nan]):
        with pytest.raises(ValueError, match="ranks must hold"):
            recall_curve(bad, [0.5])
    with pytest.raises(ValueError, match="grid must hold"):
        recall_curve([0.5], [2.0])


def test_report_equals_sklearn_and_averages(rng: np.random.Generator) -> None:
    scores = rng.normal(size=(30, 3)).round(1)
    targets = [np.array([4]), np.array([1, 7, 20]), np.array([29, 0])]
    report = target_report(scores, targets)
    labels = np.zeros((30, 3))
    for j, t in enumerate(targets):
        labels[t, j] = 1
    columns = list(zip(labels.T, scores.T, strict=True))
    assert report["auroc"] == pytest.approx(np.mean([roc_auc_score(y, s) for y, s in columns]))
    assert report["ap"] == pytest.approx(np.mean([average_precision_score(y, s) for y, s in columns]))
    ranks = [target_rank(scores[:, j], int(g)) for j, t in enumerate(targets) for g in t]
    assert report["rank"] == pytest.approx(np.mean(ranks))
    assert report["prevalence"] == pytest.approx((1 + 3 + 2) / 90)
    assert (report["n"], report["n_targets"], report["n_skipped"]) == (3, 6, 0)


def test_report_closed_form_with_trivial_split() -> None:
    scores = np.array([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    lfc = np.array([[-4.0, 1.0], [2.0, 0.5], [np.nan, 0.0], [0.0, 0.0]])
    report = target_report(scores, [[0], [1]], lfc=lfc)
    assert (report["n_trivial"], report["n_nontrivial"]) == (1, 1)
    assert (report["rank_trivial"], report["rank_nontrivial"], report["rank"]) == (1, 0.5, 0.75)
    assert (report["auroc_trivial"], report["ap_nontrivial"]) == (1, pytest.approx(1 / 3))
    assert (report["recall@1"], report["recall@5"], report["recall@1_nontrivial"]) == (0.5, 1, 0)
    # among fewer candidates the second perturbation is trivial too
    keep = np.array([[1, 0], [1, 1], [1, 1], [1, 1]], bool)
    assert target_report(scores, [[0], [1]], lfc=lfc, candidates=keep)["n_trivial"] == 2


def test_report_skips_and_counts_perturbations_without_target() -> None:
    scores = np.arange(12.0).reshape(4, 3)
    report = target_report(scores, [[], [3, 0], [0]], candidates=[1, 2, 3])
    assert (report["n"], report["n_skipped"], report["n_targets"], report["n_targets_lost"]) == (1, 2, 1, 2)
    assert report["rank"] == report["auroc"] == 1
    empty = target_report(scores, [[], [], []], lfc=scores)
    assert empty["n"] == 0 and np.isnan([empty["rank"], empty["ap_trivial"], empty["recall@1"]]).all()


def test_unscored_genes_gain_nothing() -> None:
    scores = np.array([[np.nan], [1.0], [2.0], [np.nan]])
    assert target_report(scores, [[0]])["rank"] == 0.25
    assert target_report(scores, [[0]])["auroc"] == pytest.approx(0.5 / 3)
    assert target_report(scores, [[0]], candidates=~np.isnan(scores))["n_skipped"] == 1
    assert np.isnan(scores).sum() == 2


def test_report_with_all_candidates_targets_has_ranks_only() -> None:
    report = target_report(np.ones((2, 1)), [[0, 1]])
    assert np.isnan(report["auroc"]) and report["rank"] == 0.5


def test_report_refuses_what_does_not_fit() -> None:
    scores = np.zeros((4, 2))
    with pytest.raises(ValueError, match="one of 1 targets per column"):
        target_report(scores, [[0]])
    with pytest.raises(ValueError, match="targets of perturbation 1 must be integer positions between 0 and 3"):
        target_report(scores, [[0], [4]])
    with pytest.raises(ValueError, match="perturbation 0"):
        target_report(scores, [[0.5], [1]])
    with pytest.raises(ValueError, match="lfc has shape"):
        target_report(scores, [[0], [1]], lfc=np.zeros(4))
    with pytest.raises(ValueError, match="must be bool, of the shape of scores"):
        target_report(scores, [[0], [1]], candidates=np.ones((4, 3), bool))
    with pytest.raises(ValueError, match="one entry per gene"):
        target_report(scores, [[0], [1]], candidates=np.ones(3, bool))
