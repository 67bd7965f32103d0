"""Convolutions of several groups as carriers: a group with all that it reads and writes is a block of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.network.kinds.base import runs
from methods.network.kinds.convolution import CLASSES, FUNCTIONS, AnyConvolution, padded
from methods.network.kinds.cutting import follow, take
from methods.network.kinds.transposed_convolution import CLASSES as TRANSPOSED
from methods.network.kinds.transposed_convolution import FUNCTIONS as TRANSPOSED_FUNCTIONS
from methods.network.kinds.transposed_convolution import AnyTransposed


def several_groups(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution, plain or transposed, of more than one group."""
    return any(runs(module, each) for each in (*CLASSES, *TRANSPOSED)) and _convolution(module).groups > 1


def depthwise(module: nn.Module) -> bool:
    """Whether ``module`` is a plain convolution that treats every channel alone."""
    return (
        any(runs(module, each) for each in CLASSES)
        and _convolution(module).groups == module.in_channels == module.out_channels
        and _convolution(module).groups > 1
    )


def block_sizes(module: nn.Module) -> tuple[int, int]:
    """How many channels each group reads and writes."""
    own = _convolution(module)
    return own.in_channels // own.groups, own.out_channels // own.groups


def spread(weight: Tensor, groups: int) -> Tensor:
    """(out, in, *kernel) of a grouped convolution's (out, in / groups, *kernel) weight, zeros outside its groups.

    With one group it is the weight itself.
    """
    if groups == 1:
        return weight
    out, inputs = weight.shape[:2]
    whole = weight.new_zeros(groups, out // groups, groups, inputs, *weight.shape[2:])
    own = torch.arange(groups, device=weight.device)
    whole[own, :, own] = weight.unflatten(0, (groups, -1))
    return whole.flatten(2, 3).flatten(0, 1)


def gathered(whole: Tensor, groups: int) -> Tensor:
    """The inverse of :func:`spread`."""
    own = torch.arange(groups, device=whole.device)
    return whole.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))[own, :, own].flatten(0, 1)


def wide_groups(module: nn.Module) -> bool:
    """Whether ``module`` is a plain convolution of several groups, each of which reads and writes several channels."""
    return any(runs(module, each) for each in CLASSES) and several_groups(module) and min(block_sizes(module)) > 1


def as_carried(module: nn.Module, read: Tensor) -> Tensor:
    """What such a convolution computes from any number of groups in a mock-up.

    Channels go one by one through the convolution's geometry with weights of one: within a group of i inputs and o
    outputs, output number q shows input q mod i, or, where there are fewer outputs, the sum of the inputs q, q + o, ...
    The carrier, not this function, states that the channels of a group belong together.

    Raises:
        RuntimeError: if these are no whole groups.
    """
    own = _convolution(module)
    inputs, outputs = block_sizes(module)
    if inputs != outputs:
        blocks = read.unflatten(1, (-1, inputs))
        places = torch.arange(max(inputs, outputs), device=read.device)
        written = blocks.new_zeros(len(read), blocks.shape[1], outputs, *read.shape[2:])
        read = written.index_add(2, places % outputs, blocks.index_select(2, places % inputs)).flatten(1, 2)
    elif read.shape[1] % inputs:
        raise RuntimeError(f"{read.shape[1]} channels are no whole groups of {inputs}")
    channels = read.shape[1]
    ones = read.new_ones(channels, 1, *own.kernel_size)
    if isinstance(own, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        convolve = TRANSPOSED_FUNCTIONS[len(own.kernel_size) - 1]
        return convolve(read, ones, None, own.stride, own.padding, own.output_padding, channels, own.dilation)
    read, padding = padded(own, read)
    return FUNCTIONS[len(own.kernel_size) - 1](read, ones, None, own.stride, padding, own.dilation, channels)


def cut_blocks(module: nn.Module, gone: Tensor) -> None:
    """Remove whole groups (numbers), with what they read and write."""
    own = _convolution(module)
    inputs, outputs = block_sizes(module)
    stored = inputs if isinstance(own, TRANSPOSED) else outputs  # the first dimension of the weight
    take(module, ("weight",), 0, _members(gone, stored))
    take(module, ("bias",), 0, _members(gone, outputs))
    own.groups -= len(gone)
    follow(module, outputs=outputs * own.groups, inputs=inputs * own.groups)


def _members(blocks: Tensor, size: int) -> Tensor:
    return (blocks.cpu()[:, None] * size + torch.arange(size)).flatten()


def _convolution(module: nn.Module) -> AnyConvolution | AnyTransposed:
    assert isinstance(module, AnyConvolution | AnyTransposed)
    return module
