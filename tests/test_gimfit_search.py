from itertools import combinations

import numpy as np
import pytest
import torch
from gim_cases import DOSES, EDGES, TARGETS, D, environments, tiny

from causcade.gimfit import Environments, GimConfig, GimTrainer, fit
from causcade.gimfit._scores import AdditiveScores, Explained
from causcade.gimfit._search import _Climb, search_graph
from causcade.metrics import is_acyclic
from causcade.nn.gim import Gim

K = len(TARGETS)
TRUTH = np.zeros((D, D), bool)
TRUTH[[i for i, _, _ in EDGES], [j for _, j, _ in EDGES]] = True
HIT = np.zeros((K, D), bool)
HIT[np.arange(1, K), TARGETS[1:]] = True
SEARCHED = {"graph": "searched", "likelihood": "expected", "exact_weights": True, "warm_up": 3}


def shifted(n: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cells of the same graph whose targets are shifted."""
    rng, weight = np.random.default_rng(seed), np.zeros((D, D))
    for i, j, w in EDGES:
        weight[i, j] = w
    codes = np.repeat(np.arange(K), [3 * n, *[n] * (K - 1)])
    x = np.zeros((len(codes), D))
    for j in range(D):
        x[:, j] = x @ weight[:, j] + 0.3 * rng.normal(size=len(x)) + HIT[codes, j] * np.array(DOSES)[codes]
    return x, codes


def scores_of(
    hard: bool, bends: tuple[float, ...] = (), n: int = 100, variance: float = 0.1, seed: int = 0
) -> AdditiveScores:
    x, codes = (lambda e: (e.values, e.codes))(environments(n, seed)) if hard else shifted(n, seed)
    return AdditiveScores(x, codes, K, hard=hard, edge_cost=10.0, target_cost=20.0, variance=variance, bends=bends)


def least_squares(
    x: np.ndarray, codes: np.ndarray, gene: int, causes: list[int], hit: np.ndarray, *, hard: bool
) -> float:
    """Log likelihood without constants of a gene that is a target where told."""

    def normal(residual: np.ndarray) -> float:
        return -0.5 * len(residual) * (np.log(np.mean(residual**2)) + 1)

    design = np.column_stack([x[:, causes], np.ones(len(x))])
    if hard:
        own = hit[codes]
        rest = x[~own, gene] - design[~own] @ np.linalg.lstsq(design[~own], x[~own, gene])[0]
        changed = [x[codes == k, gene] for k in np.flatnonzero(hit)]
        return normal(rest) + sum(normal(c - c.mean()) for c in changed)
    design = np.column_stack([design, *[(codes == k).astype(float) for k in np.flatnonzero(hit)]])
    return normal(x[:, gene] - design @ np.linalg.lstsq(design, x[:, gene])[0])


@pytest.mark.parametrize("hard", [True, False])
def test_scores_are_those_of_least_squares_with_the_targets_that_pay(*, hard: bool) -> None:
    x, codes = (lambda e: (e.values, e.codes))(environments(30)) if hard else shifted(30)
    scores = AdditiveScores(x, codes, K, hard=hard, edge_cost=10.0, target_cost=20.0, variance=1e6)
    for gene, causes in ((0, []), (1, [0]), (2, [0, 1]), (4, [3])):  # true causes, and one too many
        found = scores(np.array([gene]), np.array([causes], dtype=int).reshape(1, -1))
        sets = [np.isin(np.arange(K), s) for n in range(3) for s in combinations(range(1, K), n)]
        values = [
            least_squares(x, codes, gene, causes, hit, hard=hard) - 20 * hit.sum() - 10 * len(causes) for hit in sets
        ]
        assert found.score[0] == pytest.approx(max(values), abs=0.01)
        np.testing.assert_array_equal(found.targets[0], sets[int(np.argmax(values))])
        np.testing.assert_array_equal(found.targets[0], HIT[:, gene])
        if not hard:
            at = np.flatnonzero(HIT[:, gene])
            np.testing.assert_allclose(found.mean[0, at], np.array(DOSES)[at], atol=0.2)
        else:
            cells = [x[codes == k, gene] for k in range(K)]
            np.testing.assert_allclose(found.mean[0], [c.mean() for c in cells])
            np.testing.assert_allclose(found.log_sd[0], [np.log(c.std()) for c in cells])


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("bends", [(), (-1.0, 1.0)])
def test_room_for_more_causes_changes_nothing(bends: tuple[float, ...], *, hard: bool) -> None:
    scores = scores_of(hard, bends, 20)
    alone = [
        scores(np.array([g]), np.array([c], dtype=int).reshape(1, -1)) for g, c in ((1, [0]), (0, []), (2, [1, 3]))
    ]
    together = scores(np.array([1, 0, 2]), np.array([[-1, 0, -1], [-1, -1, -1], [1, -1, 3]]))
    np.testing.assert_allclose(together.score, [a.score[0] for a in alone])
    np.testing.assert_array_equal(together.targets, np.concatenate([a.targets for a in alone]))


def test_blocks_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_of(hard=True, n=20)
    genes, causes = np.arange(D), np.full((D, 1), -1)
    whole = scores(genes, causes)
    monkeypatch.setattr("causcade.gimfit._scores._AT_ONCE", 1)
    np.testing.assert_array_equal(scores(genes, causes).score, whole.score)


def test_bends_explain_what_is_not_linear() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    x[:, 1] = x[:, 0] ** 2 + 0.3 * rng.normal(size=600)
    codes = np.repeat([0, 1], 300)
    for bends, edge in (((), False), ((-1.0, 0.0, 1.0), True)):
        scores = AdditiveScores(x, codes, 2, hard=False, edge_cost=10.0, target_cost=50.0, variance=10.0, bends=bends)
        found = scores(np.array([1, 1]), np.array([[-1], [0]])).score
        assert (found[1] > found[0]) == edge


@pytest.mark.parametrize("hard", [True, False])
def test_search_finds_graph_and_targets(*, hard: bool) -> None:
    scores = scores_of(hard)
    found = search_graph(scores, restarts=3, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found.graph, TRUTH)
    np.testing.assert_array_equal(found.targets, HIT)
    assert (found.log_odds[TRUTH] > 0).all() and (found.log_odds[~TRUTH] < 0).all()
    assert np.isneginf(found.log_odds[1, 0]) and np.isneginf(np.diag(found.log_odds)).all()
    again = search_graph(scores, restarts=3, rng=np.random.default_rng(0))
    assert again.score == found.score


@pytest.mark.parametrize("hard", [True, False])
def test_the_prior_of_weights_is_that_of_the_noise_found(*, hard: bool) -> None:
    x, codes = (lambda e: (e.values, e.codes))(environments(20)) if hard else shifted(20)
    for scale in (1.0, 0.3):
        scores = AdditiveScores(scale * x, codes, K, hard=hard, edge_cost=0.0, target_cost=20.0, variance=0.1)
        found = scores(np.array([1]), np.array([[0]]))
        hit = found.targets[0]
        free = ~hit[codes] if hard else np.ones(len(x), bool)
        design = np.column_stack([scale * x[:, 0], np.ones(len(x))])
        if not hard:
            design = np.column_stack([design, *[(codes == k).astype(float) for k in np.flatnonzero(hit)]])
        design, y, noise = design[free], scale * x[free, 1], 1.0
        prior = np.array([1.0, 1.0, *np.zeros(design.shape[1] - 2)]) / 0.1
        for _ in range(100):
            w = np.linalg.solve(design.T @ design + noise * np.diag(prior), design.T @ y)
            noise = np.mean((y - design @ w) ** 2)
        value = -0.5 * len(y) * (np.log(noise) + 1) - 5 * (w[:2] ** 2).sum() - 20 * hit.sum()
        for k in np.flatnonzero(hit) if hard else ():
            own = scale * x[codes == k, 1]
            value -= 0.5 * len(own) * (np.log(own.var()) + 1)
        assert found.score[0] == pytest.approx(value, abs=0.05)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_a_change_gains_is_kept_up_to_date(seed: int, *, hard: bool) -> None:
    scores = scores_of(hard, n=8, seed=seed)
    climb = _Climb(scores)
    climb.climb()
    climb.disturb(np.random.default_rng(0))
    assert is_acyclic(climb.graph)
    climb.climb()
    fresh = _Climb(scores)
    fresh.graph = climb.graph.copy()
    for gene in range(D):
        fresh._look(gene)
    np.testing.assert_array_equal(fresh.gains, climb.gains)
    found = climb.found()
    assert climb.total == pytest.approx(found.score, abs=1e-6)
    for cause, effect in np.argwhere(~np.eye(D, dtype=bool)):
        other = climb.graph.copy()
        other[cause, effect] ^= True
        if not is_acyclic(other):
            assert np.isneginf(found.log_odds[cause, effect])
            continue
        causes = [np.flatnonzero(g[:, effect]) for g in (climb.graph, other)]
        before, after = (scores(np.array([effect]), c[None]).score[0] for c in causes)
        assert after - before <= 1e-3
        odds = before - after if climb.graph[cause, effect] else after - before
        assert found.log_odds[cause, effect] == pytest.approx(odds, abs=1e-6)


class Table:
    """Any score for any set of causes: harder to climb than data."""

    def __init__(self, n_genes: int, seed: int) -> None:
        self.n_genes, self.seed = n_genes, seed

    def of(self, gene: int, causes: frozenset[int]) -> float:
        code = sum(1 << c for c in causes)
        return 5 * float(np.random.default_rng([self.seed, gene, code]).normal())

    def __call__(self, genes: np.ndarray, causes: np.ndarray) -> Explained:
        score = np.array([self.of(int(g), frozenset(c[c >= 0].tolist())) for g, c in zip(genes, causes, strict=True)])
        nothing = np.zeros((len(genes), 1))
        return Explained(score, nothing > 0, nothing, nothing)


def dags(n: int) -> list[np.ndarray]:
    pairs, out = list(combinations(range(n), 2)), []
    for code in range(3 ** len(pairs)):
        graph = np.zeros((n, n), bool)
        for m, (i, j) in enumerate(pairs):
            if (kind := code // 3**m % 3) > 0:
                graph[(i, j) if kind == 1 else (j, i)] = True
        if is_acyclic(graph):
            out.append(graph)
    return out


def test_restarts_find_what_a_climb_misses() -> None:
    graphs, once, often, turned = dags(4), 0, 0, 0
    assert len(graphs) == 543
    for seed in range(12):
        table = Table(4, seed)
        best = max(sum(table.of(j, frozenset(np.flatnonzero(g[:, j]).tolist())) for j in range(4)) for g in graphs)
        climb = _Climb(table)  # type: ignore[arg-type]
        climb.climb()
        assert is_acyclic(climb.graph)
        for cause, effect in np.argwhere(climb.graph):  # no edge would better be turned round
            other = climb.graph.copy()
            other[cause, effect], other[effect, cause] = False, True
            if is_acyclic(other):
                turned += 1
                assert climb.gains[cause, effect] + climb.gains[effect, cause] <= 1e-3
        found = search_graph(table, restarts=150, rng=np.random.default_rng(seed))  # type: ignore[arg-type]
        assert is_acyclic(found.graph) and climb.total - 1e-9 <= found.score <= best + 1e-9
        once, often = once + (climb.total > best - 1e-6), often + (found.score > best - 1e-6)
    assert once <= 7 and often >= once + 3 and turned > 5


def test_disturbances_turn_edges_round_and_close_no_cycle() -> None:
    climb, rng = _Climb(scores_of(hard=True, n=20)), np.random.default_rng(0)
    full, turned = np.triu(np.ones((D, D), bool), 1), 0
    for _ in range(50):
        climb.graph = full.copy()
        climb.disturb(rng)
        assert is_acyclic(climb.graph) and (climb.graph != full).any()
        turned += int((climb.graph & ~full).sum())
    assert turned > 10


# --- in a fit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("intercept", [True, False])
def test_exact_weights_are_where_the_objective_is_level(intervention: str, *, intercept: bool) -> None:
    config = tiny(intervention=intervention, intercept=intercept, likelihood="expected", exact_weights=True)
    data = environments(20)
    model = Gim(config, D, D, K, rng=torch.Generator().manual_seed(0))
    cells = model.summarise(torch.as_tensor(data.values, dtype=torch.float32), torch.as_tensor(data.codes), K)
    features = torch.as_tensor(data.features, dtype=torch.float32)
    for _ in range(30):  # the prior of weights takes the noise of the call before
        model.terms(cells, features, alpha=1.0, rng=torch.Generator().manual_seed(1))
    assert all(p.grad is None for p in model.mechanisms.parameters())
    object.__setattr__(model.config, "exact_weights", False)
    model.mechanisms.requires_grad_(True)
    terms = model.terms(cells, features, alpha=1.0, rng=torch.Generator().manual_seed(1))
    prior = sum(p.square().sum() for p in model.mechanisms.weights()) / (2 * config.variance_weights)
    (terms.soft - prior).backward()  # that of the noise is left out of the solution: cells say far more
    slopes = torch.cat([p.grad.flatten() for p in model.mechanisms.parameters()])
    assert slopes.abs().max() < 0.02  # of thousands before
    with torch.no_grad():
        model.mechanisms.weight += 0.01
    model.zero_grad()
    model.terms(cells, features, alpha=1.0, rng=torch.Generator().manual_seed(1)).soft.backward()
    assert model.mechanisms.weight.grad.abs().max() > 1


def test_a_searched_graph_stays_and_the_rest_is_fitted() -> None:
    trainer = GimTrainer(environments(50), tiny(steps=4, sparsity_graph=10.0, **SEARCHED), seed=0)
    trainer.run(1)
    graph, networks = trainer.model.graph.z.clone(), [p.clone() for p in trainer.model.interventions.parameters()]
    weights = trainer.model.mechanisms.weight.clone()
    trainer.run()
    np.testing.assert_array_equal(trainer.model.graph.hard().numpy(), TRUTH)
    assert torch.equal(graph, trainer.model.graph.z)
    assert not torch.equal(weights, trainer.model.mechanisms.weight)
    assert not any(torch.equal(a, b) for a, b in zip(networks, trainer.model.interventions.parameters(), strict=True))
    assert (np.array(trainer.history)[:, 6] == 0).all()  # no cycles


def test_free_interventions_begin_with_what_was_found() -> None:
    config = tiny(steps=1, amortised=False, sparsity_targets=20.0, sparsity_graph=10.0, learning_rate=1e-9, **SEARCHED)
    found = fit(environments(50), config, rng=0, accelerator="cpu")
    np.testing.assert_array_equal(found.targets() > 0.5, HIT)
    means = found.interventions().mean.numpy() * found.scale + found.center
    np.testing.assert_allclose(means[HIT], DOSES[1:], atol=0.2)


def test_networks_begin_with_what_was_found() -> None:
    taught = {"warm_up": 400, "widths": (32,), "learning_rate": 0.01, "steps": 1}
    right = []
    for warm_up in (1, 400):
        config = tiny(sparsity_targets=20.0, sparsity_graph=10.0, **SEARCHED | taught | {"warm_up": warm_up})
        right.append(((fit(environments(50), config, rng=0, accelerator="cpu").targets() > 0.5) == HIT).mean())
    assert right[0] < 0.9 and right[1] >= 0.97
    says = fit(environments(50), config, rng=0, accelerator="cpu").interventions()
    mean, sd = environments(50).scale()
    np.testing.assert_allclose((says.mean.numpy() * sd + mean)[HIT], DOSES[1:], atol=0.5)


def test_networks_as_mechanisms_take_the_graph_too() -> None:
    config = tiny(mechanism="mlp", graph="searched", likelihood="expected", sparsity_graph=10.0, steps=2)
    found = fit(environments(50), config, rng=0, accelerator="cpu")
    np.testing.assert_array_equal(found.graph, TRUTH)
    assert found.stopped == ["steps"]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"exact_weights": True}, "likelihood='expected'"),
        ({"exact_weights": True, "likelihood": "expected", "mechanism": "mlp"}, "mechanism='linear'"),
        ({"exact_weights": True, "likelihood": "expected", "parameter_sd": 0.1}, "parameter_sd=0"),
        ({"graph": "searched", "rank": 3}, "rank=None"),
        ({"graph": "searched", "mechanism": "zero_inflated"}, "zero_inflated"),
        ({"graph": "drawn"}, "relaxed, searched"),
        ({"restarts": 0}, "restarts"),
        ({"warm_up": 1.5}, "warm_up"),
    ],
)
def test_choices_that_do_not_go_together(choices: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GimConfig(**choices)


def test_a_gene_that_never_varies_is_no_cause_and_has_none() -> None:
    x, codes = shifted(20)
    x = np.column_stack([x, np.full(len(x), 2.0)])
    scores = AdditiveScores(x, codes, K, hard=True, edge_cost=10.0, target_cost=20.0, variance=0.1, bends=(0.0,))
    found = search_graph(scores, restarts=1, rng=np.random.default_rng(0))
    assert np.isfinite(found.score) and not found.graph[D].any() and not found.graph[:, D].any()
    assert not found.targets[:, D].any()


def test_weights_are_solved_in_blocks_of_genes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (10_000_000, 1):
        monkeypatch.setattr("causcade.nn._gim_exact._AT_ONCE", size)
        trainer = GimTrainer(environments(50), tiny(steps=2, sparsity_graph=10.0, **SEARCHED), seed=0)
        trainer.run()
        found.append(trainer.model.mechanisms.weight.clone())
    torch.testing.assert_close(*found)
    assert (found[0][~torch.as_tensor(TRUTH)] == 0).all() and (found[0][torch.as_tensor(TRUTH)] != 0).all()


def test_probabilities_of_edges_are_the_odds_found(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spied(scores: AdditiveScores, **how: object) -> object:
        seen["found"] = search_graph(scores, **how)  # type: ignore[arg-type]
        return seen["found"]

    monkeypatch.setattr("causcade.gimfit._start.search_graph", spied)
    config = tiny(alpha_cap=7.0, sparsity_graph=8.0, steps=2, **SEARCHED)
    found = fit(environments(6, 3), config, rng=0, accelerator="cpu")
    odds = seen["found"].log_odds
    assert (abs(odds[np.isfinite(odds)]) < 25).any()
    expected = 1 / (1 + np.exp(-odds.clip(-30, 30)))
    np.testing.assert_allclose(found.edge_probability, np.where(np.eye(D, dtype=bool), 0, expected), atol=1e-4)
    np.testing.assert_array_equal(found.graph, seen["found"].graph)


def test_costs_are_those_of_the_configuration() -> None:
    for choices, edges, targets in (
        ({"sparsity_graph": 1e6, "sparsity_targets": 20.0}, False, True),
        ({"sparsity_graph": 10.0, "sparsity_targets": 1e6}, True, False),
    ):
        config = tiny(steps=1, amortised=False, learning_rate=1e-9, **SEARCHED | choices)
        found = fit(environments(50), config, rng=0, accelerator="cpu")
        assert (found.graph.any(), (found.targets() > 0.5).any()) == (edges, targets)


def test_networks_as_mechanisms_find_what_bends() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    x[:, 1] = 3 + x[:, 0] ** 2 + 0.3 * rng.normal(size=600)  # units of its own
    data = Environments(x, np.repeat([0, 1], 300), np.array([[0.0], [1.0]]))
    for mechanism, edge in (("linear", False), ("mlp", True)):
        config = tiny(mechanism=mechanism, graph="searched", likelihood="expected", sparsity_graph=20.0, steps=1)
        assert fit(data, config, rng=0, accelerator="cpu").graph.any() == edge


def test_an_interrupted_start_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = (GimTrainer(environments(20), tiny(steps=3, **SEARCHED), seed=0) for _ in range(2))
    whole.run()
    real, calls = Gim.terms, []

    def once(self: Gim, *args: object, **how: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Gim, "terms", once)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    broken.run()
    assert str(whole.history) == str(broken.history)


def test_quick_leaves_out_what_a_choice_excludes() -> None:
    assert not GimConfig.quick(likelihood="node").exact_weights and not GimConfig.quick(parameter_sd=0.1).exact_weights
    assert GimConfig.quick(rank=4).graph == "relaxed" and GimConfig.quick().exact_weights
    with pytest.raises(ValueError, match="exact_weights=False"):
        GimConfig.quick(likelihood="node", exact_weights=True)
    assert GimConfig.quick(graph="relaxed").steps == 3000 and not GimConfig.quick(graph="relaxed").exact_weights
    assert GimConfig.quick(graph="relaxed", steps=5).steps == 5
    for name in ("sparsity_graph", "sparsity_targets", "variance_weights", "target_start"):
        with pytest.raises(ValueError, match=f"{name} must .* finite"):
            GimConfig(**{name: float("inf")})


def test_genes_that_are_the_same_do_not_stop_it() -> None:
    x, codes = shifted(20)
    x = 3e8 * np.column_stack([x, x[:, 1]])
    data = Environments(x, codes, np.eye(K))
    for mechanism in ("linear", "mlp"):
        config = tiny(
            mechanism=mechanism, standardise=False, steps=2, **SEARCHED | {"exact_weights": mechanism == "linear"}
        )
        assert is_acyclic(fit(data, config, rng=0, accelerator="cpu").graph)


@pytest.mark.parametrize("choices", [SEARCHED, {"graph": "searched", "mechanism": "mlp", "batch_size": 30}])
def test_a_searched_fit_that_was_stored_goes_on_the_same(choices: dict, tmp_path) -> None:
    config = tiny(steps=8, **choices)
    whole, first, second = (GimTrainer(environments(20), config, seed=4) for _ in range(3))
    whole.run()
    first.run(3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.run()
    np.testing.assert_array_equal(np.array(whole.history), np.array(second.history))
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_says_whether_the_start_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (GimTrainer(environments(20), tiny(steps=3, **SEARCHED), seed=0) for _ in range(3))
    before = first.state_dict()
    first.run()
    second.run(1)
    second.load_state_dict(before)  # not begun, though this trainer was
    assert not second.begun
    with monkeypatch.context() as patch:
        patch.setattr(Gim, "terms", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            third.run()
    fourth = GimTrainer(environments(20), tiny(steps=3, **SEARCHED), seed=0)
    fourth.load_state_dict(third.state_dict())
    assert fourth.begun and fourth.step == 0
    fourth.run()
    assert str(fourth.history) == str(first.history)


def test_older_states_have_begun() -> None:
    trainer, other = (GimTrainer(environments(20), tiny(steps=3), seed=0) for _ in range(2))
    trainer.run(2)
    state = trainer.state_dict()
    del state["numbers"]["begun"]
    other.load_state_dict(state)
    assert other.begun and other.step == 2
