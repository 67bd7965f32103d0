"""Coupled node groups of a network: who writes the nodes, who reads them, and how to remove them.

A node is a neuron or a channel. Nodes that meet in an addition can only be removed together, so the unit of removal is
a group: its *writers* are the layers whose output units the nodes are, its *readers* the layers that take them in, its
*carriers* everything in between with one parameter per node (batch norm, depthwise convolution). torch-pruning's
dependency graph finds the coupling and does the surgery; here it is put into the words that the methods use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch_pruning as tp
from torch import Tensor, nn

from methods.errors import Skipped
from methods.statistics import Rows, evaluating, node_rows

Prunable = nn.Linear | nn.Conv2d
CARRIERS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Reader:
    """A module that reads the nodes of a group.

    Attributes:
        name: module path.
        columns: (m, r) which input columns of the module's weight carry each node: r = 1 for a convolution or a plain
            linear layer, r = height x width for a linear layer behind a flattening.
        is_convolution: whether the module is a convolution.
    """

    name: str
    columns: Tensor
    is_convolution: bool

    @cached_property
    def rows(self) -> Rows:
        """How to view what the module reads as (nodes, samples x positions)."""
        return node_rows(self.columns, self.is_convolution)

    def weights(self, weight: Tensor) -> Tensor:
        """(out, m, r x kernel positions) view of the reader's weight, one block per node."""
        size, repeat = self.columns.shape
        picked = weight[:, self.columns.reshape(-1).to(weight.device)]
        return picked.reshape(len(weight), size, repeat * picked[0, 0].numel())


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that are removed together; see the module's text.

    Attributes:
        name: path of the first writer in forward order.
        size: number of nodes m.
        writers: paths of the modules whose output units the nodes are, in forward order.
        readers: the modules that read the nodes, in forward order.
        carriers: paths of batch norms and depthwise convolutions in between.
    """

    name: str
    size: int
    writers: tuple[str, ...]
    readers: tuple[Reader, ...]
    carriers: tuple[str, ...]


class NetworkGraph:
    """The node groups of one network and their removal.

    Args:
        model: the network; left as it is until :meth:`remove` is called.
        example: a batch of at least one input, used to trace the forward pass.
        residual: whether groups with several writers (residual streams) count as prunable.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, residual: bool = False) -> None:
        self.model = model
        self.paths = {module: path for path, module in model.named_modules()}
        self.order = call_order(model, example)
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        with evaluating(model), torch.enable_grad():  # torch-pruning traces gradients
            for parameter in frozen:
                parameter.requires_grad_(True)
            try:
                self._dependencies = tp.DependencyGraph().build_dependency(
                    model, example_inputs=example[:1], verbose=False
                )
            finally:
                for parameter in frozen:
                    parameter.requires_grad_(False)
        self.left_alone: dict[str, str] = {}
        self.groups = self._find_groups(residual)

    def _find_groups(self, residual: bool) -> list[NodeGroup]:
        groups: list[NodeGroup] = []
        seen: set[str] = set()
        for path in self.order:
            module = self.model.get_submodule(path)
            if path in seen or not isinstance(module, Prunable) or _depthwise(module):
                continue
            group, reason = self._describe(module)
            seen.update(group.writers)
            if not group.readers:
                continue  # the classifier: its outputs are the network's
            if reason is None and len(group.writers) > 1 and not residual:
                reason = "residual stream (prune it with prune_residual=true)"
            if reason is None:
                groups.append(group)
            else:
                self.left_alone[group.name] = reason
        return groups

    def _describe(self, module: Prunable) -> tuple[NodeGroup, str | None]:
        """The group that ``module`` writes, and why it cannot be pruned (None if it can)."""
        size = module.weight.shape[0]
        writers, readers, carriers, reason = [], [], [], None
        for target, is_input, indices in self._members(module, size):
            path = self.paths.get(target)
            if path is None:
                continue  # an operation without parameters
            if _depthwise(target) or isinstance(target, CARRIERS):
                carriers.append(path)
            elif not isinstance(target, Prunable):
                reason = f"{path} ({type(target).__name__}) couples the nodes in a way this suite does not treat"
            elif is_input:
                if len(indices) % size or len(set(indices)) != len(indices) or getattr(target, "groups", 1) > 1:
                    reason = f"{path} reads the nodes in a way this suite does not treat"
                else:
                    columns = torch.tensor(indices).reshape(size, -1)
                    readers.append(Reader(path, columns, isinstance(target, nn.Conv2d)))
            else:
                writers.append(path)
                if list(indices) != list(range(size)) or getattr(target, "groups", 1) > 1:
                    reason = f"{path} writes the nodes in a way this suite does not treat"
        position = {path: index for index, path in enumerate(self.order)}
        writers.sort(key=lambda path: position.get(path, -1))
        readers.sort(key=lambda reader: position.get(reader.name, -1))
        if reason is None and set(writers) & {reader.name for reader in readers}:
            reason = "a layer reads and writes the same nodes"
        return NodeGroup(writers[0], size, tuple(writers), tuple(readers), tuple(carriers)), reason

    def _members(self, module: Prunable, size: int) -> Iterator[tuple[nn.Module, bool, list[int]]]:
        prune = self._output_pruner(module)
        # torch-pruning refuses to trace with gradients off
        with torch.enable_grad():
            group = self._dependencies.get_pruning_group(module, prune, list(range(size)))
        seen = set()
        for dependency, indices in group:
            # handlers are bound methods, equal but never identical
            is_input = dependency.handler in (
                tp.prune_conv_in_channels,
                tp.prune_linear_in_channels,
            ) or dependency.handler == self._input_pruner(dependency.target.module)
            key = (dependency.target.module, is_input)
            if key not in seen:
                seen.add(key)
                yield dependency.target.module, is_input, list(indices)

    def _output_pruner(self, module: nn.Module) -> Callable:
        return self._dependencies.get_pruner_of_module(module).prune_out_channels

    def _input_pruner(self, module: nn.Module) -> Callable | None:
        if _depthwise(module) or not isinstance(module, Prunable):
            return None
        return self._dependencies.get_pruner_of_module(module).prune_in_channels

    def find(self, name: str) -> NodeGroup:
        """The group as it is now: a removal shifts the columns of other groups with a common reader."""
        return next(group for group in self.groups if group.name == name)

    def remove(self, group: NodeGroup, kept: Tensor) -> None:
        """Physically remove the nodes of ``group`` that are not in ``kept`` (sorted); parameters are replaced."""
        stays = set(kept.tolist())
        gone = [node for node in range(group.size) if node not in stays]
        if gone:
            module = self.model.get_submodule(group.name)
            requires_grad = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
            with torch.enable_grad():
                self._dependencies.get_pruning_group(module, self._output_pruner(module), gone).prune()
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(requires_grad[name])
            self.groups = [_shrunk(each, group, torch.tensor(gone)) for each in self.groups]

    def require_groups(self) -> None:
        """Raise :class:`Skipped` with the reasons if no group of nodes can be pruned."""
        if not self.groups:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.left_alone.items())
            raise Skipped(
                f"no layer of this network has nodes that can be removed ({reasons or 'it has one layer only'})"
            )


