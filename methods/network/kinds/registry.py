"""Which kind a module is of. Kinds are discovered: they are all concrete subclasses of ``Kind`` in this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from inspect import isabstract

import torch
from torch import Tensor, nn

from methods.network import kinds as folder
from methods.network.kinds.base import Kind
from methods.network.parameters import bias_of


@cache
def all_kinds() -> tuple[Kind, ...]:
    """One object of every kind, in the order of the files' names."""
    for found in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{found.name}")
    kinds = sorted(_below(Kind), key=lambda kind: (kind.__module__, kind.__name__))
    return tuple(kind() for kind in kinds if not isabstract(kind))


def _below(kind: type) -> set[type]:
    """All subclasses, with theirs."""
    own: list[type] = kind.__subclasses__()
    return {each for one in own for each in (one, *_below(one))}


def find_kind(module: nn.Module) -> Kind | None:
    """The kind of ``module``; None if it is no layer, or one that computes something of its own."""
    return next((kind.of(module) for kind in all_kinds() if kind.owns(module)), None)


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module that is known to be a layer.

    Raises:
        TypeError: if it is none.
    """
    kind = find_kind(module)
    if kind is None:
        raise TypeError(f"{type(module).__name__} is no kind of layer that is known here")
    return kind


def is_layer(module: nn.Module) -> bool:
    """Whether ``module`` is of a known kind and multiplies its input, which an embedding does not do."""
    kind = find_kind(module)
    return kind is not None and kind.multiplies


def matrix_of(module: nn.Module) -> Tensor:
    """(out, in / groups, *kernel) view of a layer's weight, whatever its kind.

    Writing into it writes the weight, but for transposed convolutions of several groups.
    """
    return kind_of(module).matrix(module)


@torch.no_grad()
def write_parameters(module: nn.Module, matrix: Tensor | None = None, bias: Tensor | None = None) -> None:
    """Copy new values into a layer's weight, given as its matrix, and into its bias; what is None stays."""
    if matrix is not None:
        kind_of(module).write(module, matrix)
    if bias is not None:
        own = bias_of(module)
        assert own is not None  # a pruning changes biases, it makes none
        own.copy_(bias)
