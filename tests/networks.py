"""Networks and random numbers for tests; what checks of others' methods need too lives in :mod:`secateurs.examples`.

Every number comes from a seed that the call names (0 where it does not), whatever was drawn before.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from methods.layers.statistics import Calibration
from methods.seeds import stream
from secateurs.examples import NETWORKS, calibration, make

__all__ = ["NETWORKS", "calibration", "make", "noise", "permutation", "placed", "uniform", "whole_numbers"]


def placed(thing: nn.Module | Calibration, device: torch.device) -> nn.Module | Calibration:
    """A network or samples, on ``device``; for tests that take one (tests/conftest.py)."""
    if isinstance(thing, nn.Module):
        return thing.to(device)
    return replace(thing, inputs=thing.inputs.to(device), labels=thing.labels.to(device))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers of this shape."""
    return torch.randn(shape, generator=stream(seed, "noise"), dtype=dtype)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of this shape, uniform in [0, 1)."""
    return torch.rand(shape, generator=stream(seed, "uniform"), dtype=dtype)


def whole_numbers(below: int, *shape: int, seed: int = 0) -> Tensor:
    """Numbers of this shape from 0 to ``below - 1``, int64: labels, mostly."""
    return torch.randint(below, shape, generator=stream(seed, "whole numbers"))


def permutation(n: int, seed: int = 0) -> Tensor:
    """The numbers from 0 to n - 1 in random order."""
    return torch.randperm(n, generator=stream(seed, "permutation"))
