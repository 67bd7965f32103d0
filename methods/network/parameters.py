"""A module's weight and bias as tensors: ``nn.Module`` declares any attribute that it looks up as tensor or module."""

import torch
from torch import Tensor, nn


def weight_of(module: nn.Module) -> Tensor:
    """The module's ``weight``, which has to be a tensor."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def bias_of(module: nn.Module) -> Tensor | None:
    """The module's ``bias``; None where it was made without one."""
    bias = module.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


@torch.no_grad()
def write_parameters(module: nn.Module, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
    """Copy new values into the module's weight and bias; what is None stays."""
    if weight is not None:
        weight_of(module).copy_(weight)
    if bias is not None:
        own = bias_of(module)
        assert own is not None  # a pruning changes biases, it makes none
        own.copy_(bias)
