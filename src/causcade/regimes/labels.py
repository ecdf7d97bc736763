"""Perturbation labels to target genes: plain text in, plain text out.

A label is one perturbation ("MYC"), several joined by `sep` ("KLF1+MAP2K6"), or a control. Nothing here
knows about AnnData; `causcade.regimes` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

_MISSING = {"", "nan", "NaN", "<NA>"}
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}")
_GUIDE = re.compile(r"[_\-.|:]")
_CONTROL = re.compile(r"control|ctrl|ctl|non.?target|^nt|ntc|neg|wild|^wt$|scram|safe|vehicle|dmso|healthy|mock", re.I)
_MAX_TOKENS = 10  # beyond this, joined names are not searched for genes that hold the separator


def as_text(value: Any) -> str:
    """One label as text: ``1`` and ``1.0`` are both "1"; missing values are ""."""
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return ""
        return str(int(value)) if float(value).is_integer() else str(value)
    return value.decode() if isinstance(value, bytes) else str(value)


def as_labels(control: Any) -> tuple[str, ...]:
    """One label or several, as a tuple of stripped text without repeats."""
    many = control if isinstance(control, (list, tuple, set, frozenset, np.ndarray, pd.Series, pd.Index)) else [control]
    return tuple(dict.fromkeys(as_text(c).strip() for c in many))


def close_matches(name: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` of `options` that look like `name`; those that differ only in case come first."""
    pool = list(dict.fromkeys(map(str, options)))
    folded = name.casefold()
    same = [o for o in pool if o.casefold() == folded][:n]
    if len(same) == n:
        return same
    near = [o for o in pool if abs(len(o) - len(name)) <= 3 and o not in same]
    lower: dict[str, str] = {}
    for option in near:
        lower.setdefault(option.casefold(), option)
    return same + [lower[m] for m in difflib.get_close_matches(folded, list(lower), n=n - len(same), cutoff=0.7)]


def shorten(names: Sequence[str], n: int = 5) -> str:
    """Return 'A', 'B', 'C' and 12 more."""
    shown = ", ".join(repr(str(name)) for name in names[:n])
    return shown if len(names) <= n else f"{shown} and {len(names) - n:,} more"


def suggest(name: str, options: Iterable[str]) -> str:
    """Return the words " Close matches: ..." or nothing."""
    found = close_matches(name, options)
    return f" Close to {name!r}: {shorten(found)}." if found else ""


