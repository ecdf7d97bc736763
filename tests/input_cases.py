"""Bad, odd and unusual inputs, the functions that meet them, and what each must answer.

``E``: an error that says what, where and how to mend it, with the data left as they were. ``W``: a warning, and a defined answer.
``O``: it works.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import causcade as cc

N_GENES = 14
QUIET: dict[str, Any] = {"progress_bar": False}
Change = Callable[[ad.AnnData], Any]
Entry = Callable[..., Any]


def plain() -> ad.AnnData:
    """Counts of 90 cells: controls, knock-outs of G00 to G02, and one combination."""
    rng = np.random.default_rng(0)
    labels = ["control"] * 40 + ["G00"] * 14 + ["G01"] * 12 + ["G02"] * 12 + ["G00+G01"] * 12
    rates = rng.uniform(4, 12, N_GENES)
    level = np.ones((len(labels), N_GENES))
    for gene in range(3):
        level[[f"G{gene:02d}" in label for label in labels], gene] = 0.05
    obs = pd.DataFrame({"pert": labels, "batch": ["a", "b"] * 45}, index=[f"c{i}" for i in range(90)])
    return ad.AnnData(
        rng.poisson(level * rates).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=[f"G{g:02d}" for g in range(N_GENES)]),
    )


# --- who is asked -----------------------------------------------------------------------------------------------------


def regimes(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    cc.pp.regimes(adata, "pert", "control", **how)


def summarise(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> ad.AnnData:
    return cc.pp.summarise(adata, *_labels(adata), max_cells=20, max_controls=40, **QUIET | how)


def causes(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    cc.tl.causes(adata, **{"genes": ["G05"], "model": weights["pairs"], "n_half": 0} | QUIET | how)


def targets(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    cc.tl.targets(adata, ["G00"], **{"model": weights["differential"], "n_half": 0, "n_draws": 1} | QUIET | how)


def graph(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    cc.tl.graph(adata, **{"genes": ["G00", "G01", "G05", "G06"], "n_draws": 1} | QUIET | how)


def reversal(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    cc.tl.reversal(adata, ("a", "b"), "batch", within="all", **{"n_draws": 2, "n_null": 2} | QUIET | how)


def evaluate(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> pd.DataFrame:
    few: dict[str, Any] = {"split": "perturbation", "hold_out": "G02", "n_boot": 10, "n_repeats": 1}
    key, control = _labels(adata)
    return cc.evaluate(adata, ["perturbed_mean"], perturbation_key=key, control=control, **few | QUIET | how)


def gim(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    key, control = _labels(adata)
    cc.models.GIM.setup_anndata(adata, perturbation_key=key, control=control, **how)


def gracevae(adata: ad.AnnData, weights: dict[str, str], **how: Any) -> None:
    key, control = _labels(adata)
    cc.models.GraCEVAE.setup_anndata(adata, perturbation_key=key, control=control, **how)


def _labels(adata: ad.AnnData) -> tuple[Any, Any]:
    """Labels are read anew, unless regimes were made before."""
    return (None, None) if "regimes" in adata.uns else ("pert", "control")


READERS: dict[str, Entry] = {
    "pp.summarise": summarise, "tl.causes": causes, "tl.targets": targets, "tl.graph": graph, "tl.reversal": reversal,
    "evaluate": evaluate, "GIM.setup_anndata": gim, "GraCEVAE.setup_anndata": gracevae,
}  # fmt: skip
#: These leave no numbers to compare.
WITHOUT_NUMBERS = ("pp.regimes", "GIM.setup_anndata", "GraCEVAE.setup_anndata")
LABELLERS: dict[str, Entry] = {
    "pp.regimes": regimes, "pp.summarise": summarise, "evaluate": evaluate, "GIM.setup_anndata": gim, "GraCEVAE.setup_anndata": gracevae,
}  # fmt: skip


# --- what is wrong, odd or unusual ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A row of the table.

    ``change`` alters the data in place, or returns others; ``answer`` holds for all entries but those in ``but``, whose ``None``
    is an entry that the case does not apply to; ``says`` is in the error or warning; ``equal``: the answer must be that to
    the data as they were; ``how``: arguments.
    """

    change: Change
    answer: str
    says: str = ""
    but: dict[str, str | None] = field(default_factory=dict)
    equal: bool = False
    how: dict[str, Any] = field(default_factory=dict)


