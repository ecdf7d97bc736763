from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

from causcade import fusion, nulls, pp
from causcade.comparisons import read_groups, read_perturbations
from causcade.pretrained import Weights
from causcade.targets import TargetScores, TargetSettings, network_scorer, score_targets

QUIET = TargetSettings(n_draws=2, progress_bar=False)
FLOATS = ("mean", "sd", "lfc", "wilcoxon", "fused")


class Shift:
    """Standardised shift of the means, with some noise in every draw."""

    def __init__(self, noise=0.0):
        self.noise, self.prepared, self.scored = noise, [], 0

    def prepare(self, control):
        self.prepared.append((control.n, control.mean.shape[0]))
        return control

    def score(self, state, perturbed, rng):
        self.scored += 1
        spread = state.cov.diagonal().clamp(min=1e-6).sqrt()
        shift = ((perturbed.mean - state.mean) / spread).abs() * perturbed.n**0.5
        return shift + self.noise * torch.from_numpy(rng.standard_normal(len(shift))).float()


def run(adata, settings=QUIET, scorer=None, seed=0, names=None, weights=None, **how) -> TargetScores:
    screen, pairs = read_perturbations(adata, names, **how)
    return score_targets(screen, pairs, weights, settings, np.random.default_rng(seed), scorer=scorer or Shift())


def log_values(adata):
    total = adata.X.sum(1)
    return np.log1p(adata.X * (np.median(total) / total)[:, None])


def assert_same(a, b, names=FLOATS, rows=slice(None), columns=slice(None), **close):
    for name in names:
        np.testing.assert_allclose(
            getattr(a, name)[rows][:, columns], getattr(b, name), err_msg=name, **{"atol": 1e-4, **close}
        )


def null_screen(seed, n_control=400, n_cells=40, n_perturbed=3, n_genes=40):
    """Perturbations that do nothing."""
    rng = np.random.default_rng(seed)
    labels = ["control"] * n_control + [f"G{g}" for g in range(n_perturbed) for _ in range(n_cells)]
    x = rng.poisson(rng.gamma(2, 2, n_genes), (len(labels), n_genes)).astype(np.float32)
    adata = ad.AnnData(x)
    adata.var_names = [f"G{g}" for g in range(n_genes)]
    adata.obs["pert"] = labels
    pp.regimes(adata, "pert", "control")
    return adata


def test_columns_belong_to_perturbations(screen):
    out = run(screen, names=["G07", "G02", "G05"])
    assert out.names == ("G07", "G02", "G05")
    assert np.argmax(out.mean, 0).tolist() == [7, 2, 5]
    assert np.argmax(out.fused, 0).tolist() == [7, 2, 5]
    y, labels = log_values(screen), screen.obs["pert"].to_numpy()
    control = y[labels == "control"]
    for j, name in enumerate(out.names):
        mine = y[labels == name]
        np.testing.assert_allclose(out.lfc[:, j], mine.mean(0) - control.mean(0), atol=1e-5)
        expected = np.abs(mine.mean(0) - control.mean(0)) / control.std(0) * 8**0.5
        np.testing.assert_allclose(out.mean[:, j], expected, rtol=1e-3)
        assert out.wilcoxon[int(name[1:]), j] < -4
    for name in FLOATS:
        assert getattr(out, name).dtype == np.float32
        assert getattr(out, name).shape == (32, 3)
    assert (out.count == 2).all()
    assert out.pvalue is None
    assert out.fdr is None


def test_fused_is_that_of_the_weights(screen):
    learned = dict.fromkeys(fusion.FEATURES, 0.0) | {"wilcoxon_rank": 1.0}
    with_fusion = Weights("x", torch.nn.Identity(), {"fusion": learned}, "0" * 64)
    out = run(screen, weights=with_fusion, names=["G03"])
    order = np.argsort(-np.abs(out.wilcoxon[:, 0]))
    np.testing.assert_allclose(out.fused[order[:2], 0], -np.log(np.array([1, 2]) / 32), rtol=1e-4)
    plain = run(screen, names=["G03"])
    features = fusion.rank_features(fusion.stack_methods(plain.mean[:, 0], plain.lfc[:, 0], plain.wilcoxon[:, 0]))
    np.testing.assert_allclose(plain.fused[:, 0], fusion.fuse(features), atol=1e-4)


