"""The causal graph: the question, its arguments, and where the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from causcade import _keys
from causcade._checks import at_least, generator
from causcade._device import pick_device
from causcade.graphs import (
    MOST_CELLS,
    GraphCells,
    GraphScores,
    GraphSettings,
    GraphValues,
    Others,
    read_graph_cells,
    score_graph,
)
from causcade.pp import _store
from causcade.tl._checks import as_set_up, check_place, load_weights, seed_of

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.models.avici import AVICI


def graph(
    adata: AnnData,
    genes: Sequence[str],
    *,
    model: str | Path | AVICI = "avici-grn",
    layer: str | None = None,
    values: GraphValues = "counts",
    batch_key: str | None = None,
    others: Others = "drop",
    max_cells: int = MOST_CELLS,
    n_draws: int = 10,
    subset_size: int = 100,
    fdr: float = 0.2,
    threshold: float | Literal["f1"] | None = None,
    dag: bool = True,
    accelerator: str = "auto",
    devices: int | str = "auto",
    rng: int | np.random.Generator | None = 0,
    regimes_key: str | None = _keys.REGIMES,
    key_added: str = _keys.GRAPH,
    progress_bar: bool = True,
) -> None:
    """Say for each two of some genes how likely one directly causes the other.

    Amortized causal structure learning (AVICI): a network, trained on simulated cells whose graph is known, sees your
    cells and which genes were perturbed in them, and gives every edge a probability. "Direct" is among `genes`: what
    acts through a gene that is not in the list looks direct, and a cause that is not in the list, but shared, can look
    like an edge. Next to the probabilities stand their spread and the simple answers: correlation, partial correlation
    and, where the cause was perturbed, whether the effect changed.

    Parameters
    ----------
    adata
        Annotated data with regimes (:func:`causcade.pp.regimes`), unless `regimes_key` is None. For a MuData pass
        ``mdata["rna"]``.
    genes
        Nodes of the graph: 2 to 1,000 names, best at most 100.
    model
        A released name (:func:`causcade.pretrained.available`), a folder with weights, or an AVICI object. The
        weights ``"avici-grn"`` are for counts and expression, ``"avici-scm"`` for log and continuous values.
    layer
        Layer with the values; ``None`` = ``.X``. What is left at its default here and in the next two is taken from
        the model's ``setup_anndata`` when `model` is an object of the same data.
    values
        What they are: ``"counts"`` (raw, whole), ``"expression"`` (non-negative, linear scale), ``"log"``
        (log-normalised) or ``"continuous"`` (any real numbers, NaN = missing: flow cytometry, proteins). Never
        guessed. The network sees the former two as logarithms of counts per million, in which zeros stay zeros, and
        the latter two as z scores of each gene, in which zeros are values like others.
    batch_key
        Column of ``.obs`` (batch, cell type, donor). Its groups are brought to the level of their own controls. Cells
        of a group without controls are left out.
    others
        What to do with cells in which genes outside the list, or unknown ones, were perturbed: ``"drop"``, or
        ``"keep"`` as cells that no one is known to have touched. Used without a choice are controls, and perturbations
        all of whose targets are in the list.
    max_cells
        Most cells. Of more a random part is taken: at most half of it controls, as long as there are perturbed cells
        enough, and all perturbations as evenly as they allow. The published network (preset ``"paper"``) takes seconds
        per thousand.
    n_draws
        Half-samples of the cells, in pairs that share none, that give the spread; rounded up to even, 0 = no spread.
    subset_size
        Most genes in one pass of the network. More genes are dealt into sets in which every two meet, and the logits
        of a pair are averaged. Relations through genes outside a set then look direct in that set: fewer genes give a
        better graph.
    fdr
        Edges are called down to the lowest probability at which the expected share of false ones among them is at most
        this. It holds as far as the probabilities are calibrated.
    threshold
        Call edges from this probability on instead; ``"f1"``: from the one at which F1 of the called edges is expected to
        be best (:func:`causcade.metrics.f1_threshold`), which calls more edges, and more false ones, than `fdr` where
        edges are uncertain.
    dag
        Also store the called edges less the weakest of every cycle.
    accelerator, devices
        ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device.
    rng
        Seed or generator; decides samples, halves and sets. The same seed gives the same result.
    regimes_key
        ``key_added`` of :func:`causcade.pp.regimes`; None if no cell was perturbed (or by nobody knows what): all cells
        count as controls.
    key_added
        Stem of the keys below.
    progress_bar
        Show one.

    Returns
    -------
    None. Writes, for ``key_added="graph"``, float32 CSR matrices (n_vars, n_vars), [cause, effect], that are empty
    outside `genes` and on the diagonal:

    `.varp["graph"]`
        Probability of an edge; 0 for the edges of a gene that does not vary, of which nothing is known.
    `.varp["graph_sd"]`
        Its approximate standard error, with respect to the cells; NaN with fewer than 6 cells. With `n_draws` only.
    `.varp["graph_dag"]`
        Probabilities of the called edges less the weakest of every cycle. With `dag` only.
    `.varp["graph_correlation"]`, `.varp["graph_precision"]`
        Absolute correlation and partial correlation, over the cells in which the effect was not perturbed.
    `.varp["graph_knockout_t"]`
        Size of Welch's t of the effect, cells in which the cause was perturbed against controls. Rows of perturbed
        causes only; NaN where there are fewer than two cells or none varies.
    `.uns["graph"]` : dict
        ``names`` (the genes), ``model``, ``weights`` (name@sha256), ``threshold`` (infinite if no edge is sure enough),
        ``n_called``, ``n_false_expected`` (sum of ``1 - probability`` over called edges), ``varsortability`` and
        ``r2_sortability`` (how far sorting genes by variance, or predictability, would give the called graph: 0.5 = not
        at all, 1 = as well; NaN without an edge), ``n_cells``, ``n_control``, ``perturbed`` (which genes were), ``params``.

    Raises
    ------
    KeyError
        If regimes, the layer, a column or a gene is missing.
    ValueError
        If values are not what `values` says, a gene is named twice or has fewer than 3 cells in which it was not
        perturbed, or a parameter is out of range. `adata` is unchanged after any error.

    Warns
    -----
    UserWarning
        If genes do not vary, none of them was perturbed, there are fewer than 20 controls, cells lie in groups without a
        control, genes are scored in sets, or the weights are for values of another kind.

    Examples
    --------
    >>> import causcade as cc
    >>> cc.pp.regimes(adata, "perturbation", "control")
    >>> cc.tl.graph(adata, ["GATA1", "KLF1", "TAL1", "MYC"])
    >>> cc.get.graph(adata)
    """
    check_place(adata, key_added, _keys.REGIMES if regimes_key is None else regimes_key, "graph")
    settings = GraphSettings(
        n_draws=at_least(n_draws, 0, "n_draws"),
        subset_size=at_least(subset_size, 2, "subset_size"),
        fdr=_share(fdr, "fdr"),
        threshold=_threshold(threshold),
        device=pick_device(accelerator, devices),
        progress_bar=progress_bar,
    )
    if not isinstance(dag, bool | np.bool_):
        msg = f"dag must be True or False, not {dag!r}."
        raise ValueError(msg)
    gen = generator(rng)
    weights = load_weights(model, "AVICI")
    how: dict[str, Any] = dict(
        zip(
            ("layer", "values", "batch_key", "regimes_key"),
            as_set_up(model, adata, layer, values, batch_key, regimes_key),  # type: ignore[arg-type]
            strict=True,
        )
    )
    cells = read_graph_cells(adata, genes, **how, others=others, max_cells=max_cells, rng=gen)
    scores = score_graph(cells, weights, settings, gen)
    params = _describe(how, settings) | {"others": others, "max_cells": int(max_cells), "dag": bool(dag)}
    result = {
        "names": np.asarray(cells.genes, dtype=object),
        "model": weights.name,
        "weights": weights.label,
        **_summary(cells, scores),
        "params": params | seed_of(rng),
    }
    _write(adata, key_added, _matrices(adata, key_added, cells, scores, dag=dag), result)


def _threshold(value: Any) -> float | Literal["f1"] | None:
    if value is None or (isinstance(value, str) and value == "f1"):
        return value  # type: ignore[return-value]
    return _share(value, "threshold", " or 'f1'")


def _share(value: Any, name: str, more: str = "") -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        msg = f"{name} must be a number from 0 to 1{more}, not {value!r}."
        raise ValueError(msg)
    return float(value)


def _describe(how: dict[str, Any], settings: GraphSettings) -> dict[str, Any]:
    """Say how a result was made, in values that files can hold."""
    chosen = {"fdr": settings.fdr} if settings.threshold is None else {"threshold": settings.threshold}
    return {
        "layer": "X" if how["layer"] is None else how["layer"],
        "values": how["values"],
        "batch_key": how["batch_key"] or "",
        "regimes_key": how["regimes_key"] or "",
        "n_draws": settings.n_draws + settings.n_draws % 2,
        "subset_size": settings.subset_size,
        **chosen,
    }


def _summary(cells: GraphCells, scores: GraphScores) -> dict[str, Any]:
    return {
        "threshold": scores.threshold,
        "n_called": scores.n_called,
        "n_false_expected": scores.n_false_expected,
        "varsortability": scores.varsortability,
        "r2_sortability": scores.r2_sortability,
        "n_cells": len(cells),
        "n_control": int(cells.control.sum()),
        "perturbed": np.asarray(cells.perturbed, dtype=object),
    }


def _matrices(adata: AnnData, key: str, cells: GraphCells, scores: GraphScores, *, dag: bool) -> dict[str, Any]:
    """Parts of a result by their keys; None for one that is not made."""
    place = adata.var_names.astype(str).get_indexer(cells.genes)
    off = ~np.eye(len(place), dtype=bool)
    acted = off & np.isin(cells.genes, cells.perturbed)[:, None]
    parts = {
        key: (scores.probability, off),
        _keys.sd(key): (scores.sd, off),
        _keys.dag(key): (scores.probability if dag else None, scores.dag),
        _keys.baseline(key, _keys.CORRELATION): (scores.correlation, off),
        _keys.baseline(key, _keys.PRECISION): (scores.precision, off),
        _keys.baseline(key, _keys.KNOCKOUT_T): (scores.knockout_t, acted),
    }
    return {name: None if x is None else _spread_out(x, at, place, adata.n_vars) for name, (x, at) in parts.items()}


def _spread_out(values: np.ndarray, where: np.ndarray, place: np.ndarray, n_vars: int) -> sparse.csr_matrix:
    """Some entries of a matrix of the graph's genes, at their places among all genes; zeros are kept."""
    causes, effects = np.nonzero(where)
    at = (place[causes], place[effects])
    return sparse.csr_matrix((values[causes, effects].astype(np.float32), at), shape=(n_vars, n_vars))


def _write(adata: AnnData, key: str, parts: dict[str, Any], result: dict[str, Any]) -> None:
    """Store a graph; all values exist before the first is written."""
    _store(adata, key, result)  # first: a view becomes actual here, and stays the same object after
    for name, values in parts.items():
        if values is not None:
            adata.varp[name] = values
        elif name in adata.varp:  # nothing of an earlier call may stay behind
            del adata.varp[name]
