"""SynFlow removes weights that carry little of the flow from inputs to outputs; it needs no data.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
NeurIPS 2020. Let |.| make every parameter of the network positive, 1 be an input of ones, and

    R = sum of the outputs of |network| at 1,       score = (dR / d|w|) |w|                     (equations 2 and 3)

For a network of ReLUs the scores of the units' incoming and of their outgoing weights add up to the same sum: they are
conserved, so that no layer is emptied as long as pruning takes many rounds, each with new scores
(``schedule=before_training_rounds``: a hundred, at exponentially falling size). Everything runs in float64, since
products over many layers are large, and in evaluation mode.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.errors import Skipped
from methods.layers.seen import EdgeLayer
from methods.network.kinds.registry import kind_of
from methods.network.parameters import weight_of
from methods.selection import Selection


def synaptic_flow(model: nn.Module, names: Sequence[str], example: Tensor) -> dict[str, Tensor]:
    """For every layer (out, d) |w| dR / d|w|, float64, not negative.

    Args:
        model: the network; it stays as it is.
        names: module paths of the layers.
        example: one input (1, ...) of the network, of which only the shape counts.
    """
    positive = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in positive.state_dict().values():
            tensor.abs_()
    for parameter in positive.parameters():
        parameter.requires_grad_(True)
    modules = {name: positive.get_submodule(name) for name in names}
    weights = [weight_of(module) for module in modules.values()]
    with torch.enable_grad():
        slopes = torch.autograd.grad(positive(torch.ones_like(example, dtype=torch.float64)).sum(), weights)
    return {
        name: kind_of(module).as_matrix((slope * weight).detach()).flatten(1)
        for (name, module), slope, weight in zip(modules.items(), slopes, weights, strict=True)
    }


class SynFlowSelection(Selection[EdgeLayer]):
    """Keeps the weights with the largest synaptic flow."""

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) synaptic flow."""
        layers: Sequence[EdgeLayer] = layer.shared.get("layers", [layer])
        names = [each.name for each in layers]
        example = layer.calibration.inputs[:1]
        if not example.is_floating_point():
            raise Skipped("synaptic flow starts from an input of ones, and the network reads ids of tokens")
        return layer.once("synaptic flow", lambda: synaptic_flow(layer.model, names, example))[layer.name]
