"""Running a network and reading what its layers take in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

Rows = Callable[[Tensor], Tensor]  # what a module reads -> (features, samples x positions)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def listening(model: nn.Module, listeners: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Call ``listeners[path]`` with what the module at ``path`` reads at every forward pass inside the context."""
    handles = []
    for path, listener in listeners.items():
        hook = _pre_hook(listener)
        handles.append(model.get_submodule(path).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pre_hook(listener: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        listener(inputs[0])

    return hook


def node_rows(columns: Tensor, is_convolution: bool) -> Rows:
    """How to view what a reader reads as (nodes, samples x positions).

    Args:
        columns: (m, r) input columns (channels of a convolution, features of a linear layer) that carry each node;
            r > 1 after flattening, where the r positions count as samples.
        is_convolution: whether dimension 1 of the read tensor is the channel dimension.
    """
    size, repeat = columns.shape
    flat = columns.reshape(-1)
    contiguous = bool((flat == torch.arange(len(flat))).all())

    def rows(read: Tensor) -> Tensor:
        read = read.flatten(2) if is_convolution else read.reshape(-1, read.shape[-1]).unsqueeze(2)
        if not (contiguous and read.shape[1] == len(flat)):
            read = read[:, flat.to(read.device)]
        return read.transpose(0, 1).reshape(size, repeat, -1).reshape(size, -1)

    return rows


def patch_rows(module: nn.Module) -> Rows:
    """How to view what ``module`` reads as (input features of one output unit, samples x output positions)."""
    if isinstance(module, nn.Linear):
        return lambda read: read.reshape(-1, read.shape[-1]).T

    assert isinstance(module, nn.Conv2d)

    def rows(read: Tensor) -> Tensor:
        patches = unfolded(module, read)
        return patches.transpose(0, 1).reshape(patches.shape[1], -1)

    return rows


def unfolded(module: nn.Conv2d, read: Tensor) -> Tensor:
    """(n, channels x kernel, T): what each output position sees of the (n, channels, rows, columns) ``read``."""
    read, padding = padded(module, read)
    return functional.unfold(read, module.kernel_size, module.dilation, padding, module.stride)


def padded(module: nn.Conv2d, read: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """What a convolution reads, and the rows and columns of zeros still to be put around it.

    Padding that only the module knows, by name or other than zeros, is in the tensor already.
    """
    if isinstance(module.padding, tuple) and module.padding_mode == "zeros":
        return read, module.padding
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(read, module._reversed_padding_repeated_twice, mode=mode), (0, 0)
