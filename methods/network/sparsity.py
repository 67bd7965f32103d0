"""How sparse a vector is: ℓq norms, the sparsity index of one norm against another, the PQ index, and Gini.

Paper: Diao, Wang, Zhang, Yang, Ding and Tarokh, "Pruning deep neural networks from a sparsity perspective" (ICLR 2023);
what is written here follows the authors' code and poster. The single-norm index SI_q belongs to Yang, Wang, Ding and
Yang, "A theoretical understanding of neural network compression from sparse linear approximation" (2022); Gini to
Hurley and Rickard (2009), who found it the only one of fifteen measures with all six properties of sparsity.

    ‖w‖_q = (Σ |w_i|^q)^(1/q)                                a quasi-norm for q < 1
    SI_q  = ‖w‖₁ / ‖w‖_q                     0 < q < 1       in [d^(1-1/q), 1]
    I_pq  = 1 - d^(1/q-1/p) ‖w‖_p / ‖w‖_q    0 < p < q       in [0, 1 - d^(1/q-1/p)]

For both indices larger means sparser: the lower end is a flat vector, the upper end a vector with one nonzero entry.

Shapes: ``w`` is (..., d) and every function reduces the last dimension, so a layer's (out, d) gives one value per
neuron or filter. ``live`` is an optional boolean mask of the same shape: entries outside it are not zeros but absent,
and d counts live entries only: appending a zero raises the PQ index, so zeros must not be confused with pruned weights.
Everything is computed in float64 after division by the largest magnitude; powers 1/q are taken in the log domain, so
that q = 0.1 with a million weights (d^(1/q) = 1e60) is exact.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from methods.errors import BadInput


def lq_norm(w: Tensor, q: float, live: Tensor | None = None) -> Tensor:
    """‖w‖_q (...,) for any q > 0; 0 for a vector of zeros."""
    check_exponent(q)
    scaled, peak, _ = normalised(w, live)
    return torch.exp(torch.log(peak) + torch.log(power_sum(scaled, q)) / q)


def sparsity_index(w: Tensor, q: float, live: Tensor | None = None) -> Tensor:
    """SI_q = ‖w‖₁/‖w‖_q (...,) for 0 < q < 1; 1, the sparsest value, for a vector of zeros."""
    check_exponent(q, below_one=True)
    scaled, peak, _ = normalised(w, live)
    index = torch.exp(torch.log(power_sum(scaled, 1)) - torch.log(power_sum(scaled, q)) / q)
    return torch.where(peak > 0, index.clamp(max=1), 1.0)


def pq_index(w: Tensor, p: float = 0.5, q: float = 1.0, live: Tensor | None = None) -> Tensor:
    """The PQ index I_pq (...,) in the mean form 1 - (mean |w|^p)^(1/p) / (mean |w|^q)^(1/q), free of powers of d.

    The paper leaves w = 0 undefined; here it is 0 (nothing to prune), as it is for length one and for no live entry.
    """
    check_pq(p, q)
    scaled, peak, size = normalised(w, live)
    size = size.clamp(min=1)
    log_ratio = torch.log(power_sum(scaled, p) / size) / p - torch.log(power_sum(scaled, q) / size) / q
    index = -torch.expm1(log_ratio)
    return torch.where(peak > 0, index.clamp(min=0), torch.where(peak == 0, 0.0, torch.nan))


def gini(w: Tensor, live: Tensor | None = None) -> Tensor:
    """Gini index of |w| (...,): Σ (2i - d - 1) |w|_(i) / (d Σ |w|), |w|_(i) ascending, i = 1..d; 0 for zeros.

    In [0, 1 - 1/d]: 0 for a flat vector, the upper end for one nonzero entry.
    """
    scaled, peak, size = normalised(w, live)
    if live is not None:
        scaled = scaled.masked_fill(~live, -1.0)  # absent entries sort before the live ones
    # NumPy sorts several times faster on a processor
    ascending = torch.from_numpy(np.sort(scaled.numpy())) if scaled.is_cpu else torch.sort(scaled, dim=-1).values
    place = torch.arange(1, w.shape[-1] + 1, dtype=torch.float64, device=w.device)
    rank = place - (w.shape[-1] - size).unsqueeze(-1)
    weighted = ((2 * rank - size.unsqueeze(-1) - 1) * ascending * (rank > 0)).sum(-1)
    total = (ascending * (rank > 0)).sum(-1) * size
    return torch.where(peak > 0, weighted / total, 0.0).clamp(min=0)


def network_sparsity(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """PQ index (0.5, 1) and Gini index of all live weights of a network, end to end.

    Args:
        weights: weight tensors by name; vectors (biases, batch-norm scales) are left out.
        masks: boolean masks by the same names; weights without one are all live.
    """
    masks = masks or {}
    live = [
        weight.detach()[masks[name]] if name in masks else weight.detach().flatten()
        for name, weight in weights.items()
        if weight.ndim > 1
    ]
    vector = torch.cat([piece.float() for piece in live]) if live else torch.zeros(0)
    if len(vector) == 0:
        return {"pq_index": 0.0, "gini": 0.0}
    return {"pq_index": float(pq_index(vector)), "gini": float(gini(vector))}


def normalised(w: Tensor, live: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """|w|/max|w| (..., d) with absent entries 0, the maximum (...,), and the number of live entries (...,), in float64.

    A vector of zeros is divided by 1.
    """
    if w.ndim == 0 or w.shape[-1] == 0:
        raise BadInput(f"a vector of shape {tuple(w.shape)} has no entries; expected (..., d) with d >= 1")
    magnitude = w.detach().abs().double()
    if live is None:
        size = torch.full(w.shape[:-1], w.shape[-1], dtype=torch.float64, device=w.device)
    else:
        if live.shape != w.shape:
            raise BadInput(f"the live mask has shape {tuple(live.shape)}; expected the weights' {tuple(w.shape)}")
        magnitude = magnitude.masked_fill_(~live, 0)
        size = live.sum(-1, dtype=torch.float64)
    peak = magnitude.amax(-1)
    return magnitude.div_(torch.where(peak == 0, 1.0, peak).unsqueeze(-1)), peak, size


def power_sum(scaled: Tensor, q: float) -> Tensor:
    """Σ x^q (...,) of non-negative (..., d)."""
    if q == 1:
        return scaled.sum(-1)
    return (scaled.sqrt() if q == 0.5 else scaled.pow(q)).sum(-1)


def check_exponent(q: float, below_one: bool = False) -> None:
    """Raise unless 0 < q (and q < 1 where the norm is compared with the ℓ1 norm)."""
    if not (math.isfinite(q) and q > 0 and (q < 1 or not below_one)):
        expected = "0 < q < 1" if below_one else "a finite q > 0"
        raise BadInput(f"q={q} is not an exponent that works here; expected {expected}, for example q=0.5")


def check_pq(p: float, q: float) -> None:
    """Raise unless 0 < p < q."""
    if not (math.isfinite(q) and 0 < p < q):
        raise BadInput(f"p={p}, q={q} give no PQ index; expected 0 < p < q, for example p=0.5 q=1 or p=1 q=2")
