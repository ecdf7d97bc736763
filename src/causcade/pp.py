"""Preparation: from perturbation labels to regimes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anndata import ImplicitModificationWarning

from causcade import _keys
from causcade.regimes import Parsed, read_obs, to_uns
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger(__name__)

__all__ = ["regimes"]


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
    _report(parsed)


def _check_writable(adata: AnnData) -> None:
    if adata.is_view and adata.isbacked:
        msg = "A view of a backed AnnData cannot be written to. Load it first: adata = adata.to_memory()."
        raise ValueError(msg)


def _store(adata: AnnData, key: str, value: Any) -> None:
    """Write to ``.uns``; on a view this makes a copy of the data, which is expected and not worth a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.uns[key] = value


def _report(parsed: Parsed) -> None:
    absent = parsed.absent
    tail = f"; targets not measured: {len(absent):,} ({shorten(absent)})" if absent else ""
    logger.log(logging.WARNING if absent else logging.INFO, "%r%s", parsed.regimes, tail)
