"""Baselines that need perturbations with known targets: signature matching and classifiers of mean changes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from causcade.target_baselines._marginal import Scores


def signature_match(
    effect: ArrayLike,
    library: ArrayLike,
    *,
    method: Literal["cosine", "spearman"] = "cosine",
    exclude: ArrayLike | None = None,
) -> Scores:
    """Compare a perturbation's effect with known effects; a gene perturbed elsewhere is found by its signature.

    Parameters
    ----------
    effect
        (n_genes,) effect of the perturbation, for example log-fold changes.
    library
        (n_entries, n_genes) effects of perturbations with known targets. NaN where a gene was not measured: each
        entry is compared on the genes that both have.
    method
        ``"cosine"`` or ``"spearman"`` (rank correlation).
    exclude
        Positions of genes to leave out. Leave out the targets themselves to see whether more than the knock-down of
        the same gene is recognised.

    Returns
    -------
    (n_entries,) between -1 and 1; NaN with fewer than two shared genes or an effect without length.

    Raises
    ------
    ValueError
        If shapes do not fit or ``method`` is unknown.
    """
    one, known = np.asarray(effect, dtype=np.float64), np.asarray(library, dtype=np.float64)
    if one.ndim != 1 or known.ndim != 2 or known.shape[1] != one.size:
        msg = f"effect {one.shape} must be (n_genes,) and library {known.shape} (n_entries, n_genes)"
        raise ValueError(msg)
    if method not in ("cosine", "spearman"):
        msg = f"method {method!r} is not one of cosine, spearman"
        raise ValueError(msg)
    use = np.isfinite(one)
    if exclude is not None:
        use[np.asarray(exclude, dtype=np.intp)] = False
    return np.array([_match(one, row, use & np.isfinite(row), method) for row in known], dtype=np.float64)


def _match(one: Scores, other: Scores, shared: NDArray[np.bool_], method: str) -> float:
    x, y = one[shared], other[shared]
    if x.size < 2:
        return float("nan")
    if method == "spearman":
        x, y = rankdata(x), rankdata(y)
        x, y = x - x.mean(), y - y.mean()
    length = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / length) if length > 0 else float("nan")


class MeanClassifier:
    """Linear or neural classifier of one gene's change of mean: is it a target?

    One classifier serves all genes, blind to which gene it looks at, so it can name targets never seen in training
    and cannot profit from genes that training and test share. (A network with one input and one output per gene, as
    in the CDN paper, can do neither.) It sees the gene's change, that change over the control's spread, both signed
    and absolute and as ranks within the perturbation, and the gene's control mean and spread.

    Parameters
    ----------
    kind
        ``"linear"`` (logistic regression) or ``"mlp"`` (one hidden layer of 32).
    max_negatives
        Genes that are no targets, drawn from each training perturbation per target. Shifts all logits alike.
    rng
        Draws those genes and the network's weights and batches.
    """

    def __init__(
        self,
        kind: Literal["linear", "mlp"] = "linear",
        *,
        max_negatives: int = 100,
        rng: int | np.random.Generator | None = 0,
    ) -> None:
        if kind not in ("linear", "mlp") or max_negatives < 1:
            msg = f"kind={kind!r} must be one of linear, mlp and {max_negatives=} at least 1"
            raise ValueError(msg)
        self.kind, self.max_negatives, self.rng = kind, max_negatives, rng
        self._model: Pipeline | None = None

    def fit(self, perturbations: Iterable[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]]) -> Self:
        """Learn from perturbations with known targets.

        Parameters
        ----------
        perturbations
            (control mean, perturbed mean, control standard deviation, targets) of each: three arrays (n_genes,) and
            the positions of the targets. Genes may differ from one to the next; those without a target are skipped.

        Returns
        -------
        The fitted object.

        Raises
        ------
        ValueError
            If shapes do not fit, or there are no targets or nothing but targets.
        """
        gen = np.random.default_rng(self.rng)
        features, labels = [], []
        for *statistics, targets in perturbations:
            x = _mean_features(*statistics)
            y = np.zeros(len(x), dtype=bool)
            y[np.asarray(targets, dtype=np.intp)] = True
            others = np.flatnonzero(~y)
            n = min(others.size, self.max_negatives * int(y.sum()))
            rows = np.concatenate([np.flatnonzero(y), gen.choice(others, n, replace=False)])
            features.append(x[rows])
            labels.append(y[rows])
        truth = np.concatenate(labels) if labels else np.zeros(0, bool)
        if truth.all() or not truth.any():
            msg = f"fit got {int(truth.sum())} targets among {truth.size} genes; it needs targets and other genes"
            raise ValueError(msg)
        model = make_pipeline(StandardScaler(), self._classifier(int(gen.integers(2**31))))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model = model.fit(np.concatenate(features), truth)
        return self

    def score(self, control_mean: ArrayLike, perturbed_mean: ArrayLike, control_sd: ArrayLike) -> Scores:
        """Log odds of being a target, up to a constant.

        Parameters
        ----------
        control_mean, perturbed_mean, control_sd
            (n_genes,) each, on the scale of :meth:`fit`.

        Returns
        -------
        (n_genes,)

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        ValueError
            If shapes do not fit or a value is not finite.
        """
        if self._model is None:
            msg = "MeanClassifier has not been fitted; call fit(perturbations) first"
            raise RuntimeError(msg)
        x = _mean_features(control_mean, perturbed_mean, control_sd)
        if self.kind == "linear":
            return np.asarray(self._model.decision_function(x), dtype=np.float64)
        return np.asarray(logit(np.clip(self._model.predict_proba(x)[:, 1], 1e-15, 1 - 1e-15)), dtype=np.float64)

    def _classifier(self, state: int) -> Any:
        if self.kind == "linear":
            return LogisticRegression(max_iter=1000)
        return MLPClassifier((32,), alpha=1e-3, max_iter=100, random_state=state)


def _mean_features(control_mean: ArrayLike, perturbed_mean: ArrayLike, control_sd: ArrayLike) -> Scores:
    """(n_genes, 8) features of each gene; ranks lie between 0 and 1."""
    before, after, sd = (np.asarray(v, dtype=np.float64) for v in (control_mean, perturbed_mean, control_sd))
    if before.ndim != 1 or not before.shape == after.shape == sd.shape or before.size == 0:
        msg = f"means and sd must be (n_genes,) each, got {before.shape}, {after.shape} and {sd.shape}"
        raise ValueError(msg)
    if not np.isfinite(np.stack([before, after, sd])).all() or (sd < 0).any():
        msg = "means and sd must be finite, and sd at least 0; drop genes without a value"
        raise ValueError(msg)
    change = after - before
    z = change / (sd + 0.1)  # so that genes hardly ever seen do not lead by division
    ranks = [rankdata(np.abs(v)) / v.size for v in (change, z)]
    return np.column_stack([change, np.abs(change), z, np.abs(z), *ranks, before, sd])
