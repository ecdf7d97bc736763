import numpy as np
import pandas as pd
import pytest
from benchmarks.grace_screens import CONTROL, METHODS, held_out, one, recovered, simulated


class Fake:
    """Says what a perfect model would, with the programs in another order."""

    def __init__(self, graph: np.ndarray, program: np.ndarray, order: np.ndarray) -> None:
        self.graph, self.share = graph[np.ix_(order, order)], np.argsort(order)[program]

    def get_assignments(self) -> pd.DataFrame:
        names = [f"X{k}" for k in range(len(self.share))]
        return pd.DataFrame(np.eye(len(self.graph))[self.share], index=names).assign(strength=1.0)

    def get_latent_graph(self) -> pd.DataFrame:
        return pd.DataFrame(self.graph)


def test_what_is_held_out() -> None:
    case = simulated(0, 1)
    labels = case.adata.obs["perturbation"].astype(str).to_numpy()
    train = held_out(case.adata, 0)
    assert not train[[("+" in p) for p in labels]].any()  # all parts are there alone
    assert train[labels == CONTROL].mean() == train[labels == "X3"].mean() == 0.8
    assert len(case.tests["singles"]) == 9 and len(case.tests["doubles"]) == 10


def test_programs_are_recovered_up_to_their_order() -> None:
    truth = simulated(0, 1).truth
    order = np.random.default_rng(0).permutation(6)
    perfect = recovered(Fake(truth["graph"], truth["program"], order), truth)
    assert perfect["program ARI"] == perfect["graph AUPRC"] == 1 > perfect["graph AUPRC, chance"]
    wrong = recovered(Fake(truth["graph"].T, truth["program"], order), truth)
    assert wrong["graph AUPRC"] < 0.5  # direction counts


def test_rows_of_baselines() -> None:
    case = simulated(1, 1, genes=30)
    rows = {m: {r["test"]: r for r in one(case, m, 0)} for m in ("additive", "control")}
    assert set(METHODS) > set(rows)
    assert rows["additive"]["singles"]["r change"] > 0.9 > 0.5 > rows["control"]["doubles"]["R2 top 20"]
    assert np.isnan(rows["control"]["doubles"]["r change"])
    assert rows["control"]["doubles"]["discrimination"] == pytest.approx(0.5)
