import numpy as np
import pytest
import torch
from torch import Tensor

from causcade.nn.message_passing import GeneGraph, Layer, MessagePassing, Relation, relations

N_GENES, N_PATHWAYS = 5, 3
GRAPH = GeneGraph(
    N_GENES,
    N_PATHWAYS,
    {
        "GG": np.array([[0, 1, 2], [1, 2, 4]]),
        "PG": np.array([[0, 0, 1, 1], [0, 3, 3, 2]]),
        "PP": np.array([[0], [2]]),
    },
    {"GG": np.array([1.0, 2.0, 0.5])},
)
BATCH = 4


def dense(relation: Relation) -> Tensor:
    """A, with receivers in rows."""
    out = torch.zeros(relation.n_nodes, relation.n_nodes, dtype=torch.float64)
    out[relation.receiver, relation.sender] = relation.weight.double()
    return out


def merged() -> tuple[list[Relation], Tensor]:
    found = relations(GRAPH, "reference")
    return list(found.values()), dense(found["all"])


def values(n: int) -> Tensor:
    return torch.randn(GRAPH.n_nodes, BATCH, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(layer: Layer, x: Tensor, some: list[Relation], shared: Tensor | None = None) -> Tensor:
    """The layer on (n_nodes, batch, width), as formulas are written."""
    first = lambda v: None if v is None else v.movedim(-1, 0)
    return layer(first(x), some, first(shared)).movedim(0, -1)


def test_messages_go_both_ways_along_every_edge() -> None:
    some = relations(GRAPH, "reference")
    assert list(some) == ["all"]
    assert torch.equal(dense(some["all"]), dense(some["all"]).T) and (dense(some["all"]) > 0).sum() == 16
    typed = relations(GRAPH, "typed")
    assert set(typed) == {"GG", "PG", "GP", "PP", "QP"}
    assert torch.equal(dense(typed["PG"]), dense(typed["GP"]).T) and dense(typed["PG"])[3, 5] == 1
    assert torch.equal(sum(map(dense, typed.values())), dense(some["all"]))
    assert set(relations(GeneGraph(5, 0, {"GG": np.array([[0], [1]]), "PG": np.zeros((2, 0), int)}), "typed")) == {"GG"}


@pytest.mark.parametrize(("n_in", "n_out"), [(2, 3), (3, 2)])
def test_sage_is_its_formula(n_in: int, n_out: int) -> None:
    some, a = merged()
    layer, x = Layer("sage", n_in, n_out, 1).double(), values(n_in)
    mean = a / a.sum(1, keepdim=True).clamp(min=1e-9)
    want = torch.einsum("vu,ubi->vbi", mean, x) @ layer.weight[0].T + x @ layer.root.T + layer.bias
    assert torch.allclose(run(layer, x, some), want)


@pytest.mark.parametrize(("n_in", "n_out"), [(2, 3), (3, 2)])
def test_gcn_is_its_formula(n_in: int, n_out: int) -> None:
    some, a = merged()
    a = a + torch.eye(len(a), dtype=a.dtype)
    norm = a / (a.sum(1)[:, None] * a.sum(1)[None]).sqrt()
    layer, x = Layer("gcn", n_in, n_out, 1).double(), values(n_in)
    assert torch.allclose(run(layer, x, some), torch.einsum("vu,ubi->vbi", norm, x) @ layer.weight[0].T + layer.bias)


@pytest.mark.parametrize("mean", [True, False])
def test_gat_is_its_formula(mean: bool) -> None:
    some, a = merged()
    layer, x = Layer("gat", 2, 3, 1, heads=2, mean=mean).double(), values(2)
    log_a = (a + torch.eye(len(a), dtype=a.dtype)).log()
    heads = []
    for h in range(2):
        sent = x @ layer.weight[0].T[:, 3 * h : 3 * h + 3]
        score = (sent @ layer.score_to[0, h])[:, None] + (sent @ layer.score_of[0, h])[None]
        attention = (torch.nn.functional.leaky_relu(score, 0.2) + log_a[..., None]).softmax(1)
        heads.append(torch.einsum("vub,ubi->vbi", attention, sent))
    want = torch.stack(heads).mean(0) if mean else torch.cat(heads, -1)
    assert torch.allclose(run(layer, x, some), want + layer.bias)


def test_relations_add_up() -> None:
    some = list(relations(GRAPH, "typed").values())
    layer, x = Layer("sage", 2, 3, len(some)).double(), values(2)
    want = x @ layer.root.T + layer.bias
    for r, relation in enumerate(some):
        a = dense(relation)
        want = want + torch.einsum("vu,ubi->vbi", a / a.sum(1, keepdim=True).clamp(min=1e-9), x) @ layer.weight[r].T
    assert torch.allclose(run(layer, x, some), want)


@pytest.mark.parametrize("name", ["sage", "gcn", "gat"])
def test_shared_values_are_values_of_every_cell(name: str) -> None:
    some, _ = merged()
    layer, x, shared = Layer(name, 5, 2, 1).double(), values(2), values(3)[:, :1]
    whole = torch.cat([x, shared.expand(-1, BATCH, -1)], -1)
    assert torch.allclose(run(layer, x, some, shared), run(layer, whole, some))


@pytest.mark.parametrize("name", ["sage", "gcn", "gat"])
@pytest.mark.parametrize("form", ["reference", "typed"])
def test_gradients_are_right(name: str, form: str) -> None:
    some = list(relations(GRAPH, form).values())
    layer = Layer(name, 2, 3, len(some), heads=2).double()
    assert torch.autograd.gradcheck(lambda x: run(layer, x, some), values(2).requires_grad_(True), fast_mode=True)


@pytest.mark.parametrize("name", ["sage", "gcn", "gat"])
@pytest.mark.parametrize(("form", "n_layers"), [("reference", 1), ("reference", 3), ("typed", 2)])
def test_order_of_genes_does_not_matter(name: str, form: str, n_layers: int) -> None:
    torch.manual_seed(0)
    net = MessagePassing(GRAPH, layer=name, n_layers=n_layers, form=form, width=3, heads=2).double()
    order = torch.tensor([3, 0, 4, 2, 1])
    place = order.argsort().numpy()
    edges = {k: np.array(e) for k, e in GRAPH.edges.items()}
    edges["GG"], edges["PG"][1] = place[edges["GG"]], place[edges["PG"][1]]
    moved = MessagePassing(
        GeneGraph(N_GENES, N_PATHWAYS, edges, GRAPH.weights), layer=name, n_layers=n_layers, form=form, width=3, heads=2
    ).double()
    moved.load_state_dict(net.state_dict())
    x, noise = torch.randn(BATCH, N_GENES, dtype=torch.float64), torch.randn(N_PATHWAYS)
    assert torch.allclose(moved(x[:, order], noise), net(x, noise)[:, order])


def test_reference_has_three_numbers_and_pathways_are_only_noise() -> None:
    net = MessagePassing(GRAPH)
    assert sum(p.numel() for p in net.parameters()) == 3
    x = torch.rand(BATCH, N_GENES)
    assert not torch.equal(net(x, torch.ones(N_PATHWAYS)), net(x))
    # gene 3 has no gene neighbour: in one layer nothing of other genes reaches it
    other = x.clone()
    other[:, [0, 1, 2, 4]] += 1
    assert torch.equal(net(other)[:, 3], net(x)[:, 3])


@pytest.mark.parametrize(
    "edges", [{k: GRAPH.edges[k] for k in kinds} for kinds in (GRAPH.edges, ("GG", "PP"), ("PG",), ("PP",), ())]
)
@pytest.mark.parametrize(("form", "n_layers"), [("reference", 1), ("reference", 3), ("typed", 1), ("typed", 2)])
def test_genes_and_pathways_apart_give_the_same(form: str, n_layers: int, edges: dict[str, np.ndarray]) -> None:
    torch.manual_seed(0)
    graph = GeneGraph(N_GENES, N_PATHWAYS, edges, None if "GG" not in edges else GRAPH.weights)
    net = MessagePassing(graph, form=form, n_layers=n_layers, width=3).double()
    x = torch.randn(BATCH, N_GENES, dtype=torch.float64)
    for noise in (None, torch.randn(N_PATHWAYS)):
        found = []
        for by_blocks in (True, False):
            net._by_blocks = by_blocks
            y = net(x, noise)
            found.append([y, *torch.autograd.grad((y**2).sum(), list(net.parameters()), materialize_grads=True)])
        assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


def test_typed_pathways_pass_on_what_their_genes_do() -> None:
    torch.manual_seed(1)
    net = MessagePassing(GRAPH, form="typed", n_layers=2, width=8)
    x = torch.rand(BATCH, N_GENES)
    other = x.clone()
    other[:, 0] += 1  # shares a pathway with gene 3
    assert not torch.allclose(net(other)[:, 3], net(x)[:, 3])
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}  # the graph is not in the weights


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="layer must be"):
        MessagePassing(GRAPH, layer="gin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_layers from 1 to 3"):
        MessagePassing(GRAPH, n_layers=4)
