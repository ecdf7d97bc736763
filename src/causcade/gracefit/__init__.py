"""Fit a GraCE-VAE to the cells of a screen with combinations: arrays in, arrays out."""

from causcade.gracefit._cells import PairedCells, hold_out
from causcade.gracefit._trainer import GraceTrainer, Trained, fit_grace
from causcade.nn.gracevae import VARIANTS, GraceConfig

__all__ = ["VARIANTS", "GraceConfig", "GraceTrainer", "PairedCells", "Trained", "fit_grace", "hold_out"]
