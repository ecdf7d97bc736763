import numpy as np
import pandas as pd
import pytest

from causcade.regimes import close_matches, parse_labels
from causcade.regimes.labels import as_text, count_labels, split_label

GENES = ["A", "B", "C", "D"]


def parse(labels, control="ctrl", genes=GENES, **kwargs):
    return parse_labels(labels, genes, control, **{"min_cells": 1, **kwargs})


def summary(regimes):
    return {n: (t, k) for n, t, k in zip(regimes.names, regimes.targets, regimes.kind, strict=True)}


def test_combinations_are_unordered_and_drop_control_parts():
    r = parse(["ctrl", "A+B", "B+A", "A+ctrl", "ctrl+A", "A", "ctrl+ctrl", "A+A"])
    assert r.names.tolist() == ["ctrl", "A", "A+B"]
    assert r.codes.tolist() == [0, 2, 2, 1, 1, 1, 0, 1]
    assert r.kind.tolist() == ["control", "single", "combination"]
    assert [i.tolist() for i in r.target_index] == [[], [0], [0, 1]]
    assert r.n_cells.tolist() == [2, 4, 2]
    assert len(r) == 3


def test_regimes_do_not_depend_on_the_order_of_cells():
    labels = np.array(["ctrl", "C", "A+B", "ctrl", "B", "B+A"] * 3)
    order = np.random.default_rng(0).permutation(len(labels))
    a, b = parse(labels), parse(labels[order])
    assert a.names.tolist() == b.names.tolist()
    np.testing.assert_array_equal(a.codes[order], b.codes)


def test_mask_equals_a_plain_loop():
    r = parse(["ctrl", "D+B", "A", "Z", "C", "A+Z", "ctrl", "once"], min_cells=1, genes=GENES)
    expected = np.zeros((8, 4), dtype=bool)
    for cell, code in enumerate(r.codes):
        for gene in r.target_index[code]:
            expected[cell, gene] = True
    assert expected.sum() == 5
    mask = r.mask(4)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask.toarray(), expected)
    with pytest.raises(ValueError, match="n_vars=2"):
        r.mask(2)


def test_mask_leaves_out_cells_of_small_regimes():
    with pytest.warns(UserWarning, match="1 perturbations have fewer than min_cells=2 cells.*'A'"):
        r = parse(["ctrl", "ctrl", "A", "B", "B"], min_cells=2)
    assert r.codes.tolist() == [0, 0, -1, 2, 2]
    assert r.names.tolist() == ["ctrl", "A", "B"]
    assert r.n_cells.tolist() == [2, 0, 2]
    assert r.mask(4).toarray().sum(axis=1).tolist() == [0, 0, 0, 1, 1]


def test_several_controls():
    r = parse(["NT1", "NT2", "A", "A+NT2"], control=["NT1", "NT2"])
    assert r.names.tolist() == ["NT1", "A"]
    assert r.codes.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"control label 'NT3'.*Close to 'NT3': 'NT1'.*2 cells|'NT3'"):
        parse(["NT1", "NT2", "A"], control=["NT1", "NT3"])


def test_absent_control_names_close_labels_and_counts():
    with pytest.raises(ValueError, match=r"Close to 'contrl': 'control'.*'control' \(2 cells\)"):
        parse(["control", "control", "A"], control="contrl")
    with pytest.raises(
        ValueError, match=r"'non-targeting' \(1 cells\), 'A' \(2 cells\)"
    ):  # looks like a control: first
        parse(["A", "A", "non-targeting"], control="xyzzy")


def test_only_controls_and_too_few():
    with pytest.raises(ValueError, match=r"All 2 cells.*are controls"):
        parse(["ctrl", "ctrl"])
    with pytest.raises(ValueError, match="Only 1 control cells"):
        parse(["ctrl", "A", "A"], min_cells=2)
    with pytest.raises(ValueError, match="None of the 2 perturbations has min_cells=2"):
        parse(["ctrl", "ctrl", "A", "B"], min_cells=2)


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, "", "nan", " "], ids=range(6))
def test_missing_labels_are_counted(gap):
    with pytest.raises(ValueError, match="2 of 4 cells have no label"):
        parse(pd.Series(["ctrl", gap, "A", gap], dtype=object))


@pytest.mark.parametrize("bad", ["", "  ", 3])
def test_bad_separator(bad):
    with pytest.raises(ValueError, match="sep must"):
        parse(["ctrl", "A"], sep=bad)


@pytest.mark.parametrize("bad", [0, 1.5, True, "2"])
def test_bad_min_cells(bad):
    with pytest.raises(ValueError, match="min_cells must"):
        parse(["ctrl", "A"], min_cells=bad)


