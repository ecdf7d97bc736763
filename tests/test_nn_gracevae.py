import numpy as np
import pytest
import torch
import torch.nn.functional as F

from causcade.nn.gracevae import VARIANTS, GraceConfig, GraceVAE
from causcade.nn.message_passing import GeneGraph
from causcade.nn.mmd import mmd2

D, C, B = 12, 4, 5
GRAPH = GeneGraph(
    D,
    3,
    {
        "GG": np.array([[0, 1, 2], [1, 2, 6]]),
        "PG": np.array([[0, 0, 1, 2], [0, 3, 3, 7]]),
        "PP": np.array([[0], [1]]),
    },
)
TARGETS = (0, 1, 5, -1)


def make(graph: GeneGraph | None = GRAPH, *, n_embedding: int = 0, **choices: object) -> GraceVAE:
    torch.manual_seed(0)
    config = GraceConfig(hidden=6, **choices)  # type: ignore[arg-type]
    net = GraceVAE(config, D, C, graph=graph, targets=TARGETS, n_embedding=n_embedding)
    for weight in net.parameters():  # published starts are too near 0 to tell parts apart
        weight.data += 0.3 * torch.randn(weight.shape)
    return net.double()


def cells(n: int = B, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_number_of_parameters_is_that_of_the_paper() -> None:
    n = lambda net: sum(p.numel() for p in net.parameters())
    graph = GeneGraph(5000, 2082, {"PG": np.array([[0], [0]])})
    assert n(GraceVAE(GraceConfig.variant("reference-cmvae"), 5000, 105)) == 1_364_029
    # the paper counts three more: a second layer that its code makes and does not use
    assert n(GraceVAE(GraceConfig.variant("reference"), 5000, 105, graph=graph)) == 1_364_032
    assert (
        n(GraceVAE(GraceConfig.variant("multihot", intervention="lookup"), 5000, 105, graph=graph))
        == 1_364_029 + 128 * 2082
    )


def test_programs_solve_the_latent_model() -> None:
    net = make()
    z = torch.randn(B, C, dtype=torch.float64)
    g = net.latent_graph()
    assert torch.equal(g, torch.triu(net.graph, 1))
    u = net.propagate(z)
    assert torch.allclose(u, z + u @ g)
    # an edge [cause, effect]: moving program 0 moves program 1 by its weight
    z2 = z.clone()
    z2[:, 0] += 1
    assert torch.allclose((net.propagate(z2) - u)[:, 1], g[0, 1].expand(B))
    plain = make(dag=False)
    assert torch.equal(plain.propagate(z), z) and not plain.latent_graph().any()


def test_encoder_and_decoder_are_their_formulas() -> None:
    net, x = make(None), cells()
    hidden = F.leaky_relu(x @ net.first.weight.T + net.first.bias, 0.2)
    mean, variance = net.encode(x)
    assert torch.allclose(mean, hidden @ net.mean.weight.T + net.mean.bias)
    assert torch.allclose(variance, torch.log1p((hidden @ net.variance.weight.T + net.variance.bias).exp()))
    u = torch.randn(B, C, dtype=torch.float64)
    inner = F.leaky_relu(u @ net.inner.weight.T + net.inner.bias, 0.2)
    linear = inner @ net.outer.weight.T + net.outer.bias
    assert torch.allclose(net.decode(u), F.leaky_relu(linear, 0.2))
    assert torch.allclose(make(None, output="linear").decode(u), linear)


def test_combinations_add_the_shifts_of_their_parts() -> None:
    net = make(intervention="lookup")
    first = net.interventions.first
    one_hot = torch.eye(C, dtype=torch.float64)
    logits = F.leaky_relu(one_hot @ first.weight.T + first.bias, 0.2) @ net.interventions.second.weight.T
    program, strength = net.assignment(torch.arange(C), 3.0)
    assert torch.allclose(program, (3 * (logits + net.interventions.second.bias)).softmax(-1))
    each = [net.shift(torch.tensor([i]), 3.0) for i in (0, 2)]
    assert torch.allclose(each[0], program[0] * strength[0])
    assert torch.allclose(net.shift(torch.tensor([0, 2]), 3.0), each[0] + each[1])
    assert float(net.assignment(torch.arange(C), 20.0)[0].detach().max(1).values.min()) > float(
        program.detach().max(1).values.min()
    )


def test_table_holds_the_assignments_themselves() -> None:
    net = make()
    program, strength = net.assignment(torch.tensor([2, 0]), 3.0)
    assert torch.allclose(program, (3 * net.interventions.logits[[2, 0]]).softmax(-1))
    assert torch.equal(strength, net.interventions.strength[[2, 0]])
    net.interventions.start_at(torch.tensor([1, 3, 3, 0]), torch.tensor([1.0, -2.0, 0.5, 4.0]).double(), share=0.7)
    program, strength = net.assignment(torch.arange(C), 1.0)
    want = torch.full((C, C), 0.1, dtype=torch.float64)
    want[torch.arange(C), [1, 3, 3, 0]] = 0.7
    assert torch.allclose(program, want) and strength.tolist() == [1.0, -2.0, 0.5, 4.0]


@pytest.mark.parametrize("n_latent", [4, 9])  # the hidden layer is 6 wide
def test_start_moves_cells_by_the_changes_given(n_latent: int) -> None:
    torch.manual_seed(0)
    net = GraceVAE(GraceConfig(hidden=6, n_latent=n_latent, output="linear"), D, C).double()
    control, direct = 5 + torch.rand(D).double(), torch.randn(3, D).double()
    direct = torch.cat([direct, torch.zeros(n_latent - 3, D).double()])  # of rank 3: no more than the layer can hold
    graph = torch.zeros(n_latent, n_latent).double()
    graph[0, 1] = 0.5
    net.outer.weight.data.zero_()
    net.inner.weight.data.zero_()
    shifts = -1.5 * torch.eye(n_latent).double()[:C]
    net.start_at(control, direct, graph, shifts)
    u = torch.zeros(3, n_latent).double()
    u[1, 0], u[2, [0, 2]] = -1.4, 0.2  # as far as the perturbations reach
    want = control + torch.stack([torch.zeros(D), -1.4 * (direct[0] + 0.5 * direct[1]),
                                  0.2 * (direct[0] + 0.5 * direct[1] + direct[2])])  # fmt: skip
    assert torch.allclose(net.decode(net.propagate(u)), want)
    assert not net.outer.weight.isnan().any() and net.variance.bias.detach().unique().tolist() == [-2.0]


def test_terms_are_the_losses_of_the_paper() -> None:
    net, x, y, parts = make(None, kernel_width=50.0), cells(), cells(7, 2), torch.tensor([1])
    terms = net.terms(x, y, parts, 2.0, rng=rng())
    mean, variance = net.encode(x)
    z = mean + variance.sqrt() * torch.randn(mean.shape, generator=rng(), dtype=mean.dtype)
    made, again = net.generate(x, parts, 2.0, rng=rng())
    assert torch.allclose(made, net.decode(net.propagate(z + net.shift(parts, 2.0))))
    assert torch.allclose(terms.mmd, mmd2(made, y, 50.0)) and torch.allclose(terms.mse, ((again - x) ** 2).mean())
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0)).sum(1).mean()
    assert torch.allclose(terms.kl, kl)
    assert torch.allclose(terms.sparsity, net.graph.triu(1).abs().sum())
    now = net.config.schedule(99)
    want = 8 * terms.mmd + terms.mse + 0.002 * terms.kl + 1e-4 * terms.sparsity
    assert torch.allclose(terms.objective(net.config, now), want)


