"""Transposed convolutions of one, two and three dimensions: every input position writes a window of the output.

Read the other way round, an output position sees those inputs whose windows cover it: a convolution of the input with
zeros between its entries and the filters turned round. That is what ``patches`` shows; most of its numbers are zeros,
and multiply-accumulates are counted without these, by input positions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from methods.network.kinds.base import Kind, runs
from methods.network.kinds.convolution import CLASSES as PLAIN
from methods.network.kinds.convolution import in_groups
from methods.network.kinds.cutting import replace, take
from methods.network.parameters import weight_of

AnyTransposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CLASSES: tuple[type[AnyTransposed], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUNCTIONS: tuple[Callable[..., Tensor], ...] = (
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
)  # fmt: skip


class _Transposed(Kind):
    """Transposed convolutions, whose weight is stored as (in, out / groups, *kernel).

    When nodes are removed, those with several groups are carriers (:mod:`methods.network.kinds.grouped`).

    Args:
        number: of groups, which the layout of the weight depends on.
    """

    channel = 1

    def __init__(self, number: int = 1) -> None:
        self.number = number

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Of the kernel."""

    def owns(self, module: nn.Module) -> bool:
        """Those of the class and of subclasses that compute the same."""
        return runs(module, CLASSES[self.dimensions - 1])

    def of(self, module: nn.Module) -> Kind:
        """The kind with the module's number of groups."""
        groups = transposed(module).groups
        return self if groups == self.number else type(self)(groups)

    def groups(self, module: nn.Module) -> int:
        """Those of the convolution."""
        return transposed(module).groups

    def as_matrix(self, stored: Tensor) -> Tensor:
        """(..., out, in / groups, *kernel); a copy where there are several groups."""
        return self._turned(stored)

    def as_stored(self, matrix: Tensor) -> Tensor:
        """(..., in, out / groups, *kernel)."""
        return self._turned(matrix)

    def _turned(self, weight: Tensor) -> Tensor:
        """Inputs and outputs of each group change places."""
        first, second = -2 - self.dimensions, -1 - self.dimensions
        if self.number == 1:
            return weight.transpose(first, second)
        return weight.unflatten(first, (self.number, -1)).transpose(first, second).flatten(first - 1, first)

    def patches(self, module: nn.Module, read: Tensor) -> Tensor:
        """(n, in x kernel, T) with T output positions."""
        own = transposed(module)
        spread, sides = _between(read, own.stride), []
        for dilation, size, pad, more in zip(
            own.dilation, own.kernel_size, _padding(own), own.output_padding, strict=True
        ):
            before = dilation * (size - 1) - pad  # negative if the padding takes more away
            sides.append((before, before + more))
        view = functional.pad(spread, list(chain.from_iterable(reversed(sides))))
        dimensions = len(own.kernel_size)
        for number, (dilation, size) in enumerate(zip(own.dilation, own.kernel_size, strict=True)):
            view = view.unfold(2 + number, dilation * (size - 1) + 1, 1)[..., ::dilation]
        order = [0, 1, *range(2 + dimensions, 2 + 2 * dimensions), *range(2, 2 + dimensions)]
        turned = view.permute(order).flip(list(range(2, 2 + dimensions)))
        return turned.reshape(len(read), read.shape[1] * prod(own.kernel_size), -1)

    def by_position(self, module: nn.Module, values: Tensor) -> Tensor:
        """(n, channels, T)."""
        return values.flatten(2)

    def positions(self, module: nn.Module, written: Tensor) -> int:
        """Samples x input positions: where there are zeros between these, nothing is multiplied."""
        own = transposed(module)
        geometry = zip(own.kernel_size, own.stride, _padding(own), own.output_padding, own.dilation, strict=True)
        sizes = (
            (size - 1 - dilation * (kernel - 1) + 2 * pad - more) // step + 1
            for size, (kernel, step, pad, more, dilation) in zip(written.shape[2:], geometry, strict=True)
        )
        return len(written) * prod(sizes)

    def compute(self, module: nn.Module, read: Tensor, matrix: Tensor) -> Tensor:
        """The transposed convolution with ``matrix``."""
        own = transposed(module)
        convolve = FUNCTIONS[len(own.kernel_size) - 1]
        weight = self.as_stored(matrix)
        return convolve(read, weight, None, own.stride, own.padding, own.output_padding, own.groups, own.dilation)

    @torch.no_grad()
    def like(self, module: nn.Module, matrix: Tensor, bias: Tensor | None, *, pointwise: bool = False) -> nn.Module:
        """A transposed convolution with this weight and the module's geometry; pointwise a plain convolution."""
        own, old = transposed(module), weight_of(module)
        out, inputs, *kernel = matrix.shape
        geometry = {
            "stride": own.stride, "padding": own.padding, "output_padding": own.output_padding,
            "dilation": own.dilation,
        }  # fmt: skip
        made: Callable[..., nn.Module] = (PLAIN if pointwise else CLASSES)[len(own.kernel_size) - 1]
        layer = skip_init(  # initial values would be drawn from the global random state
            made, inputs, out, tuple(kernel), bias=bias is not None, device=old.device, dtype=old.dtype,
            **({} if pointwise else geometry),
        )  # fmt: skip
        weight_of(layer).copy_(matrix if pointwise else matrix.transpose(0, 1))
        if isinstance(layer.bias, Tensor) and bias is not None:
            layer.bias.copy_(bias)
        return layer.train(module.training)

    def cut_outputs(self, module: nn.Module, gone: Tensor) -> None:
        """The second dimension of the stored weight; each group loses its own.

        Raises:
            ValueError: if not every group loses as many output units.
        """
        stays = in_groups(gone, self.units(module), self.number, "output units")
        parts = weight_of(module).detach().chunk(self.number)
        left = [part[:, kept.to(part.device)] for part, kept in zip(parts, stays, strict=True)]
        replace(module, "weight", torch.cat(left))
        take(module, ("bias",), 0, gone)
        self.resize(module)

    def cut_inputs(self, module: nn.Module, gone: Tensor) -> None:
        """The first dimension of the stored weight.

        Raises:
            ValueError: if not every group loses as many input channels.
        """
        in_groups(gone, self.inputs(module), self.number, "input channels")
        take(module, ("weight",), 0, gone)
        self.resize(module)


class TransposedConvolution1d(_Transposed):
    """``nn.ConvTranspose1d``."""

    dimensions = 1


class TransposedConvolution2d(_Transposed):
    """``nn.ConvTranspose2d``."""

    dimensions = 2


class TransposedConvolution3d(_Transposed):
    """``nn.ConvTranspose3d``."""

    dimensions = 3


def transposed(module: nn.Module) -> AnyTransposed:
    """The module, which has to be a transposed convolution."""
    assert isinstance(module, CLASSES)
    return module


def _padding(module: AnyTransposed) -> tuple[int, ...]:
    assert isinstance(module.padding, tuple)  # by name PyTorch has it for plain convolutions only
    return module.padding


def _between(read: Tensor, stride: tuple[int, ...]) -> Tensor:
    """(n, channels, ...) the input with zeros between its entries, so that they lie a stride apart."""
    sizes = [step * (size - 1) + 1 for size, step in zip(read.shape[2:], stride, strict=True)]
    spread = read.new_zeros(*read.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = read
    return spread
