"""Command line of pretraining."""

from __future__ import annotations

import argparse
import logging
import math
from dataclasses import replace
from pathlib import Path

import torch

from causcade.pretrain.recipe import Recipe
from causcade.pretrain.trainer import run

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m causcade.pretrain", description="Train released weights on simulated screens."
    )
    parser.add_argument("recipe", help="name of a bundled recipe, or path of a .json")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, weights and log")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop (resumable) after this long")
    parser.add_argument("--steps", type=int, help="override the recipe's number of steps (on sets of genes)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    parser.add_argument("--adopt", action="store_true", help="continue although the recipe changed")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument(
        "--validate", type=int, default=0, help="steps between scores on held-out kinds (default 0: none)"
    )
    parser.add_argument(
        "--screens", type=Path, help="folder of NAME.h5ad, for real screens that are not in the package"
    )
    parser.add_argument("--release", type=Path, help="then score on held-out kinds and write weights and card there")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe.load(args.recipe)
    if args.steps is not None:
        recipe = replace(recipe, steps=args.steps)
    run(
        recipe, args.out, minutes=args.minutes, device=args.device, resume=args.resume, adopt=args.adopt,
        every=args.every, screens=args.screens, validate=args.validate,
    )  # fmt: skip
    if args.release:
        from causcade.heldout import release  # needs scipy, which a bare training machine may lack

        release(args.out, args.release)


if __name__ == "__main__":
    main()
