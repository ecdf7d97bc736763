"""The pass: sums of all cells, and the same cells kept whatever holds them and however they are read."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from causcade import onepass, pp
from causcade.onepass import _plan, _run

N, G = 320, 9
STATS = ("summary_value", "summary_square", "summary_nonzero")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks per pass, as with real screens."""
    monkeypatch.setattr(_plan, "_VALUES", 64 * 5)


def make(x=None) -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (N, G)).astype(np.float32)
    counts[:, 0] += 1
    labels = rng.choice(["ctrl", "g1", "g2", "g1+g2"], N, p=[0.4, 0.3, 0.2, 0.1])
    labels[17] = "g5"  # one cell: too few to be analysed
    obs = pd.DataFrame({"pert": labels, "batch": rng.choice(["b", "a", "c"], N), "note": np.arange(N)})
    obs.index = [f"cell{i}" for i in range(N)]
    adata = ad.AnnData(counts if x is None else x(counts), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(G)]))
    with pytest.warns(UserWarning, match="fewer than min_cells"):
        pp.regimes(adata, "pert", "ctrl")
    return adata


def summarise(adata: ad.AnnData, **how) -> ad.AnnData:
    how = {"max_cells": 10, "max_controls": 20, "batch_key": "batch", "progress_bar": False, **how}
    return pp.summarise(adata, **how)


def dense(adata: ad.AnnData) -> np.ndarray:
    return adata.X.toarray()


def assert_same(a: ad.AnnData, b: ad.AnnData) -> None:
    """To the bit."""
    np.testing.assert_array_equal(dense(a), dense(b))
    assert a.obs_names.tolist() == b.obs_names.tolist()
    for column in b.obs:  # files make text categories
        assert a.obs[column].tolist() == b.obs[column].tolist(), column
    for name in STATS:
        np.testing.assert_array_equal(a.varm[name], b.varm[name])
    for name in ("cells", "totals"):
        np.testing.assert_array_equal(a.uns["summary"][name], b.uns["summary"][name])
    assert a.uns["summary"]["names"].tolist() == b.uns["summary"]["names"].tolist()
    for part in ("table", "labels", "targets"):
        a_part, b_part = (x.uns["regimes"][part] for x in (a, b))
        assert a_part.astype(str).to_numpy().tolist() == b_part.astype(str).to_numpy().tolist()


# --- what is added up ---------------------------------------------------------------------------------------------


def test_sums_are_those_of_all_cells():
    adata = make()
    out = summarise(adata)
    total = adata.X.sum(1).astype(float)
    analysed = adata.obs["pert"] != "g5"
    scale = np.median(total[analysed])
    assert out.uns["summary"]["params"]["scale"] == scale
    y = np.log1p(adata.X / total[:, None] * scale)
    rows = {name: adata.obs["pert"] == label for name, label in
            zip(["ctrl", "g1", "g1+g2", "g2", "g5"], ["ctrl", "g1", "g1+g2", "g2", "g5"], strict=True)}  # fmt: skip
    assert list(rows) == out.uns["regimes"]["table"]["name"].tolist()
    masks = [*rows.values(), *(adata.obs["batch"] == b for b in "abc")]
    masks += [(adata.obs["batch"] == b) & rows["ctrl"] for b in "abc"]
    for i, mask in enumerate(masks):
        np.testing.assert_allclose(out.varm["summary_value"][:, i], y[mask].sum(0), rtol=1e-6)
        np.testing.assert_allclose(out.varm["summary_square"][:, i], (y[mask] ** 2).sum(0), rtol=1e-5)
        np.testing.assert_array_equal(out.varm["summary_nonzero"][:, i], (adata.X[mask] > 0).sum(0))
    table = pd.crosstab(adata.obs["pert"], adata.obs["batch"]).loc[list(rows)]
    np.testing.assert_array_equal(out.uns["summary"]["cells"], table)
    sums = pd.Series(total).groupby([adata.obs["pert"].to_numpy(), adata.obs["batch"].to_numpy()]).sum().unstack()
    np.testing.assert_array_equal(out.uns["summary"]["totals"], sums.loc[list(rows)].fillna(0))
    assert out.uns["regimes"]["table"]["n_cells"].tolist() == table.sum(1).tolist()


def test_without_batches_rows_are_regimes():
    out = summarise(make(), batch_key=None)
    whole = summarise(make())
    assert out.varm["summary_value"].shape == (G, 5)
    for name in STATS:
        np.testing.assert_array_equal(out.varm[name], whole.varm[name][:, :5])


def test_log_values_are_added_as_they_are():
    adata = make()
    adata.X = np.log1p(adata.X)
    out = summarise(adata, values="log", batch_key=None)
    controls = (adata.obs["pert"] == "ctrl").to_numpy()
    np.testing.assert_allclose(out.varm["summary_value"][:, 0], adata.X[controls].sum(0), rtol=1e-6)