def test_scores_do_not_depend_on_what_else_is_asked(screen):
    how = {"settings": replace(QUIET, n_half=2, n_null=2, masked=True)}
    a = run(screen, scorer=Shift(1.0), **how)
    b = run(screen, scorer=Shift(1.0), names=["G09", "G04"], **how)
    assert_same(a, b, (*FLOATS, "pvalue", "fdr"), columns=[9, 4], atol=0)


def test_seeds(screen):
    settings = replace(QUIET, n_null=2)
    a, b, c = (run(screen, settings, Shift(1.0), seed) for seed in (0, 0, 1))
    assert_same(a, b, (*FLOATS, "pvalue", "fdr"), atol=0)
    assert not np.array_equal(a.mean, c.mean)


def test_spread_over_draws(screen):
    out = run(screen, replace(QUIET, n_draws=200), Shift(2.0), names=["G01"])
    assert 1.7 < out.sd.mean() < 2.3
    assert np.isnan(run(screen, replace(QUIET, n_draws=1), names=["G01"]).sd).all()
    assert not run(screen, names=["G01"]).sd.any()


class Signed(Shift):
    """Linear in the values, so that halves give the standard error without bias."""

    def score(self, state, perturbed, rng):
        return perturbed.mean - state.mean


def test_spread_over_halves_is_the_standard_error():
    adata = null_screen(0)
    out = run(adata, replace(QUIET, n_half=40), Signed(), values="expression")
    y, labels = log_values(adata), adata.obs["pert"].to_numpy()
    se = np.sqrt(y[labels == "G1"].var(0) / 40 + y[labels == "control"].var(0) / 400)
    ratio = out.sd[:, 1] / se
    assert 0.85 < ratio.mean() < 1.15


def test_halves_need_six_cells(screen):
    small = screen[np.r_[0:60, 60:65, 68:76]].copy()  # five cells of G00, eight of G01
    out = run(small, replace(QUIET, n_half=2))
    assert np.isnan(out.sd[:, 0]).all()
    assert np.isfinite(out.sd[:, 1]).all()


def test_fixed_candidates_are_prepared_once_and_others_each(screen):
    scorer = Shift()
    run(screen, scorer=scorer)
    assert scorer.prepared == [(60, 32)]
    scorer = Shift()
    out = run(screen, replace(QUIET, candidates="de", n_candidates=6, min_candidates=6), scorer)
    assert scorer.prepared == [(60, 6)] * 12
    assert (np.isfinite(out.mean).sum(0) == 6).all()


def test_genes_that_are_no_candidates_have_no_score(screen):
    settings = replace(QUIET, candidates=np.array([5, 30, 2]), n_null=2)
    out = run(screen, settings)
    rest = np.setdiff1d(np.arange(32), [5, 30, 2])
    for name in ("mean", "sd", "fused", "pvalue", "fdr"):
        values = getattr(out, name)
        assert np.isnan(values[rest]).all(), name
        assert np.isfinite(values[[5, 30, 2]]).all(), name
    assert np.isfinite(out.lfc).all()
    assert np.isfinite(out.wilcoxon).all()
    assert out.count[rest].sum() == 0
    np.testing.assert_allclose(out.mean[[5, 30, 2]], run(screen).mean[[5, 30, 2]], atol=1e-4)


def test_auto_is_all_genes_of_a_small_panel_and_de_of_a_large_one(screen):
    assert np.isfinite(run(screen, replace(QUIET, n_candidates=32)).mean).all()
    out = run(screen, replace(QUIET, n_candidates=31, min_candidates=3))
    n = np.isfinite(out.mean).sum(0)
    assert (n >= 3).all()
    assert (n < 20).all()
    assert all(np.isfinite(out.mean[g, g]) for g in range(12))  # targets changed, so they are candidates


