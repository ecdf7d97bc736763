from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from scipy import stats

from causcade.simulate._mechanisms import MECHANISMS
from causcade.simulate.graphs import ancestors, erdos_renyi
from causcade.simulate.scm import Intervention, random_scm, sample_regimes

mechanisms = pytest.mark.parametrize("mechanism", MECHANISMS)
standardisings = pytest.mark.parametrize("standardise", ["internal", "none", "post"])
CHAIN = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)


def varsortability(x, adjacency):
    """Share of directed paths, over all lengths, along which variance grows."""
    variance = x.double().var(0)
    grows = (variance[:, None] < variance[None, :]).double()
    step = adjacency.double()
    paths, right, total = step.clone(), 0.0, 0.0
    while paths.any():
        linked = (paths > 0).double()
        right, total = right + float((linked * grows).sum()), total + float(linked.sum())
        paths = ((paths @ step) > 0).double()
    return right / total


def test_linear_covariance_closed_form():
    adjacency = erdos_renyi(8, 1.5, rng=0)
    scm = random_scm(adjacency, standardise="none", weight_range=(0.5, 1.0), rng=1)
    x = scm.sample(30_000, rng=2).double()
    through = torch.linalg.inv(torch.eye(8) - scm.mechanism.weight).double()
    covariance = through.T @ torch.diag(scm.noise_sd.double() ** 2) @ through
    scale = covariance.diagonal().sqrt()
    error = (torch.cov(x.T) - covariance) / torch.outer(scale, scale)
    assert float(error.abs().max()) < 0.04
    torch.testing.assert_close(x.mean(0), scm.mechanism.bias.double() @ through, rtol=0.02, atol=0.06)


@mechanisms
@pytest.mark.parametrize("heteroscedastic", [False, True])
def test_internal_values_have_mean_zero_and_sd_one(mechanism, heteroscedastic):
    adjacency = erdos_renyi(20, 2.0, rng=0)
    x = random_scm(adjacency, mechanism=mechanism, heteroscedastic=heteroscedastic, rng=1).sample(4000, rng=2)
    assert float(x.mean(0).abs().max()) < 0.15
    assert float((x.std(0) - 1).abs().max()) < 0.25


def test_varsortability_is_gone_only_with_standardising():
    def mean(standardise):
        scores = []
        for seed in range(6):
            adjacency = erdos_renyi(20, 4.0, rng=seed)
            scm = random_scm(adjacency, standardise=standardise, rng=seed)
            scores.append(varsortability(scm.sample(1000, rng=seed), adjacency))
        return np.mean(scores)

    assert mean("none") > 0.8
    assert mean("internal") == pytest.approx(0.5, abs=0.12)


def test_predictability_grows_along_the_order_only_after_the_fact():
    def r2_of_last(standardise):
        chain = torch.diag(torch.ones(11), 1) > 0
        scm = random_scm(chain, standardise=standardise, weight_range=(1.5, 1.5), noise_sd_range=(1, 1), rng=0)
        x = scm.sample(4000, rng=1).double()
        return float(torch.corrcoef(x[:, [10, 11]].T)[0, 1] ** 2)

    # R2 of the raw chain tends to one; internally it stays at w2 / (w2 + 1)
    assert r2_of_last("post") > 0.5
    assert r2_of_last("internal") == pytest.approx(2.25 / 3.25, abs=0.04)


def test_post_is_the_z_score_of_raw():
    adjacency = erdos_renyi(10, 2.0, rng=0)
    raw = random_scm(adjacency, mechanism="rff", standardise="none", rng=3)
    post = random_scm(adjacency, mechanism="rff", standardise="post", rng=3)
    noise = raw.draw_noise(200, rng=4)
    torch.testing.assert_close(
        post.evaluate(noise) * post.spread + post.location, raw.evaluate(noise), rtol=1e-4, atol=1e-3
    )


@mechanisms
@standardisings
def test_hard_intervention_acts_on_descendants_only(mechanism, standardise):
    adjacency = erdos_renyi(12, 1.5, rng=0)
    scm = random_scm(adjacency, mechanism=mechanism, standardise=standardise, rng=1)
    target = int(ancestors(adjacency).sum(1).argmax())
    noise = scm.draw_noise(100, rng=2)
    control = scm.evaluate(noise)
    after = scm.evaluate(noise, intervention=Intervention((target,), "hard", 1.7))
    assert (after[:, target] == 1.7).all()
    changed = (after != control).any(0)
    below = ancestors(adjacency)[target].clone()
    below[target] = True
    torch.testing.assert_close(after[:, ~below], control[:, ~below], rtol=0, atol=0)
    assert changed[below].all()


