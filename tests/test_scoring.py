from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from causcade.contrasts import Summary, node_features, summarise
from causcade.nn.cells import CellStream, CellStreamConfig
from causcade.nn.differential import Differential, DifferentialConfig
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.pairs import pair_features
from causcade.pretrained import load
from causcade.scoring import TargetScorer, cell_scorer, pair_scorer, set_size, target_scorer
from causcade.screendata import read_screen
from causcade.set_inputs import pair_input, set_input


class Spy(nn.Module):
    """Keeps its inputs; answers with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x[0])
        return x.new_zeros(1, x.shape[2], x.shape[2])


@pytest.fixture
def net() -> CellStream:
    torch.manual_seed(0)
    return CellStream(CellStreamConfig(width=4, layers=1, heads=2, hidden=8))


@pytest.fixture
def cells() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Five genes; regime 1 hits gene 3, 2 gene 0, 3 gene 4, 4 no single gene. A value names its cell and gene."""
    codes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 4])
    values = torch.arange(10.0)[:, None] + torch.arange(5.0) / 10
    return values, codes, torch.tensor([2, -1, -1, 1, 3])


def test_sets_of_a_pair_network_are_twice_those_of_training():
    assert set_size({"network": "pairs", "subset": 96}) == 192
    assert set_size({"network": "cells", "subset": 96}) == 96


def test_pair_scorer_is_the_network(screen, tiny_weights):
    features = pair_features(read_screen(screen).stats())
    weights = load(tiny_weights)
    genes = np.array([7, 0, 3])
    got = pair_scorer(weights.net, features)(genes, np.random.default_rng(0))
    chosen = torch.from_numpy(genes)
    with torch.inference_mode():
        expected = weights.net(features.block(chosen, chosen)[None])[0].numpy()
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32
    back = pair_scorer(weights.net, features)(genes[::-1].copy(), np.random.default_rng(0))
    np.testing.assert_allclose(back, got[::-1, ::-1], atol=1e-5)


def test_cell_scorer_uses_only_cells_of_the_set(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=7, n_draws=3)(np.array([4, 1, 0]), np.random.default_rng(0))
    assert len(spy.seen) == 3
    for x in spy.seen:
        assert x.shape == (7, 3, 2)
        rows = x[:, 1, 0].long()  # gene 1, whose value is the number of the cell and a tenth
        assert sorted(rows.tolist()) == [0, 1, 2, 5, 6, 7, 8]  # controls, and where genes 0 and 4 are perturbed
        torch.testing.assert_close(x[..., 0], values[rows][:, [4, 1, 0]])
        expected = torch.stack([codes[rows] == 3, torch.zeros(7), codes[rows] == 2], 1).float()
        torch.testing.assert_close(x[..., 1], expected)


def test_cell_scorer_without_a_perturbed_gene_uses_controls(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=5, n_draws=1)(np.array([1, 2]), np.random.default_rng(0))
    assert set(spy.seen[0][:, 0, 0].long().tolist()) == {0, 1, 2}
    assert spy.seen[0][..., 1].sum() == 0


def test_draws_go_through_the_cells_before_they_repeat(cells):
    values, codes, single = cells
    spy = Spy()
    cell_scorer(spy, values, codes, single, n_cells=4, n_draws=2)(np.array([0, 1, 4]), np.random.default_rng(0))
    rows = torch.cat([x[:, 1, 0] for x in spy.seen]).long().tolist()
    assert len(rows) == 8
    assert len(set(rows)) == 7


def test_cell_scorer_averages_the_network(cells, net):
    values, codes, single = cells
    spy, genes = Spy(), np.array([0, 3, 2])
    cell_scorer(spy, values, codes, single, n_cells=3, n_draws=2)(genes, np.random.default_rng(4))
    got = cell_scorer(net, values, codes, single, n_cells=3, n_draws=2)(genes, np.random.default_rng(4))
    with torch.inference_mode():
        expected = torch.stack([net(x[None])[0] for x in spy.seen]).mean(0)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_order_of_cells_does_not_matter(cells, net):
    values, codes, single = cells
    genes, order = np.array([0, 3, 1]), torch.from_numpy(np.random.default_rng(1).permutation(10))
    n_cells = 7  # all that are allowed

    def run(v, c):
        return cell_scorer(net, v, c, single, n_cells=n_cells, n_draws=1)(genes, np.random.default_rng(0))

    np.testing.assert_allclose(run(values[order], codes[order]), run(values, codes), atol=1e-5)


def test_numbering_of_regimes_does_not_matter(cells, net):
    values, codes, single = cells
    new = torch.tensor([0, 4, 1, 2, 3])
    renumbered = torch.where(single >= 0, new[single.clamp(min=0)], -1)
    genes = np.array([4, 3, 1])
    a = cell_scorer(net, values, codes, single, n_cells=4)(genes, np.random.default_rng(0))
    b = cell_scorer(net, values, new[codes], renumbered, n_cells=4)(genes, np.random.default_rng(0))
    np.testing.assert_array_equal(a, b)


