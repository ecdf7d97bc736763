"""How weights are made: the same run, whether it is stopped or not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from causcade.nn.pair_stream import PairStream, PairStreamConfig, pair_loss
from causcade.pretrain import Recipe, Trainer, build_network, make_item, make_samples, run
from causcade.pretrain.__main__ import main
from causcade.simulate.episodes import draw_screen
from causcade.simulate.graphs import ancestors

PRIOR = {"genes": [14, 30], "control": [30, 40], "max_cells": 60, "dt": 0.2, "types": [1, 2]}
TINY = Recipe(
    "tiny",
    sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8, "paths": 2},
    prior=PRIOR,
    subset=16,
    batch=2,
    steps=6,
    warmup=2,
    cooldown=2,
    pool=2,
    refresh=2,
    assays=2,
)
CELLS = replace(
    TINY, name="tiny-cells", network="cells", sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8}, cells=10
)


def train(recipe, out, *, resume=False, adopt=False, minutes=10.0):
    return run(recipe, out, minutes=minutes, device="cpu", resume=resume, adopt=adopt, every=2)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tcd-grn-umi", "tcd-grn-expression"])
def test_bundled_recipes_load_and_build(name) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    prior = recipe.screen_prior()
    assert isinstance(prior.depth_shift, tuple)
    assert ("low" in prior.fidelities) == (name == "tcd-grn-umi")
    net = build_network(recipe)
    assert isinstance(net, PairStream)
    assert net.config == PairStreamConfig(**recipe.sizes)


def test_digest_knows_every_field() -> None:
    digests = {TINY.digest(), replace(TINY, seed=1).digest(), replace(TINY, lr=1e-4).digest()}
    digests |= {replace(TINY, prior={**PRIOR, "dt": 0.1}).digest()}
    assert len(digests) == 4
    assert replace(TINY).digest() == TINY.digest()
    assert Recipe(**json.loads(json.dumps(TINY.__dict__))).digest() == TINY.digest()


def test_recipes_are_read_from_files(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "steps": 3}))
    assert Recipe.load(str(path)) == Recipe("mine", steps=3)
    path.write_text(json.dumps({"name": "mine", "step": 3}))
    with pytest.raises(ValueError, match=r"unknown: \['step'\]"):
        Recipe.load(str(path))
    path.write_text(json.dumps({"steps": 3}))
    with pytest.raises(ValueError, match="needs a name"):
        Recipe.load(str(path))


def test_a_missing_file_steps_and_prior_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no recipe file '.*mine\.json'"):
        Recipe.load(str(tmp_path / "mine.json"))
    for steps in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"steps of recipe 'tiny' must be .* at least 1, not {steps}"):
            replace(TINY, steps=steps)
    with pytest.raises(ValueError, match=r"'tiny' has unknown fields \['gene'\]; known are \['genes'"):
        replace(TINY, prior={"gene": [14, 30]})


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'tcd'.*'tcd-grn-expression', 'tcd-grn-umi', 'tcd-paper'"):
        Recipe.load("tcd")
    with pytest.raises(ValueError, match=r"network 'trees'.*'pairs', 'cells'"):
        build_network(replace(TINY, network="trees"))


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_samples_depend_on_seed_and_index_alone() -> None:
    prior = TINY.screen_prior()
    screen = draw_screen(prior, 0, 1)
    first = make_samples(screen, TINY, prior, 1)
    torch.rand(3)
    again = make_samples(draw_screen(prior, 0, 1), TINY, prior, 1)
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.truth, b.truth)
        assert torch.equal(a.features.genes, b.features.genes)
        assert same(a.features.matrices, b.features.matrices)
    assert not torch.equal(first[0].features.screen, first[1].features.screen)


def test_labels_are_the_ancestors_of_the_measured_genes() -> None:
    prior, found = TINY.screen_prior(), set()
    for index in range(4):
        screen = draw_screen(prior, 0, index)
        truth, n = ancestors(screen.grn.adjacency), screen.grn.n_genes
        for sample in make_samples(screen, replace(TINY, assays=3), prior, index):
            found.add(len(sample.truth) == n)
            assert len(sample.truth) in (n, n - round(0.1 * n))
            assert sample.features.n_genes == len(sample.truth)
            assert len(sample.truth) < n or torch.equal(sample.truth, truth)
    assert found == {True, False}  # some assays leave genes out


@pytest.mark.parametrize("recipe", [TINY, CELLS], ids=["pairs", "cells"])
def test_items_are_cut_to_the_smallest_screen_of_a_batch(recipe) -> None:
    prior = recipe.screen_prior()
    small = make_samples(draw_screen(replace(prior, genes=(14, 14)), 0, 0), recipe, prior, 0)
    large = make_samples(draw_screen(replace(prior, genes=(30, 30)), 0, 1), recipe, prior, 1)
    trainer = Trainer(replace(recipe, batch=8), "cpu")
    trainer.fill_pool = lambda: [0, 1]
    trainer.pool = {0: small, 1: large}
    x, labels, valid = trainer.batch()
    k = min(len(sample.truth) for sample in small)
    assert k < recipe.subset
    assert labels.shape == valid.shape
    assert labels.shape[1] in {k, len(small[0].truth), len(small[1].truth)}
    assert x.shape[-2] == labels.shape[1]
    assert torch.equal(valid[0], ~torch.eye(labels.shape[1], dtype=torch.bool))
    net = build_network(recipe)
    other = torch.where(valid, labels, 1 - labels)
    assert pair_loss(net(x), labels, valid) == pair_loss(net(x), other, valid)


def test_cell_items_hold_no_foreign_perturbation() -> None:
    prior = replace(CELLS.screen_prior(), full_coverage=1.0, full_efficacy=1.0, genes=(30, 30))
    sample = make_samples(draw_screen(prior, 0, 0), replace(CELLS, assays=1), prior, 0)[0]
    recipe = replace(CELLS, cells=300)
    gen = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, _, _ = make_item(sample, recipe, gen)
        mask = x[..., 1]
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert mask.sum(1).max() == 1  # single perturbations
        assert (x[..., 0][mask == 1] == 0).all()  # which are complete
        per_gene = mask.sum(0) > 0
        assert per_gene.float().mean() > 0.8


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [TINY, CELLS], ids=["pairs", "cells"])
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(recipe, tmp_path) -> None:
    whole = train(recipe, tmp_path / "whole")
    first = Trainer(recipe, "cpu")
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / "broken")
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert whole.step == resumed.step == recipe.steps
    assert same(whole.net.state_dict(), resumed.net.state_dict())
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    assert same(load_file(tmp_path / "whole" / "model.safetensors"), weights)
    start = Trainer(recipe, "cpu").net.state_dict()
    assert not any(torch.equal(start[k], v) for k, v in weights.items() if k.endswith("feed.0.weight"))
    build_network(recipe).load_state_dict(weights)


def test_what_a_run_leaves_behind(tmp_path) -> None:
    trainer = train(TINY, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "log.json",
        "model.safetensors",
    ]
    assert [step for step, _, _ in json.loads((tmp_path / "log.json").read_text())] == [2, 4, 6]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["network"] == "pairs"
    sha256 = config.pop("sha256")
    assert sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert trainer.config() == config


def test_another_recipe_is_refused_unless_adopted(tmp_path) -> None:
    train(replace(TINY, steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"was made by recipe .*, not .*--adopt"):
        train(TINY, tmp_path, resume=True)
    assert train(TINY, tmp_path, resume=True, adopt=True).step == 6


def test_a_run_is_not_overwritten(tmp_path) -> None:
    train(replace(TINY, steps=2), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="pass --resume to continue or another --out"):
        train(replace(TINY, steps=2), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_no_time_left_saves_and_stops(tmp_path) -> None:
    assert train(TINY, tmp_path, minutes=0.0).step == 0
    assert (tmp_path / "checkpoint.pt").exists()


def test_nan_loss_stops_the_run(monkeypatch) -> None:
    trainer = Trainer(TINY, "cpu")
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    x, labels, valid = trainer.batch()
    monkeypatch.setattr(trainer, "batch", lambda: (x * float("nan"), labels, valid))
    with pytest.raises(RuntimeError, match="loss became nan at step 0"):
        trainer.train_step()
    assert same(before, trainer.net.state_dict())


def test_rate_warms_up_and_cools_down() -> None:
    trainer, rates = Trainer(TINY, "cpu"), []
    for trainer.step in range(TINY.steps):
        rates.append(trainer.rate() / TINY.lr)
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.5])
    assert Trainer(replace(TINY, warmup=0, cooldown=0), "cpu").rate() == TINY.lr


def test_pool_holds_the_screens_of_its_step() -> None:
    trainer = Trainer(TINY, "cpu")
    assert trainer.fill_pool() == [0, 1]
    kept = trainer.pool[1]
    trainer.step = 2
    assert trainer.fill_pool() == [1, 2]
    assert trainer.pool[1] is kept
    assert sorted(trainer.pool) == [1, 2]


def test_command_line(tmp_path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY.__dict__))
    main([str(path), "--out", str(tmp_path / "out"), "--steps", "2", "--device", "cpu", "--every", "1"])
    main([str(path), "--out", str(tmp_path / "out"), "--steps", "3", "--device", "cpu", "--resume", "--adopt"])
    assert [step for step, *_ in json.loads((tmp_path / "out" / "log.json").read_text())] == [1, 2, 3]
    with pytest.raises(ValueError, match="not 0"):
        main([str(path), "--out", str(tmp_path / "none"), "--steps", "0", "--device", "cpu"])
    assert not (tmp_path / "none").exists()
