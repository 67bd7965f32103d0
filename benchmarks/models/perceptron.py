"""Multilayer perceptrons: flatten, then linear layers with an activation between them."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from methods.errors import BadInput

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class MLP(nn.Sequential):
    """A perceptron with layers ``fc1``, ``fc2``, ...; the last gives the outputs.

    Args:
        widths: sizes of the hidden layers.
        activation: ``relu``, ``sigmoid`` or ``tanh``, after every hidden layer.
        bias: whether the linear layers have biases.
        shape: shape of one input; it is flattened.
        classes: number of outputs.
    """

    def __init__(
        self,
        widths: Sequence[int] = (150, 300, 150),
        activation: str = "relu",
        bias: bool = True,
        *,
        shape: Sequence[int],
        classes: int,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise BadInput(f"model.activation={activation}; expected one of {', '.join(ACTIVATIONS)}")
        if any(width < 1 for width in widths):
            raise BadInput(f"model.widths={list(widths)}; expected sizes of at least 1, for instance [300,100]")
        sizes = [math.prod(shape), *widths, classes]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
            layers[f"fc{number}"] = linear = nn.Linear(fan_in, fan_out, bias=bias)
            if number < len(sizes) - 1:
                layers[f"{activation}{number}"] = ACTIVATIONS[activation]()
                if activation == "sigmoid":
                    _glorot_for_sigmoid(linear)
        super().__init__(layers)


def _glorot_for_sigmoid(linear: nn.Linear) -> None:
    """Glorot & Bengio (2010) for the logistic function, whose slope at 0 is 1/4: uniform in ±4 √(6 / (in + out)).

    With PyTorch's default the signal fades from layer to layer, and three sigmoid layers stay at chance for epochs.
    """
    nn.init.xavier_uniform_(linear.weight, gain=4.0)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
