"""Untried combinations: every method on one split of a screen, and a simulated screen with known programs."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, average_precision_score

from causcade import effect_baselines, metrics
from causcade.models import GraCEVAE
from causcade.networks import Network, match_network, rewire
from causcade.simulate import combination_screen

CONTROL = "control"
N_TOP = 20  # changed genes of a regime
N_CELLS = 300  # generated for each regime


@dataclass
class Case:
    """A screen with log values, which of its cells are for training, and its network."""

    adata: ad.AnnData
    train: np.ndarray
    network: Network | None
    epochs: int
    truth: dict[str, np.ndarray] | None = None

    def cells(self, label: str, *, train: bool) -> np.ndarray:
        """Values of the cells with a label."""
        mine = (self.adata.obs["perturbation"] == label).to_numpy() & (self.train == train)
        return np.asarray(self.adata.X[mine], dtype=np.float64)

    @property
    def tests(self) -> dict[str, list[str]]:
        """Labels that are looked at: singles by cells held out, doubles that were not in training."""
        labels = self.adata.obs["perturbation"].astype(str)
        held = sorted(set(labels[~self.train]) - {CONTROL})
        return {"singles": [p for p in held if "+" not in p], "doubles": [p for p in held if "+" in p]}


def held_out(adata: ad.AnnData, seed: int, share: float = 0.2) -> np.ndarray:
    """Cells of training: not the doubles whose parts are there alone, and not a share of the cells of every single."""
    gen = np.random.default_rng(seed)
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    alone = {p for p in labels if "+" not in p}
    doubles = np.array(["+" in p and set(p.split("+")) <= alone for p in labels])
    train = ~doubles
    for p in sorted(alone):
        mine = np.flatnonzero(labels == p)
        train[gen.choice(mine, round(share * len(mine)), replace=False)] = False
    return train


def real(path: str, network: pd.DataFrame | None, seed: int, epochs: int) -> Case:
    """A screen from a file with log values; of several data sets in it, Norman's."""
    adata = ad.read_h5ad(path)
    if "dataset" in adata.obs and "norman19" in set(adata.obs["dataset"]):
        adata = adata[adata.obs["dataset"] == "norman19"].copy()
    adata.X = np.asarray(adata.X.todense() if hasattr(adata.X, "todense") else adata.X, dtype=np.float32)
    found = None if network is None else match_network(network, adata)
    return Case(adata, held_out(adata, seed), found, epochs)


def simulated(seed: int, epochs: int, *, genes: int = 120) -> Case:
    """Six programs that act on one another; each of nine perturbations shifts one, ten pairs are held out."""
    # seeds from 10,000 on served to make choices
    adata = combination_screen(genes, rng=20_000 + seed)
    network = match_network(adata.uns["network"], adata)
    return Case(adata, held_out(adata, seed), network, epochs, adata.uns["programs"])


