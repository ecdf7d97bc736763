"""Files that are written wholly or not at all, whenever the process is killed or the disk is full."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["CONFIG", "TENSORS", "beside", "config_of", "into_place", "put", "put_pair", "writing"]

TENSORS, CONFIG = "model.safetensors", "config.json"
_NEXT = "config.next.json"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name beside a path, for a file or folder that is moved there once it is whole; else nothing of it is left.

    Parameters
    ----------
    path
        What is there is replaced.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield half
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(half, path)
    finally:
        if half.is_dir():
            shutil.rmtree(half)
        half.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to beside a path, moved there when all is on the disk: a reader sees the old one or the new one.

    Parameters
    ----------
    path
        Where; a file that is there is replaced.
    """
    with beside(path) as half, half.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def put(path: Path, data: bytes | str) -> None:
    """Write a file beside its place and move it there: a reader sees the old one or the new one.

    Parameters
    ----------
    path
        Where; a file that is there is replaced.
    data
        Text is written as UTF-8.

    Raises
    ------
    OSError
        If it cannot be written; what was there is still there, and nothing else.
    """
    with writing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def put_pair(folder: Path, tensors: bytes, config: str) -> None:
    """Write the tensors and the config that tells their checksum, so that they fit whenever the process is killed.

    The new config is written first, under another name; :func:`config_of` finds the one that fits.

    Parameters
    ----------
    folder
        Made if it is not there.
    tensors
        All of ``model.safetensors``.
    config
        All of ``config.json``, with ``sha256`` of the tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / _NEXT, config)
    put(folder / TENSORS, tensors)
    os.replace(folder / _NEXT, folder / CONFIG)


def config_of(folder: Path, sha256: str) -> Path:
    """The config of tensors with this checksum: the next one, if a write was cut short before it came into its place."""
    following = folder / _NEXT
    return following if following.is_file() and f'"{sha256}"' in following.read_text() else folder / CONFIG


@contextmanager
def into_place(folder: Path) -> Iterator[Path]:
    """A name for a folder to write files in, which are then moved into `folder`, one by one in the order of their names.

    Parameters
    ----------
    folder
        Made if it is not there; other files in it stay.
    """
    part = f".{folder.name}.{os.getpid()}.part"
    half = folder / part if folder.is_dir() else folder.with_name(part)  # beside a link or mount is another disk
    try:
        yield half
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(half.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(half, ignore_errors=True)
