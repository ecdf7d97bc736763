"""Which perturbations to learn from and which to be judged on: none may have a near copy on the other side."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans

__all__ = ["perturbation_blocks", "split_perturbations"]


def perturbation_blocks(
    targets: Sequence[Sequence[Hashable]],
    effects: ArrayLike | None = None,
    *,
    n_clusters: int | None = None,
    rng: int | np.random.Generator | None = 0,
) -> NDArray[np.int64]:
    """Blocks of perturbations that must stay together: they share a target, or their effects are alike.

    Parameters
    ----------
    targets
        Per perturbation its targets (names or positions). Those that share one are in one block, in chains: A, A+B, B.
    effects
        ``(n_perturbations, n_genes)`` changes (log fold changes); given, perturbations in one k-means cluster of their
        directions are in one block too (CDN, Appendix D.1).
    n_clusters
        Clusters; ``None`` = a third of the perturbations, at most 200.
    rng
        Start of k-means.

    Returns
    -------
    ``(n_perturbations,)`` number of the block, the largest block first.

    Raises
    ------
    ValueError
        If there are not as many effects as targets, an effect is not finite, or `n_clusters` does not fit.
    """
    n = len(targets)
    links = _shared(targets)
    if effects is not None:
        links += _clusters(np.asarray(effects, dtype=float), n, n_clusters, rng)
    rows, columns = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    block = connected_components(graph, directed=False)[1]
    _, first, size = np.unique(block, return_index=True, return_counts=True)
    place = np.empty(len(size), np.int64)
    place[np.lexsort((first, -size))] = np.arange(len(size))
    return np.asarray(place[block])


def _shared(targets: Sequence[Sequence[Hashable]]) -> list[tuple[int, int]]:
    first: dict[Hashable, int] = {}
    return [(first.setdefault(gene, i), i) for i, genes in enumerate(targets) for gene in genes]


def _clusters(
    effects: NDArray[np.float64], n: int, n_clusters: int | None, rng: int | np.random.Generator | None
) -> list[tuple[int, int]]:
    if effects.ndim != 2 or len(effects) != n or not np.isfinite(effects).all():
        msg = f"effects must be finite, one row for each of the {n} perturbations; got shape {effects.shape}."
        raise ValueError(msg)
    k = max(1, min(200, n // 3)) if n_clusters is None else n_clusters
    if not 1 <= k <= n:
        msg = f"n_clusters must be from 1 to the number of perturbations ({n}), not {n_clusters!r}."
        raise ValueError(msg)
    norm = np.linalg.norm(effects, axis=1, keepdims=True)
    seed = int(np.random.default_rng(rng).integers(2**31))
    label = KMeans(k, n_init=4, random_state=seed).fit_predict(effects / np.where(norm > 0, norm, 1))
    return [(int(np.flatnonzero(label == c)[0]), int(i)) for c in np.unique(label) for i in np.flatnonzero(label == c)]


def split_perturbations(
    targets: Sequence[Sequence[Hashable]],
    effects: ArrayLike | None = None,
    *,
    test_share: float = 0.3,
    n_clusters: int | None = None,
    rng: int | np.random.Generator | None = 0,
) -> NDArray[np.bool_]:
    """Set perturbations aside for testing, in whole blocks (:func:`perturbation_blocks`).

    The largest block is for training, as in the paper; it often holds all that do little. The others are drawn until
    the test set has at least its share, or none is left.

    Parameters
    ----------
    targets, effects, n_clusters, rng
        As there; `rng` also draws the blocks.
    test_share
        Share of the perturbations to be tested on, above 0 and below 1.

    Returns
    -------
    bool ``(n_perturbations,)``, True for testing.

    Raises
    ------
    ValueError
        If `test_share` is out of range, or all perturbations are one block.
    """
    if not 0 < test_share < 1:
        msg = f"test_share must be above 0 and below 1, not {test_share!r}."
        raise ValueError(msg)
    gen = np.random.default_rng(rng)
    block = perturbation_blocks(targets, effects, n_clusters=n_clusters, rng=gen)
    if block.max(initial=0) == 0:
        msg = f"All {len(block)} perturbations are linked by shared targets or alike effects; they cannot be split."
        raise ValueError(msg)
    test = np.zeros(len(block), dtype=bool)
    for b in gen.permutation(np.arange(1, block.max() + 1)):
        if test.sum() >= test_share * len(block):
            break
        test |= block == b
    return test
