"""PFP, provable filter pruning: rank channels by the largest share that they have in any sum of the next layer.

Liebenwein, Baykal, Lang, Feldman and Rus, "Provable Filter Pruning for Efficient Neural Networks", ICLR 2020. The
sensitivity s_j of a channel is the largest share of one of its weights in what an output unit of the next layer sums up
(:mod:`methods.layers.sensitivity`). Sampling channels with probabilities p_j = s_j / S, S = sum_j s_j, until

    m(eps) = ceil( K (6 + 2 eps) S alpha / eps^2 ),    K = 3,    alpha = 2 C log(8 (T + 1) k / delta)

draws have been made keeps every output of a layer within a factor 1 +- eps, with T output positions, k weights per
kernel and failure probability delta. The number of channels that stay is the number of different ones expected in
that many draws,

    sum_j 1 - (1 - p_j)^m(eps),

for one eps in all layers, which the budget decides: the method's own allocation (:class:`EqualErrors`). The
deterministic variant, taken here, keeps the channels of the largest s_j. Constants are those of the authors' package.
Of several readers the largest sensitivity and the largest alpha count (our extension).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from methods.allocation import Allocation
from methods.budgets.budget import Counts, Family
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.layers.sensitivity import sensitivities
from methods.network.kinds.registry import matrix_of
from methods.progress import track
from methods.selection import Seen, Selection

LARGEST, SMALLEST = 1e9, 1e-9  # of eps


def draws(eps: float, scale: float) -> float:
    """m(eps): draws that keep a layer's outputs within 1 +- eps, with ``scale`` S alpha; at least 1."""
    return float(max(1, math.ceil(3 * (6 + 2 * eps) * scale / eps**2)))


def expected_unique(probabilities: Tensor, count: float) -> float:
    """Expected number of different items in ``count`` draws with (m,) ``probabilities``."""
    return float(-torch.expm1(count * torch.log1p(-probabilities.clamp_max(1))).sum())


class PFPSelection(Selection[NodeLayer]):
    """Keeps the nodes of the largest sensitivity.

    Args:
        samples: of the calibration set, over which the largest share is taken.
    """

    def __init__(self, samples: int = 256) -> None:
        if samples < 1:
            raise BadInput(f"selection.samples={samples} is not a number of samples; expected 1 or more: type 256")
        self.samples = samples

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) sensitivities in [0, 1]."""
        return self.sensitivity(layer)[0]

    def sensitivity(self, layer: NodeLayer) -> tuple[Tensor, int]:
        """(m,) sensitivities, and the largest (T + 1) k of the readers."""

        def compute() -> tuple[Tensor, int]:
            data = layer.calibration
            data = replace(data, inputs=data.inputs[: self.samples], labels=data.labels[: self.samples], batch_size=32)
            found, terms = torch.zeros(layer.size, dtype=torch.float64, device=layer.incoming.device), 1
            for reader in track(layer.group.readers, f"sensitivities of {layer.name}"):
                shares, positions = sensitivities(layer.model, reader.name, data, "max")
                matrix = matrix_of(layer.model.get_submodule(reader.name))
                own = reader.weights(shares.view(matrix.shape)).amax((0, 2))
                found, terms = torch.maximum(found, own), max(terms, (positions + 1) * matrix[0, 0].numel())
            return found, terms

        return layer.once(("sensitivity", layer.name, self.samples), compute)


class EqualErrors(Allocation):
    """As many nodes per layer as one relative error eps asks for, the same in all layers.

    Args:
        delta: probability that the bound fails.
        constant: C of alpha.
    """

    units = frozenset({"node"})

    def __init__(self, delta: float = 1e-16, constant: float = 3.0) -> None:
        if not 0 < delta < 1 or not constant > 0:
            raise BadInput(
                f"allocation.delta={delta:g}, constant={constant:g}: expected a probability and a positive number\n"
                "type allocation.delta=1e-16 allocation.constant=3"
            )
        self.delta, self.constant = delta, constant

    def require_fitting(self, selection: Selection[Any]) -> None:
        """Refuse selections that have no sensitivities."""
        super().require_fitting(selection)
        if not isinstance(selection, PFPSelection):
            raise BadInput(
                f"allocation=equal_errors needs sensitivities, which {type(selection).__name__} does not have; "
                "use method=pfp or allocation=uniform"
            )

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Expected numbers of different nodes at an eps that falls from a large to a small number as s goes to 1."""
        self.require_fitting(selection)
        assert isinstance(selection, PFPSelection)
        known = []
        for layer in layers:
            assert isinstance(layer, NodeLayer)
            shares, terms = selection.sensitivity(layer)
            total = float(shares.sum())
            alpha = 2 * self.constant * math.log(8 * terms / self.delta)
            known.append((layer.name, layer.size, (shares / max(total, 1e-300)).cpu(), total * alpha))

        def counts(s: float) -> Counts:
            if s >= 1:
                return {name: size for name, size, _, _ in known}
            eps = LARGEST ** (1 - s) * SMALLEST**s
            kept = {}
            for name, size, probabilities, scale in known:
                expected = math.ceil(expected_unique(probabilities, draws(eps, scale)) - 1e-9)
                kept[name] = min(size, max(1, expected))
            return kept

        return counts
