"""How weights are made: the same run, whether it is stopped or not."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from causcade import heldout, pretrained
from causcade.contrasts import Summary, summarise
from causcade.ensemble import Ensemble
from causcade.nn.differential import Differential, graph_loss, target_loss
from causcade.nn.pair_stream import PairStream, PairStreamConfig, pair_loss
from causcade.pretrain import Recipe, Trainer, build_network, made_by, make_item, make_samples, run
from causcade.pretrain.__main__ import main
from causcade.pretrain.compose_task import ComposeTask
from causcade.pretrain.target_items import (
    PairBatch,
    TargetScreen,
    from_shifts,
    from_target_screen,
    measure_screen,
)
from causcade.pretrain.tasks import CauseTask, TargetTask, build_task, pair_batch_loss
from causcade.pretrain.trainer import _widened
from causcade.scoring import set_size
from causcade.set_inputs import pair_input, set_input
from causcade.simulate.episodes import draw_screen
from causcade.simulate.graphs import ancestors
from causcade.simulate.shifts import draw_shifts

PRIOR = {"genes": [14, 30], "control": [30, 40], "max_cells": 60, "dt": 0.2, "types": [1, 2]}
TINY = Recipe(
    "tiny",
    sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8, "paths": 2},
    prior=PRIOR,
    subset=16,
    batch=2,
    steps=6,
    warmup=2,
    cooldown=2,
    pool=2,
    refresh=2,
    assays=2,
)
CELLS = replace(
    TINY, name="tiny-cells", network="cells", sizes={"width": 8, "layers": 1, "heads": 2, "hidden": 8}, cells=10
)
TARGETS = Recipe(
    "tiny-targets",
    network="differential",
    sizes={"width": 8, "heads": 2, "hidden": 8, "structure_layers": 1, "difference_layers": 1, "paths": 2, "local": 4},
    prior={"genes": {"5": 1.0, "8": 1.0}, "regimes": 3, "cells": [30, 40], "control": [30, 50]},
    screens={**PRIOR, "genes": [14, 20], "full_coverage": 1.0},
    screen_share=0.4,
    subset=8,
    subsets=(2, 4),
    batch=6,
    steps=6,
    warmup=2,
    cooldown=2,
    pool=2,
    refresh=2,
)
COMPOSING = replace(TINY, name="tiny-composing", sizes={**TINY.sizes, "rounds": 1}, compose_steps=4)
CPU = torch.device("cpu")


def train(recipe, out, *, resume=False, adopt=False, minutes=10.0):
    return run(recipe, out, minutes=minutes, device="cpu", resume=resume, adopt=adopt, every=2)


def same_batches(a, b):
    def parts(batch: PairBatch):
        summaries = [batch.control, *batch.perturbed]
        tensors = [getattr(s, name) for s in summaries for name in ("mean", "cov", "bend", "kurtosis")]
        graph = [] if batch.adjacency is None else [batch.adjacency]
        return [s.n for s in summaries], [*tensors, batch.targets, *graph]

    for x, y in zip(map(parts, a), map(parts, b), strict=True):
        if x[0] != y[0] or not all(torch.equal(s, t) for s, t in zip(x[1], y[1], strict=True)):
            return False
    return True


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- recipes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tcd-grn-umi", "tcd-grn-expression", "tcd-screens"])
def test_bundled_recipes_load_and_build(name) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    prior = recipe.screen_prior()
    assert isinstance(prior.depth_shift, tuple)
    assert ("low" in prior.fidelities) == (name != "tcd-grn-expression")
    net = build_network(recipe)
    assert isinstance(net, PairStream)
    assert net.config == PairStreamConfig(**recipe.sizes)


def test_digest_knows_every_field() -> None:
    digests = {TINY.digest(), replace(TINY, seed=1).digest(), replace(TINY, lr=1e-4).digest()}
    digests |= {replace(TINY, prior={**PRIOR, "dt": 0.1}).digest(), replace(TINY, start="mine").digest()}
    digests |= {replace(TINY, prior={**PRIOR, name: [0.5, 1.0]}).digest() for name in ("levels", "programs")}
    digests |= {replace(TINY, sizes_alike=True).digest(), replace(TINY, prior={**PRIOR, "brief": 0.5}).digest()}
    assert len(digests) == 9
    assert replace(TINY).digest() == TINY.digest()
    assert Recipe(**json.loads(json.dumps(TINY.__dict__))).digest() == TINY.digest()


@pytest.mark.parametrize("name", pretrained.available())
def test_fields_that_came_later_leave_hashes_as_they_were(name) -> None:
    config = pretrained.load(name).config
    assert Recipe(**config["recipe"]).digest() == config["recipe_hash"]


def test_digest_knows_the_fields_of_differential_networks() -> None:
    changes = {
        "prior": {**TARGETS.prior, "regimes": 4},
        "screens": {},
        "screen_share": 0.1,
        "real": (("hipsc_tf_ko", "day"),),
        "real_share": 0.1,
        "subsets": (2, 5),
        "graph_weight": 0.5,
        "start": "mine",
    }
    digests = {replace(TARGETS, **{k: v}).digest() for k, v in changes.items()} | {TARGETS.digest()}
    assert len(digests) == len(changes) + 1
    other = replace(TARGETS, real=(("hipsc_tf_ko", "day"), ("mine", None)))
    again = Recipe(**json.loads(json.dumps(other.__dict__)))
    assert again == other
    assert again.digest() == other.digest()
    assert again.shift_prior().cells == (30, 40)


@pytest.mark.parametrize("name", pretrained.available())
def test_digest_of_released_weights_stands(name) -> None:
    config = pretrained.load(name).config
    assert Recipe(**config["recipe"]).digest() == config["recipe_hash"] == config["stages"][-1][0]


@pytest.mark.parametrize("name", ["cdn-synthetic", "cdn-screens", "cdn-no-scale", "cdn-paper"])
def test_bundled_recipes_of_differential_networks(name) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert isinstance(build_network(recipe), Differential)
    assert isinstance(recipe.shift_prior().cells, tuple)
    assert ("scale" in recipe.shift_prior().interventions) == (name in ("cdn-synthetic", "cdn-screens"))
    with pytest.raises(ValueError, match=r"screens of recipe '.*' has unknown fields \['gene'\]; known are \['genes'"):
        replace(recipe, screens={"gene": 3})
    with pytest.raises(
        ValueError, match=r"prior of recipe '.*' has unknown fields \['hill'\]; known are \['genes', 'edges'"
    ):
        replace(recipe, prior={"hill": [1, 2]})


def test_recipes_are_read_from_files(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "steps": 3}))
    assert Recipe.load(str(path)) == Recipe("mine", steps=3)
    path.write_text(json.dumps({"name": "mine", "step": 3}))
    with pytest.raises(ValueError, match=r"unknown: \['step'\]"):
        Recipe.load(str(path))
    path.write_text(json.dumps({"steps": 3}))
    with pytest.raises(ValueError, match="needs a name"):
        Recipe.load(str(path))


def test_a_missing_file_steps_and_prior_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no recipe file '.*mine\.json'"):
        Recipe.load(str(tmp_path / "mine.json"))
    for steps in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"steps of recipe 'tiny' must be .* at least 1, not {steps}"):
            replace(TINY, steps=steps)
    with pytest.raises(ValueError, match=r"'tiny' has unknown fields \['gene'\]; known are \['genes'"):
        replace(TINY, prior={"gene": [14, 30]})


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'tcd'.*'tcd-grn-expression', 'tcd-grn-umi', 'tcd-paper'"):
        Recipe.load("tcd")
    with pytest.raises(ValueError, match=r"network 'trees'.*'pairs', 'cells'"):
        build_network(replace(TINY, network="trees"))


# --- what is drawn ------------------------------------------------------------------------------------------------


def test_samples_depend_on_seed_and_index_alone() -> None:
    prior = TINY.screen_prior()
    screen = draw_screen(prior, 0, 1)
    first = make_samples(screen, TINY, prior, 1)
    torch.rand(3)
    again = make_samples(draw_screen(prior, 0, 1), TINY, prior, 1)
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.truth, b.truth)
        assert torch.equal(a.features.genes, b.features.genes)
        assert same(a.features.matrices, b.features.matrices)
    assert not torch.equal(first[0].features.screen, first[1].features.screen)


def test_labels_are_the_ancestors_of_the_measured_genes() -> None:
    prior, found = TINY.screen_prior(), set()
    for index in range(4):
        screen = draw_screen(prior, 0, index)
        truth, n = ancestors(screen.grn.adjacency), screen.grn.n_genes
        for sample in make_samples(screen, replace(TINY, assays=3), prior, index):
            found.add(len(sample.truth) == n)
            assert len(sample.truth) in (n, n - round(0.1 * n))
            assert sample.features.n_genes == len(sample.truth)
            assert len(sample.truth) < n or torch.equal(sample.truth, truth)
    assert found == {True, False}  # some assays leave genes out


@pytest.mark.parametrize("recipe", [TINY, CELLS], ids=["pairs", "cells"])
def test_items_are_cut_to_the_smallest_screen_of_a_batch(recipe) -> None:
    prior = recipe.screen_prior()
    small = make_samples(draw_screen(replace(prior, genes=(14, 14)), 0, 0), recipe, prior, 0)
    large = make_samples(draw_screen(replace(prior, genes=(30, 30)), 0, 1), recipe, prior, 1)
    trainer = Trainer(replace(recipe, batch=8), "cpu")
    trainer.task.fill_pool = lambda step: [0, 1]
    trainer.task.pool = {0: small, 1: large}
    x, labels, valid = trainer.task.batch(0)
    k = min(len(sample.truth) for sample in small)
    assert k < recipe.subset
    assert labels.shape == valid.shape
    assert labels.shape[1] in {k, len(small[0].truth), len(small[1].truth)}
    assert x.shape[-2] == labels.shape[1]
    assert torch.equal(valid[0], ~torch.eye(labels.shape[1], dtype=torch.bool))
    net = build_network(recipe)
    other = torch.where(valid, labels, 1 - labels)
    assert pair_loss(net(x), labels, valid) == pair_loss(net(x), other, valid)


def test_small_screens_have_steps_of_their_own() -> None:
    """With `sizes_alike` a small screen does not cut the sets of larger ones; without, the smallest of a batch decides."""
    wide = replace(TINY, prior={**PRIOR, "genes": [5, 40]}, subset=24, batch=4, pool=12)
    sizes = {}
    for alike in (False, True):
        task = CauseTask(replace(wide, sizes_alike=alike), CPU)
        sizes[alike] = [task.batch(step)[0].shape[1] for step in range(16)]
    assert np.mean(sizes[True]) > np.mean(sizes[False]) + 3
    assert min(sizes[True]) < 15 < 20 < max(sizes[True])


def test_cell_items_hold_no_foreign_perturbation() -> None:
    prior = replace(CELLS.screen_prior(), full_coverage=1.0, full_efficacy=1.0, genes=(30, 30))
    sample = make_samples(draw_screen(prior, 0, 0), replace(CELLS, assays=1), prior, 0)[0]
    recipe = replace(CELLS, cells=300)
    gen = torch.Generator().manual_seed(0)
    for _ in range(3):
        x, _, _ = make_item(sample, recipe, gen)
        mask = x[..., 1]
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert mask.sum(1).max() == 1  # single perturbations
        assert (x[..., 0][mask == 1] == 0).all()  # which are complete
        per_gene = mask.sum(0) > 0
        assert per_gene.float().mean() > 0.8


# --- what networks of targets learn from --------------------------------------------------------------------------


def test_batches_of_targets_depend_on_the_step_alone() -> None:
    straight, jumping = TargetTask(TARGETS, CPU), TargetTask(TARGETS, CPU)
    steps = list(range(6))
    first = [straight.batches(step) for step in steps]
    for step in (5, 0, 3):
        torch.rand(3)
        assert same_batches(jumping.batches(step), first[step])
    assert not same_batches(first[0], first[1])
    other = TargetTask(replace(TARGETS, seed=1), CPU)
    assert not any(same_batches(other.batches(step), first[step]) for step in steps)
    kinds = {len(batches) > 1 for batches in first}
    assert kinds == {True, False}  # several models, or one screen


def test_pairs_of_a_step_have_as_many_genes() -> None:
    task = TargetTask(replace(TARGETS, screen_share=0.0), CPU)
    found = set()
    for step in range(6):
        batches = task.batches(step)
        (genes,) = {b.targets.shape[1] for b in batches}
        found.add(genes)
        assert [len(b.perturbed) for b in batches] == [3, 3]
        for b in batches:
            assert b.control.mean.shape == (genes,)
            assert b.adjacency.shape == (genes, genes)
            assert all(s.mean.shape == (genes,) for s in b.perturbed)
    assert found == {5, 8}


def test_more_genes_make_fewer_pairs() -> None:
    prior = {**TARGETS.prior, "genes": {"40": 1.0}}
    batches = TargetTask(replace(TARGETS, prior=prior, screen_share=0.0, batch=8), CPU).batches(0)
    assert [len(b.perturbed) for b in batches] == [2]  # 8 x 400 / 1600


def test_no_model_is_drawn_twice(monkeypatch) -> None:
    drawn = []
    task = TargetTask(replace(TARGETS, screen_share=0.0), CPU)
    import causcade.pretrain.tasks as tasks

    monkeypatch.setattr(
        tasks, "draw_shifts", lambda p, s, i, genes: drawn.append(i) or draw_shifts(p, s, i, genes=genes)
    )
    for step in range(5):
        task.batches(step)
    assert len(set(drawn)) == len(drawn) == 10


def test_sets_of_a_causal_model() -> None:
    shifts = draw_shifts(TARGETS.shift_prior(), 0, 0)
    batch = from_shifts(shifts)
    assert torch.equal(batch.targets, shifts.targets)
    assert torch.equal(batch.adjacency, shifts.adjacency)
    torch.testing.assert_close(batch.control.mean, shifts.control.mean(0))
    for s, x in zip(batch.perturbed, shifts.perturbed, strict=True):
        torch.testing.assert_close(s.cov, x.T.cov(correction=0))


def test_targets_of_a_simulated_screen_are_those_knocked_out() -> None:
    prior = replace(TARGETS.screen_prior(), full_efficacy=1.0, fidelities={"high": 1.0})
    screen = draw_screen(prior, 0, 0)
    measured = measure_screen(screen, prior, 0, 0)
    assert measured.adjacency is screen.grn.adjacency
    assert len(measured.targets) == len(screen.perturbed)
    for r, (gene,) in measured.targets.items():
        assert gene == screen.perturbed[r - 1]
        assert (screen.x[screen.codes == r, gene] == 0).all()
    again = measure_screen(screen, prior, 0, 0)
    assert torch.equal(again.values, measured.values)
    assert not torch.equal(measure_screen(screen, prior, 0, 1).values, measured.values)


def known_screen(*, per_regime: int = 40, genes: int = 12, regimes: int = 5) -> TargetScreen:
    """Regime r pushes gene r by ten and gene r + 6 by four; regime 1 also pushes gene 0."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(regimes + 1), [300] + [per_regime] * regimes)
    x = rng.normal(size=(len(codes), genes))
    targets = {r: (r,) if r > 1 else (0, 1) for r in range(1, regimes + 1)}
    for r, hit in targets.items():
        x[np.ix_(codes == r, hit)] += 10
        x[codes == r, r + 6] += 4
    adjacency = torch.zeros(genes, genes, dtype=torch.bool)
    adjacency[torch.arange(1, 6), torch.arange(7, 12)] = True
    return TargetScreen(torch.from_numpy(x).float(), torch.from_numpy(codes), targets, adjacency)


