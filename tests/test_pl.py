from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

import causcade as cc
from causcade.pl import _network
from causcade.pl._style import STYLE

GENES = ["A", "B", "C", "D", "E", "F", "G"]
# rows are causes; the own rows, F and G, hold the highest scores and must not be drawn
SCORE = np.array([[0, -3], [2, -5], [-1, 1], [1, -4], [-2, 0], [9, -6], [-7, 9]], dtype=np.float32)
T = np.array([[-2, 1], [np.nan, np.nan], [50, 1], [3, 1], [0, 1], [1, 1], [1, 1]], dtype=np.float32)


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def fake(effects: tuple[str, ...] = ("F", "G"), *, bare: bool = False) -> ad.AnnData:
    out = ad.AnnData(np.ones((3, 7), dtype=np.float32), var=pd.DataFrame(index=GENES))
    k = len(effects)
    out.varm["causes"] = SCORE[:, :k].copy()
    if not bare:
        out.varm["causes_sd"] = np.full((7, k), 0.5, dtype=np.float32)
        out.varm["causes_fdr"] = np.tile(np.array([[0.2], [0.01], [0.05], [0.1], [np.nan], [0], [0]]), k)
        out.varm["causes_knockout_t"] = T[:, :k].copy()
        out.varm["causes_popularity"] = np.arange(7, dtype=np.float32)[:, None]
    out.uns["causes"] = {"names": np.array(effects), "weights": "fake"}
    return out


def points(ax: Axes, label: str) -> np.ndarray:
    """Places of the points of a label, (n, 2)."""
    found = [c.get_offsets() for c in ax.collections if c.get_label() == label]
    return np.asarray(np.concatenate(found)) if found else np.empty((0, 2))


def names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


