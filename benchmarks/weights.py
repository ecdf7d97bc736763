"""Every released weight on kinds of graph, mechanism and noise that its training never saw, with baselines.

With ``--screens 4`` the numbers are those of the model cards.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from causcade import pretrained
from causcade.heldout import MEASURES, score_weights


def with_prior_of(weights: pretrained.Weights, other: str) -> pretrained.Weights:
    """The same weights, to be scored on the screens that the card of others is about."""
    theirs = pretrained.load(other)
    if theirs.config["network"] != weights.config["network"]:
        msg = f"{weights.name} and {other} are of different networks; give --prior-of weights of {weights.config['network']!r}."
        raise ValueError(msg)
    recipe = weights.config["recipe"] | {k: theirs.config["recipe"][k] for k in ("prior", "screens")}
    return replace(weights, config=weights.config | {"recipe": recipe})


def rows(name: str, n_screens: int, prior_of: str | None = None) -> list[dict[str, object]]:
    """One row for each kind and method: the metric that sums up the model, and how the weights stand to the best baseline."""
    weights = pretrained.load(name)
    weights = with_prior_of(weights, prior_of) if prior_of else weights
    metric, word, _ = MEASURES[weights.model]
    out: list[dict[str, object]] = []
    for kind, methods in score_weights(weights, n_screens).items():
        best = np.nanmax([row[metric] for method, row in methods.items() if method != weights.model])
        for method, row in methods.items():
            lead = float(row[metric]) - best if method == weights.model else float("nan")
            out.append(
                {"weights": name, "metric": word, "kind": kind, "method": method, "value": row[metric], "lead": lead}
            )
    return out


def write_page(table: pd.DataFrame, page: Path, n_screens: int) -> None:
    """A page of the documentation: one table for each weight, kinds as columns."""
    lines = [
        "# Released weights on what they never saw", "",
        f"`python -m benchmarks.weights --screens {n_screens}`: simulated screens, causal models or data sets of kinds that "
        "training did not hold (`seen`, `observational` and `screens` are the training priors with new seeds, and so are `half coverage` and `few genes` "
        "where the card says so), as on the model cards. "
        "Bold is best. Real networks and screens are on the pages of the models.", "",
    ]  # fmt: skip
    for name, part in table.groupby("weights"):
        kinds = list(dict.fromkeys(part["kind"]))
        wide = part.pivot(index="method", columns="kind", values="value")[kinds]
        wide = wide.loc[list(dict.fromkeys(part["method"]))]
        lines += [f"## {name}: {part['metric'].iloc[0]}", "", "| method | " + " | ".join(kinds) + " |"]
        lines += ["|---" * (len(kinds) + 1) + "|"]
        digits = MEASURES[pretrained.load(str(name)).model][2]
        for method, row in wide.iterrows():
            cells = ["" if pd.isna(v) else f"{v:.{digits}f}" for v in row]
            cells = [f"**{c}**" if v == wide[k].max() else c for c, k, v in zip(cells, kinds, row, strict=True)]
            lines.append(f"| {str(method).replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
        lines.append("")
    page.write_text("\n".join(lines))


def main() -> None:
    """Print the table, weight by weight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=pretrained.available(), help="names or folders")
    parser.add_argument(
        "--prior-of", help="weights (name or folder) whose screens all are scored on, to compare releases"
    )
    parser.add_argument(
        "--screens", type=int, default=4, help="of each kind (CDN: models, twice; AVICI: data sets, thrice)"
    )
    parser.add_argument("--rows", type=Path, help="CSV to write; weights in it are not scored again")
    parser.add_argument("--page", type=Path, help="write this page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = pd.read_csv(args.rows).to_dict("records") if args.rows and args.rows.exists() else []
    done = {row["weights"] for row in found}
    for name in args.weights:
        if name not in done:
            start = time.process_time()
            found += rows(name, args.screens, args.prior_of)
            print(f"{name}: {time.process_time() - start:.0f} CPU s", flush=True)
            if args.rows:
                pd.DataFrame(found).to_csv(args.rows, index=False)
    table = pd.DataFrame(found)
    print(table.round(2).to_string(index=False))
    if args.page:
        write_page(table, args.page, args.screens)


if __name__ == "__main__":
    main()
