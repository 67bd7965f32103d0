"""Nodes with the same number of channels in every group of a grouped convolution, so that all groups lose alike.

If channels of several groups are coupled behind a convolution, as by a channel shuffle (Zhang et al. 2018), whole
groups cannot be removed. Each group can lose some of its channels instead, as long as all lose the same number: the
channels at the same place in each group form one node. A shuffle then treats the remaining channels as it did before,
provided that the groups in front of it and those behind it divide each other's channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Classes = Sequence[Tensor]  # of each group of one convolution the labels of its channels, in order


def classes(labels: Tensor, groups: int) -> Classes:
    """The labels of a convolution's channels, group by group; ``labels`` (channels,)."""
    return labels.chunk(groups)


def joined(layers: Sequence[Classes]) -> dict[int, int]:
    """For each label that is joined with others, the smallest label of its set.

    Args:
        layers: for each convolution, the classes of its inputs or of its outputs.
    """
    root: dict[int, int] = {}

    def find(label: int) -> int:
        while label in root:
            label = root[label]
        return label

    changed = True
    while changed:
        changed = False
        for own in sorted(layers, key=len, reverse=True):  # balance over halves is not balance over quarters
            found = [list(dict.fromkeys(find(label) for label in group.tolist())) for group in own]
            disjoint = sum(map(len, found)) == len({label for group in found for label in group})
            if not disjoint or len({len(group) for group in found}) > 1:
                continue  # balanced already, or it cannot be balanced
            for together in zip(*found, strict=True):
                first = min(together)
                root |= {label: first for label in together if label != first}
                changed = True
    return {label: find(label) for label in root}


def unbalanced(members: Tensor, channels: int, groups: int) -> bool:
    """Whether some node has different numbers of channels in the groups of a convolution.

    Args:
        members: (m, r) channels of each node.
        channels: of the convolution.
        groups: of the convolution.
    """
    if members.shape[1] % groups:
        return True
    own = members // (channels // groups)
    return any(bool((own == group).sum(1).ne(members.shape[1] // groups).any()) for group in range(groups))


def relabelled(labels: Tensor, joins: Mapping[int, int]) -> Tensor:
    """(n,) labels after some have been joined."""
    table = torch.arange(1 + int(labels.max()) if len(labels) else 0)
    for label, first in joins.items():
        table[label] = first
    return table[labels]
