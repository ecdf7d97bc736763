"""What is asked of a fitted GIM: which treatments, their interventions, and how predictions compare with baselines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from causcade import effect_baselines, metrics
from causcade.effect_baselines import EffectBaseline
from causcade.gimfit import Effects, Environments, GimFit, Interventions
from causcade.models._gim_features import DoseScale, Features, Treatment, as_dose
from causcade.regimes.labels import shorten, split_label, suggest

__all__ = [
    "BASELINES",
    "ask",
    "baselines",
    "curve",
    "distances",
    "dose_grid",
    "draw",
    "join",
    "joined",
    "of_genes",
    "resolve",
    "response_table",
    "shares",
    "table_of_targets",
]

Floats = NDArray[np.float64]
Predict = Callable[[Sequence[Treatment], pd.DataFrame | None], list[Floats]]

#: Name -> function, and what it needs.
BASELINES: Final[dict[str, tuple[Callable[..., EffectBaseline], tuple[str, ...]]]] = {
    "observational": (effect_baselines.observational, ()),
    "perturbed_mean": (effect_baselines.perturbed_mean, ()),
    "next_lower_dose": (effect_baselines.next_lower_dose, ("dose",)),
    "ridge": (effect_baselines.mean_shift_ridge, ("features",)),
    "mlp": (effect_baselines.mean_shift_mlp, ("features",)),
}


# --- which treatments -----------------------------------------------------------------------------------------------


def ask(
    perturbation: Any,
    dose: Any,
    known: Sequence[Treatment],
    sep: str | None,
    *,
    control: Collection[str],
    with_doses: bool,
) -> list[Treatment]:
    """Treatments of a question: names, tuples or joined names for combinations, at one dose or several.

    Labels of the `control` add nothing to a combination, and alone are the control.

    Raises
    ------
    ValueError
        If doses are missing, superfluous or unusable, or their number does not fit.
    """
    if perturbation is None:
        if dose is not None:
            msg = "Pass perturbation= with dose=; without both, all treatments of training are meant."
            raise ValueError(msg)
        return list(known)
    names, doses = (
        list(x) if isinstance(x, Iterable) and not isinstance(x, str | tuple) else [x] for x in (perturbation, dose)
    )
    if not names or not doses:
        msg = "perturbation and dose must not be empty."
        raise ValueError(msg)
    names, doses = (x * max(len(names), len(doses)) if len(x) == 1 else x for x in (names, doses))
    if len(names) != len(doses):
        msg = f"{len(names)} perturbations and {len(doses)} doses: give one dose, or one for each."
        raise ValueError(msg)
    pairs = [_perturbed(name, d, known, sep, control) for name, d in zip(names, doses, strict=True)]
    return [_treatment(parts, d, known, sep, with_doses=with_doses) if parts else known[0] for parts, d in pairs]


def _perturbed(
    name: Any, dose: Any, known: Sequence[Treatment], sep: str | None, control: Collection[str]
) -> tuple[tuple[str, ...], Any]:
    """Parts of a treatment and their dose or doses, without controls."""
    same = {t.name: t.parts for t in known}
    parts = (
        tuple(map(str, name))
        if isinstance(name, tuple)
        else same.get(str(name)) or split_label(str(name), sep, {p for t in known for p in t.parts})
    )
    kept = [i for i, part in enumerate(parts) if part not in control]
    if isinstance(dose, tuple) and len(dose) == len(parts):
        dose = tuple(dose[i] for i in kept)
    return tuple(parts[i] for i in kept), dose


def _treatment(
    parts: tuple[str, ...], dose: Any, known: Sequence[Treatment], sep: str | None, *, with_doses: bool
) -> Treatment:
    name = (sep or "+").join(parts)
    given = list(dose) if isinstance(dose, tuple) else [dose] * len(parts)
    if not with_doses:
        if dose is not None:
            msg = "dose= has no meaning: this model was set up without dose_key."
            raise ValueError(msg)
        given = [np.nan] * len(parts)
    elif dose is None:
        seen = sorted({t.dose for t in known[1:] if set(t.parts) == set(parts)})
        msg = f"Pass dose= for {name!r}; " + (f"in training it was {seen}." if seen else "it is new.")
        raise ValueError(msg)
    elif len(given) != len(parts) or not all(_is_dose(d) for d in given):
        msg = f"dose={dose!r} of {name!r} must be a number of at least 0, or a tuple with one for each of {parts}."
        raise ValueError(msg)
    order = np.argsort(parts, kind="stable")  # as in regimes
    parts = tuple(parts[i] for i in order)
    return Treatment((sep or "+").join(parts), parts, tuple(as_dose(given[i]) for i in order))


def _is_dose(value: Any) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and np.isfinite(value) and value >= 0)


# --- interventions --------------------------------------------------------------------------------------------------


def resolve(treatments: Sequence[Treatment], known: Sequence[Treatment], *, union: bool) -> list[list[Treatment]]:
    """Treatments whose interventions are read off features, for each one asked for; none for the control.

    A combination of perturbations that were given together in training is asked for as a whole. Of another one the
    parts are, with `union`.
    """
    together = {t.parts for t in known}
    out: list[list[Treatment]] = []
    for t in treatments:
        if union and len(t.parts) > 1 and t.parts not in together:
            out.append([Treatment(part, (part,), (dose,)) for part, dose in zip(t.parts, t.doses, strict=True)])
        else:
            out.append([t] if t.parts else [])
    return out


def joined(
    fit: GimFit,
    features: Features,
    known: Sequence[Treatment],
    asked: Sequence[Sequence[Treatment]],
    more: pd.DataFrame | None,
    number: int,
    effects: Effects,
) -> Interventions:
    """Interventions of a single fit, one row for each list of treatments.

    Raises
    ------
    ValueError
        If the fit is not amortised and a treatment was not in training.
    """
    flat = [t for some in asked for t in some]
    ends = np.cumsum([0, *map(len, asked)])
    rows = [list(range(a, b)) for a, b in pairwise(ends)]
    if fit.config.amortised:
        numbers = features([known[0], *flat], more).astype(np.float32)
        found = fit.interventions(numbers, number=number, effects=effects)
        return join(found, [[r + 1 for r in some] for some in rows])
    place = {t: i for i, t in enumerate(known)}
    if new := [f"{t.name} at {t.dose:g}" for t in flat if t not in place]:
        msg = f"A model with amortised=False knows the treatments of its training only, not {shorten(new)}."
        raise ValueError(msg)
    return join(fit.interventions(number=number, effects=effects), [[place[flat[r]] for r in some] for some in rows])


def join(found: Interventions, rows: Sequence[Sequence[int]]) -> Interventions:
    """Join interventions that are made together; no rows: nothing is done.

    A gene is a target if it is one of any of them. Shifts add up, by the share in which each is followed; where several
    set a gene (hard interventions), the one that is surest of that target does.
    """
    shift = found.log_sd is None
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in ("logits", "mean", "log_sd", "zero_logit", "share")}
    for some in rows or [[]]:
        at = torch.as_tensor(list(some) or [0], dtype=torch.int64)
        logits, best = found.logits[at].max(0)
        parts["logits"].append(logits if some else torch.full_like(logits, -torch.inf))
        alone, followed = _pick(found.mean, at, best), found.followed[at]
        most = followed.max(0).values
        added = torch.where(followed > 0, followed * found.mean[at], 0.0).sum(0) / most.clamp(
            min=torch.finfo(most.dtype).tiny
        )
        parts["mean"].append(torch.where(most > 0, added, alone) if shift else alone)
        if found.share is not None:
            parts["share"].append(most if some else torch.zeros_like(most))
        for name in ("log_sd", "zero_logit"):
            if (values := getattr(found, name)) is not None:
                parts[name].append(_pick(values, at, best))
    return Interventions(**{name: torch.stack(values)[: len(rows)] for name, values in parts.items() if values})


def shares(n_cells: int, n_fits: int) -> list[int]:
    """Cells that each fit draws."""
    ends = np.linspace(0, n_cells, n_fits + 1).round().astype(int)
    return [int(n) for n in np.diff(ends)]


def draw(fit: GimFit, found: Sequence[Interventions], n_cells: int, rng: np.random.Generator) -> list[Floats]:
    """Cells ``(n_cells, n_genes)`` of each treatment, of all fits in turn."""
    parts = [
        fit.sample(mine, share, number=number, rng=rng)
        for number, (mine, share) in enumerate(zip(found, shares(n_cells, len(found)), strict=True))
        if share
    ]
    return list(np.concatenate(parts, axis=1))


def _pick(values: torch.Tensor, rows: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    return values[rows].gather(0, best[None])[0]


def table_of_targets(
    fit: GimFit, found: Sequence[Interventions], treatments: Sequence[Treatment], genes: Sequence[str]
) -> pd.DataFrame:
    """Target probabilities and parameters of treatments, over fits; the surest targets of each first."""
    sharp = [0.5 * alpha if fit.config.anneal_targets else 1.0 for alpha in fit.alphas]
    logits = np.stack([s * f.logits.double().numpy() for s, f in zip(sharp, found, strict=True)])
    with np.errstate(over="ignore"):
        probability = 1 / (1 + np.exp(-logits))
    logged = fit.config.mechanism == "zero_inflated"
    center, scale = (0.0, 1.0) if logged or fit.config.intervention == "shift" else (fit.center, fit.scale)
    scale = scale if logged else fit.scale
    value = np.stack([f.mean.double().numpy() * scale + center for f in found])
    order = np.argsort(-probability.mean(0), axis=1, kind="stable")
    rows = np.arange(len(treatments))[:, None]
    n = len(genes)
    return pd.DataFrame(
        {
            "perturbation": np.repeat(np.array([t.name for t in treatments], dtype=object), n),
            "dose": np.repeat([t.dose for t in treatments], n),
            "gene": np.array(genes, dtype=object)[order].ravel(),
            "probability": probability.mean(0)[rows, order].ravel(),
            "sd": _sd(probability)[rows, order].ravel(),
            "logit": logits.mean(0)[rows, order].ravel(),
            "logit_sd": _sd(logits)[rows, order].ravel(),
            "value": value.mean(0)[rows, order].ravel(),
        }
    )


def _sd(values: Floats) -> Floats:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    with np.errstate(invalid="ignore"):  # the control's logits are infinite
        return np.asarray(values.std(axis=0, ddof=1))


# --- baselines ------------------------------------------------------------------------------------------------------


def baselines(
    names: Sequence[str], data: Environments, known: Sequence[Treatment], features: Features
) -> dict[str, Predict]:
    """Fitted baselines: from treatments to cells of each. Those that need doses are left out where there are none.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    names = [names] if isinstance(names, str) else names
    if unknown := [name for name in names if name not in BASELINES]:
        msg = f"Unknown baselines {shorten(unknown)}; known are {', '.join(BASELINES)}."
        raise ValueError(msg)
    out: dict[str, Predict] = {}
    for name in names:
        make, needs = BASELINES[name]
        if ("dose" in needs and features.scale is None) or ("features" in needs and len(known) < 3):
            continue
        out[name] = _asker(make, data, known, features, choosy="features" in needs)
    return out


