"""What a differential network sees of a step, which can be divided, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from causcade.nn.differential import Differential, SetInput, graph_loss, target_loss
from causcade.pretrain.target_items import PairBatch
from causcade.set_inputs import pair_input, set_input

__all__ = ["PairInputs", "pair_inputs"]


@dataclass(frozen=True)
class PairInputs:
    """Inputs and labels of perturbed sets and their controls, over the same genes.

    Attributes
    ----------
    controls, perturbed
        What the structure learner sees.
    contrasts, node
        What the differential network sees of the perturbed sets besides.
    owner
        Position of the control of each perturbed set.
    targets
        bool ``(sets, genes)``.
    graphs
        bool ``(controls, genes, genes)``, [cause, effect]; None if one is not known.
    seed
        Of the codes of gene identities.
    place, n_controls
        Positions of the controls in the whole step, and their number there.
    share, graph_shares
        What the loss of this part, and that of the graph of each control, counts in the loss of the whole step; None:
        this is the whole.
    """

    controls: SetInput
    perturbed: SetInput
    contrasts: Tensor
    node: Tensor
    owner: Tensor
    targets: Tensor
    graphs: Tensor | None
    seed: int
    place: Tensor
    n_controls: int
    share: float = 1.0
    graph_shares: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of perturbed sets."""
        return len(self.targets)

    def part(self, rows: Sequence[int], *, counts: bool = True) -> PairInputs:
        """Some of the perturbed sets of a whole step. Losses of parts that make it up add up to its loss."""
        chosen = torch.tensor(list(rows))
        kept, owner = self.owner[chosen].unique(return_inverse=True)
        sets = self.owner.bincount(minlength=self.n_controls)[kept]
        return replace(
            self,
            controls=self.controls.part(kept),
            perturbed=self.perturbed.part(chosen),
            contrasts=self.contrasts[chosen],
            node=self.node[chosen],
            owner=owner,
            targets=self.targets[chosen],
            graphs=None if self.graphs is None else self.graphs[kept],
            place=kept,
            share=counts * len(chosen) / len(self),
            # of a graph as much as of the sets that belong to it
            graph_shares=counts * owner.bincount() / sets / self.n_controls,
        )

    def loss(self, net: Differential, graph_weight: float, device: torch.device) -> Tensor:
        """L_I (sum over genes, per ten) + ``graph_weight`` x L_G, times the share of the whole."""
        generator = torch.Generator(device).manual_seed(self.seed)
        code = net.draw_codes(self.n_controls, self.node.shape[1], generator)
        owner = self.owner.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            code = None if code is None else code[self.place.to(device)]
            before = net.encode(self.controls.to(device), code)
            after = net.encode(self.perturbed.to(device), None if code is None else code[owner])
            logits = net.compare(before[owner], after, self.contrasts.to(device), self.node.to(device))
            edges = net.edges(before)
        targets = self.targets.to(device)
        # per gene as in the paper, but the more genes, the rarer a target: the sum keeps its weight
        loss = target_loss(logits.float(), targets) * (targets.shape[1] / 10) * self.share
        if graph_weight and self.graphs is not None:
            shares = None if self.graph_shares is None else self.graph_shares.to(device)
            loss = loss + graph_weight * graph_loss(edges.float(), self.graphs.to(device), shares)
        return loss


def pair_inputs(batches: list[PairBatch], n_subsets: int, rng: np.random.Generator) -> PairInputs:
    """Inputs of batches over the same number of genes.

    Parameters
    ----------
    batches
        Controls, each with perturbed sets.
    n_subsets
        Local graphs of a set of cells.
    rng
        Draws their genes.
    """
    controls = set_input([b.control for b in batches], n_subsets, rng)
    perturbed = set_input([s for b in batches for s in b.perturbed], n_subsets, rng)
    contrasts, node = (torch.cat(t) for t in zip(*(pair_input(b.control, b.perturbed) for b in batches), strict=True))
    known = [b.adjacency for b in batches if b.adjacency is not None]
    return PairInputs(
        controls=controls,
        perturbed=perturbed,
        contrasts=contrasts,
        node=node,
        owner=torch.arange(len(batches)).repeat_interleave(torch.tensor([len(b.perturbed) for b in batches])),
        targets=torch.cat([b.targets for b in batches]),
        graphs=torch.stack(known) if len(known) == len(batches) else None,
        seed=int(rng.integers(2**62)),
        place=torch.arange(len(batches)),
        n_controls=len(batches),
    )
