"""Every AnnData key the package writes, as functions of ``key_added``.

No other file spells such a key. ``X_sd`` holds the spread, ``X_fdr`` the false discovery rate and
``X_pvalue`` the empirical p value of what lies under ``X``.
"""

from __future__ import annotations

from typing import Final

REGIMES: Final = "regimes"
CAUSES: Final = "causes"
TARGETS: Final = "targets"
GRAPH: Final = "graph"
GRACEVAE: Final = "gracevae"
DOSE_RESPONSE: Final = "dose_response"
REVERSAL: Final = "reversal"
SUGGESTIONS: Final = "suggestions"
UNITS: Final = "units"
SUMMARY: Final = "summary"

# parts of .uns["regimes"]
TABLE: Final = "table"
LABELS: Final = "labels"
PARAMS: Final = "params"
NAMES: Final = "names"
METHOD: Final = "method"

# parts of .uns["summary"]
CELLS: Final = "cells"
TOTALS: Final = "totals"

# parts of what `tl.embed` writes
PROGRAMS: Final = "programs"
LATENT_GRAPH: Final = "graph"

# columns read from a file in CELLxGENE's layout
CELLXGENE_ID: Final = "genetic_perturbation_id"
CELLXGENE_STRATEGY: Final = "genetic_perturbation_strategy"
CELLXGENE_UNS: Final = "genetic_perturbations"

POPULARITY: Final = "popularity"
KNOCKOUT_T: Final = "knockout_t"
CORRELATION: Final = "correlation"
LFC: Final = "lfc"
WILCOXON: Final = "wilcoxon"
FUSED: Final = "fused"
PRECISION: Final = "precision"
DAG: Final = "dag"
LOADINGS: Final = "loadings"
CHANGE: Final = "change"
#: What follows the stem of a result.
PARTS: Final = (
    "sd",
    "pvalue",
    "fdr",
    "n_draws",
    POPULARITY,
    KNOCKOUT_T,
    CORRELATION,
    LFC,
    WILCOXON,
    FUSED,
    PRECISION,
    DAG,
    LOADINGS,
    CHANGE,
)


def sd(key: str) -> str:
    """Key of the spread over draws of what lies under `key`."""
    return f"{key}_sd"


def pvalue(key: str) -> str:
    """Key of the empirical p values of what lies under `key`."""
    return f"{key}_pvalue"


def fdr(key: str) -> str:
    """Key of the false discovery rates of what lies under `key`."""
    return f"{key}_fdr"


def n_draws(key: str) -> str:
    """Key of the number of draws that scored each entry under `key`."""
    return f"{key}_n_draws"


def dag(key: str) -> str:
    """Key of the edges that are left when every cycle among those called under `key` is cut."""
    return f"{key}_{DAG}"


def baseline(key: str, name: str) -> str:
    """Key of the baseline `name` (`POPULARITY`, `KNOCKOUT_T`, ...) next to what lies under `key`."""
    return f"{key}_{name}"


def embedding(key: str) -> str:
    """Key in ``.obsm`` of a latent space; scanpy's plots look for the ``X_``."""
    return f"X_{key}"


def loadings(key: str) -> str:
    """Key in ``.varm`` of the effects of the programs under `key` on genes."""
    return f"{key}_{LOADINGS}"


def change(key: str) -> str:
    """Key in ``.varm`` of the change of state that the perturbations under `key` reverse, or not."""
    return f"{key}_{CHANGE}"


def summary(part: str) -> str:
    """Key of a part of a summary: sums in ``.varm``, what is known of the cells in ``.obs``."""
    return f"{SUMMARY}_{part}"


def check_key(key_added: object) -> str:
    """Return `key_added` if it can name an AnnData entry, else raise.

    Raises
    ------
    ValueError
        If it is not text, is empty, or holds a "/", which h5ad and zarr read as a folder.
    """
    if not isinstance(key_added, str) or not key_added.strip() or "/" in key_added:
        msg = f'key_added must be non-empty text without "/", got {key_added!r}.'
        raise ValueError(msg)
    return key_added
