"""Parameters that several modules share, such as a head's with its embedding: cut once, and shared afterwards.

They can be cut where every module that owns one would lose the same entries of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.network.kinds.grouped import gathered
from methods.network.kinds.registry import find_kind, kind_of
from methods.network.nodes import NodeGroup

Owners = list[tuple[str, str]]  # paths of modules, and by which name each has the parameter


def shared_parameters(model: nn.Module) -> list[Owners]:
    """For each parameter that is there under several names, its owners."""
    owners: dict[nn.Parameter, Owners] = {}
    for path, module in model.named_modules():  # a module under two names is one
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append((path, name))
    return [each for each in owners.values() if len(each) > 1]


def share_again(model: nn.Module, shared: list[Owners]) -> None:
    """Give all owners the parameter of the first one, after each of them has been cut."""
    for (path, own), *others in shared:
        parameter = getattr(model.get_submodule(path), own)
        for other, name in others:
            setattr(model.get_submodule(other), name, parameter)


def tied_tables(model: nn.Module) -> list[tuple[str, str]]:
    """Embeddings and the layers that multiply by the same table, whose inputs are then what the embedding looks up."""
    pairs = []
    for owners in shared_parameters(model):
        kinds = {path: find_kind(model.get_submodule(path)) for path, name in owners if name == "weight"}
        tables = [path for path, kind in kinds.items() if kind is not None and not kind.multiplies]
        for path, kind in kinds.items():
            as_stored = kind is not None and kind.as_stored(torch.zeros(2, 3)).shape == (2, 3)
            pairs += [(table, path) for table in tables if path not in tables and as_stored]
    return pairs


def cut_alike(model: nn.Module, group: NodeGroup) -> set[str]:
    """Paths of modules that share parameters all of whose owners lose the same entries with each node of the group."""
    alike: set[str] = set()
    unlike: set[str] = set()
    for owners in shared_parameters(model):
        first, *others = (_nodes_of(model, group, path, name) for path, name in owners)
        same = all(one.shape == first.shape and torch.equal(one, first) for one in others)
        (alike if same else unlike).update(path for path, _ in owners)
    return alike - unlike


def _nodes_of(model: nn.Module, group: NodeGroup, path: str, name: str) -> Tensor:
    """The node to which each entry of a parameter belongs, counted from 1, in the parameter's own layout; else 0."""
    module = model.get_submodule(path)
    parameter = getattr(module, name)
    nodes = torch.zeros(1, dtype=torch.int32).expand(parameter.shape)
    for held in group.held:
        if held.name == (f"{path}.{name}" if path else name):
            nodes = nodes + _along(parameter.shape, held.dimension, held.places)
    for carrier, entries in zip(group.carriers, group.entries, strict=True):
        if carrier == path:
            nodes = nodes + _along(parameter.shape, 0, entries)
    for writer, rows in zip(group.writers, group.rows, strict=True):
        if writer == path and name == "weight":
            matrix = kind_of(module).matrix(module)
            nodes = nodes + kind_of(module).as_stored(_along(matrix.shape, 0, rows))
        elif writer == path and name == "bias":
            nodes = nodes + _along(parameter.shape, 0, rows)
    for reader in group.readers:
        if reader.name == path and name == "weight":
            out, inputs, *kernel = kind_of(module).matrix(module).shape
            whole = torch.Size((out, inputs * reader.groups, *kernel))  # the columns are those of all groups
            nodes = nodes + kind_of(module).as_stored(gathered(_along(whole, 1, reader.columns), reader.groups))
    return nodes


def _along(shape: torch.Size, dimension: int, places: Tensor) -> Tensor:
    """(*shape) numbers of the nodes, counted from 1, whose ``places`` (m, r) lie along one dimension."""
    own = torch.zeros(shape[dimension], dtype=torch.int32)
    own[places] = torch.arange(1, len(places) + 1, dtype=torch.int32)[:, None].expand(places.shape)
    view = [1] * len(shape)
    view[dimension] = -1
    return own.view(view).expand(shape)
