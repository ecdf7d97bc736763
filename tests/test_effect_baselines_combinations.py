import numpy as np
import pytest
from scipy.stats import ttest_ind

from causcade.effect_baselines import additive, interaction_score, scaled_additive, stronger_single

PARTS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])  # the third perturbation was never alone
D = 6


def training(seed: int = 0, factor: float = 0.5) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    change = [np.zeros(D), np.r_[2.0, 1, 0, 0, 0, 0], np.r_[0, 0, 0, 0.5, 0, 0]]
    change.append(factor * (change[1] + change[2]))
    groups = [rng.normal(size=(30, D)) + c for c in change]
    return np.concatenate(groups), np.repeat([0, 1, 2, 3], 30), groups


def test_additive_sums_the_changes_of_the_parts() -> None:
    cells, codes, (control, a, b, _) = training()
    fit = additive(cells, codes, PARTS)
    want = a.mean(0) + b.mean(0) - 2 * control.mean(0)
    assert np.allclose(fit.mean_change([[1, 1, 0], [0, 1, 0]]), [want, b.mean(0) - control.mean(0)])
    assert np.allclose(fit.predict([[1, 1, 0]])[0], control + want)
    assert np.isnan(fit.mean_change([[1, 0, 1]])).all()


def test_scale_is_least_squares() -> None:
    cells, codes, (control, a, b, ab) = training()
    fit = scaled_additive(cells, codes, PARTS)
    want = a.mean(0) + b.mean(0) - 2 * control.mean(0)
    scale = np.linalg.lstsq(want[:, None], ab.mean(0) - control.mean(0), rcond=None)[0][0]
    assert fit.info["scale"] == pytest.approx(scale) and 0.3 < scale < 0.7
    assert np.allclose(fit.mean_change([[1, 1, 0]])[0], scale * want)
    assert np.allclose(fit.mean_change([[1, 0, 0]])[0], a.mean(0) - control.mean(0))
    some = codes < 3
    assert scaled_additive(cells[some], codes[some], PARTS[:2]).info["scale"] == 1


def test_stronger_single_is_nearest_to_the_sum() -> None:
    cells, codes, (control, a, b, _) = training()
    fit = stronger_single(cells, codes, PARTS)
    assert np.array_equal(fit.predict([[1, 1, 0], [0, 1, 0]])[0], a) and np.array_equal(fit.predict([[0, 1, 1]])[0], b)
    change = fit.mean_change([[1, 1, 0]])[0]
    total = additive(cells, codes, PARTS).mean_change([[1, 1, 0]])[0]
    alone = [x.mean(0) - control.mean(0) for x in (a, b)]
    assert np.allclose(change, min(alone, key=lambda x: np.linalg.norm(x - total)))
    with pytest.raises(ValueError, match=r"regimes \[1\] have no part"):
        fit.predict([[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("function", [additive, scaled_additive, stronger_single])
def test_bad_parts_are_refused(function: object) -> None:
    cells, codes, _ = training()
    for wrong in (2 * PARTS, np.zeros_like(PARTS)):
        with pytest.raises(ValueError, match="features must be 1"):
            function(cells, codes, wrong)  # type: ignore[operator]
    with pytest.raises(ValueError, match="needs features"):
        function(cells, codes)  # type: ignore[operator]
    with pytest.raises(ValueError, match="was fitted"):
        function(cells, codes, PARTS).mean_change([[1, 1]])  # type: ignore[operator]


def test_two_regimes_of_one_perturbation_are_refused() -> None:
    cells, codes, _ = training()
    with pytest.raises(ValueError, match=r"perturbations \[0\] have several"):
        additive(cells, codes, [[1, 0], [1, 0], [1, 1]])


def test_interaction_score_finds_the_genes_and_not_others() -> None:
    rng = np.random.default_rng(1)
    control, a, b = (rng.normal(size=(200, 300)) + c for c in (0, 0.5, -1.0))
    both = rng.normal(size=(200, 300)) - 0.5
    both[:, :10] += 1.5
    found = interaction_score(control, [a, b], both)
    assert np.allclose(found["difference"], both.mean(0) - a.mean(0) - b.mean(0) + control.mean(0))
    assert (found["fdr"][:10] < 0.01).all() and (found["fdr"][10:] < 0.05).mean() < 0.02
    assert found["z"][10:].std() == pytest.approx(1, abs=0.15)


def test_interaction_of_nothing_is_a_two_sample_test() -> None:
    rng = np.random.default_rng(2)
    flat = np.ones((5, 4))
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(30, 4))
    found = interaction_score(flat, [flat, x], y)
    assert np.allclose(found["z"], ttest_ind(y, x, equal_var=False).statistic)
    assert not interaction_score(flat, [flat, flat], flat)["z"].any()
    with pytest.raises(ValueError, match="at least two parts"):
        interaction_score(flat, [flat], flat)
    with pytest.raises(ValueError, match="NaN"):
        interaction_score(flat, [flat, flat], flat * np.nan)
