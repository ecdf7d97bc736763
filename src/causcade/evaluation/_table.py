"""The tidy table: values with bootstrap intervals, next to the baseline, the ceiling, and what could not be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Combined", "Outcome", "make_table"]

Floats = NDArray[np.float64]
Kind = Literal["model", "baseline"]

#: Columns of the table, in order.
COLUMNS: Final = (
    "method", "kind", "task", "split", "metric", "value", "low", "high", "n", "baseline", "ceiling", "scaled", "gain",
    "gain_low", "gain_high", "better", "status",
)  # fmt: skip

_SHARE = 0.95


@dataclass(frozen=True)
class Outcome:
    """What came of a method.

    Attributes
    ----------
    method, kind
        Its name, and whether it is a model or a baseline.
    scores
        By metric ``(n_conditions,)``; empty if it failed.
    status
        ``"ok"``, or why something is missing.
    """

    method: str
    kind: Kind
    scores: Mapping[str, Floats] = field(default_factory=dict)
    status: str = "ok"


@dataclass(frozen=True)
class Combined:
    """A metric that is the mean of others, each scaled to 0 for a method and to 1 for the ceiling.

    Attributes
    ----------
    name, parts
        Of it, and of the others.
    higher
        Whether a higher value is better, by metric.
    zero
        The method.
    """

    name: str
    parts: Sequence[str]
    higher: Mapping[str, bool]
    zero: str


def make_table(
    outcomes: Sequence[Outcome],
    ceiling: Mapping[str, Floats],
    higher: Mapping[str, bool],
    baseline: str,
    *,
    task: str,
    split: str,
    n_boot: int,
    rng: np.random.Generator,
    combined: Combined | None = None,
    why: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Put outcomes in a table.

    Parameters
    ----------
    outcomes
        One per method.
    ceiling
        By metric ``(n_conditions,)`` scores of a replicate; metrics may be missing.
    higher
        The metrics in order, and whether a higher value is better.
    baseline
        The method that stands in the column ``baseline``.
    task, split
        For their columns.
    n_boot, rng
        Bootstrap samples of the conditions; the same for all methods.
    combined
        A further metric, the mean of others.
    why
        By metric, why it may have no number, for the status.
    """
    by_name = {o.method: o for o in outcomes}
    size = max((len(v) for o in outcomes for v in o.scores.values()), default=0)
    draws = rng.integers(size, size=(n_boot, size)) if size else np.zeros((n_boot, 0), dtype=np.int64)
    base = by_name[baseline].scores if baseline in by_name else {}
    rows = []
    for o in outcomes:
        for metric, up in higher.items():
            known = {"method": o.method, "kind": o.kind, "task": task, "split": split, "metric": metric}
            values = o.scores.get(metric)
            numbers = _numbers(values, base.get(metric), ceiling.get(metric), draws, up=up)
            status = _status(o, values, (why or {}).get(metric))
            rows.append(known | numbers | {"better": "higher" if up else "lower", "status": status})
        if combined is not None:
            known = {"method": o.method, "kind": o.kind, "task": task, "split": split, "metric": combined.name}
            zero = by_name[combined.zero].scores if combined.zero in by_name else {}
            numbers, status = _combined(o, combined, zero, base, ceiling, draws)
            rows.append(known | numbers | {"better": "higher", "status": status})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _status(o: Outcome, values: Floats | None, why: str | None = None) -> str:
    if values is None or o.status.startswith("failed"):
        return o.status
    missing, reason = int(np.isnan(values).sum()), f": {why}" if why else ""
    if missing == len(values):
        return f"not defined here{reason}"
    if o.status != "ok" or not missing:
        return o.status
    return f"ok for {len(values) - missing} of {len(values)}{f'; else not defined{reason}' if why else ''}"


