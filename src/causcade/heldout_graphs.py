"""Scores of an edge network on kinds of data it was not trained on, with baselines: the numbers of its card."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from causcade import graph_baselines, metrics
from causcade.pretrain import Recipe, made_by
from causcade.simulate.domains import GraphItem, GraphPrior, draw_graph_item, graph_prior

__all__ = ["card", "score_heldout_graphs"]

_METHODS = {
    "correlation": graph_baselines.correlation,
    "precision": graph_baselines.precision,
    "R2-sortnregress": graph_baselines.r2_sortnregress,
    "LiNGAM": graph_baselines.lingam,
}
_METRICS = ("auprc", "auroc", "f1", "brier_skill", "ece_adaptive")
#: What is taken from the shifted ranges; everything else stays as in training.
_CHANGES: dict[str, tuple[str, ...]] = {
    "graph": ("graphs", "edges", "power", "gene_graphs", "gene_edges"),
    "mechanism": ("weight", "length", "output", "decay", "basal", "strength", "sign_beta", "hill"),
    "noise": ("noises", "heteroscedastic", "noise", "technologies"),
    "interventions": ("full_coverage", "coverage", "value"),
}
_GENE_GRAPHS: dict[str, Any] = {"gene_graphs": {"stochastic_block": 1.0, "scale_free_in": 1.0}, "gene_edges": (2.0,)}


def score_heldout_graphs(
    net: nn.Module, recipe: Recipe, *, n: int = 8, genes: int = 30, cells: int = 1000, rng: int = 10_000
) -> dict[str, dict[str, dict[str, float]]]:
    """Score a network and baselines on every kind of data.

    Parameters
    ----------
    net
        The network.
    recipe
        Recipe it was trained by.
    n
        Data sets of each kind.
    genes, cells
        Their size; half of the cells have an intervention on one gene (none in ``observational``).
    rng
        Seed; training seeds are small numbers.

    Returns
    -------
    ``kind -> method -> metric``, means over data sets. ``seen`` and ``observational`` are as in training, with new
    seeds; no data set of the others is. ``f1`` of the network is at probability 0.5, of baselines for as many edges as
    are true, which favours them. Scores that need probabilities are NaN for them.
    """
    out = {}
    for kind, prior in _kinds(recipe).items():
        rows: dict[str, list[list[float]]] = {}
        for i in range(n):
            item = draw_graph_item(prior, rng, i, genes=genes, cells=cells)
            for method, row in _score(net, item).items():
                rows.setdefault(method, []).append([row[m] for m in _METRICS])
        out[kind] = {
            m: {k: _mean(v) for k, v in zip(_METRICS, zip(*each, strict=True), strict=True)} for m, each in rows.items()
        }
    return out


def _mean(values: tuple[float, ...]) -> float:
    """Mean of what could be scored: a graph without an edge has no AUPRC."""
    found = [v for v in values if not np.isnan(v)]
    return float(np.mean(found)) if found else float("nan")


def _kinds(recipe: Recipe) -> dict[str, GraphPrior]:
    test: dict[str, Any] = {
        "interventional": 1.0,
        "share": (0.5, 0.5),
        "full_coverage": 1.0,
        "hidden": 0.0,
        "missing": 0.0,
    }
    seen = replace(recipe.graph_prior(), **test)
    shifted = replace(graph_prior("linear", shifted=True), **_GENE_GRAPHS)
    kinds = {"seen": seen, "observational": replace(seen, interventional=0.0)}
    for kind, names in _CHANGES.items():
        kinds[kind] = replace(seen, **{name: getattr(shifted, name) for name in names})
    everything: dict[str, Any] = {n: getattr(shifted, n) for names in _CHANGES.values() for n in names}
    return kinds | {"all shifted": replace(seen, **everything)}


def _score(net: nn.Module, item: GraphItem) -> dict[str, dict[str, float]]:
    values, truth = item.values, item.adjacency.numpy()
    with torch.no_grad():
        logits = net(values.nan_to_num(0.0)[None], item.mask[None].float(), values.isnan()[None])[0]
    probability = logits.sigmoid().double().numpy()
    np.fill_diagonal(probability, 0.0)
    out = {"AVICI": metrics.graph_report(truth, probability)}
    array = values.nan_to_num(0.0).double().numpy()
    for name, method in _METHODS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # constant genes of sparse counts
            report = metrics.graph_report(truth, method(array, item.mask.numpy()), calibrated=False)
        out[name] = report | {"f1": report["f1_at_true_count"]}
    return out


def card(config: dict[str, Any], scores: dict[str, dict[str, dict[str, float]]], recipe: Recipe) -> str:
    """Model card in Markdown."""
    lines = [
        f"# {recipe.name}", "",
        f"{recipe.use[:1].upper()}{recipe.use[1:]}.", "",
        f"Network `{config['network']}` ({config['sizes']}), made by `python -m causcade.pretrain`.",
        f"Steps {config['steps']}, {config['seconds'] / 60:.0f} minutes on {config['device']}, seed {recipe.seed}.",
        f"{made_by(config)} Never trained on real cells or a real network.",
        f"sha256 of the weights: {config['sha256']}.", "",
        "The probabilities are calibrated to simulated data without hidden causes. Among genes picked out of thousands",
        "there are hidden causes: read them as a ranking, and the threshold as a choice.", "",
        f"Training prior: `{recipe.graph_prior().to_dict()}`", "",
        "Means over a few data sets of 30 genes and 1,000 cells, half with an intervention on one gene. `seen` and",
        "`observational` (no interventions) are the training prior with new seeds; of the other kinds none was trained on.",
        "F1 at probability 0.5; baselines call as many edges as are true. Adaptive ECE: pairs with p > .05.", "",
        "| kind | method | AUPRC | AUROC | F1 | Brier skill | adaptive ECE |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, methods in scores.items():
        for method, row in methods.items():
            values = " | ".join("" if np.isnan(v) else f"{v:.2f}" for v in row.values())
            lines.append(f"| {kind} | {method} | {values} |")
    return "\n".join(lines) + "\n"
