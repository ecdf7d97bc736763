"""The numbers of a model card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from causcade import heldout, pretrained
from causcade.pretrain import Recipe, build_network

RECIPE = Recipe(
    "tiny",
    sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8, "paths": 2},
    prior={"control": [30, 40], "dt": 0.2, "types": [1, 2]},
    subset=40,
)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder as training leaves it; screens are made small."""
    monkeypatch.setattr(heldout, "SIZE", {"genes": (30, 36), "max_cells": 120})
    net = build_network(RECIPE)
    config = {
        "network": "pairs", "sizes": net.config.to_dict(), "subset": 40, "cells": 10, "recipe": RECIPE.__dict__,
        "recipe_hash": RECIPE.digest(), "stages": [[RECIPE.digest(), 0]], "steps": 0, "seconds": 0, "device": "cpu",
    }  # fmt: skip
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_card_says_that_scores_are_composed() -> None:
    config = {
        "network": "pairs", "sizes": {"rounds": 1}, "recipe": RECIPE.__dict__ | {"steps": 5}, "recipe_hash": RECIPE.digest(),
        "stages": [[RECIPE.digest(), 0]], "steps": 6, "seconds": 0, "device": "cpu", "sha256": "0",
    }  # fmt: skip
    said = "compose the scores of all pairs"
    assert said in heldout.card(config, {}, RECIPE.screen_prior())
    assert said not in heldout.card(config | {"steps": 5}, {}, RECIPE.screen_prior())


def test_the_card_says_what_was_real() -> None:
    config = {
        "network": "pairs", "sizes": {}, "recipe": RECIPE.__dict__, "recipe_hash": RECIPE.digest(),
        "stages": [[RECIPE.digest(), 0]], "steps": 6, "seconds": 0, "device": "cpu", "sha256": "0",
    }  # fmt: skip
    assert "never on a real network or screen" in heldout.card(config, {}, RECIPE.screen_prior())
    real = config | {"recipe": RECIPE.__dict__ | {"real": [["hipsc_tf_ko", "day"], ["mine", None]]}}
    text = heldout.card(real, {}, RECIPE.screen_prior())
    assert "Fine-tuned on real screens, knock-outs hidden at random: hipsc_tf_ko, mine." in text
    assert "never on a real network or screen" not in text


def test_sets_are_those_of_users(trained, monkeypatch) -> None:
    sizes = []
    score_pairs = heldout.score_pairs

    def seen(*args, size, **how):
        sizes.append(size)
        return score_pairs(*args, size=size, **how)

    monkeypatch.setattr(heldout, "score_pairs", seen)
    monkeypatch.setattr(heldout, "KINDS", {"seen": heldout.KINDS["seen"]})
    weights = pretrained.load(trained)
    heldout.score_heldout(weights.net, weights.config, RECIPE.screen_prior(), n_screens=1)
    assert sizes == [80]  # twice the size of training


def test_every_kind_is_scored_with_every_baseline(trained) -> None:
    weights = pretrained.load(trained)
    scores = heldout.score_heldout(weights.net, weights.config, RECIPE.screen_prior(), n_screens=1)
    assert list(scores) == list(heldout.KINDS)
    for methods in scores.values():
        assert set(methods) == {"TCD", "correlation", "partial correlation", "knock-out |t|", "popularity"}
        assert methods["popularity"]["column_auroc"] == pytest.approx(50)  # a ranking that ignores the pair is chance
        assert all(0 <= row["row_auroc"] <= 100 for row in methods.values())


def test_same_seed_same_scores(trained) -> None:
    weights = pretrained.load(trained)
    first, again = (
        heldout.score_heldout(weights.net, weights.config, RECIPE.screen_prior(), n_screens=1, rng=5) for _ in range(2)
    )
    assert str(first) == str(again)


def test_no_held_out_kind_can_come_from_the_training_prior() -> None:
    prior = RECIPE.screen_prior()
    assert not set(heldout.KINDS["graph"]["graph_kinds"]) & set(prior.graph_kinds)
    assert not set(heldout.KINDS["noise"]["technologies"]) & set(prior.technologies)
    for name in ("hill", "decay", "noise"):
        (low, high), (value, _) = getattr(prior, name), heldout.KINDS["mechanism"][name]
        assert not low <= value <= high


def test_release_can_be_loaded_and_says_what_it_is(trained, tmp_path) -> None:
    out = tmp_path / "out"
    (trained / "log.json").write_text("[[2, 1, 0.5]]")
    (trained / "validation.json").write_text("[{}]")
    heldout.release(trained, out, n_screens=1)
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "config.json",
        "log.json",
        "model.safetensors",
        "validation.json",
    ]
    assert (out / "log.json").read_text() == "[[2, 1, 0.5]]"
    assert (out / "validation.json").read_text() == "[{}]"
    weights = pretrained.load(out)
    assert weights.config["sha256"] == weights.sha256
    card = (out / "README.md").read_text()
    assert RECIPE.digest() in card
    assert weights.sha256 in card
    assert card.count("| partial correlation |") == len(heldout.KINDS)


def test_a_folder_named_like_released_weights_is_meant(trained, monkeypatch) -> None:
    name = pretrained.available()[0]
    (trained / name).mkdir()
    for file in ("config.json", "model.safetensors"):
        (trained / name / file).write_bytes((trained / file).read_bytes())
    monkeypatch.chdir(trained)
    monkeypatch.setattr(heldout, "score_weights", lambda *_: {})
    heldout.release(Path(name), trained / "out")
    mine = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((trained / "out" / "config.json").read_text())["sha256"] == mine


def test_weights_are_scored_as_their_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    for name, word in (
        ("score_heldout", "n_screens"),
        ("score_heldout_targets", "n_models"),
        ("score_heldout_graphs", "n"),
    ):
        monkeypatch.setattr(heldout, name, lambda *_, _name=name, _word=word, **how: seen.append((_name, how[_word])))
    for name in ("tcd-grn-umi", "cdn-screens", "avici-scm"):
        heldout.score_weights(pretrained.load(name), 2)
    assert seen == [("score_heldout", 2), ("score_heldout_targets", 4), ("score_heldout_graphs", 6)]


def test_card_names_the_kinds_that_training_saw() -> None:
    whole = heldout.ScreenPrior(full_coverage=1.0, genes=(60, 100))
    assert heldout._of_the_prior(whole) == "`seen` is"
    part = heldout.ScreenPrior(full_coverage=0.5, genes=(15, 100))
    assert heldout._of_the_prior(part) == "`seen`, `half coverage`, `few genes` are"
