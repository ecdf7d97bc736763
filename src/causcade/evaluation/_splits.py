"""Which conditions, or which group of cells, are held out; controls are shared out so that their noise is not shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from causcade.evaluation._screen import Screen
from causcade.reference import GroupLevels
from causcade.regimes.labels import shorten, split_label, suggest
from causcade.splits import split_perturbations

__all__ = ["LEAST", "SPLITS", "Split", "level_side", "make_split"]

Bools = NDArray[np.bool_]

#: Fewest cells of a condition that is held out, and of the controls of each side.
LEAST: Final = 10


@dataclass(frozen=True)
class Split:
    """Which cells are learnt from, and which conditions are asked for.

    Attributes
    ----------
    name
        How it was made.
    train, test
        ``(n_cells,)`` cells on either side, controls included; those of neither are not used at all.
    asked
        Numbers of the conditions held out.
    group
        Group held out, or empty.
    note
        What a reader should know of it, or empty.
    """

    name: str
    train: Bools
    test: Bools
    asked: tuple[int, ...]
    group: str = ""
    note: str = ""


def make_split(
    screen: Screen, name: str, hold_out: Sequence[str] | None, test_share: float | None, rng: np.random.Generator
) -> Split:
    """Hold something out.

    Raises
    ------
    KeyError
        If what is to be held out does not exist.
    ValueError
        If there is too little to hold out or to learn from.
    """
    train_control, test_control, note = _share_controls(screen, rng)
    if name == "group":
        return _group(screen, hold_out, test_control, note, rng)
    n_cells = np.bincount(screen.codes, minlength=len(screen.conditions) + 1)[1:]
    able = [c for c in SPLITS[name](screen) if n_cells[c] >= LEAST]
    if hold_out is not None:
        asked = _named(screen, hold_out, able, name)
    else:
        asked = _draw(screen, name, able, test_share, rng)
    away = _set_aside(screen, name, asked)
    perturbed = screen.codes > 0
    train = train_control | (perturbed & ~np.isin(screen.codes - 1, sorted(away)))
    if not (train & perturbed).any():
        msg = (
            f"Nothing is left to learn from: all {len(screen.conditions)} perturbations were held out (split={name!r})."
        )
        raise ValueError(msg)
    return Split(name, train, test_control | np.isin(screen.codes - 1, asked), tuple(asked), "", note)


def level_side(screen: Screen, cells: Bools | NDArray[np.int64], side: Bools) -> NDArray[np.float32]:
    """Values of some cells with batches at the level of the controls of one side, or the noise of these would be on both.

    Parameters
    ----------
    screen
        All cells.
    cells
        Which cells, as a mask or positions.
    side
        ``(n_cells,)`` cells of the side. Batches of which it has no control stay at the level of all controls.
    """
    control = side & (screen.codes == 0)
    levels = GroupLevels(screen.values[control].astype(np.float32, copy=False), screen.batches[control])
    return levels.level(screen.values[cells].astype(np.float32, copy=False), screen.batches[cells])


def _share_controls(screen: Screen, rng: np.random.Generator) -> tuple[Bools, Bools, str]:
    """Two halves of the controls, dealt within batches and groups; few controls serve both sides."""
    control = screen.codes == 0
    if int(control.sum()) < 2 * LEAST:
        note = f"only {int(control.sum())} controls, which serve both sides: their noise flatters all predictions"
        return control, control, note
    order = rng.permutation(np.flatnonzero(control))
    kind = np.unique(np.stack([screen.batches[order].astype(str), screen.groups[order].astype(str)]), axis=1,
                     return_inverse=True)[1].ravel()  # fmt: skip
    order = order[np.argsort(kind, kind="stable")]
    first = np.zeros(len(control), dtype=bool)
    first[order[::2]] = True
    return first, control & ~first, ""


# --- what may be held out -------------------------------------------------------------------------------------------


def _singles(screen: Screen) -> list[int]:
    return [i for i, c in enumerate(screen.conditions) if len(c.parts) == 1]


def _doubles(screen: Screen) -> list[int]:
    """Combinations whose parts are there alone."""
    alone = {c.parts[0] for c in screen.conditions if len(c.parts) == 1}
    return [i for i, c in enumerate(screen.conditions) if len(c.parts) > 1 and set(c.parts) <= alone]


def _higher(screen: Screen) -> list[int]:
    """Doses above the lowest of their perturbation."""
    lowest: dict[str, float] = {}
    for c in screen.conditions:
        lowest[c.name] = min(c.dose, lowest.get(c.name, np.inf))
    return [i for i, c in enumerate(screen.conditions) if c.dose > lowest[c.name]]


#: What each split may hold out; a group is no condition.
SPLITS: Final[dict[str, Callable[[Screen], list[int]]]] = {
    "perturbation": _singles,
    "cluster": _singles,
    "combination": _doubles,
    "dose": _higher,
    "group": lambda _: [],
}

_NOTHING: Final = {
    "perturbation": "single perturbation",
    "cluster": "single perturbation",
    "combination": "combination whose parts are there alone",
    "dose": "dose above the lowest of its perturbation",
}


def _draw(screen: Screen, name: str, able: list[int], share: float | None, rng: np.random.Generator) -> list[int]:
    if not able:
        msg = f"split={name!r}: there is no {_NOTHING[name]} with at least {LEAST} cells to hold out."
        raise ValueError(msg)
    if name == "combination" and share is None:
        return able
    if name == "cluster":
        targets = [screen.conditions[c].targets or screen.conditions[c].parts for c in able]
        wanted = 0.3 if share is None else share
        test = split_perturbations(targets, _changes(screen, able), test_share=min(wanted, 0.99), rng=rng)
        return [c for c, chosen in zip(able, test, strict=True) if chosen]
    units: dict[Any, list[int]] = {}
    for c in able:  # guides of one gene go together
        it = screen.conditions[c]
        units.setdefault(c if name != "perturbation" else (it.targets or it.parts), []).append(c)
    n = max(1, round((0.3 if share is None else share) * len(units)))
    chosen = rng.permutation(len(units))[:n]
    return sorted(c for k in chosen for c in list(units.values())[k])


def _changes(screen: Screen, conditions: Sequence[int]) -> NDArray[np.float64]:
    control = screen.values[screen.codes == 0].mean(0, dtype=np.float64)
    return np.stack([screen.values[screen.codes == c + 1].mean(0, dtype=np.float64) - control for c in conditions])


def _named(screen: Screen, wanted: Sequence[str], able: list[int], name: str) -> list[int]:
    conditions = screen.conditions
    known = {part for c in conditions for part in c.parts}
    place = {c.label: i for i, c in enumerate(conditions)}
    by_parts = {tuple(sorted(c.parts)): i for i, c in enumerate(conditions) if np.isnan(c.dose)}
    out = []
    for label in dict.fromkeys(map(str, wanted)):
        found = place.get(label.strip(), by_parts.get(tuple(sorted(split_label(label, screen.sep, known)))))
        found = _at_dose(screen, label) if found is None else found
        if found is None:
            msg = f"hold_out: there is no {label!r}.{suggest(label, list(place))} There are {shorten(list(place))}."
            raise KeyError(msg)
        out.append(found)
    if cannot := [conditions[i].label for i in out if i not in able]:
        msg = f"hold_out: {shorten(cannot)} cannot be held out with split={name!r}: no {_NOTHING[name]}, or too few cells."
        raise ValueError(msg)
    return sorted(out)


def _at_dose(screen: Screen, label: str) -> int | None:
    """The condition with this name and dose, however the dose is written: 10, 10.0 or 1e1."""
    name, _, dose = label.rpartition("@")
    number = pd.to_numeric(dose.strip(), errors="coerce")
    return next((i for i, c in enumerate(screen.conditions) if c.name == name.strip() and c.dose == number), None)


def _set_aside(screen: Screen, name: str, asked: Sequence[int]) -> set[int]:
    """Conditions that must not be learnt from: those asked for, and with new perturbations all that contain one."""
    if name not in ("perturbation", "cluster"):
        return set(asked)
    parts = {p for c in asked for p in screen.conditions[c].parts}
    genes = {g for c in asked for g in screen.conditions[c].targets}
    return {i for i, c in enumerate(screen.conditions) if parts & set(c.parts) or genes & set(c.targets)}


def _group(
    screen: Screen, hold_out: Sequence[str] | None, test_control: Bools, note: str, rng: np.random.Generator
) -> Split:
    """Perturbed cells of one group; its training controls are there, and all other groups."""
    sizes = {g: int(((screen.groups == g) & (screen.codes == 0)).sum()) for g in sorted(set(screen.groups))}
    able = [g for g, n in sizes.items() if n >= 2 * LEAST]
    if len(sizes) < 2 or not able:
        msg = f"split='group' needs groupby= with two groups or more, one of them with {2 * LEAST} controls; controls: {sizes}."
        raise ValueError(msg)
    if hold_out is not None and (len(hold_out) != 1 or hold_out[0] not in able):
        msg = f"hold_out must be one group with at least {2 * LEAST} controls: {shorten(able)}; not {list(hold_out)}."
        raise ValueError(msg)
    group = hold_out[0] if hold_out is not None else able[int(rng.integers(len(able)))]
    here, perturbed = screen.groups == group, screen.codes > 0
    n = len(screen.conditions) + 1
    inside, outside = (np.bincount(screen.codes[m & perturbed], minlength=n)[1:] for m in (here, ~here))
    asked = tuple(np.flatnonzero((inside >= LEAST) & (outside >= LEAST)).tolist())
    if not asked:
        msg = f"No perturbation has {LEAST} cells both in group {group!r} and in the others."
        raise ValueError(msg)
    test_control = test_control & here
    train = ~(here & perturbed) & ~test_control & (screen.codes >= 0)
    return Split("group", train, test_control | (here & np.isin(screen.codes - 1, asked)), asked, str(group), note)
