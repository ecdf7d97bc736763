from __future__ import annotations

import numpy as np
import pytest

from causcade._checks import at_least, generator


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)], ids=["int", "int64", "uint8"])
def test_whole_numbers_become_int(value):
    assert type(at_least(value, 3, "n")) is int
    with pytest.raises(ValueError, match=r"n_draws must be a whole number of at least 4, not .*3"):
        at_least(value, 4, "n_draws")


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.float64(4), [3]])
def test_nothing_else_is_a_whole_number(value):
    with pytest.raises(ValueError, match="n must be a whole number"):
        at_least(value, 0, "n")


def test_seed_gives_the_generator_of_numpy():
    expected = np.random.default_rng(7).random(3)
    np.testing.assert_array_equal(generator(7).random(3), expected)
    np.testing.assert_array_equal(generator(np.int32(7)).random(3), expected)
    gen = np.random.default_rng(7)
    assert generator(gen) is gen
    assert not np.array_equal(generator(None).random(3), generator(None).random(3))


@pytest.mark.parametrize("value", [-1, True, 1.0, "a", np.random.RandomState(0)])
def test_bad_seed(value):
    with pytest.raises(ValueError, match="rng must"):
        generator(value)
