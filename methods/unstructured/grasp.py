"""GraSP removes weights so that the gradient flow is preserved.

Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020. Removing
weight q of a network at its initialisation changes the gradient's squared norm, to first order and up to a factor, by

    S(-w_q) = -w_q (H g)_q                                                                  (equation 8)

with g the gradient of the loss and H its Hessian. Weights whose removal would lower the norm most, those with the
largest w_q (H g)_q, stay; the network is trained afterwards (``schedule=before_training``). Logits are divided by a
temperature, as the authors' code does.

H g is the gradient of g' g with one g held fixed: g' H = d(g' stop(g)) / dw. With several batches, g is first averaged
over all of them, and then the products are added up. Batch norms are in evaluation mode here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.curvature.hessian import twice_differentiable
from methods.errors import BadInput
from methods.layers.gradients import sample_losses
from methods.layers.seen import EdgeLayer
from methods.network.kinds.registry import kind_of
from methods.network.parameters import weight_of
from methods.selection import Selection


def gradient_flow(layers: Sequence[EdgeLayer], temperature: float) -> dict[str, Tensor]:
    """For every layer (out, d) w (H g), float64, of the mean loss over the calibration set."""
    first = layers[0]
    modules = {layer.name: first.model.get_submodule(layer.name) for layer in layers}
    weights = [weight_of(module) for module in modules.values()]
    size = len(first.calibration)
    learnt = [weight.requires_grad for weight in weights]
    means = [torch.zeros_like(weight) for weight in weights]
    products = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with twice_differentiable(first.model):
            for inputs, labels in first.calibration.batches():
                loss = sample_losses(first.model(inputs) / temperature, labels).sum() / size
                for mean, gradient in zip(means, torch.autograd.grad(loss, weights), strict=True):
                    mean += gradient
            for inputs, labels in first.calibration.batches():
                loss = sample_losses(first.model(inputs) / temperature, labels).sum() / size
                gradients = torch.autograd.grad(loss, weights, create_graph=True)
                dot = torch.stack([(g * mean).sum() for g, mean in zip(gradients, means, strict=True)]).sum()
                for product, part in zip(products, torch.autograd.grad(dot, weights), strict=True):
                    product += part
    finally:
        for weight, was in zip(weights, learnt, strict=True):
            weight.requires_grad_(was)
    return {
        name: kind_of(module).as_matrix((product * weight.detach()).double()).flatten(1)
        for (name, module), product, weight in zip(modules.items(), products, weights, strict=True)
    }


class GraSPSelection(Selection[EdgeLayer]):
    """Keeps the weights whose removal would lower the gradient's norm most.

    Args:
        temperature: the number that logits are divided by.
    """

    def __init__(self, temperature: float = 200.0) -> None:
        if not temperature > 0:
            raise BadInput(f"selection.temperature={temperature:g} is not positive: type selection.temperature=200")
        self.temperature = temperature

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) w (H g)."""
        layers: Sequence[EdgeLayer] = layer.shared.get("layers", [layer])
        key = ("gradient flow", self.temperature)
        return layer.once(key, lambda: gradient_flow(layers, self.temperature))[layer.name]
