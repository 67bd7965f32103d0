"""Building blocks of the networks of the zoo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Added(nn.Module):
    """The sum of the outputs of several branches for the same input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the branches agree on."""
        first, *others = (branch(x) for branch in self.branches)
        for other in others:
            first = first + other
        return first


class Multiplied(nn.Module):
    """The product of the outputs of two branches for the same input: a gate."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        """Any shapes that can be multiplied."""
        return self.one(x) * self.other(x)


class Joined(nn.Module):
    """The outputs of several branches for the same input, side by side in dimension 1."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(n, the channels of all branches, ...)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Averaged(nn.Module):
    """The mean over some dimensions."""

    def __init__(self, *dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        """Without the dimensions."""
        return x.mean(self.dimensions)


class Swapped(nn.Module):
    """Swaps two dimensions."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        """The transpose."""
        return x.transpose(self.one, self.other)


class Shuffled(nn.Module):
    """Channels of several groups in turn (Zhang et al. 2018, ShuffleNet)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) of the same shape."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class Halved(nn.Module):
    """The first half of the channels as it is, the second through a branch (ShuffleNetV2)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) of the same shape."""
        one, other = x.chunk(2, 1)
        return torch.cat([one, self.branch(other)], 1)


def norm_act(channels: int, act: Callable[[], nn.Module] | None = nn.ReLU) -> list[nn.Module]:
    """A batch norm, and an activation unless it is None."""
    return [nn.BatchNorm2d(channels), *([act()] if act else [])]


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, with batch norm and activation."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, *norm_act(outputs, act))


def squeeze_excitation(
    channels: int, inner: int, act: Callable[[], nn.Module] = nn.ReLU, gate: Callable[[], nn.Module] = nn.Sigmoid
) -> Multiplied:
    """Channels times a gate that is computed from the means of all of them (Hu et al. 2018)."""
    branch = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), act(), nn.Conv2d(inner, channels, 1), gate()]
    return Multiplied(nn.Identity(), nn.Sequential(*branch))


def head(inputs: int, outputs: int = 5) -> nn.Sequential:
    """Means over the positions of an image, and a linear layer."""
    return nn.Sequential(Averaged(2, 3), nn.Linear(inputs, outputs))
