"""Preparation: from perturbation labels to regimes, and from millions of cells to a summary."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import ImplicitModificationWarning

from causcade import _keys, onepass
from causcade._checks import at_least, generator
from causcade.expression import Expression, is_summary
from causcade.regimes import read_obs, to_uns
from causcade.regimes.labels import Genes, shorten, suggest
from causcade.screendata import Values

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

__all__ = ["merge_summaries", "regimes", "summarise"]


def regimes(
    adata: AnnData,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    *,
    sep: str | None = "+",
    gene_symbols: str | None = None,
    targets: Mapping[str, str | Sequence[str]] | pd.Series | pd.DataFrame | None = None,
    min_cells: int = 2,
    key_added: str = _keys.REGIMES,
) -> None:
    """Group cells by intervention and check their labels.

    Everything else in the package starts from here. Works for genetic perturbations, drugs, and any two groups
    (disease and healthy), where targets are unknown.

    Parameters
    ----------
    adata
        Annotated data. Of a MuData pass one modality: ``cc.pp.regimes(mdata["rna"], ...)``, with the labels in that
        modality's ``.obs``. A view becomes an actual AnnData, as with any function that writes.
    perturbation_key
        Column of ``.obs`` with the perturbation of each cell: text, categories or integers. None reads CELLxGENE's
        ``genetic_perturbation_id`` and ``genetic_perturbation_strategy``, with the targets in
        ``.uns["genetic_perturbations"]``; there `sep` is always ``" || "``.
    control
        Label, or labels, of the control cells. A control part of a combination is dropped ("A+ctrl" is "A").
    sep
        What joins the parts of a combination ("A+B" and "B+A" are one regime); None if no label is a combination.
        A gene whose name holds `sep` is recognised if it is measured.
    gene_symbols
        Column of ``.var`` with the gene names that the labels use, if not ``.var_names``; e.g. symbols over Ensembl
        ids, or the reverse.
    targets
        Label or guide to gene(s), if labels are not gene names: a dict, a Series with labels in its index, or a
        DataFrame with two columns, label and gene. A label mapped to one name stands for it, so all guides of one
        gene become one regime; guides may be mapped to a control label. A label mapped to a list keeps its own name
        and has those targets. ``{}`` says that targets are unknown and silences the warning about it.
    min_cells
        Perturbations with fewer cells are listed, but left out of every analysis.
    key_added
        Key in ``.uns`` of the result.

    Returns
    -------
    None. Writes ``.uns[key_added]``, a dict with

    `table` : DataFrame
        One row per regime, control first: ``name``, ``targets`` (joined by `sep`; empty if unknown), ``n_cells``,
        ``kind`` (control, single, combination, unknown) and ``n_measured`` (targets among the measured genes).
    `labels`, `targets` : DataFrame
        Regime of each label and target genes of each regime, from which `causcade.regimes.from_adata` reads the
        regimes back, also after cells or genes were dropped or reordered.
    `params` : dict
        The arguments; those that were None are left out.

    Raises
    ------
    KeyError
        If `perturbation_key` or `gene_symbols` is not a column.
    ValueError
        If the data are empty, a label is missing (NaN, ""), no cell has a control label, there are only controls, a
        label can be read in two ways, or ``.var_names`` repeat. `adata` is unchanged after any error.

    Warns
    -----
    UserWarning
        If no label is the name of a measured gene, perturbations have fewer than `min_cells` cells, labels look like
        guides, have spaces around them or are missing from `targets`, or ``.obs_names`` repeat.

    Examples
    --------
    >>> import anndata as ad, numpy as np, causcade as cc
    >>> adata = ad.AnnData(np.ones((6, 3), dtype="float32"))
    >>> adata.var_names = ["A", "B", "C"]
    >>> adata.obs["perturbation"] = ["ctrl", "ctrl", "A+B", "B+A", "C+ctrl", "C"]
    >>> cc.pp.regimes(adata, "perturbation", "ctrl")
    >>> adata.uns["regimes"]["table"]["name"].tolist()
    ['ctrl', 'A+B', 'C']
    """
    _keys.check_key(key_added)
    _check_writable(adata)
    parsed = read_obs(
        adata,
        perturbation_key,
        control,
        sep=sep,
        gene_symbols=gene_symbols,
        targets=targets,
        min_cells=min_cells,
    )
    if not adata.obs_names.is_unique:
        double = list(dict.fromkeys(adata.obs_names[adata.obs_names.duplicated()]))
        parsed.notes.append(f"{len(double):,} obs_names occur more than once: {shorten(double)}.")
    for note in parsed.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    _store(adata, key_added, to_uns(parsed))
    parsed.report(logger)


def _check_writable(adata: AnnData) -> None:
    if adata.is_view and adata.isbacked:
        msg = "A view of a backed AnnData cannot be written to. Load it first: adata = adata.to_memory()."
        raise ValueError(msg)


def _store(adata: AnnData, key: str, value: Any) -> None:
    """Write to ``.uns``; on a view this makes a copy of the data, which is expected and not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.uns[key] = value


