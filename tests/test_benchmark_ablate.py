"""Ablations: what is taken back, and the table."""

from __future__ import annotations

import pandas as pd
import pytest
from benchmarks.ablate import CHOICES, changed, summarise

from causcade.pretrain import Recipe


@pytest.mark.parametrize("choice", CHOICES)
def test_only_the_choice_is_taken_back(choice) -> None:
    recipe = Recipe.load("tcd-grn-expression")
    whole, short = (changed(recipe, c, 60, 32, 5) for c in ("all choices", choice))
    differ = {k for k in whole.__dataclass_fields__ if getattr(whole, k) != getattr(short, k)}
    fields = {
        "all choices": set(), "no path products": {"sizes"}, "no anchored sets": {"anchored"},
        "no sparse regulators": {"prior"}, "no partial coverage": {"prior"},
    }  # fmt: skip
    assert differ == fields[choice]
    assert (short.steps, short.subset, short.seed, short.cooldown) == (60, 32, 5, 20)
    assert short.screen_prior().fidelities == recipe.screen_prior().fidelities  # what was not changed stays
    if choice == "no sparse regulators":
        before, after = whole.screen_prior().graph_kinds, short.screen_prior().graph_kinds
        assert {k: v for k, v in before.items() if k != "sparse_regulators"} == after


def test_differences_are_taken_seed_by_seed() -> None:
    rows = [
        {"choice": choice, "seed": seed, "test": "seen"} | dict.fromkeys(("column_ap", "row_auroc", "row_ap"), 0.0)
        | {"column_auroc": 60.0 + 10 * seed + gain}
        for seed in (0, 1, 2) for choice, gain in (("all choices", 0.0), ("no path products", -2.0 - seed))
    ]  # fmt: skip
    table = summarise(pd.DataFrame(rows)).set_index("choice")
    assert table["column_auroc"].to_dict() == {"all choices": "70.0", "no path products": "-3.0 ± 0.6"}
