"""Cards of differential networks: what is scored, and on what."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causcade import heldout_targets as ht
from causcade.nn.differential import Differential, DifferentialConfig
from causcade.pretrain import Recipe
from causcade.simulate.shifts import INTERVENTIONS

SIZES = {"width": 8, "heads": 2, "hidden": 8, "structure_layers": 1, "difference_layers": 1, "paths": 0, "local": 0}
PRIOR = {"mechanisms": {"linear": 1.0}, "interventions": {"shift": 1.0}}
RECIPE = Recipe("small", network="differential", sizes=SIZES, prior=PRIOR)


class Oracle:
    """Stands in for the network's scorer: the first gene of every set, always."""

    def prepare(self, control: object) -> None:
        return None

    def score(self, state: object, perturbed: object, rng: np.random.Generator) -> np.ndarray:
        return -np.arange(20.0)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, dict[str, float]]]:
    monkeypatch.setattr(ht, "target_scorer", lambda net, config: Oracle())
    monkeypatch.setattr(ht, "mb_ci", lambda a, b: np.abs(b.mean(0) - a.mean(0)))
    monkeypatch.setattr(ht, "_CELLS", 40)
    net = Differential(DifferentialConfig(**SIZES))
    return ht.score_heldout_targets(net, {}, RECIPE, n_models=1, n_draws=1)


def test_kinds_are_those_that_the_recipe_leaves_out(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    assert {"seen", "unseen mechanism", "unseen intervention"} < set(scores)
    everything = Recipe("all", network="differential", sizes=SIZES)
    assert not {"unseen mechanism", "unseen intervention"} & set(ht._kinds(everything))
    assert "screens" not in ht._kinds(everything)


def test_unseen_interventions_are_not_shifts() -> None:
    kinds = ht._kinds(RECIPE)
    screen = kinds["unseen intervention"](3)
    assert screen.targets and set(INTERVENTIONS) > {"shift"}
    control = screen.values[screen.codes == 0]
    for regime, hit in screen.targets.items():
        cells = screen.values[screen.codes == regime][:, list(hit)]
        moved = (cells.mean(0) - control[:, list(hit)].mean(0)).abs()
        # a shift moves the mean by 2 to 4 and leaves the variance
        ratio = cells.var(0) / control[:, list(hit)].var(0)
        assert not ((moved > 1.9) & (ratio > 0.8) & (ratio < 1.25)).all()


def test_oracle_of_one_gene_scores_as_it_should(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    for methods in scores.values():
        assert 0 < methods["CDN"]["ap"] < 60
    # shifts of roots and leaves are large: the simple answer is far above chance on what it is made for
    assert scores["seen"]["|shift|"]["auroc"] > 70


def test_card_tells_kinds_methods_and_what_was_real(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    config = {
        "sizes": SIZES,
        "steps": 3,
        "seconds": 60,
        "device": "cpu",
        "recipe_hash": "abc",
        "stages": [["abc", 0]],
        "sha256": "0f",
    }
    text = ht.card(config, scores, RECIPE)
    assert "Never trained on a real screen" in text and "| seen | CDN |" in text and "\\|shift\\|" in text
    real = Recipe("r", network="differential", sizes=SIZES, real=[["hipsc_tf_ko", "day"]])
    assert "Fine-tuned on real screens: hipsc_tf_ko" in ht.card(config, scores, real)


def test_screens_of_models_keep_cells_and_targets_together() -> None:
    screen = ht._small_world(4, ["linear"])
    assert len(screen.targets) == ht._REGIMES
    assert torch.equal(screen.codes.unique(), torch.arange(ht._REGIMES + 1))
    for regime, hit in list(screen.targets.items())[1::6]:  # shifts of a single gene
        cells = screen.values[screen.codes == regime]
        moved = (cells.mean(0) - screen.values[screen.codes == 0].mean(0)).abs()
        assert moved[hit[0]] > 1.5
