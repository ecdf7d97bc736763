"""Ablations: what is taken back, and the table."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch
from benchmarks.ablate import CHOICES, changed, label, plain_loss, summarise

from causcade.nn.pair_stream import pair_loss
from causcade.pretrain import Recipe


@pytest.mark.parametrize("choice", CHOICES)
def test_only_the_choice_is_taken_back(choice) -> None:
    recipe = Recipe.load("tcd-grn-expression")
    whole, short = (changed(recipe, c, 60, 32, 5) for c in ("all choices", choice))
    differ = {k for k in whole.__dataclass_fields__ if getattr(whole, k) != getattr(short, k)}
    fields = {
        "all choices": set(), "path products": {"sizes"}, "no anchored sets": {"anchored"},
        "no sparse regulators": {"prior"}, "no partial coverage": {"prior"}, "no brief cells": {"prior"},
        "unbalanced loss": set(),
    }  # fmt: skip
    assert differ == fields[choice]
    assert (short.steps, short.subset, short.seed, short.cooldown) == (60, 32, 5, 20)
    assert short.screen_prior().fidelities == recipe.screen_prior().fidelities  # what was not changed stays
    if choice == "no sparse regulators":
        before, after = whole.screen_prior().graph_kinds, short.screen_prior().graph_kinds
        assert {k: v for k, v in before.items() if k != "sparse_regulators"} == after


def test_rows_of_another_recipe_are_not_taken() -> None:
    recipe = Recipe.load("tcd-grn-expression")
    assert label(recipe) != label(replace(recipe, seed=99))


def test_the_plain_loss_is_the_balanced_one_but_for_the_weights_of_items() -> None:
    gen = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 9, 9, generator=gen), (torch.rand(1, 9, 9, generator=gen) < 0.2).float()
    valid = ~torch.eye(9, dtype=torch.bool)[None]
    share = labels[valid].mean()
    entropy = -(share * share.log() + (1 - share) * (1 - share).log())
    torch.testing.assert_close(plain_loss(logits, labels, valid), pair_loss(logits, labels, valid) * (entropy + 0.02))
    more = torch.cat([labels, torch.zeros_like(labels)]), torch.cat([valid, valid])
    assert plain_loss(logits.expand(2, 9, 9), *more) == pytest.approx(
        float(plain_loss(logits, labels, valid) + plain_loss(logits, 0 * labels, valid)) / 2
    )


def test_differences_are_taken_seed_by_seed() -> None:
    rows = [
        {"choice": choice, "seed": seed, "test": "seen"} | dict.fromkeys(("column_ap", "row_auroc", "row_ap"), 0.0)
        | {"column_auroc": 60.0 + 10 * seed + gain}
        for seed in (0, 1, 2) for choice, gain in (("all choices", 0.0), ("path products", -2.0 - seed))
    ]  # fmt: skip
    table = summarise(pd.DataFrame(rows)).set_index("choice")
    assert table["column_auroc"].to_dict() == {"all choices": "70.0", "path products": "-3.0 ± 0.6"}
