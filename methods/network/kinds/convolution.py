"""Convolutions of one, two and three dimensions, with groups, strides, dilation and every mode of padding."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from methods.network.kinds.base import Kind, runs
from methods.network.kinds.cutting import replace, take
from methods.network.parameters import weight_of

AnyConvolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CLASSES: tuple[type[AnyConvolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
FUNCTIONS: tuple[Callable[..., Tensor], ...] = (functional.conv1d, functional.conv2d, functional.conv3d)


class Convolution(Kind):
    """``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``; positions are those of the output."""

    channel = 1

    def owns(self, module: nn.Module) -> bool:
        """Convolutions and subclasses that compute the same."""
        return any(runs(module, each) for each in CLASSES)

    def groups(self, module: nn.Module) -> int:
        """As the module says."""
        return _convolution(module).groups

    def patches(self, module: nn.Module, read: Tensor) -> Tensor:
        """(n, in x kernel, T), one copy of what :func:`windows` shows."""
        view = windows(_convolution(module), read)
        return view.reshape(len(read), view.shape[1] * prod(_convolution(module).kernel_size), -1)

    def by_position(self, module: nn.Module, values: Tensor) -> Tensor:
        """(n, channels, T)."""
        return values.flatten(2)

    def compute(self, module: nn.Module, read: Tensor, matrix: Tensor) -> Tensor:
        """The convolution with ``matrix``."""
        own = _convolution(module)
        read, padding = padded(own, read)
        convolve = FUNCTIONS[len(own.kernel_size) - 1]
        return convolve(read, matrix, None, own.stride, padding, own.dilation, own.groups)

    @torch.no_grad()
    def like(self, module: nn.Module, matrix: Tensor, bias: Tensor | None, *, pointwise: bool = False) -> nn.Module:
        """A convolution with this weight, of the module's geometry or without any."""
        own, old = _convolution(module), weight_of(module)
        out, inputs, *kernel = matrix.shape
        geometry = {} if pointwise else {"stride": own.stride, "padding": own.padding, "dilation": own.dilation}
        mode = "zeros" if pointwise else own.padding_mode
        made: Callable[..., AnyConvolution] = next(each for each in CLASSES if isinstance(module, each))
        layer: AnyConvolution = skip_init(  # initial values would be drawn from the global random state
            made, inputs, out, tuple(kernel), bias=bias is not None, padding_mode=mode,
            device=old.device, dtype=old.dtype, **geometry,
        )  # fmt: skip
        layer.weight.copy_(matrix)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
        return layer.train(module.training)

    def cut_outputs(self, module: nn.Module, gone: Tensor) -> None:
        """As for every kind.

        Raises:
            ValueError: if not every group loses as many output units.
        """
        in_groups(gone, self.units(module), self.groups(module), "output units")
        super().cut_outputs(module, gone)

    def cut_inputs(self, module: nn.Module, gone: Tensor) -> None:
        """As for every kind; in a grouped convolution each group loses its own.

        Raises:
            ValueError: if not every group loses as many input channels.
        """
        groups = self.groups(module)
        stays = in_groups(gone, self.inputs(module), groups, "input channels")
        if groups == 1:
            take(module, ("weight",), 1, gone)
        else:
            parts = weight_of(module).detach().chunk(groups)
            left = [part[:, kept.to(part.device)] for part, kept in zip(parts, stays, strict=True)]
            replace(module, "weight", torch.cat(left))
        self.resize(module)


def windows(module: AnyConvolution, read: Tensor) -> Tensor:
    """(n, channels, *kernel, *positions) view of the padded (n, channels, *sizes) ``read``: no number is copied."""
    read, padding = padded(module, read)
    if any(padding):
        read = functional.pad(read, [side for size in reversed(padding) for side in (size, size)])
    dimensions = len(module.kernel_size)
    for number, (size, step, dilation) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        # the window is a last dimension; of it every ``dilation``-th entry
        read = read.unfold(2 + number, dilation * (size - 1) + 1, step)[..., ::dilation]
    order = [0, 1, *range(2 + dimensions, 2 + 2 * dimensions), *range(2, 2 + dimensions)]
    return read.permute(order)


def padded(module: AnyConvolution, read: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """What a convolution reads, and the numbers of zeros still to be put around it in each dimension.

    Padding that only the module knows, by name or other than zeros, is in the tensor already.
    """
    if isinstance(module.padding, tuple) and module.padding_mode == "zeros":
        return read, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    sides = [side for pair in reversed(_sides(module)) for side in pair]
    return functional.pad(read, sides, mode=mode), (0,) * len(module.kernel_size)


def _sides(module: AnyConvolution) -> list[tuple[int, int]]:
    """Padding before and after in each dimension; ``same`` puts the odd one behind, as PyTorch does."""
    if isinstance(module.padding, tuple):
        return [(size, size) for size in module.padding]
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    around = [dilation * (size - 1) for size, dilation in zip(module.kernel_size, module.dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in around]


def in_groups(gone: Tensor, size: int, groups: int, what: str) -> list[Tensor]:
    """For each group the indices that stay, counted within it."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[gone.cpu()] = False
    parts = stays.reshape(groups, -1)
    if len(set(parts.sum(1).tolist())) > 1:
        raise ValueError(f"a grouped convolution cannot lose different numbers of {what} in its {groups} groups")
    return [part.nonzero().flatten() for part in parts]


def _convolution(module: nn.Module) -> AnyConvolution:
    assert isinstance(module, CLASSES)
    return module
