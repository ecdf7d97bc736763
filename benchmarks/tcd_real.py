"""Cause scores on real knock-out screens: every knock-out hidden in turn, and interferon-gamma signalling in THP-1 cells.

``python -m benchmarks.tcd_real --screens FOLDER --folds FOLDER``: the iPS screen comes with the package, ``k562_tapseq.h5ad``
and ``thp1_eccite.h5ad`` are files of yours. Weights that learned from a screen are not scored on it: copies trained without it
are, made in the folder of folds where they are not there yet.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm, spearmanr

import causcade as cc
from causcade import _keys, baselines, metrics, nulls, pretrained
from causcade.evaluation._ranked import Sides, share_controls
from causcade.pretrain import Recipe
from causcade.pretrain import run as train
from causcade.screendata import read_screen

if TYPE_CHECKING:
    from anndata import AnnData

Scores = np.ndarray
Found = dict[str, Scores]
SPLITS: Final = 4  # of the controls in halves, where every knock-out is hidden in turn
#: Screens, and the column of their batches.
SCREENS: Final[dict[str, str | None]] = {"hipsc_tf_ko": "day", "k562_tapseq": None, "thp1_eccite": None}
REGULATORS: Final = ("IFNGR1", "IFNGR2", "JAK2", "STAT1")
MEASURES: Final = ("column_auroc", "column_ap", "row_alike", "row_all")
LISTS: Final = ("causes~mean", "effects~mean")
MARK: Final = "<!-- tables -->"  # of the page: what is above it stays
#: Hallmark gene set "interferon gamma response" of MSigDB (CC BY 4.0; Liberzon et al., Cell Systems 1, 417, 2015).
RESPONSE: Final = """
ADAR APOL6 ARID5B ARL4A AUTS2 B2M BANK1 BATF2 BPGM BST2 BTG1 C1R C1S CASP1 CASP3 CASP4 CASP7 CASP8 CCL2 CCL5 CCL7 CD274 CD38 CD40 CD69
CD74 CD86 CDKN1A CFB CFH CIITA CMKLR1 CMPK2 CMTR1 CSF2RB CXCL10 CXCL11 CXCL9 DDX58 DDX60 DHX58 EIF2AK2 EIF4E3 EPSTI1 FAS FCGR1A FGL2
FPR1 GBP4 GBP6 GCH1 GPR18 GZMA HELZ2 HERC6 HIF1A HLA-A HLA-B HLA-DMA HLA-DQA1 HLA-DRB1 HLA-G ICAM1 IDO1 IFI27 IFI30 IFI35 IFI44 IFI44L
IFIH1 IFIT1 IFIT2 IFIT3 IFITM2 IFITM3 IFNAR2 IL10RA IL15 IL15RA IL18BP IL2RB IL4R IL6 IL7 IRF1 IRF2 IRF4 IRF5 IRF7 IRF8 IRF9 ISG15 ISG20
ISOC1 ITGB7 JAK2 KLRK1 LAP3 LATS2 LCP2 LGALS3BP LY6E LYSMD2 MARCHF1 METTL7B MT2A MTHFD2 MVP MX1 MX2 MYD88 NAMPT NCOA3 NFKB1 NFKBIA NLRC5
NMI NOD1 NUP93 OAS2 OAS3 OASL OGFR P2RY14 PARP12 PARP14 PDE4B PELI1 PFKP PIM1 PLA2G4A PLSCR1 PML PNP PNPT1 PSMA2 PSMA3 PSMB10 PSMB2
PSMB8 PSMB9 PSME1 PSME2 PTGS2 PTPN1 PTPN2 PTPN6 RAPGEF6 RBCK1 RIPK1 RIPK2 RNF213 RNF31 RSAD2 RTP4 SAMD9L SAMHD1 SECTM1 SELP SERPING1
SLAMF7 SLC25A28 SOCS1 SOCS3 SOD2 SP110 SPPL2A SRI SSPN ST3GAL5 ST8SIA4 STAT1 STAT2 STAT3 STAT4 TAP1 TAPBP TDRD7 TNFAIP2 TNFAIP3 TNFAIP6
TNFSF10 TOR1B TRAFD1 TRIM14 TRIM21 TRIM25 TRIM26 TXNIP UBE2L6 UPP1 USP18 VAMP5 VAMP8 VCAM1 WARS XAF1 XCL1 ZBP1 ZNFX1
""".split()


def score_all(adata: AnnData, weights: list[str], batch_key: str | None, seed: int) -> tuple[Found, np.ndarray]:
    """Scores ``[cause, effect]`` of every method, and which genes were perturbed alone."""
    found = {}
    cc.pp.regimes(adata, "perturbation", "control")
    for name in weights:
        cc.tl.causes(adata, model=name, batch_key=batch_key, n_half=0, progress_bar=False)
        found[f"TCD {Path(name).name}"] = adata.varp[_keys.CAUSES]
    found |= {method.replace("TCD", "blind"): blind(scores) for method, scores in found.items()}
    stats = read_screen(adata, batch_key=batch_key).stats()
    z, perturbed, mean = np.abs(stats.z.numpy()), stats.perturbed.numpy(), stats.mean.numpy()
    others = np.where(perturbed[:, None] & ~np.eye(len(z), dtype=bool), z, np.nan)
    related = baselines.correlation(stats.correlation.numpy())
    hub = related.mean(1)
    plain = {
        "knock-out |t|": baselines.knockout_t(z),
        "popularity": baselines.popularity(z),
        "easily changed": np.tile(np.nanmean(others, axis=0), (len(z), 1)),
        "correlation": related,
        "partial correlation": baselines.correlation(stats.partial.numpy()),
        "mean |correlation|": hub[:, None] + hub[None],
        "mean expression": mean[:, None] + mean[None],
        "random": baselines.random_scores(len(z), seed),
    }
    return found | plain, perturbed


def blind(scores: Scores) -> Scores:
    """One list of causes for all effects and one list of effects for all causes: the same scores, the pair forgotten."""
    off = ~np.eye(len(scores), dtype=bool)
    return scores.mean(1, where=off)[:, None] + scores.mean(0, where=off)[None]


def percentile(column: np.ndarray, cause: int, effect: int, among: np.ndarray) -> float:
    """Share of the other candidates that score below `cause`, ties counting half; the effect itself is no candidate."""
    keep = among.copy()
    keep[[cause, effect]] = False
    others = column[keep]
    return float(((others < column[cause]) + 0.5 * (others == column[cause])).mean()) if others.size else float("nan")


def own_lists(method: str, found: Found) -> dict[str, float]:
    """Rank correlation of the mean score of every cause, and of every effect, with mean expression; of TCD only."""
    scores, mean = found[method], found["mean expression"].diagonal()
    off = ~np.eye(len(scores), dtype=bool)
    each = [spearmanr(scores.mean(a, where=off), mean)[0] for a in (1, 0)] if method.startswith("TCD ") else ()
    return dict(zip(LISTS, each, strict=False))


def score_hidden(scores: Scores, gene: int, changed: np.ndarray, perturbed: np.ndarray) -> dict[str, float]:
    """Effects of the hidden knock-out ranked among genes, and the hidden gene ranked among the causes of its effects."""
    keep, alike = np.arange(len(changed)) != gene, perturbed == perturbed[gene]
    groups = (alike, np.ones_like(alike))
    rows = [np.mean([percentile(scores[:, e], gene, e, among) for e in np.flatnonzero(changed)]) for among in groups]
    lists = [f(changed[keep], scores[gene, keep]) for f in (metrics.auroc, metrics.average_precision)]
    return dict(zip(MEASURES, map(float, [*lists, *rows]), strict=True))


def differs(adata: AnnData, names: list[str], batch_key: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Genes that the cells of knock-outs change, ``(n_knock_outs, n_genes)``, and the half of the controls that says so.

    These controls are for the truth alone: their noise must not be on both sides.
    """
    cc.pp.regimes(adata, "perturbation", "control")
    screen, out = read_screen(adata, batch_key=batch_key), []
    judge = share_controls(screen.codes, screen.groups, np.random.default_rng(seed))[1]
    side = Sides(screen.rows(judge), screen.groups[judge])
    for name in names:
        cells = np.flatnonzero(adata.obs["perturbation"] == name)
        z = side.against(screen.rows(cells), screen.groups[cells])[1]
        out.append((nulls.benjamini_hochberg(2 * norm.sf(np.abs(z))) < 0.05) & (adata.var_names != name))
    return np.array(out), judge


