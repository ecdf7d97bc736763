"""Targets: the question, its arguments, and where the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from causcade import _keys
from causcade._checks import at_least, generator
from causcade._device import pick_device
from causcade.comparisons import Comparisons, read_groups, read_perturbations
from causcade.pp import _store
from causcade.screendata import ScreenData, Values
from causcade.targets import TargetScores, TargetSettings, score_targets
from causcade.tl._checks import as_set_up, blocks_of, check_place, check_resume, load_weights, seed_of
from causcade.tl._gim import is_gim, score_by_gim

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.models.cdn import CDN
    from causcade.models.gim import GIM


def targets(
    adata: AnnData,
    perturbations: str | Sequence[str] | None = None,
    *,
    groups: tuple[str, str] | None = None,
    groupby: str | None = None,
    model: str | Path | CDN | GIM = "cdn-perturbseq",
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    candidates: Literal["auto", "all", "de"] | Sequence[str] = "auto",
    n_candidates: int = 1000,
    n_draws: int = 4,
    n_half: int = 2,
    n_null: int = 0,
    masked: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    rng: int | np.random.Generator | None = 0,
    resume: str | Path | None = None,
    regimes_key: str = _keys.REGIMES,
    key_added: str = _keys.TARGETS,
    progress_bar: bool = True,
) -> None:
    """Score, for each perturbation, how likely every gene is what it acted on.

    Causal differential networks (CDN): a network sees how means, variances and relations between genes differ between
    control and perturbed cells. Next to its scores stand the simple answers, which often are as good: the log fold
    change and the rank-sum test; and a fused score of the three.

    Parameters
    ----------
    adata
        Annotated data with regimes (:func:`causcade.pp.regimes`), unless `groups` are given. For a MuData pass
        ``mdata["rna"]``.
    perturbations
        Names of perturbations (``causcade.get.regimes(adata)``); ``None`` = all. What one gets does not depend on the
        others, so a large screen can be scored in parts, with the same `rng` and another `key_added` for each.
    groups, groupby
        Instead of perturbations any two groups of cells: labels ``(reference, other)`` of the column `groupby` of
        ``.obs``, such as ``("healthy", "disease")``. Other cells are not used.
    model
        A released name (:func:`causcade.pretrained.available`), a folder with weights, or a CDN object; or a trained
        :class:`causcade.models.GIM` of these very data, which found targets as it was fitted: its genes are the
        candidates, a perturbation with doses is asked about at its highest, the spread is over fits, there is no null
        and no fused score, and only `perturbations` and `key_added` are left to choose.
    layer
        Layer with the values; ``None`` = ``.X``. What is left at its default here and in the next two is taken from
        the model's ``setup_anndata`` when `model` is an object of the same data.
    values
        What they are: ``"counts"`` (raw, whole), ``"expression"`` (non-negative, linear scale) or ``"log"``
        (log-normalised). Never guessed.
    batch_key
        Column of ``.obs`` (batch, cell type, donor). Its groups are brought to the level of their own controls, and the
        rank-sum test is made within them. Cells of a group without controls are left out.
    candidates
        Genes that may be targets: ``"all"``, names of genes, or ``"de"``: for each perturbation, up to `n_candidates`
        differentially expressed genes (rank-sum test, FDR 5 %), and if these are fewer than 100, those with the largest
        fold changes up to 100. ``"auto"`` is all genes if there are at most `n_candidates`, else ``"de"``. Beware when
        comparing methods: ``"de"`` has used the rank-sum test already, which makes the task easier, and loses a target
        whose expression does not change.
    n_candidates
        See `candidates`. Memory grows with the square of their number.
    n_draws
        Passes of the network that are averaged; it learns local graphs on random subsets of genes.
    n_half
        Halves of the cells that give the spread (an even number; 0 = spread over the draws alone, which says how much the
        local graphs matter and nothing about the cells).
    n_null
        Control-versus-control splits per perturbation for p values and FDR; 0 = none. Half of the controls of each
        group are set aside in turn, and as many of them as the perturbation has cells (as far as there are) take its
        place. The null scores of all its candidates are pooled, and the FDR is over the candidates of one perturbation:
        an FDR below ``1 / n_null`` is out of reach. It is the null of a perturbation that does *nothing*: genes
        downstream of a target differ from controls too, and may be called.
    masked
        Hide what a perturbation does to the expression of its own known targets (all of a combination's): their values
        in the perturbed cells are replaced with those of controls that are alike in the genes that did not change, so that
        they show no change of their own but keep the correlations they have among controls. For evaluation. All scores see
        the replaced values; targets that are not measured are left as they are.
    accelerator, devices
        ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device.
    rng
        Seed or generator; decides subsets, samples (of more than 5,000 cells of a kind) and splits. The same seed
        gives the same result.
    resume
        A folder for what is finished, made if it is not there: if the call is cut short (Ctrl-C, a kill, a full disk),
        the same call goes on where it stood and gives the same bytes as an unbroken one. Blocks of another question
        (other data, model, arguments or `rng`) are refused. It is taken away when the scores are written. Needs a seed,
        or a generator in the same state. Below 0.5 MB for each perturbation; ``None`` = nothing is kept.
    regimes_key
        ``key_added`` of :func:`causcade.pp.regimes`.
    key_added
        Stem of the keys below.
    progress_bar
        Show one.

    Returns
    -------
    None. Writes, for ``key_added="targets"`` and ``k`` perturbations,

    `.varm["targets"]` : float32 (n_vars, k)
        Mean logit that the gene is a target; NaN where it was no candidate for that perturbation.
    `.varm["targets_sd"]` : float32 (n_vars, k)
        Spread over draws, or with `n_half` an approximate standard error; NaN where there is none.
    `.varm["targets_pvalue"]`, `.varm["targets_fdr"]` : float32 (n_vars, k)
        With `n_null` only.
    `.varm["targets_lfc"]` : float32 (n_vars, k)
        Mean log-normalised expression, perturbed minus control (natural logarithm, unless ``values="log"`` are in
        another), of every gene.
    `.varm["targets_wilcoxon"]` : float32 (n_vars, k)
        z of the rank-sum test, perturbed against control, corrected for ties, of every gene.
    `.varm["targets_fused"]` : float32 (n_vars, k)
        Fused score, higher = more likely a target; NaN where the gene was no candidate.
    `.uns["targets"]` : dict
        ``names`` (the perturbations, or the other group), ``model``, ``weights`` (name@sha256), ``n_draws``,
        ``params``.

    Raises
    ------
    KeyError
        If regimes, a perturbation, the layer, a column, a group or a gene is missing.
    ValueError
        If values are not what `values` says, labels are unusable, no perturbation has 3 cells, or a parameter is out
        of range. `adata` is unchanged after any error.

    Warns
    -----
    UserWarning
        If perturbations have fewer than 3 usable cells: they are listed, and get no column. If they have fewer than 5, or
        too few controls share their groups for a null.

    Examples
    --------
    >>> import causcade as cc
    >>> cc.pp.regimes(adata, "perturbation", "control")
    >>> cc.tl.targets(adata)
    >>> cc.tl.targets(adata, groups=("healthy", "disease"), groupby="condition", key_added="disease")
    """
    check_place(adata, key_added, regimes_key, "targets")
    if is_gim(model):
        given: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "n_null": n_null, "masked": masked}
        given |= {"groups": groups, "candidates": _candidate_names(candidates), "resume": resume}
        _write(adata, key_added, *score_by_gim(adata, model, perturbations, given))
        return
    _check_question(perturbations, groups, groupby, masked)
    settings = TargetSettings(
        n_draws=at_least(n_draws, 1, "n_draws"),
        n_half=at_least(n_half, 0, "n_half"),
        n_null=at_least(n_null, 0, "n_null"),
        n_candidates=at_least(n_candidates, 2, "n_candidates"),
        masked=masked,
        device=pick_device(accelerator, devices),
        progress_bar=progress_bar,
    )
    names = _candidate_names(candidates)
    gen, folder = generator(rng), check_resume(resume, rng)
    weights = load_weights(model, "CDN")
    layer, values, batch_key, regimes_key = as_set_up(model, adata, layer, values, batch_key, regimes_key)
    how: dict[str, Any] = {"layer": layer, "values": values, "batch_key": batch_key}
    screen, pairs = _read(adata, perturbations, groups, groupby, regimes_key, how)
    settings = replace(settings, candidates=_positions(names, screen))
    blocks = blocks_of(folder, "targets", screen, weights, settings, gen, perturbations=pairs.checksum())
    scores = score_targets(screen, pairs, weights, settings, gen, blocks=blocks)
    params = _describe(how, settings, names)
    params |= {"regimes_key": regimes_key} if groups is None else _describe_groups(groups, groupby)
    result = {
        "names": np.asarray(scores.names, dtype=object),
        "model": weights.name,
        "weights": weights.label,
        "n_draws": settings.n_draws,
        "params": params | seed_of(rng),
    }
    _write(adata, key_added, scores, result)
    blocks.clear()


def _check_question(perturbations: Any, groups: Any, groupby: Any, masked: Any) -> None:
    if (groups is None) != (groupby is None):
        msg = "Pass groups=(reference, other) and groupby=, the column of .obs with these labels, together."
        raise ValueError(msg)
    if groups is not None and perturbations is not None:
        msg = "Pass either perturbations or groups; scores of both need two calls, with different key_added."
        raise ValueError(msg)
    if not isinstance(masked, bool | np.bool_):
        msg = f"masked must be True or False, not {masked!r}."
        raise ValueError(msg)
    if masked and groups is not None:
        msg = "masked=True hides known targets, and groups have none."
        raise ValueError(msg)


def _candidate_names(candidates: Any) -> Any:
    """One of the words, or a list of names."""
    words = ("auto", "all", "de")
    if isinstance(candidates, str) and candidates in words:
        return candidates
    names = [] if isinstance(candidates, str) or not np.iterable(candidates) else [str(c) for c in candidates]
    if len(names) < 2:
        msg = f"candidates must be 'auto', 'all', 'de' or at least two names of genes, not {candidates!r}."
        raise ValueError(msg)
    return names


def _positions(names: Any, screen: ScreenData) -> Any:
    return names if isinstance(names, str) else screen.find(names)


def _read(
    adata: AnnData, perturbations: Any, groups: Any, groupby: Any, regimes_key: str, how: dict[str, Any]
) -> tuple[ScreenData, Comparisons]:
    if groups is not None:
        return read_groups(adata, groups, groupby, **how)
    return read_perturbations(adata, perturbations, regimes_key=regimes_key, **how)


def _describe(how: dict[str, Any], settings: TargetSettings, names: Any) -> dict[str, Any]:
    """Say how a result was made, in values that files can hold."""
    return {
        "layer": "X" if how["layer"] is None else how["layer"],
        "values": how["values"],
        "batch_key": how["batch_key"] or "",
        "candidates": names if isinstance(names, str) else np.asarray(names, dtype=object),
        "n_candidates": settings.n_candidates,
        "min_candidates": settings.min_candidates,
        "n_draws": settings.n_draws,
        "n_half": settings.n_half + settings.n_half % 2,
        "n_null": settings.n_null,
        "masked": bool(settings.masked),
        "units": "logit",
    }


def _describe_groups(groups: Any, groupby: Any) -> dict[str, Any]:
    """Without regimes there are no known targets to look up."""
    return {"regimes_key": "", "groupby": str(groupby), "reference": str(groups[0])}


def _write(adata: AnnData, key: str, scores: TargetScores, result: dict[str, Any]) -> None:
    """Store scores; all values exist before the first is written."""
    parts = {
        key: scores.mean,
        _keys.sd(key): scores.sd,
        _keys.pvalue(key): scores.pvalue,
        _keys.fdr(key): scores.fdr,
        _keys.baseline(key, _keys.LFC): scores.lfc,
        _keys.baseline(key, _keys.WILCOXON): scores.wilcoxon,
        _keys.baseline(key, _keys.FUSED): None if np.isnan(scores.fused).all() else scores.fused,
    }
    _store(adata, key, result)  # first: a view becomes actual here, and stays the same object after
    for name, values in parts.items():
        if values is not None:
            adata.varm[name] = values
        elif name in adata.varm:  # nothing of an earlier call may stay behind
            del adata.varm[name]
