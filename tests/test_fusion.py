from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import rankdata

from causcade.fusion import (
    FEATURES,
    METHODS,
    default_weights,
    fit_fusion,
    fuse,
    rank_features,
    stack_methods,
)


def noise(n: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 3))


def screens(n: int, gain: tuple[float, float, float], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features and targets of `n` perturbations in which each method adds so much to the target."""
    rng = np.random.default_rng(seed)
    features, targets = [], []
    for _ in range(n):
        scores, target = rng.normal(size=(60, 3)), int(rng.integers(60))
        scores[target] += gain
        features.append(rank_features(scores))
        targets.append(np.array([target]))
    return features, targets


def by_method(weights: dict[str, float]) -> np.ndarray:
    return np.array(list(weights.values())).reshape(3, 2).sum(axis=1)


def test_features_by_hand() -> None:
    scores = np.array([[3.0, 5], [np.nan, 100], [1, 5], [2, np.nan]])
    features = rank_features(scores)
    assert np.isnan(features[1]).all()  # no candidate, so its 100 does not count either
    np.testing.assert_allclose(features[[0, 2, 3], 0], -np.log(np.array([1, 3, 2]) / 3))
    np.testing.assert_allclose(features[[0, 2, 3], 1], np.arcsinh(np.array([1, -1, 0]) / np.sqrt(2 / 3)), atol=1e-12)
    np.testing.assert_allclose(features[[0, 2, 3], 2], -np.log(2 / 3))  # the unknown is as low as the lowest
    np.testing.assert_array_equal(features[[0, 2, 3], 3], 0)


def test_features_agree_with_scipy_and_ignore_scale() -> None:
    scores = noise()
    features = rank_features(scores)
    np.testing.assert_allclose(features[:, 4], -np.log(rankdata(-scores[:, 2]) / 50))
    np.testing.assert_allclose(rank_features(scores * [10, 1e-3, 7] + [5, 0, -2]), features, atol=1e-9)


def test_features_follow_the_genes() -> None:
    scores = noise()
    scores[::7, 0] = np.nan
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(rank_features(scores[order]), rank_features(scores)[order], atol=1e-12)
    fused = fuse(rank_features(scores))
    np.testing.assert_allclose(fuse(rank_features(scores[order])), fused[order], atol=1e-12)
    np.testing.assert_array_equal(np.isnan(fused), np.isnan(scores[:, 0]))


def test_no_candidate_does_not_matter() -> None:
    scores = noise()
    scores[40:, 0] = np.nan
    np.testing.assert_array_equal(fuse(rank_features(scores))[:40], fuse(rank_features(scores[:40])))


def test_one_and_no_candidates() -> None:
    scores = np.array([[np.nan, 1, 2], [7, 1, 2]])
    np.testing.assert_array_equal(fuse(rank_features(scores)), [np.nan, 0])
    assert np.isnan(fuse(rank_features(scores[:1]))).all()
    assert rank_features(np.ones((0, 3))).shape == (0, 6)


def test_constant_method_has_no_say() -> None:
    scores = noise()
    scores[:, 1] = 1e6 + 1 / 3
    features = rank_features(scores)
    assert np.ptp(features[:, 2]) == 0 and np.abs(features[:, 3]).max() == 0


def test_stack_takes_sizes() -> None:
    stacked = stack_methods([-1, np.nan], [-2, 2], np.array([3, -4], dtype=np.float32))
    np.testing.assert_array_equal(stacked, [[-1, 2, 3], [np.nan, 2, 4]])


@pytest.mark.parametrize("method", [0, 1, 2])
def test_informative_method_gets_the_weight(method: int) -> None:
    gain = [0.0, 0.0, 0.0]
    gain[method] = 2.5
    features, targets = screens(100, tuple(gain))
    weights = fit_fusion(features, targets)
    shares = by_method(weights)
    assert shares[method] > 5 * np.delete(shares, method).max()
    assert list(weights) == list(FEATURES) and all(type(w) is float and w >= 0 for w in weights.values())


def test_misleading_method_is_ignored_not_inverted() -> None:
    features, targets = screens(100, (2.0, -2.0, 0.0))
    weights = fit_fusion(features, targets)
    assert by_method(weights)[1] == 0


def test_learned_fusion_finds_more_than_each_method() -> None:
    weights = fit_fusion(*screens(60, (2.0, 2.0, 0.0)))
    features, targets = screens(100, (2.0, 2.0, 0.0), seed=1)

    def place(scores: list[np.ndarray]) -> float:
        return float(np.mean([(s >= s[t]).sum() for s, t in zip(scores, targets, strict=True)]))

    single = [place([f[:, 2 * m] for f in features]) for m in range(2)]
    default = place([fuse(f) for f in features])
    learned = place([fuse(f, weights) for f in features])
    assert learned < default < min(single)


def test_fit_solves_the_stated_problem() -> None:
    features, targets = screens(12, (1.0, 0.5, 0.3))
    targets[0] = np.array([3, 8])  # two targets share the weight of one perturbation
    start = np.array(list(default_weights().values()))

    def loss(w: np.ndarray) -> float:
        fit = sum(log_softmax(f @ w)[t].mean() for f, t in zip(features, targets, strict=True))
        return float(2 * ((w - start) ** 2).sum() / 2 - fit)

    reference = minimize(loss, start, method="SLSQP", bounds=[(0, None)] * 6, options={"ftol": 1e-14, "maxiter": 500})
    np.testing.assert_allclose(list(fit_fusion(features, targets, l2=2.0).values()), reference.x, atol=1e-4)


def test_little_data_stays_near_the_default() -> None:
    assert fit_fusion([], []) == default_weights()
    features, targets = screens(1, (9.0, 0.0, 0.0))
    near = fit_fusion(features, targets, l2=1e4)
    np.testing.assert_allclose(list(near.values()), list(default_weights().values()), atol=1e-3)
    one = fit_fusion(features, targets)
    assert by_method(one)[0] > by_method(default_weights())[0]
    assert one == fit_fusion(features, targets)


def test_targets_that_are_no_candidates_are_left_out() -> None:
    features, targets = screens(10, (2.0, 0.0, 0.0))
    weights = fit_fusion(features, targets)
    lost = noise()
    lost[4, 0] = np.nan
    more = fit_fusion([*features, rank_features(lost), rank_features(lost)], [*targets, [4], []])
    assert more == weights
    padded = [np.concatenate([np.full((3, 6), np.nan), f]) for f in features]  # positions are those of all genes
    moved = fit_fusion(padded, [t + 3 for t in targets])
    np.testing.assert_allclose(list(moved.values()), list(weights.values()), atol=1e-12)


def test_equal_weights_by_default() -> None:
    assert set(default_weights().values()) == {1 / len(METHODS)}
    features = rank_features(noise())
    np.testing.assert_allclose(fuse(features), features.sum(axis=1) / 3)
    np.testing.assert_array_equal(fuse(features), fuse(features, default_weights()))


def test_errors() -> None:
    features = rank_features(noise())
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        rank_features([1.0, 2, 3])
    with pytest.raises(ValueError, match="infinite values"):
        rank_features([[np.inf, 0, 0]])
    with pytest.raises(ValueError, match=r"must be \(n_genes, 6\)"):
        fuse(features[:, :4])
    with pytest.raises(ValueError, match="missing or unknown: cdn_rank, else"):
        fuse(features, {**dict.fromkeys(FEATURES[1:], 1.0), "else": 1.0})
    with pytest.raises(ValueError, match="not negative"):
        fuse(features, {**default_weights(), "lfc_rank": -0.1})
    with pytest.raises(ValueError, match="1 perturbations, but targets of 0"):
        fit_fusion([features], [])
    with pytest.raises(ValueError, match=r"targets\[0\] holds \[-1, 50\], but there are 50 genes"):
        fit_fusion([features], [[50, -1]])
    with pytest.raises(ValueError, match="l2 must be positive"):
        fit_fusion([features], [[0]], l2=0)
