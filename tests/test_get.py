from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import expit

import causcade as cc

GENES = ["A", "B", "C", "D", "E"]
EFFECTS = ["C", "A"]
SCORE = np.array([[1, 9], [3, -1], [8, 0], [-2, 2], [0, 1]], dtype=np.float32)  # own: C in row 2, A in row 0
T = np.array([[-5, 0], [np.nan, np.nan], [70, 1], [4, -3], [0.5, 2]], dtype=np.float32)
CORR = np.array([[0.1, 1], [-0.9, 0.2], [1, -0.3], [0.5, 0.4], [0, -0.5]], dtype=np.float32)
POPULARITY = np.array([[2], [np.nan], [9], [5], [5]], dtype=np.float32)


@pytest.fixture
def adata() -> ad.AnnData:
    """Two effect genes with every part but a null."""
    out = ad.AnnData(np.ones((4, 5), dtype=np.float32), var=pd.DataFrame(index=GENES))
    out.varm["causes"] = SCORE
    out.varm["causes_sd"] = np.abs(SCORE) / 10
    out.varm["causes_n_draws"] = np.full((5, 2), 7)
    out.varm["causes_popularity"] = POPULARITY
    out.varm["causes_knockout_t"] = T
    out.varm["causes_correlation"] = CORR
    out.uns["causes"] = _uns(EFFECTS)
    return out


def _uns(names: list[str]) -> dict:
    return {"names": np.array(names), "model": "fake", "weights": "fake@0", "params": {"n": 1}, "n_draws": 7}


def _pairs(*, as_sparse: bool) -> ad.AnnData:
    out = ad.AnnData(np.ones((4, 5), dtype=np.float32), var=pd.DataFrame(index=GENES))
    scores = np.arange(25, dtype=np.float32).reshape(5, 5) - 12
    if as_sparse:
        keep = np.zeros((5, 5), dtype=bool)
        keep[[0, 2, 4, 3], [1, 1, 1, 2]] = True  # [cause, effect]; of B: A, C, E; of C: D, stored as exactly 0
        rows, cols = np.nonzero(keep)
        data = np.where((rows == 3) & (cols == 2), 0, scores[rows, cols]).astype(np.float32)
        out.varp["causes"] = sparse.csr_matrix((data, (rows, cols)), shape=(5, 5))
        out.varp["causes_n_draws"] = sparse.csr_matrix((np.full(4, 3), (rows, cols)), shape=(5, 5))
    else:
        out.varp["causes"] = scores
        out.varp["causes_n_draws"] = np.full((5, 5), 3)
    out.varp["causes_correlation"] = np.tile(np.array([[0.1], [-0.5], [0.3], [0.2], [0.4]], dtype=np.float32), 5)
    out.varm["causes_popularity"] = POPULARITY
    out.uns["causes"] = _uns(GENES)
    return out


def test_table_is_what_the_arrays_say(adata: ad.AnnData) -> None:
    table = cc.get.causes(adata, "C")
    assert (
        list(table.columns)
        == (
            "effect cause rank score probability sd n_draws knockout_t rank_knockout_t popularity rank_popularity "
            "correlation rank_correlation"
        ).split()
    )
    assert table["effect"].unique().tolist() == ["C"]
    assert table["cause"].tolist() == ["B", "A", "E", "D"]  # C itself scores highest and is left out
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert table["score"].tolist() == [3, 1, 0, -2]
    np.testing.assert_allclose(table["probability"], expit([3, 1, 0, -2]), rtol=1e-6)
    np.testing.assert_allclose(table["sd"], [0.3, 0.1, 0, 0.2], rtol=1e-6)
    assert table["n_draws"].tolist() == [7] * 4
    np.testing.assert_equal(table["knockout_t"].to_numpy(), [np.nan, -5, 0.5, 4])
    np.testing.assert_equal(table["rank_knockout_t"].to_numpy(), [np.nan, 1, 3, 2])  # by size; C's own 70 aside
    np.testing.assert_equal(table["rank_popularity"].to_numpy(), [np.nan, 3, 1, 1])  # D and E tie
    assert table["rank_correlation"].tolist() == [1, 3, 4, 2]
    np.testing.assert_allclose(table["correlation"], [-0.9, 0.1, 0, 0.5], rtol=1e-6)


