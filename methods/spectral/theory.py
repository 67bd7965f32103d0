"""Degrees of freedom, leverage scores and the bounds of spectral pruning as numbers.

Suzuki et al., "Spectral Pruning: Compressing Deep Neural Networks via Spectral Analysis and its Generalization Error",
IJCAI 2020, arXiv 1808.08558. S (m, m) is the non-centred covariance of a layer's nodes, mu its eigenvalues,
lam > 0 in the units of S:

    N(lam)  = Tr[S (S + lam I)^-1] = sum_j mu_j / (mu_j + lam)      degrees of freedom
    N'(lam) = Tr[Z S (S + lam I)^-1 Z^T]                            output degrees of freedom
    tau'_j  = [S (S + lam I)^-1]_jj / N(lam)                        leverage scores, summing to one

If k >= 5 N log(80 N), some k nodes J with tau = k lam tau'_J satisfy R_J <= 4 lam S (S + lam I)^-1 in the Loewner
order and sum_J 1/tau' <= (5/3) m k; J is found with positive probability by sampling from tau'. Everything float64.

At lam = 0 the limits are taken: N = rank S. The constants of the network-wide theorem are not reproduced; instead
``propagation_bound`` evaluates a bound that is always valid, and ``bias_variance`` the two terms of the generalisation
bound without its constants (both are reconstructions).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.ridge import LARGE, cholesky_, eigenvectors_, strips
from methods.spectral.greedy import AnyMetric, Metric, checked_covariance, checked_metric, metric_times

SPECTRAL_FLOOR = 1e-13
"""Eigenvalues below this part of the largest count as zero (only at lam = 0 does it matter)."""


def _checked(lam: float) -> float:
    if not lam >= 0 or not math.isfinite(lam):
        raise BadInput(f"lam={lam:g} must be a non-negative number, in the units of the covariance")
    return float(lam)


def _shrinkage(values: Tensor, lam: float) -> Tensor:
    """Mu / (mu + lam), with the limit for lam = 0."""
    values = values.clamp(min=0)
    top = values.max() if len(values) else values.new_tensor(0.0)
    values = torch.where(values > SPECTRAL_FLOOR * top, values, torch.zeros_like(values))
    return torch.where(values > 0, values / (values + lam), values)


@torch.no_grad()
def degrees_of_freedom(covariance: Tensor, lam: float | Sequence[float]) -> Tensor:
    """N(lam) for one lam (0-dim) or for several of them (1-dim), from one eigenvalue decomposition.

    Args:
        covariance: (m, m) S.
        lam: non-negative, in the units of S.
    """
    values = torch.linalg.eigvalsh(checked_covariance(covariance))
    if isinstance(lam, Sequence):
        return torch.stack([_shrinkage(values, _checked(each)).sum() for each in lam])
    return _shrinkage(values, _checked(lam)).sum()


@torch.no_grad()
def leverages(covariance: Tensor, lam: float) -> Tensor:
    """(m,) diagonal of S (S + lam I)^-1, each in [0, 1]; their sum is N(lam). Dead nodes have exactly 0."""
    lam, covariance = _checked(lam), checked_covariance(covariance)
    moments = covariance.diagonal()
    trace = moments.sum().item()
    if trace <= 0:
        return torch.zeros_like(moments)
    if (factor := _shifted_factor(covariance, lam)) is not None:
        result = 1 - lam * _inverse_diagonal(factor)
        # the residual 1 - ... cancels for nodes far below lam, whose leverage has this much simpler bound
        result = torch.minimum(result, moments / lam)
    else:
        values, vectors = eigenvectors_(covariance.clone())
        result = vectors.square_() @ _shrinkage(values, lam)
    return torch.where(moments > 0, result.clamp(0, 1), torch.zeros_like(result))


def _shifted_factor(covariance: Tensor, lam: float) -> Tensor | None:
    """The Cholesky factor of S + lam I in the lower triangle; entries above the diagonal have no meaning.

    None if an eigendecomposition is preferable: for small matrices, where it is cheap, and for a lam so small that the
    factor loses digits. For large ones the factor is several times faster.
    """
    if len(covariance) < LARGE or not lam >= 1e-8 * covariance.diagonal().sum().item():
        return None
    factor = covariance.clone()
    factor.diagonal().add_(lam)
    return factor if cholesky_(factor) else None


def _inverse_diagonal(factor: Tensor) -> Tensor:
    """(m,) diagonal of (L L^T)^-1: squared column norms of L^-1, whose columns are zero above the diagonal."""
    result = torch.empty_like(factor.diagonal())
    for own in strips(len(factor)):
        columns = torch.zeros_like(factor[own.start :, own])
        columns.diagonal().fill_(1)
        columns = torch.linalg.solve_triangular(factor[own.start :, own.start :], columns, upper=False)
        result[own] = columns.square_().sum(0)
    return result


def leverage_scores(covariance: Tensor, lam: float) -> Tensor:
    """(m,) tau', the leverages divided by N(lam); they sum to one unless every node is dead."""
    result = leverages(covariance, lam)
    return result / result.sum().clamp(min=torch.finfo(result.dtype).tiny)


