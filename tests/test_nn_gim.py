from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import lognorm, multivariate_normal, norm
from torch import Tensor

from causcade.nn.gim import Gim, GimConfig, Interventions, gene_log_likelihood, log_mean, summarise

D, K, M = 4, 3, 5
DAG = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(n_features: int = 2, **choices: object) -> Gim:
    config = GimConfig(**{"n_samples": M, "n_acyclic": M, "widths": (8,), **choices})  # type: ignore[arg-type]
    model = Gim(config, D, n_features, K, rng=seeded(3))
    with torch.no_grad():
        for p in model.mechanisms.parameters():  # no zeros left, so that every part counts
            p.add_(0.3 * torch.randn(p.shape, generator=seeded(p.numel())))
    return model


def cells_of(n: int = 40, *, positive: bool = False) -> tuple[Tensor, Tensor]:
    values = torch.randn(n, D, generator=seeded(7))
    if positive:
        values = values.clamp(min=0) * 2
    return values, torch.arange(n) % K


FEATURES = torch.tensor([[0.0, 0.0], [1.0, -0.5], [0.3, 2.0]])


def forms(mechanism: str, intervention: str) -> Interventions:
    parts = [torch.randn(K, D, generator=seeded(20 + i)) for i in range(4)]
    if intervention == "shift":
        return Interventions(parts[0], parts[1])
    return Interventions(*parts[:3], parts[3] if mechanism == "zero_inflated" else None)


# --- likelihood against closed forms ------------------------------------------------------------------------------


def linear_gaussian(model: Gim, graph: Tensor, targets: Tensor, inter: Interventions, k: int) -> tuple:
    """Mean and covariance of all genes, by solving the structural equations."""
    mechanisms = model.mechanisms
    weight = (mechanisms.weight * graph).detach().double().numpy()
    mean = mechanisms.bias.detach().double().numpy().copy()
    sd = mechanisms.log_sd.detach().double().exp().numpy().copy()
    for j in np.flatnonzero(targets[k].numpy()):
        if inter.log_sd is None:
            mean[j] += inter.mean[k, j].item()
        else:
            weight[:, j], mean[j], sd[j] = 0, inter.mean[k, j].item(), inter.log_sd[k, j].exp().item()
    inverse = np.linalg.inv(np.eye(D) - weight)
    return mean @ inverse, inverse.T @ np.diag(sd**2) @ inverse


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_linear_likelihood_is_that_of_a_multivariate_normal(intervention: str) -> None:
    model = model_of(intervention=intervention)
    values, codes = cells_of()
    cells = model.summarise(values, codes, K)
    targets = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.float32)
    inter = forms("linear", intervention)
    residuals = model.mechanisms.residuals(cells, DAG[None])
    found = gene_log_likelihood(cells, residuals, model.mechanisms.noise(), targets, inter)[0].sum(1)
    for k in range(K):
        normal = multivariate_normal(*linear_gaussian(model, DAG, targets, inter, k))
        assert found[k].item() == pytest.approx(normal.logpdf(values[codes == k].double()).sum(), rel=1e-4)


def by_cell(model: Gim, values: Tensor, codes: Tensor, graphs: Tensor, targets: Tensor, inter: Interventions) -> Tensor:
    """Log likelihood of cells, one by one with scipy, then summed."""
    zero_inflated = model.config.mechanism == "zero_inflated"
    sd = model.mechanisms.log_sd.detach().exp().numpy()
    out = np.zeros((len(graphs), K, D))

    def log_density(x: np.ndarray, mean: np.ndarray, sd: np.ndarray, logit: np.ndarray | None) -> np.ndarray:
        if logit is None:
            return norm(mean, sd).logpdf(x)
        p = 1 / (1 + np.exp(-logit))
        with np.errstate(divide="ignore"):
            return np.where(x > 0, np.log1p(-p) + lognorm(sd, scale=np.exp(mean)).logpdf(x), np.log(p))

    zero = model.mechanisms.zero_logit.detach().numpy() if zero_inflated else None
    for m, graph in enumerate(graphs):
        means = model.mechanisms.mean(values, graph).detach().numpy()
        for k in range(K):
            x, mean = values.numpy()[codes == k], means[codes == k]
            base = log_density(x, mean, sd, zero)
            if inter.log_sd is None:
                other = log_density(x, mean + inter.mean[k].numpy(), sd, zero)
            else:
                own = inter.zero_logit[k].numpy() if inter.zero_logit is not None else None
                other = log_density(x, inter.mean[k].numpy(), inter.log_sd[k].exp().numpy(), own)
            share = targets[m, k].numpy()
            out[m, k] = ((1 - share) * base + share * other).sum(0)
    return torch.tensor(out)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