def changes(batch: PairBatch) -> torch.Tensor:
    return torch.stack([s.mean - batch.control.mean for s in batch.perturbed])


def test_targets_of_a_screen_are_marked_where_the_genes_are() -> None:
    screen, sizes = known_screen(), set()
    for seed in range(8):
        batch = from_target_screen(screen, 3, 9, np.random.default_rng(seed), hidden=0.0)
        assert batch.targets.shape == (3, 9)
        assert torch.equal(batch.targets, changes(batch) > 7)
        assert batch.targets.sum(1).min() >= 1
        sizes |= {s.n for s in batch.perturbed}
        assert 50 <= batch.control.n <= 300
    assert min(sizes) >= 10
    assert max(sizes) <= 40
    assert len(sizes) > 3


def test_genes_of_a_batch() -> None:
    screen = known_screen()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        batch = from_target_screen(screen, 1, 4, rng, hidden=0.0)
        moved = changes(batch)[0]
        # the target, its child as the most changed gene, and others
        assert (moved > 7).sum() == batch.targets.sum()
        assert ((moved > 2) & (moved < 7)).sum() == 1
        assert batch.targets.shape[1] == 4
        edges = batch.adjacency.nonzero().tolist()
        assert [child for cause, child in edges if batch.targets[0, cause]] == [
            int(((moved > 2) & (moved < 7)).nonzero())
        ]
    wide = from_target_screen(screen, 5, 2, np.random.default_rng(0))
    assert wide.targets.shape == (5, 8)  # six targets and two more
    assert from_target_screen(replace(screen, adjacency=None), 1, 4, np.random.default_rng(0)).adjacency is None