# --- targets ------------------------------------------------------------------------------------------------------

GENES = 14


def set_of_cells(seed: int, *, moved: int | None = None, genes: int = GENES) -> Summary:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, genes)) @ (np.eye(genes) + np.diag(np.full(genes - 1, 0.6), 1))
    if moved is not None:
        x[:, moved] += 2
    return summarise(torch.from_numpy(x).float())


@pytest.fixture
def target_net(tiny_target_weights: Any) -> Differential:
    net = load(tiny_target_weights).net
    assert isinstance(net, Differential)
    return net


class Watched(TargetScorer):
    """Keeps the sizes of what it encodes and the genes of each set that it compares."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoded: list[int] = []
        self.compared: list[np.ndarray] = []

    def _grid(self, cells: Summary, draw: int, rng: np.random.Generator) -> torch.Tensor:
        self.encoded.append(cells.n)
        return super()._grid(cells, draw, rng)

    def _compare(self, control: Summary, perturbed: Summary, *args: Any) -> np.ndarray:
        self.compared.append(control.mean.numpy().copy())
        return super()._compare(control, perturbed, *args)


def test_target_scorer_is_the_network(target_net: Differential) -> None:
    control, perturbed = set_of_cells(0), set_of_cells(1, moved=3)
    scorer = TargetScorer(target_net, n_control=2, n_subsets=6)
    got = scorer.score(scorer.prepare(control), perturbed, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    draw = int(rng.integers(2))
    with torch.inference_mode():
        before = target_net.encode(set_input([control], 6, np.random.default_rng([17, draw])))
        after = target_net.encode(set_input([perturbed], 6, rng))
        expected = target_net.compare(before, after, *pair_input(control, [perturbed]))[0].numpy()
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32
    assert got.shape == (GENES,)


@pytest.mark.parametrize("size", [128, 8], ids=["whole", "dealt"])
def test_target_scores_depend_on_the_rng_alone(target_net: Differential, size: int) -> None:
    control, perturbed = set_of_cells(0), set_of_cells(1, moved=3)
    scorer = TargetScorer(target_net, n_subsets=4, size=size)
    state = scorer.prepare(control)
    first = scorer.score(state, perturbed, np.random.default_rng(0))
    other = scorer.score(state, perturbed, np.random.default_rng(1))
    torch.rand(5)
    fresh = TargetScorer(target_net, n_subsets=4, size=size)
    np.testing.assert_array_equal(fresh.score(fresh.prepare(control), perturbed, np.random.default_rng(0)), first)
    np.testing.assert_array_equal(scorer.score(state, perturbed, np.random.default_rng(0)), first)
    assert not np.array_equal(other, first)
    assert np.isfinite(first).all()


def test_control_is_encoded_once(target_net: Differential) -> None:
    control = replace(set_of_cells(0), n=61)
    scorer = Watched(target_net, n_control=3, n_subsets=4)
    state = scorer.prepare(control)
    assert scorer.encoded == [61, 61, 61]
    assert len(state.grids) == 3
    rng = np.random.default_rng(0)
    for seed in range(4):
        scorer.score(state, set_of_cells(seed), rng)
    assert scorer.encoded == [61, 61, 61, *[60] * 4]


def test_many_genes_are_dealt_into_sets(target_net: Differential) -> None:
    control, perturbed = set_of_cells(0), set_of_cells(1, moved=9)
    scorer = Watched(target_net, n_subsets=4, size=8)
    state = scorer.prepare(control)
    assert state.grids == ()
    assert scorer.encoded == []  # nothing can be done before the sets are known
    scores = scorer.score(state, perturbed, np.random.default_rng(0))
    assert np.isfinite(scores).all()
    anchors = node_features(control, perturbed)[:, 1].abs().argsort(descending=True)[:2].tolist()
    assert 9 in anchors
    # a mean tells which gene it is
    place = {float(m): g for g, m in enumerate(control.mean)}
    sets = [[place[float(m)] for m in means] for means in scorer.compared]
    assert len(sets) == 2
    assert all(len(s) <= 8 for s in sets)
    assert all(set(anchors) < set(s) for s in sets)
    dealt = [g for s in sets for g in s if g not in anchors]
    assert sorted([*dealt, *anchors]) == list(range(GENES))  # every other gene once
    assert scorer.encoded == [60] * 4


def test_dealt_scores_are_those_of_the_sets(target_net: Differential) -> None:
    """Anchors get the mean over the sets, all others the score of their one set."""
    control, perturbed = set_of_cells(0), set_of_cells(1, moved=9)
    scorer = Watched(target_net, n_control=1, n_subsets=0, size=8)  # no local graphs: nothing else is drawn
    got = scorer.score(scorer.prepare(control), perturbed, np.random.default_rng(0))
    place = {float(m): g for g, m in enumerate(control.mean)}
    total, count = np.zeros(GENES), np.zeros(GENES)
    for means in scorer.compared:
        genes = torch.tensor([place[float(m)] for m in means])
        part = TargetScorer(target_net, n_control=1, n_subsets=0)
        state = part.prepare(control.genes(genes))
        total[genes] += part.score(state, perturbed.genes(genes), np.random.default_rng(0))
        count[genes] += 1
    assert sorted(set(count)) == [1, 2]
    np.testing.assert_allclose(got, total / count, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, GENES - 1])
def test_sets_of_any_size(target_net: Differential, size: int) -> None:
    scorer = TargetScorer(target_net, n_subsets=2, size=size)
    scores = scorer.score(scorer.prepare(set_of_cells(0)), set_of_cells(1), np.random.default_rng(0))
    assert np.isfinite(scores).all()


def test_local_graphs_grow_with_the_genes(target_net: Differential, monkeypatch: pytest.MonkeyPatch) -> None:
    import causcade.scoring as scoring

    asked = []
    monkeypatch.setattr(scoring, "set_input", lambda sets, n, rng: asked.append(n) or set_input(sets, 2, rng))
    for genes in (5, 14, 60):
        TargetScorer(target_net, n_control=1).prepare(set_of_cells(0, genes=genes))
    TargetScorer(target_net, n_control=1, n_subsets=7).prepare(set_of_cells(0))
    assert asked == [20, 28, 100, 7]


def test_target_scorer_reads_its_config(target_net: Differential) -> None:
    plain = target_scorer(target_net, {})
    assert (plain.n_control, plain.n_subsets, plain.size) == (4, None, 128)
    told = target_scorer(target_net, {"n_subsets": 9, "size": 20}, n_draws=2)
    assert (told.n_control, told.n_subsets, told.size) == (2, 9, 20)


def test_codes_of_a_draw_are_the_same_for_both_sets(target_net: Differential) -> None:
    coded = Differential(replace(target_net.config, codes=3))
    scorer, codes, encode = TargetScorer(coded, n_control=2, n_subsets=2), [], coded.encode
    coded.encode = lambda s, code: codes.append(code) or encode(s, code)  # type: ignore[method-assign]
    state = scorer.prepare(set_of_cells(0))
    for seed in range(6):
        rng = np.random.default_rng(seed)
        draw = int(np.random.default_rng(seed).integers(2))
        scorer.score(state, set_of_cells(1), rng)
        assert torch.equal(codes[-1], codes[draw])
    assert not torch.equal(codes[0], codes[1])


# --- memory ---------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """Feed-forward layers that have room for so many rows of a grid; gives the rows that fitted."""
    real, seen = nn.GELU.forward, []

    def limited(self: nn.GELU, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4 and x.shape[-1] == 12:  # the width of these layers alone
            if x.shape[1] > room:
                raise torch.cuda.OutOfMemoryError
            seen.append(x.shape[1])
        return real(self, x)

    monkeypatch.setattr(nn.GELU, "forward", limited)
    return seen


def by_pairs(screen: Any) -> Any:
    net = PairStream(PairStreamConfig(width=4, layers=2, heads=2, hidden=12, paths=2))
    features = pair_features(read_screen(screen).stats())
    return lambda: pair_scorer(net, features)(np.arange(9), np.random.default_rng(0))


def by_cells(screen: Any) -> Any:
    net = CellStream(CellStreamConfig(width=4, layers=2, heads=2, hidden=12, tied=False, scale="width"))
    values, codes = read_screen(screen).cell_table(50, 5000, np.random.default_rng(0))
    single = torch.from_numpy(read_screen(screen).single)
    return lambda: cell_scorer(net, values, codes, single, n_cells=30)(np.arange(9), np.random.default_rng(0))


def of_targets(screen: Any) -> Any:
    net = Differential(DifferentialConfig(width=4, heads=2, hidden=12, paths=2, local=0))
    x = torch.from_numpy(np.log1p(screen.X[:, :9]))
    control, perturbed = summarise(x[:60]), summarise(x[60:76])

    def ask() -> np.ndarray:
        scorer = TargetScorer(net, n_control=2)
        return scorer.score(scorer.prepare(control), perturbed, np.random.default_rng(0))

    return ask


@pytest.mark.parametrize("scorer", [by_pairs, by_cells, of_targets])
def test_scores_in_parts_are_the_same(screen, scorer, monkeypatch, caplog):
    torch.manual_seed(0)
    ask = scorer(screen)
    expected = ask()
    seen = short_of_memory(monkeypatch, 4)
    np.testing.assert_allclose(ask(), expected, rtol=1e-4, atol=1e-5)
    assert max(seen) <= 4
    assert sum("ran out in scoring" in m for m in caplog.messages) == 1
    short_of_memory(monkeypatch, 0)
    with pytest.raises(RuntimeError, match=r"even in 64 parts.*(subset_size|fewer genes).*accelerator='cpu'"):
        ask()
