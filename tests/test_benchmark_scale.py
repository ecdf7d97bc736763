"""The synthetic screen of the benchmark is what it says, and its steps run."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import scale

pytestmark = pytest.mark.filterwarnings("ignore:.*zarr:UserWarning")


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "BLOCK", 300)
    monkeypatch.setattr(scale, "CHUNK", 10_000)
    scale.write_screen(tmp_path / "screen-1000.zarr", 1_000, 50, 5, n_batches=2)
    return tmp_path


def test_the_written_screen(small):
    adata = scale.open_screen(small / "screen-1000.zarr")
    x, labels = adata.X[:1000].toarray(), adata.obs["perturbation"].astype(str)
    assert x.shape == (1000, 50)
    assert set(labels) == {"control", *(f"G{i:05d}" for i in range(5))}
    assert (x == np.round(x)).all()
    assert abs(x[labels == "control"].sum(1).mean() - scale.MOLECULES) < 8
    assert abs((labels == "control").mean() - scale.CONTROLS) < 0.03
    for gene in range(5):
        own, rest = (x[(labels == f"G{gene:05d}") == yes, gene].mean() for yes in (True, False))
        assert own < 0.5 * rest


def test_the_pass_over_it(small):
    found = scale.step_pass(small, 1_000)
    assert found["kept"] == 1000
    whole = scale.open_screen(small / "screen-1000.zarr")
    kept = scale.ad.read_h5ad(small / "summary-1000.h5ad")
    np.testing.assert_array_equal(kept.X.toarray(), whole.X[:1000].toarray())
