"""Compute the identity of a cell: a hash of everything in its configuration that changes the result, and nothing else.

Rules, each frozen by a test:

* Sections that say where or how a cell is run (folders, tracker, launcher) are left out, and so are the place that the
  data set is read from, the way its images are stored meanwhile, the devices that the cell runs on and the memory that
  it may use. For a pretrained network or tokenizer on this machine only the last part of its path counts.
* A value of null is left out, and so is a section with nothing left in it. A new option whose default is null therefore
  leaves every old key as it was.
* Names of classes count as they were when records began (:mod:`benchmarks.records.names`).
* Numbers are compared by value: ``1`` and ``1.0`` are the same, ``true`` and ``1`` are not.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from benchmarks.records.names import with_frozen, with_todays
from benchmarks.storage.pretrained import portable

HOW_IT_RUNS = frozenset({"track", "paths", "hydra", "save", "controls", "dry_run", "objective", "experiment"})
WHERE_IT_RUNS = frozenset({"devices", "strategy", "accelerator"})
WHERE_DATA_LIE = frozenset({"source", "storage", "workers", "hub_streaming"})  # options that do not change the samples
ELSEWHERE = (("model", "path"), ("model", "config"), ("dataset", "tokenizer"))
KEY_LENGTH = 16  # hexadecimal digits: 64 bits, a collision in 10^6 cells has probability 3e-8
LARGEST_EXACT = 2**53  # beyond it a float no longer stands for one integer


def cell_key(config: Mapping[str, Any]) -> str:
    """The key of the cell that ``config`` (the resolved configuration) describes: 16 hexadecimal digits."""
    return _hash(identity(config))


def dense_key(config: Mapping[str, Any]) -> str:
    """The key of the dense network a cell starts from, shared by all cells that prune it."""
    return _hash(identity(dense_part(config)))


def dense_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``config`` that determines the dense network: data set, model, its training and the seed."""
    parts = {name: config.get(name) for name in ("dataset", "model", "dense", "seed")}
    return parts | {"trainer": {"train": (config.get("trainer") or {}).get("train")}}


def variant_key(config: Mapping[str, Any]) -> str:
    """The key of a cell without its seed: equal for the cells that may be averaged."""
    kept = {name: value for name, value in config.items() if name != "seed"}
    allocation = kept.get("allocation")
    if isinstance(allocation, Mapping) and allocation.get("donor"):  # copied counts: each seed has its own
        kept["allocation"] = {name: value for name, value in allocation.items() if name not in ("donor", "widths")}
        kept["allocation"]["copied_from"] = allocation["donor"]
    return _hash(identity(kept))


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the key is computed from: ``config`` without everything that does not change the result."""
    kept = recordable(config)
    if isinstance(kept.get("allocation"), dict):  # which counts were copied matters, not from which cell
        kept["allocation"].pop("donor", None)
    return canonical(with_frozen(kept))


def recordable(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as plain JSON values, without what belongs to one machine or one user (and without any secret).

    Null values stay, so that a reader sees every option; the result has the same key as ``config``.
    """
    kept = {str(name): value for name, value in config.items() if str(name) not in HOW_IT_RUNS}
    plain = _plain(kept)
    if isinstance(plain.get("dataset"), dict):
        for name in WHERE_DATA_LIE & plain["dataset"].keys():
            del plain["dataset"][name]
    if isinstance(plain.get("calibration"), dict):
        plain["calibration"].pop("memory", None)
    for part, option in ELSEWHERE:
        place = plain.get(part)
        if isinstance(place, dict) and isinstance(place.get(option), str):
            place[option] = portable(place[option])
    trainer = plain.get("trainer")
    if isinstance(trainer, dict):
        for section in (trainer, *(part for part in trainer.values() if isinstance(part, dict))):
            for name in WHERE_IT_RUNS & section.keys():
                del section[name]
    return with_todays(plain)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON has no infinity
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        names = {str(name): part for name, part in value.items()}
        return {name: _plain(part) for name, part in names.items() if name == "_target_" or not name.startswith("_")}
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    raise TypeError(f"a configuration holds plain values, not {type(value).__name__}")


def canonical(value: Any) -> Any:
    """A plain value in canonical form: no nulls, no empty sections, whole floats as integers."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return int(value)
    if isinstance(value, dict):
        parts = {name: canonical(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part is not None and part != {}}
    if isinstance(value, list):  # positions count in a list, so a null in it stays
        return [canonical(part) for part in value]
    return value


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
