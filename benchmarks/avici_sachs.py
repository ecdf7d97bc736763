"""Protein signalling (Sachs 2005): real cells, five interventions, and the graph biologists agree on."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch

from benchmarks.avici_graphs import SCORES, oriented
from causcade import datasets, graph_baselines, pretrained
from causcade.metrics import graph_report, r2_sortability, varsortability
from causcade.simulate.domains import graph_values

METRICS = ["auprc", "auroc", "shd", "sid", "f1", "precision", "recall", "direction_accuracy", "n_called"]


def read() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Values (logarithms), mask and consensus graph [cause, effect]."""
    adata = datasets.sachs()
    x = torch.from_numpy(np.log(np.asarray(adata.X, dtype=np.float64)))
    label = adata.obs["perturbation"].astype(str).to_numpy()
    mask = torch.from_numpy(np.stack([label == name for name in adata.var_names], axis=1))
    return x, mask, np.asarray(adata.varp["consensus"], dtype=bool)


def scores(weights: list[str]) -> pd.DataFrame:
    """All methods, on control cells and on all of them. Scores without a scale call as many edges as are true."""
    x, mask, truth = read()
    control = ~mask.any(1)
    rows = []
    for kind, cells in (("observational", control), ("interventional", torch.ones_like(control))):
        values, known = graph_values(x[cells], "scm"), mask[cells]
        arrays = values.double().numpy(), known.numpy()
        graphs = {f"AVICI {n}": _probabilities(n, values, known) for n in weights}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graphs |= {name: method(*arrays) for name, method in SCORES.items()}
            graphs["sortnregress"] = SCORES["sortnregress"](x[cells].numpy(), arrays[1])  # z scores have one variance
            graphs["PC"] = graph_baselines.pc(*arrays)
            graphs["GES" if kind == "observational" else "GIES"] = (
                graph_baselines.ges if kind == "observational" else graph_baselines.gies
            )(*arrays)
        for name, graph in graphs.items():
            rows.append({"cells": kind, "method": name, **_report(name, graph, truth)})
    return pd.DataFrame(rows)


def sortability() -> dict[str, float]:
    """How far variance and predictability give the consensus order away, in control cells."""
    x, mask, truth = read()
    control = x[~mask.any(1)].numpy()
    return {"varsortability": varsortability(control, truth), "R2-sortability": r2_sortability(control, truth)}


def _probabilities(name: str, values: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        out = pretrained.load(name).net(values[None], mask[None].float())[0].sigmoid().double().numpy()
    np.fill_diagonal(out, 0.0)
    return out


def _report(name: str, graph: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    if name in SCORES:
        off = graph[~np.eye(len(graph), dtype=bool)]
        threshold = max(float(np.sort(off)[-int(truth.sum())]), 1e-12)  # a score of 0 is no call
        full = graph_report(truth, graph, threshold=threshold, calibrated=False)
        return {k: full[k] for k in METRICS}
    ranked = graph_report(truth, graph)
    point = graph_report(truth, oriented(graph, truth) if name in ("PC", "GES", "GIES") else graph)
    out = {k: (ranked if k in ("auprc", "auroc", "direction_accuracy") else point)[k] for k in METRICS}
    return out | ({k: ranked[k] for k in ("brier_skill", "ece")} if name.startswith("AVICI") else {})
