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


# --- targets ------------------------------------------------------------------------------------------------------

PERTURBATIONS = ["A", "B+C", "drug", "lost"]
LOGIT = np.array([[1, 2, 5, 0], [4, 2, 4, 0], [3, 0, 3, 0], [np.nan, 9, np.nan, 0], [-2, 1, 1, 0]], dtype=np.float32)
LFC = np.array([[-9, 1, 0, 0], [2, -1, 3, 0], [2, 0, 1, 0], [50, 1, 99, 0], [-1, 0.5, -3, 0]], dtype=np.float32)


@pytest.fixture
def hits() -> ad.AnnData:
    """Targets of four perturbations of genes A to E: one gene, two genes, a drug on D, a gene that is not measured."""
    out = ad.AnnData(np.ones((10, 5), dtype=np.float32), var=pd.DataFrame(index=GENES))
    out.obs["pert"] = [name for name in ["ctrl", *PERTURBATIONS] for _ in range(2)]
    cc.pp.regimes(out, "pert", "ctrl", targets={"drug": ["D"], "lost": ["ZZZ"]})
    out.varm["targets"] = LOGIT
    out.varm["targets_sd"] = np.abs(LOGIT) / 10
    out.varm["targets_lfc"] = LFC
    out.varm["targets_wilcoxon"] = np.where(np.arange(5)[:, None] == 2, np.nan, -LFC)  # nothing is known of C
    out.varm["targets_fused"] = LOGIT + np.array([[0, 0, 0, 0], [0, 1, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    params = {"regimes_key": "regimes", "masked": False}
    out.uns["targets"] = {"names": np.array(PERTURBATIONS, dtype=object), "model": "fake", "params": params}
    return out


def test_targets_are_what_the_arrays_say(hits: ad.AnnData) -> None:
    table = cc.get.targets(hits, "A")
    assert (
        list(table.columns)
        == (
            "perturbation gene rank score probability sd lfc lfc_rank wilcoxon wilcoxon_rank fused fused_rank known"
        ).split()
    )
    assert table["perturbation"].unique().tolist() == ["A"]
    assert table["gene"].tolist() == ["B", "C", "A", "E"]  # D was no candidate
    assert table["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(table["probability"], expit([4, 3, 1, -2]), rtol=1e-6)
    np.testing.assert_allclose(table["sd"], [0.4, 0.3, 0.1, 0.2], rtol=1e-6)
    assert table["lfc_rank"].tolist() == [2, 2, 1, 4]  # by size, a tie shares the best, and D's 50 does not count
    np.testing.assert_equal(table["wilcoxon"].to_numpy(), [-2, np.nan, 9, 1])
    np.testing.assert_equal(table["wilcoxon_rank"].to_numpy(), [2, np.nan, 1, 3])
    assert table["fused_rank"].tolist() == [2, 1, 3, 4]
    assert table["known"].tolist() == [False, False, True, False]
    assert table["known"].dtype == bool


def test_targets_of_several_in_the_order_asked_for(hits: ad.AnnData) -> None:
    assert cc.get.targets(hits)["perturbation"].unique().tolist() == PERTURBATIONS
    table = cc.get.targets(hits, ["drug", "C+B", "drug"], n_top=np.int64(3))  # parts in any order
    assert table[["perturbation", "gene", "known"]].to_numpy().tolist() == [
        ["drug", "A", False],
        ["drug", "B", False],
        ["drug", "C", False],
        ["B+C", "D", False],
        ["B+C", "A", False],
        ["B+C", "B", True],
    ]
    assert table.index.tolist() == list(range(6))
    whole = cc.get.targets(hits, "A").head(2)
    pd.testing.assert_frame_equal(cc.get.targets(hits, "A", n_top=2), whole)


def test_targets_leave_out_what_is_not_there(hits: ad.AnnData) -> None:
    hits.varm["targets_pvalue"], hits.varm["targets_fdr"] = np.abs(LOGIT) / 100, np.abs(LOGIT) / 50
    for part in ("sd", "wilcoxon", "fused"):
        del hits.varm[f"targets_{part}"]
    del hits.uns["regimes"]
    table = cc.get.targets(hits, "A", n_top=1)
    columns = ["perturbation", "gene", "rank", "score", "probability", "pvalue", "fdr", "lfc", "lfc_rank"]
    assert list(table.columns) == columns
    np.testing.assert_allclose(table[["pvalue", "fdr"]], [[0.04, 0.08]], rtol=1e-6)


def test_targets_after_dropping_genes_and_cells(hits: ad.AnnData) -> None:
    part = hits[2:, ["E", "B", "A"]]  # no controls are left
    table = cc.get.targets(part, "A")
    assert table[["gene", "known"]].to_numpy().tolist() == [["B", False], ["A", True], ["E", False]]
    assert table["lfc_rank"].tolist() == [2, 1, 3]
    assert cc.get.targets(hits[:, ["D"]], "A").empty
    ranks = cc.get.target_ranks(part).set_index(["perturbation", "target"])
    assert ranks.loc[("B+C", "C"), "missing"] == "not measured"
    assert ranks.loc[("B+C", "B"), "score_position"] == 2 and ranks.loc[("B+C", "B"), "n_candidates"] == 3


def test_target_ranks_by_hand(hits: ad.AnnData) -> None:
    table = cc.get.target_ranks(hits)
    assert table["perturbation"].tolist() == ["A", "B+C", "B+C", "drug", "lost"]
    assert table["target"].tolist() == ["A", "B", "C", "D", "ZZZ"]
    assert table["n_candidates"].tolist() == [4, 5, 5, 4, 5]
    assert table["missing"].tolist() == ["", "", "", "no candidate", "not measured"]
    assert table["trivial"].tolist() == [True, False, False, False, False]  # |LFC| of B is tied; D was no candidate
    nan = np.nan
    np.testing.assert_equal(table["score_position"].to_numpy(), [3, 3, 5, nan, nan])  # B ties with A, and loses
    np.testing.assert_equal(table["lfc_position"].to_numpy(), [1, 3, 5, nan, nan])
    np.testing.assert_equal(table["wilcoxon_position"].to_numpy(), [1, 3, nan, nan, nan])
    np.testing.assert_equal(table["fused_position"].to_numpy(), [3, 2, 5, nan, nan])
    np.testing.assert_allclose(table["score_normalised_rank"], [0.5, 0.6, 0.2, nan, nan])
    np.testing.assert_allclose(table["lfc_normalised_rank"], [1, 0.6, 0.2, nan, nan])
    assert table["trivial"].dtype == bool and table["n_candidates"].dtype == np.int64


def test_target_ranks_without_targets_or_regimes(hits: ad.AnnData) -> None:
    hits.uns["targets"]["names"] = np.array(["w", "x", "y", "z"], dtype=object)  # not among the regimes
    empty = cc.get.target_ranks(hits)
    assert empty.empty and "fused_normalised_rank" in empty
    assert not cc.get.targets(hits)["known"].any()
    hits.uns["targets"]["params"]["regimes_key"] = "other"
    with pytest.raises(KeyError, match=r"no regimes in \.uns\['other'\].*Run cc.pp.regimes"):
        cc.get.target_ranks(hits)
    hits.uns["targets"]["params"]["regimes_key"] = ""  # as for groups of cells
    assert "known" not in cc.get.targets(hits)
    with pytest.raises(KeyError, match="of groups of cells"):
        cc.get.target_ranks(hits)


def test_targets_named_by_symbols(hits: ad.AnnData) -> None:
    hits.var_names = [f"ENSG{i}" for i in range(5)]
    hits.var["symbol"] = GENES
    hits.uns["regimes"]["params"]["gene_symbols"] = "symbol"
    table = cc.get.targets(hits, "A")
    assert table.loc[table["known"], "gene"].tolist() == ["ENSG0"]
    assert cc.get.target_ranks(hits)["target"].tolist() == ["ENSG0", "ENSG1", "ENSG2", "ENSG3", "ZZZ"]
    del hits.var["symbol"]
    with pytest.raises(KeyError, match="lost the column 'symbol'"):
        cc.get.targets(hits)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_targets_same_after_writing_and_reading(hits: ad.AnnData, tmp_path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    getattr(hits, f"write_{suffix}")(path)
    back = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(cc.get.targets(back), cc.get.targets(hits))
    pd.testing.assert_frame_equal(cc.get.target_ranks(back), cc.get.target_ranks(hits))


def test_targets_errors(hits: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"under key='t'.*under 'targets': pass key=.*Run cc.tl.targets first"):
        cc.get.targets(hits, key="t")
    with pytest.raises(KeyError, match=r"'Drug'.*Close to 'Drug': 'drug'.*Scored: 'A', 'B\+C', 'drug', 'lost'"):
        cc.get.targets(hits, ["Drug", "A"])
    with pytest.raises(ValueError, match="perturbation is empty"):
        cc.get.targets(hits, [])
    with pytest.raises(ValueError, match="n_top must be a whole number"):
        cc.get.targets(hits, n_top=0)
    hits.varm["targets_sd"] = np.ones((5, 3))
    with pytest.raises(ValueError, match=r"'targets_sd'\] has shape \(5, 3\), but .* names 4"):
        cc.get.targets(hits)


def test_causes_and_targets_are_told_apart(adata: ad.AnnData, hits: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"no cause scores under key='targets'\. Run cc.tl.causes"):
        cc.get.causes(hits, key="targets")
    with pytest.raises(KeyError, match=r"no target scores under key='causes'\. Run cc.tl.targets"):
        cc.get.targets(adata, key="causes")


def test_targets_write_nothing(hits: ad.AnnData, fingerprint) -> None:
    before = fingerprint(hits)
    table = cc.get.targets(hits)
    table.loc[:, "score"] = 0
    cc.get.target_ranks(hits)
    assert fingerprint(hits) == before


def test_results_of_other_tools_are_no_cause_scores(adata: ad.AnnData) -> None:
    adata.varm["reversal"] = SCORE
    adata.uns["reversal"] = {"names": np.array(EFFECTS), "table": pd.DataFrame(), "params": {}}
    with pytest.raises(KeyError, match="There are cause scores under 'causes'"):
        cc.get.causes(adata, "C", key="reversal")
