"""Target baselines against scipy, closed forms and small structural models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu, ranksums, spearmanr

from causcade import target_baselines as tb

Cells = NDArray[np.floating]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def sparse_like(rng: np.random.Generator) -> tuple[Cells, Cells]:
    """Log counts with many ties; gene 0 is never seen, gene 1 differs."""
    rates = np.r_[0.0, 2.0, rng.gamma(0.5, 2.0, 28)]
    control = np.log1p(rng.poisson(rates, (200, 30)))
    perturbed = np.log1p(rng.poisson(rates * np.r_[1.0, 0.1, np.ones(28)], (40, 30)))
    return control, perturbed


def scipy_z(control: Cells, perturbed: Cells) -> Cells:
    """z from scipy's p value, tie-corrected and without continuity correction."""
    from scipy.stats import norm

    p = [
        mannwhitneyu(b, a, use_continuity=False, method="asymptotic").pvalue
        for a, b in zip(control.T, perturbed.T, strict=True)
    ]
    sign = [np.sign(ranksums(b, a).statistic) for a, b in zip(control.T, perturbed.T, strict=True)]
    return norm.isf(np.array(p) / 2) * np.array(sign)


def chain(n: int, rng: np.random.Generator, *, weight: float = 0.8, effect: float = 0.0) -> Cells:
    """Genes 0 -> 1 -> 2 -> 3 and two genes apart; ``weight`` is that of 1 -> 2, ``effect`` is added to gene 2."""
    x = rng.normal(size=(n, 6))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    x[:, 2] = weight * x[:, 1] + 0.6 * x[:, 2] + effect
    x[:, 3] = 0.8 * x[:, 2] + 0.6 * x[:, 3]
    return x


def test_log_fold_change_is_signed(rng: np.random.Generator) -> None:
    control = rng.normal(size=(50, 4))
    np.testing.assert_allclose(tb.log_fold_change(control, control[:10] * 0 - 2), -2 - control.mean(0))


def test_rank_sum_equals_scipy(sparse_like: tuple[Cells, Cells]) -> None:
    control, perturbed = sparse_like
    z = tb.rank_sum(control, perturbed)
    assert z[0] == 0 and z[1] < -5
    np.testing.assert_allclose(z[1:], scipy_z(control, perturbed)[1:], rtol=1e-6, atol=1e-9)


def test_rank_sum_without_ties_and_reversed(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(60, 5)), rng.normal(0.3, 1, size=(21, 5))
    z = tb.rank_sum(a, b)
    np.testing.assert_allclose(z, [ranksums(y, x).statistic for x, y in zip(a.T, b.T, strict=True)])
    np.testing.assert_allclose(tb.rank_sum(b, a), -z)


def test_cells_are_left_as_they_are_in_either_order(sparse_like: tuple[Cells, Cells]) -> None:
    for order in ("C", "F"):
        control, perturbed = (np.array(x, order=order) for x in sparse_like)
        tb.RankSum(control).against(perturbed)
        np.testing.assert_array_equal(control, sparse_like[0])
        np.testing.assert_array_equal(perturbed, sparse_like[1])


def test_sorted_control_serves_many_perturbations(sparse_like: tuple[Cells, Cells]) -> None:
    control, perturbed = sparse_like
    before = control.copy()
    shared = tb.RankSum(control)
    for cells in (perturbed, perturbed[:1], control[:30]):
        np.testing.assert_array_equal(shared.against(cells), tb.rank_sum(control, cells))
    assert shared.n_cells == 200
    np.testing.assert_array_equal(control, before)
    # float32 control, float64 perturbed: equal values stay tied
    single = tb.RankSum(control.astype(np.float32)).against(perturbed)
    np.testing.assert_allclose(single, tb.rank_sum(control, perturbed))


def test_mb_ci_finds_a_changed_slope(rng: np.random.Generator) -> None:
    """The child of the target changes too, but not given the target."""
    control, perturbed = chain(1500, rng), chain(1500, rng, weight=-0.8)
    assert tb.mb_ci(control, perturbed).argmax() == 2


def test_mb_ci_explains_a_shifted_child_away(rng: np.random.Generator) -> None:
    control, perturbed = chain(1500, rng), chain(1500, rng, effect=2.0)
    scores = tb.mb_ci(control, perturbed)
    assert abs(tb.log_fold_change(control, perturbed))[3] > 1
    assert scores.argmax() == 2 and scores[2] > 0.05 and np.delete(scores, 2).max() < 0.02


