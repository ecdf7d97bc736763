"""The graph benchmark: what each method is given."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

pytest.importorskip("joblib")
from benchmarks import avici_graphs, gies_paths

from causcade import graph_baselines
from causcade.simulate.domains import graph_values


def test_sorting_by_variance_is_given_variances() -> None:
    gen = torch.Generator().manual_seed(0)
    first = torch.randn(300, 1, generator=gen)
    chain = torch.cat([5 * first + torch.randn(300, 1, generator=gen), first], 1)  # the second gene causes the first
    mask = torch.zeros(300, 2, dtype=torch.bool)
    item = SimpleNamespace(cells=chain, values=graph_values(chain, "scm"), mask=mask, kind="scm")
    graph = avici_graphs._call(graph_baselines.sortnregress, item)
    assert graph[1, 0] > 0 and graph[0, 1] == 0
    flipped = SimpleNamespace(cells=chain * torch.tensor([0.01, 1.0]), values=item.values, mask=mask, kind="scm")
    assert avici_graphs._call(graph_baselines.sortnregress, flipped)[0, 1] > 0
    same = [avici_graphs._call(graph_baselines.correlation, i) for i in (item, flipped)]
    np.testing.assert_array_equal(*same)


def test_edges_are_called_as_the_row_says() -> None:
    truth = np.zeros((4, 4), bool)
    truth[[0, 1, 0], [1, 2, 3]] = True
    graph = np.where(truth, 0.4, 0.05) * ~np.eye(4, dtype=bool)  # nothing reaches 0.5
    usual, best = (avici_graphs._scores(f"AVICI x{how}", truth, graph, {}) for how in ("", avici_graphs.BEST))
    assert usual["f1"] == 0 and best["f1"] == 1 and best["sid"] == 0 < usual["sid"]
    assert usual["auprc"] == best["auprc"] and usual["brier_skill"] == best["brier_skill"]
    setting = avici_graphs.Setting("grn", False, "internal", True)
    rows = [name for name in avici_graphs.methods(setting, ["avici-grn"]) if name.startswith("AVICI")]
    assert rows == ["AVICI avici-grn", "AVICI avici-grn, best F1"]


def test_quick_paths_decide_as_those_of_gies() -> None:
    utils = pytest.importorskip("gies.utils")
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(200):
        graph = (rng.random((7, 7)) < 0.3).astype(int)
        np.fill_diagonal(graph, 0)
        fro, to, *avoid = rng.choice(7, 4, replace=False).tolist()
        every = utils.semi_directed_paths(fro, to, graph)
        quick = list(gies_paths.semi_directed_paths(fro, to, graph))
        assert {tuple(p) for p in quick} <= {tuple(p) for p in every}
        for direct in ([], [[fro, to]]):
            free = [any(p not in direct and not set(avoid) & set(p) for p in paths) for paths in (every, quick)]
            assert free[0] == free[1]
            answers.add(free[0])
    assert answers == {True, False}