def x_of(convert: Callable[[np.ndarray], Any]) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.X = convert(np.asarray(adata.X))

    return change


def put(value: float) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.X[7, 3] = value

    return change


def unsorted(x: np.ndarray) -> sparse.csr_matrix:
    m = sparse.csr_matrix(x)
    for row in range(m.shape[0]):
        part = slice(m.indptr[row], m.indptr[row + 1])
        m.indices[part], m.data[part] = m.indices[part][::-1].copy(), m.data[part][::-1].copy()
    m.has_sorted_indices = False
    return m


def doubled(x: np.ndarray) -> sparse.csr_matrix:
    """Every entry twice, each half as large."""
    m = sparse.csr_matrix(x)
    out = sparse.csr_matrix((np.repeat(m.data / 2, 2), np.repeat(m.indices, 2), m.indptr * 2), shape=m.shape)
    out.has_canonical_format = False
    return out


def readonly(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def as_dask(x: np.ndarray) -> Any:
    import dask.array as da

    return da.from_array(x, chunks=(20, -1))


def into_layer(adata: ad.AnnData) -> None:
    adata.layers["counts"], adata.X = adata.X, None


def repeat_genes(adata: ad.AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.var_names = ["G01", "G01", *adata.var_names[2:]]


def repeat_cells(adata: ad.AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["c0", "c0", *adata.obs_names[2:]]


def set_x(rows: Any, columns: Any, value: float) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.X[rows, columns] = value

    return change


DATA: dict[str, Case] = {
    "no cells": Case(lambda a: a[:0].copy(), "E", "0 cells|0 x 14"),
    "no genes": Case(lambda a: a[:, :0].copy(), "E", "0 genes|90 x 0|are not in .var_names"),
    "one gene": Case(
        lambda a: a[:, :1].copy(),
        "E",
        "At least 2 cells and 2 genes are needed; the AnnData has 90 x 1|are not in .var_names",
    ),
    "one cell": Case(lambda a: a[:1].copy(), "E", "At least 2 cells and 2 genes are needed; the AnnData has 1 x 14"),
    "NaN": Case(put(np.nan), "E", r"holds nan \(cell 'c7', gene 'G03'\).*Remove or replace"),
    "infinite": Case(put(np.inf), "E", r"holds inf \(cell 'c7', gene 'G03'\)"),
    "negative counts": Case(put(-2), "E", r"holds -2 \(cell 'c7', gene 'G03'\)"),
    "not whole, as counts": Case(put(1.5), "E", r"holds 1\.5 \(cell 'c7', gene 'G03'\), but raw counts"),
    "huge numbers": Case(put(1e30), "E", "1e\\+30"),
    "log values as counts": Case(x_of(np.log1p), "E", "raw counts are needed"),
    "complex": Case(x_of(lambda x: x.astype(complex)), "E", "complex"),
    "objects": Case(x_of(lambda x: x.astype(object)), "E", "objects or text"),
    "text": Case(x_of(lambda x: x.astype("U8")), "E", "objects or text"),
    "X is None": Case(x_of(lambda x: None), "E", "is empty"),
    "X is None, a layer set": Case(into_layer, "E", r"Pass layer="),
    "cell of zeros": Case(set_x(7, slice(None), 0), "W", "are zero for every gene"),
    "constant gene": Case(set_x(slice(None), 9, 3), "O"),
    "silent gene": Case(set_x(slice(None), 9, 0), "O"),
    "repeated var_names": Case(repeat_genes, "E", "1 var_names occur more than once: 'G01'.*make_unique"),
    "repeated obs_names": Case(repeat_cells, "O", "not unique|both sides", {"pp.summarise": "W", "evaluate": "W"}),
    "int64": Case(x_of(lambda x: x.astype(np.int64)), "O", equal=True),
    "uint16": Case(x_of(lambda x: x.astype(np.uint16)), "O", equal=True),
    "float16": Case(x_of(lambda x: x.astype(np.float16)), "O", equal=True),
    "float64": Case(x_of(lambda x: x.astype(np.float64)), "O", equal=True),
    "bool": Case(x_of(lambda x: x > 7), "O"),
    "Fortran order": Case(x_of(np.asfortranarray), "O", equal=True),
    "read-only": Case(x_of(readonly), "O", equal=True),
    "CSR": Case(x_of(sparse.csr_matrix), "O", equal=True),
    "CSC": Case(x_of(sparse.csc_matrix), "O", equal=True),
    "CSR array": Case(x_of(sparse.csr_array), "O", equal=True),
    "CSR, indices not sorted": Case(x_of(unsorted), "O", equal=True),
    "CSR, entries twice": Case(x_of(doubled), "O", equal=True),
    "Dask": Case(x_of(as_dask), "O", equal=True),
    "view": Case(
        lambda a: a[np.arange(a.n_obs)],
        "O",
        "copy()",
        {"GIM.setup_anndata": "E", "GraCEVAE.setup_anndata": "E"},
        equal=True,
    ),
}


def relabel(old: Any, new: Any) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.obs["pert"] = adata.obs["pert"].map(lambda x: new if x == old else x)

    return change


def obs_as(convert: Callable[[pd.Series], Any]) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.obs["pert"] = convert(adata.obs["pert"])

    return change


def drop_column(adata: ad.AnnData) -> None:
    del adata.obs["pert"]


def rename_genes(change_name: Callable[[int, str], str]) -> Change:
    def change(adata: ad.AnnData) -> None:
        adata.var_names = [change_name(i, g) for i, g in enumerate(adata.var_names)]

    return change


def unused_categories(x: pd.Series) -> pd.Categorical:
    return pd.Categorical(x, categories=[*x.unique(), *[f"unused{i}" for i in range(10_001)]])


def drop_label(label: str, keep: int = 0) -> Change:
    def change(adata: ad.AnnData) -> ad.AnnData:
        mine = np.flatnonzero(adata.obs["pert"] == label)
        return adata[np.setdiff1d(np.arange(adata.n_obs), mine[keep:])].copy()

    return change


def a_label_per_guide(adata: ad.AnnData) -> None:
    adata.obs["pert"] = [x if x in ("control", "G02") else f"{x}_{i % 2}" for i, x in enumerate(adata.obs["pert"])]


LABELS: dict[str, Case] = {
    "no such column": Case(drop_column, "E", "has no column"),
    "label missing": Case(obs_as(lambda x: x.where(np.arange(len(x)) != 5)), "E", "no label|no value"),
    "no control": Case(relabel("control", "ctrl"), "E", "'ctrl'"),
    "controls only": Case(obs_as(lambda x: ["control"] * len(x)), "E", "control"),
    "controls lost": Case(drop_label("control"), "E", "control"),
    "whole numbers as labels, control= not among them": Case(
        obs_as(lambda x: x.map({"control": 0, "G00": 1, "G01": 2, "G02": 3, "G00+G01": 4})), "E", "control"
    ),
    "one cell of a perturbation": Case(drop_label("G01", 1), "W", "G01"),
    "target not measured": Case(
        relabel("G01", "XYZ"), "W", "XYZ", {"evaluate": "O", "GIM.setup_anndata": "O", "GraCEVAE.setup_anndata": "O"}
    ),
    "Ensembl against symbols": Case(
        rename_genes(lambda i, g: f"ENSG{i:011d}"), "W", "Ensembl|name of a measured gene", {"GIM.setup_anndata": "O"}
    ),
    "order of a combination": Case(relabel("G00+G01", "G01+G00"), "O", equal=True),
    "gene name holds the separator": Case(rename_genes(lambda i, g: "HLA+A" if i == 9 else g), "O"),
    "unused categories, over 10,000": Case(obs_as(unused_categories), "O", equal=True),
    "blanks around labels": Case(relabel("G00", " G00 "), "W", "begin or end with spaces, ignored: ' G00 '"),
    "guides as labels": Case(a_label_per_guide, "W", "guide", {"GIM.setup_anndata": "O"}),
    "repeated var_names": Case(repeat_genes, "E", "1 var_names occur more than once: 'G01'.*make_unique"),
}


def confounded(adata: ad.AnnData) -> None:
    adata.obs["batch"] = np.where(adata.obs["pert"] == "control", "a", "b")


def batch_gap(adata: ad.AnnData) -> None:
    adata.obs["batch"] = pd.Categorical([None, *adata.obs["batch"][1:]])


def as_it_was(adata: ad.AnnData) -> None:
    """Only the arguments are odd."""


NO_BATCH: dict[str, str | None] = {
    "tl.reversal": None,
    "GraCEVAE.setup_anndata": None,
    "GIM.setup_anndata": None,
    "tl.graph": None,
}
SEEDED: dict[str, str | None] = {"GIM.setup_anndata": None, "GraCEVAE.setup_anndata": None}
ON_DEVICE: dict[str, str | None] = {"pp.summarise": None, "tl.reversal": None, "evaluate": None, **SEEDED}
USE: dict[str, Case] = {
    "no such layer": Case(as_it_was, "E", "There is no layer 'count'", how={"layer": "count"}),
    "values guessed": Case(as_it_was, "E", "values must be", how={"values": "tpm"}),
    "counts as log values": Case(as_it_was, "E", r"look like raw counts.*sc\.pp\.log1p", how={"values": "log"}),
    "batches confounded with perturbations": Case(
        confounded, "W", "batch|group", {**NO_BATCH, "pp.summarise": "O", "tl.targets": "E"}, how={"batch_key": "batch"}
    ),
    "no such batch column": Case(as_it_was, "E", "no column", NO_BATCH, how={"batch_key": "batches"}),
    "cell without a batch": Case(batch_gap, "E", "no value", NO_BATCH, how={"batch_key": "batch"}),
    "seed is negative": Case(as_it_was, "E", "rng must", SEEDED, how={"rng": -1}),
    "seed is text": Case(as_it_was, "E", "rng must", SEEDED, how={"rng": "a"}),
    "CUDA asked for, none there": Case(as_it_was, "E", "no CUDA device", ON_DEVICE, how={"accelerator": "cuda"}),
}

TABLES: dict[str, tuple[dict[str, Case], dict[str, Entry]]] = {
    "Data": (DATA, READERS), "Labels": (LABELS, LABELLERS), "Arguments": (USE, READERS),
}  # fmt: skip


def _cell(case: Case, entry: str) -> str:
    answer = case.but.get(entry, case.answer) or ""
    return f"{answer} =" if answer == "O" and case.equal and entry not in WITHOUT_NUMBERS else answer


def page() -> str:
    """Text of ``docs/bad_inputs.md``."""
    lines = [
        "# What happens with bad input", "",
        "**E**: an error that says what is wrong, where, and how to mend it; the AnnData is as it was (deep hash). **W**: a warning or a "
        "logged warning, and an answer. **O**: it works; with an = the answer is the same, number for number (relative 1e-5), as to plain "
        "float32 counts. Each cell is a test (`tests/test_input_table.py`); `python tests/input_cases.py` writes this page.", "",
    ]  # fmt: skip
    for title, (cases, entries) in TABLES.items():
        lines += [
            f"## {title}",
            "",
            "| | " + " | ".join(f"`{e}`" for e in entries) + " |",
            "|---" * (len(entries) + 1) + "|",
        ]
        for name, case in cases.items():
            lines.append(f"| {name} | " + " | ".join(_cell(case, entry) for entry in entries) + " |")
        lines.append("")
    return "\n".join([*lines, ORDER])


ORDER = """## Order, and cells that come twice

* **Cells in another order**: `pp.summarise`, `tl.causes`, `tl.targets` and `tl.graph` answer the same (tests; up to rounding, and to sampling
  where there are more cells than they use). `tl.reversal` and `evaluate` deal cells in halves by their place: other halves, other noise.
* **Genes in another order**: the answer is in that order, too (tests). `tl.targets` draws its local graphs anew: as with another `rng`.
* **Every cell twice**: means and correlations stay, and everything that counts cells (z, p values, rank-sum tests, networks that are told
  of them) is too sure, by a factor of about 1.4 (test). No function can see that; look for repeated `obs_names`, which are warned of, and
  let `evaluate` look for equal cells on both sides of a split.
"""


if __name__ == "__main__":
    from pathlib import Path

    (Path(__file__).parents[1] / "docs" / "bad_inputs.md").write_text(page())