def test_hidden_targets_look_like_controls() -> None:
    screen = known_screen(per_regime=300)
    for seed in range(6):
        batch = from_target_screen(screen, 5, 12, np.random.default_rng(seed), hidden=1.0)
        moved = changes(batch)
        assert moved[batch.targets].abs().max() < 1.2
        assert ((moved > 3) & (moved < 5)).sum() == 5  # their children still move
        assert not (moved[~batch.targets] > 7).any()
    partly = torch.tensor(
        [
            changes(b)[b.targets].mean()
            for b in (from_target_screen(screen, 5, 12, np.random.default_rng(s), hidden=0.5) for s in range(12))
        ]
    )
    assert (partly < 0.3).any()  # a whole
    assert ((partly > 1) & (partly < 9)).any()  # a part
    assert partly.max() < 10


def test_hiding_leaves_the_screen_alone() -> None:
    screen = known_screen()
    before = screen.values.clone()
    from_target_screen(screen, 5, 12, np.random.default_rng(0), hidden=1.0)
    assert torch.equal(screen.values, before)


def test_regimes_of_one_cell_can_be_used() -> None:
    batch = from_target_screen(known_screen(per_regime=1), 5, 12, np.random.default_rng(0), hidden=0.0)
    assert {s.n for s in batch.perturbed} == {1}
    assert torch.equal(batch.targets, changes(batch) > 7)


