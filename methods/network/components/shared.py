"""Units that all nodes of other layers share: without them these nodes can be told apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from methods.network.components.component import name_of
from methods.network.components.labels import coupled, labelled
from methods.network.influence import Influence
from methods.network.mockup import Mockup

Reasons = dict[str, str | None]


def apart_from_shared(
    mockup: Mockup, influences: Mapping[str, Influence]
) -> tuple[dict[str, Influence], Reasons, set[str]]:
    """Influences without those of units that all nodes share, and for these units' layers why they are left alone.

    If all query heads share one key and one value (Shazeer 2019), these tie the heads together. Their layers reach more
    channels than they have units; they stay, and without them the heads are nodes. The same holds for the input and
    output weights of a state space model that all channels have in common (Gu and Dao 2023), which are a part of one
    layer's output.

    The third result is the set of paths of the layers whose nodes share units.
    """
    units = labelled(mockup, influences)[0]
    reasons: Reasons = {}
    sharing: set[str] = set()
    for writers in coupled(units):
        shared = [path for path in writers if _fans_out(mockup, influences[path], path)]
        if 0 < len(shared) < len(writers) and len(torch.cat([units[path] for path in writers]).unique()) == 1:
            [first, *_] = (path for path in writers if path not in shared)
            reasons |= dict.fromkeys(shared, f"all nodes of {first} share its units")
            sharing.add(first)
    own = {path: Influence() if path in reasons else own for path, own in influences.items()}
    units = units if own == influences else labelled(mockup, own)[0]
    own, parts, layers = _without_shared_parts(mockup, own, units)
    return own, reasons | parts, sharing | layers


def _fans_out(mockup: Mockup, own: Influence, path: str) -> bool:
    return any(len(pairs[:, 1].unique()) > mockup.units(path) for pairs in own.pairs.values())


def _without_shared_parts(
    mockup: Mockup, influences: dict[str, Influence], units: Mapping[str, Tensor]
) -> tuple[dict[str, Influence], Reasons, set[str]]:
    """The same for units that are a part of their layer."""
    reasons: Reasons = {}
    sharing: set[str] = set()
    whole = {path: int(own[0]) for path, own in units.items() if len(own) > 1 and bool((own == own[0]).all())}
    for label in dict.fromkeys(whole.values()):
        fanning = {
            path: own
            for path, each in units.items()
            if (own := _fanning(mockup, influences, path, each == label)).any()
        }
        if not fanning:
            continue
        less = {path: _without(own, fanning[path]) if path in fanning else own for path, own in influences.items()}
        after = labelled(mockup, less)[0]
        for path in (path for path, own in whole.items() if own == label):
            left = after[path][~fanning[path]] if path in fanning else after[path]
            if len(left.unique()) > 1:
                influences = less
                sharing.add(path)
                names = {name_of(mockup, each, own.nonzero()): each for each, own in fanning.items()}
                reasons |= {
                    name: f"all other nodes of {path} share {'its' if name == each else 'these'} units"
                    for name, each in names.items()
                }
                break
    return influences, reasons, sharing


def _fanning(mockup: Mockup, influences: Mapping[str, Influence], path: str, chosen: Tensor) -> Tensor:
    """(units,) bool: those of the chosen units that reach more channels of some reader than reach these in units."""
    found = torch.zeros_like(chosen)
    for reader, pairs in influences[path].pairs.items() if bool(chosen.any()) else ():
        reached = torch.zeros(len(chosen), mockup.channels(reader), dtype=torch.bool)
        reached[pairs[:, 0], pairs[:, 1]] = True
        _, alike, number = reached.unique(dim=0, return_inverse=True, return_counts=True)
        found |= chosen & (reached.sum(1) > number[alike])
    return found


def _without(own: Influence, units: Tensor) -> Influence:
    pairs = {reader: left for reader, each in own.pairs.items() if len(left := each[~units[each[:, 0]]])}
    return Influence(pairs, own.leaks, own.obstacle)
