from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest

from causcade import pp
from causcade.comparisons import Comparisons, read_groups, read_perturbations


def test_all_perturbations(screen):
    found, pairs = read_perturbations(screen)
    assert pairs.names == tuple(f"G{g:02d}" for g in range(12))
    labels = screen.obs["pert"].to_numpy()
    np.testing.assert_array_equal(pairs.control, np.flatnonzero(labels == "control"))
    for name, cells, known in zip(pairs.names, pairs.cells, pairs.known, strict=True):
        np.testing.assert_array_equal(cells, np.flatnonzero(labels == name))
        assert found.genes[known].tolist() == [name]


def test_chosen_perturbations_keep_their_order(screen):
    assert read_perturbations(screen, ["G07", "G02"])[1].names == ("G07", "G02")
    assert read_perturbations(screen, "G07")[1].names == ("G07",)


def test_drugs_with_the_same_target_stay_apart_and_combinations_too(screen):
    screen.obs["pert"] = screen.obs["pert"].replace({"G00": "drug a", "G01": "drug b", "G02": "G03+G04"})
    targets = {"drug a": ["G20"], "drug b": ["G20"], **{f"G{g:02d}": f"G{g:02d}" for g in range(3, 12)}}
    pp.regimes(screen, "pert", "control", targets=targets)
    found, pairs = read_perturbations(screen, ["drug b", "drug a", "G04+G03"])
    assert [found.genes[k].tolist() for k in pairs.known] == [["G20"], ["G20"], ["G03", "G04"]]
    assert [len(c) for c in pairs.cells] == [8, 8, 8]
    assert not set(pairs.cells[0]) & set(pairs.cells[1])


def test_unknown_targets_need_no_warning(screen):
    screen.obs["pert"] = [label.replace("G", "drug ") for label in screen.obs["pert"]]
    pp.regimes(screen, "pert", "control", targets={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, pairs = read_perturbations(screen)
    assert len(pairs) == 12
    assert not any(len(k) for k in pairs.known)


def test_few_cells_are_skipped_with_one_warning(screen):
    keep = np.ones(156, dtype=bool)
    keep[60:67] = False  # one cell of G00 is left: pp.regimes says that it is not used
    keep[68:74] = False  # two of G01
    small = screen[keep].copy()
    with pytest.warns(UserWarning, match=r"11 comparisons.*1 with fewer than 3 .*'G01'") as caught:
        _, pairs = read_perturbations(small)
    assert len(caught) == 1
    assert pairs.names == tuple(f"G{g:02d}" for g in range(2, 12))
    with pytest.raises(ValueError, match="Nothing to compare: 'G00', 'G01' has fewer than 3"):
        read_perturbations(small, ["G00", "G01"])


def test_cells_of_a_batch_without_controls_are_left_out(screen):
    batch = np.array(["a"] * 60 + ["a", "b"] * 48)
    batch[60:68] = "b"
    screen.obs["batch"] = batch
    with pytest.warns(UserWarning, match=r"1 with fewer than 3 .*'G00'.*52 cells lie in groups"):
        _, pairs = read_perturbations(screen, batch_key="batch")
    assert pairs.names[0] == "G01"
    assert (batch[np.concatenate(pairs.cells)] == "a").all()
    with pytest.raises(ValueError, match=r"Nothing to compare.*8 cells lie in groups"):
        read_perturbations(screen, "G00", batch_key="batch")


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        (["g01"], KeyError, "no regime 'g01'.*Close to 'g01': 'G01'"),
        (["G01", "control"], ValueError, "'control' is the control"),
        (["G01", "G01"], ValueError, "occur twice: 'G01'"),
        ([], ValueError, "No perturbations were given"),
        (3, ValueError, "perturbations must be a name.*not 3"),
    ],
)
def test_bad_names(screen, asked, kind, text):
    with pytest.raises(kind, match=text):
        read_perturbations(screen, asked)


def test_too_few_controls():
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="Only 2 reference cells; at least 3"):
        Comparisons(np.arange(2), ("a",), (np.arange(2, 9),), (none,)).usable(np.zeros(9, dtype=np.int64))


def test_groups_need_no_regimes_and_ignore_other_cells(screen):
    plain = ad.AnnData(screen.X, obs=screen.obs[["pert"]].copy(), var=screen.var)
    plain.obs.loc["c155", "pert"] = None
    found, pairs = read_groups(plain, ("G01", "control"), "pert")
    labels = screen.obs["pert"].to_numpy()
    assert pairs.names == ("control",)
    np.testing.assert_array_equal(pairs.control, np.flatnonzero(labels == "G01"))
    np.testing.assert_array_equal(pairs.cells[0], np.flatnonzero(labels == "control"))
    assert found.codes.tolist() == [{"G01": 0, "control": 1}.get(label, -1) for label in labels]
    total = plain.X.sum(1)
    scale = np.median(total[found.codes >= 0])  # of the cells that are compared
    np.testing.assert_allclose(found.rows(np.array([70])), np.log1p(plain.X[[70]] * scale / total[70]), atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "groupby", "how", "kind", "text"),
    [
        (("G01", "g02"), "pert", {}, KeyError, r"no group 'g02'.*Close to 'g02': 'G02'"),
        (("G01", "G02"), "perts", {}, KeyError, r"no column groupby='perts'.*Close to 'perts': 'pert'"),
        (("G01", "G01"), "pert", {}, ValueError, "two different labels"),
        ("G01", "pert", {}, ValueError, "two different labels"),
        (("G01",), "pert", {}, ValueError, "two different labels"),
        (("G01", "G02"), "pert", {"values": "tpm"}, ValueError, "values must be 'counts'"),
        (("G01", "G02"), "pert", {"values": "log"}, ValueError, "look like raw counts"),
        (("G01", "G02"), "pert", {"batch_key": "bat"}, KeyError, "no column 'bat'"),
        (("G01", "G02"), "pert", {"layer": "x"}, KeyError, "no layer 'x'"),
    ],
)
def test_bad_groups(screen, groups, groupby, how, kind, text):
    with pytest.raises(kind, match=text):
        read_groups(screen, groups, groupby, **how)


def test_groups_nested_in_batches_cannot_be_compared(screen):
    screen.obs["donor"] = screen.obs["pert"]
    with pytest.raises(ValueError, match=r"Nothing to compare: 'G02'.*8 cells lie in groups \(batch_key\) without"):
        read_groups(screen, ("G01", "G02"), "pert", batch_key="donor")
