"""A step that is divided, over processes and into parts, is the same step."""

from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from causcade.models import AVICI, CDN, TCD
from causcade.models._plan import Plan
from causcade.simulate.domains import GraphPrior

GRAPHS = GraphPrior(domains={"linear": 1.0}, genes={"10": 1.0}, cells=(50, 50))
SIZES: dict[str, Any] = {
    "TCD": {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "paths": 2},
    "CDN": {"width": 8, "heads": 1, "hidden": 8, "paths": 0, "codes": 3},
    "AVICI": {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "triads": 1},
}
HOW: dict[str, Any] = {
    "TCD": {"episodes_per_epoch": 2, "batch_size": 5},
    "CDN": {"steps_per_epoch": 2, "batch_size": 5},
    "AVICI": {"steps_per_epoch": 2, "batch_size": 5, "prior": GRAPHS, "acyclic": {"lr": 0.5, "every": 1, "rate": 1.0}},
}
MODELS = {"TCD": TCD, "CDN": CDN, "AVICI": AVICI}
every_model = pytest.mark.parametrize("name", list(MODELS))


def new(screen: Any, name: str, *preset: str) -> Any:
    MODELS[name].setup_anndata(screen)
    return MODELS[name](screen, *preset, **SIZES[name] if not preset else {"width": 8, "layers": 1, "heads": 2})


def train(model: Any, **how: Any) -> None:
    fixed: dict[str, Any] = {"lr": 1e-2, "n_validation": 1, "progress_bar": False, "accelerator": "cpu"}
    model.train(2, **(fixed | HOW[type(model).__name__] | how))


def curve(model: Any) -> list[float]:
    return [float(x) for k in ("train_loss", "validation_loss") for x in model.history[k].to_numpy().ravel()]


def weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.net.parameters()])


