"""Which cells tell of a graph, and their values as edge networks want them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from causcade._checks import at_least
from causcade.graphs._values import Bools, Doubles, Floats, GraphValues, Positions, read_values, standardise
from causcade.regimes import Regimes, from_adata
from causcade.regimes.labels import Genes, shorten, suggest
from causcade.screendata import _read_groups
from causcade.simulate.domains import Kind

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["MOST_CELLS", "MOST_GENES", "GraphCells", "GraphValues", "Others", "read_graph_cells"]

Others = Literal["drop", "keep"]

#: Cells that are used if nothing else is asked for; more are sampled.
MOST_CELLS = 10_000

#: Genes of a graph; scored in sets, and passes grow with the square.
MOST_GENES = 1_000

_FEW_EXPRESSED = 5
_FEW_CONTROLS = 20  # below which there is a warning
_FEWEST = 3  # cells in which a gene was left alone


@dataclass(frozen=True)
class GraphCells:
    """Cells of a graph.

    Attributes
    ----------
    genes
        ``(n_genes,)`` names, in the order asked for.
    values
        float32 ``(n_cells, n_genes)``, standardised, groups at one level; 0 where missing.
    mask
        bool ``(n_cells, n_genes)``, True where that gene was acted on in that cell.
    missing
        bool ``(n_cells, n_genes)``; None where all is known.
    regime
        ``(n_cells,)`` regime of every cell, 0 = control.
    unscaled
        ``(n_cells, n_genes)`` values in the units of the user (of counts: log2 of counts per million, over their common
        standard deviation), NaN where missing.
    kind
        ``"counts"`` or ``"scm"``, see :func:`causcade.simulate.domains.graph_values`.
    others
        What became of cells in which other genes were perturbed.
    """

    genes: NDArray[np.str_]
    values: Floats
    mask: Bools
    missing: Bools | None
    regime: Positions
    unscaled: Doubles
    kind: Kind
    others: Others = "drop"

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.values)

    @property
    def control(self) -> Bools:
        """``(n_cells,)`` which cells are controls."""
        return self.regime == 0

    @property
    def perturbed(self) -> list[str]:
        """Genes that were acted on in some cell."""
        return [str(g) for g in self.genes[self.mask.any(0)]]


def read_graph_cells(
    adata: AnnData,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    values: GraphValues = "counts",
    batch_key: str | None = None,
    regimes_key: str | None = "regimes",
    others: Others = "drop",
    max_cells: int = MOST_CELLS,
    rng: np.random.Generator,
) -> GraphCells:
    """Read and check the cells for a graph of some genes; nothing is written.

    Used are control cells and the cells of perturbations all of whose known targets are among `genes`.

    Parameters
    ----------
    adata
        Annotated data on which :func:`causcade.pp.regimes` was run, unless `regimes_key` is None.
    genes
        2 to 1,000 names.
    layer
        Layer to read; ``None`` = ``.X``.
    values
        ``"counts"`` (whole), ``"expression"`` (non-negative, linear scale), ``"log"`` (log-normalised) or
        ``"continuous"`` (any real numbers, NaN = missing). The former two become logarithms of counts per million of
        all genes, zeros stay 0; the latter two z scores of each gene.
    batch_key
        Column of ``.obs`` whose groups are brought to the level of their own controls. Cells of a group without
        controls are left out.
    regimes_key
        Key of the regimes; ``None`` = all cells are observational.
    others
        ``"drop"`` cells in which other genes, or unknown ones, were perturbed, or ``"keep"`` them as cells with an
        intervention that is not in the mask.
    max_cells
        Most cells. Of more a random part is taken, at most half of it controls if there are perturbed cells enough,
        the rest as evenly over the perturbations as they allow.
    rng
        Decides which.

    Raises
    ------
    KeyError
        If regimes, the layer, the column or a gene is missing.
    ValueError
        If values are not what `values` says, a parameter is out of range, a gene is named twice or there are too many, or a gene has fewer
        than 3 cells in which it was left alone.

    Warns
    -----
    UserWarning
        If genes are constant or above 0 in fewer than 5 cells, none of them was perturbed, there are fewer than 20 controls, or cells are left out
        because their group has no control.
    """
    _check_words(values, others)
    at_least(max_cells, 2 * _FEWEST, "max_cells")
    positions = _find(adata, genes)
    regimes = _read_regimes(adata, regimes_key)
    codes = np.zeros(adata.n_obs, dtype=np.int64) if regimes is None else regimes.codes
    groups = _read_groups(adata, batch_key)
    cells = _with_control(_usable(codes, regimes, positions, others), codes, groups, batch_key)
    cells = _sample(cells, codes[cells], max_cells, rng)
    regime = codes[cells].astype(np.int64)
    mask = np.zeros((len(cells), len(positions)), dtype=bool)
    if regimes is not None:  # control cells and others have no row of their own
        mask = regimes.mask(adata.n_vars)[cells][:, positions].toarray().astype(bool)
        mask &= _own(regimes, positions)[regime][:, None]
    x, total = read_values(adata, layer, values, cells, positions)
    missing = np.isnan(x)
    names = np.asarray(adata.var_names.astype(str))[positions]
    kind: Kind = "counts" if values in ("counts", "expression") else "scm"
    _check_design(names, x, mask, regime, kind, observational=regimes is None)
    ready, unscaled = standardise(x, missing, total, kind, groups[cells], regime == 0)
    return GraphCells(names, ready, mask, missing if missing.any() else None, regime, unscaled, kind, others)


def _check_words(values: Any, others: Any) -> None:
    for name, given, known in (
        ("values", values, ("counts", "expression", "log", "continuous")),
        ("others", others, ("drop", "keep")),
    ):
        if not isinstance(given, str) or given not in known:
            msg = f"{name} must be one of {', '.join(map(repr, known))}, not {given!r}."
            raise ValueError(msg)


def _find(adata: AnnData, genes: Any) -> Positions:
    """Positions of the genes of a graph."""
    wanted = [] if isinstance(genes, str) or not np.iterable(genes) else [str(g) for g in genes]
    if len(wanted) < 2:
        msg = f"genes must be at least two names of genes, the nodes of the graph, not {genes!r}."
        raise ValueError(msg)
    if len(wanted) > MOST_GENES:  # before anything is read: all genes of a screen take minutes
        msg = (
            f"{len(wanted):,} genes: a graph can have at most {MOST_GENES:,}. Choose genes, e.g. the candidates of "
            "cc.tl.causes, which takes all genes."
        )
        raise ValueError(msg)
    if double := sorted({g for g in wanted if wanted.count(g) > 1}):
        msg = f"genes occur twice: {shorten(double)}."
        raise ValueError(msg)
    found = Genes(adata.var_names)
    if absent := [g for g in wanted if found.position(g) is None]:
        told = "".join(suggest(g, found.names) for g in absent[:3])
        msg = f"{len(absent)} of {len(wanted)} genes are not in .var_names: {shorten(absent)}.{told}"
        raise KeyError(msg)
    return np.array([found.position(g) for g in wanted], dtype=np.int64)


def _read_regimes(adata: AnnData, key: str | None) -> Regimes | None:
    if key is None:
        return None
    if key not in adata.uns:
        msg = (
            f"There are no regimes in .uns[{key!r}]. Call cc.pp.regimes(adata, perturbation_key=, control=) first, or "
            "pass regimes_key=None if no cell was perturbed."
        )
        raise KeyError(msg)
    return from_adata(adata, key)


def _own(regimes: Regimes, positions: Positions) -> Bools:
    """``(n_regimes,)`` whether all targets are known, measured and among the genes; False for the control."""
    pairs = zip(regimes.targets, regimes.target_index, strict=True)
    return np.array([0 < len(t) == len(i) and bool(np.isin(i, positions).all()) for t, i in pairs])


def _usable(codes: Positions, regimes: Regimes | None, positions: Positions, others: Others) -> Positions:
    if regimes is None:
        return np.arange(len(codes))
    wanted = np.ones(len(regimes), dtype=bool) if others == "keep" else _own(regimes, positions)
    wanted[0] = True
    return np.flatnonzero((codes >= 0) & wanted[codes])


def _with_control(cells: Positions, codes: Positions, groups: Positions, key: str | None) -> Positions:
    """Leave out cells of groups without controls: nothing says what their level is."""
    kept = np.isin(groups[cells], np.unique(groups[codes == 0]))
    if not kept.all():
        note = (
            f"{int((~kept).sum()):,} of {len(cells):,} cells lie in groups of .obs[{key!r}] (batch_key) without a control "
            "cell and are left out."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
    return cells[kept]


def _sample(cells: Positions, codes: Positions, most: int, rng: np.random.Generator) -> Positions:
    """At most so many cells: controls and perturbed by halves, perturbations as evenly as they allow."""
    if len(cells) <= most:
        return cells
    order = rng.permutation(len(cells))
    control, rest = order[codes[order] == 0], order[codes[order] != 0]
    n_control = min(len(control), max(most // 2, most - len(rest)))
    rest = rest[np.argsort(codes[rest], kind="stable")]
    rank = np.arange(len(rest)) - np.searchsorted(codes[rest], codes[rest])
    evenly = rest[np.lexsort((rng.permutation(len(rest)), rank))]
    return np.sort(cells[np.concatenate([control[:n_control], evenly[: most - n_control]])])


def _check_design(
    names: NDArray[np.str_], x: Doubles, mask: Bools, regime: Positions, kind: Kind, *, observational: bool
) -> None:
    """Refuse what no method can use, and say what these cells cannot tell."""
    seen = ~np.isnan(x)
    free = (seen & ~mask).sum(0)
    if (short := names[free < _FEWEST]).size:
        msg = (
            f"{len(short)} genes have fewer than {_FEWEST} cells with a value in which they were not perturbed: "
            f"{shorten(list(short))}. Leave them out, or give more cells ({len(x):,} are used, "
            f"{int((regime == 0).sum()):,} of them control)."
        )
        raise ValueError(msg)
    low, high = (f(np.where(seen, x, s), axis=0) for f, s in ((np.min, np.inf), (np.max, -np.inf)))
    if (constant := names[low == high]).size:
        note = (
            f"{len(constant)} genes do not vary in these cells, so nothing is known of their edges, which get "
            f"probability 0: {shorten(list(constant))}."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
    expressed = (seen & (x != 0)).sum(0)
    if (rare := names[(expressed < _FEW_EXPRESSED) & (low < high)]).size:
        note = (
            f"{len(rare)} genes are above 0 in fewer than {_FEW_EXPRESSED} of these cells; an edge of theirs rests on next to "
            f"nothing, however probable it is said to be: {shorten(list(rare))}."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
    if kind == "scm" and (tied := names[((x == low).sum(0) > 0.5 * seen.sum(0)) & (low < high)]).size:
        note = (
            f"{len(tied)} genes have one value, their least, in more than half of the cells, as sparse counts have. Weights "
            "for continuous values call edges among such genes where there are none: give counts, with values='counts' "
            f"and model='avici-grn', or leave them out: {shorten(list(tied))}."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
    if (n_control := int((regime == 0).sum())) < _FEW_CONTROLS:
        note = f"Only {n_control} control cells; the graph is likely to be wrong with fewer than {_FEW_CONTROLS}."
        warnings.warn(note, UserWarning, stacklevel=4)
    if not observational and not mask.any():
        note = (
            "None of these genes was perturbed (all targets of a perturbation must be among them), so directions are "
            "mostly a guess. See cc.get.regimes(adata) for what was perturbed."
        )
        warnings.warn(note, UserWarning, stacklevel=4)