@pytest.mark.parametrize("mechanism", ["linear", "mlp", "zero_inflated"])
def test_likelihood_from_sums_is_the_sum_over_cells(mechanism: str, intervention: str) -> None:
    model = model_of(mechanism=mechanism, intervention=intervention, hidden=(3, 2))
    values, codes = cells_of(positive=mechanism == "zero_inflated")
    graphs = torch.rand(M, D, D, generator=seeded(4)) * (1 - torch.eye(D))  # soft
    targets, inter = torch.rand(M, K, D, generator=seeded(5)), forms(mechanism, intervention)
    cells = model.summarise(values, codes, K)
    assert (cells.values is None) == (mechanism == "linear")
    residuals = model.mechanisms.residuals(cells, graphs)
    found = gene_log_likelihood(cells, residuals, model.mechanisms.noise(), targets, inter)
    expected = by_cell(model, values, codes, graphs, targets, inter)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-3)


def test_moments_keep_their_digits_far_from_zero() -> None:
    model = model_of()
    values, codes = cells_of()
    graphs = torch.rand(M, D, D, generator=seeded(4)) * (1 - torch.eye(D))
    found = model.mechanisms.residuals(model.summarise(values + 100, codes, K), graphs)[1]
    off = values + 100 - torch.stack([model.mechanisms.mean(values + 100, g) for g in graphs])
    expected = torch.stack([(off[:, codes == k].double() ** 2).sum(1) for k in range(K)], 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)


def test_weight_of_a_batch_scales_the_likelihood() -> None:
    for mechanism in ("linear", "mlp", "zero_inflated"):
        model = model_of(mechanism=mechanism)
        values, codes = cells_of(positive=mechanism == "zero_inflated")
        inter = forms(mechanism, "hard")
        parts = []
        for weight in (1.0, 2.5):
            cells = model.summarise(values, codes, K, weight=weight)
            residuals = model.mechanisms.residuals(cells, DAG[None])
            parts.append(
                gene_log_likelihood(cells, residuals, model.mechanisms.noise(), torch.full((K, D), 0.3), inter)
            )
        torch.testing.assert_close(parts[1], 2.5 * parts[0], rtol=1e-4, atol=1e-3)


def test_a_gene_depends_on_its_causes_only() -> None:
    for mechanism in ("linear", "mlp", "zero_inflated"):
        model = model_of(mechanism=mechanism, hidden=(4, 3))
        values, _ = cells_of()
        before = model.mechanisms.mean(values, DAG)
        values[:, 1] += 1.0  # cause of gene 2 only
        changed = (model.mechanisms.mean(values, DAG) - before).abs().amax(0) > 1e-6
        assert changed.tolist() == [False, False, True, False]


# --- averages over draws ------------------------------------------------------------------------------------------


def test_log_mean_forms() -> None:
    x = torch.randn(M, K, D, generator=seeded()).double()
    mean = lambda a: a.exp().mean(0).log().sum()
    assert log_mean(x, "joint").item() == pytest.approx(mean(x.sum((1, 2))).item())
    assert log_mean(x, "environment").item() == pytest.approx(mean(x.sum(2)).item())
    assert log_mean(x, "node").item() == pytest.approx(mean(x.sum(1)).item())
    assert log_mean(x, "mean").item() == pytest.approx(x.sum((1, 2)).mean().item())
    with pytest.raises(ValueError, match="node, environment, joint, mean"):
        log_mean(x, "cell")


