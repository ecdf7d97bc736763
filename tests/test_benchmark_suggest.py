"""The benchmark of suggestions: what each way to choose is shown, and how its gain over chance is counted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import suggest


def known(seen: list[tuple[int, ...]]) -> suggest.Instance:
    """Genes 0 -> 1 -> 2 and 3 alone; a knock-out makes the row of its gene right, all else is one half."""
    truth = np.zeros((4, 4), dtype=bool)
    truth[0, 1] = truth[1, 2] = True

    def probability(done: Sequence[int]) -> np.ndarray:
        seen.append(tuple(done))
        out = np.where(truth | truth.T, 0.5, 0.1)
        for gene in done:
            out[gene], out[:, gene] = truth[gene], truth[:, gene]
        return out

    return suggest.Instance(truth, probability, np.array([1.0, 2, 3, 4]), np.eye(4))


def test_direction_takes_the_gene_with_most_to_learn_first() -> None:
    seen: list[tuple[int, ...]] = []
    scores = suggest.curve("direction", known(seen), np.arange(4), rounds=2, size=1, rng=np.random.default_rng(0))
    assert seen[:2] == [(), (1,)]
    assert scores[0] < scores[1] == 1
    suggest.curve("variance", known(seen := []), np.arange(4), rounds=1, size=2, rng=np.random.default_rng(0))
    assert seen == [(), (3, 2)]


def test_only_genes_of_interest_count() -> None:
    found = np.full((4, 4), 0.5)
    numbers = suggest.choose("effects", found, known([]), np.array([2]), np.random.default_rng(0))
    np.testing.assert_allclose(numbers[[0, 1, 3]], 0.5)
    scores = suggest.curve("random", known([]), np.array([2]), rounds=0, size=1, rng=np.random.default_rng(0))
    assert scores == [1.0]  # of the edges into gene 2, the right one is above all others


def test_gain_is_over_random_choices_of_the_same_instance() -> None:
    rows = [
        {"task": "t", "interest": "all", "instance": i, "method": m, "repeat": k, "knockouts": r, "auprc": a}
        for i, base in enumerate((0.2, 0.6))
        for m, k, gain in (("random", 0, 0.0), ("random", 1, 0.1), ("direction", 0, 0.15))
        for r, a in ((0, base), (2, base + gain), (4, base + 2 * gain))
    ]
    table = suggest.summary(pd.DataFrame(rows)).set_index("method")
    assert table.loc["random", "gain"] == 0
    assert table.loc["direction", "gain"] == pytest.approx(0.15)  # 0.1 after two knock-outs, 0.2 after four
    assert table.loc["direction", "se"] == pytest.approx(0)
    assert table.loc["direction", "n"] == 2 and table.loc["direction", 4] == pytest.approx(0.7)


@pytest.mark.parametrize("task", ["linear", "causes"])
def test_more_knockouts_are_shown_to_the_networks(task: str) -> None:
    instance = suggest.draw(task, 0, genes=6, cells=120)
    before, after = instance.probability([]), instance.probability([0, 3])
    assert before.shape == after.shape == instance.truth.shape == (6, 6)
    assert ((after > 0) & (after < 1)).all() and not np.allclose(before, after, atol=1e-3)
    np.testing.assert_array_equal(instance.probability([0, 3]), after)
