import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sample_records import made

from benchmarks.records.fingerprint import comparable, fingerprint
from benchmarks.records.keys import cell_key
from benchmarks.records.manifest import RUNNING, Manifest, PlannedCell, read_manifests, write_manifest
from benchmarks.records.schema import Record, flat, short_traceback
from benchmarks.records.store import Store, Unreadable, read
from benchmarks.storage.lease import Lost, first_come
from benchmarks.storage.paths import safe_name, write_atomically
from benchmarks.submit import main as submit_main
from methods.errors import BadInput


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "cells")


def test_record_written_is_the_record_read(store):
    record = made(latency=[{"runtime": "eager", "batch": 1, "ratio": 1.93, "clock": "own figure"}])
    path = store.write(record)
    assert path == store.runs / "digits" / "mlp" / f"{record.key}.json"
    assert read(path) == record
    assert store.find(record.key) == record
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_file_is_sorted_small_and_strict(store):
    record = made(cost={"prune_seconds": 1 / 3, "tune_seconds": math.nan, "peak_memory_mb": math.inf})
    text = store.write(record).read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert text == json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert content["cost"]["prune_seconds"] == 0.3333333
    assert content["cost"]["tune_seconds"] is None and content["cost"]["peak_memory_mb"] is None


def test_arrays_and_scalars_become_plain(store):
    layer = {"name": "0", "units": np.int64(3), "kept": torch.tensor(2), "scores": torch.tensor([0.5, math.nan])}
    record = made(layers=[layer | {"mean": np.float32(0.1)}], metrics={"pruned": {"accuracy": torch.tensor(0.5)}})
    assert read(store.write(record)) == record
    assert record.layers[0].model_dump() == {"name": "0", "units": 3, "kept": 2, "scores": [0.5, None], "mean": 0.1}


def test_configuration_is_not_rounded_and_keeps_no_secret(store):
    config = {"trainer": {"lr": 0.12345678912345}, "track": {"api_key": "SECRET"}, "paths": {"results": "/home/me"}}
    record = made(config=config, key=cell_key(config))
    text = store.write(record).read_text()
    assert record.config == {"trainer": {"lr": 0.12345678912345}}
    assert cell_key(record.config) == record.key
    assert "SECRET" not in text and "/home/me" not in text


@pytest.mark.parametrize(
    "fields",
    [
        {"surprise": 1},
        {"metrics": {"pruned": {"acuracy": 1.0}}},
        {"status": "finished"},
        {"unit": "filter"},
        {"key": "../../etc/passwd"},
        {"budget": {"requested": {"keep": 0.5, "speedup": 2.0}}},
        {"budget": {"requested": {"flops": 2.0}}},
        {"status": "failed", "reason": None},
        {"version": 4},
        {"characters_per_token": 1.0},
        {"layers": [{"name": "0"}]},
    ],
)
def test_what_does_not_fit_is_refused(fields):
    with pytest.raises(ValidationError):
        made(**fields)


@settings(deadline=None, max_examples=60)
@given(numbers=st.lists(st.floats() | st.integers(-(10**12), 10**12), max_size=5), text=st.text(max_size=10))
def test_every_record_survives_its_own_text(numbers, text):
    record = made(layers=[{"name": text, "units": 1, "kept": 1, "extra": numbers}], sweep=text)
    again = Record.model_validate(json.loads(record.text()))
    assert again == record and again.text() == record.text()


@given(st.text())
def test_safe_name_is_one_component(text):
    name = safe_name(text)
    assert Path(name).name == name and not name.startswith(".") and 0 < len(name.encode()) <= 80
    assert safe_name(name) == name


