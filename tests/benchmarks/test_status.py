import json
import os
import socket
import threading
import time

import pytest
from sample_records import made

from benchmarks.boards.labels import label
from benchmarks.records import code, confirmed
from benchmarks.records.kept import Kept, Known
from benchmarks.records.manifest import RUNNING, Manifest, PlannedCell, write_manifest
from benchmarks.records.store import Store
from benchmarks.status import counts, main, reasons
from benchmarks.storage.lease import first_come
from benchmarks.sweeps.remaining import duration, seconds_left
from methods.errors import BadInput


def planned(name, records):
    cells = [PlannedCell(key=r.key, dataset=r.dataset, model=r.model, method=r.method, seed=r.seed) for r in records]
    return Manifest(name=name, command=f"python run.py -m +experiment={name}", cells=cells)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "cells")


def known(records):
    return [Known.of(record, label) for record in records]


def test_every_cell_of_a_sweep_is_in_exactly_one_state():
    cells = [made(0), made(1, "failed"), made(2, "collapsed"), made(3, "skipped"), made(4), made(5)]
    table = counts(known(cells[:4]), [planned("one", cells[:5]), planned("two", cells[3:])])
    states = {"done": 1, "failed": 1, "collapsed": 1, "skipped": 1, "missing": 2}
    assert table == {("digits", "mlp", "spectral"): states}


def test_equal_reasons_are_one_line_with_their_seeds():
    records = [made(seed, "failed", reason="layer 3 broke\ndetails") for seed in (2, 0)] + [made(5)]
    assert reasons(known(records)) == [["failed", "digits · mlp", "spectral", "0,2", "2", "layer 3 broke"]]


