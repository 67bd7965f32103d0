"""Parameters and buffers that belong to no layer and have a number per node: position embeddings, scales of branches.

Which of their entries go with which input channels of which layers is found by experiment, as for the output units of
layers (:mod:`methods.network.influence`): entries are changed in patterns along one dimension, and the input channels
that change are those they feed. The forward pass looks parameters up by name, so that every pattern needs a run of its
own instead of one batch for all; candidates with equal numbers of entries are tried together, and separately only if
that is ambiguous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from methods.network.codes import NONE, SEVERAL, meant, patterns
from methods.network.kinds.carriers import find_carrier
from methods.network.kinds.registry import find_kind
from methods.network.mockup import Held, Mockup
from methods.seeds import stream

STEP = 10.0  # of a change, as in methods.network.changes
CHANGED = 1e-3
MOST = 65536  # entries along a dimension


def find_held(mockup: Mockup) -> dict[str, Held]:
    """Parameters and buffers in which each entry along one dimension feeds input channels that no other entry feeds.

    Returns:
        These by name; those that feed no input channel are included, without pairs.
    """
    found: dict[str, Held] = {}
    by_size: dict[int, list[Held]] = defaultdict(list)
    for candidate in _candidates(mockup):
        by_size[candidate.size].append(candidate)
    with mockup.standing():
        for together in by_size.values():
            for held in _resolved(mockup, together):
                if held.name not in found or not found[held.name].pairs:
                    found[held.name] = held
    return found


def _candidates(mockup: Mockup) -> Iterator[Held]:
    """Every dimension of every floating tensor that is not a layer's or a carrier's."""
    for path, module in mockup.modules.items():
        if find_kind(module) is not None or find_carrier(module) is not None:
            continue
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                continue
            for dimension in reversed(range(tensor.dim())):
                if 1 < tensor.shape[dimension] <= MOST:
                    yield Held(f"{path}.{name}" if path else name, dimension, tensor.shape[dimension])


def _resolved(mockup: Mockup, candidates: Sequence[Held]) -> list[Held]:
    """The candidates with their pairs, found for several at once if that is unambiguous, else one after the other."""
    if len({each.name for each in candidates}) == len(candidates):  # else two dimensions of one tensor
        pairs = feeding(mockup, candidates)
        if pairs is not None:
            several = len(candidates) > 1
            alone = [(each, reached(mockup, each) if several else None) for each in candidates]
            return [replace(each, pairs=_of(pairs, channels)) for each, channels in alone]
    if len(candidates) == 1:
        return []
    return [held for each in candidates for held in _resolved(mockup, [each])]


def _of(pairs: dict[str, Tensor], channels: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The pairs whose channels are among ``channels`` (all, if None)."""
    if channels is None:
        return pairs
    own = {path: all_[channels[path][all_[:, 1]]] for path, all_ in pairs.items() if path in channels}
    return {path: each for path, each in own.items() if len(each)}


def feeding(mockup: Mockup, candidates: Sequence[Held]) -> dict[str, Tensor] | None:
    """For each layer and carrier (n, 2) pairs of entry and input channel; None if a channel depends on several.

    Args:
        mockup: the network.
        candidates: of the same size; they change together. A layer may stand in for a parameter.
    """
    size = candidates[0].size
    half = torch.rand(size, generator=stream(0, "half of all entries", size)) < 0.5
    first = [_changed(mockup, candidates, chosen) for chosen in (half, ~half)]
    if any(bool((own & first[1][path]).any()) for path, own in first[0].items() if path in first[1]):
        return None
    if not any(first):
        return {}
    codes = patterns(size)
    runs = [_changed(mockup, candidates, chosen) for chosen in codes]
    pairs = {}
    for path in dict.fromkeys(path for run in runs for path in run):
        blank = torch.zeros(mockup.channels(path), dtype=torch.bool)
        entry = meant(torch.stack([run.get(path, blank) for run in runs]), size)
        if bool((entry == SEVERAL).any()):
            return None
        channels = (entry != NONE).nonzero().flatten()
        pairs[path] = torch.stack([entry[channels], channels], 1)
    return pairs


def reached(mockup: Mockup, candidate: Held) -> dict[str, Tensor]:
    """For each layer and carrier whose input changes with all entries, (channels,) bool: which channels do."""
    return _changed(mockup, [candidate], torch.ones(candidate.size, dtype=torch.bool))


def _changed(mockup: Mockup, candidates: Sequence[Held], chosen: Tensor) -> dict[str, Tensor]:
    """For each layer and carrier whose input changes with some entries, (channels,) bool: which channels do."""
    hits: dict[str, Tensor] = {}
    for sign in (1.0, -1.0):
        calls: dict[str, int] = defaultdict(int)

        def observe(path: str, read: Tensor, calls: dict[str, int] = calls) -> None:
            if path not in mockup.channelled:
                return
            before = mockup.reads[path][calls[path]]
            calls[path] += 1
            if torch.equal(read, before):
                return
            others = [d for d in range(read.dim()) if d != mockup.dimension(path) % read.dim()]
            far = (read - before).abs()
            far = far.amax(others) if others else far
            own = ~(far <= CHANGED * before.abs().max().clamp_min(1)).cpu()
            hits[path] = hits[path] | own if path in hits else own

        change = {each.name: partial(_stepped, held=each, chosen=chosen, sign=sign) for each in candidates}
        mockup.run(change, observe)
    return {path: own for path, own in hits.items() if bool(own.any())}


def _stepped(tensor: Tensor, held: Held, chosen: Tensor, sign: float) -> Tensor:
    step = STEP * (1 + torch.rand(tensor.shape, generator=stream(0, "step", held.name)).to(tensor))
    along = [1] * tensor.dim()
    along[held.dimension] = -1
    return tensor + sign * step * chosen.to(tensor).reshape(along)
