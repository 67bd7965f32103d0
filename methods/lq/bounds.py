"""Sparse-ℓq pruning: how many weights a neuron needs, and what dropping the others can cost.

Papers: Yang, Wang, Ding and Yang, "A theoretical understanding of neural network compression from sparse linear
approximation" (2022), which rests on Gao, Ing and Yang, "Metric entropy and sparse linear approximation of ℓq-hulls"
(2013, Theorem 2). Every count and bound per neuron in this file is a reconstruction from the theory: the first paper's
own constants and algorithm boxes were not at hand. The PQ count is Theorem 2 of Diao et al. (ICLR 2023), known from the
authors' code and poster.

A neuron reads h in R^d and computes z = w·h + b. S holds the k largest |w_j|, w_S is w cut to S, M = E[h hᵀ]:

    effective count   k = (‖w‖_q / ‖w‖₁)^(q/(1-q))                                   1 for one-hot, d for flat w
    PQ count          r = d (1+η)^(-q/(q-p)) (1 - I_pq)^(qp/(q-p))                     s for s equal entries, η = 0
    ℓ2 tail           ‖w - w_S‖₂ <= c_q k^(1/2-1/q) ‖w‖_q,  c_q = (q/2)^(1/2) (1-q/2)^(1/q-1/2)            (sharp)
    ℓ1 tail           ‖w - w_S‖₁ <= k^(1-1/q) ‖w‖_q
    output            ‖z - z_S‖  <= min(√λ_max(M) × ℓ2 tail, max_j √M_jj × ℓ1 tail)           norms are L2 over the data
    existence         some k weights, freely chosen: error <= C_q max_j √M_jj ‖w‖_q k^(1/2-1/q),  C_q = 2^(1/q-1/2)

Existence decays as k^(1/2-1/q) without any condition on M, thresholding only as k^(1-1/q): the gap is what refitting
the kept weights can gain when inputs are correlated.

Shapes: weights (..., d), one row per neuron or filter; results (...,), float64. Counts are real; ``whole`` rounds them
up. Everything is vectorised over rows.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.network.sparsity import check_exponent, check_pq, lq_norm, normalised, power_sum, pq_index

ROUNDING = 1e-10  # relative; a count this close above a whole number is that number


def lq_effective_count(w: Tensor, q: float, live: Tensor | None = None) -> Tensor:
    """Effective number of weights (‖w‖_q/‖w‖₁)^(q/(1-q)) (...,), in [1, d]; 1 for zeros, 0 where nothing is live."""
    check_exponent(q, below_one=True)
    scaled, peak, size = normalised(w, live)
    log_count = (torch.log(power_sum(scaled, q)) - q * torch.log(power_sum(scaled, 1))) / (1 - q)
    count = torch.where(peak == 0, 1.0, torch.exp(log_count).clamp(min=1))
    return torch.minimum(count, size)


def pq_retained(w: Tensor, p: float = 0.5, q: float = 1.0, eta: float = 0.0, live: Tensor | None = None) -> Tensor:
    """Number of weights r (...,) that the PQ index asks to keep, in [0, d].

    If the weights outside the r largest carry at most η times the ℓp power of those inside, r cannot be smaller
    (Theorem 2): a lower bound, used as a target. η > 0 keeps fewer. Zeros keep everything, as their index is 0.
    """
    check_pq(p, q)
    if not eta >= 0:
        raise BadInput(f"eta={eta} is not a tail ratio; expected eta >= 0, for example eta=0")
    size = torch.full(w.shape[:-1], w.shape[-1], device=w.device) if live is None else live.sum(-1)
    flatness = 1 - pq_index(w, p, q, live)
    return size.double() * (1 + eta) ** (-q / (q - p)) * flatness ** (q * p / (q - p))


def tolerance_count(w: Tensor, q: float, epsilon: float, live: Tensor | None = None) -> Tensor:
    """Smallest k (...,) whose ℓ2 tail bound is at most ε‖w‖₂, in [1, d]: the bound solved for k (reconstruction).

    A flat neuron is pruned only if ε > c_q; q = 0.5 has c_q = 0.325.
    """
    if not epsilon > 0:
        raise BadInput(f"epsilon={epsilon} is not a tolerance; expected epsilon > 0, for example epsilon=0.5")
    ratio = sharp_tail_constant(q) * lq_norm(w, q, live) / (epsilon * lq_norm(w, 2, live))
    return _count_from_ratio(ratio, q, w, live)


def output_tolerance_count(w: Tensor, q: float, tau: float, second: Tensor, refit: bool = True) -> Tensor:
    """Smallest k (...,) whose bound on the output error is at most τ, in [1, d] (reconstruction).

    Args:
        w: (..., d) weights.
        q: exponent in (0, 1].
        tau: absolute tolerance on ‖z - z_S‖ over the data.
        second: (d, d) second moment M of the inputs.
        refit: invert the existence bound, to be followed by a refit; False inverts λ_max × ℓ2 tail of thresholding.
    """
    if not tau > 0:
        raise BadInput(f"tau={tau} is not a tolerance; expected tau > 0")
    scale = existence_constant(q) * _input_size(second) if refit else sharp_tail_constant(q) * _operator_size(second)
    return _count_from_ratio(scale * lq_norm(w, q) / tau, q, w, None)


def whole(count: Tensor) -> Tensor:
    """Counts rounded up to int64; rounding errors of float64 do not add a unit."""
    return torch.ceil(count * (1 - ROUNDING)).long()


def sharp_tail_constant(q: float) -> float:
    """c_q = (q/2)^(1/2) (1-q/2)^(1/q-1/2), the best constant of the ℓ2 tail bound; c_1 = 1/2."""
    _check_below_two(q)
    return math.sqrt(q / 2) * (1 - q / 2) ** (1 / q - 0.5)


def existence_constant(q: float) -> float:
    """C_q = 2^(1/q-1/2), the constant of sparse approximation in L2 with k terms in all."""
    _check_below_two(q)
    return 2 ** (1 / q - 0.5)


def tail_bound(w: Tensor, q: float, k: int | Tensor) -> Tensor:
    """Bound c_q k^(1/2-1/q) ‖w‖_q (...,) on ‖w - w_S‖₂; ``k`` is a number or (...,). Infinite at k = 0."""
    return sharp_tail_constant(q) * _power(k, 0.5 - 1 / q, w) * lq_norm(w, q)


def l1_tail_bound(w: Tensor, q: float, k: int | Tensor) -> Tensor:
    """Bound k^(1-1/q) ‖w‖_q (...,) on ‖w - w_S‖₁, 0 < q <= 1."""
    _check_up_to_one(q)
    return _power(k, 1 - 1 / q, w) * lq_norm(w, q)


def output_tail_bound(w: Tensor, q: float, k: int | Tensor, second: Tensor) -> Tensor:
    """Bound (...,) on the output error of thresholding, from the (d, d) second moment of the inputs."""
    by_operator = _operator_size(second) * tail_bound(w, q, k)
    return torch.minimum(by_operator, _input_size(second) * l1_tail_bound(w, q, k))


def existence_bound(w: Tensor, q: float, k: int | Tensor, second: Tensor) -> Tensor:
    """Bound (...,) on the output error of the best k-term linear combination of the inputs, 0 < q <= 1."""
    _check_up_to_one(q)
    return existence_constant(q) * _input_size(second) * _power(k, 0.5 - 1 / q, w) * lq_norm(w, q)


def output_error(change: Tensor, second: Tensor) -> Tensor:
    """Exact root mean square error √(Δᵀ M Δ) (...,) of the outputs when the weights change by ``change`` (..., d)."""
    return ((change @ second) * change).sum(-1).clamp(min=0).sqrt()


def network_bound(weights: Sequence[Tensor], local: Sequence[Tensor], lipschitz: float = 1.0) -> list[Tensor]:
    """Bounds on ‖h_i - h̃_i‖ for the neurons of every layer of a fully connected network (reconstruction).

    δ_0 = 0, δ_l = ρ (|W̃_l| δ_{l-1} + e_l), with ρ = 1 in the last, linear layer. Valid but loose: the products of ℓ1
    norms grow with depth, so it ranks prunings rather than certifying them.

    Args:
        weights: pruned W̃_l, each (out, d).
        local: e_l (out,), the error that pruning layer l alone makes on the original activations: exact from
            ``output_error`` or bounded by ``output_tail_bound``.
        lipschitz: ρ of the activation (1 for ReLU).
    """
    if len(weights) != len(local):
        raise BadInput(f"{len(weights)} weight matrices but {len(local)} local errors; expected one per layer")
    bounds: list[Tensor] = []
    for depth, (weight, error) in enumerate(zip(weights, local, strict=True)):
        total = error.double()
        if bounds:
            if weight.shape[1] != len(bounds[-1]):
                raise BadInput(
                    f"layer {depth} reads {weight.shape[1]} inputs but the layer before has {len(bounds[-1])} neurons; "
                    "the bound needs a chain of fully connected layers"
                )
            total = total + weight.detach().double().abs() @ bounds[-1]
        bounds.append(total if depth == len(weights) - 1 else lipschitz * total)
    return bounds


def uniform_network_bound(weights: Sequence[Tensor], local: Sequence[Tensor], lipschitz: float = 1.0) -> float:
    """The coarser closed form Σ_l max e_l ρ^(L-l) Π_{m>l} max_i ‖W̃_m,i‖₁ of ``network_bound`` (reconstruction)."""
    total, factor = 0.0, 1.0
    for depth in range(len(weights) - 1, -1, -1):
        rho = 1.0 if depth == len(weights) - 1 else lipschitz
        total += factor * rho * float(local[depth].max())
        factor *= rho * float(weights[depth].detach().double().abs().sum(1).max())
    return total


def _count_from_ratio(ratio: Tensor, q: float, w: Tensor, live: Tensor | None) -> Tensor:
    _check_up_to_one(q)
    size = torch.full_like(ratio, w.shape[-1]) if live is None else live.sum(-1, dtype=torch.float64)
    count = ratio ** (2 * q / (2 - q))
    return torch.minimum(torch.nan_to_num(count, nan=1.0, posinf=math.inf).clamp(min=1), size)


def _power(k: int | Tensor, exponent: float, w: Tensor) -> Tensor:
    return torch.as_tensor(k, dtype=torch.float64, device=w.device) ** exponent


def _operator_size(second: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(second.double())[-1].clamp(min=0).sqrt()


def _input_size(second: Tensor) -> Tensor:
    return second.diagonal().double().max().clamp(min=0).sqrt()


def _check_below_two(q: float) -> None:
    if not 0 < q < 2:
        raise BadInput(f"q={q} gives no tail bound; expected 0 < q < 2, for example q=0.5")


def _check_up_to_one(q: float) -> None:
    if not 0 < q <= 1:
        raise BadInput(f"q={q} gives no sparse approximation bound; expected 0 < q <= 1, for example q=0.5")
