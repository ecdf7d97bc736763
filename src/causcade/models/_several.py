"""Training in several processes, one on each device, through Lightning's DDP."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from lightning.pytorch.strategies import DDPStrategy
from scvi.train import LoudEarlyStopping
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

if TYPE_CHECKING:
    from scvi.train import TrainRunner

    from causcade.models._plan import Plan

__all__ = ["LOGGERS", "Several", "ignore_notices", "several"]

LOGGERS = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
_STOPPING = ("monitor", "min_delta", "patience", "mode", "warmup_epochs")


def ignore_notices() -> None:
    """Filter Lightning's and scvi-tools' notices on hardware and workers; what is said here is said to users once."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", "GPU available but not used.*")
    warnings.filterwarnings("ignore", "early_stopping was automatically disabled due to the use of DDP")


class _Strategy(DDPStrategy):
    """DDP that is quiet in the processes it starts, too."""

    def __init__(self, *, unused: bool) -> None:
        # a notebook cannot be imported anew, which is what "spawn" does
        self.forks = hasattr(sys, "ps1")
        super().__init__(start_method="fork" if self.forks else "spawn", find_unused_parameters=unused)

    def setup_environment(self) -> None:
        if self.forks:
            torch.set_num_threads(1)  # threads of the process it was forked from are not there
        ignore_notices()
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        super().setup_environment()


@dataclass(frozen=True)
class Several:
    """Training in several processes.

    Attributes
    ----------
    folder
        Losses and last state, for the process that waits.
    settings
        Arguments of the trainer.
    """

    folder: Path
    settings: dict[str, Any]

    @property
    def snapshot(self) -> Path:
        """State after the last whole epoch."""
        return self.folder / "state.pt"

    @contextmanager
    def watch(self, runner: TrainRunner, plan: Plan) -> Iterator[None]:
        """End all processes with this one; take over what they learned, and say what they failed of.

        Raises
        ------
        RuntimeError
            If a process failed.
        """
        plan.snapshot = self.snapshot
        if not runner.trainer.checkpoint_callback:
            runner.trainer._model = None  # would be sent to every process, with all cells
        try:
            yield
        except (ProcessRaisedException, ProcessExitedException) as error:
            killed = _killed(runner)
            msg = _reason(error, killed)
            if (killed is not None or isinstance(error, ProcessExitedException)) and self._take_over(runner, plan):
                runner.model.is_trained_ = True
                msg += " The model holds the last whole epoch."
            raise RuntimeError(msg) from error
        except BaseException:
            self._take_over(runner, plan)
            raise
        finally:
            plan.snapshot = None
            _end(runner)

    def _take_over(self, runner: TrainRunner, plan: Plan) -> bool:
        """Bring back what the last whole epoch left; say whether there was one."""
        _end(runner)  # nobody writes any more
        if not self.snapshot.exists():
            return False
        kept = torch.load(self.snapshot, weights_only=True)
        plan.load_state_dict(kept["plan"])
        runner.model.history_ = _longer(runner.model.history_ or {}, kept["losses"])
        return True


def _killed(runner: TrainRunner) -> int | None:
    """Which process was killed, if one was."""
    codes = [process.exitcode for process in _processes(runner)]
    killed = -getattr(signal, "SIGKILL", 0)
    return codes.index(killed) if killed and killed in codes else None


def _reason(error: Exception, killed: int | None) -> str:
    """Why processes ended. Where one was killed, another may have raised what it saw of that: a lost connection."""
    if killed is not None:
        return f"Process {killed} of the training was killed; often memory ran out."
    if isinstance(error, ProcessRaisedException):
        return str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
    return (
        f"Training ended: {error}. What it printed says why. If this is a script, its work must stand under "
        "`if __name__ == '__main__':`, since every process imports it."
    )


def _processes(runner: TrainRunner) -> Any:
    return getattr(runner.trainer.strategy.launcher, "procs", ())


def _end(runner: TrainRunner) -> None:
    """Kill the processes that still train."""
    for process in _processes(runner):
        if process.is_alive():
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        process.join()


def _longer(history: dict[str, pd.DataFrame], losses: dict[str, list[float]]) -> dict[str, pd.DataFrame]:
    """Losses of further epochs, as scvi-tools keeps them."""
    out = dict(history)
    for name, values in losses.items():
        all_values = [*out[name][name], *values] if name in out else values
        out[name] = pd.DataFrame({name: all_values}, index=pd.RangeIndex(len(all_values), name="epoch"))
    return out


@contextmanager
def _own_port() -> Iterator[None]:
    """Let Lightning look for a free port each time: it leaves the last one in the environment, which may be taken by now."""
    given = os.environ.get("MASTER_PORT")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop("MASTER_PORT", None)


@contextmanager
def several(settings: dict[str, Any], devices: list[str], *, unused: bool) -> Iterator[Several]:
    """Arguments of the trainer for several processes.

    Parameters
    ----------
    settings
        Arguments for one process. ``strategy`` may be one of four names of DDP.
    devices
        Names of the devices.
    unused
        Some steps do not depend on all parameters.

    Raises
    ------
    ValueError
        If it is not.
    """
    settings = dict(settings)
    strategy = settings.pop("strategy", None)
    if strategy is None:
        strategy = _Strategy(unused=unused)
    elif strategy in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"):
        strategy += "_find_unused_parameters_true" * unused
    else:
        msg = f"strategy must be 'ddp', 'ddp_spawn', 'ddp_fork' or 'ddp_notebook' to train on several devices, not {strategy!r}."
        raise ValueError(msg)
    stopping = {name: settings.pop(f"early_stopping_{name}", None) for name in _STOPPING}
    if settings.pop("early_stopping", False):  # scvi-tools turns its own off; here all processes see the same loss
        chosen = {"min_delta": 0.0, "mode": "min", "warmup_epochs": 0}
        chosen |= {name: value for name, value in stopping.items() if value is not None}
        settings["callbacks"] = [*settings.get("callbacks", []), LoudEarlyStopping(**chosen)]
    with tempfile.TemporaryDirectory(prefix="causcade") as folder, _own_port():
        yield Several(
            Path(folder),
            {
                "log_save_dir": folder,  # the losses come back through a file
                **settings,
                "strategy": strategy,
                "use_distributed_sampler": False,  # every process draws the same steps, and takes its share of each
                "accelerator": "cpu" if devices[0] == "cpu" else "gpu",
                "devices": len(devices) if devices[0] == "cpu" else [int(d.partition(":")[2]) for d in devices],
            },
        )
