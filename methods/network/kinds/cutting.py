"""Cutting entries out of parameters, and which of a module's own numbers must follow.

A forward pass may read a size that the constructor has stored: ``BatchNorm2d.num_features`` is only printed, but
``Conv2d.groups`` decides what is computed. The tables below name the attributes of layers and carriers; a new kind
whose size has another name adds it here. Those of a module around layers
(``num_heads``) are in :mod:`methods.network.kinds.following`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

OUTPUTS = ("out_features", "out_channels", "nf")  # of a layer: as many as it has output units
INPUTS = ("in_features", "in_channels", "nx")  # of a layer: as many as it has input channels
CARRIED = ("num_features", "num_parameters", "num_channels", "in_channels", "out_channels", "groups")  # of a carrier


def take(module: nn.Module, names: Sequence[str], dimension: int, gone: Tensor) -> None:
    """Cut the entries ``gone`` out of parameters and buffers; a parameter becomes a new one."""
    for name in names:
        tensor = getattr(module, name, None)
        if tensor is None:
            continue
        stays = torch.ones(tensor.shape[dimension], dtype=torch.bool, device=tensor.device)
        stays[gone.to(tensor.device)] = False
        replace(module, name, tensor.detach()[(slice(None),) * dimension + (stays,)].clone())


def replace(module: nn.Module, name: str, values: Tensor) -> None:
    """Replace a parameter or buffer by ``values``; a parameter becomes a new one."""
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values)


def follow(module: nn.Module, *, outputs: int | None = None, inputs: int | None = None) -> None:
    """Set those of :data:`OUTPUTS` and :data:`INPUTS` that the module has; what is None stays."""
    for names, size in ((OUTPUTS, outputs), (INPUTS, inputs)):
        for name in names:
            if size is not None and hasattr(module, name):
                setattr(module, name, size)


def follow_carried(module: nn.Module, channels: int) -> None:
    """Set those of :data:`CARRIED` that the module has."""
    for name in CARRIED:
        if hasattr(module, name):
            setattr(module, name, channels)
