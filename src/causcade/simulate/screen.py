"""A simulated screen as an AnnData, for notebooks, tests and examples."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData
    from torch import Generator, Tensor

    from causcade.simulate._random import Rng
    from causcade.simulate.grn import HalfResponse

__all__ = ["screen"]


def screen(
    n_genes: int = 100,
    *,
    kind: str = "sparse_regulators",
    n_control: int = 500,
    cells_per_perturbation: int = 20,
    n_perturbations: int | None = None,
    n_types: int = 3,
    technology: str = "10x-chromium",
    fidelity: str = "low",
    depth: float | None = None,
    efficacy: float = 1.0,
    half_response: HalfResponse = "wild-type",
    edges_per_gene: float = 2.0,
    rng: Rng = None,
) -> AnnData:
    """Simulate a perturbation screen of which the truth is known.

    A random network is drawn, its cells follow stochastic differential equations with Hill kinetics
    (:func:`simulate_cells`), and an assay counts their molecules.

    Parameters
    ----------
    n_genes
        Number of genes.
    kind
        Kind of network, see :func:`random_graph`.
    n_control
        Number of control cells.
    cells_per_perturbation
        Number of cells of every perturbation.
    n_perturbations
        How many genes are perturbed, each alone, chosen at random. ``None``: all of them.
    n_types
        Number of cell types.
    technology
        Assay, a key of ``TECHNOLOGIES``.
    fidelity
        ``"low"``: counts. ``"medium"``: means of 100 counts. ``"high"``: expected counts.
    depth
        Median library size before dropout, in molecules. ``None``: that of the technology (10x-chromium: 90 to 400).
    efficacy
        Share of the production that a perturbation takes away: 1 = knock-out, below 0 = activation.
    half_response
        See :func:`simulate_cells`.
    edges_per_gene
        Mean number of direct causes of a gene.
    rng
        Seed or generator of everything: network, kinetics, cells, assay.

    Returns
    -------
    AnnData
        ``.X`` : float32 CSR, counts (control cells first).
        ``.obs`` : ``perturbation`` ("control", or the name of the gene), ``cell_type``.
        ``.varp["true_graph"]`` : float32 CSR, ``[cause, effect]``, 1 where cause -> effect.
        ``.varp["true_causes"]`` : float32 CSR, ``[cause, effect]``, 1 where there is a path from cause to effect.
        ``.uns["simulation"]`` : the arguments.
        ``.uns["regimes"]`` : as ``pp.regimes`` writes it, so that ``tl`` functions can follow.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=5, rng=0)
    >>> adata.shape
    (150, 20)
    """
    # The one import from above in level 0: without regimes a screen is of little use, and only pp.regimes may write them.
    import torch

    import causcade as cc
    from causcade.simulate import graphs, grn
    from causcade.simulate._random import torch_generator

    wanted = n_genes if n_perturbations is None else n_perturbations
    _check(n_genes, n_control, cells_per_perturbation, wanted, n_types)
    gen = torch_generator(rng)
    adjacency = graphs.random_graph(n_genes, kind=kind, edges_per_gene=edges_per_gene, rng=gen)
    perturbed = torch.randperm(n_genes, generator=gen)[:wanted].sort().values
    x, codes, types = grn.simulate_cells(
        grn.random_grn(adjacency, n_types=n_types, rng=gen),
        n_control=n_control,
        knockouts=perturbed,
        cells_per_knockout=cells_per_perturbation,
        efficacy=efficacy,
        half_response=half_response,
        sampling=grn.Sampling(dt=0.05, interval=0.4),  # as in the screens that the released weights learnt from
        rng=gen,
    )
    adata = _to_anndata(_assay(x, technology, fidelity, depth, gen), codes, types, perturbed, adjacency)
    adata.uns["simulation"] = {
        "kind": kind,
        "n_control": n_control,
        "cells_per_perturbation": cells_per_perturbation,
        "n_perturbations": wanted,
        "n_types": n_types,
        "technology": technology,
        "fidelity": fidelity,
        "efficacy": efficacy,
        "half_response": half_response,
        "edges_per_gene": edges_per_gene,
        **({} if depth is None else {"depth": depth}),
        **({"rng": rng} if isinstance(rng, int) else {}),
    }
    cc.pp.regimes(adata, perturbation_key="perturbation", control="control")
    return adata


def _check(n_genes: int, n_control: int, cells: int, wanted: int, n_types: int) -> None:
    sizes = {"n_control": n_control, "cells_per_perturbation": cells}
    for what, number in {"n_genes": n_genes, **sizes, "n_perturbations": wanted, "n_types": n_types}.items():
        if isinstance(number, bool) or not isinstance(number, Integral):
            msg = f"{what} must be a whole number; got {number!r}."
            raise ValueError(msg)
    for what, number in sizes.items():
        if number < 1:
            msg = f"{what} must be at least 1; got {number}."
            raise ValueError(msg)
    if not 1 <= wanted <= n_genes:
        msg = f"n_perturbations must be from 1 to n_genes={n_genes}, or None for all genes; got {wanted}."
        raise ValueError(msg)


def _assay(x: Tensor, technology: str, fidelity: str, depth: float | None, gen: Generator) -> Tensor:
    """Counts of the cells, by one setting of a technology."""
    from causcade.simulate import noise

    tech = noise.technology(technology, rng=gen)
    if depth is not None:
        if not 0 < depth < math.inf:
            msg = f"depth is the median library size in molecules, a number above 0; got {depth}."
            raise ValueError(msg)
        tech = replace(tech, library_mean=math.log(depth))
    return noise.count(noise.add_technical_noise(x, tech, rng=gen), fidelity, rng=gen)


def _to_anndata(counts: Tensor, codes: Tensor, types: Tensor, perturbed: Tensor, adjacency: Tensor) -> AnnData:
    """Put arrays into an AnnData with names."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from causcade.simulate.graphs import ancestors

    n_cells, n_genes = counts.shape
    digits = max(3, len(str(n_genes)))
    genes = np.array([f"G{i + 1:0{digits}d}" for i in range(n_genes)])
    labels = np.concatenate([["control"], genes[perturbed.numpy()]])
    obs = pd.DataFrame(
        {
            "perturbation": pd.Categorical.from_codes(codes.numpy(), categories=labels),
            "cell_type": pd.Categorical([f"type{i + 1}" for i in types.tolist()]),
        },
        index=[f"cell{i + 1}" for i in range(n_cells)],
    )
    adata = AnnData(csr_matrix(counts.numpy().astype(np.float32)), obs=obs, var=pd.DataFrame(index=genes))
    adata.varp["true_graph"] = csr_matrix(adjacency.numpy().astype(np.float32))
    adata.varp["true_causes"] = csr_matrix(ancestors(adjacency).numpy().astype(np.float32))
    return adata
