"""The dense network that every pruning method of a comparison starts from: trained once, cached, shared.

Several processes that need the same network at the same time agree by a lease: the first trains, the others wait.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.storage import checkpoint as store
from benchmarks.storage.lease import first_come
from benchmarks.training.loop import History
from benchmarks.training.trainer import TrainerSettings, fit
from methods.errors import BadInput

if TYPE_CHECKING:
    from benchmarks.data.splits import Data

LOG = logging.getLogger(__name__)

NAME = "dense"


@dataclass(frozen=True)
class Dense:
    """A dense network in eval mode, and where it came from.

    ``history.collapsed`` says if its training failed. ``trained`` is True if this very call trained it; ``seconds`` is
    what the training took, whenever that was.
    """

    model: nn.Module
    history: History
    seconds: float
    trained: bool
    path: Path


def dense_network(
    model_cfg: Mapping[str, Any],
    data: "Data",
    settings: TrainerSettings,
    seed: int,
    cache: Path,
    key: str,
    checkpoint: Path | str | None = None,
) -> Dense:
    """The trained dense network: from ``checkpoint`` if one is named, else from the cache, else trained now.

    Args:
        model_cfg: the configuration's ``model`` section.
        data: what to train on; also gives the input shape and the number of classes.
        settings: the configuration's ``trainer.train`` section.
        seed: root of the initial weights and of all randomness of training.
        cache: root of all caches; this network's folder is ``<cache>/dense/<key>``.
        key: names everything that the network depends on.
        checkpoint: a safetensors file of weights to use instead of training.

    Raises:
        BadInput: the checkpoint cannot be read or does not fit the model.
    """
    from benchmarks.models import build

    model = build(model_cfg, data.shape, data.classes, seed)
    if checkpoint is not None:
        load_weights(model, Path(checkpoint))
        return Dense(model.eval(), History(), 0.0, False, Path(checkpoint))
    folder, label = Path(cache) / "dense" / key, f"{data.name}/{model_cfg.get('name', type(model).__name__)}"
    dense = _from_cache(model, folder, warn=True)
    if dense is not None:
        return dense
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot write in {folder} ({error.strerror}); choose another folder: paths.cache=FOLDER"
        ) from None
    if _joins_another():
        history = fit(model, data, settings, seed, checkpoint=folder, label=label)
        return Dense(model.eval(), history, history.seconds, True, folder)
    with first_come(folder, lambda: _read(model, folder, warn=False) is not None, f"training {label}") as mine:
        if mine:
            history = fit(model, data, settings, seed, checkpoint=folder, label=label)
            facts = {"history": asdict(history), "seconds": history.seconds, "key": key}
            path = store.save(folder, NAME, model.state_dict(), facts)
            store.remove(folder, "training")
            return Dense(model.eval(), history, history.seconds, True, path)
    dense = _from_cache(model, folder, warn=True)
    if dense is None:
        raise RuntimeError(f"the dense network in {folder} was removed while it was being read")
    return dense


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors state dict from elsewhere into ``model``.

    Names may differ if it is certain where each tensor belongs: if every shape occurs once, by shape; else by position,
    if both lists in natural order of their names (``layer2`` before ``layer10``) have the same shapes and the same last
    parts (``weight``, ``bias``, ...). The log then says what became what.

    Raises:
        BadInput: there is no such file, it is not safetensors, or names or shapes do not fit; ``model`` is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadInput(f"dense.checkpoint={path}: there is no such file; give the path of a safetensors state dict")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise BadInput(f"dense.checkpoint={path} is not a safetensors file ({error}); expected a state dict") from None
    target = model.state_dict()
    if tensors.keys() != target.keys():
        tensors = _renamed(tensors, target, path)
    wrong = [name for name in target if tensors[name].shape != target[name].shape]
    if wrong:
        name = wrong[0]
        raise BadInput(
            f"dense.checkpoint={path}: '{name}' has shape {tuple(tensors[name].shape)}, but the model's is "
            f"{tuple(target[name].shape)}{_more(wrong)}; choose the model that the checkpoint was saved from"
        )
    model.load_state_dict(tensors)


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


def _joins_another() -> bool:
    """Whether this process is one of several of one training, but not its first, which holds the lease and saves."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0


def _from_cache(model: nn.Module, folder: Path, warn: bool) -> Dense | None:
    stored = _read(model, folder, warn)
    if stored is None:
        return None
    tensors, facts = stored
    model.load_state_dict(tensors)
    path = next(folder.glob(f"{NAME}-*.safetensors"))
    return Dense(model.eval(), History(**facts["history"]), facts["seconds"], False, path)


def _read(model: nn.Module, folder: Path, warn: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    stored = store.load(folder, NAME, warn)
    if stored is None:
        return None
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if {name: value.shape for name, value in stored[0].items()} != shapes or "history" not in stored[1]:
        if warn:
            LOG.warning("%s holds another network; training it afresh", folder)
        return None
    return stored
