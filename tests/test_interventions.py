import numpy as np
import pytest
import torch

from causcade.simulate._interventions import Intervention, cell_effects


def generator():
    return torch.Generator().manual_seed(0)


def test_interventions_compare_and_take_numpy():
    a = Intervention(np.array([1, 2]), "shift", np.array([1.0, 2.0], dtype=np.float32))
    assert a == Intervention((1, 2), "shift", (1.0, 2.0))
    assert hash(a) == hash(Intervention((1, 2), "shift", (1.0, 2.0)))
    assert Intervention((0,), "hard", np.float32(2)).value == 2.0


def test_every_cell_gets_the_effect_of_its_regime():
    regimes = [None, Intervention((1,), "hard", 5.0), Intervention((0, 2), "scale", (2.0, 3.0))]
    effects = cell_effects(regimes, torch.tensor([2, 0, 1]), 3, generator())
    assert effects.is_set.tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    assert effects.scale.tolist() == [[2, 1, 3], [1, 1, 1], [1, 1, 1]]
    assert effects.noise_scale.eq(1).all()
    assert not effects.shift.any()
    assert float(effects.set_to[2, 1]) == 5


def test_uniform_draws_differ_between_cells_and_genes():
    intervention = Intervention((0, 1), "uniform", (-1.0, 1.0))
    effects = cell_effects([intervention], torch.zeros(50, dtype=torch.long), 2, generator())
    assert len(effects.set_to.unique()) == 100


def test_nothing_is_made_for_control_alone():
    assert cell_effects([None, None], torch.tensor([0, 1]), 3, generator()) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Intervention((0,), "soft"), "unknown kind of intervention 'soft'"),
        (lambda: Intervention((0, 0)), "must differ"),
        (lambda: Intervention((0,), "uniform", 1.0), "value=.low, high."),
        (lambda: Intervention((0,), "uniform", (2.0, 1.0)), r"got \(2.0, 1.0\)"),
        (lambda: Intervention((0, 1), "shift", (1.0, 2.0, 3.0)), "one for each of the 2"),
        (lambda: Intervention((0,), "hard", float("nan")), "finite"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
