"""Compute curvature of the loss without forming the Hessian: products, spectral radius, Hutchinson traces.

A product H v with the Hessian costs one more backward pass through the gradient's graph (Pearlmutter 1994):

    H v = grad_w (grad_w L . v)

and is enough for the largest |eigenvalue| rho(H) by power iteration, its gradient sign(lambda) v^T (grad H) v, and
unbiased traces E[z^T H z] with Rademacher z (Hutchinson 1990). Vectors are flat, (d,), in the order of the parameters
given. Single-sample gradients and the Fisher matrix are in ``methods.layers.gradients``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.errors import BadInput
from methods.network.reading import evaluating
from methods.progress import track


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Within this context what ``model`` computes, in evaluation mode, can be differentiated twice.

    Attention is computed step by step: PyTorch's fused kernels for it have no second derivative.
    """
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


class HessianProduct:
    """v -> H v for the Hessian of one loss value; the graph of the gradient is built once and reused.

    Args:
        loss: scalar with a graph to ``parameters``.
        parameters: the tensors with respect to which H is taken, in this order, flattened.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        slopes = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True)
        self.gradient = torch.cat([slope.flatten() for slope in slopes])

    @property
    def size(self) -> int:
        """Number of parameters d."""
        return self.gradient.numel()

    def __call__(self, vector: Tensor, *, create_graph: bool = False) -> Tensor:
        """H v (d,); with ``create_graph`` it can be differentiated once more."""
        if not self.gradient.requires_grad:  # a linear loss has no curvature
            return torch.zeros_like(vector)
        products = torch.autograd.grad(
            self.gradient, self.parameters, vector, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
        return torch.cat([product.flatten() for product in products])


class Radius(NamedTuple):
    """Outcome of the power iteration.

    Attributes:
        value: spectral radius max |lambda|.
        eigenvalue: the dominating eigenvalue with its sign.
        vector: (d,) its unit eigenvector: the start of the next, warm, iteration.
        products: Hessian products spent.
        converged: whether the tolerance was reached.
    """

    value: float
    eigenvalue: float
    vector: Tensor
    products: int
    converged: bool


def spectral_radius(
    product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 1e-3, max_products: int = 1000
) -> Radius:
    """Largest |eigenvalue| of a symmetric operator by power iteration.

    Convergence is judged on H^2: the iteration stops when ``||H^2 v - rho^2 v|| <= tolerance rho^2``. So it also stops
    where the dominating eigenvalue is negative (v changes its sign at every step) or where +rho and -rho are both
    eigenvalues (v never settles); in the end v + Hv/rho and v - Hv/rho are the parts that belong to +rho and -rho.

    Args:
        product: v -> H v.
        start: (d,) start vector, not zero; the eigenvector of an earlier iteration saves products (warm start).
        tolerance: relative residual of the eigenpair of H^2.
        max_products: largest number of products.
    """
    v = start / start.norm()
    image, products = product(v), 1
    rho = float(image.norm())
    while rho > 0 and products < max_products:
        following = image / rho
        second = product(following)
        products += 1
        residual = float((second / rho - v).norm())  # = ||H^2 v - rho^2 v|| / rho^2
        if residual <= tolerance:
            parts = (v + following, v - following)
            positive = bool(parts[0].norm() >= parts[1].norm())
            vector = parts[0] if positive else parts[1]
            return Radius(rho, rho if positive else -rho, vector / vector.norm(), products, True)
        v, image, rho = following, second, float(second.norm())
    return Radius(rho, float(v @ image), v, products, rho == 0)


def spectral_radius_gradient(product: HessianProduct, radius: Radius) -> list[Tensor]:
    """Gradient of max |lambda| in the parameters: sign(lambda) v^T (grad H) v, with v held fixed (third derivative)."""
    curvature = radius.vector @ product(radius.vector, create_graph=True)
    sign = 1.0 if radius.eigenvalue >= 0 else -1.0
    if not curvature.requires_grad:
        return [torch.zeros_like(parameter) for parameter in product.parameters]
    slopes = torch.autograd.grad(curvature, product.parameters, retain_graph=True, materialize_grads=True)
    return [sign * slope for slope in slopes]


def hutchinson_diagonal(
    product: Callable[[Tensor], Tensor], like: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """(d,) float64 estimate of diag H: the mean of z * (H z) over Rademacher vectors z.

    The sum over any block of it is Hutchinson's estimate of that block's trace; blocks of an indefinite H may come out
    negative.

    Args:
        product: v -> H v.
        like: (d,) tensor with the dtype and device of v.
        probes: number of vectors z.
        generator: CPU stream.
    """
    if probes < 1:
        raise BadInput(f"probes={probes} is too few for a trace estimate; expected 1 or more: selection.probes=100")
    total = torch.zeros(like.shape, dtype=torch.float64, device=like.device)
    for _ in track(range(probes), "Hutchinson probes"):
        z = (2 * torch.randint(2, like.shape, generator=generator) - 1).to(like)
        total += (z * product(z)).double()
    return total / probes
