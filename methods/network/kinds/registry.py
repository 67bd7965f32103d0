"""Which kind a module is of. Kinds are found by themselves: every subclass of ``Kind`` in a file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from torch import nn

from methods.network import kinds as folder
from methods.network.kinds.base import Kind


@cache
def all_kinds() -> tuple[Kind, ...]:
    """One object of every kind, in the order of the files' names."""
    for found in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{found.name}")
    return tuple(kind() for kind in sorted(Kind.__subclasses__(), key=lambda kind: (kind.__module__, kind.__name__)))


def find_kind(module: nn.Module) -> Kind | None:
    """The kind of ``module``; None if it is no layer, or one that computes something of its own."""
    return next((kind for kind in all_kinds() if kind.owns(module)), None)


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
    """Whether ``module`` is of a known kind."""
    return find_kind(module) is not None
