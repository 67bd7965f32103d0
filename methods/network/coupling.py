"""Which output units of a network's layers have to be removed together, and what reads them.

A node is a neuron, a channel or an attention head. Nodes that meet in an addition can only be removed together, so the
unit of removal is a group: its *writers* are the layers whose output units the nodes are, its *readers* the layers that
take them in, its *carriers* everything in between with numbers per node: norms, PReLU, convolutions of several groups.

The groups are found by experiment (:mod:`methods.network.influence`): the outputs of units are changed, and modules
whose inputs change read these units. A group is offered for pruning only after the network has been run without half of
it: a structure that is not understood is left alone, with a reason.

Nodes can also meet in a product: a gate and the values that it multiplies are one group. That is not a residual stream,
to which branches are added; experiments tell the two apart, too (:mod:`methods.network.trials`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import replace
from itertools import chain, combinations

import torch
from torch import Tensor, nn

from methods.network.components.component import PIECES, Component, cuts, folds
from methods.network.components.labels import block_of, components
from methods.network.components.shared import apart_from_shared
from methods.network.held import find_held
from methods.network.influence import Influence, find_influences
from methods.network.kinds.balance import unbalanced
from methods.network.kinds.carriers import find_carrier
from methods.network.kinds.following import (
    HEADS,
    RATIOS,
    WIDTHS,
    Attribute,
    Following,
    by_size,
    dividing,
    followings,
    number_of,
    ratios,
)
from methods.network.kinds.grouped import wide_groups
from methods.network.mockup import Mockup
from methods.network.nodes import NodeGroup, Reader
from methods.network.ownership import borrowed_weights
from methods.network.reduced import reduced
from methods.network.sharing import cut_alike
from methods.network.trials import Part, adds, each_without, product_macs, together, without
from methods.seeds import stream

DRAWS = 20  # attempts to draw a half that no even division fits by chance
PARTS_OF_ALL = 3  # that are tried for every group
PARTS_TRIED = 4  # for a group that attributes follow, or that is a piece of a layer
NOT_ALIKE = "the forward pass does not treat all of its nodes alike"
__all__ = ["NodeGroup", "Reader", "find_groups"]


def find_groups(model: nn.Module, example: Tensor, residual: bool) -> tuple[list[NodeGroup], dict[str, str]]:
    """The prunable groups in forward order, and for each other group the first writer and why it cannot be pruned.

    Args:
        model: the network; left as it is.
        example: a batch of at least one input; one is run.
        residual: whether groups with several writers (residual streams) count as prunable.
    """
    found, crossing = _found(model, example, residual)
    if not crossing:
        return found
    # groups of channels are coupled: let each lose some of its channels
    other, _ = _found(model, example, residual, crossing)
    return max(found, other, key=lambda each: sum(group.size > 1 for group in each[0]))


Found = tuple[list[NodeGroup], dict[str, str]]


def _found(
    model: nn.Module, example: Tensor, residual: bool, groupwise: Collection[str] = ()
) -> tuple[Found, set[str]]:
    """Groups of nodes and reasons, and the grouped convolutions that stand in the way of groups of nodes."""
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
    """A mock-up in which norms inside nodes run unchanged, and the influences that were found in it.

    If several output units of a layer reach the same channel of a norm, they do so at several positions, as query heads
    do: the norm sees one after the other, and stays whole whichever of them are removed.
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
    influences, reasons, sharing = apart_from_shared(mockup, influences)
    crossing: set[str] = set()
    parts: dict[str, list[NodeGroup]] = {}  # of each component, by its first writer

    def refusal(group: NodeGroup) -> str | None:
        reason = _obstacle(mockup, group, borrowed) or _cuts_blocks(mockup, group) or _tips_groups(mockup, group)
        if reason is not None:
            crossing.update(path for path in group.carriers if wide_groups(mockup.modules[path]))
        elif not residual and _is_stream(mockup, group):
            return "residual stream (prune it with prune_residual=true)"
        return reason

    found = list(components(mockup, influences))
    for component in found:
        groups = [group for group in component.groups(mockup) if group.readers]
        if (reason := _closed(influences, component)) is not None:
            crossing.update(path for path in component.channels if wide_groups(mockup.modules[path]))
            reasons[component.writers[0]] = reason
            groups = []
        reasons |= {group.name: refusal(group) for group in groups}
        parts[component.writers[0]] = groups
    candidates = [group for groups in parts.values() for group in groups if reasons[group.name] is None]
    names, halves = [group.name for group in candidates], [_half(mockup, group) for group in candidates]
    for number in range(PARTS_OF_ALL):  # a unit that a forward pass addresses by its index is in one half or the other
        halved = [_half(mockup, group, number) for group in candidates] if number else halves
        told = each_without(mockup, halved)
        reasons |= {name: reasons[name] or why for name, why in zip(names, told, strict=True)}
    tried = dict(zip(names, zip(candidates, halves, strict=True), strict=True))
    macs = product_macs(mockup)
    groups, followed = [], set[Attribute]()
    for component in found:
        names = [group.name for group in parts[component.writers[0]]]
        good = []
        for group, half in (tried[name] for name in names if name in tried):
            own = (group, half) if reasons[group.name] is None else _followed(mockup, component, group, half, followed)
            good += [] if own is None else [own]
        if not good and not tried.keys().isdisjoint(names):
            good, others = _divided(mockup, component, refusal, followed)
            if good or len(names) > 1:  # the reasons for the parts do not apply to these, or are the same for all
                told = [reasons.pop(name) for name in names]
                reasons |= others if good else {component.writers[0]: told[0]}
        for group, half in good:
            if not group.follows and not sharing.isdisjoint(group.writers):
                group, half = _with_ratios(mockup, group, half)
            reasons[group.name] = None
            followed.update(attribute for attribute, _ in group.follows)
            each = (macs - product_macs(mockup, half)) // _lost(mockup, group, half) if macs else 0
            groups.append(replace(group, product_macs=each))
    return (groups, {name: reason for name, reason in reasons.items() if reason is not None}), crossing


