"""How released weights are made: ``python -m causcade.pretrain RECIPE --out FOLDER [--minutes M] [--resume]``.

Needs torch, numpy and safetensors only.  Screens are simulated on the training device and pass through a small pool, so
that each is measured and subsampled several times before it is replaced.  What is drawn depends on the seed and the
step alone; a run that is stopped and resumed draws what an unbroken one would.
"""

from causcade.pretrain.items import Sample, make_item, make_samples, screen_features
from causcade.pretrain.recipe import NETWORKS, Recipe, build_network, made_by
from causcade.pretrain.trainer import Trainer, run

__all__ = [
    "NETWORKS",
    "Recipe",
    "Sample",
    "Trainer",
    "build_network",
    "made_by",
    "make_item",
    "make_samples",
    "run",
    "screen_features",
]