def test_node_form_has_the_expectation_of_the_joint_form() -> None:
    # columns of the graph are independent: the average over all graphs is the product of averages over columns
    rows = torch.randn(3, K, D, generator=seeded()).double()  # 3 equally likely sets of causes for each gene
    every = torch.cartesian_prod(*[torch.arange(3)] * D)
    graphs = torch.stack([rows[i, :, j] for j, i in enumerate(every.T)], 2)
    assert log_mean(graphs, "joint").item() == pytest.approx(log_mean(rows, "node").item())


def set_scores(model: Gim, scores: Tensor) -> None:
    with torch.no_grad():
        model.graph.z[0] = torch.eye(D)
        model.graph.z[1] = scores.T


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_expected_likelihood_is_the_mean_over_all_graphs_and_targets(intervention: str) -> None:
    model = model_of(intervention=intervention, likelihood="expected")
    sure = torch.full((D, D), -40.0)
    sure[2, 3] = 40.0
    logits = sure.clone()
    open_edges = {(0, 1): 0.7, (2, 1): -0.4, (1, 3): 1.2}  # two of them into one gene
    for (i, j), value in open_edges.items():
        logits[i, j] = value
    set_scores(model, logits)
    cells, rng = model.summarise(*cells_of(), K), seeded()
    found = model.terms(cells, FEATURES, alpha=1.0, rng=rng)
    inter = model.interventions(FEATURES)
    targets = model.target_logits(inter.logits, 1.0).sigmoid()
    expected = 0.0
    for chosen in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        graph, weight = (sure > 0).float(), 1.0
        for (edge, value), on in zip(open_edges.items(), chosen, strict=True):
            graph[edge] = on
            weight *= torch.tensor(value if on else -value).sigmoid().item()
        residuals = model.mechanisms.residuals(cells, graph[None])
        expected += (
            weight * gene_log_likelihood(cells, residuals, model.mechanisms.noise(), targets, inter).sum().item()
        )
    assert found.soft.item() == pytest.approx(expected, rel=1e-4)
    assert found.hard.item() == found.soft.item() and not found.hard.requires_grad


@pytest.mark.parametrize("mechanism", ["linear", "mlp", "zero_inflated"])
def test_expected_likelihood_of_a_sure_graph_is_that_graphs(mechanism: str) -> None:
    model = model_of(mechanism=mechanism, likelihood="expected")
    set_scores(model, 80 * DAG - 40)
    values, codes = cells_of(positive=mechanism == "zero_inflated")
    cells = model.summarise(values, codes, K)
    found = model.terms(cells, FEATURES, alpha=1.0, rng=seeded()).soft
    torch.testing.assert_close(found, model.score(cells, FEATURES, alpha=1.0))


@pytest.mark.parametrize("mechanism", ["linear", "mlp"])
def test_expected_likelihood_trains_everything(mechanism: str) -> None:
    model = model_of(mechanism=mechanism, likelihood="expected", cycle_measure="trace")
    terms = model.terms(model.summarise(*cells_of(), K), FEATURES, alpha=0.5, rng=seeded())
    (terms.soft + terms.hard).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_straight_through_points_where_finite_differences_do() -> None:
    # residuals that are nearly linear in the graph: tanh units far from saturation
    model = model_of(mechanism="mlp", likelihood="expected", n_samples=4000)
    with torch.no_grad():
        model.mechanisms.layers[0] *= 0.05
        model.mechanisms.layers[-1] *= 10
        model.mechanisms.biases[0].zero_()
    set_scores(model, torch.zeros(D, D))
    cells = model.summarise(*cells_of(), K)

    def value(shift: float) -> Tensor:
        with torch.no_grad():
            model.graph.z[1, 2, 0] = shift  # edge from 0 to 2
        return model.terms(cells, FEATURES, alpha=1.0, rng=seeded(5)).soft

    (slope,) = torch.autograd.grad(value(0.0), model.graph.z)
    difference = (value(0.8) - value(-0.8)).item() / 1.6
    # p (1 - p) is 1 / 4, and the mean slope of soft draws at p = 1 / 2 is 1 / 6
    assert slope[1, 2, 0].item() == pytest.approx(2 / 3 * difference, rel=0.2)


