"""Groups that were found once in this process serve every network of the same structure: all cells of a sweep.

The structure is all that can make a difference to the mock-up (:mod:`methods.network.mockup`): classes and their
forward passes, what modules store apart from their parameters, shapes, what is shared, and those numbers that the
mock-up does not replace. If not all of this can be determined, because a network has hooks or objects that cannot be
compared, its groups are searched each time. Nothing is kept on disk, where the code of a forward pass could have
changed.
"""

from __future__ import annotations

import hashlib
from builtins import type as class_of
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from enum import Enum
from types import BuiltinFunctionType, FunctionType

import torch
from torch import Tensor, nn

from methods.network.coupling import find_groups
from methods.network.mockup import replaced
from methods.network.nodes import NodeGroup
from methods.network.ownership import borrowed_weights
from methods.network.reading import fewest

KEPT = 32  # structures
DEEPEST = 4  # of objects in objects
PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.layout, Enum, class_of)
OWN = frozenset(vars(nn.Module()))  # what every module has; compared in other ways, or irrelevant here

_known: OrderedDict[Hashable, tuple[list[NodeGroup], dict[str, str]]] = OrderedDict()


def groups_of(model: nn.Module, example: Tensor, residual: bool) -> tuple[list[NodeGroup], dict[str, str]]:
    """Like :func:`methods.network.coupling.find_groups`, from memory if a network of this structure was tried."""
    try:
        key = (residual, structure_of(model, fewest(model, example)))
    except _Unknown:
        return find_groups(model, example, residual)
    if key not in _known:
        _known[key] = find_groups(model, example, residual)
        if len(_known) > KEPT:
            _known.popitem(last=False)
    _known.move_to_end(key)
    groups, left_alone = _known[key]
    return list(groups), dict(left_alone)


def forget() -> None:
    """Forget all groups, so that those of every network are searched again."""
    _known.clear()


def structure_of(model: nn.Module, example: Tensor) -> Hashable:
    """A value that is the same for two networks only if their groups are; see the module's docstring."""
    values = None if example.is_floating_point() else _digest(example)  # ids may decide what a network masks
    modules = tuple(_module(path, module) for path, module in model.named_modules(remove_duplicate=False))
    return modules, tuple(borrowed_weights(model).items()), tuple(example.shape), example.dtype, values


def _module(path: str, module: nn.Module) -> Hashable:
    if any(getattr(module, hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        raise _Unknown
    own = tuple((name, _frozen(value, 0)) for name, value in sorted(vars(module).items()) if name not in OWN)
    numbers = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    tensors = tuple((name, _tensor(value, replaced(module, name))) for name, value in numbers.items())
    return path, class_of(module), class_of(module).forward, own, tensors


def _tensor(tensor: Tensor, any_values: bool) -> Hashable:
    return tuple(tensor.shape), tensor.dtype, isinstance(tensor, nn.Parameter), None if any_values else _digest(tensor)


def _digest(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.flatten().view(torch.uint8).numpy().tobytes()).digest()


def _frozen(value: object, depth: int) -> Hashable:
    """A value that can be compared, with its class; functions and classes are themselves."""
    if depth > DEEPEST:
        raise _Unknown
    if isinstance(value, PLAIN):
        return class_of(value), value
    if isinstance(value, BuiltinFunctionType) or (isinstance(value, FunctionType) and value.__closure__ is None):
        return value
    if isinstance(value, Tensor):
        return _tensor(value, any_values=False)
    return class_of(value), tuple(_inside(value, depth + 1))


def _inside(value: object, depth: int) -> Iterator[Hashable]:
    if isinstance(value, dict) and class_of(value) in (dict, OrderedDict):
        for name, each in value.items():
            yield _frozen(name, depth), _frozen(each, depth)
    elif isinstance(value, list | tuple) and class_of(value) in (list, tuple, torch.Size):
        yield from (_frozen(each, depth) for each in value)
    elif isinstance(value, set | frozenset):
        yield frozenset(_frozen(each, depth) for each in value)
    elif hasattr(value, "__dict__") and class_of(value).__basicsize__ <= _Plain.__basicsize__:
        if isinstance(value, nn.Module):  # one that is not registered
            raise _Unknown
        yield from ((name, _frozen(each, depth)) for name, each in sorted(vars(value).items()))
    else:
        raise _Unknown


class _Plain:
    """A class whose objects have no state besides their dictionary."""


class _Unknown(Exception):
    """Raised for a value that cannot be compared with another one."""