def test_screens_without_targets_are_passed_over(monkeypatch) -> None:
    task = TargetTask(replace(TARGETS, screen_share=1.0, pool=3), CPU)
    empty, full = replace(known_screen(), targets={}), known_screen()
    monkeypatch.setattr(task, "_fill_pool", lambda step: [4, 5, 6])
    task.pool = {4: empty, 5: full, 6: empty}
    for step in range(6):
        assert task.batches(step)[0].targets.any()
    task.pool[5] = empty
    with pytest.raises(ValueError, match=r"No gene is perturbed in any of the 3 screens of step 2"):
        task.batches(2)
    with pytest.raises(ValueError, match="No regime with cells has a known target"):
        from_target_screen(empty, 2, 4, np.random.default_rng(0))


@pytest.fixture
def real_screens(screen, tmp_path):
    """Folder with the small screen, every cell twice, under the name of a real one."""
    import anndata as ad

    twice = ad.concat([screen, screen], index_unique="-")
    twice.obs["perturbation"] = twice.obs["pert"]
    folder = tmp_path / "screens"
    folder.mkdir()
    twice.write_h5ad(folder / "mine.h5ad")
    return folder


def test_real_screens_take_their_share(real_screens) -> None:
    recipe = replace(TARGETS, real=(("mine", "batch"),), real_share=1.0, screen_share=0.0, subset=20)
    task = build_task(recipe, CPU, real_screens)
    assert isinstance(task, TargetTask)
    assert len(task.real) == 1
    (batch,) = task.batches(0)
    assert batch.adjacency is None
    assert 16 <= batch.targets.shape[1] <= 20
    assert (batch.targets.sum(1) == 1).all()
    assert same_batches([batch], build_task(recipe, CPU, real_screens).batches(0))
    assert task.loss(build_network(recipe), 0).isfinite()  # without a graph to learn
    with pytest.raises(ValueError, match=r"No screen .*other\.h5ad"):
        build_task(replace(recipe, real=(("other", None),)), CPU, real_screens)


def test_real_screens_of_causes_take_their_share(real_screens) -> None:
    recipe = replace(TINY, real=(("mine", "batch"),), real_share=0.5, steps=60, refresh=100)
    task, simulated = build_task(recipe, CPU, real_screens), build_task(replace(TINY, steps=60, refresh=100), CPU)
    assert isinstance(task, CauseTask) and [real.screen.n_groups for real in task.real] == [2]
    net = build_network(recipe)
    same_loss = [torch.equal(task.loss(net, step), simulated.loss(net, step)) for step in range(24)]
    assert 6 <= sum(same_loss) <= 18
    again = build_task(recipe, CPU, real_screens)
    step = 23 - same_loss[::-1].index(False)
    assert torch.equal(again.loss(net, step), task.loss(net, step))  # of the step alone, whatever came before
    x, labels, valid = task.real_batch(0, np.random.default_rng(0))
    assert x.shape[:3] == labels.shape == valid.shape == (2, 16, 16)
    assert labels.any() and not (labels.bool() & ~valid & ~torch.eye(16, dtype=torch.bool)).any()
    with pytest.raises(ValueError, match=r"No screen .*other\.h5ad"):
        build_task(replace(recipe, real=(("other", None),)), CPU, real_screens)
    with pytest.raises(ValueError, match="'tiny-cells' has real screens, which networks 'cells' do not learn from"):
        replace(CELLS, real=(("mine", None),))


