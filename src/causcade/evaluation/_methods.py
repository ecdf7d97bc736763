"""What can be asked for the effects of untried perturbations: baselines, models by name, and functions of the user."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from causcade import _keys, effect_baselines
from causcade.evaluation._screen import Condition, Screen
from causcade.evaluation._splits import Split
from causcade.regimes import read_obs, to_uns
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["BASELINES", "DEFAULT_BASELINE", "MODELS", "Learning", "predict"]

Floats = NDArray[np.float64]
Predicted = dict[str, Floats]

_N_CELLS = 300  # that a model draws for each condition
_LOADINGS = 10  # principal components that describe a gene

#: Baselines by the split they make sense for; the first listed is the one that the others are held against.
BASELINES: Final[dict[str, tuple[str, ...]]] = {
    "perturbation": ("perturbed_mean", "observational", "mean_shift_ridge", "mean_shift_mlp"),
    "cluster": ("perturbed_mean", "observational", "mean_shift_ridge", "mean_shift_mlp"),
    "combination": (
        "additive", "scaled_additive", "stronger_single", "perturbed_mean", "observational", "mean_shift_ridge",
        "mean_shift_mlp",
    ),
    "dose": ("next_lower_dose", "perturbed_mean", "observational", "mean_shift_ridge", "mean_shift_mlp"),
    "group": ("elsewhere", "perturbed_mean", "observational"),
}  # fmt: skip
DEFAULT_BASELINE: Final = {split: names[0] for split, names in BASELINES.items()}


@dataclass(frozen=True)
class Learning:
    """What a method may look at.

    Attributes
    ----------
    screen, split
        Cells and sides; methods look at those of training only.
    values
        ``(n_training_cells, n_genes)`` their values; for a held-out group all groups are brought to the level of its controls.
    features
        Table of features of perturbations, or None.
    rng
        Seed.
    """

    screen: Screen
    split: Split
    values: Floats
    features: pd.DataFrame | None
    rng: int

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions of the training cells in the screen."""
        return np.flatnonzero(self.split.train)

    @property
    def seen(self) -> list[int]:
        """Numbers of the conditions in training."""
        return sorted({int(c) - 1 for c in self.screen.codes[self.rows] if c > 0})

    @property
    def asked(self) -> list[Condition]:
        """Conditions held out."""
        return [self.screen.conditions[c] for c in self.split.asked]

    def to_adata(self) -> AnnData:
        """Training cells for a model: log values, ``.obs`` of what was done, and regimes."""
        from anndata import AnnData

        screen, rows = self.screen, self.rows
        done = [None if c == 0 else screen.conditions[c - 1] for c in screen.codes[rows]]
        obs = pd.DataFrame(
            {
                "perturbation": pd.Categorical([screen.control if c is None else c.name for c in done]),
                "label": pd.Categorical([screen.control if c is None else c.label for c in done]),
                "dose": [0.0 if c is None else c.dose for c in done],
                "group": pd.Categorical(screen.groups[rows].astype(str)),
                "control": [c is None for c in done],
            },
            index=[str(i) for i in range(len(rows))],
        )
        var = pd.DataFrame(index=list(screen.genes))
        out = AnnData(self.values.astype(np.float32), obs=obs, var=var)
        known = {
            p: [screen.genes[g] for g in c.targets] for c in screen.conditions for p in c.parts if len(c.parts) == 1
        }
        place = {gene: i for i, gene in enumerate(screen.genes)}
        for c in screen.conditions:  # parts of combinations that were not perturbed alone
            known |= {p: [p] for p in c.parts if p not in known and place.get(p) in c.targets}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            targets = {p: genes for p, genes in known.items() if genes}
            parsed = read_obs(out, "perturbation", screen.control, sep=screen.sep, targets=targets)
        out.uns[_keys.REGIMES] = to_uns(parsed)
        return out


# --- baselines ------------------------------------------------------------------------------------------------------


