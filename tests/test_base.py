"""Set-up, messages, and weights in and out, on the smallest TCD."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from causcade import pretrained
from causcade.models import TCD

TINY = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "paths": 0}


def model_of(screen: Any, **options: Any) -> TCD:
    TCD.setup_anndata(screen, **options)
    model = TCD(screen, **TINY)
    torch.nn.init.normal_(model.net.head[-1].weight)  # it starts at zero, which would hide the layers
    model.is_trained_ = True
    return model


def other_screen() -> Any:
    """Other genes, other labels, another column than `screen`."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(3)
    labels = ["nt"] * 40 + ["ENS1"] * 6 + ["ENS2"] * 6
    obs = pd.DataFrame({"guide": labels}, index=[f"b{i}" for i in range(52)])
    var = pd.DataFrame(index=[f"ENS{i}" for i in range(24)])
    return ad.AnnData(rng.poisson(5.0, (52, 24)).astype(np.float32), obs=obs, var=var)


def test_importing_models_leaves_scvi_alone() -> None:
    code = "import sys, causcade.models as m; dir(m); print('scvi' in sys.modules, 'lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_attribute_names_what_is_there() -> None:
    import causcade.models

    with pytest.raises(AttributeError, match="no attribute 'TDC'; it has TCD"):
        causcade.models.TDC  # noqa: B018


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"perturbation_key": "prt", "control": "control"}, KeyError, "perturbation_key='prt'.*pert"),
        ({"perturbation_key": "pert", "control": "ctrl"}, ValueError, "ctrl"),
        ({"perturbation_key": "pert"}, ValueError, "Pass control="),
        ({"control": "control"}, ValueError, "Pass perturbation_key="),
        ({"layer": "cnts"}, KeyError, "cnts"),
        ({"values": "raw"}, ValueError, "values must be"),
        ({"batch_key": "bach"}, KeyError, "bach.*batch"),
        ({"perturbation_key": "pert", "control": "control", "layer": "cnts"}, KeyError, "cnts"),
        ({"sep": "_"}, ValueError, r"\.uns\['regimes'\] are used, so sep would be ignored"),
        ({"min_cells": 3, "gene_symbols": "x"}, ValueError, "so gene_symbols, min_cells would be ignored"),
        ({"targets": {"G01": ["G02"]}}, ValueError, "so targets would be ignored"),
    ],
)
def test_bad_setup_gives_our_message_and_changes_nothing(
    screen: Any, fingerprint: Any, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    before = fingerprint(screen)
    with pytest.raises(error, match=told):
        TCD.setup_anndata(screen, **options)
    assert fingerprint(screen) == before


def test_missing_label_is_told_before_scvi_sees_it(screen: Any) -> None:
    screen.obs["pert"] = screen.obs["pert"].astype(object)
    screen.obs.iloc[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"1 .*cell"):
        TCD.setup_anndata(screen, "pert", "control")


def test_setup_with_a_key_finds_the_regimes_of_pp(screen: Any) -> None:
    table = screen.uns.pop("regimes")["table"]
    TCD.setup_anndata(screen, "pert", "control")
    assert screen.uns["regimes"]["table"].equals(table)


def test_setup_without_a_key_uses_the_regimes_that_are_there(screen: Any) -> None:
    stored = screen.uns["regimes"]
    TCD.setup_anndata(screen, batch_key="batch")
    assert screen.uns["regimes"] is stored
    model = TCD(screen, **TINY)
    assert model.registry["setup_args"]["batch_key"] == "batch"
    assert model.summary_stats["n_batch"] == 2


def test_setup_warns_as_pp_does(screen: Any) -> None:
    some = screen[:90].copy()  # six of the eight cells of G03 are left
    with pytest.warns(UserWarning, match="fewer than min_cells=7"):
        TCD.setup_anndata(some, "pert", "control", min_cells=7)


def test_setup_leaves_the_matrix_as_it_is(screen: Any) -> None:
    screen.X = np.asfortranarray(screen.X)
    TCD.setup_anndata(screen)
    assert screen.X.flags["F_CONTIGUOUS"]


def test_view_is_refused(screen: Any) -> None:
    with pytest.raises(ValueError, match=r"not a view: adata = adata.copy\(\)"):
        TCD.setup_anndata(screen[:, :20])


def test_without_setup_and_on_a_copy_the_message_says_what_to_do(screen: Any) -> None:
    with pytest.raises(ValueError, match=r"Call TCD.setup_anndata\(adata, ...\)"):
        TCD(screen)
    TCD.setup_anndata(screen)
    with pytest.raises(ValueError, match="is a copy"):
        TCD(screen.copy())


def test_setting_up_a_copy_leaves_the_original_usable(screen: Any) -> None:
    TCD.setup_anndata(screen)
    copy = screen.copy()
    TCD.setup_anndata(copy)
    assert TCD(screen, **TINY).adata is screen
    assert TCD(copy, **TINY).adata is copy


def test_repr_is_text(screen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    TCD.setup_anndata(screen)
    model = TCD(screen, **TINY)
    assert repr(model).startswith("TCD, preset 'base': 156 cells x 32 genes")
    assert repr(model).endswith("not trained")
    assert capsys.readouterr().out == ""


def test_untrained_model_refuses(screen: Any, tmp_path: Path) -> None:
    TCD.setup_anndata(screen)
    model = TCD(screen, **TINY)
    for ask in (model.get_causes, model.as_weights, lambda: model.save_pretrained(tmp_path / "w")):
        with pytest.raises(RuntimeError, match=r"not trained. Call .train\(\)"):
            ask()
    assert not (tmp_path / "w").exists()


def test_save_and_load_score_the_same(screen: Any, tmp_path: Path) -> None:
    model = model_of(screen)
    before = model.get_causes("G01", progress_bar=False)
    model.save(str(tmp_path / "m"))
    again = TCD.load(str(tmp_path / "m"), screen.copy(), accelerator="cpu")
    assert again.get_causes("G01", progress_bar=False).equals(before)
    assert before.to_numpy().std() > 0


def test_pretrained_weights_travel_to_other_genes_and_labels(screen: Any, tmp_path: Path) -> None:
    model, other = model_of(screen), other_screen()
    model.save_pretrained(tmp_path / "w")
    there = TCD.from_pretrained(tmp_path / "w", other, perturbation_key="guide", control="nt")
    assert all(torch.equal(a, b) for a, b in zip(model.net.parameters(), there.net.parameters(), strict=True))
    assert there.get_causes("ENS2", progress_bar=False).shape == (24, 1)
    assert there.as_weights().sha256 == pretrained.load(tmp_path / "w").sha256 == model.as_weights().sha256


def test_from_pretrained_keeps_an_earlier_setup(screen: Any, tiny_weights: Path) -> None:
    screen.layers["counts"] = screen.X.copy()
    TCD.setup_anndata(screen, layer="counts")
    assert TCD.from_pretrained(tiny_weights, screen).registry["setup_args"]["layer"] == "counts"
    assert TCD.from_pretrained(tiny_weights, screen, layer=None).registry["setup_args"]["layer"] is None


def test_from_pretrained_ignores_no_argument(screen: Any, tiny_weights: Path) -> None:
    with pytest.raises(ValueError, match="min_cells would be ignored"):
        TCD.from_pretrained(tiny_weights, screen, min_cells=3)


def test_load_repeats_any_setup(screen: Any, tmp_path: Path) -> None:
    model = model_of(screen, perturbation_key="pert", control="control", min_cells=3)
    setup = model.registry["setup_args"]
    setup["perturbation_key"] = setup["control"] = None  # as with the columns of CELLxGENE, which need no key
    model.save(str(tmp_path / "m"))
    assert TCD.load(str(tmp_path / "m"), screen.copy(), accelerator="cpu").is_trained


def test_from_pretrained_reads_the_files_of_pretraining(screen: Any, tiny_weights: Path) -> None:
    model = TCD.from_pretrained(tiny_weights, screen)
    assert model.is_trained
    assert model.as_weights().label == pretrained.load(tiny_weights).label


def test_flipped_bit_is_found(screen: Any, tmp_path: Path) -> None:
    model_of(screen).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(RuntimeError, match="damaged"):
        TCD.from_pretrained(tmp_path, screen)


def test_weights_of_another_model_are_refused(screen: Any, tiny_weights: Path) -> None:
    config = json.loads((tiny_weights / "config.json").read_text()) | {"model": "AVICI"}
    (tiny_weights / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="is of a model 'AVICI'"):
        TCD.from_pretrained(tiny_weights, screen)


def test_weights_are_not_overwritten_unasked(screen: Any, tmp_path: Path) -> None:
    model = model_of(screen)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    torch.nn.init.ones_(model.net.head[-1].weight)
    with pytest.raises(ValueError, match="overwrite=True"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    model.save_pretrained(tmp_path, overwrite=True)
    assert pretrained.load(tmp_path).sha256 == model.as_weights().sha256


def test_weights_are_a_copy(screen: Any) -> None:
    model = model_of(screen)
    net = model.as_weights().net
    with torch.no_grad():
        net.skip.bias += 1  # type: ignore[union-attr,operator]
    assert float(model.net.skip.bias.detach()) == -4.0
