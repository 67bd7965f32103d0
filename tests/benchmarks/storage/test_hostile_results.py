"""A folder of results with everything in it that is no record: each command names it, uses the rest, and ends."""

import csv
import json
import os
import re

import pytest
from sample_records import made

import secateurs
from benchmarks import leaderboard, status, submit, track
from benchmarks.records.store import Store
from benchmarks.report.__main__ import main as report
from benchmarks.storage.paths import Paths

STEERING = "\x1b[2J\x1b]0;title\x07\u202e"
FORMULA = '=HYPERLINK("http://127.0.0.1")'
DEEP = "[" * 5000 + "]" * 5000


def signed(record, **changes):
    """The text of ``record`` with ``changes`` that its checksum is right for: a stranger can compute one."""
    from benchmarks.records.schema import checksum

    content = {**json.loads(record.text()), **changes}
    del content["checksum"]
    return json.dumps(content | {"checksum": checksum(content)})


CONTENTS = {  # of files that are named like records, by a part of the reason
    "not JSON (": "{",
    "levels": made(20).text().replace('"curve": null', f'"curve": {DEEP}'),
    "not JSON (Exceeds": made(21).text().replace('"seed": 21', f'"seed": {"9" * 5000}'),
    "each name stands once": made(22).text().replace('"seed": 22', '"seed": 22, "seed": 1'),
    "NaN is no number": made(23).text().replace("0.98", "NaN"),
    "not JSON ('utf-8'": b"\xff\xfe{}",
    "foreign: not a record": "[]",
    "fingerprint": signed(made(24), fingerprint=[]),
    "accuracy": signed(made(25), metrics={"tuned": {"accuracy": 7.5}}),
    "parameters": signed(made(26), metrics={"dense": {"parameters": -5}}),
    "made in the future": signed(made(27), created="2999-01-01T00:00:00+00:00"),
    "does not have the checksum": made(28).text().replace("0.98", "0.99"),
    "it has no checksum": re.sub(r',?\s*"checksum": "\w+"', "", made(29).text()),
    "a later version": json.dumps({"key": "a" * 16, "version": 99}),
    "dataset": signed(made(30), dataset="../../x"),
    "method": signed(made(31), method=f"a{STEERING}"),
}


@pytest.fixture
def results(tmp_path):
    """The folder of results; two records in it are sound, one of them of a cell that failed with a hostile reason."""
    store = Store.of(Paths(tmp_path / "results"))
    settings = {"method": {"name": "spectral"}}
    store.write(made(0, settings=settings))
    store.write(made(1, "failed", settings=settings, reason=f"{FORMULA}{STEERING}", traceback=f'  File "{STEERING}"'))
    folder = store.cells / "digits" / "mlp"
    folder.mkdir(parents=True)
    for number, content in enumerate(CONTENTS.values()):
        path = folder / f"{number:016x}.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.mkfifo(folder / f"{'a' * 16}.json")
    (folder / f"{'b' * 16}.json").mkdir()
    (folder / f"{'c' * 16}.json").symlink_to("nowhere")
    (folder / f"{'d' * 16}.json").symlink_to(f"{'d' * 16}.json")
    (folder / f"{'e' * 16}.json").symlink_to("/dev/zero")
    double = store.runs / "elsewhere" / "net" / store.path_of(made(0, settings=settings)).name
    double.parent.mkdir(parents=True)
    double.write_text(made(0, settings=settings, created="2025-01-01T00:00:00+00:00").text())
    (store.runs / ".running").mkdir()
    os.mkfifo(store.runs / ".running" / f"{made(0).key}.0")
    (store.runs / ".sweeps").mkdir()
    os.mkfifo(store.runs / ".sweeps" / "sweep.json")
    return tmp_path / "results"


KINDS = {"a": "a named pipe", "b": "a folder", "c": "leads nowhere", "d": "cannot be read", "e": "a device"}


def check_said(said):
    """Each file of the folder is named with its reason, in printable characters."""
    assert "Traceback" not in said and not set(said) & set(STEERING) - set(" [2J]0;title")
    for number, reason in enumerate(CONTENTS):
        assert re.search(rf"left out: \S*{number:016x}\.json: [^\n]*{re.escape(reason)}", said), reason
    for letter, reason in KINDS.items():
        assert re.search(rf"left out: \S*{letter * 16}\.json: [^\n]*{reason}", said), reason
    assert "the same cell as" in said


COMMANDS = {
    "leaderboard": (leaderboard.main, []),
    "status": (status.main, []),
    "status --failed": (status.main, ["--failed"]),
    "report": (report, ["--no-figures"]),
    "push": (track.main, ["push", "--offline"]),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_every_command_names_what_is_no_record_and_uses_the_rest(results, name, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    main, words = COMMANDS[name]
    own = ["--dir", str(tmp_path / "w")] if name == "push" else []
    assert main([*words, "--results", str(results), *own]) == 0
    printed = capsys.readouterr()
    said = printed.out + printed.err
    if name == "status --failed":
        assert "1 failed" in said and not set(said) & set("\x1b\x07\u202e")
        return
    check_said(said)


def test_control_characters_and_formulas_are_inert_in_every_file_of_a_board(results, capsys):
    formats = ["--format", "terminal,md,csv,tex,html"]
    assert leaderboard.main(["--results", str(results), *formats]) == 0
    assert report(["--results", str(results), "--no-figures"]) == 0
    for path in (results / "boards").iterdir():
        assert not set(path.read_text()) & {"\x1b", "\x07", "\u202e"}, path
    with (results / "boards/leaderboard.csv").open(newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file) if row["status"] == "failed"]
    assert reasons and all(reason.startswith(f"'{FORMULA}") for reason in reasons)
    assert FORMULA in (results / "boards/leaderboard.md").read_text().replace("\\", "")


def test_submit_moves_the_sound_one_and_names_the_others(results, capsys):
    assert submit.main(["--results", str(results)]) == 1
    said = capsys.readouterr().out
    assert "moved 1 records" in said and "not moved: " in said and "the same cell as" in said
    key = made(0, settings={"method": {"name": "spectral"}}).key
    assert [path.stem for path in (results / "cells").glob(f"*/*/{key}.json")] == [key]


def test_the_table_of_records_in_python_warns_of_what_it_leaves_out(results, caplog):
    table = secateurs.records(results)
    assert sorted(table["seed"]) == [0, 1] and not table["unsigned"].any()
    for reason in CONTENTS:
        assert reason in caplog.text
    assert not set(caplog.text) & {"\x1b", "\x07", "\u202e"}
