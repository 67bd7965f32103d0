"""Load external weights: files of ``torch.save`` or safetensors, under names that may differ."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from methods.errors import BadInput, first_line

LOG = logging.getLogger(__name__)

NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")  # where training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def refuse_missing(path: Path) -> None:
    """Raise :class:`BadInput` unless there is a file; pipes and folders are none."""
    if not path.expanduser().is_file():
        raise BadInput(
            f"dense.checkpoint={path}: there is no such file; give the path of a state dict, as torch.save or "
            "safetensors write it"
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load an external state dict into ``model``: a safetensors file, or one of ``torch.save``.

    What ``torch.save`` wrote is read with ``weights_only=True``: tensors and plain values, no code. The state dict may
    lie under ``state_dict``, ``model`` or the like, and its names may begin with ``module.``.

    Names may differ if it is certain where each tensor belongs: if every shape occurs once, by shape; else by position,
    if both lists in natural order of their names (``layer2`` before ``layer10``) have the same shapes and the same last
    parts (``weight``, ``bias``, ...). The log then says what became what. A network may know how others name its
    tensors (``other_names``, one mapping of their names to its own for each of them): then nothing is guessed.

    Raises:
        BadInput: there is no such file, it holds no state dict, or names or shapes do not fit; ``model`` is as it was.
    """
    refuse_missing(path)
    tensors = _without_prefix(_tensors_of(path.expanduser()))
    target = model.state_dict()
    if tensors.keys() != target.keys():
        known = _known_names(model, tensors)
        tensors = known if known is not None else _renamed(tensors, target, path)
    wrong = [name for name in target if tensors[name].shape != target[name].shape]
    if wrong:
        name = wrong[0]
        raise BadInput(
            f"dense.checkpoint={path}: '{name}' has shape {tuple(tensors[name].shape)}, but the model's is "
            f"{tuple(target[name].shape)}{_more(wrong)}; choose the model that the checkpoint was saved from"
        )
    model.load_state_dict(tensors)


def _tensors_of(path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = first_line(error)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind fails in many ways
        if type(error).__name__ == "UnpicklingError":
            raise BadInput(
                f"dense.checkpoint={path} is not a safetensors file, and torch.load(weights_only=True) refuses "
                "it: it holds more than weights, or is damaged\nsave a state dict: torch.save(model.state_dict(), FILE)"
            ) from None
        raise BadInput(
            f"dense.checkpoint={path} is not a safetensors file ({reason}), nor one of torch.save\n"
            "expected a state dict"
        ) from None
    found = _state_dict(content)
    if found is None:
        raise BadInput(
            f"dense.checkpoint={path} holds {type(content).__name__}, no state dict\n"
            "save one: torch.save(model.state_dict(), FILE)"
        )
    return found


def _state_dict(content: Any) -> dict[str, Tensor] | None:
    """The tensors by name in ``content``, itself or one level below."""
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): value for name, value in content.items()}
    return next(filter(None, (_state_dict(content[key]) for key in NESTED if key in content)), None)


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _known_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """``tensors`` under the model's own names, if it knows theirs; None if not.

    ``num_batches_tracked`` may be missing: it is not a weight, and older files do not have it.
    """
    others = getattr(model, "other_names", None)
    own = model.state_dict()
    counts = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    for names in [dict(zip(own, own, strict=True)), *(others() if callable(others) else ())]:
        found = {names[name]: value for name, value in tensors.items() if name in names}
        if len(found) == len(tensors) and own.keys() - found.keys() <= counts.keys():
            return counts | found
    return None


def _renamed(tensors: dict[str, Tensor], target: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``tensors`` under the names of ``target``, if the correspondence is certain."""
    shapes = {tuple(value.shape): name for name, value in tensors.items()}
    theirs, ours = sorted(tensors, key=_natural), sorted(target, key=_natural)
    if len(shapes) == len(tensors) == len(target) and all(tuple(v.shape) in shapes for v in target.values()):
        names = {name: shapes[tuple(value.shape)] for name, value in target.items()}
    elif [_kind(tensors, name) for name in theirs] == [_kind(target, name) for name in ours]:
        names = dict(zip(ours, theirs, strict=True))
    else:
        missing, foreign = sorted(target.keys() - tensors.keys()), sorted(tensors.keys() - target.keys())
        parts = [f"lacks '{missing[0]}'{_more(missing)}"] if missing else []
        parts += [f"has '{foreign[0]}'{_more(foreign)}, which the model has not"] if foreign else []
        raise BadInput(
            f"dense.checkpoint={path} {' and '.join(parts)}, and the shapes do not tell where its tensors belong; "
            "choose the model that the checkpoint was saved from"
        )
    LOG.warning("%s has other names; used %s", path, ", ".join(f"{old} as {new}" for new, old in names.items()))
    return {new: tensors[old] for new, old in names.items()}


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _kind(tensors: Mapping[str, Tensor], name: str) -> tuple[str, tuple[int, ...]]:
    return name.rpartition(".")[2], tuple(tensors[name].shape)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
