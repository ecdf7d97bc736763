from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from causcade import nulls
from causcade.baselines import popularity
from causcade.causes import CauseScores, Settings, score_causes
from causcade.nn.pair_stream import PairStream, PairStreamConfig
from causcade.pairs import pair_features
from causcade.pretrained import Weights, load
from causcade.scoring import compose
from causcade.screendata import read_screen

QUIET = Settings(n_half=0, progress_bar=False)


@pytest.fixture
def weights(tiny_weights) -> Weights:
    return load(tiny_weights)


def run(adata, weights, targets=None, settings=QUIET, seed=0, **how) -> CauseScores:
    wanted = None if targets is None else np.array(targets)
    return score_causes(read_screen(adata, **how), weights, wanted, settings, np.random.default_rng(seed))


def assert_same(a, b, rows=slice(None), columns=slice(None), atol=1e-4):
    for name in ("mean", "knockout_t", "correlation"):
        left, right = getattr(a, name)[rows][:, columns], getattr(b, name)
        np.testing.assert_allclose(left, right, atol=atol, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(a.popularity[rows], b.popularity, atol=atol, rtol=1e-4)


def test_scores_are_those_of_the_network(screen, weights):
    out = run(screen, weights)
    with torch.inference_mode():
        every = torch.arange(32)
        expected = weights.net(pair_features(read_screen(screen).stats()).block(every, every)[None])[0].numpy()
    np.testing.assert_allclose(out.mean, expected, atol=1e-4)
    assert (out.count == 2).all()
    assert np.isnan(out.sd).all()  # one set holds all genes, so draws are alike and say nothing of the spread
    for part in (out.mean, out.sd, out.knockout_t, out.popularity, out.correlation):
        assert part.dtype == np.float32
    assert out.pvalue is None
    assert out.fdr is None


@pytest.fixture
def composing(weights) -> Weights:
    """The same network with a composition that is not trained: a noisy or."""
    net = PairStream(PairStreamConfig(**{**weights.config["sizes"], "rounds": 1}))
    net.load_state_dict(weights.net.state_dict(), strict=False)
    return replace(weights, net=net.eval())


def test_scores_of_all_pairs_are_composed(screen, weights, composing):
    plain, composed = run(screen, weights), run(screen, composing)
    np.testing.assert_array_equal(composed.mean, compose(composing.net, plain.mean))
    off = ~np.eye(32, dtype=bool)
    assert (composed.mean >= plain.mean)[off].all() and (composed.mean > plain.mean + 0.01)[off].any()
    assert_same(run(screen, composing, settings=replace(QUIET, compose=False)), plain)
    assert_same(run(screen, composing, [7, 2]), plain_columns(plain, [7, 2]))


def plain_columns(scores, columns):
    return replace(
        scores, **{name: getattr(scores, name)[:, columns] for name in ("mean", "knockout_t", "correlation")}
    )


def test_spread_and_null_are_those_of_composed_scores(screen, weights, composing):
    how = replace(QUIET, n_half=2, n_null=2)
    plain, composed = run(screen, weights, settings=how), run(screen, composing, settings=how)
    assert not np.allclose(plain.sd, composed.sd)
    off = ~np.eye(32, dtype=bool)
    assert composed.pvalue[off].min() < 1
    same = run(screen, composing, settings=replace(how, compose=False))
    np.testing.assert_array_equal(same.sd, plain.sd)
    np.testing.assert_array_equal(same.pvalue, plain.pvalue)


def test_targets_are_columns_of_all_pairs(screen, weights):
    assert_same(run(screen, weights), run(screen, weights, [7, 2, 30]), columns=[7, 2, 30])


def test_threads_move_the_last_digits_alone(screen, weights):
    before = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(run(screen, weights, settings=replace(QUIET, n_half=2)))
    finally:
        torch.set_num_threads(before)
    assert_same(*found, atol=1e-3)
    np.testing.assert_allclose(found[0].sd, found[1].sd, atol=1e-2)


@pytest.mark.parametrize("all_pairs", [True, False])
def test_order_of_genes_does_not_matter(screen, weights, all_pairs):
    order = np.random.default_rng(5).permutation(32)
    targets = None if all_pairs else [4, 9]
    moved = None if all_pairs else [int(np.flatnonzero(order == t)[0]) for t in targets]
    a, b = run(screen, weights, targets), run(screen[:, order].copy(), weights, moved)
    assert_same(a, b, rows=order, columns=order if all_pairs else slice(None))


def test_order_of_cells_does_not_matter(screen, weights):
    order = np.random.default_rng(5).permutation(156)
    assert_same(run(screen, weights), run(screen[order].copy(), weights), atol=2e-3)  # sums in float32


def test_names_do_not_matter(screen, weights):
    renamed = screen.copy()
    new = {f"G{g:02d}": f"X{31 - g:02d}" for g in range(32)}
    renamed.var_names = [new[g] for g in screen.var_names]
    renamed.obs["pert"] = [new.get(label, label) for label in screen.obs["pert"]]
    from causcade import pp

    pp.regimes(renamed, "pert", "control")  # regimes are sorted by name, so their numbers change
    assert read_screen(renamed).single.tolist() != read_screen(screen).single.tolist()
    assert_same(run(screen, weights), run(renamed, weights))


def test_baselines(screen, weights):
    out, stats = run(screen, weights, [1, 4]), read_screen(screen).stats()
    np.testing.assert_array_equal(out.knockout_t[:12], stats.z.numpy()[:12, [1, 4]])
    assert np.isnan(out.knockout_t[12:]).all()
    np.testing.assert_array_equal(out.correlation, stats.correlation.numpy()[:, [1, 4]])
    np.testing.assert_allclose(out.popularity[:12, 0], popularity(np.abs(stats.z.numpy()))[:12, 0])
    assert np.isnan(out.popularity[12:]).all()
    off = np.abs(np.delete(stats.z.numpy()[3], 3))
    assert out.popularity[3, 0] == pytest.approx(off.mean(), rel=1e-5)
    assert np.abs(out.knockout_t[:12, 1]).argmax() == 4  # its own knock-out
    assert np.abs(np.delete(out.knockout_t[:12, 1], 4)).argmax() == 3  # then its cause


def test_small_sets_cover_everything(screen, weights):
    out = run(screen, weights, [3, 20], replace(QUIET, size=8, n_draws=3, n_anchors=2))
    assert out.count.min() >= 3
    assert np.isfinite(out.mean).all()
    assert (out.sd > 0).any()


def test_half_samples_give_a_spread(screen, weights):
    out = run(screen, weights, [1, 5], replace(QUIET, n_half=4))
    plain = run(screen, weights, [1, 5])
    np.testing.assert_array_equal(out.mean, plain.mean)
    assert (out.sd > 0).all()
    assert np.isnan(plain.sd).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = screen[np.repeat(np.arange(156), 8)].copy()  # more cells, less spread
    assert run(more, weights, [1, 5], replace(QUIET, n_half=4)).sd.mean() < 0.8 * out.sd.mean()


def test_half_samples_come_in_pairs(screen, weights, monkeypatch):
    import causcade.causes

    seen = []
    ensemble = causcade.causes.score_pairs
    monkeypatch.setattr(
        causcade.causes, "score_pairs", lambda *a, **k: (seen.append(k["n_draws"]), ensemble(*a, **k))[1]
    )
    run(screen, weights, [1], replace(QUIET, n_half=3, n_null=2))
    assert seen == [2, 1, 1, 1, 1, 2, 2]  # null screens are scored as the real one


def test_one_draw_without_halves_has_no_spread(screen, weights):
    assert np.isnan(run(screen, weights, [1], replace(QUIET, n_draws=1)).sd).all()


def test_permuted_labels_destroy_the_effects(screen):
    data = read_screen(screen, batch_key="batch")
    off = ~np.eye(32, dtype=bool)[:12]
    real = np.abs(data.stats().z.numpy()[:12])
    codes = nulls.permute_codes(data.codes, groups=data.groups, rng=0)
    permuted = data.stats(data.moments(codes=codes)).z.numpy()[:12]
    assert real[0, 1] > 4
    assert real[~off].min() > 4
    assert np.abs(permuted).max() < 5
    assert 0.8 < permuted.std() < 1.2


@pytest.mark.parametrize("network", ["pairs", "cells"])
def test_null(screen, tiny_weights, tiny_cell_weights, network):
    weights = load(tiny_weights if network == "pairs" else tiny_cell_weights)
    out = run(screen, weights, [1, 5], replace(QUIET, n_null=3))
    assert out.pvalue is not None and out.fdr is not None
    for part in (out.pvalue, out.fdr):
        assert part.shape == (32, 2)
        assert part.dtype == np.float32
        assert ((part > 0) & (part <= 1)).all()
    assert out.pvalue[1, 0] == out.pvalue[5, 1] == out.fdr[1, 0] == 1  # a gene and itself
    assert out.pvalue.min() >= np.float32(1 / (1 + 3 * 31))
    for causes in (np.arange(12), np.arange(12, 32)):  # perturbed or not: pooled apart
        keep = causes[causes != 1]
        order = np.argsort(-out.mean[keep, 0])
        for part in (out.pvalue, out.fdr):
            assert (np.diff(part[keep, 0][order]) >= 0).all()


def test_spread_of_a_linear_score_is_its_standard_error(screen, weights):
    """The z-score's numerator is linear in the cells; its error from halves is the known one."""

    class Effect(torch.nn.Module):
        def forward(self, x):
            return torch.sinh(x[..., 2]) / 3  # the feature is asinh(3 x)

    out = run(screen, replace(weights, net=Effect()), list(range(12, 32)), replace(QUIET, n_half=60))
    cells = read_screen(screen).stats().cells[:12].numpy()
    control = float((read_screen(screen).codes == 0).sum())
    expected = 1 / cells + 1 / control
    assert np.mean(out.sd[:12] ** 2 / expected[:, None]) == pytest.approx(1, abs=0.15)


def test_no_perturbed_gene_is_said_and_has_no_null(screen, weights):
    alone = screen[screen.obs["pert"].astype(str) == "control"].copy()
    with pytest.warns(UserWarning, match="No measured gene was perturbed alone"):
        data = read_screen(alone)
    rng = np.random.default_rng(0)
    score_causes(data, weights, np.array([1]), QUIET, rng)
    with pytest.raises(ValueError, match="pass n_null=0"):
        score_causes(data, weights, np.array([1]), replace(QUIET, n_null=2), rng)


def test_null_is_the_score_of_permuted_screens(screen, weights):
    """With labels that mean nothing, p values are uniform; a score that is the knock-out effect finds the cause."""

    class Effect(torch.nn.Module):
        def forward(self, x):
            return x[..., 1]  # abs_z

    effect = replace(weights, net=Effect())
    out = run(screen, effect, [1, 4], replace(QUIET, n_null=20))
    assert out.pvalue is not None
    assert out.pvalue[0, 0] < 0.01
    assert out.pvalue[3, 1] < 0.01
    assert np.median(out.pvalue[6:12]) > 0.05  # perturbed genes that act on nothing


def test_null_of_the_cell_network_sees_permuted_labels(screen, tiny_cell_weights, monkeypatch):
    import causcade.causes

    seen = []
    scorer = causcade.causes.cell_scorer

    def spy(net, values, codes, single, **how):
        seen.append(codes.clone())
        return scorer(net, values, codes, single, **how)

    monkeypatch.setattr(causcade.causes, "cell_scorer", spy)
    run(screen, load(tiny_cell_weights), [1], replace(QUIET, n_null=2))
    real, *permuted = seen
    for codes in permuted:
        assert torch.equal(codes.bincount(), real.bincount())
        assert (codes == real).float().mean() < 0.5


def test_cell_network(screen, tiny_cell_weights):
    out = run(screen, load(tiny_cell_weights), [1, 5], replace(QUIET, n_half=4))
    assert np.isfinite(out.mean).all()
    assert (out.sd > 0).any()  # cells are drawn anew
    with pytest.raises(ValueError, match="needs counts"):
        screen.X = np.log1p(screen.X)
        run(screen, load(tiny_cell_weights), [1], values="log")


def test_same_seed_same_answer(screen, weights):
    how = replace(QUIET, n_half=2, n_null=2, size=10)
    a, b, c = (run(screen, weights, [1, 2], how, seed=s) for s in (3, 3, 4))
    for name in vars(a):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.mean, c.mean)


