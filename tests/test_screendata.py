from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import causcade.expression
import causcade.screendata
from causcade import pp
from causcade.screendata import read_screen
from causcade.stats import cell_values


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks per pass, as with real screens."""
    defaults = causcade.expression.Expression.blocks.__defaults__
    monkeypatch.setattr(causcade.expression.Expression.blocks, "__defaults__", (50, *defaults[1:]))


def whole(data) -> np.ndarray:
    return torch.cat([y for _, y in data.blocks()]).numpy()


def normalised(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(1)
    return np.log1p(counts / total[:, None] * np.median(total))


def test_blocks_are_log_normalised(screen):
    data = read_screen(screen)
    starts = [start for start, _ in data.blocks()]
    assert starts == [0, 50, 100, 150]
    np.testing.assert_allclose(whole(data), normalised(screen.X.astype(float)), rtol=1e-5)


def test_cells_without_counts_stay_zero_and_out_of_the_scale(screen):
    screen.X[5] = 0
    with pytest.warns(UserWarning, match=r"1 of 156 cells in \.X are zero"):
        data = read_screen(screen)
    expected = normalised(np.delete(screen.X, 5, axis=0).astype(float))
    np.testing.assert_allclose(np.delete(whole(data), 5, axis=0), expected, rtol=1e-5)
    assert not whole(data)[5].any()


def test_log_values_are_used_as_they_are(screen):
    screen.layers["log"] = np.log1p(screen.X)
    np.testing.assert_array_equal(whole(read_screen(screen, layer="log", values="log")), screen.layers["log"])


def test_rows_are_those_of_blocks(screen):
    cells = np.array([9, 3, 150, 3])
    for values in ("counts", "log"):
        screen.X = screen.X if values == "counts" else np.log1p(screen.X)
        data = read_screen(screen, values=values)
        np.testing.assert_array_equal(data.rows(cells), whole(data)[cells])


def test_blocks_are_kept_only_after_a_whole_pass(screen, monkeypatch):
    data = read_screen(screen)
    reads = []
    blocks = data.source.blocks
    monkeypatch.setattr(data.source, "blocks", lambda: (reads.append(1), blocks())[1])
    stopped = data.blocks()
    next(stopped)
    stopped.close()
    first, second = data.blocks(), data.blocks()  # two readers at once, before anything is kept
    pairs = list(zip(first, second, strict=True))
    assert len(pairs) == 4
    assert all(torch.equal(a[1], b[1]) for a, b in pairs)
    assert len(reads) == 3
    again = whole(data)
    assert len(reads) == 3  # from memory now
    np.testing.assert_array_equal(again, whole(read_screen(screen)))


def test_large_data_are_read_again(screen, monkeypatch):
    kept = whole(read_screen(screen))
    monkeypatch.setattr(causcade.screendata, "_CACHE", 10)
    data = read_screen(screen)
    for _ in range(2):
        np.testing.assert_array_equal(whole(data), kept)
    assert data._kept is None


def test_moments_are_sums(screen):
    data = read_screen(screen, batch_key="batch")
    y, codes = normalised(screen.X.astype(float)), data.codes
    m = data.moments()
    assert m.cells.shape == (13, 2)
    np.testing.assert_array_equal(m.cells.sum(1).numpy(), [60, *[8] * 12])
    for regime in (0, 4):
        np.testing.assert_allclose(m.value[regime], y[codes == regime].sum(0), rtol=1e-5)
        np.testing.assert_allclose(m.detected[regime], (y[codes == regime] > 0).sum(0))
    np.testing.assert_allclose(m.gram, y.T @ y, rtol=1e-5)
    np.testing.assert_allclose(m.group_value[1], y[1::2].sum(0), rtol=1e-5)


def test_moments_of_other_labels_and_of_some_cells(screen):
    data = read_screen(screen)
    codes = np.random.default_rng(0).permutation(data.codes)
    only = np.arange(len(codes)) % 3 > 0
    m, y = data.moments(codes=codes, only=only), normalised(screen.X.astype(float))
    np.testing.assert_allclose(m.value[2], y[only & (codes == 2)].sum(0), rtol=1e-5)
    assert int(m.cells.sum()) == only.sum()


def test_knockout_z_by_hand(screen):
    data = read_screen(screen)
    y, codes = normalised(screen.X.astype(float)), data.codes
    means = np.stack([y[codes == r].mean(0) for r in range(13)])
    spread = np.sqrt(((y - means[codes]) ** 2).sum(0) / (len(y) - 13))
    z = data.stats().z.numpy()
    for gene in range(12):
        regime = data.single[gene]
        expected = (means[regime] - means[0]) / spread / np.sqrt(1 / 8 + 1 / 60)
        np.testing.assert_allclose(z[gene], expected, rtol=1e-3, atol=1e-3)
    assert not z[12:].any()
    assert (z[0, 1], z[1, 2], z[3, 4]) < (-4, -4, -4)


def test_halves(screen):
    screen.obs["pert"] = screen.obs["pert"].astype(str).where(np.arange(156) < 155, "G00")  # an odd regime
    pp.regimes(screen, "pert", "control")
    data = read_screen(screen, batch_key="batch")
    full = data.moments()
    first, second = data.halves(full, np.random.default_rng(0))
    for name in ("cells", "value", "detected", "group_value", "group_detected", "gram"):
        a, b, both = (getattr(m, name) for m in (first, second, full))
        torch.testing.assert_close(a + b, both)
    sizes = torch.stack([first.cells.sum(1), second.cells.sum(1)])
    assert (sizes[0] - sizes[1]).abs().max() == 1
    assert ((sizes[0] - sizes[1]) != 0).sum() == 2  # nine cells of G00, seven of G11
    other, _ = data.halves(full, np.random.default_rng(1))
    assert not torch.equal(other.value, first.value)


def test_halves_leave_out_what_the_screen_leaves_out(screen):
    pp.regimes(screen, "pert", "control")
    screen.obs["pert"] = screen.obs["pert"].astype(str).where(np.arange(156) < 155, "G00")
    few = screen[screen.obs["pert"].isin(["control", "G00"]) | (np.arange(156) == 150)].copy()
    data = read_screen(few)  # one cell of G11: below min_cells
    assert (data.codes < 0).sum() == 1
    first, second = data.halves(data.moments(), np.random.default_rng(0))
    assert int(first.cells.sum() + second.cells.sum()) == len(few) - 1


def test_cell_table(screen):
    data = read_screen(screen)
    values, codes = data.cell_table(3, 20, np.random.default_rng(0))
    assert np.bincount(codes).tolist() == [20, *[3] * 12]
    everything, all_codes = data.cell_table(50, 5000, np.random.default_rng(0))
    x = torch.from_numpy(screen.X)
    torch.testing.assert_close(everything, cell_values(x, x.sum(1)))
    np.testing.assert_array_equal(all_codes, data.codes)
    assert values.shape == (56, 32)
    rows = data.source.rows(np.arange(156))
    seen = {tuple(r > 0) for r in rows}
    assert {tuple((v > 0).tolist()) for v in values} <= seen


def test_cell_table_leaves_out_cells_without_a_regime(screen):
    data = read_screen(screen)
    data.codes[:30] = -1
    _, codes = data.cell_table(50, 5000, np.random.default_rng(0))
    assert codes.min() == 0
    assert len(codes) == 126


def test_cell_table_needs_counts(screen):
    screen.X = np.log1p(screen.X)
    with pytest.raises(ValueError, match="needs counts or expression"):
        read_screen(screen, values="log").cell_table(5, 5, np.random.default_rng(0))


def test_find(screen):
    data = read_screen(screen)
    assert data.find("G03").tolist() == [3]
    assert data.find(["G03", "G01"]).tolist() == [3, 1]
    with pytest.raises(KeyError, match=r"1 of 2 genes are not in \.var_names: \['g03'\].*Close to 'g03': 'G03'"):
        data.find(["G01", "g03"])
    with pytest.raises(ValueError, match="No genes"):
        data.find([])
    with pytest.raises(ValueError, match=r"twice: \['G01'\]"):
        data.find(["G01", "G02", "G01"])


@pytest.mark.parametrize("column", [["x", "y"] * 78, [2, 1] * 78, [True, False] * 78])
def test_groups(screen, column):
    screen.obs["g"] = column
    groups = read_screen(screen, batch_key="g").groups
    assert sorted(np.unique(groups).tolist()) == [0, 1]
    assert len({(str(c), int(g)) for c, g in zip(column, groups, strict=True)}) == 2
    screen.obs["g"] = pd.Categorical([str(c) for c in column], categories=["unused", *map(str, dict.fromkeys(column))])
    assert read_screen(screen, batch_key="g").n_groups == 2


def test_values_must_be_known(screen):
    with pytest.raises(ValueError, match="values must be 'counts'"):
        read_screen(screen, values="tpm")


def relabelled(screen, change):
    """The screen with other labels, and its regimes found anew."""
    screen.obs["pert"] = [change(i, label) for i, label in enumerate(screen.obs["pert"].astype(str))]
    return screen


def test_a_combination_with_an_unmeasured_gene_is_no_single_perturbation(screen):
    relabelled(screen, lambda i, x: f"AAA+{x}" if x == "G03" and i % 2 else x)  # AAA is not measured
    pp.regimes(screen, "pert", "control")
    data = read_screen(screen)
    stats = data.stats()
    assert stats.cells[3] == 4  # the cells of G03 alone, not those of AAA+G03
    alone = read_screen(screen[~screen.obs["pert"].str.contains("AAA")].copy())
    assert stats.cells[3] == alone.stats().cells[3]


def test_guides_of_one_gene_count_together_even_if_the_first_is_empty(screen):
    relabelled(screen, lambda i, x: f"{x}-{'a' if i % 8 == 4 else 'b'}" if x == "G03" else x)
    guides = {"G03-a": ["G03"], "G03-b": ["G03"], **{f"G{g:02d}": f"G{g:02d}" for g in range(12)}}
    with pytest.warns(UserWarning):  # one guide has a single cell
        pp.regimes(screen, "pert", "control", targets=guides)
    assert read_screen(screen).stats().cells[3] == 7


def test_perturbations_apart_from_controls_are_named(screen):
    screen.obs["place"] = ["far" if x == "G03" else "near" for x in screen.obs["pert"].astype(str)]
    with pytest.warns(UserWarning, match=r"1 perturbations share no group of \.obs\['place'\].*'G03'"):
        read_screen(screen, batch_key="place")


def test_halves_keep_the_reference_of_the_whole(screen):
    few = screen[np.r_[0:40, 60:156]].copy()  # 40 controls: 20 in a half, below the least number
    data = read_screen(few)
    half, _ = data.halves(data.moments(), np.random.default_rng(0))
    assert torch.equal(
        data.stats(half).z, causcade.screendata.pair_stats(half, torch.from_numpy(data.single), against_control=True).z
    )
