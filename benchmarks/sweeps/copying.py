"""Resolve cells that copy the layer-wise counts of another cell, and make the controls of finished cells.

``allocation=copy allocation.record=...`` names another cell; before anything else its counts replace that name. A
cell's identity (its key) depends on the counts, not on where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.boards.labels import control_of, label
from benchmarks.records.schema import Record
from benchmarks.records.store import Store, Unreadable, read
from benchmarks.settings.home import PARTS
from benchmarks.settings.tuning import with_trials
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.words import key_of
from methods.errors import BadInput

OBS_UPDATE = "methods.hessian.obs.OBSCompensation"
OF_THE_SELECTION = ("samples", "damping", "block", "labels", "first_order", "memory_gb")
ONE_SHOT = "methods.schedule.Schedule"
CONTROLS = {"node": ("random", "magnitude"), "edge": ("random_edge", "magnitude_edge")}
REPLACED = ("method", *PARTS, "controls")


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the counts of the cell that ``allocation.record`` names, and the trials that ``tune`` asks for.

    Raises:
        BadInput: there is no such record, it has no counts, or there are fewer trials than ``tune`` asks for.
    """
    config = with_trials(config)
    allocation = config.get("allocation") or {}
    named = allocation.get("record")
    if not named:
        return config
    donor = _find(str(named), Store.of(Paths.of(config["paths"])))
    if not donor.layers:
        raise BadInput(
            f"allocation.record={named}: that cell is {donor.status} and has no layer-wise counts\n"
            "expected one that is done: python -m benchmarks.status"
        )
    counts = {layer.name: layer.kept for layer in donor.layers}
    gradual = _steps(config) != 1
    rest = {name: value for name, value in allocation.items() if name != "record"}
    copied = {"widths": counts, "donor": label(donor), "gradual": gradual or None}
    return {**config, "allocation": {**rest, **copied}}


def _find(named: str, store: Store) -> Record:
    path = Path(named).expanduser()
    if path.suffix == ".json":
        try:
            return read(path)
        except (OSError, Unreadable) as error:
            raise BadInput(f"allocation.record={named} cannot be read: {error}; expected a record's file") from error
    record = store.find(named, committed=True)
    if record is None:
        raise BadInput(
            f"allocation.record={named}: there is no such cell; expected a key of 16 digits or a record's file\n"
            "keys are listed by python run.py --dry-run"
        )
    return record


def control_words(donors: Iterable[tuple[Sequence[str], Record]]) -> list[list[str]]:
    """Words that ask for the controls of finished cells.

    - random and magnitude selection with the donor's layer-wise counts, repair and schedule: does it choose well?
    - ``scratch``: the donor's shape (nodes: its counts; edges: its masks) from another initialisation, trained with the
      full recipe (Liu et al., "Rethinking the value of network pruning", ICLR 2019): is the shape all that counts?
    - ``unpruned_longer``: the dense network, trained on as the donor was: how much of the accuracy is further epochs?

    Cells that are themselves controls have none. Edge masks that depend on training between the steps cannot be
    reproduced without it, so such cells have no ``scratch``. Rewound cells have no ``unpruned_longer``: no further
    epochs would be comparable.

    Args:
        donors: for each cell the words that asked for it, and its record.
    """
    wanted: list[list[str]] = []
    for words, record in donors:
        if record.status != "done" or not record.layers or control_of(record.config) or record.unit not in CONTROLS:
            continue
        base = _without(words, REPLACED)
        copy = ["allocation=copy", f"allocation.record={record.key}"]
        shared = [f"++schedule={_literal(record.config['schedule'])}"] if record.config.get("schedule") else []
        repair = [f"++compensation={_literal(_standing_alone(record.config))}"]
        rest = [*base, *copy, *shared, *repair]
        wanted += [[f"method={control}", *rest] for control in CONTROLS[record.unit]]
        if record.unit == "node":
            wanted.append([*base, "method=random", *copy, "schedule=scratch", "++method.name=scratch"])
        elif _steps(record.config) == 1:
            own = _without(words, ("compensation", "schedule", "controls"))
            named = ["++method.name=scratch", f"++method.control_of={_literal(label(record))}"]
            wanted.append([*own, "compensation=none", "schedule=scratch", *named])
        if (record.config.get("schedule") or {}).get("rewind") in (None, "none"):
            everything = ["method=random", "allocation=everything", "++method.name=unpruned_longer"]
            wanted.append([*base, *everything, *shared])
    return wanted


def _without(words: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The words that set nothing of these groups."""
    return [word for word in words if key_of(word).split(".")[0].split("@")[0] not in groups]


def _steps(config: Mapping[str, Any]) -> int | None:
    """In how many steps a cell prunes; None where its schedule has no option ``steps``."""
    schedule = config.get("schedule") or {}
    return 1 if schedule.get("_target_") in (None, ONE_SHOT) else schedule.get("steps")


def _standing_alone(config: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's compensation with the options that it would take from the selection (OBS: damping, blocks)."""
    repair = dict(config.get("compensation") or {"_target_": "methods.compensation.Compensation"})
    if repair.get("_target_") != OBS_UPDATE:
        return repair
    theirs = {name: (config.get("selection") or {}).get(name) for name in OF_THE_SELECTION}
    return repair | {name: value for name, value in theirs.items() if value is not None and repair.get(name) is None}


def _literal(value: Any) -> str:
    """``value`` as Hydra reads it in an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_literal(part) for part in value) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)