def _followed(
    mockup: Mockup, component: Component, group: NodeGroup, half: Part, taken: Container[Attribute]
) -> tuple[NodeGroup, Part] | None:
    """The group with the attributes that must follow a removal, and its half; None if it cannot be removed."""
    gone = _lost(mockup, group, half)
    sizes = component.sizes(group)
    for following in (
        *followings(mockup.model, group.writers, group.size),
        *by_size(mockup.model, group.writers, sizes),
    ):
        # a number that counts other units, too, follows all of them
        whole = [attribute for attribute, each in following if number_of(mockup.model, attribute) == each * group.size]
        if not any(attribute in taken for attribute in whole) and _does_without(mockup, group, following):
            following = _needed(mockup, group, following)
            part = half._replace(less={attribute: each * gone for attribute, each in following})
            return replace(group, follows=following), part
    return None


def _does_without(mockup: Mockup, group: NodeGroup, following: Following = ()) -> bool:
    """Whether the network runs without each of several parts of the group, which have no index in common by chance."""
    group = replace(group, follows=following)
    return all(without(mockup, _half(mockup, group, number)) is None for number in range(PARTS_TRIED))


def _needed(mockup: Mockup, group: NodeGroup, following: Following) -> Following:
    """The attributes that the network needs to follow; others may have the same value by chance.

    Attributes named after heads and widths stay together: a forward pass may use one of them in some calls only.
    """
    if all(name in (*HEADS, *WIDTHS, *RATIOS) for (_, name), _ in following):
        return following
    for attribute in following:
        fewer = tuple(each for each in following if each != attribute)
        if fewer and _does_without(mockup, group, fewer):
            following = fewer
    return following


def _with_ratios(mockup: Mockup, group: NodeGroup, half: Part) -> tuple[NodeGroup, Part]:
    """The group with the number of queries per key following, too, if the network runs with that."""
    following = ratios(mockup.model, group.writers, group.size)
    part = half._replace(less={attribute: each * _lost(mockup, group, half) for attribute, each in following})
    return (replace(group, follows=following), part) if without(mockup, part) is None else (group, half)


def _divided(
    mockup: Mockup,
    component: Component,
    refusal: Callable[[NodeGroup], str | None],
    taken: Container[Attribute],
) -> tuple[list[tuple[NodeGroup, Part]], dict[str, str | None]]:
    """Groups of the nodes of a component that a forward pass divides, evenly or as attributes say; none if it does not.

    The second result says why other nodes of the component cannot be removed, by the names of their groups.
    """
    places: Iterable[tuple[int, ...]] = ()
    if not bool(component.sorts.any()):
        places = dividing(mockup.model, component.writers, mockup.units(component.writers[0]))
    for divided in chain(folds(component), cuts(component, places)):
        good, reasons = [], dict[str, str | None]()
        for group in divided.groups(mockup):
            reasons[group.name] = refusal(group)
            if reasons[group.name] is None:
                half = _half(mockup, group)
                whole = (group, half) if _does_without(mockup, group) else None
                found = whole or _followed(mockup, divided, group, half, taken)
                good += [] if found is None else [found]
                reasons[group.name] = without(mockup, half) or NOT_ALIKE if found is None else None
        if good:
            return good, reasons
    return [], {}


