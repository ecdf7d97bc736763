"""Scores of a network on kinds of screens it was not trained on, with baselines: the numbers of a model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from causcade import metrics
from causcade._files import TENSORS, put, put_pair
from causcade.baselines import correlation, knockout_t, popularity
from causcade.ensemble import score_pairs
from causcade.heldout_graphs import card as graph_card
from causcade.heldout_graphs import score_heldout_graphs
from causcade.heldout_targets import card as target_card
from causcade.heldout_targets import score_heldout_targets
from causcade.pairs import pair_features
from causcade.pretrain import Recipe, made_by
from causcade.pretrained import Weights, load
from causcade.scoring import cell_scorer, compose, pair_scorer, set_size
from causcade.simulate.episodes import Screen, ScreenPrior, assay, draw_screen
from causcade.simulate.graphs import ancestors, path_lengths
from causcade.stats import Moments, cell_values, log_normalise, pair_stats

__all__ = ["KINDS", "MEASURES", "release", "score_heldout", "score_weights"]

#: Changes to the training prior; no training screen is drawn from any of them but ``seen`` and, where a recipe has such
#: screens, ``half coverage`` and ``few genes``: the card says so.
KINDS: dict[str, dict[str, Any]] = {
    "seen": {},
    "graph": {"graph_kinds": {"watts_strogatz": 1.0, "geometric": 1.0}, "edges": (2.0, 2.0)},
    "mechanism": {
        "hill": (1.5, 1.5),
        "decay": (0.5, 0.5),
        "noise": (1.5, 1.5),
        "basal": ((0.5, 2.0), (2.0, 4.0)),
        "strength": ((1.0, 3.0), (3.0, 7.0)),
        "sign_beta": ((0.2588, 0.2499),),
    },
    "noise": {"technologies": {"smart-seq": 1.0}},
    "half coverage": {"full_coverage": 0.0},
    "few genes": {"genes": (15, 30)},
}

#: Size of the screens that are scored.
SIZE: dict[str, Any] = {"genes": (150, 300), "max_cells": 4000}
_MORE = {"few genes": 10}  # times as many screens: of one of 20 genes a score says little


def score_heldout(
    net: nn.Module, config: dict[str, Any], prior: ScreenPrior, *, n_screens: int = 4, rng: int = 10_000
) -> dict[str, dict[str, dict[str, float]]]:
    """Score a network and the baselines on every kind of screen.

    Parameters
    ----------
    net, config
        The network and its ``config.json``.
    prior
        Prior that it was trained on; kinds change parts of it.
    n_screens
        Screens of each kind; ten times as many of ``few genes``.
    rng
        Seed of the screens; training seeds are small numbers.

    Returns
    -------
    ``kind -> method -> metric -> mean over screens``, in percent.
    """
    out = {}
    for kind, changes in KINDS.items():
        changed = replace(prior, **{**SIZE, **changes})
        rows: dict[str, list[dict[str, float]]] = {}
        for i in range(_MORE.get(kind, 1) * n_screens):
            screen = draw_screen(changed, rng, i)
            for method, row in _score_screen(net, config, screen, changed, rng, i).items():
                rows.setdefault(method, []).append(row)
        out[kind] = {m: {k: float(np.nanmean([r[k] for r in each])) for k in each[0]} for m, each in rows.items()}
    return out


def _score_screen(
    net: nn.Module, config: dict[str, Any], screen: Screen, prior: ScreenPrior, rng: int, index: int
) -> dict[str, dict[str, float]]:
    counts, _ = assay(screen, prior, rng, index)
    total = counts.sum(1)
    groups = screen.types if screen.groups_known else torch.zeros_like(screen.types)
    moments = Moments.empty(len(screen.perturbed) + 1, int(groups.max()) + 1, counts.shape[1])
    moments.update(log_normalise(counts, total, total[total > 0].median()), screen.codes, groups)
    stats = pair_stats(moments, screen.single)
    if config["network"] == "pairs":
        score = pair_scorer(net, pair_features(stats))
    else:
        values = cell_values(counts, total)
        score = cell_scorer(net, values, screen.codes, screen.single, n_cells=int(config["cells"]))
    gen = np.random.default_rng(index)
    scores = compose(net, score_pairs(score, counts.shape[1], size=set_size(config), n_draws=1, rng=gen).mean)
    z = stats.z.numpy()
    methods = {
        "TCD": np.nan_to_num(scores),
        "correlation": correlation(stats.correlation.numpy()),
        "partial correlation": correlation(stats.partial.numpy()),
        "knock-out |t|": knockout_t(z),
        "popularity": popularity(np.abs(z)),
    }
    truth = ancestors(screen.grn.adjacency).numpy()
    paths = path_lengths(screen.grn.adjacency).numpy()
    wanted = ("column_auroc", "column_ap", "column_auroc_path2", "row_auroc", "row_ap")
    reports = {m: metrics.cause_report(truth, s, path_length=paths, rng=0) for m, s in methods.items()}
    return {m: {k: 100 * r.get(k, np.nan) for k in wanted} for m, r in reports.items()}


def release(folder: Path, out: Path, *, n_screens: int = 4) -> None:
    """Score trained weights and write what is shipped: weights, config with checksum and scores, model card.

    Parameters
    ----------
    folder
        What ``python -m causcade.pretrain`` wrote.
    out
        Folder of the release, named like the weights.
    n_screens
        Screens of each kind.
    """
    weights = load(folder.resolve())  # a relative path may be a released name
    recipe = Recipe(**weights.config["recipe"])
    config: dict[str, Any] = {**weights.config, "sha256": weights.sha256}
    scores = score_weights(weights, n_screens)
    metric, word, digits = MEASURES[weights.model]
    seen = {f"{word}, {kind}": round(methods[weights.model][metric], digits) for kind, methods in scores.items()}
    text = _CARDS[weights.model](config, scores, recipe)
    put_pair(out, (folder / TENSORS).read_bytes(), json.dumps({**config, "scores": seen}, indent=1) + "\n")
    put(out / "README.md", text)
    for name in ("log.json", "validation.json"):  # how the training went, for `causcade.pl.training`
        if (folder / name).is_file():
            put(out / name, (folder / name).read_bytes())


Scores = dict[str, dict[str, dict[str, float]]]

#: By model: the metric that sums a card up, its name in tables, digits.
MEASURES: dict[str, tuple[str, str, int]] = {
    "TCD": ("column_auroc", "column AUROC", 1),
    "CDN": ("ap", "mAP", 1),
    "AVICI": ("auprc", "AUPRC", 2),
}


def score_weights(weights: Weights, n_screens: int = 4) -> Scores:
    """Score weights of any model, and its baselines, on every held-out kind.

    Parameters
    ----------
    weights
        Trained weights.
    n_screens
        Screens of each kind for TCD; twice as many causal models for CDN and three times as many data sets for AVICI.

    Returns
    -------
    ``kind -> method -> metric``; the weights' own scores are under the name of their model.
    """
    recipe = Recipe(**weights.config["recipe"])
    if weights.model == "TCD":
        return score_heldout(weights.net, weights.config, recipe.screen_prior(), n_screens=n_screens)
    if weights.model == "CDN":
        return score_heldout_targets(weights.net, weights.config, recipe, n_models=2 * n_screens)
    return score_heldout_graphs(weights.net, recipe, n=3 * n_screens)


def _of_the_prior(prior: ScreenPrior) -> str:
    """Kinds that are the training prior or a part of it."""
    kinds = ["`seen`"]
    if prior.full_coverage < 1:
        kinds.append("`half coverage`")
    if prior.genes[0] < KINDS["few genes"]["genes"][1]:
        kinds.append("`few genes`")
    return f"{', '.join(kinds)} {'is' if len(kinds) == 1 else 'are'}"


def _trained_on(real: Sequence[Any]) -> list[str]:
    """Say what the weights have seen, and how far to believe them."""
    advice = "Read a perturbed candidate's |t|, and where a candidate was not perturbed take the score as"
    if not real:
        return [
            "Trained on simulated gene regulatory networks only, never on a real network or screen. Do not read the",
            "probabilities as those of your own cells: they are calibrated to the simulator's share of causes. On the real screens",
            f"we have, simple baselines rank as well or better. {advice} hardly any evidence.",
        ]
    names = ", ".join(str(name) for name, _ in real)
    return [
        f"Fine-tuned on real screens, knock-outs hidden at random: {names}. Never trained on a real network. Copies that were",
        "trained without a screen are scored on it in docs/benchmarks/tcd_real.md, beside simple baselines. Do not read the",
        f"probabilities as those of your own cells. {advice} weak evidence.",
    ]


def card(config: dict[str, Any], scores: dict[str, dict[str, dict[str, float]]], prior: ScreenPrior) -> str:
    """Model card in Markdown."""
    minutes = config["seconds"] / 60
    lines = [
        f"# {config['recipe']['name']}",
        "",
        f"Network `{config['network']}` ({config['sizes']}), made by `python -m causcade.pretrain`.",
        f"Steps {config['steps']}, {minutes:.0f} minutes on {config['device']}, seed {config['recipe']['seed']}.",
        made_by(config),
        f"sha256 of the weights: {config['sha256']}.",
        "",
        *_trained_on(config["recipe"].get("real", ())),
        "One run of the recipe, measured once; docs/weights.md says what happened on the way.",
        *(
            [
                "Its last steps taught it to compose the scores of all pairs of a screen along paths; the scores below are composed."
            ]
            if config["steps"] > config["recipe"]["steps"]
            else []
        ),
        "",
        f"Training prior: `{asdict(prior)}`",
        "",
        f"Scores in percent, means over simulated screens. {_of_the_prior(prior)} of the training prior with new",
        "seeds; training did not see the other kinds. AUROC by column ranks the effects of a regulator (50 = chance for any ranking that",
        "ignores the pair), by row the causes of a target.",
        "",
        "| kind | method | column AUROC | column AP | column AUROC, path >= 2 | row AUROC | row AP |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, methods in scores.items():
        for method, row in methods.items():
            lines.append(
                f"| {kind} | {method.replace('|', chr(92) + '|')} | "
                + " | ".join(f"{v:.1f}" for v in row.values())
                + " |"
            )
    return "\n".join(lines) + "\n"


def _cause_card(config: dict[str, Any], scores: Scores, recipe: Recipe) -> str:
    return card(config, scores, recipe.screen_prior())


_CARDS = {"TCD": _cause_card, "CDN": target_card, "AVICI": graph_card}
