"""Nulls: what the scores look like when nothing is there, and the p values and false-discovery rates from it.

Two ways to make a screen without effects: :func:`permute_codes` hands the labels to other cells,
:func:`control_split` pretends that some control cells were perturbed. Score such screens exactly as the real
one, then compare with :func:`pooled_pvalues` or :func:`empirical_fdr`. Pair arrays are ``[cause, effect]``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "benjamini_hochberg",
    "control_split",
    "empirical_fdr",
    "empirical_pvalues",
    "permute_codes",
    "pooled_pvalues",
]

Floats = NDArray[np.float64]


def permute_codes(
    codes: ArrayLike, *, groups: ArrayLike | None = None, rng: int | np.random.Generator | None = None
) -> NDArray[np.integer]:
    """Hand the regime labels to other cells.

    Parameters
    ----------
    codes
        (n_cells,) int; regime of every cell, 0 = control, -1 = left out (stays so).
    groups
        (n_cells,) labels, such as batch or cell type; cells swap labels only within a group. Without it, an effect
        of the batch on both label and expression would look like an effect of the perturbation.
    rng
        Draws the permutation.

    Returns
    -------
    (n_cells,) new codes; every regime keeps its number of cells in every group.

    Raises
    ------
    ValueError
        If codes are not a 1-D array of integers, or groups differ in length or hold missing values.
    """
    old = _as_codes(codes)
    labels = np.zeros(old.size, np.intp) if groups is None else _as_groups(groups, old.size)
    used = np.flatnonzero(old >= 0)
    gen = np.random.default_rng(rng)
    taker = np.argsort(labels[used], kind="stable")
    giver = np.lexsort((gen.random(used.size), labels[used]))
    new = old.copy()
    new[used[taker]] = old[used[giver]]
    return new


def control_split(
    codes: ArrayLike, rng: int | np.random.Generator | None = None, *, control_fraction: float = 0.5
) -> NDArray[np.integer]:
    """Pretend that some control cells were perturbed: control against control.

    Regimes are taken in random order and each that still fits gets as many control cells as it really has.
    With few controls only some regimes fit; different draws pick different ones.

    Parameters
    ----------
    codes
        (n_cells,) int; regime of every cell, 0 = control, -1 = left out.
    rng
        Draws the order of the regimes and their cells.
    control_fraction
        Share of the control cells (strictly between 0 and 1) that stay control at least.

    Returns
    -------
    (n_cells,) new codes: control cells are 0 or a pretended regime, all other cells -1.

    Raises
    ------
    ValueError
        If codes are not a 1-D array of integers, there is no perturbed regime, or not even the smallest one fits.
    """
    old = _as_codes(codes)
    if not 0 < control_fraction < 1:
        msg = f"control_fraction={control_fraction} is not between 0 and 1"
        raise ValueError(msg)
    gen = np.random.default_rng(rng)
    control = gen.permutation(np.flatnonzero(old == 0))
    room = control.size - int(np.ceil(control_fraction * control.size))
    regimes, sizes = np.unique(old[old > 0], return_counts=True)
    if not regimes.size or sizes.min() > room:
        need = f"the smallest of {regimes.size} regimes has {sizes.min()} cells" if regimes.size else "no regime"
        msg = f"{room} of {control.size} control cells may be split off, {need}; lower control_fraction or add cells"
        raise ValueError(msg)
    new = np.full_like(old, -1)
    new[control] = 0
    start = 0
    for r in gen.permutation(regimes.size):
        if start + sizes[r] <= room:
            new[control[start : start + sizes[r]]] = regimes[r]
            start += int(sizes[r])
    return new


def empirical_pvalues(observed: ArrayLike, null: ArrayLike) -> Floats:
    """Compute the p value of each number against its own null draws: (1 + draws at least as high) / (1 + draws).

    Parameters
    ----------
    observed
        Any shape; higher is more extreme.
    null
        The draws along a first axis, before the axes of `observed`.

    Returns
    -------
    Shape of ``observed``; never below 1 / (1 + n_draws).

    Raises
    ------
    ValueError
        If shapes do not match, there is no draw, or a value is NaN.
    """
    values, draws = _checked(observed, null, None)
    return (1 + (draws >= values).sum(axis=0)) / (1 + len(draws))


def pooled_pvalues(
    observed: ArrayLike,
    null: ArrayLike,
    *,
    pool: Literal["effect", "pair", "all"] = "effect",
    keep: ArrayLike | None = None,
) -> Floats:
    """Empirical p values whose null draws are shared between pairs, so that few draws give small p values.

    Parameters
    ----------
    observed
        (n_causes, n_effects), ``[cause, effect]``; higher is more extreme.
    null
        (n_draws, n_causes, n_effects).
    pool
        Whose draws a pair is compared with: all causes of the same ``"effect"``, only its own (``"pair"``), or
        ``"all"`` pairs. Pooling is right only if the pooled scores have one null distribution; a cause with fewer
        cells or an effect with heavier tails breaks that, so standardise scores first or use ``"pair"``.
    keep
        (n_causes, n_effects) bool; pairs to use. The others (a gene with itself) stay out of the pool and get NaN.

    Returns
    -------
    (n_causes, n_effects) p values.

    Raises
    ------
    ValueError
        If shapes do not match, there is no draw, a kept value is NaN, or ``pool`` is unknown.
    """
    values, draws, used = _checked_pairs(observed, null, keep)
    out = np.full(values.shape, np.nan)
    if pool == "pair":
        counts = 1 + (draws >= values).sum(axis=0)
        out[used] = counts[used] / (1 + len(draws))
        return out
    for part in _pools(pool, used):
        pooled = np.sort(draws[:, part[0], part[1]], axis=None)
        above = pooled.size - np.searchsorted(pooled, values[part], side="left")
        out[part] = (1 + above) / (1 + pooled.size)
    return out


def empirical_fdr(
    observed: ArrayLike,
    null: ArrayLike,
    *,
    pool: Literal["effect", "all"] = "effect",
    keep: ArrayLike | None = None,
) -> Floats:
    """False-discovery rate of each pair, straight from the counts.

    At a threshold, the estimate is the number of pairs a null screen puts at or above it (mean over draws, one
    added to the total so that no finite number of draws claims certainty) over the number the real screen puts
    there. A pair gets the lowest estimate among the thresholds that include it, so the rate falls as the
    score rises. No share of true nulls is estimated, which errs towards too high a rate.

    Parameters
    ----------
    observed, null, keep
        As in :func:`pooled_pvalues`.
    pool
        Count within each ``"effect"`` or over ``"all"`` pairs.

    Returns
    -------
    (n_causes, n_effects) between 0 and 1; NaN outside ``keep``.

    Raises
    ------
    ValueError
        As in :func:`pooled_pvalues`.
    """
    values, draws, used = _checked_pairs(observed, null, keep)
    out = np.full(values.shape, np.nan)
    for part in _pools(pool, used):
        pooled = np.sort(draws[:, part[0], part[1]], axis=None)
        real = np.sort(values[part])
        expected = (1 + pooled.size - np.searchsorted(pooled, real, side="left")) / len(draws)
        found = real.size - np.searchsorted(real, real, side="left")
        lowest = np.minimum.accumulate(np.minimum(expected / found, 1))  # over thresholds up to this one
        # Equal scores sit in one run with equal estimates, so any member of the run gives the value.
        out[part] = lowest[np.searchsorted(real, values[part], side="left")]
    return out


def benjamini_hochberg(p: ArrayLike, axis: int | None = 0) -> Floats:
    """Benjamini-Hochberg adjusted p values.

    Parameters
    ----------
    p
        p values of any shape. NaN marks tests that were not made: they are not counted and stay NaN.
    axis
        Axis along which tests form one family: 0 makes each effect of a ``[cause, effect]`` array a family, None
        takes all together.

    Returns
    -------
    Shape of ``p``.

    Raises
    ------
    ValueError
        If a value is outside 0 to 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if ((values < 0) | (values > 1)).any():
        msg = "p values must lie between 0 and 1"
        raise ValueError(msg)
    if axis is None:
        return benjamini_hochberg(values.ravel()).reshape(values.shape)
    lanes = np.moveaxis(values, axis, -1)
    order = np.argsort(lanes, axis=-1)  # NaN goes last
    n_tests = np.isfinite(lanes).sum(axis=-1, keepdims=True)
    ranked = np.take_along_axis(lanes, order, -1) * n_tests / np.arange(1, lanes.shape[-1] + 1)
    adjusted = np.minimum(np.fmin.accumulate(ranked[..., ::-1], axis=-1)[..., ::-1], 1)
    out = np.empty_like(lanes)
    np.put_along_axis(out, order, adjusted, -1)
    out[np.isnan(lanes)] = np.nan
    return np.moveaxis(out, -1, axis)


