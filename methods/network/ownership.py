"""Whether a layer's weight is a parameter of its own alone, so that writing zeros into it changes this layer only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.errors import BadInput


def borrowed_weights(model: nn.Module) -> dict[str, str]:
    """For each module whose weight or bias is shared with another, or computed from other parameters, why.

    One module under two names is one module and shares nothing.
    """
    reasons: dict[str, str] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        computed = [name for name in ("weight", "bias") if name not in own and _is_there(module, name)]
        if computed:
            reasons[path] = f"the {computed[0]} of {path} is computed from other parameters; {_remedy(module, path)}"
    for first, second in _overlapping(model):
        for path in (first, second):
            reasons.setdefault(path, f"{first} and {second} share a weight")
    return reasons


def require_copyable(model: nn.Module) -> None:
    """Look for weights that are computed before every forward pass, which PyTorch does not copy with their module.

    Raises:
        BadInput: naming the layer, and what makes its weight a plain one.
    """
    for path, module in model.named_modules():
        own = {name for name, _ in module.named_parameters(recurse=False)}
        for name, value in vars(module).items():
            if not isinstance(value, Tensor):
                continue
            # after a pass without gradients only the names of its components tell: weight_orig, weight_g
            if value.grad_fn is not None or not own.isdisjoint({f"{name}_orig", f"{name}_g"}):
                raise BadInput(
                    f"the {name} of {path or 'the network'} is computed anew before every forward pass, and such a "
                    f"network cannot be copied; expected plain parameters\n{_remedy(module, path)}"
                )


def require_finite(model: nn.Module, inputs: Tensor, labels: Tensor | None = None) -> None:
    """Look once at all numbers that a pruning starts from.

    Args:
        model: its parameters and buffers are looked at.
        inputs: calibration inputs.
        labels: calibration labels; classes are always finite.

    Raises:
        BadInput: if one of them is NaN or infinite.
    """
    for what, values in (("inputs", inputs), ("labels", labels)):
        if values is not None and (count := _not_finite(values)):
            rows = int((~values.isfinite()).flatten(1).any(1).sum()) if values.ndim > 1 else count
            raise BadInput(
                f"{count} of the {values.numel()} numbers in the calibration {what} are NaN or infinite, in {rows} of "
                f"{len(values)} samples; expected finite ones\nlook for missing values in the data, or leave these "
                "samples out"
            )
    for name, values in model.state_dict().items():
        if isinstance(values, Tensor) and (count := _not_finite(values)):
            raise BadInput(
                f"{count} of the {values.numel()} numbers in {name} are NaN or infinite; expected a trained network"
                "\nlook at its training, or load other weights"
            )


def _not_finite(values: Tensor) -> int:
    if not (values.is_floating_point() or values.is_complex()):
        return 0
    # the sum is finite nearly always, and much faster than looking at each number
    return 0 if bool(torch.isfinite(values.sum())) else int((~values.isfinite()).sum())


def _is_there(module: nn.Module, name: str) -> bool:
    if parametrize.is_parametrized(module, name):
        return True
    return isinstance(vars(module).get(name), Tensor)  # by torch.nn.utils.prune and the old weight_norm


def _remedy(module: nn.Module, path: str) -> str:
    for name in ("weight", "bias"):
        if parametrize.is_parametrized(module, name):
            return f"torch.nn.utils.parametrize.remove_parametrizations({path}, '{name}') makes it a plain one"
    names = {name for name, _ in module.named_parameters(recurse=False)}
    if any(name.endswith("_mask") for name, _ in module.named_buffers(recurse=False)):
        return f"torch.nn.utils.prune.remove({path}, 'weight') makes it a plain one"
    if "weight_g" in names:
        return f"torch.nn.utils.remove_weight_norm({path}) makes it a plain one"
    if "weight_orig" in names:
        return f"torch.nn.utils.remove_spectral_norm({path}) makes it a plain one"
    return "store it as a parameter"


def _overlapping(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of modules with parameters that lie in the same memory, each module under its first name."""
    spans = []
    for path, module in model.named_modules():
        for _, parameter in module.named_parameters(recurse=False):
            if parameter.numel() and parameter.device.type != "meta":
                start = parameter.data_ptr()
                spans.append((start, start + parameter.numel() * parameter.element_size(), path))
    spans.sort(key=lambda span: span[0])
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start < end and first != second:
            yield first, second
