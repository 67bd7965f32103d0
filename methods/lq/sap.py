"""SAP, sparsity-informed adaptive pruning: the PQ index of the remaining weights decides how many are removed next.

Paper: Diao, Wang, Zhang, Yang, Ding and Tarokh, "Pruning deep neural networks from a sparsity perspective" (ICLR 2023),
Algorithm 1 and its defaults, as the authors' code and poster have them. In step t a unit (a neuron, a layer, or the
whole network) with d_t live weights and trained weights w_t loses its c_t smallest magnitudes,

    r_t = d_t (1+η)^(-q/(q-p)) (1 - I_pq(w_t))^(qp/(q-p))
    c_t = ⌊ d_t min(γ (1 - ⌈r_t⌉/d_t), β) ⌋

and training starts again from the initial weights under the new mask. For p = 0.5, q = 1, η = 0, γ = 1 the pruned
fraction is the PQ index itself. A unit is one row (out, in × kh × kw) of a layer in neuron scope, the layer's weight
tensor in layer scope, all tensors end to end in global scope.

Two deliberate differences from the authors' code: exactly c_t weights go even when magnitudes tie (the ones with the
highest index), where theirs keeps all ties; and no unit loses its last weight for any γ and β.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from methods.allocation import Allocation
from methods.budgets.budget import Budget, Counts, Family
from methods.errors import BadInput, Collapsed
from methods.layers.seen import EdgeLayer
from methods.lq.bounds import pq_retained, whole
from methods.schedule import Iterative
from methods.selection import Seen, Selection

SCOPES = ("neuron", "layer", "global")


def sap_counts(
    weights: Tensor,
    p: float = 0.5,
    q: float = 1.0,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
    live: Tensor | None = None,
) -> Tensor:
    """How many weights c_t (n,) int64 each unit loses.

    Args:
        weights: (n, d), one unit per row.
        p: smaller exponent of the PQ index, 0 < p < q.
        q: larger exponent.
        eta: η >= 0, the tail ratio; larger prunes more.
        gamma: γ >= 0, factor on the pruned fraction.
        beta: β in [0, 1], largest fraction that may go in one step.
        live: (n, d) which weights are still there; None means all.
    """
    if not gamma >= 0:
        raise BadInput(f"gamma={gamma} is not a scaling factor; expected gamma >= 0, for example gamma=1")
    if not 0 <= beta <= 1:
        raise BadInput(f"beta={beta} is not a fraction; expected 0 <= beta <= 1, for example beta=0.9")
    retained = pq_retained(weights, p, q, eta, live)
    if not torch.isfinite(retained).all():
        raise Collapsed("the weights are not finite, so they have no PQ index")
    size = torch.full_like(retained, weights.shape[-1]) if live is None else live.sum(-1, dtype=torch.float64)
    removed = torch.minimum(gamma * (size - whole(retained)), beta * size)
    # 0.9 x 10 may come out as 8.999...: nudge by far less than one weight before the floor.
    return torch.minimum(torch.floor(removed * (1 + 1e-12)), (size - 1).clamp(min=0)).long()


def sap_masks(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    scope: str = "global",
    p: float = 0.5,
    q: float = 1.0,
    eta: float = 0.0,
    gamma: float = 1.0,
    beta: float = 0.9,
) -> dict[str, Tensor]:
    """The next masks: one pruning step of Algorithm 1 for a whole network.

    Args:
        weights: weight tensors by name, the first dimension counting output units; any float type.
        masks: current masks of the same shapes; None means nothing is pruned yet. The new masks are subsets of them.
        scope: ``neuron``, ``layer`` or ``global``.
        p: smaller exponent of the PQ index.
        q: larger exponent.
        eta: η >= 0; larger prunes more.
        gamma: γ >= 0, factor on the pruned fraction.
        beta: β in [0, 1], largest fraction that may go.
    """
    units = as_units(weights, scope)
    live = None if masks is None else as_units({name: masks[name].bool() for name in weights}, scope)
    new: dict[str, Tensor] = {}
    for name, rows in units.items():
        alive = None if live is None else live[name]
        new[name] = without_smallest(rows.abs(), sap_counts(rows, p, q, eta, gamma, beta, alive), alive)
    return from_units(new, weights)


def as_units(tensors: Mapping[str, Tensor], scope: str) -> dict[str, Tensor]:
    """Tensors as matrices with one unit per row; a single row named "global" in global scope."""
    check_scope(scope)
    if scope == "neuron":
        return {name: tensor.detach().flatten(1) for name, tensor in tensors.items()}
    rows = {name: tensor.detach().reshape(1, -1) for name, tensor in tensors.items()}
    return rows if scope == "layer" else {"global": torch.cat(list(rows.values()), 1)}


def from_units(units: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`as_units`, with the shapes of ``like``."""
    if set(units) == {"global"} and set(like) != {"global"}:
        pieces = units["global"].flatten().split([tensor.numel() for tensor in like.values()])
        units = dict(zip(like, pieces, strict=True))
    return {name: units[name].reshape(tensor.shape) for name, tensor in like.items()}


