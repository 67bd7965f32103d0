"""Save state so that a kill at any moment is safe: tensors as safetensors, everything else as JSON, never pickle.

A checkpoint is a folder with one ``<name>.json`` and the tensors file that it names together with its SHA-256. The
tensors are written first, under a name of their own; replacing the JSON is the one atomic step that makes the new state
valid. An interruption before it leaves the old pair untouched.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.storage.paths import write_atomically

LOG = logging.getLogger(__name__)


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The tensors in the safetensors format, names in order: equal tensors give equal bytes."""
    from safetensors.torch import save

    # A copy of each, because safetensors refuses tensors that share memory (tied weights) or are not contiguous.
    return save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})


def checksum(content: bytes) -> str:
    """SHA-256 of ``content`` in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def save(folder: Path, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Store ``tensors`` and ``facts`` as the state ``name`` in ``folder``, in place of the former one.

    Returns:
        The path of the tensors file.
    """
    content = to_bytes(tensors)
    digest = checksum(content)
    path = folder / f"{name}-{digest[:16]}.safetensors"
    write_atomically(path, content)
    facts = {**facts, "tensors": {"file": path.name, "sha256": digest}}
    write_atomically(folder / f"{name}.json", json.dumps(facts, indent=1).encode())
    for old in folder.glob(f"{name}-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def load(folder: Path, name: str, warn: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What :func:`save` stored; None where there is nothing or, with a warning, where it is damaged."""
    from safetensors.torch import load as from_bytes

    description = folder / f"{name}.json"
    try:
        facts = json.loads(description.read_bytes())
        stored = facts.pop("tensors")
        content = (folder / stored["file"]).read_bytes()
        if checksum(content) != stored["sha256"]:
            raise ValueError(f"{stored['file']} does not have the checksum that {description.name} names")
        return from_bytes(content), facts
    except FileNotFoundError as error:
        if error.filename == str(description):
            return None
        reason: Exception = error
    except Exception as error:  # damage has many faces: bad JSON, a missing key, a truncated or foreign file
        reason = error
    if warn:
        LOG.warning("%s is damaged (%s: %s); starting afresh", description, type(reason).__name__, reason)
    return None


def facts_of(folder: Path, name: str) -> dict[str, Any] | None:
    """The facts that :func:`save` stored, without reading the tensors; None where there are none that can be read."""
    try:
        facts = json.loads((folder / f"{name}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def remove(folder: Path, name: str) -> None:
    """Delete the state ``name`` and what an interrupted :func:`save` left; the folder too if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in (folder / f"{name}.json", *folder.glob(f"{name}-*.safetensors"), *folder.glob(f".{name}*")):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def unshared(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` with shared tensors once, under the first of their names."""
    seen: set[tuple[int, int, torch.Size, tuple[int, ...]]] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if place in seen and tensor.numel():
            continue
        seen.add(place)
        state[name] = tensor
    return state