@torch.no_grad()
def mixed_degrees_of_freedom(covariance: Tensor, metric: AnyMetric, lam: float) -> Tensor:
    """Tr[M S (S + lam I)^-1] for a metric M, 0-dim: N(lam) for None, the identity, and N'(lam) for Z^T Z."""
    covariance, metric, lam = checked_covariance(covariance), checked_metric(metric), _checked(lam)
    total = covariance.new_zeros(())
    if (factor := _shifted_factor(covariance, lam)) is not None:
        for part in strips(len(covariance)):
            half = torch.linalg.solve_triangular(factor, covariance[:, part], upper=False)
            solved = torch.linalg.solve_triangular(factor.T, half, upper=True)
            total += metric_times(metric, solved)[part].diagonal().sum()
        return total
    values, vectors = eigenvectors_(covariance.clone())
    shrunk = _shrinkage(values, lam)
    for part in strips(len(covariance)):
        columns = vectors[:, part]
        total += ((columns * metric_times(metric, columns)).sum(0) * shrunk[part]).sum()
    return total


def output_degrees_of_freedom(covariance: Tensor, weight: Tensor, lam: float) -> Tensor:
    """N'(lam) = Tr[Z S (S + lam I)^-1 Z^T] for Z = weight (rows, m)."""
    return mixed_degrees_of_freedom(covariance, Metric.of(0.0, weight.double()), lam)


def compression_bound(covariance: Tensor, lam: float, metric: AnyMetric = None) -> Tensor:
    """4 lam Tr[M S (S + lam I)^-1], i.e. 4 lam N^theta for the mixed metric.

    The information loss of the best J does not exceed it from ``sufficient_width(N(lam))`` nodes on.
    """
    return 4 * lam * mixed_degrees_of_freedom(covariance, metric, lam)


def sufficient_width(degrees: float) -> float:
    """5 N log(80 N), the width from which the theorem applies; larger than the layer (vacuous) unless N << m."""
    return 5 * degrees * math.log(80 * degrees) if degrees > 1 / 80 else 0.0


def constraint_sides(leverage: Tensor, kept: Tensor) -> tuple[float, float]:
    """(sum_J 1/tau', (5/3) m k): the constraint that bounds the reconstruction's norm in the proof.

    Dead nodes (tau' = 0) are left out of the sum: their columns of A are zero.
    """
    scores = leverage[kept]
    return (1 / scores[scores > 0]).sum().item(), 5 / 3 * len(leverage) * len(kept)


def row_weights(leverage: Tensor, kept: Tensor) -> Tensor:
    """(m,) the probability q_j proportional to 1/tau'_j over the kept nodes, zero elsewhere (backward procedure).

    Dead nodes, whose 1/tau' is infinite, get none; if all kept nodes are dead, q is uniform over them.
    """
    inverse = torch.where(leverage[kept] > 0, 1 / leverage[kept], torch.zeros_like(leverage[kept]))
    if not bool(inverse.sum() > 0):
        inverse = torch.ones_like(inverse)
    result = torch.zeros_like(leverage)
    result[kept] = inverse / inverse.sum()
    return result


def layer_error(covariance: Tensor, kept: Tensor, reconstruction: Tensor, weight: Tensor) -> Tensor:
    """||W (I - A E_J) phi||_n, the change of the reader's pre-activation when a layer is replaced.

    Args:
        covariance: (m, m) S of the original network.
        kept: (k,) J.
        reconstruction: (m, k) A.
        weight: (rows, m) the rows of the reader that stay.
    """
    difference = weight.double().clone()
    difference[:, kept] -= weight.double() @ reconstruction
    return ((difference @ covariance) * difference).sum().clamp(min=0).sqrt()


def propagation_bound(errors: Sequence[float], norms: Sequence[float]) -> float:
    """Sum_l (prod_{l' > l} ||W#^(l')||_op) e_l >= ||f - f#||_n, for 1-Lipschitz activations.

    Layers are exchanged one at a time from the input; each exchange changes the next pruned layer's input by at most
    e_l. Valid for every choice of kept nodes and every reconstruction, unlike the theorem (our derivation).

    Args:
        errors: e_l = ``layer_error`` of the layers 2 ... L, from the input to the output.
        norms: operator norms ||W#^(l)|| of the same layers after pruning.
    """
    total = 0.0
    for index, error in enumerate(errors):
        total += float(error) * math.prod(float(norm) for norm in norms[index + 1 :])
    return total


def bias_variance(
    lams: Sequence[float], widths: Sequence[int], samples: int, factors: Sequence[float] | None = None
) -> tuple[float, float]:
    """The two terms of the generalisation bound, without its constants (reconstruction).

    bias = sum_l c_l sqrt(lam_l) grows with lam, variance = sqrt(sum_l m_l m_{l+1} log(n) / n) with the widths.

    Args:
        lams: lam of the pruned layers.
        widths: widths m_1 ... m_{L+1} of the pruned network, input and output included.
        samples: n, the training samples.
        factors: c_l; None is 1 throughout.
    """
    if samples < 2:
        raise BadInput(f"samples={samples} is too few for the bound; at least 2 training samples are needed")
    factors = [1.0] * len(lams) if factors is None else factors
    bias = sum(factor * math.sqrt(_checked(lam)) for factor, lam in zip(factors, lams, strict=True))
    parameters = sum(a * b for a, b in pairwise(widths))
    return bias, math.sqrt(parameters * math.log(samples) / samples)
