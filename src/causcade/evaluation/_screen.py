"""A screen as cells under conditions: what was done, at which dose, and in which group of cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causcade._checks import at_least
from causcade.reference import level_groups
from causcade.regimes import Regimes, from_adata, read_column, read_obs, to_uns
from causcade.regimes.labels import shorten, split_label, suggest
from causcade.screendata import ScreenData, read_screen

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Condition", "Screen", "quiet_screen", "read_conditions", "with_regimes"]

Floats = NDArray[np.floating]
Positions = NDArray[np.int64]

_CONTROLS = 4  # times as many controls as cells of a condition are kept


@dataclass(frozen=True)
class Condition:
    """What was done to some cells.

    Attributes
    ----------
    label
        Its name, with the dose behind an ``@`` where there are doses.
    name, parts
        Name of the perturbation, and of its parts (one, unless it is a combination).
    targets
        Positions of its known targets among the genes.
    dose
        NaN where there are no doses.
    """

    label: str
    name: str
    parts: tuple[str, ...]
    targets: tuple[int, ...]
    dose: float = float("nan")


@dataclass(frozen=True)
class Screen:
    """Cells in memory, log-normalised and with batches brought to one level.

    Attributes
    ----------
    values
        ``(n_cells, n_genes)``.
    codes
        ``(n_cells,)`` 0 for control, k for condition ``k - 1``.
    groups
        ``(n_cells,)`` name of the group to be held out, or empty.
    batches
        ``(n_cells,)`` batch of every cell.
    conditions
        All conditions.
    genes, cells
        Names.
    control, sep
        Label of the control, and what joins combinations.
    """

    values: Floats
    codes: Positions
    groups: NDArray[Any]
    batches: Positions
    conditions: tuple[Condition, ...]
    genes: tuple[str, ...]
    cells: NDArray[Any]
    control: str
    sep: str | None

    def of(self, condition: int, among: NDArray[np.bool_]) -> Positions:
        """Positions of the cells of a condition (-1: control) among some."""
        return np.flatnonzero((self.codes == condition + 1) & among)

    def only(self, genes: Positions) -> Screen:
        """The same with some of the genes."""
        place = {int(g): i for i, g in enumerate(genes)}
        kept = tuple(replace(c, targets=tuple(place[t] for t in c.targets if t in place)) for c in self.conditions)
        names = tuple(self.genes[g] for g in genes)
        return replace(self, values=np.ascontiguousarray(self.values[:, genes]), conditions=kept, genes=names)


def with_regimes(
    adata: AnnData,
    perturbation_key: str | None,
    control: Any,
    *,
    sep: str | None,
    targets: Any,
    layer: str | None,
    regimes_key: str,
) -> AnnData:
    """`adata` itself if its regimes are used, else another that shares its values and has regimes."""
    if perturbation_key is None and control is None and regimes_key in adata.uns:
        if targets is not None:
            msg = (
                f"targets= goes with perturbation_key= and control=; the regimes in .uns[{regimes_key!r}] have theirs."
            )
            raise ValueError(msg)
        return adata
    from anndata import AnnData as Data

    parsed = read_obs(adata, perturbation_key, control, sep=sep, targets=targets)
    for note in parsed.notes:
        warnings.warn(note, UserWarning, stacklevel=3)
    layers = {} if layer is None or layer not in adata.layers else {layer: adata.layers[layer]}
    return Data(adata.X, obs=adata.obs, var=adata.var, layers=layers, uns={**adata.uns, regimes_key: to_uns(parsed)})


def quiet_screen(adata: AnnData, **how: Any) -> ScreenData:
    """Read a screen without words on its design, which every task judges for itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No measured gene was perturbed alone")
        warnings.filterwarnings("ignore", ".*share no group of")
        return read_screen(adata, **how)