def test_some_genes_and_library_sizes_of_all():
    adata = make()
    whole, some = summarise(adata), summarise(adata, genes=["g7", "g2"])
    assert some.var_names.tolist() == ["g2", "g7"]
    for name in STATS:
        np.testing.assert_array_equal(some.varm[name], whole.varm[name][[2, 7]])
    np.testing.assert_array_equal(dense(some), dense(whole)[:, [2, 7]])
    np.testing.assert_array_equal(some.obs["summary_total_counts"], dense(whole).sum(1))


def test_scale_may_be_given():
    adata = make()
    adata.obs["depth"] = adata.X.sum(1) * 2
    assert summarise(adata, scale=50).uns["summary"]["params"]["scale"] == 50
    usual = adata.obs["pert"] != "g5"
    expected = np.median(adata.obs["depth"][usual])
    assert summarise(adata, scale="depth").uns["summary"]["params"]["scale"] == expected


def test_scale_of_many_cells_is_that_of_runs(monkeypatch):
    monkeypatch.setattr(_plan, "_SAMPLED", 100)
    monkeypatch.setattr(_plan, "_RUNS", 3)
    monkeypatch.setattr(_plan, "_RUN", 20)
    adata = make()
    runs = np.concatenate([np.arange(s, s + 20) for s in (0, 150, 300)])
    runs = runs[adata.obs["pert"].iloc[runs] != "g5"]
    expected = np.median(adata.X.sum(1)[runs])
    assert summarise(adata).uns["summary"]["params"]["scale"] == expected


# --- which cells are kept -----------------------------------------------------------------------------------------


def test_kept_cells_are_as_they_were():
    adata = make()
    out = summarise(adata)
    at = out.obs["summary_cell"].to_numpy()
    assert (np.diff(at) > 0).all()
    np.testing.assert_array_equal(dense(out), adata.X[at])
    pd.testing.assert_frame_equal(out.obs[["pert", "batch", "note"]], adata.obs.iloc[at])
    assert out.obs["pert"].value_counts().to_dict() == {"ctrl": 20, "g1": 10, "g2": 10, "g1+g2": 10, "g5": 1}


def test_every_cell_has_the_same_chance():
    codes = np.repeat([0, 1], [60, 40])
    hits = np.zeros(100)
    for seed in range(2000):
        hits[_plan.lowest_keys(_plan.random_keys(seed * 7919, 0, 100), codes, np.array([12, 8]))] += 1
    z = (hits - 400) / np.sqrt(2000 * 0.2 * 0.8)
    assert abs((z**2).sum() - 98) < 4 * np.sqrt(2 * 98)  # chi squared; each regime has its number