def _model(
    variant: str = "grace", *, corrupt: bool = False, trained: bool = True, **choices: str
) -> Callable[[Case, int], tuple[dict, dict]]:
    def run(case: Case, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        train = case.adata[case.train].copy()
        network = None if "cmvae" in variant else case.network
        if corrupt and network is not None:
            network = rewire(network, 1.0, rng=seed)
        GraCEVAE.setup_anndata(train, "perturbation", CONTROL, values="log", targets={})
        more = choices if case.truth is None else {"n_latent": len(case.truth["graph"]), **choices}
        more |= {} if trained else {"learning_rate": 1e-12, "temperature": 20.0}
        model = GraCEVAE(train, network, variant, **more)
        model.train(case.epochs if trained else 1, rng=seed, accelerator="cpu", progress_bar=False)
        asked = [p for some in case.tests.values() for p in some]
        made = {p: np.asarray(model.predict(p, N_CELLS, rng=seed).X, dtype=np.float64) for p in asked}
        return made, {} if case.truth is None else recovered(model, case.truth)

    return run


def recovered(model: GraCEVAE, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Score the programs of perturbations (adjusted Rand index) and the latent graph (average precision).

    Programs are matched to the true ones so that most perturbations agree; an edge's score is its absolute weight, and its
    direction counts.
    """
    share = model.get_assignments().drop(columns="strength").loc[[f"X{k}" for k in range(len(truth["program"]))]]
    found, n = share.to_numpy().argmax(1), len(truth["graph"])
    agree = np.zeros((n, n))
    np.add.at(agree, (truth["program"], found), 1)
    place = linear_sum_assignment(-agree)[1]
    weights = np.abs(model.get_latent_graph().to_numpy())[np.ix_(place, place)]
    off = ~np.eye(n, dtype=bool)
    edge = truth["graph"][off] != 0
    score = average_precision_score(edge, weights[off]) if edge.any() else float("nan")
    return {
        "program ARI": adjusted_rand_score(truth["program"], found),
        "graph AUPRC": score,
        "graph AUPRC, chance": float(edge.mean()),
    }


def _baseline(name: str) -> Callable[[Case, int], tuple[dict, dict]]:
    def run(case: Case, _: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        labels = case.adata.obs["perturbation"].astype(str).to_numpy()[case.train]
        regimes = sorted(set(labels) - {CONTROL})
        parts = sorted({part for p in regimes for part in p.split("+")})
        rows = lambda several: np.array([[part in p.split("+") for part in parts] for p in several], dtype=float)
        codes = np.array([0 if p == CONTROL else 1 + regimes.index(p) for p in labels])
        fit = getattr(effect_baselines, name)(np.asarray(case.adata.X[case.train]), codes, rows(regimes))
        asked = [p for some in case.tests.values() for p in some]
        more = grouped(case) if name == "additive" and case.truth is not None else {}
        return dict(zip(asked, fit.predict(rows(asked)), strict=True)), more

    return run


def grouped(case: Case) -> dict[str, float]:
    """Score what a clustering of mean changes by their direction says of the programs."""
    control, program = case.cells(CONTROL, train=True), case.truth["program"]
    change = [(case.cells(f"X{k}", train=True).mean(0) - control.mean(0)) / control.std(0) for k in range(len(program))]
    cosine = np.corrcoef(np.stack(change)) if len(change) else np.eye(0)
    tree = AgglomerativeClustering(len(case.truth["graph"]), metric="precomputed", linkage="average")
    return {"program ARI": adjusted_rand_score(program, tree.fit_predict(1 - np.abs(cosine)))}


METHODS: dict[str, Callable[[Case, int], tuple[dict, dict]]] = {
    "additive": _baseline("additive"),
    "stronger single": _baseline("stronger_single"),
    "ridge": _baseline("mean_shift_ridge"),
    "perturbed mean": _baseline("perturbed_mean"),
    "control": _baseline("observational"),
    "GraCE": _model(),
    "GraCE, corrupted graph": _model(corrupt=True),
    "GraCE, random start": _model(start="random"),
    "GraCE, start alone": _model(trained=False),
    "CMVAE": _model("cmvae"),
    "multi-hot": _model("multihot"),
    "VGAE": _model("vgae"),
    "GraCE, as published": _model("reference"),
    "CMVAE, as published": _model("reference-cmvae"),
}


def scores(case: Case, made: dict[str, np.ndarray]) -> list[dict[str, float | str]]:
    """One row per kind of test, means over its perturbations."""
    control = case.cells(CONTROL, train=True)
    labels = sorted(set(case.adata.obs["perturbation"].astype(str)[case.train]) - {CONTROL})
    average = np.mean([case.cells(p, train=True).mean(0) for p in labels], axis=0)
    rows = []
    for test, several in case.tests.items():
        found, true = [], {p: case.cells(p, train=False) for p in several}
        for p in several:
            x, y = made[p], true[p]
            top = metrics.changed_genes(y, control, N_TOP)
            found.append({
                "r change": metrics.pearson_delta(x.mean(0), y.mean(0), control.mean(0)),
                "r change, top 20": metrics.pearson_delta(x.mean(0)[top], y.mean(0)[top], control.mean(0)[top]),
                "r to mean": metrics.pearson_delta(x.mean(0), y.mean(0), average),
                "R2 top 20": metrics.mean_r2(x[:, top], y[:, top]),
                "RMSE top 20": metrics.mean_rmse(x[:, top], y[:, top]),
                "MMD top 20": metrics.mmd(x[:, top], y[:, top]),
                "energy": metrics.energy_distance(x, y),
            })  # fmt: skip
        change = [np.stack([of[p].mean(0) for p in several]) - control.mean(0) for of in (made, true)]
        row = pd.DataFrame(found).mean().to_dict() | {"test": test, "n": len(several)}
        if len(several) > 1:
            row["discrimination"] = float(metrics.perturbation_discrimination(*change).mean())
        rows.append(row)
    return rows


def one(case: Case, method: str, seed: int) -> list[dict[str, float | str]]:
    """Rows of a method on a case."""
    log = logging.getLogger("causcade")
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        start, wall = time.process_time(), time.perf_counter()
        try:
            made, more = METHODS[method](case, seed)
        finally:
            log.setLevel(level)
        used = {"cpu": time.process_time() - start, "wall": time.perf_counter() - wall}
        return [{"method": method, "seed": seed} | row | more | used for row in scores(case, made)]
