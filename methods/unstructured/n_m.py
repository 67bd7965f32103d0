"""n:m sparsity: of every m consecutive inputs of an output unit n stay, with any selection and compensation.

Mishra et al., "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378) describe 2:4 for tensor cores. Groups lie
along the input dimension: the features of a linear layer, and of a convolution the input channels at one position of
the kernel, in the order of its matrix products. A layer whose number of inputs is not a multiple of m (mostly the first
one, for images with three channels) stays as it is, as in the authors' library.

:class:`NM` fixes the sizes, so the budget is not consulted; :meth:`NM.imposed_on` makes a selection choose within
groups. A selection with scores keeps the n largest of each group. Those that update weights while they choose have
rules of their own: ExactOBS closes a group once m - n of its weights are gone (Frantar and Alistarh, 2022), SparseGPT
chooses the masks of m columns when its sweep reaches them (Frantar and Alistarh, 2023, section 3.3), ALPS projects onto
the pattern. Other selections can define a method ``select_pattern(layer, pattern)`` for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from methods.allocation import Allocation
from methods.budgets.budget import Count, Counts, Family
from methods.errors import BadInput
from methods.hessian.exact_obs import ExactOBSSelection
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.layers.statistics import Calibration
from methods.pruned import Pruned
from methods.selection import AnySelection, Seen, Selection, checked_scores
from methods.unstructured.sparsegpt import SparseGPTSelection, choose, inverse_factors


@dataclass(frozen=True)
class Pattern:
    """n of every m inputs stay."""

    n: int
    m: int

    def columns(self, layer: EdgeLayer) -> Tensor | None:
        """(d,) the columns of a layer, reordered so that groups lie side by side; None where m does not fit."""
        channels = layer.shape[1]
        if channels % self.m:
            return None
        order = torch.arange(layer.weight.shape[1], device=layer.weight.device)
        return order.view(channels, -1).T.flatten()

    def mask(self, layer: EdgeLayer, scores: Tensor) -> Tensor:
        """(out, d) boolean: of each group the n largest ``scores`` (out, d) that are live; ties to the first channel.

        Args:
            layer: one that the pattern fits.
            scores: finite where the layer is live.
        """
        columns = self.columns(layer)
        assert columns is not None
        groups = scores.masked_fill(~layer.live, -torch.inf)[:, columns].unflatten(1, (-1, self.m))
        order = torch.sort(groups, dim=2, descending=True, stable=True).indices
        chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order[..., : self.n], True).flatten(1)
        found = torch.zeros_like(layer.live)
        found[:, columns] = chosen
        return found & layer.live

    def counts(self, layer: EdgeLayer) -> int:
        """How many weights of a layer stay: min(n, live ones) of each group, all live ones where m does not fit."""
        columns = self.columns(layer)
        if columns is None:
            return int(layer.live.sum())
        live = layer.live[:, columns].unflatten(1, (-1, self.m)).sum(2)
        return int(live.clamp_max(self.n).sum())


@runtime_checkable
class ChoosesPatterns(Protocol):
    """A selection that knows how to choose within groups by itself."""

    def select_pattern(self, layer: EdgeLayer, pattern: Pattern) -> Tensor:
        """(out, d) mask with min(n, live ones) of each group."""


@singledispatch
def chosen(selection: Any, layer: EdgeLayer, pattern: Pattern) -> Tensor:
    """(out, d) the mask that a selection chooses under a pattern which fits the layer."""
    if isinstance(selection, ChoosesPatterns):
        return selection.select_pattern(layer, pattern)
    return pattern.mask(layer, checked_scores(selection, layer))


@chosen.register
def _(selection: ExactOBSSelection, layer: EdgeLayer, pattern: Pattern) -> Tensor:
    own = ExactOBSSelection(selection.damping, f"{pattern.n}:{pattern.m}")
    return own.select(layer, layer.size * pattern.n // pattern.m)


@chosen.register
def _(selection: SparseGPTSelection, layer: EdgeLayer, pattern: Pattern) -> Tensor:
    columns = pattern.columns(layer)
    assert columns is not None
    factor, dead = inverse_factors(layer, selection.damping, columns)
    live = layer.live[:, columns]
    counts: list[Count] = list(live.unflatten(1, (-1, pattern.m)).sum(2).clamp_max(pattern.n).unbind(1))
    found = torch.zeros_like(layer.live)
    found[:, columns] = choose(layer.weight[:, columns].masked_fill(dead, 0), factor, live, counts, pattern.m)
    return found


class Patterned(Selection[EdgeLayer]):
    """Makes another selection choose within groups, and delegates everything else to that selection.

    Args:
        inner: a selection of single weights.
        pattern: how many weights each group keeps.
    """

    def __init__(self, inner: Selection[EdgeLayer], pattern: Pattern) -> None:
        self.inner, self.pattern = inner, pattern
        self.order, self.additive = inner.order, inner.additive

    def __getattr__(self, name: str) -> Any:
        """Return options of the inner selection, which a repair may share (samples, damping)."""
        if name == "inner":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.inner, name)

    def scores(self, layer: EdgeLayer) -> Tensor:
        """Return the inner selection's scores."""
        return self.inner.scores(layer)

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """The mask that the pattern leaves; a layer that it does not fit keeps all."""
        return layer.live.clone() if self.pattern.columns(layer) is None else chosen(self.inner, layer, self.pattern)

    def ridge(self, layer: NodeLayer, kept: Tensor) -> Tensor:
        """Return the inner selection's ridge."""
        return self.inner.ridge(layer, kept)

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, Any]:
        """Return the inner selection's report."""
        return self.inner.report(layer, kept)

    def predictions(self, dense: nn.Module, pruned: Pruned, calibration: Calibration) -> list[dict[str, Any]]:
        """Return the inner selection's predictions."""
        return self.inner.predictions(dense, pruned, calibration)