def without_smallest(magnitude: Tensor, counts: Tensor, live: Tensor | None = None) -> Tensor:
    """Mask (n, d) of live entries after the ``counts[i]`` smallest of row i are taken out.

    Of equal magnitudes the ones with the lowest index stay, so the counts are exact. Thresholds come from sorting
    values alone, which is several times faster than sorting with indices.
    """
    if live is not None:
        magnitude = magnitude.masked_fill(~live, torch.inf)
    size = torch.full_like(counts, magnitude.shape[1]) if live is None else live.sum(1)
    kept = size - counts
    threshold = _order_statistic(magnitude, counts)[:, None]
    mask = magnitude >= threshold
    if live is not None:
        mask &= live
    excess = mask.sum(1) > kept
    if excess.any():
        rows = excess.nonzero().squeeze(1)
        above = magnitude[rows] > threshold[rows]
        ties = mask[rows] & ~above
        if live is not None:
            above &= live[rows]
        free = kept[rows] - above.sum(1)
        mask[rows] = above | (ties & (ties.cumsum(1, dtype=torch.int32) <= free[:, None]))
    return mask


def _order_statistic(values: Tensor, place: Tensor) -> Tensor:
    """The ``place[i]``-th smallest value (from 0) of row i; ``place[i]`` may not exceed d - 1."""
    if len(values) == 1:
        if values.is_cpu:  # partition is linear and not limited in length
            return torch.from_numpy(np.partition(values[0].numpy(), int(place[0])))[place]
        return torch.kthvalue(values, int(place[0]) + 1, dim=1).values
    ordered = torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.is_cpu else values.sort(dim=1).values
    return ordered.gather(1, place[:, None]).squeeze(1)


def check_scope(scope: str) -> None:
    """Raise unless the scope exists."""
    if scope not in SCOPES:
        raise BadInput(f"scope={scope} does not exist; choose one of {', '.join(SCOPES)}")


class SAP(Allocation):
    """Algorithm 1 as an allocation: s = 0 removes what the rule says, s = 1 nothing, between them a part of it.

    The rule, not the budget, sizes a step: as long as s = 0 leaves more than the budget it is taken as it is, and the
    last step is cut short to end at the budget. Goes with magnitude selection of edges and :class:`UntilBudget`.

    Attributes:
        partial: a step may end above its target; see ``methods.budgets.budget.meet``.

    Args:
        scope: ``neuron``, ``layer`` or ``global``.
        p, q, eta, gamma, beta: as for :func:`sap_counts`.
    """

    partial = True
    units = frozenset({"edge"})

    def __init__(
        self,
        scope: str = "neuron",
        p: float = 0.5,
        q: float = 1.0,
        eta: float = 0.0,
        gamma: float = 1.0,
        beta: float = 0.9,
    ) -> None:
        check_scope(scope)
        self.scope = scope
        self.rule = partial(sap_counts, p=p, q=q, eta=eta, gamma=gamma, beta=beta)
        self.rule(torch.ones(1, 1))  # its checks, now rather than after the dense training

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Live weights minus ⌊(1 - s) c⌋ in every unit; the units' smallest magnitudes decide in global scope."""
        edges = [layer for layer in layers if isinstance(layer, EdgeLayer)]
        if len(edges) < len(layers):
            raise BadInput("allocation=sap is defined for edges; use a selection with unit edge, or allocation=pq")
        weights = {layer.name: layer.weight for layer in edges}
        live = as_units({layer.name: layer.live for layer in edges}, self.scope)
        units = as_units(weights, self.scope)
        removed = {name: self.rule(rows, live=live[name]) for name, rows in units.items()}
        if self.scope == "global":
            return _global_family(edges, units["global"][0], live["global"][0], int(removed["global"]))
        sizes = {name: rows.sum(1) for name, rows in live.items()}

        def counts(s: float) -> Counts:
            kept = {name: sizes[name] - torch.floor((1 - s) * removed[name]).long() for name in sizes}
            return kept if self.scope == "neuron" else {name: int(count) for name, count in kept.items()}

        return counts


class UntilBudget(Iterative):
    """Up to n steps that all aim at the final budget, for allocations whose rule limits how far one step goes.

    Args:
        steps: largest number of pruning steps T; training happens T + 1 times.
        rewind: ``init``, ``none`` or an epoch number; see ``methods.schedule.Schedule``.
        recipe: ``train`` or ``finetune``; None: as ``methods.schedule.Schedule`` says.
    """

    def __init__(self, steps: int = 15, rewind: str | int = "init", recipe: str | None = None) -> None:
        super().__init__(steps=steps, rewind=rewind, recipe=recipe)

    def targets(self, budget: Budget) -> list[Budget]:
        """The final budget, n times."""
        return [budget] * self.steps


def _global_family(layers: Sequence[EdgeLayer], weights: Tensor, live: Tensor, removed: int) -> Family:
    """Counts per layer when the ⌊(1 - s) removed⌋ smallest weights of the network go; a layer may empty."""
    owner = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor([layer.size for layer in layers]))
    sizes = torch.tensor([int(layer.live.sum()) for layer in layers])
    going = live & ~without_smallest(weights.abs()[None], torch.tensor([removed], device=live.device), live[None])[0]
    # descending and reversed: of equal magnitudes the one with the highest index goes first
    order = torch.sort(weights[going].abs(), descending=True, stable=True).indices.flip(0)
    owners = owner[going.cpu()][order.cpu()]

    def counts(s: float) -> Counts:
        gone = torch.bincount(owners[: int((1 - s) * removed)], minlength=len(layers))
        return {layer.name: int(kept) for layer, kept in zip(layers, sizes - gone, strict=True)}

    return counts
