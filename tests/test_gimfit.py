import numpy as np
import pytest
import torch
from gim_cases import EDGES, TARGETS, TINY, D, cells, environments, tiny

from causcade.gimfit import Environments, GimConfig, GimFit, GimTrainer, Interventions, fit
from causcade.metrics import is_acyclic


@pytest.fixture(scope="module")
def data() -> Environments:
    return environments(20)


@pytest.fixture(scope="module")
def recovered() -> GimFit:
    config = GimConfig(
        steps=300, n_samples=16, n_acyclic=8, widths=(32,), learning_rate=0.03, start_sd=0.3, check_every=5,
        cycle_start=300.0, cycle_growth=1.5, tolerance=0.1, n_holdout=50, sparsity_graph=10.0, sparsity_targets=50.0,
        target_schedule="constant", patience=None,
    )  # fmt: skip
    return fit(environments(), config, rng=0, accelerator="cpu")


# --- recovery -----------------------------------------------------------------------------------------------------


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    return 2 * (truth & found).sum() / (truth.sum() + found.sum())


def test_graph_and_targets_are_recovered(recovered: GimFit) -> None:
    graph, targets = np.zeros((D, D), bool), np.zeros((len(TARGETS), D), bool)
    for i, j, _ in EDGES:
        graph[i, j] = True
    targets[np.arange(1, len(TARGETS)), TARGETS[1:]] = True
    assert is_acyclic(recovered.graph)
    assert f1(graph, recovered.graph) >= 0.6  # all pairs called: 0.33
    assert f1(targets, recovered.targets() > 0.5) >= 0.7  # all called: 0.33


def test_unseen_dose_is_predicted(recovered: GimFit) -> None:
    new = np.zeros(D)
    new[3] = 1.5  # dose 3; 2 and 4 were seen
    truth = cells(3, 3.0, 1000, np.random.default_rng(5)).mean(0)
    predicted = recovered.predict(new, 1000, rng=0)[0].mean(0)
    observed = cells(-1, 0, 1000, np.random.default_rng(6)).mean(0)
    assert np.linalg.norm(predicted - truth) < 0.2 * np.linalg.norm(observed - truth)


def test_cycles_vanish_and_the_likelihood_rises(recovered: GimFit) -> None:
    history = recovered.history[0]
    assert history["cycles"][-1] < 0.05 < history["cycles"][0]
    assert history["weight"][-1] > 300 and history["multiplier"][-1] > 0
    assert history["heldout"][-1] > history["heldout"][1]
    assert recovered.stopped == ["steps"] and recovered.is_acyclic(0)


def test_observational_prediction_has_the_scale_of_the_data(recovered: GimFit) -> None:
    control = cells(-1, 0, 2000, np.random.default_rng(7))
    predicted = recovered.predict(n_cells=2000, rng=0)[0]
    np.testing.assert_allclose(predicted.mean(0), control.mean(0), atol=0.15)
    np.testing.assert_allclose(predicted.std(0), control.std(0), rtol=0.35)


# --- training -----------------------------------------------------------------------------------------------------


def test_the_same_number_gives_the_same_fit(data: Environments) -> None:
    a, b, c = (fit(data, TINY, rng=seed, accelerator="cpu") for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.edge_probability, b.edge_probability)
    np.testing.assert_array_equal(a.history[0]["soft"], b.history[0]["soft"])
    assert (a.edge_probability != c.edge_probability).any()


