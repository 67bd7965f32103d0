"""SparseGPT: optimal brain surgery, column by column, with one inverse for all rows.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023. A layer's
squared output error has the Hessian H = 2 X X^T (d, d) for every row. Columns are processed from left to right, and
only the weights to the right of a removed one make up for it, so that all rows share the inverses of H restricted to
the columns i, i + 1, ..., which the rows of U give, the upper Cholesky factor of H^-1 = U^T U:

    score of w_ij  =  w_ij^2 / U_jj^2        w_i: <- w_i: - (w_ij / U_jj) U_j:   where (i, j) goes.

The mask is chosen for a block of columns at a time, by the scores that the weights have when the block begins; each
block keeps its share of the layer. H is damped by a part of its mean diagonal, and weights of inputs that are always
zero go first, at no cost. Choice and update are separate parts: :class:`SparseGPTSelection` carries out the updates
while it chooses, and keeps only the mask; ``compensation=sparsegpt`` repeats the updates for that mask (or for any).
Each group of a grouped convolution has a Hessian of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.compensation import Compensation, OwnRidge
from methods.errors import BadInput
from methods.hessian.exact_obs import inverse_hessian
from methods.layers.seen import EdgeLayer
from methods.progress import track
from methods.selection import Selection, largest_mask


def inverse_factors(layer: EdgeLayer, damping: float, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(groups, d, d) upper triangular U with U^T U = H^-1, float64, and (out, d) which inputs are always zero.

    Args:
        layer: of one group or several.
        damping: added to H's diagonal, relative to its mean.
        columns: (d,) an order of the inputs other than the layer's.

    Raises:
        BadInput: if a damped Hessian has no inverse.
    """
    factors, dead = [], []
    for own in layer.moments_of_groups:
        second = own.second if columns is None else own.second[columns][:, columns]
        inverse, zero = inverse_hessian(second, own.count, damping)
        factors.append(torch.linalg.cholesky(inverse, upper=True))
        dead.append(zero.expand(len(layer.weight) // layer.groups, -1))
    return torch.stack(factors), torch.cat(dead)


def clear_(weight: Tensor, factor: Tensor, mask: Tensor, columns: Iterable[int]) -> None:
    """Set the weights of ``columns`` that ``mask`` drops to zero, from left to right, and update those to the right.

    Args:
        weight: (out, d), overwritten; dropped weights become zero but for rounding.
        factor: (groups, d, d) U of each group of output units.
        mask: (out, d) which weights stay.
        columns: in ascending order.
    """
    for column in columns:
        gone = torch.where(mask[:, column], 0, weight[:, column]).view(len(factor), -1)
        change = (gone / factor[:, column, column, None])[:, :, None] * factor[:, column, None, column:]
        weight[:, column:] -= change.flatten(0, 1)


def sweep(weight: Tensor, factor: Tensor, mask: Tensor) -> Tensor:
    """(out, d) weights after the updates of all columns, exactly zero off ``mask``."""
    weight = weight.clone()
    clear_(weight, factor, mask, range(weight.shape[1]))
    return weight * mask


def choose(weight: Tensor, factor: Tensor, live: Tensor, counts: Sequence[Count], block: int) -> Tensor:
    """(out, d) the mask of a sweep that chooses block by block.

    Args:
        weight: (out, d) float64.
        factor: (groups, d, d) U of each group of output units.
        live: (out, d) weights that earlier steps have left.
        counts: how many weights stay in each block of columns, of the layer or of each row.
        block: columns per block; the last one may be narrower.
    """
    weight = weight * live
    mask = torch.zeros_like(live)
    pivots = factor.diagonal(dim1=1, dim2=2).repeat_interleave(len(weight) // len(factor), 0)
    for number, start in enumerate(range(0, weight.shape[1], block)):
        own = slice(start, start + block)
        scores = (weight[:, own] / pivots[:, own]).square().masked_fill(~live[:, own], -torch.inf)
        mask[:, own] = largest_mask(scores, counts[number])
        clear_(weight, factor, mask, range(start, min(start + block, weight.shape[1])))
    return mask


class SparseGPTSelection(Selection[EdgeLayer]):
    """Keeps the weights that SparseGPT's sweep over the columns leaves. Goes with ``compensation=sparsegpt``.

    Args:
        damping: added to H's diagonal, relative to its mean.
        block: columns whose mask is chosen at once.
    """

    def __init__(self, damping: float = 0.01, block: int = 128) -> None:
        if not damping > 0:
            raise BadInput(f"selection.damping={damping:g} is not positive; it keeps Hessians invertible: type 0.01")
        if block < 1:
            raise BadInput(f"selection.block={block} is not a number of columns; expected 1 or more: type 128")
        self.damping, self.block = damping, block

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """Mask (out, d) of the k weights that stay, or of k[i] in row i: in each block of columns its share."""
        counts = self._counts(layer, k)
        factor, dead = inverse_factors(layer, self.damping)
        return choose(layer.weight.masked_fill(dead, 0), factor, layer.live, counts, self.block)

    def _counts(self, layer: EdgeLayer, k: Count) -> list[Count]:
        """Counts of the blocks: what is live in them, times the share that stays, by cumulative rounding."""
        live = layer.live.sum(0) if isinstance(k, int) else layer.live
        edges = list(range(self.block, layer.weight.shape[1], self.block))
        upto = live.double().cumsum(-1)
        last = torch.tensor([*(edge - 1 for edge in edges), upto.shape[-1] - 1], device=upto.device)
        ends = upto.index_select(-1, last)
        asked = torch.as_tensor(k, dtype=torch.float64, device=ends.device)
        total = (asked.unsqueeze(-1) * ends / ends[..., -1:].clamp_min(1)).round().long()
        parts = torch.diff(total, dim=-1, prepend=torch.zeros_like(total[..., :1]))
        return [int(part) if isinstance(k, int) else part for part in parts.unbind(-1)]


class SparseGPTUpdate(Compensation):
    """SparseGPT's update for a given mask: the weights to the right of each removed one make up for it.

    Args:
        damping: as for :class:`SparseGPTSelection`.
    """

    units = frozenset({"edge"})

    def __init__(self, damping: float = 0.01) -> None:
        if not damping > 0:
            raise BadInput(f"compensation.damping={damping:g} is not positive; it keeps Hessians invertible: type 0.01")
        self.damping = damping

    def edge_weights(
        self, layers: Sequence[EdgeLayer], masks: Mapping[str, Tensor], selection: OwnRidge
    ) -> dict[str, Tensor]:
        """The updated weights, exactly zero off the mask."""
        result = {}
        for layer in track(layers, "SparseGPT's update"):
            mask = masks[layer.name]
            factor, _ = inverse_factors(layer, self.damping)
            result[layer.name] = sweep(layer.weight * layer.live, factor, mask)
        return result
