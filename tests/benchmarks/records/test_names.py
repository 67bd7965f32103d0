"""Names of parts that moved: keys keep the old ones, everything else has today's."""

import json
from pathlib import Path

import pytest

from benchmarks.records.keys import cell_key, recordable
from benchmarks.records.names import MODULES, frozen, today, with_frozen, with_todays
from benchmarks.settings.arguments import imported

ROOT = Path(__file__).parents[3]
RECORDS = sorted((ROOT / "results" / "cells").glob("*/*/*.json"))
OLD = ROOT / "tests" / "golden" / "old_cells.json"  # of records that were reviewed once: keys stay, boards move on


def _records():
    own = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RECORDS}
    return own | {record["key"]: record for record in json.loads(OLD.read_text(encoding="utf-8"))}


def _targets(value):
    if isinstance(value, dict):
        for name, part in value.items():
            if name in ("_target_", "reader"):
                yield part
            else:
                yield from _targets(part)
    elif isinstance(value, list):
        for part in value:
            yield from _targets(part)


def test_every_reviewed_record_keeps_its_key_and_every_name_in_it_can_be_imported():
    names = set()
    records = _records()
    assert len(records) >= 50
    for key, record in records.items():
        assert cell_key(record["config"]) == record["key"] == key
        assert cell_key(recordable(record["config"])) == record["key"]
        names.update(_targets(record["config"]))
    assert len(names) > 30
    for name in names:
        assert callable(imported(today(name)))


@pytest.mark.parametrize(("old", "new"), sorted(MODULES.items()))
def test_both_names_of_a_module_are_one(old, new):
    assert today(f"{old}.Thing") == today(f"{new}.Thing") == f"{new}.Thing"
    assert frozen(f"{old}.Thing") == frozen(f"{new}.Thing") == f"{old}.Thing"
    imported(new)


def test_only_names_of_parts_are_changed():
    config = {"selection": {"_target_": "methods.obd.OBDSelection", "note": "methods.obd.OBDSelection"}, "list": [1]}
    todays = with_todays(config)
    assert todays["selection"] == {
        "_target_": "methods.hessian.obd.OBDSelection",
        "note": "methods.obd.OBDSelection",
    }
    assert with_frozen(todays) == config
    assert with_todays("methods.obd.OBDSelection") == "methods.obd.OBDSelection"