def test_random_keys_do_not_repeat_and_do_not_depend_on_where_they_begin():
    keys = _plan.random_keys(5, 0, 10_000)
    np.testing.assert_array_equal(keys[4_000:], _plan.random_keys(5, 4_000, 6_000))
    assert len(np.unique(keys)) == 10_000
    uniform = keys / 2.0**64
    assert abs(uniform.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.04
    assert not np.intersect1d(keys, _plan.random_keys(6, 0, 10_000)).size


# --- whatever holds them ------------------------------------------------------------------------------------------


def backed(folder: Path, adata: ad.AnnData) -> ad.AnnData:
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad", backed="r")


def in_zarr(folder: Path, adata: ad.AnnData) -> ad.AnnData:
    zarr = pytest.importorskip("zarr")
    adata.write_zarr(folder / "a.zarr")
    group = zarr.open_group(folder / "a.zarr", mode="r")
    whole = ad.read_zarr(folder / "a.zarr")
    x = ad.io.sparse_dataset(group["X"]) if sparse.issparse(adata.X) else group["X"]
    return ad.AnnData(x, obs=whole.obs, var=whole.var, uns=whole.uns)


def lazy(folder: Path, adata: ad.AnnData) -> ad.AnnData:
    pytest.importorskip("dask.array")
    pytest.importorskip("xarray")
    adata.write_zarr(folder / "a.zarr")
    return ad.experimental.read_lazy(folder / "a.zarr")


KINDS = {
    "CSR": (sparse.csr_matrix, None),
    "CSC": (sparse.csc_matrix, None),
    "CSR array of whole numbers": (lambda x: sparse.csr_array(x.astype(np.int64)), None),
    "backed CSR": (sparse.csr_matrix, backed),
    "backed CSC": (sparse.csc_matrix, backed),
    "backed dense": (None, backed),
    "zarr CSR": (sparse.csr_matrix, in_zarr),
    "lazy": (sparse.csr_matrix, lazy),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning", "ignore::FutureWarning")
def test_any_array_gives_the_same(kind, tmp_path):
    convert, move = KINDS[kind]
    adata = make(convert)
    other = adata if move is None else move(tmp_path, adata)
    found = summarise(other)
    assert_same(found, summarise(make()))


def test_threads_do_not_matter():
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(summarise(make()))
    finally:
        torch.set_num_threads(before)
    assert_same(*found)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_dask_chunks_do_not_matter(chunk):
    da = pytest.importorskip("dask.array")
    adata = make()
    adata.X = da.from_array(adata.X, chunks=(chunk, G)).map_blocks(sparse.csr_matrix)
    assert_same(summarise(adata), summarise(make()))


def test_cuts_follow_the_chunks_of_dask():
    da = pytest.importorskip("dask.array")
    x = da.zeros((100, 2), chunks=((30, 10, 40, 20), 2))
    assert _run.cuts(x, 0, 100, 45) == [(0, 40), (40, 80), (80, 100)]
    assert _run.cuts(x, 0, 100, 5) == [(0, 30), (30, 40), (40, 80), (80, 100)]
    assert _run.cuts(np.zeros((7, 2)), 1, 7, 4) == [(1, 5), (5, 7)]


@pytest.mark.parametrize("values", [10, 200, 10_000_000])
def test_blocks_do_not_matter(values, monkeypatch):
    expected = summarise(make())
    monkeypatch.setattr(_plan, "_VALUES", values * G)
    assert_same(summarise(make()), expected)


def test_the_screen_is_left_alone(fingerprint):
    adata = make(sparse.csr_matrix)
    before = fingerprint(adata)
    summarise(adata)
    assert fingerprint(adata) == before


# --- parts --------------------------------------------------------------------------------------------------------


def test_parts_join_to_the_whole():
    adata = make()
    whole = summarise(adata, scale=9.0)
    edges = [0, 100, 130, N]
    parts = [
        summarise(quiet_copy(adata, low, high), scale=9.0, first_cell=low) for low, high in itertools.pairwise(edges)
    ]
    assert_same(pp.merge_summaries(parts[2], parts[0], parts[1]), whole)
    twice = pp.merge_summaries(pp.merge_summaries(parts[1], parts[2]), parts[0])
    assert_same(twice, whole)
    assert twice.uns["summary"]["params"]["n_cells"] == N


def quiet_copy(adata: ad.AnnData, low: int, high: int) -> ad.AnnData:
    """Some cells, whose regimes are read anew: some may have none."""
    part = ad.AnnData(adata.X[low:high], obs=adata.obs.iloc[low:high].copy(), var=adata.var)
    pp.regimes(part, "pert", "ctrl", min_cells=1)
    return part


def test_parts_without_one_batch_and_one_regime():
    adata = make()
    first = (adata.obs["batch"] == "a") & (adata.obs["pert"] != "g2")
    order = np.argsort(~first.to_numpy(), kind="stable")
    adata = ad.AnnData(adata.X[order], obs=adata.obs.iloc[order].copy(), var=adata.var)
    pp.regimes(adata, "pert", "ctrl", min_cells=1)
    n = int(first.sum())
    parts = [summarise(quiet_copy(adata, *span), scale=9.0, first_cell=span[0]) for span in ((0, n), (n, N))]
    assert parts[0].uns["summary"]["cells"].shape[1] == 1
    joined, whole = pp.merge_summaries(*parts), summarise(adata, scale=9.0)
    for name in STATS:
        np.testing.assert_array_equal(joined.varm[name], whole.varm[name])
    np.testing.assert_array_equal(dense(joined), dense(whole))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"scale": 8.0}, "scale 9.0 and 8.0"),
        ({"rng": 1}, "seed"),
        ({"first_cell": 50}, "both hold cell number 50"),
        ({"genes": ["g1", "g2"]}, "other genes"),
    ],
)
def test_parts_that_do_not_fit(how, match):
    adata = make()
    first = summarise(quiet_copy(adata, 0, 100), scale=9.0)
    second = summarise(quiet_copy(adata, 100, N), **{"scale": 9.0, "first_cell": 100, **how})
    with pytest.raises(ValueError, match=match):
        pp.merge_summaries(first, second)


def test_only_summaries_are_joined():
    with pytest.raises(ValueError, match=r"made by cc\.pp\.summarise"):
        pp.merge_summaries(make())


# --- Dask ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    free = "127.0.0.1:0"  # two test workers may be here at once
    with (
        distributed.LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=free) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


