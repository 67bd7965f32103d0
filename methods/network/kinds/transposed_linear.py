"""A linear layer that stores its weight as (in, out), such as the ``Conv1D`` of GPT-2: x @ weight + bias.

Libraries have classes of their own for it, so it is known by what it does and not by its name: it has a matrix and a
vector, and on a random input it returns the one's product plus the other.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from methods.network.kinds.cutting import take
from methods.network.kinds.linear import ByPosition
from methods.network.parameters import bias_of, weight_of
from methods.seeds import stream


class TransposedLinear(ByPosition):
    """Modules that compute x @ weight + bias; channels last."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()  # what a class does, once tried

    def owns(self, module: nn.Module) -> bool:
        """Modules with no parameters but ``weight`` (in, out) and ``bias`` (out,) that behave like this."""
        kind = type(module)
        if kind.__module__.startswith("torch.") or not _has_its_shape(module):
            return False
        if kind not in self._known:
            self._known[kind] = _behaves(module)
        return self._known[kind]

    def as_matrix(self, stored: Tensor) -> Tensor:
        """(..., out, in)."""
        return stored.transpose(-1, -2)

    def as_stored(self, matrix: Tensor) -> Tensor:
        """(..., in, out)."""
        return matrix.transpose(-1, -2)

    def cut_outputs(self, module: nn.Module, gone: Tensor) -> None:
        """The second dimension of the stored weight."""
        take(module, ("weight",), 1, gone)
        take(module, ("bias",), 0, gone)
        self.resize(module)

    def cut_inputs(self, module: nn.Module, gone: Tensor) -> None:
        """The first dimension of the stored weight."""
        take(module, ("weight",), 0, gone)
        self.resize(module)


def _has_its_shape(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters())
    if parameters.keys() != {"weight", "bias"} or any(True for _ in module.children()):
        return False
    weight, bias = parameters["weight"], parameters["bias"]
    return weight.ndim == 2 and bias.shape == weight.shape[1:]


@torch.no_grad()
def _behaves(module: nn.Module) -> bool:
    """Whether the class's forward pass is x @ weight + bias, for two and for three dimensions."""
    weight, bias = weight_of(module), bias_of(module)
    assert bias is not None
    for shape in ((2, len(weight)), (2, 3, len(weight))):
        read = torch.randn(shape, generator=stream(0, "transposed linear")).to(weight)
        try:
            written = type(module).forward(module, read)
        except Exception:  # a user's module may fail in any way; then it is none of these
            return False
        expected = read @ weight + bias
        if not isinstance(written, Tensor) or written.shape != expected.shape:
            return False
        if not torch.allclose(written, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            return False
    return True
