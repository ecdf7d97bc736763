"""The reference of a comparison: control cells, and all that is computed of them once for many sets of cells."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from causcade import nulls
from causcade.contrasts import Summary, summarise
from causcade.target_baselines import RankSum

__all__ = ["GroupLevels", "Reference", "Scorer", "Side", "choose_candidates", "fixed_candidates", "level_groups"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Positions = NDArray[np.int64]

_UNCHANGED = 2.0  # |z| of the rank-sum test below which a gene counts as unchanged
_PREDICTORS, _DONORS, _RIDGE = 100, 5, 0.1
_MOST = 5_000  # candidates that are scored together: memory grows with their square
_ALPHA = 0.05  # of the adjusted p values of differentially expressed genes


class Scorer(Protocol):
    """What scores targets: a network, or anything that compares two summaries of the same genes."""

    def prepare(self, control: Summary) -> Any:
        """Do all that depends on the control cells only."""
        ...

    def score(self, state: Any, perturbed: Summary, rng: np.random.Generator) -> Tensor | NDArray[np.floating]:
        """Logits ``(n_genes,)``, one random draw; `state` is what :meth:`prepare` returned, for the same genes."""
        ...


class Side:
    """Control cells as the scorer wants them.

    Parameters
    ----------
    values
        ``(n_cells, n_genes)`` levelled values.
    scorer
        What scores.
    fixed
        Candidates of all comparisons: they are prepared once. ``None`` = other candidates each time.
    whole
        Then summarise all genes once and take candidates from that: worth its memory for many comparisons.
    """

    def __init__(self, values: Floats, scorer: Scorer, fixed: Positions | None, *, whole: bool = False) -> None:
        self._values, self._scorer = values, scorer
        self._all = summarise(torch.from_numpy(values)) if whole and fixed is None else None
        self._fixed, self._state = fixed, None if fixed is None else self._prepare(fixed)

    def _prepare(self, genes: Positions) -> Any:
        control = _summary(self._values, genes) if self._all is None else self._all.genes(torch.from_numpy(genes))
        return self._scorer.prepare(control)

    def score(self, perturbed: Floats, genes: Positions, n_draws: int, rng: np.random.Generator) -> Doubles:
        """``(n_draws, len(genes))`` logits."""
        state = self._state if genes is self._fixed else self._prepare(genes)
        after = _summary(perturbed, genes)
        draws = [torch.as_tensor(self._scorer.score(state, after, rng)).cpu().numpy() for _ in range(n_draws)]
        return np.stack(draws).astype(np.float64)


def _summary(values: Floats, genes: Positions) -> Summary:
    return summarise(torch.from_numpy(np.ascontiguousarray(values[:, genes])))


class GroupLevels:
    """How far the controls of every group (batch) lie from all controls.

    Parameters
    ----------
    control
        ``(n_controls, n_genes)`` values of the controls.
    groups
        ``(n_controls,)`` their groups.

    Raises
    ------
    ValueError
        If there are no controls.
    """

    def __init__(self, control: Floats, groups: Positions) -> None:
        if not len(control):
            msg = "No control cells, so groups cannot be brought to one level; give at least one control."
            raise ValueError(msg)
        self.labels = np.unique(groups)
        self.mean = control.mean(0, dtype=np.float64)
        means = [control[groups == label].mean(0, dtype=np.float64) for label in self.labels]
        self._offset = (np.stack(means) - self.mean).astype(np.float32)

    def level(self, values: Floats, groups: Positions) -> Floats:
        """Values ``(n_cells, n_genes)`` with these differences taken out; groups without controls stay as they are."""
        if len(self.labels) == 1:
            return values
        out = values.copy()  # group by group: a whole screen would not fit three times
        for label, offset in zip(self.labels, self._offset, strict=True):
            out[groups == label] -= offset
        return out


def level_groups(values: Floats, groups: Positions, control: NDArray[np.bool_]) -> Floats:
    """Bring the groups (batches) of a screen to one level: that of their controls.

    Parameters
    ----------
    values
        ``(n_cells, n_genes)`` log-normalised values.
    groups
        ``(n_cells,)`` group of every cell.
    control
        ``(n_cells,)`` which cells are controls.

    Returns
    -------
    Values with the differences between the groups' controls taken out; groups without controls stay as they are. The
    same array if the controls are of one group.

    Raises
    ------
    ValueError
        If there are no controls.
    """
    return GroupLevels(values[control], groups[control]).level(values, groups)


class Reference:
    """Control cells, and all that is computed of them once."""

    def __init__(
        self, values: Floats, groups: Positions, scorer: Scorer, fixed: Positions | None, *, whole: bool = False
    ) -> None:
        self._levels = GroupLevels(values, groups)
        self.labels, self.mean = self._levels.labels, self._levels.mean
        self.groups, self.values = groups, self.level(values, groups)
        self._ranks = [RankSum(self.values[groups == label]) for label in self.labels]
        self._size = [int((groups == label).sum()) for label in self.labels]
        self.side = Side(self.values, scorer, fixed, whole=whole)

    def level(self, values: Floats, groups: Positions) -> Floats:
        """Values with the differences between the groups' controls taken out."""
        return self._levels.level(values, groups)

    def differences(self, values: Floats, groups: Positions) -> tuple[Doubles, Doubles]:
        """Log fold change and z of the rank-sum test of levelled values."""
        total, square = np.zeros(values.shape[1]), 0.0
        for label, ranks, n in zip(self.labels, self._ranks, self._size, strict=True):
            mine = groups == label
            if m := int(mine.sum()):
                weight = n * m / (n + m + 1)  # of the squared z: the evidence of a group
                total += np.sqrt(weight) * np.nan_to_num(np.asarray(ranks.against(values[mine]), dtype=np.float64))
                square += weight
        return values.mean(0, dtype=np.float64) - self.mean, total / np.sqrt(square)

    def mask(self, values: Floats, groups: Positions, genes: Positions, rng: np.random.Generator) -> Floats:
        """Give some genes the values of controls of the same group that are alike in the genes that did not change.

        A gene is predicted from unchanged genes (ridge, fitted on the controls); every cell gets the value of one of the
        controls with the nearest predictions. So the distribution of the gene is left as it is among controls, and its
        correlation with what regulates it and did not change, but no trace of its own change.
        """
        if not len(genes):
            return values
        out = values.copy()
        unchanged = np.abs(self.differences(values, groups)[1]) < _UNCHANGED
        unchanged[genes] = False
        for gene in genes:
            ours, theirs = self._predict(int(gene), values, unchanged)
            for label in np.unique(groups):
                mine, pool = np.flatnonzero(groups == label), np.flatnonzero(self.groups == label)
                near = np.abs(ours[pool][None] - theirs[mine][:, None]).argsort(1)[:, :_DONORS]
                donor = near[np.arange(len(mine)), rng.integers(near.shape[1], size=len(mine))]
                out[mine, gene] = self.values[pool[donor], gene]
        return out

    def _predict(self, gene: int, values: Floats, use: NDArray[np.bool_]) -> tuple[Doubles, Doubles]:
        """Predictions of a gene in controls and in other cells, from the genes that correlate with it most."""
        x, y = self.values[:, use].astype(np.float64), self.values[:, gene].astype(np.float64)
        mean, spread = x.mean(0), x.std(0)
        scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0)
        r = (y - y.mean()) @ ((x - mean) * scale)
        top = np.argsort(-np.abs(r), kind="stable")[:_PREDICTORS]
        both = [(v[:, use][:, top] - mean[top]) * scale[top] for v in (self.values, values)]
        weight = np.linalg.solve(both[0].T @ both[0] + _RIDGE * len(y) * np.eye(len(top)), r[top])
        return both[0] @ weight, both[1] @ weight


