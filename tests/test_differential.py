"""The differential network: what may change its answers, and what may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from causcade.contrasts import N_CONTRASTS, N_NODE, N_STRUCTURE
from causcade.nn.differential import Differential, DifferentialConfig, SetInput, graph_loss, target_loss

TINY = DifferentialConfig(
    width=8, heads=2, hidden=8, structure_layers=1, difference_layers=1, paths=2, local=4
)  # fmt: skip
FORMS = {
    "concat": TINY,
    "difference": replace(TINY, form="difference"),
    "no local graphs": replace(TINY, local=0),
    "no paths": replace(TINY, paths=0),
    "no contrasts": replace(TINY, contrasts=False),
    "codes": replace(TINY, codes=3),
    "as in the paper": replace(TINY, paper_inputs=True, contrasts=False, paths=0, codes=3),
}
N, BATCH = 6, 3
Inputs = tuple[SetInput, SetInput, Tensor, Tensor]


def build(config: DifferentialConfig = TINY) -> Differential:
    torch.manual_seed(0)
    return Differential(config).eval()


def set_of(gen: torch.Generator, subsets: int, k: int) -> SetInput:
    chosen = torch.stack(
        [torch.stack([torch.randperm(N, generator=gen)[:k] for _ in range(subsets)]) for _ in range(BATCH)]
    )
    tokens = torch.randint(1, 8, (BATCH, subsets, k, k), generator=gen) * (1 - torch.eye(k).long())
    return SetInput(torch.randn(BATCH, N, N, N_STRUCTURE, generator=gen), chosen, tokens)


@pytest.fixture
def inputs() -> Inputs:
    gen = torch.Generator().manual_seed(1)
    contrasts, node = torch.randn(BATCH, N, N, N_CONTRASTS, generator=gen), torch.randn(BATCH, N, N_NODE, generator=gen)
    return set_of(gen, 4, 3), set_of(gen, 5, 3), contrasts, node


def codes_of(net: Differential) -> Tensor | None:
    return net.draw_codes(BATCH, N, torch.Generator().manual_seed(2))


def changed(x: Tensor, *places: int) -> Tensor:
    """Other values of some features."""
    out = x.clone()
    out[..., list(places)] += torch.randn(*x.shape[:-1], len(places), generator=torch.Generator().manual_seed(3))
    return out


def with_pairs(s: SetInput, pairs: Tensor) -> SetInput:
    return replace(s, pairs=pairs)


# --- symmetry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_genes_may_come_in_any_order(form: str, inputs: Inputs) -> None:
    net, order = build(FORMS[form]), torch.tensor([4, 2, 0, 5, 1, 3])
    place = order.argsort()  # new position of every gene

    def turn(s: SetInput) -> SetInput:
        return SetInput(s.pairs[:, order][:, :, order], place[s.subsets], s.tokens)

    control, perturbed, contrasts, node = inputs
    code = codes_of(net)
    turned = None if code is None else code[:, order]
    logits, edges = net(control, perturbed, contrasts, node, code)
    again, edges_again = net(
        turn(control), turn(perturbed), contrasts[:, order][:, :, order], node[:, order], turned
    )  # fmt: skip
    torch.testing.assert_close(again, logits[:, order], atol=1e-5, rtol=0)
    torch.testing.assert_close(edges_again, edges[:, order][:, :, order], atol=1e-5, rtol=0)
    assert logits.shape == (BATCH, N)
    assert logits.std() > 1e-3
    assert edges.shape == (BATCH, N, N, 3)


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_items_of_a_batch_do_not_see_each_other(form: str, inputs: Inputs) -> None:
    net = build(FORMS[form])
    code = codes_of(net)
    logits, edges = net(*inputs, code)
    for i in range(BATCH):
        one = slice(i, i + 1)
        control, perturbed = (SetInput(s.pairs[one], s.subsets[one], s.tokens[one]) for s in inputs[:2])
        alone, edges_alone = net(
            control, perturbed, inputs[2][one], inputs[3][one], None if code is None else code[one]
        )  # fmt: skip
        torch.testing.assert_close(alone, logits[one], atol=1e-5, rtol=0)
        torch.testing.assert_close(edges_alone, edges[one], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_edges_swap_with_their_ends(inputs: Inputs) -> None:
    net = build()
    edges = net.edges(net.encode(inputs[0]))
    turned = edges.transpose(1, 2)
    assert torch.equal(turned[..., 0], edges[..., 0])
    assert torch.equal(turned[..., 1], edges[..., 2])
    assert not torch.allclose(edges[..., 1], edges[..., 2])


@torch.inference_mode()
def test_local_graphs_may_come_in_any_order(inputs: Inputs) -> None:
    net, (s, *_) = build(), inputs
    order = torch.tensor([2, 0, 3, 1])
    grid = net.encode(s)
    torch.testing.assert_close(net.encode(SetInput(s.pairs, s.subsets[:, order], s.tokens[:, order])), grid)
    inside = torch.tensor([1, 2, 0])  # the genes of each subset, too
    twisted = SetInput(s.pairs, s.subsets[..., inside], s.tokens[:, :, inside][..., inside])
    torch.testing.assert_close(net.encode(twisted), grid, atol=1e-5, rtol=0)
    other = torch.where(s.tokens > 0, s.tokens % 7 + 1, 0)
    assert not torch.allclose(net.encode(replace(s, tokens=other)), grid)


@torch.inference_mode()
def test_local_graphs_are_averaged_where_they_overlap(inputs: Inputs) -> None:
    """A pair in two equal graphs gets what it got in one, but for the count."""
    net, (s, *_) = build(), inputs
    assert net.local is not None
    twice = SetInput(s.pairs, s.subsets[:, :1].repeat(1, 2, 1), s.tokens[:, :1].repeat(1, 2, 1, 1))
    once = SetInput(s.pairs, s.subsets[:, :1], s.tokens[:, :1])
    x = net.pairs(s.pairs)
    a, b = net.local(x, once), net.local(x, twice)
    count = net.local.out.weight[:, -1]
    for i in range(BATCH):
        g, h = s.subsets[i, 0, :2]
        torch.testing.assert_close(b[i, g, h] - a[i, g, h], count * float(np.log(3) - np.log(2)))
    outside = next(g for g in range(N) if g not in s.subsets[0, 0])
    torch.testing.assert_close(a[0, outside, outside], net.local.out.bias)


# --- which inputs count -------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_every_input_counts_by_default(inputs: Inputs) -> None:
    net, (control, perturbed, contrasts, node) = build(), inputs
    logits, edges = net(control, perturbed, contrasts, node)
    moved = with_pairs(perturbed, changed(perturbed.pairs, 3))
    for other in (
        (with_pairs(control, changed(control.pairs, 3)), perturbed, contrasts, node),
        (control, moved, contrasts, node),
        (control, perturbed, changed(contrasts, 5), node),
        (control, perturbed, contrasts, changed(node, 6)),
    ):
        assert not torch.allclose(net(*other)[0], logits, atol=1e-4)
    assert torch.equal(net(control, moved, contrasts, node)[1], edges)  # the graph is the control's


@torch.inference_mode()
def test_without_node_statistics_they_do_not_count(inputs: Inputs) -> None:
    net, (control, perturbed, contrasts, node) = build(replace(TINY, node_statistics=False)), inputs
    logits, _ = net(control, perturbed, contrasts, node)
    assert torch.equal(net(control, perturbed, contrasts, changed(node, *range(N_NODE)))[0], logits)
    assert not torch.allclose(net(control, perturbed, changed(contrasts, 0), node)[0], logits)


@torch.inference_mode()
def test_without_contrasts_they_do_not_count(inputs: Inputs) -> None:
    net, (control, perturbed, contrasts, node) = build(replace(TINY, contrasts=False)), inputs
    logits, _ = net(control, perturbed, contrasts, node)
    assert torch.equal(net(control, perturbed, changed(contrasts, *range(N_CONTRASTS)), node)[0], logits)


@torch.inference_mode()
def test_inputs_of_the_paper(inputs: Inputs) -> None:
    net, (control, perturbed, contrasts, node) = build(FORMS["as in the paper"]), inputs
    logits, edges = net(control, perturbed, contrasts, node)
    others = tuple(range(1, N_STRUCTURE - 1))
    same = net(
        with_pairs(control, changed(control.pairs, *others)),
        with_pairs(perturbed, changed(perturbed.pairs, *others)),
        changed(contrasts, *range(N_CONTRASTS)),
        changed(node, 1, *range(3, N_NODE)),
    )
    assert torch.equal(same[0], logits)
    assert torch.equal(same[1], edges)
    for place in (0, 2):  # mean and variance
        assert not torch.allclose(net(control, perturbed, contrasts, changed(node, place))[0], logits)
    assert not torch.allclose(net(with_pairs(control, changed(control.pairs, 0)), *inputs[1:])[1], edges)


@torch.inference_mode()
def test_difference_sees_equal_sets_as_equal(inputs: Inputs) -> None:
    """With h_diff only the difference of the grids counts; with h_cat the grids do."""
    control, _, contrasts, node = inputs
    for form, equal in (("difference", True), ("concat", False)):
        net = build(replace(TINY, form=form))
        grids = [net.encode(control), net.encode(with_pairs(control, changed(control.pairs, 0)))]
        first, second = (net.compare(g, g, contrasts, node) for g in grids)
        assert torch.allclose(first, second) == equal
    a, b = torch.randn(2, BATCH, N, N, 8, generator=torch.Generator().manual_seed(0))
    net = build(FORMS["difference"])
    torch.testing.assert_close(net.compare(a, b, contrasts, node), net.compare(0 * a, b - a, contrasts, node))


@torch.inference_mode()
def test_codes_are_shared_and_change_the_answer(inputs: Inputs) -> None:
    net = build(FORMS["codes"])
    a, b = (net.draw_codes(1, N, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)
    assert a.shape == (1, N, 3)
    other = net.draw_codes(1, N, torch.Generator().manual_seed(1))
    logits = [net(*inputs, code)[0] for code in (a, other, None)]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert build().draw_codes(1, N, torch.Generator()) is None


@torch.inference_mode()
def test_no_local_graphs_given(inputs: Inputs) -> None:
    control, *_ = inputs
    net = build()
    none = SetInput(control.pairs, torch.zeros(BATCH, 0, 5).long(), torch.zeros(BATCH, 0, 5, 5).long())
    assert not torch.allclose(net.encode(none), net.encode(control))
    blind = build(FORMS["no local graphs"])
    assert torch.equal(blind.encode(none), blind.encode(control))


@torch.inference_mode()
def test_extreme_statistics_are_cut_off(inputs: Inputs) -> None:
    net, (control, perturbed, contrasts, node) = build(), inputs
    a, b = (net(control, perturbed, c * contrasts.sign(), c * node.sign())[0] for c in (8.0, 1e6))
    assert torch.equal(a, b)


def test_any_number_of_genes_and_layers() -> None:
    net = build(replace(TINY, structure_layers=2, difference_layers=3))
    assert len(net.structure.layers) == 2
    assert len(net.difference.layers) == 3
    for n in (2, 9):
        s = SetInput(torch.randn(1, n, n, N_STRUCTURE), torch.tensor([[[0, 1]]]), torch.tensor([[[[0, 2], [3, 0]]]]))
        logits, edges = net(s, s, torch.randn(1, n, n, N_CONTRASTS), torch.randn(1, n, N_NODE))
        assert logits.shape == (1, n)
        assert edges.shape == (1, n, n, 3)
        assert logits.isfinite().all()


def test_config_survives_json() -> None:
    import json

    config = FORMS["as in the paper"]
    assert DifferentialConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_moved_inputs_are_the_same(inputs: Inputs) -> None:
    moved = inputs[0].to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(vars(moved).values(), vars(inputs[0]).values(), strict=True))
    assert inputs[0].to("meta").tokens.device.type == "meta"


# --- losses -------------------------------------------------------------------------------------------------------


def test_graph_loss_by_hand() -> None:
    """0 -> 1, 2 -> 0, and none between 1 and 2; the diagonal and the lower half do not count."""
    adjacency = torch.zeros(1, 3, 3, dtype=torch.bool)
    adjacency[0, 0, 1] = adjacency[0, 2, 0] = True
    logits = torch.randn(1, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    none, forward, backward = 0, 1, 2
    log_p = logits[0].log_softmax(-1)
    expected = -(log_p[0, 1, forward] + log_p[0, 2, backward] + log_p[1, 2, none]) / 3
    assert graph_loss(logits, adjacency) == pytest.approx(float(expected))
    other = logits.clone()
    other[0][torch.ones(3, 3).tril().bool()] += 5
    assert graph_loss(other, adjacency) == graph_loss(logits, adjacency)
    right = torch.full((1, 3, 3, 3), -20.0)
    right[0, 0, 1, forward] = right[0, 0, 2, backward] = right[0, 1, 2, none] = 20
    assert graph_loss(right, adjacency) < 1e-6


def test_edges_fit_a_graph_and_its_mirror_image(inputs: Inputs) -> None:
    """The loss of an edge does not depend on which of its genes comes first."""
    net = build()
    edges = net.edges(net.encode(inputs[0])).detach()
    adjacency = torch.zeros(BATCH, N, N, dtype=torch.bool)
    adjacency[:, 1, 4] = adjacency[:, 5, 0] = True
    back = torch.arange(N - 1, -1, -1)
    a, b = graph_loss(edges, adjacency), graph_loss(edges[:, back][:, :, back], adjacency[:, back][:, :, back])
    torch.testing.assert_close(a, b)


def test_target_loss_by_hand() -> None:
    logits, targets = torch.tensor([[0.5, -2.0], [3.0, 0.0]]), torch.tensor([[True, False], [False, True]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    expected = -np.mean(np.log([p[0, 0], 1 - p[0, 1], 1 - p[1, 0], p[1, 1]]))
    assert target_loss(logits, targets) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_all_parameters(form: str, inputs: Inputs) -> None:
    net = build(FORMS[form]).train()
    logits, edges = net(*inputs, codes_of(net))
    targets, adjacency = torch.zeros(BATCH, N).bool(), torch.zeros(BATCH, N, N).bool()
    targets[:, 0] = adjacency[:, 0, 1] = True
    (target_loss(logits, targets) + graph_loss(edges, adjacency)).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    names: dict[str, Any] = dict(net.named_parameters())
    assert any(n.startswith("local.") for n in names) == bool(FORMS[form].local)
    assert any(n.startswith("code.") for n in names) == bool(FORMS[form].codes)
    assert any(n.startswith("contrast.") for n in names) == FORMS[form].contrasts


def test_untrained_network_expects_few_targets(inputs: Inputs) -> None:
    logits, _ = build()(*inputs)
    assert logits.sigmoid().mean() < 0.3
