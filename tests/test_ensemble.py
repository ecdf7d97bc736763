from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from causcade.ensemble import Ensemble, _rank_agreement, cover_pairs, cover_targets, n_sets, score_pairs


def known(n: int) -> np.ndarray:
    return np.random.default_rng(3).normal(-8, 2, (n, n)).astype(np.float32)


def reading(matrix: np.ndarray, noise: float = 0.0, log: list | None = None):
    """A scorer that looks the answer up, with noise."""

    def score(genes, rng):
        if log is not None:
            log.append(genes)
        block = matrix[np.ix_(genes, genes)]
        return (block + noise * rng.standard_normal(block.shape)).astype(np.float32)

    return score


SHAPES = [(2, 2), (3, 2), (7, 3), (7, 7), (9, 5), (5, 5), (20, 6), (20, 7), (31, 96), (40, 9)]


@pytest.mark.parametrize(("n", "size"), SHAPES)
@pytest.mark.parametrize("n_anchors", [0, 1, 4])
def test_cover_pairs(n, size, n_anchors):
    anchors = np.arange(n)[::-1][: min(n_anchors, n)]
    sets = list(cover_pairs(n, size, anchors=anchors if n_anchors else None, rng=np.random.default_rng(0)))
    met = {pair for s in sets for pair in combinations(sorted(s.tolist()), 2)}
    assert met == set(combinations(range(n), 2))
    for s in sets:
        assert len(set(s.tolist())) == len(s) <= size
        assert set(anchors[: max(0, size - 2)].tolist()) <= set(s.tolist())
    assert len(sets) == 1 or n > size