def test_mb_ci_sees_a_change_of_spread_alone(rng: np.random.Generator) -> None:
    control, perturbed = rng.normal(size=(800, 5)), rng.normal(size=(800, 5))
    perturbed[:, 3] *= 2.5
    perturbed[:, 1] += 1.0
    scores = tb.mb_ci(control, perturbed)
    assert scores.argmax() == 3
    # 0.5 log of the pooled variance over the geometric mean of the two
    assert scores[3] == pytest.approx(0.5 * np.log((1 + 2.5**2) / 2 / 2.5), abs=0.05)
    # a shift: between-set variance of a quarter of its square
    assert scores[1] == pytest.approx(0.5 * np.log(1 + 1 / 4), abs=0.03)


def test_mb_ci_ranks_outside_below_inside(rng: np.random.Generator) -> None:
    control, perturbed = rng.normal(size=(300, 12)), rng.normal(size=(300, 12))
    perturbed[:, [3, 7]] += 1.0
    scores = tb.mb_ci(control, perturbed, alpha=0.3, max_genes=6)
    assert set(np.flatnonzero(scores >= 0)) == {3, 7}
    outside = np.delete(scores, [3, 7])
    assert (outside >= -1).all() and (outside < 0).all() and np.unique(outside).size > 5


def test_mb_ci_is_deterministic_and_takes_awkward_genes(rng: np.random.Generator) -> None:
    control, perturbed = rng.normal(size=(100, 6)), rng.normal(size=(40, 6))
    for cells in (control, perturbed):
        cells[:, 1] = 3.0  # constant
        cells[:, 2] = cells[:, 4]  # twins
    control[:, 5] = np.where(control[:, 5] > 1, 1.0, 0.0)
    perturbed[:, 5] = 0.0  # knocked out
    scores = tb.mb_ci(control, perturbed)
    assert np.isfinite(scores).all() and scores.argmax() == 5 and scores[1] <= 0
    np.testing.assert_array_equal(scores, tb.mb_ci(control, perturbed))
    with pytest.raises(ValueError, match="alpha=0"):
        tb.mb_ci(control, perturbed, alpha=0)
    with pytest.raises(ValueError, match="both need at least 10"):
        tb.mb_ci(control, perturbed[:9])


def test_mb_ci_with_one_gene(rng: np.random.Generator) -> None:
    assert tb.mb_ci(rng.normal(size=(50, 1)), rng.normal(3, 1, size=(50, 1)))[0] > 0.3


def test_edge_change_counts_edges_not_means(rng: np.random.Generator) -> None:
    control = chain(1500, rng)
    np.testing.assert_array_equal(tb.edge_change(control, control + 5.0, share=1.0), np.zeros(6))
    moved = tb.edge_change(control, chain(1500, rng, weight=-0.8))
    assert moved[2] >= 1 / 5 and moved[1] >= 1 / 5  # the edge between them
    assert moved[[4, 5]].max() < 0.1


def test_edge_change_conditions_on_other_genes(rng: np.random.Generator) -> None:
    """1 <- 0 -> 2 with 0 spread wider: the slope of 2 on 1 changes, but not given 0."""

    def fork(sd: float) -> Cells:
        x = rng.normal(size=(4000, 3))
        x[:, 0] *= sd
        x[:, 1:] += x[:, :1]
        return x

    control, perturbed = fork(1.0), fork(2.0)
    alone = tb.edge_change(control, perturbed, max_conditioning=0, share=1.0, n_subsamples=1)
    given = tb.edge_change(control, perturbed, share=1.0, n_subsamples=1)
    assert alone.tolist() == [1, 1, 1]
    assert given.tolist() == [1, 0.5, 0.5]


