"""Every bad, odd or unusual input at every function that meets it; ``docs/bad_inputs.md`` is made of the same table."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import input_cases
import numpy as np
import pandas as pd
import pytest
import torch
from input_cases import TABLES, WITHOUT_NUMBERS, Case, Entry, plain

import causcade as cc

CALLS = [
    pytest.param(table, name, entry, id=f"{table}-{name}-{entry}")
    for table, (cases, entries) in TABLES.items()
    for name, case in cases.items()
    for entry in entries
    if case.but.get(entry, case.answer) is not None
]


@pytest.fixture
def weights(tiny_weights: Path, tiny_target_weights: Path) -> dict[str, str]:
    return {"pairs": str(tiny_weights), "differential": str(tiny_target_weights)}


def prepared(table: str) -> ad.AnnData:
    """A screen; functions that read labels get them raw."""
    adata = plain()
    if table != "Labels":
        cc.pp.regimes(adata, "pert", "control")
    return adata


def changed(adata: ad.AnnData, case: Case) -> ad.AnnData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = case.change(adata)
    return adata if other is None else other


def numbers(adata: ad.AnnData, out: Any) -> dict[str, np.ndarray]:
    """Whatever an answer holds, by name."""
    if isinstance(out, pd.DataFrame):
        return {c: out[c].to_numpy(dtype=float) for c in ("value", "low", "high", "ceiling")}
    held = adata if out is None else out
    slots = {f"{kind}:{k}": v for kind in ("varm", "varp", "layers") for k, v in getattr(held, kind).items()}
    found = {k: v.toarray() if hasattr(v, "toarray") else np.asarray(v) for k, v in slots.items()}
    if out is not None:
        found["X"] = out.X.toarray() if hasattr(out.X, "toarray") else np.asarray(out.X)
    return {k: v.astype(float) for k, v in found.items()}


def answer_of(entry: str, adata: ad.AnnData, weights: dict[str, str]) -> dict[str, np.ndarray]:
    cc.pp.regimes(adata, "pert", "control")
    return numbers(adata, input_cases.READERS[entry](adata, weights))


def asked(
    entry: Entry, adata: ad.AnnData, weights: dict[str, str], how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> tuple[Any, str, str]:
    """Answer, or error; which of E, W and O it is; and all that was said."""
    caplog.clear()
    with caplog.at_level(logging.WARNING), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            out = entry(adata, weights, **how)
        except (ValueError, KeyError, RuntimeError) as error:
            return error, "E", str(error)
    said = [str(w.message) for w in seen if issubclass(w.category, UserWarning)] + [
        r.getMessage() for r in caplog.records
    ]
    return out, "W" if said else "O", " ".join(said)


@pytest.mark.parametrize(("table", "name", "entry"), CALLS)
def test_answer(
    table: str, name: str, entry: str, weights: dict[str, str], fingerprint: Callable[[Any], str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cases, entries = TABLES[table]
    case = cases[name]
    adata = changed(prepared(table), case)
    before = fingerprint(adata)
    out, answer, said = asked(entries[entry], adata, weights, case.how, caplog)
    assert answer == case.but.get(entry, case.answer), said
    if answer != "O":
        assert case.says and re.search(case.says, said), said
    if answer == "E":
        assert type(out) in (ValueError, KeyError, RuntimeError)
        assert fingerprint(adata) == before
    elif case.equal and entry not in WITHOUT_NUMBERS:
        reference = prepared(table)
        expected = numbers(reference, entries[entry](reference, weights))
        found = numbers(adata, out)
        assert found.keys() == expected.keys() and found
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("entry", ["pp.summarise", "tl.causes", "tl.targets", "tl.graph"])
def test_order_of_cells_does_not_matter(entry: str, weights: dict[str, str]) -> None:
    order = np.random.default_rng(1).permutation(90)
    found, other = (answer_of(entry, adata, weights) for adata in (plain(), plain()[order].copy()))
    for key, value in found.items():
        if key not in ("varp:graph_sd", "X"):  # nearly 0 from one draw; kept cells come in the order of the screen
            np.testing.assert_allclose(other[key], value, rtol=5e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("entry", ["pp.summarise", "tl.causes", "tl.graph", "tl.reversal", "evaluate"])
def test_genes_may_come_in_any_order(entry: str, weights: dict[str, str]) -> None:
    order = np.random.default_rng(1).permutation(input_cases.N_GENES)
    found, other = (answer_of(entry, adata, weights) for adata in (plain(), plain()[:, order].copy()))
    for key, value in found.items():
        kind = key.split(":")[0]
        where = {
            "varm": (order,),
            "varp": np.ix_(order, order),
            "layers": (slice(None), order),
            "X": (slice(None), order),
        }
        moved = value[where[kind]] if kind in where else value
        np.testing.assert_allclose(other[key], moved, rtol=1e-5, atol=1e-6, err_msg=key)


def test_cells_counted_twice_make_it_too_sure(weights: dict[str, str]) -> None:
    once, twice = plain(), ad.concat([plain(), plain()], keys=["a", "b"], index_unique="-")
    found, other = (answer_of("tl.causes", adata, weights) for adata in (once, twice))
    z, doubled_z = (x["varm:causes_knockout_t"][:3, 0] for x in (found, other))
    assert np.all(np.abs(doubled_z) > 1.3 * np.abs(z))
    np.testing.assert_allclose(other["varm:causes_correlation"], found["varm:causes_correlation"], atol=0.02)


def test_page_is_that_of_the_table() -> None:
    page = Path(__file__).parents[1] / "docs" / "bad_inputs.md"
    assert page.read_text() == input_cases.page(), "run python tests/input_cases.py"
