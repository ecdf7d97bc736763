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


def test_quick_paths_are_those_of_gies() -> None:
    utils = pytest.importorskip("gies.utils")
    rng = np.random.default_rng(0)
    for _ in range(50):
        graph = (rng.random((6, 6)) < 0.3).astype(int)
        np.fill_diagonal(graph, 0)
        fro, to = rng.choice(6, 2, replace=False)
        assert sorted(gies_paths.semi_directed_paths(fro, to, graph)) == sorted(
            utils.semi_directed_paths(fro, to, graph)
        )
