"""Gene networks: one table of edges whatever the file, matched to the measured genes with a report of what matched.

A table has one row per edge: ``source``, ``target``, ``kind`` and ``weight``. The kinds: ``"GG"`` between genes,
``"PG"`` from a pathway to a member gene, ``"PP"`` from a pathway to a pathway in it.
"""

from causcade.networks._match import Network, match_network
from causcade.networks._originals import fetch_network
from causcade.networks._rewire import rewire
from causcade.networks._tables import KINDS, reactome, read_network

__all__ = ["KINDS", "Network", "fetch_network", "match_network", "reactome", "read_network", "rewire"]
