"""The coupled node groups of a network, and their removal; :mod:`methods.network.coupling` defines what a group is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import Skipped
from methods.network.kinds.carriers import carrier_of, on_the_rest
from methods.network.kinds.cutting import take
from methods.network.kinds.following import follow
from methods.network.kinds.registry import find_kind, kind_of
from methods.network.nodes import NodeGroup, Reader
from methods.network.reading import evaluating, fewest, what_is_read
from methods.network.remembered import groups_of
from methods.network.sharing import share_again, shared_parameters

__all__ = ["NetworkGraph", "NodeGroup", "Reader", "call_order", "gated"]


class NetworkGraph:
    """The node groups of one network and their removal.

    Args:
        model: the network; left as it is until :meth:`remove` is called.
        example: a batch of at least one input, used to run the forward pass.
        residual: whether groups with several writers (residual streams) count as prunable.

    Attributes:
        groups: the prunable groups, in forward order.
        left_alone: for each other group the path of its first writer and why it cannot be pruned.
    """

    def __init__(self, model: nn.Module, example: Tensor, *, residual: bool = False) -> None:
        self.model = model
        self.groups, self.left_alone = groups_of(model, example, residual)

    @classmethod
    def of(cls, model: nn.Module, groups: Sequence[NodeGroup]) -> NetworkGraph:
        """The graph of a network whose groups are known already, because it has the structure of another network."""
        graph = cls.__new__(cls)
        graph.model, graph.left_alone, graph.groups = model, {}, list(groups)
        return graph

    def find(self, name: str) -> NodeGroup:
        """The group as it is now: a removal shifts the columns of other groups with a common reader."""
        return next(group for group in self.groups if group.name == name)

    def remove(self, group: NodeGroup, kept: Tensor) -> None:
        """Physically remove the nodes of ``group`` that are not in ``kept`` (sorted); parameters are replaced."""
        if len(kept) == group.size:
            return
        gone = _gone(group, kept)
        rows, lost = group.of_nodes(gone.nonzero().flatten())
        held = group.held_of(gone.nonzero().flatten())
        shared = shared_parameters(self.model)
        for path, own in rows.items():
            module = self.model.get_submodule(path)
            kind_of(module).cut_outputs(module, own)
        for path in group.carriers:
            module = self.model.get_submodule(path)
            carrier_of(module).cut(module, lost[path])
        for reader in group.readers:
            module = self.model.get_submodule(reader.name)
            kind_of(module).cut_inputs(module, lost[reader.name])
        for each in group.held:
            path, _, name = each.name.rpartition(".")
            take(self.model.get_submodule(path), (name,), each.dimension, held[each.name])
        follow(self.model, {attribute: each * (group.size - len(kept)) for attribute, each in group.follows})
        share_again(self.model, shared)
        self.groups = [_shrunk(each, group, gone, (rows, lost, held)) for each in self.groups]

    def leave_alone(self, reason: Callable[[NodeGroup], str | None]) -> None:
        """Leave those groups alone for which there is a ``reason``."""
        reasons = {group.name: reason(group) for group in self.groups}
        self.groups = [group for group in self.groups if reasons[group.name] is None]
        self.left_alone |= {name: own for name, own in reasons.items() if own is not None}

    def require_groups(self) -> None:
        """Raise :class:`Skipped` with the reasons if no group of nodes can be pruned."""
        if not self.groups:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in self.left_alone.items())
            layers = sum(find_kind(module) is not None for module in self.model.modules())
            few = {0: "it has no layer of a known kind", 1: "it has one layer only"}
            raise Skipped(
                "no layer of this network has nodes that can be removed "
                f"({reasons or few.get(layers, 'no layer reads what another one writes')})"
            )


# --- removing nodes --------------------------------------------------------------------------------------------------


def _shrunk(
    each: NodeGroup,
    removed: NodeGroup,
    gone: Tensor,
    lost: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]],
) -> NodeGroup:
    """``each`` after the nodes ``gone`` of the group ``removed`` have been removed.

    ``lost`` holds what was removed with them: output units, input channels, and entries of parameters that are held.
    """
    rows, channels, held = lost
    own = each.name == removed.name
    touched = {*rows, *channels, *held}
    if not own and touched.isdisjoint((*each.writers, *each.channels, *(h.name for h in each.held))):
        return each
    stays = ~gone if own else torch.ones(each.size, dtype=torch.bool)

    def shifted(places: Tensor, lost: Tensor | None) -> Tensor:
        places = places[stays]
        return places if lost is None else places - torch.searchsorted(lost, places)

    readers = tuple(replace(r, columns=shifted(r.columns, channels.get(r.name))) for r in each.readers)
    return replace(
        each,
        size=int(stays.sum()),
        readers=readers,
        rows=tuple(shifted(p, rows.get(path)) for path, p in zip(each.writers, each.rows, strict=True)),
        entries=tuple(shifted(p, channels.get(path)) for path, p in zip(each.carriers, each.entries, strict=True)),
        held=tuple(replace(h, places=shifted(h.places, held.get(h.name))) for h in each.held),
    )


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
            model(fewest(model, example))
    finally:
        for handle in handles:
            handle.remove()
    return order


@contextmanager
def gated(model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this context readers see zeros in place of nodes that are not kept, which removal has to be equal to.

    A carrier that takes statistics over channels takes them over the remaining ones.
    """
    handles = []
    closed = [group for group in groups if group.name in kept]
    with ExitStack() as stack:
        for path, channels in _closed_carriers(model, closed, kept).items():
            module = model.get_submodule(path)
            stack.enter_context(_running(module, on_the_rest(module, channels)))
        for group in closed:
            gone = _gone(group, kept[group.name])
            for reader in group.readers:
                columns = reader.columns[gone].reshape(-1)
                hook = _closing(columns, 1 if reader.is_convolution else -1)
                handles.append(model.get_submodule(reader.name).register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _closed_carriers(model: nn.Module, groups: Sequence[NodeGroup], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For each carrier that takes statistics over channels, the sorted channels that are masked."""
    closed: dict[str, Tensor] = {}
    for group in groups:
        for path, entries in zip(group.carriers, group.entries, strict=True):
            module = model.get_submodule(path)
            own = entries[_gone(group, kept[group.name])].flatten()
            if carrier_of(module).mixes(module) and len(own):
                closed[path] = torch.cat([closed.get(path, own[:0]), own]).sort().values
    return closed


def _gone(group: NodeGroup, kept: Tensor) -> Tensor:
    """(m,) bool: the nodes that do not stay."""
    gone = torch.ones(group.size, dtype=torch.bool)
    gone[kept.cpu()] = False
    return gone


@contextmanager
def _running(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this context the module has another forward pass."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


Called = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword arguments


def _closing(columns: Tensor, dimension: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Called]:
    def close(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Called:
        read = what_is_read(inputs, named)
        closed = read.index_fill(dimension, columns.to(read.device), 0)
        by_name = {name: closed if value is read else value for name, value in named.items()}
        return tuple(closed if value is read else value for value in inputs), by_name

    return close
