"""cc.get.graph: the table."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from causcade import get

NAMES = ["C", "A", "B"]  # not in the order of the genes
PROBABILITY = {("A", "B"): 0.9, ("B", "A"): 0.6, ("C", "A"): 0.6, ("A", "C"): 0.0, ("B", "C"): 0.25, ("C", "B"): 0.1}


def matrix(entries: dict[tuple[str, str], float], *, dense: bool = False) -> Any:
    place = {name: i for i, name in enumerate("ABCD")}
    out = np.zeros((4, 4), dtype=np.float32)
    for (cause, effect), value in entries.items():
        out[place[cause], place[effect]] = value
    return out if dense else sparse.csr_matrix(out)


@pytest.fixture
def adata() -> Any:
    a = ad.AnnData(np.ones((3, 4), dtype=np.float32))
    a.var_names = list("ABCD")
    a.varp["graph"] = matrix(PROBABILITY)
    a.varp["graph_sd"] = matrix({pair: p / 10 for pair, p in PROBABILITY.items()})
    a.varp["graph_dag"] = matrix({("A", "B"): 0.9})
    a.varp["graph_correlation"] = matrix({("B", "A"): 0.5})
    a.varp["graph_knockout_t"] = matrix({("A", "B"): 7.0})
    a.uns["graph"] = {
        "names": np.array(NAMES, dtype=object), "threshold": 0.6, "perturbed": np.array(["A"], dtype=object)
    }  # fmt: skip
    return a


def test_rows_and_columns(adata: Any) -> None:
    adata.uns["graph"]["threshold"] = float(np.float32(0.6))
    table = get.graph(adata)
    pairs = list(zip(table["cause"], table["effect"], strict=True))
    assert pairs == [("A", "B"), ("C", "A"), ("B", "A"), ("B", "C"), ("C", "B"), ("A", "C")]
    np.testing.assert_allclose(table["probability"], [0.9, 0.6, 0.6, 0.25, 0.1, 0], atol=1e-6)
    np.testing.assert_allclose(table["sd"], table["probability"] / 10, atol=1e-6)
    assert table["called"].tolist() == [True] * 3 + [False] * 3
    assert table["in_dag"].tolist() == [True] + [False] * 5
    assert table["correlation"].tolist() == [0, 0, 0.5, 0, 0, 0]
    assert table["knockout_t"].tolist()[0] == 7 and table["knockout_t"].tolist()[-1] == 0
    assert table["knockout_t"].isna().tolist() == [False, True, True, True, True, False]
    assert "precision" not in table


def test_an_edge_right_on_the_threshold_is_called(adata: Any) -> None:
    adata.uns["graph"]["threshold"] = 0.9  # a little above the same number in single precision
    assert get.graph(adata)["called"].tolist() == [True] + [False] * 5


def test_least_probability(adata: Any) -> None:
    assert get.graph(adata, min_probability=0.3)["probability"].min() > 0.3
    assert len(get.graph(adata, min_probability=0.3)) == 3
    for bad in (-0.1, 1.1, "0.5", True, None):
        with pytest.raises(ValueError, match="min_probability must be a number from 0 to 1"):
            get.graph(adata, min_probability=bad)


def test_genes_that_are_gone_and_dense_matrices(adata: Any) -> None:
    part = get.graph(adata[:, ["D", "B", "A"]])
    assert list(zip(part["cause"], part["effect"], strict=True)) == [("A", "B"), ("B", "A")]
    assert len(get.graph(adata[:, ["D", "B"]])) == 0
    adata.varp["graph"] = matrix(PROBABILITY, dense=True)
    assert get.graph(adata)["probability"].iloc[0] == pytest.approx(0.9)


def test_no_graph(adata: Any) -> None:
    adata.uns["net"] = adata.uns.pop("graph")
    adata.varp["net"] = adata.varp["graph"]
    with pytest.raises(KeyError, match=r"no causal graph under key='graph'. There are graphs under 'net': pass key="):
        get.graph(adata)
    assert len(get.graph(adata, "net")) == 6
    del adata.uns["net"]
    with pytest.raises(KeyError, match=r"Run cc\.tl\.graph first"):
        get.graph(adata)
