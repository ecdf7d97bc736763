"""The CDN model: what it trains on, computes and returns."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from causcade import pp, pretrained, tl
from causcade.contrasts import summarise
from causcade.models import CDN, TCD
from causcade.models._pair_training import KnownScreen, PairData, PairStep, PairSteps, read_known, split_by_gene
from causcade.models.cdn import CDNModule
from causcade.nn.differential import Differential, DifferentialConfig
from causcade.pretrain import Recipe
from causcade.pretrain.target_items import PairBatch, TargetScreen
from causcade.simulate.shifts import ShiftPrior

TINY: dict[str, Any] = {
    "width": 8, "heads": 2, "hidden": 8, "structure_layers": 1, "difference_layers": 1, "paths": 2, "local": 4,
}  # fmt: skip
PRIOR = ShiftPrior(genes={"6": 1.0}, regimes=2, cells=(30, 30), control=(40, 40))
SHORT: dict[str, Any] = {
    "steps_per_epoch": 2, "batch_size": 2, "n_validation": 1, "prior": PRIOR, "progress_bar": False,
}  # fmt: skip
RECIPE = Recipe("test", "differential", TINY, PRIOR.to_dict(), subset=12, batch=2, subsets=(3, 5), seed=5)


def new(screen: Any, *, trained: bool = False, **setup: Any) -> CDN:
    CDN.setup_anndata(screen, **setup)
    model = CDN(screen, subset=10, **TINY)
    model.is_trained_ = trained
    return model


def weights(model: CDN) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.net.parameters()])


def known(*targets: tuple[int, ...]) -> KnownScreen:
    hit = dict(enumerate(targets, start=1))
    screen = TargetScreen(torch.zeros(1, 10), torch.zeros(1, dtype=torch.long), hit)
    return KnownScreen(screen, tuple(f"p{r}" for r in hit))


def step(*, adjacency: bool) -> PairStep:
    rng = torch.Generator().manual_seed(0)
    control, *sets = (summarise(torch.randn(30, 6, generator=rng)) for _ in range(4))
    targets = torch.eye(6, dtype=torch.bool)[:3]
    graph = torch.ones(6, 6, dtype=torch.bool).triu(1) if adjacency else None
    return PairStep([PairBatch(control, sets, targets, graph)], RECIPE, 7)


# --- cells and split ------------------------------------------------------------------------------------------------


def test_known_cells_are_level_and_labelled(screen: Any) -> None:
    screen.X[screen.obs["batch"].to_numpy() == "b", 3] *= 3
    found = read_known(screen, min_cells=8, rng=np.random.default_rng(0), batch_key="batch")
    assert found.names == tuple(f"G{g:02d}" for g in range(12))
    assert found.screen.targets == {g + 1: (g,) for g in range(12)}
    assert torch.bincount(found.screen.codes).tolist() == [60, *[8] * 12]
    assert found.screen.values.shape == (156, 32)
    controls = found.screen.values[:60]
    torch.testing.assert_close(controls[::2].mean(0), controls[1::2].mean(0))  # batches alternate
    for gene in (4, 7):  # knocked out
        rows = found.screen.codes == gene + 1
        assert float(found.screen.values[rows][:, gene].mean()) < 0.3 * float(controls[:, gene].mean())


def test_small_and_unknown_perturbations_are_left_out(screen: Any) -> None:
    some = screen[np.r_[0:66, 68:156]].copy()
    pp.regimes(some, "pert", "control", targets={f"G{g:02d}": [f"G{g:02d}"] if g < 10 else [] for g in range(12)})
    found = read_known(some, min_cells=8, rng=np.random.default_rng(0))
    assert found.names == tuple(f"G{g:02d}" for g in range(1, 10))
    assert len(read_known(some, min_cells=6, rng=np.random.default_rng(0)).names) == 10


@pytest.mark.parametrize("seed", range(5))
def test_split_shares_no_gene(seed: int) -> None:
    screen = known((0,), (0,), (1,), (1, 2), (2,), (3,), (4,), (4, 5), (6,), (7,))
    split = split_by_gene(screen, 0.2, np.random.default_rng(seed))
    sides = [set(split.train.tolist()), set(split.held_out.tolist())]
    genes = [{g for i in side for g in screen.screen.targets[i + 1]} for side in sides]
    assert not genes[0] & genes[1]
    assert len(sides[0]) >= 5 and len(sides[1]) >= 2
    for i in set(range(10)) - sides[0] - sides[1]:  # left out only with a gene on either side
        assert all(set(screen.screen.targets[i + 1]) & side for side in genes)


def test_split_is_random_and_can_be_kept() -> None:
    screen = known(*((g,) for g in range(10)))
    drawn = {tuple(split_by_gene(screen, 0.3, np.random.default_rng(i)).held_out) for i in range(5)}
    assert {len(held_out) for held_out in drawn} == {3} and len(drawn) > 1
    again = split_by_gene(screen, 0.3, np.random.default_rng(9), earlier=["p2", "p5", "gone"])
    assert again.held_out.tolist() == [1, 4]
    assert again.train.tolist() == [0, 2, 3, 5, 6, 7, 8, 9]


def test_split_of_a_hub_is_refused() -> None:
    with pytest.raises(ValueError, match="4 perturbations with known targets share too many of these"):
        split_by_gene(known((0, 1), (0, 2), (0, 3), (0, 4)), 0.2, np.random.default_rng(0))
    split = split_by_gene(known((0,), (0,), (0,), (1,)), 0.2, np.random.default_rng(0))
    assert split.held_out.tolist() == [3]


def test_part_has_some_of_the_perturbations() -> None:
    part = known((0,), (1,), (2,)).part(np.array([0, 2]))
    assert part.targets == {1: (0,), 3: (2,)}


# --- steps ----------------------------------------------------------------------------------------------------------


def test_step_depends_on_seed_and_number_alone(screen: Any) -> None:
    cells = read_known(screen, min_cells=8, rng=np.random.default_rng(0)).screen
    net = Differential(DifferentialConfig(**TINY))

    def loss(seed: int, index: int) -> float:
        made = PairSteps(replace(RECIPE, seed=seed, real_share=0.5), cells)[index]["step"]
        return float(made.loss(net, torch.device("cpu")).detach())

    assert loss(1, 3) == loss(1, 3)
    assert len({loss(1, 3), loss(1, 4), loss(2, 3)}) == 3


def test_share_of_the_steps_is_on_the_screen(screen: Any) -> None:
    cells = read_known(screen, min_cells=8, rng=np.random.default_rng(0)).screen
    for share, low, high in ((1.0, 20, 20), (0.5, 4, 16)):
        steps = PairSteps(replace(RECIPE, real_share=share), cells)
        own = [steps[i]["step"].batches[0].adjacency is None for i in range(20)]
        assert low <= sum(own) <= high


def test_validation_steps_are_fixed_and_training_goes_on(screen: Any) -> None:
    cells = read_known(screen, min_cells=8, rng=np.random.default_rng(0)).screen
    steps = PairSteps(RECIPE, cells)
    data = PairData(steps, steps, per_epoch=2, n_validation=2, first=3)
    first, again = list(data.val_dataloader()), list(data.val_dataloader())
    assert [a["step"] is b["step"] for a, b in zip(first, again, strict=True)] == [True, True]
    assert [b["step"].index for _ in range(2) for b in data.train_dataloader()] == [3, 4, 5, 6]


# --- module ---------------------------------------------------------------------------------------------------------


def test_loss_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Differential(DifferentialConfig(**TINY))
    module = CDNModule(net)
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(net, "compare", lambda *_: logits)
    monkeypatch.setattr(net, "edges", lambda grid: grid.new_zeros(1, 6, 6, 3))
    expected = float(F.binary_cross_entropy_with_logits(logits, torch.eye(6)[:3]))
    out = module.loss({"step": step(adjacency=False)}, {}, {})
    assert float(out.loss) == pytest.approx(0.6 * expected)  # sum over genes, divided by ten
    assert out.n_obs_minibatch == 3
    with_graph = module({"step": step(adjacency=True)})[-1]
    assert float(with_graph.loss) == pytest.approx(0.6 * expected + math.log(3))


def test_loss_repeats() -> None:
    module = CDNModule(Differential(DifferentialConfig(**TINY, codes=4)))
    batch = {"step": step(adjacency=True)}
    assert torch.equal(module(batch)[-1].loss, module(batch)[-1].loss)


# --- training -------------------------------------------------------------------------------------------------------


def mean_loss(model: CDN, names: list[str]) -> float:
    """On fixed steps with some perturbations."""
    found = read_known(model.adata, min_cells=8, rng=np.random.default_rng(0))
    part = found.part(np.array([found.names.index(name) for name in names]))
    steps = PairSteps(replace(RECIPE, real_share=1.0, batch=4), part)
    with torch.no_grad():
        return float(np.mean([float(steps[i]["step"].loss(model.net, torch.device("cpu"))) for i in range(10)]))  # type: ignore[arg-type]


def test_training_lowers_the_loss(screen: Any, caplog: pytest.LogCaptureFixture, fingerprint: Any) -> None:
    model, untrained = new(screen), new(screen)
    data = fingerprint(screen)
    with caplog.at_level(logging.INFO, "causcade"):
        much = {"steps_per_epoch": 7, "batch_size": 4, "n_validation": 2}
        model.train(2, share=1.0, lr=0.02, accelerator="cpu", **(SHORT | much))
    assert "training CDN on cpu" in caplog.messages
    assert "training on 9 perturbations, 3 are held out" in caplog.messages
    assert fingerprint(screen) == data
    assert model.is_trained and not model.module.training
    for name in ("train_loss", "validation_loss"):
        losses = model.history[name].to_numpy().astype(float).ravel()
        assert len(losses) == 2 and np.isfinite(losses).all()
    assert sorted(model.split_["train"] + model.split_["held_out"]) == [f"G{g:02d}" for g in range(12)]
    for side in ("train", "held_out"):
        assert mean_loss(model, model.split_[side]) < 0.95 * mean_loss(untrained, model.split_[side])


def test_what_is_held_out_is_not_trained_on(screen: Any) -> None:
    model = new(screen)
    train, validation = model._steps(replace(RECIPE, real_share=0.5), 8, 0.3, np.random.default_rng(0))
    for steps, side, n in ((train, "train", 8), (validation, "held_out", 4)):
        (part,) = steps.task.real
        assert {f"G{gene:02d}" for (gene,) in part.targets.values()} == set(model.split_[side])
        assert len(part.targets) == n
    assert (train.task.recipe.real_share, validation.task.recipe.real_share) == (0.5, 1.0)
    assert train.task.recipe.seed != validation.task.recipe.seed


def test_same_seed_same_weights_whatever_the_global_generator(screen: Any) -> None:
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(found))
        model = new(screen)
        model.train(1, rng=seed, **SHORT)
        found.append((weights(model), model.split_))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert not torch.equal(found[0][0], found[2][0]) and found[0][1] != found[2][1]


def test_second_training_goes_on_after_a_file(screen: Any, tmp_path: Path) -> None:
    model = new(screen)
    model.train(1, **SHORT)
    split = model.split_
    model.save(str(tmp_path / "m"))
    again = CDN.load(str(tmp_path / "m"), screen, accelerator="cpu")
    again.train(1, rng=5, early_stopping=True, **SHORT)
    assert again.steps_ == 4
    assert again.split_ == split
    assert again.history["validation_loss"].index.tolist() == [0, 1]


def test_model_leaves_the_global_generator_alone(screen: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    new(screen)
    assert torch.equal(torch.rand(1), expected)


def test_fine_tuned_weights_say_so_and_are_asked_the_same_way(screen: Any, tmp_path: Path) -> None:
    new(screen, trained=True).save_pretrained(tmp_path / "w")
    config = json.loads((tmp_path / "w" / "config.json").read_text()) | {"n_subsets": 7, "size": 16}
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    model = CDN.from_pretrained(tmp_path / "w", screen)
    released = model.as_weights()
    assert released.label == pretrained.load(tmp_path / "w").label
    model.train(1, share=1.0, **SHORT)
    tuned = model.as_weights()
    assert tuned.sha256 != released.sha256
    assert tuned.config["fine_tuned_from"] == released.label
    assert tuned.config["recipe"]["real_share"] == 1.0
    assert (tuned.config["n_subsets"], tuned.config["size"], tuned.config["steps"]) == (7, 16, 2)
    assert len(model.history["validation_loss"]) == 1


# --- asking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{}, {"masked": True, "n_draws": 1, "rng": 4}, {"candidates": ["G05", "G01", "G30", "G31"]}]
)
def test_get_targets_is_what_tl_writes(screen: Any, fingerprint: Any, how: dict[str, Any]) -> None:
    model = new(screen, trained=True, batch_key="batch")
    before = fingerprint(screen)
    table = model.get_targets(["G05", "G02"], progress_bar=False, **how)
    assert fingerprint(screen) == before
    assert table.columns.tolist() == ["G05", "G02"]
    assert table.index.tolist() == screen.var_names.tolist()
    assert table.stack().std() > 0
    tl.targets(screen, ["G05", "G02"], model=model, progress_bar=False, **how)
    np.testing.assert_array_equal(screen.varm["targets"], table.to_numpy())
    assert screen.uns["targets"]["weights"] == model.as_weights().label
    assert np.isnan(table.to_numpy()).all(1).sum() == (28 if "candidates" in how else 0)


def test_all_perturbations_and_the_seed(screen: Any) -> None:
    model = new(screen, trained=True)
    table = model.get_targets(n_draws=1, progress_bar=False)
    assert table.shape == (32, 12)
    assert model.get_targets("G03", n_draws=1, progress_bar=False)["G03"].equals(table["G03"])
    assert not model.get_targets("G03", n_draws=1, rng=1, progress_bar=False)["G03"].equals(table["G03"])


def test_everything_uses_the_layer_of_the_setup(screen: Any) -> None:
    expected = new(screen.copy(), trained=True).get_targets("G01", n_draws=1, progress_bar=False)
    screen.layers["counts"] = screen.X.copy()
    screen.X = -np.ones_like(screen.X)
    model = new(screen, trained=True, layer="counts")
    assert model.get_targets("G01", n_draws=1, progress_bar=False).equals(expected)
    assert model._reading() == {"layer": "counts", "values": "counts", "batch_key": None, "regimes_key": "regimes"}


def test_save_and_load_score_the_same(screen: Any, tmp_path: Path) -> None:
    model = new(screen, trained=True)
    model.save(str(tmp_path / "m"))
    again = CDN.load(str(tmp_path / "m"), screen.copy(), accelerator="cpu")
    before = model.get_targets("G01", n_draws=1, progress_bar=False)
    assert again.get_targets("G01", n_draws=1, progress_bar=False).equals(before)


def test_pretrained_weights_travel(screen: Any, tmp_path: Path) -> None:
    model = new(screen, trained=True)
    model.save_pretrained(tmp_path / "w")
    found = pretrained.load(tmp_path / "w")
    assert (found.config["network"], found.model, found.config["subset"]) == ("differential", "CDN", 10)
    other = screen[:, ::-1].copy()
    del other.uns["regimes"]
    there = CDN.from_pretrained(tmp_path / "w", other, "pert", "control")
    assert torch.equal(weights(there), weights(model))
    assert there.as_weights().sha256 == found.sha256 == model.as_weights().sha256
    table = there.get_targets("G01", progress_bar=False)
    tl.targets(other, "G01", model=tmp_path / "w", progress_bar=False)
    np.testing.assert_array_equal(other.varm["targets"], table.to_numpy())


@pytest.mark.parametrize("told", [True, False])
def test_models_refuse_the_weights_of_each_other(
    screen: Any, tmp_path: Path, tiny_weights: Path, fingerprint: Any, told: bool
) -> None:
    new(screen, trained=True).save_pretrained(tmp_path / "w")
    if not told:  # files of other hands may lack the name of the model
        config = json.loads((tmp_path / "w" / "config.json").read_text())
        (tmp_path / "w" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "model"}))
        assert CDN.from_pretrained(tmp_path / "w", screen).is_trained
    other = screen.copy()
    before = fingerprint(other)
    with pytest.raises(ValueError, match=r"are of CDN, not of TCD: use causcade\.models\.CDN"):
        TCD.from_pretrained(tmp_path / "w", other)
    with pytest.raises(ValueError, match=r"are of TCD, not of CDN: use causcade\.models\.TCD"):
        CDN.from_pretrained(tiny_weights, other)
    assert fingerprint(other) == before


# --- presets and errors ---------------------------------------------------------------------------------------------


def test_presets(screen: Any) -> None:
    CDN.setup_anndata(screen)
    base, paper = CDN(screen).net.config, CDN(screen, "paper", width=16).net.config
    assert base == DifferentialConfig(**Recipe.load("cdn-screens").sizes)
    assert (paper.width, paper.heads, paper.structure_layers, paper.difference_layers) == (16, 8, 4, 3)
    assert (paper.paper_inputs, paper.contrasts, paper.codes, paper.paths, paper.form) == (True, False, 16, 0, "concat")
    assert DifferentialConfig(**CDN(screen, "paper")._config()["sizes"]).width == 64


def test_paper_preset_trains_and_scores(screen: Any) -> None:
    CDN.setup_anndata(screen)
    model = CDN(screen, "paper", **(TINY | {"paths": 0}))
    model.train(1, **SHORT)
    assert np.isfinite(model.get_targets("G01", n_draws=1, progress_bar=False).to_numpy()).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preset": "large"}, "preset must be one of"),
        ({"widht": 8}, "Unknown sizes.*widht.*width"),
        ({"layers": 2}, "Unknown sizes.*layers"),
        ({"width": 0}, "width must be a whole number of at least 1, not 0"),
        ({"structure_layers": 0}, "structure_layers must be a whole number of at least 1"),
        ({"hidden": 8.0}, "hidden must be a whole number of at least 1, not 8.0"),
        ({"paths": -1}, "paths must be a whole number of at least 0"),
        ({"codes": -1}, "codes must be a whole number of at least 0"),
        ({"width": 9}, "heads must divide width"),
        ({"form": "sum"}, "form must be one of .*'difference'.*, not 'sum'"),
        ({"contrasts": 1}, "contrasts must be True or False, not 1"),
        ({"subset": 1}, "subset must be a whole number of at least 2"),
        ({"rng": -1}, "bad rng"),
    ],
)
def test_bad_options_are_named(screen: Any, options: dict[str, Any], told: str) -> None:
    CDN.setup_anndata(screen)
    with pytest.raises(ValueError, match=told):
        CDN(screen, **options)


BAD_TRAINING = {
    **{
        name: ({name: 0}, f"{name} must be a whole number of at least 1")
        for name in ("max_epochs", "steps_per_epoch", "batch_size", "n_validation")
    },
    "min_cells": ({"min_cells": 2}, "min_cells must be a whole number of at least 3"),
    "num_workers": ({"num_workers": -1}, "num_workers must be"),
    "share": ({"share": 0}, "share must be a number above 0 and at most 1, not 0"),
    "share of all": ({"share": True}, "share must be a number"),
    "validation_share": ({"validation_share": 0.6}, "validation_share must be a number above 0 and at most 0.5"),
    "accelerator": ({"accelerator": "tpu"}, "accelerator"),
    "rng": ({"rng": -1}, "rng must not be negative"),
    "few cells": (
        {"min_cells": 9},
        r"Only 0 perturbations with a measured known target.*at least 4.*'G04' and 7 more have fewer than min_cells=9",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_training_changes_nothing(screen: Any, fingerprint: Any, case: str) -> None:
    model = new(screen)
    options, told = BAD_TRAINING[case]
    before, data = weights(model), fingerprint(screen)
    with pytest.raises(ValueError, match=told):
        model.train(**(SHORT | options))
    assert not model.is_trained and torch.equal(before, weights(model))
    assert fingerprint(screen) == data


def test_training_needs_known_targets(screen: Any, fingerprint: Any) -> None:
    screen.obs["pert"] = [label.replace("G", "drug ") for label in screen.obs["pert"]]
    pp.regimes(screen, "pert", "control", targets={})
    model = new(screen)  # without a warning that causes could not be told
    before = fingerprint(screen)
    with pytest.raises(
        ValueError, match=r"None of 12 perturbations has a known target.*Give targets=.*from_pretrained"
    ):
        model.train(**SHORT)
    three = {f"drug {g:02d}": [f"G{g:02d}"] for g in range(3)}
    assert fingerprint(screen) == before
    pp.regimes(screen, "pert", "control", targets={f"drug {g:02d}": [] for g in range(12)} | three)
    with pytest.raises(ValueError, match=r"Only 3 perturbations .* at least 4 are needed, as some are held out\. Use"):
        model.train(**SHORT)
    model.is_trained_ = True  # unknown targets can be asked for
    assert model.get_targets("drug 05", n_draws=1, progress_bar=False).shape == (32, 1)


def test_untrained_model_refuses(screen: Any, tmp_path: Path) -> None:
    model = new(screen)
    for ask in (
        model.get_targets,
        model.as_weights,
        lambda: model.save_pretrained(tmp_path / "w"),
        lambda: tl.targets(screen, model=model, progress_bar=False),
    ):
        with pytest.raises(RuntimeError, match=r"This CDN is not trained. Call .train\(\)"):
            ask()
    assert not (tmp_path / "w").exists() and not screen.varm


@pytest.mark.parametrize(
    ("question", "kind", "told"),
    [
        ({"perturbations": "G99"}, KeyError, "G99"),
        ({"perturbations": []}, ValueError, "No perturbations were given"),
        ({"perturbations": "control"}, ValueError, "is the control"),
        ({"n_draws": 0}, ValueError, "n_draws must be"),
        ({"masked": 1}, ValueError, "masked must be True or False"),
        ({"candidates": "some"}, ValueError, "candidates must be 'auto', 'all', 'de'"),
        ({"candidates": 3}, ValueError, "candidates must be 'auto', 'all', 'de' or at least two names"),
        ({"candidates": ["G01"]}, ValueError, "1 candidates: at least 2"),
        ({"candidates": ["G01", "g02"]}, KeyError, r"not in \.var_names: \['g02'\]"),
        ({"rng": True}, ValueError, "rng must be"),
        ({"accelerator": "tpu"}, ValueError, "accelerator"),
    ],
)
def test_bad_questions(
    screen: Any, fingerprint: Any, question: dict[str, Any], kind: type[Exception], told: str
) -> None:
    model = new(screen, trained=True)
    before = fingerprint(screen)
    with pytest.raises(kind, match=told):
        model.get_targets(**({"progress_bar": False} | question))
    assert fingerprint(screen) == before


def test_repr_says_what_it_is(screen: Any) -> None:
    assert repr(new(screen)).startswith("CDN: 156 cells x 32 genes, ")