def test_laplacian_compares_decoder_rows_along_edges() -> None:
    net = make(laplacian=0.1)
    rows = net.outer.weight
    want = sum(((rows[a] - rows[b]) ** 2).sum() for a, b in ((0, 1), (1, 2), (2, 6))) / 3
    assert torch.allclose(net.terms(cells(), cells(), torch.tensor([0]), 1.0, rng=rng()).laplacian, want)
    assert float(make().terms(cells(), cells(), torch.tensor([0]), 1.0, rng=rng()).laplacian) == 0


def test_control_is_generated_without_a_shift() -> None:
    net = make()
    made, plain = net.generate(cells(), torch.zeros(0, dtype=torch.int64), 1.0)
    # not to the bit: some processors round rows of a batch each their way
    torch.testing.assert_close(made, plain, rtol=1e-12, atol=1e-14)
    again = net.generate(cells(), torch.tensor([1]), 1.0)[1]  # means, no noise
    torch.testing.assert_close(plain, again, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_variant_learns_all_its_weights(variant: str) -> None:
    torch.manual_seed(0)
    net = GraceVAE(GraceConfig.variant(variant, hidden=6), D, C, graph=GRAPH)
    terms = net.terms(cells().float(), cells(6).float(), torch.tensor([1, 2]), 2.0, rng=rng())
    terms.objective(net.config, net.config.schedule(99)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["trivalue", "subgraph", "dropedge"])
def test_interventions_through_the_graph(kind: str) -> None:
    net = make(intervention=kind)
    program, strength = net.assignment(torch.arange(C), 1.0)
    assert program.shape == (C, C) and torch.allclose(program.sum(1), torch.ones(C, dtype=torch.float64))
    assert strength.shape == (C,)
    before = program.detach().clone()
    net.interventions.learned.data[:, 1] += 1.0  # gene 1: a target, and a neighbour of genes 0 and 2
    moved = (net.assignment(torch.arange(C), 1.0)[0] - before).abs().sum(1).detach() > 1e-9
    assert moved.tolist() == {"trivalue": [1, 1, 0, 0], "subgraph": [1, 1, 0, 0], "dropedge": [0, 1, 0, 0]}[kind]
    with pytest.raises(ValueError, match="needs a network"):
        make(None, intervention=kind)


def test_marks_of_other_targets_matter_where_they_are_neighbours() -> None:
    torch.manual_seed(0)
    config = GraceConfig(hidden=6, intervention="trivalue")
    nets = []
    for targets in (TARGETS, (0, 9, 5, -1)):
        torch.manual_seed(0)
        nets.append(GraceVAE(config, D, C, graph=GRAPH, targets=targets))
    first, second = (net.assignment(torch.tensor([0]), 1.0)[0] for net in nets)
    assert not torch.allclose(first, second)


def test_multihot_says_which_pathways_have_a_gene_that_is_on() -> None:
    net = make(encoder="multihot")
    x = torch.zeros(2, D, dtype=torch.float64)
    x[0, 3], x[1, 7], x[1, 11] = 0.1, 2.0, 1.0
    assert net._on(x).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert net.first.in_features == D + 3


def test_embedding_goes_beside_the_genes() -> None:
    net, x = make(n_embedding=2), cells()
    one = net.encode(x, torch.zeros(B, 2, dtype=torch.float64))[0]
    assert not torch.allclose(one, net.encode(x, torch.ones(B, 2, dtype=torch.float64))[0])


def test_reference_form_draws_one_noise_for_all_cells() -> None:
    net = make(form="reference", n_layers=1, evaluation_noise=True)
    x = cells(1).expand(3, -1)
    noise = net.noise(rng())
    assert noise is not None and noise.shape == (3,)
    mean = net.encode(x, None, noise)[0]
    assert torch.allclose(mean[0], mean[2]) and not torch.allclose(mean, net.encode(x)[0])
    assert make().noise(rng()) is None


def test_network_without_edges_to_genes_is_no_network() -> None:
    for graph in (GeneGraph(D, 0, {}), GeneGraph(D, 2, {"PP": np.array([[0], [1]])})):
        net = make(graph)
        assert net.passing is None and torch.equal(net.encode(cells())[0], make(None).encode(cells())[0])


def test_schedule_is_that_of_the_code() -> None:
    config = GraceConfig()
    mmd, kl, temperature = (
        np.array([getattr(config.schedule(e), name) for e in range(100)]) for name in ("mmd", "kl", "temperature")
    )
    assert np.allclose(mmd, np.r_[np.zeros(5), np.linspace(0, 8, 45), np.full(50, 8.0)])
    assert np.allclose(kl, np.r_[np.zeros(10), np.linspace(0, config.kl, 90)])
    assert np.allclose(temperature, np.r_[np.ones(5), np.linspace(1, 4, 95)])
    assert GraceConfig(epochs=1).schedule(0).mmd == 8
    rate = np.array([config.rate(e, 90) for e in range(90)])
    assert np.allclose(rate[:70], 1e-3) and rate[-1] == pytest.approx(1e-3 / 50) and (np.diff(rate[69:]) < 0).all()
    assert GraceConfig.variant("reference").rate(99, 100) == 1e-3


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"encoder": "gnn"}, "encoder must be one of graph"),
        ({"hidden": 0}, "hidden must be a whole"),
        ({"batch_size": 1}, "at least 2"),
        ({"mmd": -1.0}, "mmd must be"),
        ({"temperature": 0.0}, "above 0"),
        ({"validation": 1.0}, "share of the cells"),
        ({"n_layers": 4}, "from 1 to 3"),
        ({"colour": 1}, "Unknown choices"),
    ],
)
def test_bad_choices_are_refused(choices: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GraceConfig.from_dict(choices)


def test_config_goes_through_a_file() -> None:
    config = GraceConfig.variant("vgae", n_latent=7)
    assert GraceConfig.from_dict(config.to_dict()) == config and config.but(kl=1.0).kl == 1.0
    with pytest.raises(ValueError, match="variant must be one of grace"):
        GraceConfig.variant("gears")