def test_label_types_agree():
    text = parse(["0", "1", "2"], control="0", genes=["1", "2"])
    for values in (np.array([0, 1, 2]), np.array([0.0, 1.0, 2.0]), pd.Categorical([0, 1, 2], categories=[5, 2, 1, 0])):
        r = parse(values, control=0, genes=["1", "2"])
        assert r.names.tolist() == text.names.tolist() == ["0", "1", "2"]
        np.testing.assert_array_equal(r.codes, text.codes)
    r = parse(pd.Series([True, False, True]), control=False, targets={})
    assert r.names.tolist() == ["False", "True"]


def test_many_categories():
    genes = [f"g{i}" for i in range(12_000)]
    r = parse(pd.Categorical(["ctrl", *genes]), genes=genes)
    assert len(r) == 12_001
    np.testing.assert_array_equal(r.mask(12_000).indices, np.arange(12_000))


def test_spaces_are_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="2 labels begin or end with spaces.*' A', 'ctrl '"):
        r = parse(["ctrl", " A", "A", "ctrl "])
    assert r.codes.tolist() == [0, 1, 1, 0]
    assert parse(["ctrl", "A + B"]).names.tolist() == ["ctrl", "A+B"]


def test_unicode_label():
    assert summary(parse(["ctrl", "β", "A"]))["β"] == (("β",), "single")


# separator inside a gene name


def test_gene_name_holding_the_separator():
    genes = ["HLA+A", "KRT8+", "B"]
    r = parse(["ctrl", "HLA+A", "KRT8+", "B+HLA+A", "HLA+A+B", "KRT8++B", "HLA+A+Z"], genes=genes)
    assert summary(r) == {
        "ctrl": ((), "control"),
        "HLA+A": (("HLA+A",), "single"),
        "KRT8+": (("KRT8+",), "single"),
        "B+HLA+A": (("B", "HLA+A"), "combination"),
        "B+KRT8+": (("B", "KRT8+"), "combination"),
        "HLA+A+Z": (("HLA+A", "Z"), "combination"),
    }


def test_ambiguous_label_is_refused_unless_explained():
    genes = ["A", "B", "A+B"]
    with pytest.raises(ValueError, match=r"\['A', 'B'\] or \['A\+B'\]"):
        parse(["ctrl", "A+B"], genes=genes)
    assert parse(["ctrl", "A+B"], genes=genes, sep=None).targets[1] == ("A+B",)
    assert parse(["ctrl", "A+B"], genes=genes, targets={"A+B": ["A", "B"]}).targets[1] == ("A", "B")


def test_trailing_separator_is_not_a_combination():
    r = parse(["CD4-", "CD4+", "CD4+"], control="CD4-", targets={})
    assert r.names.tolist() == ["CD4-", "CD4+"]
    assert r.kind.tolist() == ["control", "unknown"]


def test_no_splitting_without_sep():
    assert parse(["ctrl", "A+B", "C"], sep=None).targets[1] == ("A+B",)


# names of genes


def test_unmeasured_targets_are_kept():
    r = parse(["ctrl", "A", "Z", "A+Z"])
    assert summary(r)["A+Z"] == (("A", "Z"), "combination")
    assert [i.tolist() for i in r.target_index] == [[], [0], [0], []]


def test_nothing_matches():
    with pytest.warns(UserWarning, match=r"None of the 2 perturbations \('healthier', 'sick'\).*unknown.*targets=\{\}"):
        r = parse(["ctrl", "healthier", "sick"])
    assert r.kind.tolist() == ["control", "unknown", "unknown"]
    assert r.targets == ((), (), ())
    assert parse(["ctrl", "healthier", "sick"], targets={}).kind.tolist() == r.kind.tolist()


def test_case_mismatch_is_named():
    with pytest.warns(UserWarning, match="'myc' is close to 'MYC'"):
        parse(["ctrl", "myc"], genes=["MYC", "TP53"])


def test_ensembl_mismatch_is_named():
    ids = [f"ENSG{i:011d}" for i in range(4)]
    with pytest.warns(UserWarning, match="var_names look like Ensembl ids"):
        parse(["ctrl", "A"], genes=ids)
    with pytest.warns(UserWarning, match="the labels look like Ensembl ids"):
        parse(["ctrl", ids[0]], genes=GENES)


def test_gene_symbols_come_first_and_may_repeat():
    ids = ["ENSG1", "ENSG2", "ENSG3", "ENSG4"]
    r = parse(["ctrl", "A", "ENSG2"], genes=ids, gene_symbols=["A", "B", "Q", "Q"])
    assert [i.tolist() for i in r.target_index] == [[], [0], [1]]
    with pytest.raises(ValueError, match="'Q' names several genes"):
        parse(["ctrl", "Q"], genes=ids, gene_symbols=["A", np.nan, "Q", "Q"])


def test_repeated_var_names():
    with pytest.raises(ValueError, match="2 var_names occur more than once: 'A', 'B'"):
        parse(["ctrl", "A"], genes=["A", "B", "A", "B", "C"])


# guide to gene


