"""Which gene to perturb next: what is expected to be learnt from each candidate, and simple answers beside it.

Arrays of pairs in, one number per candidate out.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["METHODS", "binary_entropy", "gains"]

#: What a ranking can rest on; all but the last, which needs the cells, are of :func:`gains`.
METHODS: Final = ("direction", "entropy", "effects", "spread", "correlation", "variance")

Floats = NDArray[np.float64]


def binary_entropy(probability: ArrayLike) -> Floats:
    """Entropy of yes or no, in bits.

    Parameters
    ----------
    probability
        Any shape, 0 to 1.

    Returns
    -------
    Same shape: 1 at one half, 0 at 0 and 1.

    Raises
    ------
    ValueError
        If a value is outside 0 to 1 or NaN.
    """
    p = np.asarray(probability, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        msg = "probabilities must lie between 0 and 1."
        raise ValueError(msg)
    out = np.zeros_like(p)
    for q in (p, 1 - p):
        out -= q * np.log2(q, out=np.zeros_like(q), where=q > 0)
    return out


def gains(
    cause: ArrayLike,
    probability: ArrayLike,
    n_genes: int,
    *,
    reverse: ArrayLike | None = None,
    sd: ArrayLike | None = None,
    correlation: ArrayLike | None = None,
) -> dict[str, Floats]:
    """Sum over the effects of interest what each cause could tell.

    Parameters
    ----------
    cause
        ``(n_pairs,)`` which gene is the cause, 0 to ``n_genes - 1``; one entry per cause and effect of interest.
    probability
        ``(n_pairs,)`` that it is.
    n_genes
        Number of genes.
    reverse
        ``(n_pairs,)`` that the effect is a cause of the cause.
    sd
        ``(n_pairs,)`` spread of the probability; NaN where there is none.
    correlation
        ``(n_pairs,)`` correlation of the two; the sign does not matter.

    Returns
    -------
    Arrays ``(n_genes,)``, NaN for genes that are the cause of no pair: ``entropy`` (bits), ``effects`` (expected number),
    and where given ``direction`` (bits: which of two genes is the cause, if one is), ``spread`` (sum of `sd`) and
    ``correlation`` (sum of sizes).

    Raises
    ------
    ValueError
        If shapes do not match, or a probability is outside 0 to 1.
    """
    place, p = np.asarray(cause), np.asarray(probability, dtype=np.float64)
    parts = {"entropy": binary_entropy(p), "effects": p}
    if reverse is not None:
        parts["direction"] = _direction(p, np.asarray(reverse, dtype=np.float64))
    if sd is not None:
        parts["spread"] = np.asarray(sd, dtype=np.float64)
    if correlation is not None:
        parts["correlation"] = np.abs(np.asarray(correlation, dtype=np.float64))
    if wrong := [name for name, x in parts.items() if x.shape != place.shape or place.ndim != 1]:
        msg = f"{', '.join(wrong)} must have one value per pair, as cause has, {place.shape}."
        raise ValueError(msg)
    n_pairs = np.bincount(place, minlength=n_genes)
    return {
        name: np.where(n_pairs > 0, np.bincount(place, weights=x, minlength=n_genes), np.nan)
        for name, x in parts.items()
    }


def _direction(forth: Floats, back: Floats) -> Floats:
    """Entropy of the direction of an edge, times the probability that there is one."""
    either = forth + back
    share = np.divide(forth, either, out=np.zeros_like(either), where=either > 0)
    return np.minimum(either, 1) * binary_entropy(share)
