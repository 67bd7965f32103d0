"""Write out layers of PyTorch that contain hidden layers before a pruning, and put them together after it.

Recurrent layers (:mod:`methods.pruning.recurrent`) and attention (:mod:`methods.pruning.attention`) hold several
matrices in one module, or in one parameter, and multiply by them out of sight. Written out as linear layers, these are
seen, removed and repaired like any others. A new sort is one entry of :data:`SORTS`.
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
USED = "used_nested_tensor"  # of an encoder that does not now because of what is written out inside of it


@runtime_checkable
class Written(Protocol):
    """A module that stands for a layer that is written out."""

    def put_together(self) -> nn.Module:
        """The layer, or what comes nearest to it now that units are gone."""

    def put_together_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the parameters inside, by the names that these then have."""


Find = Callable[[nn.Module], dict[str, nn.Module]]
SORTS: tuple[tuple[Find, Callable[..., nn.Module]], ...] = (
    (recurrent_layers, WrittenOut),
    (attention_layers, SeparateAttention),
)


def opaque_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Paths and modules of all layers inside of a network that can be written out."""
    return {path: module for find, _ in SORTS for path, module in find(model).items()}


@torch.no_grad()
def write_out(model: nn.Module, example: Tensor) -> bool:
    """Put linear layers in the place of all layers that can be written out, in place.

    A sort of layers is left as it is if the network then does not run or computes something else, as recurrent layers
    that read packed sequences. Shortcuts of PyTorch's transformers in evaluation are switched off while that is tried:
    where there is padding they return zeros in its place, which no training does.

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
    """Put a module in the place of the one at ``path``, under every name that this has."""
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
    """Let PyTorch's encoders hand on samples without their padding only where all of their attention takes these."""
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
