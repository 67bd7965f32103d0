"""Which modules normalise over all channels, and in which dimension these lie.

PyTorch's own are known by class. Libraries have classes of their own for the same, under names that change from version
to version: ``LlamaRMSNorm``, Gemma's (which multiplies by one more than its weight), layer norms of images with the
channels in dimension 1. These are recognised by what they do to random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from methods.network.kinds.base import runs
from methods.seeds import stream

LAST, FIRST = -1, 1
CLOSE = 1e-2  # of numbers around one; eps of the libraries differ
_known: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def channel_of_norm(module: nn.Module) -> int | None:
    """The dimension of the channels over which ``module`` normalises; None if it is no such norm."""
    if any(runs(module, each) for each in (nn.LayerNorm, nn.RMSNorm)):
        shape = module.normalized_shape
        return LAST if isinstance(shape, tuple) and len(shape) == 1 else None
    if type(module).__module__.startswith("torch.") or any(True for _ in module.children()):
        return None
    parameters = dict(module.named_parameters(recurse=False))
    sizes = {tuple(parameter.shape) for parameter in parameters.values()}
    if not 1 <= len(parameters) <= 2 or len(sizes) != 1 or len(size := sizes.pop()) != 1 or size[0] < 2:
        return None
    if module not in _known:
        _known[module] = _tried(module, parameters)
    return _known[module]


@torch.no_grad()
def _tried(module: nn.Module, parameters: dict[str, nn.Parameter]) -> int | None:
    """The dimension over which its answer to random numbers is normalised."""
    biases = [name for name in parameters if name in ("bias", "beta")]
    scales = [name for name in parameters if name not in biases]
    if len(scales) != 1:
        return None
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():  # a weight of zeros or ones would show nothing
            parameter.data = (0.5 + torch.rand(parameter.shape, generator=stream(0, "norm", name))).to(parameter)
        scale = parameters[scales[0]].data
        bias = parameters[biases[0]].data if biases else torch.zeros_like(scale)
        size = len(scale)
        for dimension, shape in ((LAST, (3, size + 1, size)), (FIRST, (2, size, size + 1, 3))):
            read = (3 * torch.randn(shape, generator=stream(0, "norm", "read")) + 1).to(scale)
            try:
                written = type(module).forward(module, read)
            except Exception:  # a user's module may fail in any way; then it is none of these
                continue
            if isinstance(written, Tensor) and written.shape == read.shape:
                expected = _norms(read, dimension, scale, bias)
                if any(torch.allclose(written, each.to(written), rtol=CLOSE, atol=CLOSE) for each in expected):
                    return dimension
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
    return None


def _norms(read: Tensor, dimension: int, scale: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """What the norms that are known make of ``read``."""
    shape = [1] * read.dim()
    shape[dimension] = -1
    scale, bias = scale.view(shape), bias.view(shape)
    centred = read - read.mean(dimension, keepdim=True)
    for values in (read, centred):
        normal = values * values.square().mean(dimension, keepdim=True).rsqrt()
        for factor in (scale, 1 + scale):
            yield normal * factor + bias
