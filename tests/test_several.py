"""Training in several processes: a real run of two on the CPU, and what Lightning is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from causcade.models import TCD
from causcade.models._several import several

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All runs in one process of its own, which can fork: nothing else runs in it."""
    folder = tmp_path_factory.mktemp("ddp")
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "ddp_script.py")],
        capture_output=True, text=True, cwd=folder, env=env, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(folder.iterdir()) == []  # no logs where the user works
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
@pytest.mark.parametrize("name", ["TCD", "CDN", "AVICI"])
def test_two_processes_learn_what_one_does(ran: dict[str, Any], name: str) -> None:
    """The same losses, weights, steps and multiplier, also in a second call; the waiting process has them all."""
    two, one = ran[name]
    epochs = 3 if name == "AVICI" else 2
    assert two["trained"] and two["steps"] == one["steps"] == 2 * epochs
    for kind in ("train_loss", "validation_loss"):
        assert len(two["losses"][kind]) == epochs
        assert two["losses"][kind] == pytest.approx(one["losses"][kind], rel=1e-4)
    assert two["size"] == pytest.approx(one["size"], rel=1e-4)
    if name == "AVICI":
        assert one["dual"]["calls"] == 6 and one["dual"]["weight"] > 0
        assert two["dual"] == pytest.approx(one["dual"], rel=1e-4)


@forks
def test_early_stopping_stops_all_processes(ran: dict[str, Any]) -> None:
    losses = ran["stopped"]["losses"]["validation_loss"]
    assert 2 <= len(losses) < 5 and losses[-1] >= min(losses[:-1])
    assert ran["stopped"]["steps"] == 2 * len(losses)


@forks
def test_loss_that_is_not_finite_is_told_by_the_waiting_process(ran: dict[str, Any]) -> None:
    assert ran["broken"] == "The training loss became nan at step 0. Lower lr (now 0.01)."


@forks
def test_ctrl_c_leaves_the_epochs_that_were_done(ran: dict[str, Any]) -> None:
    """And the next Ctrl-C is heard."""
    left = ran["interrupted"]
    assert left["heard"] and left["trained"]
    n = len(left["losses"]["train_loss"])
    assert 2 <= n < 100 and left["steps"] == 2 * n  # whole epochs


@forks
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_process_that_is_ended_ends_all_and_leaves_its_epochs(ran: dict[str, Any], how: str) -> None:
    left = ran[how]
    assert ("was killed" if how == "SIGKILL" else "SIGTERM") in left["says"]
    assert left["says"].endswith("The model holds the last whole epoch.")
    assert left["trained"] and left["steps"] == 4 and len(left["losses"]["train_loss"]) == 2


# --- the process that waits -----------------------------------------------------------------------------------------


class Process:
    """Writes a state until it is ended."""

    pid = 0
    exitcode: int | None = None

    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def join(self) -> None:
        assert not self.alive


ENDED = [
    (KeyboardInterrupt(), None, ""),
    (
        ProcessExitedException("signal SIGKILL", 0, 1, -9),
        -9,
        "Process 1 of the training was killed; .*last whole epoch",
    ),
    (ProcessRaisedException("Connection closed by peer", 0, 1), -9, "Process 1 .* was killed; .*last whole epoch"),
    (ProcessExitedException("exit code 1", 1, 1, 1), 1, "exit code 1.*`if __name__ == '__main__':`.*last whole epoch"),
]


