from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy.sparse import csr_matrix

import causcade as cc
from causcade.metrics import to_dag
from causcade.pl import _graph
from causcade.pl._boxes import PERTURBED, short

GENES = ["A", "B", "C", "D", "E", "F"]
#: A -> B -> C and A -> C; C -> A closes a cycle; D -> E is weak; F is alone
EDGES = {("A", "B"): 0.92, ("B", "C"): 0.95, ("A", "C"): 0.7, ("C", "A"): 0.6, ("D", "E"): 0.3}


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def fake(
    edges: dict[tuple[str, str], float] = EDGES, genes: list[str] = GENES, *, threshold: float = 0.5, dag: bool = True
) -> ad.AnnData:
    """What cc.tl.graph writes; other genes lie between those of the graph."""
    names = ["other", *genes[::-1], "last"]
    out = ad.AnnData(np.ones((3, len(names)), dtype=np.float32), var=pd.DataFrame(index=names))
    probability = pd.DataFrame(0.0, index=names, columns=names)
    for (cause, effect), p in edges.items():
        probability.loc[cause, effect] = p
    values = probability.to_numpy(np.float32)
    out.varp["graph"] = csr_matrix(values)
    if dag:
        out.varp["graph_dag"] = csr_matrix(np.where(to_dag(values, threshold), values, 0))
    out.uns["graph"] = {
        "names": np.array(genes, dtype=object),
        "threshold": threshold,
        "perturbed": np.array(["A", "E"], dtype=object),
    }
    return out


def many(n: int, n_edges: int, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    genes = [f"GENE{k}" for k in range(n)]
    pairs = rng.permutation(np.argwhere(~np.eye(n, dtype=bool)))[:n_edges]
    return fake({(genes[i], genes[j]): rng.uniform(0.5, 1) for i, j in pairs}, genes)


def boxes(ax: Axes) -> dict[str, FancyBboxPatch]:
    return {p.get_label()[1:]: p for p in ax.patches if isinstance(p, FancyBboxPatch)}


def arrows(ax: Axes, names: list[str] = GENES) -> dict[tuple[str, str], FancyArrowPatch]:
    found = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    pairs = [tuple(names[int(k)] for k in p.get_gid().split(">")) for p in found]
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, found, strict=True))


def middle(box: FancyBboxPatch) -> np.ndarray:
    return np.array([box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2])


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def test_network_draws_the_acyclic_graph() -> None:
    ax = cc.pl.graph(fake())
    assert set(arrows(ax)) == {("A", "B"), ("B", "C"), ("A", "C")}
    assert set(boxes(ax)) == set(GENES)
    assert [t.get_text() for t in ax.texts] == ["A", "B", "C", "D", "E", "F", "3 genes without an edge:"]
    title = ["Causal graph of 6 genes", "4 edges (probability ≥ 0.60), expected false: 0.8"]
    assert ax.get_title().split("\n") == [*title, "not drawn: 1 that would close a cycle"]
    assert legend(ax) == ["perturbed"]
    (bar,) = [a for a in ax.figure.axes if a is not ax]
    assert bar.get_ylabel() == "edge probability" and bar.get_ylim() == pytest.approx((0.7, 1))


def test_arrows_start_and_end_at_their_boxes() -> None:
    ax = cc.pl.graph(fake(), dag=False)
    assert set(arrows(ax)) == set(EDGES) - {("D", "E")}
    box = boxes(ax)
    for (cause, effect), arrow in arrows(ax).items():
        way = arrow._path_original.vertices
        for gene, end in ((cause, way[0]), (effect, way[-1])):
            reach = np.abs(end - middle(box[gene])) / (box[gene].get_width(), box[gene].get_height())
            assert reach.max() == pytest.approx(0.5), (cause, effect)


def test_cycles_are_dashed_and_do_not_cover_the_way_back() -> None:
    ax = cc.pl.graph(fake(), dag=False)
    dashed = {pair for pair, arrow in arrows(ax).items() if arrow.get_linestyle() not in ("-", "solid")}
    assert dashed == {("C", "A")}
    assert legend(ax) == ["perturbed", "closes a cycle"]
    assert len(ax.get_title().split("\n")) == 2
    there, back = (arrows(ax)[pair]._path_original.vertices for pair in (("A", "C"), ("C", "A")))
    gap = np.abs(there[:, None] - back[::-1]).max(axis=-1).diagonal()
    assert gap.min() > 2


