"""Wanda scores weights by their magnitude times the size of their input.

Sun, Liu, Bair and Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024. The score of
a weight is

    |W_ij| ||X_j||_2                                                                       (equation 1)

with X_j the j-th input over all samples and positions (here the root mean square: the same order). Weights are compared
within each output unit (``allocation=uniform_per_neuron``), and nothing is updated.
"""

import torch
from torch import Tensor

from methods.layers.seen import EdgeLayer
from methods.selection import Selection


def input_sizes(layer: EdgeLayer) -> Tensor:
    """(1, d) or, for grouped convolutions, (out, d) root mean square of what each weight reads; float64."""
    if layer.groups == 1:
        return layer.moments.second.diagonal().clamp_min(0).sqrt()[None]
    total, count = torch.zeros(()).double(), 0
    for rows in layer.activations():  # (groups x d, n): a grouped convolution has no common second moment
        total, count = total + rows.double().square().sum(1), count + rows.shape[1]
    sizes = (total / count).sqrt().view(layer.groups, -1)
    return sizes.repeat_interleave(len(layer.weight) // layer.groups, 0)


class WandaSelection(Selection[EdgeLayer]):
    """Keeps the weights with the largest product of magnitude and input size."""

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) |W_ij| times the root mean square of input j."""
        return layer.weight.abs() * input_sizes(layer)
