"""Predicted cells of a combination beside measured ones, in the same units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from causcade import _keys
from causcade.expression import read_expression
from causcade.get._stored import has
from causcade.regimes import from_adata
from causcade.regimes.labels import shorten, split_label, suggest
from causcade.stats import log_normalise

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.regimes import Regimes

__all__ = ["Measured", "effects", "one_of", "read_measured"]

_HOW = ("layer", "values", "regimes_key", "library_size")


@dataclass(frozen=True)
class Measured:
    """Cells of a screen in the units of a prediction, (n_cells, n_genes), genes in its order.

    Attributes
    ----------
    control
        Control cells.
    combination
        Cells of the combination; none if it is not in the data.
    additive
        (n_genes,) mean of control cells plus the changes of the parts alone; None if one was never alone.
    """

    control: np.ndarray
    combination: np.ndarray
    additive: np.ndarray | None


def effects(adata: AnnData, predicted: AnnData, perturbation: str | None = None) -> pd.DataFrame:
    """Give the predicted and the observed change of every gene, with the additive prediction beside them.

    Parameters
    ----------
    adata
        Annotated data with measured cells: controls, and the combination. May hold cells that the model has not seen; it needs
        the regimes of :func:`causcade.pp.regimes` and the genes of the model.
    predicted
        What ``GraCEVAE.predict(..., kind="mean")`` returned.
    perturbation
        Combination; None if only one was predicted.

    Returns
    -------
    One row per gene, largest observed change first: ``gene``, ``observed`` (mean of the combination less that of the
    controls), ``se`` (its standard error), ``predicted`` (against predicted controls), ``sd`` (of that over fits; NaN for
    one), ``additive`` (sum of the changes of the parts in training; NaN where one was never alone).

    Raises
    ------
    KeyError
        If the combination was not predicted or not measured, or there are no regimes.
    ValueError
        If `predicted` is not of this kind, several were predicted and none is named, or genes differ.
    """
    row = one_of(predicted, perturbation, kind="mean")
    name = str(predicted.obs["perturbation"].iloc[row])
    cells = read_measured(adata, predicted, name)
    if not len(cells.combination):
        msg = f"There are no cells of {name!r} in adata, so nothing can be compared; cc.pl.prediction shows the prediction."
        raise KeyError(msg)
    here = {key: np.asarray(predicted.layers[key][row], dtype=np.float64) for key in ("change", "additive", "sd")}
    groups = (cells.control, cells.combination)
    table = pd.DataFrame(
        {
            "gene": predicted.var_names.astype(str),
            "observed": cells.combination.mean(0) - cells.control.mean(0),
            "se": np.sqrt(sum(x.var(0, ddof=1) / len(x) if len(x) > 1 else np.nan for x in groups)),
            "predicted": here["change"],
            "sd": here["sd"],
            "additive": here["additive"] - predicted.var["control"].to_numpy(),
        }
    )
    return table.sort_values("observed", key=lambda x: -x.abs(), kind="stable", ignore_index=True)


def one_of(predicted: AnnData, perturbation: str | None, *, kind: str) -> int:
    """First row of a prediction that is of this combination.

    Raises
    ------
    KeyError
        If it was not predicted.
    ValueError
        If this is no prediction of this kind, or several are in it and none is named.
    """
    means = "additive" in getattr(predicted, "layers", ())
    how = getattr(predicted, "uns", {}).get(_keys.PARAMS)
    if not has(how, *_HOW) or means != (kind == "mean"):
        msg = f"predicted must be what GraCEVAE.predict(..., kind={kind!r}) returned."
        raise ValueError(msg)
    labels = predicted.obs["perturbation"].astype(str).tolist()
    names = list(dict.fromkeys(labels))
    if not names:
        msg = "predicted is empty: it has no rows."
        raise ValueError(msg)
    if perturbation is None and len(names) > 1:
        msg = f"{len(names)} combinations were predicted; name one with perturbation=: {shorten(names)}."
        raise ValueError(msg)
    name = names[0] if perturbation is None else str(perturbation)
    if name not in names:
        msg = f"{name!r} was not predicted.{suggest(name, names)} There is {shorten(names)}."
        raise KeyError(msg)
    return labels.index(name)


def read_measured(adata: AnnData, predicted: AnnData, name: str) -> Measured:
    """Measured cells in the units of a prediction.

    Raises
    ------
    KeyError
        If there are no regimes.
    ValueError
        If the genes are not those of the model.
    """
    how = predicted.uns[_keys.PARAMS]
    if set(adata.var_names) != set(predicted.var_names):
        msg = (
            f"adata has {adata.n_vars:,} genes, the model {predicted.n_vars:,}, and they are not the same: pass "
            "adata[:, predicted.var_names]."
        )
        raise ValueError(msg)
    regimes = from_adata(adata, str(how["regimes_key"]))
    read = _Reader(adata, how, adata.var_names.get_indexer(predicted.var_names), regimes)
    known = [*adata.var_names, *(target for some in regimes.targets for target in some)]
    parts = split_label(name, regimes.params.get("sep"), known)
    control = read.cells(0)
    return Measured(control, read.of(name), _additive(read, control, parts))


def _additive(read: _Reader, control: np.ndarray, parts: Sequence[str]) -> np.ndarray | None:
    alone = [read.of(part) for part in parts]
    if not all(len(cells) for cells in alone):
        return None
    base = control.mean(0)
    return np.asarray(base + sum(cells.mean(0) - base for cells in alone))


class _Reader:
    """Cells of regimes, read as the model read its own."""

    def __init__(self, adata: AnnData, how: Any, genes: np.ndarray, regimes: Regimes) -> None:
        layer, self.values = str(how["layer"]), str(how["values"])
        kinds = {"counts": True, "expression": None, "log": False}
        self.source = read_expression(adata, None if layer == "X" else layer, counts=kinds[self.values])
        self.scale, self.genes, self.regimes = float(how["library_size"]), genes, regimes

    def of(self, name: str) -> np.ndarray:
        """Cells of a regime; none if there is no such regime."""
        place = np.flatnonzero(self.regimes.names.astype(str) == name)
        return self.cells(int(place[0])) if len(place) else np.empty((0, len(self.genes)))

    def cells(self, regime: int) -> np.ndarray:
        rows = np.flatnonzero(self.regimes.codes == regime)
        x = torch.from_numpy(self.source.rows(rows))
        if self.values != "log":
            x = log_normalise(x, torch.from_numpy(self.source.total_counts[rows]).to(x), self.scale)
        return x.numpy()[:, self.genes].astype(np.float64)