def _numbers(
    values: Floats | None, base: Floats | None, top: Floats | None, draws: NDArray[np.int64], *, up: bool
) -> dict[str, float]:
    """Numbers of one row; the baseline and the ceiling are of the same conditions as the value, as far as they have any."""
    if values is None or not np.isfinite(values).any():
        return {"n": 0, "baseline": _mean(base), "ceiling": _mean(top)}
    used = np.isfinite(values)
    out: dict[str, float] = {"value": _mean(values), "n": int(used.sum())}
    out |= dict(zip(("low", "high"), _interval(values, draws), strict=True))
    out["baseline"] = _mean(None if base is None else np.where(used, base, np.nan))
    out["ceiling"] = _mean(None if top is None else np.where(used, top, np.nan))
    if base is not None and top is not None:  # a half has fewer changed genes, so a replicate may have no number
        both = used & np.isfinite(base) & np.isfinite(top)
        value, zero, one = (np.where(both, v, np.nan) for v in (values, base, top))
        if _clear(zero, one, draws, up=up):
            out["scaled"] = _scaled(_mean(value), _mean(zero), _mean(one), up=up)
    if base is not None:
        gain = (values - base) * (1 if up else -1)
        out |= {"gain": _mean(gain)}
        out |= dict(zip(("gain_low", "gain_high"), _interval(gain, draws), strict=True))
    return out


def _mean(values: Floats | None) -> float:
    return float(np.nanmean(values)) if values is not None and np.isfinite(values).any() else float("nan")


def _means(values: Floats, draws: NDArray[np.int64]) -> Floats:
    """Mean of every bootstrap sample; NaN where it holds no number."""
    drawn = values[draws]
    n = np.isfinite(drawn).sum(1)
    return np.asarray(np.where(n > 0, np.nansum(drawn, axis=1) / np.maximum(n, 1), np.nan), dtype=np.float64)


def _interval(values: Floats, draws: NDArray[np.int64]) -> tuple[float, float]:
    """Percentiles of the bootstrap; none for a single condition."""
    if np.isfinite(values).sum() < 2 or not len(draws):
        return float("nan"), float("nan")
    return _percentiles(_means(values, draws))


def _percentiles(samples: Floats) -> tuple[float, float]:
    tail = 100 * (1 - _SHARE) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _clear(base: Floats, top: Floats, draws: NDArray[np.int64], *, up: bool) -> bool:
    """Whether a replicate is better than the baseline beyond chance; else what is divided by is noise."""
    low = _interval((top - base) * (1 if up else -1), draws)[0]
    return bool(np.isnan(low) or low >= 0)


def _scaled(value: float, base: float, top: float, *, up: bool) -> float:
    """0 at the baseline, 1 at the replicate; NaN where the replicate is no better."""
    room = top - base if up else base - top
    return (value - base if up else base - value) / room if room > 0 else float("nan")


def _combined(
    o: Outcome,
    combined: Combined,
    zero: Mapping[str, Floats],
    base: Mapping[str, Floats],
    ceiling: Mapping[str, Floats],
    draws: NDArray[np.int64],
) -> tuple[dict[str, float], str]:
    """Mean of several metrics, each scaled, over the conditions that have all of them; the scales are fixed."""
    if not o.scores:
        return {"n": 0}, o.status
    every = [s.get(p) for p in combined.parts for s in (o.scores, zero, ceiling)]
    known = [v for v in every if v is not None]
    used = np.isfinite(known).all(0) if len(known) == len(every) else np.zeros(0, dtype=bool)
    if not used.any():
        return {"n": 0}, "not defined here: no condition has all of " + ", ".join(combined.parts)
    only = lambda v: np.where(used, v, np.nan)
    bottom = {p: _mean(only(zero[p])) for p in combined.parts}
    room = {p: _mean(only(ceiling[p])) - bottom[p] for p in combined.parts}
    better = {p: room[p] > 0 if combined.higher[p] else room[p] < 0 for p in combined.parts}
    clear = {p: _clear(only(zero[p]), ceiling[p], draws, up=combined.higher[p]) for p in combined.parts}
    if poor := [p for p in combined.parts if not (better[p] and clear[p])]:
        return {
            "n": 0
        }, f"not defined here: a replicate is not clearly better than {combined.zero} in {', '.join(poor)}"
    scaled = lambda s: np.mean([(only(s[p]) - bottom[p]) / room[p] for p in combined.parts], axis=0)
    mine = scaled(o.scores)
    numbers = _numbers(mine, scaled(base) if base else None, np.ones(len(mine)), draws, up=True)
    return numbers, _status(o, mine)
