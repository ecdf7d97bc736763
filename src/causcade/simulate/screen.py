"""A simulated screen as an AnnData, for notebooks, tests and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

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
    # The one import from above in level 0: a screen is only usable with its regimes, and nothing else may write them.
    import causcade as cc
    from causcade.simulate import graphs, grn
    from causcade.simulate._random import torch_generator

    params = {k: v for k, v in locals().items() if k in screen.__annotations__ and k != "rng" and v is not None}
    wanted = n_genes if n_perturbations is None else n_perturbations
    _check(n_genes, n_control, cells_per_perturbation, wanted, depth)
    gen = torch_generator(rng)
    adjacency = graphs.random_graph(n_genes, kind=kind, edges_per_gene=edges_per_gene, rng=gen)
    network = grn.random_grn(adjacency, n_types=n_types, rng=gen)
    import torch

    perturbed = torch.randperm(n_genes, generator=gen)[:wanted].sort().values
    x, codes, types = grn.simulate_cells(
        network,
        n_control=n_control,
        knockouts=perturbed,
        cells_per_knockout=cells_per_perturbation,
        efficacy=efficacy,
        half_response=half_response,
        rng=gen,
    )
    counts = _assay(x, technology, fidelity, depth, gen)
    adata = _to_anndata(counts, codes, types, perturbed, adjacency)
    adata.uns["simulation"] = params
    cc.pp.regimes(adata, perturbation_key="perturbation", control="control")
    return adata