def _asker(
    make: Callable[..., EffectBaseline],
    data: Environments,
    known: Sequence[Treatment],
    features: Features,
    *,
    choosy: bool,
) -> Predict:
    """Fit when asked; what is chosen by leaving out (`choosy`) leaves out perturbations if new ones are asked about."""
    told = _described(known[1:], features, None)
    seen = {part for t in known for part in t.parts}
    choosy = choosy and len({t.name for t in known}) > 2

    @cache
    def fitted(new: bool) -> EffectBaseline:  # noqa: FBT001
        return make(data.values, data.codes, **told, **({"hold_out": "perturbation"} if new else {}))

    def predict(asked: Sequence[Treatment], more: pd.DataFrame | None) -> list[Floats]:
        described = _described(asked, features, more)
        new = [choosy and not seen.issuperset(t.parts) for t in asked]
        several = {kind: fitted(kind).predict(**described) for kind in set(new)}
        return [several[kind][i] for i, kind in enumerate(new)]

    return predict


def _described(treatments: Sequence[Treatment], features: Features, more: pd.DataFrame | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "features": features(treatments, more),
        "perturbation": np.array([t.name for t in treatments]),
    }
    return told if features.scale is None else told | {"dose": np.array([max(t.doses) for t in treatments])}


def distances(pred: Floats, true: Floats, control: Floats) -> dict[str, float]:
    """How far predicted cells are from true ones."""
    return {
        "mean_distance": metrics.mean_distance(pred, true),
        "pearson_delta": metrics.pearson_delta(pred, true, control),
        "energy_distance": metrics.energy_distance(pred, true) if min(len(pred), len(true)) > 1 else float("nan"),
    }


