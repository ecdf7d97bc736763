"""Bundled screens and gene networks, and downloads with a checksum.

Everything bundled is small, may be redistributed, has its licence and citation beside it in ``causcade/data``
and is checked against ``data/registry.txt`` (sha256) whenever it is read. ``tools/make_bundled_data.py`` made it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from anndata import AnnData

    from causcade.simulate._random import Rng

__all__ = ["ecoli_network", "fetch", "h1_vcc_subset", "hipsc_tf_ko", "network_dag", "sachs", "yeast_network"]

_REGISTRY = "registry.txt"
_SIGN = {"+": 1, "-": -1, "+-": 0, "?": 0}  # 0: to be drawn


@dataclass(frozen=True)
class _Source:
    file: str
    license: str  # SPDX
    citation: str
    source: str


_SOURCES = {
    "hipsc_tf_ko": _Source(
        "hipsc_tf_ko.h5ad.gz",
        "MIT",
        "Ishikawa M, Sugino S, Masuda Y, et al. RENGE infers gene regulatory networks using time-series single-cell "
        "RNA-seq data with CRISPR perturbations. Communications Biology 6, 1290 (2023). "
        "doi:10.1038/s42003-023-05594-4. GEO: GSE213069.",
        "examples/data of the Python package renge 0.0.5 (source distribution)",
    ),
    "h1_vcc_subset": _Source(
        "h1_vcc_subset.h5ad.gz",
        "CC0-1.0",
        "Roohani YH, Hua TJ, Tung PY, et al. Virtual Cell Challenge: Toward a Turing test for the virtual cell. "
        "Cell 188, 3370-3374 (2025). doi:10.1016/j.cell.2025.06.008.",
        "docs/data of the Python package cell-eval2 0.20.0 (source distribution)",
    ),
    "sachs": _Source(
        "sachs.h5ad.gz",
        "MIT",
        "Sachs K, Perez O, Pe'er D, Lauffenburger DA, Nolan GP. Causal protein-signaling networks derived from "
        "multiparameter single-cell data. Science 308, 523-529 (2005). doi:10.1126/science.1105809. "
        "Copy: Kalainathan D, Goudet O, Dutta R. Causal Discovery Toolbox. JMLR 21(37), 1-5 (2020).",
        "cdt/data/resources of the Python package cdt 0.6.0",
    ),
    "ecoli_network": _Source(
        "ecoli_network.tsv.gz",
        "MIT",
        "Gama-Castro S, Jimenez-Jacinto V, Peralta-Gil M, et al. RegulonDB (version 6.0). Nucleic Acids Research 36, "
        "D120-D124 (2008). doi:10.1093/nar/gkm994. Release 6.7. Copy: Lorch L, Sussex S, Rothfuss J, Krause A, "
        "Schoelkopf B. Amortized inference for causal structure learning. NeurIPS (2022).",
        "avici/assets of the Python package avici 1.0.7",
    ),
    "yeast_network": _Source(
        "yeast_network.tsv.gz",
        "MIT",
        "Balaji S, Babu MM, Iyer LM, Luscombe NM, Aravind L. Comprehensive analysis of combinatorial regulation using "
        "the transcriptional regulatory network of yeast. Journal of Molecular Biology 360, 213-227 (2006). "
        "doi:10.1016/j.jmb.2006.04.029. Copy: Lorch L, Sussex S, Rothfuss J, Krause A, Schoelkopf B. Amortized "
        "inference for causal structure learning. NeurIPS (2022).",
        "avici/assets of the Python package avici 1.0.7",
    ),
}


def _data_dir() -> Traversable:
    return resources.files("causcade") / "data"


def _read(file: str) -> bytes:
    """Unpacked bytes of a bundled file, or a RuntimeError where they are not those that were released."""
    try:
        content = (_data_dir() / file).read_bytes()
        lines = (_data_dir() / _REGISTRY).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as err:
        msg = f"bundled data file {file!r} or its registry is missing from the installed causcade. Reinstall causcade"
        raise RuntimeError(msg) from err
    expected = dict(line.split() for line in lines).get(file)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        msg = f"bundled data file {file!r} is damaged: sha256 is {found}, expected {expected}. Reinstall causcade"
        raise RuntimeError(msg)
    return gzip.decompress(content)


def _load_adata(name: str) -> AnnData:
    import anndata as ad

    source = _SOURCES[name]
    content = _read(source.file)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.h5ad"
        path.write_bytes(content)
        adata = ad.read_h5ad(path)
    adata.uns = {"citation": source.citation, "license": source.license, "source": source.source}
    return adata


def _load_counts(name: str) -> AnnData:
    from scipy.sparse import csr_matrix

    adata = _load_adata(name)  # the file holds small dense integers, which pack best
    adata.X = csr_matrix(adata.X, dtype=np.float32)
    return adata


def _load_network(name: str) -> pd.DataFrame:
    source = _SOURCES[name]
    content = io.BytesIO(_read(source.file))
    # dtype and keep_default_na: a gene may be called "NA" or "nan"
    table = pd.read_csv(content, sep="\t", dtype=str, keep_default_na=False)
    table.attrs = {"citation": source.citation, "license": source.license, "source": source.source}
    return table


def hipsc_tf_ko() -> AnnData:
    """Human iPS cells with transcription factors knocked out (CRISPR), days 2 to 5, 103 measured regulators.

    Returns
    -------
    anndata.AnnData
        14,945 cells x 103 genes; ``X`` holds raw UMI counts (CSR, float32). The 103 genes are all there is: their
        sum is no library size of the whole transcriptome (median 215).
        ``.obs["perturbation"]``: ``"control"`` (1,182 cells) or one of 23 knocked-out genes (149 to 1,545 cells),
        every one measured. ``.obs["day"]``: day of sampling, 2 to 5. ``.uns``: ``"citation"``,
        ``"license"``, ``"source"``. A fresh object at every call.

    Raises
    ------
    RuntimeError
        If the bundled file is missing or damaged.
    """
    return _load_counts("hipsc_tf_ko")


def h1_vcc_subset() -> AnnData:
    """H1 stem cells with genes repressed (CRISPRi), a small part of the Virtual Cell Challenge 2025 training set.

    Returns
    -------
    anndata.AnnData
        600 cells x 1,000 genes; ``X`` holds raw UMI counts (CSR, float32; 99.97 % are not zero).
        ``.obs["perturbation"]``: ``"control"``, ``"MED12"``, ``"SRC"``, ``"STAT1"``, ``"TET1"`` or ``"TMSB4X"``,
        100 cells each; also ``"target_gene"`` (controls ``"non-targeting"``), ``"guide_id"``, ``"batch"``.
        ``.var["gene_id"]``: Ensembl. ``.uns``: ``"citation"``, ``"license"``, ``"source"``. A fresh object at every
        call.

    Raises
    ------
    RuntimeError
        If the bundled file is missing or damaged.
    """
    return _load_counts("h1_vcc_subset")


def sachs() -> AnnData:
    """Protein signalling in human T cells: 11 phosphoproteins and lipids by flow cytometry, with five inhibitors.

    The inhibitors act on the activity of a molecule, not on its amount. The two experiments with activators and
    without anti-CD3/CD28 are left out, as is usual.

    Returns
    -------
    anndata.AnnData
        5,846 cells x 11 molecules; ``X`` holds raw intensities (dense float32; take logs before modelling).
        ``.obs["perturbation"]``: ``"control"`` (anti-CD3/CD28 with or without ICAM-2; 1,755 cells), ``"Akt"``,
        ``"Mek"``, ``"PIP2"``, ``"PIP3"`` (PI3K inhibited) or ``"PKC"``.
        ``.varp["consensus"]``: bool (11, 11), [cause, effect], the 18 edges of the consensus network as the cdt
        package has it, with one cycle, PIP3 -> PLCg -> PIP2 -> PIP3. ``.uns``: ``"citation"``, ``"license"``,
        ``"source"``. A fresh object at every call.

    Raises
    ------
    RuntimeError
        If the bundled file is missing or damaged.
    """
    return _load_adata("sachs")


def ecoli_network() -> pd.DataFrame:
    """Transcriptional network of Escherichia coli (RegulonDB 6.7), as published, with self-loops and cycles.

    Returns
    -------
    pandas.DataFrame
        3,758 rows with ``source`` (cause), ``target`` (effect) and ``sign``: ``"+"`` (1,993), ``"-"`` (1,541),
        ``"+-"`` (209) or ``"?"`` (15). 1,565 genes, 110 self-loops. ``.attrs``: ``citation``, ``license``,
        ``source``. See :func:`network_dag` for a graph to simulate from.

    Raises
    ------
    RuntimeError
        If the bundled file is missing or damaged.
    """
    return _load_network("ecoli_network")


def yeast_network() -> pd.DataFrame:
    """Transcriptional network of yeast (Balaji 2006), as published, with cycles and without signs.

    Returns
    -------
    pandas.DataFrame
        12,873 rows with ``source`` (cause), ``target`` (effect) and ``sign`` (always ``"?"``: not published).
        4,441 genes, no self-loops. ``.attrs``: ``citation``, ``license``, ``source``.

    Raises
    ------
    RuntimeError
        If the bundled file is missing or damaged.
    """
    return _load_network("yeast_network")


def _check_network(table: pd.DataFrame) -> None:
    missing = [column for column in ("source", "target") if column not in table.columns]
    if missing:
        msg = f"table has no column {missing}; it has {list(table.columns)}. Rename its columns to source, target, sign"
        raise ValueError(msg)
    if table.empty or table[["source", "target"]].isna().any(axis=None):
        msg = f"table needs at least one row and a gene name in every source and target; it has {len(table)} rows"
        raise ValueError(msg)
    twice = table.duplicated(["source", "target"])
    if twice.any():
        edge = table.loc[twice, ["source", "target"]].iloc[0].tolist()
        msg = f"table gives {int(twice.sum())} edges more than once, the first {edge}. Use table.drop_duplicates(...)"
        raise ValueError(msg)


def _signs(table: pd.DataFrame) -> np.ndarray:
    if "sign" not in table.columns:
        return np.zeros(len(table), dtype=np.int8)
    unknown = sorted(set(table["sign"].map(str)) - _SIGN.keys())
    if unknown:
        msg = f"table has signs {unknown[:5]}; use '+', '-', and '+-' or '?' where not known"
        raise ValueError(msg)
    return table["sign"].map(_SIGN).to_numpy(np.int8)


def network_dag(table: pd.DataFrame, *, rng: Rng = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a signed acyclic graph of a published network, to simulate from and to score against.

    Self-loops are dropped and cycles broken, see :func:`causcade.simulate.graphs.break_cycles`. **Which edges go
    depends on** ``rng``, and so does the truth: keep it fixed within a comparison. The order of the rows does not
    matter.

    Parameters
    ----------
    table
        One row an edge: ``source`` (cause), ``target`` (effect), and ``sign`` if known.
    rng
        Which edges of a cycle go, and the signs not known (``"+-"``, ``"?"`` or no column), which are drawn edge by
        edge, ``"+"`` with its share among the known ones, one half where none is known.

    Returns
    -------
    genes : numpy.ndarray
        (n_genes,) str, sorted. Genes that lose their only edge stay.
    adjacency : numpy.ndarray
        bool (n_genes, n_genes), [cause, effect], acyclic.
    sign : numpy.ndarray
        int8 (n_genes, n_genes), [cause, effect]: 1 activates, -1 represses, 0 no edge.

    Raises
    ------
    ValueError
        If a column or name is missing, an edge is given twice, or a sign is none of ``"+"``, ``"-"``, ``"+-"``,
        ``"?"``.
    """
    import torch

    from causcade.simulate._random import numpy_generator
    from causcade.simulate.graphs import break_cycles

    _check_network(table)
    known = _signs(table)
    generator = numpy_generator(rng)
    edges = table[["source", "target"]].astype(str).to_numpy(str)
    genes, position = np.unique(edges, return_inverse=True)
    source, target = position.reshape(edges.shape).T
    adjacency = np.zeros((len(genes), len(genes)), dtype=bool)
    adjacency[source, target] = True
    adjacency = break_cycles(torch.from_numpy(adjacency), rng=generator).numpy()
    sign = np.zeros(adjacency.shape, dtype=np.int8)
    sign[source, target] = known
    open_edges = np.nonzero(adjacency & (sign == 0))
    p_activating = (known > 0).sum() / (known != 0).sum() if known.any() else 0.5
    sign[open_edges] = np.where(generator.random(len(open_edges[0])) < p_activating, 1, -1)
    return genes, adjacency, sign * adjacency


