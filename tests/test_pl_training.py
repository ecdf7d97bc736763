from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from causcade import pl, pretrained


@pytest.fixture(autouse=True)
def no_figures_left() -> Iterator[None]:
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``python -m causcade.pretrain --validate`` leaves, with nine kinds and one that came later."""
    (tmp_path / "log.json").write_text(json.dumps([[50, 10, 0.9], [100, 20, 0.7], [150, 30, 0.8]]))
    kinds = [f"kind {i}" for i in range(9)]
    record = [
        {
            "step": step,
            "metric": "column AUROC",
            "model": "TCD",
            "scores": {k: {"TCD": 60.0 + step / 100 + i, "low": 40.0, "high": 55.5 + i} for i, k in enumerate(kinds)},
        }
        for step in (50, 150)
    ]
    del record[0]["scores"]["kind 8"]  # type: ignore[attr-defined]
    (tmp_path / "validation.json").write_text(json.dumps(record))
    return tmp_path


def test_loss_is_drawn_by_step(folder: Path) -> None:
    ax = pl.training(folder, show=False)
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), [[50, 0.9], [100, 0.7], [150, 0.8]])
    assert folder.name in ax.get_title() and "step" in ax.get_xlabel() and "loss" in ax.get_ylabel()


def test_the_loss_of_composing_steps_is_drawn_apart(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"recipe": {"steps": 100, "compose_steps": 50}}))
    ax = pl.training(folder, show=False)
    sets, whole = ax.lines
    np.testing.assert_allclose(sets.get_xydata(), [[50, 0.9], [100, 0.7]])
    np.testing.assert_allclose(whole.get_xydata(), [[150, 0.8]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "on sets of genes",
        "on whole screens, composing",
    ]
    assert sets.get_color() != whole.get_color()
    (folder / "config.json").write_text(json.dumps({"recipe": {"steps": 150, "compose_steps": 0}}))
    assert len(pl.training(folder, show=False).lines) == 1


def test_scores_have_the_best_baseline_beside_them(folder: Path) -> None:
    figure = pl.training(folder, what="validation", show=False, return_fig=True)
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    scores, baselines = ax.lines[::2], ax.lines[1::2]
    assert [line.get_label() for line in scores][:2] == ["kind 0 (high 55.5)", "kind 1 (high 56.5)"]
    np.testing.assert_allclose(scores[3].get_xydata(), [[50, 63.5], [150, 64.5]])
    np.testing.assert_allclose(baselines[3].get_ydata(), 58.5)
    assert np.isnan(scores[8].get_ydata()[0]) and scores[8].get_ydata()[1] == 69.5
    looks = {(line.get_color(), line.get_marker()) for line in scores}
    assert len(looks) == 9 and ax.get_ylabel() == "column AUROC of TCD"
    assert all(a.get_color() == b.get_color() for a, b in zip(scores, baselines, strict=True))


def test_every_kind_has_a_look_of_its_own_and_earlier_ones_stay(folder: Path) -> None:
    record = json.loads((folder / "validation.json").read_text())
    record[0]["scores"] = {f"old {i}": {"TCD": 60.0 + i, "low": 50.0} for i in range(30)}
    (folder / "validation.json").write_text(json.dumps(record))
    lines = pl.training(folder, what="validation", show=False).lines[::2]
    assert [line.get_label().split(" (")[0] for line in lines] == [
        *(f"old {i}" for i in range(30)),
        *(f"kind {i}" for i in range(9)),
    ]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 39


def test_one_point_is_seen(folder: Path) -> None:
    (folder / "log.json").write_text("[[50, 1, 0.7]]")
    assert pl.training(folder, show=False).lines[0].get_marker() == "o"


@pytest.mark.parametrize("layout", [None, "constrained"])
def test_legend_is_inside_the_figure(folder: Path, layout: str | None) -> None:
    figure, ax = plt.subplots(figsize=(6, 4.5), layout=layout)
    pl.training(folder, what="validation", ax=ax)
    figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1
    if layout is None:  # below the lowest curve
        lowest = min(np.nanmin(line.get_ydata()) for line in ax.lines)
        assert legend.y1 <= ax.transData.transform((0, lowest))[1]


def test_a_run_of_the_name_of_released_weights_is_meant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = pretrained.available()[0]
    (folder / name).mkdir()
    (folder / name / "log.json").write_text("[[7, 1, 0.25]]")
    monkeypatch.chdir(folder)
    (line,) = pl.training(name, show=False).lines
    np.testing.assert_allclose(line.get_xydata(), [[7, 0.25]])
    assert folder.name in pl.training(".", show=False).get_title()


def test_a_kind_without_baseline_is_drawn_alone(folder: Path) -> None:
    record = [{"step": 1, "metric": "mAP", "model": "CDN", "scores": {"seen": {"CDN": 0.5, "random": float("nan")}}}]
    (folder / "validation.json").write_text(json.dumps(record))
    ax = pl.training(folder, what="validation", show=False)
    assert [line.get_label() for line in ax.lines] == ["seen"]


def test_given_axes_are_used(folder: Path) -> None:
    _, ax = plt.subplots()
    assert pl.training(str(folder), ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'loss', 'validation', got 'speed'"):
        pl.training(folder, what="speed")  # type: ignore[arg-type]
    (folder / "validation.json").unlink()
    with pytest.raises(ValueError, match=r"no validation in 'validation.json'.*--validate N"):
        pl.training(folder, what="validation")
    (folder / "log.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no loss in 'log.json'"):
        pl.training(folder)
    with pytest.raises(ValueError, match="nowhere"):
        pl.training(tmp_path / "nowhere")
    assert not plt.get_fignums()


def test_folders_of_released_weights() -> None:
    for name in pretrained.available():
        assert (pretrained.folder_of(name) / "config.json").is_file()
    assert pretrained.folder_of("no/such") == Path("no/such")