def summarise(
    adata: AnnData,
    perturbation_key: str | None = None,
    control: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    genes: Sequence[str] | None = None,
    max_cells: int = 200,
    max_controls: int = 10_000,
    scale: float | str | None = None,
    first_cell: int = 0,
    regimes_key: str = _keys.REGIMES,
    client: Any = None,
    max_memory: float | None = None,
    path: str | Path | None = None,
    rng: int | np.random.Generator | None = 0,
    progress_bar: bool = True,
) -> AnnData:
    """Read a large screen once, and keep a small AnnData that answers in its place.

    One pass over the cells, block by block, adds up what means and effects are made of, and keeps some cells of every
    perturbation. :func:`causcade.tl.causes`, :func:`causcade.tl.targets` and :func:`causcade.tl.graph` take the result
    instead of the cells: z-scores, popularity, detection and log fold changes are those of all cells; correlations,
    rank-sum tests and what networks see of single cells come from the kept ones. If all cells were kept, answers are
    those of the cells.

    Parameters
    ----------
    adata
        The screen: in memory, backed, or with a matrix of Dask or zarr (``anndata.experimental.read_lazy``, or
        ``anndata.io.sparse_dataset`` as ``X``). It is not changed.
    perturbation_key, control
        As in :func:`regimes`. ``None`` takes what that function stored; call it first if labels need ``sep=``,
        ``targets=`` or the like.
    layer
        Layer to read; ``None`` = ``.X``. In the summary it is ``.X``.
    values
        What it holds: ``"counts"`` (whole), ``"expression"`` (non-negative, linear scale) or ``"log"`` (log-normalised).
    batch_key
        Column of ``.obs``; sums are kept by regime, by batch and of controls by batch, enough for all effects within
        batches. (A table of every regime in every batch can be larger than the cells.)
    genes
        Genes to keep; ``None`` = all. Library sizes are always of all genes.
    max_cells, max_controls
        Cells kept of a perturbation, and of the controls: every cell has a random number, and those with the smallest of
        their regime stay, in the order of the file. So batches keep their shares.
    scale
        Library size that counts are brought to before the logarithm. ``None``: the median of all cells, up to 20,000 of
        them; beyond, of 32,768 cells in 64 evenly spaced runs, read before the pass. A number, or a column of ``.obs``
        with total counts, whose median is taken.
    first_cell
        Number of cells in the parts before this one, if the screen is summarised in parts (:func:`merge_summaries`).
    regimes_key
        Where regimes are in ``.uns``, and will be in the summary.
    client
        A ``dask.distributed.Client``, whose workers share the pass. They open files themselves, so these must lie where
        all can read them. A worker that dies costs its part, which another does again. The result is the same.
    max_memory
        Gigabytes that may be used; ``None`` = what is free. The estimate is logged before the pass.
    path
        Where to save the summary too: ``.h5ad`` or ``.zarr``.
    rng
        Seed or generator of the random numbers. The same seed keeps the same cells, whatever holds them, however they are
        cut into blocks, and whoever reads them.
    progress_bar
        Show one.

    Returns
    -------
    AnnData of the kept cells, counts as they were, with the regimes in ``.uns`` and

    `.varm["summary_value"]`, `["summary_square"]`, `["summary_nonzero"]` : (n_vars, rows)
        Sums over all cells of log-normalised values and their squares, and numbers of cells with a value. Rows are
        regimes; with `batch_key` also batches, then controls by batch.
    `.uns["summary"]` : dict
        ``cells`` and ``totals`` (n_regimes, n_batches: number of cells, sum of library sizes), names of ``regimes``,
        ``names`` of batches, ``params``.
    `.obs["summary_total_counts"]`, `["summary_key"]`, `["summary_cell"]`
        Library size over all genes, random number, and place in the screen.

    Genes of it may be dropped or reordered; cells may not. Values are rounded to multiples of 2^-24, so that sums do not
    depend on the order in which they are added.

    Raises
    ------
    KeyError
        If a column, the layer or a gene is missing.
    ValueError
        If labels or values are unusable, the summary would not fit in memory, it is one already, or a parameter is out of
        range.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=30, rng=0)
    >>> small = cc.pp.summarise(adata, max_cells=20, max_controls=50, progress_bar=False)
    >>> cc.tl.causes(small, ["G001"], progress_bar=False)
    """
    place = onepass.check_path(path)
    most = at_least(max_cells, 3, "max_cells"), at_least(max_controls, 3, "max_controls")
    params: dict[str, Any] = {
        "values": values,
        "layer": layer or "X",
        "batch_key": batch_key or "",
        "regimes_key": regimes_key,
    }
    params |= {"max_cells": most[0], "max_controls": most[1], "first_cell": at_least(first_cell, 0, "first_cell")}
    if is_summary(adata):
        msg = "This is a summary already; to join several, use cc.pp.merge_summaries."
        raise ValueError(msg)
    if values not in ("counts", "expression", "log"):
        msg = f"values must be 'counts', 'expression' or 'log', not {values!r}."
        raise ValueError(msg)
    base = int(generator(rng).integers(2**63))
    source = Expression(adata, layer, scan=False)
    stored, codes = onepass.read_labels(adata, perturbation_key, control, regimes_key)
    batches, groups = onepass.read_batches(adata, batch_key)
    min_cells = int(stored[_keys.PARAMS].get("min_cells", 1))
    if min_cells > min(most):
        msg = f"max_cells and max_controls must be at least min_cells={min_cells} of cc.pp.regimes, not {min(most)}."
        raise ValueError(msg)
    totals, fixed = _library_sizes(adata, scale)
    plan = onepass.make_plan(
        source, codes, groups, len(stored[_keys.TABLE]), len(batches), genes=_positions(adata, genes), values=values,
        totals=totals, scale=fixed, max_cells=most[0], max_controls=most[1], min_cells=min_cells, base=base,
        first_cell=first_cell, max_memory=max_memory,
    )  # fmt: skip
    logger.info("%s", onepass.describe(plan, source.where))
    part, rows = onepass.run(source, plan, values=values, client=client, progress_bar=progress_bar)
    out = onepass.build(adata, plan, part, rows, stored, batches, params | {"seed": str(base)})
    del part, rows  # the sums are in `out` now, and saving needs room
    if place is not None:
        onepass.save(out, place)
    return out