def test_screens_have_draws_of_their_own(real_screens) -> None:
    recipe = replace(TINY, real=(("mine", "batch"), ("mine", "batch")), real_share=1.0, steps=60, refresh=100)
    task, net = build_task(recipe, CPU, real_screens), build_network(recipe)
    assert isinstance(task, CauseTask)
    for step in range(12):
        task.loss(net, step)
    both = [i for i in range(4) if (0, i) in task.drawn and (1, i) in task.drawn]
    assert both and not any(torch.equal(task.drawn[0, i].known, task.drawn[1, i].known) for i in both)


def test_draws_of_a_real_screen_are_renewed(real_screens) -> None:
    recipe = replace(TINY, real=(("mine", "batch"),), real_share=1.0, steps=60)
    task, net = build_task(recipe, CPU, real_screens), build_network(recipe)
    for step in range(12):
        task.loss(net, step)
        newest = step // recipe.refresh
        assert {key[1] for key in task.drawn} <= set(range(newest, newest + 4))
    assert not task.pool  # nothing is simulated


def test_digest_knows_real_screens_where_there_are_some() -> None:
    real = replace(TINY, real=(("mine", "batch"),), real_share=0.5)
    assert len({TINY.digest(), real.digest(), replace(real, real_share=0.4).digest()}) == 3
    assert replace(TINY, real=(), real_share=0.0).digest() == TINY.digest()


def test_a_resumed_run_on_real_screens_is_bit_equal(real_screens, tmp_path) -> None:
    recipe = replace(TINY, real=(("mine", "batch"),), real_share=0.6)
    how = {"minutes": 10.0, "device": "cpu", "adopt": False, "every": 2, "screens": real_screens}
    whole = run(recipe, tmp_path / "whole", resume=False, **how)
    first = Trainer(recipe, "cpu", real_screens)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path / "broken")
    resumed = run(recipe, tmp_path / "broken", resume=True, **how)
    assert whole.step == resumed.step == recipe.steps
    assert same(whole.net.state_dict(), resumed.net.state_dict())


def test_loss_by_hand() -> None:
    net = build_network(TARGETS)
    batches = TargetTask(replace(TARGETS, screen_share=0.0), CPU).batches(0)
    genes = batches[0].targets.shape[1]
    got = pair_batch_loss(net, batches, 3, np.random.default_rng(0), 0.5, CPU)
    without = pair_batch_loss(net, batches, 3, np.random.default_rng(0), 0.0, CPU)
    rng = np.random.default_rng(0)
    controls = set_input([b.control for b in batches], 3, rng)
    perturbed = set_input([s for b in batches for s in b.perturbed], 3, rng)
    before, after = net.encode(controls), net.encode(perturbed)
    logits = []
    for i, b in enumerate(batches):  # one control for its three sets
        contrasts, node = pair_input(b.control, b.perturbed)
        logits.append(net.compare(before[i].expand(3, -1, -1, -1), after[3 * i : 3 * i + 3], contrasts, node))
    targets = target_loss(torch.cat(logits), torch.cat([b.targets for b in batches])) * genes / 10
    graphs = graph_loss(net.edges(before), torch.stack([b.adjacency for b in batches]))
    torch.testing.assert_close(without, targets)
    torch.testing.assert_close(got, targets + 0.5 * graphs)
    unknown = [replace(b, adjacency=None) for b in batches]
    torch.testing.assert_close(pair_batch_loss(net, unknown, 3, np.random.default_rng(0), 0.5, CPU), targets)


def test_codes_are_those_of_the_control(monkeypatch) -> None:
    """Of each model the control and all perturbed sets get the same code."""
    net = build_network(replace(TARGETS, sizes={**TARGETS.sizes, "codes": 3}))
    batches = TargetTask(replace(TARGETS, screen_share=0.0), CPU).batches(0)
    codes, encode = [], net.encode
    monkeypatch.setattr(net, "encode", lambda s, code: codes.append(code) or encode(s, code))
    pair_batch_loss(net, batches, 2, np.random.default_rng(0), 1.0, CPU)
    control, perturbed = codes
    assert torch.equal(perturbed, control.repeat_interleave(3, 0))
    assert not torch.equal(control[0], control[1])


def test_targets_are_learned_by_differential_networks_only() -> None:
    task = build_task(TARGETS, CPU)
    with pytest.raises(ValueError, match="not by PairStream"):
        task.loss(build_network(TINY), 0)


def test_steps_teach_what_was_hit() -> None:
    """A few steps on sets whose one target is far off: its logit ends above all others."""
    rng = np.random.default_rng(0)

    def one(hit: int | None) -> Summary:
        x = rng.normal(size=(60, 5))
        if hit is not None:
            x[:, hit] += 3
        return summarise(torch.from_numpy(x).float())

    batch = PairBatch(one(None), [one(g) for g in range(5)], torch.eye(5).bool(), torch.zeros(5, 5).bool())
    torch.manual_seed(0)
    net = build_network(TARGETS)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        loss = pair_batch_loss(net, [batch], 2, np.random.default_rng(0), 1.0, CPU)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    grids = net.encode(set_input([batch.control, *batch.perturbed], 2, np.random.default_rng(1)))
    logits = net.compare(grids[:1].expand(5, -1, -1, -1), grids[1:], *pair_input(batch.control, batch.perturbed))
    assert logits.argmax(1).tolist() == list(range(5))
    assert net.edges(grids[:1])[0].argmax(-1)[~torch.eye(5).bool()].sum() == 0  # no edges


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [3, 6, 7])
def test_a_run_that_composes_is_bit_equal_wherever_it_was_broken(first, tmp_path) -> None:
    whole = train(COMPOSING, tmp_path / "whole")
    broken = Trainer(COMPOSING, "cpu")
    for _ in range(first):
        broken.train_step()
    broken.save(tmp_path / "broken")
    resumed = train(COMPOSING, tmp_path / "broken", resume=True)
    assert whole.step == resumed.step == 10
    assert same(whole.net.state_dict(), resumed.net.state_dict()) and same(whole.average, resumed.average)


