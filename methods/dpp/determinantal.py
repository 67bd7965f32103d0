r"""Determinantal point processes: kernels, exact sampling, marginals, greedy mode.

A. Kulesza and B. Taskar, "Determinantal Point Processes for Machine Learning", Foundations and Trends in ML 2012.
For a positive semidefinite kernel L (n x n) with eigenpairs (lambda_i, v_i):

    DPP:    P(Y) = det(L_Y) / det(I + L)                     |Y| is random, its mean is sum_i lambda_i / (1 + lambda_i)
    k-DPP:  P(Y) = det(L_Y) / e_k(lambda),   |Y| = k         e_k: elementary symmetric polynomial

Exact sampling has two phases. (1) Choose k eigenvectors J with probability prod_{i in J} lambda_i / e_k, walking down
the table of e_l(lambda_1..lambda_i). (2) Draw from the projection DPP with kernel V_J V_J^T: an item with probability
proportional to its residual diagonal, then condition on it; this is a Cholesky factorisation with random pivots,
O(n^2 k), done in blocks so that nearly all of the work is matrix products.

The table holds logarithms, so that e_k may be 1e+-1000 (a flat kernel, 3072 choose 1536, any scale of L). A k-DPP does
not change when L is multiplied by a constant; a plain DPP does. All computations are in float64.

Every draw takes its randomness from one ``torch.rand`` call of a length that depends on n and k only.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from methods.errors import BadInput

PAPER_SCALE = 10.0  # beta = 10 / t of DIVNET, times the t in a sum of squares over t samples
BLOCK = 48  # pivots between two updates of the Gram matrix by a matrix product


def squared_distances(second: Tensor) -> Tensor:
    """Mean squared differences (n, n) between items, from their second moments: d_ij = S_ii + S_jj - 2 S_ij.

    Args:
        second: (n, n) non-centred second moments S = (1/t) sum_s a_s a_s^T; leading batch dimensions are allowed.
    """
    diagonal = second.diagonal(dim1=-2, dim2=-1)
    distances = diagonal.unsqueeze(-1) + diagonal.unsqueeze(-2) - second - second.mT
    return distances.clamp_min(0.0)


def kernel_from_moments(second: Tensor, scale: float = PAPER_SCALE, jitter: float = 0.01) -> Tensor:
    """RBF kernel exp(-scale * mean squared difference) + jitter * I, (n, n).

    With ``scale = beta * t`` this is exp(-beta ||v_i - v_j||^2) for vectors over t samples; the published beta = 10 / t
    gives scale 10 whatever the number of samples.
    """
    _check_number(scale, "beta", positive=True)
    _check_number(jitter, "jitter", positive=False)
    kernel = torch.exp(-scale * squared_distances(second.double()))
    kernel = (kernel + kernel.mT) / 2  # a vectorised exp may differ in the last bit between equal entries
    kernel.diagonal(dim1=-2, dim2=-1).fill_(1.0 + jitter)
    return kernel


def linear_kernel(second: Tensor, jitter: float = 0.0) -> Tensor:
    """Second moments themselves as kernel, S + jitter * mean(diag S) * I; of rank at most the number of samples."""
    _check_number(jitter, "jitter", positive=False)
    kernel = second.double()
    kernel = (kernel + kernel.mT) / 2
    mean = kernel.diagonal(dim1=-2, dim2=-1).mean(-1)
    return kernel + jitter * torch.diag_embed(mean.unsqueeze(-1).expand(kernel.shape[:-1]))


def similarity_kernel(activations: Tensor, beta: float | None = None, jitter: float = 0.01) -> Tensor:
    """The kernel of DIVNET, exp(-beta ||v_i - v_j||^2) + jitter * I, (n, n) in float64.

    Args:
        activations: (t, n) activations AFTER the nonlinearity; column i is the vector v_i of unit i over t samples.
        beta: bandwidth; None is the published 10 / t.
        jitter: the published 0.01 makes the kernel strictly positive definite (and lets duplicates be drawn together).
    """
    if activations.ndim != 2 or activations.shape[0] == 0 or activations.shape[1] == 0:
        raise BadInput(
            f"activations of shape {tuple(activations.shape)} hold no calibration samples or no units; "
            "expected (samples, units), both at least 1"
        )
    samples = activations.shape[0]
    activations = activations.double()
    # Subtracting one vector from all columns leaves the differences alone and keeps the Gram form from cancelling.
    activations = activations - activations.mean(dim=1, keepdim=True)
    second = activations.T @ activations / samples
    return kernel_from_moments(second, PAPER_SCALE if beta is None else beta * samples, jitter)


def median_scale(second: Tensor) -> float:
    """Bandwidth by the median heuristic: 1 / median squared distance of different items (our deviation)."""
    size = second.shape[-1]
    rows, columns = torch.triu_indices(size, size, offset=1)
    distances = squared_distances(second.double())[rows, columns]
    distances = distances[distances > 0]
    return 1.0 / float(distances.median()) if len(distances) else 1.0


def log_elementary_symmetric(eigenvalues: Tensor, k: int) -> Tensor:
    """Table (n + 1, k + 1) whose entry [i, l] is log e_l of the first i eigenvalues; log e_k of all is [-1, -1].

    Recursion e_l(1..i) = e_l(1..i-1) + lambda_i e_{l-1}(1..i-1), carried out on logarithms; log 0 is -inf.
    """
    values = np.asarray(eigenvalues.detach().cpu().double())
    if not np.isfinite(values).all() or (values < 0).any():
        raise BadInput("eigenvalues must be finite and non-negative for elementary symmetric polynomials")
    with np.errstate(divide="ignore"):
        return torch.from_numpy(_log_table(np.log(values), k))


class KDPP:
    """A DPP held by its eigenvalues (ascending) and eigenvectors (columns): decompose once, draw as often as needed."""

    def __init__(self, eigenvalues: Tensor, eigenvectors: Tensor) -> None:
        values = np.asarray(eigenvalues.detach().cpu().double())
        vectors = np.asarray(eigenvectors.detach().cpu().double())
        self.size = len(values)
        largest = float(values.max())
        if values.min() < -1e-8 * max(largest, np.finfo(float).tiny):
            raise BadInput(
                f"the kernel is not positive semidefinite (eigenvalues from {values.min():.3g} to {largest:.3g}); "
                "expected a similarity kernel such as similarity_kernel(activations)"
            )
        positive = values > largest * self.size * np.finfo(float).eps
        self.rank = int(positive.sum())
        self.values = values[positive]
        self.vectors = np.ascontiguousarray(vectors[:, positive])
        self.eigenvalue_range = (float(values.min()), largest)
        self._log_values = np.log(self.values)
        self._log_relative = self._log_values - (np.log(largest) if self.rank else 0.0)  # a k-DPP ignores the scale
        self._tables: dict[int, np.ndarray] = {}

    @classmethod
    def from_kernel(cls, kernel: Tensor) -> "KDPP":
        """Check and decompose a kernel (n, n)."""
        if kernel.ndim != 2:
            raise BadInput(f"a DPP kernel must be a square matrix; got shape {tuple(kernel.shape)}")
        return cls.from_kernels(kernel.unsqueeze(0))[0]

    @classmethod
    def from_kernels(cls, kernels: Tensor) -> list["KDPP"]:
        """Check and decompose kernels (b, n, n) in one batch, on the device where they are."""
        kernels = check_kernel(kernels)
        decomposed = [cls(*pair) for pair in zip(*torch.linalg.eigh(kernels), strict=True)]
        for dpp, weights in zip(decomposed, kernels.diagonal(dim1=-2, dim2=-1), strict=True):
            # An item of zero weight is in no sample; rounding in the eigenvectors must not let it in.
            dpp.vectors[np.asarray((weights == 0).cpu())] = 0.0
        return decomposed

    def sample(self, k: int, generator: torch.Generator) -> Tensor:
        """Draw k different items, P(Y) = det(L_Y) / e_k: sorted int64 indices."""
        self._check_count(k)
        uniforms = torch.rand(self.size + k, generator=generator, dtype=torch.float64).numpy()
        if k == self.size:
            return torch.arange(k)
        chosen = _choose_eigenvectors(self._log_relative, self._table(k), k, uniforms)
        return _sample_projection(self.vectors[:, chosen], uniforms[self.size :])

    def sample_unsized(self, generator: torch.Generator) -> Tensor:
        """A plain DPP: a set of random size with P(Y) = det(L_Y) / det(I + L), as sorted int64 indices."""
        uniforms = torch.rand(2 * self.size, generator=generator, dtype=torch.float64).numpy()
        chosen = np.flatnonzero(uniforms[: self.rank] * (1.0 + self.values) < self.values)
        return _sample_projection(self.vectors[:, chosen], uniforms[self.size :])

    def marginals(self, k: int) -> Tensor:
        """P(i in Y) of the k-DPP, (n,): sum_j V_ij^2 lambda_j e_{k-1}(without lambda_j) / e_k; they sum to k."""
        self._check_count(k)
        before = self._table(k)
        after = _log_table(self._log_relative[::-1], k)[::-1]  # after[i]: polynomials of eigenvalues i, i+1, ...
        # e_{k-1} without j = sum_l e_l(before j) e_{k-1-l}(after j): no division, hence no cancellation.
        logs = before[: self.rank, :k] + after[1:, :k][:, ::-1]
        top = logs.max(axis=1, keepdims=True)
        without = (top + np.log(np.exp(logs - top).sum(axis=1, keepdims=True)))[:, 0]
        weights = np.exp(self._log_relative + without - before[self.rank, k])
        return torch.from_numpy(self.vectors**2 @ (weights * (k / weights.sum())))

    def _table(self, k: int) -> np.ndarray:
        if k not in self._tables:
            self._tables = {k: _log_table(self._log_relative, k)}  # one table: they are as large as the eigenvectors
        return self._tables[k]

    def _check_count(self, k: int) -> None:
        _check_count(k, self.size)
        if k > self.rank:
            raise BadInput(
                f"cannot draw {k} items from a kernel of rank {self.rank}; "
                "expected k at most the rank: keep fewer, or add jitter to the kernel (jitter=0.01)"
            )


def sample_k_dpp(kernel: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """One exact draw of k items, sorted int64 indices; for several draws keep a ``KDPP.from_kernel(kernel)``."""
    _check_count(k, kernel.shape[-1])
    return KDPP.from_kernel(kernel).sample(k, generator)


def sample_dpp(kernel: Tensor, generator: torch.Generator) -> Tensor:
    """One exact draw from the plain DPP, whose size is random; sorted int64 indices."""
    return KDPP.from_kernel(kernel).sample_unsized(generator)


def inclusion_marginals(kernel: Tensor, k: int) -> Tensor:
    """Probability (n,) that each item is in a draw of the k-DPP."""
    return KDPP.from_kernel(kernel).marginals(k)


def map_k_dpp(kernel: Tensor, k: int) -> Tensor:
    """Greedy mode: k times the item that raises det(L_Y) most (ties to the lowest index); sorted int64 indices.

    Chen et al., "Fast Greedy MAP Inference for DPPs", NeurIPS 2018: the gain of an item is its residual
    diagonal in the Cholesky factorisation pivoted by the items chosen so far. Deterministic.
    """
    kernel = check_kernel(kernel)
    _check_count(k, len(kernel))
    gram = kernel.cpu().numpy()
    smallest = gram.diagonal().max() * len(gram) * np.finfo(float).eps

    def largest_gain(step: int, residual: np.ndarray) -> int:
        item = int(residual.argmax())
        if residual[item] <= smallest:
            raise BadInput(
                f"greedy selection stopped after {step} of {k} items: the kernel has rank {step}; "
                "keep fewer, or add jitter to the kernel (jitter=0.01)"
            )
        return item

    return _pivot(gram, k, largest_gain)


def sample_conditional_poisson(odds: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-DPP with the diagonal kernel diag(odds): k different items, P(Y) proportional to the product of their odds."""
    values = np.asarray(odds.detach().cpu().double())
    _check_count(k, len(values))
    if not np.isfinite(values).all() or (values < 0).any() or int((values > 0).sum()) < k:
        raise BadInput(f"odds must be finite and non-negative, at least {k} of them positive")
    uniforms = torch.rand(len(values), generator=generator, dtype=torch.float64).numpy()
    items = np.flatnonzero(values > 0)
    logs = np.log(values[items])
    return torch.from_numpy(np.sort(items[_choose_eigenvectors(logs, _log_table(logs, k), k, uniforms)]))