def count_labels(values: Any) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Distinct labels of a column.

    Returns
    -------
    codes, labels, counts
        `codes` (n_cells,) point into `labels`, -1 where missing; `counts` (n_labels,) cells. Labels are
        text as written, spaces included.
    """
    values = values if isinstance(values, (pd.Series, pd.Categorical, pd.Index)) else pd.Series(np.asarray(values))
    raw_codes, unique = pd.factorize(values)
    texts = [as_text(u) for u in unique]
    labels = list(dict.fromkeys(t for t in texts if t.strip() not in _MISSING))
    place = {t: i for i, t in enumerate(labels)}
    lookup = np.array([*(place.get(t, -1) for t in texts), -1], dtype=np.int64)
    codes = lookup[raw_codes]  # a missing value has code -1 and falls on the last entry
    return codes, labels, np.bincount(codes[codes >= 0], minlength=len(labels))


class Genes:
    """Where a gene name lies among the measured genes.

    Parameters
    ----------
    var_names
        (n_genes,) unique names.
    gene_symbols
        (n_genes,) other names, looked up first. May repeat and have gaps; a repeated one cannot be a target.
    """

    def __init__(self, var_names: Iterable[Any], gene_symbols: Iterable[Any] | None = None) -> None:
        names = [str(v) for v in var_names]
        self.names = names
        self._place = {name: i for i, name in enumerate(names)}
        if len(self._place) != len(names):
            seen = pd.Index(names)
            double = list(dict.fromkeys(seen[seen.duplicated()]))
            msg = (
                f"{len(double):,} var_names occur more than once: {shorten(double)}. "
                "Make them unique first, e.g. with adata.var_names_make_unique()."
            )
            raise ValueError(msg)
        self._repeated: set[str] = set()
        if gene_symbols is not None:
            self._add_symbols(gene_symbols)

    def _add_symbols(self, gene_symbols: Iterable[Any]) -> None:
        symbols: dict[str, int] = {}
        for i, value in enumerate(gene_symbols):
            text = as_text(value).strip()
            if text in _MISSING:
                continue
            if text in symbols:
                self._repeated.add(text)
            symbols[text] = i
        self._place |= symbols

    def __contains__(self, name: str) -> bool:
        """Whether a gene was measured."""
        return name in self._place

    def __iter__(self) -> Iterator[str]:
        """All names that a target may have."""
        return iter(self._place)

    def position(self, name: str) -> int | None:
        """Position of a gene in var_names, None if it was not measured."""
        if name in self._repeated:
            msg = (
                f"The target {name!r} names several genes in the gene_symbols column. "
                "Merge or rename those rows, or label this perturbation by its var_name."
            )
            raise ValueError(msg)
        return self._place.get(name)

    def positions(self, names: Iterable[str]) -> np.ndarray:
        """Sorted positions of those of `names` that were measured, (n,) int64."""
        found = {p for p in map(self.position, names) if p is not None}
        return np.array(sorted(found), dtype=np.int64)


def as_mapping(targets: Any) -> dict[str, str | tuple[str, ...]] | None:
    """Bring `targets` into one form: label to a gene (stands for it) or to a tuple of genes (keeps its name)."""
    if targets is None:
        return None
    if isinstance(targets, pd.DataFrame):
        if targets.shape[1] not in (1, 2):
            msg = f"targets as a DataFrame needs two columns, label and gene; it has {list(targets.columns)}."
            raise ValueError(msg)
        label = targets.index if targets.shape[1] == 1 else targets.iloc[:, 0]
        targets = pd.Series(targets.iloc[:, -1].to_numpy(), index=pd.Index(label))
    if isinstance(targets, pd.Series):
        pairs: dict[str, list[Any]] = {}
        for label, gene in targets.items():
            pairs.setdefault(as_text(label).strip(), []).append(gene)
        targets = {label: genes[0] if len(genes) == 1 else genes for label, genes in pairs.items()}
    if not isinstance(targets, Mapping):
        msg = f"targets must be a dict, Series or DataFrame from label to gene(s), not {type(targets).__name__}."
        raise ValueError(msg)
    return {as_text(label).strip(): _genes_of(genes) for label, genes in targets.items()}


def _genes_of(genes: Any) -> str | tuple[str, ...]:
    if isinstance(genes, (list, tuple, set, frozenset, np.ndarray, pd.Series, pd.Index)):
        texts = (as_text(g).strip() for g in (sorted(genes) if isinstance(genes, (set, frozenset)) else genes))
        return tuple(dict.fromkeys(t for t in texts if t not in _MISSING))
    text = as_text(genes).strip()
    return () if text in _MISSING else text


@dataclass(frozen=True)
class Reading:
    """What one label says: the perturbations it joins (none: control), their targets, and parts nobody knows."""

    parts: tuple[str, ...]
    targets: tuple[str, ...]
    unmatched: tuple[str, ...] = ()


@dataclass
class LabelReader:
    """Reads labels, given the measured genes, the control labels, the separator and the label-to-gene mapping."""

    genes: Genes
    control: tuple[str, ...]
    sep: str | None = "+"
    mapping: Mapping[str, str | tuple[str, ...]] | None = None
    seen_control: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Find the names that hold the separator; most screens have none, and then splitting is plain."""
        known = {*self.genes, *self.control, *(self.mapping or ())}
        self._joined = {k for k in known if self.sep and self.sep in k}

    def __call__(self, label: str) -> Reading:
        """Read one stripped label.

        Raises
        ------
        ValueError
            If the label can be read in two ways because a gene name holds `sep`.
        """
        pieces: dict[str, tuple[str, ...] | None] = {}
        for part in self.split(label):
            value = (self.mapping or {}).get(part) if part not in self.control else part
            if isinstance(value, str):  # the part stands for what it is mapped to, itself perhaps a combination
                pieces |= {p: (p,) for p in self.split(value)}
            else:
                pieces[part] = value
        return self._resolve(pieces)

    def _resolve(self, pieces: dict[str, tuple[str, ...] | None]) -> Reading:
        targets: set[str] = set()
        unmatched = []
        self.seen_control |= pieces.keys() & set(self.control)
        parts = tuple(sorted(pieces.keys() - set(self.control)))
        for part in parts:
            listed = pieces[part]
            if listed is not None:
                targets.update(listed)
                continue
            if part not in self.genes:
                unmatched.append(part)
                if self.mapping is not None:  # with a mapping, a label outside it is no gene name
                    continue
            targets.add(part)
        return Reading(parts, tuple(sorted(targets)), tuple(unmatched))

    def split(self, label: str) -> list[str]:
        """Parts of a label; a gene name that holds `sep` stays whole."""
        if not self.sep or self.sep not in label or label in self.control or label in (self.mapping or ()):
            return [label]
        tokens = label.split(self.sep)
        if self._joined and len(tokens) <= _MAX_TOKENS:
            ways = self._ways(tokens)
            least = min(cost for cost, _ in ways)
            best = [way for cost, way in ways if cost == least]
            if len(best) > 1:
                told = " or ".join("[" + ", ".join(map(repr, way)) + "]" for way in best[:3])
                msg = (
                    f"The label {label!r} can be read as {told}, because a gene name holds sep={self.sep!r}. "
                    "Pass another sep=, sep=None if no label is a combination, or targets= to say what it means."
                )
                raise ValueError(msg)
            tokens = best[0]
        parts = [t.strip() for t in tokens]
        return parts if all(parts) else [label]  # "CD4+" is one name, not CD4 and nothing

    def _ways(self, tokens: list[str]) -> list[tuple[int, list[str]]]:
        """Every way to join neighbouring tokens into known names, with the number of tokens left unknown."""
        if not tokens:
            return [(0, [])]
        ways = []
        for n in range(1, len(tokens) + 1):
            name = str(self.sep).join(tokens[:n]).strip()
            known = name in self._joined if n > 1 else name in self.genes or name in self.control
            known = known or name in (self.mapping or {})
            if n == 1 or known:
                ways += [(cost + (not known), [name, *rest]) for cost, rest in self._ways(tokens[n:])]
        return ways


