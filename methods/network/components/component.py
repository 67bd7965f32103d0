"""Nodes that several layers share, and what belongs to each; of several sorts if layers' outputs are split.

Nodes are of different sorts if modules read, write or carry different numbers of them, as when a forward pass splits,
slices or chunks the output of a layer. Each sort is a group of its own. Sizes that the forward pass looks up in
attributes are adapted (:mod:`methods.network.kinds.following`); if sizes are written in its code, the nodes are left
alone. If the forward pass divides evenly instead (``chunk(2)``), every piece has to lose the same number of units: the
nodes at the same place in each piece then form one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from methods.network.mockup import Mockup
from methods.network.nodes import Entries, NodeGroup, Reader

MOST_PIECES = 16  # of a layer's units, one after the other
MOST_PARTS = 8  # of the nodes that some layers share; no forward pass is expected to spell out more
PIECES = (2, 3, 4)  # numbers of pieces of the even divisions that are tried

Members = Mapping[str, Tensor]  # of a module (n, 2) its channels, output units or entries, and the number of their node


@dataclass(frozen=True)
class Component:
    """Nodes of coupled layers, of one or more sorts.

    Attributes:
        writers: paths of the layers, in forward order.
        size: number of nodes, in the order of the writers' output units.
        rows, channels, held: the node of each output unit of writers, of each input channel of readers and carriers, of
            each entry of parameters that are held.
        pieces: for each node the number of its layer's piece that it is in, if pieces count as different sorts.
    """

    writers: tuple[str, ...]
    size: int
    rows: Members
    channels: Members
    held: Members
    pieces: Tensor | None = None

    @cached_property
    def sorts(self) -> Tensor:
        """(size,) numbers from 0: those of two nodes are equal if every module has as many members of either."""
        counts = [torch.bincount(own[:, 1], minlength=self.size) for own in self._members()]
        counts += [] if self.pieces is None else [self.pieces]
        found = torch.stack(counts, 1).unique(dim=0, return_inverse=True)[1]
        first = {sort: number for number, sort in enumerate(dict.fromkeys(found.tolist()))}
        return torch.tensor([first[sort] for sort in found.tolist()])

    def confused(self) -> str | None:
        """The module with more members of one node than of another, if their numbers differ in too many ways."""
        if int(self.sorts.max()) < MOST_PARTS:
            return None
        for path, own in [*self.rows.items(), *self.channels.items(), *self.held.items()]:
            counts = torch.bincount(own[:, 1], minlength=self.size)
            if bool((counts != counts[0]).any()):
                return f"{path} does not treat all nodes alike"
        raise AssertionError("all nodes are alike")

    def sizes(self, group: NodeGroup) -> dict[int, int]:
        """Numbers of units that a forward pass could spell out, and how many of these belong to one node."""
        path, rows = group.writers[0], group.rows[0]
        found = {group.size * each: each for each in range(group.width, 0, -1) if group.width % each == 0}
        sorts = self.sorts[self.rows[path][:, 1]].tolist()  # of the layer's units, in order
        for total, own in runs(sorts, sorts[int(rows[0, 0])]).items():
            if own % group.size == 0:
                found.setdefault(total, own // group.size)
        return found

    def folded(self, pieces: int) -> Component:
        """The same component, with one node for all nodes at the same place in each of so many equal pieces."""
        size = self.size // pieces

        def fold(members: Members) -> Members:
            return {path: torch.stack([own[:, 0], own[:, 1] % size], 1) for path, own in members.items()}

        return Component(self.writers, size, fold(self.rows), fold(self.channels), fold(self.held))

    def group(self, mockup: Mockup, nodes: Tensor) -> NodeGroup:
        """The group of some nodes of one sort."""
        place = torch.full((self.size,), -1)
        place[nodes] = torch.arange(len(nodes))

        def of(members: Members) -> dict[str, Tensor]:
            return {path: own for path, each in members.items() if len(own := _by_node(each, place, len(nodes)))}

        rows, channels, held = of(self.rows), of(self.channels), of(self.held)
        writers = [path for path in self.writers if path in rows]
        return NodeGroup(
            name_of(mockup, writers[0], rows[writers[0]]),
            len(nodes),
            tuple(writers),
            tuple(
                Reader(p, channels[p], mockup.dimension(p) == 1, mockup.groups(p))
                for p in mockup.layers
                if p in channels
            ),
            tuple(path for path in channels if path in mockup.passing),
            tuple(rows[path] for path in writers),
            tuple(channels[path] for path in channels if path in mockup.passing),
            held=tuple(Entries(name, mockup.dimension(name), own) for name, own in held.items()),
            partial=any(rows[path].numel() < mockup.units(path) for path in writers),
        )

    def groups(self, mockup: Mockup) -> list[NodeGroup]:
        """A group for each sort of nodes, in order."""
        sorts = self.sorts
        return [self.group(mockup, (sorts == each).nonzero().flatten()) for each in range(1 + int(sorts.max()))]

    def _members(self) -> Iterator[Tensor]:
        for members in (self.rows, self.channels, self.held):
            yield from members.values()


def folds(component: Component) -> Iterator[Component]:
    """Even divisions after which all nodes are of one sort."""
    for pieces in PIECES:
        if component.size % pieces == 0 and component.size > pieces:
            folded = component.folded(pieces)
            if not bool(folded.sorts.any()):
                yield folded


def cuts(component: Component, places: Iterable[Sequence[int]]) -> Iterator[Component]:
    """The same nodes, divided into sorts by their place in the first layer.

    Args:
        component: of nodes of a single sort.
        places: for each division the output units at which one piece ends and the next begins.
    """
    own = component.rows[component.writers[0]]
    first = torch.full((component.size,), len(own)).scatter_reduce(0, own[:, 1], own[:, 0], "amin")
    for each in places:
        pieces = torch.bucketize(first, torch.tensor(each), right=True)
        if len(pieces.unique()) > 1:
            yield replace(component, pieces=pieces)


def runs(sorts: Sequence[int], sort: int) -> dict[int, int]:
    """Sums of the sizes of neighbouring pieces of a layer, and how many of these units are of one sort.

    Args:
        sorts: of each output unit of a layer, in order; neighbours of the same sort form a piece.
        sort: the sort that is counted; sums without any unit of it are left out.
    """
    starts = [0, *(at for at in range(1, len(sorts)) if sorts[at] != sorts[at - 1]), len(sorts)]
    if len(starts) > MOST_PIECES:
        return {}
    own = [0, *accumulate(int(each == sort) for each in sorts)]
    found: dict[int, int] = {}
    for number, start in enumerate(starts):
        for stop in starts[number + 1 :]:
            if own[stop] > own[start]:
                found.setdefault(stop - start, own[stop] - own[start])
    return found


def name_of(mockup: Mockup, path: str, rows: Tensor) -> str:
    """A layer's path, with the numbers of its output units where they are only a part of all."""
    own = rows.flatten().sort().values
    first, last = int(own[0]), int(own[-1])
    if len(own) == mockup.units(path):
        return path
    return f"{path}[{first}:{last + 1}]" if len(own) == last + 1 - first else f"{path}[{first}, ...]"


def _by_node(members: Tensor, place: Tensor, size: int) -> Tensor:
    """(size, r) the members of each node, ascending; (0, 0) if none has any."""
    nodes = place[members[:, 1]]
    values, nodes = members[nodes >= 0, 0], nodes[nodes >= 0]
    if not len(nodes):
        return torch.zeros(0, 0, dtype=torch.int64)
    return values[torch.argsort(nodes, stable=True)].reshape(size, -1)  # values ascend already
