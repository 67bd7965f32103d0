"""Count the parameters and multiply-accumulates of a network, in total and layer by layer.

One MAC is one multiplication with one addition in a matrix product or convolution, for one sample;
:mod:`methods.network.counting` records the products. The count is half of what
``torch.utils.flop_counter.FlopCounterMode`` calls FLOPs, where that sees every product. MACs count what a dense runtime
computes, effective MACs only products with a nonzero weight.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.network.counting import products


@dataclass(frozen=True)
class Counts:
    """Counts of one network.

    Attributes:
        parameters: all parameters, zeros included; a tensor that several layers share counts once.
        nonzero: parameters that are not zero (biases and normalisation included).
        macs: multiply-accumulates for one sample.
        macs_effective: ``macs`` without those whose weight is zero; products of two activations count in full.
    """

    parameters: int
    nonzero: int
    macs: int
    macs_effective: int


@dataclass(frozen=True)
class LayerCounts:
    """Counts of one module, without its submodules; a tensor that several layers share counts for the first of them."""

    name: str
    parameters: int
    nonzero: int
    macs: int
    macs_effective: int


def count(model: nn.Module, example: Tensor) -> Counts:
    """Counts of a network with inputs like ``example`` (one sample of it is run, in evaluation mode)."""
    layers = count_layers(model, example)
    return Counts(
        sum(layer.parameters for layer in layers),
        sum(layer.nonzero for layer in layers),
        sum(layer.macs for layer in layers),
        sum(layer.macs_effective for layer in layers),
    )


def count_layers(model: nn.Module, example: Tensor) -> list[LayerCounts]:
    """Counts of every module that has parameters or multiplies, in the order of the modules; they add up to the total.

    A product that is computed several times (recurrent steps, tokens, positions of a convolution, two calls) counts
    that many times.
    """
    macs: dict[str, int] = defaultdict(int)
    effective: dict[str, int] = defaultdict(int)
    for product in products(model, example):
        macs[product.layer] += product.macs
        effective[product.layer] += product.effective
    own: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        own[name.rpartition(".")[0]].append(parameter)
    return [
        LayerCounts(
            path,
            sum(parameter.numel() for parameter in own[path]),
            sum(int(torch.count_nonzero(parameter)) for parameter in own[path]),
            macs[path],
            effective[path],
        )
        for path, _ in model.named_modules()
        if path in own or path in macs
    ]
