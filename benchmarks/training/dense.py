"""The dense network that every pruning method of a comparison starts from: trained once, cached, shared.

Several processes that need the same network at the same time agree by a lease: the first trains, the others wait.
"""

import inspect
import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.storage import checkpoint as store
from benchmarks.storage.lease import first_come
from benchmarks.training.loop import History
from benchmarks.training.scoring import evaluate
from benchmarks.training.trainer import TrainerSettings, fit
from benchmarks.training.weights import load_weights
from methods.errors import BadInput

if TYPE_CHECKING:
    from benchmarks.data.splits import Data

LOG = logging.getLogger(__name__)

NAME = "dense"
TURNS = 5  # attempts to get a network that other processes remove or take over
SCORED: set[Path] = set()  # files that this process has trained, or whose scores it has verified

__all__ = ["Dense", "dense_network", "load_weights"]


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
    reviewed: Path | None = None,
) -> Dense:
    """The trained dense network: from ``checkpoint`` if one is named, else a stored one, else trained now.

    Args:
        model_cfg: the configuration's ``model`` section.
        data: what to train on; also gives the input shape and the number of classes.
        settings: the configuration's ``trainer.train`` section.
        seed: root of the initial weights and of all randomness of training.
        cache: root of all caches; this network's folder is ``<cache>/dense/<key>``.
        key: names everything that the network depends on but the code of its classes and of what they call. A cached
            network is not used where its classes have changed, nor where it scores otherwise on the validation split
            than at the end of its training.
        checkpoint: a file of weights to use instead of training; see :func:`benchmarks.training.weights.load_weights`.
        reviewed: folder of the networks that came with the project, one folder per key; searched before the cache by
            the same rules, and never written.

    Raises:
        BadInput: the checkpoint cannot be read or does not fit the model.
    """
    from benchmarks.models import build

    model = build(model_cfg, data.shape, data.classes, seed, data.tokens)
    if checkpoint is not None:
        load_weights(model, Path(checkpoint))
        return Dense(model.eval(), History(), 0.0, False, Path(checkpoint))
    code = code_of(model)
    folder, label = Path(cache) / "dense" / key, f"{data.name}/{model_cfg.get('name', type(model).__name__)}"
    if reviewed is not None:
        dense = _stored(model, reviewed / key, code, data, owned=False)
        if dense is not None:
            return dense
    dense = _stored(model, folder, code, data)
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
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(TURNS):
        with first_come(folder, lambda: _read(model, folder, code, False) is not None, f"training {label}") as mine:
            if mine:
                history = fit(model, data, settings, seed, checkpoint=folder, label=label)
                if mine.held():
                    facts = {"history": asdict(history), "seconds": history.seconds, "key": key, "code": code}
                    path = store.save(folder, NAME, model.state_dict(), facts)
                    SCORED.add(path)
                    store.remove(folder, "training")
                    return Dense(model.eval(), history, history.seconds, True, path)
                model.load_state_dict(fresh)  # this process was stopped for too long: another one has taken over
        dense = _stored(model, folder, code, data)
        if dense is not None:
            store.remove(folder, "training")  # a process that was stopped may have gone on writing it
            return dense
    raise RuntimeError(f"the dense network in {folder} was removed {TURNS} times while it was being read")


def _joins_another() -> bool:
    """Whether this process is one of several in a training but not the first, which holds the lease and saves."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0


def code_of(model: nn.Module) -> str:
    """A digest of the source of all classes of ``model`` that are not part of PyTorch, in order of their modules.

    Code that a class calls elsewhere is not included, nor is a class whose source cannot be read; a change there shows
    in the score on the validation split, see :func:`_differs`.
    """
    sources: dict[str, str] = {}
    for module in model.modules():
        for kind in type(module).__mro__:
            name = f"{kind.__module__}.{kind.__qualname__}"
            if name not in sources and kind.__module__.partition(".")[0] not in ("torch", "builtins"):
                with suppress(OSError, TypeError):
                    sources[name] = inspect.getsource(kind)
    order = [f"{name} {type(module).__qualname__} {module.extra_repr()}" for name, module in model.named_modules()]
    return store.checksum(json.dumps([sources, order]).encode())


def _stored(model: nn.Module, folder: Path, code: str, data: "Data", owned: bool = True) -> Dense | None:
    """The network in ``folder`` if its scores agree with its history; else it is removed if ``owned``."""
    stored = _read(model, folder, code, True)
    if stored is None:
        return None
    tensors, facts = stored
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(tensors)
    history = History(**facts["history"])
    path = next(folder.glob(f"{NAME}-*.safetensors"))
    if path not in SCORED:
        if found := _differs(model, data, history):
            LOG.warning("the network in %s %s: it was trained by other code; training it afresh", folder, found)
            model.load_state_dict(before)
            if owned:
                store.remove(folder, NAME)  # a process that waits for it would take it
            return None
        SCORED.add(path)
    return Dense(model.eval(), history, facts["seconds"], False, path)


def _differs(model: nn.Module, data: "Data", history: History) -> str | None:
    """How far ``model`` is from the validation scores of its history; None where they agree or are unknown.

    Other hardware, versions and number formats change the scores of the same weights by far less than is allowed
    here: half a percent of the samples, and two of them, or two percent of the loss.
    """
    rows = [{"epoch": 0.0, **(history.start or {})}, *history.epochs]
    then = next((row for row in rows if row["epoch"] == history.best_epoch), {})
    names = [name for name in ("accuracy", "loss") if math.isfinite(then.get(f"validation_{name}") or math.inf)]
    if history.collapsed or not names or not len(data.validation):
        return None
    score = evaluate(model, data.validation)
    for name in names:
        before, now = then[f"validation_{name}"], getattr(score, name)
        room = max(0.005, 2.5 / len(data.validation)) if name == "accuracy" else max(0.005, 0.02 * abs(before))
        if now is None or not abs(now - before) <= room:
            return f"has a validation {name} of {now:.4g}, not {before:.4g} as at the end of its training"
    return None


def _read(model: nn.Module, folder: Path, code: str, warn: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    stored = store.load(folder, NAME, warn)
    if stored is None:
        return None
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    other_code = stored[1].get("code") not in (None, code)  # networks that were cached before have none
    if {name: value.shape for name, value in stored[0].items()} != shapes or "history" not in stored[1] or other_code:
        if warn:
            what = "another network, by other code" if other_code else "another network"
            LOG.warning("%s holds %s; training it afresh", folder, what)
        return None
    return stored
