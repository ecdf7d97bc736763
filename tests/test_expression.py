import hashlib
import logging
import pickle

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from causcade import expression
from causcade.expression import read_expression

N, G = 23, 7


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Make every matrix here span several blocks."""
    monkeypatch.setattr(expression, "_BLOCK", 5)


@pytest.fixture
def counts():
    x = np.random.default_rng(0).poisson(1.0, (N, G)).astype(np.float32)
    x[:, 0] += 1  # no empty cell
    return x


def named(x, **kwargs):
    adata = ad.AnnData(x, **kwargs)
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    adata.var_names = [f"g{i}" for i in range(adata.n_vars)]
    return adata


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def shuffled_csr(x):
    """CSR with entries of a row in reverse order, one of them stored as two halves."""
    rows, cols, values = [], [], []
    for i, j in np.argwhere(x)[::-1]:
        rows += [i, i]
        cols += [j, j]
        values += [x[i, j] - 1, 1]
    order = np.argsort(rows, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(x)))])
    return sparse.csr_matrix((np.array(values, x.dtype)[order], np.array(cols)[order], indptr), shape=x.shape)


def dask_of(convert):
    def make(x):
        da = pytest.importorskip("dask.array")
        whole = da.from_array(x, chunks=(6, G))
        return whole.map_blocks(convert) if convert is not np.asarray else whole

    return make


CONTAINERS = {
    "dense": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "readonly": readonly,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.astype(np.uint16),
    "csr": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
    "csr int64": lambda x: sparse.csr_matrix(x.astype(np.int64)),
    "csr unsorted, repeated": shuffled_csr,
    "dask": dask_of(np.asarray),
    "dask csr": dask_of(sparse.csr_matrix),
}


def check_equal(found, x):
    assert (found.n_cells, found.n_genes) == x.shape
    starts, blocks = zip(*found.blocks(size=4), strict=True)
    assert starts == tuple(range(0, len(x), 4))
    assert all(b.flags.c_contiguous and b.dtype == np.float32 and b.flags.writeable for b in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), x)
    index = [3, len(x) - 1, 0, 3, -1]
    np.testing.assert_array_equal(found.rows(index), x[index])
    mask = np.arange(len(x)) % 3 == 1
    np.testing.assert_array_equal(found.rows(mask, dtype=np.float64), x[mask])
    whole = found.matrix()
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole.toarray() if sparse.issparse(whole) else whole, x)
    assert found.total_counts.dtype == np.float64
    np.testing.assert_array_equal(found.total_counts, x.sum(axis=1))
    np.testing.assert_array_equal(found.n_cells_by_gene, (x != 0).sum(axis=0))
    assert (found.minimum, found.maximum, found.is_integer) == (x.min(), x.max(), bool((x == np.round(x)).all()))


def fingerprint(adata):
    def parts(x):
        return (x.data, x.indices, x.indptr, x.shape) if sparse.issparse(x) else np.asarray(x)

    arrays = [parts(adata.X), *(parts(v) for v in adata.layers.values())]
    frames = [adata.obs.to_dict(), adata.var.to_dict(), list(adata.obs_names), list(adata.var_names)]
    return hashlib.sha256(pickle.dumps((arrays, frames, dict(adata.uns), adata.is_view))).hexdigest()


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_gives_the_same(counts, kind):
    adata = named(CONTAINERS[kind](counts))
    before = fingerprint(adata) if "dask" not in kind else None
    check_equal(read_expression(adata, counts=True), counts)
    if before:
        assert fingerprint(adata) == before


def test_bool():
    x = np.random.default_rng(0).random((N, G)) < 0.9
    x[:, 0] = True
    for make in (np.asarray, sparse.csr_matrix):
        check_equal(read_expression(named(make(x)), counts=True), x.astype(np.float32))


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_view(counts, kind):
    cells, genes = [20, 3, 4, 11, 0, 7, 8, 9], [5, 0, 2]
    adata = named(CONTAINERS[kind](counts))
    view = adata[cells, genes]
    check_equal(read_expression(view), counts[np.ix_(cells, genes)])
    assert view.is_view


@pytest.mark.parametrize("kind", ["dense", "csr", "csc"])
def test_backed_and_view_of_backed(counts, tmp_path, kind):
    named(CONTAINERS[kind](counts)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    check_equal(read_expression(backed, counts=True), counts)
    cells = np.array([2, 3, 5, 8, 13, 21, 22])
    check_equal(read_expression(backed[cells, :3]), counts[cells, :3])
    check_equal(read_expression(backed[5:12]), counts[5:12])
    assert backed.isbacked
    backed.file.close()


def test_backed_is_not_loaded(counts, tmp_path, monkeypatch):
    named(sparse.csr_matrix(counts)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    monkeypatch.setattr(type(backed.X), "to_memory", lambda _: pytest.fail("loaded whole"))
    check_equal(read_expression(backed), counts)
    backed.file.close()


def test_layer_without_x(counts):
    adata = ad.AnnData(shape=counts.shape, layers={"counts": counts})
    check_equal(read_expression(adata, "counts"), counts)
    with pytest.raises(ValueError, match=r"\.X is empty. Pass layer=, one of 'counts'"):
        read_expression(adata)


def test_signed_floats(counts):
    x = (counts - 1.3).astype(np.float32)
    for make in (np.asarray, sparse.csr_matrix, sparse.csc_matrix):
        found = read_expression(named(make(x)))
        np.testing.assert_allclose(found.total_counts, x.sum(axis=1, dtype=np.float64), rtol=1e-12)
        assert (found.minimum, found.maximum, found.is_integer) == (x.min(), x.max(), False)


def with_value(value, make=np.asarray):
    x = np.ones((N, G))
    x[7, 2] = value
    x[9, 0] = value
    return named(make(x))


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_not_finite(value, make):
    adata = with_value(value, make)
    before = fingerprint(adata)
    with pytest.raises(ValueError, match=rf"\.X holds {value:g} \(cell 'c7', gene 'g2'\)".replace("+", r"\+")):
        read_expression(adata)
    assert fingerprint(adata) == before


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(("value", "text"), [(-2, "negative"), (0.5, "whole numbers")])
def test_not_counts(value, text, make):
    adata = with_value(value, make)
    before = fingerprint(adata)
    with pytest.raises(ValueError, match=rf"{value:g} \(cell 'c7', gene 'g2'\).*{text}.*No layer holds counts"):
        read_expression(adata, counts=True)
    assert fingerprint(adata) == before
    read_expression(adata)


def test_layer_with_counts_is_offered(counts):
    adata = named(np.log1p(counts), layers={"counts": sparse.csc_matrix(counts), "scaled": counts - 0.5})
    with pytest.raises(ValueError, match=r"Whole numbers are in \.layers\['counts'\] \(layer='counts'\)\.$"):
        read_expression(adata, counts=True)
    adata = named(counts, layers={"log": np.log1p(counts)})
    with pytest.raises(ValueError, match=r"Whole numbers are in \.X \(layer=None\)"):
        read_expression(adata, "log", counts=True)


def test_counts_where_log_values_are_needed(counts):
    with pytest.raises(ValueError, match=f"whole numbers up to {counts.max():g}, which look like raw counts"):
        read_expression(named(counts), counts=False)
    read_expression(named(np.log1p(counts)), counts=False)


@pytest.mark.parametrize(
    ("dtype", "text"), [(complex, "complex"), (object, "objects or text"), ("U3", "objects or text")], ids=range(3)
)
def test_kind_of_values(counts, dtype, text):
    adata = named(counts, layers={"odd": counts.astype(dtype)})
    before = fingerprint(adata)
    with pytest.raises(ValueError, match=rf"\.layers\['odd'\] holds {text}"):
        read_expression(adata, "odd")
    assert fingerprint(adata) == before


def test_missing_layer(counts):
    adata = named(counts, layers={"counts": counts})
    before = fingerprint(adata)
    with pytest.raises(KeyError, match=r"no layer 'count'.*Close to 'count': 'counts'.*The layers are 'counts'"):
        read_expression(adata, "count")
    assert fingerprint(adata) == before
    with pytest.raises(KeyError, match="The layers are none"):
        read_expression(named(counts), "count")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 5), (5, 1)], ids=str)
def test_too_small(shape):
    with pytest.raises(ValueError, match=f"At least 2 cells and 2 genes.*{shape[0]} x {shape[1]}"):
        read_expression(ad.AnnData(np.ones(shape, dtype=np.float32)))


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix])
def test_empty_cells_warn_and_silent_genes_are_logged(counts, make, caplog):
    counts[[2, 9]] = 0
    counts[:, 4] = 0
    with (
        caplog.at_level(logging.INFO, logger="causcade"),
        pytest.warns(UserWarning, match=r"2 of 23 cells in \.X are zero for every gene") as caught,
    ):
        found = read_expression(named(make(counts)))
    assert caught[0].filename == __file__
    assert "1 of 7 genes are zero in every cell" in caplog.text
    check_equal(found, counts)


def test_rows_out_of_range(counts):
    found = read_expression(named(counts))
    for bad in ([0, N], [-N - 1], np.ones(N - 1, dtype=bool)):
        with pytest.raises(IndexError):
            found.rows(bad)
    assert found.rows([]).shape == (0, G)


def test_results_are_copies(counts):
    adata = named(counts.copy())
    found = read_expression(adata)
    for array in (next(found.blocks())[1], found.rows([0]), found.matrix()):
        array[:] = -1
    np.testing.assert_array_equal(adata.X, counts)