# --- gradients ----------------------------------------------------------------------------------------------------


def gradients(model: Gim, part: str) -> dict[str, bool]:
    values, codes = cells_of(positive=model.config.mechanism == "zero_inflated")
    model.zero_grad()
    terms = model.terms(model.summarise(values, codes, K), FEATURES, alpha=0.5, rng=seeded())
    value = getattr(terms, part)
    (value.sum() if part == "cycles" else value).backward()
    groups = {"graph": model.graph, "mechanisms": model.mechanisms, "interventions": model.interventions}
    return {
        name: any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        for name, module in groups.items()
    }


@pytest.mark.parametrize("amortised", [True, False])
@pytest.mark.parametrize("mechanism", ["linear", "mlp", "zero_inflated"])
def test_gradients_flow_where_they_should(mechanism: str, amortised: bool) -> None:
    model = model_of(mechanism=mechanism, amortised=amortised)
    assert gradients(model, "soft") == {"graph": True, "mechanisms": False, "interventions": True}
    assert gradients(model, "hard") == {"graph": False, "mechanisms": True, "interventions": False}
    assert gradients(model, "edges") == {"graph": True, "mechanisms": False, "interventions": False}
    assert gradients(model, "cycles") == {"graph": True, "mechanisms": False, "interventions": False}
    assert gradients(model, "targets") == {"graph": False, "mechanisms": False, "interventions": True}


