import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sample_records import made
from wandb_files import entries, name_of, runs
from wandb_service import BROKEN, SILENT, WELL, Service

from benchmarks.cells.tracker import tracking
from benchmarks.records.schema import flat
from methods.errors import BadInput

pytestmark = pytest.mark.slow


def read_run(folder):
    """The one run in ``folder``, finished."""
    [run] = runs(folder)
    return run


def section(folder, mode="offline", **settings):
    return {
        "mode": mode,
        "project": "secateurs",
        "entity": None,
        "group": None,
        "tags": ["t"],
        "dir": str(folder),
    } | settings


def test_offline_run_read_back_holds_exactly_the_records_metrics(tmp_path, fresh_wandb):
    record = made(metrics={"dense": {"accuracy": 0.98}, "pruned": {"accuracy": 0.1 + 0.2, "macs": 10**9}})
    given = {name: value for name, value in flat(record).items() if value is not None}
    curve = [{"train/loss": 1.0 / (1 + epoch), "validation/accuracy": 0.1 * epoch} for epoch in range(300)]
    config = {"seed": 3, "trainer": {"lr": 0.1}, "track": {"api_key": "SECRET"}, "paths": {"cache": str(tmp_path)}}
    with tracking(section(tmp_path / "w"), "digits/mlp/spectral/keep0.2/3", "sweep", config) as tracker:
        for step, point in enumerate(curve):
            tracker.log(point, step)
        tracker.table("layers", [{"name": "0", "kept": 2}, {"name": "1", "scores": [0.5, 1]}])
        tracker.summary(flat(record))
    run = read_run(tmp_path / "w")
    assert {name: run["summary"][name] for name in given} == given
    # Besides the given figures the summary may hold only the last value of each curve, which W&B adds itself.
    other = {name for name in run["summary"] if name not in given and not name.startswith(("_", "layers"))}
    assert other <= {*curve[0], "step"}
    points = [row for row in run["history"] if "train/loss" in row]
    assert [{name: row[name] for name in curve[0]} for row in points] == curve
    assert [row["step"] for row in points] == list(range(300))
    assert (run["name"], run["group"], run["project"]) == ("digits/mlp/spectral/keep0.2/3", "sweep", "secateurs")
    assert run["tags"] == ["t"] and run["exit"] == 0
    assert {name: run["config"][name] for name in ("seed", "trainer")} == {"seed": 3, "trainer": {"lr": 0.1}}
    (table,) = (tmp_path / "w").glob("wandb/*run-[0-9]*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [["0", 2, None], ["1", None, "[0.5, 1]"]]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "w").rglob("*") if path.is_file())
    assert b"SECRET" not in everything


def test_nothing_is_written_outside_the_folder(tmp_path, fresh_wandb, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    with tracking(section(tmp_path / "w"), "n", None, {}) as tracker:
        tracker.log({"a": 1}, 0)
        tracker.table("layers", [{"name": "0"}])
    assert list(fresh_wandb.rglob("*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "w"]
    # The address of W&B's own service stays, for its child processes.
    assert {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"} == environment


def test_no_name_of_the_machine_or_user_is_kept(tmp_path, fresh_wandb):
    with tracking(section(tmp_path / "w"), "n", None, {}):
        pass
    (path,) = (tmp_path / "w").glob("wandb/*run-[0-9]*/*.wandb")
    content = path.read_bytes()
    assert os.uname().nodename.encode() + b"\n" not in content
    assert str(Path(sys.executable)).encode() not in content and str(fresh_wandb).encode() not in content


def test_an_exception_passes_through_and_closes_the_run_with_code_1(tmp_path, fresh_wandb):
    with pytest.raises(KeyboardInterrupt), tracking(section(tmp_path / "w"), "n", None, {}) as tracker:
        tracker.log({"a": 1}, 0)
        raise KeyboardInterrupt
    assert read_run(tmp_path / "w")["exit"] == 1


def test_cells_of_one_process_are_runs_of_their_own(tmp_path, fresh_wandb):
    for cell in range(3):
        with tracking(section(tmp_path / str(cell)), f"cell {cell}", "sweep", {"seed": cell}) as tracker:
            tracker.log({"a": cell}, 0)
            tracker.log({"a": cell}, 0)  # a second phase counts its steps anew
            tracker.summary({"b": cell})
    found = [read_run(tmp_path / str(cell)) for cell in range(3)]
    assert [run["name"] for run in found] == ["cell 0", "cell 1", "cell 2"]
    assert [run["summary"]["b"] for run in found] == [0, 1, 2]
    assert [[row["a"] for row in run["history"]] for run in found] == [[0, 0], [1, 1], [2, 2]]


def test_disabled_writes_nothing_and_imports_nothing(tmp_path):
    script = (
        "import sys; from benchmarks.cells.tracker import tracking\n"
        "with tracking({'mode': 'disabled'}, 'n', None, {}) as t:\n"
        "    t.log({'a': 1}, 0); t.summary({'b': 2}); t.table('c', [{}])\n"
        "print('wandb' in sys.modules, 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", script]
    outcome = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert outcome.stdout.split() == ["False", "False"], outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_mode_names_the_choices():
    with (
        pytest.raises(BadInput, match=r"Unknown track.mode 'onlin'; expected one of offline, online, disabled"),
        tracking({"mode": "onlin"}, "n", None, {}),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, fresh_wandb, caplog):
    (tmp_path / "w").write_text("in the way")
    with caplog.at_level(logging.WARNING), tracking(section(tmp_path / "w"), "n", None, {}) as tracker:
        tracker.log({"a": 1}, 0)
        tracker.summary({"b": 2})
    assert "not tracking this cell" in caplog.text


def test_a_value_that_cannot_be_logged_is_a_warning(tmp_path, fresh_wandb, caplog):
    with caplog.at_level(logging.WARNING), tracking(section(tmp_path / "w"), "n", None, {}) as tracker:
        tracker.log({1: object()}, 0)
        tracker.summary({"b": 2})
    assert "log failed" in caplog.text
    assert read_run(tmp_path / "w")["summary"]["b"] == 2


CHILD = """
import sys, time, logging
logging.basicConfig()
from benchmarks.cells.tracker import tracking
started = time.monotonic()
with tracking({"mode": "%s", "dir": sys.argv[1]}, "n", "g", {"seed": 1}) as tracker:
    tracker.summary({"b": 2})
print(time.monotonic() - started)
"""


def surroundings(service, fresh_wandb, key=None):
    """The environment of a process that knows of no other W&B service and no other home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": service, "HOME": str(fresh_wandb), "PYTHONPATH": str(Path(__file__).parents[3])}
    return environment | ({"WANDB_API_KEY": key} if key else {})


def run_child(mode, folder, port, key=None):
    """A process that tracks one cell against a server on this machine."""
    environment = surroundings(f"http://127.0.0.1:{port}", folder.parent, key)
    command = [sys.executable, "-c", CHILD % mode, str(folder)]
    started = time.monotonic()
    outcome = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return float(outcome.stdout.split()[-1]), time.monotonic() - started, outcome.stderr


@pytest.fixture
def silent_server():
    """Accepts connections and never answers."""
    server, taken = socket.create_server(("127.0.0.1", 0)), []

    def accept():
        while True:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], taken
    server.close()


def test_offline_never_opens_a_connection(tmp_path, silent_server):
    port, taken = silent_server
    run_child("offline", tmp_path / "w", port, key="k" * 40)
    assert taken == []
    assert read_run(tmp_path / "w")["summary"]["b"] == 2


def test_online_without_a_key_goes_on_offline_without_asking(tmp_path, silent_server):
    port, taken = silent_server
    _, _, said = run_child("online", tmp_path / "w", port)
    assert "no API key" in said and "wandb sync" in said and taken == []
    assert read_run(tmp_path / "w")["summary"]["b"] == 2


def test_online_without_a_network_goes_on_offline(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _, _, said = run_child("online", tmp_path / "w", port, key="k" * 40)
    assert "cannot be reached" in said
    assert read_run(tmp_path / "w")["summary"]["b"] == 2


def test_online_with_a_server_that_stalls_goes_on_offline_within_20_seconds(tmp_path, silent_server):
    port, taken = silent_server
    waited, whole, said = run_child("online", tmp_path / "w", port, key="k" * 40)
    assert waited < 20 and whole < 40, "the promise of track.py; 13 s and 14 s on a quiet machine"
    assert taken and "going on offline" in said
    (path,) = (tmp_path / "w").glob("wandb/offline-run-*/*.wandb")
    summaries = [m.summary for m in entries(path) if m.WhichOneof("record_type") == "summary"]
    assert any(name_of(item) == "b" for summary in summaries for item in summary.update)
    assert "k" * 40 not in said


LONG_CHILD = """
import sys, logging
logging.basicConfig()
from benchmarks.cells.tracker import tracking
with tracking({"mode": "online", "dir": sys.argv[1]}, "n", "g", {"seed": 1}) as tracker:
    print("tracking", flush=True)
    sys.stdin.readline()
    tracker.summary({"b": 2})
"""


def test_online_with_a_service_that_fails_or_stalls_and_recovers(tmp_path):
    """Two cases side by side, the longest first: most of their time they wait."""
    cases = [(BROKEN, False), (SILENT, False), (BROKEN, True), (SILENT, True), (WELL, False)]
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(go_on_with, tmp_path / f"{mood}-{recovers}", mood, recovers) for mood, recovers in cases]
        arrived = [task.result() for task in tasks]
    assert arrived == [mood == WELL or recovers for mood, recovers in cases]


def go_on_with(folder, mood, recovers):
    """A cell is tracked while the service becomes what ``mood`` says; whether its numbers arrived."""
    folder.mkdir()
    key = "k" * 40
    with Service() as service:
        command = [sys.executable, "-c", LONG_CHILD, str(folder / "w")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=surroundings(service.url, folder, key), text=True, **pipes) as child:
            assert child.stdout.readline() == "tracking\n"
            service.mood = mood
            child.stdin.write("go on\n")
            child.stdin.flush()
            if recovers:
                for _ in range(100):
                    if service.refused:
                        break
                    time.sleep(0.1)
                assert service.refused
                service.mood = WELL
                service.better.set()
            begun = time.monotonic()
            _, said = child.communicate(timeout=60)
        waited = time.monotonic() - begun
        arrived = any(summary.get("b") == 2 for summary in service.summaries.values())
    assert child.returncode == 0 and key not in said
    assert waited < 20, "the promise of track.py; 16 s on a quiet machine where the service does not come back"
    [path] = (folder / "w").glob("wandb/run-*/*.wandb")
    assert arrived or f"wandb sync {path.parent}" in said
    summaries = [m.summary for m in entries(path) if m.WhichOneof("record_type") == "summary"]
    assert any(name_of(item) == "b" for summary in summaries for item in summary.update), "nothing is lost"
    return arrived


def test_online_with_a_service_that_is_broken_from_the_start_goes_on_offline(tmp_path):
    with Service() as service:
        service.mood = BROKEN
        waited, _, said = run_child("online", tmp_path / "w", service.server_address[1], key="k" * 40)
    assert waited < 20 and "going on offline" in said and service.refused
    assert list((tmp_path / "w").glob("wandb/offline-run-*/*.wandb"))