# --- along the dose -------------------------------------------------------------------------------------------------


def dose_grid(scale: DoseScale, seen: Sequence[float]) -> list[float]:
    """25 doses from the lowest to the highest of training, evenly on a logarithmic scale, and those that were seen."""
    return sorted({*np.geomspace(scale.lowest, scale.highest, 25).tolist()[1:-1], scale.lowest, scale.highest, *seen})


def curve(fit: GimFit, found: Interventions, number: int, n_cells: int, seed: int) -> Floats:
    """Means ``(treatments, genes)`` by one fit, with the same noise for all."""
    rows = [join(found, [[i]]) for i in range(len(found.logits))]
    return np.stack([fit.sample(row, n_cells, number=number, rng=seed)[0].mean(axis=0) for row in rows])


def response_table(
    data: Environments,
    known: Sequence[Treatment],
    asked: Sequence[Treatment],
    curves: Floats,
    others: dict[str, list[Floats]],
    genes: Sequence[str],
) -> pd.DataFrame:
    """Means along the dose, one row per source, gene and dose."""
    blocks = [("control", 0.0, data.values[data.codes == 0])]
    blocks += [("data", t.dose, data.values[data.codes == i]) for i, t in enumerate(known) if t.parts == asked[0].parts]
    frames = [_block(source, dose, x.mean(0), x.std(0), len(x), genes) for source, dose, x in blocks]
    spread = _sd(curves)
    nothing = np.full(len(genes), np.nan)
    for i, t in enumerate(asked):
        frames.append(_block("GIM", t.dose, curves[:, i].mean(0), spread[i], 0, genes))
        frames += [_block(name, t.dose, x[i].mean(0), nothing, 0, genes) for name, x in others.items()]
    return pd.concat(frames, ignore_index=True)