def _baseline(name: str, data: Learning, options: Mapping[str, Any]) -> Predicted:
    split = data.split.name
    if name not in BASELINES[split]:
        msg = f"{name} says nothing about split={split!r}; baselines for it are {', '.join(BASELINES[split])}"
        raise ValueError(msg)
    needs = name not in ("observational", "perturbed_mean", "next_lower_dose")
    row, lacking = _features(data) if needs else ((lambda _: np.zeros(1)), set())
    asked = [c for c in data.asked if c.label not in lacking]
    seen = [c for c in data.seen if data.screen.conditions[c].label not in lacking]
    if not asked or not seen:
        these = [c.label for c in data.asked if c.label in lacking] if seen else [f"all {len(data.seen)} in training"]
        msg = (
            f"there are no features of {shorten(these)}: pass features=, a table with a row for each perturbation; "
            "without it their targets must be among the genes"
        )
        raise ValueError(msg)
    number = {c + 1: i + 1 for i, c in enumerate(seen)} | {0: 0}
    codes = np.array([number.get(int(c), -1) for c in data.screen.codes[data.rows]])
    codes[(codes == 0) & (data.screen.groups[data.rows] != data.split.group) & bool(data.split.group)] = -1
    make = getattr(effect_baselines, "additive" if name == "elsewhere" else name)
    more = {"rng": data.rng, **options} if name == "mean_shift_mlp" else dict(options)
    describe = lambda some: (
        {"features": np.stack([row(c) for c in some]), "perturbation": np.array([c.name for c in some])}
        | ({"dose": np.array([c.dose for c in some])} if split == "dose" else {})
    )
    known = [data.screen.conditions[c] for c in seen]
    fit = make(data.values[codes >= 0], codes[codes >= 0], **describe(known), **more)
    return dict(zip([c.label for c in asked], fit.predict(**describe(asked)), strict=True))


def _features(data: Learning) -> tuple[Callable[[Condition], Floats], set[str]]:
    """Numbers that describe a condition, and the labels of conditions that have none."""
    split, conditions = data.split.name, [data.screen.conditions[c] for c in data.seen] + data.asked
    if split == "group":
        labels = sorted({c.label for c in conditions})
        return lambda c: np.array([c.label == other for other in labels], dtype=np.float64), set()
    table = data.features
    if table is None and split in ("combination", "dose"):
        names = sorted({p for c in conditions for p in c.parts})
        table = pd.DataFrame(np.eye(len(names)), index=names)
    elif table is None:
        table = _loadings(data)
    lacking = {c.label for c in conditions if not set(c.parts) <= set(table.index)}
    highest = np.nanmax([c.dose for c in conditions]) if split == "dose" else 1.0
    lowest = min((c.dose for c in conditions if c.dose > 0), default=1.0)

    def row(c: Condition) -> Floats:
        plain = table.loc[list(c.parts)].to_numpy(dtype=np.float64).sum(0)
        if split != "dose":
            return np.asarray(plain, dtype=np.float64)
        return np.concatenate([plain, plain * np.log1p(c.dose / lowest) / np.log1p(highest / lowest)])

    return row, lacking


def _loadings(data: Learning) -> pd.DataFrame:
    """Describe a perturbation by how its target genes vary with others in the training cells: principal components."""
    centred = data.values - data.values.mean(0)
    k = min(_LOADINGS, *centred.shape)
    _, sizes, axes = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
    loading = (axes[:k] * sizes[:k, None]).T
    rows = {
        c.parts[0]: loading[list(c.targets)].mean(0) for c in data.screen.conditions if len(c.parts) == 1 and c.targets
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(k))


# --- models ---------------------------------------------------------------------------------------------------------


