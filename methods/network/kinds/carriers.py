"""Modules between layers that have a number per channel, or sizes that must follow when channels are removed.

A carrier that ``mixes`` takes statistics over channels: after a removal it sees only what is left, so that removing is
not the same as putting zeros in front of it. A new carrier is one entry of :data:`CARRIERS`; the attributes that follow
are in :mod:`methods.network.kinds.cutting`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.network.kinds.base import runs
from methods.network.kinds.convolution import depthwise
from methods.network.kinds.cutting import follow_carried, take
from methods.seeds import stream

EACH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class Carrier(ABC):
    """One sort of carrier.

    Attributes:
        mixes: whether statistics over channels are taken.
    """

    mixes: ClassVar[bool] = False

    @abstractmethod
    def owns(self, module: nn.Module) -> bool:
        """Whether ``module`` is such a carrier."""

    def channel(self, module: nn.Module) -> int:
        """Dimension of the channels in what it reads and returns."""
        return 1

    @abstractmethod
    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Remove the channels ``gone`` (indices); parameters are replaced, sizes follow."""


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

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """The slopes, if there are several."""
        if (slopes := _size(module, "num_parameters")) > 1:
            take(module, ("weight",), 0, gone)
            follow_carried(module, slopes - len(gone))


class Depthwise(Carrier):
    """Convolutions that treat every channel alone."""

    def owns(self, module: nn.Module) -> bool:
        """As many groups as channels."""
        return depthwise(module)

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """The filters."""
        channels = _size(module, "groups") - len(gone)
        take(module, ("weight", "bias"), 0, gone)
        follow_carried(module, channels)


class Groups(Carrier):
    """``nn.GroupNorm``: whole groups, or as many channels of each."""

    mixes = True

    def owns(self, module: nn.Module) -> bool:
        """By class."""
        return runs(module, nn.GroupNorm)

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


class LastDimension(Carrier):
    """``nn.LayerNorm`` and ``nn.RMSNorm`` over the last dimension, and modules that behave like the latter."""

    mixes = True

    def owns(self, module: nn.Module) -> bool:
        """By class, or by what it does: libraries have RMS norms of their own."""
        if any(runs(module, each) for each in (nn.LayerNorm, nn.RMSNorm)):
            return len(_shape(module)) == 1
        return _is_rms_norm(module)

    def channel(self, module: nn.Module) -> int:
        """The last one."""
        return -1

    def cut(self, module: nn.Module, gone: Tensor) -> None:
        """Parameters and ``normalized_shape``."""
        take(module, ("weight", "bias"), 0, gone)
        if hasattr(module, "normalized_shape"):
            setattr(module, "normalized_shape", (_shape(module)[0] - len(gone),))  # noqa: B010 (as above)


CARRIERS: tuple[Carrier, ...] = (Norms(), Slopes(), Depthwise(), Groups(), LastDimension())


def find_carrier(module: nn.Module) -> Carrier | None:
    """The carrier that ``module`` is; None if it is none that is known."""
    return next((carrier for carrier in CARRIERS if carrier.owns(module)), None)


def _size(module: nn.Module, name: str) -> int:
    size = getattr(module, name)
    assert isinstance(size, int)
    return size


def _shape(module: nn.Module) -> tuple[int, ...]:
    shape = module.normalized_shape
    assert isinstance(shape, tuple)
    return shape


@torch.no_grad()
def _is_rms_norm(module: nn.Module) -> bool:
    """Whether the module divides by the root mean square of the last dimension and multiplies by its only parameter.

    Gemma's multiplies by one more than it; the scale is therefore read off the result.
    """
    parameters = dict(module.named_parameters())
    if (
        type(module).__module__.startswith("torch.")
        or parameters.keys() != {"weight"}
        or any(True for _ in module.children())
    ):
        return False
    weight = parameters["weight"]
    if weight.ndim != 1 or len(weight) < 2:
        return False
    read = torch.randn(3, 2, len(weight), generator=stream(0, "rms norm")).to(weight)
    try:
        written = type(module).forward(module, read)
    except Exception:  # a user's module may fail in any way; then it is none of these
        return False
    if not isinstance(written, Tensor) or written.shape != read.shape:
        return False
    normal = read * read.square().mean(-1, keepdim=True).rsqrt()
    return any(torch.allclose(written, normal * scale, rtol=1e-2, atol=1e-2) for scale in (weight, 1 + weight))
