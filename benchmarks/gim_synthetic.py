"""Simulated drug screens with doses, the protocol of the GIM paper: every method on every data set."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from benchmarks import gies_paths
from benchmarks.avici_graphs import oriented
from causcade import effect_baselines, graph_baselines
from causcade.gimfit import Effects, Environments, GimConfig, GimFit, fit
from causcade.metrics import edge_recovery, mean_distance, sid, sinkhorn_w2, to_dag
from causcade.simulate.doses import DoseRegimes, DoseStudy, draw_dose_study, perturbation_features

TESTS = ("seen", "new dose", "new targets")
METRICS = ("target_f1", "target_f1_env", "w2", "mean_distance")
EVERY = 4  # of so many regimes W2 is taken of one: it is what costs most time
CELLS = 50  # predicted for each regime: as many as are measured
SEED = 30_000  # data sets for tuning have numbers of a few hundred
KINDS = {"ER": "erdos_renyi", "SF": "scale_free_in"}


@dataclass(frozen=True)
class Setting:
    """A cell of the grid."""

    mechanism: str
    graph: str
    intervention: str


def settings() -> list[Setting]:
    """The whole grid."""
    return [Setting(*s) for s in product(("mlp", "linear"), KINDS, ("hard", "shift"))]


@dataclass
class Case:
    """A data set and the features of its perturbations."""

    study: DoseStudy
    features: dict[str, np.ndarray]
    fit: tuple[GimFit, float] | None = None

    @property
    def regimes(self) -> dict[str, DoseRegimes]:
        """Training and both tests."""
        return dict(zip(TESTS, (self.study.train, self.study.new_doses, self.study.new_perturbations), strict=True))

    @property
    def values(self) -> np.ndarray:
        """Training cells."""
        return self.study.train.cells.numpy().astype(np.float64)

    @property
    def codes(self) -> np.ndarray:
        """Their environments."""
        return self.study.train.codes.numpy()

    @property
    def environments(self) -> Environments:
        """Training cells with features; those of control are 0."""
        seen = self.features["seen"]
        return Environments(self.values, self.codes, np.concatenate([np.zeros((1, seen.shape[1])), seen]))


@dataclass
class Answer:
    """What a method has to say; parts may be missing."""

    graph: np.ndarray | None = None
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    cells: dict[str, list[np.ndarray]] = field(default_factory=dict)
    note: str = ""
    cpu: float | None = None  # if it was not what the call took


def draw(setting: Setting, index: int, *, components: int = 15) -> Case:
    """Data set ``index``. Raw linear cells grow without bound along the graph: there, genes are standardised."""
    study = draw_dose_study(
        graph=KINDS[setting.graph],
        mechanism=setting.mechanism,
        intervention=setting.intervention,
        standardise="post" if setting.mechanism == "linear" else "none",
        rng=SEED + index,
    )
    raw = [r.raw_features.numpy() for r in (study.train, study.new_doses, study.new_perturbations)]
    found = perturbation_features(*raw, n_components=components)
    return Case(study, dict(zip(TESTS, found, strict=True)))


def config(setting: Setting, *, amortised: bool = True) -> GimConfig:
    """Choices of the fit: the quick ones. Free parameters have further to go than networks, and no regime helps another."""
    free = {} if amortised else {"amortised": False, "learning_rate": 0.02, "sparsity_targets": 30.0}
    return GimConfig.quick(mechanism=setting.mechanism, intervention=setting.intervention, **free)


def gim(case: Case, setting: Setting, *, effects: Effects = "expected") -> Answer:
    """GIM; the fit is made once for a data set."""
    if case.fit is None:
        cpu = time.process_time()
        found = fit(case.environments, config(setting), rng=0, accelerator="cpu")
        case.fit = found, time.process_time() - cpu
    return answered(case, case.fit[0], TESTS, effects, cpu=case.fit[1])


def free(case: Case, setting: Setting) -> Answer:
    """GIM without networks: each environment has targets and parameters of its own (as BaCaDI)."""
    found = fit(case.environments, config(setting, amortised=False), rng=0, accelerator="cpu")
    return answered(case, found, TESTS[:1], "expected")


def answered(case: Case, found: GimFit, tests: Sequence[str], effects: Effects, cpu: float | None = None) -> Answer:
    """What a fit says."""
    note = f"{found.history[0]['step'][-1]:.0f} steps, {found.stopped[0]}"
    answer = Answer(graph=found.graph_of(0), note=note, cpu=cpu)
    for test in tests:
        features = None if test == "seen" else case.features[test]
        skip = int(test == "seen")  # the first environment is control
        answer.targets[test] = found.targets(features)[skip:] > 0.5
        answer.cells[test] = list(found.predict(features, CELLS, effects=effects, rng=1)[skip:])
    return answer


def baseline(case: Case, name: str) -> Answer:
    """A baseline without a graph; what it holds out while it learns is what will be asked."""
    function = getattr(effect_baselines, name)
    train, answer = case.study.train, Answer()
    for hold_out, tests in (("regime", TESTS[:2]), ("perturbation", TESTS[2:])):
        options = {"hold_out": hold_out} if name.startswith("mean_shift") else {}
        fitted = function(
            case.values, case.codes, case.features["seen"], perturbation=train.perturbation, dose=train.dose, **options
        )
        for test in tests:
            r = case.regimes[test]
            cells = fitted.predict(case.features[test], perturbation=r.perturbation.numpy(), dose=r.dose.numpy())
            rng = np.random.default_rng(1)
            answer.cells[test] = [x[rng.permutation(len(x))[:CELLS]] for x in cells]
    return answer


def classical(case: Case, name: str) -> Answer:
    """PC on control cells, GIES with known targets: helped, since undirected edges count as they are in truth."""
    gies_paths.patch()
    hit = np.concatenate([np.zeros((1, case.values.shape[1]), bool), case.study.train.targets.numpy()])
    graph = getattr(graph_baselines, name)(case.values, hit[case.codes].astype(float))
    return Answer(graph=oriented(graph, case.study.adjacency.numpy()) > 0.5)


def ut_igsp(case: Case, alpha: float = 1e-3) -> Answer:
    """UT-IGSP of the package ``causaldag`` (a pre-release), Gaussian tests."""
    import causaldag as cd
    import conditional_independence as ci

    groups = [case.values[case.codes == k] for k in range(case.codes.max() + 1)]
    tests = ci.MemoizedCI_Tester(ci.partial_correlation_test, ci.partial_correlation_suffstat(groups[0]), alpha=alpha)
    same = ci.MemoizedInvarianceTester(
        ci.gauss_invariance_test, ci.gauss_invariance_suffstat(groups[0], groups[1:]), alpha=alpha
    )
    n = case.values.shape[1]
    regimes = [{"known_interventions": []} for _ in groups[1:]]
    dag, found = cd.unknown_target_igsp(regimes, set(range(n)), tests, same)
    graph, targets = np.zeros((n, n), bool), np.zeros((len(found), n), bool)
    for cause, effect in dag.arcs:
        graph[cause, effect] = True
    for k, genes in enumerate(found):
        targets[k, sorted(genes)] = True
    return Answer(graph=graph, targets={"seen": targets})


def gnies(case: Case) -> Answer:
    """GnIES of its own package, by ranking: genes whose noise changes in any environment, and a class of graphs. It does not
    say which environment acts on which gene. (The greedy search of the targets does not end within minutes.)"""
    from gnies import fit as search

    groups = [case.values[case.codes == k] for k in range(case.codes.max() + 1)]
    _, graph, _ = search(groups, approach="rank")
    edge = np.asarray(graph) != 0
    return Answer(graph=oriented(np.where(edge & edge.T, 0.5, edge), case.study.adjacency.numpy()) > 0.5)


Method = Callable[[Case, Setting], Answer]
METHODS: dict[str, Method] = {
    "GIM": gim,
    "GIM, called targets": lambda case, setting: gim(case, setting, effects="called"),
    "BaCaDI*": free,
    "UT-IGSP": lambda case, _: ut_igsp(case),
    "GnIES": lambda case, _: gnies(case),
    "GIES, targets known": lambda case, _: classical(case, "gies"),
    "PC, control": lambda case, _: classical(case, "pc"),
    "observational": lambda case, _: baseline(case, "observational"),
    "perturbed mean": lambda case, _: baseline(case, "perturbed_mean"),
    "next lower dose": lambda case, _: baseline(case, "next_lower_dose"),
    "ridge": lambda case, _: baseline(case, "mean_shift_ridge"),
    "MLP": lambda case, _: baseline(case, "mean_shift_mlp"),
}


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    """F1 of called entries; 0 where nothing is called."""
    return 2 * float((truth & found).sum()) / max(1, int(truth.sum() + found.sum()))


def _spread(pairs: list) -> list:
    """One regime of each ``EVERY``, all doses in turn."""
    return [group[k % len(group)] for k, group in enumerate(pairs[i : i + EVERY] for i in range(0, len(pairs), EVERY))]


def scores(case: Case, answer: Answer) -> dict[str, float]:
    """Of the graph, and of targets and cells in each test (cells: medians over regimes)."""
    truth, out = case.study.adjacency.numpy(), {}
    if answer.graph is not None:
        out |= {
            "edge_f1": edge_recovery(truth, answer.graph.astype(float)).f1,
            "sid": float(sid(truth, to_dag(answer.graph, 0.5))),
        }
    for test, regimes in case.regimes.items():
        if (found := answer.targets.get(test)) is not None:
            hit = regimes.targets.numpy()
            out[f"target_f1, {test}"] = f1(hit, found)
            out[f"target_f1_env, {test}"] = float(np.mean([f1(a, b) for a, b in zip(hit, found, strict=True)]))
        if (cells := answer.cells.get(test)) is not None:
            code, x = regimes.codes.numpy(), regimes.cells.numpy()
            pairs = [(p, x[code == k]) for k, p in enumerate(cells, 1)]
            out[f"w2, {test}"] = float(np.median([sinkhorn_w2(a, b) for a, b in _spread(pairs)]))
            out[f"mean_distance, {test}"] = float(np.median([mean_distance(a, b) for a, b in pairs]))
    return out


def one(setting: Setting, index: int, methods: Sequence[str], components: int = 15) -> list[dict]:
    """Rows of a data set; its fits are shared."""
    torch.set_num_threads(1)
    case = draw(setting, index, components=components)
    rows = []
    for method in methods:
        cpu = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = METHODS[method](case, setting)
            cpu = time.process_time() - cpu if answer.cpu is None else answer.cpu
            found = scores(case, answer)
        row = {**vars(setting), "components": components, "method": method, "instance": index, "cpu": cpu}
        rows.append({**row, "note": answer.note, **found})
        print(f"{setting} {components} components, {index}, {method}: {cpu:.0f} CPU s {answer.note}", flush=True)
    return rows


def run(jobs: list[tuple], methods: Sequence[str], workers: int, rows: Path | None) -> pd.DataFrame:
    """Rows of all methods on all data sets (setting, index, components); what the file ``rows`` holds is not run again."""
    keys = [*Setting.__annotations__, "instance", "components", "method"]
    found = pd.read_csv(rows) if rows is not None and rows.exists() else pd.DataFrame(columns=keys)
    done = {tuple(r) for r in found[keys].to_numpy().tolist()}
    left = {job: [m for m in methods if (*vars(job[0]).values(), *job[1:], m) not in done] for job in jobs}
    wanted = [(s, i, names, c) for (s, i, c), names in left.items() if names]
    for several in Parallel(n_jobs=workers, return_as="generator")(delayed(one)(*j) for j in wanted):
        found = pd.concat([found, pd.DataFrame(several)], ignore_index=True)
        if rows is not None:
            rows.parent.mkdir(parents=True, exist_ok=True)
            found.to_csv(rows, index=False)
    asked = {(*vars(job[0]).values(), *job[1:], m) for job in jobs for m in methods}
    return found[[tuple(r) in asked for r in found[keys].to_numpy().tolist()]]


def summary(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over data sets, with the standard error of each, and their number."""
    metrics = ["edge_f1", "sid", *(f"{m}, {t}" for t in TESTS for m in METRICS), "cpu"]
    grouped = rows.reindex(columns=[*keys, *metrics]).groupby(keys, sort=False)
    table, error = grouped.mean(), grouped.sem()
    for name in metrics[:-1]:
        table[f"{name}, se"] = error[name]
    return table.assign(instances=grouped.size()).reset_index()


__all__ = ["METHODS", "METRICS", "TESTS", "Setting", "run", "settings", "summary"]
