"""Long work in blocks: finished ones are kept in a folder, so that what was cut short goes on; and how long it will take."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from causcade._files import put, writing

__all__ = ["Arrays", "Blocks", "checksum", "rng_state"]

logger = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]

_QUESTION, _BLOCK = "question.json", ".block.npz"
_STATE = "rng_state"
_MEASURED = 4  # steps that tell how long the others will take; the first is slower than they are
_SHORT = 30  # characters of a value that a message repeats


class Blocks:
    """Finished blocks of one piece of work, in a folder; each is written wholly or not at all.

    Parameters
    ----------
    folder
        Made if it is not there. ``None`` = nothing is kept.
    question
        All that the answer depends on, by name, in values that JSON holds.

    Raises
    ------
    ValueError
        If the folder holds blocks of another question, or other files.
    """

    def __init__(self, folder: Path | None = None, question: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._left = self._extra = 0.0
        self._times: list[tuple[float, float]] | None = None
        if folder is not None:
            _claim(folder, json.loads(json.dumps(question or {})))

    def has(self, name: str) -> bool:
        """Whether a block is there."""
        return self._folder is not None and self._path(name).is_file()

    def take(
        self, name: str, make: Callable[[], Arrays], *, rng: np.random.Generator | None = None, steps: float = 0
    ) -> Arrays:
        """Read a block, or make and keep it. Blocks ``name-...`` were parts of it, and are taken away.

        Parameters
        ----------
        name
            Name of a file.
        make
            Makes it.
        rng
            What `make` draws from: a block that is read leaves it as making it would have.
        steps
            Steps of :meth:`plan` that need not be made if it is there.
        """
        if self._folder is None:
            return make()
        found = _read(self._path(name), rng)
        if found is not None:
            self._left -= steps
            return found
        made = make()
        self._folder.mkdir(exist_ok=True)
        state = {} if rng is None else {_STATE: np.array(rng_state(rng))}
        with writing(self._path(name)) as file:
            np.savez(file, allow_pickle=False, **made, **state)
        for part in self._folder.glob(f"{name}-*{_BLOCK}"):
            part.unlink(missing_ok=True)
        return made

    def plan(self, steps: float, *, extra: float = 0.0) -> None:
        """Say how many steps there are, to be told how long they will take once a few are made.

        Parameters
        ----------
        steps
            Number of steps of about the same length, those of blocks that are there included.
        extra
            Seconds that other work will take.
        """
        self._left, self._extra, self._times = steps, extra, []

    def step(self, size: float = 1) -> None:
        """Count a step that was made; logs the time for the others, once."""
        self._left -= size
        if self._times is None:
            return
        self._times.append((time.monotonic(), size))
        if len(self._times) <= _MEASURED:
            return
        each = (self._times[-1][0] - self._times[0][0]) / sum(size for _, size in self._times[1:])
        self._times = None
        if self._left > 0:
            logger.info("about %s to go", _duration(each * self._left + self._extra))

    def clear(self) -> None:
        """Take the blocks away, and the folder if nothing else is in it."""
        if self._folder is None:
            return
        for pattern in (f"*{_BLOCK}", ".*.part", _QUESTION):
            for file in self._folder.glob(pattern):
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _path(self, name: str) -> Path:
        return Path() if self._folder is None else self._folder / f"{name}{_BLOCK}"


def _claim(folder: Path, asked: dict[str, Any]) -> None:
    """Write the question down, or compare it with the one that is there."""
    if folder.exists() and not folder.is_dir():
        msg = f"resume={str(folder)!r} is a file; pass a folder."
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / _QUESTION
    if not file.is_file():
        if others := sorted(p.name for p in folder.iterdir() if not p.name.endswith(".part")):
            msg = f"resume={str(folder)!r} holds other files ({', '.join(others[:3])}); pass a new or an empty folder."
            raise ValueError(msg)
        put(file, json.dumps(asked, indent=1) + "\n")
        return
    try:
        there = dict(json.loads(file.read_text()))
    except (ValueError, TypeError):
        there = {}
    if there != asked:
        msg = (
            f"resume={str(folder)!r} holds blocks of another question; different: {_differences(there, asked)}. Ask that "
            "question again, or pass another folder, or delete this one."
        )
        raise ValueError(msg)
    logger.info("going on with %s: %s blocks", folder, f"{len(list(folder.glob(f'*{_BLOCK}'))):,}")


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    names = [name for name in sorted({*there, *asked}) if there.get(name) != asked.get(name)]
    both = {name: f"{there.get(name)!r}, now {asked.get(name)!r}" for name in names}
    return ", ".join(name if len(text) > _SHORT else f"{name} ({text})" for name, text in both.items())


def _read(path: Path, rng: np.random.Generator | None) -> Arrays | None:
    """A block; None if it is not there or is damaged, and then it is made again."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if rng is not None:
            rng.bit_generator.state = json.loads(str(found.pop(_STATE)))
    except FileNotFoundError:
        return None
    except (
        BadZipFile,
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
        zlib.error,
    ) as error:
        logger.warning("%s is damaged (%s); it is made again", path, error)
        return None
    return found


def rng_state(rng: np.random.Generator) -> str:
    """State of a generator as JSON."""
    return json.dumps(rng.bit_generator.state, default=lambda part: part.tolist())


def checksum(parts: Iterable[NDArray[Any] | str]) -> str:
    """SHA-256 of arrays and texts, types and shapes included."""
    out = hashlib.sha256()
    for part in parts:
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else np.ascontiguousarray(part)
        array = array.astype(str) if array.dtype.kind in "OT" else array
        out.update(f"{array.dtype}{array.shape}".encode())
        out.update(array.view(np.uint8).data if array.size else b"")
    return out.hexdigest()


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
