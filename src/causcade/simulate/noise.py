"""Technical noise of single-cell assays: outlier genes, library size, dropout, counting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch
from torch import Tensor

from causcade.simulate._random import Rng, torch_generator

__all__ = ["FIDELITIES", "TECHNOLOGIES", "Technology", "add_technical_noise", "count", "technology"]


@dataclass(frozen=True)
class Technology:
    """Noise of one assay (order of application: outliers, library size, dropout, counts).

    Attributes
    ----------
    outlier_share, outlier_mean, outlier_sd
        Share of outlier genes and the log-normal factor on them.
    library_mean, library_sd
        Log-normal size of a cell's library.
    dropout_shape, dropout_percentile
        Logistic dropout in ``log(x + 1)`` around this percentile of the whole matrix.
    """

    outlier_share: float
    outlier_mean: float
    outlier_sd: float
    library_mean: float
    library_sd: float
    dropout_shape: float
    dropout_percentile: float


#: Published settings; ``10x-chromium`` exists in three profiles.
TECHNOLOGIES: dict[str, tuple[Technology, ...]] = {
    "10x-chromium": (
        Technology(0.01, 3, 1, 6, 0.3, 8, 74),
        Technology(0.01, 3, 1, 6, 0.4, 8, 82),
        Technology(0.01, 5, 1, 4.5, 0.7, 8, 45),
    ),
    "illumina": (Technology(0.01, 0.8, 1, 7, 0.4, 8, 80),),
    "drop-seq": (Technology(0.01, 3, 1, 4.4, 0.8, 8, 85),),
    "smart-seq": (Technology(0.01, 4.5, 1, 10.8, 0.55, 2, 92),),
}
FIDELITIES = ("high", "medium", "low")


def technology(name: str, *, mix: bool = False, rng: Rng = None) -> Technology:
    """Draw one setting of a named technology.

    Parameters
    ----------
    name
        A key of :data:`TECHNOLOGIES`.
    mix
        Draw every parameter on its own from the profiles (as the published pipeline does) instead of one profile.
    rng
        Seed or generator.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in TECHNOLOGIES:
        close = get_close_matches(str(name).lower(), TECHNOLOGIES, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        msg = f"Unknown technology {name!r}.{hint} Known: {', '.join(TECHNOLOGIES)}."
        raise ValueError(msg)
    gen = torch_generator(rng)
    profiles = TECHNOLOGIES[name]

    def pick() -> Technology:
        return profiles[int(torch.randint(len(profiles), (1,), generator=gen))]

    if not mix:
        return pick()
    fields = ("outlier_mean", "library_mean", "library_sd", "dropout_percentile")
    return replace(pick(), **{field: getattr(pick(), field) for field in fields})


def add_technical_noise(x: Tensor, tech: Technology, *, rng: Rng = None) -> Tensor:
    """Outlier genes, library size and dropout; one setting for the whole screen.

    Parameters
    ----------
    x
        ``(n_cells, n_genes)`` expression from the dynamics.
    tech
        The setting.
    rng
        Seed or generator.

    Returns
    -------
    Expected counts ``(n_cells, n_genes)``: the *high fidelity* values, and the rates of :func:`count`.

    Raises
    ------
    ValueError
        If ``x`` is no matrix, or has no entry.
    """
    if x.ndim != 2 or not x.numel():
        msg = f"x must be (n_cells, n_genes) with at least one of each; got shape {tuple(x.shape)}."
        raise ValueError(msg)
    gen = torch_generator(rng, x.device)
    n_cells, n_genes = x.shape
    normal = torch.randn(n_genes, generator=gen, device=x.device)
    outlier = torch.rand(n_genes, generator=gen, device=x.device) < tech.outlier_share
    x = x * torch.where(outlier, (tech.outlier_mean + tech.outlier_sd * normal).exp(), 1.0)
    library = (tech.library_mean + tech.library_sd * torch.randn(n_cells, generator=gen, device=x.device)).exp()
    total = x.sum(1)
    x = x * (library / torch.where(total > 0, total, 1.0))[:, None]
    logged = torch.log1p(x)
    middle = _percentile(logged, tech.dropout_percentile, gen)
    keep = torch.sigmoid(tech.dropout_shape * (logged - middle))
    return x * (torch.rand(x.shape, generator=gen, device=x.device) < keep)


def _percentile(x: Tensor, q: float, gen: torch.Generator, most: int = 1_000_000) -> Tensor:
    """Percentile over all entries, from a random million where there are more."""
    flat = x.reshape(-1)
    if len(flat) > most:
        flat = flat[torch.randint(len(flat), (most,), generator=gen, device=x.device)]
    return torch.quantile(flat, q / 100)


def count(rate: Tensor, fidelity: str = "low", *, rng: Rng = None) -> Tensor:
    """Molecule counts of expected counts.

    Parameters
    ----------
    rate
        Expected counts.
    fidelity
        ``"high"`` returns them as they are, ``"medium"`` the mean of 100 Poisson draws, ``"low"`` one draw (UMIs).
    rng
        Seed or generator.

    Raises
    ------
    ValueError
        If the fidelity is unknown, or a rate that is to be counted is negative or not a number.
    """
    if fidelity not in FIDELITIES:
        msg = f"Unknown fidelity {fidelity!r}; choose one of {FIDELITIES}."
        raise ValueError(msg)
    if fidelity == "high":
        return rate
    if not bool((rate >= 0).all()):
        msg = "rate must not be negative or NaN: give expected counts, as add_technical_noise returns them."
        raise ValueError(msg)
    gen = torch_generator(rng, rate.device)
    if fidelity == "low":
        return torch.poisson(rate, generator=gen)
    return torch.poisson(rate * 100, generator=gen) / 100  # the mean of 100 draws has exactly this law
