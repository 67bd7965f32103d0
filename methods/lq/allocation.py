"""Give each neuron or layer a count in proportion to how many weights (or nodes) it needs according to its own norms.

Papers: the ℓq count per neuron is a reconstruction from the theory of Yang, Wang, Ding and Yang (2022), see
``methods.lq.bounds``; the PQ count is Theorem 2 of Diao et al. (ICLR 2023). Meeting a prescribed budget with them is
our extension: with e_i the effective count of unit i of n in a layer and d_i its size, it keeps

    k_i(a) = min(d_i, max(1, ⌊a e_i + (i + 1/2)/n⌋)),   i = 0..n-1

for one factor a that all units share. Ratios between units are the method's, the total is the budget's. The rounding
points are spread over the units: units with equal e_i do not all gain a weight at once, and the total can be met.

For edges a unit is a row (a neuron or filter), or a whole layer; for nodes it is a coupled group, whose vector has one
entry per node: the ℓq norm of the weights with which the readers read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from methods.allocation import Allocation
from methods.budgets.budget import Counts, Family
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, Layer, NodeLayer
from methods.lq.bounds import lq_effective_count, pq_retained, tolerance_count
from methods.network.sparsity import check_exponent, check_pq, lq_norm
from methods.selection import Seen, Selection

EffectiveCount = Callable[[Tensor, Tensor | None], Tensor]  # (n, d) weights, live mask -> (n,) counts


class SparseLq(Allocation):
    """Keeps as many units as the ℓq norm says are needed.

    Args:
        q: 0 < q < 1.
        rule: ``effective`` for (‖w‖_q/‖w‖₁)^(q/(1-q)); ``tolerance`` for the k at which the ℓ2 tail bound is ε‖w‖₂.
        epsilon: relative tolerance of the second rule; it has to exceed c_q to tell neurons apart.
        scope: ``neuron`` (rows) or ``layer``, for edges.
    """

    def __init__(self, q: float = 0.5, rule: str = "effective", epsilon: float = 0.5, scope: str = "neuron") -> None:
        check_exponent(q, below_one=True)
        if rule not in ("effective", "tolerance"):
            raise BadInput(f"allocation.rule={rule} is unknown; choose effective or tolerance")
        if not epsilon > 0:
            raise BadInput(f"allocation.epsilon={epsilon} is not a tolerance; expected epsilon > 0, for example 0.5")
        self.q, self.rule, self.epsilon, self.scope = q, rule, epsilon, _check_scope(scope)

    def effective(self, weights: Tensor, live: Tensor | None) -> Tensor:
        """Counts (n,) of units (n, d)."""
        if self.rule == "effective":
            return lq_effective_count(weights, self.q, live)
        return tolerance_count(weights, self.q, self.epsilon, live)

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Effective counts times a factor that grows with s until every unit is full."""
        return scaled_family(layers, self.effective, self.scope, self.q)


class PQ(Allocation):
    """Keeps as many units as the PQ index asks for, r = d (1+η)^(-q/(q-p)) (1 - I_pq)^(qp/(q-p)).

    Args:
        p, q: exponents, 0 < p < q.
        eta: η >= 0; a common factor to all units, so that it matters only where counts are clipped.
        scope: ``neuron`` (rows) or ``layer``, for edges.
    """

    def __init__(self, p: float = 0.5, q: float = 1.0, eta: float = 0.0, scope: str = "neuron") -> None:
        check_pq(p, q)
        if not eta >= 0:
            raise BadInput(f"allocation.eta={eta} is not a tail ratio; expected eta >= 0, for example eta=0")
        self.p, self.q, self.eta, self.scope = p, q, eta, _check_scope(scope)

    def effective(self, weights: Tensor, live: Tensor | None) -> Tensor:
        """Counts (n,) of units (n, d)."""
        return pq_retained(weights, self.p, self.q, self.eta, live)

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """Retained counts times a factor that grows with s until every unit is full."""
        return scaled_family(layers, self.effective, self.scope, min(self.q, 1.0))


class UniformPerNeuron(Allocation):
    """The same fraction of weights in every neuron or filter, the control of the two above. For edges."""

    units = frozenset({"edge"})
    even = True

    def family(self, layers: Sequence[Seen], selection: Selection[Seen]) -> Family:
        """About s d weights of d per row, at least one."""
        if any(layer.unit != "edge" for layer in layers):
            raise BadInput("allocation=uniform_per_neuron is defined for edges; use unit edge, or allocation=uniform")
        return scaled_family(layers, lambda weights, live: sizes_of(weights, live).double(), "neuron", 1.0)


def scaled_family(layers: Sequence[Layer], effective: EffectiveCount, scope: str, q: float) -> Family:
    """Counts about a e_i in [1, d_i], with a running from 0 to the value that fills every unit as s goes from 0 to 1.

    Args:
        layers: node or edge layers.
        effective: e_i of each unit.
        scope: for edges, ``neuron`` gives one count per row, ``layer`` one per layer.
        q: exponent of the norm that makes one number of a node's outgoing weights.
    """
    units = {layer.name: _vectors(layer, scope, q) for layer in layers}
    sizes = {name: sizes_of(weights, live) for name, (weights, live) in units.items()}
    shares = {name: effective(weights, live).clamp(min=0) for name, (weights, live) in units.items()}
    full = max(float((sizes[name] / shares[name].clamp(min=1e-12)).max()) for name in units)
    stagger = {name: (torch.arange(len(size), device=size.device) + 0.5) / len(size) for name, size in sizes.items()}
    per_row = scope == "neuron"

    def counts(s: float) -> Counts:
        result: dict[str, int | Tensor] = {}
        for layer in layers:
            size = sizes[layer.name]
            share = torch.floor(s * full * shares[layer.name] + stagger[layer.name])
            rows = share.clamp(min=1).minimum(size) if s < 1 else size
            result[layer.name] = rows.long() if layer.unit == "edge" and per_row else int(rows.sum())
        return result

    return counts


def sizes_of(weights: Tensor, live: Tensor | None) -> Tensor:
    """Number of live entries (n,) int64 of each row."""
    return torch.full((len(weights),), weights.shape[1], device=weights.device) if live is None else live.sum(1)


def outgoing_norms(layer: NodeLayer, q: float) -> Tensor:
    """ℓq norm (m,) of all weights with which the readers of a group read each of its nodes."""
    columns = [weights.transpose(0, 1).flatten(1) for weights in layer.outgoing]
    return lq_norm(torch.cat(columns, 1), q)


def _vectors(layer: Layer, scope: str, q: float) -> tuple[Tensor, Tensor | None]:
    if isinstance(layer, EdgeLayer):
        rows = (layer.weight, layer.live)
        return rows if scope == "neuron" else (rows[0].reshape(1, -1), rows[1].reshape(1, -1))
    return outgoing_norms(layer, q)[None], None


def _check_scope(scope: str) -> str:
    if scope not in ("neuron", "layer"):
        raise BadInput(f"allocation.scope={scope} does not exist here; choose neuron or layer")
    return scope
