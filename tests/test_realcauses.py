"""Knock-outs of real screens that are hidden, and told from the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

from causcade import pp
from causcade.pairs import GENE_FEATURES
from causcade.pretrain import Recipe, make_item
from causcade.realcauses import CauseScreen, read_cause_screen

PERTURBED = GENE_FEATURES.index("perturbed")


@pytest.fixture
def mine(screen: Any, tmp_path: Path) -> tuple[Path, Any]:
    """Four copies of the small screen in a file; G00 and G01 were also hit together, G02 is not measured."""
    cells = ad.concat([screen] * 4, index_unique="-")
    labels = cells.obs["pert"].astype(str).to_numpy()
    labels[np.flatnonzero(labels == "G05")] = "G00+G01"
    labels[np.flatnonzero(labels == "G06")[:25]] = "control"  # seven cells are left
    cells.obs["perturbation"] = labels
    cells = cells[:, [g for g in cells.var_names if g != "G02"]].copy()
    cells.write_h5ad(tmp_path / "mine.h5ad")
    return tmp_path / "mine.h5ad", cells


def drawn(screen: CauseScreen, seed: int) -> tuple[Any, np.ndarray]:
    """A sample, and which genes are knocked out in it for all to see."""
    sample = screen.sample(np.random.default_rng(seed))
    assert sample.features is not None
    return sample, sample.features.genes[:, PERTURBED].numpy() > 0


def rewritten(file: Path, cells: Any, rows: np.ndarray) -> CauseScreen:
    """The screen with the genes of some cells in another order; their library sizes are as they were."""
    changed = cells.copy()
    changed.X[rows] = changed.X[rows][:, np.random.default_rng(9).permutation(cells.n_vars)]
    changed.write_h5ad(file.parent / "changed.h5ad")
    return read_cause_screen(file.parent / "changed.h5ad")


def test_knock_outs_of_measured_genes_in_cells_enough(mine: tuple[Path, Any]) -> None:
    file, cells = mine
    names = [str(cells.var_names[g]) for g in read_cause_screen(file).genes]
    assert names == ["G00", "G01", "G03", "G04", "G07", "G08", "G09", "G10", "G11"]
    assert "G06" in [str(cells.var_names[g]) for g in read_cause_screen(file, least=5).genes]
    with pytest.raises(
        ValueError, match=r"mine\.h5ad' has no measured gene that was perturbed alone in 99 cells beside controls"
    ):
        read_cause_screen(file, least=99)


def test_what_is_known_and_true(mine: tuple[Path, Any]) -> None:
    file, cells = mine
    screen, place = read_cause_screen(file), {g: i for i, g in enumerate(cells.var_names)}
    samples = [drawn(screen, seed) for seed in range(6)]
    for sample, open_ in samples:
        rows = sample.known.any(1).numpy()
        np.testing.assert_array_equal(np.flatnonzero(rows), screen.genes)  # hidden or not
        assert not (open_ & ~rows)[[i for i in range(len(rows)) if i != place["G06"]]].any()
        assert not (sample.truth & ~sample.known).any()
    hidden = [(~open_)[screen.genes].mean() for _, open_ in samples]
    assert min(hidden) < 0.4 < 0.6 < max(hidden)  # from hardly any to nearly all
    truth = torch.stack([s.truth.float() for s, _ in samples]).mean(0)
    assert truth[place["G00"], place["G01"]] > 0.8 and truth[place["G03"], place["G04"]] > 0.8
    unsure = torch.stack([~s.known[screen.genes] for s, _ in samples]).float().mean()
    assert 0.005 < unsure < 0.3  # neither clearly changed nor clearly not
    assert truth[place["G08"], [place[f"G{g}"] for g in (20, 21, 22, 23, 24)]].mean() < 0.2


def test_cells_of_a_hidden_knock_out_are_not_looked_at(mine: tuple[Path, Any]) -> None:
    file, cells = mine
    screen, labels = read_cause_screen(file), cells.obs["perturbation"].astype(str).to_numpy()
    gene = list(cells.var_names).index("G00")
    seed = next(s for s in range(50) if not drawn(screen, s)[1][gene])
    (before, _), (after, _) = (
        drawn(s, seed) for s in (screen, rewritten(file, cells, np.isin(labels, ["G00", "G00+G01"])))
    )
    everything = torch.arange(cells.n_vars)
    torch.testing.assert_close(
        before.features.block(everything, everything), after.features.block(everything, everything)
    )
    assert (before.truth[gene] != after.truth[gene]).any()
    seen = next(s for s in range(50) if drawn(screen, s)[1][gene])
    (before, _), (after, _) = (drawn(s, seen) for s in (screen, rewritten(file, cells, labels == "G00")))
    assert not torch.allclose(before.features.genes, after.features.genes)


@pytest.mark.parametrize("which", ["control", "G00"])
def test_truth_is_judged_by_cells_that_the_network_does_not_see(mine: tuple[Path, Any], which: str) -> None:
    file, cells = mine
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    screen, everything = read_cause_screen(file), torch.arange(cells.n_vars)
    seed = next(s for s in range(50) if drawn(screen, s)[1][list(cells.var_names).index("G00")])
    sample, _ = drawn(screen, seed)
    before, changed = sample.features.block(everything, everything), np.zeros(2)
    for row in np.flatnonzero(labels == which)[:12]:
        other, _ = drawn(rewritten(file, cells, np.array([row])), seed)
        saw = not torch.equal(before, other.features.block(everything, everything))
        changed[int(saw)] += 1
        if saw:  # what the network sees is not what judges
            torch.testing.assert_close(sample.truth, other.truth)
    assert changed.min() >= 2


def test_items_hold_the_knock_outs_and_count_what_is_known(mine: tuple[Path, Any]) -> None:
    sample, _ = drawn(read_cause_screen(mine[0]), 0)
    known = sample.known
    x, labels, valid = make_item(sample, Recipe("r", subset=12), torch.Generator().manual_seed(0))
    assert x.shape[:2] == labels.shape == valid.shape == (12, 12)
    assert int(valid.any(1).sum()) == 9 and not valid.diagonal().any()
    whole = make_item(sample, Recipe("r", subset=99), torch.Generator().manual_seed(0))
    assert int(whole[2].sum()) == int((known & ~torch.eye(len(known), dtype=torch.bool)).sum())
    assert int(whole[1].sum()) == int(sample.truth.sum())


def test_hidden_and_shown_knock_outs_are_judged_by_as_many_cells(mine: tuple[Path, Any]) -> None:
    screen, found = read_cause_screen(mine[0]), {True: [], False: []}
    for seed in range(40):
        sample, shown = drawn(screen, seed)
        for gene in screen.genes[[0, 1, 2]]:
            found[bool(shown[gene])].append(int(sample.truth[gene].sum()))
    shown, hidden = np.mean(found[True]), np.mean(found[False])
    assert min(len(found[True]), len(found[False])) > 40 and abs(shown - hidden) < 0.25 * shown


def test_screens_that_cannot_be_learned_from_are_named(mine: tuple[Path, Any], tmp_path: Path) -> None:
    _, cells = mine
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    few = cells[~np.isin(np.arange(len(labels)), np.flatnonzero(labels == "control")[59:])].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(ValueError, match=r"few\.h5ad' has 59 controls; half of them judge, so at least 60 are needed"):
        read_cause_screen(tmp_path / "few.h5ad")
    cells.obs["run"] = np.where(np.isin(labels, ["G00", "G01"]), "mine alone", "all")
    cells.write_h5ad(tmp_path / "apart.h5ad")
    left = read_cause_screen(tmp_path / "apart.h5ad", "run")
    assert [str(cells.var_names[g]) for g in left.genes] == ["G03", "G04", "G07", "G08", "G09", "G10", "G11"]
    sample, _ = drawn(left, 0)
    assert torch.isfinite(sample.features.genes).all() and not sample.known[:2].any()
    pp.regimes(cells, "perturbation", "control")
    summary = pp.summarise(cells, max_cells=100, progress_bar=False)
    summary.write_h5ad(tmp_path / "summary.h5ad")
    with pytest.raises(ValueError, match=r"summary\.h5ad' is a summary: knock-outs cannot be hidden in its sums"):
        read_cause_screen(tmp_path / "summary.h5ad")
