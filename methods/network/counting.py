"""Multiply-accumulates of a forward pass, product by product, with zero weights counted separately.

One MAC is one multiplication with one addition, in matrix products and convolutions; biases, normalisation, activations
and pooling are not counted. Products are seen where PyTorch dispatches them, so that functional calls, recurrent steps,
tokens and attention count as modules do; ``torch.utils.flop_counter`` has the formula of each (two operations per
MAC), but sees nothing inside fused kernels: on the CPU it gives 0 for scaled dot-product attention, for an LSTM and for
the fast path of transformer layers. Here fused kernels are switched off while counting.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from methods.network.reading import evaluating, fewest

AFTER_THE_BIAS = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)  # their first argument is added, not multiplied


@dataclass(frozen=True)
class Product:
    """One matrix product or convolution that a forward pass has carried out.

    Attributes:
        layer: path of the module it belongs to: the owner of the weight where that is the running module or inside it,
            else the running module.
        weight: name of the parameter that is one of the factors; None for products of activations.
        macs: multiply-accumulates.
        effective: the same without those whose weight is zero.
    """

    layer: str
    weight: str | None
    macs: int
    effective: int


def products(model: nn.Module, example: Tensor) -> list[Product]:
    """All products of one forward pass of one sample, in order, in evaluation mode; the model is left as it was."""
    with evaluating(model), torch.no_grad(), _separate_kernels(), _Products(model) as seen, seen.following_modules():
        samples = fewest(model, example)
        model(samples)
    if len(samples) == 1:
        return seen.found
    return [
        replace(each, macs=each.macs // len(samples), effective=each.effective // len(samples)) for each in seen.found
    ]


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of matrix products and convolutions for one sample, on the eager model."""
    return sum(product.macs for product in products(model, example))


class _Products(TorchDispatchMode):
    """Records every operation for which PyTorch has a formula, and splits up those for which it has none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Product] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._running = [""]
        self._owners: dict[int, list[str]] = {}  # memory of a parameter -> its names, several where weights are tied
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._owners.setdefault(_memory(parameter), []).append(name)

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Track which module is running, by PyTorch's global hooks, so that the model's own hooks are not touched."""

        def enter(module: nn.Module, _inputs: object) -> None:
            self._running.append(self._paths.get(module, self._running[-1]))

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            self._running.pop()

        with ExitStack() as stack:
            stack.callback(register_module_forward_pre_hook(enter).remove)
            stack.callback(register_module_forward_hook(leave, always_call=True).remove)
            yield

    def __torch_dispatch__(self, func: Any, _types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = kwargs or {}
        operation = getattr(func, "overloadpacket", func)
        if operation not in flop_registry:
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        output = func(*args, **kwargs)
        macs = flop_registry[operation](*args, **kwargs, out_val=output) // 2
        self.found.append(self._product(macs, args[1:] if operation in AFTER_THE_BIAS else args))
        return output

    def _product(self, macs: int, factors: tuple) -> Product:
        running = self._running[-1]
        for factor in factors[:2]:
            names = self._owners.get(_memory(factor)) if isinstance(factor, Tensor) else None
            if names:
                name, layer = _owner(names, running)
                effective = macs * int(torch.count_nonzero(factor)) // max(factor.numel(), 1)
                return Product(layer, name, macs, effective)
        return Product(running, None, macs, macs)


def _owner(names: list[str], running: str) -> tuple[str, str]:
    """Which of a parameter's names is meant inside the module ``running``, and the layer the product belongs to."""
    owners = {name: name.rpartition(".")[0] for name in names}
    for name, owner in owners.items():
        if owner == running:
            return name, owner
    for name, owner in owners.items():
        if not running or owner.startswith(f"{running}."):
            return name, owner
    return names[0], running


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _separate_kernels() -> Iterator[None]:
    """Within this context no fused attention, recurrent or transformer kernels are used."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    recurrent = torch.backends.mkldnn.enabled
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.callback(setattr, torch.backends.mkldnn, "enabled", recurrent)
        setattr(torch.backends.mkldnn, "enabled", False)  # noqa: B010
        if torch.backends.cudnn.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kernels that are switched off
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
