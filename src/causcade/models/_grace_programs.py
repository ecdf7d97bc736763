"""What the programs of a GraCE-VAE are: the genes they move, the pathways of these, the perturbations that hit them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom
from torch import Tensor

from causcade.networks import Network
from causcade.nn.gracevae import GraceVAE

__all__ = ["assignments", "gene_effects", "pathway_table", "program_table", "sharp"]

_MOVED = 100  # genes of a program that are looked up in pathways
_SHARP = 20.0  # temperature at which the published code reads assignments


@torch.no_grad()
def assignments(net: GraceVAE, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Soft programs ``(n_perturbations, n_latent)`` and strengths ``(n_perturbations,)``."""
    program, strength = net.assignment(torch.arange(net.n_perturbations), temperature)
    return program.double().numpy(), strength.double().numpy()


@torch.no_grad()
def gene_effects(net: GraceVAE, control: Tensor, embedding: Tensor | None = None) -> NDArray[np.float64]:
    """Mean change ``(n_latent, n_genes)`` of control cells when a program's exogenous part is raised by 1."""
    z, _ = net.encode(control, embedding)
    plain = net.decode(net.propagate(z))
    return np.stack(
        [(net.decode(net.propagate(z + step)) - plain).mean(0).double().numpy() for step in torch.eye(net.n_latent)]
    )


def sharp(net: GraceVAE) -> NDArray[np.int64]:
    """The program of each perturbation."""
    return assignments(net, _SHARP)[0].argmax(1).astype(np.int64)


def pathway_table(network: Network, chosen: Sequence[int]) -> pd.DataFrame:
    """Pathways in which chosen genes lie more often than by chance, among the genes that have a pathway.

    Parameters
    ----------
    network
        With edges from pathways to genes.
    chosen
        Positions of genes.

    Returns
    -------
    ``name``, ``score`` (share of the pathway's genes that are chosen), ``pvalue`` (hypergeometric) and ``fdr``
    (Benjamini-Hochberg), least first.
    """
    empty = pd.DataFrame({"name": [], "score": [], "pvalue": [], "fdr": []})
    if "PG" not in network.edges or not network.edges["PG"].shape[1]:
        return empty
    pathway, gene = network.edges["PG"]
    listed = np.unique(gene)
    hit = np.isin(gene, np.asarray(chosen))
    n_hit = np.bincount(pathway[hit], minlength=len(network.pathways))
    size = np.bincount(pathway, minlength=len(network.pathways))
    drawn = int(np.isin(listed, np.asarray(chosen)).sum())
    some = np.flatnonzero(n_hit > 0)
    if not len(some):
        return empty
    pvalue = hypergeom.sf(n_hit - 1, len(listed), size, drawn)[size > 0]
    fdr = np.full(len(size), np.nan)
    fdr[size > 0] = false_discovery_control(pvalue)
    every = np.full(len(size), np.nan)
    every[size > 0] = pvalue
    table = pd.DataFrame(
        {"name": network.pathways[some], "score": n_hit[some] / size[some], "pvalue": every[some], "fdr": fdr[some]}
    )
    return table.sort_values(["pvalue", "name"], ignore_index=True)


def program_table(
    effects: NDArray[np.float64],
    program: NDArray[np.int64],
    strength: NDArray[np.float64],
    perturbations: Sequence[str],
    genes: NDArray[np.str_],
    network: Network | None,
    n_top: int,
) -> pd.DataFrame:
    """Perturbations, genes and pathways of every program that a perturbation acts on; one row each."""
    parts = []
    for k in np.unique(program):
        hit = np.flatnonzero(program == k)
        hit = hit[np.argsort(-np.abs(strength[hit]), kind="stable")]
        order = np.argsort(-np.abs(effects[k]), kind="stable")
        told = [
            pd.DataFrame(
                {"kind": "perturbation", "name": [perturbations[int(i)] for i in hit], "score": strength[hit]}
            ),
            pd.DataFrame({"kind": "gene", "name": genes[order[:n_top]], "score": effects[k][order[:n_top]]}),
        ]
        if network is not None:
            few = min(_MOVED, len(genes) // 10 + 1)  # more would be most of a small panel
            found = pathway_table(network, order[:few].tolist())[:n_top]
            told.append(found.drop(columns="pvalue").assign(kind="pathway"))
        parts += [part.assign(program=f"P{k}") for part in told if len(part)]
    return pd.concat(parts, ignore_index=True).reindex(columns=["program", "kind", "name", "score", "fdr"])
