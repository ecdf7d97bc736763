"""Local causal graphs: ours against causal-learn 0.1.3.8 on the same rows, seconds and agreement.

``python -m benchmarks.fci --page docs/benchmarks/fci.md``; ``--fixture tests/data/fci.json`` writes the graphs of
causal-learn that the tests compare with. Its FCI needs more packages than its own list says; without anything else::

    pip install causal-learn==0.1.3.8
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np

from causcade import citests
from causcade.citests import _fci
from causcade.simulate import graphs, scm

GENES, CELLS = (10, 20, 100), (100, 300, 1000)
MECHANISMS = ("linear", "mlp", "rff", "sigmoid")
EDGES = (1, 2, 4)  # a gene
PEER = "0.1.3.8"
TOKENS = {(0, 0): 1, (-1, 1): 2, (1, -1): 3, (1, 1): 4, (1, 2): 5, (2, 1): 6, (2, 2): 7}
HEAD = """# Benchmark: local causal graphs

FCI with Fisher z at level 0.05 on subsets of five genes, causal-learn {peer} against `causcade.citests.local_fci`, on
the same rows and subsets: half drawn at random, half by correlation. Random models on Erdős-Rényi graphs of 1, 2 and
4 edges per gene, mechanisms {mechanisms}. CPU seconds per 100 graphs, on one core in the same run, compilation left
out; *search* starts from the correlation matrix, *with correlation* includes it. Made by `python -m benchmarks.fci`.

"""


class Data(NamedTuple):
    """One simulated set of cells."""

    mechanism: str
    edges: float
    x: np.ndarray
    seed: int


def load_peer() -> Any:
    """Its FCI, or the end of the program with a word on how to get it."""
    try:
        from importlib.metadata import version

        from causallearn.search.ConstraintBased.FCI import fci
    except ImportError as error:
        sys.exit(
            f"causal-learn {PEER} is needed in a virtual environment beside causcade: {error}. "
            f"Run: pip install causal-learn=={PEER}"
        )
    if version("causal-learn") != PEER:
        sys.exit(f"causal-learn {PEER} is needed, not {version('causal-learn')}: later ones apply more rules.")
    return fci


def peer_tokens(fci: Any, x: np.ndarray) -> np.ndarray | None:
    """Tokens of its graph; None if it fails."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            marks = fci(x, "fisherz", 0.05, show_progress=False)[0].graph
    except (ValueError, KeyError, IndexError, RecursionError):
        return None
    out = [[TOKENS[marks[i, j], marks[j, i]] if i != j else 0 for j in range(len(marks))] for i in range(len(marks))]
    return np.array(out, np.int8)


def data_sets(genes: int, cells: int, seed: int) -> Iterator[Data]:
    """One for every mechanism and density."""
    for i, mechanism in enumerate(MECHANISMS):
        for j, edges in enumerate(EDGES):
            own = seed * 100_000 + genes * 100 + cells + 10 * i + j
            adjacency = graphs.erdos_renyi(genes, edges, rng=own)
            model = scm.random_scm(adjacency, mechanism=mechanism, rng=own + 1)
            yield Data(mechanism, edges, model.sample(cells, rng=own + 2).numpy().astype(np.float64), own)


def setting(fci: Any, genes: int, cells: int, *, n_subsets: int, seed: int) -> dict[str, float]:
    """One row of the table."""
    total = dict.fromkeys(("graphs", "failed", "same graphs", "same tokens", "peer", "search", "correlation"), 0.0)
    for data in data_sets(genes, cells, seed):
        start = time.process_time()
        r = np.corrcoef(data.x.T)
        total["correlation"] += time.process_time() - start
        subsets, _ = citests.local_graphs(r, cells, n_subsets, rng=data.seed)
        start = time.process_time()
        ours = citests.local_fci(r, subsets, cells)
        total["search"] += time.process_time() - start
        start = time.process_time()
        theirs = [peer_tokens(fci, data.x[:, nodes]) for nodes in subsets]
        total["peer"] += time.process_time() - start
        for a, b in zip(ours, theirs, strict=True):
            total["graphs"] += b is not None
            total["failed"] += b is None
            total["same graphs"] += b is not None and bool((a == b).all())
            total["same tokens"] += 0 if b is None else int(((a == b) & (a > 0)).sum())
    return {"genes": genes, "cells": cells, **total}


