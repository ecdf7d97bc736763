"""Effect baselines on data whose answer is known, and against scikit-learn and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from causcade import effect_baselines as eb
from causcade.simulate.doses import draw_dose_study, perturbation_features

PERTURBATION = np.repeat(["a", "b", "c", "d"], 3)
DOSE = np.tile([1.0, 2.0, 4.0], 4)
FAST: dict[str, Any] = {"max_steps": 60, "hidden": (8,), "learning_rate": 0.01}
ALL = [eb.observational, eb.perturbed_mean, eb.next_lower_dose, eb.mean_shift_ridge, eb.mean_shift_mlp]
by_name = pytest.mark.parametrize("method", ALL, ids=lambda f: f.__name__)


def data(seed: int = 0, *, p: int = 3, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cells, codes, features and changes of 12 regimes in 5 genes; change = 1 + features @ slopes, then noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(12, p)) * [1, 10, 0.1, *[1] * (p - 3)] + 5
    change = 1 + features @ rng.normal(size=(p, 5)) + noise * rng.normal(size=(12, 5))
    base = rng.normal(size=(8, 5))
    cells = np.concatenate([base, *(base[:4] - base[:4].mean(axis=0) + base.mean(axis=0) + c for c in change)])
    codes = np.concatenate([np.zeros(8, int), np.repeat(np.arange(1, 13), 4)])
    return cells, codes, features, change


def fit(method: Callable[..., eb.EffectBaseline], cells: Any, codes: Any, features: Any) -> eb.EffectBaseline:
    options = FAST if method is eb.mean_shift_mlp else {}
    return method(cells, codes, features, perturbation=PERTURBATION, dose=DOSE, **options)


# --- all of them --------------------------------------------------------------------------------------------------


@by_name
def test_shapes_order_of_cells_and_repeat(method: Callable[..., eb.EffectBaseline]) -> None:
    cells, codes, features, _ = data(noise=0.3)
    first = fit(method, cells, codes, features)
    assert first.name == method.__name__
    assert first.control.shape == (8, 5)
    new = {"features": features[:2] + 0.1, "perturbation": ["a", "x"], "dose": [3.0, 3.0]}
    change, predicted = first.mean_change(**new), first.predict(**new)
    assert change.shape == (2, 5)
    assert len(predicted) == 2
    np.testing.assert_allclose([c.mean(axis=0) - first.control.mean(axis=0) for c in predicted], change, atol=1e-9)
    order = np.random.default_rng(1).permutation(len(cells))
    torch.manual_seed(5)
    again = fit(method, cells[order], codes[order], features)
    np.testing.assert_allclose(again.mean_change(**new), change, atol=1e-5)


@by_name
def test_tensors_and_numbers_of_perturbations_are_taken(method: Callable[..., eb.EffectBaseline]) -> None:
    cells, codes, features, _ = data()
    options = FAST if method is eb.mean_shift_mlp else {}
    got = method(
        torch.tensor(cells),
        torch.tensor(codes),
        torch.tensor(features),
        perturbation=torch.arange(4).repeat_interleave(3),
        dose=torch.tensor(DOSE),
        **options,
    )
    same = fit(method, cells, codes, features)
    np.testing.assert_allclose(
        got.mean_change(torch.tensor(features), perturbation=torch.arange(4).repeat_interleave(3), dose=DOSE),
        same.mean_change(features, perturbation=PERTURBATION, dose=DOSE),
        atol=1e-9,
    )


@by_name
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": "nan"}, r"cells holds NaN or infinite numbers, the first at \[3, 2\]"),
        ({"cells": "sparse"}, "cells must hold numbers in a dense array"),
        ({"codes": np.zeros(3, int)}, "codes"),
        ({"codes": np.zeros(56)}, "float64"),
        ({"codes": np.r_[np.zeros(8, int), np.repeat(np.arange(2, 14), 4)]}, "codes run from 0 to 13"),
        ({"codes": np.r_[np.ones(8, int), np.repeat(np.arange(1, 13), 4)]}, r"no cells for codes \[0\]"),
        ({"codes": np.r_[np.zeros(8, int), np.ones(48, int)]}, r"no cells for codes \[2, 3"),
        ({"features": np.full((12, 2), np.inf)}, "features holds NaN"),
        ({"features": np.ones(12)}, "features has shape"),
        ({"features": np.ones((11, 2))}, "numbers of regimes differ"),
        ({"dose": ["10 nM"] * 12}, "dose must hold numbers"),
        ({"dose": DOSE[None]}, "dose has shape"),
    ],
)
def test_bad_input(method: Callable[..., eb.EffectBaseline], change: dict[str, Any], message: str) -> None:
    cells, codes, features, _ = data()
    given: dict[str, Any] = {"cells": cells, "codes": codes, "features": features}
    given |= {"perturbation": PERTURBATION, "dose": DOSE} | change
    if change.get("cells") == "nan":
        given["cells"] = cells.copy()
        given["cells"][3, 2] = np.nan
    elif change.get("cells") == "sparse":
        given["cells"] = csr_matrix(cells)
    with pytest.raises(ValueError, match=message):
        method(**given)


def test_what_is_needed_is_asked_for() -> None:
    cells, codes, features, _ = data()
    for method in (eb.mean_shift_ridge, eb.mean_shift_mlp):
        with pytest.raises(ValueError, match="needs features"):
            method(cells, codes)
        fitted = fit(method, cells, codes, features)
        with pytest.raises(ValueError, match="needs features"):
            fitted.predict(dose=[1.0])
        with pytest.raises(ValueError, match="features have 2 columns"):
            fitted.predict(features[:, :2])
    with pytest.raises(ValueError, match="needs dose"):
        eb.next_lower_dose(cells, codes, perturbation=PERTURBATION)
    with pytest.raises(ValueError, match="number of regimes is known"):
        eb.observational(cells, codes).predict()


# --- without a fit ------------------------------------------------------------------------------------------------


def test_observational_is_control() -> None:
    cells, codes, _, _ = data()
    fitted = eb.observational(cells, codes)
    assert not fitted.mean_change(dose=[1.0, 2.0]).any()
    for predicted in fitted.predict(dose=[1.0, 2.0]):
        np.testing.assert_array_equal(predicted, cells[:8])


def test_perturbed_mean_counts_regimes_not_cells() -> None:
    cells, codes, _, change = data()
    more = np.concatenate([cells, *[cells[codes == 1]] * 9]), np.concatenate([codes, *[codes[codes == 1]] * 9])
    got = eb.perturbed_mean(*more).mean_change(dose=[1.0])
    np.testing.assert_allclose(got, change.mean(axis=0, keepdims=True))


def test_next_lower_dose() -> None:
    cells, codes, _, change = data()
    fitted = eb.next_lower_dose(cells, codes, perturbation=PERTURBATION, dose=DOSE)
    new: dict[str, Any] = {"perturbation": ["b", "b", "b", "b", "x"], "dose": [9.0, 4.0, 3.0, 1.0, 9.0]}
    np.testing.assert_allclose(
        fitted.mean_change(**new), [change[5], change[4], change[4], 0 * change[0], 0 * change[0]], atol=1e-9
    )
    predicted = fitted.predict(**new)
    np.testing.assert_array_equal(predicted[0], cells[codes == 6])  # cells, not moved control
    np.testing.assert_array_equal(predicted[3], cells[:8])


# --- ridge --------------------------------------------------------------------------------------------------------


def test_ridge_is_exact_on_linear_changes() -> None:
    cells, codes, features, change = data()
    fitted = eb.mean_shift_ridge(cells, codes, features)
    np.testing.assert_allclose(fitted.mean_change(features), change, atol=1e-5)
    other = data(1)[2]  # other regimes, the same slopes
    slopes, *_ = np.linalg.lstsq(np.c_[np.ones(12), features], change, rcond=None)
    np.testing.assert_allclose(fitted.mean_change(other), np.c_[np.ones(12), other] @ slopes, atol=1e-4)
    assert fitted.info["held_out_mse"] < 1e-9


@pytest.mark.parametrize("p", [3, 11])
@pytest.mark.parametrize("hold_out", ["regime", "perturbation"])
def test_ridge_penalty_is_that_of_brute_force(p: int, hold_out: Any) -> None:
    cells, codes, features, change = data(2, p=p, noise=2.0)
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    groups = np.arange(12) if hold_out == "regime" else np.repeat(np.arange(4), 3)

    def error(penalty: float) -> float:
        out = 0.0
        for g in np.unique(groups):
            model = Ridge(alpha=12 * penalty).fit(z[groups != g], change[groups != g])
            out += ((model.predict(z[groups == g]) - change[groups == g]) ** 2).sum()
        return out / change.size

    grid = [1e-6, 0.01, 0.1, 1.0, 10.0, 100.0]
    fitted = eb.mean_shift_ridge(cells, codes, features, perturbation=PERTURBATION, hold_out=hold_out, penalties=grid)
    errors = [error(penalty) for penalty in grid]
    assert fitted.info["penalty"] == grid[int(np.argmin(errors))]
    assert fitted.info["held_out_mse"] == pytest.approx(min(errors), rel=1e-6)
    reference = Ridge(alpha=12 * fitted.info["penalty"]).fit(z, change)
    np.testing.assert_allclose(fitted.mean_change(features), reference.predict(z), atol=1e-8)


def test_ridge_without_signal_is_the_perturbed_mean() -> None:
    cells, codes, features, _ = data(3, noise=1.0)
    noise = np.random.default_rng(9).normal(size=features.shape)
    ridge = eb.mean_shift_ridge(cells, codes, noise, penalties=[1e9])
    mean = eb.perturbed_mean(cells, codes)
    np.testing.assert_allclose(ridge.mean_change(noise), mean.mean_change(noise), atol=1e-5)
    constant = eb.mean_shift_ridge(cells, codes, np.ones((12, 2)))
    np.testing.assert_allclose(constant.mean_change(np.full((12, 2), 3.0)), mean.mean_change(noise), atol=1e-9)


def test_ridge_refuses() -> None:
    cells, codes, features, _ = data()
    with pytest.raises(ValueError, match="penalties must be numbers above 0"):
        eb.mean_shift_ridge(cells, codes, features, penalties=[0.0])
    with pytest.raises(ValueError, match="unknown hold_out 'dose'"):
        eb.mean_shift_ridge(cells, codes, features, hold_out="dose")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs perturbation"):
        eb.mean_shift_ridge(cells, codes, features, hold_out="perturbation")
    with pytest.raises(ValueError, match="one perturbation"):
        eb.mean_shift_ridge(cells, codes, features, hold_out="perturbation", perturbation=["a"] * 12)
    with pytest.raises(ValueError, match="one regime"):
        eb.mean_shift_ridge(cells[:12], codes[:12], features[:1])


# --- networks -----------------------------------------------------------------------------------------------------


def test_mlp_learns_linear_changes_and_units_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 2))
    change = features @ np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    cells = np.concatenate([np.zeros((1, 3)), change])
    options: dict[str, Any] = {"hidden": (16,), "learning_rate": 0.02, "max_steps": 200}
    fitted = eb.mean_shift_mlp(cells, np.arange(61), features, **options)
    new = rng.normal(size=(40, 2))
    truth = new @ np.array([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    assert ((fitted.mean_change(new) - truth) ** 2).mean() < 0.05 * truth.var()
    large = eb.mean_shift_mlp(1e3 * cells, np.arange(61), 1e-4 * features + 7, **options)
    np.testing.assert_allclose(large.mean_change(1e-4 * new + 7), 1e3 * fitted.mean_change(new), rtol=0.02, atol=20)
    assert large.info["held_out_mse"] == pytest.approx(1e6 * fitted.info["held_out_mse"], rel=0.2)


def test_mlp_stops_early_on_noise() -> None:
    cells, codes, features, _ = data(4, noise=1.0)
    noise = np.random.default_rng(9).normal(size=features.shape)
    change = np.random.default_rng(8).normal(size=(12, 5))
    cells = np.concatenate([np.zeros((8, 5)), np.repeat(change, 4, axis=0)])
    options: dict[str, Any] = {"hidden": (20,), "learning_rate": 0.02, "max_steps": 200}
    early = eb.mean_shift_mlp(cells, codes, noise, patience=50, **options)
    assert early.info["steps"] < 300
    assert early.info["held_out_mse"] < 2 * change.var()


def test_mlp_leaves_the_generator_of_torch_alone_and_heeds_the_seed() -> None:
    cells, codes, features, _ = data()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = eb.mean_shift_mlp(cells, codes, features, rng=1, **FAST)
    assert torch.equal(torch.get_rng_state(), state)
    again = eb.mean_shift_mlp(cells, codes, features, rng=np.random.default_rng(1), **FAST)
    np.testing.assert_array_equal(first.mean_change(features), again.mean_change(features))
    other = eb.mean_shift_mlp(cells, codes, features, rng=2, **FAST)
    assert not np.array_equal(first.mean_change(features), other.mean_change(features))


def test_mlp_folds_keep_perturbations_together() -> None:
    from causcade.effect_baselines._mlp import _folds

    folds = _folds(np.repeat(np.arange(7), 3), 3, np.random.default_rng(0))
    assert all(len(set(folds[3 * k : 3 * k + 3])) == 1 for k in range(7))
    assert sorted(np.bincount(folds).tolist()) == [6, 6, 9]
    assert sorted(_folds(np.arange(2), 5, np.random.default_rng(0)).tolist()) == [0, 1]


@pytest.mark.parametrize(
    "options",
    [{"hidden": (0,)}, {"max_steps": 0}, {"patience": 0}, {"n_folds": 1}, {"learning_rate": 0.0}, {"rng": -1}],
)
def test_mlp_refuses(options: dict[str, Any]) -> None:
    cells, codes, features, _ = data()
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*must"):
        eb.mean_shift_mlp(cells, codes, features, **options)


# --- on a simulated study -----------------------------------------------------------------------------------------


def test_new_doses_of_a_simulated_study() -> None:
    study = draw_dose_study(8, intervention="shift", n_perturbations=12, n_new=1, n_control=200, n_per_regime=30, rng=0)
    train, new = study.train, study.new_doses
    features, other = perturbation_features(train.raw_features, new.raw_features, n_components=14)
    known: dict[str, Any] = {"perturbation": train.perturbation, "dose": train.dose}
    truth = new.cells.reshape(len(new.dose), 30, 8).mean(1).numpy() - train.cells[:200].mean(0).numpy()

    def error(fitted: eb.EffectBaseline) -> float:
        got = fitted.mean_change(other, perturbation=new.perturbation, dose=new.dose)
        return float(np.linalg.norm(got - truth, axis=1).mean())

    args = train.cells, train.codes, features
    still, lower = error(eb.observational(*args, **known)), error(eb.next_lower_dose(*args, **known))
    assert error(eb.mean_shift_ridge(*args, **known)) < lower < still
