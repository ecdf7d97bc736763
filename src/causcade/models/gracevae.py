"""GraCE-VAE: programs that act on one another, of what untried combinations of perturbations do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from causcade import _keys
from causcade._checks import at_least, generator
from causcade.models import _grace_cells as cells
from causcade.models import _grace_programs as programs
from causcade.models._grace_model import GraceModel, GraCEVAEModule
from causcade.regimes.labels import shorten

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.screendata import ScreenData

__all__ = ["GraCEVAE", "GraCEVAEModule"]

_BLOCK = 1024  # cells that are encoded at a time


class GraCEVAE(GraceModel):
    """What will an untried combination of perturbations do?

    Cells are encoded as programs that act on one another in a latent causal graph; a perturbation shifts the programs it
    is assigned to, and the shifts of a combination add up (GraCE-VAE). A network of genes and pathways, if there is one,
    helps the encoder; without, this is CMVAE. **Look at the additive prediction beside it**, which is hard to beat:
    ``predict(..., kind="mean")`` gives both.

    Parameters
    ----------
    adata
        Annotated data, set up by :meth:`setup_anndata`.
    network
        Edges as :func:`causcade.networks.read_network` gives them, or what :func:`causcade.networks.match_network` made of
        them for these genes; ``None`` = no network.
    variant
        ``"grace"``; ``"cmvae"``: without the network; ``"multihot"``: pathways as further inputs; ``"vgae"``: programs do
        not act on one another; ``"reference"`` and ``"reference-cmvae"``: as the published code trains (with
        ``train(combinations=False)``) and predicts.
    embedding_key
        Key in ``.obsm`` of further values of each cell for the encoder (of a foundation model, say).
    n_fits
        Fits from different starts, which give the spread of predictions.
    rng
        Seed or generator of the first weights; training starts anew from its own.
    **choices
        Of :class:`causcade.gracefit.GraceConfig`: ``n_latent``, ``layer``, ``n_layers``, ``mmd``, ``kl``, ...

    Raises
    ------
    KeyError
        If there is no such embedding.
    ValueError
        If a choice is unknown or out of range, the network is of other genes, or `adata` was not set up.

    Warns
    -----
    UserWarning
        If the network has no edge to a measured gene: the model then works without.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=20, n_control=50, cells_per_perturbation=20, rng=0)
    >>> cc.models.GraCEVAE.setup_anndata(adata)
    >>> model = cc.models.GraCEVAE(adata, hidden=16)
    >>> model.train(2, progress_bar=False)
    >>> model.predict(["G001", "G002"], n_cells=10).shape
    (10, 20)
    """

    # --- predictions ------------------------------------------------------------------------------------------------

    @property
    def units(self) -> str:
        """What predicted numbers are."""
        values = self._setup_args()["values"]
        return "values as given (log)" if values == "log" else "log1p of values scaled to the median library size"

    def predict(
        self,
        combinations: str | Sequence[str] | Sequence[Sequence[str]],
        n_cells: int = 200,
        *,
        kind: Literal["cells", "mean"] = "cells",
        rng: int | np.random.Generator | None = 0,
    ) -> AnnData:
        """Turn control cells into cells under a combination, tried or not.

        Parameters
        ----------
        combinations
            Names of the perturbations of one combination, or the names joined by `sep`; for several combinations a list
            of these. The name of the control gives reconstructed control cells.
        n_cells
            Control cells that each starts from, drawn with replacement and shared out among the fits.
        kind
            ``"cells"``: one row per cell. ``"mean"``: one row per combination, with the additive prediction beside it.
        rng
            Seed or generator of the control cells and the noise.

        Returns
        -------
        A new AnnData of all genes. ``.obs``: ``perturbation``, ``in_training`` (training has learnt from cells of that very
        combination), and for cells ``fit``. ``.uns["units"]`` says what the numbers are, ``.uns["params"]`` how the data were read. With
        ``"mean"`` also the layers ``"change"`` (against predicted control cells), ``"additive"`` (mean of control cells,
        which is in ``.var["control"]``, plus the changes of the single perturbations; NaN where one was never seen alone)
        and ``"sd"`` (over fits; NaN for one).

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError
            If training has learnt from no cell of a perturbation.
        ValueError
            If nothing is asked for, or a number is out of range.
        """
        self._check()
        if kind not in ("cells", "mean"):
            msg = f"kind must be 'cells' or 'mean', not {kind!r}."
            raise ValueError(msg)
        n_cells, gen, regimes = at_least(n_cells, 1, "n_cells"), generator(rng), self._regimes()
        asked = cells.ask(combinations, self.perturbations, regimes)
        known = {self.perturbations[i] for i in self._known()}
        if absent := [p for some in asked for p in some if p not in known]:
            msg = f"Training has learnt from no cell of {shorten(absent)}, so nothing can be said of its effect."
            raise KeyError(msg)
        screen = self._quiet_screen()
        made = [self._generate(some, screen, regimes.codes, n_cells, gen) for some in asked]
        sep = regimes.params.get("sep") or "+"
        names = [sep.join(some) if some else str(regimes.names[0]) for some in asked]
        tried = {(), *self.learnt_}
        obs = pd.DataFrame({"perturbation": names, "in_training": [some in tried for some in asked]})
        if kind == "mean":
            means = cells.regime_means(screen, regimes.codes, len(regimes))
            return self._told(self._means(made, obs, means, asked), screen)
        fit = np.concatenate([np.repeat(np.arange(len(one)), [len(y) for y, _ in one]) for one in made])
        obs = obs.loc[obs.index.repeat([sum(len(y) for y, _ in one) for one in made])].assign(fit=fit)
        return self._told(self._new(np.concatenate([y for one in made for y, _ in one]), obs), screen)

    def _generate(
        self, some: Sequence[str], screen: ScreenData, codes: NDArray[np.int64], n_cells: int, gen: np.random.Generator
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Cells with and without the combination, by fit."""
        parts = torch.tensor([self.perturbations.index(p) for p in some], dtype=torch.int64)
        shares = np.diff(np.linspace(0, n_cells, len(self.nets) + 1).round().astype(int)).tolist()
        embedding, out = self._embedding(self.adata), []
        for net, temperature, share in zip(self.nets, self.temperature_, shares, strict=True):
            chosen = gen.choice(np.flatnonzero(codes == 0), share)
            noise = torch.Generator(net.inner.weight.device).manual_seed(int(gen.integers(2**31)))
            x = torch.from_numpy(screen.rows(chosen)).to(net.inner.weight)
            more = None if embedding is None else torch.from_numpy(embedding[chosen]).to(net.inner.weight)
            made = net.generate(x, parts.to(x.device), temperature, rng=noise, embedding=more)
            out.append((made[0].cpu().numpy(), made[1].cpu().numpy()))
        return out

    def _means(
        self, made: list[Any], obs: pd.DataFrame, means: NDArray[np.float64], asked: Sequence[tuple[str, ...]]
    ) -> AnnData:
        each = [np.stack([y.mean(0) for y, _ in one if len(y)]).astype(np.float64) for one in made]
        plain = [np.stack([y.mean(0) for _, y in one if len(y)]).astype(np.float64).mean(0) for one in made]
        mean = np.stack([y.mean(0) for y in each])
        out = self._new(mean, obs)
        out.var["control"] = means[0]
        alone = {p[0]: m for p, m in zip(cells.parts_of_regimes(self._regimes()), means, strict=True) if len(p) == 1}
        nothing = np.full(means.shape[1], np.nan)
        change = lambda p: alone.get(p, nothing) - means[0]
        out.layers["change"] = (mean - np.stack(plain)).astype(np.float32)
        out.layers["additive"] = np.stack([means[0] + sum(map(change, some)) for some in asked]).astype(np.float32)
        sd = [y.std(0, ddof=1) if len(y) > 1 else nothing for y in each]
        out.layers["sd"] = np.stack(sd).astype(np.float32)
        return out

    def _new(self, x: NDArray[Any], obs: pd.DataFrame) -> AnnData:
        from anndata import AnnData

        obs = obs.set_axis([str(i) for i in range(len(obs))]).astype({"perturbation": "category"})
        out = AnnData(x.astype(np.float32), obs=obs, var=pd.DataFrame(index=self.adata.var_names.copy()))
        return out

    def _told(self, out: AnnData, screen: ScreenData) -> AnnData:
        """Add what the numbers are, and how measured cells are read to compare with them."""
        args = self._setup_args()
        out.uns[_keys.UNITS] = self.units
        out.uns[_keys.PARAMS] = {
            "layer": "X" if args["layer"] is None else args["layer"],
            "values": args["values"],
            "regimes_key": args["regimes_key"],
            "library_size": 0.0 if args["values"] == "log" else screen._scale,
        }
        return out

    # --- what was learnt --------------------------------------------------------------------------------------------

    def get_latent_representation(self, *, exogenous: bool = False, fit: int = 0) -> NDArray[np.float32]:
        """Programs of every cell: posterior means. Writes nothing.

        The encoder has learnt from control cells; in a perturbed cell the shift is read as part of its programs.

        Parameters
        ----------
        exogenous
            Give the part that does not come from other programs.
        fit
            Which fit.

        Returns
        -------
        ``(n_cells, n_latent)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no such fit.
        """
        net, screen, embedding = self._net(fit), self._quiet_screen(), self._embedding(self.adata)
        out = []
        with torch.no_grad():
            for start in range(0, screen.source.n_cells, _BLOCK):
                rows = np.arange(start, min(start + _BLOCK, screen.source.n_cells))
                more = None if embedding is None else torch.from_numpy(embedding[rows])
                z = net.encode(torch.from_numpy(screen.rows(rows)), more)[0]
                out.append(z if exogenous else net.propagate(z))
        return torch.cat(out).numpy()

    def get_latent_graph(self, *, fit: int = 0) -> pd.DataFrame:
        """Give the direct effects of programs on programs. Writes nothing.

        Identified at best up to the order, sign and scale of the programs, and only if each is hit by a perturbation.

        Parameters
        ----------
        fit
            Which fit; programs of different fits are not the same.

        Returns
        -------
        One row per cause, one column per effect, both named ``P0``, ``P1``, ...; 0 on and below the diagonal.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no such fit.
        """
        graph = self._net(fit).latent_graph().detach().numpy()
        names = pd.Index([f"P{i}" for i in range(len(graph))])
        return pd.DataFrame(graph, index=names, columns=names)

    def get_assignments(self, *, fit: int = 0) -> pd.DataFrame:
        """Give the programs that perturbations act on. Writes nothing.

        Parameters
        ----------
        fit
            Which fit.

        Returns
        -------
        One row per perturbation in training: the share of its shift that falls on each program (columns ``P0``, ``P1``, ...; rows sum
        to 1), and ``strength``, the signed size of the shift.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no such fit.
        """
        share, strength = programs.assignments(self._net(fit), self.temperature_[fit])
        table = pd.DataFrame(share, index=self.perturbations, columns=[f"P{i}" for i in range(share.shape[1])])
        return table.assign(strength=strength).iloc[self._known()]

    def get_programs(self, n_top: int = 10, *, fit: int = 0) -> pd.DataFrame:
        """Describe programs that a perturbation acts on: genes they move, pathways of these, perturbations. Writes nothing.

        Parameters
        ----------
        n_top
            Most genes, and most pathways, of each program.
        fit
            Which fit.

        Returns
        -------
        One row per program and entry, best first: ``program``, ``kind`` (``"perturbation"``, ``"gene"`` or ``"pathway"``),
        ``name``, ``score`` (strength of a perturbation; change of a gene in control cells when the program rises by 1;
        share of a pathway's genes among those that move most, a tenth of all and at most 100) and ``fdr`` (of pathways: hypergeometric,
        Benjamini-Hochberg within a program). Pathways need a network with gene sets.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a number is out of range.
        """
        at_least(n_top, 1, "n_top")
        net, screen = self._net(fit), self._quiet_screen()
        control = np.flatnonzero(self._regimes().codes == 0)[:_BLOCK]
        embedding = self._embedding(self.adata)
        more = None if embedding is None else torch.from_numpy(embedding[control])
        effects, known = programs.gene_effects(net, torch.from_numpy(screen.rows(control)), more), self._known()
        return programs.program_table(
            effects, programs.sharp(net)[known], programs.assignments(net, 1.0)[1][known],
            [self.perturbations[i] for i in known], screen.genes, self.network, n_top,
        )  # fmt: skip