def table(rows: list[dict[str, float]]) -> str:
    """Markdown, with a line over all."""
    lines = [
        "| genes | cells | graphs | identical graphs % | identical tokens % | failed | causal-learn s | search s "
        "| ratio | with correlation s | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    sums = {key: sum(row[key] for row in rows) for key in rows[0]}
    for row in (*rows, {**sums, "genes": "all", "cells": ""}):
        n = row["graphs"]
        each = 100 / (n + row["failed"])
        peer, search, both = (each * v for v in (row["peer"], row["search"], row["search"] + row["correlation"]))
        lines.append(
            f"| {row['genes']} | {row['cells']} | {n:.0f} | {100 * row['same graphs'] / n:.2f} "
            f"| {5 * row['same tokens'] / n:.3f} | {row['failed']:.0f} | {peer:.3f} | {search:.6f} "
            f"| {peer / search:.0f} | {both:.6f} | {peer / both:.0f} |"
        )
    return "\n".join(lines)


def late_pass(r: np.ndarray, cells: int) -> str:
    """What the possible-d-sep pass, where causal-learn has most habits of its own, does to a graph.

    ``removed``: takes an edge away. ``kept``: leaves one that it could take away. ``plain``: neither.
    """
    k = len(r)
    partial, mark, apart = np.zeros((2**k, k, k)), np.zeros((k, k), np.int8), np.zeros((k, k), np.int64)
    _fci.partial_correlations(r, partial)
    critical = np.append(_fci.critical_values(k, cells, 0.05), [0.0, 0.0])  # nothing is tested given all but one
    free = np.abs(partial) < critical[_fci.SIZE[: 2**k], None, None]
    _fci.skeleton(free, mark, apart)
    _fci.colliders(mark, apart)
    before = np.count_nonzero(mark)
    _fci.prune(free, mark, apart)
    if np.count_nonzero(mark) < before:
        return "removed"
    for a, b in np.argwhere(mark):
        members = _fci.possible_dsep(mark, a, b)
        if any(free[s, a, b] for s in range(2**k) if s & ~members == 0 and _fci.SIZE[s] > 1):
            return "kept"
    return "plain"


def write_fixture(fci: Any, path: Path, *, n_each: int = 65) -> None:
    """Correlations, cells and graphs of causal-learn, as many of each kind of late pass."""
    pools: dict[str, list[tuple[int, np.ndarray]]] = {"plain": [], "removed": [], "kept": []}
    for genes, cells in ((10, 100), (10, 300), (10, 1000)):
        for data in data_sets(genes, cells, 77):
            subsets, _ = citests.local_graphs(np.corrcoef(data.x.T), cells, 100, rng=data.seed)
            for x in (data.x[:, nodes] for nodes in subsets):
                pools[late_pass(np.corrcoef(x.T), cells)].append((cells, x))
    upper, items = np.triu_indices(5, 1), []
    for pool in pools.values():
        for i in np.unique(np.linspace(0, len(pool) - 1, n_each).astype(int)):
            cells, x = pool[i]
            tokens = peer_tokens(fci, x)
            if tokens is not None:
                items.append([cells, np.corrcoef(x.T)[upper].round(6).tolist(), tokens[upper].tolist()])
    path.parent.mkdir(parents=True, exist_ok=True)
    note = (
        f"cells, correlations and tokens (upper triangles) of causal-learn {PEER}; python -m benchmarks.fci --fixture"
    )
    path.write_text(json.dumps({"note": note, "graphs": items}, separators=(",", ":")) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=40, help="of each of the 12 data sets in a setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="also write the table to this page")
    parser.add_argument("--fixture", type=Path, help="only write the graphs that the tests compare with")
    args = parser.parse_args(argv)
    fci = load_peer()
    if args.fixture:
        write_fixture(fci, args.fixture)
        return
    start, load = time.process_time(), os.getloadavg()[0]
    citests.local_graphs(np.eye(5), 100, 2, rng=0)
    first = time.process_time() - start
    rows = [setting(fci, genes, cells, n_subsets=args.subsets, seed=args.seed) for genes in GENES for cells in CELLS]
    text = table(rows)
    end = f"First call (compiled, or read from disk) {first:.1f} s; load {load:.1f} to {os.getloadavg()[0]:.1f}."
    print(f"{text}\n\n{end}")
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        head = HEAD.format(peer=PEER, mechanisms=", ".join(MECHANISMS))
        args.page.write_text(f"{head}{text}\n\n{end}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