def fetch(url: str, sha256: str, name: str, *, cache_dir: str | Path | None = None, progress_bar: bool = False) -> Path:
    """Download a file once, check it, and give its path. A file already there with the right sha256 is kept.

    Parameters
    ----------
    url
        ``https://``, ``http://``, ``ftp://`` or ``doi:`` address.
    sha256
        Hexadecimal sha256 of the file; required, as data that may change under a script helps nobody.
    name
        File name in the cache.
    cache_dir
        Folder; by default the user's cache folder for causcade.
    progress_bar
        Show a bar while downloading.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If ``sha256`` is not 64 hexadecimal digits or ``name`` is not a plain file name.
    RuntimeError
        If the download fails, or brings something else than expected (which is then deleted).
    """
    import pooch

    if len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef"):
        msg = f"sha256 must be 64 hexadecimal digits; got {sha256!r}"
        raise ValueError(msg)
    if name in {"", ".", ".."} or Path(name).name != name:
        msg = f"name must be a plain file name, without a folder; got {name!r}"
        raise ValueError(msg)
    folder = Path(cache_dir) if cache_dir is not None else Path(pooch.os_cache("causcade"))
    try:
        found = pooch.retrieve(url, f"sha256:{sha256.lower()}", fname=name, path=folder, progressbar=progress_bar)
    except (OSError, ValueError) as err:  # requests' errors are OSErrors; pooch's checksum error is a ValueError
        msg = f"could not get {name!r} from {url}: {err}. Or put the file at {folder / name} yourself"
        raise RuntimeError(msg) from err
    return Path(found)
