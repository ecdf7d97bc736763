"""What would not fit in memory is refused before the work begins, and the message says what would."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from causcade.comparisons import read_perturbations
from causcade.memory import check_causes, check_targets
from causcade.targets import TargetSettings, score_targets


@pytest.fixture
def free(monkeypatch):
    return lambda size: monkeypatch.setattr("causcade._device.free_memory", lambda: float(size))


def needed(caplog, check) -> float:
    """Bytes that are asked for where all is free."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="causcade"):
        check()
    return float(re.search(r"need about ([\d,.]+) GB", caplog.messages[-1])[1].replace(",", "")) * 1e9


@pytest.mark.parametrize("n_targets", [None, 20, 5000])
@pytest.mark.parametrize(("n_half", "n_null"), [(0, 0), (4, 0), (0, 100)])
def test_as_many_genes_as_the_message_says_fit(free, n_targets, n_half, n_null):
    how = {"n_half": n_half, "n_null": n_null}
    free(8e9)
    with pytest.raises(ValueError, match=r"among 20,000 genes.* GB, and 8.0 GB are free") as caught:
        check_causes(20_000, n_targets, **how)
    most = int(re.search(r"up to about ([\d,]+):", str(caught.value))[1].replace(",", ""))
    assert ("lower n_null" in str(caught.value)) == (n_null > 0 and n_targets != 20)
    check_causes(most, n_targets, **how)
    with pytest.raises(ValueError, match="up to about"):
        check_causes(most + 2, n_targets, **how)


def test_composing_needs_more(free, caplog):
    free(np.inf)
    plain, composed = (
        needed(caplog, lambda c=c: check_causes(4000, None, n_half=0, n_null=0, composed=c)) for c in (False, True)
    )
    assert composed > 1.1 * plain


@pytest.fixture
def pairs(screen):
    return read_perturbations(screen)


def test_memory_for_targets_grows_with_what_is_asked(free, pairs, caplog):
    screen, compared = pairs
    free(np.inf)
    plain = {"n_candidates": 1000, "n_half": 0, "n_null": 0, "max_cells": 5000, "whole": False}

    def bytes_of(n=1, controls=1, **how):
        many = replace(
            compared, names=compared.names * n, cells=compared.cells * n, known=compared.known * n,
            control=np.tile(compared.control, controls),
        )  # fmt: skip
        return needed(caplog, lambda: check_targets(screen, many, **plain | how))

    base = bytes_of()
    assert base == pytest.approx(0.36e9, abs=1e8)
    assert bytes_of(n=200_000) - base == pytest.approx(56 * 200_000 * 12 * 32, rel=0.1)
    assert bytes_of(n=200_000, n_null=10) > 2 * bytes_of(n=200_000)
    assert bytes_of(n_candidates=5000) - base == pytest.approx(60 * 24e6, rel=0.1)
    assert bytes_of(controls=20_000) == base  # no more than max_cells are used
    assert bytes_of(controls=20_000, max_cells=2_000_000) > 2 * base


def test_targets_that_do_not_fit_are_refused_before_they_are_scored(free, pairs, monkeypatch):
    free(1e6)
    monkeypatch.setattr("causcade.targets.Reference", None)
    settings = TargetSettings(progress_bar=False)
    with pytest.raises(
        ValueError, match=r"Targets of 12 perturbations among 32 genes need about .*controls 0\.0.*in parts"
    ):
        score_targets(*pairs, None, settings, np.random.default_rng(0), scorer=object())