def overlaps(ax: Axes, texts: list[str]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other as drawn."""
    renderer = ax.figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in ax.texts if t.get_text() in texts]
    return [(a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[:i] if box.overlaps(other)]


def test_causes_draws_the_table_in_order() -> None:
    ax = cc.pl.causes(fake(), "F")
    assert names(ax) == ["B", "D", "A", "C", "E", "G"]
    drawn = np.concatenate([points(ax, "_t"), points(ax, "_no_t")])
    in_order = drawn[np.argsort(drawn[:, 1])]
    assert in_order[:, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert in_order[:, 0].tolist() == [2, 1, 0, -1, -2, -7]
    assert ax.get_ylim() == (5.5, -0.5)  # best on top
    assert ax.get_title() == "Causes of F (top 6 of 6)"
    assert ax.get_xlabel() == "cause score (logit), mean ± sd"
    assert cc.pl.causes(fake(), "F", n_top=2).get_title() == "Causes of F (top 2 of 6)"


def test_causes_draws_spread() -> None:
    ax = cc.pl.causes(fake(), "F", n_top=2)
    (bars,) = [c for c in ax.collections if hasattr(c, "get_segments")]
    np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], [[1.5, 2.5], [0.5, 1.5]])
    adata = fake()
    adata.varm["causes_sd"][:] = np.nan  # one draw has no spread
    ax = cc.pl.causes(adata, "F")
    assert ax.get_xlabel() == "cause score (logit)"
    assert not any(len(c.get_segments()) for c in ax.collections if hasattr(c, "get_segments"))


def test_causes_colours_by_knockout_t() -> None:
    ax = cc.pl.causes(fake(), "F")
    (coloured,) = [c for c in ax.collections if c.get_label() == "_t"]
    assert coloured.get_array().tolist() == [3, -2, 50, 0, 1]
    assert coloured.get_clim() == (-6, 6)  # symmetric, and one huge value does not wash out the rest
    assert points(ax, "_no_t").tolist() == [[2, 0]]  # B was never perturbed alone
    assert "never perturbed alone" in legend(ax)
    (bar,) = [a for a in ax.figure.axes if a is not ax]
    assert bar.get_ylabel() == "knock-out t"
    assert [t.get_text() for t in bar.get_yticklabels()] == ["−6", "−3", "0", "3", "≥ 6"]


def test_causes_opens_markers_that_miss_the_fdr() -> None:
    ax = cc.pl.causes(fake(), "F")
    assert sorted(points(ax, "_open")[:, 1]) == [1, 2, 4]  # D at 0.1, A at 0.2, E without a rate
    assert legend(ax)[:2] == ["FDR < 0.1", "FDR ≥ 0.1"]


def test_causes_writes_ranks_by_the_baselines() -> None:
    ax = cc.pl.causes(fake(), "F")
    rows = {t.xy[1]: [] for t in ax.texts}
    for t in ax.texts:
        rows[t.xy[1]].append(t.get_text())
    headings = [t.get_text() for t in ax.texts if "rank" in t.get_text()]
    assert headings == ["rank by\n|t|", "rank by\npopularity"]
    assert rows[0] == ["–", "5"]  # B: no t; popularity 1 is fifth of six
    assert rows[3] == ["1", "4"]  # C
    assert len(cc.pl.causes(fake(), "F", baselines=False).texts) == 0


def test_causes_with_scores_alone() -> None:
    ax = cc.pl.causes(fake(("F",), bare=True))  # the only gene needs no name
    assert len(points(ax, "_no_t")) == 6 and len(points(ax, "_t")) == 0
    assert ax.get_xlabel() == "cause score (logit)"
    assert legend(ax) == [] and not ax.texts and len(ax.figure.axes) == 1


def test_causes_of_parts() -> None:
    assert names(cc.pl.causes(fake()[:, ["E", "B"]], "F")) == ["B", "E"]
    ax = cc.pl.causes(fake()[:, ["B", "F"]], "F")  # one candidate, without a t
    assert names(ax) == ["B"] and len(ax.figure.axes) == 1
    ax.figure.canvas.draw()


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_causes_on_given_axes(layout: str) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout=layout)
    assert cc.pl.causes(fake(), "F", ax=left, return_fig=True) is figure
    assert cc.pl.causes(fake(), "G", ax=right) is right
    assert names(right)[:2] == ["C", "E"]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    bar = figure.axes[2].get_window_extent(renderer)
    ranks = [t.get_window_extent(renderer) for t in left.texts]
    assert len(ranks) == 14 and not any(bar.overlaps(box) for box in ranks)
    if layout == "constrained":
        assert figure.axes[2].get_tightbbox(renderer).x1 < right.get_tightbbox(renderer).x0


def test_causes_in_a_subfigure() -> None:
    figure = plt.figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subfigures(1, 2)
    assert cc.pl.causes(fake(), "F", ax=left.subplots(), return_fig=True) is figure
    assert cc.pl.cause_network(fake(), ax=right.subplots(), return_fig=True) is figure
    figure.canvas.draw()


def test_causes_errors() -> None:
    with pytest.raises(KeyError, match=r"Run cc.tl.causes first"):
        cc.pl.causes(fake(), "F", key="other")
    with pytest.raises(KeyError, match=r"'X' were not scored"):
        cc.pl.causes(fake(), "X")
    with pytest.raises(ValueError, match=r"2 genes were scored: .*'F', 'G'"):
        cc.pl.causes(fake())
    with pytest.raises(ValueError, match="gene must be one name"):
        cc.pl.causes(fake(), ["F", "G"])
    with pytest.raises(ValueError, match="n_top must be"):
        cc.pl.causes(fake(), "F", n_top=0)
    with pytest.raises(ValueError, match="no candidate causes of 'F'"):
        cc.pl.causes(fake()[:, ["F"]], "F")
    assert plt.get_fignums() == []  # no empty figure is left behind


def arrows(ax: Axes) -> list[FancyArrowPatch]:
    return [p for p in ax.patches if isinstance(p, FancyArrowPatch)]


def test_network_in_layers() -> None:
    ax = cc.pl.cause_network(fake()[:, ["A", "B", "C", "D", "E"]], n_top=3)
    assert len(arrows(ax)) == 6  # B, D, A of F; C, E, A of G
    place = {t.get_text(): t.xy for t in ax.texts}
    assert set(place) == {"A", "B", "C", "D", "E", "F", "G"}
    assert all(place[g][0] == 0 for g in "ABCDE") and place["F"][0] == place["G"][0] == 1
    assert place["F"][1] > place["G"][1]  # in the order asked for
    assert min(place["B"][1], place["D"][1]) > place["A"][1] > max(place["C"][1], place["E"][1])  # no lines cross
    assert len(points(ax, "_cause")) == 5 and len(points(ax, "_effect")) == 2
    assert legend(ax)[:2] == ["cause", "effect"]


def test_network_arrows_point_from_cause_to_effect_and_widen_with_probability() -> None:
    ax = cc.pl.cause_network(fake(("F",))[:, GENES[:5]], n_top=2)
    place = {t.get_text(): t.xy for t in ax.texts}
    strong, weak = arrows(ax)
    np.testing.assert_allclose(strong._posA_posB, [place["B"], place["F"]])
    np.testing.assert_allclose(weak._posA_posB, [place["D"], place["F"]])
    ratio = (1 / (1 + np.exp(-1))) / (1 / (1 + np.exp(-2)))
    assert weak.get_linewidth() / strong.get_linewidth() == pytest.approx(ratio, rel=1e-5)
    assert legend(ax)[2:] == ["probability 0.88", "probability 0.73"]


def test_network_when_a_gene_is_cause_and_effect() -> None:
    adata = fake()
    adata.varm["causes"][6, 0] = 3  # G acts on F
    adata.varm["causes"][5, 1] = 3  # and F on G
    ax = cc.pl.cause_network(adata, n_top=2)
    assert len(points(ax, "_both")) == 2 and len(points(ax, "_cause")) == 2 and len(points(ax, "_effect")) == 0
    assert legend(ax)[:2] == ["cause", "cause and effect"]
    bends = {a.get_connectionstyle().rad for a in arrows(ax)}
    assert bends == {0, 0.18}  # F <-> G lie beside each other
    again = cc.pl.cause_network(adata, n_top=2)
    assert [tuple(t.xy) for t in ax.texts] == [tuple(t.xy) for t in again.texts]


def test_network_names_do_not_cover_each_other() -> None:
    rng = np.random.default_rng(0)
    labels = [f"GENE{i}" for i in range(60)]
    adata = ad.AnnData(np.ones((3, 60), dtype=np.float32), var=pd.DataFrame(index=labels))
    adata.varm["causes"] = rng.normal(size=(60, 8)).astype(np.float32)
    adata.uns["causes"] = {"names": np.array(labels[:8]), "weights": "fake"}
    ax = cc.pl.cause_network(adata, n_top=3)
    ax.figure.canvas.draw()
    assert len(points(ax, "_both")) and len(ax.texts) > 20 and overlaps(ax, labels) == []
    ax = cc.pl.cause_network(adata[:, labels[8:]], n_top=3)  # in layers
    ax.figure.canvas.draw()
    assert overlaps(ax, labels) == []


def test_network_in_parts_that_are_not_connected() -> None:
    adata = fake()[:, ["B", "C", "F", "G"]].copy()
    adata.varm["causes"][:, :] = -9
    adata.varm["causes"][0, 0] = 1  # B on F
    adata.varm["causes"][1, 1] = 1  # C on G
    adata.uns["causes"]["names"] = np.array(["F", "G"])
    places = _network.free_places(_network.nx.DiGraph([("B", "F"), ("F", "B"), ("C", "G")]))
    gap = np.linalg.norm(places["B"] - places["C"])
    assert 0.5 < gap / np.linalg.norm(places["B"] - places["F"]) < 4
    ax = cc.pl.cause_network(adata, n_top=1)
    assert len(arrows(ax)) == 2


def test_network_min_probability() -> None:
    ax = cc.pl.cause_network(fake(), n_top=6, min_probability=0.5)
    assert len(arrows(ax)) == 5  # B, D, A of F; C, E of G
    with pytest.raises(ValueError, match=r"probability of min_probability=0.9 or more; the highest is 0.88"):
        cc.pl.cause_network(fake(), min_probability=0.9)
    with pytest.raises(ValueError, match="within 0 and 1"):
        cc.pl.cause_network(fake(), min_probability=50)


def test_network_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match=r"'f' were not scored.*Close to 'f': 'F'"):
        cc.pl.cause_network(fake(), "f")
    with pytest.raises(ValueError, match="n_top must be"):
        cc.pl.cause_network(fake(), n_top=0)
    with pytest.raises(ValueError, match="nothing to draw"):
        cc.pl.cause_network(fake()[:, ["F"]], "F")
    monkeypatch.setattr(_network, "_MOST", 5)
    with pytest.raises(ValueError, match=r"7 genes are too many to read in one picture \(at most 5\)"):
        cc.pl.cause_network(fake())
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [cc.pl.causes, cc.pl.cause_network])
def test_show_and_return(draw, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert isinstance(draw(fake(), "F"), Axes) and shown == []
    assert isinstance(draw(fake(), "F", return_fig=True), Figure) and shown == []
    assert draw(fake(), "F", show=True) is None and shown == [1]
    monkeypatch.setattr("matplotlib.is_interactive", lambda: True)
    assert draw(fake(), "F") is None and shown == [1, 1]
    assert isinstance(draw(fake(), "F", show=False), Axes) and shown == [1, 1]
    given = plt.figure().add_subplot()
    assert draw(fake(), "F", ax=given) is given and shown == [1, 1]


@pytest.mark.parametrize("draw", [cc.pl.causes, cc.pl.cause_network])
def test_nothing_else_is_touched(draw) -> None:
    adata = fake()
    before, settings = {k: v.copy() for k, v in adata.varm.items()}, plt.rcParams.copy()
    own = plt.figure()
    other = plt.figure().add_subplot()
    plt.figure(own)
    draw(adata, "F", ax=other)
    assert plt.gcf() is own and len(plt.get_fignums()) == 2 and dict(plt.rcParams) == dict(settings)
    assert list(adata.varm) == list(before)
    for part, array in before.items():
        np.testing.assert_array_equal(adata.varm[part], array)


def test_colours_of_roles_differ() -> None:
    colours = [to_rgb(STYLE[role]) for role in ("cause", "effect", "both")]
    assert len(set(colours)) == 3


def test_an_arrow_does_not_run_over_a_third_gene() -> None:
    over, beside = [np.array([0.5, 0.01])], [np.array([0.5, 0.4])]
    assert _network._turn((0.0, 0.0), (1.0, 0.0), over, both=False) > 0
    assert _network._turn((0.0, 0.0), (1.0, 0.0), beside, both=False) == 0
    assert _network._turn((0.0, 0.0), (1.0, 0.0), [np.array([1.5, 0.0])], both=False) == 0  # beyond the end


# --- targets ------------------------------------------------------------------------------------------------------

LOGIT = np.array([3, np.nan, 1, 2, -1, 0, -2], dtype=np.float32)
FOLD = np.array([0.2, 9, -4, np.nan, 0.5, -0.1, 0], dtype=np.float32)


def hits(perturbations: tuple[str, ...] = ("F", "drug"), *, bare: bool = False) -> ad.AnnData:
    """Scores of genes A to G; the drug acts on C and E."""
    out = ad.AnnData(np.ones((6, 7), dtype=np.float32), var=pd.DataFrame(index=GENES))
    out.obs["pert"] = ["ctrl", "ctrl", "F", "F", "drug", "drug"]
    cc.pp.regimes(out, "pert", "ctrl", targets={"drug": ["C", "E"]})
    k = len(perturbations)
    out.varm["targets"] = np.tile(LOGIT[:, None], k)
    out.varm["targets_lfc"] = np.tile(FOLD[:, None], k)
    if not bare:
        out.varm["targets_sd"] = np.full((7, k), 0.5, dtype=np.float32)
        out.varm["targets_fdr"] = np.tile(np.array([[0.01], [0], [0.2], [0.1], [np.nan], [0.5], [0.5]]), k)
        out.varm["targets_wilcoxon"] = np.tile(np.array([[1], [9], [-8], [2], [np.nan], [3], [0]]), k)
        out.varm["targets_fused"] = out.varm["targets"] * -1
    params = {"regimes_key": "regimes", "masked": False}
    out.uns["targets"] = {"names": np.array(perturbations, dtype=object), "model": "fake", "params": params}
    return out


def test_targets_draw_the_table_in_order() -> None:
    ax = cc.pl.targets(hits(), "drug", n_top=5)
    assert names(ax) == ["A", "D", "C", "F", "E"]  # B was no candidate
    assert ax.get_ylim() == (4.5, -0.5)  # best on top
    assert ax.get_title() == "Targets of drug (top 5 of 6)"
    assert ax.get_xlabel() == "target score (logit), mean ± sd"
    drawn = np.concatenate([points(ax, "_t"), points(ax, "_known"), points(ax, "_no_t")])
    assert drawn[np.argsort(drawn[:, 1])].tolist() == [[3, 0], [2, 1], [1, 2], [0, 3], [-1, 4]]
    assert sorted(points(ax, "_open")[:, 1]) == [1, 2, 3, 4]  # at 0.1 and above, and without a rate


def test_targets_mark_what_is_known() -> None:
    ax = cc.pl.targets(hits(), "drug", n_top=3)
    assert points(ax, "_known").tolist() == [[1, 2]]
    (star,) = [c for c in ax.collections if c.get_label() == "_known"]
    (dots,) = [c for c in ax.collections if c.get_label() == "_t"]
    assert len(star.get_paths()[0].vertices) == 11 and star.get_sizes()[0] > dots.get_sizes()[0]
    assert [label.get_fontweight() for label in ax.get_yticklabels()] == ["normal", "normal", "bold"]
    entries = ["FDR < 0.1", "FDR ≥ 0.1", "no fold change", "known target", "known target E: rank 5"]
    assert legend(ax) == entries  # one of the two is too far down to be drawn
    adata = hits(bare=True)
    del adata.uns["regimes"]
    ax = cc.pl.targets(adata[:, ["A", "C"]], "drug")
    assert legend(ax) == [] and len(points(ax, "_t")) == 2


def test_targets_colours_by_fold_change() -> None:
    ax = cc.pl.targets(hits(), "drug")
    assert {c.get_clim() for c in ax.collections if c.get_label() in ("_t", "_known")} == {(-1, 1)}
    assert points(ax, "_no_t").tolist() == [[2, 1]]
    (bar,) = [a for a in ax.figure.axes if a is not ax]
    assert bar.get_ylabel() == "log fold change\n(natural log)"
    assert [t.get_text() for t in bar.get_yticklabels()] == ["≤ −1", "−0.5", "0", "0.5", "1"]
    only_known = cc.pl.targets(hits()[:, ["C"]], "drug")  # the bar needs no other point
    assert len(only_known.figure.axes) == 2


def test_targets_writes_ranks_by_the_baselines() -> None:
    ax = cc.pl.targets(hits(), "drug")
    rows: dict[float, list[str]] = {}
    for t in ax.texts:
        rows.setdefault(t.xy[1], []).append(t.get_text())
    headings = [t.get_text() for t in ax.texts if "rank" in t.get_text()]
    assert headings == ["rank by\n|LFC|", "rank by\nWilcoxon", "fused\nrank"]
    assert rows[0] == ["3", "4", "6"]
    assert rows[2] == ["1", "1", "4"]  # C, by size
    assert rows[4] == ["2", "–", "2"]  # E
    assert len(cc.pl.targets(hits(), "drug", baselines=False).texts) == 0
    assert cc.pl.targets(hits(bare=True), "drug").texts[0].get_text() == "rank by\n|LFC|"


@pytest.mark.parametrize("layout", ["constrained", "none"])
def test_targets_on_given_axes(layout: str) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 5), layout=layout)
    assert cc.pl.targets(hits(), "F", ax=left) is left
    assert cc.pl.targets(hits(), "drug", ax=right, return_fig=True) is figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    bar = figure.axes[2].get_window_extent(renderer)
    texts = [t.get_window_extent(renderer) for t in left.texts]
    assert len(texts) == 21 and not any(bar.overlaps(box) for box in texts)
    assert not any(a.overlaps(b) for i, a in enumerate(texts) for b in texts[:i])
    box = right.get_legend().get_window_extent(renderer)
    places = right.transData.transform(points(right, "_t"))
    assert not any(box.contains(*place) for place in places)


def test_targets_errors() -> None:
    with pytest.raises(KeyError, match=r"Run cc.tl.targets first"):
        cc.pl.targets(hits(), "F", key="other")
    with pytest.raises(KeyError, match=r"'Drug' were not scored.*Close to 'Drug': 'drug'"):
        cc.pl.targets(hits(), "Drug")
    with pytest.raises(ValueError, match=r"2 perturbations were scored: .*'F', 'drug'"):
        cc.pl.targets(hits())
    with pytest.raises(ValueError, match="perturbation must be one name"):
        cc.pl.targets(hits(), ["F", "drug"])
    with pytest.raises(ValueError, match="n_top must be"):
        cc.pl.targets(hits(), "F", n_top=0)
    with pytest.raises(ValueError, match="no candidate targets of 'F'"):
        cc.pl.targets(hits()[:, ["B"]], "F")
    assert plt.get_fignums() == []
    assert cc.pl.targets(hits(("F",))).get_title() == "Targets of F (top 6 of 6)"  # the only one needs no name


def ranks() -> pd.DataFrame:
    """Ranks of four targets among ten candidates, and of one that was none."""
    table = pd.DataFrame({"perturbation": list("abcde"), "target": list("abcde"), "n_candidates": 10, "missing": ""})
    table.loc[4, "missing"] = "no candidate"
    table["trivial"] = [True, False, False, False, False]
    table["score_position"] = [1, 1, 3, 10, np.nan]
    table["lfc_position"] = [1, 5, 5, 5, np.nan]
    table["wilcoxon_position"] = [2, np.nan, 4, 4, np.nan]
    return table


def curve(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (line,) = [line for line in ax.get_lines() if line.get_label().startswith(label)]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def at(ax: Axes, label: str, p: float) -> float:
    x, y = curve(ax, label)
    return float(y[x <= p + 1e-9][-1])


def test_recall_by_hand() -> None:
    ax = cc.pl.recall_curve(ranks())
    assert [at(ax, "model", p) for p in (0.05, 0.1, 0.2, 0.3, 0.9, 1)] == [0, 0.5, 0.5, 0.75, 0.75, 1]
    assert [at(ax, "|log fold", p) for p in (0.1, 0.4, 0.5)] == [0.25, 0.25, 1]
    assert [at(ax, "Wilcoxon", p) for p in (0.1, 0.2, 0.4, 0.9, 1)] == [0, 0.25, 0.75, 0.75, 1]  # unknown is last
    assert [at(ax, "chance", p) for p in (0.1, 1)] == [pytest.approx(0.1), 1]
    assert legend(ax) == ["model (0.72)", "|log fold change| (0.70)", "Wilcoxon (0.60)", "chance (0.55)"]
    assert ax.get_title() == "Known targets found (n = 4)\n1 more were no candidates"
    assert ax.get_xscale() == "log" and "%" in ax.get_xlabel()


def test_recall_mean_rank_is_that_of_the_table() -> None:
    adata = hits(("F", "drug"))
    table = cc.get.target_ranks(adata)
    ax = cc.pl.recall_curve(adata)
    assert legend(ax)[0] == f"fake ({table['score_normalised_rank'].mean():.2f})"
    assert [entry.split(" (")[0] for entry in legend(ax)] == [
        "fake",
        "fused",
        "|log fold change|",
        "Wilcoxon",
        "chance",
    ]


def test_recall_of_subsets() -> None:
    ax = cc.pl.recall_curve(ranks(), subset="non-trivial")
    assert ax.get_title().startswith("Non-trivial targets found (n = 3)")
    assert at(ax, "model", 0.1) == pytest.approx(1 / 3)
    ax = cc.pl.recall_curve(ranks().iloc[:4], subset="trivial")
    assert ax.get_title() == "Trivial targets found (n = 1)"
    assert at(ax, "|log fold", 0.1) == 1


def test_recall_on_given_axes() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    assert cc.pl.recall_curve(ranks(), ax=left) is left
    figure.canvas.draw()
    box = left.get_legend().get_window_extent()
    top = left.transData.transform((1, 1))[1]
    assert box.y0 > top and box.y1 <= left.get_window_extent().y1  # above the curves
    assert cc.pl.recall_curve(ranks(), ax=right, return_fig=True) is figure


def test_recall_errors() -> None:
    with pytest.raises(ValueError, match=r"subset must be one of 'all', 'trivial', 'non-trivial', got 'hard'"):
        cc.pl.recall_curve(ranks(), subset="hard")
    with pytest.raises(ValueError, match=r"lacks n_candidates, trivial, score_position"):
        cc.pl.recall_curve(pd.DataFrame({"target": ["A"]}))
    with pytest.raises(ValueError, match=r"of 1 targets 0 were candidates.*0 of these are trivial"):
        cc.pl.recall_curve(ranks().iloc[4:])
    with pytest.raises(KeyError, match=r"Run cc.tl.targets first"):
        cc.pl.recall_curve(fake())
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", ["targets", "recall_curve"])
def test_targets_show_and_return(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = partial(cc.pl.targets, hits(), "F") if name == "targets" else partial(cc.pl.recall_curve, hits())
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert isinstance(draw(), Axes) and shown == []
    assert isinstance(draw(return_fig=True), Figure) and shown == []
    assert draw(show=True) is None and shown == [1]
    given = plt.figure().add_subplot()
    assert draw(ax=given) is given and shown == [1]


def test_targets_and_recall_write_nothing(fingerprint) -> None:
    adata = hits()
    before = fingerprint(adata)
    cc.pl.targets(adata, "F")
    cc.pl.recall_curve(adata)
    assert fingerprint(adata) == before
    table = ranks()
    cc.pl.recall_curve(table)
    pd.testing.assert_frame_equal(table, ranks())


def test_lines_of_methods_differ_without_colour() -> None:
    ax = cc.pl.recall_curve(hits())
    styles = [line.get_linestyle() for line in ax.get_lines() if not line.get_label().startswith("chance")]
    assert len(set(styles)) == len(styles) == 4
