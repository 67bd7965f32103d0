"""Which output units of a network's layers have to be removed together, and what reads them.

A node is a neuron, a channel or an attention head. Nodes that meet in an addition can only be removed together, so the
unit of removal is a group: its *writers* are the layers whose output units the nodes are, its *readers* the layers that
take them in, its *carriers* everything in between with numbers per node: norms, PReLU, convolutions of several groups.

The groups are found by experiment (:mod:`methods.network.influence`): units of layers change, and what other modules
then read differently is what they feed. A group is only offered for pruning after the network was seen to do without
half of it: a structure that is not understood is left alone, with a reason.

Nodes also meet in a product: a gate and what it lets through are one group. That is not a residual stream, where
branches are added to what has passed by; the two are told apart by experiment too (:mod:`methods.network.trials`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from methods.network.held import find_held
from methods.network.influence import Influence, find_influences
from methods.network.kinds.balance import classes, joined, relabelled, unbalanced
from methods.network.kinds.carriers import find_carrier
from methods.network.kinds.following import Attribute, followings
from methods.network.kinds.grouped import wide_groups
from methods.network.mockup import Held, Mockup
from methods.network.nodes import Entries, NodeGroup, Reader
from methods.network.ownership import borrowed_weights
from methods.network.reduced import reduced
from methods.network.sharing import cut_alike, tied_tables
from methods.network.trials import Part, adds, each_without, product_macs, together, without
from methods.seeds import stream


def find_groups(model: nn.Module, example: Tensor, residual: bool) -> tuple[list[NodeGroup], dict[str, str]]:
    """The prunable groups in forward order, and of each other group the first writer and why it cannot be pruned.

    Args:
        model: the network; left as it is.
        example: a batch of at least one input; one is run.
        residual: whether groups with several writers (residual streams) count as prunable.
    """
    found, crossing = _found(model, example, residual)
    if not crossing:
        return found
    # groups of channels meet: let each lose some of its channels
    other, _ = _found(model, example, residual, crossing)
    return max(found, other, key=lambda each: sum(group.size > 1 for group in each[0]))


Found = tuple[list[NodeGroup], dict[str, str]]


def _found(
    model: nn.Module, example: Tensor, residual: bool, groupwise: Collection[str] = ()
) -> tuple[Found, set[str]]:
    """Groups and reasons, and the convolutions of several groups that are in the way of groups."""
    borrowed = borrowed_weights(model)
    mockup = Mockup(model, example, groupwise=groupwise)
    less = reduced(mockup)
    if less is not None and not product_macs(less):
        less, influences = _looked_at(less)
        with less.standing():
            found, crossing = _tried(less, influences, residual, borrowed)
        whole = Mockup(model, example, less.inside, groupwise) if less.inside else mockup
        whole.hold(less.held.values())
        if each_without(whole, [together([_half(whole, group) for group in found[0]])]) == [None]:
            return found, crossing
    mockup, influences = _looked_at(mockup)
    with mockup.standing():
        return _tried(mockup, influences, residual, borrowed)


def _looked_at(mockup: Mockup) -> tuple[Mockup, dict[str, Influence]]:
    """What reaches what, in a mock-up in which norms that lie inside of nodes work as they are.

    Where several output units of a layer reach the same channel of a norm, they do so at several places, such as the
    heads of queries: the norm sees one after the other, and stays whole whichever of them are removed.
    """
    mockup.hold(find_held(mockup).values())
    influences = find_influences(mockup)
    inside = [path for path in mockup.passing if _mixes(mockup, path) and _sees_several(influences, path)]
    if not inside:
        return mockup, influences
    mockup = Mockup(mockup.model, mockup.example, inside, mockup.groupwise)
    mockup.hold(find_held(mockup).values())
    return mockup, find_influences(mockup)


def _sees_several(influences: Mapping[str, Influence], path: str) -> bool:
    channels = [each.pairs[path][:, 1] for each in influences.values() if path in each.pairs]
    return any(len(own.unique()) < len(own) for own in channels)


def _tried(
    mockup: Mockup, influences: Mapping[str, Influence], residual: bool, borrowed: Mapping[str, str]
) -> tuple[Found, set[str]]:
    influences, reasons = _apart_from_shared(mockup, influences)
    candidates: list[NodeGroup] = []
    crossing: set[str] = set()
    for group, reason in _components(mockup, influences):
        reason = _obstacle(mockup, group, influences, borrowed) or reason
        if reason is not None:
            crossing.update(path for path in group.carriers if wide_groups(mockup.modules[path]))
        if reason is None and not residual and _is_stream(mockup, group):
            reason = "residual stream (prune it with prune_residual=true)"
        reasons[group.name] = reason
        if reason is None:
            candidates.append(group)
    halves = [_half(mockup, group) for group in candidates]
    reasons |= zip((group.name for group in candidates), each_without(mockup, halves), strict=True)
    macs = product_macs(mockup)
    groups, followed = [], set[Attribute]()
    for group, half in zip(candidates, halves, strict=True):
        if reasons[group.name] is not None:
            group, half = _followed(mockup, group, half, followed)
        if reasons[group.name] is None or group.follows:
            reasons[group.name] = None
            followed.update(attribute for attribute, _ in group.follows)
            gone = group.size - len(half.rows[group.name]) // group.width
            groups.append(replace(group, product_macs=(macs - product_macs(mockup, half)) // gone if macs else 0))
    return (groups, {name: reason for name, reason in reasons.items() if reason is not None}), crossing


def _apart_from_shared(
    mockup: Mockup, influences: Mapping[str, Influence]
) -> tuple[dict[str, Influence], dict[str, str | None]]:
    """Influences without those of layers that all nodes share, and for each of these layers why it is left alone.

    Where the heads of queries share one key and one value (Shazeer 2019), these tie all heads together. They have fewer
    units than they reach channels, stay, and without them the heads are nodes.
    """
    units = _labels(mockup, influences)[0]
    reasons: dict[str, str | None] = {}
    for writers in _coupled(units):
        shared = [path for path in writers if _fans_out(mockup, influences[path], path)]
        if 0 < len(shared) < len(writers) and len(torch.cat([units[path] for path in writers]).unique()) == 1:
            [first, *_] = (path for path in writers if path not in shared)
            reasons |= dict.fromkeys(shared, f"all nodes of {first} share its units")
    return {path: Influence() if path in reasons else own for path, own in influences.items()}, reasons


def _fans_out(mockup: Mockup, own: Influence, path: str) -> bool:
    return any(len(pairs[:, 1].unique()) > mockup.units(path) for pairs in own.pairs.values())


def _followed(mockup: Mockup, group: NodeGroup, half: Part, taken: Container[Attribute]) -> tuple[NodeGroup, Part]:
    """The group with the attributes that must follow a removal, and its half; as they are if it cannot be removed."""
    kept = len(half.rows[group.name]) // group.width
    for following in followings(mockup.model, group.writers, group.size):
        part = half._replace(numbers={attribute: each * kept for attribute, each in following})
        if not any(attribute in taken for attribute, _ in following) and without(mockup, part) is None:
            return replace(group, follows=following), part
    return group, half


def _is_stream(mockup: Mockup, group: NodeGroup) -> bool:
    """Whether branches are added to the nodes; not so for heads, hidden states, and gates, which meet in products."""
    grouped = any(mockup.groups(path) > 1 for path in (*group.writers, *(reader.name for reader in group.readers)))
    heads = group.width > 1 and not grouped and all(_block(mockup, path) == 1 for path in group.carriers)
    if len(group.writers) < 2 or heads or group.recurrent:
        return False
    return any(adds(mockup, one, other) for one, other in combinations(group.writers, 2))


def _components(mockup: Mockup, influences: Mapping[str, Influence]) -> Iterator[tuple[NodeGroup, str | None]]:
    """Groups of layers whose output units meet, and why they cannot be pruned, where that shows already."""
    units, channels, entries = _labels(mockup, influences)
    seen = {path: set(own[:, 1].tolist()) for path, own in channels.items()}
    for writers in _coupled(units):
        labels = torch.cat([units[path] for path in writers])
        node_of = {label: node for node, label in enumerate(dict.fromkeys(labels.tolist()))}
        rows = {path: _by_node(units[path], torch.arange(len(units[path])), node_of) for path in writers}
        near = [path for path in channels if not seen[path].isdisjoint(node_of)]
        reached = {path: _by_node(channels[path][:, 1], channels[path][:, 0], node_of) for path in near}
        held = {n: _by_node(own, torch.arange(len(own)), node_of) for n, own in entries.items()}
        uneven = [path for path, own in {**rows, **reached, **held}.items() if own is None]
        blank = torch.zeros(len(node_of), 0, dtype=torch.int64)
        parts = {path: blank if own is None else own for path, own in reached.items() if own is None or len(own)}
        group = NodeGroup(
            writers[0],
            len(node_of),
            tuple(writers),
            tuple(Reader(p, parts[p], mockup.dimension(p) == 1, mockup.groups(p)) for p in mockup.layers if p in parts),
            tuple(path for path in parts if path in mockup.passing),
            tuple(blank if own is None else own for own in rows.values()),
            tuple(parts[path] for path in parts if path in mockup.passing),
            held=tuple(
                Entries(name, mockup.dimension(name), own)
                for name, own in held.items()
                if own is not None and own.numel()
            ),
        )
        if group.readers or any(influences[path].obstacle for path in writers):
            reason = f"{uneven[0]} does not treat all nodes alike" if uneven else _cuts_blocks(mockup, group)
            yield group, reason or (None if uneven else _tips_groups(mockup, group))


def _labels(
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
    links += [_block_links(own, _block(mockup, path)) + ends[path] for path, own in reached.items()]
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
    """The labels, where those at the same place in each group of a convolution that is a layer are one."""
    layers = []
    for path in mockup.layers:
        if (groups := mockup.groups(path)) > 1:
            layers.append(classes(label[starts[path] : starts[path] + sizes[path]], groups))
            end, own = reached.get(path, (0, label[:0]))
            if len(own) == mockup.channels(path):
                layers.append(classes(label[end + own], groups))
    return relabelled(label, joined(layers))


def _tips_groups(mockup: Mockup, group: NodeGroup) -> str | None:
    """Which convolution's groups would lose different numbers of channels."""
    rows = dict(zip(group.writers, group.rows, strict=True))
    columns = {reader.name: reader.columns for reader in group.readers}
    for own, size in ((rows, mockup.units), (columns, mockup.channels)):
        for path, members in own.items():
            groups = mockup.groups(path)
            if groups > 1 and unbalanced(members, size(path), groups):
                return f"the {groups} groups of {path} would not lose as many channels each"
    return None