def check_kernel(kernel: Tensor) -> Tensor:
    """The kernel (or batch of them) in float64, exactly symmetric; BadInput unless square, finite and symmetric."""
    if kernel.ndim < 2 or kernel.shape[-2] != kernel.shape[-1] or kernel.shape[-1] == 0:
        raise BadInput(f"a DPP kernel must be a square matrix; got shape {tuple(kernel.shape)}")
    kernel = kernel.detach().double()
    if not bool(torch.isfinite(kernel).all()):
        raise BadInput("the DPP kernel holds NaN or infinite values; check the activations it was computed from")
    if bool(((kernel - kernel.mT).abs().amax((-2, -1)) > 1e-8 * kernel.abs().amax((-2, -1))).any()):
        raise BadInput("the DPP kernel is not symmetric; expected L = L^T, for instance (L + L.T) / 2")
    return (kernel + kernel.mT) / 2


def _check_count(k: int, size: int) -> None:
    if not 1 <= k <= size:
        raise BadInput(f"cannot keep {k} of {size} items; expected a number from 1 to {size}")


def _check_number(value: float, name: str, *, positive: bool) -> None:
    if not np.isfinite(value) or value < 0 or (positive and value == 0):
        raise BadInput(f"{name} = {value}; expected a finite number {'above' if positive else 'of at least'} 0")