def test_order_of_genes_and_cells_does_not_matter(screen):
    rng = np.random.default_rng(5)
    genes, cells = rng.permutation(32), rng.permutation(156)
    plain = run(screen)
    assert_same(plain, run(screen[cells].copy()), atol=2e-3)
    assert_same(plain, run(screen[:, genes].copy()), rows=genes, atol=2e-3)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, "backed", "view"])
def test_containers(screen, tmp_path, form):
    plain = run(screen, replace(QUIET, n_null=1))
    if form == "backed":
        screen.write_h5ad(tmp_path / "a.h5ad")
        screen = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    elif form == "view":
        screen = screen[:, :]
    else:
        screen.X = form(screen.X)
    assert_same(plain, run(screen, replace(QUIET, n_null=1)), (*FLOATS, "pvalue", "fdr"))


def test_masked_targets_cannot_be_told_by_themselves(screen):
    plain, masked = run(screen), run(screen, replace(QUIET, masked=True))
    own = np.arange(12)
    assert (np.abs(plain.wilcoxon[own, own]) > 4).all()
    assert np.abs(masked.wilcoxon[own, own]).mean() < 1.5
    assert (np.abs(masked.lfc[own, own]) < 0.5 * np.abs(plain.lfc[own, own])).all()
    other = ~np.eye(32, 12, dtype=bool)
    np.testing.assert_array_equal(masked.lfc[other], plain.lfc[other])
    assert np.isfinite(masked.mean[own, own]).all()  # still candidates
    assert masked.mean[2, 1] == plain.mean[2, 1]  # what G01 drives still shows


def test_masking_needs_a_known_target(screen):
    pp.regimes(screen, "pert", "control", targets={"G00": [], "G01": ["absent"]})
    with pytest.raises(ValueError, match="no perturbation has a measured known target"):
        run(screen, replace(QUIET, masked=True), names=["G00", "G01"])


def test_batches_are_compared_within(screen):
    names = [f"G{g:02d}" for g in range(12)]
    screen.X = log_values(screen)
    plain = run(screen, values="log", batch_key="batch", names=names)
    moved = screen.copy()
    moved.X[(moved.obs["batch"] == "b").to_numpy()] += np.linspace(0, 3, 32, dtype=np.float32)
    assert_same(plain, run(moved, values="log", batch_key="batch", names=names), atol=1e-3)
    assert np.abs(run(moved, values="log", names=names).wilcoxon - plain.wilcoxon).max() > 0.5


def test_large_sets_are_sampled():
    adata = null_screen(0)
    scorer = Shift()
    out = run(adata, replace(QUIET, max_cells=30), scorer)
    assert scorer.prepared == [(30, 40)]
    assert np.isfinite(out.mean).all()
    again = run(adata, replace(QUIET, max_cells=30), Shift())
    assert_same(out, again, atol=0)


def test_null_is_uniform_where_nothing_happens():
    p = []
    for seed in range(4):
        out = run(null_screen(seed), replace(QUIET, n_draws=1, n_null=10), seed=seed)
        np.testing.assert_allclose(out.fdr, nulls.benjamini_hochberg(out.pvalue), atol=1e-6)
        p.append(out.pvalue.ravel())
    every = np.concatenate(p)
    assert every.min() > 0
    assert 0.45 < every.mean() < 0.56
    assert 0.02 < (every < 0.05).mean() < 0.08


def test_null_of_chosen_candidates_is_chosen_too():
    """Genes picked for their change have large scores by selection alone: the null must pick as well."""
    settings = replace(QUIET, n_draws=1, n_null=10, candidates="de", n_candidates=8, min_candidates=8)
    p = np.concatenate([run(null_screen(seed), settings, seed=seed).pvalue.ravel() for seed in range(4)])
    p = p[np.isfinite(p)]
    assert len(p) == 4 * 3 * 8
    assert 0.35 < p.mean() < 0.62


