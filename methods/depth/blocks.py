"""Find residual blocks by experiment: modules that return what they read once their weights are 0.

Such a block computes x + f(x), or an activation of that which leaves its actual inputs unchanged (a ReLU after the
addition, if all inputs are outputs of a ReLU). It can be replaced by the identity without changing any shape. Of nested
blocks only the innermost count, and a block whose shortcut has weights (another resolution, other channels) does not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Cost
from methods.errors import Skipped
from methods.network.counting import products
from methods.network.reading import evaluating

ALIKE = 1e-6  # relative to the largest number read; with zero weights only rounding is left


@dataclass(frozen=True)
class Block:
    """A residual block and what it costs.

    Attributes:
        path: path of the module.
        parameters: number of parameters that the module alone holds.
        macs: multiply-accumulates for one sample.
    """

    path: str
    parameters: int
    macs: int


def residual_blocks(model: nn.Module, example: Tensor) -> list[Block]:
    """The blocks that can be left out, in forward order.

    Args:
        model: left as it is.
        example: a batch of inputs, which decides what modules read.

    Raises:
        Skipped: there is none.
    """
    calls = _calls(model, example)
    found: list[str] = []
    for path, reads in calls.items():
        if len(reads) == 1 and reads[0] is not None and _passes_on(model.get_submodule(path), reads[0]):
            found.append(path)
    inner = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    if not inner:
        raise Skipped(
            "this network has no residual block that can be left out: no module with weights passes on what it reads "
            "once its weights are zero"
        )
    macs = dict.fromkeys(inner, 0)
    for product in products(model, example):
        for path in inner:
            if product.layer == path or product.layer.startswith(f"{path}."):
                macs[path] += product.macs
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = next((path for path in inner if name.startswith(f"{path}.")), "")
        owners.setdefault(id(parameter), set()).add(owner)
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    return [Block(path, sum(sizes[key] for key, who in owners.items() if who == {path}), macs[path]) for path in inner]


def _calls(model: nn.Module, example: Tensor) -> dict[str, list[Tensor | None]]:
    """For each module with parameters, in the order of the first calls' ends, what each of its calls read.

    None stands for a call with more than one tensor, or with a result other than one tensor of the same shape.
    """
    calls: dict[str, list[Tensor | None]] = {}
    handles = []
    for path, module in model.named_modules():
        if path and any(True for _ in module.parameters()):

            def hook(_module: nn.Module, args: tuple, named: dict[str, Any], output: Any, path: str = path) -> None:
                single = len(args) == 1 and not named and isinstance(args[0], Tensor) and isinstance(output, Tensor)
                same = single and args[0].shape == output.shape
                calls.setdefault(path, []).append(args[0].detach().clone() if same else None)

            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@torch.no_grad()
def _passes_on(module: nn.Module, read: Tensor) -> bool:
    """Whether the module returns what it reads once its parameters are zero."""
    silent = copy.deepcopy(module).eval()
    for parameter in silent.parameters():
        parameter.zero_()
    for buffer_owner in silent.modules():
        if isinstance(mean := getattr(buffer_owner, "running_mean", None), Tensor):
            mean.zero_()
    scale = float(read.abs().max())
    return scale > 0 and float((silent(read) - read).abs().max()) <= ALIKE * scale


def cost_without(model: nn.Module, example: Tensor, blocks: Sequence[Block], removed: Sequence[Block]) -> Cost:
    """Blocks that stay, parameters and MACs of the network without ``removed``."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = sum(product.macs for product in products(model, example))
    return Cost(
        len(blocks) - len(removed),
        parameters - sum(block.parameters for block in removed),
        macs - sum(block.macs for block in removed),
    )


@contextmanager
def left_out(model: nn.Module, paths: Sequence[str]) -> Iterator[nn.Module]:
    """Within this context the modules at ``paths`` return what they read."""
    before = {path: model.get_submodule(path) for path in paths}
    try:
        for path in paths:
            model.set_submodule(path, nn.Identity())
        yield model
    finally:
        for path, module in before.items():
            model.set_submodule(path, module)
