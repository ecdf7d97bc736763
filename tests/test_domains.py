"""Labelled graphs: what is drawn, what interventions do, and how values are standardised."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from causcade.simulate.domains import DOMAINS, GraphPrior, draw_graph_item, graph_prior, graph_values
from causcade.simulate.graphs import erdos_renyi, is_dag

SMALL = GraphPrior(genes={"4": 1.0, "7": 1.0}, cells=(60, 120), domains=dict.fromkeys(DOMAINS, 1.0), dt=0.1)
PLAIN = replace(SMALL, hidden=0.0, missing=0.0)
ACTED = replace(PLAIN, interventional=1.0, full_coverage=1.0, share=(0.5, 0.5), domains={"linear": 1.0, "rff": 1.0})


def same(a, b):
    return (
        a.cells.shape == b.cells.shape
        and torch.equal(a.cells.nan_to_num(-99), b.cells.nan_to_num(-99))
        and torch.equal(a.mask, b.mask)
        and torch.equal(a.adjacency, b.adjacency)
    )


# --- what is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_items_depend_on_seed_and_index_alone(domain) -> None:
    prior = replace(SMALL, domains={domain: 1.0})
    first = draw_graph_item(prior, 0, 3)
    torch.rand(7)
    draw_graph_item(prior, 0, 2)
    assert same(draw_graph_item(prior, 0, 3), first)
    assert not same(draw_graph_item(prior, 0, 4), first)
    assert not same(draw_graph_item(prior, 1, 3), first)


def test_draws_follow_the_prior() -> None:
    items = [draw_graph_item(PLAIN, 0, i) for i in range(60)]
    assert {i.domain for i in items} == set(DOMAINS)
    assert {i.adjacency.shape[0] for i in items} == {4, 7}
    with_interventions = [i for i in items if i.mask.any()]
    assert 15 < len(with_interventions) < 45
    assert {bool(i.mask.any(0).all()) for i in with_interventions} == {True, False}
    for item in items:
        assert is_dag(item.adjacency)
        assert item.cells.shape == item.mask.shape
        assert 60 <= len(item.cells) <= 120
        assert item.cells.isfinite().all()
        assert item.kind == ("counts" if item.domain == "grn" else "scm")
        assert item.mask.sum(1).max() <= 1  # one gene a cell
        assert item.values.isfinite().all()


@pytest.mark.parametrize("domain", DOMAINS)
def test_sizes_can_be_given(domain) -> None:
    item = draw_graph_item(replace(ACTED, domains={domain: 1.0}), 0, 0, genes=3, cells=50)
    assert item.cells.shape == (50, 3)
    assert sorted(item.mask.sum(0).tolist()) == [8, 8, 9]  # half of the cells, dealt evenly
    one = draw_graph_item(replace(ACTED, domains={domain: 1.0}), 0, 0, genes=1, cells=5)
    assert one.adjacency.tolist() == [[False]]


def test_few_cells_cover_some_genes_once() -> None:
    item = draw_graph_item(ACTED, 0, 0, genes=20, cells=10)
    assert sorted(item.mask.sum(0).tolist()) == [0] * 15 + [1] * 5


def test_share_and_coverage_are_kept() -> None:
    prior = replace(ACTED, full_coverage=0.0, coverage=(0.5, 0.5), share=(0.25, 0.25))
    for i in range(4):
        item = draw_graph_item(prior, 0, i, genes=8, cells=80)
        assert int(item.mask.any(1).sum()) == 20
        assert int(item.mask.any(0).sum()) == 4


def test_cells_are_in_random_order() -> None:
    item = draw_graph_item(ACTED, 0, 0, genes=4, cells=100)
    assert 15 < int(item.mask[:50].any(1).sum()) < 35


def test_some_interventions_are_hidden() -> None:
    prior = replace(ACTED, hidden=1.0)
    items = [(draw_graph_item(ACTED, 0, i, genes=6), draw_graph_item(prior, 0, i, genes=6)) for i in range(8)]
    for open_, hidden in items:
        assert torch.equal(open_.cells, hidden.cells)
        kept = hidden.mask.any(0)
        assert torch.equal(hidden.mask, open_.mask & kept)  # by gene
    assert 0 < sum(int(h.mask.any(0).sum()) for _, h in items) < 6 * 8


def test_some_entries_are_missing() -> None:
    shares = []
    for i in range(10):
        item = draw_graph_item(replace(PLAIN, missing=1.0), 0, i, genes=7, cells=100)
        shares.append(float(item.cells.isnan().float().mean()))
        assert torch.equal(item.values.isnan(), item.cells.isnan())
    assert max(shares) <= 0.33
    assert 0.08 < np.mean(shares) < 0.22
    assert not draw_graph_item(PLAIN, 0, 0).cells.isnan().any()


# --- what interventions do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["linear", "rff"])
@pytest.mark.parametrize("standardise", ["internal", "none"])
def test_interventions_set_the_gene(domain, standardise) -> None:
    prior = replace(ACTED, domains={domain: 1.0}, standardise={standardise: 1.0})
    for i in range(3):
        item = draw_graph_item(prior, 0, i, genes=5, cells=400)
        size = item.cells[item.mask].abs()
        assert size.min() >= 1.0
        assert size.max() <= 3.0
        assert 0.3 < float((item.cells[item.mask] > 0).float().mean()) < 0.7


def test_knock_outs_leave_no_molecule() -> None:
    prior = replace(ACTED, domains={"grn": 1.0})
    item = draw_graph_item(prior, 0, 0, genes=6, cells=200)
    assert not item.cells[item.mask].any()
    assert item.cells[~item.mask].any()
    assert torch.equal(item.cells, item.cells.round())


@pytest.mark.parametrize("domain", ["linear", "rff"])
def test_internal_standardisation_hides_the_order(domain) -> None:
    """Variance does not grow along the causal order, as it does in raw models."""
    ratio = {}
    for standardise in ("internal", "none"):
        prior = replace(PLAIN, domains={domain: 1.0}, interventional=0.0, standardise={standardise: 1.0}, edges=(3.0,))
        logs = []
        for i in range(6):
            item = draw_graph_item(prior, 0, i, genes=12, cells=400)
            sd, root = item.cells.std(0), ~item.adjacency.any(0)
            if root.any() and not root.all():
                logs.append(float(sd[~root].log().mean() - sd[root].log().mean()))
        ratio[standardise] = np.mean(logs)
    assert abs(ratio["internal"]) < 0.1
    assert ratio["none"] > 1.0


def test_parents_are_associated_with_their_children() -> None:
    prior = replace(PLAIN, domains={"linear": 1.0}, interventional=0.0, edges=(1.0,))
    linked, others = [], []
    for i in range(8):
        item = draw_graph_item(prior, 0, i, genes=10, cells=400)
        r = torch.corrcoef(item.values.T).abs()
        linked += r[item.adjacency].tolist()
        others += r[~(item.adjacency | item.adjacency.T | torch.eye(10, dtype=torch.bool))].tolist()
    assert np.mean(linked) > np.mean(others) + 0.2


# --- priors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("shifted", [False, True])
def test_priors_of_the_tests(domain, shifted) -> None:
    prior = graph_prior(domain, shifted=shifted, standardise="none")
    item = draw_graph_item(replace(prior, dt=0.1), 0, 0)
    assert item.domain == domain
    assert item.cells.shape == (1000, 30)
    assert int(item.mask.any(1).sum()) == 500
    assert int(item.mask.any(0).sum()) == (15 if shifted else 30)


@pytest.mark.parametrize("kind", graph_prior("linear", shifted=True).graphs)
def test_shifted_graphs_can_be_drawn(kind) -> None:
    prior = replace(graph_prior("linear", shifted=True), graphs={kind: 1.0})
    edges = [int(draw_graph_item(prior, 0, i, cells=20).adjacency.sum()) for i in range(4)]
    assert 3 <= min(edges)
    assert max(edges) <= 100


def test_heteroscedastic_noise_depends_on_the_parents() -> None:
    prior = replace(
        graph_prior("linear"), interventional=0.0, weight=((0.0, 0.0),), edges=(2.0,), output=((0.0, 0.0),)
    )  # fmt: skip

    def dependence(share):
        found = []
        for i in range(3):
            item = draw_graph_item(replace(prior, heteroscedastic=share), 0, i, genes=8, cells=1500)
            x, a = item.values.abs(), item.adjacency
            bins = (item.values * 2).round().clamp(-3, 3)  # spread of the child along the parent
            for p, c in a.nonzero().tolist():
                sds = torch.stack([x[bins[:, p] == b, c].mean() for b in range(-3, 4)])
                found.append(float(sds.max() / sds.min()))
        return np.mean(found)

    assert dependence(1.0) > dependence(0.0) + 0.2


def test_modules_of_a_real_network() -> None:
    real = erdos_renyi(80, 3.0, rng=0)
    real = real | (torch.rand(80, 80, generator=torch.Generator().manual_seed(0)) < 0.01)  # with cycles
    signs = torch.ones(80, 80)
    item = draw_graph_item(replace(ACTED, domains={"grn": 1.0}), 0, 0, genes=10, cells=80, network=(real, signs))
    assert is_dag(item.adjacency)
    assert item.adjacency.any()
    assert item.cells.shape == (80, 10)


def test_prior_is_plain_json() -> None:
    back = json.loads(json.dumps(SMALL.to_dict()))
    assert set(back) == set(GraphPrior.__dataclass_fields__)
    for i in range(3):
        assert same(draw_graph_item(GraphPrior(**back), 0, i), draw_graph_item(SMALL, 0, i))


def test_names_are_checked() -> None:
    with pytest.raises(ValueError, match=r"unknown domain 'tree'.*linear"):
        graph_prior("tree")
    with pytest.raises(ValueError, match=r"unknown standardise 'post'"):
        graph_prior("linear", standardise="post")
    with pytest.raises(ValueError, match=r"unknown domain 'tree'"):
        draw_graph_item(replace(SMALL, domains={"tree": 1.0}), 0, 0)
    with pytest.raises(ValueError, match=r"unknown kind of graph 'ring'"):
        draw_graph_item(replace(ACTED, graphs={"ring": 1.0}), 0, 0)
    with pytest.raises(ValueError, match=r"unknown kind of values 'tpm'"):
        graph_values(torch.ones(2, 2), "tpm")  # type: ignore[arg-type]


# --- values -------------------------------------------------------------------------------------------------------


def test_values_of_causal_models_are_z_scores() -> None:
    x = torch.tensor(np.random.default_rng(0).normal(3e4, [1.0, 20.0, 0.5], size=(50, 3)))
    want = (x - x.mean(0)) / x.std(0, unbiased=False)
    torch.testing.assert_close(graph_values(x, "scm"), want.float())
    x[:, 1] = 0.1 + 0.2  # constant
    assert not graph_values(x, "scm")[:, 1].any()


def test_missing_entries_do_not_count() -> None:
    x = torch.randn(40, 3)
    x[::3, 0] = torch.nan
    x[:, 2] = torch.nan
    values = graph_values(x, "scm")
    assert torch.equal(values.isnan(), x.isnan())
    torch.testing.assert_close(values[~x[:, 0].isnan(), :1], graph_values(x[~x[:, 0].isnan(), :1], "scm"))


def test_values_of_counts() -> None:
    x = torch.tensor([[0.0, 2.0, 6.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    logged = torch.tensor([2 / 8, 6 / 8, 1 / 4, 3 / 4]).log2()  # a million is a constant in logs
    want = (logged - logged.min()) / logged.std(unbiased=False)
    values = graph_values(x, "counts")
    torch.testing.assert_close(values[x > 0], want)
    assert not values[x == 0].any()
    part = torch.tensor([2 / 8, 6 / 8, 3 / 4]).log2()  # shares of all genes measured
    want = (part - part.min()) / part.std(unbiased=False)
    torch.testing.assert_close(graph_values(x[:, 1:], "counts", total=x.sum(1))[x[:, 1:] > 0], want)


def test_counts_may_be_empty_or_missing_but_not_negative() -> None:
    assert not graph_values(torch.zeros(3, 2), "counts").any()
    assert not graph_values(torch.tensor([[2.0], [2.0]]), "counts").any()
    x = torch.tensor([[1.0, torch.nan, 4.0], [2.0, 5.0, 0.0]])
    assert graph_values(x, "counts").isnan().tolist() == [[False, True, False], [False, False, False]]
    with pytest.raises(ValueError, match="must not be negative"):
        graph_values(torch.tensor([[-1.0, 2.0]]), "counts")
    with pytest.raises(ValueError, match=r"\(cells, genes\); got shape \(4,\)"):
        graph_values(torch.ones(4), "scm")
