"""Simulated combinations: sizes, shifts that add up in programs and not in genes, seeds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import causcade as cc
from causcade.simulate import combination_screen


def drawn(seed: int = 0, **sizes: int) -> ad.AnnData:
    return combination_screen(
        rng=seed, **{"n_genes": 36, "n_control": 3000, "cells_per_perturbation": 1500, "n_pairs": 4, **sizes}
    )


def programs(adata: ad.AnnData, label: str) -> np.ndarray:
    """Mean of the programs, read back from the cells."""
    truth = adata.uns["programs"]
    x = np.asarray(adata.X[(adata.obs["perturbation"] == label).to_numpy()], dtype=np.float64)
    y = np.log(np.expm1(np.maximum(x, 1e-6))) - 0.5  # undo the softplus
    return np.linalg.lstsq(truth["decoder"].T, y.mean(0), rcond=None)[0]


def test_shifts_add_up_and_run_along_the_graph() -> None:
    adata = drawn()
    truth, control = adata.uns["programs"], programs(adata, "control")
    shift = np.zeros((9, 6))
    shift[np.arange(9), truth["program"]] = truth["strength"]
    through = shift @ np.linalg.inv(np.eye(6) - truth["graph"])
    pairs = [p for p in adata.obs["perturbation"].cat.categories if "+" in p]
    assert len(pairs) == 4
    for label in ["X0", "X5", "X8", *pairs]:
        expected = sum(through[int(part[1:])] for part in label.split("+"))
        np.testing.assert_allclose(programs(adata, label) - control, expected, atol=0.2)
    means = {
        p: adata.X[(adata.obs["perturbation"] == p).to_numpy()].mean(0) for p in ["control", *"X0 X5".split(), *pairs]
    }
    bent = [means[p] - means["control"] for p in pairs]
    assert max(np.abs(change).max() for change in bent) > 0.5


def test_what_comes_out() -> None:
    adata = combination_screen(rng=1)
    assert adata.shape == (400 + 19 * 100, 120) and adata.X.dtype == np.float32 and adata.X.min() >= 0
    counts = adata.obs["perturbation"].value_counts()
    assert counts["control"] == 400 and (counts.drop("control") == 100).all() and len(counts) == 20
    graph = adata.uns["programs"]["graph"]
    assert (np.tril(graph) == 0).all() and set(np.abs(graph[graph != 0])) == {0.8}
    assert set(adata.uns["programs"]["program"]) == set(range(6))
    network = cc.networks.match_network(adata.uns["network"], adata)
    assert network.n_edges == 114
    program = adata.var["program"]
    assert all(program[a] == program[b] for a, b in adata.uns["network"][["source", "target"]].to_numpy())


def test_seeds() -> None:
    small = {"n_control": 20, "cells_per_perturbation": 5}
    one, same, other = (drawn(s, **small).X for s in (0, 0, 1))
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_it_can_be_saved_and_read(tmp_path) -> None:
    adata = drawn(n_control=5, cells_per_perturbation=2)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.uns["programs"]["graph"], adata.uns["programs"]["graph"])
    assert back.uns["network"].equals(adata.uns["network"])


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"n_pairs": 37}, "have only 36 pairs"),
        ({"n_perturbations": 5}, "n_perturbations"),
        ({"n_control": 0}, "n_control"),
        ({"n_genes": 3}, "n_genes"),
    ],
)
def test_numbers_out_of_range(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        combination_screen(**sizes)