def choose_candidates(wilcoxon: NDArray[np.floating], lfc: NDArray[np.floating], most: int, fewest: int) -> Positions:
    """Differentially expressed genes: which of them are candidates.

    The `most` largest ``|z|`` among genes with an adjusted p value (Benjamini-Hochberg) below 0.05; if these are fewer
    than `fewest`, genes with the largest ``|lfc|`` are added.

    Parameters
    ----------
    wilcoxon, lfc
        ``(n_genes,)`` z of the rank-sum test and log fold change.
    most, fewest
        Number of candidates.

    Returns
    -------
    Sorted positions.
    """
    z, size = np.abs(np.nan_to_num(wilcoxon)), np.abs(lfc)
    fdr = nulls.benjamini_hochberg(2 * ndtr(-z.astype(np.float64)))
    found = np.flatnonzero(fdr < _ALPHA)
    top = found[np.argsort(-z[found], kind="stable")][:most]
    if (missing := min(fewest, most) - len(top)) > 0:
        others = np.setdiff1d(np.arange(len(z)), top)
        top = np.concatenate([top, others[np.argsort(-size[others], kind="stable")][:missing]])
    return np.sort(top).astype(np.int64)


def fixed_candidates(asked: str | Positions, most: int, n_genes: int) -> Positions | None:
    """Candidates that are the same for all comparisons.

    Parameters
    ----------
    asked
        ``"all"`` genes, ``"de"``, ``"auto"`` (all, if there are at most `most`), or positions of genes.
    most
        Most candidates where they are chosen for each comparison.
    n_genes
        Number of genes.

    Returns
    -------
    Positions, or None if they are chosen for each.

    Raises
    ------
    ValueError
        If the word is unknown, or there are fewer than 2 or too many.
    """
    if not isinstance(asked, str):
        fixed = np.asarray(asked, dtype=np.int64)
    elif asked == "all" or (asked == "auto" and n_genes <= most):
        fixed = np.arange(n_genes)
    elif asked in ("auto", "de"):
        fixed = None
    else:
        msg = f"candidates must be 'auto', 'all', 'de' or positions of genes, not {asked!r}."
        raise ValueError(msg)
    n = most if fixed is None else len(fixed)
    if not 2 <= n <= _MOST:
        msg = f"{n:,} candidates: at least 2 and at most {_MOST:,} can be scored together (candidates=, n_candidates=)."
        raise ValueError(msg)
    return fixed
