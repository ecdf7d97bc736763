"""What a user asked for, checked as far as it does not depend on the task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from causcade.regimes.labels import suggest
from causcade.screendata import Values

__all__ = ["Plan"]


@dataclass
class Plan:
    """Arguments of :func:`causcade.evaluate`, under the same names.

    Attributes
    ----------
    methods, split, hold_out, test_share, layer, values, batch_key, dose_key, groupby, genes, features, baseline, \
drop_targets, similar, max_cells, n_repeats, n_boot, rng, regimes_key, progress_bar
        As there.
    """

    methods: Any
    split: str | None
    hold_out: list[str] | None
    test_share: float | None
    layer: str | None
    values: Values
    batch_key: str | None
    dose_key: str | None
    groupby: str | None
    genes: Any
    features: Any
    baseline: str | None
    drop_targets: bool
    similar: float
    max_cells: int
    n_repeats: int
    n_boot: int
    rng: np.random.Generator
    regimes_key: str
    progress_bar: bool

    @staticmethod
    def choose(value: Any, known: Iterable[str], name: str) -> str:
        """One of some words.

        Raises
        ------
        ValueError
            If it is none of them.
        """
        words = list(known)
        if not isinstance(value, str) or value not in words:
            msg = f"{name} must be one of {', '.join(map(repr, words))}, not {value!r}.{suggest(str(value), words)}"
            raise ValueError(msg)
        return value

    def refuse(self, task: str, *names: str) -> None:
        """Refuse arguments that a task would ignore.

        Raises
        ------
        ValueError
            If one is given.
        """
        if given := [n for n in names if getattr(self, n) is not None]:
            msg = f"task={task!r} has no use for {', '.join(f'{n}=' for n in given)}; leave out what would be ignored."
            raise ValueError(msg)