def test_composition_is_learned_last_and_alone_on_the_averaged_weights(tmp_path) -> None:
    run_ = Trainer(COMPOSING, "cpu")
    untrained = {k: v.clone() for k, v in run_.net.state_dict().items()}
    while run_.step < COMPOSING.steps:
        run_.train_step()
    sets = {k: v.clone() for k, v in run_.average.items()}
    composition = [k for k in sets if k.startswith("compose.")]
    assert composition and all(torch.equal(sets[k], untrained[k]) for k in composition)
    assert not same(sets, run_.net.state_dict())
    while run_.step < COMPOSING.all_steps:
        run_.train_step()
    for k, value in run_.average.items():
        if k not in composition:
            torch.testing.assert_close(value, sets[k], rtol=1e-6, atol=1e-7, msg=k)
    assert not all(torch.equal(run_.average[k], sets[k]) for k in composition)
    assert run_.rate() == 0
    task = run_.task.composing
    assert set(task.pool) == set(range(24)) and not run_.task.pool
    scores, truth = task.pool[0]
    assert scores.shape == truth.shape == (len(truth), len(truth))
    again = ComposeTask(COMPOSING, CPU).scored(run_.net, 0)
    assert torch.equal(again[0], scores) and torch.equal(again[1], truth)
    assert all(not task.pool[i][1].any() for i in set(range(24)) - set(task.fill_pool(run_.net, 0)))


def test_the_averaged_weights_are_taken_over_wherever_composing_begins(tmp_path) -> None:
    train(replace(TINY, steps=8), tmp_path)
    late = Trainer(COMPOSING, "cpu", fresh=False)  # of 6 steps, then 4
    late.load(tmp_path, adopt=True)
    before = {k: v.clone() for k, v in late.average.items()}
    late.train_step()
    for k, value in late.net.state_dict().items():
        if not k.startswith("compose."):
            assert torch.equal(value, before[k])


def test_composition_learns_on_sets_as_large_as_those_of_users(monkeypatch) -> None:
    asked = []

    def score_pairs(score, n_genes, *, size, rng):
        asked.append(size)
        return Ensemble.empty(n_genes, np.arange(n_genes))

    monkeypatch.setattr("causcade.pretrain.compose_task.score_pairs", score_pairs)
    ComposeTask(COMPOSING, CPU).scored(build_network(COMPOSING), 0)
    assert asked == [set_size(vars(COMPOSING))] == [2 * COMPOSING.subset]


@pytest.mark.parametrize(
    ("genes", "wanted"), [((4, 40), (16, 40)), ((20, 40), (20, 40)), ((4, 16), (4, 16)), ((4, 8), (4, 8))]
)
def test_composition_learns_on_screens_no_smaller_than_a_set_of_training(genes, wanted) -> None:
    task = ComposeTask(replace(COMPOSING, prior={**PRIOR, "genes": genes}), CPU)
    drawn = [draw_screen(task.prior, 0, i).x.shape[1] for i in range(6)]
    assert wanted[0] <= min(drawn) < max(drawn) <= wanted[1]
    assert len(task.scored(build_network(COMPOSING), 0)[1]) >= 0.85 * wanted[0]  # a tenth may be unmeasured


def test_composing_steps_lower_the_loss() -> None:
    task = ComposeTask(COMPOSING, CPU)
    net = Trainer(COMPOSING, "cpu").net
    optimiser = torch.optim.Adam(net.compose.parameters(), 1e-2)
    losses = []
    for _ in range(25):
        losses.append(task.loss(net, 0))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.1


def test_a_composition_can_be_added_to_a_run_and_taken_from_weights(tmp_path) -> None:
    train(TINY, tmp_path / "run")
    plain = load_file(tmp_path / "run" / "model.safetensors")
    added = train(COMPOSING, tmp_path / "run", resume=True, adopt=True)
    assert added.step == 10 and [step for _, step in added.stages] == [0, 6]
    for k, value in plain.items():
        torch.testing.assert_close(added.average[k], value, rtol=1e-6, atol=1e-7, msg=k)
    for other in (TINY, replace(COMPOSING, sizes={**TINY.sizes, "rounds": 2}, compose_steps=6)):
        changed = Trainer(other, "cpu", fresh=False)
        first = {k: v.clone() for k, v in changed.average.items()}
        changed.load(tmp_path / "run", adopt=True)
        for k, value in changed.average.items():
            assert torch.equal(value, first[k] if k.startswith("compose.") else added.average[k])
        if other is not TINY:
            changed.train_step()
            assert changed.step == 11
    start = Trainer(replace(TINY, start=str(tmp_path / "run")), "cpu")
    assert set(start.average) == set(plain)
    assert same({k: v for k, v in added.average.items() if k in plain}, start.average)
    assert same(Trainer(replace(COMPOSING, start=str(tmp_path / "run")), "cpu").average, added.average)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (TINY, {"compose_steps": 4}),
        (CELLS, {"compose_steps": 1}),
        (COMPOSING, {"compose_steps": -1}),
        (COMPOSING, {"compose_steps": 1.5}),
    ],
)
def test_compose_steps_need_a_composition(recipe, changes) -> None:
    with pytest.raises(ValueError, match="compose_steps of recipe 'tiny"):
        replace(recipe, **changes)
    for rounds in (-1, 1.5, "2"):
        with pytest.raises(ValueError, match="rounds="):
            replace(COMPOSING, sizes={**TINY.sizes, "rounds": rounds})
    empty = ComposeTask(COMPOSING, CPU)
    empty.pool = {i: (torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.bool)) for i in range(24)}
    with pytest.raises(ValueError, match="None of 24 simulated screens has a cause"):
        empty.fill_pool(build_network(COMPOSING), 0)
    with pytest.raises(ValueError, match="PairStream has no composition"):
        ComposeTask(TINY, CPU).loss(build_network(TINY), 0)


