"""Modules between layers that have a number per channel, or sizes that must follow when channels are removed.

A carrier that ``mixes`` takes statistics over all channels: after a removal it sees only those that are left. Removing
channels is then not the same as replacing them by zeros, and in a masked network such carriers work on the remaining
channels alone (:func:`on_the_rest`). A carrier with a ``block`` of several channels treats each block separately;
blocks are removed as a whole or stay. A new carrier is one entry of :data:`CARRIERS`; the attributes that follow are
in :mod:`methods.network.kinds.cutting`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.network.kinds.base import runs
from methods.network.kinds.cutting import follow_carried, take
from methods.network.kinds.grouped import as_carried, block_sizes, cut_blocks, several_groups
from methods.network.kinds.norms import channel_of_norm

EACH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Carrier(ABC):
    """One sort of carrier; objects have no state, modules are passed in."""

    @abstractmethod
    def owns(self, module: nn.Module) -> bool:
        """Whether ``module`` is such a carrier."""

    def mixes(self, module: nn.Module) -> bool:
        """Whether statistics over all channels are taken."""
        return False

    def channel(self, module: nn.Module) -> int:
        """Dimension of the channels in what it reads and returns."""
        return 1

    def channels(self, module: nn.Module) -> int:
        """How many channels have numbers of their own in it; none without parameters."""
        return len(next(module.parameters(recurse=False), ()))

    def block(self, module: nn.Module) -> int:
        """How many channels of what it reads, side by side, can only be removed together."""
        return 1

    def imitate(self, module: nn.Module, read: Tensor) -> Tensor:
        """What it computes from any number of blocks in a mock-up, where no channel depends on another block."""
        return read.clone()

    @abstractmethod
    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Remove the channels ``gone`` (indices) of what it reads; parameters are replaced, sizes follow."""


class Norms(Carrier):
    """Batch and instance normalisation, with or without parameters and running statistics."""

    def owns(self, module: nn.Module) -> bool:
        """By class."""
        return any(runs(module, each) for each in EACH)

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Everything per channel."""
        channels = _size(module, "num_features") - len(gone)
        take(module, ("weight", "bias", "running_mean", "running_var"), 0, gone)
        follow_carried(module, channels)


class Slopes(Carrier):
    """``nn.PReLU``; one slope for all channels stays."""

    def owns(self, module: nn.Module) -> bool:
        """By class."""
        return runs(module, nn.PReLU)

    def channels(self, module: nn.Module) -> int:
        """One for each slope; none where a single slope serves all channels."""
        slopes = _size(module, "num_parameters")
        return slopes if slopes > 1 else 0

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """The slopes, if there are several."""
        if (slopes := _size(module, "num_parameters")) > 1:
            take(module, ("weight",), 0, gone)
            follow_carried(module, slopes - len(gone))


class Grouped(Carrier):
    """Convolutions of several groups, plain and transposed: depthwise ones, with a depth multiplier, and wider groups.

    A block is what one group reads; it goes with all that the group writes.
    """

    def owns(self, module: nn.Module) -> bool:
        """More than one group."""
        return several_groups(module)

    def channels(self, module: nn.Module) -> int:
        """All input channels."""
        return _size(module, "in_channels")

    def block(self, module: nn.Module) -> int:
        """Input channels of one group."""
        return block_sizes(module)[0]

    def imitate(self, module: nn.Module, read: Tensor) -> Tensor:
        """Every output channel depends on some channels of its group, and each of these on some input."""
        return as_carried(module, read)

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Whole groups.

        Raises:
            ValueError: if a group loses some of its channels and not all.
        """
        cut_blocks(module, whole_blocks(gone, self.block(module)))