def without(adata: AnnData, names: list[str], cells: np.ndarray) -> AnnData:
    """The screen without some knock-outs and some cells."""
    keep = ~np.isin(adata.obs["perturbation"].astype(str), names)
    keep[cells] = False
    return adata[keep].copy()


def hide_each(adata: AnnData, weights: list[str], batch_key: str | None) -> pd.DataFrame:
    """One row for each method and hidden knock-out that changes anything: means over splits of the controls."""
    rows, labels = [], set(adata.obs["perturbation"].astype(str))
    names = sorted(labels & set(adata.var_names))
    for split in range(SPLITS):
        truth, judge = differs(adata, names, batch_key, split)
        for i in np.flatnonzero(truth.any(1)):
            hidden = [label for label in labels if names[i] in label.split("+")]  # combinations would tell, too
            found, perturbed = score_all(without(adata, hidden, judge), weights, batch_key, 100 * split + i)
            for method, scores in found.items():
                row = score_hidden(scores, adata.var_names.get_loc(names[i]), truth[i], perturbed)
                row |= {"hidden": names[i], "n_effects": truth[i].sum(), "method": method}
                rows.append(row | own_lists(method, found))
    return pd.DataFrame(rows).groupby(["hidden", "method"], sort=False).mean().reset_index()


def leads(rows: pd.DataFrame) -> list[str]:
    """The best weights and the best baseline of each measure, and their difference knock-out by knock-out."""
    n = rows.groupby("hidden")["n_effects"].first()
    out = [f"{len(n)} knock-outs change a gene: {n.min():.1f} to {n.max():.1f} genes, {n.median():.1f} the median."]
    for measure in MEASURES:
        wide = rows.pivot(index="hidden", columns="method", values=measure)
        means = wide.mean()
        best = means.filter(like="TCD ").idxmax()
        other = means[~means.index.str.match("TCD |blind ")].idxmax()
        gain = wide[best] - wide[other]
        who = "TCD" if gain.mean() > 0 else "the baseline"
        doubt = ", less than two standard errors" if abs(gain.mean()) < 2 * gain.sem() else ""
        first = f"{measure}: {best} {means[best]:.2f}, {other} {means[other]:.2f}"
        out.append(f"{first}; {who} is ahead by {abs(gain.mean()):.2f} ± {gain.sem():.2f}{doubt}.")
    return out


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard error over hidden knock-outs."""
    by = rows.groupby("method", sort=False)[[*MEASURES, *LISTS]]
    mean, error = by.mean(), by.sem()
    text = lambda m: [f"{a:.2f} ± {b:.2f}" if np.isfinite(a) else "" for a, b in zip(mean[m], error[m], strict=True)]
    return pd.DataFrame({"method": mean.index, **{m: text(m) for m in mean}})


def rank_regulators(scores: Scores, regulators: np.ndarray, effects: np.ndarray, perturbed: np.ndarray) -> list[float]:
    """Median percentiles of regulators among all causes, their mean among those alike, column AUROC and direction."""
    truth = np.zeros(scores.shape, dtype=bool)
    truth[np.ix_(regulators, effects)] = True
    keep = ~np.isin(np.arange(len(scores)), regulators)
    median = lambda g, among: float(np.median([percentile(scores[:, e], g, e, among) for e in effects]))
    alike = np.mean([median(g, perturbed == perturbed[g]) for g in regulators])
    column = np.mean([metrics.auroc(truth[g, keep], scores[g, keep]) for g in regulators])
    every = [median(g, np.ones_like(perturbed)) for g in regulators]
    return [*every, float(alike), float(column), metrics.direction_accuracy(truth, scores)]


def fold(folder: Path, screen: str, screens: Path) -> str:
    """Weights of the recipe of ``tcd-perturbseq`` without a screen, trained where they are not there yet."""
    recipe = Recipe.load("tcd-perturbseq")
    out = folder / f"{recipe.name}-without-{screen}"
    left = tuple(real for real in recipe.real if real[0] != screen)
    recipe = replace(recipe, name=out.name, real=left)
    train(recipe, out, minutes=1e6, device="cpu", resume=True, adopt=False, every=100, screens=screens)
    return str(out)


def interferon(file: Path, weights: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The measured regulators above two sets of genes, with their knock-outs and without; and what is in the sets."""
    import anndata as ad

    adata = ad.read_h5ad(file)
    (changed,), judge = differs(adata, ["IFNGR1"], None, 0)
    regulators = np.flatnonzero(adata.var_names.isin(REGULATORS))
    measured = list(adata.var_names[regulators])
    sets = {"hallmark": adata.var_names.isin(RESPONSE), "changed by IFNGR1": changed}
    absent = ", ".join(sorted(set(REGULATORS) - set(measured)))
    said = [f"Measured regulators: {', '.join(measured)}. Not measured, so without scores as causes: {absent}."]
    for name, members in sets.items():
        members[regulators] = False
        which = f": {', '.join(adata.var_names[members])}" if members.sum() < 20 else ""
        said.append(f"{name}: {members.sum()} genes{which}.")
    rows = []
    for run, hidden in (("knock-outs kept", []), ("four knock-outs hidden", list(REGULATORS))):
        found, perturbed = score_all(without(adata, hidden, judge), weights, None, 0)
        for (name, members), (method, scores) in product(sets.items(), found.items()):
            values = rank_regulators(scores, regulators, np.flatnonzero(members), perturbed)
            row = {"run": run, "genes": name, "method": method}
            row |= dict(zip([*measured, "alike", "column_auroc", "direction"], values, strict=True))
            rows.append(row | own_lists(method, found))
    return pd.DataFrame(rows), said


