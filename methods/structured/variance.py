"""Variance-based pruning replaces nodes that hardly vary by constants, which the readers' biases take over.

Uranik Berisha, Mehnert and Condurache, "Variance-Based Pruning for Accelerating and Compressing Trained Networks",
ICCV 2025 (arXiv 2507.12988). The score of a node is the variance of its activation over the calibration data,

    s_j = E[phi_j^2] - E[phi_j]^2,

the smallest go, over all layers by one ranking, and with them goes their mean: b <- b + W_:j E[phi_j] for every reader,
which here is ``compensation=bias_correction``. The authors treat the hidden layers of transformers' feed-forward parts;
here every group of nodes is. Several readers average.
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