@pytest.mark.parametrize(("error", "code", "says"), ENDED)
def test_state_is_read_once_nobody_writes_it(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int | None, says: str
) -> None:
    taken: list[Any] = []
    plan = SimpleNamespace(snapshot=None, load_state_dict=taken.append)
    process, other = Process(), Process()
    other.alive, other.exitcode = code is None, code
    launcher = SimpleNamespace(procs=[process, other])
    trainer = SimpleNamespace(checkpoint_callback=True, strategy=SimpleNamespace(launcher=launcher))
    runner: Any = SimpleNamespace(trainer=trainer, model=SimpleNamespace(history_=None, is_trained_=False))
    with several({}, ["cpu", "cpu"], unused=True) as how:

        def kill(*_: Any) -> None:
            process.alive = other.alive = False
            torch.save({"plan": {"n_steps": 4}, "losses": {"train_loss": [2.0, 1.0]}}, how.snapshot)

        how.snapshot.write_bytes(b"PK half of a state")
        monkeypatch.setattr("causcade.models._several.os.kill", kill)
        with (
            pytest.raises(RuntimeError, match=says) if says else pytest.raises(KeyboardInterrupt),
            how.watch(runner, plan),  # type: ignore[arg-type]
        ):
            raise error
    assert taken == [{"n_steps": 4}] and plan.snapshot is None
    assert runner.model.is_trained_ == bool(says)  # after Ctrl-C the caller says so
    assert runner.model.history_["train_loss"]["train_loss"].tolist() == [2.0, 1.0]


def test_each_training_looks_for_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """But one that the user gave is used."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with several({}, ["cpu", "cpu"], unused=True):
        os.environ["MASTER_PORT"] = "1"  # as Lightning does
    assert "MASTER_PORT" not in os.environ
    monkeypatch.setenv("MASTER_PORT", "12345")
    with several({}, ["cpu", "cpu"], unused=True):
        pass
    assert os.environ["MASTER_PORT"] == "12345"


# --- what Lightning is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", [False, True])
def test_processes_start_in_the_way_that_is_possible(monkeypatch: pytest.MonkeyPatch, *, notebook: bool) -> None:
    monkeypatch.delattr(sys, "ps1", raising=False)
    if notebook:
        monkeypatch.setattr(sys, "ps1", ">", raising=False)
    with several({}, ["cpu", "cpu"], unused=True) as how:
        strategy = how.settings["strategy"]
        assert isinstance(strategy, DDPStrategy) and strategy._start_method == ("fork" if notebook else "spawn")
        assert strategy._ddp_kwargs == {"find_unused_parameters": True}
        assert (how.settings["accelerator"], how.settings["devices"]) == ("cpu", 2)
        assert how.settings["use_distributed_sampler"] is False
        assert Path(how.settings["log_save_dir"]).is_dir()
    assert not how.folder.exists()


def test_arguments_of_the_trainer_are_kept() -> None:
    given: dict[str, Any] = {"strategy": "ddp", "precision": "bf16-mixed", "log_save_dir": "logs"}
    given |= {"early_stopping": True, "early_stopping_monitor": "validation_loss", "early_stopping_patience": 3}
    with several(given, ["cuda:1", "cuda:3"], unused=False) as how:
        chosen = how.settings
    assert (chosen["accelerator"], chosen["devices"]) == ("gpu", [1, 3])
    assert (chosen["strategy"], chosen["precision"], chosen["log_save_dir"]) == ("ddp", "bf16-mixed", "logs")
    (stopping,) = chosen["callbacks"]
    assert (stopping.monitor, stopping.patience, stopping.mode) == ("validation_loss", 3, "min")
    assert "early_stopping" not in chosen and given["early_stopping"]
    with several({"strategy": "ddp_fork"}, ["cpu", "cpu"], unused=True) as how:
        assert how.settings["strategy"] == "ddp_fork_find_unused_parameters_true"


def test_refuses_what_is_no_ddp(screen: Any) -> None:
    TCD.setup_anndata(screen)
    model = TCD(screen, width=8, layers=1, heads=1, hidden=8)
    with pytest.raises(ValueError, match=r"strategy must be 'ddp', .* not 'fsdp'"):
        model.train(1, devices=[0, 1], accelerator="cpu", strategy="fsdp", progress_bar=False)
    assert not model.is_trained
    with pytest.raises(ValueError, match=r"different numbers of devices, such as \[0, 1\], not \[0, 0\]"):
        model.train(1, devices=[0, 0], accelerator="cpu")
