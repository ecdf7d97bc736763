"""Start of a fit whose graph is searched: graph, targets and parameters as the search leaves them."""

from __future__ import annotations

import logging
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from causcade.gimfit._scores import AdditiveScores
from causcade.gimfit._search import Found, search_graph
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
    taken = {name: torch.as_tensor(v, dtype=torch.float32, device=features.device) for name, v in _parts(found).items()}
    if isinstance(model.interventions, FreeInterventions):
        logits = torch.where(taken["logits"] > 0, _FREE_ODDS, -_FREE_ODDS)
        model.interventions.assign(taken | {"logits": logits})
    else:
        taught = deepcopy(model.interventions)  # one that was interrupted leaves no trace
        _teach(taught, features, taken, c.warm_up, c.learning_rate)
        model.interventions.load_state_dict(taught.state_dict())


def _parts(found: Found) -> dict[str, np.ndarray]:
    """Logits (only their sign means something) and parameters, which are 0 where there is no target."""
    parts = {"logits": np.where(found.targets, 1.0, -1.0), "mean": found.mean, "log_sd": found.log_sd}
    return {name: x if name == "logits" else np.where(found.targets, x, 0.0) for name, x in parts.items()}


def _teach(networks: FeatureNetworks, features: Tensor, taken: dict[str, Tensor], steps: int, rate: float) -> None:
    """Fit networks to targets, and to parameters of targets, in all environments but the observational one."""
    optimiser = torch.optim.Adam(networks.parameters(), lr=rate)
    hit = (taken["logits"][1:] > 0).float()
    for _ in range(steps):
        said = networks(features)
        loss = F.binary_cross_entropy_with_logits(said.logits[1:], hit, reduction="sum")
        for name in ("mean", "log_sd"):
            if (value := getattr(said, name)) is not None:
                loss = loss + (hit * (value - taken[name])[1:] ** 2).sum()
        optimiser.zero_grad()
        (loss / hit.numel()).backward()
        optimiser.step()
