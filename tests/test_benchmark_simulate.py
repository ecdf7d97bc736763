"""The simulator benchmark: its per-gene loop and its closed form are themselves right."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from causcade.simulate import graphs, grn

sys.path.append(str(Path(__file__).parents[1]))  # benchmarks is no part of the installed package

from benchmarks import simulate


@pytest.fixture(scope="module")
def net() -> grn.GRN:
    adjacency, sign = simulate.network(20, 3)
    return grn.random_grn(adjacency, n_types=2, signs=sign, rng=0)


def half_responses(net: grn.GRN) -> np.ndarray:
    every_type = torch.arange(net.n_types)
    return net.steady_state(every_type, torch.ones_like(net.basal))[1][0].double().numpy()


def ours(net: grn.GRN, n_cells: int) -> np.ndarray:
    sampling = grn.Sampling(burn_in=6.0, cells_per_chain=1)
    job = {"knockouts": torch.arange(0), "cells_per_knockout": 1, "sampling": sampling, "rng": 0}
    x, _, types = grn.simulate_cells(net, n_control=n_cells * net.n_types, **job)
    return np.stack([x[types == t].double().numpy() for t in range(net.n_types)])


def test_per_gene_loop_agrees_with_ours(net: grn.GRN) -> None:
    many = replace(net, basal=net.basal[:1].expand(200, -1).contiguous())  # types are independent runs
    regulators = net.regulators.numpy()
    loop = simulate.per_gene_loop(many, 60, half=half_responses(many)).mean((0, 1))
    mine = ours(replace(net, basal=net.basal[:1]), 3000)[0]
    for gene, relative in ((regulators, 0.12), (slice(None), 0.25)):  # the mean of a run varies by 3 to 6 %
        np.testing.assert_allclose(loop[gene], mine.mean(0)[gene], rtol=relative)
    assert abs(np.median(loop / mine.mean(0)) - 1) < 0.05


def test_per_gene_loop_knocks_out(net: grn.GRN) -> None:
    gene = int(net.regulators[0])
    x = simulate.per_gene_loop(net, 2, knocked_out=gene)
    assert x.shape == (2, 2, 20)
    assert np.all(x[..., gene] == 0)
    reached = graphs.ancestors(net.adjacency)[gene].numpy()
    assert np.all(x[..., ~reached & (np.arange(20) != gene)].mean((0, 1)) > 0)


def test_gene_steps_are_those_of_the_loop(net: grn.GRN) -> None:
    lengths = simulate.path_lengths(net, 3)
    leaves = ~net.adjacency.any(1).numpy()
    assert np.all(lengths[leaves] == 45)
    assert np.all(lengths[~leaves] >= 55)


@pytest.mark.parametrize("b", [1.0, 3.0])
def test_cut_off_gamma_is_the_law_of_a_master_regulator(b: float) -> None:
    adjacency = torch.tensor([[False, True], [False, False]])
    net = grn.GRN(adjacency, adjacency.float(), torch.tensor([[b, 0.0]]), 2.0, 0.8, 1.0)
    x = ours(net, 20_000)[0, :, 0]
    mean, variance = simulate.reflected(np.array(b / 0.8), 1.0)
    assert x.mean() == pytest.approx(mean, rel=0.04)  # steps of .01 see a little less of the wall at 0
    assert x.var() == pytest.approx(variance, rel=0.05)


def test_sergio_rs_has_the_same_means(net: grn.GRN) -> None:
    pytest.importorskip("sergio_rs")
    net, mine, theirs = simulate.matched_cells(20, 2, 150, 2, 60)
    regulators = net.regulators.numpy()
    a, b = (np.mean([mean for mean, _ in moments], 0)[:, regulators] for moments in (mine, theirs))
    assert set(np.unique(net.basal.numpy())) <= {0.0, simulate.LOW, simulate.HIGH}
    assert abs(np.median(a / b) - 1) < 0.1
    assert np.max(np.abs(a / b - 1)) < 0.5


def test_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(simulate, "PAGE", tmp_path / "docs" / "simulate.md")
    monkeypatch.setattr(simulate, "sergio_rs", None)
    threads = torch.get_num_threads()
    for _ in range(2):  # the second time between the markers of the first
        simulate.main(["--quick", "--write", "--threads", str(threads)])
    page = simulate.PAGE.read_text()
    assert page.count(simulate.START) == page.count(simulate.END) == page.count("| dynamics: per-gene loop |") == 1
    assert "| causcade | noise |" in capsys.readouterr().out


def test_tables_with_sergio_rs() -> None:
    pytest.importorskip("sergio_rs")
    assert any(row.startswith("| dynamics: sergio_rs |") for row in simulate.speed(20, 2, 1))
    rows = simulate.agreement(20, 2, 20, 2, 15)
    assert sum(row.startswith(("| causcade", "| sergio_rs")) for row in rows) == 7
    assert not any("nan" in row for row in rows[2:5])  # one root with one rate has no correlation