def test_effects_come_in_the_order_asked_for(adata: ad.AnnData) -> None:
    assert cc.get.causes(adata)["effect"].unique().tolist() == ["C", "A"]
    table = cc.get.causes(adata, pd.Index(["A", "C", "A"]), n_top=np.int64(2))
    assert table[["effect", "cause", "rank"]].to_numpy().tolist() == [
        ["A", "D", 1],
        ["A", "E", 2],
        ["C", "B", 1],
        ["C", "A", 2],
    ]
    assert table["rank_knockout_t"].iloc[:2].tolist() == [1, 2]
    assert table.index.tolist() == [0, 1, 2, 3]


def test_ranks_do_not_depend_on_n_top(adata: ad.AnnData) -> None:
    whole = cc.get.causes(adata, "C").head(2)
    pd.testing.assert_frame_equal(cc.get.causes(adata, "C", n_top=2), whole)


def test_null_shows_and_missing_parts_do_not(adata: ad.AnnData) -> None:
    adata.varm["causes_pvalue"] = np.abs(SCORE) / 100
    adata.varm["causes_fdr"] = np.abs(SCORE) / 50
    for part in ("sd", "n_draws", "knockout_t", "correlation", "popularity"):
        del adata.varm[f"causes_{part}"]
    table = cc.get.causes(adata, "C")
    assert list(table.columns) == ["effect", "cause", "rank", "score", "probability", "pvalue", "fdr"]
    np.testing.assert_allclose(table["fdr"], [0.06, 0.02, 0, 0.04], rtol=1e-6)
    np.testing.assert_allclose(table["pvalue"], [0.03, 0.01, 0, 0.02], rtol=1e-6)


def test_genes_dropped_or_reordered(adata: ad.AnnData) -> None:
    table = cc.get.causes(adata[:, ["E", "D", "B"]], "C")  # the effect gene itself is gone
    assert table["cause"].tolist() == ["B", "E", "D"]
    assert table["score"].tolist() == [3, 0, -2]
    np.testing.assert_equal(table["rank_knockout_t"].to_numpy(), [np.nan, 2, 1])
    moved = cc.get.causes(adata[:, GENES[::-1]], "C")
    pd.testing.assert_frame_equal(moved, cc.get.causes(adata, "C"))
    assert cc.get.causes(adata[:, ["C"]], "C").empty


