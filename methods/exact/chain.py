"""Read a network as a chain of linear layers with ReLUs between them, by running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.errors import Skipped
from methods.network.reading import evaluating

SILENT = (nn.Flatten, nn.Identity, nn.Dropout)  # in evaluation they change no number
ALIKE = 1e-5  # relative, of the chain's outputs from the network's


@dataclass(frozen=True)
class Affine:
    """One linear layer: x -> weight x + bias.

    Attributes:
        path: of the module.
        weight: (out, in) float64.
        bias: (out,) float64; zeros where the module has none.
    """

    path: str
    weight: Tensor
    bias: Tensor


def chain_of(model: nn.Module, example: Tensor) -> list[Affine]:
    """The linear layers of a network that consists of these, a ReLU behind each but the last, and a flattening.

    Args:
        model: left as it is.
        example: a batch of inputs.

    Raises:
        Skipped: the network is something else; the message names the first module that does not fit.
    """
    order = called(model, example)
    kinds = [(path, model.get_submodule(path)) for path in order]
    layers: list[Affine] = []
    waiting = False  # for the ReLU of the layer before
    for path, module in kinds:
        if type(module) in SILENT:
            continue
        if type(module) is nn.ReLU and waiting:
            waiting = False
        elif type(module) is nn.Linear and not waiting:
            bias = module.bias if module.bias is not None else torch.zeros(module.out_features)
            layers.append(Affine(path, module.weight.detach().double().cpu(), bias.detach().double().cpu()))
            waiting = True
        else:
            raise _other(f"{path} is {type(module).__name__}")
    if len(layers) < 2 or not waiting or len(set(order)) < len(order):
        raise _other("it has one layer only, ends with a ReLU, or calls a module twice")
    with evaluating(model), torch.no_grad():
        expected = model(example).double().cpu()
    found = forward(layers, example.double().cpu().flatten(1))
    scale = float(expected.abs().max()) or 1.0
    if found.shape != expected.shape or float((found - expected).abs().max()) > ALIKE * scale:
        raise _other("its forward pass does something between its modules")
    return layers


def forward(layers: Sequence[Affine], x: Tensor) -> Tensor:
    """(n, out) float64 outputs of the chain for (n, in) inputs."""
    for layer in layers[:-1]:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    return x @ layers[-1].weight.T + layers[-1].bias


def _other(why: str) -> Skipped:
    return Skipped(f"exact compression is for chains of linear layers and ReLUs: {why}")


def called(model: nn.Module, example: Tensor) -> list[str]:
    """Paths of the modules without children, in the order of their calls."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, path=path: order.append(path))
        for path, module in model.named_modules()
        if path and not any(True for _ in module.children())
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return order
