"""Features of gene pairs: their order, their definitions, and what they must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade.pairs import GENE_FEATURES, N_FEATURES, PAIR_FEATURES, SCREEN_FEATURES, pair_features
from causcade.stats import Moments, pair_stats

N = 9
ALL = torch.arange(N)


def stats(order=None, *, constant=None, perturbed=6):
    """A screen of nine genes, six perturbed, five groups."""
    r = np.random.default_rng(0)
    codes = np.concatenate([np.zeros(50, int), np.repeat(np.arange(1, perturbed + 1), 10)])
    y = r.gamma(2.0, 1.0, (len(codes), N)) * (r.random((len(codes), N)) < 0.8)
    y[:, 1] += 0.4 * y[:, 0]
    y[codes == 1, :3] *= 0.2
    if constant is not None:
        y[:, constant] = 0
    single = torch.tensor([i + 1 if i < perturbed else -1 for i in range(N)])
    order = np.arange(N) if order is None else order
    m = Moments.empty(perturbed + 1, 5, N)
    m.update(torch.tensor(y[:, order]), torch.tensor(codes), torch.tensor(np.arange(len(codes)) % 5))
    return pair_stats(m, single[torch.tensor(order)])


def column(block, name):
    return block[..., PAIR_FEATURES.index(name)]


def gene_column(block, name, end):
    at = len(PAIR_FEATURES) + GENE_FEATURES.index(name) + (len(GENE_FEATURES) if end == "effect" else 0)
    return block[..., at]


def test_released_weights_know_these_features_in_this_order() -> None:
    # Weights are made for one list.  Whoever changes it trains them anew.
    assert PAIR_FEATURES == (
        "z", "abs_z", "effect", "abs_z_detected", "z_nonzero", "reverse_abs_z", "reverse_effect",
        "reverse_abs_z_detected", "residual", "abs_residual", "correlation", "abs_correlation", "between", "partial",
        "abs_partial", "z_times_correlation", "reverse_z_times_correlation", "two_effects", "reverse_two_effects",
        "effect_correlation", "reverse_effect_correlation", "correlation_squared", "profile", "response",
    )  # fmt: skip
    assert GENE_FEATURES == (
        "mean", "detection", "spread", "self_effect", "footprint", "regulated", "degree", "partial_degree",
        "perturbed", "cells",
    )  # fmt: skip
    assert SCREEN_FEATURES == ("n_cells", "n_genes", "depth", "coverage")
    assert N_FEATURES == 48 == pair_features(stats()).block(ALL, ALL).shape[-1]


def test_direct_features_are_the_statistics() -> None:
    s = stats()
    block, root = pair_features(s).block(ALL, ALL).numpy(), 110**0.5
    z, residual, correlation = s.z.numpy(), s.residual.numpy(), s.correlation.numpy()
    for name, want in {
        "z": np.arcsinh(z),
        "abs_z": np.abs(np.arcsinh(z)),
        "effect": np.arcsinh(3 * s.effect.numpy()),
        "abs_z_detected": np.abs(np.arcsinh(s.z_detected.numpy())),
        "z_nonzero": np.arcsinh(s.z_nonzero.numpy()),
        "residual": np.arcsinh(0.5 * root * residual),
        "abs_correlation": np.abs(np.arcsinh(0.5 * root * correlation)),
        "between": 2 * s.between.numpy(),
        "partial": np.arcsinh(0.5 * root * s.partial.numpy()),
        "z_times_correlation": np.arcsinh(z * correlation * 0.1 * root),
    }.items():
        np.testing.assert_allclose(column(block, name), want, rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.abs(z).max() > 3  # there was something to see


@pytest.mark.parametrize("name", [n for n in PAIR_FEATURES if n.startswith("reverse_")])
def test_reverse_features_are_those_of_the_other_direction(name) -> None:
    block, forward = pair_features(stats()).block(ALL, ALL), name.removeprefix("reverse_")
    want = column(block, forward).T
    assert torch.equal(column(block, name), want)
    assert not torch.allclose(want, want.T)


def test_products_run_over_all_third_genes() -> None:
    s = stats()
    block = pair_features(s).block(ALL, ALL).numpy()
    strong = np.sign(s.z.numpy()) * np.clip(np.abs(s.z.numpy()) - 1.5, 0, None)
    np.fill_diagonal(strong, 0)
    strong = strong.clip(-30, 30)

    def squashed(product):
        product = product.copy()
        np.fill_diagonal(product, 0)
        return np.arcsinh(3 * product / np.sqrt((product**2).sum() / (N * (N - 1))))

    off = s.residual.numpy()
    for name, product in {
        "two_effects": strong @ strong,
        "effect_correlation": strong @ off,
        "correlation_squared": off @ off,
        "profile": strong @ strong.T,
        "response": strong.T @ strong,
    }.items():
        np.testing.assert_allclose(column(block, name), squashed(product), rtol=1e-4, atol=1e-5, err_msg=name)


def test_gene_and_screen_features_stand_at_their_ends() -> None:
    s = stats()
    f = pair_features(s)
    block = f.block(ALL, ALL)
    for name in GENE_FEATURES:
        values = f.genes[:, GENE_FEATURES.index(name)]
        assert torch.equal(gene_column(block, name, "cause"), values[:, None].expand(N, N)), name
        assert torch.equal(gene_column(block, name, "effect"), values[None].expand(N, N)), name
    assert f.genes[:, GENE_FEATURES.index("perturbed")].tolist() == [1.0] * 6 + [0.0] * 3
    np.testing.assert_allclose(f.genes[:, GENE_FEATURES.index("cells")], np.log1p(s.cells.numpy()) / 3, rtol=1e-6)
    np.testing.assert_allclose(f.genes[:, GENE_FEATURES.index("mean")], s.mean - s.mean.mean(), atol=1e-6)
    np.testing.assert_allclose(
        f.genes[:, GENE_FEATURES.index("self_effect")], np.arcsinh(np.diag(s.z.numpy())), rtol=1e-5
    )
    want = [np.log(110) / 5 - 1, np.log(N) / 5 - 1, np.log(s.depth) / 5 - 1, 6 / 9]
    np.testing.assert_allclose(block[2, 3, -4:], want, rtol=1e-5)


def test_blocks_are_cut_from_the_whole() -> None:
    f = pair_features(stats())
    whole, causes, effects = f.block(ALL, ALL), torch.tensor([7, 1]), torch.tensor([0, 4, 8])
    assert torch.equal(f.block(causes, effects), whole[causes][:, effects])


def test_gene_order_goes_through() -> None:
    order = np.array([4, 8, 0, 2, 6, 1, 3, 7, 5])
    plain, moved = pair_features(stats()).block(ALL, ALL), pair_features(stats(order)).block(ALL, ALL)
    torch.testing.assert_close(moved, plain[order][:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"constant": 2}, {"constant": slice(None)}, {"perturbed": 0}], ids=str)
def test_degenerate_screens_stay_finite(options) -> None:
    block = pair_features(stats(**options)).block(ALL, ALL)
    assert block.isfinite().all()
    assert block.abs().max() < 30
