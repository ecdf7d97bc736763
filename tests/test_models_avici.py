"""The AVICI model: what it trains on, computes and returns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causcade import pretrained, tl
from causcade.models import AVICI, CDN
from causcade.models.avici import AVICIModule
from causcade.nn.acyclic import DualState, acyclicity_penalty, edge_bce
from causcade.nn.avici import AviciConfig
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig
from causcade.pretrain import Recipe
from causcade.pretrain.graph_task import GraphBatches
from causcade.simulate.domains import GraphPrior

TINY: dict[str, dict[str, Any]] = {
    "base": {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "triads": 2},
    "paper": {"width": 8, "layers": 1, "heads": 2, "head_width": 4, "hidden": 8, "out": 4},
}
PRIOR = GraphPrior(domains={"linear": 1.0, "grn": 1e-9}, genes={"5": 1.0}, cells=(40, 40))  # counts are slower to draw
SHORT: dict[str, Any] = {
    "steps_per_epoch": 2, "batch_size": 2, "n_validation": 1, "prior": PRIOR, "progress_bar": False,
}  # fmt: skip
GENES = ["G03", "G00", "G20", "G05"]


def new(screen: Any, preset: Any = "base", *, trained: bool = False, **setup: Any) -> AVICI:
    AVICI.setup_anndata(screen, **setup)
    model = AVICI(screen, preset, **TINY[preset])
    model.is_trained_ = trained
    return model


def weights(model: AVICI) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.net.parameters()])


def ask(model: AVICI, genes: Any = GENES, **how: Any) -> Any:
    return model.get_graph(genes, progress_bar=False, **how)


# --- module ---------------------------------------------------------------------------------------------------------


def test_loss_is_cross_entropy_and_in_training_the_penalty() -> None:
    module = AVICIModule(EdgeStream(EdgeStreamConfig(**TINY["base"])))
    module.dual = DualState(lr=0.5, every=1, rate=1.0, warmup=0)
    batch = GraphBatches(PRIOR, 0, 2, 1)[0]
    tensors = {"step": batch}
    logits = module.net(batch.values, batch.mask, batch.missing)
    bce, penalty = float(edge_bce(logits, batch.adjacency).detach()), float(acyclicity_penalty(logits).detach())
    module.eval()
    assert float(module(tensors)[2].loss.detach()) == pytest.approx(bce)
    assert module.dual.calls == 0
    module.train()
    first = module(tensors)[2]
    assert float(first.loss.detach()) == pytest.approx(bce)  # the multiplier starts at 0
    assert float(first.extra_metrics["penalty"]) == pytest.approx(penalty, rel=1e-3)
    module.after_step(float(first.extra_metrics["penalty"]))
    second = module(tensors)[2]
    assert float(second.loss.detach()) == pytest.approx(bce + 0.5 * penalty**2, rel=1e-3)
    module.dual = DualState(lr=0)
    assert module(tensors)[2].extra_metrics == {}
    module.after_step(0.0)
    assert module.dual.calls == 0


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["base", "paper"])
def test_train_changes_weights_and_keeps_losses(screen: Any, preset: str) -> None:
    model = new(screen, preset)
    before, values = weights(model), screen.X.copy()
    model.train(2, **SHORT)
    assert not torch.equal(before, weights(model)) and model.is_trained
    for name in ("train_loss", "validation_loss"):
        assert model.history[name].shape == (2, 1) and np.isfinite(model.history[name].to_numpy(float)).all()
    assert model.steps_ == 4 and model.dual_["calls"] == 4
    assert model.recipe_["prior"] == asdict(PRIOR) and model.recipe_["acyclic"] == Recipe.load("avici-grn").acyclic
    np.testing.assert_array_equal(screen.X, values)
    model.train(1, **SHORT)  # goes on
    assert model.steps_ == 6 and model.dual_["calls"] == 6 and len(model.history["train_loss"]) == 3


def test_seed_decides(screen: Any) -> None:
    def trained(rng: Any, **how: Any) -> torch.Tensor:
        model = new(screen)
        model.train(1, rng=rng, **SHORT | how)
        return weights(model)

    first = trained(3)
    assert torch.equal(first, trained(3)) and torch.equal(first, trained(np.random.default_rng(3)))
    assert not torch.equal(first, trained(4))


def test_penalty_can_be_left_out(screen: Any) -> None:
    model = new(screen)
    model.train(1, acyclic={"lr": 0}, **SHORT)
    assert model.dual_["calls"] == 0 and model.recipe_["acyclic"] == {"lr": 0}


def test_prior_follows_values_and_weights(screen: Any, tmp_path: Path) -> None:
    assert new(screen)._start().graph_prior() == Recipe.load("avici-grn").graph_prior()
    screen.layers["log"] = np.log1p(screen.X)
    model = new(screen, layer="log", values="log")
    assert model._start().graph_prior() == Recipe.load("avici-scm").graph_prior()
    model.train(1, acyclic={"lr": 0.5}, **SHORT)
    model.save_pretrained(tmp_path / "w")
    start = AVICI.from_pretrained(tmp_path / "w", screen)._start()
    assert start.graph_prior() == PRIOR and start.acyclic == {"lr": 0.5}


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"n_validation": 0}, "n_validation"),
        ({"num_workers": -1}, "num_workers"),
        ({"rng": -1}, "rng must not be negative"),
        ({"acyclic": {"lr": -1}}, "lr and warmup must not be negative"),
        ({"accelerator": "tpu"}, "accelerator must be"),
    ],
)
def test_bad_training(screen: Any, how: dict[str, Any], text: str) -> None:
    model = new(screen)
    before = weights(model)
    with pytest.raises(ValueError, match=text):
        model.train(**SHORT | how)
    assert torch.equal(before, weights(model)) and not model.is_trained_ and not model.recipe_


# --- network --------------------------------------------------------------------------------------------------------


def test_presets(screen: Any) -> None:
    AVICI.setup_anndata(screen)
    assert AVICI(screen).net.config == EdgeStreamConfig(**Recipe.load("avici-grn").sizes)
    paper = AviciConfig(width=128, heads=8, head_width=32, hidden=512, layers=8, feeds=2, out=128)
    assert AVICI(screen, "paper").net.config == paper
    assert "preset 'base': 156 cells x 32 genes" in repr(new(screen))
    with pytest.raises(ValueError, match=r"preset must be one of \['base', 'paper'\], not 'big'"):
        AVICI(screen, "big")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Unknown sizes \['depth'\]; this preset has"):
        AVICI(screen, depth=3)
    with pytest.raises(ValueError, match="width must be a whole number"):
        AVICI(screen, width=0)
    state = torch.random.get_rng_state()
    assert torch.equal(weights(new(screen)), weights(new(screen)))
    assert torch.equal(state, torch.random.get_rng_state())


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["base", "paper"])
def test_same_numbers_as_the_tool(screen: Any, preset: str) -> None:
    model = new(screen, preset, trained=True, batch_key="batch")
    torch.nn.init.normal_(model.net.head[-1].weight) if preset == "base" else None
    before = sorted(screen.varp)
    out = ask(model, max_cells=60, rng=5)
    assert sorted(screen.varp) == before
    assert list(out.index) == list(out.columns) == GENES
    tl.graph(screen, GENES, model=model, max_cells=60, rng=5, n_draws=2, progress_bar=False)
    at = screen.var_names.get_indexer(GENES)
    np.testing.assert_array_equal(out, screen.varp["graph"].toarray()[np.ix_(at, at)])
    assert screen.uns["graph"]["params"]["batch_key"] == "batch"
    assert screen.uns["graph"]["model"] == "AVICI"
    assert not np.array_equal(out, ask(model, max_cells=60, rng=6))
    assert not np.array_equal(out, ask(model, max_cells=60, others="keep", rng=5))


def test_sets_and_bad_arguments(screen: Any) -> None:
    model = new(screen, trained=True)
    with pytest.warns(UserWarning, match="sets of 3"):
        ask(model, subset_size=3)
    with pytest.raises(ValueError, match="subset_size"):
        ask(model, subset_size=1)
    with pytest.raises(KeyError, match=r"not in \.var_names"):
        ask(model, ["G00", "x"])
    with pytest.raises(RuntimeError, match="not trained"):
        ask(new(screen))


# --- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["base", "paper"])
def test_pretrained_round_trip(screen: Any, preset: str, tmp_path: Path) -> None:
    model = new(screen, preset)
    model.train(1, **SHORT)
    model.save_pretrained(tmp_path / "w")
    found = pretrained.load(tmp_path / "w")
    assert found.model == "AVICI" and found.config["subset"] == 100 and found.config["steps"] == 2
    other = screen[:, ::-1].copy()
    again = AVICI.from_pretrained(tmp_path / "w", other)
    assert again.preset == preset
    np.testing.assert_allclose(ask(again), ask(model), atol=1e-6)
    tl.graph(other, GENES, model=tmp_path / "w", n_draws=0, progress_bar=False)
    assert other.uns["graph"]["weights"] == again.as_weights().label == found.label
    again.train(1, **SHORT)
    config = again.as_weights().config
    assert config["fine_tuned_from"].endswith(found.sha256[:12])


def test_weights_with_heads_of_default_width(screen: Any, tmp_path: Path) -> None:
    model = new(screen, "paper", trained=True)
    model.save_pretrained(tmp_path / "w")
    AVICI.setup_anndata(screen)
    plain = AVICI(screen, "paper", **TINY["paper"] | {"head_width": 0})
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    again = AVICI._from_config(screen, config | {"sizes": plain.net.config.to_dict()})  # type: ignore[operator,union-attr]
    assert again.net.config.head_width == 0  # type: ignore[union-attr]


def test_weights_of_other_models(screen: Any, tiny_target_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of CDN, not of AVICI"):
        AVICI.from_pretrained(tiny_target_weights, screen)
    model = new(screen, trained=True)
    model.save_pretrained(tmp_path / "w")
    with pytest.raises(ValueError, match="of AVICI, not of CDN"):
        CDN.from_pretrained(tmp_path / "w", screen)


def test_saved_with_the_data(screen: Any, tmp_path: Path) -> None:
    model = new(screen)
    model.train(1, **SHORT)
    model.save(tmp_path / "m")
    again = AVICI.load(tmp_path / "m", screen)
    np.testing.assert_array_equal(ask(again), ask(model))
    assert again.dual_ == model.dual_ and again.steps_ == 2
    again.train(1, **SHORT)
    assert again.dual_["calls"] == 4
