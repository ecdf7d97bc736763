"""Methods as a user asks for them: names, names with options, or functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from causcade.evaluation._table import Kind
from causcade.regimes.labels import shorten, suggest

__all__ = ["Asked", "read_methods"]


@dataclass(frozen=True)
class Asked:
    """A method to be scored.

    Attributes
    ----------
    name
        In the table.
    what
        Name of a baseline, model or weights; a function; or an object that has weights.
    kind
        ``"model"`` or ``"baseline"``.
    options
        For it.
    """

    name: str
    what: Any
    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)


def read_methods(
    methods: Any, baselines: Sequence[str], known: Callable[[Any], bool], models: Sequence[str], must: Sequence[str]
) -> list[Asked]:
    """Read what was asked for.

    Parameters
    ----------
    methods
        A name or function, a sequence of them, or a mapping from the name in the table to options, to
        ``(name, options)`` or to a function; ``None`` = all baselines.
    baselines
        Names of baselines.
    known
        Says whether anything else is a method.
    models
        Names for the message if not.
    must
        Baselines that are added if they are missing.

    Raises
    ------
    ValueError
        If a method is unknown, named twice or as a baseline that it is not, or none is given.
    """
    if methods is None:
        methods = list(baselines)
    if isinstance(methods, str | Path) or callable(methods) or not isinstance(methods, Mapping | Sequence):
        methods = [methods]
    pairs = list(methods.items()) if isinstance(methods, Mapping) else [(_name(m), m) for m in methods]
    out = [_one(str(name), given, isinstance(methods, Mapping)) for name, given in pairs]
    if not out:
        msg = "methods is empty; name at least one, or pass None for all baselines."
        raise ValueError(msg)
    if twice := sorted({a.name for a in out if [b.name for b in out].count(a.name) > 1}):
        msg = (
            f"methods: {shorten(twice)} come twice; give them names of their own: methods={{name: (method, options)}}."
        )
        raise ValueError(msg)
    words = [*baselines, *models]
    read = []
    for a in out:
        is_baseline = isinstance(a.what, str) and a.what in baselines
        if not (is_baseline or known(a.what)):
            msg = f"methods: there is no {a.what!r}.{suggest(str(a.what), words)} There are {', '.join(words)}."
            raise ValueError(msg)
        if a.name in baselines and a.what != a.name:
            msg = f"methods: {a.name!r} is the name of a baseline; give yours another, or it would stand in its place."
            raise ValueError(msg)
        read.append(Asked(a.name, a.what, "baseline" if is_baseline else "model", a.options))
    names = {a.name for a in read}
    return [*read, *(Asked(b, b, "baseline") for b in dict.fromkeys(must) if b not in names)]


def _name(method: Any) -> str:
    if isinstance(method, str | Path):
        return Path(method).name
    return str(getattr(method, "__name__", type(method).__name__))


def _one(name: str, given: Any, from_mapping: bool) -> Asked:  # noqa: FBT001
    """One entry; whether its kind is right is checked later."""
    if not from_mapping:
        return Asked(name, str(given) if isinstance(given, Path) else given, "model")
    if given is None or isinstance(given, Mapping):
        return Asked(name, name, "model", dict(given or {}))
    if isinstance(given, tuple):
        if len(given) != 2 or not isinstance(given[1], Mapping):
            msg = f"methods[{name!r}] must be options, a function, or (name, options), not {given!r}."
            raise ValueError(msg)
        return Asked(name, given[0], "model", dict(given[1]))
    return Asked(name, given, "model")