def _is_stream(mockup: Mockup, group: NodeGroup) -> bool:
    """Whether branches are added to the nodes; not so for heads, hidden states, and gates, which meet in products."""
    grouped = any(mockup.groups(path) > 1 for path in (*group.writers, *(reader.name for reader in group.readers)))
    heads = group.width > 1 and not grouped and all(block_of(mockup, path) == 1 for path in group.carriers)
    if len(group.writers) < 2 or heads or group.recurrent:
        return False
    return any(adds(mockup, one, other) for one, other in combinations(group.writers, 2))


def _tips_groups(mockup: Mockup, group: NodeGroup) -> str | None:
    """A message that names the convolution whose groups would lose different numbers of channels, if there is one."""
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


def _cuts_blocks(mockup: Mockup, group: NodeGroup) -> str | None:
    """A message that names the carrier that would lose a part of a block, if there is one."""
    for path, entries in zip(group.carriers, group.entries, strict=True):
        block = block_of(mockup, path)
        inside = entries.sort(1).values.reshape(len(entries), -1, block) if entries.shape[1] % block == 0 else None
        if inside is None or bool(
            (inside != inside[..., :1] + torch.arange(block)).any() | (inside[..., 0] % block).any()
        ):
            return f"{path} treats {block} channels together, not all of which are nodes"
    return None


def _closed(influences: Mapping[str, Influence], component: Component) -> str | None:
    """Why none of the nodes can be removed, judging by the layers that write them."""
    for path in component.writers:
        if influences[path].obstacle:
            return (
                f"{influences[path].obstacle} takes in all nodes together, so that closing some off changes the others"
            )
        if influences[path].leaks:
            return f"the network returns what {path} computes"
    return component.confused()


def _obstacle(mockup: Mockup, group: NodeGroup, borrowed: Mapping[str, str]) -> str | None:
    """Why the nodes cannot be removed, judging by single modules."""
    if group.size < 2:
        return "its units all depend on each other: they are one node, and a layer must keep one"
    together = cut_alike(mockup.model, group)
    holders = [each.name.rpartition(".")[0] for each in group.held]
    for path in [*group.writers, *group.carriers, *(reader.name for reader in group.readers), *holders]:
        if path in borrowed and path not in together:
            return borrowed[path]
    return None


def _half(mockup: Mockup, group: NodeGroup, number: int = 0) -> Part:
    """Half of the nodes: the output units of its writers, and the channels that its readers and carriers then see.

    ``number`` 1 asks for the other half, and 2 and more for other parts, of a third and two thirds.
    """
    kept = _kept(group, number)
    gone = torch.ones(group.size, dtype=torch.bool)
    gone[kept] = False
    lost = gone.nonzero().flatten()
    rows, columns = group.of_nodes(lost)
    rows = {path: _others(mockup.units(path), own) for path, own in rows.items()}
    rows |= {name: _others(mockup.held[name].size, own) for name, own in group.held_of(lost).items()}
    columns = {path: _others(mockup.channels(path), own) for path, own in columns.items()}
    return Part(rows, columns, {attribute: each * len(lost) for attribute, each in group.follows})


def _kept(group: NodeGroup, number: int) -> Tensor:
    """The nodes of a part that is tried, sorted."""
    generator = stream(0, "half", group.name)
    for _ in range(DRAWS):
        kept = torch.randperm(group.size, generator=generator)[: (group.size + 1) // 2].sort().values
        if not any(_even(kept, group.size, pieces) for pieces in PIECES):
            break
    if group.size > 3 and bool((kept.diff() == kept.diff()[0]).all()):
        kept = torch.cat([kept[:1], kept[-1:]])  # a regular half could fit a structure by chance
    if number == 1:
        return _others(group.size, kept)
    if number > 1:
        many = max(1, group.size * (number - 1) // 3)
        kept = torch.randperm(group.size, generator=stream(number, "part", group.name))[:many].sort().values
    return kept


def _even(kept: Tensor, size: int, pieces: int) -> bool:
    """Whether the first of ``pieces`` equal pieces keeps its share, so that the kept nodes may divide evenly, too."""
    return size % pieces == 0 and int((kept < size // pieces).sum()) == -(len(kept) // -pieces)


def _lost(mockup: Mockup, group: NodeGroup, half: Part) -> int:
    """How many nodes are not in the half."""
    first = group.writers[0]
    return (mockup.units(first) - len(half.rows[first])) // group.width


def _others(size: int, gone: Tensor) -> Tensor:
    """The numbers below ``size`` that are not in ``gone``."""
    stays = torch.ones(size, dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().flatten()
