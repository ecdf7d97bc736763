"""Targets in real screens: CDN, argmax |LFC|, Wilcoxon and their fusion learned on the other screens."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import causcade as cc
from causcade import _keys, fusion
from causcade.realscreens import BUNDLED, read_adata
from causcade.regimes import from_adata

METHODS = {"score": "CDN", "lfc": "|LFC|", "wilcoxon": "Wilcoxon", "fused": "fused"}


@dataclass(frozen=True)
class RealScreen:
    """A screen, its file under the data folder (None: bundled), and the column of batches."""

    name: str
    file: str | None = None
    batch_key: str | None = None


SCREENS = (
    RealScreen("hipsc_tf_ko", batch_key="day"),
    RealScreen("k562_tapseq", "k562_tapseq.h5ad"),
    RealScreen("thp1_eccite", "thp1_eccite.h5ad"),
    RealScreen("h1_vcc_subset"),
)


@dataclass
class Scored:
    """Scores of a screen, and what the fused score is learned from."""

    screen: RealScreen
    ranks: pd.DataFrame
    features: list[np.ndarray]
    targets: list[np.ndarray]
    seconds: float


def path_of(screen: RealScreen, data: Path) -> str | None:
    """Name or path to read it by; None if the file is absent."""
    if screen.name in BUNDLED:
        return screen.name
    file = data / str(screen.file)
    return str(file) if file.is_file() else None


def score(screen: RealScreen, data: Path, model: str, *, masked: bool, n_draws: int, least: int = 10) -> Scored | None:
    """Run ``cc.tl.targets`` on a screen; None if its file is absent."""
    path = path_of(screen, data)
    if path is None:
        return None
    adata = read_adata(path)
    regimes = from_adata(adata)
    enough = [
        str(n) for n, k, c, i in zip(regimes.names, regimes.kind, regimes.n_cells, regimes.target_index, strict=True)
        if k != "control" and c >= least and len(i)
    ]  # fmt: skip
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cc.tl.targets(
            adata, enough, model=model, batch_key=screen.batch_key, candidates="all", n_draws=n_draws, masked=masked,
            progress_bar=False,
        )  # fmt: skip
    seconds = (time.perf_counter() - start) / len(enough)
    key = _keys.TARGETS
    parts = [adata.varm[k] for k in (key, _keys.baseline(key, "lfc"), _keys.baseline(key, "wilcoxon"))]
    names = list(adata.uns[key]["names"])
    place = {str(n): i for i, n in enumerate(regimes.names)}
    features = [fusion.rank_features(fusion.stack_methods(*(p[:, j] for p in parts))) for j in range(len(names))]
    targets = [np.asarray(regimes.target_index[place[n]]) for n in names]
    return Scored(screen, cc.get.target_ranks(adata), features, targets, seconds)


def refuse(scored: list[Scored], n_vars_names: None = None) -> None:
    """Replace the fused positions by those of weights learned on the other screens only."""
    for this in scored:
        others = [s for s in scored if s is not this]
        weights = fusion.fit_fusion([f for s in others for f in s.features], [t for s in others for t in s.targets])
        positions = []
        for features, targets in zip(this.features, this.targets, strict=True):
            fused = fusion.fuse(features, weights)
            positions += [int(1 + (fused > fused[t]).sum() + (fused == fused[t]).sum() - 1) for t in targets]
        known = this.ranks["missing"] == ""
        this.ranks.loc[known, "fused_position"] = positions
        n = this.ranks.loc[known, "n_candidates"]
        this.ranks.loc[known, "fused_normalised_rank"] = 1 - (np.array(positions) - 1) / n


def table(scored: list[Scored]) -> pd.DataFrame:
    """Mean normalised rank and recall, by screen and kind of perturbation."""
    rows = []
    whole = pd.concat([s.ranks.assign(screen=s.screen.name) for s in scored])
    whole = whole[whole["missing"] == ""]
    for screen in [s.screen.name for s in scored] + ["all screens"]:
        mine = whole if screen == "all screens" else whole[whole["screen"] == screen]
        for kind, keep in (("all", slice(None)), ("trivial", mine["trivial"]), ("non-trivial", ~mine["trivial"])):
            part = mine[keep] if kind != "all" else mine
            for method, name in METHODS.items():
                if len(part):
                    position = part[f"{method}_position"]
                    row = {"screen": screen, "kind": kind, "n": len(part), "method": name}
                    row["rank"] = part[f"{method}_normalised_rank"].mean()
                    rows.append(row | {f"recall@{k}": (position <= k).mean() for k in (1, 5, 20)})
    return pd.DataFrame(rows)
