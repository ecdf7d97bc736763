"""Files are whole whatever happens: processes killed at every step of a write, full disks, folders that may not be written."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save as to_safetensors

from causcade import _files, models, pp, pretrained, tl
from causcade.pretrain import Recipe
from causcade.pretrain.trainer import run

Write = Callable[[Path, int], None]
RECIPE = Recipe(
    "tiny", sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8, "paths": 2}, subset=16, batch=2, steps=4,
    prior={"genes": [14, 20], "control": [30, 40], "max_cells": 60, "dt": 0.2, "types": [1, 1]},
    warmup=1, cooldown=1, pool=1, refresh=4, assays=2,
)  # fmt: skip


def child(work: Callable[[], None]) -> tuple[int, bool]:
    """Exit status of a process that does the work, 1 if it raised; and whether it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), os.WIFSIGNALED(status)


def dies_at(step: int) -> None:
    """Make this process die at the next but `step` of its calls that change what is on the disk, before or after it, in turn."""
    left = [step // 2]

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **how: Any) -> Any:
            last = left[0] == 0
            left[0] -= 1
            if last and step % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            out = real(*args, **how)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return out

        setattr(os, name, call)

    for name in ("fsync", "replace"):
        watched(name)


# --- who writes -------------------------------------------------------------------------------------------------------


def tensors_of(version: int) -> bytes:
    return to_safetensors({"x": torch.full((3,), float(version))})


def write_pair(folder: Path, version: int) -> None:
    data = tensors_of(version)
    text = json.dumps({"version": version, "sha256": hashlib.sha256(data).hexdigest()})
    _files.put_pair(folder, data, text)


def read_pair(folder: Path) -> int:
    data = (folder / _files.TENSORS).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    config = json.loads(_files.config_of(folder, sha256).read_text())
    assert config["sha256"] == sha256
    assert data == tensors_of(config["version"])
    return int(config["version"])


def counts(seed: int) -> ad.AnnData:
    x = np.random.default_rng(seed).poisson(5, (40, 6)).astype(np.float32)
    obs = pd.DataFrame({"perturbation": ["control"] * 20 + ["A"] * 10 + ["B"] * 10}, index=[f"c{i}" for i in range(40)])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=list("ABCDEF")))


@pytest.fixture(scope="module")
def tcd() -> models.TCD:
    adata = counts(0)
    models.TCD.setup_anndata(adata, "perturbation", "control")
    model = models.TCD(adata, width=8, layers=1, heads=2, hidden=8)
    model.is_trained_ = True
    return model


def marked(model: models.TCD, version: int) -> models.TCD:
    with torch.no_grad():
        next(iter(model.net.parameters())).fill_(version)
    return model


def mark_of(net: torch.nn.Module) -> int:
    return int(next(iter(net.parameters())).flatten()[0])


@pytest.fixture(params=["pair", "save_pretrained", "save", "summarise"])
def writer(request: pytest.FixtureRequest, tcd: models.TCD) -> tuple[Write, Callable[[Path], int]]:
    """A function that writes one of several versions to a place, and one that says which is there."""
    if request.param == "pair":
        return write_pair, read_pair
    if request.param == "save_pretrained":
        return (
            lambda place, version: marked(tcd, version).save_pretrained(place, overwrite=True),
            lambda place: mark_of(pretrained.load(place).net),
        )
    if request.param == "save":
        return (
            lambda place, version: marked(tcd, version).save(place, overwrite=True),
            lambda place: mark_of(models.TCD.load(place, tcd.adata, accelerator="cpu").net),
        )
    return _summarise, _read_summary


def _summarise(place: Path, version: int) -> None:
    path = place.with_suffix(".h5ad")
    pp.summarise(counts(0), "perturbation", "control", path=path, max_cells=3 + version, progress_bar=False)


def _read_summary(place: Path) -> int:
    return int(ad.read_h5ad(place.with_suffix(".h5ad")).uns["summary"]["params"]["max_cells"]) - 3


# --- what befalls them ------------------------------------------------------------------------------------------------