def test_every_parameter_gets_a_gradient() -> None:
    for choices in ({}, {"intervention": "shift"}, {"mechanism": "zero_inflated", "hidden": (3, 2)}):
        model = model_of(**choices)
        values, codes = cells_of(positive="mechanism" in choices)
        terms = model.terms(model.summarise(values, codes, K), FEATURES, alpha=0.5, rng=seeded())
        terms.objective(1.0, 1.0, 1.0, 1.0).backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_objective_adds_costs_and_penalty() -> None:
    model = model_of()
    terms = model.terms(model.summarise(*cells_of(), K), FEATURES, alpha=0.5, rng=seeded())
    free = terms.objective(0, 0, 0, 0)
    torch.testing.assert_close(free, terms.soft + terms.hard + terms.prior)
    torch.testing.assert_close(free - terms.objective(2, 0, 0, 0), 2 * terms.edges, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(free - terms.objective(0, 3, 0, 0), 3 * terms.targets, rtol=1e-4, atol=1e-3)
    expected = (0.5 * terms.cycles + 2 * terms.cycles**2).mean()
    torch.testing.assert_close(free - terms.objective(0, 0, 0.5, 4), expected, rtol=1e-3, atol=1e-3)


def test_observational_environment_has_no_targets() -> None:
    model = model_of(anneal_targets=True)
    logits = model.target_logits(torch.ones(K, D), 3.0)
    assert logits[0].isneginf().all() and (logits[1:] == 1.5).all()
    assert (model_of().target_logits(torch.ones(K, D), 3.0)[1:] == 1).all()


def test_normal_priors() -> None:
    model = model_of(variance_weights=0.5, variance_log_sd=2.0, variance_networks=0.25, variance_graph=3.0)
    square = lambda parameters: sum((p**2).sum() for p in parameters)
    m = model.mechanisms
    expected = (
        square([model.graph.z]) / 3
        + square([m.weight, m.bias]) / 0.5
        + square([m.log_sd]) / 2
        + square(model.interventions.parameters()) / 0.25
    )
    torch.testing.assert_close(model.log_prior(), -0.5 * expected)


def test_parameters_are_drawn_around_the_network() -> None:
    cells = model_of().summarise(*cells_of(), K)
    sure, unsure = (model_of(parameter_sd=sd, likelihood="mean") for sd in (0.0, 0.5))
    assert sure.log_prior() == unsure.log_prior()  # the same start
    soft = [m.terms(cells, FEATURES, alpha=0.5, rng=seeded()).soft.item() for m in (sure, unsure)]
    assert soft[0] != soft[1]


# --- cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_sampled_cells_have_the_moments_of_the_model(intervention: str) -> None:
    model = model_of(intervention=intervention)
    targets = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1]], dtype=torch.float32)
    inter = replace(forms("linear", intervention), logits=2 * targets - 1)
    cells = model.sample(DAG, inter, 20_000, rng=seeded())
    assert cells.shape == (K, 20_000, D)
    for k in range(K):
        mean, covariance = linear_gaussian(model, DAG, targets, inter, k)
        np.testing.assert_allclose(cells[k].mean(0), mean, atol=0.08)
        np.testing.assert_allclose(np.cov(cells[k].T), covariance, atol=0.05 * covariance.max() + 0.05)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_a_share_of_an_intervention(intervention: str) -> None:
    """None of it, all of it, and half way: of a root its mean and noise lie in between."""
    model = model_of(intervention=intervention)
    root = int(torch.nonzero(DAG.sum(0) == 0)[0])
    made = forms("linear", intervention)
    share = torch.tensor([0.0, 0.5, 1.0])[:, None].expand(K, D)
    cells = model.sample(DAG, replace(made, share=share), 20_000, rng=seeded())
    whole = model.sample(DAG, replace(made, logits=torch.ones(K, D)), 20_000, rng=seeded())
    none = model.sample(DAG, replace(made, logits=-torch.ones(K, D)), 20_000, rng=seeded())
    assert torch.equal(cells[0], none[0]) and torch.equal(cells[2], whole[2])
    assert not torch.equal(none[1], whole[1])
    middle = (none[1, :, root].mean() + whole[1, :, root].mean()) / 2
    torch.testing.assert_close(cells[1, :, root].mean(), middle, atol=0.02, rtol=0)
    log_sd = (none[1, :, root].std().log() + whole[1, :, root].std().log()) / 2
    torch.testing.assert_close(cells[1, :, root].std().log(), log_sd, atol=0.02, rtol=0)


@pytest.mark.parametrize("intervention", ["hard", "shift"])
def test_what_is_no_target_may_hold_anything(intervention: str) -> None:
    model, made = model_of(intervention=intervention), forms("linear", intervention)
    hit = torch.zeros(K, D, dtype=torch.bool)
    hit[:, 1] = True
    odd = replace(made, logits=torch.where(hit, 5.0, -5.0), mean=torch.where(hit, made.mean, torch.nan))
    if made.log_sd is not None:
        odd.log_sd = torch.where(hit, -torch.inf, torch.nan)
        made.log_sd = torch.full((K, D), -torch.inf)
    cells = model.sample(DAG, odd, 50, rng=seeded())
    assert torch.equal(cells, model.sample(DAG, replace(made, logits=odd.logits), 50, rng=seeded()))
    assert torch.isfinite(cells).all()


def test_zeros_follow_their_share() -> None:
    model = model_of(mechanism="zero_inflated")
    inter = replace(forms("zero_inflated", "hard"), share=torch.full((K, D), 0.5))
    assert inter.zero_logit is not None and model.mechanisms.zero_logit is not None
    zeros = (model.sample(DAG, inter, 20_000, rng=seeded()) == 0).float().mean(1)
    expected = ((inter.zero_logit + model.mechanisms.zero_logit.detach()) / 2).sigmoid()
    torch.testing.assert_close(zeros, expected, atol=0.02, rtol=0)