def markdown(table: pd.DataFrame) -> list[str]:
    """Lines of a table; numbers with two digits."""
    text = table.map(lambda v: v if isinstance(v, str) else "" if pd.isna(v) else f"{v:.2f}")
    lines = ["| " + " | ".join(text.columns) + " |", "|---" * text.shape[1] + "|"]
    return [*lines, *("| " + " | ".join(v.replace("|", "\\|") for v in row) + " |" for row in text.to_numpy()), ""]


def tables(
    weights: list[str], screens: Path | None, folds: Path | None
) -> tuple[dict[str, pd.DataFrame], dict[str, list[str]]]:
    """Rows of every screen that is there, and what is said of it."""
    import anndata as ad

    rows, said = {}, {}
    for name, batch_key in SCREENS.items():
        file = None if screens is None else screens / f"{name}.h5ad"
        if name != "hipsc_tf_ko" and (file is None or not file.is_file()):
            print(f"{name}: skipped; give the folder of its file with --screens.")
            continue
        asked = [w for w in weights if name not in dict(pretrained.load(w).config.get("recipe", {}).get("real", ()))]
        asked += [fold(folds, name, screens)] if folds and screens else []
        if not asked:
            print(f"{name}: skipped; all of {', '.join(weights)} learned from it. Give --folds.")
            continue
        if name == "thp1_eccite":
            rows[name], said[name] = interferon(file, asked)
        else:
            adata = ad.read_h5ad(file) if file and file.is_file() else cc.datasets.hipsc_tf_ko()
            rows[name] = hide_each(adata, asked, batch_key)
            said[name] = leads(rows[name])
        lines = "\n".join(page(name, rows[name], said[name]))
        print(f"\n{lines}", flush=True)
    return rows, said


