from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from causcade import pl
from causcade.pl._style import STYLE

NAMES = [f"P{k}" for k in range(5)]
WEIGHTS = {("P0", "P1"): 0.5, ("P0", "P2"): -1.2, ("P1", "P2"): 0.03, ("P0", "P3"): 2.0}


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def texts(ax: Axes) -> list[str]:
    found = ax.get_legend()
    return [t.get_text() for t in found.get_texts()] if found else []


def fake() -> ad.AnnData:
    """What cc.tl.embed writes; nothing acts on P3, and P4 has no arrow."""
    graph = pd.DataFrame(0.0, index=NAMES, columns=NAMES)
    for (cause, effect), weight in WEIGHTS.items():
        graph.loc[cause, effect] = weight
    rows = [("P0", "perturbation", "KLF1", 1.5), ("P0", "perturbation", "SET", -0.5), ("P0", "gene", "HBG1", 0.9)]
    rows += [("P0", "gene", "LYZ", -0.4), ("P0", "pathway", "Haem", 0.2)]
    for name in ("P1", "P2", "P4"):
        rows += [(name, "perturbation", f"X{name}", -1.0), (name, "gene", "G1", 0.3)]
    out = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    table = pd.DataFrame(rows, columns=["program", "kind", "name", "score"], index=[str(i) for i in range(len(rows))])
    out.uns["gracevae"] = {
        "names": np.array(NAMES, dtype=object), "graph": graph.to_numpy(np.float32), "programs": table.assign(fdr=np.nan),
    }  # fmt: skip
    return out


def arrows(ax: Axes) -> dict[str, FancyArrowPatch]:
    return {p.get_gid(): p for p in ax.patches if isinstance(p, FancyArrowPatch)}


def boxes(ax: Axes) -> dict[str, FancyBboxPatch]:
    return {p.get_label()[1:]: p for p in ax.patches if isinstance(p, FancyBboxPatch)}


def test_draws_programs_that_are_hit_and_their_effects() -> None:
    ax = pl.latent_graph(fake())
    assert set(boxes(ax)) == {"P0", "P1", "P2", "P4"}
    assert set(arrows(ax)) == {"P0>P1", "P0>P2", "P1>P2"}
    said = [t.get_text() for t in ax.texts]
    assert "P0: KLF1↑ SET↓" in said and "HBG1↑ LYZ↓" in said and "P4: XP4↓" in said
    assert {"0.5", "−1.2", "0.03"} <= set(said) and "1 program without an arrow:" in said
    assert ax.get_title() == "4 of 5 programs are acted on by perturbations"
    assert texts(ax) == ["raises", "lowers"]


def test_sign_and_size_are_seen() -> None:
    drawn = arrows(pl.latent_graph(fake()))
    assert to_hex(drawn["P0>P1"].get_edgecolor()) == STYLE["up"].lower()
    assert to_hex(drawn["P0>P2"].get_edgecolor()) == STYLE["down"].lower()
    assert drawn["P0>P1"].get_linestyle() == "-" != drawn["P0>P2"].get_linestyle()
    widths = [drawn[pair].get_linewidth() for pair in ("P0>P2", "P0>P1", "P1>P2")]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3


def test_arrows_run_from_box_to_box_and_boxes_do_not_meet() -> None:
    ax = pl.latent_graph(fake())
    box = boxes(ax)
    for name, arrow in arrows(ax).items():
        way = arrow._path_original.vertices
        for program, end in zip(name.split(">"), (way[0], way[-1]), strict=True):
            b = box[program]
            middle = np.array([b.get_x() + b.get_width() / 2, b.get_y() + b.get_height() / 2])
            reach = np.abs(end - middle) / (b.get_width(), b.get_height())
            assert reach.max() == pytest.approx(0.5), name
    ends = [b.get_window_extent() for b in box.values()]
    assert not any(a.overlaps(b) for k, a in enumerate(ends) for b in ends[:k])


def test_few_of_all() -> None:
    ax = pl.latent_graph(fake(), n_edges=1, n_top=1, isolated=False)
    assert set(arrows(ax)) == {"P0>P2"} and set(boxes(ax)) == {"P0", "P2"}
    assert "1 strongest of 3 effects" in ax.get_title() and texts(ax) == ["lowers"]
    said = [t.get_text() for t in ax.texts]
    assert "P0: KLF1↑ +1" in said and "HBG1↑" in said


def test_no_effects_at_all() -> None:
    adata = fake()
    adata.uns["gracevae"]["graph"][:] = 0
    figure, ax = plt.subplots()
    assert pl.latent_graph(adata, ax=ax, isolated=False) is ax and figure.axes == [ax]
    assert not arrows(ax) and set(boxes(ax)) == {"P0", "P1", "P2", "P4"} and texts(ax) == []


def test_refuses() -> None:
    with pytest.raises(KeyError, match=r"no programs under key='x'.*'gracevae'"):
        pl.latent_graph(fake(), "x")
    with pytest.raises(ValueError, match="n_edges"):
        pl.latent_graph(fake(), n_edges=0)
    assert plt.get_fignums() == []
