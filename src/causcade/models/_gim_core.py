"""A screen by treatment: perturbations at doses, with their features; what a model of them is set up with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from causcade import _keys
from causcade._checks import at_least
from causcade.gimfit import Environments
from causcade.models._base import ScreenModel
from causcade.models._gim_cells import SCALED, GimValues, Levels, library_size, open_values, read_treated, read_unseen
from causcade.models._gim_cells import read_values as read_matrix
from causcade.models._gim_cells import units as units_of
from causcade.models._gim_features import Features, Treatment
from causcade.regimes.labels import Genes, shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["TreatmentModel"]

_MOST_GENES = 500  # beyond, nothing was tried


class TreatmentModel(ScreenModel):
    """A model of some genes under treatments.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    genes
        Genes of the model; ``None`` = all.
    n_components
        Principal components of the features; ``None`` = the standardised features.

    Attributes
    ----------
    genes
        Their names.
    treatments
        The control, then every perturbation at every dose of training.
    features
        Makes numbers of treatments.
    library_size
        What counts of a cell are brought to; NaN for other values.
    """

    # targets are what is asked for: whether labels name genes is no matter
    _unconcerned: ClassVar[tuple[str, ...]] = (
        "None of the .* var_names",
        ".*not among var_names",
        ".*labels are neither in targets=",
    )

    def __init__(self, adata: AnnData, genes: Sequence[str] | None = None, n_components: int | None = None) -> None:
        super().__init__(adata)
        args = self._setup_args()
        self.genes = _check_genes(adata, genes)
        n_components = None if n_components is None else at_least(n_components, 1, "n_components")
        with warnings.catch_warnings():  # set-up has said it all
            warnings.simplefilter("ignore", UserWarning)
            self._treated = read_treated(adata, args)
            source = open_values(adata, args["layer"], args["values"])
        control = self._treated.cells[self._treated.codes == 0]
        self.library_size = library_size(source, args["values"], control)
        self.treatments: tuple[Treatment, ...] = self._treated.treatments
        self.features = Features.fit(self._treated.table, self.treatments[1:], n_components)

    # --- set-up -----------------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        perturbation_key: str | None = None,
        control: str | Sequence[str] | None = None,
        *,
        dose_key: str | None = None,
        zero_dose_is_control: bool = False,
        features: str | None = None,
        layer: str | None = None,
        values: GimValues = "counts",
        batch_key: str | None = None,
        sep: str | None = "+",
        gene_symbols: str | None = None,
        targets: Any = None,
        min_cells: int = 2,
        regimes_key: str = _keys.REGIMES,
        **kwargs: Any,
    ) -> None:
        """Say which cells were treated with what, at which dose, and where values and features are. All is checked here.

        Parameters
        ----------
        adata
            Annotated data. Later steps need this very object, not a copy of it.
        perturbation_key, control, sep, gene_symbols, targets, min_cells, regimes_key
            As in :meth:`causcade.models.CDN.setup_anndata`. What is known of targets is not used. Treatments (a
            perturbation at a dose) with fewer than `min_cells` cells are left out.
        dose_key
            Numeric column of ``.obs``: doses of at least 0, all in one unit; of all parts of a combination alike. What
            it holds for controls does not matter. Doses enter as ``log1p(dose / lowest)``, from 0 for none to 1 for
            the highest of training, `lowest` being the lowest above 0: so the unit does not matter.
        zero_dose_is_control
            Perturbed cells with dose 0 are controls. Otherwise they are a treatment like others.
        features
            What is known of a perturbation. ``None``: its name (one-hot); then nothing can be said about others. A key of
            ``.uns``: DataFrame of numbers, one row per perturbation, which may have rows for untried ones. A key of
            ``.obsm``: numbers that all cells of a perturbation share. ``"smiles"``: Morgan fingerprints of structures
            in ``.uns["smiles"]`` (perturbation -> SMILES) or ``.obs["smiles"]``; needs rdkit. A combination without a row
            (in any order of its parts) has the sum of its parts'. With `dose_key` all features come twice, once times the
            scaled dose; for a combination with a row and different doses, times their mean.
        layer
            Layer with the values; ``None`` = ``.X``.
        values
            What they are: ``"counts"`` or ``"expression"`` (brought to the median total of the controls, then log1p),
            ``"log"`` (log-normalised) or ``"continuous"`` (any real numbers); the latter two are used as they are.
        batch_key
            Column of ``.obs`` whose groups are brought to the level of their own controls. Not for zero-inflated models.
        **kwargs
            For scvi-tools.

        Returns
        -------
        None. Writes as :meth:`causcade.models.CDN.setup_anndata` does.

        Raises
        ------
        KeyError
            If a column, key, layer, or features of a perturbation are missing.
        ValueError
            If labels, doses, features or values are unusable, or `adata` is a view. ``adata`` is unchanged after any error.
        ImportError
            If `features` is ``"smiles"`` and rdkit is not installed.

        Warns
        -----
        UserWarning
            If treatments or cells are left out.
        """
        setup = cls._get_setup_method_args(**locals())
        cls._set_up(adata, setup, kwargs)

    @classmethod
    def _check_data(cls, adata: AnnData, args: dict[str, Any]) -> None:
        open_values(adata, args["layer"], args["values"])
        if args["zero_dose_is_control"] and args["dose_key"] is None:
            msg = "zero_dose_is_control=True needs dose_key, the column of .obs with the doses."
            raise ValueError(msg)
        treated = read_treated(adata, args)
        Features.fit(treated.table, treated.treatments[1:], None)

    # --- cells ------------------------------------------------------------------------------------------------------

    @property
    def units(self) -> str:
        """What the numbers are that the model predicts."""
        args = self._setup_args()
        return units_of(args["values"], self.library_size, args["batch_key"])

    def environments(self) -> Environments:
        """Cells by treatment as arrays, which :func:`causcade.gimfit.fit` takes; environment 0 is control."""
        args = self._setup_args()
        values = self._values(self.adata, self._treated.cells, args)
        if args["batch_key"] is not None:
            values = self._levels(values)(values, self._groups(self.adata, self._treated.cells))
        return Environments(values, self._treated.codes, self.features(self.treatments))

    def _values(self, adata: AnnData, cells: NDArray[np.int64], args: dict[str, Any]) -> NDArray[np.float64]:
        known = Genes(adata.var_names)
        if absent := [g for g in self.genes if known.position(g) is None]:
            msg = f"{len(absent)} of the {len(self.genes)} genes of the model are not measured: {shorten(absent)}."
            raise KeyError(msg)
        genes = np.array([known.position(g) for g in self.genes], dtype=np.int64)
        source = open_values(adata, args["layer"], args["values"])
        return read_matrix(source, args["values"], cells, genes, self.library_size)

    def _levels(self, values: NDArray[np.float64]) -> Levels:
        """Levels of the groups of training, of whose cells these are the values."""
        control = self._treated.codes == 0
        groups = self._groups(self.adata, self._treated.cells)
        return Levels(values[control], groups[control])

    def _groups(self, adata: AnnData, cells: NDArray[np.int64]) -> NDArray[np.str_]:
        key = self._setup_args()["batch_key"]
        if key not in adata.obs:
            msg = f".obs has no column {key!r} (batch_key), by which the model was set up."
            raise KeyError(msg)
        return adata.obs[key].astype(str).to_numpy(dtype=str)[cells]

    def _check_same_genes(self, adata: AnnData) -> None:
        """Counts are scaled by totals over all genes, so that other genes would mean another scale."""
        trained, given = (set(x.var_names.astype(str)) for x in (self.adata, adata))
        if other := sorted(trained ^ given):
            msg = (
                f"{len(other):,} genes are in these data or in those of training, but not in both: {shorten(other)}. Counts "
                f"are scaled by the total over all {len(trained):,} genes of training: pass cells with just these."
            )
            raise ValueError(msg)

    def _unseen(self, adata: AnnData) -> tuple[list[NDArray[np.float64]], tuple[Treatment, ...]]:
        """Cells of other data for each treatment in them, as those of training are read, and the treatments."""
        args = self._setup_args()
        if args["values"] in SCALED:
            self._check_same_genes(adata)
        stored = adata_labels(self.adata, args["regimes_key"])
        cells, of_cell, treatments = read_unseen(adata, self._regimes(), stored, args)
        values = self._values(adata, cells, args)
        if args["batch_key"] is not None:
            levels = self._levels(self._values(self.adata, self._treated.cells, args))
            values = levels(values, self._groups(adata, cells))
        return [values[of_cell == i] for i in range(len(treatments))], treatments


def adata_labels(adata: AnnData, key: str) -> dict[str, str]:
    """Regime of every label of training."""
    stored = adata.uns[key]
    names = [str(name) for name in stored[_keys.TABLE]["name"]]
    frame = stored[_keys.LABELS]
    return {str(x).strip(): names[int(i)] for x, i in zip(frame["label"], frame["regime"], strict=True)}


def _check_genes(adata: AnnData, genes: Any) -> tuple[str, ...]:
    """Names of the genes of a model."""
    known = Genes(adata.var_names)
    asked = known.names if genes is None else [] if isinstance(genes, str) else [str(g) for g in genes]
    if len(asked) < 2:
        msg = f"genes must be at least two names of genes, or None for all, not {genes!r}."
        raise ValueError(msg)
    if len(asked) > _MOST_GENES:
        msg = f"{len(asked):,} genes: a GIM can have at most {_MOST_GENES}, and is meant for tens. Choose genes, e.g. GIM(adata, genes=[...]) with those that change most."
        raise ValueError(msg)
    if absent := [g for g in asked if known.position(g) is None]:
        told = "".join(suggest(g, known.names) for g in absent[:3])
        msg = f"{len(absent)} of {len(asked)} genes are not in .var_names: {shorten(absent)}.{told}"
        raise KeyError(msg)
    if double := sorted({g for g in asked if asked.count(g) > 1}):
        msg = f"genes occur twice: {shorten(double)}."
        raise ValueError(msg)
    return tuple(asked)
