"""Second moment times outgoing norm: what a node by itself adds to its readers.

A node j with activation phi_j and outgoing weights W_:j adds W_:j phi_j to the next layer. The mean square of that is

    E[phi_j^2] ||W_:j||^2,

the diagonal of ThiNet's matrix of contributions (``methods.baselines.thinet``), without the products between nodes.
With ``centred`` the variance takes the place of the second moment, as if the mean went into the readers' biases.
Several readers add up. This is a simple score under a name of our own, close to what Wanda does for single weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.layers.seen import NodeLayer
from methods.layers.statistics import Moments
from methods.selection import Selection


def contributions(moments: Sequence[Moments], weights: Sequence[Tensor], centred: bool = False) -> Tensor:
    """(m,) mean square of what each node adds to the readers' pre-activations.

    Args:
        moments: per reader the moments of the m nodes as it reads them.
        weights: per reader (out, m, r).
        centred: whether to take variances.
    """
    total = torch.zeros_like(moments[0].mean)
    for own, weight in zip(moments, weights, strict=True):
        energy = own.second.diagonal() - (own.mean.square() if centred else 0)
        total += energy.clamp_min(0) * weight.square().sum((0, 2))
    return total


class SecondMomentSelection(Selection[NodeLayer]):
    """Keeps the nodes that add most to their readers' pre-activations, each by itself.

    Args:
        centred: variances in place of second moments; goes with ``compensation=bias_correction``.
    """

    additive = True  # mean squared changes of the readers' outputs, if contributions are uncorrelated

    def __init__(self, centred: bool = False) -> None:
        self.centred = centred

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) E[phi_j^2] ||W_:j||^2, summed over the readers."""
        return contributions(layer.moments, layer.outgoing, self.centred)
