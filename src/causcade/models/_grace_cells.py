"""What GraCE-VAE reads of a screen: which perturbations there are, which cells they were in, and how they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from causcade.gracefit import PairedCells
from causcade.regimes.labels import as_text, shorten, split_label, suggest

if TYPE_CHECKING:
    from causcade.regimes import Regimes
    from causcade.screendata import ScreenData

__all__ = ["ask", "paired_cells", "parts_of_regimes", "regime_means", "targets_of"]

_DENSE = 300_000_000  # values that are held as an array (1.2 GB); more of them are held as CSR


def parts_of_regimes(regimes: Regimes) -> list[tuple[str, ...]]:
    """Perturbations that each regime joins, in alphabetical order; none for control."""
    sep = regimes.params.get("sep")
    out: list[tuple[str, ...]] = []
    for name, targets, kind in zip(regimes.names, regimes.targets, regimes.kind, strict=True):
        pieces = [p.strip() for p in str(name).split(sep)] if sep else [str(name)]
        if kind == "control":
            out.append(())
        elif kind == "single" or not all(pieces):
            out.append((str(name),))
        elif sep and sep.join(sorted(targets)) == name:  # names of genes may hold sep
            out.append(tuple(sorted(targets)))
        else:
            out.append(tuple(sorted(set(pieces))))
    return out


def targets_of(perturbations: Sequence[str], regimes: Regimes, var_names: Sequence[str]) -> list[int]:
    """Position of the gene that each perturbation acts on; -1 where it is not measured, or there are several."""
    place = {str(name): i for i, name in enumerate(var_names)}
    known = {
        str(name): int(index[0]) if len(index) == 1 else -1
        for name, index in zip(regimes.names, regimes.target_index, strict=True)
    }
    return [known.get(p, place.get(p, -1)) for p in perturbations]


def paired_cells(
    screen: ScreenData,
    regimes: Regimes,
    perturbations: Sequence[str],
    embedding: NDArray[np.float32] | None,
    *,
    combinations: bool,
) -> PairedCells:
    """Cells for a fit, in memory.

    Parameters
    ----------
    screen, regimes
        The data.
    perturbations
        Names, in the order of their numbers.
    embedding
        ``(n_cells, n_embedding)``, or None.
    combinations
        Learn from combinations too.
    """
    number = {name: i for i, name in enumerate(perturbations)}
    parts = tuple(tuple(number[p] for p in some) for some in parts_of_regimes(regimes))
    left_out = np.array([len(some) > 1 and not combinations for some in parts])
    codes = np.where((regimes.codes >= 0) & ~left_out[regimes.codes], regimes.codes, -1).astype(np.int64)
    blocks = [y.numpy() for _, y in screen.blocks()]
    if sum(b.size for b in blocks) <= _DENSE:
        values: Any = np.concatenate(blocks)
    else:
        values = sparse.csr_array(sparse.vstack([sparse.csr_array(b) for b in blocks], format="csr"))
    return PairedCells(values, codes, parts, len(perturbations), embedding)


def regime_means(screen: ScreenData, codes: NDArray[np.int64], n_regimes: int) -> NDArray[np.float64]:
    """``(n_regimes, n_genes)`` mean of the cells of each; NaN where there are none."""
    total = np.zeros((n_regimes, screen.n_genes))
    for start, y in screen.blocks():
        code = codes[start : start + len(y)]
        used = np.flatnonzero(code >= 0)
        shape = (n_regimes, len(y))
        total += sparse.csr_array((np.ones(len(used)), (code[used], used)), shape=shape) @ y.numpy().astype(np.float64)
    count = np.bincount(codes[codes >= 0], minlength=n_regimes)[:, None].astype(np.float64)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def ask(combinations: Any, perturbations: Sequence[str], regimes: Regimes) -> list[tuple[str, ...]]:
    """Combinations of a question, each as sorted names; none for control.

    Raises
    ------
    KeyError
        If a perturbation was not in the data of the model.
    ValueError
        If nothing is asked for, or a perturbation is named twice in a combination.
    """
    sep, control = regimes.params.get("sep"), set(map(str, np.atleast_1d(regimes.params["control"])))
    known = dict(zip(map(str, regimes.names), parts_of_regimes(regimes), strict=True))
    one_thing = isinstance(combinations, str | tuple) or not isinstance(combinations, Iterable)
    several: list[Any] = [combinations] if one_thing else list(combinations)
    several = [c if isinstance(c, Iterable) else as_text(c) for c in several]  # labels may be numbers
    plain = all(isinstance(c, str) and (c in perturbations or c in control or not sep or sep not in c) for c in several)
    if plain and not one_thing:
        several = [several]  # a list of single names is one combination
    out = []
    for one in several:
        names = [as_text(p) for p in one] if not isinstance(one, str) else _split(one, known, perturbations, sep)
        out.append(_check([n for n in names if n not in control], names, perturbations))
    return out


def _split(one: str, known: dict[str, tuple[str, ...]], perturbations: Sequence[str], sep: str | None) -> list[str]:
    if one in perturbations:
        return [one]
    return list(known.get(one, ()) or split_label(one, sep, perturbations))


def _check(names: list[str], given: list[str], perturbations: Sequence[str]) -> tuple[str, ...]:
    if not given or len(set(names)) < len(names):
        msg = f"A combination needs different perturbations, at least one (or the control); got {given}."
        raise ValueError(msg)
    if absent := [n for n in names if n not in perturbations]:
        msg = (
            f"{shorten(absent)} was not among the perturbations of the model, which knows nothing of its effect."
            f"{suggest(absent[0], perturbations)} It has {shorten(list(perturbations))}."
        )
        raise KeyError(msg)
    return tuple(sorted(names))