def split_label(label: str, sep: str | None, known: Iterable[str] = ()) -> tuple[str, ...]:
    """Parts of the name of a combination; one of the `known` names that holds `sep` stays whole, and so does "CD4+".

    Raises
    ------
    ValueError
        If it can be read in two ways.
    """
    label = label.strip()
    if not sep or sep not in label:  # most labels, and `known` may be all genes
        return (label,)
    inside = dict.fromkeys(name for name in known if name in label)
    return tuple(LabelReader(Genes(inside), (), sep).split(label))


def control_like(labels: Sequence[str], counts: Sequence[int] | np.ndarray, n: int = 5) -> str:
    """Labels with their numbers of cells, those that look like controls first."""
    order = sorted(range(len(labels)), key=lambda i: (not _CONTROL.search(labels[i]), -int(counts[i])))
    shown = ", ".join(f"{labels[i]!r} ({int(counts[i]):,} cells)" for i in order[:n])
    return shown if len(labels) <= n else f"{shown} and {len(labels) - n:,} more"


def explain_mismatch(wanted: Sequence[str], genes: Genes, var: pd.DataFrame | None) -> str:
    """Why targets may not be among the measured genes, and what to pass instead."""
    notes = []
    if sum(bool(_ENSEMBL.match(g)) for g in genes.names[:200]) > min(len(genes.names), 200) / 2:
        notes.append("var_names look like Ensembl ids")
    elif wanted and all(_ENSEMBL.match(w) for w in wanted):
        notes.append("the labels look like Ensembl ids")
    for column, values in () if var is None else var.items():
        overlap = set(wanted) & {as_text(v) for v in values.unique()}
        if overlap:
            notes.append(
                f"{len(overlap):,} of {len(wanted):,} are in .var[{column!r}]: pass gene_symbols={str(column)!r}"
            )
    guides = [(w, g) for w in wanted for g in [guide_gene(w, genes)] if g]
    if guides:
        notes.append(
            f"{len(guides):,} look like guides (such as {guides[0][0]!r} for {guides[0][1]!r}): pass targets= "
            "to map guides to genes"
        )
    close = [f"{w!r} is close to {shorten(m)}" for w in wanted[:3] if (m := close_matches(w, genes))]
    return "; ".join([*notes, *close])


def guide_gene(label: str, genes: Genes) -> str | None:
    """Return the gene that a guide's name seems to start with ("sgMYC_2": MYC), if it was measured."""
    if label in genes:
        return None
    stem = _GUIDE.split(label)[0]
    options = [stem, *(stem[len(p) :] for p in ("sg", "gRNA", "g") if stem.startswith(p))]
    return next((o for o in options if o != label and o in genes), None)