def _shrunk(each: NodeGroup, removed: NodeGroup, gone: Tensor) -> NodeGroup:
    """``each`` after the nodes ``gone`` of the group ``removed`` have left."""
    lost = {reader.name: reader.columns[gone].reshape(-1) for reader in removed.readers}
    stays = torch.ones(each.size, dtype=torch.bool)
    if each.name == removed.name:
        stays[gone] = False
    readers = tuple(
        replace(reader, columns=_shifted(reader.columns[stays], lost[reader.name])) if reader.name in lost else reader
        for reader in each.readers
    )
    return replace(each, size=int(stays.sum()), readers=readers)


def _shifted(columns: Tensor, lost: Tensor) -> Tensor:
    return columns - torch.searchsorted(lost.sort().values, columns)


def call_order(model: nn.Module, example: Tensor) -> list[str]:
    """Paths of the modules with a weight, in the order in which the forward pass first calls them."""
    order: list[str] = []
    handles = []
    for path, module in model.named_modules():
        if isinstance(getattr(module, "weight", None), Tensor):
            handles.append(
                module.register_forward_pre_hook(
                    lambda _m, _x, path=path: None if path in order else order.append(path)
                )
            )
    try:
        with evaluating(model), torch.no_grad():
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    return order


@contextmanager
def gated(model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, every reader of a group sees zeros in place of the nodes that are not kept: what removal must equal."""
    handles = []
    for group in groups:
        if group.name not in kept:
            continue
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[kept[group.name].cpu()] = False
        for reader in group.readers:
            columns = reader.columns[gone].reshape(-1)
            hook = _closing(columns, 1 if reader.is_convolution else -1)
            handles.append(model.get_submodule(reader.name).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _closing(columns: Tensor, dimension: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def close(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_fill(dimension, columns.to(inputs[0].device), 0), *inputs[1:])

    return close


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1