@pytest.mark.parametrize("recipe", [TINY, CELLS, TARGETS], ids=["pairs", "cells", "differential"])
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(recipe, tmp_path) -> None:
    whole = train(recipe, tmp_path / "whole")
    first = Trainer(recipe, "cpu")
    for _ in range(3):
        first.train_step()
        if first.step == 2:
            first.note()
    first.save(tmp_path / "broken")
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert whole.step == resumed.step == recipe.steps
    curve = [(step, loss) for step, _, loss in whole.log]  # lines are means of two steps, and the break is after three
    assert curve == [(step, loss) for step, _, loss in resumed.log] and len(curve) == recipe.steps // 2
    assert same(whole.net.state_dict(), resumed.net.state_dict())
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    assert same(load_file(tmp_path / "whole" / "model.safetensors"), weights)
    start = Trainer(recipe, "cpu").net.state_dict()
    assert not any(torch.equal(start[k], v) for k, v in weights.items() if k.endswith("feed.0.weight"))
    build_network(recipe).load_state_dict(weights)


def test_what_a_run_leaves_behind(tmp_path) -> None:
    trainer = train(TINY, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "log.json",
        "model.safetensors",
    ]
    assert [step for step, _, _ in json.loads((tmp_path / "log.json").read_text())] == [2, 4, 6]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["network"] == "pairs"
    sha256 = config.pop("sha256")
    assert sha256 == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads(json.dumps(trainer.config())) == config


def test_validation_scores_the_averaged_weights_and_changes_nothing(tmp_path, monkeypatch) -> None:
    """A run that is scored on the way, stopped and resumed ends as one that is not; the record survives the stop."""
    seen: list[dict[str, torch.Tensor]] = []

    def score(weights: pretrained.Weights, n_screens: int) -> dict[str, dict[str, dict[str, float]]]:
        seen.append(weights.net.state_dict())
        drawn = float(torch.rand(1))  # of the generator that a training may use
        return {"seen": {"TCD": {"column_auroc": 50 + drawn}, "popularity": {"column_auroc": 50.0}}}

    monkeypatch.setattr(heldout, "score_weights", score)
    plain = train(TINY, tmp_path / "plain")
    how = {"minutes": 10.0, "device": "cpu", "resume": True, "adopt": False, "every": 2, "validate": 2}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Trainer(TINY, "cpu")
    torch.set_rng_state(before)
    for _ in range(2):
        first.train_step()
    first.note()
    first.save(tmp_path / "scored")
    first.validate(tmp_path / "scored")
    assert torch.equal(torch.get_rng_state(), before)
    assert same(seen[0], first.average) and not same(seen[0], first.net.state_dict())
    first.save(tmp_path / "scored")
    scored = run(TINY, tmp_path / "scored", **how)
    assert same(plain.net.state_dict(), scored.net.state_dict()) and same(seen[-1], scored.average)
    record = json.loads((tmp_path / "scored" / "validation.json").read_text())
    assert [entry["step"] for entry in record] == [2, 4, 6]
    assert record[0]["metric"] == "column AUROC" and record[0]["model"] == "TCD"
    assert record[-1]["scores"]["seen"]["popularity"] == 50 < record[-1]["scores"]["seen"]["TCD"]
    assert not (tmp_path / "plain" / "validation.json").exists()
    with pytest.raises(ValueError, match="0 for none, not -1"):
        run(TINY, tmp_path / "none", **{**how, "validate": -1})


def test_scores_of_a_stopped_run_are_made_up_for(tmp_path, monkeypatch) -> None:
    """Scored at the weights of the step, also where no checkpoint was due, and once; what a stop left out comes first."""
    seen: list[int] = []

    def score(weights: pretrained.Weights, n_screens: int) -> dict[str, dict[str, dict[str, float]]]:
        if len(seen) == 1:
            seen.append(-1)
            raise KeyboardInterrupt
        seen.append(weights.config["steps"])
        return {"seen": {"TCD": {"column_auroc": 50.0}}}

    def record() -> list[int]:
        return [entry["step"] for entry in json.loads((tmp_path / "out" / "validation.json").read_text())]

    monkeypatch.setattr(heldout, "score_weights", score)
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(replace(TINY, steps=5).__dict__))
    command = [str(path), "--out", str(tmp_path / "out"), "--device", "cpu", "--every", "50", "--validate", "2"]
    with pytest.raises(KeyboardInterrupt):
        main(command)
    assert record() == [2]
    main([*command, "--resume"])
    assert seen == [2, -1, 4, 5] and record() == [2, 4, 5]
    main([*command, "--resume"])
    assert len(seen) == 4

    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    del state["validation"]  # a checkpoint of before there were scores
    torch.save(state, tmp_path / "out" / "checkpoint.pt")
    main([*command, "--resume"])
    assert seen[-1] == 5 and record() == [5]


def test_scores_are_of_the_folder_and_not_of_released_weights(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        heldout, "score_weights", lambda weights, _: {"seen": {"TCD": {"column_auroc": float(weights.config["steps"])}}}
    )
    trainer = train(replace(TINY, steps=1), Path("tcd-grn-umi"))
    assert trainer.validate(Path("tcd-grn-umi")) == {"seen": 1.0}


