"""From cells to sufficient statistics: one pass over the rows, then matrices of pair statistics ``[cause, effect]``.

Nothing here knows AnnData.  Tensors may live on any device, so training makes its statistics where it simulates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from causcade._gram import gram

__all__ = [
    "MIN_CONTROLS",
    "Moments",
    "PairStats",
    "cell_values",
    "log_normalise",
    "pair_stats",
    "single_target_regimes",
]

#: Controls below this number are not used alone as the reference; all other cells are.
MIN_CONTROLS = 30


def log_normalise(x: Tensor, total: Tensor, scale: Tensor | float) -> Tensor:
    """``log(1 + scale * x / total)`` per cell; cells with no molecules stay 0.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` counts or expected counts.
    total
        ``(n_cells,)`` library sizes.
    scale
        Library size that all cells are brought to (usually the median of ``total``).
    """
    return torch.log1p(x * (scale / torch.where(total > 0, total, 1.0))[:, None])


@dataclass
class Moments:
    """Sums over the cells of a screen, enough for every pair statistic.

    Build with :meth:`empty`, feed blocks of rows to :meth:`update`.  The order and the size of the blocks do not
    matter beyond rounding.

    Attributes
    ----------
    cells
        ``(n_regimes, n_groups)`` number of cells.  Regime 0 is the control.
    value, detected
        ``(n_regimes, n_genes)`` sums of the (log-normalised) values and of ``value > 0``.
    group_value, group_detected
        ``(n_groups, n_genes)`` the same by group (batch, cell type, time point).
    gram
        ``(n_genes, n_genes)`` sum over cells of the outer product of the values; its diagonal alone, ``(n_genes,)``, is
        enough where there is a `residual`.
    residual
        ``(n_genes, n_genes)`` correlation left after regimes and groups, where it is known from other cells than the sums.
    effective
        How many cells `residual` rests on.
    """

    cells: Tensor
    value: Tensor
    detected: Tensor
    group_value: Tensor
    group_detected: Tensor
    gram: Tensor
    residual: Tensor | None = None
    effective: float | None = None

    @property
    def squares(self) -> Tensor:
        """``(n_genes,)`` sums of the squared values."""
        return self.gram.diagonal() if self.gram.ndim == 2 else self.gram

    @classmethod
    def empty(cls, n_regimes: int, n_groups: int, n_genes: int, *, device: torch.device | str = "cpu") -> Moments:
        """Zero sums."""
        dtype = torch.float64 if torch.device(device).type == "cpu" else torch.float32

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            zeros(n_regimes, n_groups),
            zeros(n_regimes, n_genes),
            zeros(n_regimes, n_genes),
            zeros(n_groups, n_genes),
            zeros(n_groups, n_genes),
            zeros(n_genes, n_genes),
        )

    def update(self, y: Tensor, codes: Tensor, groups: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a block of cells.

        Parameters
        ----------
        y
            ``(rows, n_genes)`` values, at least 0; 0 means not detected.
        codes
            ``(rows,)`` regime of every cell, -1 = leave out.
        groups
            ``(rows,)`` group of every cell; ``None`` = one group.
        weight
            ``(rows,)`` number of cells that every cell stands for; ``None`` = itself.

        Raises
        ------
        ValueError
            If lengths differ, or a regime or group is outside the numbers given to :meth:`empty`.
        """
        if bool((codes < 0).any()):
            used = codes >= 0
            y, codes = y[used], codes[used]
            groups, weight = (None if t is None else t[used] for t in (groups, weight))
        groups = torch.zeros_like(codes) if groups is None else groups
        self._check(y, codes, groups)
        seen = (y > 0).to(y.dtype)
        n_regimes, n_groups = self.cells.shape
        flat = torch.bincount(codes * n_groups + groups, weight, minlength=n_regimes * n_groups)
        self.cells += flat.reshape(n_regimes, n_groups)
        exact = y.to(self.value.dtype)
        found, squares, scaled = seen.to(exact.dtype), exact.square(), y
        if weight is not None:
            times = weight.to(exact.dtype)[:, None]
            exact, found, squares, scaled = exact * times, found * times, squares * times, y * times.sqrt().to(y.dtype)
        for total, by_group, block in (
            (self.value, self.group_value, exact),
            (self.detected, self.group_detected, found),
        ):
            total.index_add_(0, codes, block)
            by_group.index_add_(0, groups, block)
        # products of float32 are fast, but would leave a gene that never varies with a variance: squares are summed apart
        product = gram(scaled).to(exact.dtype)
        product.diagonal().copy_(squares.sum(0))
        self.gram += product

    def _check(self, y: Tensor, codes: Tensor, groups: Tensor) -> None:
        n_regimes, n_groups = self.cells.shape
        if y.ndim != 2 or y.shape[1] != self.value.shape[1] or not len(y) == len(codes) == len(groups):
            msg = (
                f"y must be (rows, {self.value.shape[1]}) with one code and one group per row; "
                f"got {tuple(y.shape)}, {len(codes)} codes and {len(groups)} groups."
            )
            raise ValueError(msg)
        for what, number, most in (("codes", codes, n_regimes), ("groups", groups, n_groups)):
            if bool(((number < 0) | (number >= most)).any()):
                msg = f"{what} must be below {most} and, but for -1 in codes, not negative; got {_span(number)}."
                raise ValueError(msg)


def _span(number: Tensor) -> str:
    return f"{int(number.min())} to {int(number.max())}" if len(number) else "none"


@dataclass(frozen=True)
class PairStats:
    """Matrices ``(n_genes, n_genes)``, ``[cause, effect]``, and vectors ``(n_genes,)`` of one screen.

    A gene that was never perturbed alone has zeros in the rows of the effect matrices and ``perturbed`` false.

    Attributes
    ----------
    effect
        Standardised mean difference of the effect gene under perturbation of the cause gene (in residual s.d.).
    z, z_detected, z_nonzero
        The same as a z-score; z-score of the detection rate; of the mean of the detected values.
    correlation, residual, between
        Pearson correlation within groups over all cells; after removing the regime means; between group means.
    partial
        Partial correlation given all other genes, from the shrunken residual correlation.
    perturbed, cells
        Whether and with how many cells a gene was perturbed alone.
    mean, detection, spread
        Mean value, detection rate, residual standard deviation.
    n_cells, n_control, depth
        Number of cells (that the correlations rest on), of controls, and mean number of detected genes per cell.
    """

    effect: Tensor
    z: Tensor
    z_detected: Tensor
    z_nonzero: Tensor
    correlation: Tensor
    residual: Tensor
    between: Tensor
    partial: Tensor
    perturbed: Tensor
    cells: Tensor
    mean: Tensor
    detection: Tensor
    spread: Tensor
    n_cells: float
    n_control: float
    depth: float

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.z.shape[0]


def single_target_regimes(targets: Sequence[np.ndarray], n_genes: int) -> np.ndarray:
    """Regime that perturbs each gene alone, ``(n_genes,)``; -1 where there is none.

    Parameters
    ----------
    targets
        Per regime the positions of its measured targets (regime 0 is the control and has none).
    n_genes
        Number of genes.
    """
    out = np.full(n_genes, -1, dtype=np.int64)
    for regime, genes in enumerate(targets):
        if len(genes) == 1 and out[genes[0]] < 0:
            out[genes[0]] = regime
    return out


def pair_stats(moments: Moments, single: Tensor, *, against_control: bool | None = None) -> PairStats:
    """Pair statistics of a screen.

    Parameters
    ----------
    moments
        Sums over the cells.
    single
        ``(n_genes,)`` regime that perturbs each gene alone, -1 = none (:func:`single_target_regimes`).
    against_control
        Whether the controls alone are the reference, or all other cells; ``None`` = controls if there are
        :data:`MIN_CONTROLS`.

    Raises
    ------
    ValueError
        If there are no cells, or ``single`` does not fit them.
    """
    m = moments
    by_regime, by_group = m.cells.sum(1), m.cells.sum(0)
    n = by_regime.sum()
    if not bool(n > 0):
        msg = "There are no cells: feed Moments.update before asking for pair statistics."
        raise ValueError(msg)
    if single.shape != m.value.shape[1:] or bool((single >= len(by_regime)).any()):
        msg = (
            f"single must be ({m.value.shape[1]},) with regimes below {len(by_regime)}; "
            f"got shape {tuple(single.shape)}, {_span(single)}."
        )
        raise ValueError(msg)
    group_mean, centred = _means(m)
    within, resid = _scatter(m, group_mean, centred)
    free = (n - (by_regime > 0).sum() - (by_group > 0).sum() + 1).clamp(min=1)
    floor = 1e-6 * m.squares  # what is left of a constant gene is the rounding of its sum of squares
    spread = torch.where(resid.diagonal() > floor, resid.diagonal() / free, 0.0).sqrt()
    f32 = torch.float32
    correlation = _correlation(within, floor).to(f32)
    del within  # of thousands of genes, each is half a gigabyte
    residual = _correlation(resid, floor)
    del resid

    has = (single >= 0) & (by_regime[single.clamp(min=0)] > 0)
    hit = has.nonzero()[:, 0]
    own = single[hit]
    against_control = bool(by_regime[0] >= MIN_CONTROLS) if against_control is None else against_control
    rate = m.group_detected / by_group.clamp(min=1)[:, None]
    detected = (m.detected - m.cells @ rate) / by_regime.clamp(min=1)[:, None]
    rate_spread = ((by_group[:, None] * rate * (1 - rate)).sum(0) / n).clamp(min=0).sqrt()

    def rows(values: Tensor) -> Tensor:
        return torch.zeros(single.shape * 2, dtype=f32, device=values.device).index_copy_(0, hit, values.to(f32))

    z, effect = map(rows, _effect(centred, by_regime, own, spread, against_control=against_control))
    return PairStats(
        effect=effect,
        z=z,
        z_detected=rows(_effect(detected, by_regime, own, rate_spread, against_control=against_control)[0]),
        z_nonzero=rows(_nonzero(m, rate, group_mean, own)),
        correlation=correlation,
        residual=residual.to(f32),
        between=_between(group_mean, by_group).to(f32),
        partial=_partial(residual).to(f32),
        perturbed=has,
        cells=torch.where(has, by_regime[single.clamp(min=0)], 0.0).to(f32),
        mean=(m.value.sum(0) / n).to(f32),
        detection=(m.detected.sum(0) / n).to(f32),
        spread=spread.to(f32),
        n_cells=float(n) if m.effective is None else m.effective,
        n_control=float(by_regime[0]),
        depth=float(m.detected.sum() / n),
    )


def _means(m: Moments) -> tuple[Tensor, Tensor]:
    """Means of groups, and of regimes within groups."""
    by_regime, by_group = m.cells.sum(1), m.cells.sum(0)
    group_mean = m.group_value / by_group.clamp(min=1)[:, None]
    return group_mean, (m.value - m.cells @ group_mean) / by_regime.clamp(min=1)[:, None]


def _scatter(m: Moments, group_mean: Tensor, centred: Tensor) -> tuple[Tensor, Tensor]:
    """Scatter within groups, and what regimes leave of it."""
    by_regime, by_group = m.cells.sum(1), m.cells.sum(0)
    explained = gram(by_regime.sqrt()[:, None] * centred)
    if m.residual is None:
        within = m.gram - group_mean.T @ (by_group[:, None] * group_mean)
        return within, within - explained
    own = m.squares - (by_group[:, None] * group_mean.square()).sum(0) - explained.diagonal()
    root = own.clamp(min=0).sqrt()
    resid = (root[:, None] * m.residual).mul_(root)
    resid.diagonal().copy_(own)
    return explained + resid, resid


def _effect(
    mean: Tensor, cells: Tensor, own: Tensor, spread: Tensor, *, against_control: bool
) -> tuple[Tensor, Tensor]:
    """z-score and standardised difference of each gene's own regime against the reference."""
    n = cells.sum()
    safe = torch.where(spread > 1e-6, spread, torch.inf)
    if against_control:
        reference, size = mean[0], cells[0]
        difference = mean[own] - reference
    else:  # group-centred means of all cells sum to zero
        size = (n - cells[own]).clamp(min=1)[:, None]
        difference = mean[own] + mean[own] * cells[own][:, None] / size
    effect = difference / safe
    return effect / (1 / cells[own].clamp(min=1)[:, None] + 1 / size).sqrt(), effect


def _nonzero(m: Moments, rate: Tensor, group_mean: Tensor, own: Tensor) -> Tensor:
    """z-score of the mean of the detected values, against what the regime's mix of groups expects."""
    seen = m.detected[own]
    expected = (m.cells @ group_mean)[own] / (m.cells @ rate)[own].clamp(min=1e-9)
    difference = m.value[own] / seen.clamp(min=1) - expected
    nonzero = m.group_value / m.group_detected.clamp(min=1)
    square = (m.squares - (m.group_detected * nonzero**2).sum(0)) / m.detected.sum(0).clamp(min=1)
    spread = torch.where(square > 1e-10, square.clamp(min=0).sqrt(), torch.inf)
    return torch.where(seen >= 2, difference * seen.sqrt() / spread, torch.zeros_like(seen))


def _correlation(scatter: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """Correlation of a scatter matrix; constant genes correlate 0 with everything, the diagonal is 0.

    ``floor`` is the sum of squares up to which a gene counts as constant.
    """
    square = scatter.diagonal()
    scale = torch.where(square > floor, square, 0.0).sqrt()
    inverse = torch.where(scale > 1e-9 * scale.max().clamp(min=1e-30), 1 / scale.clamp(min=1e-30), 0.0)
    return (scatter * inverse[:, None]).mul_(inverse).clamp_(-1, 1).fill_diagonal_(0)


def _between(group_mean: Tensor, cells: Tensor, fewest: int = 4) -> Tensor:
    """Correlation of gene profiles over groups; 0 where there are too few groups to say anything."""
    used = group_mean[cells > 0]
    if len(used) < fewest:
        return torch.zeros((group_mean.shape[1],) * 2, dtype=group_mean.dtype, device=group_mean.device)
    used = used - used.mean(0)
    return _correlation(used.T @ used)


def _partial(correlation: Tensor, ridge: float = 0.05) -> Tensor:
    """Partial correlations from a correlation matrix (zero diagonal), with a ridge on the diagonal."""
    full = correlation.clone().fill_diagonal_(1 + ridge)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(full))
    scale = precision.diagonal().sqrt()
    return precision.neg_().div_(scale[:, None]).div_(scale).fill_diagonal_(0)


def cell_values(x: Tensor, total: Tensor, *, shift: float = 10.0) -> Tensor:
    """Input of the cell network: log2 counts per million, standardised over all detected entries, then shifted.

    Entries that were not detected are 0 and all others lie around ``shift`` (TCD-DL, appendix B.4).  Normalise before
    cutting out genes: the mean and spread are those of the whole screen.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` counts or expected counts.
    total
        ``(n_cells,)`` library sizes.
    shift
        Where detected entries are centred.
    """
    seen = x > 1e-8
    million = x / torch.where(total > 0, total, 1.0)[:, None] * 1e6
    y = torch.log2(torch.where(seen, million, 1.0))
    n = seen.sum().clamp(min=2)
    mean = (y * seen).sum() / n
    sd = (((y - mean) * seen).square().sum() / (n - 1)).sqrt().clamp(min=1e-6)
    return torch.where(seen, ((y - mean) / sd + shift).clamp(min=0), torch.zeros_like(y))
