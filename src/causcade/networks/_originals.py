"""Reactome, STRING and CollecTRI from where they are published, checked, as tables of one format."""

from __future__ import annotations

import gzip
import hashlib
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from causcade._files import put
from causcade.networks._tables import KINDS, check_table, reactome
from causcade.regimes.labels import suggest

__all__ = ["ORIGINALS", "fetch_network"]

logger = logging.getLogger(__name__)

#: Files of each network: name in the cache, and address.
ORIGINALS: dict[str, dict[str, str]] = {
    "reactome": {
        "ReactomePathways.gmt.zip": "https://reactome.org/download/current/ReactomePathways.gmt.zip",
        "ReactomePathwaysRelation.txt": "https://reactome.org/download/current/ReactomePathwaysRelation.txt",
    },
    "string": {
        "9606.protein.links.v12.0.txt.gz": "https://stringdb-downloads.org/download/protein.links.v12.0/"
        "9606.protein.links.v12.0.txt.gz",
        "9606.protein.info.v12.0.txt.gz": "https://stringdb-downloads.org/download/protein.info.v12.0/"
        "9606.protein.info.v12.0.txt.gz",
    },
    "collectri": {"CollecTRI.csv": "https://rescued.omnipathdb.org/CollecTRI.csv"},
}


def fetch_network(
    name: str,
    sha256: Mapping[str, str] | None = None,
    *,
    least_score: int = 700,
    urls: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    progress_bar: bool = False,
) -> pd.DataFrame:
    """Download a human network once, check it, and read it.

    Parameters
    ----------
    name
        ``"reactome"`` (gene sets and hierarchy of pathways; the current release), ``"string"`` (version 12, functional
        links) or ``"collectri"`` (transcription factors and their targets; the sign is left out).
    sha256
        Hexadecimal sha256 of each file by its name. Files that are not named are taken as they come: what they were is
        in the log and in ``.attrs["sha256"]`` of the result, to be given the next time, so that an analysis does not
        change unseen.
    least_score
        Of links in STRING, up to 1,000; 700 is what STRING calls high confidence.
    urls
        Other addresses of files, by their name.
    cache_dir
        Folder; by default the user's cache folder for causcade.
    progress_bar
        Show a bar while downloading.

    Returns
    -------
    As :func:`read_network`; weights are 1, those of STRING the score by 1,000. ``.attrs``: ``sha256``.

    Raises
    ------
    ValueError
        If there is no such network or file, or nothing is left of it.
    RuntimeError
        If a download fails, or brings something else than expected.
    """
    if name not in ORIGINALS:
        msg = f"There is no network {name!r}.{suggest(name, ORIGINALS)} There are {', '.join(ORIGINALS)}."
        raise ValueError(msg)
    files = ORIGINALS[name] | dict(urls or {})
    if unknown := sorted((set(files) | set(sha256 or {})) - set(ORIGINALS[name])):
        msg = f"{name} has no file {unknown[0]!r}; it has {', '.join(ORIGINALS[name])}."
        raise ValueError(msg)
    paths = {
        file: _retrieve(url, file, (sha256 or {}).get(file), cache_dir, progress_bar=progress_bar)
        for file, url in files.items()
    }
    first, *others = paths.values()
    if name == "reactome":
        table = reactome(_unzipped(first), others[0])
    elif name == "string":
        table = _string(first, others[0], least_score)
    else:
        table = check_table(pd.read_csv(first, dtype=str, keep_default_na=False), KINDS[0], ["source", "target"])
    table.attrs["sha256"] = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in paths.items()}
    for file, found in table.attrs["sha256"].items():
        logger.info("%s: sha256 %s", file, found)
    return table


def _retrieve(url: str, file: str, sha256: str | None, cache_dir: str | Path | None, *, progress_bar: bool) -> Path:
    import pooch

    folder = Path(cache_dir) if cache_dir is not None else Path(pooch.os_cache("causcade"))
    known = None if sha256 is None else f"sha256:{sha256.lower()}"
    try:
        return Path(pooch.retrieve(url, known, fname=file, path=folder, progressbar=progress_bar))
    except (OSError, ValueError) as err:
        msg = f"could not get {file!r} from {url}: {err}. Or put the file at {folder / file} yourself"
        raise RuntimeError(msg) from err


def _unzipped(path: Path) -> Path:
    """The gene sets beside their archive."""
    out = path.with_suffix("")
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".gmt")]
        if len(names) != 1:
            msg = f"{path} holds {len(names)} files of gene sets; one is expected."
            raise ValueError(msg)
        put(out, archive.read(names[0]))  # another process may be reading it
    return out


def _string(links: Path, info: Path, least_score: int) -> pd.DataFrame:
    """Links between genes by their names; each is listed both ways, and is kept once."""
    names = pd.read_csv(info, sep="\t", dtype=str, keep_default_na=False)
    symbol = dict(zip(names.iloc[:, 0], names["preferred_name"], strict=True))
    with gzip.open(links, "rt") as lines:
        table = pd.read_csv(lines, sep=" ")
    table = table[(table["combined_score"] >= least_score) & (table["protein1"] < table["protein2"])]
    ends = {end: table[protein].map(symbol) for end, protein in (("source", "protein1"), ("target", "protein2"))}
    found = pd.DataFrame({**ends, "weight": table["combined_score"] / 1000}).dropna()
    return check_table(found.reset_index(drop=True), KINDS[0], None)
