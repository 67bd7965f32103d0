"""Copied counts and the controls of a sweep: what they are, and that their identity is that of the counts."""

import pytest
from sample_records import made

from benchmarks.boards.labels import label
from benchmarks.cells.parts import build_pruner
from benchmarks.records.keys import cell_key, variant_key
from benchmarks.records.record import Record
from benchmarks.records.store import Store
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps.application import run
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.copying import control_words, resolved
from methods.allocation import Copied, Rounded
from methods.errors import BadInput

pytestmark = pytest.mark.slow

LAYERS = [{"name": "fc1", "units": 150, "kept": 40}, {"name": "fc2", "units": 300, "kept": 9}]


def composer():
    return Composer(REPOSITORY / "conf")


def donor(words, tmp_path, layers=LAYERS, **changes):
    """A finished record of the cell that ``words`` ask for, in a store of its own."""
    config = composer().cell([*words, f"paths.results={tmp_path}"])
    head = made().model_dump() | {"key": cell_key(config), "config": config, "method": config["method"]["name"]}
    record = Record.model_validate(head | {"layers": layers, "unit": "node", "status": "done"} | changes)
    Store(tmp_path / "runs", tmp_path / "cells").write(record)
    return record


def copied(tmp_path, named, *words):
    own = ["method=random", "allocation=copy", f"allocation.record={named}", f"paths.results={tmp_path}", *words]
    return composer().cell(own)


def test_a_key_and_a_file_give_the_same_cell_and_the_path_is_forgotten(tmp_path):
    record = donor(["method=spectral"], tmp_path)
    path = Store(tmp_path / "runs", tmp_path / "cells").path_of(record)
    by_key, by_file = copied(tmp_path, record.key), copied(tmp_path, path)
    assert cell_key(by_key) == cell_key(by_file)
    assert by_key["allocation"]["widths"] == {"fc1": 40, "fc2": 9}
    assert "record" not in by_key["allocation"] and str(tmp_path) not in str(by_key["allocation"])
    assert isinstance(build_pruner(by_key).allocation, Copied)
    assert isinstance(build_pruner(copied(tmp_path, record.key, "allocation.round_to=8")).allocation, Rounded)
    assert resolved(by_key) == by_key


def test_identity_is_that_of_the_counts_and_rows_are_averaged_by_donor(tmp_path):
    first = donor(["method=spectral", "seed=0"], tmp_path)
    same = donor(["method=dpp", "seed=0"], tmp_path)
    other = donor(["method=spectral", "seed=1"], tmp_path, [{**LAYERS[0], "kept": 41}, LAYERS[1]])
    a, b, c = (copied(tmp_path, record.key) for record in (first, same, other))
    assert cell_key(a) == cell_key(b) != cell_key(c)
    assert variant_key(a) == variant_key(c) != variant_key(b)
    shown = Record.model_validate(made().model_dump() | {"config": c, "method": "random"})
    assert label(shown) == "random (layers of spectral)"


def test_what_is_no_record_is_refused(tmp_path):
    for named in ("0123456789abcdef", str(tmp_path / "missing.json")):
        with pytest.raises(BadInput, match="allocation.record="):
            copied(tmp_path, named)
    empty = donor(["method=spectral"], tmp_path, [], status="failed", reason="x")
    with pytest.raises(BadInput, match="failed and has no layer-wise counts"):
        copied(tmp_path, empty.key)


def test_a_control_shares_all_but_the_selection(tmp_path):
    typed = ["method=spectral", "selection.theta=0.3", "schedule=iterative", "schedule.steps=3", "seed=4"]
    record = donor(typed, tmp_path)
    words = control_words([([*typed, f"paths.results={tmp_path}"], record)])
    controls = [composer().cell(each) for each in words]
    assert [config["method"]["name"] for config in controls] == ["random", "magnitude"]
    for config in controls:
        assert config["seed"] == 4 and config["allocation"]["gradual"] is True
        assert config["schedule"] == record.config["schedule"]
        assert config["compensation"] == record.config["compensation"]
        assert config["trainer"] == composer().cell(typed)["trainer"]
        build_pruner(config)


def test_controls_have_no_controls_and_masks_get_those_of_their_kind(tmp_path):
    record = donor(["method=obd"], tmp_path, unit="edge")
    words = control_words([(["method=obd"], record)])
    assert [each[0] for each in words] == ["method=random_edge", "method=magnitude_edge"]
    control = Record.model_validate(
        record.model_dump() | {"config": copied(tmp_path, record.key), "method": "random_edge"}
    )
    assert control_words([(["method=random_edge"], control)]) == []
    assert control_words([(["method=obd"], record.model_copy(update={"status": "collapsed"}))]) == []


def test_a_sweep_with_controls_runs_them_after_their_donors_and_only_once(tmp_path):
    from benchmarks.sweeps.commandline import parse

    words = ["-m", "method=spectral,thinet", "trainer=tiny", "track=none", "measure=none", "dataset.limit=200"]
    words += ["controls=true", f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    assert run(parse(words)).code == 0
    records, _ = Store(tmp_path / "runs", tmp_path / "cells").load()
    kept = {record.method: [layer.kept for layer in record.layers] for record in records}
    assert set(kept) == {"spectral", "thinet", "random", "magnitude"}
    assert len({tuple(counts) for counts in kept.values()}) == 1
    before = {record.key: record.created for record in records}
    assert run(parse(words)).code == 0
    records, _ = Store(tmp_path / "runs", tmp_path / "cells").load()
    assert {record.key: record.created for record in records} == before
