"""A module's weight and bias as tensors: ``nn.Module`` declares any attribute that it looks up as tensor or module."""

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