def test_guides_of_one_gene_are_one_regime():
    labels = ["NTC_1", "NTC_2", "gA_1", "gA_2", "gB_1", "gA_1+gB_1"]
    mapping = {"NTC_1": "ctrl", "NTC_2": "ctrl", "gA_1": "A", "gA_2": "A", "gB_1": "B"}
    expected = parse(["ctrl", "ctrl", "A", "A", "B", "A+B"])
    frame = pd.DataFrame(mapping.items(), columns=["guide", "gene"])
    for targets in (mapping, pd.Series(mapping), frame, frame.set_index("guide")):
        r = parse(labels, targets=targets)
        assert summary(r) == summary(expected)
        np.testing.assert_array_equal(r.codes, expected.codes)


def test_lists_keep_drugs_apart():
    r = parse(["ctrl", "d1", "d2", "d3", "d1+d2"], targets={"d1": ["A"], "d2": ["A"], "d3": ["B", "Z"]})
    assert summary(r) == {
        "ctrl": ((), "control"),
        "d1": (("A",), "single"),
        "d1+d2": (("A",), "single"),
        "d2": (("A",), "single"),
        "d3": (("B", "Z"), "combination"),
    }
    long = pd.DataFrame({"drug": ["d3", "d3"], "gene": ["B", "Z"]})
    assert parse(["ctrl", "d3"], targets=long).targets[1] == ("B", "Z")


def test_mapped_but_unmeasured_targets_stay_known():
    with pytest.warns(UserWarning, match="1 targets are not among var_names: 'Z'"):
        r = parse(["ctrl", "g1"], targets={"g1": "Z"})
    assert summary(r)["Z"] == (("Z",), "single")


def test_labels_outside_the_mapping():
    with pytest.warns(UserWarning, match=r"1 labels are neither in targets=.*'gA_l'.*Close to 'gA_l': 'gA_1'"):
        r = parse(["ctrl", "gA_1", "gA_l", "B"], targets={"gA_1": "A"})
    assert summary(r) == {
        "ctrl": ((), "control"),
        "A": (("A",), "single"),
        "B": (("B",), "single"),
        "gA_l": ((), "unknown"),
    }


def test_guide_names_are_noticed():
    with pytest.warns(UserWarning, match="look like guides.*'sgB-2' for 'B'.*targets="):
        parse(["ctrl", "A", "sgB-2"])


@pytest.mark.parametrize("bad", ["A", 3, pd.DataFrame({"a": [1], "b": [2], "c": [3]})])
def test_bad_mapping(bad):
    with pytest.raises(ValueError, match="targets"):
        parse(["ctrl", "A"], targets=bad)


# small helpers


def test_find_takes_any_order_and_suggests():
    r = parse(["ctrl", "A+B", "MYC"])
    assert r.find("B+A") == r.find("A+B") == 1
    with pytest.raises(KeyError, match="Close to 'MYCC': 'MYC'"):
        r.find("MYCC")


def test_close_matches_prefers_case():
    assert close_matches("myc", ["MYCN", "MYC", "TP53"])[0] == "MYC"
    assert close_matches("nothing", ["MYC"]) == []


def test_as_text():
    assert [as_text(v) for v in (1, 1.0, 1.5, np.nan, None, b"x", np.int8(3), True)] == [
        "1", "1", "1.5", "", "", "x", "3", "True",
    ]  # fmt: skip


def test_count_labels_against_pandas():
    values = pd.Series(list("abcabca"), dtype="category").cat.add_categories("unused")
    codes, labels, counts = count_labels(values)
    assert dict(zip(labels, counts, strict=True)) == values.value_counts()[["a", "b", "c"]].to_dict()
    assert [labels[c] for c in codes] == values.tolist()


@pytest.mark.parametrize(
    ("label", "sep", "known", "parts"),
    [
        ("A+B", "+", (), ("A", "B")),
        (" B + A ", "+", (), ("B", "A")),
        ("A+HLA+B", "+", ("A", "HLA+B"), ("A", "HLA+B")),
        ("HLA+B", "+", ("HLA+B", "HLA+B"), ("HLA+B",)),
        ("CD4+", "+", (), ("CD4+",)),
        ("A_B", "+", (), ("A_B",)),
        ("A+B", None, ("A",), ("A+B",)),
    ],
)
def test_parts_of_a_label(label, sep, known, parts):
    assert split_label(label, sep, known) == parts


def test_a_label_without_parts_needs_no_look_at_the_genes():
    """With 10,000 labels and as many genes that is most of a minute."""
    assert split_label(" A ", "+", (1 / 0 for _ in GENES)) == ("A",)


def test_a_combination_is_found_in_any_order_where_a_name_holds_the_separator():
    labels = ["ctrl"] * 3 + ["HLA+B"] * 3 + ["A"] * 3 + ["HLA+B+A"] * 3
    found = parse_labels(labels, ["HLA+B", "A", "C"], "ctrl")
    assert found.find("HLA+B+A") == found.find("A+HLA+B") == list(found.names).index("A+HLA+B")
    assert found.names[found.find("HLA+B")] == "HLA+B"