def deadly(parent: int, marker: str):
    """Blocks that kill the first worker that reads some of them."""

    def read(block: np.ndarray, block_info=None) -> sparse.csr_matrix:
        second = block_info[None]["chunk-location"][0] == 4
        if second and os.getpid() != parent and not Path(marker).exists():
            Path(marker).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return sparse.csr_matrix(block)

    return read


def test_workers_share_files(cluster, tmp_path):
    found = summarise(backed(tmp_path, make(sparse.csr_matrix)), client=cluster)
    assert_same(found, summarise(make()))


def test_workers_are_sent_what_is_in_memory(cluster):
    assert_same(summarise(make(sparse.csc_matrix), client=cluster), summarise(make()))


@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
def test_workers_share_zarr(cluster, tmp_path):
    assert_same(summarise(in_zarr(tmp_path, make(sparse.csr_matrix)), client=cluster), summarise(make()))


def test_a_worker_is_killed(cluster, tmp_path):
    da = pytest.importorskip("dask.array")
    adata = make()
    marker = tmp_path / "killed"
    x = da.from_array(adata.X, chunks=(40, G))
    adata.X = x.map_blocks(deadly(os.getpid(), str(marker)), dtype=np.float32)
    found = summarise(adata, client=cluster, scale=9.0)
    assert marker.exists()
    assert_same(found, summarise(make(), scale=9.0))


def test_bad_values_are_told_from_the_workers(cluster):
    adata = make()
    adata.X[200, 3] = np.nan
    with pytest.raises(ValueError, match=r"nan \(cell 'cell200', gene 'g3'\)"):
        summarise(adata, client=cluster, scale=9.0)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.nan, r"nan \(cell 'cell200', gene 'g3'\): values must be finite"),
        (np.inf, "inf"),
        (-1.0, "holds -1 .*cannot be negative"),
        (0.5, r"holds 0.5 .*raw counts are needed"),
    ],
)
def test_bad_values(value, match):
    adata = make()
    adata.X[200, 3] = value
    with pytest.raises(ValueError, match=match):
        summarise(adata)


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"batch_key": "bath"}, KeyError, "Close to 'bath': 'batch'"),
        ({"genes": ["g1", "x"]}, KeyError, r"1 of 2 genes are not in .var_names: 'x'"),
        ({"genes": ["g1"]}, ValueError, "at least two names"),
        ({"max_cells": 2}, ValueError, "max_cells must be a whole number of at least 3"),
        ({"scale": 0}, ValueError, "scale must be a positive number"),
        ({"scale": "depht"}, KeyError, "no column scale='depht'"),
        ({"values": "raw"}, ValueError, "values must be"),
        ({"path": "nowhere/a.h5ad"}, ValueError, "There is no folder 'nowhere'"),
        ({"path": "a.csv"}, ValueError, "must end in .h5ad or .zarr"),
        ({"max_memory": 1e-6}, ValueError, r"needs about .* GB, but 1e-06 GB may be used"),
        ({"layer": "counts"}, KeyError, "no layer 'counts'"),
    ],
)
def test_bad_arguments(how, error, match):
    with pytest.raises(error, match=match):
        summarise(make(), **how)


def test_cells_without_a_batch():
    adata = make()
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(N) > 3)
    with pytest.raises(ValueError, match="4 of 320 cells have no value"):
        summarise(adata)


def test_a_summary_is_not_summarised():
    with pytest.raises(ValueError, match="a summary already"):
        summarise(summarise(make()))


def test_min_cells_must_be_kept():
    adata = make()
    with pytest.warns(UserWarning, match="fewer than min_cells=30"):
        pp.regimes(adata, "pert", "ctrl", min_cells=30)
    with pytest.raises(ValueError, match="at least min_cells=30"):
        summarise(adata)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.h5ad", "s.zarr"])
@pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")
def test_it_is_saved_and_read_back(name, tmp_path):
    path = tmp_path / name
    summarise(make(), path=path, rng=3)
    out = summarise(make(), path=path)  # over the first
    back = ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)
    np.testing.assert_array_equal(dense(back), dense(out))
    for part in STATS:
        np.testing.assert_array_equal(back.varm[part], out.varm[part])
    np.testing.assert_array_equal(back.obs["summary_key"], out.obs["summary_key"])
    assert back.uns["summary"]["params"]["scale"] == out.uns["summary"]["params"]["scale"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.h5ad"
    path.write_text("old")

    def fail(self, place):
        Path(place).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", fail)
    with pytest.raises(OSError, match="disk full"):
        onepass.save(summarise(make()), path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_it_will_cost_is_said(caplog):
    with caplog.at_level("INFO", logger="causcade"):
        summarise(make())
    assert any(
        "one pass over 320 cells x 9 genes of .X: 5 regimes, 3 batches, 51 cells kept" in m for m in caplog.messages
    )
