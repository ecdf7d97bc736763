"""What scores need of memory: told, and refused if it is not free, before the work begins.

The large shares were measured as the growth of resident memory: statistics of all pairs with 4,000 and 8,000 genes, controls
with 500 to 5,000 cells. The others are what the code holds at a time, rounded up.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from causcade._device import check_memory
from causcade.comparisons import Comparisons
from causcade.screendata import ScreenData

__all__ = ["check_causes", "check_targets"]

_NETWORK = 0.3e9


def check_causes(n_genes: int, n_targets: int | None, *, n_half: int, n_null: int, composed: bool = False) -> None:
    """Memory for scores of causes, most of it for statistics of all pairs of genes.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_targets
        Number of effect genes; ``None`` = all.
    n_half, n_null
        Half-samples and permutations.
    composed
        Whether scores are composed along paths.

    Raises
    ------
    ValueError
        If more is needed than is free.
    """
    each = 135 + 50 * bool(n_half or n_null) + 40 * (n_targets is None) + 35 * composed
    kept = 14 * n_null  # of each score: those of permutations are kept, and then sorted
    every, some = (each + kept, 0) if n_targets is None else (each, kept * n_targets)

    def fewer(free: float) -> str:
        most = int((sqrt(some**2 + 4 * every * free) - some) / (2 * every))
        lower = " Or lower n_null." if kept * (n_targets or n_genes) > each * n_genes else ""
        return (
            f"Take fewer genes, up to about {most:,}: adata[:, genes], e.g. the perturbed and the most variable "
            f"(sc.pp.highly_variable_genes).{lower}"
        )

    what = f"Scores of causes among {n_genes:,} genes, with statistics of all pairs,"
    check_memory(every * n_genes**2 + some * n_genes, what, fewer)


def check_targets(
    screen: ScreenData, pairs: Comparisons, *, n_candidates: int, n_half: int, n_null: int, max_cells: int, whole: bool
) -> None:
    """Memory for scores of targets.

    Parameters
    ----------
    screen
        The user's screen.
    pairs
        Which cells are compared.
    n_candidates
        Most candidates of a comparison.
    n_half, n_null
        Half-samples and splits.
    max_cells
        Most cells of a set that are used.
    whole
        Whether all pairs of genes of the controls are kept.

    Raises
    ------
    ValueError
        If more is needed than is free.
    """
    n, n_genes = len(pairs), screen.n_genes
    detected = float(np.mean(screen.source.n_cells_by_gene)) / screen.source.n_cells
    references = 1 + 0.5 * bool(n_null)  # a split holds half of the controls
    shares = {
        "controls": min(len(pairs.control), max_cells)
        * n_genes
        * references
        * (15 + 30 * detected + 2 * n_half + 10 * whole),
        "largest perturbation": min(max(len(cells) for cells in pairs.cells), max_cells)
        * n_genes
        * (15 + 30 * detected),
        "all pairs of genes": 13.0 * n_genes**2 * whole * (1 + bool(n_null)),
        "candidates": 60.0 * n_candidates**2 + _NETWORK,
        "scores": 56.0 * n * n_genes + 8.0 * n * n_null * n_candidates,
    }

    def parts(free: float) -> str:
        told = ", ".join(f"{name} {size / 1e9:,.1f}" for name, size in shares.items())
        return (
            f"In GB: {told}. Ask in parts, which gives the same scores (perturbations=, another key_added for each), with "
            "fewer genes, or with smaller n_candidates or n_null."
        )

    check_memory(sum(shares.values()), f"Targets of {n:,} perturbations among {n_genes:,} genes", parts)
