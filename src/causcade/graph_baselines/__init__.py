"""Simple and classical answers to "what is the causal graph among these genes", that a model has to beat.

Each is ``f(values, mask=None)``: cells (n_cells, n_genes), used as given, and the interventions (n_cells, n_genes),
nonzero where that gene was acted on in that cell. Out comes (n_genes, n_genes), ``[cause, effect]``, with a diagonal
of 0; higher means more likely an edge.

====================== ================================= ======================================================
function               value                             cells
====================== ================================= ======================================================
:func:`correlation`    absolute, 0 to 1                  for each effect, those in which it was not acted on
:func:`precision`      absolute, 0 to 1                  the same
:func:`sortnregress`   absolute standardised coefficient order: control; coefficients: as above
:func:`r2_sortnregress` the same                         the same
:func:`lingam`         the same                          the same
:func:`pc`             1 directed, 0.5 undirected        control
:func:`ges`            the same                          control
:func:`gies`           the same                          for each effect, those in which it was not acted on
====================== ================================= ======================================================

*Control* cells are those in which nothing was acted on; all cells serve where there are too few of them (no more
than genes plus one). An effect's own interventions cut it off from its causes, so those cells say nothing of them.
None of these values is a probability: :func:`dag_bootstrap` turns any of them into one.
"""

from causcade.graph_baselines._association import correlation, precision
from causcade.graph_baselines._bootstrap import dag_bootstrap
from causcade.graph_baselines._classes import ges, gies, pc
from causcade.graph_baselines._lingam import lingam
from causcade.graph_baselines._sort import r2_sortnregress, sortnregress

__all__ = [
    "correlation",
    "dag_bootstrap",
    "ges",
    "gies",
    "lingam",
    "pc",
    "precision",
    "r2_sortnregress",
    "sortnregress",
]
