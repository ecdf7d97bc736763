from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from causcade import pl


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


def stored() -> ad.AnnData:
    """What cc.tl.suggest_perturbations writes; B was perturbed already."""
    out = ad.AnnData(np.ones((2, 4), dtype=np.float32), var=pd.DataFrame(index=["A", "B", "C", "D"]))
    out.uns["suggestions"] = {
        "names": np.array(["entropy", "direction", "variance"], dtype=object),
        "method": "direction",
    }
    nan = np.nan
    out.varm["suggestions"] = np.array([[1, 0.5, 9], [nan] * 3, [2, 3, 8], [0.5, 1, 7]], dtype=np.float32)
    return out


def test_candidates_are_drawn_best_first_with_other_ranks() -> None:
    ax = pl.suggestions(stored(), show=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["C", "D", "A"]
    (points,) = [c for c in ax.collections if c.get_label() == "_no_t"]
    np.testing.assert_allclose(points.get_offsets()[:, 0], [3, 1, 0.5])
    assert "direction" in ax.get_xlabel() and ax.get_xlim()[0] <= 0
    texts = [t.get_text() for t in ax.texts]
    assert texts == ["rank by\nentropy", "1", "3", "2", "rank by\nvariance", "2", "3", "1"]


def test_fewer_and_without_ranks() -> None:
    figure = pl.suggestions(stored(), n_top=2, baselines=False, return_fig=True, show=False)
    assert isinstance(figure, Figure)
    assert "(top 2 of 3)" in figure.axes[0].get_title() and not figure.axes[0].texts
    with pytest.raises(ValueError, match="n_top"):
        pl.suggestions(stored(), n_top=0)
    with pytest.raises(KeyError, match="suggest_perturbations first"):
        pl.suggestions(stored(), key="other")
