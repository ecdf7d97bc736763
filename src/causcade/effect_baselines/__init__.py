"""Simple answers to "what will an untried perturbation or dose do to the cells", that a model has to beat.

Each is ``f(cells, codes, features=None, *, perturbation=None, dose=None)``: training cells (n_cells, n_genes), the
regime of each (0 control, k for row ``k - 1`` of what follows), and what is known of the regimes: features (regimes,
features), perturbation and dose (regimes,). Out comes an :class:`EffectBaseline` with ``mean_change`` (regimes,
n_genes), against control, and ``predict``, cells of each regime, for regimes described in the same way.

========================= ====================================================== ===================
function                  prediction                                             needs
========================= ====================================================== ===================
:func:`observational`     control cells                                          nothing
:func:`perturbed_mean`    control cells + mean change of all regimes             nothing
:func:`next_lower_dose`   cells of the same perturbation at the next lower dose  perturbation, dose
:func:`mean_shift_ridge`  control cells + ridge regression on the features       features
:func:`mean_shift_mlp`    control cells + networks on the features               features
:func:`additive`          control cells + changes of the parts                   features: the parts
:func:`scaled_additive`   the same, times a number fitted to combinations        features: the parts
:func:`stronger_single`   cells of the part that changes them most               features: the parts
========================= ====================================================== ===================

For combinations of perturbations, features say which perturbations are part of a regime (0 or 1); ridge regression on
them is the linear baseline. :func:`interaction_score` says in which genes a combination differs from its parts' sum.
"""

from causcade.effect_baselines._combinations import additive, interaction_score, scaled_additive, stronger_single
from causcade.effect_baselines._fitted import EffectBaseline
from causcade.effect_baselines._mlp import mean_shift_mlp
from causcade.effect_baselines._ridge import mean_shift_ridge
from causcade.effect_baselines._simple import next_lower_dose, observational, perturbed_mean

__all__ = [
    "EffectBaseline",
    "additive",
    "interaction_score",
    "mean_shift_mlp",
    "mean_shift_ridge",
    "next_lower_dose",
    "observational",
    "perturbed_mean",
    "scaled_additive",
    "stronger_single",
]
