"""Which node every output unit, input channel and held entry belongs to, and which layers share nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from methods.network.components.component import Component
from methods.network.influence import Influence
from methods.network.kinds.balance import classes, joined, relabelled
from methods.network.kinds.carriers import find_carrier
from methods.network.mockup import Held, Mockup
from methods.network.sharing import tied_tables


def components(mockup: Mockup, influences: Mapping[str, Influence]) -> Iterator[Component]:
    """The nodes of each set of coupled layers, if they reach another layer or meet an obstacle on the way."""
    units, channels, entries = labelled(mockup, influences)
    most = 1 + max((int(own.max()) for own in units.values() if len(own)), default=-1)
    seen = {path: torch.isin(torch.arange(most), own[:, 1]) for path, own in channels.items()}
    for writers in coupled(units):
        labels = torch.cat([units[path] for path in writers])
        known = list(dict.fromkeys(labels.tolist()))
        number = torch.full((most,), -1)
        number[known] = torch.arange(len(known))
        rows = {path: torch.stack([torch.arange(len(units[path])), number[units[path]]], 1) for path in writers}
        near = [path for path in channels if bool(seen[path][known].any())]
        reached = {path: _known(channels[path][:, 0], channels[path][:, 1], number) for path in near}
        held = {name: _known(torch.arange(len(own)), own, number) for name, own in entries.items()}
        if any(path in mockup.layers for path in near) or any(influences[path].obstacle for path in writers):
            yield Component(tuple(writers), len(known), rows, reached, {n: own for n, own in held.items() if len(own)})


def _known(values: Tensor, labels: Tensor, number: Tensor) -> Tensor:
    """(n, 2) values and the numbers of their nodes, without those of other nodes."""
    own = torch.where(labels < len(number), number[labels.clamp_max(len(number) - 1)], -1)
    return torch.stack([values, own], 1)[own >= 0]


def labelled(
    mockup: Mockup, influences: Mapping[str, Influence]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """For each layer the node (m,) of each output unit, and for each reader or carrier (n, 2) its channels and nodes.

    Output units and the input channels they reach are the two sides of a graph; its connected components are the nodes.
    The last mapping is the node of each entry of what is held.
    """
    sizes = {path: mockup.units(path) for path in mockup.layers}
    sizes |= {name: held.size for name, held in mockup.held.items()}
    feeding: dict[str, Influence | Held] = {**influences, **mockup.held}
    starts, total = {}, 0
    for path, size in sizes.items():
        starts[path], total = total, total + size
    reached, ends = {}, {}
    for reader in [*mockup.layers, *sorted(mockup.passing)]:
        pairs = [each.pairs[reader][:, 1] for each in feeding.values() if reader in each.pairs]
        if pairs:
            reached[reader] = torch.cat(pairs).unique()
            ends[reader], total = total, total + int(reached[reader].max()) + 1
    links = [
        pairs + torch.tensor([starts[path], ends[reader]])
        for path, each in feeding.items()
        for reader, pairs in each.pairs.items()
    ]
    links += [_block_links(own, block_of(mockup, path)) + ends[path] for path, own in reached.items()]
    links += [
        torch.stack([starts[table] + own, ends[head] + own], 1)
        for table, head in tied_tables(mockup.model)
        if table in starts and head in reached
        for own in [torch.arange(mockup.units(table))[torch.isin(torch.arange(mockup.units(table)), reached[head])]]
    ]
    edges = torch.cat([*links, torch.zeros(0, 2, dtype=torch.int64)]).numpy()
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(total, total))
    label = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    label = _balanced(mockup, label, starts, sizes, {path: (ends[path], own) for path, own in reached.items()})
    own = {path: label[start : start + sizes[path]] for path, start in starts.items()}
    units, entries = ({path: own[path] for path in paths} for paths in (mockup.layers, mockup.held))
    return units, {reader: torch.stack([at, label[ends[reader] + at]], 1) for reader, at in reached.items()}, entries


def _balanced(
    mockup: Mockup,
    label: Tensor,
    starts: Mapping[str, int],
    sizes: Mapping[str, int],
    reached: Mapping[str, tuple[int, Tensor]],
) -> Tensor:
    """The labels, with a common one for the channels at the same place in each group of a grouped convolution."""
    layers = []
    for path in mockup.layers:
        if (groups := mockup.groups(path)) > 1:
            layers.append(classes(label[starts[path] : starts[path] + sizes[path]], groups))
            end, own = reached.get(path, (0, label[:0]))
            if len(own) == mockup.channels(path):
                layers.append(classes(label[end + own], groups))
    return relabelled(label, joined(layers))


def block_of(mockup: Mockup, path: str) -> int:
    """How many input channels of the module can only be removed together."""
    carrier = find_carrier(mockup.modules[path]) if path in mockup.passing else None
    return 1 if carrier is None else carrier.block(mockup.modules[path])


def _block_links(channels: Tensor, block: int) -> Tensor:
    """(n, 2) pairs of neighbouring ``channels`` (sorted) that lie in the same block."""
    pairs = torch.stack([channels[:-1], channels[1:]], 1)
    return pairs[pairs[:, 0] // block == pairs[:, 1] // block]


def coupled(units: Mapping[str, Tensor]) -> list[list[str]]:
    """Lists of the layers that share nodes, in forward order within and between lists."""
    found: list[tuple[list[str], set[int]]] = []
    for path, labels in units.items():
        own = set(labels.tolist())
        meeting = [each for each in found if each[1] & own]
        merged = ([*(p for paths, _ in meeting for p in paths), path], own.union(*(nodes for _, nodes in meeting)))
        place = found.index(meeting[0]) if meeting else len(found)
        found = [each for each in found if each not in meeting]
        found.insert(place, merged)
    order = list(units)
    return [sorted(paths, key=order.index) for paths, _ in found]