@pytest.fixture
def planned(screen: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Model, plan and data of a call of ``train``; nothing is run."""

    def make(name: str, *preset: str, **how: Any) -> tuple[Any, Plan, Any]:
        caught: list[Any] = []
        monkeypatch.setattr(f"causcade.models.{name.lower()}.fit", lambda *args, **_: caught.extend(args))
        model = new(screen, name, *preset)
        train(model, **how)
        model.module.train()
        return caught[0], caught[1], caught[2]

    return make


def some_steps(data: Any) -> list[Any]:
    return list(data.train_dataloader())


def agree(a: Any, b: Any) -> None:
    for x, y in zip([*a[:2], *a[2]], [*b[:2], *b[2]], strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


@every_model
def test_parts_add_up_to_the_step(planned: Any, name: str) -> None:
    """Loss, penalty and gradient: in 2 parts, one item at a time, and over 3 processes."""
    model, plan, data = planned(name)
    if name == "AVICI":
        model.module.dual.weight = 2.0
    for batch in some_steps(data):
        n = model.module.n_items(batch)
        assert n > 1
        whole = plan._learn(batch, range(n), 1)
        assert float(whole[0]) > 0 and (float(whole[1]) > 0) == (name == "AVICI")
        for parts in (2, n):
            agree(plan._learn(batch, range(n), parts), whole)
        shares = [plan._learn(batch, range(n)[r::3], 1) for r in range(3)]
        added = [None if g[0] is None else sum(g) for g in zip(*(s[2] for s in shares), strict=True)]
        agree((sum(s[0] for s in shares), sum(s[1] for s in shares), added), whole)
        torch.testing.assert_close(plan._look(batch, range(n), n), plan._look(batch, range(n), 1))


@every_model
def test_process_without_items_gives_zero_for_the_same_parameters(planned: Any, name: str) -> None:
    model, plan, data = planned(name)
    for batch in some_steps(data):
        whole = plan._learn(batch, range(model.module.n_items(batch)), 1)
        idle = plan._learn(batch, range(0), 1)
        assert float(idle[0]) == float(idle[1]) == 0
        for mine, theirs in zip(idle[2], whole[2], strict=True):
            assert (mine is None) == (theirs is None) and (mine is None or not mine.any())


@pytest.mark.parametrize(
    ("name", "preset"), [("TCD", ()), ("TCD", ("paper",)), ("AVICI", ()), ("AVICI", ("paper",)), ("CDN", ())]
)
def test_models_say_whether_parameters_are_left_out(planned: Any, name: str, preset: tuple[str, ...]) -> None:
    """DDP waits for ever for a gradient that does not come, unless it is told."""
    model, plan, data = planned(name, *preset, batch_size=2, **({"share": 1.0} if name == "CDN" else {}))
    gradients = plan._learn(batch := some_steps(data)[0], range(model.module.n_items(batch)), 1)[2]
    assert any(g is None for g in gradients) == model.module.unused == (name == "CDN")


def test_half_precision_does_not_lose_small_gradients(planned: Any) -> None:
    _, plan, data = planned("TCD")
    batch = some_steps(data)[0]
    plain = plan._learn(batch, range(5), 1)
    losses: list[float] = []
    real = torch.autograd.grad
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    plan._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.autograd, "grad", lambda loss, *a, **k: losses.append(float(loss.detach())) or real(loss, *a, **k)
        )
        agree(plan._learn(batch, range(5), 1), plain)
    assert losses == [pytest.approx(1024 * float(plain[0]))]


@every_model
def test_plan_and_data_can_be_sent_to_another_process(planned: Any, name: str) -> None:
    _, plan, data = planned(name)
    plan.n_steps = 7
    again, there = pickle.loads(pickle.dumps((plan, data)))
    assert again.n_steps == 7 and there.sampler.next == data.sampler.next
    if name == "AVICI":
        plan.module.dual.update(0.5)
    other = pickle.loads(pickle.dumps(plan.state_dict()))
    again.load_state_dict(other)
    assert again.get_extra_state() == plan.get_extra_state()


# --- memory ---------------------------------------------------------------------------------------------------------


def small_device(model: Any, monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """A network that has room for so many items; gives the sizes that fitted."""
    name, seen = ("encode" if isinstance(model, CDN) else "forward"), []
    real = getattr(model.net, name)

    def limited(x: Any, *more: Any) -> Any:
        n = len(x.pairs if isinstance(model, CDN) else x)
        if n > room:
            text = "CUDA out of memory."
            raise torch.cuda.OutOfMemoryError(text)
        seen.append(n)
        return real(x, *more)

    monkeypatch.setattr(model.net, name, limited)
    return seen


@every_model
def test_training_goes_on_in_parts_with_the_same_losses(
    screen: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, small = new(screen, name), new(screen, name)
    train(plain)
    seen = small_device(small, monkeypatch, 2)
    with caplog.at_level(logging.WARNING, "causcade"):
        train(small)
    assert seen and max(seen) <= 2
    assert curve(small) == pytest.approx(curve(plain), rel=1e-4)
    torch.testing.assert_close(weights(small), weights(plain), rtol=1e-2, atol=2e-3)  # Adam divides by tiny numbers
    assert sum("ran out in a step of training" in m for m in caplog.messages) == 1  # once, not in every step


@every_model
def test_item_that_does_not_fit_is_said_to_be_too_large(
    screen: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new(screen, name)
    small_device(model, monkeypatch, 0)
    with pytest.raises(RuntimeError, match=r"ran out in a step of training.*Lower the number of genes"):
        train(model)
    assert not model.is_trained


def test_a_state_cut_short_leaves_the_one_before(planned: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan, _ = planned("TCD")
    plan._trainer = SimpleNamespace(is_global_zero=True, loggers=[], logger=None)
    plan.snapshot, plan.n_steps = tmp_path / "state.pt", 2
    plan.on_train_epoch_start()
    monkeypatch.setattr(torch, "save", lambda _, file: (file.write(b"PK half"), 1 / 0))
    plan.n_steps = 4
    with pytest.raises(ZeroDivisionError):
        plan.on_train_epoch_start()
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]
    assert torch.load(plan.snapshot)["plan"]["_extra_state"]["n_steps"] == 2
