"""Simple answers to "which genes did this perturbation act on", that every model has to beat.

Two sets of cells in, one score per gene out, higher meaning more likely acted on (:func:`log_fold_change` and
:func:`rank_sum` are signed; rank by their absolute value). ``control`` is (n_control, n_genes) and ``perturbed``
(n_perturbed, n_genes), both dense, log-normalised or otherwise continuous.

The first two look at one gene at a time and scale to any screen. :func:`mb_ci`, :func:`edge_change` and
:func:`ut_igsp` ask whether a gene's dependence on other genes changed; they are meant for tens to hundreds of genes.
:func:`signature_match` and :class:`MeanClassifier` need perturbations whose targets are known.
"""

from causcade.target_baselines._blanket import mb_ci
from causcade.target_baselines._edges import edge_change
from causcade.target_baselines._known import MeanClassifier, signature_match
from causcade.target_baselines._marginal import RankSum, log_fold_change, rank_sum
from causcade.target_baselines._ut_igsp import ut_igsp

__all__ = [
    "MeanClassifier",
    "RankSum",
    "edge_change",
    "log_fold_change",
    "mb_ci",
    "rank_sum",
    "signature_match",
    "ut_igsp",
]
