"""Scores of target rankings: which gene a perturbation acted on. Arrays are (n_genes, n_perturbations)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from causcade.metrics._ranking import Bools, Floats, as_scores, mean, rank_list

_KS = (1, 5, 20)


def target_rank(scores: ArrayLike, target: int, candidates: ArrayLike | None = None) -> float:
    """Place of the known target in the ranking: 1 at the top, ``1 / n`` at the bottom, 0.5 by chance.

    That is ``1 - position / n`` with the position counted from 0 among ``n`` candidates. Genes tied with the target
    count as above it, so that a constant score gets the worst rank, not the middle one.

    Parameters
    ----------
    scores
        (n_genes,); higher means more likely the target. NaN comes last.
    target
        Position of the target among the genes.
    candidates
        (n_genes,) bool, or positions. All genes by default.

    Returns
    -------
    Between 0 (exclusive) and 1.

    Raises
    ------
    ValueError
        If ``scores`` is not 1-D, or the target is not among the candidates.
    """
    values = _nan_last(scores)
    if values.ndim != 1:
        msg = f"scores have shape {values.shape}; they must be 1-D, one number per gene"
        raise ValueError(msg)
    keep = _candidates(candidates, values.size)
    if not 0 <= target < values.size or not keep[target]:
        msg = f"target {target} is not among the {int(keep.sum())} candidates of {values.size} genes"
        raise ValueError(msg)
    return 1 - _position(values, keep, target) / int(keep.sum())


def recall_at(positions: ArrayLike, ks: Sequence[int] = _KS) -> dict[int, float]:
    """Share of targets among the first k.

    Parameters
    ----------
    positions
        Position of each target in its ranking, from 0.
    ks
        Lengths of the list, at least 1.

    Returns
    -------
    k -> share, in the order given; NaN without a target.

    Raises
    ------
    ValueError
        If a position is negative or NaN, or a k is below 1.
    """
    places = np.asarray(positions, dtype=np.float64).ravel()
    if not (places >= 0).all() or any(k < 1 for k in ks):
        msg = f"positions must be 0 or more (0 is the top) and ks={list(ks)} at least 1"
        raise ValueError(msg)
    return {int(k): mean((places < k).astype(np.float64)) for k in ks}


def recall_curve(ranks: ArrayLike, grid: ArrayLike) -> Floats:
    """Share of targets within each top fraction of the candidates. The area under it is the mean rank.

    Parameters
    ----------
    ranks
        Ranks of targets, as from :func:`target_rank`.
    grid
        Fractions between 0 and 1.

    Returns
    -------
    (n_grid,) shares: 0 at fraction 0, 1 at fraction 1.

    Raises
    ------
    ValueError
        Without a rank, or if a rank or a fraction lies outside 0 to 1.
    """
    values, top = np.asarray(ranks, dtype=np.float64).ravel(), np.asarray(grid, dtype=np.float64)
    for name, array in {"ranks": values, "grid": top}.items():
        if array.size == 0 or not ((array >= 0) & (array <= 1)).all():
            msg = f"{name} must hold at least one number, all between 0 and 1"
            raise ValueError(msg)
    # A target at position i of n is inside fraction p if i / n < p; the margin absorbs rounding of 1 - rank.
    reached = np.searchsorted(np.sort(1 - values), top - 1e-9, side="left")
    return np.asarray(reached / values.size, dtype=np.float64)


def target_report(
    scores: ArrayLike,
    targets: Sequence[ArrayLike],
    *,
    lfc: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
) -> dict[str, float]:
    """Everything a sceptic asks of target scores, as fractions (not percent).

    Parameters
    ----------
    scores
        (n_genes, n_perturbations); higher means more likely acted on. NaN comes last among the candidates, so a
        method gains nothing by leaving a gene unscored. To score only what was scored, pass
        ``candidates=~np.isnan(scores)``.
    targets
        One array of gene positions per perturbation. Perturbations with none among the candidates are skipped.
    lfc
        (n_genes, n_perturbations) log-fold changes; adds the split into trivial perturbations (a target has the
        largest absolute change among the candidates; NaN counts as none) and the others.
    candidates
        (n_genes,) bool or positions, or (n_genes, n_perturbations) bool. All genes by default.

    Returns
    -------
    ``auroc``, ``ap``
        Over the candidates of a perturbation, then averaged over perturbations; ``prevalence`` is what chance gives
        in ``ap``. Perturbations whose candidates are all targets have neither.
    ``rank``, ``recall@1``, ``recall@5``, ``recall@20``
        :func:`target_rank` and :func:`recall_at`, averaged over all targets among the candidates.
    ``n``, ``n_targets``, ``n_skipped``, ``n_targets_lost``
        Perturbations and targets scored; perturbations skipped; targets that were no candidates.
    ``auroc_trivial``, ``auroc_nontrivial``, ``n_trivial``, ...
        The same for the two parts, with ``lfc``; NaN for an empty part.

    Raises
    ------
    ValueError
        If shapes do not fit or a target is not a position of a gene.
    """
    values = _nan_last(scores)
    if values.ndim != 2 or len(targets) != values.shape[1]:
        msg = f"scores {values.shape} must be (n_genes, n_perturbations) with one of {len(targets)} targets per column"
        raise ValueError(msg)
    change = None if lfc is None else np.nan_to_num(np.abs(np.asarray(lfc, dtype=np.float64)), nan=-1.0)
    if change is not None and change.shape != values.shape:
        msg = f"lfc has shape {change.shape}, scores have {values.shape}"
        raise ValueError(msg)
    scored, trivial, lost = [], [], 0
    for j, acted_on in enumerate(targets):
        every = _positions(acted_on, len(values), j)
        keep = _column(candidates, values.shape, j)
        known = every[keep[every]]
        lost += every.size - known.size
        if known.size:
            scored.append(_score(values[:, j], known, keep))
            trivial.append(change is not None and bool(change[known, j].max() >= change[keep, j].max()))
    out = _summary(scored, "")
    out |= {"n_skipped": len(targets) - len(scored), "n_targets_lost": lost}
    if change is not None:
        out |= _summary([s for s, easy in zip(scored, trivial, strict=True) if easy], "_trivial")
        out |= _summary([s for s, easy in zip(scored, trivial, strict=True) if not easy], "_nontrivial")
    return out


class _Scored(NamedTuple):
    """One perturbation; ranks and positions have one entry per target."""

    auroc: float
    ap: float
    prevalence: float
    ranks: list[float]
    positions: list[int]


def _score(values: Floats, known: NDArray[np.intp], keep: Bools) -> _Scored:
    labels = np.zeros(values.size, bool)
    labels[known] = True
    n = int(keep.sum())
    auroc, ap, _ = rank_list(labels[keep], values[keep])
    positions = [_position(values, keep, int(t)) for t in known]
    return _Scored(auroc, ap, known.size / n, [1 - p / n for p in positions], positions)


def _summary(scored: Sequence[_Scored], suffix: str) -> dict[str, float]:
    positions = [p for s in scored for p in s.positions]
    ranks = [r for s in scored for r in s.ranks]
    out = {name: mean(np.array([getattr(s, name) for s in scored])) for name in ("auroc", "ap", "prevalence")}
    out["rank"] = mean(np.array(ranks))
    out |= {f"recall@{k}": share for k, share in recall_at(positions).items()}
    out |= {"n": len(scored), "n_targets": len(positions)}
    return {f"{name}{suffix}": value for name, value in out.items()}


def _position(values: Floats, keep: Bools, target: int) -> int:
    return int(np.count_nonzero(values[keep] >= values[target])) - 1


def _nan_last(scores: ArrayLike) -> Floats:
    values = as_scores(scores)
    return np.where(np.isnan(values), -np.inf, values)


def _candidates(candidates: ArrayLike | None, n: int) -> Bools:
    if candidates is None:
        return np.ones(n, bool)
    given = np.asarray(candidates)
    if given.dtype != bool:
        keep = np.zeros(n, bool)
        keep[_positions(given, n, None)] = True
        return keep
    if given.shape != (n,):
        msg = f"candidates have shape {given.shape}; a bool array must be ({n},), one entry per gene"
        raise ValueError(msg)
    return given


def _column(candidates: ArrayLike | None, shape: tuple[int, ...], j: int) -> Bools:
    if candidates is None or np.ndim(candidates) < 2:
        return _candidates(candidates, shape[0])
    table = np.asarray(candidates)
    if table.shape != shape or table.dtype != bool:
        msg = f"candidates are {table.dtype} {table.shape}; a table must be bool, of the shape of scores {shape}"
        raise ValueError(msg)
    return table[:, j]


def _positions(genes: ArrayLike, n: int, perturbation: int | None) -> NDArray[np.intp]:
    given = np.unique(np.asarray(genes))
    whole = given.size == 0 or np.issubdtype(given.dtype, np.integer)
    if not whole or (given.size and (given[0] < 0 or given[-1] >= n)):
        what = "candidates" if perturbation is None else f"targets of perturbation {perturbation}"
        msg = f"{what} must be integer positions between 0 and {n - 1}, got {given[:5].tolist()}"
        raise ValueError(msg)
    return given.astype(np.intp)