def test_killed_at_any_step_of_a_write(writer: tuple[Write, Callable[[Path], int]], tmp_path: Path) -> None:
    write, version_at = writer
    place = tmp_path / "it"
    write(place, 1)
    found: list[int] = []
    killed = True
    while killed:
        step = len(found)
        write(place, 1)
        code, killed = child(lambda at=step: (dies_at(at), write(place, 2)))  # type: ignore[misc]
        assert code == (-signal.SIGKILL if killed else 0)
        found.append(version_at(place))
    assert found[0] == 1 and found[-1] == 2 and found == sorted(found)


def test_disk_is_full(writer: tuple[Write, Callable[[Path], int]], tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the kernel refuses to write on."""
    write, version_at = writer
    place = tmp_path / "it"
    write(place, 1)
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        write(place, 2)

    assert child(full) == (1, False)
    assert version_at(place) == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_folder_may_not_be_written(writer: tuple[Write, Callable[[Path], int]], tmp_path: Path) -> None:
    write, version_at = writer
    place = tmp_path / "it"
    write(place, 1)
    folders = [p for p in (tmp_path, place) if p.is_dir()]

    def without_rights() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        write(place, 2)

    for folder in folders:
        folder.chmod(0o555)
    try:
        assert child(without_rights) == (1, False)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert version_at(place) == 1


def test_training_that_is_killed_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    how: dict[str, Any] = {"minutes": 10.0, "device": "cpu", "every": 1}
    whole = run(RECIPE, tmp_path / "whole", resume=False, adopt=False, **how)
    for step in (3, 12, 20):
        folder = tmp_path / str(step)
        code, killed = child(
            lambda at=step, to=folder: (dies_at(at), run(RECIPE, to, resume=False, adopt=False, **how))
        )  # type: ignore[misc]
        assert killed and code == -signal.SIGKILL
        if (folder / "checkpoint.pt").exists():
            again = run(RECIPE, folder, resume=True, adopt=False, **how)
        else:
            assert step == 3  # before the first
            again = run(RECIPE, folder, resume=False, adopt=False, **how)
        for one, other in zip(again.net.parameters(), whole.net.parameters(), strict=True):
            assert torch.equal(one, other)
        assert [row[0::2] for row in again.log] == [row[0::2] for row in whole.log]
        weights = pretrained.load(folder)
        assert np.isfinite(mark_of(weights.net))


@pytest.mark.parametrize("tool", ["causes", "targets"])
def test_scoring_that_is_killed_goes_on_as_if_nothing_had_happened(
    tool: str,
    screen: Any,
    tiny_weights: Path,
    tiny_target_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed within the write of the second block, after it, and within the write of the fourth."""
    monkeypatch.setattr("causcade.ensemble._TOGETHER", 4)
    monkeypatch.setattr("causcade.targets._TOGETHER", 1)
    how: dict[str, Any] = {"model": tiny_weights, "genes": "G01", "subset_size": 8, "n_half": 2}
    if tool == "targets":
        how = {
            "model": tiny_target_weights,
            "perturbations": [f"G{g:02d}" for g in range(4)],
            "n_draws": 1,
            "n_half": 0,
        }
    ask = functools.partial(getattr(tl, tool), progress_bar=False, **how)
    whole, folder = screen.copy(), tmp_path / "kept"
    ask(whole)
    blocks = []
    for step in (10, 3, 5):
        code, killed = child(lambda at=step: (dies_at(at), ask(screen, resume=folder)))  # type: ignore[misc]
        assert killed and code == -signal.SIGKILL
        blocks.append(len(list(folder.glob("[!.]*.npz"))))
    assert blocks == [1, 2, 3]
    ask(screen, resume=folder)
    for name, values in whole.varm.items():
        assert screen.varm[name].tobytes() == values.tobytes()
    assert not folder.exists()


def test_files_wait_on_the_same_disk_as_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be a link to another disk, onto which nothing can be moved; and ``.`` has no name to stand beside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for folder in (Path(), tmp_path / "link", tmp_path / "new"):
        with _files.into_place(folder) as half:
            assert half.parent == (tmp_path if folder.name == "new" else folder)
            half.mkdir()
            (half / "a.txt").write_text("a")
        assert (folder / "a.txt").read_text() == "a"
        assert not list(folder.glob(".*.part"))
