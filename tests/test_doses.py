"""Simulated dose studies: sizes, what differs between the parts, responses, features that know training only."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from causcade.simulate import doses
from causcade.simulate.doses import DoseStudy, FeatureMap, draw_dose_study, hill, perturbation_features

SMALL: dict[str, Any] = {"n_perturbations": 6, "n_new": 3, "n_control": 100, "n_per_regime": 20}


@cache
def study(
    mechanism: str = "linear", intervention: str = "hard", graph: str = "erdos_renyi", seed: int = 0
) -> DoseStudy:
    return draw_dose_study(8, mechanism=mechanism, intervention=intervention, graph=graph, rng=seed, **SMALL)  # type: ignore[arg-type]


def test_sizes_are_those_of_the_paper() -> None:
    drawn = draw_dose_study(rng=0)
    assert drawn.train.cells.shape == (8800, 20)
    assert [len(part.dose) for part in (drawn.train, drawn.new_doses, drawn.new_perturbations)] == [160, 200, 80]
    assert torch.bincount(drawn.train.codes).tolist() == [800] + [50] * 160
    assert torch.bincount(drawn.new_doses.codes).tolist() == [0] + [50] * 200
    assert drawn.adjacency.shape == (20, 20)


def test_parts_and_their_doses() -> None:
    drawn = study()
    assert drawn.train.dose.tolist() == [0.5, 1.0, 1.5, 2.0] * 6
    assert drawn.new_doses.dose.tolist() == [0.25, 0.75, 1.25, 1.75, 2.25] * 6
    assert drawn.train.perturbation.tolist() == np.repeat(np.arange(6), 4).tolist()
    assert drawn.new_perturbations.perturbation.tolist() == np.repeat(np.arange(6, 9), 4).tolist()
    for k in range(6):
        sets = [part.targets[part.perturbation == k].unique(dim=0) for part in (drawn.train, drawn.new_doses)]
        assert len(sets[0]) == 1
        assert torch.equal(*sets)


def test_target_sets_are_one_or_two_genes_and_never_twice() -> None:
    drawn = draw_dose_study(5, n_perturbations=10, n_new=5, n_control=1, n_per_regime=1, rng=1)
    sets = torch.cat([part.targets[::4] for part in (drawn.train, drawn.new_perturbations)])
    assert len(sets.unique(dim=0)) == 15  # all there are
    assert sorted(sets.sum(1).tolist()) == [1] * 5 + [2] * 10


def test_values_are_hill_responses_of_one_strength_per_target() -> None:
    drawn = study()
    for part in (drawn.train, drawn.new_doses, drawn.new_perturbations):
        assert torch.equal(part.values != 0, part.targets)
        strength = part.values * (1 + (0.75 / part.dose[:, None]) ** 4)
        for k in part.perturbation.unique():
            of_one = strength[part.perturbation == k]
            torch.testing.assert_close(of_one, of_one[:1].expand_as(of_one))
        sizes = strength[part.targets].abs()
        assert 2 - 1e-4 <= sizes.min()
        assert sizes.max() <= 6 + 1e-4


def test_hill() -> None:
    got = hill(torch.tensor(4.0), torch.tensor([0.0, 0.75, 1.5, 1e6]))
    torch.testing.assert_close(got, torch.tensor([0.0, 2.0, 4 * 16 / 17, 4.0]))


@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_hard_sets_the_gene_around_its_value(mechanism: str) -> None:
    drawn = draw_dose_study(6, mechanism=mechanism, n_perturbations=3, n_new=0, n_per_regime=4000, rng=2)  # type: ignore[arg-type]
    for k in range(12):
        hit = drawn.train.targets[k]
        cells = drawn.train.cells[drawn.train.codes == k + 1][:, hit]
        torch.testing.assert_close(cells.mean(0), drawn.train.values[k, hit], atol=0.06, rtol=0)
        torch.testing.assert_close(cells.var(0), torch.full((int(hit.sum()),), 0.5), atol=0.06, rtol=0)


def test_shift_adds_to_the_gene_and_its_descendants_by_the_weights() -> None:
    drawn = draw_dose_study(
        6, intervention="shift", n_perturbations=4, n_new=0, n_control=20_000, n_per_regime=4000, rng=3
    )
    weight = drawn.scm.mechanism.weight  # type: ignore[attr-defined]
    sizes = weight[drawn.adjacency].abs()
    assert 0.25 <= sizes.min()
    assert sizes.max() <= 3
    total = torch.linalg.inv(torch.eye(6) - weight)
    train = drawn.train
    noise_free = train.values @ total
    sd = (0.1 * (total**2).sum(0)).sqrt()
    for k in range(16):
        cells = train.cells[train.codes == k + 1]
        gap = cells.mean(0) - train.cells[train.codes == 0].mean(0) - noise_free[k]
        assert (gap.abs() < 6 * sd / 4000**0.5).all()
        torch.testing.assert_close(cells.std(0), sd, rtol=0.1, atol=0)


def test_mlp_is_the_network_of_the_paper() -> None:
    drawn = draw_dose_study(6, mechanism="mlp", n_perturbations=1, n_new=0, n_control=5000, rng=4)
    net: Any = drawn.scm.mechanism
    assert net.inner.shape == (6, 6, 5)
    assert not net.inner[~drawn.adjacency].any()
    x = drawn.train.cells[:5000]
    mean = torch.stack(
        [torch.tanh(x @ net.inner[:, j] + net.inner_bias[j]) @ net.outer[j] + net.bias[j] for j in range(6)]
    )
    torch.testing.assert_close((x - mean.T).var(0), torch.full((6,), 0.1), atol=0.01, rtol=0)
    assert (x - mean.T).mean(0).abs().max() < 0.03


def test_seed_repeats_and_tests_do_not_change_training() -> None:
    first, again = study(), draw_dose_study(8, rng=0, **SMALL)
    for part in ("train", "new_doses", "new_perturbations"):
        for f in fields(doses.DoseRegimes):
            assert torch.equal(getattr(getattr(first, part), f.name), getattr(getattr(again, part), f.name))
    other = draw_dose_study(8, rng=0, new_doses=[3.0], **{**SMALL, "n_new": 1})
    assert torch.equal(other.train.cells, first.train.cells)
    assert not torch.equal(study(seed=1).train.cells, first.train.cells)


@pytest.mark.parametrize("graph", ["erdos_renyi", "scale_free_in", "scale_free_out"])
@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_all_settings_give_finite_cells(mechanism: str, intervention: str, graph: str) -> None:
    drawn = study(mechanism, intervention, graph)
    for part in (drawn.train, drawn.new_doses, drawn.new_perturbations):
        assert torch.isfinite(part.cells).all()
        assert len(part.cells) == len(part.codes)


def test_no_new_perturbation_and_standardised_cells() -> None:
    drawn = draw_dose_study(10, standardise="post", n_perturbations=2, n_new=0, n_control=3000, rng=5)
    assert drawn.new_perturbations.cells.shape == (0, 10)
    assert (drawn.train.cells[:3000].std(0) - 1).abs().max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_genes": 1}, "n_genes"),
        ({"n_per_regime": 0}, "n_per_regime"),
        ({"n_new": True}, "n_new"),
        ({"n_genes": 4}, "10 sets of one or two targets"),
        ({"doses": []}, "doses"),
        ({"doses": [1.0, 1.0]}, "different"),
        ({"new_doses": [0.0]}, "new_doses must be different numbers above 0"),
        ({"new_doses": [float("nan")]}, "new_doses"),
        ({"mechanism": "rff"}, "unknown mechanism 'rff'"),
        ({"intervention": "soft"}, "unknown intervention 'soft'"),
        ({"graph": "scale_free"}, "Did you mean"),
        ({"standardise": "z"}, "standardise"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_dose_study(**{"n_genes": 12, **options})


# --- features -----------------------------------------------------------------------------------------------------


def test_features_are_those_of_scikit_learn_up_to_signs() -> None:
    drawn = study()
    train, new = drawn.train.raw_features.double().numpy(), drawn.new_perturbations.raw_features.double().numpy()
    assert train.shape == (24, 16)
    scaler = StandardScaler().fit(train)
    pca = PCA(3).fit(scaler.transform(train))
    got = perturbation_features(train, new, n_components=3)
    for mine, raw in zip(got, (train, new), strict=True):
        theirs = pca.transform(scaler.transform(raw))
        np.testing.assert_allclose(np.abs(mine), np.abs(theirs), atol=1e-6)


def test_features_know_training_only() -> None:
    drawn = study()
    train, new = drawn.train.raw_features, drawn.new_perturbations.raw_features
    alone = perturbation_features(train, n_components=4)[0]
    np.testing.assert_array_equal(perturbation_features(train, new * 100, n_components=4)[0], alone)
    flat = train.clone()
    flat[:, 0] = 0
    fitted = FeatureMap.fit(flat, 4)
    changed = new.clone()
    changed[:, 0] += 5
    np.testing.assert_allclose(fitted(changed), fitted(new), atol=1e-9)  # what never varied has no say


def test_features_refuse() -> None:
    raw = np.random.default_rng(0).normal(size=(6, 4))
    with pytest.raises(ValueError, match="between 1 and 4"):
        perturbation_features(raw, n_components=5)
    with pytest.raises(ValueError, match="between 1 and 2"):
        perturbation_features(
            raw[:, :1] * [1, 2, 3] + np.eye(6, 3, k=-9) + np.c_[raw[:, 1], raw[:, 1], raw[:, 1]], n_components=3
        )
    with pytest.raises(ValueError, match="3 columns"):
        perturbation_features(raw, raw[:, :3], n_components=2)
    raw[2, 1] = np.nan
    with pytest.raises(ValueError, match="regime 2, feature 1"):
        perturbation_features(raw, n_components=2)
    with pytest.raises(ValueError, match="shape"):
        perturbation_features(raw[0], n_components=1)
