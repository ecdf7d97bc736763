"""UT-IGSP through the package of its authors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from causcade.target_baselines._marginal import Scores, check_two


def ut_igsp(control: ArrayLike, perturbed: ArrayLike, *, alphas: Sequence[float] = (1e-5, 1e-3, 1e-2)) -> Scores:
    """Unknown-target interventional greedy sparsest permutation, with linear-Gaussian tests.

    Needs the package ``causaldag``, which causcade does not install. The method answers yes or no, so it is run at
    several levels and the answers are averaged. Its search starts from random permutations that the package draws
    from global state: results vary from run to run.

    Parameters
    ----------
    control, perturbed
        (n_cells, n_genes), dense; up to some tens of genes.
    alphas
        Levels of the independence and the invariance tests.

    Returns
    -------
    (n_genes,): share of levels at which the gene is called a target.

    Raises
    ------
    ValueError
        As in :func:`log_fold_change`, or if no level is given.
    ImportError
        Without ``causaldag``.
    """
    a, b = check_two(control, perturbed, fewest=10)
    if not alphas:
        msg = "alphas is empty; give at least one level"
        raise ValueError(msg)
    dag = _causaldag()
    independence = dag.partial_correlation_suffstat(a)
    invariance = dag.gauss_invariance_suffstat(a, [b])
    votes = np.zeros(a.shape[1])
    for alpha in alphas:
        _, found = dag.unknown_target_igsp(
            [{"known_interventions": []}],
            set(range(a.shape[1])),
            dag.MemoizedCI_Tester(dag.partial_correlation_test, independence, alpha=alpha),
            dag.MemoizedInvarianceTester(dag.gauss_invariance_test, invariance, alpha=alpha),
        )
        votes[sorted(found[0])] += 1
    return votes / len(alphas)


def _causaldag() -> Any:
    try:
        return import_module("causaldag")
    except ImportError as error:
        msg = "ut_igsp needs the package causaldag; install it with: pip install causaldag"
        raise ImportError(msg) from error