def test_batches_are_taken_out(screen, weights):
    shifted = screen.copy()
    shifted.X = np.log1p(screen.X)
    shifted.X[1::2, 8] += 3
    plain = run(shifted, weights, [8], values="log")
    grouped = run(shifted, weights, [8], values="log", batch_key="batch")
    truth = screen.copy()
    truth.X = np.log1p(screen.X)
    expected = run(truth, weights, [8], values="log", batch_key="batch")
    np.testing.assert_allclose(grouped.knockout_t, expected.knockout_t, atol=1e-3)
    assert np.nanmax(np.abs(plain.knockout_t - expected.knockout_t)) > 0.1


def test_constant_genes_are_scored(screen, weights):
    screen.X = np.log1p(screen.X)
    screen.X[:, 20], screen.X[:, 21] = 0.7, 0
    out = run(screen, weights, [20, 21, 1], replace(QUIET, n_half=2, n_null=1), values="log")
    for part in (out.mean, out.sd, out.pvalue, out.fdr, out.correlation):
        assert np.isfinite(part).all()
    assert not out.knockout_t[:12, :2].any()
    assert not out.correlation[:, :2].any()


def test_what_does_not_fit_in_memory_is_refused(screen, weights, monkeypatch, fingerprint):
    monkeypatch.setattr("causcade._device.free_memory", lambda: 32**2 * 160.0)
    before = fingerprint(screen)
    with pytest.raises(
        ValueError, match=r"among 32 genes, with .* need about 0.0 GB.*up to about 29: adata\[:, genes\]"
    ):
        run(screen, weights, [1], replace(QUIET, n_half=2))
    assert fingerprint(screen) == before
    run(screen, weights, [1])
