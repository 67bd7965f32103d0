"""Group norm: score a node by all weights of the coupled layers that would be removed with it.

Fang, Ma, Song, Mi and Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023. A node takes with it its rows of the
layers that write it, its columns of those that read it, and its batch-norm scales; its importance is the norm of all of
these together. As in the authors' package (release 1.6.1, with its defaults)

    I_j = (1 / K) sum_k ||w_k[j]||_2^2,        divided by the mean of I over the group,

k over the K parameters of the group, without biases. The division makes groups comparable in one ranking. The group
lasso with which the authors make these norms small during training is not part of it. ``method=torch_pruning`` uses the
package itself; here the groups are our own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.selection import Selection


class GroupNormSelection(Selection[NodeLayer]):
    """Keeps the nodes whose coupled weights have the largest norm.

    Args:
        p: power of the weights that are summed, 1 or 2.
    """

    def __init__(self, p: int = 2) -> None:
        if p not in (1, 2):
            raise BadInput(f"selection.p={p} is unknown; choose 1 or 2")
        self.p = p

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) mean over the group's parameters of sum |w|^p, relative to the group's mean."""
        total = layer.incoming.abs().pow(self.p).sum(1)
        total = total + sum(scales.abs().pow(self.p).sum(1) for scales in layer.scales.values())
        total = total + sum(weight.abs().pow(self.p).sum((0, 2)) for weight in layer.outgoing)
        mean = total / (len(layer.group.writers) + len(layer.scales) + len(layer.outgoing))
        return mean / mean.mean().clamp_min(torch.finfo(mean.dtype).tiny)
