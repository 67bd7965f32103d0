"""Every value has a type and a range: the models of the configuration, and what is said of a wrong value."""

import copy
import json
import os
import subprocess
import sys

import pytest
from marks import slow_but_for

from benchmarks.records.names import with_todays
from benchmarks.settings.home import CONF
from benchmarks.settings.sections import check_types
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

ELSEWHERE = {"paths": {"results": "results", "cache": ".cache"}, "track": {"mode": "disabled"}}  # no part of a record


@pytest.fixture(scope="module")
def cell():
    return Composer(CONF).cell(["method=spectral"])


def put(config, key, value):
    changed = copy.deepcopy(config)
    *path, last = key.split(".")
    section = changed
    for name in path:
        section = section[name]
    section[last] = value
    return changed


def refusal(config):
    """What is said against the configuration, None if nothing is."""
    try:
        check_types(config)
    except BadInput as error:
        return str(error)
    return None


def test_every_reviewed_record_passes():
    files = sorted((REPOSITORY / "results" / "cells").glob("*/*/*.json"))
    old = json.loads((REPOSITORY / "tests/golden/old_cells.json").read_text())
    records = [*old, *(json.loads(file.read_text()) for file in files)]
    refused = [refusal({**ELSEWHERE, **with_todays(record["config"])}) for record in records]
    assert len(records) > 1000 and set(refused) == {None}


GROUPS = [
    f"{group}={path.stem}"
    for group in ("dataset", "model", "trainer", "method", "allocation", "compensation", "schedule", "measure", "track")
    for path in sorted((CONF / group).glob("*.yaml"))
    if path.stem != "copy"  # needs the record of another cell
]


@pytest.mark.parametrize("word", slow_but_for(GROUPS, "method=spectral", "dataset=mnist", "model=own"))
def test_every_choice_passes(word):
    own = ["model._target_=benchmarks.models.MLP"] if word == "model=own" else []
    assert refusal(Composer(CONF).cell([word, *own])) is None


WRONG = [
    ("seed", True, "seed=true is not a whole number; type for instance seed=1"),
    ("seed", 2**63, "not a whole number of 64 bits"),
    ("budget.keep", True, "budget.keep=true is not a number; type for instance budget.keep=0.5"),
    ("budget.kep", 0.5, "unknown key 'budget.kep'; did you mean budget.keep?"),
    ("zzz", 1, "unknown key 'zzz'"),
    ("sede", 1, "unknown key 'sede'; did you mean seed?"),
    ("dataset.std", [0], "dataset.std=[0] is not"),
    ("dataset.std", [1.0, 1.0], "std has 2 values"),
    ("dataset.levels", -1, "dataset.levels=-1 is not above 0; type for instance dataset.levels=255"),
    ("dataset.task", "foo", "dataset.task=foo is unknown; choose from classification, regression"),
    ("dataset.augment", {"crop": 1000}, "augment.crop=1000 does not fit inputs of shape [1, 8, 8]"),
    ("dataset.augment", {"corp": 1}, "unknown key 'dataset.augment.corp'; did you mean dataset.augment.crop?"),
    ("dataset.name", "../../x", "dataset.name=../../x is no name"),
    ("dataset.name", 5, "dataset.name=5 is not a text"),
    ("dataset.source", "x", "unknown key 'dataset.source'"),
    ("model.name", "a/b", "model.name=a/b is no name"),
    ("method", {}, "method.name is missing"),
    ("method.name", "..", "method.name=.. is no name"),
    ("paths", 5, "paths=5 is not a section of keys; type for instance paths.results=FOLDER"),
    ("selection._target_", None, "selection._target_=null is not a text; type for instance method=magnitude"),
    ("selection", None, "selection=null is not a section of keys"),
    ("calibration.samples", 1.5, "calibration.samples=1.5 is not a whole number"),
    ("trainer.train.epochs", True, "trainer.train.epochs=true is not a whole number"),
    ("trainer.train.devices", "many", "trainer.train.devices=many is"),
    ("trainer.finetune", None, "trainer.finetune=null is not a section of keys"),
    ("measure.memory", 0, "measure.memory=0 is below 1"),
    ("measure.latency.pairs", True, "measure.latency.pairs=true is not a whole number"),
    (
        "track.mode",
        "onlin",
        "choose from offline, online, disabled\ntype track.mode=online",
    ),
    ("save", 1, "save=1 is neither true nor false; type for instance save=true"),
]


@pytest.mark.parametrize("key,value,message", WRONG, ids=[f"{key}={value}" for key, value, _ in WRONG])
def test_a_wrong_value_is_named_with_what_was_expected(cell, key, value, message):
    check_types(cell)
    with pytest.raises(BadInput) as caught:
        check_types(put(cell, key, value))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("key", ["seed", "budget", "dataset", "trainer", "paths", "method", "selection"])
def test_what_is_missing_is_named(cell, key):
    with pytest.raises(BadInput, match=f"{key} is missing"):
        check_types({name: value for name, value in cell.items() if name != key})


def test_a_reader_of_ones_own_may_have_keys_of_its_own(cell):
    assert "dataset.extra" in refusal(put(cell, "dataset.extra", 1))
    assert refusal(put(put(cell, "dataset.reader", "mine.read"), "dataset.extra", 1)) is None


def test_checking_types_loads_no_torch():
    code = "import sys, benchmarks.settings.sections; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ, check=False).returncode == 0
