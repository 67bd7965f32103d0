"""Experiments on a mock-up that settle what a group of nodes is, and whether a network can do without some of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from methods.errors import first_line
from methods.network.codes import patterns
from methods.network.counting import products
from methods.network.kinds.following import Attribute, resized
from methods.network.mockup import Change, Mockup

ANSWERS = 1e-3  # what counts as a response to a change of a layer by SHIFT
LEVELS = ((0.3, 0.8), (-0.4, 0.9), (0.9, -0.3), (40.0, 60.0))  # of two layers, where their sum or product is looked at
SHIFT = 0.4  # small enough for activations that saturate
FEW = 4  # parts that are tried one by one


def adds(mockup: Mockup, first: str, second: str) -> bool:
    """Whether the outputs of two layers are added, seen by some module that reads both.

    A sum responds to both together as to one after the other (whatever its terms went through before), or responds
    alike whichever of them has risen (whatever the sum goes through after). A product does neither.
    """
    return any(_adds_at(mockup, {first: one, second: other}) for one, other in LEVELS)


def _adds_at(mockup: Mockup, levels: Mapping[str, float]) -> bool:
    reads: list[dict[str, list[Tensor]]] = []
    for shifts in ((0, 0), (1, 0), (0, 1), (1, 1)):
        seen: dict[str, list[Tensor]] = defaultdict(list)
        change = {
            path: partial(torch.full_like, fill_value=level + SHIFT * shift)
            for (path, level), shift in zip(levels.items(), shifts, strict=True)
        }

        def keep(path: str, read: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
            seen[path].append(read.double().clone())

        mockup.run(change, keep)
        reads.append(seen)
    for path in mockup.channelled & reads[0].keys():
        for base, one, other, both in zip(*(seen[path] for seen in reads), strict=True):
            up, across = (one - base).abs(), (other - base).abs()
            answers = (up > ANSWERS) & (across > ANSWERS)
            least = 1e-2 * torch.minimum(up, across)[answers]
            in_turn = (both - one - other + base).abs()[answers] <= least
            alike = (one - other).abs()[answers] <= least
            if bool(answers.any()) and (bool(in_turn.all()) or bool(alike.all())):
                return True
    return False


class Part(NamedTuple):
    """What is kept of a network.

    Attributes:
        rows: output units of layers.
        columns: channels of readers.
        less: by how much attributes of modules are then reduced.
    """

    rows: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]
    less: Mapping[Attribute, int] = MappingProxyType({})


def without(mockup: Mockup, part: Part) -> str | None:
    """Why the network cannot do with only a part of the output units of some layers; None if it can.

    It can if every module then reads, of what it read before, exactly the input channels that are kept (all, if it is
    not named), and the network's output is the same.
    """
    columns = part.columns
    calls: dict[str, int] = defaultdict(int)

    def observe(reader: str, read: Tensor) -> None:
        expected = mockup.reads[reader][calls[reader]] if reader else mockup.output
        calls[reader] += 1
        if reader in columns:
            expected = expected.index_select(mockup.dimension(reader), columns[reader].to(expected.device))
        same = torch.equal(read, expected)  # nearly always, and much faster than the tolerant comparison
        if not same and (read.shape != expected.shape or not torch.allclose(read, expected, rtol=1e-4, atol=1e-4)):
            raise _Unlike(reader or "the network's output")

    try:
        with resized(mockup.model, part.less):
            mockup.run(_only(mockup, part.rows), observe)
    except _Unlike as error:
        return f"{error} does not see the remaining nodes as before"
    except Exception as error:  # a user's forward pass may fail in any way
        return f"the forward pass has fixed sizes ({first_line(error, 120)})"
    return None


def each_without(mockup: Mockup, parts: Sequence[Part]) -> list[str | None]:
    """For each part the result of :func:`without`, mostly from runs in which half of the others are left out, too.

    For any two parts there is a run with the one and without the other. Where a run fails, all that were left out in it
    are tried alone.
    """
    alone = set(range(len(parts)))
    if len(parts) > FEW:
        alone = set()
        for pattern in patterns(len(parts)):
            chosen = pattern.nonzero().flatten().tolist()
            whole = together([parts[number] for number in chosen])
            if not alone.issuperset(chosen) and without(mockup, whole) is not None:
                alone.update(chosen)
    return [without(mockup, part) if number in alone else None for number, part in enumerate(parts)]


def together(parts: Sequence[Part]) -> Part:
    """What is kept where all parts are left out at once."""
    less: dict[Attribute, int] = defaultdict(int)
    for part in parts:
        for attribute, each in part.less.items():
            less[attribute] += each
    return Part(_common([part.rows for part in parts]), _common([part.columns for part in parts]), less)


def _common(kept: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """For each module the indices that all mappings with this module keep."""
    result: dict[str, Tensor] = {}
    for own in kept:
        for path, indices in own.items():
            result[path] = indices[torch.isin(indices, result[path])] if path in result else indices
    return result


def product_macs(mockup: Mockup, part: Part | None = None) -> int:
    """MACs of the products of activations (attention), with only a part of the output units of some layers."""
    part = part or Part({}, {})
    change = _only(mockup, part.rows)
    with mockup.standing(), mockup.trying(change, lambda _path, _read: None), resized(mockup.model, part.less):
        found = products(mockup.model, mockup.example)
    return sum(product.macs for product in found if product.layer not in mockup.passing)


def _only(mockup: Mockup, rows: Mapping[str, Tensor]) -> dict[str, Change]:
    def selecting(path: str, kept: Tensor) -> Change:
        return lambda out: out.index_select(mockup.dimension(path), kept.to(out.device))

    return {path: selecting(path, kept) for path, kept in rows.items()}


class _Unlike(Exception):
    """A module reads something other than expected."""