def test_width_and_colour_show_the_probability() -> None:
    drawn = arrows(cc.pl.graph(fake()))
    ranked = [drawn[pair] for pair in (("B", "C"), ("A", "B"), ("A", "C"))]
    widths = [arrow.get_linewidth() for arrow in ranked]
    light = [np.mean(arrow.get_edgecolor()[:3]) for arrow in ranked]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3
    assert light == sorted(light) and len(set(light)) == 3


def test_perturbed_genes_are_framed() -> None:
    box = boxes(cc.pl.graph(fake()))
    assert {g for g in GENES if to_hex(box[g].get_edgecolor()) == PERTURBED.lower()} == {"A", "E"}
    assert box["A"].get_linewidth() > box["B"].get_linewidth()
    adata = fake()
    adata.uns["graph"]["perturbed"] = np.array([], dtype=object)
    assert legend(cc.pl.graph(adata)) == []


def test_threshold_and_number_of_edges() -> None:
    ax = cc.pl.graph(fake(), threshold=0.2)
    assert set(arrows(ax)) == {("A", "B"), ("B", "C"), ("A", "C"), ("D", "E")}
    assert "5 edges (probability ≥ 0.30), expected false: 1.5" in ax.get_title()
    assert set(arrows(cc.pl.graph(fake(), threshold=0.92))) == {("A", "B"), ("B", "C")}  # the limit is called
    ax = cc.pl.graph(fake(), n_edges=1)
    assert set(arrows(ax)) == {("B", "C")}
    assert ax.get_title().endswith("not drawn: 1 that would close a cycle and 2 less probable")
    assert set(arrows(cc.pl.graph(fake(dag=False)))) == {("A", "B"), ("B", "C"), ("A", "C")}  # none was stored


def test_genes_without_an_edge() -> None:
    ax = cc.pl.graph(fake(), isolated=False)
    assert set(boxes(ax)) == {"A", "B", "C"} and len(ax.texts) == 3
    box = boxes(cc.pl.graph(fake()))
    assert max(middle(box[g])[1] for g in "DEF") < min(middle(box[g])[1] for g in "ABC")


@pytest.mark.parametrize("kind", ["network", "matrix"])
def test_no_edge(kind: str) -> None:
    ax = cc.pl.graph(fake(threshold=np.inf), kind=kind)
    assert ax.get_title().split("\n")[1] == "no edge called: the highest probability is 0.95"
    assert arrows(ax) == {} and (kind == "matrix" or len(boxes(ax)) == 6)
    ax.figure.canvas.draw()


def test_genes_that_left_are_left_out() -> None:
    ax = cc.pl.graph(fake()[:, ["C", "A", "last"]], dag=False)
    assert set(boxes(ax)) == {"A", "C"}
    assert set(arrows(ax, ["A", "C"])) == {("A", "C"), ("C", "A")}


@pytest.mark.parametrize(("n", "n_edges"), [(20, 25), (40, 50)])
def test_boxes_hold_their_names_and_do_not_cover_each_other(n: int, n_edges: int) -> None:
    ax = cc.pl.graph(many(n, n_edges), dag=False)
    assert len(arrows(ax, [f"GENE{k}" for k in range(n)])) == n_edges
    ax.figure.canvas.draw()
    renderer = ax.figure.canvas.get_renderer()
    extents = {name: box.get_window_extent(renderer) for name, box in boxes(ax).items()}
    listed = list(extents.values())
    assert len(listed) == n and not any(a.overlaps(b) for i, a in enumerate(listed) for b in listed[:i])
    for text in ax.texts:
        if text.get_text() in extents:
            inner, outer = text.get_window_extent(renderer), extents[text.get_text()]
            assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1
    heads = [t for t in ax.texts if t.get_text() not in extents]
    assert ax.title.get_window_extent(renderer).x0 >= 0 and len(heads) <= 1


def test_names_shrink_on_small_axes() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(6, 3), layout="constrained")
    assert cc.pl.graph(many(20, 25), ax=left) is left
    assert cc.pl.graph(fake(), ax=right, return_fig=True) is figure
    assert left.texts[0].get_fontsize() < right.texts[0].get_fontsize() <= 9


def test_long_names_lose_their_middle_unless_they_would_be_alike() -> None:
    long = ["ENSG00000141510_TP53_isoform", "ENSG00000136997_MYC_variant_3", "KLF1"]
    assert short(long) == ["ENSG000001…isoform", "ENSG000001…riant_3", "KLF1"]
    alike = ["ENSG00000141510_isoform", "ENSG00000136997_isoform"]
    assert short(alike) == alike
    names = ["$A$_x", "B_{2}", "C"]  # no mathematics
    ax = cc.pl.graph(fake({("$A$_x", "B_{2}"): 0.9}, names))
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.texts[:3]] == names