def _pools(pool: str, used: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], ...]]:
    """Index pairs (causes, effects) of each set that shares its draws."""
    if pool == "all":
        parts = [np.nonzero(used)]
    elif pool == "effect":
        rows = [np.flatnonzero(used[:, j]) for j in range(used.shape[1])]
        parts = [(i, np.full(i.size, j)) for j, i in enumerate(rows)]
    else:
        msg = f"pool={pool!r} is not known here; use 'effect' or 'all'"
        raise ValueError(msg)
    return [part for part in parts if part[0].size]


def _as_codes(codes: ArrayLike) -> NDArray[np.integer]:
    array = np.asarray(codes)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        msg = f"codes must be a 1-D array of integers, got {array.dtype} of shape {array.shape}"
        raise ValueError(msg)
    return array


def _as_groups(groups: ArrayLike, n_cells: int) -> NDArray[np.intp]:
    array = np.asarray(groups)
    if array.shape != (n_cells,):
        msg = f"groups has shape {array.shape}, codes have ({n_cells},)"
        raise ValueError(msg)
    missing = sum(g is None or g != g for g in array.tolist()) if array.dtype.kind in "fO" else 0  # NaN is not itself
    if missing:
        msg = f"groups holds {missing} missing values; give those cells a group or set their code to -1"
        raise ValueError(msg)
    return np.unique(array, return_inverse=True)[1]


def _checked(observed: ArrayLike, null: ArrayLike, used: NDArray[np.bool_] | None) -> tuple[Floats, Floats]:
    values, draws = np.asarray(observed), np.asarray(null)
    if draws.ndim != values.ndim + 1 or draws.shape[1:] != values.shape or not len(draws):
        msg = f"null has shape {draws.shape}; it must be (n_draws, {', '.join(map(str, values.shape))}) with a draw"
        raise ValueError(msg)
    bad = [int(np.isnan(a if used is None else a[..., used]).sum()) for a in (values, draws)]
    if any(bad):
        msg = f"observed holds {bad[0]} NaN, null {bad[1]}; leave those pairs out"
        raise ValueError(msg)
    return values, draws


def _checked_pairs(
    observed: ArrayLike, null: ArrayLike, keep: ArrayLike | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    shape = np.shape(observed)
    used = np.ones(shape, bool) if keep is None else np.asarray(keep, dtype=bool)
    if len(shape) != 2 or used.shape != shape:
        msg = f"observed {shape} must be (n_causes, n_effects) and keep {used.shape} the same"
        raise ValueError(msg)
    return *_checked(observed, null, used), used
