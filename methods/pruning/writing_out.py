"""Write out layers of PyTorch that contain hidden layers before a pruning, and put them together after it.

Recurrent layers (:mod:`methods.pruning.recurrent`) and attention (:mod:`methods.pruning.attention`) hold several
matrices in one module, or in one parameter, and multiply by them internally. Once these are written out as linear
layers, their units are seen, removed and repaired like any others. A new sort is one entry of :data:`SORTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from methods.network.reading import evaluating
from methods.pruning.attention import SeparateAttention, attention_layers
from methods.pruning.recurrent import WrittenOut, recurrent_layers

ALIKE = 1e-4  # relative to the largest number
USED = "used_nested_tensor"  # mark on an encoder that does not use nested tensors while its attention is written out


@runtime_checkable
class Written(Protocol):
    """A module that stands for a layer that is written out."""

    def put_together(self) -> nn.Module:
        """The layer, or its closest equivalent now that units are gone."""

    def put_together_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of its parameters, by the names that these have once it is put together."""


Find = Callable[[nn.Module], dict[str, nn.Module]]
SORTS: tuple[tuple[Find, Callable[..., nn.Module]], ...] = (
    (recurrent_layers, WrittenOut),
    (attention_layers, SeparateAttention),
)


def opaque_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Paths and modules of all layers in a network that can be written out."""
    return {path: module for find, _ in SORTS for path, module in find(model).items()}


@torch.no_grad()
def write_out(model: nn.Module, example: Tensor) -> bool:
    """Replace all layers that can be written out by linear layers, in place.

    A sort of layers is left as it is if the network then fails or computes something else, as happens with recurrent
    layers that read packed sequences. The fast path of PyTorch's transformers is switched off for this check: at padded
    positions it returns zeros, unlike the forward pass that training uses.

    Returns:
        Whether anything was changed.
    """
    tried = [_tried(model, example, find(model), write) for find, write in SORTS]
    return any(tried)


def write_out_unseen(model: nn.Module, like: nn.Module) -> None:
    """The same for a network that had the structure of ``like``, which is written out; it is not run."""
    for find, write in SORTS:
        for path, layer in find(model).items():
            if isinstance(like.get_submodule(path), Written):
                put(model, path, write(layer))
    _set_shortcuts(model)


def put_together(model: nn.Module) -> nn.Module:
    """The inverse of :func:`write_out`, also after units have been removed; in place."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Written):
            put(model, path, module.put_together())
    _set_shortcuts(model)
    return model


def put_together_names(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``masks`` of a network that is written out, by the names that parameters have once it is put together."""
    names: dict[str, dict[str, Tensor]] = {}
    for path, module in model.named_modules():
        before = f"{path}."
        if isinstance(module, Written):
            own = {name.removeprefix(before): mask for name, mask in masks.items() if name.startswith(before)}
            named = {f"{before}{name}": mask for name, mask in module.put_together_masks(own).items()}
            names |= {f"{before}{name}": named for name in own}
    result: dict[str, Tensor] = {}
    for name, mask in masks.items():
        result |= names.get(name, {name: mask})
    return result


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at ``path``, under every name that it has."""
    present = model.get_submodule(path)
    for each, found in list(model.named_modules(remove_duplicate=False)):
        if found is present:
            parent, _, name = each.rpartition(".")
            setattr(model.get_submodule(parent), name, module)


def _tried(model: nn.Module, example: Tensor, layers: Mapping[str, nn.Module], write: Callable[..., nn.Module]) -> bool:
    if not layers:
        return False
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model):
            before = model(example)
        for path, layer in layers.items():
            put(model, path, write(layer))
        _set_shortcuts(model)
        with evaluating(model):
            after = model(example)
        same = torch.allclose(after, before, rtol=ALIKE, atol=ALIKE * float(before.abs().max()))
    except Exception:  # a user's forward pass may fail in any way
        same = False
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    for path, layer in layers.items() if not same else ():
        put(model, path, layer)
    _set_shortcuts(model)
    return same


def _set_shortcuts(model: nn.Module) -> None:
    """Let PyTorch's encoders drop padding from their samples only if all of their attention layers accept that."""
    for encoder in model.modules():
        if not isinstance(encoder, nn.TransformerEncoder):
            continue
        separate = any(isinstance(module, SeparateAttention) for module in encoder.modules())
        if separate and encoder.use_nested_tensor:
            encoder.use_nested_tensor = False
            setattr(encoder, USED, True)
        elif not separate and vars(encoder).get(USED):
            delattr(encoder, USED)
            encoder.use_nested_tensor = True
