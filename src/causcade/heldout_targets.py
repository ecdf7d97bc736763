"""Scores of a differential network on kinds of data it was not trained on, with baselines: the numbers of its card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from causcade import metrics
from causcade.contrasts import summarise
from causcade.pretrain import Recipe, made_by
from causcade.pretrain.target_items import TargetScreen, measure_screen
from causcade.scoring import target_scorer
from causcade.simulate.episodes import draw_screen
from causcade.simulate.graphs import watts_strogatz
from causcade.simulate.scm import Intervention, random_scm, sample_regimes
from causcade.simulate.shifts import INTERVENTIONS, MECHANISMS, Shifts, draw_shifts, simulate_shifts
from causcade.target_baselines import RankSum, mb_ci

__all__ = ["card", "score_heldout_targets"]

_REGIMES, _CELLS = 12, 500


def score_heldout_targets(
    net: nn.Module, config: dict[str, Any], recipe: Recipe, *, n_models: int = 6, rng: int = 10_000, n_draws: int = 2
) -> dict[str, dict[str, dict[str, float]]]:
    """Score a network and the baselines on every kind of data.

    Parameters
    ----------
    net, config
        The network and its ``config.json``.
    recipe
        Recipe it was trained by.
    n_models
        Causal models (or a third as many simulated screens) of each kind.
    rng
        Seed; training seeds are small numbers.
    n_draws
        Draws of local graphs.

    Returns
    -------
    ``kind -> method -> metric``, means over perturbed sets, in percent. ``seen`` and ``screens`` are the training priors
    with new seeds; no set of the other kinds is like any of training, but ``unseen mechanism`` and ``unseen
    intervention`` where the recipe trains on all of them (then they are left out).
    """
    out = {}
    for kind, draw in _kinds(recipe).items():
        rows: dict[str, list[dict[str, float]]] = {}
        count = n_models if not kind.startswith("screens") else max(1, n_models // 3)
        for i in range(count):
            for method, row in _score(net, config, draw(rng + i), rng + i, n_draws):
                rows.setdefault(method, []).append(row)
        out[kind] = {m: {k: float(np.nanmean([r[k] for r in each])) for k in each[0]} for m, each in rows.items()}
    return out


Draw = Callable[[int], TargetScreen]


def _kinds(recipe: Recipe) -> dict[str, Draw]:
    prior = replace(recipe.shift_prior(), regimes=_REGIMES, idle=0.0, cells=(_CELLS, _CELLS), control=(_CELLS, _CELLS))
    new_mechanisms = dict.fromkeys(set(MECHANISMS) - set(prior.mechanisms), 1.0)
    new_interventions = dict.fromkeys(set(INTERVENTIONS) - set(prior.interventions), 1.0)

    def shifts(**changes: Any) -> Draw:
        return lambda seed: _as_screen(draw_shifts(replace(prior, **changes), seed, 0, genes=20))

    kinds: dict[str, Draw] = {"seen": shifts()}
    if new_mechanisms:
        kinds["unseen mechanism"] = shifts(mechanisms=dict.fromkeys(sorted(new_mechanisms), 1.0))
    if new_interventions:
        kinds["unseen intervention"] = shifts(interventions=dict.fromkeys(sorted(new_interventions), 1.0))
    kinds["small-world graph"] = lambda seed: _small_world(seed, sorted(prior.mechanisms))
    kinds["Gaussian-process mechanism"] = lambda seed: _scm(seed, mechanism="rff")
    kinds["Laplace noise"] = lambda seed: _scm(seed, noise="laplace", heteroscedastic=True)
    if recipe.screen_share:
        for kind, changes in (("screens", {}), ("screens, smart-seq", {"technologies": {"smart-seq": 1.0}})):
            kinds[kind] = lambda seed, changes=changes: _simulated(recipe, seed, changes)  # type: ignore[misc]
    return kinds


def _as_screen(s: Shifts) -> TargetScreen:
    values = torch.cat([s.control, s.perturbed.flatten(0, 1)])
    codes = torch.arange(len(s.perturbed) + 1).repeat_interleave(
        torch.tensor([len(s.control)] + [s.perturbed.shape[1]] * len(s.perturbed))
    )
    targets = {r: tuple(row.nonzero().squeeze(1).tolist()) for r, row in enumerate(s.targets, start=1)}
    return TargetScreen(values, codes, targets, s.adjacency)


def _sets(seed: int, n: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.choice(n, 1 + i % 3, replace=False).tolist()) for i in range(_REGIMES)]


def _small_world(seed: int, mechanisms: list[str]) -> TargetScreen:
    targets = torch.zeros(_REGIMES, 20, dtype=torch.bool)
    for row, chosen in zip(targets, _sets(seed, 20), strict=True):
        row[list(chosen)] = True
    kinds = tuple(("uniform", "shift")[i % 2] for i in range(_REGIMES))
    shifts = simulate_shifts(
        watts_strogatz(20, 2, rng=seed), targets, kinds, mechanism=mechanisms[seed % len(mechanisms)],
        n_control=_CELLS, n_per_regime=_CELLS, rng=seed,
    )  # fmt: skip
    return _as_screen(shifts)


def _scm(seed: int, **how: Any) -> TargetScreen:
    """Internally standardised models with kinds of mechanism and noise that no recipe has."""
    model = random_scm(watts_strogatz(20, 2, rng=seed), rng=seed, **how)
    kinds = (("uniform", (-1.0, 1.0)), ("shift", 2.0), ("scale", 2.0))
    chosen = _sets(seed, 20)
    regimes = [
        Intervention(targets, cast("Any", kinds[i // 3 % 3][0]), cast("Any", kinds[i // 3 % 3][1]))
        for i, targets in enumerate(chosen)
    ]
    x, codes, _ = sample_regimes(model, _CELLS, _CELLS, regimes, rng=seed)
    return TargetScreen(x, codes, dict(enumerate(chosen, start=1)), model.adjacency)


def _simulated(recipe: Recipe, seed: int, changes: dict[str, Any]) -> TargetScreen:
    prior = replace(recipe.screen_prior(), genes=(100, 100), **changes)
    screen = measure_screen(draw_screen(prior, seed, 0), prior, seed, 0)
    kept = np.random.default_rng(seed).permutation(list(screen.targets))[:30]
    return replace(screen, targets={int(r): screen.targets[int(r)] for r in kept})


def _score(
    net: nn.Module, config: dict[str, Any], screen: TargetScreen, seed: int, n_draws: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Methods and their scores on all perturbed sets of one screen."""
    control = screen.values[screen.codes == 0]
    scorer = target_scorer(net, config)
    state, ranks, rng = scorer.prepare(summarise(control)), RankSum(control.numpy()), np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {}
    hit = []
    for regime, targets in screen.targets.items():
        cells = screen.values[screen.codes == regime]
        if len(cells) < 3:
            continue
        after = summarise(cells)
        hit.append(np.asarray(targets))
        shift = (cells.mean(0) - control.mean(0)).abs()
        each = {
            "CDN": np.mean([scorer.score(state, after, rng) for _ in range(n_draws)], axis=0),
            "|shift|": shift.numpy(),
            "|shift| / sd": (shift / control.std(0).clamp(min=1e-3)).numpy(),
            "|Wilcoxon|": np.abs(ranks.against(cells.numpy())),
        }
        if control.shape[1] <= 20:
            each["MB+CI"] = mb_ci(control.numpy(), cells.numpy())
        for method, scores in each.items():
            found.setdefault(method, []).append(scores)
    for method, columns in found.items():
        report = metrics.target_report(np.stack(columns, 1), hit)
        yield method, {k: 100 * report[k] for k in ("ap", "auroc", "rank", "recall@1", "recall@5")}


