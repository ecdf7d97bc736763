from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy.sparse import csr_array, csr_matrix

import causcade as cc
from causcade.metrics import graph_report
from causcade.pl._calibration import _wilson

N = 30


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a graph drawn from its probabilities, and these; the diagonals would spoil any score."""
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.3, 1.2, (N, N))
    truth = (rng.random((N, N)) < probability).astype(int)
    np.fill_diagonal(truth, 1)
    np.fill_diagonal(probability, 0)
    return truth, probability


def curve(ax: Axes, k: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share, and limits of the interval (n, 2) of a method."""
    bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)][k]
    limits = np.array([segment[:, 1] for segment in bars[2][0].get_segments()])
    return *bars[0].get_data(), limits


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_points_lie_on_the_diagonal_when_calibrated() -> None:
    graphs = [drawn(seed) for seed in range(4)]
    ax = cc.pl.calibration([t for t, _ in graphs], [p for _, p in graphs])
    mean, share, limits = curve(ax)
    assert len(mean) == 11 and np.abs(mean - share).max() < 0.1
    assert ((limits[:, 0] <= share) & (share <= limits[:, 1])).all() and (mean[1:] > mean[:-1]).all()
    assert ((limits[:, 0] <= mean) & (mean <= limits[:, 1])).mean() > 0.7
    diagonal = ax.lines[0].get_xydata().tolist()
    assert diagonal == [[0, 0], [1, 1]]
    assert ax.get_xlabel() == "edge probability" and "4 graphs" in ax.get_title()


def test_equal_parts() -> None:
    truth = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0]])
    stated = np.array([[1, 0.8, 0.1], [0.9, 1, 0.8], [0.15, 0.0, 1]])
    ax = cc.pl.calibration(truth, stated, n_bins=2, adaptive=False)
    mean, share, _ = curve(ax)
    np.testing.assert_allclose(mean, [0.25 / 3, 2.5 / 3])
    np.testing.assert_allclose(share, [0, 1])
    assert ax.get_title() == "Calibration (3 edges among 6 pairs)"


def test_legend_gives_the_scores_of_the_report() -> None:
    truth, stated = drawn()
    report = graph_report(truth, stated)
    (text,) = legend(cc.pl.calibration(truth, {"AVICI": stated}))
    assert text == f"AVICI (ECE {report['ece_adaptive']:.3f}, skill {report['brier_skill']:.2f})"
    (text,) = legend(cc.pl.calibration(truth, {"AVICI": stated}, adaptive=False))
    assert text == f"AVICI (ECE {report['ece']:.3f}, skill {report['brier_skill']:.2f})"


def test_scores_that_do_not_exist() -> None:
    truth, _ = drawn()
    ax = cc.pl.calibration(np.zeros((N, N)), {"none": np.full((N, N), 0.01)})
    assert legend(ax) == ["none (ECE –, skill –)"]
    assert "skill −" in legend(cc.pl.calibration(truth, {"wrong": 1.0 - truth}))[0]


def test_several_methods() -> None:
    truth, stated = drawn()
    ax = cc.pl.calibration(truth, {"good": stated, "too high": stated**0.3})
    assert [text.split(" (")[0] for text in legend(ax)] == ["good", "too high"]
    mean, share, _ = curve(ax, 1)
    assert (share < mean)[1:].all()
    looks = [(c[0].get_color(), c[0].get_marker()) for c in ax.containers]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 2


def test_strip_counts_pairs() -> None:
    truth, stated = drawn()
    ax = cc.pl.calibration(truth, stated)
    (strip,) = ax.child_axes
    (steps,) = strip.patches
    expected = np.histogram(stated[~np.eye(N, dtype=bool)], np.linspace(0, 1, 21))[0]
    assert steps.get_data().values.tolist() == np.maximum(expected, 0.5).tolist()
    assert strip.get_yscale() == "log" and strip.get_ylabel() == "pairs"
    assert strip.get_xlim() == ax.get_xlim()
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    one, other = strip.get_window_extent(renderer), ax.get_window_extent(renderer)
    assert one.x0 == pytest.approx(other.x0) and one.x1 == pytest.approx(other.x1) and one.y0 == pytest.approx(other.y0)


def test_equal_probabilities_stay_together() -> None:
    truth, _ = drawn()
    off = ~np.eye(N, dtype=bool)
    mean, share, _ = curve(cc.pl.calibration(truth, np.full((N, N), 0.3)))
    np.testing.assert_allclose([mean, share], [[0.3], [truth[off].mean()]])


def test_wilson_interval() -> None:
    low, high = _wilson(np.array([0, 5, 10]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1], atol=1e-4)


def test_nested_lists_and_graphs_of_many_sizes() -> None:
    ax = cc.pl.calibration([[0, 1], [0, 0]], [[0, 0.9], [0.2, 0]])
    assert ax.get_title() == "Calibration (1 edge among 2 pairs)"
    truths = [np.eye(3, k=1), np.eye(4, k=1)]
    assert "5 edges among 18 pairs, 2 graphs" in cc.pl.calibration(truths, [t * 0.9 for t in truths]).get_title()


def test_sparse_graphs() -> None:
    truth, probability = drawn()
    dense = curve(cc.pl.calibration(truth, probability))
    for one in (csr_matrix, csr_array):
        for found in (
            curve(cc.pl.calibration(one(truth), one(probability))),
            curve(cc.pl.calibration([one(truth)], [one(probability)])),
        ):
            for a, b in zip(dense, found, strict=True):
                np.testing.assert_array_equal(a, b)


def test_errors() -> None:
    truth, stated = drawn()
    broken = stated.copy()
    broken[0, 1] = np.nan
    cases = [
        (truth, {"AVICI": stated[:5, :5]}, r"probabilities\['AVICI'\]: graph 0 has shape \(5, 5\).*\(30, 30\)"),
        (truth, [stated, stated], "holds 2 graphs, but truth 1"),
        (truth, stated * 4 - 2, "not 0 and 1; are these logits"),
        (truth, broken, "holds 1 NaN"),
        (truth, {}, "of 1 to 7 methods, got 0"),
        (truth, dict.fromkeys("abcdefgh", stated), "of 1 to 7 methods, got 8"),
        (stated, stated, "truth must hold 0 and 1 only"),
        (truth[:, :4], stated, r"truth: graph 0 has shape \(30, 4\)"),
        ([], [], "truth holds no graph"),
        ("graph", stated, "truth must be an array"),
    ]
    for true, given, message in cases:
        with pytest.raises(ValueError, match=message):
            cc.pl.calibration(true, given)
    with pytest.raises(ValueError, match="n_bins must be"):
        cc.pl.calibration(truth, stated, n_bins=0)
    assert plt.get_fignums() == []


def test_show_and_return(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    truth, stated = drawn()
    kept = stated.copy()
    given = plt.figure().add_subplot()
    assert cc.pl.calibration(truth, stated, ax=given) is given and shown == []
    assert isinstance(cc.pl.calibration(truth, stated, return_fig=True), Figure)
    assert cc.pl.calibration(truth, stated, show=True) is None and shown == [1]
    np.testing.assert_array_equal(stated, kept)