def _gim(data: Learning, options: Mapping[str, Any]) -> Predicted:
    from causcade.models import GIM

    if data.split.name == "group":
        msg = "GIM has no groups of cells: it cannot say what a perturbation does in another one"
        raise ValueError(msg)
    train, told = data.to_adata(), dict(options)
    setup: dict[str, Any] = {"values": "continuous"}
    if data.split.name == "dose":
        setup["dose_key"] = "dose"
    if (table := data.features) is None and data.split.name in ("perturbation", "cluster"):
        table = _loadings(data)
    if table is not None:
        train.uns["features"] = table.set_axis(table.columns.astype(str), axis=1)
        setup["features"] = "features"
    known = lambda c: table is None or set(c.parts) <= set(table.index)
    asked = [c for c in data.asked if known(c)]
    train = train[[c == 0 or known(data.screen.conditions[c - 1]) for c in data.screen.codes[data.rows]]].copy()
    fit = {k: told.pop(k) for k in ("max_steps", "minutes", "n_fits") if k in told}
    GIM.setup_anndata(train, **setup)
    model = GIM(train, **told)
    if len(model.genes) < train.n_vars:
        msg = f"this GIM is of {len(model.genes)} of {train.n_vars} genes: pass genes= to evaluate, which serves all methods"
        raise ValueError(msg)
    model.train(**fit, rng=data.rng, accelerator="cpu", progress_bar=False)
    doses: dict[str, Any] = {"dose": [c.dose for c in asked]} if data.split.name == "dose" else {}
    made = model.predict(
        [c.parts if len(c.parts) > 1 else c.name for c in asked], **doses, n_cells=_N_CELLS, rng=data.rng
    )
    return _by_label(np.asarray(made.X, dtype=np.float64), asked)


def _gracevae(data: Learning, options: Mapping[str, Any]) -> Predicted:
    from causcade.models import GraCEVAE

    if data.split.name in ("dose", "group"):
        msg = f"GraCE-VAE has no {data.split.name}s: it knows perturbations by name only"
        raise ValueError(msg)
    seen = {p for c in data.seen for p in data.screen.conditions[c].parts}
    if new := sorted({p for c in data.asked for p in c.parts} - seen):
        msg = f"GraCE-VAE knows the perturbations of training only, not {shorten(new)}"
        raise ValueError(msg)
    train, told = data.to_adata(), dict(options)
    train.X = np.maximum(train.X, 0)  # bringing batches to one level may have left values below 0
    fit = {k: told.pop(k) for k in ("max_epochs", "combinations", "early_stopping") if k in told}
    GraCEVAE.setup_anndata(train, values="log")
    model = GraCEVAE(train, told.pop("network", None), rng=data.rng, **told)
    model.train(**fit, rng=data.rng, accelerator="cpu", progress_bar=False)
    made = model.predict([list(c.parts) for c in data.asked], n_cells=_N_CELLS, rng=data.rng)
    return _by_label(np.asarray(made.X, dtype=np.float64), data.asked)


def _by_label(cells: Floats, asked: Sequence[Condition]) -> Predicted:
    return dict(zip([c.label for c in asked], np.split(cells, len(asked)), strict=True))


MODELS: Final[dict[str, Callable[[Learning, Mapping[str, Any]], Predicted]]] = {"gim": _gim, "gracevae": _gracevae}


def predict(method: Any, data: Learning, options: Mapping[str, Any]) -> Predicted:
    """Cells ``(n_cells, n_genes)`` of the conditions held out, by label.

    Parameters
    ----------
    method
        Name of a baseline or model, or ``f(train, labels)``, which gets :meth:`Learning.to_adata` and the labels.
    data
        What it may look at.
    options
        Of the baseline or model.

    Raises
    ------
    ValueError
        If it has nothing to say on this split, or does not give cells of these genes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if callable(method):
            made = method(data.to_adata(), [c.label for c in data.asked])
        elif method in MODELS:
            made = MODELS[method](data, options)
        else:
            made = _baseline(method, data, options)
    return _checked(made, [c.label for c in data.asked], len(data.screen.genes))


def _checked(made: Any, labels: Sequence[str], n_genes: int) -> Predicted:
    if not isinstance(made, Mapping) or not set(made) <= set(labels) or not made:
        msg = f"it must give a dict of some of the labels {shorten(list(labels))}, each with cells x genes"
        raise ValueError(msg)
    dense = lambda v: v.toarray() if sparse.issparse(v) else v
    out = {str(k): np.atleast_2d(np.asarray(dense(v), dtype=np.float64)) for k, v in made.items()}
    for label, cells in out.items():
        if cells.ndim != 2 or not len(cells) or cells.shape[1] != n_genes or not np.isfinite(cells).all():
            msg = f"{label!r}: the prediction has shape {cells.shape}; it must be finite, cells x {n_genes} genes"
            raise ValueError(msg)
    return out