def card(config: dict[str, Any], scores: dict[str, dict[str, dict[str, float]]], recipe: Recipe) -> str:
    """Model card in Markdown."""
    real = ", ".join(name for name, _ in recipe.real)
    told = f"Fine-tuned on real screens: {real}." if real else "Never trained on a real screen."
    lines = [
        f"# {recipe.name}", "",
        f"{recipe.use[:1].upper()}{recipe.use[1:]}.", "",
        f"Differential network ({config['sizes']}), made by `python -m causcade.pretrain`.",
        f"Steps {config['steps']}, {config['seconds'] / 60:.0f} minutes on {config['device']}, seed {recipe.seed}.",
        f"{made_by(config)} {told}",
        f"sha256 of the weights: {config['sha256']}.", "",
        "The probabilities are calibrated to simulated screens: use ranks, and a null on your own controls.",
        "Do not use it for cells of different types or batches compared with each other: it finds what differs.", "",
        f"Causal models: `{recipe.shift_prior().to_dict()}`", "",
        *([f"Simulated screens: `{recipe.screen_prior().to_dict()}`", ""] if recipe.screen_share else []),
        "Scores in percent, means over perturbed sets of models with new seeds. `seen` (and `screens`) is the training",
        "prior; the other kinds were not trained on. AP and AUROC over the genes of each set; rank 100 = target on top.",
        "recall@k is over targets: where sets have 1 to 3 of them it cannot reach 100 at small k. A few dozen sets of each",
        "kind (of `screens`, perturbations of two screens): differences of a few points are noise.", "",
        "| kind | method | mAP | AUROC | rank | recall@1 | recall@5 |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, methods in scores.items():
        for method, row in methods.items():
            values = " | ".join(f"{v:.1f}" for v in row.values())
            lines.append(f"| {kind} | {method.replace('|', chr(92) + '|')} | {values} |")
    return "\n".join(lines) + "\n"