def test_sampled_zero_inflated_cells() -> None:
    model = model_of(mechanism="zero_inflated")
    targets = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    inter = replace(forms("zero_inflated", "hard"), logits=2.0 * targets - 1)
    cells = model.sample(DAG, inter, 20_000, rng=seeded())
    assert (cells >= 0).all()
    zeros = (cells == 0).float().mean(1)
    torch.testing.assert_close(zeros[0], model.mechanisms.zero_logit.detach().sigmoid(), atol=0.02, rtol=0)
    torch.testing.assert_close(zeros[1], inter.zero_logit[1].sigmoid(), atol=0.02, rtol=0)
    logs = torch.where(cells[1] > 0, cells[1], torch.nan).log()
    torch.testing.assert_close(logs.nanmean(0), inter.mean[1], atol=0.15, rtol=0)


def test_sums_leave_zeros_apart() -> None:
    values, codes = cells_of(positive=True)
    cells = summarise(values, codes, K, logarithm=True)
    assert torch.equal(cells.zeros + cells.counts, torch.bincount(codes)[:, None].expand(K, D).float())
    inside = values[codes == 1]
    logs = torch.where(inside > 0, inside, 1.0).log()
    torch.testing.assert_close(cells.first[1], logs.sum(0))
    torch.testing.assert_close(cells.jacobian[1], -logs.sum(0))


def test_mechanisms_say_which_cells_they_need() -> None:
    linear, mlp = model_of(), model_of(mechanism="mlp")
    with pytest.raises(ValueError, match="moments=True"):
        linear.mechanisms.residuals(mlp.summarise(*cells_of(), K), DAG[None])
    with pytest.raises(ValueError, match="moments=False"):
        mlp.mechanisms.residuals(linear.summarise(*cells_of(), K), DAG[None])


# --- choices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"mechanism": "spline"}, "linear, mlp"),
        ({"likelihood": "cell"}, "node, environment"),
        ({"steps": 0}, "steps"),
        ({"n_samples": 1.5}, "n_samples"),
        ({"tau": 0.0}, "tau"),
        ({"sparsity_graph": -1.0}, "sparsity_graph"),
        ({"minutes": 0.0}, "minutes"),
        ({"rank": 0}, "rank"),
        ({"target_start": -1.0}, "target_start"),
        ({"alpha_anneal": 0.0}, "alpha_anneal"),
        ({"cycle_anneal": 1.5}, "cycle_anneal"),
        ({"learning_rate_end": 0.0}, "learning_rate_end"),
        ({"cycle_measure": "length"}, "radius, expected_radius, trace"),
        ({"target_anneal": 2.0}, "target_anneal"),
        ({"hidden": ()}, "hidden"),
        ({"widths": [10]}, "widths"),
    ],
)
def test_bad_choices_are_named(choice: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GimConfig(**choice)


def test_quick_choices_can_be_replaced() -> None:
    linear, mlp = GimConfig.quick(), GimConfig.quick(mechanism="mlp", steps=7)
    assert linear.likelihood == mlp.likelihood == "expected"
    assert (linear.steps, mlp.steps, linear.sparsity_targets, mlp.sparsity_targets) == (1000, 7, 30, 100)
    assert GimConfig.quick(sparsity_targets=3.0).sparsity_targets == 3
    assert [GimConfig.quick(mechanism=m).graph for m in ("linear", "mlp", "zero_inflated")] == ["searched"] * 2 + [
        "relaxed"
    ]
    with pytest.raises(ValueError, match="mechanism='cubic'"):
        GimConfig.quick(mechanism="cubic")
    with pytest.raises(TypeError, match="colour"):
        GimConfig.quick(colour=1)


def test_choices_survive_json() -> None:
    import json

    config = GimConfig(mechanism="mlp", hidden=(20, 20), minutes=3.0)
    assert GimConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
