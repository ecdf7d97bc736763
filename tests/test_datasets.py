"""Bundled data: what the docstrings say, what damage does, and graphs made of published networks."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse

from causcade import datasets

LOADERS = {
    "hipsc_tf_ko": datasets.hipsc_tf_ko,
    "h1_vcc_subset": datasets.h1_vcc_subset,
    "sachs": datasets.sachs,
    "ecoli_network": datasets.ecoli_network,
    "yeast_network": datasets.yeast_network,
}
SCREENS = ["hipsc_tf_ko", "h1_vcc_subset", "sachs"]


@pytest.fixture(scope="module")
def ecoli():
    return datasets.ecoli_network()


# ---- screens


def test_hipsc():
    adata = datasets.hipsc_tf_ko()
    n_cells = adata.obs["perturbation"].value_counts()
    assert adata.shape == (14_945, 103)
    assert n_cells["control"] == 1_182
    assert n_cells.drop("control").agg(["size", "min", "max"]).tolist() == [23, 149, 1_545]
    assert set(n_cells.index) - {"control"} <= set(adata.var_names)
    assert sorted(adata.obs["day"].unique()) == [2, 3, 4, 5]
    assert np.median(np.asarray(adata.X.sum(axis=1))) == 215


def test_h1():
    adata = datasets.h1_vcc_subset()
    assert adata.shape == (600, 1_000)
    assert adata.obs["perturbation"].value_counts().eq(100).all()
    assert set(adata.obs["perturbation"]) == {"control", "MED12", "SRC", "STAT1", "TET1", "TMSB4X"}
    assert ((adata.obs["target_gene"] == "non-targeting") == (adata.obs["perturbation"] == "control")).all()
    assert adata.var["gene_id"].str.startswith("ENSG").all()
    assert adata.X.nnz == 599_805


@pytest.mark.parametrize("name", ["hipsc_tf_ko", "h1_vcc_subset"])
def test_counts_are_whole_float32_csr(name):
    x = LOADERS[name]().X
    assert x.format == "csr"
    assert x.dtype == np.float32
    assert (x.data > 0).all()
    assert (x.data == np.rint(x.data)).all()


def test_sachs():
    adata = datasets.sachs()
    n_cells = adata.obs["perturbation"].value_counts().to_dict()
    assert n_cells == {"control": 1_755, "Akt": 911, "PIP3": 848, "PIP2": 810, "Mek": 799, "PKC": 723}
    assert set(n_cells) - {"control"} <= set(adata.var_names)
    assert (adata.X > 0).all()
    np.testing.assert_allclose(adata.X[0, :3], [26.4, 13.2, 8.82], rtol=1e-6)


def test_sachs_graph_is_cause_effect():
    adata = datasets.sachs()
    graph = adata.varp["consensus"]
    edge = partial(lambda a, b: bool(graph[adata.var_names.get_loc(a), adata.var_names.get_loc(b)]))
    assert graph.dtype == bool
    assert graph.sum() == 18
    assert edge("Raf", "Mek")
    assert edge("Mek", "Erk")
    assert not edge("Mek", "Raf")
    cycles = list(nx.simple_cycles(nx.from_numpy_array(graph, create_using=nx.DiGraph)))
    assert [sorted(adata.var_names[c]) for c in cycles] == [["PIP2", "PIP3", "PLCg"]]


@pytest.mark.parametrize("name", SCREENS)
def test_control_is_the_first_category(name):
    assert LOADERS[name]().obs["perturbation"].cat.categories[0] == "control"


@pytest.mark.parametrize("name", SCREENS)
def test_names_are_unique_and_each_call_gives_a_fresh_object(name):
    first = LOADERS[name]()
    assert first.obs_names.is_unique
    assert first.var_names.is_unique
    before = first.X[0, 0]
    first.X[0, 0] = before + 7
    first.uns.clear()
    again = LOADERS[name]()
    assert again.X[0, 0] == before
    assert again.uns["license"]


@pytest.mark.parametrize("name", SCREENS)
def test_h5ad_round_trip(name, tmp_path):
    adata = LOADERS[name]()
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(again.obs, adata.obs)
    pd.testing.assert_frame_equal(again.var, adata.var)
    assert dict(again.uns) == dict(adata.uns)
    difference = again.X != adata.X
    assert (difference.nnz if issparse(difference) else difference.sum()) == 0


# ---- licences and damage


@pytest.mark.parametrize("name", LOADERS)
def test_license_and_citation(name):
    loaded = LOADERS[name]()
    notes = loaded.uns if isinstance(loaded, ad.AnnData) else loaded.attrs
    text = (datasets._data_dir() / f"{name}.LICENSE.txt").read_text(encoding="utf-8")
    assert notes["license"] in {"MIT", "CC0-1.0"}
    assert "doi:10." in notes["citation"]
    assert notes["citation"] in text
    assert notes["license"] in text
    assert "Permission is hereby granted" in text


def test_nothing_else_is_bundled_and_all_is_small():
    files = {f.name: len(f.read_bytes()) for f in datasets._data_dir().iterdir()}
    expected = {s.file for s in datasets._SOURCES.values()} | {f"{n}.LICENSE.txt" for n in LOADERS} | {"registry.txt"}
    assert set(files) == expected
    assert sum(files.values()) < 5_000_000


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_file_raises(name, tmp_path, monkeypatch):
    file = datasets._SOURCES[name].file
    content = bytearray((datasets._data_dir() / file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / file).write_bytes(content)
    (tmp_path / "registry.txt").write_text((datasets._data_dir() / "registry.txt").read_text())
    monkeypatch.setattr(datasets, "_data_dir", lambda: tmp_path)
    with pytest.raises(RuntimeError, match=rf"{file}.*damaged.*Reinstall causcade"):
        LOADERS[name]()


def test_missing_file_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_data_dir", lambda: tmp_path)
    with pytest.raises(RuntimeError, match=r"sachs.*missing.*Reinstall"):
        datasets.sachs()


# ---- networks


def test_ecoli(ecoli):
    assert list(ecoli.columns) == ["source", "target", "sign"]
    assert len(ecoli) == 3_758
    assert ecoli["sign"].value_counts().to_dict() == {"+": 1_993, "-": 1_541, "+-": 209, "?": 15}
    assert (ecoli["source"] == ecoli["target"]).sum() == 110
    assert len(set(ecoli["source"]) | set(ecoli["target"])) == 1_565


def test_yeast():
    table = datasets.yeast_network()
    assert len(table) == 12_873
    assert set(table["sign"]) == {"?"}
    assert len(set(table["source"]) | set(table["target"])) == 4_441
    assert table["source"].ne(table["target"]).all()
    assert not table.isna().any(axis=None)


@pytest.fixture(scope="module")
def ecoli_dag(ecoli):
    return datasets.network_dag(ecoli, rng=0)


def test_ecoli_dag(ecoli, ecoli_dag):
    genes, adjacency, sign = ecoli_dag
    assert adjacency.shape == sign.shape == (1_565, 1_565)
    assert adjacency.dtype == bool
    assert sign.dtype == np.int8
    assert list(genes) == sorted(set(ecoli["source"]) | set(ecoli["target"]))
    assert nx.is_directed_acyclic_graph(nx.from_numpy_array(adjacency, create_using=nx.DiGraph))
    assert 3_620 <= adjacency.sum() < 3_648  # 3,648 edges without self-loops, of which a few close cycles
    assert ((sign != 0) == adjacency).all()


def test_dag_keeps_directions_and_known_signs(ecoli, ecoli_dag):
    genes, adjacency, sign = ecoli_dag
    given = {(s, t): k for s, t, k in ecoli.itertuples(index=False)}
    for i, j in np.argwhere(adjacency):
        label = given[genes[i], genes[j]]  # KeyError where an edge is turned round
        assert label not in ("+", "-") or sign[i, j] == (1 if label == "+" else -1)


def test_dag_is_fixed_by_rng_and_free_of_row_order(ecoli, ecoli_dag):
    shuffled = datasets.network_dag(ecoli.sample(frac=1, random_state=1), rng=0)
    other = datasets.network_dag(ecoli, rng=1)
    for a, b in zip(ecoli_dag, shuffled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (ecoli_dag[1] != other[1]).any()


def test_unknown_signs_follow_the_share_of_known_ones():
    n = 4_000
    known = pd.DataFrame({"source": "a", "target": [f"k{i}" for i in range(10)], "sign": ["+"] * 9 + ["-"]})
    unknown = pd.DataFrame({"source": "b", "target": [f"u{i}" for i in range(n)], "sign": "?"})
    genes, _, sign = datasets.network_dag(pd.concat([known, unknown]), rng=0)
    row = sign[list(genes).index("b")]
    assert (row != 0).sum() == n
    assert (row > 0).sum() / n == pytest.approx(0.9, abs=5 * np.sqrt(0.09 / n))


def test_without_signs_half_activate():
    table = pd.DataFrame({"source": "b", "target": [f"u{i}" for i in range(4_000)]})
    sign = datasets.network_dag(table, rng=0)[2]
    assert (sign > 0).sum() / 4_000 == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / 4_000))


def test_gene_with_only_a_self_loop_stays():
    table = pd.DataFrame({"source": ["a", "c"], "target": ["b", "c"], "sign": ["-", "+"]})
    genes, adjacency, sign = datasets.network_dag(table)
    assert list(genes) == ["a", "b", "c"]
    assert np.argwhere(adjacency).tolist() == [[0, 1]]
    assert sign[0, 1] == -1


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"cause": ["a"], "target": ["b"]}, r"no column \['source'\].*'cause'"),
        ({"source": [], "target": []}, "at least one row"),
        ({"source": ["a", None], "target": ["b", "c"]}, "gene name in every"),
        ({"source": ["a", "a"], "target": ["b", "b"], "sign": ["+", "-"]}, r"more than once.*\['a', 'b'\]"),
        ({"source": ["a"], "target": ["b"], "sign": ["up"]}, r"signs \['up'\]"),
    ],
)
def test_bad_network(table, match):
    with pytest.raises(ValueError, match=match):
        datasets.network_dag(pd.DataFrame(table))


# ---- downloads


@contextmanager
def served(folder, monkeypatch, *, together=1):
    """With `together` above 1, that many readers must have begun before any gets the second half."""
    begun = threading.Barrier(together)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def copyfile(self, source, outputfile):
            data = source.read()
            outputfile.write(data[: len(data) // 2])
            outputfile.flush()
            begun.wait(timeout=60)
            outputfile.write(data[len(data) // 2 :])

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_fetch_downloads_once(tmp_path, monkeypatch):
    content = gzip.compress(b"data", mtime=0)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "x.gz").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with served(tmp_path / "web", monkeypatch) as url:
        path = datasets.fetch(url + "x.gz", digest.upper(), "y.gz", cache_dir=tmp_path / "cache")
    assert path == tmp_path / "cache" / "y.gz"
    assert path.read_bytes() == content
    again = datasets.fetch(url + "x.gz", digest, "y.gz", cache_dir=tmp_path / "cache")  # the server is gone
    assert again == path


def test_fetch_refuses_other_content(tmp_path, monkeypatch):
    (tmp_path / "x.gz").write_bytes(b"not what was asked for")
    with served(tmp_path, monkeypatch) as url, pytest.raises(RuntimeError, match=r"could not get 'y\.gz'.*yourself"):
        datasets.fetch(url + "x.gz", "0" * 64, "y.gz", cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


FETCH = """
import hashlib, sys
from causcade import datasets
path = datasets.fetch(*sys.argv[1:4], cache_dir=sys.argv[4])
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


def test_two_processes_fetch_into_one_cache(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "x").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with served(tmp_path / "web", monkeypatch, together=2) as url:
        command = [sys.executable, "-c", FETCH, url + "x", digest, "y", str(tmp_path / "cache")]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate(timeout=60)[0] for process in both]
    assert told == [digest + "\n"] * 2
    assert [f.read_bytes() for f in (tmp_path / "cache").iterdir()] == [content]


def test_fetch_without_a_server(tmp_path, monkeypatch):
    with served(tmp_path, monkeypatch) as url:
        pass
    with pytest.raises(RuntimeError, match="could not get"):
        datasets.fetch(url + "x.gz", "0" * 64, "y.gz", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("sha256", "name"), [("abc", "y"), ("0" * 63 + "g", "y"), ("0" * 64, "../y"), ("0" * 64, "")])
def test_fetch_bad_arguments(sha256, name, tmp_path):
    with pytest.raises(ValueError, match="must be"):
        datasets.fetch("https://example.org/y", sha256, name, cache_dir=tmp_path)
