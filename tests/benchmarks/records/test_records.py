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
from benchmarks.records.record import Record, flat, short_traceback
from benchmarks.records.store import Store, Unreadable, read
from benchmarks.storage.lease import first_come
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
        {"version": 3},
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
    assert "test_records.py" in text and "surprise" in text
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