def test_children_follow_a_hard_value_by_their_mechanism():
    scm = random_scm(CHAIN, standardise="internal", rng=0)
    low, high = (scm.sample(20, intervention=Intervention((0,), "hard", value), rng=1) for value in (0.0, 2.0))
    expected = 2 * scm.mechanism.weight[0, 1] / scm.spread[1]
    torch.testing.assert_close(high[:, 1] - low[:, 1], expected.expand(20), rtol=1e-4, atol=1e-4)


@standardisings
def test_shift_adds_exactly_and_propagates_linearly(standardise):
    scm = random_scm(CHAIN, standardise=standardise, rng=0)
    noise = scm.draw_noise(50, rng=1)
    moved = scm.evaluate(noise, intervention=Intervention((1, 3), "shift", (2.0, -1.0))) - scm.evaluate(noise)
    weight = scm.mechanism.weight[1, 2]
    child = {"internal": weight / scm.spread[2], "none": weight, "post": weight * scm.spread[1] / scm.spread[2]}
    expected = torch.stack([torch.tensor(0.0), torch.tensor(2.0), 2 * child[standardise], torch.tensor(-1.0)])
    torch.testing.assert_close(moved, expected.expand(50, 4), rtol=1e-3, atol=1e-3)


def test_scale_multiplies_the_gene_and_noise_scale_only_its_noise():
    scm = random_scm(CHAIN, standardise="none", rng=0)
    noise = scm.draw_noise(5000, rng=1)
    control = scm.evaluate(noise)
    scaled = scm.evaluate(noise, intervention=Intervention((1,), "scale", 3.0))
    torch.testing.assert_close(scaled[:, 1], 3 * control[:, 1])
    noisy = scm.evaluate(noise, intervention=Intervention((1,), "noise_scale", 3.0))
    torch.testing.assert_close(noisy[:, 1] - control[:, 1], 2 * noise[:, 1] * scm.noise_sd[1], rtol=1e-3, atol=1e-3)


