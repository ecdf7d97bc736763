"""What trees of the TCD benchmark learn from."""

from __future__ import annotations

import numpy as np
import torch
from benchmarks.tcd import some_pairs, statistics

from causcade.pairs import pair_features


def test_pairs_and_labels_belong_together() -> None:
    """All causes, a fifth of the rest, and of each the features of that pair, also where genes do not fill blocks."""
    gen, n = torch.Generator().manual_seed(0), 130
    codes = torch.arange(400) % (n + 1)
    counts = torch.poisson(torch.full((400, n), 2.0), generator=gen)
    stats = statistics(counts, codes, torch.zeros_like(codes), torch.arange(1, n + 1))
    features, rng = pair_features(stats), np.random.default_rng(1)
    truth = (rng.random((n, n)) < 0.05) & ~np.eye(n, dtype=bool)
    x, y = some_pairs(features, truth, 3)
    assert y.sum() == truth.sum()
    assert 0.17 < (~y).sum() / (n * n - n - truth.sum()) < 0.23
    everything = torch.arange(n)
    whole = features.block(everything, everything).numpy()
    at = {row.tobytes(): (i, j) for i in range(n) for j in range(n) for row in [whole[i, j]]}
    assert all(truth[at[row.tobytes()]] == label for row, label in zip(x, y, strict=True))
