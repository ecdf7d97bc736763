"""Training steps of the edge network: the same batches for the same step, and a loss that teaches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from causcade.nn.acyclic import acyclicity_penalty, edge_bce
from causcade.nn.avici import Avici, AviciConfig
from causcade.nn.cells import CellStream
from causcade.pretrain.graph_task import GraphBatch, GraphBatches, GraphTask
from causcade.pretrain.recipe import Recipe
from causcade.simulate.domains import GraphPrior, draw_graph_item

PRIOR = GraphPrior(genes={"3": 1.0, "6": 1.0}, cells=(30, 60), missing=0.5)
RECIPE = Recipe("test", network="avici", batch=4, steps=40, seed=3)
CPU = torch.device("cpu")


def task(**options):
    return GraphTask(RECIPE, CPU, prior=options.pop("prior", PRIOR), **options)


def network():
    torch.manual_seed(0)
    return Avici(AviciConfig(width=16, heads=2, hidden=32, layers=2, out=8))


def same(a: GraphBatch, b: GraphBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_batches_depend_on_seed_and_step_alone() -> None:
    one, two = task(), task()
    assert same(one.batch(7), two.batch(7))
    two.batch(2)
    assert same(one.batch(8), two.batch(8))
    other = GraphBatches(PRIOR, RECIPE.seed + 1, 4, 40)
    for a, b in ((one.batch(7), one.batch(8)), (one.batch(7), other[7])):
        assert a.values.shape != b.values.shape or not torch.equal(a.values, b.values)


def test_batch_holds_items_of_one_size() -> None:
    seen = set()
    for step in range(12):
        batch = task().batch(step)
        n, cells, genes = batch.values.shape
        seen.add(genes)
        assert n == 4
        assert 30 <= cells <= 60
        assert batch.mask.shape == batch.missing.shape == (n, cells, genes)
        assert batch.adjacency.shape == (n, genes, genes)
        assert batch.values.isfinite().all()
        assert not batch.values[batch.missing].any()
    assert seen == {3, 6}


def test_items_are_those_of_the_simulator() -> None:
    batches = GraphBatches(PRIOR, 3, 4, 40)
    n, cells, genes = batches.size(5)
    batch = batches[5]
    for i in range(n):
        item = draw_graph_item(PRIOR, 3, 5 * 4 + i, genes=genes, cells=cells)
        assert torch.equal(batch.adjacency[i], item.adjacency)
        assert torch.equal(batch.mask[i], item.mask)
        assert torch.equal(batch.missing[i], item.cells.isnan())
        torch.testing.assert_close(batch.values[i][~batch.missing[i]], item.values[~batch.missing[i]])


def test_large_items_make_small_batches() -> None:
    wide = GraphBatches(GraphPrior(genes={"40": 1.0}, cells=(200, 200)), 0, 8, 10)
    assert wide.size(0) == (4, 200, 40)
    assert GraphBatches(GraphPrior(genes={"100": 1.0}, cells=(1000, 1000)), 0, 8, 10).size(0)[0] == 1
    assert GraphBatches(GraphPrior(genes={"2": 1.0}, cells=(50, 50)), 0, 8, 10).size(0)[0] == 8


def test_numbers_of_genes_follow_their_weights() -> None:
    batches = GraphBatches(GraphPrior(genes={"5": 3.0, "9": 1.0}), 0, 1, 1)
    genes = [batches.size(step)[2] for step in range(400)]
    assert genes.count(5) / 400 == pytest.approx(0.75, abs=0.07)


def test_batches_drawn_ahead_are_the_same() -> None:
    ahead, here = task(num_workers=1), task()
    assert same(ahead.batch(0), here.batch(0))
    assert same(ahead.batch(1), here.batch(1))
    assert same(ahead.batch(9), here.batch(9))  # a resumed run


def test_loss_is_cross_entropy_plus_multiplier_times_penalty() -> None:
    t, net = task(), network().eval()
    batch = t.batch(0)
    logits = net(batch.values, batch.mask, batch.missing)
    plain = edge_bce(logits, batch.adjacency)
    assert float(t.loss(net, 0).detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    t.dual.weight = 2.0
    want = float((plain + 2.0 * acyclicity_penalty(logits)).detach())
    assert float(t.loss(net, 0).detach()) == pytest.approx(want, rel=1e-4)
    assert t.dual.calls == 0  # only training moves the multiplier


def test_multiplier_rises_in_training_and_resumes() -> None:
    options = {"acyclic": {"lr": 10.0, "every": 2, "rate": 0.5, "warmup": 0}}
    whole, net = task(**options), network()
    losses = [float(whole.loss(net, step).detach()) for step in range(6)]
    assert whole.dual.weight > 0
    first, second = task(**options), task(**options)
    for step in range(3):
        first.loss(net, step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [float(second.loss(net, step).detach()) for step in range(3, 6)] == losses[3:]
    off = task(acyclic={"lr": 0.0})
    off.loss(net, 0)
    assert off.dual.calls == 0


def test_steps_teach() -> None:
    prior = GraphPrior(genes={"3": 1.0}, cells=(60, 60), domains={"linear": 1.0}, missing=0.0)
    t, net = task(prior=prior, acyclic={"lr": 0.0}), network()
    rate = [float(t.batch(s).adjacency.float().sum((1, 2)).mean()) / 6 for s in range(20)]
    p = float(np.mean(rate))
    velocity = [torch.zeros_like(w) for w in net.parameters()]
    losses = []
    for step in range(30):
        loss = t.loss(net, step)
        losses.append(float(loss.detach()))
        for w, v, g in zip(net.parameters(), velocity, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            v.mul_(0.9).add_(g)
            with torch.no_grad():
                w -= 0.02 * v
    assert np.mean(losses[:3]) > 1.0
    assert np.mean(losses[-10:]) < -(p * np.log(p) + (1 - p) * np.log(1 - p)) + 0.1


def test_prior_comes_from_the_recipe() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "__post_init__", lambda self: None)
        recipe = Recipe("test", network="avici", prior={"genes": {"3": 1.0}, "cells": [30, 40], "weight": [[1, 2]]})
    prior = GraphTask(recipe, CPU).prior
    assert prior == GraphPrior(genes={"3": 1.0}, cells=(30, 40), weight=((1, 2),))


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="not by CellStream"):
        task().loss(CellStream(), 0)


def test_reused_batches_are_the_same_graphs_with_other_cells() -> None:
    batches = GraphBatches(PRIOR, 3, 4, 40, reuse=2, pool=3)
    first, again = batches[1], batches[4]  # pool steps apart
    assert torch.equal(first.adjacency, again.adjacency)
    assert first.values.shape[1] != again.values.shape[1] or not torch.equal(first.values, again.values)
    assert not any(same(batches[s], first) for s in (0, 2, 3))
    whole = GraphBatches(PRIOR, 3, 4, 40)[1]
    assert torch.equal(whole.adjacency, first.adjacency)
    rows = {tuple(row.tolist()) for row in whole.values[0]}
    assert {tuple(row.tolist()) for row in first.values[0]} <= rows
    assert 20 <= first.values.shape[1] <= whole.values.shape[1]
    fresh = GraphBatches(PRIOR, 3, 4, 40, reuse=2, pool=3)
    assert same(fresh[4], again) and same(fresh[1], first)  # whatever was asked before


def test_some_reused_batches_are_mostly_control() -> None:
    prior = GraphPrior(genes={"4": 1.0}, cells=(60, 60), interventional=1.0, share=(0.5, 0.5), hidden=0.0, missing=0.0)
    batches = GraphBatches(prior, 0, 4, 400, reuse=2, pool=30)
    shares = [float(batches[step].mask.any(2).float().mean()) for step in range(60)]
    assert min(shares) < 0.25 and 0.3 < np.median(shares) < 0.7


def test_batches_of_the_pair_network_go_by_pairs_of_genes() -> None:
    prior = GraphPrior(genes={"5": 1.0, "20": 1.0, "40": 1.0}, cells=(30, 3000))
    batches = GraphBatches(prior, 0, 8, 100, by_pairs=True)
    assert {batches.size(s)[::2] for s in range(60)} == {(16, 5), (8, 20), (2, 40)}


def test_task_takes_penalty_and_reuse_from_the_recipe() -> None:
    recipe = Recipe(
        "test", network="edges", batch=4, steps=9, prior={"genes": {"3": 1.0}, "cells": [30, 60]}, reuse=3, pool=5,
        acyclic={"lr": 0.5, "every": 2},
    )  # fmt: skip
    found = GraphTask(recipe, CPU)
    assert (found.dual.lr, found.dual.every, found.batches.reuse, found.batches.pool) == (0.5, 2, 3, 5)
    assert found.batches.by_pairs and found.prior.cells == (30, 60)
