"""Fit a generative intervention model (GIM) to cells of many environments: arrays in, arrays out."""

from causcade.gimfit._environments import Environments
from causcade.gimfit._result import Effects, GimFit
from causcade.gimfit._trainer import GimTrainer, fit
from causcade.nn.gim import GimConfig, Interventions

__all__ = ["Effects", "Environments", "GimConfig", "GimFit", "GimTrainer", "Interventions", "fit"]
