"""What the told methods of the TCD benchmark learn from."""

from __future__ import annotations

import sys

import pytest
import torch
from benchmarks import tcd_told
from torch import nn

from causcade.nn.pair_stream import pair_loss
from causcade.pretrain import Recipe, build_network, make_item, make_samples
from causcade.simulate.episodes import draw_screen

RECIPE = Recipe(
    "tiny",
    sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8, "paths": 0},
    prior={"genes": [20, 24], "max_cells": 200},
    subset=20,
    batch=2,
    lr=1e-2,
)


def test_a_taught_network_knows_the_screens_and_the_first_is_left_alone() -> None:
    prior = RECIPE.screen_prior()
    screens = make_samples(draw_screen(prior, 0, 0), RECIPE, prior, 0)
    torch.manual_seed(0)
    net = build_network(RECIPE).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    told = tcd_told.teach(net, screens, RECIPE, 30, 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not told.training
    x, labels, valid = (part[None] for part in make_item(screens[0], RECIPE, torch.Generator().manual_seed(5)))
    assert pair_loss(told(x), labels, valid) < 0.8 * pair_loss(net(x), labels, valid)
    again = tcd_told.teach(net, screens, RECIPE, 30, 0)
    assert all(torch.equal(a, b) for a, b in zip(told.parameters(), again.parameters(), strict=True))
    assert isinstance(told, nn.Module)


def test_networks_over_cells_are_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tcd_told", "--weights", "tcd-paper"])
    with pytest.raises(SystemExit):
        tcd_told.main()
    assert "give one of pairs" in capsys.readouterr().err
