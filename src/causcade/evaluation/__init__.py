"""Models and baselines side by side on the same held-out part of a user's screen. Most users want ``cc.evaluate``."""

from causcade.evaluation._evaluate import evaluate

__all__ = ["evaluate"]
