"""Measure how flat a minimum is: the spectral radius under K-FAC (differentiable), and what each node adds to it.

The K-FAC Fisher is block-diagonal with blocks G_l (x) A_l, so its spectral radius is

    rho = max_l  lambda_max(A_l) lambda_max(G_l).

With the top eigenvectors u_A, u_G of the dominating layer held fixed (the gradient of a simple eigenvalue does not see
their change), rho = mean_n sum_t (u_A . a_nt)^2 * mean_nt (u_G . g_nt)^2 is a function of what the layer reads (a) and
of the slopes at its output (g) that can be differentiated: one more backward pass, no third derivatives of the loss.

Removing node i deletes row and column i of its layer's G and those of the next layer's A that belong to it. Eigenvalues
interlace, so no product can grow and rho never rises. It is a proxy for the Hessian's radius, which
:func:`hessian_radius` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from methods.curvature.hessian import HessianProduct, Radius, spectral_radius, twice_differentiable
from methods.curvature.kfac import Factors, outer_sum, patches, positions_last, recording, sample_labels
from methods.layers.gradients import sample_losses
from methods.network.graph import NodeGroup
from methods.network.kinds.registry import matrix_of
from methods.network.reading import evaluating


@dataclass
class TopVectors:
    """Top eigenvectors of each layer's factors from the last batch: warm starts of the next power iterations."""

    A: dict[str, Tensor] = field(default_factory=dict)
    G: dict[str, Tensor] = field(default_factory=dict)


def top_eigenpair(matrix: Tensor, start: Tensor | None = None, tolerance: float = 1e-5) -> tuple[float, Tensor]:
    """Largest eigenvalue of a positive semidefinite matrix and its unit vector, by power iteration."""
    if start is None or len(start) != len(matrix):
        start = generic_vector(len(matrix)).to(matrix)
    radius = spectral_radius(lambda vector: matrix @ vector, start.to(matrix), tolerance, 200)
    return radius.value, radius.vector


def generic_vector(size: int) -> Tensor:
    """A unit start vector that is unlikely to be orthogonal to any eigenvector of a structured matrix."""
    vector = 1 + torch.arange(size, dtype=torch.float64).mul(2.399963).sin().div(2)  # the golden angle
    return vector / vector.norm()


def batch_radius(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    vectors: TopVectors | None = None,
    differentiable: bool = True,
) -> tuple[Tensor, dict[str, Factors]]:
    """The K-FAC radius of one batch with a graph to the parameters, and the batch's factors (without one).

    Args:
        model: the network; it runs in evaluation mode.
        layers: paths of linear layers and ungrouped convolutions.
        inputs: the batch.
        labels: its labels.
        generator: stream for labels sampled from the predictions; None takes ``labels``.
        vectors: warm starts, updated in place.
        differentiable: whether to build the graph; without it this is cheaper.
    """
    vectors = TopVectors() if vectors is None else vectors
    modules = {name: model.get_submodule(name) for name in layers}
    looking = twice_differentiable if differentiable else evaluating
    with looking(model), recording(modules) as calls, torch.enable_grad():
        outputs = model(inputs)
        targets = labels if generator is None else sample_labels(outputs, labels, generator)
        reads, written = zip(*(calls[name][0] for name in layers), strict=True)
        slopes = torch.autograd.grad(
            sample_losses(outputs, targets).sum(), written, create_graph=differentiable, materialize_grads=True
        )
        signals = {
            name: (patches(module, read), positions_last(module, slope))
            for (name, module), read, slope in zip(modules.items(), reads, slopes, strict=True)
        }
        factors, radii = {}, {}
        for name, (read, slope) in signals.items():
            positions = slope.shape[2] * len(inputs)
            factors[name] = Factors(outer_sum(read.detach()) / len(inputs), outer_sum(slope.detach()) / positions)
            top_a, vectors.A[name] = top_eigenpair(factors[name].A, vectors.A.get(name))
            top_g, vectors.G[name] = top_eigenpair(factors[name].G, vectors.G.get(name))
            radii[name] = top_a * top_g
        worst = max(radii, key=lambda name: radii[name])
        read, slope = signals[worst]
        along_a = torch.einsum("d,ndt->nt", vectors.A[worst].to(read), read).square().sum(1).mean()
        along_g = torch.einsum("o,not->nt", vectors.G[worst].to(slope), slope).square().mean()
        return along_a * along_g, factors


