"""Which cells are compared with which: controls with the cells of every perturbation, or one group with another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from causcade._blocks import checksum
from causcade.expression import read_expression
from causcade.regimes import Regimes, from_adata, read_column
from causcade.regimes.labels import Genes, as_text, shorten, suggest
from causcade.screendata import ScreenData, Values, _read_groups, read_screen

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MIN_CELLS", "Comparisons", "label_groups", "read_groups", "read_perturbations"]

#: Sets with fewer cells are not compared.
MIN_CELLS = 3

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Comparisons:
    """Sets of cells, each to be compared with the same reference.

    Attributes
    ----------
    control
        Positions of the reference cells.
    names
        Names of the sets.
    cells
        Per set the positions of its cells.
    known
        Per set the positions of its known targets among the genes; empty where unknown or not measured.
    """

    control: Positions
    names: tuple[str, ...]
    cells: tuple[Positions, ...]
    known: tuple[Positions, ...]

    def __len__(self) -> int:
        """Return the number of sets."""
        return len(self.names)

    def checksum(self) -> str:
        """SHA-256 of all of it."""
        return checksum([self.control, repr(self.names), *self.cells, *self.known])

    def usable(self, groups: Positions) -> Comparisons:
        """Leave out cells that share no group with a control, then sets of fewer than :data:`MIN_CELLS`.

        Parameters
        ----------
        groups
            ``(n_cells,)`` group of every cell of the screen.

        Raises
        ------
        ValueError
            If there are fewer than :data:`MIN_CELLS` controls, or nothing is left to compare.

        Warns
        -----
        UserWarning
            Once, with the names of the sets that were left out.
        """
        if len(self.control) < MIN_CELLS:
            msg = f"Only {len(self.control)} reference cells; at least {MIN_CELLS} are needed."
            raise ValueError(msg)
        with_control = np.unique(groups[self.control])
        cells = [c[np.isin(groups[c], with_control)] for c in self.cells]
        enough = [i for i, c in enumerate(cells) if len(c) >= MIN_CELLS]
        few = [name for i, name in enumerate(self.names) if i not in set(enough)]
        lost = sum(len(a) - len(b) for a, b in zip(self.cells, cells, strict=True))
        why = f" {lost:,} cells lie in groups (batch_key) without a reference cell." if lost else ""
        if not enough:
            msg = f"Nothing to compare: {shorten(few) or 'no set'} has fewer than {MIN_CELLS} usable cells.{why}"
            raise ValueError(msg)
        if few or lost:
            skipped = (
                f"{len(few):,} with fewer than {MIN_CELLS} usable cells are skipped: {shorten(few)}." if few else ""
            )
            warnings.warn(f"{len(self):,} comparisons asked for. {skipped}{why}", UserWarning, stacklevel=3)
        return replace(
            self,
            names=tuple(self.names[i] for i in enough),
            cells=tuple(cells[i] for i in enough),
            known=tuple(self.known[i] for i in enough),
        )


def read_perturbations(
    adata: AnnData,
    perturbations: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    regimes_key: str = "regimes",
) -> tuple[ScreenData, Comparisons]:
    """Read a screen, and which cells to compare with its controls.

    Every regime is a comparison of its own: two drugs with the same listed target stay apart.

    Parameters
    ----------
    adata
        Annotated data on which :func:`causcade.pp.regimes` was run.
    perturbations
        Names of regimes; ``None`` = all but the control.
    layer, values, batch_key, regimes_key
        As in :func:`causcade.screendata.read_screen`.

    Raises
    ------
    KeyError
        If a regime does not exist.
    ValueError
        If one is named twice, is the control, or none is named.
    """
    regimes = from_adata(adata, regimes_key)
    chosen = _choose(regimes, perturbations)
    with warnings.catch_warnings():  # both are about causes; targets are found whether known or not
        warnings.filterwarnings("ignore", "No measured gene was perturbed alone")
        warnings.filterwarnings("ignore", ".*share no group of")
        screen = read_screen(adata, layer=layer, values=values, batch_key=batch_key, regimes_key=regimes_key)
    out = Comparisons(
        np.flatnonzero(regimes.codes == 0),
        tuple(str(regimes.names[r]) for r in chosen),
        tuple(np.flatnonzero(regimes.codes == r) for r in chosen),
        tuple(np.asarray(regimes.target_index[r], dtype=np.int64) for r in chosen),
    )
    return screen, out.usable(screen.groups)


def _choose(regimes: Regimes, perturbations: Any) -> list[int]:
    if perturbations is None:
        return [int(r) for r in range(1, len(regimes)) if regimes.n_cells[r]]
    try:
        asked = [perturbations] if isinstance(perturbations, str) else list(perturbations)
    except TypeError as error:
        msg = f"perturbations must be a name, several names, or None for all, not {perturbations!r}."
        raise ValueError(msg) from error
    if not asked:
        msg = "No perturbations were given; name at least one, or pass None for all."
        raise ValueError(msg)
    chosen = [regimes.find(name) for name in asked]
    if 0 in chosen:
        msg = f"{asked[chosen.index(0)]!r} is the control, with which perturbations are compared; leave it out."
        raise ValueError(msg)
    if double := sorted({str(regimes.names[r]) for r in chosen if chosen.count(r) > 1}):
        msg = f"Perturbations occur twice: {shorten(double)}."
        raise ValueError(msg)
    return chosen


def read_groups(
    adata: AnnData,
    groups: Sequence[str],
    groupby: str,
    *,
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
) -> tuple[ScreenData, Comparisons]:
    """Read two groups of cells, whatever makes them differ; no regimes are needed.

    Parameters
    ----------
    adata
        Annotated data.
    groups
        Two labels: the reference, and the group whose targets are asked for.
    groupby
        Column of ``.obs`` with the labels; cells with other labels, or none, are left out.
    layer, values, batch_key
        As in :func:`causcade.screendata.read_screen`.

    Raises
    ------
    KeyError
        If there is no such column or label.
    ValueError
        If there are not two different groups.
    """
    names, codes = label_groups(adata, groups, groupby)
    Genes(adata.var_names)  # refuses repeated names
    source = read_expression(adata, layer, counts=_kind(values))
    if source.minimum < 0:
        msg = f"{source.where} holds negative values ({source.minimum:g}): give counts, or log-normalised values >= 0."
        raise ValueError(msg)
    single = np.full(source.n_genes, -1, dtype=np.int64)
    genes = np.asarray(adata.var_names.astype(str))
    screen = ScreenData(genes, codes, _read_groups(adata, batch_key), single, 2, values, source)
    nothing = np.zeros(0, dtype=np.int64)
    out = Comparisons(np.flatnonzero(codes == 0), names[1:], (np.flatnonzero(codes == 1),), (nothing,))
    return screen, out.usable(screen.groups)


def label_groups(adata: AnnData, groups: Sequence[str], groupby: str) -> tuple[tuple[str, str], Positions]:
    """Find two groups of cells by their labels.

    Parameters
    ----------
    adata
        Annotated data.
    groups
        Two labels.
    groupby
        Column of ``.obs`` with the labels.

    Returns
    -------
    The labels as text, and ``(n_cells,)`` 0 for cells of the first, 1 for those of the second, -1 for others.

    Raises
    ------
    KeyError
        If there is no such column or label.
    ValueError
        If there are not two different groups.
    """
    names = _two(groups)
    found, labels = read_column(adata, groupby, "groupby", complete=False)
    for name in names:
        if name not in labels:
            msg = (
                f".obs[{groupby!r}] has no group {name!r}.{suggest(name, labels)} Its groups are {shorten(labels, 20)}."
            )
            raise KeyError(msg)
    codes = np.select([found == labels.index(name) for name in names], [0, 1], -1).astype(np.int64)
    return names, codes


def _two(groups: Any) -> tuple[str, str]:
    names = [as_text(g) for g in groups] if isinstance(groups, list | tuple | np.ndarray) else []
    if len(set(names)) != 2 or len(names) != 2:
        msg = f"groups must be two different labels, (reference, other), not {groups!r}."
        raise ValueError(msg)
    return names[0], names[1]


def _kind(values: Any) -> bool | None:
    known = {"counts": True, "expression": None, "log": False}
    if not isinstance(values, str) or values not in known:
        msg = f"values must be 'counts', 'expression' or 'log', not {values!r}."
        raise ValueError(msg)
    return known[values]
