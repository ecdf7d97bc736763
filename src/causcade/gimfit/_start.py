"""Start of a fit whose graph is searched: graph, targets and parameters as the search leaves them."""

from __future__ import annotations

import logging
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from causcade.gimfit._scores import AdditiveScores
from causcade.gimfit._search import search_graph
from causcade.nn._gim_interventions import FeatureNetworks, FreeInterventions
from causcade.nn.gim import Gim

__all__ = ["start_from_search"]

logger = logging.getLogger(__name__)

_LEAST_ODDS, _MOST_ODDS = 1e-3, 30.0  # nats: an edge that was found stays one, and none is beyond doubt
_FREE_ODDS = 4.0
_BENDS = (-1.5, -0.5, 0.5, 1.5)


def start_from_search(model: Gim, values: Tensor, codes: Tensor, features: Tensor, *, seed: int) -> None:
    """Search the graph of linear mechanisms (for networks: of additive ones), and begin there.

    Parameters
    ----------
    model
        Changed in place: its graph is the one found. Free interventions are those found; networks are taught them, as a
        start for what they say with all cells.
    values, codes
        Cells in the units of the model, and their environments.
    features
        Of all environments.
    seed
        Of the search.
    """
    c = model.config
    scores = AdditiveScores(
        values.double().cpu().numpy(), codes.cpu().numpy(), len(features), hard=c.intervention == "hard",
        edge_cost=c.sparsity_graph, target_cost=c.sparsity_targets, variance=c.variance_weights,
        intercept=c.intercept or c.mechanism != "linear",
        bends=() if c.mechanism == "linear" else _BENDS,
    )  # fmt: skip
    logger.info("GIM searches the graph of %d genes in %d environments", scores.n_genes, len(features))
    found = search_graph(scores, restarts=c.restarts, rng=np.random.default_rng(seed))
    odds = np.where(found.graph, found.log_odds.clip(_LEAST_ODDS), found.log_odds.clip(max=-_LEAST_ODDS))
    odds = odds.clip(-_MOST_ODDS, _MOST_ODDS)
    model.graph.assign(torch.as_tensor(odds / c.alpha_cap, dtype=torch.float32, device=features.device))
    hit = torch.as_tensor(found.targets, device=features.device)
    parts = {"mean": found.mean, "log_sd": found.log_sd}
    taken = {
        n: torch.as_tensor(x, dtype=torch.float32, device=features.device).where(hit, 0.0) for n, x in parts.items()
    }
    if isinstance(model.interventions, FreeInterventions):
        model.interventions.assign({"logits": torch.where(hit, _FREE_ODDS, -_FREE_ODDS), **taken})
    else:
        taught = deepcopy(model.interventions)  # one that was interrupted leaves no trace
        _teach(taught, features, hit.float(), taken, c.warm_up, c.learning_rate)
        model.interventions.load_state_dict(taught.state_dict())


def _teach(
    networks: FeatureNetworks, features: Tensor, hit: Tensor, taken: dict[str, Tensor], steps: int, rate: float
) -> None:
    """Fit networks to targets, and to parameters of targets, in all environments but the observational one."""
    optimiser = torch.optim.Adam(networks.parameters(), lr=rate)
    for _ in range(steps):
        said = networks(features)
        loss = F.binary_cross_entropy_with_logits(said.logits[1:], hit[1:], reduction="sum")
        for name, wanted in taken.items():
            if (value := getattr(said, name)) is not None:
                loss = loss + (hit * (value - wanted) ** 2)[1:].sum()
        optimiser.zero_grad()
        (loss / hit[1:].numel()).backward()
        optimiser.step()
