"""Shared by all tests: one thread per worker, figures that need no screen, a small screen, untrained weights."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numba are imported: xdist runs several workers
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

N_GENES = 32
N_PERTURBED = 12


def _counts(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Counts of a screen in which G00 drives G01, G01 drives G02, and G03 drives G04 and G05; the rest is noise."""
    parents = {1: 0, 2: 1, 4: 3, 5: 3}
    labels = ["control"] * 60 + [f"G{g:02d}" for g in range(N_PERTURBED) for _ in range(8)]
    rates = rng.uniform(3, 12, N_GENES)
    level = np.ones((len(labels), N_GENES))
    for gene in range(N_GENES):
        if gene in parents:
            level[:, gene] = 0.1 + 0.9 * level[:, parents[gene]]
        level[:, gene] *= rng.lognormal(0, 0.3, len(labels))
        level[np.array(labels) == f"G{gene:02d}", gene] = 0.02
    return rng.poisson(level * rates).astype(np.float32), labels


@pytest.fixture
def screen() -> Any:
    """A small screen with known effects and two batches; regimes are found."""
    import anndata as ad
    import pandas as pd

    from causcade import pp

    counts, labels = _counts(np.random.default_rng(0))
    obs = pd.DataFrame({"pert": labels, "batch": ["a", "b"] * (len(labels) // 2)})
    obs.index = [f"c{i}" for i in range(len(labels))]
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{g:02d}" for g in range(N_GENES)]))
    pp.regimes(adata, "pert", "control")
    return adata


def _save_untrained(folder: Path, network: str, subset: int) -> Path:
    from safetensors.torch import save_file

    from causcade.nn.cells import CellStream, CellStreamConfig
    from causcade.nn.differential import Differential, DifferentialConfig
    from causcade.nn.pair_stream import PairStream, PairStreamConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if network == "pairs":
            net: Any = PairStream(PairStreamConfig(width=8, layers=1, heads=2, hidden=16, paths=2))
            torch.nn.init.normal_(net.head[-1].weight)  # it starts at zero, which would hide the layers from tests
        elif network == "differential":
            sizes = {
                "width": 8,
                "heads": 2,
                "hidden": 8,
                "structure_layers": 1,
                "difference_layers": 1,
                "paths": 2,
                "local": 4,
            }
            net = Differential(DifferentialConfig(**sizes))
        else:
            net = CellStream(CellStreamConfig(width=4, layers=1, heads=2, hidden=8))
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    config = {"network": network, "sizes": net.config.to_dict(), "subset": subset, "cells": 40}
    if network == "differential":
        config["model"] = "CDN"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Path:
    """Folder of an untrained pair network that takes all genes of `screen` in one set."""
    return _save_untrained(tmp_path / "tiny-pairs", "pairs", 40)


@pytest.fixture
def tiny_cell_weights(tmp_path: Path) -> Path:
    """Folder of an untrained cell network."""
    return _save_untrained(tmp_path / "tiny-cells", "cells", 40)


@pytest.fixture
def tiny_target_weights(tmp_path: Path) -> Path:
    """Folder of an untrained differential network."""
    return _save_untrained(tmp_path / "tiny-differential", "differential", 40)


def _state(value: Any) -> Any:
    """Anything an AnnData holds as plain nested tuples."""
    from scipy import sparse

    if hasattr(value, "to_memory") and not hasattr(value, "obs"):
        value = value.to_memory()
    if sparse.issparse(value):
        return (value.format, value.shape, *map(_state, (value.tocsr().data, value.tocsr().indices)))
    if hasattr(value, "items") and not hasattr(value, "dtypes"):
        return tuple((str(k), _state(v)) for k, v in value.items())
    if hasattr(value, "to_dict"):
        return (value.to_dict(), list(value.index), [str(d) for d in value.dtypes])
    array = np.asarray(value)
    return (str(array.dtype), array.shape, array.tolist() if array.dtype.kind in "OUST" else array.tobytes())


@pytest.fixture
def fingerprint() -> Callable[[Any], str]:
    """Deep hash of an AnnData: X, layers, tables, and everything in uns, obsm, varm, obsp, varp."""

    def of(adata: Any) -> str:
        slots = ("X", "layers", "obs", "var", "uns", "obsm", "varm", "obsp", "varp")
        state = (adata.is_view, *(_state(getattr(adata, slot)) for slot in slots))
        return hashlib.sha256(pickle.dumps(state)).hexdigest()

    return of
