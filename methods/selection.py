"""Selections decide which units stay: this base class takes a score per unit or a set of k units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar, get_args, get_origin

import torch
from torch import Tensor, nn

from methods.budgets.budget import Budget, Count
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, Layer, NodeLayer, several_units
from methods.layers.statistics import Calibration
from methods.network.graph import NodeGroup

if TYPE_CHECKING:
    from methods.pruned import Pruned

Seen = TypeVar("Seen", bound=Layer, contravariant=True)
SHARE_TOLERANCE = 0.01  # between the fraction that a selection keeps of every layer and the one that is asked for


class Selection(Generic[Seen]):
    """Base class of all selections. A subclass defines ``scores`` or overrides ``select``.

    The type in brackets is what a subclass can look at: ``Selection[NodeLayer]`` or ``Selection[EdgeLayer]`` for a
    method of one unit, ``Selection[Layer]`` for a method of either unit, which then sets ``unit`` itself.

    Attributes:
        unit: ``node`` (neurons, channels: removed) or ``edge`` (single weights: masked); follows from the brackets.
        order: ``independent`` sees the original network in every layer; ``forward`` sees it with the earlier layers
            already pruned and repaired; ``backward`` goes from the output to the input and knows which rows of its
            readers stay.
        joint: whether it uses only the sum of the layers' counts and distributes the units itself.
        additive: whether scores are increases of a loss, in units that all layers share and that add up over units, so
            that a global ranking may divide them by what a unit costs.
        single_units: whether it scores output units one by one (``NodeLayer.writers``); groups whose nodes are several,
            such as heads, are then left alone, and the rest of the network is pruned.
        share: the fraction of every layer that stays, whatever the budget asks for; None where the budget decides.
    """

    unit: str = "node"
    order: str = "independent"
    joint: bool = False
    additive: bool = False
    single_units: bool = False
    share: float | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Take the unit from the type in the brackets.

        Raises:
            TypeError: if the class says otherwise.
        """
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            if isinstance(get_origin(base), type) and issubclass(get_origin(base), Selection):
                unit = getattr(get_args(base)[0], "unit", None)  # a union or a type variable has none
                own = cls.__dict__.get("unit", unit)
                if unit is not None and own != unit:
                    raise TypeError(f"{cls.__name__} looks at {get_args(base)[0].__name__}, so its unit is not '{own}'")
                if unit is not None:
                    cls.unit = unit

    def scores(self, layer: Seen) -> Tensor:
        """A saliency per unit, larger = kept: (m,) for nodes, (out, d) for edges."""
        raise BadInput(self.no_scores())

    def no_scores(self) -> str:
        """Return the message for a user who asks a selection of sets for scores."""
        return (
            f"{type(self).__name__} chooses sets of units, it has no score per unit to rank globally; "
            "use allocation=uniform, or a selection with scores such as magnitude"
        )

    def has_own(self, method: str) -> bool:
        """Whether the subclass overrides ``method`` of this base class, such as ``scores``."""
        return getattr(type(self), method) is not getattr(Selection, method)

    def leaves_alone(self, group: NodeGroup) -> str | None:
        """Why this method leaves a group of nodes alone; None if it prunes it."""
        return several_units(group) if self.single_units else None

    def require_budget(self, budget: Budget) -> None:
        """Refuse a budget that this selection cannot meet in any network, because it fixes the fraction that stays.

        If the budget limits the cost of the whole model, layers may keep at most that fraction of their units, since
        the parts that are not pruned have a cost, too.

        Raises:
            BadInput: the selection cannot meet it.
        """
        budget.require_fitting(self.unit)
        if self.share is None:
            return
        above = self.share - budget.remaining
        if above > SHARE_TOLERANCE or (budget.kind == "keep" and above < -SHARE_TOLERANCE):
            raise BadInput(
                f"{type(self).__name__} keeps {self.share:.3g} of every layer, the budget, or a step of the schedule, "
                f"asks for {budget.remaining:.3g}\ntype allocation=uniform schedule=one_shot "
                f"budget.keep={self.share:.3g}"
            )

    def gains(self, layer: Seen) -> Tensor:
        """(size,) what the best unit is worth, what the second best adds, and so on: scores in descending order.

        Selections that choose sets return the decreases of their loss along their path.
        """
        scores = self.scores(layer)
        if isinstance(layer, EdgeLayer):
            scores = scores.masked_fill(~layer.live, -torch.inf)
        return scores.flatten().sort(descending=True).values

    def select(self, layer: Seen, k: Count) -> Tensor:
        """The ``k`` units that stay: sorted indices (k,) for nodes, a boolean mask (out, d) for edges."""
        scores = checked_scores(self, layer)
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
        """What the method reports about this layer, for the record."""
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


def checked_scores(selection: Selection[Seen], layer: Seen) -> Tensor:
    """The selection's scores of a layer.

    Raises:
        BadInput: if there is not one per unit, or one is NaN or infinite (those of pruned weights do not count).
    """
    scores = selection.scores(layer)
    shape = tuple(layer.live.shape) if isinstance(layer, EdgeLayer) else (layer.size,)
    told = f"{type(selection).__name__}.scores of layer {layer.name}"
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
        given = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise BadInput(f"{told} returned {given}; expected a tensor of shape {shape}, one score per {layer.unit}")
    fine = scores.isfinite()
    if isinstance(layer, EdgeLayer):
        fine = fine | ~layer.live
    if not bool(fine.all()):
        raise BadInput(
            f"{told} returned {int((~fine).sum())} of {layer.size} numbers that are NaN or infinite; expected finite "
            "ones\nlook at the method's formula, and at the calibration data and weights that it reads"
        )
    return scores


def require_exact(selection: Selection[Seen], layer: Seen, kept: Tensor, k: Count | None) -> Tensor:
    """Check ``kept``, the choice of a selection.

    Args:
        selection: the selection that chose.
        layer: the layer whose units were offered.
        kept: indices (k,) for nodes, mask (out, d) for edges.
        k: how many were asked for; None where the selection distributes the units over the layers itself.

    Raises:
        BadInput: if these are not exactly k different units that exist and have not been pruned before.
    """
    told = f"{type(selection).__name__}.select for layer {layer.name}"
    if isinstance(layer, EdgeLayer):
        if kept.dtype != torch.bool or kept.shape != layer.live.shape:
            shape = f"{str(kept.dtype).removeprefix('torch.')} {tuple(kept.shape)}"
            raise BadInput(f"{told} returned {shape}; expected a boolean mask of shape {tuple(layer.live.shape)}")
        if bool((kept & ~layer.live).any()):
            raise BadInput(f"{told} keeps weights that an earlier step has pruned; expected none but layer.live")
        count = int(kept.sum())
    else:
        if kept.dtype != torch.int64 or kept.ndim != 1:
            shape = f"{str(kept.dtype).removeprefix('torch.')} {tuple(kept.shape)}"
            raise BadInput(f"{told} returned {shape}; expected int64 indices of shape (k,)")
        inside = bool(((kept >= 0) & (kept < layer.size)).all()) and bool((kept.diff() > 0).all())
        if not inside:
            raise BadInput(f"{told} returned indices that are not sorted and different, from 0 to {layer.size - 1}")
        count = len(kept)
    asked = None if k is None else int(k.sum()) if isinstance(k, Tensor) else k
    if asked is not None and count != asked:
        raise BadInput(f"{told} keeps {count} of {layer.size} units; expected exactly the {asked} that were asked for")
    return kept


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
