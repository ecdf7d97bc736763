"""What the likelihood needs of cells: sums by environment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cells", "summarise", "upper_triangle"]


@dataclass
class Cells:
    """Cells and their sums by environment; ``k`` environments, ``d`` genes, ``b`` cells.

    Attributes
    ----------
    values, codes
        ``(b, d)`` values and ``(b,)`` environments; None where sums are enough (linear mechanisms).
    response
        ``(b, d)`` what is normally distributed given the causes: the values, or their logarithm (0 at zeros).
    counts, zeros, first, second, jacobian
        ``(k, d)`` number of cells with a response, of zeros, sums of the response and of its squares, and sum of the
        log derivative of the response. All of them, as the sums of residuals, are times ``weight``.
    means, scatter
        ``(k, d)`` means of the values, and ``(k, d (d + 1) / 2)`` upper triangles of centred second moments (sums), in
        double precision, for linear mechanisms.
    weight
        What a cell counts: number of all cells / of these.
    """

    values: Tensor | None
    codes: Tensor | None
    response: Tensor | None
    counts: Tensor
    zeros: Tensor
    first: Tensor
    second: Tensor
    jacobian: Tensor
    means: Tensor | None = None
    scatter: Tensor | None = None
    weight: float = 1.0


def upper_triangle(n: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the upper triangle, with the diagonal."""
    rows, columns = torch.triu_indices(n, n, device=device)
    return rows, columns


def summarise(
    values: Tensor, codes: Tensor, n: int, *, logarithm: bool = False, moments: bool = False, weight: float = 1.0
) -> Cells:
    """Sum cells by environment.

    Parameters
    ----------
    values, codes
        ``(b, d)`` and ``(b,)``, the latter in ``0 .. n - 1``.
    n
        Number of environments.
    logarithm
        The response is the logarithm of values above 0, and zeros are counted apart.
    moments
        Keep means and second moments instead of the cells.
    weight
        What a cell counts.
    """
    present = (values > 0).to(values.dtype) if logarithm else torch.ones_like(values)
    response = torch.where(values > 0, values, 1.0).log() if logarithm else values

    def by_environment(x: Tensor) -> Tensor:
        return weight * x.new_zeros(n, *x.shape[1:]).index_add_(0, codes, x)

    first, second, third, fourth = (by_environment(x) for x in (present, 1 - present, response, response**2))
    jacobian = by_environment(-response if logarithm else torch.zeros_like(values))
    cells = Cells(values, codes, response, first, second, third, fourth, jacobian, weight=weight)
    if moments:
        cells.means, cells.scatter = _moments(values, codes, n, weight)
        cells.values = cells.codes = cells.response = None
    return cells


def _moments(values: Tensor, codes: Tensor, n: int, weight: float) -> tuple[Tensor, Tensor]:
    """Means and centred second moments, in double precision: residuals may be small differences of them."""
    exact = values.double()
    d = values.shape[1]
    number = torch.bincount(codes, minlength=n).clamp(min=1)[:, None]
    means = exact.new_zeros(n, d).index_add_(0, codes, exact) / number
    centred = exact - means[codes]
    rows, columns = upper_triangle(d, values.device)
    scatter = exact.new_zeros(n, len(rows))
    for at in torch.arange(len(values), device=values.device).split(4096):  # the products are d / 2 times the cells
        scatter.index_add_(0, codes[at], centred[at][:, rows] * centred[at][:, columns])
    return means, weight * scatter
