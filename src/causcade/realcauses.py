"""Real screens as training screens of networks of causes: knock-outs are hidden, and what they change is to be told."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from causcade import nulls
from causcade.evaluation._ranked import Sides, share_controls
from causcade.expression import is_summary
from causcade.pairs import pair_features
from causcade.pretrain.items import Sample
from causcade.realscreens import read_adata
from causcade.regimes import from_adata
from causcade.screendata import ScreenData, read_screen
from causcade.stats import MIN_CONTROLS, pair_stats

__all__ = ["CauseScreen", "read_cause_screen"]

_FDR = 0.05  # below: changed
_CLEAR = 0.1  # p value from which a gene counts as not changed; in between nothing is known


@dataclass(frozen=True)
class CauseScreen:
    """A real screen, of which the effects of measured knock-outs are known.

    Attributes
    ----------
    screen
        Its cells.
    genes
        Positions of the genes that were perturbed alone, in cells enough.
    with_gene
        For each of them, the regimes it was perturbed in, alone or not.
    """

    screen: ScreenData
    genes: NDArray[np.int64]
    with_gene: tuple[NDArray[np.int64], ...]

    def sample(self, rng: np.random.Generator) -> Sample:
        """Hide a random share of the knock-outs, and give statistics of the rest with what is known of the truth.

        An effect of a knock-out is a gene that its cells change against controls (rank-sum test within groups, 5 % FDR).
        It is judged by half of the controls and half of the cells of the knock-out, which the statistics are made without,
        as they are without the other half of a hidden one.

        Parameters
        ----------
        rng
            Deals controls and cells, and hides.
        """
        screen, n = self.screen, self.screen.n_genes
        judges = share_controls(screen.codes, screen.groups, rng)[1]
        side = Sides(screen.rows(judges), screen.groups[judges])
        used, single = screen.codes >= 0, screen.single.copy()
        used[judges] = False
        beside = np.isin(screen.groups, _with_controls(screen))
        truth, known = np.zeros((n, n), bool), np.zeros((n, n), bool)
        hidden = rng.random(len(self.genes)) < rng.random()
        for gene, hide, regimes in zip(self.genes, hidden, self.with_gene, strict=True):
            cells = np.flatnonzero((screen.codes == screen.single[gene]) & beside)
            cells = rng.permutation(cells)[
                : len(cells) // 2
            ]  # also of hidden ones: what is found depends on their number
            used[cells] = False
            if hide:
                single[gene] = -1
                used &= ~np.isin(screen.codes, regimes)
            p = 2 * norm.sf(np.abs(side.against(screen.rows(cells), screen.groups[cells])[1]))
            truth[gene] = nulls.benjamini_hochberg(p) < _FDR
            known[gene] = truth[gene] | (p > _CLEAR)
        stats = pair_stats(screen.moments(only=used), torch.from_numpy(single), against_control=True)
        return Sample(torch.from_numpy(truth), features=pair_features(stats), known=torch.from_numpy(known))


def read_cause_screen(name: str | Path, batch_key: str | None = None, *, least: int = 10) -> CauseScreen:
    """Cells of a real screen, and which knock-outs can be learned from.

    Parameters
    ----------
    name
        A bundled screen, or the path of an h5ad file with counts and ``.obs["perturbation"]``.
    batch_key
        Column of ``.obs`` within whose groups effects and correlations are measured.
    least
        Fewest cells of a knock-out, in batches that have controls.

    Raises
    ------
    ValueError
        If there are fewer than 60 controls, no measured gene was perturbed alone in so many cells, or the file is a
        summary, whose sums are of all cells.
    """
    adata = read_adata(name)
    if is_summary(adata):
        msg = f"Screen {str(name)!r} is a summary: knock-outs cannot be hidden in its sums. Give all cells."
        raise ValueError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its design; what is too small is left out
        screen = read_screen(adata, batch_key=batch_key)
    if screen.n_control < 2 * MIN_CONTROLS:
        msg = f"Screen {str(name)!r} has {screen.n_control} controls; half of them judge, so at least {2 * MIN_CONTROLS} are needed."
        raise ValueError(msg)
    beside = np.isin(screen.groups, _with_controls(screen))
    cells = {g: (screen.codes == screen.single[g]) for g in np.flatnonzero(screen.single >= 0)}
    genes = np.array([g for g, mine in cells.items() if (mine & beside).sum() >= least], np.int64)
    if not len(genes):
        msg = (
            f"Screen {str(name)!r} has no measured gene that was perturbed alone in {least} cells beside controls: nothing to "
            "learn from."
        )
        raise ValueError(msg)
    regimes = from_adata(adata)
    several = [(i, index) for i, index in enumerate(regimes.target_index) if len(regimes.targets[i]) > 1]
    with_gene = tuple(np.array([screen.single[g], *(i for i, index in several if g in index)], np.int64) for g in genes)
    return CauseScreen(screen, genes, with_gene)


def _with_controls(screen: ScreenData) -> NDArray[np.int64]:
    """Groups with two controls, so that each half has one."""
    n = np.bincount(screen.groups[screen.codes == 0], minlength=screen.n_groups)
    return np.flatnonzero(n >= 2)
