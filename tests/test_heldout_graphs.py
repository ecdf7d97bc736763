"""Cards of edge networks: what is scored, and on what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from causcade import heldout_graphs as hg
from causcade.nn.edge_stream import EdgeStream, EdgeStreamConfig
from causcade.pretrain import Recipe
from causcade.simulate.domains import GraphItem, GraphPrior

SIZES = {"width": 8, "layers": 1, "heads": 2, "hidden": 8, "triads": 1}
RECIPE = Recipe("small", network="edges", sizes=SIZES, prior={"domains": {"linear": 1.0}}, use="graphs")
GENES = Recipe("genes", network="edges", sizes=SIZES, prior={"domains": {"grn": 1.0}})


class Oracle(torch.nn.Module):
    """Knows the graph of the item that was drawn last."""

    truth = torch.zeros(0)

    def forward(self, values: torch.Tensor, mask: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        return (20 * self.truth.float() - 10)[None]


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, dict[str, float]]]:
    oracle, draw = Oracle(), hg.draw_graph_item

    def remember(*args: object, **kwargs: object) -> GraphItem:
        item = draw(*args, **kwargs)
        oracle.truth = item.adjacency
        return item

    monkeypatch.setattr(hg, "draw_graph_item", remember)
    return hg.score_heldout_graphs(oracle, RECIPE, n=2, genes=8, cells=120)


def test_an_oracle_is_perfect_and_baselines_are_not(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    for methods in scores.values():
        best = methods["AVICI"]
        assert best["auprc"] == best["auroc"] == best["f1"] == 1 and best["brier_skill"] > 0.99
        for name in ("correlation", "precision", "R2-sortnregress", "LiNGAM"):
            assert methods[name]["auprc"] < 1 and np.isnan(methods[name]["brier_skill"])


def test_every_kind_but_the_first_two_was_never_trained_on() -> None:
    for recipe in (RECIPE, GENES):
        kinds, prior = hg._kinds(recipe), recipe.graph_prior()
        assert list(kinds) == ["seen", "observational", "graph", "mechanism", "noise", "interventions", "all shifted"]
        assert kinds["seen"].graphs == prior.graphs and kinds["observational"].interventional == 0
        assert not set(kinds["graph"].gene_graphs) & set(prior.gene_graphs)
        assert not {"watts_strogatz", "geometric"} & set(prior.graphs) and "geometric" in kinds["graph"].graphs
        assert not set(kinds["noise"].technologies) & set(prior.technologies)
        assert not set(kinds["mechanism"].hill) & set(prior.hill)
        changed = {
            f for f in GraphPrior.__dataclass_fields__ if getattr(kinds["seen"], f) != getattr(kinds["all shifted"], f)
        }
        assert changed >= {"graphs", "weight", "noises", "value", "technologies"}


def test_card_tells_what_was_trained_on_and_every_score(scores: dict[str, dict[str, dict[str, float]]]) -> None:
    config = {
        "sizes": SIZES, "network": "edges", "steps": 3, "seconds": 60, "device": "cpu", "recipe_hash": "abc",
        "stages": [["abc", 0]], "sha256": "def",
    }  # fmt: skip
    text = hg.card(config, scores, RECIPE)
    assert "1 minutes on cpu, seed 0" in text and "abc from step 0" in text and "'linear': 1.0" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "AUPRC" not in line]
    assert len(rows) == 7 * 5
    assert any(row.startswith("| all shifted | AVICI | 1.00 | 1.00 | 1.00 |") for row in rows)
    assert "nan" not in text


def test_a_network_is_scored_alike_twice() -> None:
    torch.manual_seed(0)
    net = EdgeStream(EdgeStreamConfig(**SIZES)).eval()
    first, second = (hg.score_heldout_graphs(net, replace(GENES), n=1, genes=5, cells=60) for _ in range(2))
    assert first["seen"]["AVICI"] == second["seen"]["AVICI"]
