"""Cells that take the layer-wise counts of another cell, and the controls that are made so.

``allocation=copy allocation.record=...`` names another cell; before anything else its counts are put in the place of
that name. What a cell is (its key) depends on the counts, not on where they were found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.boards.labels import label
from benchmarks.records.record import Record
from benchmarks.records.store import Store, Unreadable, read
from benchmarks.settings.home import PARTS
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.words import key_of
from methods.errors import BadInput

COPIED = "methods.allocation.Copied"
ONE_SHOT = "methods.schedule.Schedule"
CONTROLS = {"node": ("random", "magnitude"), "edge": ("random_edge", "magnitude_edge")}
# repairs that work for any selection, so that a control gets the one its donor has
FOR_ANY_SELECTION = ("methods.compensation.",)
REPLACED = ("method", *PARTS, "controls")


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the counts of the cell that ``allocation.record`` names; as it is where that is not set.

    Raises:
        BadInput: there is no such record, or it has no counts.
    """
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
    gradual = (config.get("schedule") or {}).get("_target_") != ONE_SHOT
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
    """Words that ask for the controls of finished cells: random and magnitude selection with their layer-wise counts.

    A control shares everything with its donor but the selection, and the compensation where that is made for the
    donor's selection. Cells that are themselves controls, and edges of coupled structures, have none.

    Args:
        donors: for each cell the words that asked for it, and its record.
    """
    wanted = []
    for words, record in donors:
        allocation = record.config.get("allocation") or {}
        if record.status != "done" or not record.layers or allocation.get("_target_") == COPIED:
            continue
        base = [word for word in words if key_of(word).split(".")[0].split("@")[0] not in REPLACED]
        schedule, compensation = record.config.get("schedule"), record.config.get("compensation") or {}
        shared = [f"++schedule={_literal(schedule)}"] if schedule else []
        if str(compensation.get("_target_", "")).startswith(FOR_ANY_SELECTION):
            shared.append(f"++compensation={_literal(compensation)}")
        for control in CONTROLS.get(record.unit or "", ()):
            copy = [f"method={control}", "allocation=copy", f"allocation.record={record.key}"]
            wanted.append([*base, *copy, *shared])
    return wanted


def _literal(value: Any) -> str:
    """``value`` as Hydra reads it in an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(part)}" for name, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_literal(part) for part in value) + "]"
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)
