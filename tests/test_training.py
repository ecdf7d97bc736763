"""Episodes, their design, the schedule, and the quiet trainer."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from causcade.models import AVICI, CDN, TCD
from causcade.models._training import Design, EpisodeData, Episodes, Onward, Plan, like_screen, quiet, thin
from causcade.models.tcd import TCDModule
from causcade.pretrain import Recipe
from causcade.regimes import from_adata
from causcade.simulate.domains import GraphPrior
from causcade.simulate.episodes import Screen, ScreenPrior, draw_screen

PRIOR = ScreenPrior(genes=(20, 20), control=(40, 40), types=(1, 2), full_coverage=1.0, ten_cells=1.0)
RECIPE = Recipe("test", subset=96, batch=2, assays=2, seed=5)


def episodes(**changes: Any) -> Episodes:
    return Episodes(replace(RECIPE, **changes), PRIOR, Design(0.5, 4))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_like_screen_takes_over_the_design(screen: Any) -> None:
    prior, design = like_screen(from_adata(screen), screen.n_vars)
    assert prior.genes == (32, 32)
    assert prior.control == (60, 60)
    assert design == Design(12 / 32, 8)
    assert prior.full_coverage == 12 / 32
    assert prior.fidelities == {"low": 1.0}


def test_like_screen_keeps_to_what_can_be_simulated(screen: Any) -> None:
    regimes = from_adata(screen)
    assert like_screen(regimes, 5000)[0].genes == (200, 200)
    assert like_screen(regimes, 12)[0].genes == (20, 20)
    assert like_screen(regimes, 32, values="expression")[0].fidelities == {"high": 1.0}
    assert like_screen(regimes, 32, n_groups=4)[0].groups_known == 1.0


def test_like_screen_without_known_targets(screen: Any) -> None:
    regimes = from_adata(screen)
    unknown = replace(regimes, target_index=tuple(np.zeros(0, int) for _ in regimes.names))
    assert like_screen(unknown, 32)[1] == Design(0.0, None)


def drawn() -> tuple[Screen, Screen]:
    full = draw_screen(PRIOR, 0, 0)
    return full, thin(full, Design(0.3, 4), torch.Generator().manual_seed(0))


def test_thin_keeps_controls_and_the_wanted_regimes() -> None:
    full, out = drawn()
    cells = torch.bincount(out.codes)
    assert int(cells[0]) == int((full.codes == 0).sum()) > 0
    assert cells[1:].tolist() == [4] * 6
    assert torch.equal(out.perturbed, full.perturbed[:6])
    assert int((out.single >= 0).sum()) == 6


def test_thin_keeps_cells_together() -> None:
    full, out = drawn()
    for row in range(0, len(out.x), 7):
        here = (full.x == out.x[row]).all(1) & (full.codes == out.codes[row]) & (full.types == out.types[row])
        assert bool(here.any())


def test_thin_to_everything_changes_nothing() -> None:
    full, _ = drawn()
    out = thin(full, Design(), torch.Generator().manual_seed(0))
    assert torch.equal(out.x, full.x)
    assert torch.equal(out.codes, full.codes)


def test_episode_is_a_batch_of_equal_sets() -> None:
    batch = episodes()[0]
    assert batch["labels"].shape == batch["valid"].shape == (2, 18, 18)  # a tenth of 20 genes may be unmeasured
    assert batch["x"].shape[:3] == (2, 18, 18)
    assert not bool(batch["valid"].diagonal(dim1=1, dim2=2).any())
    assert bool(batch["valid"].sum() == 2 * 18 * 17)
    assert bool(torch.isfinite(batch["x"]).all())


def test_episode_of_the_cell_network() -> None:
    assert episodes(network="cells", cells=30)[0]["x"].shape == (2, 30, 18, 2)


def test_episode_depends_on_seed_and_number_alone() -> None:
    first = episodes()
    first[3]
    assert same(first[7], episodes()[7])
    assert not same(first[7], first[8])
    assert not same(first[7], episodes(seed=6)[7])


def test_sampler_goes_on() -> None:
    sampler = Onward(4, 3)
    assert [list(sampler), list(sampler)] == [[4, 5, 6], [7, 8, 9]]
    iter(sampler)  # taken by a loader and not used
    assert list(sampler) == [10, 11, 12]
    assert len(sampler) == 3


def epochs(num_workers: int) -> list[dict[str, torch.Tensor]]:
    data = EpisodeData(episodes(), per_epoch=3, n_validation=1, num_workers=num_workers)
    return [*data.train_dataloader(), *data.train_dataloader()]


def test_workers_do_not_change_the_episodes() -> None:
    alone, shared = epochs(0), epochs(2)
    assert len(alone) == 6
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert not same(alone[0], alone[3])


WORKERS: dict[Any, Any] = {
    TCD: ({"heads": 1, "paths": 0}, {"episodes_per_epoch": 2, "prior": PRIOR}),
    CDN: ({"heads": 1, "paths": 0}, {"steps_per_epoch": 2}),
    AVICI: (
        {"heads": 1, "layers": 1, "triads": 1},
        {"steps_per_epoch": 2, "prior": GraphPrior(domains={"linear": 1.0}, genes={"5": 1.0}, cells=(50, 50))},
    ),
}


@pytest.mark.parametrize("kind", list(WORKERS), ids=lambda kind: kind.__name__)
def test_workers_do_not_change_the_weights(screen: Any, kind: Any) -> None:
    sizes, how = WORKERS[kind]
    found = []
    for num_workers in (0, 2):
        kind.setup_anndata(screen)
        model = kind(screen, width=8, hidden=8, **sizes)
        model.train(
            2, batch_size=2, n_validation=1, num_workers=num_workers, accelerator="cpu", progress_bar=False, **how
        )
        losses = model.history["train_loss"].to_numpy(float).ravel().tolist()
        found.append((losses, torch.cat([p.detach().flatten() for p in model.net.parameters()])))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_validation_is_fixed_and_apart_from_training() -> None:
    data = EpisodeData(episodes(), per_epoch=2, n_validation=2)
    first, again = list(data.val_dataloader()), list(data.val_dataloader())
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a in data.train_dataloader() for b in first)


def test_rate_warms_up_and_cools_down() -> None:
    plan = Plan(torch.nn.Linear(1, 1), warmup=0.1, cooldown=0.25)
    rates = [plan.rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[75] == 1.0
    assert rates[90] == pytest.approx(0.4)
    assert rates[100] == 0.0
    assert plan.rate(10**9, float("inf")) == 1.0


def test_loss_that_is_not_finite_stops_the_training() -> None:
    module = TCDModule(torch.nn.Linear(1, 1))
    module.inference = lambda x: {"logits": module.net(x).squeeze(-1) * float("nan")}  # type: ignore[method-assign]
    plan = Plan(module, lr=0.5)
    plan.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match=r"became nan at step 0. Lower lr \(now 0.5\)"):
        plan.training_step(
            {"x": torch.ones(1, 2, 2, 1), "labels": torch.eye(2)[None], "valid": torch.eye(2)[None] > 0}, 0
        )


def test_optimiser_does_not_decay_biases() -> None:
    plan = Plan(torch.nn.Linear(3, 2), weight_decay=0.1)
    plan._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = plan.configure_optimizers()["optimizer"].param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert [[p.ndim for p in g["params"]] for g in groups] == [[2], [1]]


def test_quiet_puts_the_levels_back() -> None:
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    with pytest.raises(KeyError), quiet():
        assert log.level == logging.ERROR
        raise KeyError
    assert log.level == before


def test_ctrl_c_leaves_a_usable_model(
    screen: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """And nothing else: no exit, and the next Ctrl-C is heard."""
    real, left = Plan.training_step, [3]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be deaf to it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def step(self: Plan, batch: Any, number: int) -> Any:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch, number)

    monkeypatch.setattr(Plan, "training_step", step)
    TCD.setup_anndata(screen)
    model = TCD(screen, width=8, layers=1, heads=2, hidden=8)
    start = {k: v.clone() for k, v in model.net.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        model.train(4, episodes_per_epoch=2, batch_size=1, progress_bar=False, accelerator="cpu")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "interrupted after 2 steps: the model keeps" in caplog.text
    assert model.is_trained and any(not torch.equal(start[k], v) for k, v in model.net.state_dict().items())
    assert model.get_causes(["G01"], progress_bar=False).notna().all(axis=None)
    left[0] = 1
    other = TCD(screen, width=8, layers=1, heads=2, hidden=8)
    with pytest.raises(KeyboardInterrupt):
        other.train(4, episodes_per_epoch=2, batch_size=1, progress_bar=False, accelerator="cpu")
    assert not other.is_trained  # nothing was learnt
