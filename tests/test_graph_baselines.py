"""Graph baselines against closed forms, scikit-learn and small structural models whose graph is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression

from causcade import graph_baselines as gb
from causcade import metrics, simulate

CHAIN = np.eye(4, k=1, dtype=bool)
FAST = [gb.correlation, gb.precision, gb.sortnregress, gb.r2_sortnregress, gb.lingam]
by_name = pytest.mark.parametrize("method", FAST, ids=lambda f: f.__name__)


def chain(n: int, *, seed: int = 0, laplace: bool = False, per_gene: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Genes 0 -> 1 -> 2 -> 3 of about equal variance; ``per_gene`` cells in which that gene is set at random."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((n + 4 * per_gene, 4), bool)
    for j in range(4):
        mask[n + j * per_gene : n + (j + 1) * per_gene, j] = True
    noise = rng.laplace(size=mask.shape) / np.sqrt(2) if laplace else rng.normal(size=mask.shape)
    fixed, x = 2 * rng.normal(size=mask.shape), noise.copy()
    for j in range(4):
        if j:
            x[:, j] = 0.8 * x[:, j - 1] + 0.6 * noise[:, j]
        x[:, j] = np.where(mask[:, j], fixed[:, j], x[:, j])
    return x, mask


@cache
def simulated(standardise: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    adjacency = simulate.erdos_renyi(12, 2.0, rng=seed)
    scm = simulate.random_scm(adjacency, standardise=standardise, rng=seed)
    return scm.sample(600, rng=seed + 1).double().numpy(), adjacency.numpy()


# --- all of them --------------------------------------------------------------------------------------------------


@by_name
def test_layout_and_permutation(method: Callable[..., np.ndarray]) -> None:
    x, mask = chain(300, laplace=True, per_gene=30)
    order = np.array([2, 0, 3, 1])
    for given in (None, mask):
        score = method(x, given)
        assert score.shape == (4, 4)
        assert (score >= 0).all()
        assert not score.diagonal().any()
        permuted = method(x[:, order], None if given is None else given[:, order])
        np.testing.assert_allclose(permuted, score[np.ix_(order, order)], atol=1e-9)
        if given is None:
            np.testing.assert_allclose(method(x, np.zeros(x.shape)), score)


@by_name
def test_a_flat_gene_has_no_edges(method: Callable[..., np.ndarray]) -> None:
    x, _ = chain(200, laplace=True)
    x[:, 2] = 7.3
    score = method(x)
    assert np.isfinite(score).all()
    assert not score[2].any()
    assert not score[:, 2].any()
    assert score[[0, 1], [1, 0]].max() > 0.3


@by_name
def test_copies_of_a_gene_are_no_error(method: Callable[..., np.ndarray]) -> None:
    x, _ = chain(200, laplace=True)
    assert np.isfinite(method(np.c_[x, x[:, 1]])).all()


@by_name
@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (np.ones((20, 3, 1)), None, "n_cells, n_genes"),
        (np.ones((20, 1)), None, "2 genes"),
        (np.array([[0.0, np.nan]] * 20), None, "cell 0, gene 1"),
        (csr_matrix((20, 3)), None, "sparse"),
        (np.ones((20, 3)), np.ones(3), "mask has shape"),
        (np.ones((20, 3)), np.tile([1, 0, 0], (20, 1)), r"the first at \[0\]"),
    ],
)
def test_bad_input(method: Callable[..., np.ndarray], values: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(values, mask)


@pytest.mark.parametrize("method", FAST[2:], ids=lambda f: f.__name__)
def test_regressions_need_more_cells_than_genes(method: Callable[..., np.ndarray]) -> None:
    x = np.random.default_rng(0).normal(size=(12, 10))
    with pytest.raises(ValueError, match="fewer than 13 cells"):
        method(x)


# --- correlation and precision ------------------------------------------------------------------------------------


def test_observational_correlation_and_precision_by_closed_form() -> None:
    x, _ = chain(500)
    r = np.corrcoef(x.T)
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(gb.correlation(x)[off], np.abs(r[off]))
    z = (x - x.mean(0)) / x.std(0)
    inverse = np.linalg.inv(ledoit_wolf(z)[0])
    partial = np.abs(inverse) / np.sqrt(np.outer(inverse.diagonal(), inverse.diagonal()))
    np.testing.assert_allclose(gb.precision(x)[off], partial[off])


def test_correlation_leaves_out_cells_in_which_the_effect_was_acted_on() -> None:
    x, mask = chain(100, per_gene=25)
    score = gb.correlation(x, mask)
    for i, j in np.argwhere(~np.eye(4, dtype=bool)):
        cells = ~mask[:, j]
        assert score[i, j] == pytest.approx(abs(np.corrcoef(x[cells, i], x[cells, j])[0, 1]))


@pytest.mark.parametrize("method", [gb.correlation, gb.precision])
def test_interventions_give_associations_a_direction(method: Callable[..., np.ndarray]) -> None:
    x, mask = chain(100, per_gene=100)
    assert metrics.direction_accuracy(CHAIN, method(x)) == 0.5
    assert metrics.direction_accuracy(CHAIN, method(x, mask)) == 1


def test_precision_explains_indirect_pairs_away() -> None:
    x, _ = chain(3000)
    assert gb.correlation(x)[0, 2] > 0.5
    assert gb.precision(x)[0, 2] < 0.1 < gb.precision(x)[0, 1]


# --- sort and regress ---------------------------------------------------------------------------------------------


def test_sortnregress_gets_raw_models_right_and_standardised_ones_not() -> None:
    f1, direction = {}, {}
    for kind in ("none", "internal"):
        scores = [(gb.sortnregress(x), truth) for x, truth in (simulated(kind, s) for s in range(3))]
        f1[kind] = np.mean([metrics.edge_recovery(truth, score, 1e-12).f1 for score, truth in scores])
        direction[kind] = np.mean([metrics.direction_accuracy(truth, score) for score, truth in scores])
    assert f1["none"] > 0.93
    assert direction["none"] > 0.95
    assert f1["internal"] < 0.5
    assert abs(direction["internal"] - 0.5) < 0.15


def test_r2_sortnregress_does_not_depend_on_scale_and_sortnregress_does() -> None:
    x, _ = simulated("none", 0)
    z = (x - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(gb.r2_sortnregress(z), gb.r2_sortnregress(x), atol=1e-9)
    assert ((gb.sortnregress(z) > 0) != (gb.sortnregress(x) > 0)).any()


def test_r2_sortnregress_follows_r2() -> None:
    x, _ = simulated("none", 1)
    r2 = [LinearRegression().fit(np.delete(x, j, 1), x[:, j]).score(np.delete(x, j, 1), x[:, j]) for j in range(12)]
    i, j = np.nonzero(gb.r2_sortnregress(x))
    assert i.size > 12
    assert (np.array(r2)[i] < np.array(r2)[j]).all()


def test_sortnregress_gives_standardised_coefficients() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 3))
    x[:, 1] += 2 * x[:, 0]  # variances 1, 5, then 6
    x[:, 2] += x[:, 1]
    expected = np.zeros((3, 3))
    expected[0, 1], expected[1, 2] = 2 / np.sqrt(5), np.sqrt(5 / 6)
    np.testing.assert_allclose(gb.sortnregress(x), expected, atol=0.02)


def test_sortnregress_reads_control_cells_for_the_order_and_free_cells_for_the_coefficients() -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(400, 2)), np.zeros((400, 2), bool)
    mask[200:300, 0], x[200:300, 0] = True, 100 * rng.normal(size=100)  # would turn the order, were it read
    x[:, 1] = 0.5 * x[:, 0] + 1.2 * x[:, 1]
    mask[300:, 1], x[300:, 1] = True, 50 * rng.normal(size=100)  # would dilute the coefficient
    score = gb.sortnregress(x, mask)
    assert score[0, 1] == pytest.approx(1, abs=0.01)
    assert score[1, 0] == 0


def test_genes_of_equal_variance_are_not_sorted_by_position() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1)) + rng.normal(size=(300, 8))
    found = gb.sortnregress((x - x.mean(0)) / x.std(0)) > 0
    assert 0 < np.tril(found).sum() < found.sum()


# --- LiNGAM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_lingam_needs_no_scale_but_noise_that_is_not_gaussian(seed: int) -> None:
    x, _ = chain(1500, seed=seed, laplace=True)
    order = np.random.default_rng(seed).permutation(4)
    z = (x / x.std(0))[:, order]
    truth = CHAIN[np.ix_(order, order)]
    np.testing.assert_array_equal(gb.lingam(z) > 0.1, truth)
    np.testing.assert_allclose(gb.lingam(z * [1, 10, 0.1, 3]), gb.lingam(z), atol=1e-9)


def test_lingam_equals_the_pairwise_ratio_of_its_paper() -> None:
    """Its first gene, by loops over pairs."""
    from causcade.graph_baselines._lingam import _causal_order

    def entropy(u: np.ndarray) -> float:
        known = 79.047 * (np.log(np.cosh(u)).mean() - 0.37457) ** 2 + 7.4129 * (u * np.exp(-(u**2) / 2)).mean() ** 2
        return (1 + np.log(2 * np.pi)) / 2 - float(known)

    def left(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        residual = a - np.cov(a, b, bias=True)[0, 1] / b.var() * b
        return residual / residual.std()

    for seed in range(3):
        x = np.random.default_rng(seed).laplace(size=(200, 6)) @ np.random.default_rng(seed + 9).normal(size=(6, 6))
        z = (x - x.mean(0)) / x.std(0)
        against = np.zeros(6)
        for i in range(6):
            for j in set(range(6)) - {i}:
                a, b = z[:, i], z[:, j]
                ratio = entropy(b) + entropy(left(a, b)) - entropy(a) - entropy(left(b, a))
                against[i] += min(0, ratio) ** 2
        assert _causal_order(x)[0] == against.argmin()


# --- PC, GES, GIES ------------------------------------------------------------------------------------------------

COLLIDER = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=float)


def collider(n: int, seed: int = 0) -> np.ndarray:
    """0 -> 2 <- 1 and 2 -> 3: every direction can be told from observations."""
    x = np.random.default_rng(seed).normal(size=(n, 4))
    x[:, 2] += x[:, 0] + x[:, 1]
    x[:, 3] += x[:, 2]
    return x


@pytest.mark.parametrize(
    ("method", "package"),
    [(partial(gb.pc, alpha=1e-4), "causallearn"), (gb.ges, "gies"), (gb.gies, "gies")],
    ids=["pc", "ges", "gies"],
)
def test_equivalence_classes(method: Callable[..., np.ndarray], package: str) -> None:
    pytest.importorskip(package)
    np.testing.assert_array_equal(method(collider(2000)), COLLIDER)
    np.testing.assert_array_equal(method(collider(2000)[:, ::-1]), COLLIDER[::-1, ::-1])
    np.testing.assert_array_equal(method(chain(2000)[0]), 0.5 * (CHAIN | CHAIN.T))  # any one of its directions


def test_gies_uses_interventions_and_ges_does_not() -> None:
    pytest.importorskip("gies")
    x, mask = chain(1000, per_gene=50)
    np.testing.assert_array_equal(gb.gies(x, mask), CHAIN)
    np.testing.assert_array_equal(gb.ges(x, mask), gb.ges(x[:1000]))


def test_gies_orients_by_a_single_cell_per_gene() -> None:
    pytest.importorskip("gies")
    x, mask = chain(300)
    acted_on = np.eye(4, dtype=bool)
    shifted = np.array([[25, 20, 16, 12.8], [0, 25, 20, 16], [0, 0, 25, 20], [0, 0, 0, 25]])
    np.testing.assert_array_equal(gb.gies(np.r_[x, shifted], np.r_[mask, acted_on]), CHAIN)


def test_ges_scores_as_its_package_does() -> None:
    gies = pytest.importorskip("gies")
    from causcade.graph_baselines._classes import _GaussianBIC

    x, _ = simulated("internal", 0)
    x = x[:, :6]
    z = (x - x.mean(0)) / x.std(0)
    theirs = gies.scores.gauss_int_l0_pen.GaussIntL0Pen([z], [[]])
    ours = _GaussianBIC(x, np.ones(x.shape, bool))
    for gene, parents in [(0, set()), (1, {0, 2}), (5, {0, 1, 2, 3})]:
        assert ours.local_score(gene, parents) == pytest.approx(theirs.local_score(gene, parents))
    np.testing.assert_array_equal(gb.ges(x) > 0, gies.fit_bic([x], [[]])[0] != 0)


def test_gies_asks_for_the_score_by_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: what it would be handed."""
    seen: list[Any] = []
    answer = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    monkeypatch.setitem(sys.modules, "gies", SimpleNamespace(fit=lambda score: seen.append(score) or (answer, 0.0)))
    x, mask = chain(200, per_gene=20)
    found = gb.gies(x, mask)
    np.testing.assert_array_equal(found, [[0, 0.5, 0, 0], [0.5, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    score = seen[0]
    assert score.p == 4
    assert sorted(score.interv) == [[], [0], [1], [2], [3]]
    cells = ~mask[:, 2]
    z = ((x - x.mean(0)) / x.std(0))[cells]
    fit = LinearRegression().fit(z[:, [0, 1]], z[:, 2])
    variance = ((z[:, 2] - fit.predict(z[:, [0, 1]])) ** 2).mean()
    expected = -0.5 * cells.sum() * (1 + np.log(variance)) - 0.5 * np.log(len(x)) * 3
    assert score.local_score(2, {0, 1}) == pytest.approx(expected)
    alone = [score.local_score(0, set()), *(score.local_score(j, {j - 1}) for j in (1, 2, 3))]
    assert score.full_score(CHAIN) == pytest.approx(sum(alone))


def test_pc_reads_the_marks_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = np.zeros((5, 5))
    marks[0, 1], marks[1, 0] = -1, 1  # 0 -> 1
    marks[1, 2], marks[2, 1] = -1, -1  # 1 - 2
    marks[3, 4], marks[4, 3] = 1, 1  # 3 <-> 4
    fake = SimpleNamespace(pc=lambda *_, **__: SimpleNamespace(G=SimpleNamespace(graph=marks)))
    monkeypatch.setitem(sys.modules, "causallearn.search.ConstraintBased.PC", fake)
    expected = np.zeros((5, 5))
    expected[0, 1] = 1
    expected[[1, 2, 3, 4], [2, 1, 4, 3]] = 0.5
    np.testing.assert_array_equal(gb.pc(np.random.default_rng(0).normal(size=(50, 5))), expected)


@pytest.mark.parametrize(
    ("method", "module", "package"),
    [(gb.pc, "causallearn", "causal-learn"), (gb.ges, "gies", "gies"), (gb.gies, "gies", "gies")],
)
def test_without_the_package(
    method: Callable[..., np.ndarray], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{method.__name__} needs the package {package}.*pip install {package}"):
        method(collider(50))


@pytest.mark.parametrize("method", [gb.pc, gb.ges, gb.gies], ids=lambda f: f.__name__)
def test_classes_refuse_bad_input(method: Callable[..., np.ndarray]) -> None:
    x = collider(50)
    with pytest.raises(ValueError, match=r"genes \[1\] do not vary"):
        method(x * [1, 0, 1, 1])
    with pytest.raises(ValueError, match="fewer than 7 cells"):
        method(x[:6])
    with pytest.raises(ValueError, match="alpha=2"):
        gb.pc(x, alpha=2)


# --- bootstrap ----------------------------------------------------------------------------------------------------


def test_bootstrap_is_the_share_of_resamples() -> None:
    answers = iter([[[0, 1], [0, 0]], [[0, 0.5], [0.5, 0]], [[0, 0.2], [0.7, 0]], [[0, 0], [0, 0]]])
    found = gb.dag_bootstrap(lambda values, mask: np.array(next(answers)), n_boot=4)(np.eye(5)[:, :2])
    np.testing.assert_allclose(found, [[0, 1.5 / 4], [1.5 / 4, 0]])


def test_bootstrap_threshold() -> None:
    answer = np.array([[9, 0.3, 0.1], [0.2, 9, 0.05], [0.4, 0.3, 9]])
    found = gb.dag_bootstrap(lambda values, mask: answer, n_boot=3, threshold=0.15)(np.eye(5)[:, :3])
    np.testing.assert_array_equal(found, [[0, 1, 0], [0, 0, 0], [1, 1, 0]])


def test_bootstrap_resamples_cells_among_those_acted_on_alike() -> None:
    x, mask = chain(40, per_gene=5)
    x[:, 0] = np.arange(len(x))
    seen: list[tuple[np.ndarray, Any]] = []

    def record(values: Any, given: Any) -> np.ndarray:
        seen.append((values[:, 0].astype(int), given))
        return np.zeros((4, 4))

    method = gb.dag_bootstrap(record, n_boot=3, rng=5)
    method(x, mask)
    for rows, given in seen:
        np.testing.assert_array_equal(given, mask[rows])
        np.testing.assert_array_equal(given.sum(0), mask.sum(0))
        assert len(set(rows.tolist())) < len(rows) == len(x)
    assert (seen[0][0] != seen[1][0]).any()
    method(x, None)
    assert seen[3][1] is None
    seen.clear()
    method(x, mask)
    again = [rows for rows, _ in seen]
    seen.clear()
    method(x, mask)
    np.testing.assert_array_equal([rows for rows, _ in seen], again)


def test_bootstrap_of_lingam_is_surer_with_more_cells() -> None:
    x, _ = chain(1000, laplace=True)
    few, many = (gb.dag_bootstrap(gb.lingam, n_boot=5)(x[:n]) for n in (30, 1000))
    assert many[CHAIN].min() > 0.9
    assert many[CHAIN].mean() > few[CHAIN].mean()
    assert (few + few.T).max() <= 1


def test_bootstrap_needs_a_resample() -> None:
    with pytest.raises(ValueError, match="n_boot=0"):
        gb.dag_bootstrap(gb.correlation, n_boot=0)
