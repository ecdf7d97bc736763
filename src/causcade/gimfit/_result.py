"""A fitted model: its graph, its targets and its predictions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causcade._checks import at_least, generator
from causcade.gimfit._environments import as_features
from causcade.metrics import to_dag
from causcade.nn.gim import Gim, GimConfig, Interventions

__all__ = ["Effects", "GimFit"]

Effects = Literal["expected", "called"]
Floats = NDArray[np.float64]
_MANY_CELLS = 100_000  # drawn at once


@dataclass
class GimFit:
    """One or several fits to the same cells.

    Attributes
    ----------
    config
        All choices.
    models
        The fitted models, on the CPU.
    alphas
        Sharpness of edges at the end of each fit.
    features
        ``(n_environments, n_features)`` of the fit; row 0 is observational.
    center, scale
        ``(n_genes,)``: the models' values are ``(values - center) / scale``.
    history
        For each fit: ``step`` and the terms of the objective, ``cycles``, its ``multiplier`` and ``weight``, and
        ``heldout`` log likelihood per cell.
    stopped
        For each fit: ``"steps"``, ``"time"`` or ``"converged"``.
    """

    config: GimConfig
    models: list[Gim]
    alphas: list[float]
    features: NDArray[np.float32]
    center: Floats
    scale: Floats
    history: list[dict[str, Floats]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.center)

    @property
    def objectives(self) -> Floats:
        """What each fit had reached, in nats without constants: mean over its last ten looks, with the final costs.

        Raises
        ------
        ValueError
            If there is no history, as after :meth:`from_state_dict`.
        """
        if len(self.history) < len(self.models):
            msg = "This fit has no history, and so no objectives; take them from the fit that was just made."
            raise ValueError(msg)
        c = self.config
        return np.array([
            np.mean(
                h["soft"] + h["prior"] - c.sparsity_graph * h["edges"] - c.sparsity_targets * h["targets"]
                - h["multiplier"] * h["cycles"] - h["weight"] / 2 * h["cycles"] ** 2
            )
            for h in ({name: x[-10:] for name, x in each.items()} for each in self.history)
        ])  # fmt: skip

    def best(self) -> GimFit:
        """The single fit with the highest objective. Starts differ in where they end: take this, or the mixture.

        Raises
        ------
        ValueError
            If there is no history.
        """
        at = int(np.argmax(self.objectives))
        models, alphas, history = [self.models[at]], [self.alphas[at]], [self.history[at]]
        return replace(self, models=models, alphas=alphas, history=history, stopped=self.stopped[at : at + 1])

    @torch.no_grad()
    def _edges(self) -> Floats:
        each = [m.graph.probability(a).double().numpy() for m, a in zip(self.models, self.alphas, strict=True)]
        return np.stack(each)

    @property
    def edge_probability(self) -> Floats:
        """Edge probability ``(n_genes, n_genes)``, [cause, effect]: mean over fits."""
        return self._edges().mean(axis=0)

    @property
    def edge_sd(self) -> Floats:
        """Standard deviation of the edge probability over fits, [cause, effect]; NaN for a single fit."""
        return _sd(self._edges())

    @property
    def graph(self) -> NDArray[np.bool_]:
        """Edges of a probability of at least one half, [cause, effect]; the weakest of each cycle is left out."""
        return to_dag(self.edge_probability, 0.5)

    @torch.no_grad()
    def graph_of(self, number: int) -> NDArray[np.bool_]:
        """Acyclic graph of a single fit, [cause, effect]: the one it predicts with."""
        return to_dag(self.models[number].graph.scores().double().numpy(), float(np.nextafter(0.0, 1.0)))

    def is_acyclic(self, number: int) -> bool:
        """Say whether the most probable graph of a fit had no cycle to be broken."""
        return bool((self.graph_of(number) == self.models[number].graph.hard().numpy()).all())

    def targets(self, features: NDArray[np.floating] | None = None) -> Floats:
        """Probability of being a target, ``(n_perturbations, n_genes)``: mean over fits.

        Parameters
        ----------
        features
            ``(n_perturbations, n_features)``; None: the environments of the fit, of which the first has no targets.

        Raises
        ------
        ValueError
            If features do not fit, or the fit is not ``amortised`` and new ones are given.
        """
        return self._targets(features).mean(axis=0)

    def target_sd(self, features: NDArray[np.floating] | None = None) -> Floats:
        """Standard deviation of :meth:`targets` over fits; NaN for a single fit."""
        return _sd(self._targets(features))

    @torch.no_grad()
    def _targets(self, features: NDArray[np.floating] | None) -> Floats:
        out = []
        for number in range(len(self.models)):
            logits = self.interventions(features, number=number).logits
            out.append((self._sharp(number) * logits).sigmoid().double().numpy())
        return np.stack(out)

    @torch.no_grad()
    def interventions(
        self, features: NDArray[np.floating] | None = None, *, number: int = 0, effects: Effects = "called"
    ) -> Interventions:
        """Interventions that a single fit reads from features, in the model's units (see ``center`` and ``scale``).

        They can be changed or joined, and given to :meth:`sample`.

        Parameters
        ----------
        features
            ``(n_perturbations, n_features)``; None: the environments of the fit.
        number
            Which fit.
        effects
            ``"called"``: cells follow the intervention wholly in genes that are targets with a probability above one half,
            and not at all in others, as in the paper; ``"expected"``: in each gene by that probability, kept as ``share``.
            A share of a shift is added; of a hard intervention, mean, log standard deviation and logit of zeros lie by
            that share between those of the causes and of the intervention. Cells spread less than if targets were drawn.

        Raises
        ------
        ValueError
            If features do not fit, the fit is not ``amortised`` and new ones are given, or `effects` is another word.
        """
        if effects not in get_args(Effects):
            msg = f"effects must be 'expected' or 'called', not {effects!r}."
            raise ValueError(msg)
        if features is not None and not self.config.amortised:
            msg = "A fit with amortised=False knows the environments of the fit only; leave features=None."
            raise ValueError(msg)
        rows = self.features if features is None else as_features(features, self.features.shape[1])
        found: Interventions = self.models[number].interventions(torch.as_tensor(rows)).detach()
        if features is None:
            logits = found.logits.clone()
            logits[0] = -torch.inf
            found = replace(found, logits=logits)
        return found if effects == "called" else replace(found, share=(self._sharp(number) * found.logits).sigmoid())

    def _sharp(self, number: int) -> float:
        """What target logits of a fit are multiplied by."""
        return 0.5 * self.alphas[number] if self.config.anneal_targets else 1.0

    def predict(
        self,
        features: NDArray[np.floating] | None = None,
        n_cells: int = 100,
        *,
        effects: Effects = "expected",
        rng: int | np.random.Generator | None = None,
    ) -> Floats:
        """Draw cells of perturbations, seen or not, in the units of the data.

        Parameters of interventions are the most probable ones, and cells are drawn along the acyclic graph. With several
        fits, cells are shared out among them.

        Parameters
        ----------
        features
            ``(n_perturbations, n_features)``; None: the environments of the fit, the first without any perturbation.
        n_cells
            Cells of each perturbation.
        effects
            What genes do that may or may not be targets, see :meth:`interventions`.
        rng
            Noise.

        Returns
        -------
        ``(n_perturbations, n_cells, n_genes)``.

        Raises
        ------
        ValueError
            If features do not fit, the fit is not ``amortised`` and new ones are given, or `effects` is another word.
        """
        n_cells, random = at_least(n_cells, 1, "n_cells"), generator(rng)
        shares = np.diff(np.linspace(0, n_cells, len(self.models) + 1).round().astype(int)).tolist()
        parts = [
            self.sample(self.interventions(features, number=number, effects=effects), share, number=number, rng=random)
            for number, share in enumerate(shares)
            if share
        ]
        return np.concatenate(parts, axis=1)

    @torch.no_grad()
    def sample(
        self,
        interventions: Interventions,
        n_cells: int,
        *,
        number: int = 0,
        rng: int | np.random.Generator | None = None,
    ) -> Floats:
        """Draw cells under given interventions from a single fit, in the units of the data.

        Parameters
        ----------
        interventions
            ``(n_perturbations, n_genes)`` each; without a ``share`` genes with a positive logit are targets.
        n_cells
            Cells of each perturbation.
        number
            Which fit.
        rng
            Noise.

        Returns
        -------
        ``(n_perturbations, n_cells, n_genes)``.
        """
        noise = torch.Generator().manual_seed(int(generator(rng).integers(2**31)))
        graph = torch.as_tensor(self.graph_of(number))
        rows = max(1, _MANY_CELLS // n_cells)
        k = len(interventions.logits)
        parts = []
        for at in range(0, k, rows):
            some = _rows(interventions, slice(at, at + rows))
            parts.append(self.models[number].sample(graph, some, n_cells, rng=noise).double().numpy())
        out: Floats = np.concatenate(parts) * self.scale + self.center
        return out

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, features and scales as flat tensors, for a file; ``config.to_dict()`` goes beside it."""
        state = {f"{i}.{k}": v.contiguous() for i, m in enumerate(self.models) for k, v in m.state_dict().items()}
        state["alphas"] = torch.tensor(self.alphas, dtype=torch.float64)
        for name in ("features", "center", "scale"):
            state[name] = torch.as_tensor(getattr(self, name))
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], config: GimConfig | dict[str, Any]) -> GimFit:
        """Rebuild a fit from :meth:`state_dict`; the history is not part of it."""
        config = config if isinstance(config, GimConfig) else GimConfig.from_dict(config)
        features, center, scale = (state[n].numpy() for n in ("features", "center", "scale"))
        alphas = state["alphas"].tolist()
        models = []
        for i in range(len(alphas)):
            start = torch.Generator().manual_seed(0)
            model = Gim(config, len(center), features.shape[1], len(features), rng=start)
            model.load_state_dict({k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")})
            models.append(model.eval())
        return cls(config, models, alphas, features, center, scale)


def _rows(x: Interventions, rows: slice) -> Interventions:
    optional = (None if part is None else part[rows] for part in (x.log_sd, x.zero_logit, x.share))
    return Interventions(x.logits[rows], x.mean[rows], *optional)


def _sd(values: Floats) -> Floats:
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    out: Floats = values.std(axis=0, ddof=1)
    return out
