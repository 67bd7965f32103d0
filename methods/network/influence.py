"""Which inputs of which modules each output unit of a layer reaches, found by experiment instead of by tracing code.

In a mock-up of the network (:mod:`methods.network.mockup`) some output units of a layer change: what any module then
reads differently is what these units feed. Units are changed in patterns (:mod:`methods.network.codes`), each of them
upwards and downwards, and a unit is told by the patterns that it is in.

Where nothing depends on several units, as in plain networks and where branches are concatenated, the units of all
layers change in the same run. Where sums of several layers are read, layers change one after the other; where an input
depends on several units of one layer (attention), its units are changed in blocks, and then, one of every block that
no input has in common with the others, alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.network.codes import NONE, SEVERAL, meant, patterns
from methods.network.mockup import Change, Mockup
from methods.seeds import stream

STEP = 10.0  # of a change, against random outputs of standard deviation 1: no activation can hide it both up and down
CHANGED = 1e-3  # what counts as a change, relative to the largest value read
MOST_AT_ONCE = 2**24  # numbers in one changed output
MOST_ALL_AT_ONCE = 2**27  # numbers in the changed outputs of all layers
MOST_ALONE = 4096  # units that are tried one by one


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
    """What the output units of every layer reach before the next layer."""
    with mockup.standing():
        found = _all_at_once(mockup)
        return {path: influence(mockup, path) for path in mockup.layers} if found is None else found


def influence(mockup: Mockup, path: str) -> Influence:
    """What the output units of the layer at ``path`` reach before the next layer."""
    units = mockup.units(path)
    answer = _answers(mockup, {path: patterns(units)})
    result = Influence(leaks=bool(answer.output.any()), obstacle=answer.obstacle)
    if result.obstacle:
        return result
    own = {reader: meant(changed, units) for reader, changed in answer.hits.items()}
    if not any(bool((unit == SEVERAL).any()) for unit in own.values()):
        result.pairs = {reader: _pairs(unit) for reader, unit in own.items()}
    elif units > MOST_ALONE:
        result.obstacle = "an operation that mixes the nodes"
    else:
        pairs, result.obstacle = _one_by_one(mockup, path)
        result.pairs = pairs
    return result


def _all_at_once(mockup: Mockup) -> dict[str, Influence] | None:
    """What the units of every layer reach, all layers changed in the same run; None if an input depends on several."""
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
            answer = _try(mockup, changes, whole=True)
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


def _pairs(unit: Tensor) -> Tensor:
    channels = (unit != NONE).nonzero().flatten()
    return torch.stack([unit[channels], channels], 1)


def _one_by_one(mockup: Mockup, path: str) -> tuple[dict[str, Tensor], str | None]:
    """For each reader its pairs, where inputs depend on several units; or what stands in the way.

    First blocks of units change. Blocks that no input has in common can then be tried in the same run, unit by unit:
    an input that answers has only one of these units in a block on which it depends.
    """
    units = mockup.units(path)
    size = 1 << (units.bit_length() - 1) // 2  # about the root of their number
    block = torch.arange(units) // size
    blocks = int(block[-1]) + 1
    coarse = _answers(mockup, {path: block == torch.arange(blocks)[:, None]})
    if coarse.obstacle:
        return {}, coarse.obstacle
    dependent = torch.cat([*coarse.hits.values()], 1).T.unique(dim=0)  # (kinds of channels, blocks)
    meeting = dependent.float().T @ dependent.float() > 0
    colour = torch.full((blocks,), -1)
    for each in range(blocks):
        taken = set(colour[:each][meeting[each, :each]].tolist())
        colour[each] = next(free for free in range(blocks) if free not in taken)
    turn = colour[block] * size + torch.arange(units) % size
    turns = turn.unique()
    fine = _answers(mockup, {path: turn == turns[:, None]})
    pairs = {}
    for reader, changed in fine.hits.items():
        blank = torch.zeros(blocks, changed.shape[1], dtype=torch.bool)
        place = torch.full((int(colour.max()) + 1, changed.shape[1]), NONE)  # the block of each colour it depends on
        for each, known in enumerate(coarse.hits.get(reader, blank)):
            place[colour[each], known] = each
        asked, channels = changed.nonzero().T
        own = place[turns[asked] // size, channels]
        if bool((own == NONE).any()):  # blocks hid what single units show
            alone = _answers(mockup, {path: torch.eye(units, dtype=torch.bool)})
            return {reader: changed.T.nonzero().flip(1) for reader, changed in alone.hits.items()}, alone.obstacle
        pairs[reader] = torch.stack([own * size + turns[asked] % size, channels], 1)
    return pairs, fine.obstacle


# --- trials ----------------------------------------------------------------------------------------------------------


@dataclass
class _Answer:
    """What answered to P patterns.

    Attributes:
        hits: for each reader of which an input changed, (P, channels) bool.
        output: (P, size of the last dimension) bool, of the network's output.
        obstacle: a module on the way that needs all units, in words.
    """

    hits: dict[str, Tensor] = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    obstacle: str | None = None


def _answers(mockup: Mockup, chosen: Mapping[str, Tensor]) -> _Answer:
    """Changes layers by their (P, units) patterns, as many at once as memory allows."""
    [(path, every)] = chosen.items()
    at_once = max(1, MOST_AT_ONCE // (2 * mockup.numbers[path][0].numel()))
    parts = []
    for chunk in every.split(at_once):
        try:
            part = _try(mockup, {path: chunk}, whole=False)
        except Exception:  # some operations want equal batches, reshapes may fold copies: run the whole as often
            try:
                part = _try(mockup, {path: chunk}, whole=True)
            except _Folded:
                part = _Answer(obstacle="an operation that mixes samples")
        if part.obstacle:
            return part
        parts.append(part)
    result = _Answer(output=torch.cat([part.output for part in parts]))
    for reader in dict.fromkeys(reader for part in parts for reader in part.hits):
        blank = [torch.zeros(len(part.output), mockup.channels(reader), dtype=torch.bool) for part in parts]
        result.hits[reader] = torch.cat([p.hits.get(reader, none) for p, none in zip(parts, blank, strict=True)])
    return result


def _try(mockup: Mockup, chosen: Mapping[str, Tensor], whole: bool) -> _Answer:
    """One run whose batch is the network as it is, then each pattern upwards, then each downwards.

    Args:
        mockup: the network.
        chosen: for each layer that changes (P, units) bool.
        whole: run everything as often; else only what the changed units reach.
    """
    [number] = {len(own) for own in chosen.values()}
    copies = 2 * number + 1
    answer = _Answer(output=torch.zeros(number, mockup.output.shape[-1] if mockup.output.dim() else 1).bool())
    calls: dict[str, int] = defaultdict(int)

    def observe(reader: str, read: Tensor) -> None:
        before = mockup.reads[reader][calls[reader]] if reader else mockup.output
        calls[reader] += 1
        if not whole and read.shape == before.shape and _same(read, before):
            return  # outside of what the units reach
        if read.shape != (copies * len(before), *before.shape[1:]):
            raise _Folded(reader)  # a reshape has put the copies elsewhere
        entries = read.reshape(copies, *before.shape)
        if not _same(entries[0], before):
            raise _Folded(reader)
        dimension = mockup.dimension(reader) % before.dim() if reader in mockup.channelled else before.dim() - 1
        changed = _changed(entries, 1 + dimension)
        if reader in mockup.others and bool(changed.any()):
            answer.obstacle = answer.obstacle or f"{reader} ({type(mockup.modules[reader]).__name__})"
        elif reader in mockup.channelled:
            if bool(changed.any()):
                answer.hits[reader] = answer.hits[reader] | changed if reader in answer.hits else changed
        elif not reader:
            answer.output = changed

    change = {path: _change(mockup, path, own, copies) for path, own in chosen.items()}
    mockup.run(change, observe, copies if whole else 1, copies)
    return answer


def _change(mockup: Mockup, path: str, chosen: Tensor, copies: int) -> Change:
    signs = torch.cat([torch.zeros(1, chosen.shape[1]), chosen, -1.0 * chosen])

    def change(out: Tensor) -> Tensor:
        # every position by another amount: softmax does not see a common one
        step = STEP * (1 + torch.rand(out.shape, generator=stream(0, "step", path)).to(out))
        along = [1] * out.dim()
        along[mockup.dimension(path)] = -1
        return torch.addcmul(out, step, signs.to(out).reshape(copies, *along)).flatten(0, 1)

    return change


def _changed(entries: Tensor, dimension: int) -> Tensor:
    """(P, channels) whether the copies 1 + p or 1 + P + p differ from copy 0 somewhere in each channel."""
    others = [d for d in range(1, entries.dim()) if d != dimension]
    far = (entries[1:] - entries[:1]).abs()
    far = far.amax(others) if others else far
    changed = ~(far <= CHANGED * entries[0].abs().max().clamp_min(1))
    up, down = changed.chunk(2)
    return (up | down).cpu()


class _Folded(Exception):
    """Copies of the sample do not lie side by side in what a module reads."""


def _same(read: Tensor, before: Tensor) -> bool:
    return torch.equal(read, before) or bool(torch.allclose(read, before, rtol=1e-4, atol=1e-4))
