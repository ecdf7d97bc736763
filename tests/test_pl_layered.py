from __future__ import annotations

import numpy as np
import pytest

from causcade.pl._layered import layered, layers_of, topological_order

DIAMOND = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]


def boxes(n: int) -> np.ndarray:
    return np.tile([40.0, 16.0], (n, 1))


def random_dag(n: int, n_edges: int, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(np.triu(np.ones((n, n)), 1))
    return [(int(i), int(j)) for i, j in rng.permutation(pairs)[:n_edges]]


def along(points: np.ndarray, *, upright: bool) -> np.ndarray:
    """How far points lie along the arrows."""
    return -points[..., 1] if upright else points[..., 0]


def test_layers_and_order() -> None:
    assert layers_of(DIAMOND, [0, 1, 2, 3]) == {0: 0, 1: 1, 2: 1, 3: 2}
    late_source = layers_of([(0, 1), (1, 2), (3, 2)], [0, 1, 2, 3])
    assert late_source[3] == 1  # right above its effect, not on top
    assert topological_order([(3, 0), (0, 2)], [0, 1, 2, 3]) == [1, 3, 0, 2]
    with pytest.raises(ValueError, match="have a cycle"):
        layers_of([(0, 1), (1, 0)], [0, 1])


@pytest.mark.parametrize(("n", "n_edges"), [(4, 5), (12, 20), (25, 90)])
def test_arrows_run_one_way_and_boxes_lie_apart(n: int, n_edges: int) -> None:
    edges = random_dag(n, n_edges, seed=n)
    layout = layered(boxes(n), edges)
    assert set(layout.centres) == {node for edge in edges for node in edge}
    for (i, j), route in zip(edges, layout.routes, strict=True):
        steps = np.diff(along(route, upright=layout.upright))
        assert (steps > 0).all() and len(route) % 2 == 0
        for node, end in ((i, route[0]), (j, route[-1])):  # on the border of the box
            away = np.abs(end - layout.centres[node]) / layout.sizes[node]
            assert away.max() == pytest.approx(0.5) and away.min() <= 0.36
    nodes = list(layout.centres)
    at, size = np.array([layout.centres[k] for k in nodes]), layout.sizes[nodes]
    apart = np.abs(at[:, None] - at) - (size[:, None] + size) / 2
    assert (apart.max(axis=2)[~np.eye(len(nodes), dtype=bool)] > 4).all()
    assert ((at - size / 2) >= -1e-6).all() and ((at + size / 2) <= np.array(layout.size) + 1e-6).all()


def test_long_arrows_pass_beside_boxes() -> None:
    edges = random_dag(25, 90, seed=25)
    layout = layered(boxes(25), edges)
    for (i, j), route in zip(edges, layout.routes, strict=True):
        runs = np.concatenate([np.linspace(a, b, 20) for a, b in zip(route[::2], route[1::2], strict=True)])  # straight
        for node, centre in layout.centres.items():
            inside = (np.abs(runs - centre) < layout.sizes[node] / 2 - 0.1).all(axis=1)
            assert node in (i, j) or not inside.any()


def test_order_avoids_crossings() -> None:
    layout = layered(boxes(6), [(0, 5), (1, 4), (2, 3), (0, 4), (1, 3)])
    side = 0 if layout.upright else 1
    cause = np.argsort([layout.centres[k][side] for k in (0, 1, 2)])
    effect = np.argsort([layout.centres[k][side] for k in (5, 4, 3)])
    assert cause.tolist() == effect.tolist()


def test_parts_lie_apart_and_an_edge_may_occur_twice() -> None:
    layout = layered(boxes(4), [(0, 1), (2, 3), (0, 1)])
    assert len(layout.routes) == 3 and not np.allclose(layout.routes[0], layout.routes[2])
    assert np.abs(layout.centres[0] - layout.centres[2]).max() > 40
    again = layered(boxes(4), [(0, 1), (2, 3), (0, 1)])
    np.testing.assert_array_equal(layout.routes[1], again.routes[1])


def test_boxes_with_many_arrows_grow() -> None:
    layout = layered(boxes(20), [(k, 19) for k in range(19)])
    side = 0 if layout.upright else 1
    assert layout.sizes[19, side] > 60 and layout.sizes[0, 1] == 16
    ends = np.sort([route[-1][side] for route in layout.routes])
    assert np.diff(ends).min() > 2.5


def test_nothing_to_lay_out() -> None:
    layout = layered(boxes(3), [])
    assert layout.centres == {} and layout.routes == [] and layout.size == (0.0, 0.0)