def test_bad_files_are_named_and_set_aside_and_the_rest_is_read(store):
    good, folder = made(), store.runs / "digits" / "mlp"
    store.write(good)
    bad = {
        "truncated": made(seed=1).text()[:100],
        "binary": "\x00\x01",
        "foreign": '{"hello": "world"}',
        "list": "[]",
        "renamed": made(seed=2).text(),
        "wrong": made(seed=3).text().replace('"done"', '"excellent"'),
    }
    for name, text in bad.items():
        (folder / f"{name}.json").write_text(text)
    later = folder / f"{'a' * 16}.json"
    later.write_text(json.dumps({"key": "a" * 16, "version": 99}))
    records, problems = store.load()
    assert records == [good]
    assert {problem.path.name for problem in problems} == {f"{name}.json.corrupt" for name in bad} | {later.name}
    assert all((folder / f"{name}.json.corrupt").exists() for name in bad)
    assert later.exists(), "a later version's record is not ours to move"
    assert any("later version" in str(problem) for problem in problems)
    assert [problem.path for problem in store.load()[1]] == [later], "what is set aside is not named again"


def test_bad_committed_file_is_named_and_left_in_place(store):
    path = store.cells / "digits" / "mlp" / f"{'b' * 16}.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert [problem.path for problem in store.load()[1]] == [path]
    assert path.exists()


def test_corrupt_run_is_not_found_so_that_its_cell_runs_again(store):
    record = made()
    path = store.write(record)
    path.write_bytes(path.read_bytes()[:50])
    assert store.find(record.key) is None
    assert not path.exists()
    store.write(record)
    assert store.find(record.key) == record


def test_committed_cell_does_not_stop_a_run(store):
    record = made()
    store.write(record, store.cells)
    assert store.find(record.key) is None
    assert store.find(record.key, committed=True) == record


@pytest.mark.parametrize(
    ("cell", "run", "winner"),
    [
        (("done", "2026-01-01"), ("done", "2026-01-01"), "cells"),
        (("done", "2026-01-01"), ("done", "2026-01-02"), "runs"),
        (("done", "2026-01-02"), ("done", "2026-01-01"), "cells"),
        (("done", "2026-01-01"), ("failed", "2026-01-02"), "cells"),
        (("collapsed", "2026-01-01"), ("failed", "2026-01-02"), "cells"),
    ],
)
def test_of_two_records_of_a_cell_the_finished_then_newer_then_committed_one_counts(store, cell, run, winner):
    for root, (status, created) in ((store.cells, cell), (store.runs, run)):
        store.write(made(status=status, created=created, sweep=root.name), root)
    records, _ = store.load()
    assert [record.sweep for record in records] == [winner]


@pytest.mark.parametrize(("status", "finished"), [("done", 1), ("collapsed", 1), ("skipped", 1), ("failed", 0)])
def test_failed_cells_are_tried_again(status, finished):
    assert made(status=status).finished == bool(finished)


def test_folder_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(BadInput, match=r"Cannot write in .*\nExpected a writable folder"):
        Store(tmp_path / "runs", tmp_path / "cells").write(made())


def test_read_only_folder_is_bad_input(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")  # as root, a test cannot take its own permission away

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match=r"\(Permission denied\)"):
        Store(tmp_path / "runs", tmp_path / "cells").write(made())


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*file\.json was not saved"):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_traceback_names_no_folder_of_the_user():
    try:
        made(surprise=1)
    except ValidationError as error:
        text = short_traceback(error)
    assert "test_record_files.py" in text and "surprise" in text
    assert str(Path(__file__).parents[3]) not in text


def test_flat_row_has_every_metric_under_a_query_name():
    row = flat(made(latency=[{"runtime": "eager", "batch": 1, "ratio": 1.5}]))
    assert row["pruned_accuracy"] == 0.91 and row["dense_parameters"] == 1000 and row["tuned_accuracy"] is None
    assert (row["budget"], row["value"], row["compression"], row["latency_eager_b1"]) == ("keep", 0.2, 4.0, 1.5)
    assert all(name.isidentifier() for name in row)


def test_fingerprint_tells_the_machine_and_not_whose_it_is():
    mark = fingerprint(precision="32-true")
    assert mark["torch"] == torch.__version__.split("+")[0] or mark["torch"] == torch.__version__
    assert mark["threads"] == torch.get_num_threads() and mark["precision"] == "32-true"
    text = json.dumps(mark)
    assert str(Path.home()) not in text and os.uname().nodename not in text.split('"')


