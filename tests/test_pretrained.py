from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from causcade import pretrained
from causcade.nn.cells import CellStream
from causcade.nn.differential import Differential
from causcade.nn.pair_stream import PairStream


def change(folder: Path, **config) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def seal(folder: Path) -> Path:
    return change(folder, sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


@pytest.fixture
def released(tmp_path, monkeypatch):
    """The folder that stands for the package's weights; empty at first."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(pretrained, "_folder", lambda: folder)
    return folder


def test_load_folder(tiny_weights, tiny_cell_weights):
    found = pretrained.load(tiny_weights)
    assert isinstance(found.net, PairStream)
    assert not found.net.training
    assert found.config["subset"] == 40
    digest = hashlib.sha256((tiny_weights / "model.safetensors").read_bytes()).hexdigest()
    assert found.sha256 == digest
    assert found.label == f"{tiny_weights}@{digest[:12]}"
    assert isinstance(pretrained.load(str(tiny_cell_weights)).net, CellStream)


def test_weights_are_those_of_the_file(tiny_weights):
    from safetensors.torch import load_file

    stored = load_file(tiny_weights / "model.safetensors")
    for name, value in pretrained.load(tiny_weights).net.state_dict().items():
        assert torch.equal(value, stored[name])


def test_load_a_differential_network(tiny_target_weights):
    found = pretrained.load(tiny_target_weights)
    assert isinstance(found.net, Differential)
    assert found.model == "CDN"


def test_the_model_is_told_by_the_network_where_the_config_does_not(
    tiny_weights, tiny_cell_weights, tiny_target_weights
):
    for folder, model in ((tiny_weights, "TCD"), (tiny_cell_weights, "TCD"), (tiny_target_weights, "CDN")):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model"}))
        assert pretrained.load(folder).model == model
        assert pretrained.load(change(folder, model=model)).model == model


def test_nothing_released(released):
    assert pretrained.available() == []
    assert pretrained.list().empty
    with pytest.raises(ValueError, match=r"No weights 'tcd-grn-umi'.*\(none\)"):
        pretrained.load("tcd-grn-umi")
    released.rmdir()
    assert pretrained.available() == []


def test_released_name(released, tiny_weights, tiny_cell_weights):
    shutil.copytree(seal(tiny_weights), released / "mine")
    shutil.copytree(change(seal(tiny_cell_weights), use="tests", scores={"row_auroc": 0.5}), released / "other")
    assert pretrained.available() == ["mine", "other"]
    assert pretrained.load("mine").label.startswith("mine@")
    table = pretrained.list()
    assert table.index.tolist() == ["mine", "other"]
    assert table.loc["other", ["network", "use", "row_auroc"]].tolist() == ["cells", "tests", 0.5]
    with pytest.raises(ValueError, match=r"No weights 'mein': neither a released name \(mine, other\) nor a folder"):
        pretrained.load("mein")


def test_released_weights_need_a_checksum(released, tiny_weights):
    shutil.copytree(tiny_weights, released / "mine")
    with pytest.raises(RuntimeError, match=r"'mine' are damaged.*expected None"):
        pretrained.load("mine")


def test_incomplete_folder(tiny_weights):
    (tiny_weights / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"config\.json and model\.safetensors"):
        pretrained.load(tiny_weights)


def test_flipped_bit(tiny_weights):
    path = seal(tiny_weights) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match="damaged: sha256"):
        pretrained.load(tiny_weights)


@pytest.mark.parametrize("sealed", [True, False])
def test_truncated(tiny_weights, sealed):
    if sealed:
        seal(tiny_weights)
    path = tiny_weights / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RuntimeError, match="damaged" if sealed else "cannot be read as weights of 'pairs'"):
        pretrained.load(tiny_weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tiny_weights, value):
    from safetensors.torch import load_file, save_file

    stored = load_file(tiny_weights / "model.safetensors")
    stored["skip.bias"][0] = value
    save_file(stored, tiny_weights / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"not finite: skip\.bias"):
        pretrained.load(tiny_weights)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_are_not_read(tiny_weights, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tiny_weights / "model.safetensors"
    if kind == "torch":
        torch.save({"weights": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RuntimeError, match="cannot be read as weights"):
        pretrained.load(tiny_weights)
    assert not (tmp_path / "exploded").exists()


BAD_CONFIGS = {
    "unknown network": (
        {"network": "trees"},
        r"asks for network 'trees'; known are .*'cells', 'differential'.*'pairs'",
    ),
    "other network": ({"network": "cells"}, "cannot be read as weights of 'cells'"),
    "other width": ({"sizes": {"width": 16, "layers": 1, "heads": 2, "hidden": 16, "paths": 2}}, "cannot be read"),
    "more layers": ({"sizes": {"width": 8, "layers": 2, "heads": 2, "hidden": 16, "paths": 2}}, "cannot be read"),
    "unknown size": ({"sizes": {"depth": 3}}, "cannot be read as weights.*depth"),
    "impossible size": ({"sizes": {"width": 8, "heads": 3}}, "cannot be read as weights.*heads"),
    "no heads": ({"sizes": {"width": 8, "heads": 0}}, "cannot be read as weights"),
    "sizes no dict": ({"sizes": 4}, "cannot be read as weights"),
    "small subset": ({"subset": 1}, r"config\.json: subset must be a whole number of at least 2, not 1"),
    "subset no int": ({"subset": "96"}, r"config\.json: subset must be .* not '96'"),
    "no cells": ({"cells": 0}, r"config\.json: cells must be a whole number of at least 1, not 0"),
    "other model": ({"model": "AVICI"}, r"config\.json is of a model 'AVICI'"),
    "model of another network": ({"model": "CDN"}, r"config\.json is of a model 'CDN' with network 'pairs'"),
    "model no name": ({"model": ["TCD"]}, r"config\.json is of a model \['TCD'\]"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_config_that_does_not_fit(tiny_weights, case):
    config, text = BAD_CONFIGS[case]
    if config.get("network") == "cells":
        sizes = {"width": 4, "layers": 1, "heads": 2, "hidden": 8}
        config = {**config, "sizes": sizes}
    with pytest.raises(RuntimeError, match=text):
        pretrained.load(change(tiny_weights, **config))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no config of causcade weights"),
        ("[1]", "is no config of causcade weights"),
        ("{}", "is no config of causcade weights"),
        ('{"network": "pairs"}', r"lacks \['sizes', 'subset'\]"),
        ('{"network": "cells", "sizes": {}, "subset": 5}', r"lacks \['cells'\]"),
    ],
)
def test_config_that_is_none(tiny_weights, text, told):
    (tiny_weights / "config.json").write_text(text)
    with pytest.raises(RuntimeError, match=told):
        pretrained.load(tiny_weights)


def test_own_folder_next_to_a_released_name(released, tiny_weights, tmp_path, monkeypatch):
    """A released name wins over a folder of that name in the working directory."""
    shutil.copytree(seal(tiny_weights), released / "mine")
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pretrained.load("mine").name == "mine"


def test_what_training_saves_can_be_loaded(tmp_path):
    from causcade.pretrain import Recipe, Trainer

    sizes = {"width": 8, "layers": 1, "heads": 2, "hidden": 16, "paths": 2}
    trainer = Trainer(Recipe("mine", sizes=sizes, subset=12), "cpu")
    trainer.save(tmp_path / "run")
    found = pretrained.load(tmp_path / "run")
    assert found.config["subset"] == 12
    for name, value in trainer.net.state_dict().items():
        assert torch.equal(value, found.net.state_dict()[name])