class Groups(Carrier):
    """``nn.GroupNorm``: whole groups, each of which is normalised by itself; of a single group any channels."""

    def owns(self, module: nn.Module) -> bool:
        """By class."""
        return runs(module, nn.GroupNorm)

    def mixes(self, module: nn.Module) -> bool:
        """Only if there is one group."""
        return _size(module, "num_groups") == 1

    def block(self, module: nn.Module) -> int:
        """The channels of a group, of one group single ones."""
        groups = _size(module, "num_groups")
        return 1 if groups == 1 else _size(module, "num_channels") // groups

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """As for every carrier.

        Raises:
            ValueError: if groups lose different numbers of channels and are not removed whole.
        """
        groups, channels = _size(module, "num_groups"), _size(module, "num_channels")
        stays = torch.ones(channels, dtype=torch.bool)
        stays[gone.cpu()] = False
        left = stays.reshape(groups, -1).sum(1)
        if len(sizes := set(left[left > 0].tolist())) != 1:
            raise ValueError(f"a group norm cannot keep {sorted(sizes) or 'no'} channels in its {groups} groups")
        take(module, ("weight", "bias"), 0, gone)
        follow_carried(module, channels - len(gone))
        setattr(module, "num_groups", int((left > 0).sum()))  # noqa: B010 (to mypy any attribute is a tensor)


class AllChannels(Carrier):
    """Norms over all channels: ``nn.LayerNorm``, ``nn.RMSNorm``, and modules of libraries that behave like them."""

    def owns(self, module: nn.Module) -> bool:
        """By class, or by what it does."""
        return channel_of_norm(module) is not None

    def mixes(self, module: nn.Module) -> bool:
        """Always."""
        return True

    def channel(self, module: nn.Module) -> int:
        """The last one; 1 in some libraries' norms of images."""
        dimension = channel_of_norm(module)
        assert dimension is not None
        return dimension

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Parameters and ``normalized_shape``."""
        take(module, tuple(name for name, _ in module.named_parameters(recurse=False)), 0, gone)
        if isinstance(shape := getattr(module, "normalized_shape", None), tuple):
            setattr(module, "normalized_shape", (shape[0] - len(gone),))  # noqa: B010 (as above)


CARRIERS: tuple[Carrier, ...] = (Norms(), Slopes(), Grouped(), Groups(), AllChannels())


def find_carrier(module: nn.Module) -> Carrier | None:
    """The sort of carrier that ``module`` is; None if it is no known carrier."""
    return next((carrier for carrier in CARRIERS if carrier.owns(module)), None)


def carrier_of(module: nn.Module) -> Carrier:
    """The sort of a module that is known to be a carrier, even a convolution with only one group left."""
    return find_carrier(module) or CARRIERS[[type(each) for each in CARRIERS].index(Grouped)]


def on_the_rest(module: nn.Module, gone: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward pass of a carrier that mixes with the channels ``gone`` masked: it normalises the others alone.

    Returns:
        A function of the input with all channels, whose result is zero in the masked ones.
    """
    carrier = carrier_of(module)
    dimension = carrier.channel(module)
    rest = copy.deepcopy(module)
    carrier.cut(rest, gone)
    run = type(rest).forward

    def forward(read: Tensor) -> Tensor:
        stays = torch.ones(read.shape[dimension], dtype=torch.bool, device=read.device)
        stays[gone.to(read.device)] = False
        places = stays.nonzero().flatten()
        written = run(rest, read.index_select(dimension, places))
        return torch.zeros_like(read, dtype=written.dtype).index_copy(dimension % read.dim(), places, written)

    return forward


def whole_blocks(channels: Tensor, block: int) -> Tensor:
    """Numbers of the blocks that the sorted ``channels`` make up.

    Raises:
        ValueError: if they are part of a block only.
    """
    blocks = (channels // block).unique()
    if len(blocks) * block != len(channels):
        raise ValueError(f"channels side by side go in blocks of {block}")
    return blocks


def _size(module: nn.Module, name: str) -> int:
    size = getattr(module, name)
    assert isinstance(size, int)
    return size
