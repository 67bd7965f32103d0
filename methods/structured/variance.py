"""Variance-based pruning replaces nodes that hardly vary by constants, which the readers' biases take over.

Uranik Berisha, Mehnert and Condurache, "Variance-Based Pruning for Accelerating and Compressing Trained Networks",
ICCV 2025 (arXiv 2507.12988). The score of a node is the variance of its activation over the calibration data,

    s_j = E[phi_j^2] - E[phi_j]^2,

and the nodes with the smallest ones are removed, ranked over all layers. Their means go into the readers' biases,
b <- b + W_:j E[phi_j], which here is ``compensation=bias_correction``. The authors prune the hidden layers of
transformers' feed-forward parts; here every group of nodes is pruned. Several readers are averaged.
"""

import torch
from torch import Tensor

from methods.layers.seen import NodeLayer
from methods.selection import Selection


class VarianceSelection(Selection[NodeLayer]):
    """Keeps the nodes whose activation varies most."""

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) variance of what the readers take in."""
        variances = [moments.second.diagonal() - moments.mean.square() for moments in layer.moments]
        return torch.stack(variances).mean(0).clamp_min(0)
