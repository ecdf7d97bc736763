"""Real screens as arrays with known targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

from causcade import datasets
from causcade.pretrain.target_items import TargetScreen
from causcade.realscreens import BUNDLED, read_adata, read_target_screen
from causcade.regimes import from_adata
from causcade.stats import log_normalise


@pytest.fixture(scope="module")
def hipsc() -> tuple[TargetScreen, Any]:
    return read_target_screen("hipsc_tf_ko", "day"), datasets.hipsc_tf_ko()


@pytest.fixture
def mine(screen: Any, tmp_path: Path) -> tuple[Path, Any]:
    """The small screen twice, as a file; G00 and G01 were also hit together, G02 is not measured."""
    twice = ad.concat([screen, screen], index_unique="-")
    labels = twice.obs["pert"].astype(str).to_numpy()
    labels[np.flatnonzero(labels == "G05")] = "G00+G01"
    labels[np.flatnonzero(labels == "G06")[:7]] = "control"  # nine cells are left
    twice.obs["perturbation"] = labels
    twice = twice[:, [g for g in twice.var_names if g != "G02"]].copy()
    twice.write_h5ad(tmp_path / "mine.h5ad")
    return tmp_path / "mine.h5ad", twice


def test_targets_of_a_bundled_screen(hipsc: tuple[TargetScreen, Any]) -> None:
    screen, adata = hipsc
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    codes = screen.codes.numpy()
    assert screen.values.shape == adata.shape
    assert screen.adjacency is None
    np.testing.assert_array_equal(codes == 0, labels == "control")
    assert len(screen.targets) == 23
    for regime, (gene,) in screen.targets.items():
        np.testing.assert_array_equal(codes == regime, labels == adata.var_names[gene])
    assert (codes >= 0).all()


def test_groups_are_brought_to_the_level_of_their_controls(hipsc: tuple[TargetScreen, Any]) -> None:
    screen, adata = hipsc
    days, control = adata.obs["day"].to_numpy(), screen.codes.numpy() == 0
    means = np.stack([screen.values.numpy()[control & (days == d)].mean(0) for d in np.unique(days)])
    assert len(means) == 4
    np.testing.assert_allclose(means, np.broadcast_to(means[0], means.shape), atol=1e-4)
    counts = torch.from_numpy(adata.X.toarray())
    total = counts.sum(1)
    raw = log_normalise(counts, total, float(total[total > 0].median())).numpy()
    np.testing.assert_allclose(means[0], raw[control].mean(0), atol=1e-3)
    assert np.ptp([raw[control & (days == d)].mean(0) for d in np.unique(days)], axis=0).max() > 0.1
    # within a group nothing moves
    day = days == days[0]
    shifted = screen.values.numpy()[day] - raw[day]
    np.testing.assert_allclose(shifted, np.broadcast_to(shifted[0], shifted.shape), atol=1e-3)


def test_a_screen_from_a_file(mine: tuple[Path, Any]) -> None:
    path, adata = mine
    screen = read_target_screen(path)
    labels = adata.obs["perturbation"].to_numpy()
    names = adata.var_names
    found = {"+".join(sorted(names[g] for g in hit)): r for r, hit in screen.targets.items()}
    singles = {f"G{g:02d}" for g in range(12)} - {"G02", "G05", "G06"}  # unmeasured, renamed, too few
    assert set(found) == singles | {"G00+G01"}
    for label, regime in found.items():
        np.testing.assert_array_equal(screen.codes.numpy() == regime, labels == label)
    assert set(labels[screen.codes.numpy() == -1]) == {"G02", "G06"}
    few = read_target_screen(path, least=9)
    assert {names[hit[0]] for hit in few.targets.values() if len(hit) == 1} == singles | {"G06"}
    assert read_target_screen(str(path), least=99).targets == {}


def test_without_groups_values_are_log_normalised(mine: tuple[Path, Any]) -> None:
    path, adata = mine
    counts = torch.from_numpy(np.asarray(adata.X))
    total = counts.sum(1)
    expected = log_normalise(counts, total, float(np.median(total)))
    torch.testing.assert_close(read_target_screen(path).values, expected, atol=1e-3, rtol=1e-3)


def test_regimes_are_found(mine: tuple[Path, Any]) -> None:
    regimes = from_adata(read_adata(mine[0]))
    assert regimes.names[0] == "control"
    assert "G00+G01" in list(regimes.names)
    assert set(BUNDLED) == {"hipsc_tf_ko", "h1_vcc_subset"}
    h1 = from_adata(read_adata("h1_vcc_subset"))
    assert sorted(map(str, h1.names[1:])) == ["MED12", "SRC", "STAT1", "TET1", "TMSB4X"]


def test_a_missing_screen_is_named_with_those_that_exist(tmp_path: Path) -> None:
    for name in ("hipsc", tmp_path / "none.h5ad", tmp_path):
        with pytest.raises(
            ValueError, match=r"No screen .*neither one of \['hipsc_tf_ko', 'h1_vcc_subset'\] nor the path"
        ):
            read_target_screen(name)


def test_a_group_without_controls_stays_as_it_is(mine: tuple[Path, Any], tmp_path: Path) -> None:
    _, adata = mine
    batch = np.where(adata.obs["perturbation"] == "G03", "odd", "even")
    adata.obs["batch"] = batch
    adata.write_h5ad(tmp_path / "odd.h5ad")
    plain, grouped = read_target_screen(tmp_path / "odd.h5ad"), read_target_screen(tmp_path / "odd.h5ad", "batch")
    torch.testing.assert_close(plain.values, grouped.values, atol=1e-5, rtol=1e-5)
    lost = list(adata.var_names).index("G03")  # nothing to compare its cells with
    assert (lost,) in plain.targets.values()
    assert (lost,) not in grouped.targets.values()
