"""Scores of changed genes in the manner of the Virtual Cell Challenge: which change, which way, and how far.

Formulas are ours; a test holds them against numbers of the package ``cell-eval2``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from causcade import nulls
from causcade.target_baselines import RankSum

__all__ = ["VCC", "change_error", "changed", "de_direction", "de_jaccard", "de_overlap", "de_scores"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: What the score of the challenge of 2025 is the mean of.
VCC: Final = ("vcc_de_overlap", "vcc_discrimination", "vcc_mae")

_ALPHA = 0.05
_FEWEST = 10  # changed genes for an error of changes: of a handful that just pass the test it is noise


def changed(cells: Floats, control: Floats) -> tuple[Floats, Bools]:
    """Change of the mean, and which genes differ: rank-sum test, Benjamini-Hochberg at 5 %.

    Parameters
    ----------
    cells, control
        ``(n_cells, n_genes)``.
    """
    z = RankSum(control).against(cells)
    return cells.mean(0) - control.mean(0), nulls.benjamini_hochberg(2 * norm.sf(np.abs(z))) < _ALPHA


def de_scores(guess: Floats, called: Bools, change: Floats, differs: Bools) -> dict[str, float]:
    """All scores of the changes of one perturbation.

    Parameters
    ----------
    guess, called
        ``(n_genes,)`` predicted change, and whether it is called significant.
    change, differs
        ``(n_genes,)`` the same of the true cells.

    Returns
    -------
    By metric; NaN where it is not defined.
    """
    return {
        "vcc_de_overlap": de_overlap(guess, called, differs),
        "vcc_de_jaccard": de_jaccard(called, differs),
        "vcc_de_direction": de_direction(guess, called, change, differs),
        "vcc_de_error": change_error(guess, change, differs),
    }


def de_overlap(guess: Floats, called: Bools, differs: Bools) -> float:
    """Overlap of the genes that differ with as many that are predicted to change most.

    Returns
    -------
    Share of the genes that truly differ; NaN if none does.
    """
    true = np.flatnonzero(differs)
    if not true.size:
        return float("nan")
    mine = np.flatnonzero(called)
    top = mine[np.argsort(-np.abs(guess[mine]), kind="stable")][: true.size]
    return float(np.isin(top, true).sum() / true.size)


def de_jaccard(called: Bools, differs: Bools) -> float:
    """Genes that are called and differ, as a share of those that do either; 1 if there are none, which both sides say."""
    either = int((called | differs).sum())
    return float((called & differs).sum() / either) if either else 1.0


def de_direction(guess: Floats, called: Bools, change: Floats, differs: Bools) -> float:
    """Called genes that truly change the same way, as a share of those called or of those that differ, if these are more.

    Returns
    -------
    So neither few sure calls nor calls of everything do well; NaN if nothing is called and nothing differs.
    """
    moves = change != 0
    right = called & moves & (np.sign(guess) == np.sign(change))
    most = max(int((called & moves).sum()), int((differs & moves).sum()))
    return float(right.sum() / most) if most else float("nan")


def change_error(guess: Floats, change: Floats, differs: Bools) -> float:
    """Mean absolute error of the changes of genes that truly differ, over their mean size.

    Returns
    -------
    0 is best, and no change at all has 1; NaN if fewer than ten genes differ.
    """
    if int(differs.sum()) < _FEWEST:
        return float("nan")
    size = float(np.abs(change[differs]).mean())
    return float(np.abs(guess - change)[differs].mean() / size) if size > 0 else float("nan")
