"""How well causes explain a gene in all environments, with the targets that then pay, for additive mechanisms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["AdditiveScores", "Explained"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]

_ROUNDS = 10  # targets and weights in turn; most end after three
_SETTLED = 1e-3  # change of the log variance of the noise
_RELATIVE = 1e-10  # of the squares of a cause: what tells causes apart that are the same
_LEAST_LOG_VARIANCE = -12.0  # as in the model: a gene that never varies would explain everything
_AT_ONCE = 4_000_000  # numbers in a block of candidates


@dataclass
class Explained:
    """What candidates ``(b,)`` explain.

    Attributes
    ----------
    score
        Log likelihood of the gene in all cells less the costs of edges and targets and the prior of weights, in nats
        and without constants.
    targets
        ``(b, k)`` environments in which the gene is a target.
    mean, log_sd
        ``(b, k)`` parameters of the intervention, for any environment: shift, or mean and log standard deviation.
    """

    score: Floats
    targets: Bools
    mean: Floats
    log_sd: Floats


class AdditiveScores:
    """Scores of genes and their causes, whose effects add up.

    Given the graph, genes do not share parameters. Weights, noise and targets of one gene are found in turn: with the
    targets known, weights are a least-squares solution; with the weights known, an environment is a target where that
    gains more than it costs. Of two starts (no targets; targets everywhere but in the controls) the better counts; other
    targets may be better still. What a candidate scores does not depend on what is scored beside it.

    Parameters
    ----------
    values, codes
        ``(n, d)`` cells in the units of the model, and ``(n,)`` their environments; 0 is observational.
    hard
        Interventions replace a mechanism; else they shift it.
    edge_cost, target_cost
        In nats.
    variance
        Of the normal prior of weights.
    intercept
        Mechanisms have a constant.
    bends
        Each cause also enters as ``tanh(z - b)`` for each of these, with z the value in standard deviations of all cells
        from their mean. None: linear mechanisms.
    """

    def __init__(
        self, values: Floats, codes: Ints, n: int, *, hard: bool, edge_cost: float, target_cost: float, variance: float,
        intercept: bool = True, bends: tuple[float, ...] = (),
    ) -> None:  # fmt: skip
        self.hard, self.variance = hard, variance
        self.edge_cost, self.target_cost = edge_cost, target_cost
        self.n_genes = values.shape[1]
        values = _bent(values, bends)
        self.forms = 1 + len(bends)  # columns of a cause: column i of each form is gene i
        d = values.shape[1]
        self.counts = np.bincount(codes, minlength=n).astype(float)
        sums = np.zeros((n, d))
        np.add.at(sums, codes, values)
        # columns d: the constant; d + 1: nothing, for candidates of fewer causes than others
        self.means = np.zeros((n, d + 2))
        self.means[:, :d] = sums / np.maximum(self.counts, 1)[:, None]
        self.means[:, d] = 1.0 if intercept else 0.0
        self.constant = d if intercept else d + 1
        self.scatter = np.zeros((n if hard else 1, d + 2, d + 2))  # a shift leaves them as they are: the sum is enough
        self.own = np.zeros((n, self.n_genes))
        for k in range(n):
            centred = values[codes == k] - self.means[k, :d]
            self.scatter[k if hard else 0, :d, :d] += centred.T @ centred
            self.own[k] = (centred[:, : self.n_genes] ** 2).sum(0)

    def __call__(self, genes: Ints, causes: Ints) -> Explained:
        """Scores of genes ``(b,)`` with causes ``(b, p)``; places that are not needed hold -1."""
        width, n = self.forms * causes.shape[1] + 2, len(self.counts)
        size = max(1, _AT_ONCE // (n * (width**2 if self.hard else width)))
        parts = [self._best(genes[i : i + size], causes[i : i + size]) for i in range(0, len(genes), size)]
        return Explained(*(np.concatenate([getattr(p, f) for p in parts]) for f in Explained.__annotations__))

    def _best(self, genes: Ints, causes: Ints) -> Explained:
        block = _Block(self, genes, causes)
        none = np.zeros((len(genes), len(self.counts)), dtype=bool)
        everywhere = ~none
        everywhere[:, 0] = False
        one, other = block.alternate(none), block.alternate(everywhere)
        return _taken(one, other, other.score > one.score)


class _Block:
    """Sums that some candidates need: causes, constant and the gene itself are the places of small matrices."""

    def __init__(self, scores: AdditiveScores, genes: Ints, causes: Ints) -> None:
        self.of = scores
        self.n_causes = (causes >= 0).sum(1)
        d, first = scores.forms * scores.n_genes, causes[:, :, None]
        forms = first + scores.n_genes * np.arange(scores.forms)
        causes = np.where(first < 0, d + 1, forms).reshape(len(causes), -1)
        places = np.concatenate([causes, np.full((len(genes), 1), scores.constant), genes[:, None]], axis=1)
        self.means = scores.means[:, places].transpose(1, 0, 2)  # (b, k, places)
        rows, columns = places[:, :, None], places[:, None, :]
        scatter = scores.scatter[:, rows, columns].transpose(1, 0, 2, 3)
        self.within, self.scatter = scatter[:, 0], scatter if scores.hard else None
        self.empty = places[:, :-1] > d
        own = scores.own[:, genes].T / np.maximum(scores.counts, 1)
        with np.errstate(divide="ignore"):
            self.own_log_variance = np.maximum(np.log(own), _LEAST_LOG_VARIANCE)
        self.own_squares = own * scores.counts

    def alternate(self, targets: Bools) -> Explained:
        """Weights and targets in turn; the best round."""
        unknown = np.zeros(targets.shape)
        best = Explained(np.full(len(targets), -np.inf), targets, unknown, unknown)
        before, done = np.zeros(len(targets)), np.zeros(len(targets), dtype=bool)
        for _ in range(_ROUNDS):
            weights, sums = self._weights(targets, before)
            found, gain, log_variance = self._judge(targets, weights, sums)
            best = _taken(best, found, (found.score > best.score) & ~done)
            wanted = gain > self.of.target_cost
            wanted[:, 0] = False
            done |= (wanted == targets).all(1) & (abs(log_variance - before) < _SETTLED)
            if done.all():
                break
            targets, before = np.where(done[:, None], targets, wanted), np.where(done, before, log_variance)
        return best

    def _weights(self, targets: Bools, log_variance: Floats) -> tuple[Floats, Floats]:
        """Least squares, and the sums of squares and products that they are made from."""
        s = self.of
        free = np.where(targets, 0.0, s.counts)
        sums = (self.means * free[:, :, None]).transpose(0, 2, 1) @ self.means
        if self.scatter is None:
            sums += self.within  # a shift leaves the cells of an environment as far apart as they were
        else:
            sums += np.einsum("bk,bkxy->bxy", (~targets).astype(float), self.scatter)
        at = np.arange(self.empty.shape[1])
        inner = sums[:, :-1, :-1].copy()
        inner[:, at, at] *= 1 + _RELATIVE
        inner[:, at, at] += np.exp(log_variance)[:, None] / s.variance + self.empty
        return np.linalg.solve(inner, sums[:, :-1, -1:])[..., 0], sums

    def _judge(self, targets: Bools, weights: Floats, sums: Floats) -> tuple[Explained, Floats, Floats]:
        """Score, what each environment would gain as a target, and log variance of the noise."""
        s = self.of
        off = np.concatenate([-weights, np.ones((len(weights), 1))], axis=1)  # residual = off . values
        squares = np.maximum(np.einsum("bx,bxy,by->b", off, sums, off), 0.0)
        number = s.counts.sum() if self.scatter is None else np.where(targets, 0.0, s.counts).sum(1)
        with np.errstate(divide="ignore"):
            log_variance = np.maximum(np.log(squares / np.maximum(number, 1)), _LEAST_LOG_VARIANCE)
        precision = np.exp(-log_variance)[:, None]
        residual = np.einsum("bkx,bx->bk", self.means, off)
        if self.scatter is None:
            gain = 0.5 * s.counts * residual**2 * precision
            fit = -0.5 * number * log_variance - 0.5 * squares * precision[:, 0]
            mean, log_sd = residual, np.zeros_like(residual)
        else:
            of_regime = np.einsum("bx,bkxy,by->bk", off, self.scatter, off) + s.counts * residual**2
            kept = -0.5 * s.counts * log_variance[:, None] - 0.5 * of_regime * precision
            replaced = -0.5 * s.counts * self.own_log_variance - 0.5 * self.own_squares * np.exp(-self.own_log_variance)
            gain, fit = replaced - kept, np.where(targets, replaced, kept).sum(1)
            mean, log_sd = self.means[:, :, -1], 0.5 * self.own_log_variance
        prior = 0.5 * ((weights * ~self.empty) ** 2).sum(1) / s.variance
        score = fit - s.edge_cost * self.n_causes - s.target_cost * targets.sum(1) - prior
        return Explained(score, targets, mean, log_sd), gain, log_variance


def _bent(values: Floats, bends: tuple[float, ...]) -> Floats:
    spread = values.std(0)
    z = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.concatenate([values, *(np.tanh(z - b) for b in bends)], axis=1)


def _taken(a: Explained, b: Explained, which: Bools) -> Explained:
    """The first, with some candidates of the second."""
    pairs = ((getattr(a, f), getattr(b, f)) for f in Explained.__annotations__)
    return Explained(*(np.where(which if x.ndim == 1 else which[:, None], y, x) for x, y in pairs))
