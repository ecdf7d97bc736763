from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from causcade import pl
from causcade.pl._reversal import _spaced


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def stored() -> ad.AnnData:
    """What cc.tl.reversal writes, of two perturbations."""
    out = ad.AnnData(np.ones((2, 4), dtype=np.float32), var=pd.DataFrame(index=["A", "B", "C", "D"]))
    table = pd.DataFrame({"perturbation": ["off", "on"], "score": [-0.4, 0.8], "sd": [0.1, 0.05], "fdr": [0.9, 0.01]})
    table["fraction"], table["top_correlation"], table["closer"] = [-0.2, 0.5], [-0.3, 0.9], [0.1, 0.0]
    groups, names = np.array(["well", "ill"], dtype=object), np.array(["off", "on"], dtype=object)
    out.uns["reversal"] = {"table": table, "names": names, "groups": groups}
    out.varm["reversal_change"] = np.array([[2.0], [-1.0], [0.1], [0.0]], dtype=np.float32)
    out.varm["reversal"] = np.array([[1, -1.5], [-1, 0.5], [0, 0.2], [0, 0]], dtype=np.float32)
    return out


def test_ranking_is_drawn_best_first() -> None:
    ax = pl.reversal(stored(), show=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["on", "off"]
    assert ax.get_xlabel().endswith(" ± sd") and "mean" not in ax.get_xlabel()
    assert "ill back to well" in ax.get_title() and "(top 2 of 2)" in ax.get_title()
    (points,) = [c for c in ax.collections if c.get_label() == "_t"]
    np.testing.assert_allclose(points.get_offsets()[:, 0], [0.8, -0.4])
    texts = [t.get_text() for t in ax.texts]
    assert texts[:6] == ["rank by\ncorrelation", "1", "2", "rank by\ndistance", "2", "1"]
    assert not [t for t in pl.reversal(stored(), baselines=False, show=False).texts if "rank" in t.get_text()]


def test_genes_of_one_are_drawn_and_named() -> None:
    figure = pl.reversal(stored(), "on", n_top=2, return_fig=True, show=False)
    assert isinstance(figure, Figure)
    ax = figure.axes[0]
    assert {t.get_text() for t in ax.texts} == {"A", "B"}
    drawn = np.concatenate([c.get_offsets() for c in ax.collections])
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted([(2, -1.5), (-1, 0.5), (0.1, 0.2), (0, 0)]), atol=1e-6)
    assert "cosine 0.80" in ax.get_title() and "50% of the way" in ax.get_title()
    assert "ill less well" in ax.get_xlabel()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="n_top"):
        pl.reversal(stored(), n_top=0)
    with pytest.raises(KeyError, match="not scored"):
        pl.reversal(stored(), "of")
    with pytest.raises(KeyError, match=r"Run cc\.tl\.reversal"):
        pl.reversal(ad.AnnData(np.ones((2, 2))))


def test_names_are_moved_apart_but_keep_their_order() -> None:
    placed = _spaced(np.array([0.0, 1.0, 0.05, 0.02]), 0.2)
    assert np.all(np.diff(np.sort(placed)) >= 0.2 - 1e-9)
    np.testing.assert_array_equal(np.argsort(placed), [0, 3, 2, 1])
    np.testing.assert_allclose(_spaced(np.array([3.0, 0.0]), 1), [3, 0])
    assert len(_spaced(np.empty(0), 1)) == 0