def test_matrix() -> None:
    ax = cc.pl.graph(fake(), kind="matrix")
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == [label.get_text() for label in ax.get_xticklabels()] == GENES
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("cause", "effect")
    values = ax.images[0].get_array()
    assert values.mask.tolist() == np.eye(6, dtype=bool).tolist()
    assert values[0, 1] == np.float32(0.92) and values[2, 0] == np.float32(0.6) and values[3, 4] == np.float32(0.3)
    assert ax.images[0].get_clim() == (0, 1)
    marks = {c.get_label(): c.get_offsets().tolist() for c in ax.collections}  # x the effect, y the cause
    assert sorted(marks["_called"]) == [[1, 0], [2, 0], [2, 1]] and marks["_cycle"] == [[0, 2]]
    assert legend(ax) == ["called", "closes a cycle", "perturbed"]
    coloured = [g for g, label in zip(rows, ax.get_yticklabels(), strict=True) if label.get_color() == PERTURBED]
    assert coloured == ["A", "E"]
    assert ax.get_title().split("\n")[1] == "4 edges (probability ≥ 0.60), expected false: 0.8"


def test_matrix_puts_causes_first() -> None:
    ax = cc.pl.graph(fake({("F", "B"): 0.9, ("B", "A"): 0.8}), kind="matrix")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["F", "B", "A", "C", "D", "E"]
    ax = cc.pl.graph(fake({("F", "B"): 0.9, ("B", "A"): 0.8}), kind="matrix", isolated=False)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["F", "B", "A"]


def test_matrix_leaves_out_names_that_cannot_be_read() -> None:
    ax = plt.figure(figsize=(2, 2)).add_subplot()
    cc.pl.graph(many(60, 40), kind="matrix", ax=ax)
    assert ax.get_xlabel() == "effect (60 genes)" and len(ax.get_xticks()) == 0


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match=r"There are graphs under 'graph': pass key=\. Run cc.tl.graph first"):
        cc.pl.graph(fake(), "other")
    with pytest.raises(ValueError, match="kind must be 'network' or 'matrix', got 'heatmap'"):
        cc.pl.graph(fake(), kind="heatmap")
    with pytest.raises(ValueError, match="threshold must be within 0 and 1, got '50'"):
        cc.pl.graph(fake(), threshold="50")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold must be within 0 and 1, got 50"):
        cc.pl.graph(fake(), threshold=50)
    with pytest.raises(ValueError, match="n_edges must be"):
        cc.pl.graph(fake(), n_edges=0)
    with pytest.raises(ValueError, match=r"Only 1 of the genes under key='graph' are left"):
        cc.pl.graph(fake()[:, ["A", "other"]])
    monkeypatch.setattr(_graph, "_MOST", {"edges": 2, "genes": 200})
    with pytest.raises(ValueError, match=r"3 edges are too many to read as a network \(at most 2\): raise threshold="):
        cc.pl.graph(fake())
    monkeypatch.setattr(_graph, "_MOST", {"edges": 9, "genes": 5})
    with pytest.raises(ValueError, match=r"6 genes are too many .*isolated=False"):
        cc.pl.graph(fake())
    assert len(boxes(cc.pl.graph(fake(), isolated=False))) == 3
    plt.close("all")
    with pytest.raises(ValueError, match="n_edges"):
        cc.pl.graph(fake(), n_edges=-1)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("kind", ["network", "matrix"])
def test_show_and_return_and_nothing_else_is_touched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    adata, settings = fake(), plt.rcParams.copy()
    before = {key: adata.varp[key].copy() for key in adata.varp}
    assert isinstance(cc.pl.graph(adata, kind=kind), Axes) and shown == []
    assert isinstance(cc.pl.graph(adata, kind=kind, return_fig=True), Figure) and shown == []
    assert cc.pl.graph(adata, kind=kind, show=True) is None and shown == [1]
    assert dict(plt.rcParams) == dict(settings)
    assert list(adata.varp) == list(before) and set(adata.uns["graph"]) == {"names", "threshold", "perturbed"}
    for key, matrix in before.items():
        assert (adata.varp[key] != matrix).nnz == 0


def test_same_result_same_picture() -> None:
    one, two = (boxes(cc.pl.graph(many(20, 25))) for _ in range(2))
    assert [middle(b).tolist() for b in one.values()] == [middle(b).tolist() for b in two.values()]
