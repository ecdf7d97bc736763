"""A small screen with a known answer, and fits of it that take no time."""

import numpy as np

from causcade.gimfit import Environments, GimConfig

EDGES = ((0, 1, 1.5), (1, 2, -1.2), (0, 3, 1.0), (3, 4, 1.5))
TARGETS = (-1, 0, 1, 2, 3, 4, 1, 3)  # of the environments
DOSES = (0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 4.0)
D = 5


def cells(target: int, dose: float, n: int, rng: np.random.Generator) -> np.ndarray:
    weight = np.zeros((D, D))
    for i, j, w in EDGES:
        weight[i, j] = w
    x = np.zeros((n, D))
    for j in range(D):
        x[:, j] = x @ weight[:, j] + 0.3 * rng.normal(size=n)
        if j == target:
            x[:, j] = dose + 0.5 * rng.normal(size=n)
    return x


def environments(n: int = 100, seed: int = 0) -> Environments:
    rng = np.random.default_rng(seed)
    parts = [cells(t, c, 3 * n if t < 0 else n, rng) for t, c in zip(TARGETS, DOSES, strict=True)]
    features = np.zeros((len(TARGETS), D))
    for k, (t, c) in enumerate(zip(TARGETS, DOSES, strict=True)):
        features[k, t] = c / 2
    return Environments(np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts]), features)


TINY = GimConfig(steps=6, n_samples=3, n_acyclic=3, widths=(4,), check_every=2, log_every=1, n_holdout=20)


def tiny(**choices: object) -> GimConfig:
    return GimConfig(**{**TINY.to_dict(), **choices})  # type: ignore[arg-type]