def test_command_shows_states_reasons_and_how_to_go_on(store, tmp_path, capsys):
    records = [made(0), made(1, "failed", reason="it broke [red]"), made(2)]
    store.write(records[0], store.cells)
    store.write(records[1])
    write_manifest(store.runs, planned("grid", records))
    assert main(["--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "spectral" in line)
    assert row.split() == ["digits", "mlp", "spectral", "1", "1", "·", "·", "1"]
    assert "it broke [red]" in said
    assert "1 missing of grid; go on with: python run.py -m +experiment=grid" in said


def test_command_shows_one_sweep(store, tmp_path, capsys):
    store.write(made(0))
    store.write(made(1, dataset="mnist"))
    write_manifest(store.runs, planned("grid", [made(0)]))
    assert main(["grid", "--results", str(tmp_path)]) == 0
    assert "mnist" not in capsys.readouterr().out
    with pytest.raises(BadInput, match="No sweep named 'girl'.*there are: grid"):
        main(["girl", "--results", str(tmp_path)])


def test_nothing_yet_says_how_to_begin(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 0
    assert "python run.py -m" in capsys.readouterr().out


def test_corrupt_files_are_named(store, tmp_path, capsys):
    path = store.write(made())
    path.with_name(f"{'f' * 16}.json").write_text("nonsense")
    write_manifest(store.runs, planned("grid", [made()])).write_text("nonsense")
    assert main(["--results", str(tmp_path)]) == 0
    said = "".join(capsys.readouterr().out.split())  # long paths wrap lines anywhere
    assert "notJSON" in said and "notasweep'smanifest" in said


def costing(seed, prune, tune=0.0, dense=None, **fields):
    return made(seed, cost={"prune_seconds": prune, "tune_seconds": tune, "dense_seconds": dense}, **fields)


def test_a_running_cell_is_shown_with_its_host_and_one_of_the_dead_is_missing(store, tmp_path, capsys):
    cells = [made(0), made(1), made(2), made(3, "failed")]
    store.write(cells[0])
    store.write(cells[3])
    write_manifest(store.runs, planned("grid", cells))
    folder = store.runs / RUNNING
    with (
        first_come(folder, lambda: False, "digits/mlp/spectral/1", name=cells[1].key),
        first_come(folder, lambda: False, "digits/mlp/spectral/3", name=cells[3].key),
    ):
        (folder / f"{cells[2].key}.0").write_text(json.dumps({"host": "elsewhere", "pid": 1, "time": 0.0}))
        os.utime(folder / f"{cells[2].key}.0", (1000, 1000))
        assert main(["--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "spectral" in line and "/" not in line)
    assert row.split() == ["digits", "mlp", "spectral", "1", "2", "·", "·", "·", "1"]
    shown = [line.split() for line in lines if "digits/mlp" in line]
    assert [line[:3] for line in shown] == [
        [f"digits/mlp/spectral/{i}", socket.gethostname(), str(os.getpid())] for i in (1, 3)
    ]
    assert main(["--results", str(tmp_path)]) == 0
    assert "Running" not in capsys.readouterr().out  # both have ended since


def test_time_left_is_that_of_the_most_similar_cells():
    records = [
        costing(0, 1.0, 2.0, dense=10.0),
        costing(1, 5.0, 0.0, dense=30.0),
        costing(0, 100.0, method="dpp"),
        costing(0, 1000.0, dataset="mnist", dense=500.0),
    ]
    missing = [
        made(0),
        made(7),
        made(7, method="dpp"),
        made(7, dataset="mnist", method="new"),
        made(7, dataset="other"),
    ]
    like = planned("g", missing).cells
    expected = [4.0, 4.0 + 20.0, 100.0, 1000.0 + 500.0]
    assert [seconds_left(records, [cell]) for cell in like[:2]] == expected[:2]
    assert seconds_left(records, like[:4]) == sum(expected)  # the dense network of seed 7 is counted once
    assert seconds_left(records, like[:4], workers=4) == sum(expected) / 4
    assert seconds_left(records, like[4:]) == 52.5 + 30.0  # medians over everything
    assert seconds_left([], like) is None


@pytest.mark.parametrize("seconds,words", [(42, "42 s"), (400, "7 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")])
def test_durations_read_well(seconds, words):
    assert duration(seconds) == words


def test_failed_cells_are_listed_with_the_place_in_the_code(store, tmp_path, capsys):
    store.write(
        made(0, "failed", reason="KeyError: x", traceback='Traceback\n  File "methods/a.py", line 3, in f\n    x\n')
    )
    store.write(made(1))
    assert main(["--results", str(tmp_path), "--failed"]) == 0
    said = capsys.readouterr().out
    assert "KeyError: x" in said and 'File "methods/a.py", line 3, in f' in said and "1 failed" in said


def test_reviewed_refusals_are_results_and_not_tried_again(store, tmp_path, capsys):
    store.write(made(0, "failed", reason="cannot be reached"), store.cells)
    assert main(["--results", str(tmp_path), "--failed", "--retry"]) == 0
    said = capsys.readouterr().out
    assert "0 failed" in said and "1 reviewed cells" in said and "not failed any more" not in said
    store.write(made(0, "failed", reason="KeyError: x"))
    assert main(["--results", str(tmp_path), "--failed"]) == 0
    assert "1 failed" in capsys.readouterr().out


def test_watch_ends_when_everything_is_there(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.status.WATCH_SECONDS", 0.05)
    cells = [made(0), made(1)]
    write_manifest(store.runs, planned("grid", cells))
    store.write(cells[0])
    later = threading.Timer(0.5, lambda: store.write(cells[1]))
    later.start()
    started = time.monotonic()
    assert main(["grid", "--results", str(tmp_path), "--watch"]) == 0
    later.join()
    assert time.monotonic() - started >= 0.4
    assert "missing of grid" not in capsys.readouterr().out.rpartition("Cells")[2]


@pytest.mark.slow
def test_retrying_runs_the_failed_cells_and_no_others(tmp_path, capsys, monkeypatch):
    """A real sweep whose method had a fault at first."""
    from benchmarks.sweeps.run_command import main as run

    monkeypatch.setenv("SECATEURS_DATA", "")
    tiny = ["trainer=tiny", "dataset.limit=200", "measure=none", "track=none", "calibration.samples=64"]
    folders = [f"paths.results={tmp_path}", f"paths.cache={tmp_path}/cache"]
    with monkeypatch.context() as patch:
        patch.setattr("methods.baselines.random.RandomSelection.scores", None)
        assert run(["-m", "method=random", "seed=0,1", *tiny, *folders]) == 1
    store = Store(tmp_path / "runs", tmp_path / "cells")
    one = store.load()[0][0]
    store.write(one.model_copy(update={"status": "skipped"}))
    capsys.readouterr()
    assert main(["--results", str(tmp_path), "--failed", "--retry"]) == 0
    assert "1 of 1 are not failed any more" in capsys.readouterr().out
    states = sorted(json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/digits/*/*.json"))
    assert states == ["done", "skipped"]


# ---------------------------------------------------------------------------------------------------- kept, forgotten


def test_what_has_not_changed_is_not_read_again(store, monkeypatch):
    for seed in range(5):
        store.write(made(seed))
    opened = []
    real = Store.open
    monkeypatch.setattr(Store, "open", lambda self, path: opened.append(path) or real(self, path))
    kept = Kept(store, label)
    first = kept.look()
    assert len(opened) == 5 and [one.key for one in first[0]] == [record.key for record in store.load()[0]]
    opened.clear()
    assert kept.look() == first and opened == []
    kept.save()
    assert Kept(store, label).look() == first and opened == []  # another process
    changed = store.write(made(2, "failed"))
    store.path_of(made(3)).unlink()
    again = kept.look()[0]
    assert opened == [changed] and len(again) == 4
    assert [one.status for one in again if one.seed == 2] == ["failed"]


@pytest.mark.parametrize("text", ["", "[]", '{"digest": 1}', '{"rows": 5}', "[" * 9000])
def test_what_is_kept_may_be_garbage(text, store):
    store.write(made())
    kept = Kept(store, label)
    found = kept.look()
    kept.save()
    path = store.runs / ".status.json"
    digest = json.loads(path.read_text())["digest"]
    for content in (text, json.dumps({"digest": digest, "rows": [["a", 1]]})):
        path.write_text(content)
        assert Kept(store, label).look() == found


def test_presets_that_change_make_what_is_kept_stale(store, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.records.kept.CONF", tmp_path / "conf")
    store.write(made())
    kept = Kept(store, label)
    kept.look()
    kept.save()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "new.yaml").write_text("a: 1")
    again = Kept(store, label)
    again.look()
    assert again.read == 1


def test_failed_records_are_forgotten_after_a_question_and_nothing_else(store, tmp_path, capsys, monkeypatch):
    done, failed = store.write(made(0)), store.write(made(1, "failed"))
    collapsed, reviewed = store.write(made(2, "collapsed")), store.write(made(3, "failed"), store.cells)
    command = ["--results", str(tmp_path), "--forget", "failed"]
    with pytest.raises(BadInput, match="add --yes"):
        main(command)  # a test has no terminal to be asked on
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("rich.console.Console.input", lambda *_, **__: "n")
    assert main(command) == 0 and failed.exists()
    assert main([*command, "--yes"]) == 0
    assert "removed 1 of 1" in capsys.readouterr().out
    assert done.exists() and collapsed.exists() and reviewed.exists() and not failed.exists()
    with pytest.raises(BadInput, match="--forget failed --yes"):
        main(["--results", str(tmp_path), "--yes"])


def test_a_failed_cell_that_is_being_tried_again_is_not_forgotten(store, tmp_path):
    failed = store.write(made(1, "failed"))
    with first_come(store.runs / RUNNING, lambda: False, "again", name=made(1).key):
        assert main(["--results", str(tmp_path), "--forget", "failed", "--yes"]) == 0
    assert failed.exists()


# -------------------------------------------------------------------------------------------------------------- stale


def of_code(seed, digest, **fields):
    part = {"selection": {"_target_": "methods.baselines.random.RandomSelection"}}
    mark = {} if digest is None else {"code": digest}
    return made(seed, settings=part, fingerprint=mark, **fields)


def test_cells_of_older_code_are_listed_and_older_records_are_unknown(store, tmp_path, capsys):
    now = code.digest(code.targets_of(of_code(0, None).config))
    for seed, digest in enumerate((now, "0" * 16, None)):
        store.write(of_code(seed, digest))
    store.write(of_code(3, "0" * 16), store.cells)
    store.write(of_code(4, "0" * 16, status="failed"))  # it is tried again anyway
    assert main(["--results", str(tmp_path), "--stale"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 stale; 1 unknown" in said and "1 of them are reviewed and stay" in said and "+from_record=" in said
    assert of_code(1, None).key in said and of_code(3, None).key in said and of_code(0, None).key not in said


def test_a_stale_cell_that_no_sweep_asks_for_keeps_its_record(store, tmp_path, capsys):
    path = store.write(of_code(1, "0" * 16))
    before = path.read_bytes()
    assert main(["--results", str(tmp_path), "--retry", "stale"]) == 1
    assert "1 stale cells belong to no sweep" in capsys.readouterr().out
    assert path.read_bytes() == before


@pytest.mark.slow
def test_retrying_stale_runs_these_cells_again_and_no_others(tmp_path, capsys, monkeypatch):
    from benchmarks.sweeps.run_command import main as run

    tiny = ["trainer=tiny", "dataset.limit=200", "measure=none", "track=none", "calibration.samples=64"]
    folders = [f"paths.results={tmp_path}", f"paths.cache={tmp_path}/cache"]
    assert run(["-m", "method=random", "seed=0,1", *tiny, *folders]) == 0
    store = Store(tmp_path / "runs", tmp_path / "cells")
    first, second = store.load()[0]
    assert first.fingerprint["code"] == code.digest(code.targets_of(first.config))
    old = {"created": "2026-01-01T00:00:00+00:00"}
    store.write(first.model_copy(update={**old, "fingerprint": first.fingerprint | {"code": "0" * 16}}))
    store.write(second.model_copy(update=old))
    capsys.readouterr()
    assert main(["--results", str(tmp_path), "--retry", "stale"]) == 0
    assert "1 of 1 are not stale any more" in capsys.readouterr().out
    after = {record.key: record for record in store.load()[0]}
    assert after[first.key].fingerprint == first.fingerprint and after[first.key].metrics == first.metrics
    assert after[first.key].created != old["created"] and after[second.key].created == old["created"]
    assert main(["--results", str(tmp_path), "--stale"]) == 0 and "0 stale; 0 unknown" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [KeyError("broken"), BadInput("broken"), KeyboardInterrupt()], ids=["fault", "refusal", "interrupt"]
)
def test_a_stale_record_stays_where_its_cell_ends_without_another_result(tmp_path, capsys, monkeypatch, fault):
    from benchmarks.sweeps.run_command import main as run

    tiny = ["trainer=tiny", "dataset.limit=200", "measure=none", "track=none", "calibration.samples=64"]
    folders = [f"paths.results={tmp_path}", f"paths.cache={tmp_path}/cache"]
    assert run(["-m", "method=random", "seed=0", *tiny, *folders]) == 0
    store = Store(tmp_path / "runs", tmp_path / "cells")
    [record] = store.load()[0]
    path = store.write(record.model_copy(update={"fingerprint": record.fingerprint | {"code": "0" * 16}}))
    before = path.read_bytes()
    capsys.readouterr()

    def scores(*_):
        assert path.read_bytes() == before
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("methods.baselines.random.RandomSelection.scores", scores)
        if isinstance(fault, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                main(["--results", str(tmp_path), "--retry", "stale"])
        else:
            assert main(["--results", str(tmp_path), "--retry", "stale"]) == 1
            said = capsys.readouterr().out
            assert "0 of 1 are not stale any more" in said and said.count(str(fault)) == 1
    assert path.read_bytes() == before
    assert main(["--results", str(tmp_path), "--retry", "stale"]) == 0
    assert path.read_bytes() != before and store.load()[0][0].metrics == record.metrics


# ------------------------------------------------------------------------------------------------------------- confirm


@pytest.fixture
def older(tmp_path, monkeypatch):
    """Two finished cells of one method, recorded as made by other code."""
    from benchmarks.sweeps.run_command import main as run

    monkeypatch.setattr(confirmed, "FILE", tmp_path / "confirmed.json")
    tiny = ["trainer=tiny", "dataset.limit=200", "measure=none", "track=none", "calibration.samples=64"]
    assert run(["-m", "method=random", "seed=0,1", *tiny, f"paths.results={tmp_path}", f"paths.cache={tmp_path}"]) == 0
    store = Store(tmp_path / "runs", tmp_path / "cells")
    for record in store.load()[0]:
        store.write(record.model_copy(update={"fingerprint": record.fingerprint | {"code": "0" * 16}}))
    confirmed.forget()
    yield store
    confirmed.forget()


@pytest.mark.slow
def test_a_change_of_code_that_repeats_the_figures_makes_no_cell_stale(older, tmp_path, capsys):
    before = {path: path.read_bytes() for _, path in older.files()}
    assert main(["--results", str(tmp_path), "--stale"]) == 0 and "2 stale" in capsys.readouterr().out
    assert main(["--results", str(tmp_path), "--confirm", "1"]) == 0
    assert "1 changes of code changed nothing in 1 cells" in capsys.readouterr().out
    assert main(["--results", str(tmp_path), "--stale"]) == 0 and "0 stale" in capsys.readouterr().out
    assert {path: path.read_bytes() for _, path in older.files()} == before
    [entry] = json.loads(confirmed.FILE.read_text())
    assert entry["was"] == "0" * 16 and len(entry["cells"]) == 1
    # only from that code to this one
    parts = code.targets_of(older.load()[0][0].config)
    assert code.changed("0" * 16, parts) is False and code.changed("1" * 16, parts) is True


@pytest.mark.slow
def test_a_change_of_code_that_changes_a_figure_is_not_noted(older, tmp_path, capsys):
    for record in older.load()[0]:
        stages = record.metrics.model_copy(
            update={"tuned": record.metrics.tuned.model_copy(update={"accuracy": record.metrics.tuned.accuracy - 0.01})}
        )
        older.write(record.model_copy(update={"metrics": stages}))
    assert main(["--results", str(tmp_path), "--confirm", "1"]) == 1
    said = capsys.readouterr().out
    assert "tuned accuracy" in said and "1 changed figures" in said and not confirmed.FILE.exists()
    assert main(["--results", str(tmp_path), "--stale"]) == 0 and "2 stale" in capsys.readouterr().out


def test_cells_to_confirm_are_the_short_ones_of_different_networks(store):
    def stale(seed, seconds, dataset):
        record = of_code(seed, "0" * 16, dataset=dataset, cost={"prune_seconds": seconds, "tune_seconds": 0.0})
        return confirmed.Pair("0" * 16, "1" * 16), known([record])[0]

    cells = [stale(0, 5.0, "digits"), stale(1, 1.0, "digits"), stale(2, 2.0, "digits"), stale(3, 9.0, "mnist")]
    [(pair, chosen)] = confirmed.samples(cells, 3).items()
    assert pair == ("0" * 16, "1" * 16) and [(one.dataset, one.seed) for one in chosen] == [
        ("digits", 1),
        ("mnist", 3),
        ("digits", 2),
    ]


@pytest.mark.parametrize("count", ["0", "-3"])
def test_confirming_needs_at_least_one_cell(tmp_path, count):
    with pytest.raises(BadInput, match=f"--confirm {count}"):
        main(["--results", str(tmp_path), "--confirm", count])


@pytest.mark.parametrize("content", ["", "[1]", '[{"was": 1}]', "{}"])
def test_a_damaged_list_of_confirmed_changes_confirms_nothing(tmp_path, monkeypatch, content):
    monkeypatch.setattr(confirmed, "FILE", tmp_path / "confirmed.json")
    confirmed.FILE.write_text(content)
    confirmed.forget()
    assert not confirmed.confirmed(confirmed.Pair("0" * 16, "1" * 16))
    confirmed.forget()
