"""Which inputs of which modules each output unit of a layer reaches, found by experiment instead of by tracing code.

In a mock-up of the network (:mod:`methods.network.mockup`) some output units of a layer are changed: the input channels
of other modules that change are those that these units reach. Units are changed in patterns
(:mod:`methods.network.codes`), each upwards and downwards, and a unit is identified by the patterns that it is in.

If no input depends on several units, as in plain networks and where branches are concatenated, the units of all layers
are changed in the same run. If inputs are sums over several layers, layers are changed one after the other, and only
the part of the network that they reach is run once per pattern. Some forward passes do not allow that: a tensor that
they reshape by the size of another one would be folded (heads in most libraries). Then the whole network is run once
per pattern, and layers share their runs: those that meet index by index, such as all that are added to a stream, and
those that no module reads together, such as the queries of all blocks.

If an input depends on several units of one layer (attention), units are changed in blocks first, and then one by one,
in the same run for blocks that no input has in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.network.changes import Answer, BatchRearranged, answers
from methods.network.codes import NONE, SEVERAL, meant, patterns
from methods.network.held import feeding
from methods.network.mockup import Held, Mockup
from methods.seeds import stream

MOST_ALL_AT_ONCE = 2**27  # numbers in the changed outputs of all layers
MOST_ALONE = 4096  # units that are tried one by one
Reach = dict[str, Tensor]  # reader -> (channels,) bool, "" for the network's output


@dataclass
class Influence:
    """What the output units of one layer reach.

    Attributes:
        pairs: for each module that reads them, (n, 2) int64 pairs (output unit, input channel).
        leaks: the network's output depends on the units directly.
        obstacle: a module on the way that cannot do with fewer units; None if there is none.
    """

    pairs: dict[str, Tensor] = field(default_factory=dict)
    leaks: bool = False
    obstacle: str | None = None


def find_influences(mockup: Mockup) -> dict[str, Influence]:
    """Find what the output units of every layer reach before the next layer."""
    with mockup.standing():
        found = _all_at_once(mockup)
        if found is not None:
            return found
        found, whole = {}, []
        for path in mockup.layers:
            try:
                found |= _reached(mockup, path)
            except Exception:  # some operations require equal batches, reshapes may fold copies
                whole.append(path)
        found |= _whole(mockup, whole)
        return {path: found[path] for path in mockup.layers}


def influence(mockup: Mockup, path: str) -> Influence:
    """Find what the output units of the layer at ``path`` reach before the next layer, without looking at others."""
    try:
        return _reached(mockup, path)[path]
    except Exception:  # as above
        return _alone(mockup, path)


def _reached(mockup: Mockup, path: str) -> dict[str, Influence]:
    """Find what the units of a layer reach; only the part of the network that they reach is run once per pattern.

    Raises:
        Exception: if the forward pass does not accept the copies. If the units seem to reach nothing, the copies may
            have been folded into a sequence, of which causal attention never sees the later part.
    """
    found = _together(mockup, [path], whole=False)
    if not found[path].pairs and not found[path].leaks and found[path].obstacle is None:
        raise BatchRearranged(path)
    return found


def _alone(mockup: Mockup, path: str) -> Influence:
    try:
        return _together(mockup, [path], whole=True)[path]
    except Exception as error:  # as above
        if path not in mockup.lookups and not isinstance(error, BatchRearranged):
            raise
    # what is looked up once for all samples has no dimension for copies: one run for each pattern
    layer = Held(path, mockup.dimension(path), mockup.units(path))
    pairs = feeding(mockup, [layer]) if path in mockup.lookups else None
    if not pairs or any(other in mockup.others for other in mockup.reads):
        return Influence(obstacle="an operation that mixes samples")
    return Influence(pairs)


def _all_at_once(mockup: Mockup) -> dict[str, Influence] | None:
    """Find what the units of every layer reach, all changed in the same run; None if an input depends on several."""
    sizes = [mockup.units(path) for path in mockup.layers]
    numbers = sum(out.numel() for outs in mockup.numbers.values() for out in outs)
    codes = patterns(sum(sizes))
    whole = 2 * len(codes) * numbers <= MOST_ALL_AT_ONCE
    if len(sizes) < 2 or not whole or not mockup.others.isdisjoint(mockup.reads):
        return None
    half = torch.rand(sum(sizes), generator=stream(0, "half of all units")) < 0.5
    for chosen in (torch.stack([half, ~half]), codes):
        changes = dict(zip(mockup.layers, chosen.split(sizes, 1), strict=True))
        try:
            answer = answers(mockup, changes, whole=True)
        except Exception:  # a user's forward pass may fail in any way: one layer after the other is easier on it
            return None
        seen = [*answer.hits.values(), answer.output]
        if chosen is not codes and any(bool(changed.all(0).any()) for changed in seen):
            return None
    found = {path: Influence() for path in mockup.layers}
    starts = torch.tensor([0, *sizes]).cumsum(0)
    for reader, changed in [*answer.hits.items(), ("", answer.output)]:
        unit = meant(changed, sum(sizes))
        if bool((unit == SEVERAL).any()):
            return None
        pairs = _pairs(unit)
        for path, start, end in zip(mockup.layers, starts, starts[1:], strict=False):
            own = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < end)]
            if len(own) and reader:
                found[path].pairs[reader] = own - torch.stack([start, torch.zeros_like(start)])
            elif len(own):
                found[path].leaks = True
    return found


def _whole(mockup: Mockup, paths: Sequence[str]) -> dict[str, Influence]:
    """Find what units reach if that needs runs of the whole network; layers that meet nowhere share runs."""
    found: dict[str, Influence] = {}
    answer = _of_layers(mockup, paths) if len(paths) > 1 else None
    if answer is not None:
        free = [place for place, obstacle in enumerate(answer.obstacles) if obstacle is None]
        for place, obstacle in enumerate(answer.obstacles):
            if obstacle is not None:
                found[paths[place]] = Influence(leaks=bool(answer.output[place].any()), obstacle=obstacle)
        every = {**answer.hits, "": answer.output}
        reach = {place: {reader: changed[place] for reader, changed in every.items()} for place in free}
        found |= _by_one_code(mockup, {paths[place]: reach[place] for place in free})
        free = [place for place in free if paths[place] not in found]
        reached = torch.cat(list(every.values()), 1)[free].float()
        colour = _colours(reached @ reached.T > 0)
        for each in colour.unique():
            sharing = [free[place] for place in (colour == each).nonzero().flatten().tolist()]
            try:
                found |= _together(mockup, [paths[p] for p in sharing], whole=True, reach=[reach[p] for p in sharing])
            except Exception:  # together they do what none does alone
                continue
    return found | {path: _alone(mockup, path) for path in paths if path not in found}


def _by_one_code(mockup: Mockup, reach: Mapping[str, Reach]) -> dict[str, Influence]:
    """Find what units reach in layers that meet index by index, such as all that are added to one stream.

    Units of the same index change in the same patterns. A channel that units of two indices reach responds to more
    patterns than one unit has; if it responds to those of one index, it is this unit of every layer that reaches it.

    Args:
        mockup: the network.
        reach: for each layer what responds if all of its units change.
    """
    if not reach:
        return {}
    sizes = {path: mockup.units(path) for path in reach}
    codes = patterns(max(sizes.values()))
    try:
        answer = answers(mockup, {path: codes[:, :size] for path, size in sizes.items()}, whole=True)
    except Exception:  # together they do what none does alone
        return {}
    units = {reader: meant(changed, codes.shape[1]) for reader, changed in answer.hits.items()}
    found = {}
    for path, own in reach.items():
        pairs, clear = {}, not answer.obstacle
        for reader, channels in own.items():
            if reader and bool(channels.any()):
                unit = torch.where(channels, units.get(reader, torch.full((len(channels),), SEVERAL)), NONE)
                clear = clear and bool((unit[channels] >= 0).all() and (unit < sizes[path]).all())
                pairs[reader] = _pairs(unit)
        if clear:
            found[path] = Influence(pairs, leaks=bool(own[""].any()))
    return found


def _of_layers(mockup: Mockup, paths: Sequence[str]) -> Answer | None:
    """What responds if all units of a layer change, for each layer; None if the network does not accept the copies."""
    changed = torch.eye(len(paths), dtype=torch.bool)
    chosen = {path: changed[:, [place]].expand(-1, mockup.units(path)) for place, path in enumerate(paths)}
    try:
        return answers(mockup, chosen, whole=True)
    except Exception:  # one after the other is easier on a forward pass
        return None


def _colours(meeting: Tensor) -> Tensor:
    """(n,) colours, by greedy colouring: no two layers that meet have the same one."""
    colour = torch.full((len(meeting),), -1)
    for each in range(len(meeting)):
        taken = set(colour[:each][meeting[each, :each]].tolist())
        colour[each] = next(free for free in range(len(meeting)) if free not in taken)
    return colour


def _together(
    mockup: Mockup, paths: Sequence[str], whole: bool, reach: Sequence[Reach] | None = None
) -> dict[str, Influence]:
    """Find what units reach in layers that change in the same runs; ``reach`` says which response belongs to which.

    Raises:
        Exception: if the forward pass does not accept the copies, or several layers cannot be told apart.
    """
    most = max(mockup.units(path) for path in paths)
    codes = patterns(most)
    answer = answers(mockup, {path: codes[:, : mockup.units(path)] for path in paths}, whole)
    if answer.obstacle:
        if len(paths) > 1:
            raise _Unclear
        return {paths[0]: Influence(leaks=bool(answer.output.any()), obstacle=answer.obstacle)}
    found, mixing = {}, []
    for place, (hits, output) in enumerate(_shares(answer, reach)):
        path = paths[place]
        units = {reader: meant(changed, most) for reader, changed in hits.items()}
        found[path] = Influence({reader: _pairs(unit) for reader, unit in units.items()}, bool(output.any()))
        if any(bool((unit == SEVERAL).any()) for unit in units.values()):
            found[path].pairs = {}
            mixing.append(place)
            if mockup.units(path) > MOST_ALONE:
                found[path].obstacle = "an operation that mixes the nodes"
                mixing.pop()
    if mixing:
        pairs = _one_by_one(
            mockup,
            [paths[place] for place in mixing],
            whole,
            None if reach is None else [reach[place] for place in mixing],
        )
        for place, own in zip(mixing, pairs, strict=True):
            found[paths[place]].pairs = own
    return found


def _shares(answer: Answer, reach: Sequence[Reach] | None) -> list[tuple[dict[str, Tensor], Tensor]]:
    """For each layer its part of the hits and of the output; a single layer has all of them."""
    if reach is None:
        return [(answer.hits, answer.output)]
    shares = []
    for own in reach:
        hits = {reader: changed & own[reader] for reader, changed in answer.hits.items() if bool(own[reader].any())}
        shares.append((hits, answer.output & own[""]))
    total = sum(int(changed.sum()) for hits, output in shares for changed in (*hits.values(), output))
    if total != sum(int(changed.sum()) for changed in (*answer.hits.values(), answer.output)):
        raise _Unclear
    return shares


def _pairs(unit: Tensor) -> Tensor:
    channels = (unit != NONE).nonzero().flatten()
    return torch.stack([unit[channels], channels], 1)


def _one_by_one(
    mockup: Mockup, paths: Sequence[str], whole: bool, reach: Sequence[Reach] | None
) -> list[dict[str, Tensor]]:
    """For each layer the pairs of each reader, if inputs depend on several units.

    First, blocks of units change. Blocks that no input has in common can then be tried in the same run, unit by unit:
    an input that responds depends on one of these blocks only, and hence on the unit of that block.
    """
    units = [mockup.units(path) for path in paths]
    sizes = [1 << (own.bit_length() - 1) // 2 for own in units]  # about the square root of their number
    blocks = [torch.arange(own) // size for own, size in zip(units, sizes, strict=True)]
    most = 1 + max(int(own[-1]) for own in blocks)
    numbers = torch.arange(most)[:, None]
    coarse = _shares(answers(mockup, {p: own == numbers for p, own in zip(paths, blocks, strict=True)}, whole), reach)
    turns, colours = [], []
    for (hits, _), block, size in zip(coarse, blocks, sizes, strict=True):
        count = int(block[-1]) + 1
        together = torch.cat([changed[:count] for changed in hits.values()], 1).T.unique(dim=0).float()
        colours.append(_colours(together.T @ together > 0))
        turns.append(colours[-1][block] * size + torch.arange(len(block)) % size)
    numbers = torch.arange(1 + max(int(turn.max()) for turn in turns))[:, None]
    fine = _shares(answers(mockup, {p: turn == numbers for p, turn in zip(paths, turns, strict=True)}, whole), reach)
    found = []
    for (hits, _), (known, _), colour, size in zip(fine, coarse, colours, sizes, strict=True):
        own = {reader: _resolved(changed, known.get(reader), colour, size) for reader, changed in hits.items()}
        found.append({reader: pairs for reader, pairs in own.items() if pairs is not None})
        if len(found[-1]) < len(own):  # blocks hid what single units show
            if len(paths) > 1:
                raise _Unclear
            alone = answers(mockup, {paths[0]: torch.eye(units[0], dtype=torch.bool)}, whole)
            return [{reader: changed.nonzero() for reader, changed in alone.hits.items()}]
    return found


def _resolved(changed: Tensor, known: Tensor | None, colour: Tensor, size: int) -> Tensor | None:
    """(n, 2) pairs from (turns, channels) responses to units and (blocks, channels) to blocks; None if incomplete."""
    asked, channels = changed.nonzero().T
    place = torch.full((int(colour.max()) + 1, changed.shape[1]), NONE)  # the block of each colour it depends on
    for each, depends in enumerate([] if known is None else known[: len(colour)]):
        place[colour[each], depends] = each
    own = place[asked // size, channels]
    return None if bool((own == NONE).any()) else torch.stack([own * size + asked % size, channels], 1)


class _Unclear(Exception):
    """Layers that change together do something that none of them does alone."""
