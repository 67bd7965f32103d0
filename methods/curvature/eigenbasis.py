"""Write a layer in the eigenbasis of its Kronecker factors, and replace it by three layers with fewer directions.

The mathematics of EigenDamage (Wang, Grosse, Fidler & Zhang, ICML 2019, section 4); ``methods.hessian.eigendamage``
uses it. W is (out, in, kernel positions), the Fisher is G (x) A with A (in, in) and G (out, out).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.curvature.kfac import Factors
from methods.network.kinds.registry import kind_of, matrix_of
from methods.network.parameters import bias_of


class Basis(NamedTuple):
    """Eigenvectors (as columns) and eigenvalues of the two factors: ``inputs`` of A, ``outputs`` of G."""

    inputs: Tensor
    input_values: Tensor
    outputs: Tensor
    output_values: Tensor


def channel_factor(inputs: Tensor, channels: int) -> Tensor:
    """(in, in) factor between input channels: A (d, d) without a bias entry, averaged over its kernel positions."""
    positions = len(inputs) // channels
    size = channels * positions  # what remains is the bias
    blocks = inputs[:size, :size].reshape(channels, positions, channels, positions)
    return blocks.diagonal(dim1=1, dim2=3).mean(-1)


def eigenbasis(factors: Factors) -> Basis:
    """Eigendecompositions of A and G; eigenvalues that rounding made negative are zero."""
    input_values, inputs = torch.linalg.eigh(factors.A)
    output_values, outputs = torch.linalg.eigh(factors.G)
    return Basis(inputs, input_values.clamp_min(0), outputs, output_values.clamp_min(0))


def rotate(weight: Tensor, basis: Basis) -> Tensor:
    """W* = Q_G^T W Q_A for every kernel position of W (out, in, positions)."""
    return torch.einsum("oik,or,ic->rck", weight, basis.outputs, basis.inputs)


def damage(rotated: Tensor, curvature: Tensor) -> Tensor:
    """(out, in) W*^2 times the curvature of each entry, summed over kernel positions."""
    return (rotated.square() * curvature).sum(2)


def kernels(module: nn.Module) -> Tensor:
    """The weight of a layer as (out, in, kernel positions) float64."""
    weight = matrix_of(module)
    return weight.detach().double().reshape(*weight.shape[:2], -1)


class RotatedLayer(nn.Sequential):
    """``project`` to input directions, ``core`` with the old kernel, ``expand`` from output directions."""

    @property
    def core(self) -> nn.Module:
        """The middle layer, the only one that is pruned again."""
        return self[1]

    @torch.no_grad()
    def take_coordinates(self, source: nn.Module) -> None:
        """Give the core what the weight of ``source`` is in the kept directions, and take over its bias.

        With U (out, rows) and V (in, columns), the directions kept, the core becomes U^+ W V^+T for every kernel
        position of W: the core whose expansion is nearest to W in the Frobenius norm, and U^T W V as long as training
        has left the directions orthonormal. The directions themselves stay.

        Args:
            source: a linear layer or convolution of the shape that this one had before it was split.
        """
        inputs, outputs = (matrix_of(self[part]).double().flatten(1) for part in (0, 2))
        values = torch.einsum("ro,oik,ic->rck", outputs.pinverse(), kernels(source), inputs.pinverse())
        core = matrix_of(self.core)
        core.copy_(values.reshape(core.shape))
        bias, theirs = bias_of(self[2]), bias_of(source)
        if bias is not None:
            assert theirs is not None  # a split neither makes a bias nor loses one
            bias.copy_(theirs)


def rotated_layer(module: nn.Module, basis: Basis, columns: Tensor, rows: Tensor) -> RotatedLayer:
    """The three layers that replace ``module`` when only these columns and rows of W* stay; a new module.

    Args:
        module: linear layer, ungrouped convolution, or a :class:`RotatedLayer`, whose core is then rotated.
        basis: eigenbasis of the layer (or core).
        columns: kept input directions.
        rows: kept output directions.
    """
    core = module.core if isinstance(module, RotatedLayer) else module
    middle = rotate(kernels(core), basis)[rows][:, columns].reshape(len(rows), len(columns), *matrix_of(core).shape[2:])
    before, after, bias = basis.inputs[:, columns].T, basis.outputs[:, rows], bias_of(core)
    if isinstance(module, RotatedLayer):
        before = before @ matrix_of(module[0]).detach().double().flatten(1)
        after, bias = matrix_of(module[2]).detach().double().flatten(1) @ after, bias_of(module[2])
    pointwise = (1,) * (middle.ndim - 2)
    parts = (before.reshape(*before.shape, *pointwise), middle, after.reshape(*after.shape, *pointwise))
    kind = kind_of(core)
    layers = [
        kind.like(core, part, bias if number == 2 else None, pointwise=number != 1) for number, part in enumerate(parts)
    ]
    return RotatedLayer(OrderedDict(zip(("0", "1", "2"), layers, strict=True)))
