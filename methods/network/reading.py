"""Running a network and reading what its layers take in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.network.kinds.registry import kind_of

Rows = Callable[[Tensor], Tensor]  # what a module reads -> (features, samples x positions)


@contextmanager
def keep_modes(model: nn.Module) -> Iterator[None]:
    """Put every module back into its own train or eval mode; modules added meanwhile get the model's."""
    modes, default = {module: module.training for module in model.modules()}, model.training
    try:
        yield
    finally:
        for module, mode in modes.items():  # also of modules that were taken out meanwhile
            module.training = mode
        for module in model.modules():
            module.training = modes.get(module, default)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context the network is in evaluation mode; modes are restored afterwards (:func:`keep_modes`)."""
    with keep_modes(model):
        model.eval()
        yield


def fewest(model: nn.Module, example: Tensor) -> Tensor:
    """One sample of ``example``; two for a network that normalises by the batch even in evaluation."""
    alone = not any(_by_batch(module) for module in model.modules())
    return example[:1] if alone else example[:2]


def _by_batch(module: nn.Module) -> bool:
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return isinstance(module, norms) and module.running_mean is None


@contextmanager
def listening(model: nn.Module, listeners: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Call ``listeners[path]`` with what the module at ``path`` reads at every forward pass inside the context."""
    handles = []
    for path, listener in listeners.items():
        hook = _pre_hook(listener)
        handles.append(model.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pre_hook(listener: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple, dict[str, Any]], None]:
    def hook(_module: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
        listener(what_is_read(inputs, named))

    return hook


def what_is_read(inputs: tuple, named: Mapping[str, Any]) -> Tensor:
    """The tensor that a layer is called with, by place or by keyword (``conv(input=x)``); for hooks."""
    return next(value for value in (*inputs, *named.values()) if isinstance(value, Tensor))


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
    """How to view what the layer reads as (input features of one output unit, samples x output positions)."""
    kind = kind_of(module)
    return lambda read: kind.rows(module, read)