def test_pairs_without_a_score_are_left_out(adata: ad.AnnData) -> None:
    adata.varm["causes"][3, 0] = np.nan
    table = cc.get.causes(adata, "C")
    assert table["cause"].tolist() == ["B", "A", "E"]
    assert table["rank_knockout_t"].tolist()[1:] == [1, 3]  # still among all candidates


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_same_after_writing_and_reading(adata: ad.AnnData, tmp_path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    getattr(adata, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(cc.get.causes(back), cc.get.causes(adata))


def test_all_pairs_dense() -> None:
    adata = _pairs(as_sparse=False)
    table = cc.get.causes(adata)
    assert len(table) == 20 and table["effect"].unique().tolist() == GENES
    of_b = cc.get.causes(adata, "B")
    assert of_b["cause"].tolist() == ["E", "D", "C", "A"]  # column B is -11, -6, -1, 4, 9
    assert of_b["score"].tolist() == [9, 4, -1, -11]
    assert of_b["n_draws"].tolist() == [3] * 4
    assert of_b["rank_correlation"].tolist() == [1, 3, 2, 4]
    np.testing.assert_equal(of_b["rank_popularity"].to_numpy(), [2, 2, 1, 4])


def test_all_pairs_sparse_lists_what_is_stored() -> None:
    adata = _pairs(as_sparse=True)
    table = cc.get.causes(adata)
    assert table[["effect", "cause"]].to_numpy().tolist() == [["B", "E"], ["B", "C"], ["B", "A"], ["C", "D"]]
    assert table["score"].tolist() == [9, -1, -11, 0]
    assert table["n_draws"].tolist() == [3] * 4
    assert table["rank_correlation"].tolist() == [1, 2, 4, 3]  # over all genes, not only the stored pairs


@pytest.mark.parametrize("as_sparse", [True, False])
def test_all_pairs_after_dropping_genes(as_sparse: bool) -> None:
    part = _pairs(as_sparse=as_sparse)[:, ["D", "B", "E"]]
    assert cc.get.causes(part, "B")["cause"].tolist() == (["E"] if as_sparse else ["E", "D"])
    assert "C" not in cc.get.causes(part)["effect"].tolist()
    with pytest.raises(KeyError, match=r"'C' left the AnnData"):
        cc.get.causes(part, "C")


def test_a_later_run_of_all_pairs_is_not_mistaken(adata: ad.AnnData) -> None:
    adata.varp["causes"] = _pairs(as_sparse=False).varp["causes"]
    adata.uns["causes"] = _uns(GENES)
    assert cc.get.causes(adata, "B")["score"].tolist() == [9, 4, -1, -11]


def test_no_result(adata: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"under key='caused'.*under 'causes': pass key=.*Run cc.tl.causes first"):
        cc.get.causes(adata, key="caused")
    with pytest.raises(KeyError, match=r"under key='causes'\. Run cc.tl.causes first"):
        cc.get.causes(ad.AnnData(np.ones((2, 2))))


def test_gene_not_scored(adata: ad.AnnData) -> None:
    adata.uns["causes"]["names"] = np.array(["SOX2", "MYC"])
    with pytest.raises(KeyError, match=r"'Sox2'.*Close to 'Sox2': 'SOX2'.*Scored: 'SOX2', 'MYC'"):
        cc.get.causes(adata, ["Sox2", "MYC"])


@pytest.mark.parametrize("n_top", [0, -1, 2.5, "all"])
def test_bad_n_top(adata: ad.AnnData, n_top: object) -> None:
    with pytest.raises(ValueError, match="n_top must be a whole number"):
        cc.get.causes(adata, n_top=n_top)


def test_empty_gene_and_parts_of_two_runs(adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="gene is empty"):
        cc.get.causes(adata, [])
    adata.varm["causes_sd"] = np.ones((5, 3))
    with pytest.raises(ValueError, match="'causes_sd' has 3 columns where 'causes' needs 2"):
        cc.get.causes(adata)
    adata.varm["causes"] = np.ones((5, 3))
    with pytest.raises(ValueError, match=r"has 3 columns, but .* names 2"):
        cc.get.causes(adata)


def test_nothing_is_written(adata: ad.AnnData) -> None:
    before = {k: v.copy() for k, v in adata.varm.items()}
    table = cc.get.causes(adata)
    table.loc[:, "score"] = 0
    table.loc[:, "knockout_t"] = 0
    assert list(adata.varm) == list(before) and not adata.is_view
    for part, array in before.items():
        np.testing.assert_array_equal(adata.varm[part], array)


def test_regimes_is_a_copy() -> None:
    adata = ad.AnnData(np.ones((6, 2), dtype=np.float32), var=pd.DataFrame(index=["A", "B"]))
    adata.obs["perturbation"] = ["ctrl"] * 2 + ["A"] * 2 + ["B"] * 2
    cc.pp.regimes(adata, "perturbation", "ctrl", key_added="mine")
    table = cc.get.regimes(adata, key="mine")
    assert table["name"].tolist() == ["ctrl", "A", "B"]
    table["name"] = "x"
    assert adata.uns["mine"]["table"]["name"].tolist() == ["ctrl", "A", "B"]
    with pytest.raises(KeyError, match=r"\.uns\['regimes'\]\. There are regimes under 'mine'.*Run cc.pp.regimes"):
        cc.get.regimes(adata)
