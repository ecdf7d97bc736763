"""Scores of causal rankings, graphs and probabilities. Arrays in, floats out.

Matrices are ``[cause, effect]`` and a gene is never scored as its own cause. A *row* score ranks the causes of
each target and averages over targets (:func:`per_target`); a *column* score ranks the effects of each regulator
and averages over regulators (:func:`per_regulator`). The row score alone rewards knowing which genes are hubs:
one list that ignores the target does well on it, and gets exactly 0.5 in column AUROC. So
:func:`cause_report` gives both, each beside the list that ignores the question and beside shuffled scores.

A whole graph with its edge probabilities goes to :func:`graph_report`, over all ordered pairs of genes.

Tied scores are never broken by position: AUROC counts a tied pair half, average precision steps over whole
groups of ties (as scikit-learn does), F1 takes the expectation over random tie-breaking. The exception is
:func:`target_rank`, the place of one known target in a list: there, ties count against the target.
"""

from causcade.metrics._calibration import brier, brier_skill, expected_calibration_error
from causcade.metrics._combinations import changed_genes, changed_group, mean_r2, mean_rmse, mmd
from causcade.metrics._dag import choose_threshold, expected_false_edges, f1_threshold, is_acyclic, to_dag
from causcade.metrics._distributions import (
    energy_distance,
    kde_nll,
    mean_distance,
    pearson_delta,
    perturbation_discrimination,
    sinkhorn_w2,
)
from causcade.metrics._graphs import EdgeRecovery, edge_recovery, graph_report, shd, sid
from causcade.metrics._ranking import (
    auroc,
    average_precision,
    direction_accuracy,
    f1_at_true_count,
    false_negative_rate_by_path,
    per_regulator,
    per_target,
)
from causcade.metrics._report import cause_report
from causcade.metrics._sortability import r2_sortability, varsortability
from causcade.metrics._targets import recall_at, recall_curve, target_rank, target_report

__all__ = [
    "EdgeRecovery",
    "auroc",
    "average_precision",
    "brier",
    "brier_skill",
    "cause_report",
    "changed_genes",
    "changed_group",
    "choose_threshold",
    "direction_accuracy",
    "edge_recovery",
    "energy_distance",
    "expected_calibration_error",
    "expected_false_edges",
    "f1_at_true_count",
    "f1_threshold",
    "false_negative_rate_by_path",
    "graph_report",
    "is_acyclic",
    "kde_nll",
    "mean_distance",
    "mean_r2",
    "mean_rmse",
    "mmd",
    "pearson_delta",
    "per_regulator",
    "per_target",
    "perturbation_discrimination",
    "r2_sortability",
    "recall_at",
    "recall_curve",
    "shd",
    "sid",
    "sinkhorn_w2",
    "target_rank",
    "target_report",
    "to_dag",
    "varsortability",
]