def reduced_tops(matrix: Tensor, deleted: Tensor, iterations: int = 300, tolerance: float = 1e-9) -> Tensor:
    """(m,) largest eigenvalue of a positive semidefinite matrix without rows and columns ``deleted[i]``, for each i.

    All m power iterations run at once, from the full matrix's top vector without the deleted entries.

    Args:
        matrix: (d, d).
        deleted: (m, r) indices.
        iterations: largest number of products.
        tolerance: relative change of the eigenvalues at which the iteration ends.
    """
    size, nodes = len(matrix), len(deleted)
    stays = torch.ones(size, nodes, dtype=matrix.dtype, device=matrix.device)
    stays[deleted.T.to(matrix.device), torch.arange(nodes, device=matrix.device)] = 0
    top = torch.linalg.eigh(matrix).eigenvectors[:, -1] + 1e-3 * generic_vector(size).to(matrix)
    vectors = top[:, None] * stays
    values = matrix.new_zeros(nodes)
    for _ in range(iterations):
        norms = vectors.norm(dim=0)
        vectors = vectors / torch.where(norms > 0, norms, torch.ones_like(norms))
        images = (matrix @ vectors) * stays
        following = (vectors * images).sum(0)
        done = bool(((following - values).abs() <= tolerance * following).all())
        values, vectors = following, images
        if done:
            break
    return values


def radius_decreases(factors: Mapping[str, Factors], group: NodeGroup, modules: Mapping[str, nn.Module]) -> Tensor:
    """(m,) decrease of the network's K-FAC radius when each node of ``group`` is removed alone.

    Only the layers with the largest product matter, so that the decrease is often zero.

    Args:
        factors: of all layers of the network.
        group: the nodes.
        modules: the network's modules by path, for the kernel sizes of the readers.
    """
    tops = {name: (_top(each.A), _top(each.G)) for name, each in factors.items()}
    radius = max(a * g for a, g in tops.values())
    touched = {*group.writers, *(reader.name for reader in group.readers)} & set(factors)
    rest = max((a * g for name, (a, g) in tops.items() if name not in touched), default=0.0)
    device = next(iter(factors.values())).A.device
    after = torch.full((group.size,), rest, dtype=torch.float64, device=device)
    own = torch.arange(group.size)[:, None]
    for name in touched & set(group.writers):
        top_a, top_g = tops[name]
        if top_a * top_g > rest:
            after = torch.maximum(after, top_a * reduced_tops(factors[name].G, own))
    for reader in group.readers:
        if reader.name in touched:
            top_a, top_g = tops[reader.name]
            if top_a * top_g > rest:
                deleted = input_entries(reader.columns, modules[reader.name])
                after = torch.maximum(after, top_g * reduced_tops(factors[reader.name].A, deleted))
    return (radius - after).clamp_min(0)


def input_entries(columns: Tensor, module: nn.Module) -> Tensor:
    """(m, r x kernel positions) entries of a reader's A that belong to each node, from its input columns (m, r)."""
    kernel = matrix_of(module)[0, 0].numel()
    return (columns[:, :, None] * kernel + torch.arange(kernel)).flatten(1)


def hessian_radius(
    model: nn.Module, inputs: Tensor, labels: Tensor, start: Tensor | None = None, tolerance: float = 1e-3
) -> tuple[Radius, HessianProduct]:
    """Spectral radius of the mean loss's Hessian in all parameters, in evaluation mode, and the Hessian product."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with twice_differentiable(model):
        product = HessianProduct(sample_losses(model(inputs), labels).mean(), parameters)
        if start is None or len(start) != product.size:
            start = torch.ones_like(product.gradient.detach())
        return spectral_radius(product, start.to(product.gradient), tolerance, 100), product


def _top(matrix: Tensor) -> float:
    return float(torch.linalg.eigvalsh(matrix)[-1])
