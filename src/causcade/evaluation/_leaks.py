"""What could have told the answer: the same cells, names or genes on both sides, and perturbations that do the same."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from causcade.evaluation._screen import Condition, Screen
from causcade.evaluation._splits import LEAST, Split, level_side
from causcade.regimes.labels import shorten

__all__ = ["find_leaks", "warn_of"]

_TELLING = 10  # genes that are not 0; cells with a count here and there are the same by chance


def find_leaks(screen: Screen, split: Split, similar: float) -> dict[str, list[str]]:
    """Look for leaks between the sides of a split.

    Parameters
    ----------
    screen, split
        The cells and their sides.
    similar
        Correlation of mean changes from which two perturbations count as near-duplicates.

    Returns
    -------
    What was found, by check: ``"cells"`` (the same values, or the same name, on both sides), ``"aliases"`` (labels that
    differ only in case, blanks and signs), ``"genes"`` (a target of a held-out perturbation was perturbed in training),
    ``"similar"`` (changes that correlate). Lists are empty where nothing was found. What a split shares by design, such as
    the parts of a combination, is none.
    """
    seen = [c for c in range(len(screen.conditions)) if (split.train & (screen.codes == c + 1)).any()]
    pairs = [(a, b) for a in split.asked for b in seen if not _by_design(screen.conditions[a], screen.conditions[b])]
    named = lambda some: [f"{screen.conditions[a].label} ~ {screen.conditions[b].label}" for a, b in some]
    alias = [(a, b) for a, b in pairs if _plain(screen.conditions[a]) == _plain(screen.conditions[b])]
    if split.name in ("dose", "group"):  # the perturbation itself is in training, so others tell nothing new
        pairs = []
    gene = [(a, b) for a, b in pairs if set(screen.conditions[a].targets) & set(screen.conditions[b].targets)]
    known = {"cells": _same_cells(screen, split), "aliases": named(alias)}
    return {**known, "genes": named(gene), "similar": _alike(screen, split, pairs, similar)}


def _by_design(asked: Condition, seen: Condition) -> bool:
    """Combinations share parts with their singles, doses and groups their perturbation."""
    return bool(set(asked.parts) & set(seen.parts))


def _plain(c: Condition) -> tuple[tuple[str, ...], float]:
    parts = tuple(sorted(re.sub(r"[\W_]+", "", p).casefold() for p in c.parts))
    return parts, -1.0 if np.isnan(c.dose) else c.dose


def _same_cells(screen: Screen, split: Split) -> list[str]:
    train, test = np.flatnonzero(split.train), np.flatnonzero(split.test)
    test = np.setdiff1d(test, train)  # few controls may serve both sides, which the split's note tells
    names = set(screen.cells[train]) & set(screen.cells[test])
    told = np.count_nonzero(screen.values, axis=1) >= min(_TELLING, screen.values.shape[1])
    rows = {hash(screen.values[i].tobytes()) for i in train if told[i]}
    same = {str(screen.cells[i]) for i in test if told[i] and hash(screen.values[i].tobytes()) in rows}
    return sorted(map(str, names | same))


def _alike(screen: Screen, split: Split, pairs: Sequence[tuple[int, int]], similar: float) -> list[str]:
    """Pairs whose mean changes correlate; each side has controls of its own, or their noise would make all alike."""

    def changes(side: NDArray[np.bool_], some: Sequence[int]) -> dict[int, NDArray[np.float64]]:
        base = level_side(screen, screen.of(-1, side), side).mean(0, dtype=np.float64)
        cells = {c: screen.of(c, side) for c in some}
        enough = {c: level_side(screen, i, side) for c, i in cells.items() if len(i) >= LEAST}
        found = {c: x.mean(0, dtype=np.float64) - base for c, x in enough.items()}
        return {c: (x - x.mean()) / (np.linalg.norm(x - x.mean()) or 1.0) for c, x in found.items()}

    test, train = changes(split.test, split.asked), changes(split.train, sorted({b for _, b in pairs}))
    r = {(a, b): float(test[a] @ train[b]) for a, b in pairs if a in test and b in train}
    return [
        f"{screen.conditions[a].label} ~ {screen.conditions[b].label} (r = {v:.2f})"
        for (a, b), v in sorted(r.items(), key=lambda kv: -kv[1])
        if v >= similar
    ]


_TOLD = {
    "cells": "Cells on both sides",
    "aliases": "Held-out labels that differ from a training label in case and signs only",
    "genes": "Held-out perturbations with a target that another one in training hits",
    "similar": "Held-out and training perturbations that do nearly the same",
}


def warn_of(leaks: dict[str, list[str]], note: str = "") -> None:
    """One warning with all that was found, and with what the split says of itself."""
    told = [f"{_TOLD[check]} ({len(found):,}): {shorten(found)}" for check, found in leaks.items() if found]
    told += [note[:1].upper() + note[1:]] * bool(note)
    if told:
        said = f"Possible leakage. {'. '.join(told)}. Scores of what was fitted may be too good."
        warnings.warn(said, UserWarning, stacklevel=4)
