"""Large screens: one pass over cells in a file, then answers from its summary; wall and CPU seconds, peak memory.

``python -m benchmarks.scale --cells 2000000 --genes 8000 --perturbations 2000 --folder DIR`` writes a synthetic zarr
(about 0.7 kB a cell), and runs every step in a process of its own. Cells are drawn molecule by molecule (350 a cell before
losses, so about 280 genes are seen, as in shallow screens), never through a dense matrix: a knocked-down gene loses 80% of its molecules
and twenty genes downstream 40%. Files and the table ``scale.json`` are left in the folder; ``--clean`` deletes the files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

LINEAR = (50_000, 100_000, 200_000, 400_000)
MOLECULES, BLOCK, CHUNK = 350, 20_000, 2_000_000
CONTROLS = 0.1  # share of the cells
DOWNSTREAM = 20


def write_screen(
    path: Path, n_cells: int, n_genes: int, n_perturbations: int, *, n_batches: int = 8, seed: int = 0
) -> None:
    """Write a synthetic screen as CSR in zarr, block by block."""
    import zarr
    from zarr.codecs import BloscCodec

    rng = np.random.default_rng(seed)
    names = np.array([f"G{i:05d}" for i in range(n_genes)])
    codes = rng.integers(1, n_perturbations + 1, n_cells)
    codes[rng.random(n_cells) < CONTROLS] = 0
    levels = rng.lognormal(0, 1.5, n_genes)
    drawn_from = np.repeat(np.arange(n_genes), 1 + np.floor(levels / levels.sum() * 2**16).astype(int))
    kept = np.full((n_perturbations + 1, n_genes), 255, dtype=np.uint8)
    for regime in range(1, n_perturbations + 1):
        kept[regime, rng.integers(n_genes, size=DOWNSTREAM)] = 153
        kept[regime, regime - 1] = 51
    root = zarr.open_group(path, mode="w")
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    x = root.create_group("X")
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, n_genes]})
    lz4 = BloscCodec(cname="lz4", shuffle="shuffle")
    data, indices = (
        x.create_array(name, shape=(0,), chunks=(CHUNK,), dtype=kind, compressors=lz4)
        for name, kind in (("data", "float32"), ("indices", "int32"))
    )
    sizes = []
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, n_cells, BLOCK):
        here = codes[start : start + BLOCK]
        row = np.repeat(np.arange(len(here)), rng.poisson(MOLECULES, len(here)))
        gene = drawn_from[rng.integers(len(drawn_from), size=len(row))]
        alive = rng.integers(256, size=len(row), dtype=np.uint8) <= kept[here[row], gene]
        place, count = np.unique(row[alive] * n_genes + gene[alive], return_counts=True)
        sizes.append(np.bincount(place // n_genes, minlength=len(here)))
        held.append((count.astype(np.float32), (place % n_genes).astype(np.int32)))
        if sum(len(c) for c, _ in held) >= 2 * CHUNK or start + BLOCK >= n_cells:
            _append(data, indices, held, last=start + BLOCK >= n_cells)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    x.create_array("indptr", data=indptr.astype(np.int64))
    labels = np.where(codes == 0, "control", names[np.maximum(codes, 1) - 1])
    batch = rng.integers(n_batches, size=n_cells)
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels), "batch": pd.Categorical(batch.astype(str))})
    obs.index = np.char.add("c", np.arange(n_cells).astype(str))
    ad.io.write_elem(root, "obs", obs)
    ad.io.write_elem(root, "var", pd.DataFrame(index=names))


def _append(data, indices, held: list[tuple[np.ndarray, np.ndarray]], *, last: bool) -> None:
    """Add whole chunks to the file, and keep the rest for the next time."""
    values, genes = (np.concatenate(parts) for parts in zip(*held, strict=True))
    whole = len(values) if last else len(values) // CHUNK * CHUNK
    data.append(values[:whole])
    indices.append(genes[:whole])
    held[:] = [(values[whole:], genes[whole:])]


def open_screen(path: Path) -> ad.AnnData:
    """The screen with its matrix left in the file."""
    import zarr

    root = zarr.open_group(path, mode="r")
    parts = {name: ad.io.read_elem(root[name]) for name in ("obs", "var")}
    return ad.AnnData(ad.io.sparse_dataset(root["X"]), **parts)


def step_write(folder: Path, n_cells: int, n_genes: int, n_perturbations: int) -> dict[str, object]:
    path = folder / f"screen-{n_cells}.zarr"
    write_screen(path, n_cells, n_genes, n_perturbations)
    return {"gigabytes": round(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e9, 2)}


def step_pass(folder: Path, n_cells: int, batch_key: str | None = "batch") -> dict[str, object]:
    from causcade import pp

    out = folder / f"summary-{n_cells}.h5ad"
    adata = open_screen(folder / f"screen-{n_cells}.zarr")
    summary = pp.summarise(adata, "perturbation", "control", batch_key=batch_key, path=out, progress_bar=False)
    return {"kept": summary.n_obs, "gigabytes": round(out.stat().st_size / 1e9, 2)}


def step_answers(folder: Path, n_cells: int) -> dict[str, object]:
    """Causes of 20 genes, then targets of 20 perturbations, as in a notebook: read once."""
    from causcade import tl

    summary = ad.read_h5ad(folder / f"summary-{n_cells}.h5ad")
    genes = [str(g) for g in summary.var_names[1000:1020]]
    names = [str(n) for n in summary.uns["regimes"]["table"]["name"].iloc[1:21]]
    times = [time.perf_counter()]
    tl.causes(summary, genes, batch_key="batch", n_half=0, progress_bar=False)
    times.append(time.perf_counter())
    tl.targets(summary, names, batch_key="batch", progress_bar=False)
    times.append(time.perf_counter())
    z, lfc = summary.varm["causes_knockout_t"], summary.varm["targets_lfc"]
    own = [float(lfc[summary.var_names.get_loc(n), i]) for i, n in enumerate(names)]
    causes_s, targets_s = np.diff(times).round(1).tolist()
    told = {
        "largest |z|": round(float(np.nanmax(np.abs(z))), 1),
        "mean lfc of the target": round(float(np.mean(own)), 3),
    }
    return {"genes": len(genes), "causes_s": causes_s, "perturbations": len(names), "targets_s": targets_s} | told


def measured(step: str, folder: Path, *sizes: int) -> dict[str, object]:
    """Run a step in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.scale",
        "--step",
        step,
        "--folder",
        str(folder),
        "--sizes",
        *map(str, sizes),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def _step(name: str, folder: Path, sizes: list[int]) -> None:
    start = time.perf_counter()
    found = globals()[f"step_{name}"](folder, *sizes)
    used = resource.getrusage(resource.RUSAGE_SELF)
    row = {"step": name, "cells": sizes[0], "wall_s": round(time.perf_counter() - start, 1)}
    row |= {"cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_gb": round(used.ru_maxrss / 1e6, 2)}
    print(json.dumps(row | found | {"load": round(os.getloadavg()[0], 1)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2_000_000)
    parser.add_argument("--genes", type=int, default=8_000)
    parser.add_argument("--perturbations", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clean", action="store_true", help="delete screens and summaries once they are measured")
    parser.add_argument("--only", action="store_true", help="only --cells, without the smaller screens")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.step:
        _step(asked.step, asked.folder, asked.sizes)
        return
    rows = []
    smaller = () if asked.only else tuple(n for n in LINEAR if n < asked.cells)
    for n_cells in (*smaller, asked.cells):
        rows.append(measured("write", asked.folder, n_cells, asked.genes, asked.perturbations))
        rows.append(measured("pass", asked.folder, n_cells))
        if n_cells == asked.cells:
            rows.append(measured("answers", asked.folder, n_cells))
        if asked.clean:
            shutil.rmtree(asked.folder / f"screen-{n_cells}.zarr")
            (asked.folder / f"summary-{n_cells}.h5ad").unlink()
    (asked.folder / "scale.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
