"""No perturbation has a near copy on the other side of a split."""

from __future__ import annotations

import numpy as np
import pytest

from causcade.splits import perturbation_blocks, split_perturbations

TARGETS = [("A",), ("A", "B"), ("B",), ("C",), ("D",), ("D",), ("E",), ("F",)]


def test_shared_targets_stay_together_in_chains() -> None:
    block = perturbation_blocks(TARGETS)
    assert block.tolist() == [0, 0, 0, 2, 1, 1, 3, 4]


def test_alike_effects_stay_together_whatever_their_size() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 20))
    kind = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    effects = directions[kind] * rng.uniform(0.1, 10, (9, 1)) + 0.001 * rng.normal(size=(9, 20))
    block = perturbation_blocks([(i,) for i in range(9)], effects, n_clusters=3)
    assert all((block[i] == block[j]) == (kind[i] == kind[j]) for i in range(9) for j in range(9))


def test_both_rules_join() -> None:
    effects = np.eye(4)[[0, 0, 1, 2]]
    assert perturbation_blocks([("A",), ("B",), ("B",), ("C",)], effects, n_clusters=3).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("seed", range(20))
def test_split_is_by_block_and_large_enough(seed: int) -> None:
    test = split_perturbations(TARGETS, test_share=0.3, rng=seed)
    block = perturbation_blocks(TARGETS)
    assert all(len(set(test[block == b])) == 1 for b in set(block))
    assert 3 <= test.sum() <= 4
    assert not test[0]  # the largest block is for training


def test_seed_decides() -> None:
    draws = {tuple(split_perturbations(TARGETS, rng=s)) for s in range(10)}
    assert len(draws) > 1
    assert np.array_equal(split_perturbations(TARGETS, rng=3), split_perturbations(TARGETS, rng=3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: split_perturbations(TARGETS, test_share=1.0), "test_share"),
        (lambda: split_perturbations([("A",), ("A",)]), "cannot be split"),
        (lambda: perturbation_blocks(TARGETS, np.ones((3, 2))), "one row for each of the 8"),
        (lambda: perturbation_blocks(TARGETS, np.full((8, 2), np.nan)), "finite"),
        (lambda: perturbation_blocks(TARGETS, np.ones((8, 2)), n_clusters=9), "n_clusters"),
    ],
)
def test_errors_say_what(call, match: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=match):
        call()
