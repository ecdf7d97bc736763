import math

import numpy as np
import pytest
import torch
from scipy import sparse

from causcade.gracefit import GraceConfig, GraceTrainer, PairedCells, Trained, fit_grace, hold_out
from causcade.gracefit._cells import steps
from causcade.gracefit._start import explain, group_perturbations, perturbation_changes, start_of
from causcade.nn.message_passing import GeneGraph

D, P = 20, 3
PARTS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))


def simulated(n: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cells of a latent chain 0 -> 1 -> 2; perturbation k shifts program k. Doubles are regimes 4 to 6."""
    truth = np.random.default_rng(7)
    graph = np.array([[0, 1.0, 0], [0, 0, 0.8], [0, 0, 0]])
    loadings = truth.uniform(0, 1, (P, D)) * (truth.random((P, D)) < 0.5)
    rng = np.random.default_rng(seed)
    values, codes = [], []
    for code, parts in enumerate(PARTS):
        z = 0.5 * rng.normal(size=(3 * n if code == 0 else n, P))
        z[:, list(parts)] += 2.0
        u = z @ np.linalg.inv(np.eye(P) - graph)
        values.append(2 + u @ loadings + 0.1 * rng.normal(size=(len(z), D)))
        codes += [code] * len(z)
    return np.concatenate(values).astype(np.float32), np.array(codes)


def singles(**changes: object) -> PairedCells:
    values, codes = simulated()
    return PairedCells(
        **{"values": values, "codes": np.where(codes > 3, -1, codes), "parts": PARTS, "n_perturbations": P} | changes
    )  # type: ignore[arg-type]


TINY = GraceConfig(hidden=8, epochs=4, batch_size=16, kernel_width=None)


@pytest.fixture(scope="module")
def learnt() -> Trained:
    config = GraceConfig(hidden=32, epochs=20, learning_rate=1e-2)
    return fit_grace(singles(), config, rng=0, accelerator="cpu")[0]


def test_untried_combinations_are_nearer_than_control(learnt: Trained) -> None:
    values, codes = simulated(seed=1)
    control = torch.tensor(values[codes == 0])
    mean = [values[codes == code].mean(0) for code in range(len(PARTS))]
    for code in (4, 5, 6):
        made = learnt.net.generate(control, torch.tensor(PARTS[code]), learnt.temperature)[0].mean(0).numpy()
        assert np.linalg.norm(made - mean[code]) < 0.25 * np.linalg.norm(mean[0] - mean[code])


def test_history_and_stop(learnt: Trained) -> None:
    assert set(learnt.history) == {
        "mmd", "mse", "kl", "sparsity", "loss", "validation_mmd", "validation_mse", "validation_loss",
    }  # fmt: skip
    loss = learnt.history["validation_loss"]
    assert learnt.epoch == 19 == len(loss) - 1 and learnt.stopped == "epochs"
    assert loss[learnt.epoch] < 0.95 * loss[0]
    assert learnt.temperature == GraceConfig(epochs=20).schedule(learnt.epoch).temperature
    assert not learnt.net.training


def test_programs_and_latent_graph_are_recovered(learnt: Trained) -> None:
    share = learnt.net.assignment(torch.arange(P), learnt.temperature)[0].detach().numpy()
    assert share.argmax(1).tolist() == [0, 1, 2] and share.max(1).min() > 0.9
    graph = np.abs(learnt.net.latent_graph().detach().numpy())
    assert min(graph[0, 1], graph[1, 2]) > 2 * graph[0, 2]  # 0 -> 1 -> 2, and no edge 0 -> 2


def test_start_is_the_additive_model() -> None:
    values, codes = simulated()
    trainer = GraceTrainer(singles(), TINY.but(validation=0.0, output="linear"))
    trainer.net.inner.weight.data[P:] = 0  # units that the start leaves alone
    mean = np.stack([values[codes == code].mean(0) for code in range(len(PARTS))])
    z = torch.zeros(1, P)
    for parts in PARTS:
        made = trainer.net.decode(trainer.net.propagate(z + trainer.net.shift(torch.tensor(parts, dtype=int), 50.0)))
        additive = mean[0] + sum((mean[1 + k] - mean[0] for k in parts), np.zeros(D))
        assert np.allclose(made.detach().numpy()[0], additive, atol=1e-3)
    random = GraceTrainer(singles(), TINY.but(start="random"))
    assert not random.net.outer.bias.any()


def test_start_looks_at_controls_from_all_batches() -> None:
    values = np.repeat(np.array([[1.0] * D, [3.0] * D], dtype=np.float32), [3000, 3010], axis=0)
    codes = np.repeat([0, 1], [6000, 10])
    start = start_of(PairedCells(values, codes, ((), (0,)), 1), codes, 1)
    assert np.allclose(start.control, 2.0)  # 2,000 of the cells, the first half of which is at 1, the other at 3


def test_changes_of_combinations_are_shared_out() -> None:
    values, codes = simulated()
    some = np.where(np.isin(codes, [0, 1, 5]), codes, -1)  # perturbation 2 is there with 0 only
    data = PairedCells(sparse.csr_array(values), some, PARTS, P)
    change, noise = perturbation_changes(data, some)
    mean = {code: values[codes == code].mean(0) for code in (0, 1, 5)}
    assert np.allclose(change, [mean[1] - mean[0], np.zeros(D), mean[5] - mean[1]], atol=1e-5)
    assert not noise[1].any() and (noise[2] > noise[0]).all()


def test_groups_are_directions_up_to_sign_and_broad_ones_come_first() -> None:
    change = np.zeros((5, 12))
    change[0, :2], change[1, 3:9], change[2, :2], change[3, 3:9], change[4, 10] = 1, 2, -3, 1, 1
    change[2, 0] = -2.5
    group, sign = group_perturbations(change, np.zeros_like(change), 3)
    assert group.tolist() == [1, 0, 1, 0, 2] and sign.tolist() == [-1, 1, 1, 1, 1]
    assert sorted(group_perturbations(change, np.zeros_like(change), 9)[0].tolist()) == [0, 1, 2, 3, 4]


def test_edges_explain_genes_of_other_programs_exactly() -> None:
    rng, p, genes = np.random.default_rng(0), 4, 80
    graph = np.triu(rng.choice([-0.8, 0.8], (p, p)) * (rng.random((p, p)) < 0.6), 1)
    direct = rng.normal(size=(p, genes)) * (np.arange(genes) % p == np.arange(p)[:, None])
    moves = np.linalg.inv(np.eye(p) - graph) @ direct
    assert np.allclose(explain(moves), graph, atol=0.02) and graph.any()
    assert np.allclose(explain(moves), explain(moves)) and not np.tril(explain(moves)).any()


def test_start_has_room_for_more_programs_than_perturbations() -> None:
    data = singles()
    start = start_of(data, data.codes, 6)
    assert start.direct.shape == (6, D) and start.graph.shape == (6, 6) and not start.direct[3:].any()
    assert sorted(start.program.tolist()) == [0, 1, 2] and np.isfinite(start.strength).all()


def test_same_seed_same_fit_and_other_seed_another() -> None:
    first, again, other = (fit_grace(singles(), TINY, rng=r, accelerator="cpu")[0] for r in (1, 1, 2))
    assert first.history == again.history != other.history
    for a, b in zip(first.net.state_dict().values(), again.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_fits_start_differently_and_leave_torch_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = fit_grace(singles(), TINY, n_fits=2, rng=0, accelerator="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert one.history["loss"] != two.history["loss"]


def test_sparse_values_and_graph_give_a_fit() -> None:
    values, _ = simulated()
    dense = fit_grace(singles(), TINY, rng=0, accelerator="cpu")[0]
    csr = fit_grace(singles(values=sparse.csr_array(values)), TINY, rng=0, accelerator="cpu")[0]
    assert csr.history == dense.history
    graph = GeneGraph(D, 2, {"GG": np.array([[0, 3], [1, 4]]), "PG": np.array([[0, 1], [2, 5]])})
    assert fit_grace(singles(), TINY, graph=graph, rng=0, accelerator="cpu")[0].history["mse"] != dense.history["mse"]


def test_further_values_of_cells_are_used() -> None:
    n = len(simulated()[0])
    embedding = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    found = fit_grace(singles(embedding=embedding), TINY, rng=0, accelerator="cpu")[0]
    assert found.net.first.in_features == D + 2


def test_published_choices_keep_the_last_epoch_and_hold_nothing_out() -> None:
    config = GraceConfig.variant("reference-cmvae", hidden=8, epochs=4, batch_size=16)
    trainer = GraceTrainer(singles(), config)
    assert trainer.partner is not None and (trainer.data.codes[trainer.partner] == 0).all() and not trainer.validation
    found = trainer.run()
    assert found.epoch == 3 and found.temperature == 1.0 and math.isnan(found.history["validation_loss"][0])


def test_stops_when_nothing_gets_better(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {}
    for decay in (0.0, 0.1):
        trainer = GraceTrainer(
            singles(), TINY.but(epochs=20, patience=3, decay=decay, keep="best" if decay else "last")
        )
        losses = [9.0, 2.0, 3.0, 4.0, 1.0, 5.0, 0.5, 6.0, 7.0, 8.0, 4.0, 5.0, 6.0, 7.0, 3.0, 9.0]
        monkeypatch.setattr(trainer, "validate", lambda t=trainer, v=losses: (v[t.epoch], 0.0))
        found = trainer.run()
        ends[decay] = (found.stopped, found.epoch, len(found.history["mmd"]), trainer.optimiser.param_groups[0]["lr"])
    # from epoch 10 on the best is 4.0 at once; three epochs later it stops, or the rate falls for two more
    assert ends[0.0] == ("converged", 13, 14, 1e-3)
    assert ends[0.1][:3] == ("converged", 14, 16) and ends[0.1][3] == pytest.approx(1e-3 / 50)


def test_width_none_is_the_scale_of_the_data() -> None:
    values, codes = simulated()
    width = GraceTrainer(singles(), TINY).config.kernel_width
    x = values[codes < 4].astype(float)
    assert width == pytest.approx(2 * x.var(0, ddof=1).sum(), rel=0.05)


def test_what_is_held_out_is_never_learnt_from() -> None:
    trainer = GraceTrainer(singles(), TINY.but(validation=0.25))
    held = {int(c) for step in trainer.validation for c in step.perturbed}
    used = {
        int(c)
        for _ in range(5)
        for step in steps(trainer.codes, trainer.regimes, 16, None, np.random.default_rng(0))
        for c in (*step.perturbed, *step.control)
    }
    apart = {int(c) for step in trainer.validation for c in step.control}
    assert len(held) == 3 * 12 and not held & used and not apart & used
    assert max(trainer.data.codes[list(used)]) == 3 and min(trainer.data.codes[list(used)]) == 0


def test_share_is_held_out_of_every_regime() -> None:
    codes = np.repeat([0, 1, 2, -1], [40, 20, 3, 10])
    held = hold_out(codes, 0.3, np.random.default_rng(0))
    assert np.bincount(codes[held]).tolist() == [12, 6]


def test_steps_hold_one_regime_and_drop_the_rest() -> None:
    codes = np.repeat([0, 1, 2, 3], [10, 37, 16, 5])
    found = list(steps(codes, [1, 2, 3], 16, None, np.random.default_rng(0)))
    assert sorted((s.regime, len(s.perturbed)) for s in found) == [(1, 16), (1, 16), (2, 16), (3, 5)]
    assert all((codes[s.perturbed] == s.regime).all() and (codes[s.control] == 0).all() for s in found)
    assert len({int(c) for s in found for c in s.perturbed}) == 53
    partner = np.zeros(len(codes), np.int64) + 4
    assert all((s.control == 4).all() for s in steps(codes, [1, 2], 16, partner, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"codes": np.zeros(3, int)}, "one whole number per cell"),
        ({"parts": ((), (0,))}, "there are 2 regimes"),
        ({"n_perturbations": 2}, "numbers below 2"),
        ({"parts": (*PARTS[:6], ())}, "at least one per regime"),
        ({"embedding": np.zeros((3, 2))}, "one row for each"),
        ({"codes": np.ones(450, int)}, "needs control"),
    ],
)
def test_bad_cells_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        singles(**changes)


def test_values_that_explode_are_named() -> None:
    values, _ = simulated()
    with pytest.raises(RuntimeError, match="not finite in epoch 0"):
        fit_grace(singles(values=values * np.float32(1e30)), TINY, accelerator="cpu")
    with pytest.raises(ValueError, match="two cells"):
        codes = np.full(450, -1)
        codes[:2], codes[2] = 0, 1
        fit_grace(singles(codes=codes), TINY, accelerator="cpu")


def test_memory_that_runs_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = GraceTrainer(singles(), TINY)

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(trainer.net, "terms", full)
    with pytest.raises(RuntimeError, match=r"ran out in an epoch of GraCE-VAE.*Lower batch_size") as caught:
        trainer.run()
    assert not isinstance(caught.value, torch.cuda.OutOfMemoryError) and trainer.epoch == 0
