"""Run a mock-up with changes of some layers' output units, and observe which inputs of other modules respond."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.network.mockup import Change, Mockup
from methods.seeds import stream

STEP = 10.0  # of a change, against random outputs of standard deviation 1: no activation can hide it both up and down
CHANGED = 1e-3  # what counts as a change, relative to the largest value read
MOST_AT_ONCE = 2**24  # numbers in one changed output


@dataclass
class Answer:
    """Which inputs responded to changes of P patterns of units.

    Attributes:
        hits: for each reader of which an input changed, (P, channels) bool.
        output: (P, size of the last dimension) bool, of the network's output.
        obstacles: for each pattern the description of a module on the way that needs all units, if there is one.
    """

    hits: dict[str, Tensor]
    output: Tensor
    obstacles: list[str | None]

    @property
    def obstacle(self) -> str | None:
        """The first of the obstacles."""
        return next((each for each in self.obstacles if each is not None), None)


class BatchRearranged(Exception):
    """Copies of the sample do not lie side by side in what a module reads."""


def answers(mockup: Mockup, chosen: Mapping[str, Tensor], whole: bool) -> Answer:
    """Which inputs respond when units of some layers change in patterns, each upwards and downwards.

    Args:
        mockup: the network.
        chosen: for each layer that changes (P, units) bool: which of its units are in which pattern.
        whole: run the whole network once per pattern; otherwise only the part that the changed units reach, which
            requires that operations between the layers accept any number of samples.

    Raises:
        BatchRearranged: if a reshape or another operation does not leave the samples side by side.
        Exception: whatever the forward pass raises.
    """
    every = mockup.layers if whole else chosen
    at_once = max(1, MOST_AT_ONCE // (2 * max(mockup.numbers[path][0].numel() for path in every)))
    number = len(next(iter(chosen.values())))
    parts = []
    for start in range(0, number, at_once):
        part = _run(mockup, {path: own[start : start + at_once] for path, own in chosen.items()}, whole)
        parts.append(part)
        if len(chosen) == 1 and part.obstacle:
            break  # nothing else counts
    result = Answer({}, torch.cat([part.output for part in parts]), [each for part in parts for each in part.obstacles])
    for reader in dict.fromkeys(reader for part in parts for reader in part.hits):
        blank = [torch.zeros(len(part.output), mockup.channels(reader), dtype=torch.bool) for part in parts]
        result.hits[reader] = torch.cat([p.hits.get(reader, none) for p, none in zip(parts, blank, strict=True)])
    return result


def _run(mockup: Mockup, chosen: Mapping[str, Tensor], whole: bool) -> Answer:
    """One run whose batch is the network as it is, then each pattern upwards, then each downwards."""
    [number] = {len(own) for own in chosen.values()}
    copies = 2 * number + 1
    width = mockup.output.shape[-1] if mockup.output.dim() else 1
    answer = Answer({}, torch.zeros(number, width, dtype=torch.bool), [None] * number)
    calls: dict[str, int] = defaultdict(int)

    def observe(reader: str, read: Tensor) -> None:
        before = mockup.reads[reader][calls[reader]] if reader else mockup.output
        calls[reader] += 1
        if not whole and read.shape == before.shape and _same(read, before):
            return  # the units do not reach this
        if read.shape != (copies * len(before), *before.shape[1:]):
            raise BatchRearranged(reader)  # a reshape has put the copies elsewhere
        entries = read.reshape(copies, *before.shape)
        if not _same(entries[0], before):
            raise BatchRearranged(reader)
        dimension = mockup.dimension(reader) % before.dim() if reader in mockup.channelled else before.dim() - 1
        changed = _changed(entries, 1 + dimension)
        if reader in mockup.others:
            words = f"{reader} ({type(mockup.modules[reader]).__name__})"
            for pattern in changed.any(1).nonzero().flatten().tolist():
                answer.obstacles[pattern] = answer.obstacles[pattern] or words
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
        # a different amount at every position, since softmax ignores a common one
        step = STEP * (1 + torch.rand(out.shape, generator=stream(0, "step", path)).to(out))
        along = [1] * out.dim()
        along[mockup.dimension(path)] = -1
        changed = torch.addcmul(out, step, signs.to(out).reshape(copies, *along))
        # positions that are looked up once for all samples have no batch dimension
        return changed if path in mockup.lookups and len(out) != len(mockup.example) else changed.flatten(0, 1)

    return change


def _changed(entries: Tensor, dimension: int) -> Tensor:
    """(P, channels) whether the copies 1 + p or 1 + P + p differ from copy 0 somewhere in each channel."""
    others = [d for d in range(1, entries.dim()) if d != dimension]
    far = (entries[1:] - entries[:1]).abs_()
    far = far.amax(others) if others else far
    changed = ~(far <= CHANGED * entries[0].abs().max().clamp_min(1))
    up, down = changed.chunk(2)
    return (up | down).cpu()


def _same(read: Tensor, before: Tensor) -> bool:
    return torch.equal(read, before) or bool(torch.allclose(read, before, rtol=1e-4, atol=1e-4))