def _block(source: str, dose: float, mean: Floats, sd: Floats, n: int, genes: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {"source": source, "gene": np.array(genes, dtype=object), "dose": dose, "mean": mean, "sd": sd, "n_cells": n}
    )


def of_genes(table: pd.DataFrame, asked: Sequence[str] | None, genes: Sequence[str]) -> pd.DataFrame:
    """Rows of some genes, in their order; None: the six that change most, in the data if there are any.

    Raises
    ------
    KeyError
        If a gene is not in the model.
    """
    if asked is None:
        source = "data" if (table["source"] == "data").any() else "GIM"
        mean = table[table["source"] == source].groupby("gene")["mean"]
        control = table[table["source"] == "control"].set_index("gene")["mean"]
        change = pd.concat([(mean.max() - control).abs(), (mean.min() - control).abs()], axis=1).max(axis=1)
        asked = change.loc[list(genes)].sort_values(ascending=False, kind="stable").index[:6].tolist()
    asked = [asked] if isinstance(asked, str) else [str(g) for g in asked]
    if absent := [g for g in asked if g not in genes]:
        msg = f"{shorten(absent)} are not among the {len(genes)} genes of the model.{suggest(absent[0], genes)}"
        raise KeyError(msg)
    place = {gene: i for i, gene in enumerate(asked)}
    rows = table[table["gene"].isin(asked)]
    return rows.sort_values("gene", key=lambda g: g.map(place), kind="stable").reset_index(drop=True)
