"""Ridge systems (S + diag tau) X = B in little memory, and eigenvectors without LAPACK's large workspace."""

from __future__ import annotations

import torch
from torch import Tensor

SINGULAR = 1e-12  # relative to the largest eigenvalue or to 1, whichever is larger: smaller ones count as zero
DOUBTFUL = 1e-9
"""Smaller pivots may hide a rank deficiency, since earlier small pivots amplify rounding: then eigenvalues decide."""
LARGE = 1024
"""From this size on, steps are done in the way that saves memory."""


def strips(size: int, width: int = 128) -> list[slice]:
    """Slices that cover ``range(size)``; (m, width) arrays take little memory compared with (m, m) ones."""
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def solve_ridge(second: Tensor, right: Tensor, ridge: Tensor) -> Tensor:
    """(S + diag ridge)^-1 right; where that is singular, the minimum-norm least-squares solution.

    Args:
        second: (k, k) symmetric positive semidefinite, float64.
        right: (k, n).
        ridge: (k,), not negative.
    """
    return RidgeInverse(second.clone(), ridge).times_(right.clone())


class RidgeInverse:
    """(S + diag ridge)^-1 or, where that is singular, the inverse on the range of S + diag ridge.

    The system is scaled to a unit diagonal first, so that features of very different size lose no digits. It holds one
    (k, k) array, and a second one while a singular system is decomposed.

    Args:
        system: (k, k) S, symmetric positive semidefinite, float64; overwritten.
        ridge: (k,), not negative.
    """

    def __init__(self, system: Tensor, ridge: Tensor) -> None:
        system.diagonal().add_(ridge)
        scale = system.diagonal().clamp_min(0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        system.div_(scale).div_(scale[:, None])
        self.scale = scale[:, None]
        self.inverse_values: Tensor | None = None
        diagonal = system.diagonal().clone()
        if cholesky_(system) and float(system.diagonal().min()) ** 2 > DOUBTFUL:
            self.factor = system
            return
        mirror_(system, diagonal)
        values, self.factor = eigenvectors_(system)
        keep = values > SINGULAR * values[-1].clamp_min(1)
        self.inverse_values = torch.where(keep, 1 / torch.where(keep, values, 1.0), 0.0)[:, None]

    def times_(self, right: Tensor) -> Tensor:
        """Overwrites the (k, n) ``right`` with the solution, a few columns at a time, and returns it."""
        right.div_(self.scale)
        for strip in strips(right.shape[1]):
            right[:, strip] = self._times(right[:, strip])
        return right.div_(self.scale)

    def _times(self, columns: Tensor) -> Tensor:
        if self.inverse_values is not None:
            return self.factor @ ((self.factor.T @ columns) * self.inverse_values)
        half = torch.linalg.solve_triangular(self.factor, columns, upper=False)
        return torch.linalg.solve_triangular(self.factor.T, half, upper=True)


def cholesky_(matrix: Tensor) -> bool:
    """Writes the factor L of L L^T into the lower triangle; the entries above the diagonal stay what they are.

    Returns:
        Whether the matrix was positive definite. If not, the lower triangle is undefined (see :func:`mirror_`).
    """
    for own in strips(len(matrix)):
        done, below = slice(0, own.start), slice(own.stop, None)
        square = matrix[own, own] - matrix[own, done] @ matrix[own, done].T
        factor, info = torch.linalg.cholesky_ex(square)
        if int(info) != 0:
            return False
        matrix[own, own] = factor + matrix[own, own].triu(1)
        rest = matrix[below, own].addmm_(matrix[below, done], matrix[own, done].T, alpha=-1)
        rest.copy_(torch.linalg.solve_triangular(factor.T, rest, upper=True, left=False))
    return True


def mirror_(matrix: Tensor, diagonal: Tensor) -> None:
    """Rebuilds a symmetric matrix from what stands above its diagonal and from the (m,) ``diagonal``."""
    for own in strips(len(matrix)):
        below = slice(own.stop, None)
        square = matrix[own, own].triu(1)
        matrix[own, own] = square + square.T
        matrix[below, own] = matrix[own, below].T
    matrix.diagonal().copy_(diagonal)


def eigenvectors_(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (m,) and eigenvectors (m, m) of a symmetric float64 matrix, which may be overwritten.

    Beside the argument and the result LAPACK's divide and conquer needs two more (m, m) arrays; for large matrices on
    a CPU the method of relatively robust representations, which needs none, takes its place (by SciPy, whose number of
    threads the environment sets, not ``torch.set_num_threads``).
    """
    if len(matrix) < LARGE or matrix.device.type != "cpu":
        return torch.linalg.eigh(matrix)
    from scipy.linalg import eigh

    values, vectors = eigh(matrix.numpy().T, driver="evr", overwrite_a=True, check_finite=False)
    return torch.from_numpy(values), torch.from_numpy(vectors)