def _mixes(mockup: Mockup, path: str) -> bool:
    carrier = find_carrier(mockup.modules[path])
    return carrier is not None and carrier.mixes(mockup.modules[path])


def _block(mockup: Mockup, path: str) -> int:
    """How many channels that the module reads can only be removed together."""
    carrier = find_carrier(mockup.modules[path]) if path in mockup.passing else None
    return 1 if carrier is None else carrier.block(mockup.modules[path])


def _block_links(channels: Tensor, block: int) -> Tensor:
    """(n, 2) pairs of neighbouring ``channels`` (sorted) that lie in the same block."""
    pairs = torch.stack([channels[:-1], channels[1:]], 1)
    return pairs[pairs[:, 0] // block == pairs[:, 1] // block]


def _cuts_blocks(mockup: Mockup, group: NodeGroup) -> str | None:
    """Which carrier would lose a part of a block."""
    for path, entries in zip(group.carriers, group.entries, strict=True):
        block = _block(mockup, path)
        inside = entries.sort(1).values.reshape(len(entries), -1, block) if entries.shape[1] % block == 0 else None
        if inside is None or bool(
            (inside != inside[..., :1] + torch.arange(block)).any() | (inside[..., 0] % block).any()
        ):
            return f"{path} treats {block} channels together, not all of which are nodes"
    return None


def _coupled(units: Mapping[str, Tensor]) -> list[list[str]]:
    """Layers that share nodes, together; forward order within and between."""
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


def _by_node(labels: Tensor, values: Tensor, node_of: Mapping[int, int]) -> Tensor | None:
    """(m, r) the values of each node, ascending; None if nodes have different numbers, (0, 0) if none has any."""
    nodes = torch.tensor([node_of.get(label, -1) for label in labels.tolist()])
    if bool((nodes < 0).all()):
        return torch.zeros(0, 0, dtype=torch.int64)
    values, nodes = values[nodes >= 0], nodes[nodes >= 0]
    counts = torch.bincount(nodes, minlength=len(node_of))
    if bool((counts != counts[0]).any()):
        return None
    return values[torch.argsort(nodes, stable=True)].reshape(len(node_of), -1)  # values ascend already


def _obstacle(
    mockup: Mockup, group: NodeGroup, influences: Mapping[str, Influence], borrowed: Mapping[str, str]
) -> str | None:
    """Why the nodes cannot be removed, as far as single modules tell."""
    for path in group.writers:
        if influences[path].obstacle:
            return (
                f"{influences[path].obstacle} takes in all nodes together, so that closing some off changes the others"
            )
        if influences[path].leaks:
            return f"the network returns what {path} computes"
    if group.size < 2:
        return "its units all depend on each other: they are one node, and a layer must keep one"
    together = cut_alike(mockup.model, group)
    holders = [each.name.rpartition(".")[0] for each in group.held]
    for path in [*group.writers, *group.carriers, *(reader.name for reader in group.readers), *holders]:
        if path in borrowed and path not in together:
            return borrowed[path]
    return None


def _half(mockup: Mockup, group: NodeGroup) -> Part:
    """Half of the nodes: the output units of its writers, and the channels that its readers and carriers then see."""
    kept = torch.randperm(group.size, generator=stream(0, "half", group.name))[: (group.size + 1) // 2].sort().values
    if group.size > 3 and bool((kept.diff() == kept.diff()[0]).all()):
        kept = torch.cat([kept[:1], kept[-1:]])  # a regular half could fit a structure by chance
    gone = torch.ones(group.size, dtype=torch.bool)
    gone[kept] = False
    lost = gone.nonzero().flatten()
    rows = group.of_nodes(kept)[0]
    rows |= {name: _others(mockup.held[name].size, own) for name, own in group.held_of(lost).items()}
    columns = {path: _others(mockup.channels(path), own) for path, own in group.of_nodes(lost)[1].items()}
    return Part(rows, columns, {attribute: each * len(kept) for attribute, each in group.follows})


def _others(size: int, gone: Tensor) -> Tensor:
    """The numbers below ``size`` that are not in ``gone``."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().flatten()
