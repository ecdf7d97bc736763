"""GIM: a generative intervention model, of what untried drugs and doses do, and through which genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from causcade import _keys
from causcade._checks import at_least, generator
from causcade.gimfit import Effects, GimFit, Interventions
from causcade.models import _gim_answers as answers
from causcade.models._gim_features import Treatment
from causcade.models._gim_model import GimModel

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["GIM"]

Combine = Literal["union", "features"]


class GIM(GimModel):
    """Generative intervention model: what will an untried drug or dose do, and through which genes?

    One causal model of some genes, and networks from the features of a perturbation (its name, dose, structure) to
    which genes it acts on and how; both are learnt together (Schneider et al. 2025). For tens of genes.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    genes
        Genes of the model, at most 500 and best tens; ``None`` = all. Counts are normalised by all genes there are.
    preset
        ``"quick"``: :meth:`causcade.gimfit.GimConfig.quick`, a fit of minutes on a CPU (with fewer than 1,000 cells
        ``variance_networks`` is wider, 176 / cells); ``"paper"``: the defaults of
        :class:`causcade.gimfit.GimConfig`, which are the paper's where it says them, but for ``likelihood`` and
        ``standardise``; a fit of hours.
    n_components
        Principal components of the features, fitted to the perturbations (and doses) of training; ``None`` = the
        standardised features themselves.
    **choices
        Of :class:`causcade.gimfit.GimConfig`, instead of the preset's: ``mechanism`` (``"linear"``, ``"mlp"``, ``"zero_inflated"``),
        ``intervention`` (``"hard"``, ``"shift"``), ``steps``, ``sparsity_graph``, ``sparsity_targets``, ...

    Raises
    ------
    KeyError
        If a gene is not measured.
    ValueError
        If there are too many genes, a choice is unknown or out of range, or `adata` was not set up.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=8, rng=0)
    >>> cc.models.GIM.setup_anndata(adata)
    >>> model = cc.models.GIM(adata, list(adata.var_names[:5]), n_samples=8, n_acyclic=8)
    >>> model.train(20, progress_bar=False)
    >>> model.predict("G001", n_cells=10).shape
    (10, 5)
    """

    # --- answers ----------------------------------------------------------------------------------------------------

    def _ask(self, perturbation: Any, dose: Any) -> list[Treatment]:
        """Treatments of a question."""
        params, doses = self._regimes().params, self.features.scale is not None
        control = {str(label) for label in params["control"]}
        return answers.ask(perturbation, dose, self.treatments, params.get("sep"), control=control, with_doses=doses)

    def _interventions(
        self,
        asked: Sequence[Treatment],
        features: pd.DataFrame | None,
        combine: str,
        fit: GimFit,
        effects: Effects = "expected",
    ) -> list[Interventions]:
        """Interventions of treatments by each fit."""
        if combine not in ("union", "features"):
            msg = f"combine must be 'union' or 'features', not {combine!r}."
            raise ValueError(msg)
        read = answers.resolve(asked, self.treatments, union=combine == "union")
        numbers = range(len(fit.models))
        return [answers.joined(fit, self.features, self.treatments, read, features, n, effects) for n in numbers]

    def predict(
        self,
        perturbation: str | tuple[str, ...] | Sequence[str | tuple[str, ...]] | None = None,
        dose: float | tuple[float, ...] | Sequence[float | tuple[float, ...]] | None = None,
        *,
        n_cells: int = 100,
        features: pd.DataFrame | None = None,
        combine: Combine = "union",
        effects: Effects = "expected",
        rng: int | np.random.Generator | None = 0,
    ) -> AnnData:
        """Draw cells under treatments, seen or not.

        Parameters
        ----------
        perturbation
            A name; several names in a list; for a combination a tuple, or names joined by `sep`. A label of the control
            gives untreated cells, and adds nothing to others. ``None`` = control and all treatments of training.
        dose
            A number, or one for each perturbation (several for one name: a dose response); a tuple of doses for the parts
            of a combination. Needed with `dose_key` only.
        n_cells
            Cells of each treatment; shared out among the fits.
        features
            Features of perturbations that the table of the set-up lacks: names as index, the same columns.
        combine
            How a combination that was not in training is predicted. ``"union"``: the interventions of its parts are
            joined: targets are those of any part; shifts add up; where several parts set a gene, the one that is surest
            of that target does. ``"features"``: the network is asked about the sum of the parts' features, which makes
            sense if there were other combinations in training.
        effects
            ``"expected"``: each gene follows its intervention by its probability of being a target: by that share of a shift,
            or, for hard ones, with mean and log standard deviation that far between those of its causes and of the
            intervention. ``"called"``: wholly above one half, else not at all, as in the paper. They differ where targets
            are unsure, as those of new perturbations often are; cells spread less than if targets were drawn.
        rng
            Seed or generator of the noise.

        Returns
        -------
        Cells of the model's genes. ``.obs``: ``perturbation``, ``dose`` (NaN where parts have different ones), ``doses``
        (as text), ``in_training``, ``fit`` (which fit drew the cell). ``.uns["units"]`` says what the numbers are.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If a perturbation has no features: it is new, and the model knows names only.
        ValueError
            If doses are missing, superfluous or unusable, a number is out of range, or `combine` or `effects` is another
            word.
        """
        from anndata import AnnData

        fit, n_cells, gen = self.fitted, at_least(n_cells, 1, "n_cells"), generator(rng)
        asked = self._ask(perturbation, dose)
        drawn = answers.draw(fit, self._interventions(asked, features, combine, fit, effects), n_cells, gen)
        x, shares = np.concatenate(drawn), answers.shares(n_cells, len(fit.models))
        seen = set(self.treatments)
        obs = pd.DataFrame(
            {
                "perturbation": pd.Categorical(np.repeat([t.name for t in asked], n_cells)),
                "dose": np.repeat([t.dose for t in asked], n_cells),
                "doses": np.repeat(["+".join(f"{d:g}" for d in t.doses) for t in asked], n_cells),
                "in_training": np.repeat([t in seen for t in asked], n_cells),
                "fit": np.tile(np.repeat(np.arange(len(shares)), shares), len(asked)),
            },
            index=[str(i) for i in range(len(x))],
        )
        out = AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=list(self.genes)))
        out.uns[_keys.UNITS] = self.units
        return out

    def get_targets(
        self,
        perturbation: str | tuple[str, ...] | Sequence[str | tuple[str, ...]] | None = None,
        dose: float | tuple[float, ...] | Sequence[float | tuple[float, ...]] | None = None,
        *,
        features: pd.DataFrame | None = None,
        combine: Combine = "union",
    ) -> pd.DataFrame:
        """Give the genes that treatments act on, seen or not. Writes nothing.

        Parameters
        ----------
        perturbation, dose, features, combine
            As in :meth:`predict`; by default all treatments of training. The control has no rows.

        Returns
        -------
        One row per treatment and gene, the surest targets of each treatment first: ``perturbation``, ``dose``, ``gene``,
        ``probability`` of being a target and ``logit`` (means over fits), ``sd`` and ``logit_sd`` (standard deviations over
        fits; NaN for a single one), ``value``: to what mean a target is set (hard interventions) or by how much it is
        shifted, in :attr:`units` (for ``"zero_inflated"`` the logarithm of these).

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If a perturbation has no features.
        ValueError
            If doses are missing, superfluous or unusable.
        """
        fit = self.fitted
        asked = [t for t in self._ask(perturbation, dose) if t.parts]
        found = self._interventions(asked, features, combine, fit, "called")
        return answers.table_of_targets(fit, found, asked, self.genes)

    def get_graph(self, *, min_probability: float = 0.0) -> pd.DataFrame:
        """Give the causal graph among the genes. Writes nothing.

        Parameters
        ----------
        min_probability
            Leave out less probable edges.

        Returns
        -------
        One row per ordered pair of genes, most probable edges first: ``cause``, ``effect``, ``probability`` (mean over
        fits), ``sd`` (over fits; NaN for a single one), ``in_dag``: of probability 0.5 or more, and not the weakest edge of
        a cycle.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        fit = self.fitted
        probability, names = fit.edge_probability, np.array(self.genes, dtype=object)
        causes, effects = np.nonzero(~np.eye(len(names), dtype=bool) & (probability >= min_probability))
        order = np.argsort(-probability[causes, effects], kind="stable")
        at = causes[order], effects[order]
        return pd.DataFrame(
            {
                "cause": names[at[0]],
                "effect": names[at[1]],
                "probability": probability[at],
                "sd": fit.edge_sd[at],
                "in_dag": fit.graph[at],
            }
        )

    def compare(
        self,
        adata: AnnData,
        *,
        baselines: Sequence[str] = tuple(answers.BASELINES),
        n_cells: int = 500,
        features: pd.DataFrame | None = None,
        combine: Combine = "union",
        effects: Effects = "expected",
        rng: int | np.random.Generator | None = 0,
    ) -> pd.DataFrame:
        """Compare predictions with cells that training has not seen, next to the baselines.

        Parameters
        ----------
        adata
            Held-out cells: the columns and genes of the set-up; perturbations may be new if they have features.
        baselines
            Some of ``"observational"`` (control cells), ``"perturbed_mean"`` (the mean change over all treatments),
            ``"next_lower_dose"`` (training cells of the same perturbation), ``"ridge"`` and ``"mlp"`` (mean change from
            features; for perturbations that were not in training, their penalty or steps are those that were best for
            perturbations left out). One that needs doses is left out where there are none, and the last two where there
            is one treatment.
        n_cells
            Cells that the model draws for each treatment.
        features, combine, effects
            As in :meth:`predict`.
        rng
            Seed or generator of the noise.

        Returns
        -------
        One row per treatment and method (``"GIM"`` first): ``perturbation``, ``dose``, ``in_training``, ``n_cells`` (true
        ones), ``method``, ``mean_distance``, ``pearson_delta`` (against training controls; NaN where no change is
        predicted), ``energy_distance`` (NaN for a single cell); see :mod:`causcade.metrics`. Lower distances and a higher correlation are better.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If a column, a gene, or features of a perturbation are missing.
        ValueError
            If no cell is perturbed, a baseline is unknown, or with counts, which are scaled by the total over all genes of
            training, the genes are others.
        """
        fit, n_cells, gen = self.fitted, at_least(n_cells, 1, "n_cells"), generator(rng)
        data = self.environments()
        true, asked = self._unseen(adata)
        several = answers.baselines(baselines, data, self.treatments, self.features)
        found = self._interventions(asked, features, combine, fit, effects)
        made = {"GIM": answers.draw(fit, found, n_cells, gen)}
        made |= {name: predict(asked, features) for name, predict in several.items()}
        control = data.values[data.codes == 0]
        seen = set(self.treatments)
        rows = []
        for i, t in enumerate(asked):
            told = {"perturbation": t.name, "dose": t.dose, "in_training": t in seen}
            for name, predicted in made.items():
                scores = answers.distances(predicted[i], true[i], control)
                rows.append(told | {"n_cells": len(true[i]), "method": name} | scores)
        return pd.DataFrame(rows)

    def get_dose_response(
        self,
        perturbation: str,
        genes: Sequence[str] | None = None,
        *,
        doses: Sequence[float] | None = None,
        baselines: Sequence[str] = ("next_lower_dose", "ridge"),
        n_cells: int = 500,
        rng: int | np.random.Generator | None = 0,
    ) -> pd.DataFrame:
        """Give means of genes along the dose of a perturbation: data, model and baselines. Writes nothing.

        Genes that may be targets follow by their probability, as by default in :meth:`predict`.

        Parameters
        ----------
        perturbation
            Name of one perturbation.
        genes
            Genes of the model; ``None`` = the six that change most in the data (if it was in training, else by the model).
        doses
            Where to predict; ``None`` = 25 doses from the lowest above 0 to the highest of training, and those of training
            (with ``amortised=False`` these alone).
            Below the lowest nothing is known: the model need not approach the control there.
        baselines
            As in :meth:`compare`.
        n_cells
            Cells that each fit draws at each dose.
        rng
            Seed or generator of the noise, the same at all doses.

        Returns
        -------
        One row per source, gene and dose: ``source`` (``"control"``, ``"data"``, ``"GIM"``, or a baseline), ``gene``,
        ``dose``, ``mean`` in :attr:`units`, ``sd``: of cells for data and control, of the means over fits for GIM (NaN for a
        single fit), NaN for baselines; ``n_cells``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If the perturbation or a gene is unknown.
        ValueError
            If the model was set up without dose_key, a dose, baseline or number of cells is unusable, or `perturbation`
            is the control.
        """
        if self.features.scale is None:
            msg = "This model was set up without dose_key: there are no doses to go along."
            raise ValueError(msg)
        fit, n_cells, gen = self.fitted, at_least(n_cells, 1, "n_cells"), generator(rng)
        parts = self._ask(perturbation, 1.0)[0].parts
        if not parts:
            msg = f"{perturbation!r} is the control, which has no dose; name a perturbation."
            raise ValueError(msg)
        seen = sorted({t.dose for t in self.treatments if t.parts == parts})
        if doses is None:
            grid = answers.dose_grid(self.features.scale, seen) if fit.config.amortised else seen
        else:
            grid = np.atleast_1d(doses).tolist()
        asked, data = self._ask(perturbation, grid), self.environments()
        found = self._interventions(asked, None, "union", fit)
        seed = int(gen.integers(2**31))
        curves = np.stack([answers.curve(fit, f, number, n_cells, seed) for number, f in enumerate(found)])
        several = answers.baselines(baselines, data, self.treatments, self.features)
        table = answers.response_table(
            data,
            self.treatments,
            asked,
            curves,
            {n: predict(asked, None) for n, predict in several.items()},
            self.genes,
        )
        return answers.of_genes(table, genes, self.genes)
