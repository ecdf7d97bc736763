"""Reversal of a change of state: against plain numpy, against truth, and under a null that must stay one."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from causcade import get, pp, reversal, tl

GENES = [f"G{i:02d}" for i in range(20)]
QUIET: dict[str, Any] = {"progress_bar": False}
LOG: dict[str, Any] = {"values": "log", "progress_bar": False}
STATE = np.r_[np.ones(6), -0.5 * np.ones(4), np.zeros(10)]  # what disease does
EFFECTS = {
    "half_back": -0.5 * STATE,
    "further": 0.5 * STATE,
    "across": np.r_[np.zeros(10), np.ones(10)],
    "back_and_across": np.r_[-STATE[:10], np.ones(10)],
}


def screen(*, per: int = 60, n_control: int = 120, nothing: int = 0, seed: int = 0, donor: float = 1) -> ad.AnnData:
    """Log values: healthy and diseased controls in two donors, perturbed diseased cells; donors differ in level."""
    rng = np.random.default_rng(seed)
    effects = EFFECTS | {f"nothing{i}": np.zeros(20) for i in range(nothing)}
    labels = ["control"] * (2 * n_control) + [name for name in effects for _ in range(per)]
    state = ["healthy"] * n_control + ["disease"] * (len(labels) - n_control)
    mean = np.array([effects.get(label, np.zeros(20)) for label in labels]) + 3
    mean[np.array(state) == "disease"] += STATE
    obs = pd.DataFrame({"pert": labels, "state": state, "donor": ["a", "b"] * (len(labels) // 2)})
    obs.index = [f"c{i}" for i in range(len(labels))]
    mean[obs["donor"] == "b"] += donor
    x = np.maximum(mean + 0.3 * rng.standard_normal(mean.shape), 0).astype(np.float32)
    adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))
    pp.regimes(adata, "pert", "control", targets={})
    return adata


def table_of(adata: ad.AnnData, **how: Any) -> pd.DataFrame:
    tl.reversal(adata, ("healthy", "disease"), "state", **LOG | {"batch_key": "donor"} | how)
    return get.reversal(adata).set_index("perturbation")


def test_finds_what_goes_back() -> None:
    table = table_of(screen())
    assert list(table.index) == ["half_back", "back_and_across", "across", "further"]
    truth = {"half_back": 1, "further": -1, "across": 0, "back_and_across": np.sqrt(7 / 17)}
    for name, cosine in truth.items():
        assert table.loc[name, "score"] == pytest.approx(cosine, abs=0.06)
    assert table.loc["half_back", "fraction"] == pytest.approx(0.5, abs=0.05)
    assert table.loc["back_and_across", "fraction"] == pytest.approx(1, abs=0.05)
    assert table.loc["half_back", "closer"] == pytest.approx(0.5, abs=0.06)
    assert table.loc["back_and_across", "closer"] == pytest.approx(1 - np.sqrt(10 / 7), abs=0.06)  # back, but elsewhere
    assert table.loc["half_back", "size"] == pytest.approx(0.5, abs=0.06)
    assert (table.loc[["half_back", "back_and_across"], "fdr"] < 0.02).all()
    assert table.loc["further", "pvalue"] > 0.9
    np.testing.assert_allclose(table["fdr"], stats.false_discovery_control(table["pvalue"]))


def test_equals_plain_numpy_where_no_cell_is_shared() -> None:
    adata = screen(per=40)
    adata.obs["state"] = np.where(
        adata.obs["pert"] == "further", "x", np.where(adata.obs["pert"] == "across", "y", "z")
    )
    asked = ["half_back", "back_and_across"]
    tl.reversal(adata, ("x", "y"), "state", perturbations=asked, within="all", batch_key="donor", n_top=16, **LOG)
    x, pert, donor = adata.X.astype(np.float64), adata.obs["pert"].to_numpy(), adata.obs["donor"].to_numpy()

    def less(a: str, b: str) -> np.ndarray:
        parts = [x[(pert == a) & (donor == d)].mean(0) - x[(pert == b) & (donor == d)].mean(0) for d in "ab"]
        return np.mean(parts, 0)  # as many cells in either

    change = less("across", "further")
    top = np.argsort(-np.abs(change))[:16]  # fallen genes among them
    np.testing.assert_allclose(adata.varm["reversal_change"][:, 0], change, rtol=1e-4, atol=1e-5)
    for j, name in enumerate(asked):
        effect = less(name, "control")
        row = adata.uns["reversal"]["table"].iloc[j]
        np.testing.assert_allclose(adata.varm["reversal"][:, j], effect, rtol=1e-4, atol=1e-5)
        assert row["score"] == pytest.approx(
            -effect @ change / np.linalg.norm(effect) / np.linalg.norm(change), abs=1e-5
        )
        assert row["fraction"] == pytest.approx(-effect @ change / (change @ change), abs=1e-5)
        assert row["top_correlation"] == pytest.approx(stats.pearsonr(effect[top], -change[top])[0], abs=1e-5)
        assert row["closer"] == pytest.approx(1 - np.linalg.norm(change + effect) / np.linalg.norm(change), abs=1e-5)
        assert row["n_cells"] == 40
    assert adata.uns["reversal"]["n_control"] == 240


def test_shared_controls_do_not_look_like_a_reversal() -> None:
    """Two groups that do not differ, perturbations that do nothing: the naive cosine is far above 0."""
    naive, dealt = [], []
    for seed in range(8):
        adata = screen(per=20, n_control=20, nothing=6, donor=0, seed=seed)
        healthy = (adata.obs["state"] == "healthy").to_numpy()
        adata.X[~healthy] -= STATE.astype(np.float32)
        x, pert = adata.X, adata.obs["pert"].to_numpy()
        nothing = [f"nothing{i}" for i in range(6)]
        dealt += table_of(adata, perturbations=nothing, batch_key=None, n_draws=0, n_null=0)["score"].tolist()
        sick = x[(pert == "control") & ~healthy].mean(0)
        back = x[healthy].mean(0) - sick
        effects = [x[pert == name].mean(0) - sick for name in nothing]
        naive += [e @ back / np.linalg.norm(e) / np.linalg.norm(back) for e in effects]
    assert np.mean(naive) > 0.35
    assert abs(np.mean(dealt)) < 0.15


def test_p_values_of_nothing_are_even() -> None:
    found = []
    for seed in range(3):  # few cells against many controls, whose noise all share
        asked = [f"nothing{i}" for i in range(40)]
        table = table_of(screen(per=4, n_control=500, nothing=40, seed=seed), perturbations=asked, n_null=40, n_draws=0)
        found.append(table["pvalue"])
    assert stats.kstest(np.concatenate(found), "uniform").pvalue > 0.01


def test_labels_are_permuted_within_batches() -> None:
    """A perturbation measured mostly in the donor with the higher level must not profit."""
    adata = screen(per=40, nothing=1)
    rows = np.flatnonzero((adata.obs["pert"] == "nothing0") & (adata.obs["donor"] == "a"))[3:]
    rest = adata[np.setdiff1d(np.arange(adata.n_obs), rows)].copy()
    rest.X[(rest.obs["donor"] == "b").to_numpy()] -= 2 * STATE.astype(np.float32).clip(0)  # looks like going back
    within = table_of(rest)
    across = table_of(rest, batch_key=None)
    assert within.loc["nothing0", "pvalue"] > 0.05
    assert across.loc["nothing0", "pvalue"] < 0.03


def test_spread_is_that_of_new_cells() -> None:
    adata = screen(per=20, n_control=100, seed=1)
    table = table_of(adata, n_null=0)
    assert "pvalue" not in table and "fdr" not in table
    fresh = [
        table_of(screen(per=20, n_control=100, seed=s), n_null=0, n_draws=0).loc["half_back", "fraction"]
        for s in range(2, 14)
    ]
    assert 0.5 < table.loc["half_back", "fraction_sd"] / np.std(fresh, ddof=1) < 2


def test_numbers_do_not_depend_on_what_else_is_asked() -> None:
    adata = screen(nothing=2)
    table = table_of(adata)
    alone = table_of(adata, perturbations="half_back")
    columns = ["score", "sd", "fraction", "fraction_sd", "size", "closer", "top_correlation"]
    pd.testing.assert_series_equal(alone.loc["half_back", columns], table.loc["half_back", columns])
    again = table_of(adata)
    pd.testing.assert_frame_equal(again, table)
    assert not np.allclose(table_of(adata, rng=1)["sd"], table["sd"])


def test_counts_and_a_perturbation_as_the_second_group(screen: ad.AnnData) -> None:
    """G01 follows G00: both change alike. The perturbation that is the group itself is dealt in two."""
    tl.reversal(screen, ("control", "G00"), "pert", within="all", **QUIET)
    table = get.reversal(screen).set_index("perturbation")
    assert table.index[-1] == "G00" and table.loc["G00", "n_cells"] == 4
    assert screen.uns["reversal"]["params"]["change_cells"] == "all"
    assert screen.uns["reversal"]["n_after"] == 4
    assert screen.uns["reversal"]["n_control"] == 30 == screen.uns["reversal"]["n_before"]


def test_genes_add_up_to_the_score() -> None:
    adata = screen()
    table = table_of(adata)
    genes = get.reversal_genes(adata, "back_and_across")
    assert genes["contribution"].sum() == pytest.approx(table.loc["back_and_across", "score"], abs=1e-5)
    assert set(genes["gene"][:6]) == set(GENES[:6])
    assert genes["contribution"].is_monotonic_decreasing
    assert len(get.reversal_genes(adata, "across", n_top=3)) == 3
    with pytest.raises(KeyError, match="half_back"):
        get.reversal_genes(adata, "halfback")


def test_own_targets_do_not_count() -> None:
    """A knock-down of G00, which rose and is all that the perturbation changes."""
    adata = screen(nothing=1)
    hit = (adata.obs["pert"] == "nothing0").to_numpy()
    adata.X[hit, 0] = 0
    naive = table_of(adata, batch_key=None)
    assert naive.loc["nothing0", "score"] > 0.3 and naive.loc["nothing0", "fdr"] < 0.02
    targets = dict.fromkeys(EFFECTS, ()) | {"nothing0": "G00"}
    adata.obs["pert"] = adata.obs["pert"].astype(str)
    pp.regimes(
        adata, "pert", "control", targets={k: list([v] if isinstance(v, str) else v) for k, v in targets.items()}
    )
    table = table_of(adata, batch_key=None)
    assert abs(table.loc["nothing0", "score"]) < 0.3 and table.loc["nothing0", "fdr"] > 0.05
    others = list(EFFECTS)
    pd.testing.assert_frame_equal(table.loc[others, ["score", "sd"]], naive.loc[others, ["score", "sd"]])
    genes = get.reversal_genes(adata, "nothing0")
    assert "G00" not in set(genes["gene"]) and len(genes) == 19
    assert genes["contribution"].sum() == pytest.approx(table.loc["nothing0", "score"], abs=1e-5)
    kept = np.arange(1, 20)
    effect, change = (adata.varm[k][kept].astype(np.float64) for k in ("reversal", "reversal_change"))
    effect, change = effect[:, list(adata.uns["reversal"]["names"]).index("nothing0")], change[:, 0]
    cosine = -effect @ change / np.linalg.norm(effect) / np.linalg.norm(change)
    assert table.loc["nothing0", "score"] == pytest.approx(cosine, abs=1e-5)
    assert table.loc["nothing0", "size"] == pytest.approx(np.linalg.norm(effect) / np.linalg.norm(change), abs=1e-5)


def test_groups_in_different_batches_are_compared_across_them_with_a_warning() -> None:
    adata = screen()
    adata.obs["site"] = np.where(adata.obs["state"] == "healthy", "north", "south")
    with pytest.warns(UserWarning, match="No batch"):
        table = table_of(adata, batch_key="site")
    assert table.index[0] == "half_back"


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ({"groups": ("healthy", "diseas")}, KeyError, "disease"),
        ({"groups": ("healthy",)}, ValueError, "two different"),
        ({"groupby": "stat"}, KeyError, "state"),
        ({"groups": ("disease", "healthy")}, ValueError, "within='all'"),
        ({"within": "both"}, ValueError, "within must be"),
        ({"perturbations": "acros"}, KeyError, "across"),
        ({"n_draws": -1}, ValueError, "n_draws"),
        ({"n_null": 1.5}, ValueError, "n_null"),
        ({"n_top": 2}, ValueError, "n_top"),
        ({"values": "counts"}, ValueError, "whole numbers"),
        ({"batch_key": "donr"}, KeyError, "donor"),
        ({"regimes_key": "mine"}, KeyError, "pp.regimes"),
        ({"key_added": "regimes"}, ValueError, "regimes"),
        ({"rng": "a"}, ValueError, "rng"),
    ],
)
def test_bad_arguments_leave_the_data_alone(
    how: dict[str, Any], error: type[Exception], match: str, fingerprint: Any
) -> None:
    adata = screen()
    before = fingerprint(adata)
    with pytest.raises(error, match=match):
        tl.reversal(adata, **{"groups": ("healthy", "disease"), "groupby": "state", **LOG, **how})
    assert fingerprint(adata) == before


def test_groups_that_do_not_differ_are_refused() -> None:
    adata = screen()
    adata.X[:] = 1
    with pytest.raises(ValueError, match="do not differ"):
        table_of(adata)


def test_other_results_are_not_overwritten() -> None:
    adata = screen()
    adata.uns["mine"] = {"names": ["x"], "weights": "y"}
    with pytest.raises(ValueError, match="another key_added"):
        table_of(adata, key_added="mine")
    adata.varm["your_change"] = np.zeros((20, 1))
    with pytest.raises(ValueError, match="overwritten"):
        table_of(adata, key_added="your")
    with pytest.raises(KeyError, match=r"Run cc\.tl\.reversal"):
        get.reversal(adata)
    table_of(adata)
    with pytest.raises(KeyError, match="'reversal'"):
        get.reversal(adata, key="other")


def test_at_most_so_many_cells_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    adata = screen()
    monkeypatch.setattr(reversal, "MOST_CELLS", 15)
    table = table_of(adata)
    assert (table["n_cells"] == 15).all() and table.index[0] == "half_back"
    how = adata.uns["reversal"]
    assert how["n_control"] <= 15 and how["n_before"] <= 15 and how["n_after"] <= 15


def test_a_group_of_too_few_cells_is_refused() -> None:
    adata = screen()
    few = np.flatnonzero(adata.obs["state"] == "healthy")[2:]
    with pytest.raises(ValueError, match="Only 2 cells of the first group"):
        table_of(adata[np.setdiff1d(np.arange(adata.n_obs), few)].copy())


def test_the_change_is_taken_within_batches() -> None:
    """Nearly all healthy cells are of the donor with the lower level."""
    adata = screen(donor=3)
    away = np.flatnonzero((adata.obs["state"] == "healthy") & (adata.obs["donor"] == "b"))[6:]
    table_of(adata := adata[np.setdiff1d(np.arange(adata.n_obs), away)].copy())
    np.testing.assert_allclose(adata.varm["reversal_change"][:, 0], STATE, atol=0.25)
    assert adata.uns["reversal"]["n_before"] == 66  # none is shared with the effects
    adata.obs.loc[adata.obs_names[:20], "donor"] = "c"  # who has healthy cells only
    table_of(adata)
    assert adata.uns["reversal"]["n_before"] == 66 - 20


def test_spread_leaves_own_targets_out_as_well() -> None:
    """Of a gene that rises tenfold more than others, and is the perturbation's own target."""
    fraction_sd = []
    for rise in (0.0, 20.0):
        adata = screen()
        adata.X[(adata.obs["state"] == "disease").to_numpy(), 0] += rise
        adata.obs["pert"] = adata.obs["pert"].astype(str)
        pp.regimes(adata, "pert", "control", targets={name: ["G00"] * (name == "half_back") for name in EFFECTS})
        fraction_sd.append(table_of(adata, n_null=0).loc["half_back", "fraction_sd"])
    assert fraction_sd[0] > 0 and fraction_sd[1] == pytest.approx(fraction_sd[0], rel=0.3)