def read_conditions(
    adata: AnnData,
    *,
    layer: str | None,
    values: Any,
    batch_key: str | None,
    dose_key: str | None,
    groupby: str | None,
    regimes_key: str,
    genes: Sequence[str] | None,
    max_cells: int,
    rng: np.random.Generator,
) -> Screen:
    """Read a sample of the cells of every condition.

    Raises
    ------
    KeyError
        If a column or a gene is missing.
    ValueError
        If doses are unusable or an argument is out of range.
    """
    most = at_least(max_cells, 10, "max_cells")
    regimes = from_adata(adata, regimes_key)
    screen = quiet_screen(adata, layer=layer, values=values, batch_key=batch_key, regimes_key=regimes_key)
    chosen = np.arange(screen.n_genes) if genes is None else screen.find(list(genes))
    groups = _labels(adata, groupby)
    codes, conditions = _conditions(adata, regimes, dose_key)
    within = codes if groupby is None else codes * (len(set(groups)) + 1) + np.unique(groups, return_inverse=True)[1]
    rows = _sample(codes, within, most, rng)
    _warn_of_lone(screen.groups[codes >= 0], codes[codes >= 0] == 0)
    y = level_groups(screen.rows(rows), screen.groups[rows], codes[rows] == 0)
    out = Screen(
        y,
        codes[rows],
        groups[rows],
        screen.groups[rows],
        conditions,
        tuple(map(str, screen.genes)),
        np.asarray(adata.obs_names.astype(str))[rows],
        str(regimes.names[0]),
        regimes.params.get("sep"),
    )
    return out if genes is None else out.only(chosen)


def _warn_of_lone(groups: Positions, control: NDArray[np.bool_]) -> None:
    if n := int((~np.isin(groups, groups[control]) & ~control).sum()):
        note = f"{n:,} perturbed cells lie in batches (batch_key) without a control: what the batch does to them stays in the scores."
        warnings.warn(note, UserWarning, stacklevel=5)


def _labels(adata: AnnData, key: str | None) -> NDArray[Any]:
    if key is None:
        return np.full(adata.n_obs, "", dtype=object)
    found, labels = read_column(adata, key, "groupby")
    return np.asarray(labels, dtype=object)[found]


def _conditions(adata: AnnData, regimes: Regimes, dose_key: str | None) -> tuple[Positions, tuple[Condition, ...]]:
    """Code of every cell and what it stands for; doses make several conditions of a regime."""
    sep, known = regimes.params.get("sep"), {gene for some in regimes.targets for gene in some}
    doses = _doses(adata, dose_key, regimes.codes > 0)
    codes = np.where(regimes.codes == 0, 0, -1).astype(np.int64)
    out: list[Condition] = []
    taken: set[str] = set()
    for r in range(1, len(regimes)):
        name = str(regimes.names[r])
        mine = regimes.codes == r
        for dose in np.unique(doses[mine]) if dose_key is not None else [np.nan] * bool(mine.any()):
            label = name if dose_key is None else f"{name}@{dose:g}"
            if label in taken:  # so close that six digits do not tell them apart
                label = f"{name}@{float(dose)!r}"
            taken.add(label)
            targets = tuple(int(g) for g in regimes.target_index[r])
            out.append(Condition(label, name, split_label(name, sep, known), targets, float(dose)))
            codes[mine if dose_key is None else mine & (doses == dose)] = len(out)
    return codes, tuple(out)


def _doses(adata: AnnData, key: str | None, used: NDArray[np.bool_]) -> NDArray[np.float64]:
    if key is None:
        return np.full(adata.n_obs, np.nan)
    if key not in adata.obs:
        known = list(map(str, adata.obs.columns))
        msg = f".obs has no column dose_key={key!r}.{suggest(str(key), known)} It has {shorten(known, 20)}."
        raise KeyError(msg)
    try:
        doses = np.asarray(adata.obs[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f".obs[{key!r}] (dose_key) must hold numbers, all in one unit."
        raise ValueError(msg) from error
    if bad := int((~np.isfinite(doses[used]) | (doses[used] < 0)).sum()):
        msg = f"{bad:,} perturbed cells have no dose of at least 0 in .obs[{key!r}] (dose_key); fill or drop them."
        raise ValueError(msg)
    return doses


def _sample(codes: Positions, within: Positions, most: int, rng: np.random.Generator) -> Positions:
    """Positions of at most so many cells of every condition (and group), more of the controls."""
    order = rng.permutation(len(codes))
    order = order[np.argsort(within[order], kind="stable")]
    sorted_within = within[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_within, sorted_within)
    keep = (codes[order] >= 0) & (place < np.where(codes[order] == 0, _CONTROLS * most, most))
    return np.sort(order[keep]).astype(np.int64)