def test_latencies_compare_only_at_the_same_pace():
    mark = {"cpu": "A", "threads": 1, "torch": "2.13", "commit": "x"}
    assert comparable(mark, mark | {"commit": "y", "numpy": "2"})
    assert not comparable(mark, mark | {"threads": 2})
    assert not comparable(mark, mark | {"gpu": "H200"})


def test_manifest_is_read_back_and_a_broken_one_is_named(tmp_path):
    cell = PlannedCell(key="c" * 16, dataset="digits", model="mlp", method="dpp", budget={"keep": 0.2}, seed=0)
    sweep = Manifest(name="my sweep", command="python run.py -m method=dpp", cells=[cell])
    write_manifest(tmp_path, sweep)
    (tmp_path / ".sweeps" / "broken.json").write_text("{")
    manifests, problems = read_manifests(tmp_path)
    assert manifests == [sweep]
    assert [problem.path.name for problem in problems] == ["broken.json"]
    assert Store(tmp_path, tmp_path / "cells").load() == ([], []), "manifests are not taken for records"


def test_submit_moves_finished_sound_records_only(store, capsys):
    good, failed, edited = made(), made(seed=1, status="failed"), made(seed=2)
    edited.config["seed"] = 77
    config = good.config | {"model": {"weights": "/home/me/net"}}
    local = made(config=config, key=cell_key(config), seed=3)
    for record in (good, failed, edited, local):
        store.write(record)
    assert submit_main(["--results", str(store.runs.parent)]) == 1
    said = capsys.readouterr().out
    assert "moved 1 records" in said and str(store.path_of(failed)) not in said
    assert "another key" in said and "/home/me/net" in said
    assert not store.path_of(good).exists() and read(store.path_of(good, store.cells)) == good
    assert all(store.path_of(record).exists() for record in (failed, edited, local))


def test_submit_where_moves_only_what_was_asked_for(store):
    for seed in range(3):
        store.write(made(seed=seed))
    assert submit_main(["--results", str(store.runs.parent), "--where", "seed == 1"]) == 0
    assert [read(path).seed for path in store.cells.glob("*/*/*.json")] == [1]
    assert len(list(store.runs.glob("*/*/*.json"))) == 2


def test_submit_takes_refused_cells_where_asked_but_never_what_broke(store):
    refused = made(seed=1, status="failed", reason="budget.compression=900 cannot be reached")
    broken = made(seed=2, status="failed", reason="KeyError: 'x'", traceback="Traceback ...")
    for record in (made(), refused, broken):
        store.write(record)
    assert submit_main(["--results", str(store.runs.parent), "--refused"]) == 0
    assert sorted(read(path).seed for path in store.cells.glob("*/*/*.json")) == [0, 1]
    assert store.path_of(broken).exists()


def test_unreadable_says_what_is_wrong(tmp_path):
    path = tmp_path / f"{'d' * 16}.json"
    path.write_text(made().text())
    with pytest.raises(Unreadable, match="holds the key"):
        read(path)