def page(name: str, rows: pd.DataFrame, said: list[str]) -> list[str]:
    """Lines of the page on one screen."""
    if name != "thp1_eccite":
        return [f"## {name}", "", *markdown(summarise(rows)), *(f"* {line}" for line in said), ""]
    lines = [f"## {name}", "", *(f"* {line}" for line in said), ""]
    for (run, genes), part in rows.groupby(["run", "genes"], sort=False):
        lines += [f"### {run.capitalize()}: {genes}", "", *markdown(part.drop(columns=["run", "genes"]))]
    return lines


def main() -> None:
    """Print the tables; write them and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screens", type=Path, help="folder with k562_tapseq.h5ad and thp1_eccite.h5ad")
    parser.add_argument("--folds", type=Path, help="folder of weights trained without a screen")
    parser.add_argument("--weights", nargs="+", default=[n for n in pretrained.available() if n.startswith("tcd-")])
    parser.add_argument("--out", type=Path, help="folder for CSV tables")
    parser.add_argument("--page", type=Path, help=f"write the tables into this page, below {MARK}")
    args = parser.parse_args()
    absent = [
        n for n in SCREENS if n != "hipsc_tf_ko" and not (args.screens and (args.screens / f"{n}.h5ad").is_file())
    ]
    if args.folds and absent:
        parser.error(f"--folds learns from all screens; --screens lacks {', '.join(absent)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    rows, said = tables(args.weights, args.screens, args.folds)
    print(f"{time.process_time():.0f} CPU s")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, frame in rows.items():
            frame.to_csv(args.out / f"tcd_real_{name}.csv", index=False)
    if args.page:
        head = args.page.read_text().partition(MARK)[0] if args.page.exists() else ""
        lines = [line for name in rows for line in page(name, rows[name], said[name])]
        args.page.write_text("\n".join([f"{head}{MARK}", "", *lines]))


if __name__ == "__main__":
    main()
