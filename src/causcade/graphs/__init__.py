"""The causal graph among some genes of a screen: its cells, edge probabilities, the called graph, and baselines."""

from causcade.graphs._cells import MOST_CELLS, GraphCells, Others, read_graph_cells
from causcade.graphs._knockout import knockout_t
from causcade.graphs._score import GraphScores, GraphSettings, edge_probabilities, score_graph
from causcade.graphs._values import GraphValues

__all__ = [
    "MOST_CELLS",
    "GraphCells",
    "GraphScores",
    "GraphSettings",
    "GraphValues",
    "Others",
    "edge_probabilities",
    "knockout_t",
    "read_graph_cells",
    "score_graph",
]