def test_edge_change_two_conditioning_genes_and_seed(rng: np.random.Generator) -> None:
    control, perturbed = chain(400, rng), chain(400, rng, weight=-0.8)
    one, two = (tb.edge_change(control, perturbed, max_conditioning=k, n_subsamples=5) for k in (1, 2))
    assert (two <= one).all() and two[2] > 0
    np.testing.assert_array_equal(one, tb.edge_change(control, perturbed, n_subsamples=5, rng=0))
    for bad in ({"max_conditioning": 3}, {"share": 0.0}, {"alpha": 1.0}, {"n_subsamples": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            tb.edge_change(control, perturbed, **bad)


def test_signature_match() -> None:
    effect = np.array([1.0, -2.0, 0.0, 3.0])
    library = np.array([effect * 2, -effect, [2.0, 1.0, 5.0, 0.0], np.zeros(4), [1.0, np.nan, np.nan, np.nan]])
    found = tb.signature_match(effect, library)
    np.testing.assert_allclose(found[:3], [1, -1, 0], atol=1e-12)
    assert np.isnan(found[3:]).all()
    ranks = tb.signature_match(effect, library, method="spearman")
    np.testing.assert_allclose(ranks[2], spearmanr(effect, library[2]).statistic)
    np.testing.assert_allclose(tb.signature_match(effect, np.array([[1, -2, 0, -99.0]]), exclude=[3]), [1])
    np.testing.assert_allclose(tb.signature_match(effect, np.array([[1, -2, np.nan, 3.0]])), [1])
    with pytest.raises(ValueError, match="n_entries, n_genes"):
        tb.signature_match(effect, library[:, :3])
    with pytest.raises(ValueError, match="pearson"):
        tb.signature_match(effect, library, method="pearson")  # type: ignore[arg-type]


def known(rng: np.random.Generator, n: int, genes: int = 40) -> list[tuple[Cells, Cells, Cells, list[int]]]:
    """Perturbations whose target falls; two other genes rise even more."""
    out = []
    for _ in range(n):
        before, sd = rng.uniform(1, 4, genes), rng.uniform(0.5, 1.5, genes)
        after = before + rng.normal(0, 0.1, genes)
        target, *others = rng.choice(genes, 3, replace=False)
        after[target] -= 1.0
        after[others] += 1.5
        out.append((before, after, sd, [int(target)]))
    return out


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_mean_classifier_learns_the_sign(kind: Any, rng: np.random.Generator) -> None:
    train = known(rng, 30)
    model = tb.MeanClassifier(kind, max_negatives=15).fit(train)
    tests = known(rng, 20, genes=25)  # another number of genes: it knows no gene by place
    assert np.mean([model.score(a, b, sd).argmax() == t[0] for a, b, sd, t in tests]) > 0.9
    a, b, sd, _ = tests[0]
    order = rng.permutation(25)
    np.testing.assert_allclose(model.score(a[order], b[order], sd[order]), model.score(a, b, sd)[order], rtol=1e-6)
    again = tb.MeanClassifier(kind, max_negatives=15).fit(train)
    np.testing.assert_array_equal(again.score(a, b, sd), model.score(a, b, sd))


def test_mean_classifier_refuses() -> None:
    ones = np.ones(4)
    with pytest.raises(RuntimeError, match="call fit"):
        tb.MeanClassifier().score(ones, ones, ones)
    with pytest.raises(ValueError, match="one of linear, mlp"):
        tb.MeanClassifier("trees")  # type: ignore[arg-type]
    for perturbations in ([], [(ones, ones, ones, [])], [(ones, ones, ones, [0, 1, 2, 3])]):
        with pytest.raises(ValueError, match="it needs targets and other genes"):
            tb.MeanClassifier().fit(perturbations)
    with pytest.raises(ValueError, match="n_genes,"):
        tb.MeanClassifier().fit([(ones, ones[:3], ones, [0])])
    with pytest.raises(ValueError, match="finite"):
        tb.MeanClassifier().fit([(ones, ones * np.nan, ones, [0])])


def test_ut_igsp_says_what_to_install(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setitem(sys.modules, "causaldag", None)
    with pytest.raises(ImportError, match="pip install causaldag"):
        tb.ut_igsp(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)))


def test_ut_igsp_averages_over_levels(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    def search(settings: Any, nodes: set[int], independence: float, invariance: float) -> tuple[None, list[set[int]]]:
        return None, [{1} if independence > 0.001 else {1, 2}]

    def tester(test: Any, statistics: Any, alpha: float) -> float:
        return alpha

    fake = SimpleNamespace(
        partial_correlation_suffstat=np.cov,
        gauss_invariance_suffstat=lambda a, b: None,
        partial_correlation_test=None,
        gauss_invariance_test=None,
        MemoizedCI_Tester=tester,
        MemoizedInvarianceTester=tester,
        unknown_target_igsp=search,
    )
    monkeypatch.setitem(sys.modules, "causaldag", fake)  # type: ignore[arg-type]
    scores = tb.ut_igsp(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)), alphas=(1e-4, 0.01))
    assert scores.tolist() == [0, 1, 0.5]
    with pytest.raises(ValueError, match="alphas is empty"):
        tb.ut_igsp(np.ones((20, 3)), np.ones((20, 3)), alphas=())


@pytest.mark.parametrize("score", [tb.log_fold_change, tb.rank_sum, tb.mb_ci, tb.edge_change])
def test_bad_cells_are_refused(score: Callable[..., Any], rng: np.random.Generator) -> None:
    cells = rng.normal(size=(30, 4))
    broken = cells.copy()
    broken[2, 3] = np.nan
    with pytest.raises(ValueError, match="perturbed holds NaN or infinite values, the first in cell 2, gene 3"):
        score(cells, broken)
    with pytest.raises(ValueError, match="control has 4 genes, perturbed 3"):
        score(cells, cells[:, :3])
    with pytest.raises(ValueError, match="control is sparse"):
        score(csr_matrix(cells), cells)
    with pytest.raises(ValueError, match="at least one of each"):
        score(cells, cells[:0])
