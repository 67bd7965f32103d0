"""Formulas with which theories predict the damage of pruning.

:mod:`methods.theories.evaluation` names their sources.
"""

import torch
from torch import Tensor

from methods.curvature.kfac import Factors
from methods.dpp.selection import DPPKernel
from methods.hessian.obs import group_update
from methods.layers.seen import NodeLayer
from methods.lq.allocation import outgoing_norms
from methods.lq.bounds import output_tail_bound, pq_retained, tail_bound
from methods.spectral.selection import SpectralSelection

Q = 0.5  # of the lq norms


def diagonal_increase(curvature: Tensor, change: Tensor) -> float:
    """OBD: 1/2 sum h Delta^2; both (d,)."""
    return 0.5 * float((curvature * change.square()).sum())


def fisher_increase(slopes: Tensor) -> float:
    """CBS: 1/2 mean (g_n . Delta)^2 from the products (N,), which add up over layers."""
    return 0.5 * float(slopes.square().mean())


def group_increase(gradients: Tensor, weight: Tensor, removed: Tensor, damping: float) -> float:
    """OBS: 1/2 w_S^T ([F^-1]_SS)^-1 w_S for the removed set S, F = lambda I + G^T G / N; arguments as group_update."""
    update = group_update(gradients, weight, removed, damping)
    return fisher_increase(gradients.double() @ update) + 0.5 * damping * float(update.square().sum())


def kronecker_increase(change: Tensor, factors: Factors) -> float:
    """Kron-OBD: 1/2 tr(G Delta A Delta^T), Delta (out, d); a bias column of A that Delta lacks counts as unchanged."""
    if change.shape[1] < len(factors.A):
        change = torch.cat([change, change.new_zeros(len(change), len(factors.A) - change.shape[1])], 1)
    return 0.5 * float(((factors.G @ change @ factors.A) * change).sum())


def radius_increase(radius: float, change: Tensor) -> float:
    """1/2 rho ||Delta||^2, an upper bound on a quadratic with curvature at most rho."""
    return 0.5 * radius * float(change.square().sum())


def negative_log_determinant(kernel: Tensor, kept: Tensor) -> float:
    """-log det(L_J) / k: small for a diverse set."""
    return -float(torch.linalg.slogdet(kernel[kept][:, kept]).logabsdet) / max(len(kept), 1)


def node_predictions(layer: NodeLayer, kept: Tensor, kernel: object = None, repaired: bool = True) -> dict[str, float]:
    """Predictions of spectral pruning, DPPs and sparse-lq theory for keeping the nodes ``kept``.

    Args:
        layer: the group in the dense network.
        kept: sorted indices.
        kernel: a ``DPPKernel``; None takes the RBF kernel with the median heuristic.
        repaired: whether the readers were fitted to the kept nodes, as spectral pruning's losses suppose.
    """
    spectral = SpectralSelection(constraint="off").report(layer, kept)
    norms, k = outgoing_norms(layer, Q)[None], len(kept)
    own = kernel if isinstance(kernel, DPPKernel) else DPPKernel(beta="median")
    losses = {
        "spectral input information loss": spectral["input_loss"],
        "spectral output information loss": spectral["output_loss"],
        "spectral bound on the information loss": spectral["loss_bound"],
    }
    told = "" if repaired else ", without its reconstruction"
    return {name + told: value for name, value in losses.items()} | {
        "degrees of freedom per kept node": spectral["degrees_of_freedom_at_lambda"] / k,
        "DPP negative log determinant": negative_log_determinant(own(layer.covariance, layer.moments[0].count), kept),
        "lq tail bound": float(tail_bound(norms, Q, k)[0]),
        "PQ index": _pq_excess(norms[0], k),
    }


def edge_predictions(weight: Tensor, live: Tensor, second: Tensor | None) -> dict[str, float]:
    """Predictions of sparse-lq theory and the PQ index for keeping some weights of a layer.

    Args:
        weight: (out, d), float64.
        live: (out, d), true for the weights that stay.
        second: (d, d) second moments of the layer's inputs; None leaves out the bound on the output.
    """
    counts = live.sum(1)
    said = {"lq tail bound": _tail(weight, counts, tail_bound(weight, Q, counts.clamp(min=1)))}
    if second is not None:
        bound = output_tail_bound(weight, Q, counts.clamp(min=1), second)
        said["lq bound on the output"] = float(bound.square().sum().sqrt())
    return said | {"PQ index": _pq_excess(weight.reshape(-1), int(live.sum()))}


def _tail(rows: Tensor, counts: Tensor, bound: Tensor) -> float:
    """Root of the summed squares over rows, nothing for rows that stay whole and the norm for empty ones."""
    bound = torch.where(counts == rows.shape[1], 0.0, torch.where(counts == 0, rows.norm(dim=1), bound))
    return float(bound.square().sum().sqrt())


def _pq_excess(values: Tensor, kept: int) -> float:
    return (float(pq_retained(values[None])[0]) - kept) / len(values)
