"""Choices of a generative intervention model; where the paper leaves one open, the default and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal, get_args

__all__ = ["GimConfig"]

Mechanism = Literal["linear", "mlp", "zero_inflated"]
Intervention = Literal["hard", "shift"]
Likelihood = Literal["node", "environment", "joint", "mean", "expected"]
Schedule = Literal["up", "down", "constant"]
Cycles = Literal["radius", "expected_radius", "trace"]
Graph = Literal["relaxed", "searched"]


@dataclass(frozen=True)
class GimConfig:
    """Model, objective and training of a generative intervention model (GIM).

    Attributes
    ----------
    mechanism
        ``"linear"``; ``"mlp"``: one small network per gene; ``"zero_inflated"``: zero with a learned probability, else
        log-normal around such a network, for values that are at least 0.
    hidden
        Widths of the hidden layers of a gene's network (tanh). Paper: 5, or up to three layers of 20 for cells.
    intercept
        Linear mechanisms have a constant (the paper's have none; data are rarely centred).
    intervention
        ``"hard"``: a target no longer depends on its causes, and has its own mean and standard deviation;
        ``"shift"``: a target's mechanism is moved by a constant (on the log scale for ``"zero_inflated"``).
    amortised
        Networks map features to targets and parameters. Otherwise each environment has free ones (BaCaDI with a point
        estimate), and nothing can be said about other environments.
    widths
        Widths of the hidden layers of those networks (tanh).
    graph
        ``"relaxed"``: edge probabilities are fitted with the rest by gradients, as in the paper. ``"searched"``: before the first
        step the graph is searched, edge by edge, by what each gene's causes explain (with the best weights, noise and
        targets, and the two costs below; for networks, causes add up, each by a straight line and four bends), and
        stays. Probabilities of edges are then those given all other edges. Not for ``"zero_inflated"``.
    restarts, warm_up
        Of that search; and steps in which networks of features first learn the targets and parameters that it found.
    exact_weights
        Linear mechanisms are set to their best values before each step instead of being fitted by gradients, which take
        too long where causes are nearly collinear. Needs ``likelihood="expected"``.
    rank
        Length of the latent vectors of the graph; None: number of genes.
    standardise
        Centre and scale each gene by its observational cells before the fit; predictions are scaled back. Not in the
        paper; without it the priors mean something else in each unit. ``"zero_inflated"`` is never scaled.
    likelihood
        How the average over graph draws is taken, see :func:`causcade.nn.gim.log_mean`. ``"joint"`` is the paper's.
        ``"expected"`` is ``"mean"`` with targets summed out, and for linear mechanisms the graph too: exact, nothing is
        drawn, and many times as fast. Networks then see hard draws, with the gradient passed straight through.
    n_samples, n_acyclic
        Draws of graph and targets in a step, and draws of graphs for the acyclicity penalty.
    batch_size
        Cells in a step; linear mechanisms always use all, through second moments.
    start_sd
        Standard deviation of the latent vectors at the start. The paper: 1. Smaller ones leave short fits undecided for
        longer (DiBS and BaCaDI start at 1 / sqrt(rank)).
    alpha_slope, alpha_cap
        Sharpness of edge probabilities at step t: ``min(alpha_slope * t, alpha_cap)``. The paper only says that it
        grows; slope as in BaCaDI, cap where its runs end.
    anneal_targets
        Target logits are also multiplied, by half that sharpness (BaCaDI). The paper's formula has no such factor.
    alpha_anneal
        Instead of the slope: the cap is reached after this share of the steps; None: by the slope.
    tau
        Inverse temperature of soft draws, constant.
    sparsity_graph, sparsity_targets
        Cost in nats of an expected edge, and of an expected target in an environment.
    target_schedule, target_anneal
        The target cost rises from 0 (``"up"``), falls to 0 (``"down"``) or is ``"constant"``; along half a cosine wave
        over this share of the steps. The paper names the wave, not the direction; after falling, too many targets were
        left in small trials.
    target_start
        Instead of the schedule: the target cost goes from this to ``sparsity_targets``, along the same half wave; None: by
        the schedule. High costs at first make the graph explain what it can; later, low ones find weak targets.
    parameter_sd
        Standard deviation of an intervention's parameters around what the network says. The paper gives no value. At 0
        they are known; anything else costs targets of little noise dearly.
    variance_graph, variance_weights, variance_log_sd, variance_networks
        Variances of the normal priors of latent vectors (None: 1 / number of genes), mechanism weights, log standard
        deviations of the noise (and logits of zeros), and network weights.
    variance_free
        Variance of the normal prior of free target logits and parameters, without ``amortised``; not in the paper.
    learning_rate, steps
        Adam.
    learning_rate_end
        Share of the learning rate that is left at the last step; it falls along half a cosine wave. Paper: 1.
    minutes
        Stop each fit after this time, wherever it is; None: no limit.
    check_every, n_holdout, tolerance
        Every so many steps the held-out log likelihood (of that many cells) is looked at: unless it rose by
        ``tolerance`` nats per cell, the fit counts as converged for now. The paper: 100 and 100; no tolerance given.
    cycle_start, cycle_growth, cycle_tolerance
        The penalty of a cycle measure c is ``multiplier * c + weight / 2 * c ** 2``. The weight starts at
        ``cycle_start``; when converged with c above the tolerance (not in the paper), the multiplier rises by
        ``weight * c``, and the weight by the factor ``cycle_growth``. The paper's start needs its 30,000 steps: in fits of
        a few hundred, edges in both directions have hardened by the time it matters; start those at hundreds of nats.
    cycle_measure
        ``"radius"``: spectral radius of drawn graphs (the paper's); ``"expected_radius"``: of the edge probabilities P, many
        times as fast; ``"trace"``: ``tr((1 + P / d)^d) - d``, to which every cycle counts and not the heaviest alone.
    cycle_anneal, cycle_end
        Instead of rising with convergence, the multiplier of c grows geometrically from ``cycle_start`` to
        ``cycle_end``, both then in nats per cell, over this share of the steps, and there is no square; None: as above.
    patience
        Stop after so many such looks without a better one, when the target cost has reached its end, edge
        probabilities their cap, and c its tolerance; None: never.
    n_fits
        Independent fits; probabilities are their average, predictions a mixture.
    log_every
        Steps between entries of the history.
    """

    mechanism: Mechanism = "linear"
    hidden: tuple[int, ...] = (5,)
    intercept: bool = True
    intervention: Intervention = "hard"
    amortised: bool = True
    widths: tuple[int, ...] = (100, 100)
    graph: Graph = "relaxed"
    restarts: int = 20
    warm_up: int = 200
    exact_weights: bool = False
    rank: int | None = None
    standardise: bool = True
    likelihood: Likelihood = "node"
    n_samples: int = 128
    n_acyclic: int = 128
    batch_size: int = 1000
    start_sd: float = 1.0
    alpha_slope: float = 0.01
    alpha_cap: float = 30.0
    alpha_anneal: float | None = None
    anneal_targets: bool = False
    tau: float = 1.0
    sparsity_graph: float = 50.0
    sparsity_targets: float = 10.0
    target_schedule: Schedule = "up"
    target_anneal: float = 0.5
    target_start: float | None = None
    parameter_sd: float = 0.0
    variance_graph: float | None = None
    variance_weights: float = 0.1
    variance_log_sd: float = 4.0
    variance_networks: float = 0.1
    variance_free: float = 10.0
    learning_rate: float = 1e-3
    learning_rate_end: float = 1.0
    steps: int = 30_000
    minutes: float | None = None
    check_every: int = 100
    n_holdout: int = 100
    tolerance: float = 0.01
    cycle_start: float = 1e-9
    cycle_growth: float = 2.0
    cycle_tolerance: float = 1e-3
    cycle_measure: Cycles = "radius"
    cycle_anneal: float | None = None
    cycle_end: float = 100.0
    patience: int | None = 20
    n_fits: int = 1
    log_every: int = 10

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                msg = f"{name}={getattr(self, name)!r} is not one of {', '.join(words)}."
                raise ValueError(msg)
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                msg = f"{name} must be a whole number of at least 1, not {value!r}."
                raise ValueError(msg)
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < inf:
                msg = f"{name} must be above 0 and finite, not {getattr(self, name)!r}."
                raise ValueError(msg)
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < inf:
                msg = f"{name} must not be negative and must be finite, got {getattr(self, name)!r}."
                raise ValueError(msg)
        self._check_rest()

    def _check_rest(self) -> None:
        for name, value in {"minutes": self.minutes, "variance_graph": self.variance_graph}.items():
            if value is not None and not value > 0:
                msg = f"{name} must be above 0 or None, not {value!r}."
                raise ValueError(msg)
        if self.target_start is not None and not 0 <= self.target_start < inf:
            msg = f"target_start must not be negative and must be finite, got {self.target_start!r}."
            raise ValueError(msg)
        if self.exact_weights and (self.mechanism, self.likelihood, self.parameter_sd) != ("linear", "expected", 0):
            msg = "exact_weights needs mechanism='linear', likelihood='expected' and parameter_sd=0; set exact_weights=False."
            raise ValueError(msg)
        if self.graph == "searched" and self.mechanism == "zero_inflated":
            msg = "graph='searched' knows no zeros apart, so not mechanism='zero_inflated'; take graph='relaxed'."
            raise ValueError(msg)
        if self.graph == "searched" and self.rank is not None:
            msg = "graph='searched' needs latent vectors for any graph; leave rank=None, or take graph='relaxed'."
            raise ValueError(msg)
        for name in ("alpha_anneal", "cycle_anneal", "learning_rate_end"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                msg = f"{name} must be above 0 and at most 1, not {share!r}."
                raise ValueError(msg)
        for name, whole in {"rank": self.rank, "patience": self.patience}.items():
            if whole is not None and whole < 1:
                msg = f"{name} must be at least 1 or None, not {whole!r}."
                raise ValueError(msg)
        if not 0 <= self.target_anneal <= 1 or not 1 <= self.cycle_growth < inf:
            msg = f"target_anneal must lie between 0 and 1 and cycle_growth be at least 1; got {self.target_anneal}, {self.cycle_growth}."
            raise ValueError(msg)
        for name, sizes in {"hidden": self.hidden, "widths": self.widths}.items():
            if not isinstance(sizes, tuple) or not sizes or min(sizes) < 1:
                msg = f"{name} must be a tuple of widths of at least 1, not {sizes!r}."
                raise ValueError(msg)

    @classmethod
    def quick(cls, **choices: Any) -> GimConfig:
        """Choices for a fit of a minute instead of hours on a CPU; tuned on simulated screens of 20 genes.

        The graph is searched (``graph="searched"``; relaxed graphs of so few steps were far less likely than the true one, with
        edges in the wrong direction and targets in place of others), and weights of linear mechanisms are exact. The
        expected likelihood, 1,000 steps (networks: 1,500) that get smaller, and schedules that end
        with them. A target costs 30 nats (linear) or 100: with less, targets stand in for edges that are missed.
        Zero-inflated mechanisms have a relaxed graph, four drawn ones a step, 3,000 steps, and a cycle penalty that bites
        while edges are undecided. The networks of features have one hidden layer (two knew less of untried targets) and a
        narrower prior, which helps perturbations that were not seen (their cells were closer to the truth in five of six
        data sets looked at, by up to a quarter). For a few hundred cells it is far too narrow: every dose is predicted to
        do nothing. :class:`causcade.models.GIM` widens it by itself below 1,000 cells, in proportion to 8,800 / cells.

        Parameters
        ----------
        choices
            Any attribute, instead of those. With ``graph="relaxed"``, or a `rank`, the choices are those of a relaxed graph:
            two hidden layers, weights by gradients, 3,000 steps. With another `likelihood` or a `parameter_sd` weights
            are not exact.

        Raises
        ------
        ValueError
            As for any configuration.
        TypeError
            If there is no such attribute.
        """
        mechanism = str(choices.get("mechanism", cls.mechanism))
        plan = {**_QUICK, "sparsity_targets": 30.0 if mechanism == "linear" else 100.0}
        if choices.get("graph", "searched") == "searched" and choices.get("rank") is None:
            plan |= _QUICK_SEARCHED.get(mechanism, {})
        if choices.get("likelihood", "expected") != "expected" or choices.get("parameter_sd"):
            plan |= {"exact_weights": False}
        return cls(**{**plan, **choices})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GimConfig:
        """Read what :meth:`to_dict` wrote (tuples may have become lists)."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


_QUICK: dict[str, Any] = {
    "likelihood": "expected",
    "n_samples": 4,
    "batch_size": 500,
    "start_sd": 0.1,
    "alpha_cap": 10.0,
    "alpha_anneal": 0.5,
    "target_start": 2.0,
    "target_anneal": 0.9,
    "variance_networks": 0.02,
    "learning_rate": 5e-3,
    "learning_rate_end": 0.02,
    "steps": 3000,
    "cycle_measure": "trace",
    "cycle_anneal": 0.9,
    "cycle_start": 1e-3,
    "cycle_end": 100.0,
}
_QUICK_SEARCHED: dict[str, dict[str, Any]] = {
    "linear": {"graph": "searched", "exact_weights": True, "widths": (100,), "steps": 1000},
    "mlp": {"graph": "searched", "sparsity_graph": 100.0, "variance_weights": 1.0, "widths": (100,), "steps": 1500},
}

_WORDS: dict[str, tuple[str, ...]] = {
    "mechanism": get_args(Mechanism),
    "intervention": get_args(Intervention),
    "likelihood": get_args(Likelihood),
    "target_schedule": get_args(Schedule),
    "cycle_measure": get_args(Cycles),
    "graph": get_args(Graph),
}
_COUNTS = ("n_samples", "n_acyclic", "batch_size", "steps", "check_every", "n_fits", "log_every", "restarts", "warm_up")
_POSITIVE = (
    "start_sd",
    "alpha_slope", "alpha_cap", "tau", "variance_weights", "variance_log_sd", "variance_networks", "variance_free",
    "learning_rate", "cycle_start", "cycle_end",
)  # fmt: skip
_NOT_NEGATIVE = (
    "sparsity_graph",
    "sparsity_targets",
    "parameter_sd",
    "n_holdout",
    "tolerance",
    "cycle_tolerance",
)