def _positions(adata: AnnData, genes: Sequence[str] | None) -> NDArray[np.int64]:
    """Sorted places of the wanted genes."""
    known = Genes(adata.var_names)
    if genes is None:
        return np.arange(adata.n_vars)
    wanted = [str(g) for g in genes]
    if absent := [g for g in wanted if g not in known]:
        told = "".join(suggest(g, known.names) for g in absent[:3])
        msg = f"{len(absent)} of {len(wanted)} genes are not in .var_names: {shorten(absent)}.{told}"
        raise KeyError(msg)
    if isinstance(genes, str) or len(set(wanted)) < 2:
        msg = f"genes must be at least two names of genes, or None for all, not {genes!r}."
        raise ValueError(msg)
    return known.positions(wanted)


def _library_sizes(adata: AnnData, scale: float | str | None) -> tuple[NDArray[np.float64] | None, float | None]:
    """Library sizes, if a column has them, or what they are brought to, if it is given."""
    if scale is None:
        return None, None
    if isinstance(scale, str):
        if scale not in list(adata.obs.columns):
            columns = list(map(str, adata.obs.columns))
            msg = f".obs has no column scale={scale!r}.{suggest(scale, columns)} It has {shorten(columns, 20)}."
            raise KeyError(msg)
        return np.asarray(adata.obs[scale], dtype=np.float64), None
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 0 < scale < np.inf:
        msg = f"scale must be a positive number, a column of .obs with total counts, or None, not {scale!r}."
        raise ValueError(msg)
    return None, float(scale)


def merge_summaries(adata: AnnData, *others: AnnData) -> AnnData:
    """Join summaries of the parts of a screen (files, partitions) to that of the whole.

    Sums, counts and kept cells are exactly those of a summary of the cells together, if it has the same ``rng`` and
    ``scale``.

    Parameters
    ----------
    adata, *others
        Results of :func:`summarise`, each with its ``first_cell``, the same ``scale`` (a number), ``rng`` and genes. Every
        part needs control cells; the parts may have different perturbations and batches.

    Returns
    -------
    A summary, cells in the order of the screen.

    Raises
    ------
    ValueError
        If a part is no summary, or the parts do not fit together.
    """
    return onepass.merge([adata, *others])
