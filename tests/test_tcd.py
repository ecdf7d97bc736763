"""The TCD model: what it computes, trains and returns."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from causcade import tl
from causcade.models import TCD
from causcade.models.tcd import TCDModule
from causcade.simulate.episodes import ScreenPrior

TINY = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "paths": 2}
SHORT: dict[str, Any] = {"episodes_per_epoch": 2, "batch_size": 2, "n_validation": 1, "progress_bar": False}
SMALL = ScreenPrior(genes=(20, 20), control=(40, 40), types=(1, 1), ten_cells=1.0)


def new(screen: Any, preset: Any = "base", **sizes: Any) -> TCD:
    TCD.setup_anndata(screen)
    return TCD(screen, preset, **(sizes or TINY))


def weights(model: TCD) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.net.parameters()])


def test_loss_is_the_cross_entropy_off_the_diagonal() -> None:
    module = TCDModule(torch.nn.Identity())
    logits, labels = torch.randn(2, 3, 3), (torch.rand(2, 3, 3) > 0.5).float()
    valid = ~torch.eye(3, dtype=torch.bool).expand(2, 3, 3)
    p = torch.sigmoid(logits)
    each = -(labels * p.log() + (1 - labels) * (1 - p).log())
    expected = each[valid].mean()
    # a module without parameters has no device: call its parts
    out = module.loss({"labels": labels, "valid": valid}, {"logits": logits}, {})
    assert float(out.loss) == pytest.approx(float(expected), rel=1e-5)
    logits.diagonal(dim1=1, dim2=2).fill_(99)
    assert float(module.loss({"labels": labels, "valid": valid}, {"logits": logits}, {}).loss) == float(out.loss)


def test_training_moves_weights_and_logs_losses(screen: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = new(screen)
    before = weights(model)
    with caplog.at_level(logging.INFO, "causcade"):
        model.train(2, accelerator="cpu", **SHORT)
    assert "training TCD on cpu" in caplog.messages
    assert not torch.equal(before, weights(model))
    for name in ("train_loss", "validation_loss"):
        assert len(model.history[name]) == 2
        assert np.isfinite(model.history[name].to_numpy().astype(float)).all()
    assert model.is_trained
    assert not model.module.training


def test_second_training_goes_on(screen: Any) -> None:
    model = new(screen)
    model.train(1, prior=SMALL, **SHORT)
    assert model.episodes_ == 2
    model.train(1, prior=SMALL, early_stopping=True, **SHORT)
    assert model.episodes_ == 4
    assert model.history["validation_loss"].index.tolist() == [0, 1]


def test_training_learns(screen: Any) -> None:
    model = new(screen)
    model.train(3, prior=SMALL, lr=0.02, **(SHORT | {"episodes_per_epoch": 4}))
    losses = model.history["validation_loss"].to_numpy().astype(float).ravel()
    assert losses[-1] < losses[0]


def test_same_seed_same_weights_whatever_the_global_generator(screen: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        model = new(screen)
        model.train(1, prior=SMALL, rng=seed, **SHORT)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_model_leaves_the_global_generator_alone(screen: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    new(screen)
    assert torch.equal(torch.rand(1), expected)


def test_get_causes_is_what_tl_writes(screen: Any, fingerprint: Any) -> None:
    model = new(screen)
    torch.nn.init.normal_(model.net.head[-1].weight)
    model.is_trained_ = True
    before = fingerprint(screen)
    table = model.get_causes(["G02", "G05"], rng=4, subset_size=10, progress_bar=False)
    assert fingerprint(screen) == before
    assert table.columns.tolist() == ["G02", "G05"]
    assert table.index.tolist() == screen.var_names.tolist()
    tl.causes(screen, ["G02", "G05"], model=model, rng=4, subset_size=10, progress_bar=False)
    np.testing.assert_array_equal(screen.varm["causes"], table.to_numpy())
    assert screen.uns["causes"]["weights"] == model.as_weights().label
    assert model.get_causes(rng=4, progress_bar=False).shape == (32, 32)


def test_sets_are_twice_as_large_as_in_training(screen: Any) -> None:
    model = new(screen, subset=8)
    torch.nn.init.normal_(model.net.head[-1].weight)
    model.is_trained_ = True
    usual, twice, once = (model.get_causes(["G02"], subset_size=n, progress_bar=False) for n in (None, 16, 8))
    np.testing.assert_array_equal(usual, twice)
    assert np.abs(usual - once).to_numpy().max() > 1e-4


def test_get_causes_uses_the_layer_of_the_setup(screen: Any) -> None:
    screen.layers["counts"] = screen.X.copy()
    model = new(screen)
    model.is_trained_ = True
    expected = model.get_causes("G01", progress_bar=False)
    screen.X = -np.ones_like(screen.X)
    TCD.setup_anndata(screen, layer="counts")
    other = TCD(screen, **TINY)
    other.is_trained_ = True
    assert other.get_causes("G01", progress_bar=False).equals(expected)


def test_fine_tuned_weights_say_so(screen: Any, tiny_weights: Any) -> None:
    model = TCD.from_pretrained(tiny_weights, screen)
    released = model.as_weights()
    model.train(1, prior=SMALL, **SHORT)
    tuned = model.as_weights()
    assert tuned.sha256 != released.sha256
    assert tuned.config["fine_tuned_from"] == released.label
    assert tuned.config["recipe"]["prior"]["genes"] == (20, 20)
    assert len(model.history["validation_loss"]) == 1


def test_paper_preset_trains_and_scores(screen: Any) -> None:
    model = new(screen, "paper", cells=20, width=8, layers=2, heads=2, hidden=8)
    model.train(1, prior=SMALL, **SHORT)
    assert np.isfinite(model.get_causes("G01", progress_bar=False).to_numpy()).all()
    assert model.as_weights().config["network"] == "cells"


def test_paper_preset_has_the_published_size(screen: Any) -> None:
    TCD.setup_anndata(screen)
    assert 55_000 < sum(p.numel() for p in TCD(screen, "paper").net.parameters()) < 65_000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preset": "large"}, "preset must be one of"),
        ({"widht": 8}, "Unknown sizes.*widht.*width"),
        ({"preset": "paper", "paths": 2}, "Unknown sizes.*paths"),
        ({"width": 0}, "width must be a whole number of at least 1, not 0"),
        ({"layers": -1}, "layers must be a whole number of at least 1"),
        ({"hidden": 8.0}, "hidden must be a whole number of at least 1, not 8.0"),
        ({"paths": -1}, "paths must be a whole number of at least 0"),
        ({"preset": "paper", "heads": 0}, "heads must be"),
        ({"subset": 2}, "subset must be a whole number of at least 3"),
        ({"rng": -1}, "bad rng"),
    ],
)
def test_bad_options_are_named(screen: Any, options: dict[str, Any], told: str) -> None:
    TCD.setup_anndata(screen)
    with pytest.raises(ValueError, match=told):
        TCD(screen, **options)


@pytest.mark.parametrize("name", ["max_epochs", "episodes_per_epoch", "batch_size", "n_validation"])
def test_training_needs_whole_numbers(screen: Any, name: str) -> None:
    model = new(screen)
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
        model.train(**{name: 0})
    assert not model.is_trained


def test_unknown_gene_and_bad_numbers(screen: Any) -> None:
    model = new(screen)
    model.is_trained_ = True
    with pytest.raises(KeyError, match="G99"):
        model.get_causes("G99")
    with pytest.raises(ValueError, match="n_draws"):
        model.get_causes("G01", n_draws=0)
    with pytest.raises(ValueError, match="accelerator"):
        model.train(accelerator="tpu")


def test_tl_reads_the_data_as_the_model_was_set_up(screen, tiny_weights) -> None:
    screen.layers["counts"] = screen.X.copy()
    screen.X = np.zeros_like(screen.X)
    model = TCD.from_pretrained(tiny_weights, screen, layer="counts", batch_key="batch")
    tl.causes(screen, ["G02"], model=model, n_half=0, progress_bar=False)
    assert screen.uns["causes"]["params"]["layer"] == "counts"
    assert screen.uns["causes"]["params"]["batch_key"] == "batch"
    expected = model.get_causes(["G02"], progress_bar=False)
    np.testing.assert_array_equal(screen.varm["causes"], expected.to_numpy())