def test_concurrent_writers_leave_one_whole_record(tmp_path):
    script = (
        "import sys; from pathlib import Path; from benchmarks.storage.paths import write_atomically\n"
        "for n in range(40): write_atomically(Path(sys.argv[1]) / 'same.json', sys.argv[2] * 5000)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), letter]) for letter in "abcd"]
    assert [process.wait() for process in processes] == [0] * 4
    text = (tmp_path / "same.json").read_text()
    assert len(text) == 5000 and len(set(text)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["same.json"]


def test_nothing_is_submitted_while_a_sweep_runs_which_would_compute_it_again(store, tmp_path):
    store.write(made(0))
    with first_come(store.runs / RUNNING, lambda: False, "digits/mlp spectral", name="0" * 16) as mine:
        assert mine
        with pytest.raises(BadInput, match=r"a sweep is running here \(digits/mlp spectral.*when it has ended"):
            submit_main(["--results", str(tmp_path)])
    assert store.find(made(0).key) is not None
    assert submit_main(["--results", str(tmp_path)]) == 0
    assert store.find(made(0).key) is None


def unsigned(record, **changes):
    """The text of ``record`` as a file of version 1 without a checksum, with ``changes`` made by hand."""
    content = json.loads(record.model_copy(update={"version": 1}).text()) | changes
    del content["checksum"]
    return json.dumps(content)


def place(store, text, key, root=None):
    path = (root or store.runs) / "digits" / "mlp" / f"{key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_record_of_today_needs_its_checksum_and_one_of_version_1_without_is_called_unsigned(store):
    record = made()
    assert record.version == 2 and "checksum" in json.loads(record.text())
    path = place(store, unsigned(record), record.key)
    assert read(path).unsigned and flat(read(path))["unsigned"]
    content = json.loads(record.text())
    del content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(Unreadable, match="no checksum"):
        read(path)
    store.write(record)
    assert not read(path).unsigned and "unsigned" not in json.loads(path.read_text())


def test_an_unsigned_record_never_counts_before_a_signed_one(store):
    record = made(created="2026-01-01T00:00:00+00:00")
    store.write(record, store.cells)
    place(store, unsigned(record, created="2026-06-01T00:00:00+00:00"), record.key)
    assert store.load()[0] == [record]


@pytest.mark.parametrize(
    "fields",
    [
        {"metrics": {"tuned": {"accuracy": 7.5}}},
        {"metrics": {"tuned": {"accuracy": -0.1}}},
        {"metrics": {"tuned": {"top5": 1.01}}},
        {"metrics": {"dense": {"parameters": -5}}},
        {"metrics": {"dense": {"parameters": 10**30}}},
        {"metrics": {"dense": {"parameters": True}}},
        {"metrics": {"dense": {"accuracy": "0.9"}}},
        {"metrics": {"dense": {"macs": -1}}},
        {"layers": [{"name": "0", "units": 3, "kept": 4}]},
        {"layers": [{"name": "0", "units": 3, "kept": -1}]},
        {"cost": {"prune_seconds": -1.0}},
        {"budget": {"achieved": {"keep": 1.5}}},
        {"created": "yesterday"},
        {"fingerprint": {"torch": 2}},
        {"config": {"dataset": []}},
        {"config": {"trainer": {"train": 5}}},
        {"history": {"train": [{"loss": "low"}]}},
        {"version": 1, "left_alone": [{"layer": "a", "reason": "b"}]},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        made(**fields)


def test_a_record_from_the_future_is_left_out_and_stays_since_the_clock_here_may_be_wrong(store):
    path = store.write(made(created="2999-01-01T00:00:00+00:00"))
    records, [problem] = store.load()
    assert records == [] and "made in the future (2999" in str(problem) and path.exists()


def test_new_fields_are_null_in_records_that_have_none_and_absent_from_those_of_version_1():
    new = json.loads(made(left_alone=[{"layer": "fc", "reason": "residual stream"}], warnings=["grew"]).text())
    assert new["left_alone"] == [{"layer": "fc", "reason": "residual stream"}] and new["tuning"] is None
    assert not {"left_alone", "warnings", "tuning"} & json.loads(made(version=1).text()).keys()


HOSTILE = {
    "deep": lambda text: text.replace('"curve": null', '"curve": ' + "[" * 5000 + "]" * 5000),
    "deep and not ended": lambda text: "[" * 100_000,
    "a number of 5,000 digits": lambda text: text.replace('"seed": 0', '"seed": ' + "9" * 5000),
    "a large number": lambda text: text.replace('"seed": 0', '"seed": 1e400'),
    "NaN": lambda text: text.replace("0.98", "NaN"),
    "a list": lambda text: "[]",
    "a list for a mapping": lambda text: text.replace('"fingerprint": {}', '"fingerprint": []'),
    "a text for a mapping": lambda text: text.replace('"fingerprint": {}', '"fingerprint": "x"'),
    "twice": lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 1'),
    "half a character": lambda text: text.replace("digits", "\\ud800"),
    "not UTF-8": lambda text: b"\xff\xfe" + text.encode(),
    "no text": lambda text: b"\x00" * 100,
    "nothing": lambda text: "",
    "a truth for a version": lambda text: text.replace('"version": 2', '"version": true'),
    "a flag of ours": lambda text: text.replace('"version": 2', '"version": 2, "unsigned": false'),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_whatever_is_in_a_file_reading_goes_on(store, hostile):
    good, bad = made(), made(seed=0, settings={"x": 1})
    store.write(good)
    text = hostile(bad.text())
    assert text != bad.text()
    for root in (store.runs, store.cells):
        path = place(store, text, bad.key, root)
    records, problems = store.load()
    assert records == [good]
    assert [problem.path for problem in problems] == [path, store.path_of(bad).with_suffix(".json.corrupt")]
    assert all(len(problem.reason.splitlines()) == 1 and len(problem.reason) < 300 for problem in problems)
    assert store.find(bad.key) is None and store.find_all([bad.key]) == {}


def test_pipes_folders_and_links_are_left_out_by_name_and_never_waited_for(store, tmp_path):
    good = made()
    folder = store.write(good, store.cells).parent
    os.mkfifo(folder / f"{'a' * 16}.json")
    (folder / f"{'b' * 16}.json").mkdir()
    (folder / f"{'c' * 16}.json").symlink_to("nowhere")
    (folder / f"{'d' * 16}.json").symlink_to(f"{'d' * 16}.json")
    (folder / f"{'e' * 16}.json").symlink_to("/dev/zero")
    with (folder / f"{'f' * 16}.json").open("wb") as file:
        file.truncate(10**9)
    records, problems = store.load()
    assert records == [good]
    parts = ("named pipe", "a folder", "nowhere", "cannot be read", "device", "larger")
    for problem, part in zip(problems, parts, strict=True):
        assert part in problem.reason


def test_two_files_of_one_cell_are_named_and_the_better_one_counts(store):
    record = made()
    path = store.write(record)
    other = store.runs / "elsewhere" / "net" / path.name
    other.parent.mkdir(parents=True)
    other.write_text(made(created="2025-01-01T00:00:00+00:00").text())
    records, [problem] = store.load()
    assert records == [record] and problem.path == other and f"the same cell as {path}" in problem.reason


# ------------------------------------------------------------------------------------------ nobody writes over a result


def test_a_finished_record_is_never_changed_by_a_write_of_a_result(store):
    first = made(metrics={"tuned": {"accuracy": 0.5}})
    path = store.write_result(first)
    before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    for record in (made(metrics={"tuned": {"accuracy": 0.9}}), made(status="failed"), first):
        with pytest.raises(Lost):
            store.write_result(record)
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failed_or_broken_attempt_makes_room(store):
    path = store.write_result(made(status="failed"))
    store.write_result(made(status="failed", reason="again"))
    assert read(path).reason == "again"
    path.write_text("broken")
    store.write_result(made())
    assert read(path) == made()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_failure_is_removed_by_who_holds_the_cell_and_a_result_never(store):
    path = store.write_result(made(status="failed"))
    with pytest.raises(Lost):
        store.remove_failure(made().key, lambda: False)
    assert path.exists()
    store.remove_failure(made().key, lambda: True)
    assert list(path.parent.iterdir()) == []
    store.remove_failure(made().key)  # there is nothing, and nothing is wrong with that
    for status in ("done", "collapsed", "skipped"):
        path = store.write(made(status=status))
        with pytest.raises(Lost):
            store.remove_failure(made().key, lambda: True)
        assert path.exists()


def test_a_finished_record_is_replaced_in_one_step_by_who_names_it(store, monkeypatch):
    old, new = made(metrics={"tuned": {"accuracy": 0.5}}), made(metrics={"tuned": {"accuracy": 0.9}})
    path = store.write(old)
    with pytest.raises(Lost):
        store.write_result(new, None, new.stamp)  # another one than is there
    with pytest.raises(Lost):
        store.write_result(new, lambda: False, old.stamp)
    assert read(path) == old
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.records.store.Store.take_away", None)  # which leaves a moment without any record
        store.write_result(new, None, old.stamp)
    assert read(path) == new and read(path).stamp == new.stamp != old.stamp
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_who_holds_no_more_writes_nothing(store):
    with pytest.raises(Lost):
        store.write_result(made(), lambda: False)
    assert not store.path_of(made()).exists()


def test_a_result_that_comes_between_the_question_and_the_write_stays(store):
    theirs = made(metrics={"tuned": {"accuracy": 0.5}})
    store.write_result(made(status="failed"))

    def held():  # and just then the other one writes
        store.write(theirs)
        return True

    with pytest.raises(Lost):
        store.write_result(made(), held)
    assert store.load() == ([theirs], [])


# ------------------------------------------------------------------------------------------------------------ submit


def reviewed_and_mine(store, **changes):
    reviewed = made(metrics={"dense": {"accuracy": 0.98, "parameters": 1000}, "tuned": {"accuracy": 0.90}})
    path = store.write(reviewed, store.cells)
    mine = made(**{"metrics": {"dense": {"accuracy": 0.98, "parameters": 1000}, "tuned": {"accuracy": 0.90}}} | changes)
    store.write(mine)
    return path, path.read_bytes(), mine


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": {"dense": {"accuracy": 0.98, "parameters": 1000}, "tuned": {"accuracy": 0.99}}}, "accuracy 0.99"),
        ({"metrics": {"dense": {"accuracy": 0.98, "parameters": 900}, "tuned": {"accuracy": 0.9}}}, "parameters 900"),
        ({"metrics": {"dense": {"accuracy": 0.98, "parameters": 1000}}}, "tuned accuracy None"),
        ({"status": "collapsed"}, "collapsed, there done"),
    ],
)
def test_submit_never_replaces_a_reviewed_record_by_one_that_does_not_repeat_it(store, capsys, changes, said):
    path, before, mine = reviewed_and_mine(store, **changes)
    assert submit_main(["--results", str(store.runs.parent)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "does not repeat the reviewed record" in out and said in out and "moved 0 records" in out
    assert path.read_bytes() == before and store.path_of(mine).exists()


def test_submit_takes_a_repetition(store):
    close = {"dense": {"accuracy": 0.98, "parameters": 1000}, "tuned": {"accuracy": 0.905}}
    path, _, mine = reviewed_and_mine(store, metrics=close, created="2026-05-01T00:00:00+00:00")
    assert submit_main(["--results", str(store.runs.parent)]) == 0
    assert read(path) == mine and not store.path_of(mine).exists()


def test_submit_refuses_an_unsigned_record_and_one_that_is_not_what_it_says(store, capsys):
    first, second = made(), made(seed=1, dataset="mnist")
    place(store, unsigned(first, metrics={"tuned": {"accuracy": 1.0}}), first.key)
    store.write(second)
    assert submit_main(["--results", str(store.runs.parent)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "unsigned: it has no checksum" in out and "it says dataset mnist, but its configuration says digits" in out
    assert not list(store.cells.rglob("*.json"))


def test_a_language_model_has_perplexity_and_bits_per_character():
    texts = {"sequences": 9, "tokens": 72, "seed": 0, "origin": "folder plays", "digest": "ab", "begins": "To be"}
    texts |= {"tokenizer": "characters"}
    settings = {"dataset": {"name": "plays", "task": "language_model"}}
    metrics = {"dense": {"loss": 2.0}, "tuned": {"loss": 3.0}}
    record = made(version=3, calibration=texts, characters_per_token=4.0, settings=settings, metrics=metrics)
    assert Record.model_validate({k: v for k, v in json.loads(record.text()).items() if k != "checksum"}) == record
    row = flat(record)
    assert row["tuned_perplexity"] == pytest.approx(math.exp(3))
    assert row["tuned_bits_per_character"] == pytest.approx(3 / math.log(2) / 4)
    assert row["pruned_perplexity"] is None and flat(made())["tuned_perplexity"] is None
    assert "calibration" not in json.loads(made().text())  # records of other data are as they were