def _log_table(log_values: np.ndarray, k: int) -> np.ndarray:
    table = np.full((len(log_values) + 1, k + 1), -np.inf)
    table[:, 0] = 0.0
    for i, log_value in enumerate(log_values):
        top = min(i + 1, k) + 1  # e_l of i + 1 values vanishes for l > i + 1
        np.logaddexp(table[i, 1:top], table[i, : top - 1] + log_value, out=table[i + 1, 1:top])
    return table


def _choose_eigenvectors(log_values: np.ndarray, table: np.ndarray, k: int, uniforms: np.ndarray) -> np.ndarray:
    """Phase 1: from the last eigenvalue to the first, take i with probability lambda_i e_{r-1}(1..i-1) / e_r(1..i)."""
    chosen, left = [], k
    for i in range(len(log_values), 0, -1):
        # If as many eigenvalues as places are left, all are taken: do not leave that to rounding.
        if left == i or np.log(uniforms[i - 1]) < log_values[i - 1] + table[i - 1, left - 1] - table[i, left]:
            chosen.append(i - 1)
            left -= 1
            if left == 0:
                break
    return np.array(chosen[::-1], dtype=np.int64)


def _sample_projection(vectors: np.ndarray, uniforms: np.ndarray) -> Tensor:
    """Phase 2: draw from the projection DPP with kernel V V^T, V (n, k) with orthonormal columns."""

    def at_random(step: int, residual: np.ndarray) -> int:
        cumulative = residual.cumsum()
        item = int(cumulative.searchsorted(uniforms[step] * cumulative[-1], side="right"))
        return item if item < len(residual) else int(residual.nonzero()[0][-1])

    return _pivot(vectors @ vectors.T, vectors.shape[1], at_random)


def _pivot(gram: np.ndarray, k: int, choose: Callable[[int, np.ndarray], int]) -> Tensor:
    """Cholesky factorisation of ``gram`` (n, n) with k pivots chosen from the residual diagonal; sorted pivots."""
    residual = gram.diagonal().copy()
    factor = np.empty((min(BLOCK, k), len(gram)))
    pivots = []
    for step in range(k):
        row = step % BLOCK
        if step and row == 0:
            gram = gram - factor.T @ factor  # a copy the first time; the caller's kernel stays as it was
        item = choose(step, residual)
        factor[row] = gram[item] - factor[:row, item] @ factor[:row]
        factor[row] /= np.sqrt(residual[item])
        residual -= factor[row] ** 2
        np.maximum(residual, 0.0, out=residual)
        residual[item] = 0.0  # drawn items stay at zero: rounding is clipped
        pivots.append(item)
    return torch.tensor(sorted(pivots), dtype=torch.int64)
