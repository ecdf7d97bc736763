"""``python -m causcade.demo``: the causes of a gene in a real knock-out screen, with its baselines.

Human iPS cells, knock-outs of transcription factors (Ishikawa et al. 2023, GSE213069), bundled with the package.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import scanpy as sc
from matplotlib.figure import Figure

import causcade as cc


def main(argv: list[str] | None = None) -> None:
    """Run the demo and say where its files are."""
    parser = argparse.ArgumentParser(prog="python -m causcade.demo", description=__doc__)
    parser.add_argument("--gene", default="NANOG", help="gene whose causes are asked for")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder of the figure and the h5ad")
    args = parser.parse_args(argv)
    mpl.use("Agg")
    start = time.perf_counter()

    adata = cc.datasets.hipsc_tf_ko()
    print(
        f"hipsc_tf_ko: {adata.n_obs:,} cells x {adata.n_vars} genes, {adata.obs['perturbation'].nunique() - 1} knock-outs"
    )
    cc.pp.regimes(adata, perturbation_key="perturbation", control="control")
    genes = list(dict.fromkeys([args.gene, "PRDM14", "SOX2"]))
    model = "tcd-grn-umi"  # the default weights have learned from this very screen
    cc.tl.causes(adata, genes, model=model, batch_key="day", n_null=20, progress_bar=False)

    columns = ["cause", "rank", "score", "sd", "fdr", "knockout_t", "rank_knockout_t", "popularity", "rank_popularity"]
    table = cc.get.causes(adata, args.gene, n_top=12)[columns]
    print(f"\nWhat drives {args.gene}? (weights {adata.uns['causes']['weights']})")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.3g}"))
    print("knockout_t and popularity are the simple baselines: where they agree with the score, prefer them.")

    figure, h5ad = write(adata, args.gene, args.out)
    again = sc.read_h5ad(h5ad)
    same = cc.get.causes(again, args.gene).equals(cc.get.causes(adata, args.gene))
    print(f"\nfigure  {figure}\nh5ad    {h5ad} (read back by scanpy {version('scanpy')}, same table: {same})")
    print(f"{time.perf_counter() - start:.0f} s")


def write(adata: ad.AnnData, gene: str, out: Path) -> tuple[Path, Path]:
    """Figures of the causes, and the AnnData."""
    out.mkdir(parents=True, exist_ok=True)
    figure, h5ad = out / f"causes_{gene}.png", out / "hipsc_causes.h5ad"
    drawn = {
        figure: cc.pl.causes(adata, gene, return_fig=True, show=False),
        out / "cause_network.png": cc.pl.cause_network(adata, return_fig=True, show=False),
    }
    for path, picture in drawn.items():
        if isinstance(picture, Figure):
            picture.savefig(path, dpi=150, bbox_inches="tight")
    adata.write_h5ad(h5ad)
    return figure, h5ad


if __name__ == "__main__":
    main()
