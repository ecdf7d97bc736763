"""Causes: the question, its arguments, and where the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from causcade import _keys
from causcade._checks import at_least, check_compose, generator
from causcade._device import pick_device
from causcade.causes import CauseScores, Compose, Settings, how_composed, score_causes
from causcade.pp import _store
from causcade.scoring import set_size
from causcade.screendata import Values, read_screen
from causcade.tl._checks import (
    as_set_up,
    blocks_of,
    check_place,
    check_resume,
    check_stable,
    load_weights,
    names_of,
    seed_of,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from causcade.models.tcd import TCD

__all__ = ["causes"]

_DENSE = 5_000  # genes; above, all-pairs results are stored sparse


def causes(
    adata: AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    model: str | Path | TCD = "tcd-perturbseq",
    layer: str | None = None,
    values: Values = "counts",
    batch_key: str | None = None,
    n_draws: int = 2,
    n_half: int = 4,
    n_null: int = 0,
    subset_size: int | None = None,
    n_anchors: int = 0,
    stable: float | None = None,
    compose: Compose = True,
    n_top: int = 200,
    accelerator: str = "auto",
    devices: int | str = "auto",
    rng: int | np.random.Generator | None = 0,
    resume: str | Path | None = None,
    regimes_key: str = _keys.REGIMES,
    key_added: str = _keys.CAUSES,
    progress_bar: bool = True,
) -> None:
    """Score, for some genes, how likely every other gene is a cause: a regulator, direct or through others.

    Targeted cause discovery (TCD-DL, sections 3 and 4): a network trained on simulated screens sees statistics (or
    cells) of small random sets of genes, and its scores are averaged over sets. Next to the scores stand the
    baselines: the knock-out z-score, the popularity of a candidate (the mean size of its effects on all genes) and
    the correlation.

    Parameters
    ----------
    adata
        Annotated data with regimes (:func:`causcade.pp.regimes`). For a MuData pass ``mdata["rna"]``.
    genes
        Effect genes, names in ``.var_names``. ``None`` scores all pairs.
    model
        A released name (:func:`causcade.pretrained.available`), a folder with weights, or a
        :class:`causcade.models.TCD`. The default is for counts; it was tuned on three real screens, among them
        :func:`causcade.datasets.hipsc_tf_ko`. ``"tcd-grn-umi"`` is the same before, trained on simulated screens alone;
        ``"tcd-grn-expression"`` is for values with little technical noise.
    layer
        Layer with the values; ``None`` = ``.X``. What is left at its default here and in the next two is taken from
        the model's ``setup_anndata`` when ``model`` is an object of the same data.
    values
        What they are: ``"counts"`` (raw, whole), ``"expression"`` (non-negative, linear scale) or ``"log"``
        (log-normalised). Never guessed.
    batch_key
        Column of ``.obs`` (batch, cell type, time point); effects and correlations are taken within its groups.
    n_draws
        How many times the genes are dealt into sets.
    n_half
        Halves of the cells that give the spread (an even number; 0 = spread over the draws alone, of the scores before they
        are composed).
    n_null
        Permutations of the perturbation labels for p values and FDR; 0 = none. The null keeps all correlations and
        breaks all effects: the rate is that of a screen in which *no* perturbation does anything. Where some do, a
        hub's effects lift all of its pairs, and more of the calls are false than the FDR says (``benchmarks.null``).
    subset_size
        Genes in a set, that the network sees together; ``None`` = twice as many as it was trained with (preset ``"paper"``:
        as many), which mostly scores better than as many and takes up to twice as long.
    n_anchors
        From the second draw on, so many top-scoring genes are in every set.
    stable
        Stop drawing once the rank correlation of the scores between draws reaches this.
    compose
        With ``genes=None``: compose the scores along paths through all genes (if A drives K and K drives B, A drives B), as
        the model has learned to, if it has. ``"plain"`` composes by a noisy-or that has learned nothing, with any model: it
        trusts paths more, which finds more of the causes that act through others, and misjudges more of the pairs near by.
        Scores of some genes alone cannot be composed, and differ from the same columns of all pairs. Time grows with the
        cube of the number of genes, for the scores and for each half and permutation.
    n_top
        For all pairs beyond 5,000 genes: scores kept per effect gene.
    accelerator, devices
        ``"auto"``, ``"cpu"`` or ``"cuda"``, and the number of the device.
    rng
        Seed or generator; decides sets, half-samples and permutations. The same seed gives the same result.
    resume
        A folder for what is finished, made if it is not there: if the call is cut short (Ctrl-C, a kill, a full disk),
        the same call goes on where it stood and gives the same bytes as an unbroken one. Blocks of another question
        (other data, model, arguments or `rng`) are refused. It is taken away when the scores are written. Needs a seed,
        or a generator in the same state. Up to a few GB for all pairs of thousands of genes; ``None`` = nothing is kept.
    regimes_key
        ``key_added`` of :func:`causcade.pp.regimes`.
    key_added
        Stem of the keys below.
    progress_bar
        Show one.

    Returns
    -------
    None. Writes, for ``key_added="causes"`` and ``k`` genes,

    `.varm["causes"]` : float32 (n_vars, k)
        Mean logit that the row gene is a cause of the column gene; 0 is a probability of one half.
    `.varm["causes_sd"]`, `.varm["causes_n_draws"]` : (n_vars, k)
        Approximate standard error from halves of the cells (rather too large; NaN where there is no spread), and the
        number of sets that scored the pair.
    `.varm["causes_pvalue"]`, `.varm["causes_fdr"]` : float32 (n_vars, k)
        With ``n_null`` only.
    `.varm["causes_knockout_t"]` : float32 (n_vars, k)
        z-score of the column gene under perturbation of the row gene; NaN where that was not perturbed alone.
    `.varm["causes_popularity"]` : float32 (n_vars, 1)
        Mean size of the effects of the row gene on all genes; NaN where that was not perturbed alone.
    `.varm["causes_correlation"]` : float32 (n_vars, k)
    `.uns["causes"]` : dict
        ``names`` (the genes), ``model``, ``weights`` (name@sha256), ``n_draws``, ``params``.

    With ``genes=None`` the scores are in ``.varp["causes"]``, ``[cause, effect]``, dense up to 5,000 genes.

    Raises
    ------
    KeyError
        If regimes, the layer, the batch column or a gene is missing.
    ValueError
        If values are not what ``values`` says, labels are unusable, a parameter is out of range, or the pairs of
        genes do not fit in memory. ``adata`` is unchanged after any error.

    Examples
    --------
    >>> import causcade as cc
    >>> adata = cc.simulate.screen(n_genes=30, rng=0)
    >>> cc.tl.causes(adata, ["G001"], progress_bar=False)
    >>> adata.varm["causes"].shape
    (30, 1)
    """
    check_place(adata, key_added, regimes_key, "causes")
    settings = Settings(
        n_draws=at_least(n_draws, 1, "n_draws"),
        n_half=at_least(n_half, 0, "n_half"),
        n_null=at_least(n_null, 0, "n_null"),
        size=None if subset_size is None else at_least(subset_size, 3, "subset_size"),
        n_anchors=at_least(n_anchors, 0, "n_anchors"),
        stable=check_stable(stable),
        compose=check_compose(compose),
        device=pick_device(accelerator, devices),
        progress_bar=progress_bar,
    )
    at_least(n_top, 1, "n_top")
    gen, folder = generator(rng), check_resume(resume, rng)
    weights = load_weights(model, "TCD")
    settings = replace(settings, size=settings.size or set_size(weights.config))
    layer, values, batch_key, regimes_key = as_set_up(model, adata, layer, values, batch_key, regimes_key)
    screen = read_screen(adata, layer=layer, values=values, batch_key=batch_key, regimes_key=regimes_key)
    targets = None if genes is None else screen.find(names_of(genes))
    blocks = blocks_of(folder, "causes", screen, weights, settings, gen, genes=targets)
    scores = score_causes(screen, weights, targets, settings, gen, blocks)
    names = screen.genes if targets is None else screen.genes[targets]
    params = _describe(layer, values, batch_key, regimes_key, settings, rng)
    params["compose"] = how_composed(settings.compose, weights, all_pairs=targets is None)
    params |= {"subset_size": settings.size, "n_top": int(n_top)}
    result = {
        "names": np.asarray([str(n) for n in names], dtype=object),
        "model": weights.name,
        "weights": weights.label,
        "n_draws": int(scores.count.max()),
        "params": params,
    }
    _write(adata, key_added, scores, result, all_pairs=targets is None, n_top=n_top)
    blocks.clear()


def _describe(
    layer: str | None, values: Values, batch_key: str | None, regimes_key: str, settings: Settings, rng: Any
) -> dict[str, Any]:
    """Say how a result was made, in values that files can hold."""
    params: dict[str, Any] = {
        "layer": "X" if layer is None else layer,
        "values": values,
        "batch_key": batch_key or "",
        "n_draws": settings.n_draws,
        "n_half": settings.n_half + settings.n_half % 2,
        "n_null": settings.n_null,
        "n_anchors": settings.n_anchors,
        "regimes_key": regimes_key,
        "direction": "[cause, effect]",
        "units": "logit",
    }
    if settings.stable is not None:
        params["stable"] = settings.stable
    return params | seed_of(rng)


def _write(
    adata: AnnData, key: str, scores: CauseScores, result: dict[str, Any], *, all_pairs: bool, n_top: int
) -> None:
    """Store scores; all values exist before the first is written."""
    per_pair = {
        key: scores.mean,
        _keys.sd(key): scores.sd,
        _keys.n_draws(key): scores.count,
        _keys.baseline(key, _keys.KNOCKOUT_T): scores.knockout_t,
        _keys.baseline(key, _keys.CORRELATION): scores.correlation,
    }
    if scores.pvalue is not None and scores.fdr is not None:
        per_pair |= {_keys.pvalue(key): scores.pvalue, _keys.fdr(key): scores.fdr}
    if all_pairs and adata.n_vars > _DENSE:
        top = _top(scores.mean, n_top)
        per_pair = {name: _sparse(values, top) for name, values in per_pair.items()}
    _store(adata, key, result)  # first: a view becomes actual here, and stays the same object after
    slot, other = (adata.varp, adata.varm) if all_pairs else (adata.varm, adata.varp)
    for name in (_keys.pvalue(key), _keys.fdr(key), *per_pair):  # nothing of an earlier call may stay behind
        for place in (slot, other):
            if name in place:
                del place[name]
    for name, values in per_pair.items():
        slot[name] = values
    adata.varm[_keys.baseline(key, _keys.POPULARITY)] = scores.popularity


def _top(scores: np.ndarray, n: int) -> np.ndarray:
    """Mask of the ``n`` highest scores of every column; a gene is no cause of itself."""
    keep = np.zeros(scores.shape, dtype=bool)
    low_first = -scores
    np.fill_diagonal(low_first, np.inf)
    best = np.argpartition(low_first, min(n, len(scores) - 1), axis=0)[: min(n, len(scores) - 1)]
    np.put_along_axis(keep, best, values=True, axis=0)
    return keep


def _sparse(values: np.ndarray, keep: np.ndarray) -> sparse.csr_matrix:
    rows, columns = keep.nonzero()
    return sparse.csr_matrix((values[rows, columns], (rows, columns)), shape=values.shape)
