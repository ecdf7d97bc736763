"""Random screens to learn from."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from causcade.simulate import episodes, graphs, noise
from causcade.simulate.episodes import ScreenPrior, _programs, assay, draw_screen

SMALL = ScreenPrior(genes=(20, 40), control=(30, 60), max_cells=200)
SCREENS = [draw_screen(SMALL, 0, index) for index in range(8)]


def test_a_screen_depends_on_seed_and_index_alone() -> None:
    torch.manual_seed(0)
    first = draw_screen(SMALL, 0, 3)
    torch.rand(7)
    again = draw_screen(SMALL, 0, 3)
    for name in ("x", "codes", "types", "perturbed"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert torch.equal(getattr(first, name), getattr(SCREENS[3], name))
    assert torch.equal(first.grn.strength, again.grn.strength)
    other = draw_screen(SMALL, 1, 3)
    assert other.x.shape != first.x.shape or not torch.equal(other.x, first.x)


@pytest.mark.parametrize("screen", SCREENS, ids=range(len(SCREENS)))
def test_a_screen_hangs_together(screen) -> None:
    n_cells, n = screen.x.shape
    assert graphs.is_dag(screen.grn.adjacency)
    assert 20 <= n == screen.grn.n_genes <= 40
    assert screen.x.isfinite().all()
    assert (screen.x >= 0).all()
    assert len(screen.codes) == len(screen.types) == n_cells
    per_regime = torch.bincount(screen.codes, minlength=len(screen.perturbed) + 1)
    assert 30 <= per_regime[0] <= 60
    assert len(per_regime) == len(screen.perturbed) + 1
    assert len(per_regime[1:].unique()) <= 1  # as many cells of each perturbation
    assert per_regime[1:].sum() <= 200
    assert screen.types.max() < screen.grn.n_types <= 10
    assert len(screen.perturbed.unique()) == len(screen.perturbed)


def test_single_points_back_at_the_perturbed_genes() -> None:
    screen = next(s for s in SCREENS if 0 < len(s.perturbed) < s.x.shape[1])
    single = screen.single
    assert single[screen.perturbed].tolist() == list(range(1, len(screen.perturbed) + 1))
    assert (single < 0).sum() == len(single) - len(screen.perturbed)


def test_complete_knockouts_are_zero() -> None:
    prior = replace(SMALL, full_efficacy=1.0, full_coverage=1.0)
    screen = draw_screen(prior, 0, 1)
    assert len(screen.perturbed) == screen.x.shape[1]
    own = screen.x[screen.codes > 0, screen.perturbed[screen.codes[screen.codes > 0] - 1]]
    assert (own == 0).all()


def test_shares_of_the_prior_decide() -> None:
    prior = replace(SMALL, full_efficacy=0.0, full_coverage=1.0, groups_known=0.0, types=(1, 1))
    screens = [draw_screen(prior, 0, index) for index in range(6)]
    assert not any(s.groups_known for s in screens)
    assert all(s.grn.n_types == 1 for s in screens)
    left = [s.x[s.codes > 0, s.perturbed[s.codes[s.codes > 0] - 1]] for s in screens]
    assert all((own > 0).any() for own in left)


def test_brief_cells_vary_less_about_the_same_means() -> None:
    """A fifth of the intrinsic variance (.15 time units from the noise-free state); controls are as noisy as ever."""
    prior = ScreenPrior(
        genes=(30, 30),
        full_coverage=1.0,
        full_efficacy=1.0,
        types=(1, 1),
        ten_cells=0.0,
        max_cells=1500,
        control=(400, 400),
    )
    for index in range(3):
        steady, brief = (draw_screen(replace(prior, brief=share), 5, index) for share in (0.0, 1.0))
        for of in ("perturbed", "codes"):
            assert torch.equal(getattr(steady, of), getattr(brief, of))
        spread, middle = {}, {}
        for name, screen in (("steady", steady), ("brief", brief)):
            regimes = [screen.x[screen.codes == code] for code in range(int(screen.codes.max()) + 1)]
            spread[name] = torch.stack([x.var(0) for x in regimes])
            middle[name] = torch.stack([x.mean(0) for x in regimes])
        alive = spread["steady"][1:] > 1e-3  # all but the knocked-out genes themselves
        assert 0.12 < (spread["brief"][1:] / spread["steady"][1:])[alive].median() < 0.35
        assert 0.7 < (spread["brief"][0] / spread["steady"][0]).median() < 1.4
        error = (spread["steady"][1:] / torch.bincount(steady.codes)[1:, None]).sqrt()
        assert ((middle["brief"] - middle["steady"])[1:].abs()[alive] / error[alive]).median() < 3


@pytest.mark.parametrize("refit", [0.0, 1.0])
def test_brief_cells_do_not_tell_regulators_by_their_noise(refit) -> None:
    """Knocked-down genes are as quiet whether they regulate anything or not."""
    prior = ScreenPrior(
        genes=(30, 60),
        full_coverage=1.0,
        full_efficacy=0.0,
        types=(1, 1),
        ten_cells=0.0,
        max_cells=2500,
        noise=(0.1, 0.1),
        refit=refit,
    )
    ratios: dict[bool, list[float]] = {True: [], False: []}
    shifts: list[float] = []
    for index in range(3):
        steady, brief = (draw_screen(replace(prior, brief=share), 5, index) for share in (0.0, 1.0))
        regulates = brief.grn.adjacency.any(1)
        for code, gene in enumerate(brief.perturbed.tolist(), 1):
            before, after = (s.x[s.codes == code, gene] for s in (steady, brief))
            if before.var() > 1e-3:
                ratios[bool(regulates[gene])].append(float(after.var() / before.var()))
            if before.mean() > 3 * before.std() and not regulates[gene]:  # seldom stopped at zero
                shifts.append(float(after.mean() / before.mean() - 1))
    assert abs(np.median(shifts)) < 0.05 and np.abs(shifts).max() < 0.3 and len(shifts) > 10
    assert all(0.12 < np.median(found) < 0.35 and len(found) > 10 for found in ratios.values())


@pytest.mark.parametrize("kind", graphs.KINDS)
def test_every_kind_of_graph_can_be_drawn(kind) -> None:
    prior = replace(SMALL, graph_kinds={kind: 1.0}, max_cells=40, control=(30, 31), dt=0.2)
    assert graphs.is_dag(draw_screen(prior, 0, 0).grn.adjacency)


def test_dense_graphs_are_kept_small() -> None:
    dense = replace(SMALL, graph_kinds={"erdos_renyi": 1.0}, genes=(60, 80), dense_genes=25, max_cells=40, dt=0.2)
    assert draw_screen(dense, 0, 0).x.shape[1] == 25
    sparse = replace(dense, graph_kinds={"sparse_regulators": 1.0})
    assert draw_screen(sparse, 0, 0).x.shape[1] >= 60


def test_assays_of_one_screen_differ_and_repeat() -> None:
    counts, text = assay(SCREENS[0], SMALL, 5, 0)
    assert torch.equal(counts, counts.round())
    assert counts.shape == SCREENS[0].x.shape
    again, same = assay(SCREENS[0], SMALL, 5, 0)
    assert torch.equal(counts, again)
    assert text == same
    assert not torch.equal(counts, assay(SCREENS[0], SMALL, 5, 1)[0])


def test_assays_follow_the_prior() -> None:
    prior = replace(SMALL, technologies={"drop-seq": 1.0}, fidelities={"high": 1.0}, depth_shift=(2.0, 2.0))
    x, text = assay(SCREENS[0], prior, 0, 0)
    assert text == "drop-seq high +2.0"
    assert not torch.equal(x, x.round())
    deep, shallow = (
        sum(assay(SCREENS[0], replace(prior, depth_shift=(by, by)), 0, a)[0].sum() for a in range(3))
        for by in (1.0, 0.0)
    )
    assert deep / shallow == pytest.approx(2.718, rel=0.1)


def test_levels_of_genes_are_of_the_assay() -> None:
    """A factor of each gene, new for each assay, of the spread that is asked for; without, nothing is drawn."""
    screen = draw_screen(SMALL, 0, 0)
    fidelity = {"high": 1.0}
    plain, spread = (replace(SMALL, fidelities=fidelity, levels=levels) for levels in ((0.0, 0.0), (1.5, 1.5)))
    assert torch.equal(assay(screen, plain, 0, 0)[0], assay(screen, replace(SMALL, fidelities=fidelity), 0, 0)[0])
    means = torch.stack([screen.x.mean(0), *(assay(screen, spread, 0, i)[0].mean(0) for i in range(3))])
    means = means[:, (means > 0).all(0)]
    shifts = means[1:].log() - means[0].log()
    assert 0.8 < float(shifts.std(1).mean()) < 2.2
    assert float(torch.corrcoef(shifts).triu(1).abs().max()) < 0.6  # not the same genes each time
    assert "levels" not in SMALL.to_dict() and spread.to_dict()["levels"] == (1.5, 1.5)


def test_programs_move_genes_together_that_do_not_act_on_each_other() -> None:
    """One to three numbers of a cell, of the spread that is asked for."""
    x, ranks = torch.ones(400, 60), set()
    for seed in range(8):
        factors = _programs(x, 0.5, random.Random(seed), torch.Generator().manual_seed(seed))
        ranks.add(int(torch.linalg.matrix_rank(factors)))
        spread = factors.std(0)
        assert 0.3 < float(spread[spread > 0].square().mean().sqrt()) < 1.2
    assert ranks == {1, 2, 3}


def test_programs_are_drawn_where_the_prior_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = replace(SMALL, fidelities={"high": 1.0})
    varied = replace(plain, programs=(1.0, 1.0))
    before, first, again = (assay(SCREENS[0], prior, 0, 0)[0] for prior in (plain, varied, varied))
    assert torch.equal(first, again)
    assert not torch.equal(first, before)
    assert "programs" not in plain.to_dict() and varied.to_dict()["programs"] == (1.0, 1.0)
    monkeypatch.setattr(episodes, "_programs", lambda *_: pytest.fail("drawn"))
    assert torch.equal(assay(SCREENS[0], plain, 0, 0)[0], before)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="kind of graph 'erdos'"):
        draw_screen(replace(SMALL, graph_kinds={"erdos": 1.0}), 0, 0)
    with pytest.raises(ValueError, match="technology 'smartseq'"):
        assay(SCREENS[0], replace(SMALL, technologies={"smartseq": 1.0}), 0, 0)


def test_prior_names_what_exists_and_survives_json() -> None:
    prior = ScreenPrior()
    assert set(prior.graph_kinds) <= set(graphs.KINDS)
    assert set(prior.technologies) <= set(noise.TECHNOLOGIES)
    assert set(prior.fidelities) <= set(noise.FIDELITIES)
    assert json.loads(json.dumps(prior.to_dict()))["genes"] == list(prior.genes)
