"""Parameters and multiply-accumulates of a network.

One MAC is one multiplication with one addition, counted for matrix products and convolutions of one sample; bias,
normalisation, activation and pooling are not counted. This is half of what ``torch.utils.flop_counter.FlopCounterMode``
calls FLOPs, on the eager model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.budget import count_macs, output_positions


@dataclass(frozen=True)
class Counts:
    """Counts of one network.

    Attributes:
        parameters: all parameters, zeros included.
        nonzero: parameters that are not zero (biases and normalisation included).
        macs: multiply-accumulates for one sample.
        macs_effective: the same, each layer weighted with the nonzero fraction of its weights.
    """

    parameters: int
    nonzero: int
    macs: int
    macs_effective: float


@dataclass(frozen=True)
class LayerCounts:
    """Counts of one linear or convolutional layer; ``macs_effective`` counts only nonzero weights."""

    name: str
    parameters: int
    nonzero: int
    macs: int
    macs_effective: int


def count(model: nn.Module, example: Tensor) -> Counts:
    """Counts of a network that reads ``example`` (one sample of it is run, in evaluation mode)."""
    layers = count_layers(model, example)
    macs = count_macs(model, example)
    skipped = sum(layer.macs - layer.macs_effective for layer in layers)
    parameters = list(model.parameters())
    nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    return Counts(sum(parameter.numel() for parameter in parameters), nonzero, macs, float(macs - skipped))


def count_layers(model: nn.Module, example: Tensor) -> list[LayerCounts]:
    """Counts of every linear and convolutional layer, in the order of the modules.

    A weight is used once per output position, whatever the padding, stride, dilation or number of groups.
    """
    counts = []
    for path, positions in output_positions(model, example).items():
        module = model.get_submodule(path)
        own = list(module.parameters(recurse=False))
        nonzero = int(torch.count_nonzero(module.weight))
        counts.append(
            LayerCounts(
                path,
                sum(parameter.numel() for parameter in own),
                sum(int(torch.count_nonzero(parameter)) for parameter in own),
                module.weight.numel() * positions,
                nonzero * positions,
            )
        )
    return counts
