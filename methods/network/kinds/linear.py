"""Layers with channels last, which multiply every position (token) separately; the first of them is ``nn.Linear``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from methods.network.kinds.base import Kind, runs
from methods.network.parameters import weight_of


class ByPosition(Kind):
    """What linear layers have in common, however they store their weight.

    All dimensions between that of the samples and that of the channels are positions.
    """

    channel = -1

    def patches(self, module: nn.Module, read: Tensor) -> Tensor:
        """(n, in, T)."""
        return self.by_position(module, read)

    def rows(self, module: nn.Module, read: Tensor) -> Tensor:
        """(in, n x T), a view."""
        return read.reshape(-1, read.shape[-1]).T

    def gradients(self, module: nn.Module, read: Tensor, slopes: Tensor) -> Tensor:
        """(n, out x in), summed over positions."""
        if read.ndim == 2:
            return torch.einsum("no,ni->noi", slopes, read).flatten(1)
        return torch.einsum("npo,npi->noi", slopes.flatten(1, -2), read.flatten(1, -2)).flatten(1)

    def by_position(self, module: nn.Module, values: Tensor) -> Tensor:
        """(n, channels, T)."""
        return values.flatten(1, -2).transpose(1, 2) if values.ndim > 2 else values.unsqueeze(2)

    def compute(self, module: nn.Module, read: Tensor, matrix: Tensor) -> Tensor:
        """The product with ``matrix``."""
        return functional.linear(read, matrix)

    @torch.no_grad()
    def like(self, module: nn.Module, matrix: Tensor, bias: Tensor | None, *, pointwise: bool = False) -> nn.Module:
        """An ``nn.Linear`` with this weight."""
        old = weight_of(module)
        out, inputs = matrix.shape[:2]
        # initial values would be drawn from the global random state
        layer: nn.Linear = skip_init(nn.Linear, inputs, out, bias=bias is not None, device=old.device, dtype=old.dtype)
        layer.weight.copy_(matrix)
        if bias is not None:
            layer.bias.copy_(bias)
        return layer.train(module.training)


class Linear(ByPosition):
    """``nn.Linear``."""

    def owns(self, module: nn.Module) -> bool:
        """Linear layers and subclasses that compute the same."""
        return runs(module, nn.Linear)
