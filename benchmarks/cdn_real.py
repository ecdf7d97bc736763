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
from causcade.splits import split_perturbations

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
    names: list[str]
    effects: np.ndarray
    features: list[np.ndarray]
    targets: list[np.ndarray]
    seconds: float

    def only(self, names: list[str]) -> Scored:
        """The same with some of the perturbations."""
        rows = [i for i, n in enumerate(self.names) if n in set(names)]
        ranks = self.ranks[self.ranks["perturbation"].isin(names)].copy()
        parts = ([x[i] for i in rows] for x in (self.names, self.features, self.targets))
        chosen, features, targets = parts
        return Scored(self.screen, ranks, chosen, self.effects[rows], features, targets, self.seconds)


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
            adata, enough, model=model, batch_key=screen.batch_key, candidates="all", n_draws=n_draws, n_half=0, masked=masked,
            progress_bar=False,
        )  # fmt: skip
    seconds = (time.perf_counter() - start) / len(enough)
    key = _keys.TARGETS
    parts = [adata.varm[k] for k in (key, _keys.baseline(key, "lfc"), _keys.baseline(key, "wilcoxon"))]
    names = list(adata.uns[key]["names"])
    place = {str(n): i for i, n in enumerate(regimes.names)}
    features = [fusion.rank_features(fusion.stack_methods(*(p[:, j] for p in parts))) for j in range(len(names))]
    targets = [np.asarray(regimes.target_index[place[n]]) for n in names]
    return Scored(screen, cc.get.target_ranks(adata), [str(n) for n in names], parts[1].T, features, targets, seconds)


def set_aside(scored: list[Scored], data: Path, folder: Path) -> dict[str, list[str]]:
    """Write the screens without the perturbations to be tested on; returns these, by screen.

    Perturbations of one gene are split in whole clusters of effects; a combination is tested on if all its genes are, and
    learned from if none is.
    """
    kept = {}
    for this in scored:
        adata = read_adata(str(path_of(this.screen, data)))
        single = [i for i, name in enumerate(this.names) if "+" not in name]
        chosen = split_perturbations([tuple(this.targets[i]) for i in single], this.effects[single], rng=0)
        genes = {int(this.targets[i][0]) for i, test in zip(single, chosen, strict=True) if test}
        whole = [n for n, t in zip(this.names, this.targets, strict=True) if genes.issuperset(map(int, t))]
        touched = [n for n, t in zip(this.names, this.targets, strict=True) if genes & set(map(int, t))]
        kept[this.screen.name] = whole
        label = adata.obs["perturbation"].astype(str).to_numpy()
        adata[~np.isin(label, touched)].copy().write_h5ad(folder / f"{this.screen.name}-train.h5ad")
    return kept


def refuse(scored: list[Scored]) -> None:
    """Replace the fused positions by those of weights learned on the other screens only."""
    for this in scored:
        others = [s for s in scored if s is not this]
        weights = fusion.fit_fusion([f for s in others for f in s.features], [t for s in others for t in s.targets])
        positions = []
        for features, targets in zip(this.features, this.targets, strict=True):
            fused = fusion.fuse(features, weights)
            positions += [int((fused >= fused[t]).sum()) for t in targets]
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
