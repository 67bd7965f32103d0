"""Copied counts and the controls of a sweep: what they are, and that their identity is that of the counts."""

import pytest
from sample_records import made

from benchmarks.boards.board import boards
from benchmarks.boards.frame import rows_of
from benchmarks.boards.labels import control_of, label
from benchmarks.cells.parts import build_pruner
from benchmarks.records.keys import cell_key, variant_key
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps.application import run
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.copying import control_words, resolved
from methods.allocation import Copied, Everything, Rounded
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
    controls = {config["method"]["name"]: config for config in (composer().cell(each) for each in words)}
    assert list(controls) == ["random", "magnitude", "scratch", "unpruned_longer"]
    for name, config in controls.items():
        assert config["seed"] == 4 and config["trainer"] == composer().cell(typed)["trainer"]
        assert control_of(config) == ("dense" if name == "unpruned_longer" else label(record))
        build_pruner(config)
    for config in (controls["random"], controls["magnitude"]):
        assert config["allocation"]["gradual"] is True
        assert config["schedule"] == record.config["schedule"]
        assert config["compensation"] == record.config["compensation"]
    scratch = controls["scratch"]
    assert scratch["allocation"]["widths"] == {"fc1": 40, "fc2": 9} and scratch["allocation"]["gradual"] is None
    assert (scratch["schedule"]["rewind"], scratch["schedule"]["steps"]) == ("new", 1)
    assert build_pruner(scratch).schedule.recipe == "train"
    assert controls["unpruned_longer"]["schedule"] == record.config["schedule"], "as many further epochs"
    assert type(build_pruner(controls["unpruned_longer"]).allocation) is Everything


def test_a_control_has_the_repair_that_its_donor_has_and_what_that_takes_from_the_selection(tmp_path):
    record = donor(["method=wood_taylor"], tmp_path, unit="edge")
    for words in control_words([(["method=wood_taylor", f"paths.results={tmp_path}"], record)])[:2]:
        repair = composer().cell(words)["compensation"]
        assert repair["update"] == "sum"
        assert {name: repair[name] for name in ("damping", "first_order", "block")} == {
            "damping": 0.1,
            "first_order": True,
            "block": 12288,
        }
    node = donor(["method=kron_obs"], tmp_path)
    for words in control_words([(["method=kron_obs", f"paths.results={tmp_path}"], node)])[:2]:
        assert composer().cell(words)["compensation"] == node.config["compensation"]


def test_masks_from_another_initialisation_are_those_of_the_donor(tmp_path):
    typed = ["method=obd", "selection.labels=true", f"paths.results={tmp_path}"]
    record = donor(typed, tmp_path, unit="edge")
    *_, scratch, _ = control_words([(typed, record)])
    config = composer().cell(scratch)
    assert config["method"] == {"name": "scratch", "control_of": "obd (labels True)"}
    for part in ("selection", "allocation", "budget"):
        assert config[part] == record.config[part]
    assert config["compensation"]["_target_"] == "methods.compensation.Compensation"
    shown = Record.model_validate(record.model_dump() | {"config": config, "method": "scratch"})
    assert label(shown) == "scratch (masks of obd (labels True))"
    steps = donor([*typed, "schedule=iterative"], tmp_path, unit="edge")
    names = [
        composer().cell(each)["method"]["name"] for each in control_words([([*typed, "schedule=iterative"], steps)])
    ]
    assert names == ["random_edge", "magnitude_edge", "unpruned_longer"], "its masks come out of training in between"
    rewound = donor(["method=one_shot", f"paths.results={tmp_path}"], tmp_path, unit="edge")
    names = [each[0] for each in control_words([(["method=one_shot", f"paths.results={tmp_path}"], rewound)])]
    assert len(names) == 3, "its full recipe is no further training"


def test_controls_have_no_controls_and_masks_get_those_of_their_kind(tmp_path):
    record = donor(["method=obd"], tmp_path, unit="edge")
    words = control_words([(["method=obd"], record)])
    assert [each[0] for each in words[:2]] == ["method=random_edge", "method=magnitude_edge"]
    control = Record.model_validate(
        record.model_dump() | {"config": copied(tmp_path, record.key), "method": "random_edge"}
    )
    assert control_words([(["method=random_edge"], control)]) == []
    assert control_words([(["method=obd"], record.model_copy(update={"status": "collapsed"}))]) == []


def test_a_sweep_with_controls_runs_them_after_their_donors_and_only_once(tmp_path):
    from benchmarks.sweeps.run_command import parse

    words = ["-m", "method=spectral,thinet", "trainer=tiny", "track=none", "measure=none", "dataset.limit=200"]
    words += ["controls=true", f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    assert run(parse(words)).code == 0
    records, _ = Store(tmp_path / "runs", tmp_path / "cells").load()
    kept = {record.method: [layer.kept for layer in record.layers] for record in records}
    assert set(kept) == {"spectral", "thinet", "random", "magnitude", "scratch", "unpruned_longer"}
    assert len(records) == len(kept), "spectral and thinet have the same counts, and so the same controls"
    whole = kept.pop("unpruned_longer")
    assert len({tuple(counts) for counts in kept.values()}) == 1
    assert all(one > few for one, few in zip(whole, kept["spectral"], strict=True))
    [longer] = [record for record in records if record.method == "unpruned_longer"]
    assert longer.metrics.tuned.parameters == longer.metrics.dense.parameters
    assert len(longer.history["finetune"]) > 0
    [found] = boards(rows_of(records))
    [row] = [row for row in found.rows if row.method == "unpruned_longer"]
    assert row.control and row.status == "done" and row.standing is None
    assert {"scratch (layers of spectral)", "scratch (layers of thinet)"} & {row.full for row in found.rows}
    before = {record.key: record.created for record in records}
    assert run(parse(words)).code == 0
    records, _ = Store(tmp_path / "runs", tmp_path / "cells").load()
    assert {record.key: record.created for record in records} == before