def test_fit_leaves_the_global_generator_alone(data: Environments) -> None:
    before = torch.random.get_rng_state()
    fit(data, tiny(mechanism="mlp"), rng=0, accelerator="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


QUICK = {"likelihood": "expected", "cycle_measure": "trace", "cycle_anneal": 0.5, "learning_rate_end": 0.1}


@pytest.mark.parametrize(
    "choices", [{}, {"mechanism": "mlp", "batch_size": 30}, QUICK], ids=["moments", "batches", "expected"]
)
def test_interrupted_and_resumed_is_the_same(data: Environments, choices: dict, tmp_path) -> None:
    config = tiny(steps=8, **choices)
    whole, first, second = (GimTrainer(data, config, seed=4) for _ in range(3))
    whole.run()
    first.run(3)
    assert first.step == 3 and not first.stopped
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.run()
    assert second.stopped == "steps"
    np.testing.assert_array_equal(np.array(whole.history), np.array(second.history))  # NaN equals NaN here


@pytest.mark.parametrize("mechanism", ["linear", "mlp", "zero_inflated"])
@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("amortised", [True, False])
def test_every_kind_trains(mechanism: str, intervention: str, amortised: bool) -> None:
    source = environments(20)
    values = np.maximum(source.values, 0) if mechanism == "zero_inflated" else source.values
    data = Environments(values, source.codes, source.features)
    config = tiny(mechanism=mechanism, intervention=intervention, amortised=amortised, steps=3, batch_size=50)
    found = fit(data, config, rng=0, accelerator="cpu")
    predicted = found.predict(n_cells=7, rng=0)
    assert predicted.shape == (len(data), 7, D) and np.isfinite(predicted).all()
    assert (found.targets()[0] == 0).all() and (found.targets()[1:] > 0).all()
    assert mechanism != "zero_inflated" or (predicted >= 0).all()


def test_batches_stand_for_all_cells(data: Environments) -> None:
    trainer = GimTrainer(data, tiny(mechanism="mlp", batch_size=30), seed=0)
    counts = torch.stack([trainer._cells().counts.sum(0) for _ in range(3)])
    torch.testing.assert_close(counts, torch.full_like(counts, len(trainer.values)))


def test_target_cost_schedules(data: Environments) -> None:
    costs = {}
    for schedule in ("up", "down", "constant"):
        trainer = GimTrainer(data, tiny(target_schedule=schedule, steps=100, sparsity_targets=4.0), seed=0)
        costs[schedule] = []
        for trainer.step in (0, 25, 50, 99):
            costs[schedule].append(trainer.target_cost)
    assert costs["up"] == pytest.approx([0, 2, 4, 4])
    assert costs["down"] == pytest.approx([4, 2, 0, 0])
    assert costs["constant"] == [4, 4, 4, 4]


def test_schedules_that_end_with_the_steps(data: Environments) -> None:
    config = tiny(steps=100, alpha_anneal=0.5, alpha_cap=8.0, target_start=3.0, sparsity_targets=5.0, cycle_start=0.1,
                  cycle_end=1000.0, cycle_anneal=0.8, learning_rate=0.5, learning_rate_end=0.2)  # fmt: skip
    trainer = GimTrainer(data, config, seed=0)
    found = []
    for trainer.step in (0, 25, 40, 50, 99, 100):
        trainer._slow_down()
        found.append((trainer.alpha, trainer.target_cost, *trainer.penalty, trainer.optimiser.param_groups[0]["lr"]))
    alpha, cost, multiplier, weight, rate = np.array(found).T
    np.testing.assert_allclose(alpha, np.minimum(np.array([1, 26, 41, 51, 100, 101]) * 0.16, 8))
    np.testing.assert_allclose(cost[[0, 1, 3, 5]], [3, 4, 5, 5])  # target_anneal is one half
    np.testing.assert_allclose(multiplier[[0, 2, 5]] / len(trainer.values), [0.1, 10, 1000])
    assert (weight == 0).all() and (np.diff(rate) < 0).all()
    np.testing.assert_allclose(rate[[0, 3, 5]], [0.5, 0.3, 0.1])
    trainer._check(0.5)
    trainer._check(0.5)
    assert trainer.multiplier == 0  # convergence has no say in this penalty


def test_quick_fit_learns() -> None:
    config = GimConfig.quick(steps=250, widths=(32,), learning_rate=0.03, sparsity_graph=10.0, patience=None)
    found = fit(environments(100), config, rng=0, accelerator="cpu")
    hit = np.zeros((len(TARGETS), D), bool)
    hit[np.arange(1, len(TARGETS)), TARGETS[1:]] = True
    assert f1(hit, found.targets() > 0.5) >= 0.6  # all called: 0.33
    assert found.history[0]["cycles"][-1] < 0.01 and found.is_acyclic(0)
    edges = np.array([[i, j] for i, j, _ in EDGES])
    assert found.graph[edges[:, 0], edges[:, 1]].mean() >= 0.5 and found.graph.sum() <= 6


def test_the_best_of_several_fits(data: Environments) -> None:
    found = fit(data, tiny(n_fits=3, steps=30), rng=0, accelerator="cpu")
    best = found.best()
    at = int(np.argmax(found.objectives))
    assert len(best.models) == len(best.alphas) == len(best.stopped) == 1 and best.models[0] is found.models[at]
    assert best.objectives[0] == found.objectives[at] > found.objectives[(at + 1) % 3]
    last = {k: v[-10:] for k, v in found.history[at].items()}
    c = found.config
    expected = (last["soft"] + last["prior"] - c.sparsity_graph * last["edges"] - c.sparsity_targets * last["targets"]
                - last["multiplier"] * last["cycles"] - last["weight"] / 2 * last["cycles"] ** 2)  # fmt: skip
    assert found.objectives[at] == pytest.approx(expected.mean())
    with pytest.raises(ValueError, match="no history"):
        GimFit.from_state_dict(found.state_dict(), c).best()


def test_penalty_rises_only_when_converged(data: Environments) -> None:
    trainer = GimTrainer(data, tiny(cycle_start=1.0, tolerance=1.0), seed=0)
    trainer.heldout = -1e6  # what comes next is far better
    trainer._check(0.5)
    assert (trainer.multiplier, trainer.weight) == (0, 1)
    trainer._check(0.5)  # nothing changed since
    assert (trainer.multiplier, trainer.weight) == (0.5, 2)
    trainer._check(0.5)
    assert (trainer.multiplier, trainer.weight) == (1.5, 4)
    trainer._check(0.0)  # no cycle left
    assert (trainer.multiplier, trainer.weight) == (1.5, 4)


def test_stops_when_nothing_gets_better(data: Environments) -> None:
    config = tiny(steps=100, check_every=1, patience=2, cycle_tolerance=100.0, target_anneal=0.1, alpha_cap=0.05,
                  tolerance=1e6)  # fmt: skip
    found = fit(data, config, rng=0, accelerator="cpu")
    assert found.stopped == ["converged"]
    assert found.history[0]["step"][-1] == 12  # the cost is at its end at 10; a first look, then two without a gain


def test_stops_when_time_is_up(data: Environments) -> None:
    found = fit(data, tiny(steps=10**6, minutes=1e-9), rng=0, accelerator="cpu")
    assert found.stopped == ["time"] and found.history[0]["step"].tolist() == [1]


def test_several_fits_are_averaged(data: Environments) -> None:
    found = fit(data, tiny(n_fits=3), rng=0, accelerator="cpu")
    single = [m.graph.probability(a).detach().numpy() for m, a in zip(found.models, found.alphas, strict=True)]
    np.testing.assert_allclose(found.edge_probability, np.mean(single, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.edge_sd, np.std(single, axis=0, ddof=1), rtol=1e-4, atol=1e-7)
    assert (found.target_sd()[1:] > 0).all() and (np.diag(found.edge_probability) == 0).all()
    assert is_acyclic(found.graph) and all(is_acyclic(found.graph_of(i)) for i in range(3))
    assert found.predict(n_cells=10, rng=0).shape == (len(data), 10, D)
    assert np.isnan(fit(data, TINY, rng=0, accelerator="cpu").edge_sd).all()


# --- the fit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{"n_fits": 2}, {"mechanism": "mlp", "amortised": False}])
def test_a_fit_survives_its_state(data: Environments, choices: dict) -> None:
    found = fit(data, tiny(**choices), rng=0, accelerator="cpu")
    again = GimFit.from_state_dict(found.state_dict(), found.config.to_dict())
    np.testing.assert_array_equal(found.edge_probability, again.edge_probability)
    np.testing.assert_array_equal(found.targets(), again.targets())
    np.testing.assert_array_equal(found.predict(rng=3), again.predict(rng=3))


def test_new_features(data: Environments) -> None:
    found = fit(data, TINY, rng=0, accelerator="cpu")
    np.testing.assert_allclose(found.targets(data.features)[1:], found.targets()[1:], rtol=1e-6)
    assert found.predict(np.ones(D), 4, rng=0).shape == (1, 4, D)
    with pytest.raises(ValueError, match="5 features"):
        found.predict(np.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        found.targets(np.full(D, np.nan))
    with pytest.raises(ValueError, match="n_cells"):
        found.predict(n_cells=0)


def test_free_interventions_say_nothing_about_new_features(data: Environments) -> None:
    found = fit(data, tiny(amortised=False), rng=0, accelerator="cpu")
    with pytest.raises(ValueError, match="amortised=False"):
        found.predict(np.ones(D))


def test_given_interventions_are_sampled(data: Environments) -> None:
    found = fit(data, TINY, rng=0, accelerator="cpu")
    logits = torch.full((2, D), -1.0)
    logits[1, 2] = 1.0
    done = Interventions(logits, torch.full((2, D), 3.0), torch.full((2, D), -6.0))
    drawn = found.sample(done, 50, rng=0)
    np.testing.assert_allclose(drawn[1, :, 2], 3 * found.scale[2] + found.center[2], atol=0.02 * found.scale[2])
    assert drawn[0, :, 2].std() > 0.5 * found.scale[2]


@pytest.mark.parametrize("anneal", [False, True])
def test_effects_follow_the_probability_of_targets(data: Environments, *, anneal: bool) -> None:
    found = fit(data, tiny(anneal_targets=anneal), rng=0, accelerator="cpu")
    unsure = found.interventions(data.features, effects="expected")
    assert unsure.share is not None
    np.testing.assert_allclose(unsure.share, found.targets(data.features), rtol=1e-5)
    assert found.interventions(data.features).share is None  # logits decide, also where they are changed
    assert found.interventions(effects="expected").share[0].max() == 0  # type: ignore[index]
    expected, called = (found.predict(n_cells=20, rng=0, effects=e) for e in ("expected", "called"))
    np.testing.assert_array_equal(expected, found.predict(n_cells=20, rng=0))
    np.testing.assert_array_equal(expected[0], called[0])
    assert (expected[1:] != called[1:]).any()
    with torch.no_grad():  # targets that are certain
        found.models[0].interventions.networks["logits"][-1].bias.copy_(1e4 * torch.tensor([1.0] + [-1.0] * (D - 1)))
    expected, called = (found.predict(n_cells=20, rng=0, effects=e) for e in ("expected", "called"))
    np.testing.assert_array_equal(expected, called)
    with pytest.raises(ValueError, match="effects must be 'expected' or 'called', not 'mean'"):
        found.predict(effects="mean")  # type: ignore[arg-type]


def test_many_perturbations_are_drawn_in_parts(data: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part with its own rows of everything."""
    found = fit(data, TINY, rng=0, accelerator="cpu")
    found.models[0].mechanisms.log_sd.data.fill_(-20)
    asked = found.interventions(effects="expected")
    asked.log_sd = torch.full_like(asked.mean, -20)
    whole = found.sample(asked, 3, rng=0)
    monkeypatch.setattr("causcade.gimfit._result._MANY_CELLS", 6)
    np.testing.assert_allclose(found.sample(asked, 3, rng=0), whole, atol=0.1)


def test_cells_are_not_changed_and_units_come_back(data: Environments) -> None:
    moved = Environments(1000 + 50 * data.values, data.codes, data.features)
    before = moved.values.copy()
    a, b = (fit(d, TINY, rng=0, accelerator="cpu") for d in (data, moved))
    np.testing.assert_array_equal(moved.values, before)
    np.testing.assert_allclose(a.edge_probability, b.edge_probability, atol=1e-3)
    np.testing.assert_allclose(b.predict(rng=0), 1000 + 50 * a.predict(rng=0), rtol=1e-2)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "codes", "features", "says"),
    [
        (np.ones(4), [0, 1, 1, 0], np.ones((2, 1)), "n_cells, n_genes"),
        (np.ones((4, 2)), [0, 1, 1], np.ones((2, 1)), "n_cells, n_genes"),
        (np.ones((4, 2)), [0, 1, 1, 0], np.ones(2), "n_features"),
        (np.ones((4, 2)), [0.0, 1, 1, 0], np.ones((2, 1)), "whole numbers"),
        (np.ones((4, 2)), [0, 1, 2, 0], np.ones((2, 1)), "rows 0 to 1"),
        (np.ones((4, 2)), [0, 2, 2, 0], np.ones((3, 1)), "the first is 1"),
        (np.full((4, 2), np.nan), [0, 1, 1, 0], np.ones((2, 1)), "values has 8"),
        (np.ones((4, 2)), [0, 1, 1, 0], np.full((2, 1), np.inf), "features has 2"),
    ],
)
def test_bad_environments_are_named(values: np.ndarray, codes: list, features: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Environments(values, np.array(codes), features)


def test_one_environment_is_too_few() -> None:
    with pytest.raises(ValueError, match="one environment"):
        fit(Environments(np.ones((9, 2)), np.zeros(9, int), np.ones((1, 1))), TINY)


def test_negative_values_are_not_zero_inflated(data: Environments) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        fit(data, tiny(mechanism="zero_inflated"), rng=0, accelerator="cpu")


def test_a_fit_that_diverges_says_so(data: Environments) -> None:
    with pytest.raises(RuntimeError, match="learning_rate"):
        fit(data, tiny(mechanism="linear", learning_rate=1e30), rng=0, accelerator="cpu")


def test_a_gene_without_spread_in_control_is_fitted() -> None:
    source = environments(20)
    values = source.values.copy()
    values[:, 1] = 2.0  # nowhere any spread
    values[source.codes == 0, 4] = 0.0
    found = fit(Environments(values, source.codes, source.features), TINY, rng=0, accelerator="cpu")
    assert found.scale[1] == 1 and np.isfinite(found.predict(rng=0)).all()


def test_memory_that_runs_out_is_named(data: Environments, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = GimTrainer(data, tiny(), seed=0)
    trainer.run(2)

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(trainer.model, "terms", full)
    with pytest.raises(RuntimeError, match=r"ran out in a step of GIM.*Take fewer genes") as caught:
        trainer.run()
    assert not isinstance(caught.value, torch.cuda.OutOfMemoryError) and trainer.step == 2
