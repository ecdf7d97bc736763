import gzip
import logging
import os
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from causcade import networks
from causcade.networks import _originals

GMT = "Cycle\tR-HSA-1\tCDK1\tCCNB1\tMYC\nDeath\tR-HSA-2\tBAK1\tMYC\nOld name\tR-HSA-3\tGONE\n"
HIERARCHY = "R-HSA-1\tR-HSA-2\nR-HSA-9\tR-HSA-1\nR-BTA-1\tR-BTA-2\n"
PPI = "Gene1,Gene2\nCDK1,CCNB1\nCCNB1,CDK1\nMYC,MYC\nMYC,NA\nBAK1,ELSEWHERE\nMYC,BAK1\n"
GENES = ["BAK1", "CCNB1", "CDK1", "MYC", "NA", "ALONE"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    with gzip.open(tmp_path / "sets.gmt.gz", "wt") as out:
        out.write(GMT)
    (tmp_path / "tree.txt").write_text(HIERARCHY)
    (tmp_path / "ppi.csv").write_text(PPI)
    return tmp_path


@pytest.fixture
def table(files: Path) -> pd.DataFrame:
    ppi = networks.read_network(files / "ppi.csv")
    return pd.concat([ppi, networks.reactome(files / "sets.gmt.gz", files / "tree.txt")])


def edges(network: networks.Network, kind: str) -> set[tuple[str, str]]:
    table = network.to_table()
    table = table[table["kind"] == kind]
    return set(zip(table["source"], table["target"], strict=True))


# --- reading ------------------------------------------------------------------------------------------------------


def test_all_sources_give_one_table(files: Path) -> None:
    pairs = [("A", "B"), ("B", "C")]
    frame = pd.DataFrame({"x": [9, 9], "to": ["B", "C"], "from": ["A", "B"], "w": ["2", "0.5"]})
    frame.to_csv(files / "edges.tsv.gz", sep="\t", index=False)
    want = [["A", "B", "GG", 1.0], ["B", "C", "GG", 1.0]]
    assert networks.read_network(pairs).to_numpy().tolist() == want
    assert networks.read_network(pd.DataFrame(pairs, columns=["source", "target"])).to_numpy().tolist() == want
    weighted = networks.read_network(files / "edges.tsv.gz", columns=["from", "to", "w"])
    assert weighted.to_numpy().tolist() == [["A", "B", "GG", 2.0], ["B", "C", "GG", 0.5]]
    assert networks.read_network(frame, "PP", columns=[2, 1])["kind"].tolist() == ["PP", "PP"]
    gmt = networks.read_network(files / "sets.gmt.gz")
    assert gmt.iloc[0].tolist() == ["Cycle", "CDK1", "PG", 1.0] and len(gmt) == 6
    assert list(gmt.columns) == ["source", "target", "kind", "weight"]


def test_gene_called_na_is_a_gene(files: Path) -> None:
    assert "NA" in set(networks.read_network(files / "ppi.csv")["target"])


def test_reactome_joins_names_and_ids(files: Path) -> None:
    table = networks.reactome(files / "sets.gmt.gz", files / "tree.txt")
    nested = table[table["kind"] == "PP"]
    assert nested[["source", "target"]].to_numpy().tolist() == [["Cycle", "Death"], ["R-HSA-9", "Cycle"]]
    (files / "sets.gmt.gz").write_bytes(gzip.compress(b"Same\tR-HSA-1\tA\nSame\tR-HSA-2\tB\n"))
    assert set(networks.reactome(files / "sets.gmt.gz")["source"]) == {"Same (R-HSA-1)", "Same (R-HSA-2)"}


@pytest.mark.parametrize(
    ("source", "arguments", "told"),
    [
        (pd.DataFrame({"source": [], "target": []}), {}, "no edge"),
        ([], {}, "two columns"),
        ([("A", "")], {}, "no target"),
        ([("A", "B")], {"kind": "GP"}, r"must be in \['GG'"),
        ([("A", "B", -1)], {}, "1 edges have a weight that is no number above 0"),
        ([("A", "B", np.inf)], {}, "1 edges have a weight that is no number above 0"),
        (pd.DataFrame({"gene": ["A"]}), {}, "two columns"),
        (pd.DataFrame({"gene": ["A"], "other": ["B"]}), {"columns": ["genes", "other"]}, "'gene'"),
        (pd.DataFrame({"gene": ["A"], "other": ["B"]}), {"columns": ["gene"]}, "names source"),
    ],
)
def test_bad_tables_are_refused(source: object, arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        networks.read_network(source, **arguments)  # type: ignore[arg-type]


def test_short_lines_of_gene_sets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gmt").write_text("Alone\n")
    with pytest.raises(ValueError, match="'Alone'"):
        networks.read_network(tmp_path / "x.gmt")


# --- matching -----------------------------------------------------------------------------------------------------


def test_every_row_is_used_or_counted(table: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "causcade"):
        network = networks.match_network(table, GENES)
    assert edges(network, "GG") == {("CCNB1", "CDK1"), ("BAK1", "MYC"), ("MYC", "NA")}
    assert edges(network, "PG") == {
        ("Cycle", "CDK1"), ("Cycle", "CCNB1"), ("Cycle", "MYC"), ("Death", "BAK1"), ("Death", "MYC"),
    }  # fmt: skip
    assert edges(network, "PP") == {("Cycle", "Death")}
    report = network.report.set_index("kind")
    assert report.loc["GG"].tolist() == [6, 3, 1, 1, 1]
    assert (report["n_rows"] == report.drop(columns="n_rows").sum(axis=1)).all()
    assert network.nodes == {
        "genes_matched": 5, "genes_unmatched": 2, "genes_without_edge": 1, "pathways": 2, "pathways_left_out": 2,
    }  # fmt: skip
    assert network.unmatched.tolist() == ["ELSEWHERE", "GONE"]
    assert "5 of 6 measured genes" in repr(network) and repr(network) in caplog.text
    assert network.genes.tolist() == GENES and network.notes == []


def test_kinds_and_pathways_can_be_chosen(table: pd.DataFrame) -> None:
    assert networks.match_network(table, GENES, kinds=("GG",)).graph().n_pathways == 0
    everything = networks.match_network(table, GENES, pathways="all")
    assert everything.pathways.tolist() == ["Cycle", "Death", "Old name", "R-HSA-9"]
    assert edges(everything, "PP") == {("Cycle", "Death"), ("R-HSA-9", "Cycle")}
    with pytest.raises(ValueError, match="kinds must be"):
        networks.match_network(table, GENES, kinds=("gg",))
    with pytest.raises(ValueError, match="pathways must be"):
        networks.match_network(table, GENES, pathways="some")  # type: ignore[arg-type]


def test_genes_whose_partners_are_not_measured_have_no_edge() -> None:
    table = networks.read_network([("A", "B"), ("C", "Z")])
    network = networks.match_network(table, list("ABCD"))
    assert network.nodes["genes_matched"] == 3 and network.nodes["genes_without_edge"] == 2
    assert "2 of 4 measured genes with an edge" in repr(network)
    with pytest.warns(UserWarning, match="Only 0 of 2 measured genes"):
        networks.match_network(table, list("CD"))


def test_network_is_its_table_and_its_pathways(table: pd.DataFrame) -> None:
    network = networks.match_network(table, GENES, pathways="all")
    again = networks.match_network(network.to_table(), GENES, pathways=network.to_table().attrs["pathways"])
    assert again.pathways.tolist() == network.pathways.tolist() == ["Cycle", "Death", "Old name", "R-HSA-9"]
    assert all(np.array_equal(again.edges[k], network.edges[k]) for k in network.edges)
    with pytest.raises(ValueError, match="read_network reads files"):
        networks.match_network("ppi.csv", GENES)  # type: ignore[arg-type]


def test_symbols_are_looked_up_in_var(table: pd.DataFrame) -> None:
    ids = [f"ENSG{i:011d}" for i in range(6)]
    adata = ad.AnnData(np.ones((2, 6), np.float32), var=pd.DataFrame({"symbol": GENES}, index=ids))
    network = networks.match_network(table, adata, gene_symbols="symbol")
    assert network.nodes["genes_matched"] == 5 and network.genes[0] == ids[0]
    with pytest.warns(UserWarning, match=r"Ensembl ids.*gene_symbols='symbol'"):
        none = networks.match_network(table, adata)
    assert none.n_edges == 0 and none.nodes["genes_unmatched"] == 7 and len(none.notes) == 1
    with pytest.raises(KeyError, match="'symbol'"):
        networks.match_network(table, adata, gene_symbols="symbols")
    with pytest.raises(ValueError, match="pass the AnnData"):
        networks.match_network(table, GENES, gene_symbols="symbol")


def test_other_case_is_pointed_out(table: pd.DataFrame) -> None:
    with pytest.warns(UserWarning, match=r"5 of 7 differ in case only; 'BAK1' is close to"):
        networks.match_network(table, [g.lower() for g in GENES])


def test_graph_has_the_same_edges(table: pd.DataFrame) -> None:
    network = networks.match_network(table, GENES)
    graph = network.graph()
    names = [*network.genes, *network.pathways]
    assert {(names[a], names[b]) for a, b in graph.nodes("PG").T} == edges(network, "PG")
    assert graph.n_nodes == 8


# --- corrupted ----------------------------------------------------------------------------------------------------


def big() -> networks.Network:
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(60)]
    rows = [(genes[a], genes[b], "GG") for a, b in rng.integers(60, size=(200, 2))]
    rows += [
        (f"P{a}", genes[b], "PG") for a, b in zip(rng.integers(15, size=250), rng.integers(60, size=250), strict=True)
    ]
    rows += [(f"P{a}", f"P{b}", "PP") for a, b in rng.integers(15, size=(25, 2))]
    table = networks.read_network(pd.DataFrame(rows, columns=["source", "target", "kind"]))
    return networks.match_network(table, genes)


@pytest.mark.parametrize("keep", ["degrees", "size"])
def test_rewiring_moves_half_and_stays_a_network(keep: str) -> None:
    old = big()
    new = networks.rewire(old, 0.5, keep=keep, rng=1)  # type: ignore[arg-type]
    for kind in networks.KINDS:
        before, after = edges(old, kind), edges(new, kind)
        assert len(after) == len(before) == new.edges[kind].shape[1]
        assert all(a != b for a, b in after)
        assert kind == "PP" or 0.35 < len(before - after) / len(before) < 0.55
    ends = lambda net, kind, side: np.bincount(net.edges[kind][side], minlength=60)
    both = lambda net: ends(net, "GG", 0) + ends(net, "GG", 1)
    same = [np.array_equal(both(old), both(new))]
    same += [np.array_equal(ends(old, k, s), ends(new, k, s)) for k in ("PG", "PP") for s in (0, 1)]
    assert all(same) if keep == "degrees" else not any(same)
    assert np.array_equal(networks.rewire(old, 0.5, keep=keep, rng=1).edges["GG"], new.edges["GG"])  # type: ignore[arg-type]


def test_either_end_of_an_edge_between_genes_may_move() -> None:
    network = networks.match_network(networks.read_network([("A", "C"), ("B", "D")]), list("ABCD"))
    seen = {pair for seed in range(10) for pair in edges(networks.rewire(network, 1.0, rng=seed), "GG")}
    assert {("A", "B"), ("A", "D"), ("A", "C")} <= seen


def test_rewiring_nothing_changes_nothing() -> None:
    old = big()
    assert all(np.array_equal(networks.rewire(old, 0).edges[k], old.edges[k]) for k in networks.KINDS)
    with pytest.raises(ValueError, match="share must be"):
        networks.rewire(old, 2)


# --- from the web -------------------------------------------------------------------------------------------------


def published(folder: Path) -> dict[str, str]:
    """Tiny files in the published formats; addresses of them."""
    with zipfile.ZipFile(folder / "ReactomePathways.gmt.zip", "w") as archive:
        archive.writestr("ReactomePathways.gmt", GMT)
    links = (
        "protein1 protein2 combined_score\n9606.A 9606.B 900\n9606.B 9606.A 900\n9606.A 9606.C 699\n9606.B 9606.X 999\n"
    )
    info = "#string_protein_id\tpreferred_name\tprotein_size\tannotation\n9606.A\tMYC\t1\ta\n9606.B\tNA\t1\tb\n9606.C\tTP53\t1\tc\n"
    (folder / "9606.protein.links.v12.0.txt.gz").write_bytes(gzip.compress(links.encode()))
    (folder / "9606.protein.info.v12.0.txt.gz").write_bytes(gzip.compress(info.encode()))
    (folder / "ReactomePathwaysRelation.txt").write_text(HIERARCHY)
    (folder / "CollecTRI.csv").write_text("source,target,weight,PMID\nMYC,TERT,1,1;2\nSPI1,MYC,-1,3\n")
    return {path.name: path.as_uri() for path in folder.iterdir()}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Addresses by network; files are copied instead of downloaded."""
    import pooch

    folder = tmp_path / "web"
    folder.mkdir()

    def copy(url: str, out: str, _: object) -> None:
        Path(out).write_bytes(Path(url.removeprefix("file://")).read_bytes())

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: copy)
    found = published(folder)
    return {name: {file: found[file] for file in files} for name, files in _originals.ORIGINALS.items()}


def test_gene_sets_leave_their_archive_whole_or_not_at_all(
    web: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    get = lambda: networks.fetch_network("reactome", urls=web["reactome"], cache_dir=tmp_path / "cache")
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space left"):
        broken.setattr(os, "fsync", full)
        get()
    assert not list((tmp_path / "cache").glob("*.gmt")) and not list((tmp_path / "cache").glob(".*"))
    assert len(get())


def test_originals_are_read(web: dict[str, dict[str, str]], tmp_path: Path) -> None:
    get = lambda name, **more: networks.fetch_network(name, urls=web[name], cache_dir=tmp_path / "cache", **more)
    sets = get("reactome")
    assert sorted(set(sets["kind"])) == ["PG", "PP"] and ("Cycle", "Death") in set(
        zip(sets["source"], sets["target"], strict=True)
    )
    assert get("string").to_numpy().tolist() == [["MYC", "NA", "GG", 0.9]]  # once; score, and both ends known
    assert len(get("string", least_score=600)) == 2
    assert get("collectri").to_numpy().tolist() == [["MYC", "TERT", "GG", 1.0], ["SPI1", "MYC", "GG", 1.0]]


def test_originals_are_checked(web: dict[str, dict[str, str]], tmp_path: Path) -> None:
    more = {"urls": web["collectri"], "cache_dir": tmp_path / "cache"}
    known = networks.fetch_network("collectri", **more).attrs["sha256"]
    assert networks.fetch_network("collectri", known, **more).attrs["sha256"] == known
    (tmp_path / "web" / "CollecTRI.csv").write_text("source,target\nA,B\n")
    (tmp_path / "cache" / "CollecTRI.csv").write_text("source,target\nA,B\n")
    with pytest.raises(RuntimeError, match=r"could not get 'CollecTRI\.csv'"):
        networks.fetch_network("collectri", known, **more)
    with pytest.raises(ValueError, match=r"no network 'strin'.*string"):
        networks.fetch_network("strin")
    with pytest.raises(ValueError, match="no file 'x'"):
        networks.fetch_network("string", {"x": "0" * 64})
