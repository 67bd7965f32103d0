"""Which units stay: the base of every selection, in its two shapes, a score per unit or a set of k units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, Layer, NodeLayer
from methods.layers.statistics import Calibration

if TYPE_CHECKING:
    from methods.pruned import Pruned

Seen = TypeVar("Seen", bound=Layer, contravariant=True)


class Selection(Generic[Seen]):
    """Base of all selections. A subclass gives ``scores`` or overrides ``select``.

    The type in brackets is what a subclass can look at: ``Selection[NodeLayer]`` or ``Selection[EdgeLayer]`` for a
    method of one unit, ``Selection[Layer]`` for one of either.

    Attributes:
        unit: ``node`` (neurons, channels: removed) or ``edge`` (single weights: masked).
        order: ``independent`` sees the original network in every layer; ``forward`` sees it with the earlier layers
            already pruned and repaired; ``backward`` goes from the output to the input and knows which rows of its
            readers stay.
        joint: whether it heeds only the sum of the layers' counts and spreads the units by itself.
    """

    unit: str = "node"
    order: str = "independent"
    joint: bool = False

    def scores(self, layer: Seen) -> Tensor:
        """A saliency per unit, larger = kept: (m,) for nodes, (out, d) for edges."""
        raise BadInput(
            f"{type(self).__name__} chooses sets of units, it has no score per unit to rank globally; "
            "use allocation=uniform, or a selection with scores such as magnitude"
        )

    def select(self, layer: Seen, k: Count) -> Tensor:
        """The ``k`` units that stay: sorted indices (k,) for nodes, a boolean mask (out, d) for edges."""
        scores = self.scores(layer)
        if isinstance(layer, EdgeLayer):
            return largest_mask(scores.masked_fill(~layer.live, -torch.inf), k)
        assert isinstance(k, int)
        return largest(scores, k)

    def select_all(self, layers: Sequence[Seen], counts: Mapping[str, Count]) -> dict[str, Tensor]:
        """The units that stay in every layer. Methods that choose jointly over the network override this."""
        return {layer.name: self.select(layer, counts[layer.name]) for layer in layers}

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """(k,) ridge of the method's own least-squares reconstruction; zeros mean the minimum-norm solution."""
        return torch.zeros(len(kept), dtype=torch.float64, device=layer.incoming.device)

    def report(self, layer: Seen, kept: Tensor) -> dict[str, Any]:
        """What the method knows of this layer, for the record."""
        return {}

    def predictions(self, dense: nn.Module, pruned: Pruned, calibration: Calibration) -> list[dict[str, Any]]:
        """What the method's theory says about the whole network, each with the fields of a record's ``predictions``."""
        return []


AnySelection = Selection[NodeLayer] | Selection[EdgeLayer]


def selects_nodes(selection: AnySelection) -> TypeGuard[Selection[NodeLayer]]:
    """Whether the selection looks at node layers: its unit says so."""
    return selection.unit == "node"


def selects_edges(selection: AnySelection) -> TypeGuard[Selection[EdgeLayer]]:
    """Whether the selection looks at edge layers: its unit says so."""
    return selection.unit == "edge"


def largest(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest scores, sorted; of equal scores the one with the lowest index stays."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:k].sort().values


def largest_mask(scores: Tensor, k: Count) -> Tensor:
    """Mask (out, d) of the ``k`` largest scores of a layer, or of ``k[i]`` in row i; ties to the lowest index."""
    if isinstance(k, int):
        mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        mask[largest(scores.flatten(), k)] = True
        return mask.view_as(scores)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    ranks = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, ranks < k.to(scores.device)[:, None])