@pytest.mark.parametrize(("n", "size"), SHAPES)
@pytest.mark.parametrize("n_anchors", [0, 1, 4])
@pytest.mark.parametrize("n_targets", [1, 2, 6])
def test_cover_targets(n, size, n_anchors, n_targets):
    targets = np.arange(n)[:n_targets]
    anchors = np.arange(n)[::-1][: min(n_anchors, n)]
    sets = list(cover_targets(n, size, targets, anchors=anchors, rng=np.random.default_rng(0)))
    for target in targets:
        assert set(np.concatenate([s for s in sets if target in s]).tolist()) == set(range(n))
    for s in sets:
        assert len(set(s.tolist())) == len(s) <= size
        assert set(anchors[: min(size // 2, size - 2)].tolist()) <= set(s.tolist())


@pytest.mark.parametrize(
    ("n", "size", "k"), [(50, 10, 1), (50, 10, 7), (50, 10, 50), (9, 20, 3), (41, 7, 41), (3, 2, 3)]
)
def test_n_sets_counts_the_passes(n, size, k):
    out = score_pairs(reading(known(n)), n, targets=np.arange(k), size=size, n_draws=1, rng=np.random.default_rng(0))
    assert out.passes == n_sets(n, size, k)


def test_n_sets_with_anchors():
    rng = np.random.default_rng(0)
    anchors = np.arange(46, 50)
    lengths = [
        len(list(cover_targets(50, 12, np.arange(5), anchors=anchors, rng=rng))),
        len(list(cover_pairs(50, 12, anchors=anchors, rng=rng))),
    ]
    assert n_sets(50, 12, 5, 4) == min(lengths)


@pytest.mark.parametrize(("n", "size"), SHAPES)
@pytest.mark.parametrize("targets", [None, [1], [1, 0]])
@pytest.mark.parametrize("n_anchors", [0, 3])
def test_score_pairs_gives_back_a_known_matrix(n, size, targets, n_anchors):
    matrix = known(n)
    wanted = None if targets is None else np.array(targets)
    out = score_pairs(
        reading(matrix), n, targets=wanted, size=size, n_draws=3, n_anchors=n_anchors, rng=np.random.default_rng(1)
    )
    expected = matrix if wanted is None else matrix[:, wanted]
    np.testing.assert_allclose(out.mean, expected, rtol=1e-5)
    np.testing.assert_allclose(out.sd, 0, atol=1e-4)
    assert out.count.min() >= 3
    assert out.mean.dtype == out.sd.dtype == np.float32
    for part in (out.total, out.square, out.count, out.mean, out.sd):
        assert part.shape == (n, n if wanted is None else len(wanted))


def test_targets_share_passes():
    one = score_pairs(reading(known(60)), 60, targets=np.array([5]), size=12, n_draws=1, rng=np.random.default_rng(0))
    all_ = score_pairs(reading(known(60)), 60, size=12, n_draws=1, rng=np.random.default_rng(0))
    assert one.passes == 6  # 59 candidates, 11 beside the target
    assert all_.passes == 45  # pairs of ten chunks


def test_noise_averages_out():
    matrix = known(12)
    out = score_pairs(reading(matrix, noise=0.5), 12, size=12, n_draws=400, rng=np.random.default_rng(0))
    assert (out.count == 400).all()
    error = (out.mean - matrix) * np.sqrt(400) / 0.5
    assert np.abs(error).max() < 5
    assert 0.8 < error.std() < 1.2
    np.testing.assert_allclose(out.sd, 0.5, rtol=0.2)


def test_mean_and_sd_are_numpys():
    rng = np.random.default_rng(0)
    n, targets = 9, np.array([4, 1, 7])
    out = Ensemble.empty(n, targets)
    seen: dict[tuple[int, int], list[float]] = {}
    for _ in range(30):
        genes = rng.permutation(n)[: rng.integers(2, 7)]
        scores = (rng.normal(-8, 1e-2, (len(genes), len(genes)))).astype(np.float32)
        out.add(genes, scores)
        for a, i in enumerate(genes):
            for b, j in enumerate(genes):
                seen.setdefault((i, j), []).append(float(scores[a, b]))
    for i in range(n):
        for c, j in enumerate(targets):
            values = seen.get((i, j), [])
            assert out.count[i, c] == len(values)
            assert out.mean[i, c] == pytest.approx(np.mean(values), abs=1e-5)
            assert out.sd[i, c] == pytest.approx(np.std(values, ddof=1), rel=1e-2)
    assert out.passes == 30


def test_add_unordered_repeated_and_missing():
    out = Ensemble.empty(4, np.array([3, 0]))
    out.add(np.array([3, 1, 0]), np.arange(9, dtype=np.float32).reshape(3, 3))
    np.testing.assert_array_equal(out.mean, [[6, 8], [3, 5], [np.nan, np.nan], [0, 2]])
    assert np.isnan(out.sd).all()
    out.add(np.array([2]), np.ones((1, 1), np.float32))  # no target in it
    assert out.count[2].tolist() == [0, 0]
    twice = Ensemble.empty(4, np.array([3, 0]))
    twice.add(np.array([1, 3, 1, 0]), np.arange(16, dtype=np.float32).reshape(4, 4))
    assert twice.count.tolist() == [[1, 1], [1, 1], [0, 0], [1, 1]]
    assert twice.mean[1].tolist() == [9, 11]  # the last place counts


def test_targets_may_repeat():
    matrix = known(6)
    out = score_pairs(reading(matrix), 6, targets=np.array([2, 2]), size=4, rng=np.random.default_rng(0))
    np.testing.assert_allclose(out.mean, matrix[:, [2, 2]], rtol=1e-6)


def test_stable_stops_early():
    def run(noise, stable):
        return score_pairs(
            reading(known(10), noise), 10, size=10, n_draws=50, stable=stable, rng=np.random.default_rng(0)
        ).passes

    assert run(0.0, 1.0 - 1e-9) == 2
    assert run(20.0, None) == 50
    assert 2 < run(20.0, 0.9) < 50


def test_rank_agreement_is_spearman():
    a, b = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    expected = np.mean([spearmanr(a[:, j], b[:, j]).statistic for j in range(4)])
    assert _rank_agreement(a, b) == pytest.approx(expected)


def test_same_seed_same_answer():
    def run(seed):
        out = score_pairs(reading(known(25), 1.0), 25, size=8, n_anchors=2, rng=np.random.default_rng(seed))
        return out.mean, out.sd, out.count

    for a, b in zip(run(5), run(5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(run(5)[0], run(6)[0])


def test_anchors_are_the_highest_genes():
    matrix = known(20)
    hubs = np.argsort(-matrix.mean(1))[:2]
    log: list = []
    out = score_pairs(reading(matrix, log=log), 20, size=6, n_draws=2, n_anchors=2, rng=np.random.default_rng(0))
    first = len(list(cover_pairs(20, 6, rng=np.random.default_rng(0))))
    assert all(set(hubs) <= set(s) for s in log[first:])
    assert not all(set(hubs) <= set(s) for s in log[:first])
    assert len(log) == out.passes


@pytest.mark.parametrize("bad", [{"size": 1}, {"size": 0}, {"n_draws": 0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match="at least 2 genes"):
        score_pairs(reading(known(5)), 5, rng=np.random.default_rng(0), **bad)
