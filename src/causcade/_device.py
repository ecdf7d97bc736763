"""Where networks run, and how much memory is left there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

__all__ = ["check_memory", "free_memory", "pick_device", "pick_devices"]

logger = logging.getLogger(__name__)


def pick_device(accelerator: str = "auto", devices: int | str = "auto") -> str:
    """Name of the torch device for ``accelerator=`` and ``devices=``.

    Parameters
    ----------
    accelerator
        ``"auto"`` (a CUDA GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"gpu"``.
    devices
        ``"auto"`` (the first) or the number of the device.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If CUDA is asked for and absent, or has no device of that number.
    """
    if accelerator not in ("auto", "cpu", "cuda", "gpu"):
        msg = f"accelerator must be 'auto', 'cpu' or 'cuda', not {accelerator!r}."
        raise ValueError(msg)
    if devices != "auto":
        _check_number(devices)
    found = torch.cuda.is_available()
    if accelerator in ("cuda", "gpu") and not found:
        msg = "accelerator='cuda' was asked for, but torch finds no CUDA device; use accelerator='auto' or 'cpu'."
        raise RuntimeError(msg)
    if accelerator == "cpu" or not found:
        if devices not in ("auto", 0):
            warnings.warn(f"devices={devices!r} has no meaning on the CPU.", UserWarning, stacklevel=2)
        return "cpu"
    number = 0 if devices == "auto" else int(devices)
    if number >= (count := torch.cuda.device_count()):
        msg = f"devices={number} was asked for, but torch finds {count} CUDA device(s), numbered from 0."
        raise RuntimeError(msg)
    return f"cuda:{number}"


def pick_devices(accelerator: str = "auto", devices: int | str | Sequence[int] = "auto") -> list[str]:
    """Names of the torch devices for training, which takes several as a list.

    Parameters
    ----------
    accelerator
        As in :func:`pick_device`.
    devices
        As in :func:`pick_device`, or numbers of devices, one process on each. On the CPU their number is all that counts.

    Raises
    ------
    ValueError
        If the name is unknown, or the list is empty or has a number twice.
    RuntimeError
        If CUDA is asked for and absent, or has no device of that number.
    """
    if isinstance(devices, str | int):
        return [pick_device(accelerator, devices)]
    numbers = [*devices] if isinstance(devices, list | tuple | range) else []
    for number in numbers:
        _check_number(number)
    if not numbers or len(set(numbers)) < len(numbers):
        msg = f"devices must be different numbers of devices, such as [0, 1], not {devices!r}."
        raise ValueError(msg)
    if pick_device(accelerator) != "cpu":
        return [pick_device(accelerator, number) for number in numbers]
    return ["cpu"] * len(numbers)


def _check_number(number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        msg = f"devices must be 'auto' or the number of a device (0, 1, ...), not {number!r}."
        raise ValueError(msg)


def free_memory() -> float:
    """Bytes that are free, as far as the system says; infinite if it does not."""
    free = float("inf")
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(told["MemAvailable"].split()[0]) * 1024.0
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        if limit != "max":
            of = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
            # files that were read stay in memory until it is needed: a large screen on the disk must not count as used
            free = min(free, float(limit) - float(used) + float(of["inactive_file"]))
    except (OSError, KeyError, ValueError):  # another system, or no limits
        return free
    return free


def check_memory(need: float, work: str, advice: Callable[[float], str]) -> None:
    """Refuse what the system would kill; log what is needed and free.

    Parameters
    ----------
    need
        Bytes.
    work
        What needs them, as a sentence begins.
    advice
        What to do instead, told the bytes that are free.

    Raises
    ------
    ValueError
        If it is more than is free.
    """
    free = free_memory()
    told = f"{work} need about {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free."
    if need > free:
        msg = f"{told} {advice(free)}"
        raise ValueError(msg)
    logger.info(told)
