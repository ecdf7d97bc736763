"""From labels to regimes, on plain arrays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from causcade.regimes.labels import (
    Genes,
    LabelReader,
    Reading,
    as_labels,
    as_mapping,
    as_text,
    control_like,
    count_labels,
    explain_mismatch,
    guide_gene,
    shorten,
    split_label,
    suggest,
)


@dataclass(frozen=True)
class Regimes:
    """Cells grouped by intervention.

    Attributes
    ----------
    names
        (n_regimes,) unique names; the first is the control, the others are sorted. A combination is named by its
        parts in alphabetical order ("A+B" for both "A+B" and "B+A").
    targets
        Per regime the names of the genes intervened on, measured or not; empty for the control and where unknown.
    target_index
        Per regime the sorted positions in var_names of the measured targets.
    kind
        (n_regimes,) "control", "single" (one target gene), "combination" (several) or "unknown" (no known target).
    codes
        (n_cells,) regime of every cell, 0 for control, -1 for cells left out (regimes below `min_cells`).
    params
        How the regimes were made.
    """

    names: np.ndarray
    targets: tuple[tuple[str, ...], ...]
    target_index: tuple[np.ndarray, ...]
    kind: np.ndarray
    codes: np.ndarray
    params: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of regimes, control included."""
        return len(self.names)

    def __repr__(self) -> str:
        """Say how many cells and regimes of each kind there are."""
        kinds = ", ".join(f"{n:,} {k}" for k, n in zip(*np.unique(self.kind[1:], return_counts=True), strict=True))
        return f"Regimes({len(self.codes):,} cells, {int(self.n_cells[0]):,} of them control; {kinds})"

    @property
    def n_cells(self) -> np.ndarray:
        """(n_regimes,) cells in use; 0 for a regime whose cells were left out."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def mask(self, n_vars: int) -> sparse.csr_array:
        """Which gene was intervened on in which cell.

        Parameters
        ----------
        n_vars
            Number of measured genes.

        Returns
        -------
        (n_cells, n_vars) bool, 1 where that gene was a target in that cell; rows of control cells, cells left out
        and cells with unknown or unmeasured targets are empty.
        """
        length = np.array([len(t) for t in self.target_index] + [0], dtype=np.int64)  # last: cells left out (-1)
        start = np.concatenate([[0], np.cumsum(length)[:-1]])
        flat = np.concatenate([*self.target_index, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        if flat.size and flat.max() >= n_vars:
            msg = f"A target lies at position {flat.max():,}, but n_vars={n_vars:,}. Pass the n_vars of the same data."
            raise ValueError(msg)
        per_cell = length[self.codes]
        indptr = np.concatenate([[0], np.cumsum(per_cell)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], per_cell)
        indices = flat[np.repeat(start[self.codes], per_cell) + within]
        data = np.ones(len(indices), dtype=bool)
        return sparse.csr_array((data, indices, indptr), shape=(len(self.codes), n_vars))

    def find(self, name: str) -> int:
        """Position of a regime by name; the parts of a combination may come in any order.

        Raises
        ------
        KeyError
            If there is no such regime; the message gives close matches.
        """
        text, sep = as_text(name).strip(), self.params.get("sep")
        hit = np.flatnonzero(self.names == text)
        if not hit.size:
            genes = {gene for some in self.targets for gene in some}  # their names may hold sep
            hit = np.flatnonzero(self.names == (sep or "").join(sorted(split_label(text, sep, genes))))
        if hit.size:
            return int(hit[0])
        msg = f"There is no regime {name!r}.{suggest(text, self.names)} The regimes are {shorten(list(self.names))}."
        raise KeyError(msg)


@dataclass
class Parsed:
    """Regimes, and what else was learnt on the way.

    `n_labelled` counts all cells of a regime, those left out included; `notes` are for warnings; `absent` are the
    targets that were not measured.
    """

    regimes: Regimes
    n_labelled: np.ndarray
    label_regime: dict[str, int]
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def report(self, logger: logging.Logger) -> None:
        """Log what was found, as a warning if targets were not measured."""
        tail = f"; targets not measured: {len(self.absent):,} ({shorten(self.absent)})" if self.absent else ""
        logger.log(logging.WARNING if self.absent else logging.INFO, "%r%s", self.regimes, tail)


def parse_labels(
    labels: Sequence[Any] | np.ndarray | pd.Series | pd.Categorical,
    var_names: Iterable[str],
    control: str | Sequence[str],
    *,
    sep: str | None = "+",
    gene_symbols: Iterable[Any] | None = None,
    targets: Any = None,
    min_cells: int = 2,
) -> Regimes:
    """Group cells by intervention, from plain labels. `causcade.pp.regimes` does this for an AnnData.

    Parameters
    ----------
    labels
        (n_cells,) perturbation of each cell: text, categories or integers.
    var_names
        (n_genes,) measured genes, unique.
    control
        The label, or labels, of control cells. A control part of a combination ("A+ctrl") is dropped.
    sep
        What joins the parts of a combination; None if labels are never combinations.
    gene_symbols
        (n_genes,) other names of the genes, looked up before `var_names`.
    targets
        Label or guide to gene(s): a dict, a Series (label in the index) or a DataFrame (label, gene). A label mapped
        to one name stands for it, so guides of one gene become one regime; a label mapped to a list keeps its own
        name and has those targets. An empty dict says that targets are unknown, and silences the warning about it.
    min_cells
        Regimes with fewer cells are listed, but their cells are left out (code -1).

    Returns
    -------
    The regimes, control first.

    Raises
    ------
    ValueError
        For missing labels, an absent control, no perturbation, a label that can be read in two ways, repeated
        `var_names`.
    """
    check_settings(sep, min_cells)
    parsed = parse(labels, Genes(var_names, gene_symbols), control, sep=sep, targets=targets, min_cells=min_cells)
    for note in parsed.notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return parsed.regimes


def check_settings(sep: object, min_cells: object) -> None:
    """Raise ValueError unless `sep` and `min_cells` make sense."""
    if sep is not None and (not isinstance(sep, str) or not sep.strip()):
        msg = f"sep must be non-blank text, or None if no label is a combination, got {sep!r}."
        raise ValueError(msg)
    if isinstance(min_cells, bool) or not isinstance(min_cells, (int, np.integer)) or min_cells < 1:
        msg = f"min_cells must be an integer of at least 1, got {min_cells!r}."
        raise ValueError(msg)


def parse(
    values: Any,
    genes: Genes,
    control: Any,
    *,
    sep: str | None,
    targets: Any,
    min_cells: int,
    var: pd.DataFrame | None = None,
    where: str = "labels",
) -> Parsed:
    """Do the work of `parse_labels`; `where` and `var` (for hints) make its messages say more."""
    codes, labels, counts = count_labels(values)
    if n_missing := int((codes < 0).sum()):
        msg = (
            f"{n_missing:,} of {len(codes):,} cells have no label in {where} (missing or empty). "
            "Drop them, or fill in the control label if they are controls."
        )
        raise ValueError(msg)
    notes = _note_whitespace(labels)
    reader = LabelReader(genes, as_labels(control), sep, as_mapping(targets))
    readings = {label: reader(label.strip()) for label in labels}
    _check_control(reader, readings, labels, counts, where)
    known = targets is not None or any(t in genes for r in readings.values() for t in r.targets)
    notes += _note_unmatched(readings, genes, targets, var, known=known)
    parsed = _assemble(codes, labels, counts, readings, reader, genes, min_cells, known=known)
    parsed.notes = notes + parsed.notes
    parsed.absent = sorted({t for ts in parsed.regimes.targets for t in ts if t not in genes})
    return parsed


def _note_whitespace(labels: list[str]) -> list[str]:
    spaced = [label for label in labels if label != label.strip()]
    return [f"{len(spaced):,} labels begin or end with spaces, ignored: {shorten(spaced)}."] if spaced else []


def _check_control(
    reader: LabelReader, readings: dict[str, Reading], labels: list[str], counts: np.ndarray, where: str
) -> None:
    absent = [c for c in reader.control if c not in reader.seen_control]
    has_cells = any(not r.parts for r in readings.values())
    if absent or not has_cells:
        wrong = absent or list(reader.control)
        msg = (
            f"No cell has the control label {shorten(wrong)} in {where}.{suggest(wrong[0], labels)} "
            f"The labels are {control_like(labels, counts)}. Pass control= one or several of them."
        )
        raise ValueError(msg)
    if not any(r.parts for r in readings.values()):
        msg = f"All {int(counts.sum()):,} cells in {where} are controls ({shorten(labels)}): there is no perturbation."
        raise ValueError(msg)


def _note_unmatched(
    readings: dict[str, Reading], genes: Genes, targets: Any, var: pd.DataFrame | None, *, known: bool
) -> list[str]:
    unmatched = list(dict.fromkeys(part for r in readings.values() for part in r.unmatched))
    if not known:
        why = explain_mismatch(unmatched, genes, var)
        return [
            f"None of the {len(unmatched):,} perturbations ({shorten(unmatched)}) is among the {len(genes.names):,} "
            f"var_names ({shorten(genes.names, 3)}), so their targets are taken as unknown"
            + (f": {why}." if why else ". Pass targets={} if that is so.")
        ]
    if targets is not None and len(targets) and unmatched:
        why = explain_mismatch(unmatched, genes, None)
        close = suggest(unmatched[0], as_mapping(targets) or ())
        return [
            f"{len(unmatched):,} labels are neither in targets= nor a measured gene; their targets are taken as "
            f"unknown: {shorten(unmatched)}.{close}" + (f" {why}." if why else "")
        ]
    wanted = sorted({t for r in readings.values() for t in r.targets})
    guides = [w for w in wanted if guide_gene(w, genes)]
    if guides or (wanted and not any(w in genes for w in wanted)):
        missing = guides or wanted
        why = explain_mismatch(missing, genes, var)
        return [f"{len(missing):,} targets are not among var_names: {shorten(missing)}" + (f": {why}." if why else ".")]
    return []


def _assemble(
    codes: np.ndarray,
    labels: list[str],
    counts: np.ndarray,
    readings: dict[str, Reading],
    reader: LabelReader,
    genes: Genes,
    min_cells: int,
    *,
    known: bool,
) -> Parsed:
    joint = reader.sep or "+"
    targets_of: dict[tuple[str, ...], set[str]] = {}
    for reading in readings.values():
        targets_of.setdefault(reading.parts, set()).update(reading.targets if known else ())
    keys = sorted(targets_of, key=lambda parts: (len(parts) > 0, joint.join(parts)))  # the control has no parts
    place = {parts: i for i, parts in enumerate(keys)}
    label_regime = {label: place[readings[label].parts] for label in labels}
    regime = np.array([label_regime[label] for label in labels], dtype=np.int64)
    n_labelled = np.bincount(regime, weights=counts, minlength=len(keys)).astype(np.int64)
    names = np.array([reader.control[0], *(joint.join(parts) for parts in keys[1:])], dtype=object)
    targets = tuple(tuple(sorted(targets_of[parts])) for parts in keys)
    new_codes, notes = _leave_out(regime[codes], n_labelled, names, min_cells)
    regimes = Regimes(
        names=names,
        targets=targets,
        target_index=tuple(genes.positions(t) for t in targets),
        kind=np.array(["control", *(_kind(t) for t in targets[1:])], dtype=object),
        codes=new_codes,
        params={"control": np.array(reader.control, dtype=object), "sep": reader.sep, "min_cells": int(min_cells)},
    )
    return Parsed(regimes, n_labelled, label_regime, notes)


def _kind(targets: Sequence[str]) -> str:
    return "unknown" if not targets else "single" if len(targets) == 1 else "combination"


def _leave_out(
    codes: np.ndarray, n_labelled: np.ndarray, names: np.ndarray, min_cells: int
) -> tuple[np.ndarray, list[str]]:
    if n_labelled[0] < min_cells:
        msg = f"Only {n_labelled[0]:,} control cells; at least min_cells={min_cells:,} are needed."
        raise ValueError(msg)
    few = np.flatnonzero(n_labelled < min_cells)
    if len(few) == len(names) - 1:
        msg = f"None of the {len(few):,} perturbations has min_cells={min_cells:,} cells: {shorten(list(names[1:]))}."
        raise ValueError(msg)
    if not len(few):
        return codes, []
    note = (
        f"{len(few):,} perturbations have fewer than min_cells={min_cells:,} cells and are left out: "
        f"{shorten(list(names[few]))}."
    )
    return np.where(np.isin(codes, few), -1, codes), [note]