def test_scores_say_what_they_lack(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "causcade.heldout", None)
    with pytest.raises(RuntimeError, match="leave out --validate"):
        run(TINY, tmp_path / "out", minutes=1, device="cpu", resume=False, adopt=False, every=1, validate=1)
    assert not (tmp_path / "out").exists()


def test_a_run_for_targets_says_so(tmp_path) -> None:
    trainer = train(replace(TARGETS, steps=1, screen_share=0.0), tmp_path)
    found = pretrained.load(tmp_path)
    assert found.config["model"] == found.model == "CDN"
    assert Recipe(**found.config["recipe"]) == trainer.recipe
    assert same(found.net.state_dict(), trainer.average)


def test_a_run_can_start_from_other_weights(tmp_path) -> None:
    recipe = replace(TARGETS, screen_share=0.0, steps=1)
    first = train(recipe, tmp_path / "first")
    second = Trainer(replace(recipe, start=str(tmp_path / "first"), seed=1), "cpu")
    assert same(second.net.state_dict(), first.average)
    assert same(second.average, first.average)
    assert second.step == 0
    assert second.recipe.digest() != replace(recipe, seed=1).digest()
    saved = json.loads((tmp_path / "first" / "config.json").read_text())
    assert second.config()["start"] == {"name": "first", "sha256": saved["sha256"], "steps": 1}
    assert f"on top of the 1 steps of first ({saved['sha256'][:12]})" in made_by(second.config() | {"recipe_hash": "x"})


def test_what_a_run_starts_from_is_what_the_recipe_says(tmp_path) -> None:
    recipe = replace(TARGETS, screen_share=0.0, steps=1)
    train(recipe, tmp_path / "first")
    path = tmp_path / "first" / "config.json"
    config = json.loads(path.read_text())
    other = replace(recipe, start=f"{tmp_path / 'first'}@{config['sha256'][:12]}", seed=1)
    run_of = train(other, tmp_path / "second")
    with pytest.raises(ValueError, match=r"first holds weights .* recipe 0123.*FOLDER@HASH"):
        Trainer(replace(other, start=f"{tmp_path / 'first'}@0123"), "cpu")
    path.write_text(json.dumps(config | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"its config.json says 000000000000"):
        Trainer(other, "cpu")
    with pytest.raises(ValueError, match=r"No weights to start from at 'avici-none': .*'avici-scm'"):
        Trainer(replace(other, start="avici-none"), "cpu")
    # a stopped run goes on without them
    assert same(train(other, tmp_path / "second", resume=True).average, run_of.average)


def test_inputs_added_since_start_at_zero() -> None:
    old = {"a.weight": torch.ones(3, 2), "b.weight": torch.ones(2)}
    wide = _widened(old, {"a.weight": torch.zeros(3, 4), "b.weight": torch.zeros(2)})
    assert wide["a.weight"].tolist() == [[1.0, 1.0, 0.0, 0.0]] * 3
    assert wide["b.weight"] is old["b.weight"]


def test_another_recipe_is_refused_unless_adopted(tmp_path) -> None:
    train(replace(TINY, steps=2), tmp_path)
    with pytest.raises(ValueError, match=r"was made by recipe .*, not .*--adopt"):
        train(TINY, tmp_path, resume=True)
    assert train(TINY, tmp_path, resume=True, adopt=True).step == 6


def test_a_run_is_not_overwritten(tmp_path) -> None:
    train(replace(TINY, steps=2), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="pass --resume to continue or another --out"):
        train(replace(TINY, steps=2), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_no_time_left_saves_and_stops(tmp_path) -> None:
    assert train(TINY, tmp_path, minutes=0.0).step == 0
    assert (tmp_path / "checkpoint.pt").exists()


def test_nan_loss_stops_the_run(monkeypatch) -> None:
    trainer = Trainer(TINY, "cpu")
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    x, labels, valid = trainer.task.batch(0)
    monkeypatch.setattr(trainer.task, "batch", lambda step: (x * float("nan"), labels, valid))
    with pytest.raises(RuntimeError, match="loss became nan at step 0"):
        trainer.train_step()
    assert same(before, trainer.net.state_dict())


def test_rate_warms_up_and_cools_down() -> None:
    trainer, rates = Trainer(TINY, "cpu"), []
    for trainer.step in range(TINY.steps):
        rates.append(trainer.rate() / TINY.lr)
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 0.5])
    assert Trainer(replace(TINY, warmup=0, cooldown=0), "cpu").rate() == TINY.lr


def test_pool_holds_the_screens_of_its_step() -> None:
    task = build_task(TINY, CPU)
    assert isinstance(task, CauseTask)
    assert task.fill_pool(0) == [0, 1]
    kept = task.pool[1]
    assert task.fill_pool(2) == [1, 2]
    assert task.pool[1] is kept
    assert sorted(task.pool) == [1, 2]


def test_command_line(tmp_path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY.__dict__))
    main([str(path), "--out", str(tmp_path / "out"), "--steps", "2", "--device", "cpu", "--every", "1"])
    main([str(path), "--out", str(tmp_path / "out"), "--steps", "3", "--device", "cpu", "--resume", "--adopt"])
    assert [step for step, *_ in json.loads((tmp_path / "out" / "log.json").read_text())] == [1, 2, 3]
    with pytest.raises(ValueError, match="not 0"):
        main([str(path), "--out", str(tmp_path / "none"), "--steps", "0", "--device", "cpu"])
    assert not (tmp_path / "none").exists()