class NM(Allocation):
    """Keeps n of every m inputs of each output unit, whatever the budget. For edges.

    Args:
        n: how many stay, at least 1 and fewer than m.
        m: how many inputs make a group.
    """

    units = frozenset({"edge"})

    def __init__(self, n: int = 2, m: int = 4) -> None:
        if not 0 < n < m:
            raise BadInput(
                f"allocation.n={n} allocation.m={m}: expected 0 < n < m, n inputs of every m that stay; "
                "type allocation.n=2 allocation.m=4"
            )
        self.pattern = Pattern(n, m)

    def imposed_on(self, selection: AnySelection) -> Patterned:
        """``selection``, choosing within groups.

        Raises:
            BadInput: if it does not choose single weights, does so for the network as a whole, or has neither scores
                nor a rule of its own for groups.
        """
        if isinstance(selection, Patterned):
            return Patterned(selection.inner, self.pattern)
        if selection.unit != "edge" or selection.joint:
            what = "chooses for the whole network at once" if selection.joint else f"removes {selection.unit} units"
            raise BadInput(
                f"{self.pattern.n}:{self.pattern.m} keeps single weights of each output unit, but "
                f"{type(selection).__name__} {what}\nuse method=wanda, or allocation=uniform"
            )
        own_rule = chosen.dispatch(type(selection)) is not chosen.dispatch(object)
        if not (own_rule or isinstance(selection, ChoosesPatterns) or selection.has_own("scores")):
            raise BadInput(selection.no_scores())
        return Patterned(selection, self.pattern)  # type: ignore[arg-type]  # its unit says that it looks at edges

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Refuse selections that do not follow the pattern."""
        super().require_fitting(selection)
        if not isinstance(selection, Patterned) or selection.pattern != self.pattern:
            own = f"NM({self.pattern.n}, {self.pattern.m})"
            raise BadInput(
                f"{own} fixes how many weights stay, but {type(selection).__name__} would choose them anywhere\n"
                f"give Pruner({own}.imposed_on(selection), {own}), or type allocation=n_m on the command line"
            )

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """The pattern's counts, whatever s is."""
        self.require_fitting(selection)
        counts: Counts = {layer.name: self.pattern.counts(layer) for layer in layers if isinstance(layer, EdgeLayer)}
        return lambda _s: counts