def test_uniform_interventions_fill_their_range():
    scm = random_scm(CHAIN, rng=0)
    x = scm.sample(3000, intervention=Intervention((0, 2), "uniform", (1.0, 3.0)), rng=1)
    for gene in (0, 2):
        assert stats.kstest(x[:, gene].numpy(), stats.uniform(1, 2).cdf).pvalue > 0.001
    assert abs(float(torch.corrcoef(x[:, [0, 2]].T)[0, 1])) < 0.08
    signed = scm.sample(3000, intervention=Intervention((0,), "signed_uniform", (1.0, 3.0)), rng=1)[:, 0]
    assert float((signed > 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert stats.kstest(signed.abs().numpy(), stats.uniform(1, 2).cdf).pvalue > 0.001


@pytest.mark.parametrize(
    ("noise", "law"),
    [
        ("gaussian", stats.norm),
        ("laplace", stats.laplace(scale=np.sqrt(0.5))),
        ("cauchy", stats.cauchy),
        ("uniform", stats.uniform(-np.sqrt(3), 2 * np.sqrt(3))),
        ("student_t", stats.t(2)),
    ],
)
def test_noise_laws(noise, law):
    scm = random_scm(torch.zeros(2, 2), noise=noise, standardise="none", rng=0)
    x = (scm.sample(4000, rng=1) - scm.mechanism.bias) / scm.noise_sd
    for gene in range(2):
        assert stats.kstest(x[:, gene].numpy(), law.cdf).pvalue > 0.001


def test_exponential_noise_is_skewed_to_one_side_and_the_other():
    x = random_scm(torch.zeros(2, 2), noise="exponential", standardise="none", rng=0).draw_noise(4000, rng=1)
    for gene, sign in ((0, 1), (1, -1)):
        assert stats.kstest((sign * x[:, gene] + 1).numpy(), stats.expon.cdf).pvalue > 0.001


def test_cauchy_is_standardised_by_quantiles_and_keeps_heavy_tails():
    adjacency = erdos_renyi(10, 1.5, rng=0)
    x = random_scm(adjacency, noise="cauchy", rng=1).sample(4000, rng=2)
    assert x.isfinite().all()
    assert float(x.median(0).values.abs().max()) < 0.2
    assert float(x.abs().max(0).values.min()) > 50


def test_heteroscedastic_noise_depends_on_parents():
    pair = torch.tensor([[0, 1], [0, 0]])
    ratios = []
    for seed in range(6):
        scm = random_scm(pair, heteroscedastic=True, standardise="internal", rng=seed)
        noise = scm.draw_noise(400, rng=seed)
        doubled = noise * torch.tensor([1.0, 2.0])
        sd = (scm.evaluate(doubled) - scm.evaluate(noise))[:, 1] / noise[:, 1]
        assert float(sd.min()) > 0
        ratios.append(float(sd.max() / sd.min()))
    assert max(ratios) > 2


@mechanisms
def test_non_additive_only_where_named(mechanism):
    scm = random_scm(CHAIN, mechanism=mechanism, standardise="none", rng=0)
    noise = scm.draw_noise(200, rng=1)
    more = noise.clone()
    more[:, 1] += 1.0
    step = (scm.evaluate(more) - scm.evaluate(noise))[:, 1]
    constant = bool((step - scm.noise_sd[1]).abs().max() < 1e-3)
    assert constant == (mechanism != "mlp_nonadditive")


def permuted(thing, order):
    """Relabel every tensor of a mechanism: two leading axes of genes, or one."""
    d = len(order)
    new = {}
    for name in (f.name for f in fields(thing)):
        value = getattr(thing, name)
        if is_dataclass(value):
            new[name] = permuted(value, order)
        elif isinstance(value, torch.Tensor):
            new[name] = value[order][:, order] if value.ndim > 1 and value.shape[1] == d else value[order]
    return replace(thing, **new)


@mechanisms
def test_labels_of_genes_do_not_matter(mechanism):
    d = 9
    order = torch.randperm(d, generator=torch.Generator().manual_seed(0))
    scm = random_scm(erdos_renyi(d, 2.0, rng=0), mechanism=mechanism, heteroscedastic=True, rng=1)
    parts = ("adjacency", "noise_sd", "location", "spread")
    shuffled = replace(
        scm,
        mechanism=permuted(scm.mechanism, order),
        noise_function=permuted(scm.noise_function, order),
        **{p: getattr(scm, p)[order][:, order] if p == "adjacency" else getattr(scm, p)[order] for p in parts},
    )
    noise = scm.draw_noise(50, rng=2)
    torch.testing.assert_close(shuffled.evaluate(noise[:, order]), scm.evaluate(noise)[:, order], rtol=1e-3, atol=1e-3)


@mechanisms
def test_rng_decides(mechanism):
    def draw(model_seed, cell_seed):
        return random_scm(CHAIN, mechanism=mechanism, rng=model_seed).sample(10, rng=cell_seed)

    assert torch.equal(draw(0, 1), draw(0, 1))
    assert not torch.equal(draw(0, 1), draw(0, 2))
    assert not torch.equal(draw(0, 1), draw(1, 1))


def test_regimes_in_one_pass():
    scm = random_scm(CHAIN, rng=0)
    regimes = [
        Intervention((0,), "hard", 2.0),
        Intervention((1, 3), "hard", (-1.0, 4.0)),
        Intervention((2,), "shift", 1.0),
        Intervention((), "hard"),
    ]
    x, codes, mask = sample_regimes(scm, 30, 20, regimes, rng=1)
    assert x.shape == mask.shape == (110, 4)
    assert codes.bincount().tolist() == [30, 20, 20, 20, 20]
    for r, targets in enumerate([[], [0], [1, 3], [2], []]):
        expected = torch.zeros(4, dtype=torch.bool)
        expected[targets] = True
        assert (mask[codes == r] == expected).all()
    assert (x[codes == 1, 0] == 2).all()
    assert (x[codes == 2][:, [1, 3]] == torch.tensor([-1.0, 4.0])).all()
    # control cells, and cells of a regime without targets, follow the same noise as an untouched sample
    plain = scm.evaluate(scm.draw_noise(110, rng=1))
    untouched = (codes == 0) | (codes == 4)
    torch.testing.assert_close(x[untouched], plain[untouched])
    torch.testing.assert_close(x[codes == 3, 2], plain[codes == 3, 2] + 1)


def test_no_regimes():
    x, codes, mask = sample_regimes(random_scm(CHAIN, rng=0), 5, 3, [], rng=0)
    assert x.shape == (5, 4)
    assert codes.tolist() == [0] * 5
    assert not mask.any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_scm(CHAIN, mechanism="rf"), "unknown mechanism 'rf'"),
        (lambda: random_scm(CHAIN, noise="normal"), "unknown noise 'normal'"),
        (lambda: random_scm(CHAIN, standardise="yes"), "unknown standardise 'yes'"),
        (lambda: random_scm(CHAIN | CHAIN.T), "cycle"),
        (lambda: random_scm(CHAIN, weight_range=(3, 1)), "weight_range"),
        (lambda: random_scm(CHAIN, noise_sd_range=(0, 1)), "noise_sd_range .* above 0"),
        (lambda: random_scm(CHAIN, rng=-1), "bad rng"),
        (lambda: random_scm(CHAIN, rng=0).sample(3, intervention=Intervention((1, 4)), rng=0), r"\[4\].*4 genes"),
        (lambda: random_scm(CHAIN, rng=0).sample(3, intervention=Intervention((-1,)), rng=0), r"\[-1\]"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
