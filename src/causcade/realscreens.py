"""Real screens with known targets as arrays, for fine-tuning and evaluation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from causcade import _keys, datasets
from causcade.comparisons import read_perturbations
from causcade.pretrain.target_items import TargetScreen
from causcade.reference import level_groups
from causcade.regimes import read_obs, to_uns

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["BUNDLED", "read_adata", "read_target_screen"]

#: Screens in the package.
BUNDLED = {"hipsc_tf_ko": datasets.hipsc_tf_ko, "h1_vcc_subset": datasets.h1_vcc_subset}


def read_adata(name: str | Path) -> AnnData:
    """A screen by name or path, with regimes from ``.obs["perturbation"]`` (``"control"``, ``"GENE"``, ``"GENE1+GENE2"``).

    Raises
    ------
    ValueError
        If there is no such screen.
    """
    if str(name) in BUNDLED:
        adata = BUNDLED[str(name)]()
    elif Path(name).is_file():
        from anndata import read_h5ad

        adata = read_h5ad(name)
    else:
        msg = f"No screen {str(name)!r}: neither one of {list(BUNDLED)} nor the path of an h5ad file."
        raise ValueError(msg)
    adata.uns[_keys.REGIMES] = to_uns(read_obs(adata, "perturbation", "control"))
    return adata


def read_target_screen(name: str | Path, batch_key: str | None = None, *, least: int = 10) -> TargetScreen:
    """Cells and known targets of a real screen.

    Parameters
    ----------
    name
        A bundled screen, or the path of an h5ad file with counts and ``.obs["perturbation"]``.
    batch_key
        Column of ``.obs`` whose groups are brought to the level of their controls.
    least
        Fewest cells of a perturbation.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small perturbations are left out below
        screen, pairs = read_perturbations(read_adata(name), batch_key=batch_key)
    values = screen.rows(np.arange(len(screen.codes)))
    codes = np.full(len(values), -1)
    codes[pairs.control] = 0
    targets = {}
    for r, (cells, known) in enumerate(zip(pairs.cells, pairs.known, strict=True), start=1):
        if len(cells) >= least and len(known):
            codes[cells] = r
            targets[r] = tuple(int(g) for g in known)
    values = level_groups(values, screen.groups, codes == 0)
    return TargetScreen(torch.from_numpy(values), torch.from_numpy(codes), targets)