def test_null_finds_what_was_perturbed(screen):
    out = run(screen, replace(QUIET, n_null=20))
    own = np.arange(12)
    assert (out.fdr[own, own] < 0.1).all()
    assert np.median(out.fdr[20:]) > 0.5


def test_null_takes_as_many_controls_as_cells_and_never_the_same():
    seen = []

    class Sizes(Shift):
        def score(self, state, perturbed, rng):
            seen.append((state.n, perturbed.n))
            return super().score(state, perturbed, rng)

    adata = null_screen(0, n_control=60, n_cells=40, n_perturbed=1)
    run(adata, replace(QUIET, n_draws=1, n_null=2), Sizes())
    assert seen == [(60, 40), (30, 30), (30, 30)]  # half of the controls at most
    seen.clear()
    run(adata[:75].copy(), replace(QUIET, n_draws=1, n_null=1), Sizes())
    assert seen == [(60, 15), (30, 15)]


def test_null_needs_controls(screen):
    few = screen[np.r_[0:5, 60:156]].copy()
    with pytest.raises(ValueError, match="there are only 5; pass n_null=0"):
        run(few, replace(QUIET, n_null=1))
    assert np.isfinite(run(few).mean).all()


def test_two_groups(screen):
    found, pairs = read_groups(screen, ("control", "G04"), "pert")
    out = score_targets(found, pairs, None, replace(QUIET, n_null=1), np.random.default_rng(0), scorer=Shift())
    assert out.names == ("G04",)
    assert out.mean.shape == (32, 1)
    assert np.argmax(out.mean[:, 0]) == 4
    back = read_groups(screen, ("G04", "control"), "pert")
    turned = score_targets(*back, None, QUIET, np.random.default_rng(0), scorer=Shift())
    np.testing.assert_allclose(turned.lfc, -out.lfc, atol=1e-5)
    np.testing.assert_allclose(turned.wilcoxon, -out.wilcoxon, atol=1e-4)


def test_smallest_screen():
    adata = null_screen(0, n_control=3, n_cells=3, n_perturbed=1, n_genes=2)
    with pytest.warns(UserWarning, match="1 perturbations have fewer than 5 cells"):
        out = run(adata, replace(QUIET, n_half=2))
    assert np.isfinite(out.mean).all()
    assert np.isnan(out.sd).all()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"candidates": "some"}, "candidates must be 'auto', 'all', 'de' or positions"),
        ({"candidates": np.array([3])}, "1 candidates: at least 2"),
        ({"candidates": "de", "n_candidates": 10_000}, "10,000 candidates.*at most 5,000"),
    ],
)
def test_bad_candidates(screen, settings, text):
    with pytest.raises(ValueError, match=text):
        run(screen, replace(QUIET, **settings))


def test_weights_or_a_scorer(screen):
    with pytest.raises(ValueError, match="Pass weights, or a scorer"):
        score_targets(*read_perturbations(screen), None, QUIET, np.random.default_rng(0))


def test_scores_are_those_of_the_network(screen):
    from causcade.contrasts import summarise
    from causcade.nn.differential import Differential, DifferentialConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = DifferentialConfig(
            width=8, heads=2, hidden=16, structure_layers=1, difference_layers=1, paths=2, local=4
        )
        net = Differential(sizes)
    weights = Weights("tiny", net, {"model": "CDN", "size": 64}, "0" * 64)
    settings = replace(QUIET, n_subsets=0)  # no random local graphs
    found, pairs = read_perturbations(screen, ["G05"])
    out = score_targets(found, pairs, weights, settings, np.random.default_rng(0))
    y, labels = torch.from_numpy(log_values(screen)), screen.obs["pert"].to_numpy()
    scorer = network_scorer(weights, settings)
    control, perturbed = (summarise(y[labels == name]) for name in ("control", "G05"))
    expected = scorer.score(scorer.prepare(control), perturbed, np.random.default_rng(0))
    np.testing.assert_allclose(out.mean[:, 0], expected, atol=1e-3)
