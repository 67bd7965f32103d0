"""Workers that know little of each other: stopped for long, in containers of one host name, in sweeps that overlap."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sabotage import GRID, TINY, Run, check_whole, killed_at, moments, records, stopped_at

REPOSITORY = Path(__file__).parents[2]
LEASE = "SECATEURS_LEASE"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def finished(root):
    """What lies in each record that is a result, and since when."""
    found = {}
    for path in (root / "results/runs").glob("*/*/*.json"):
        content = path.read_bytes()
        if json.loads(content)["status"] == "done":
            found[path.name] = content, path.stat().st_mtime_ns
    return found


# ---------------------------------------------------------------------------------------------------- stopped holders


def test_a_holder_stopped_for_longer_than_its_lease_writes_over_nothing(
    tmp_path, reference, how_many, long, monkeypatch
):
    """As a laptop that is closed in the midst of a sweep, and opened when another machine has done the rest."""
    monkeypatch.setenv(LEASE, "0.6")
    stopped = 0
    for number in moments(how_many, 25 if long else 4):
        root = tmp_path / str(number)
        first = Run(root, sabotage=stopped_at(number), name="stopped").start()
        if not first.wait_until_stopped():
            check_whole(root, reference)  # the number of acts varies a little
            continue
        stopped += 1
        try:
            other = Run(root)
            assert other.run() == 0, other.output
            before = finished(root)
            assert len(before) == 4
        finally:
            os.kill(first.pid, signal.SIGCONT)
        assert first.wait() == 0, first.output
        assert "Traceback" not in first.output
        assert finished(root) == before
        check_whole(root, reference)
    assert stopped >= (20 if long else 3)


def test_a_lease_of_no_length_is_refused(tmp_path, monkeypatch):
    for text in ("soon", "0", "-1", "nan", "1e300"):
        monkeypatch.setenv(LEASE, text)
        run = Run(tmp_path)
        assert run.run() == 2, run.output
        assert f"{LEASE}={text!r} is no number of seconds" in run.output and "Traceback" not in run.output
        assert not list(tmp_path.glob("results/runs/digits/*/*.json"))


# ------------------------------------------------------------------------------------------------------- two containers


def in_a_namespace_of_its_own():
    """The words that give a command process ids of its own, as a container does, under the same host name."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if tried.returncode:
        pytest.skip(f"no namespaces of one's own here: {tried.stderr.strip()}")
    return command


def container(root, name, **environment):
    """The usual sweep in a process namespace of its own, with its output in a file."""
    words = [*GRID, *TINY, "track=none", f"paths.results={root}/results", f"paths.cache={root}/cache"]
    path = os.pathsep.join([str(Path(__file__).parent / "site"), str(REPOSITORY)])
    env = {**os.environ, "SECATEURS_DATA": "", "COLUMNS": "200", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*in_a_namespace_of_its_own(), sys.executable, "run.py", *words]
    with (root / f"{name}.txt").open("w") as out:
        return subprocess.Popen(command, env=env | environment, cwd=REPOSITORY, stdout=out, stderr=out)


def ran(output):
    """The cells that a run has computed itself, by the lines that it printed."""
    return [line[line.index("✓ ") :].partition(":")[0] for line in output.splitlines() if "✓ " in line]


def until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_two_containers_of_one_host_name_run_each_cell_once(tmp_path, reference):
    """The second meets a lease whose process id says nothing in its own namespace, and waits for signs of life."""
    lease = {LEASE: "2"}
    key = sorted(records(reference))[0]
    begun, may_go_on = tmp_path / "begun", tmp_path / "may go on"
    held = {"CHAOS_PATH": f".{key}.json", "CHAOS_ONCE": str(begun), "CHAOS_WAIT": str(may_go_on)}
    first = container(tmp_path, "first", **held, **lease)  # stays in the midst of its cell, alive
    try:
        until(lambda: begun.exists() or first.poll() is not None)
        assert first.poll() is None, (tmp_path / "first.txt").read_text()
        second = container(tmp_path, "second", **lease)
        try:
            until(lambda: len(finished(tmp_path)) == 3 or second.poll() is not None)
            time.sleep(3 * float(lease[LEASE]))  # the first one's lease would have ended by now without signs of life
            assert second.poll() is None, "it waits for the cell that the first one is at"
            assert f"{key}.json" not in finished(tmp_path)
            may_go_on.touch()
            assert first.wait(180) == second.wait(180) == 0, (tmp_path / "second.txt").read_text()
        finally:
            second.kill()
    finally:
        first.kill()
    done = [cell for name in ("first", "second") for cell in ran((tmp_path / f"{name}.txt").read_text())]
    assert len(done) == len(set(done)) == 4, done
    check_whole(tmp_path, reference)


def test_a_container_that_is_killed_is_replaced_when_its_lease_has_ended(tmp_path, reference):
    key = sorted(records(reference))[0]
    begun = tmp_path / "begun"
    held = {"CHAOS_PATH": f".{key}.json", "CHAOS_ONCE": str(begun), "CHAOS_WAIT": str(tmp_path / "never")}
    first = container(tmp_path, "first", **held, **{LEASE: "2"})
    try:
        until(lambda: begun.exists() or first.poll() is not None)
        assert first.poll() is None, (tmp_path / "first.txt").read_text()
    finally:
        first.kill()
        first.wait()
    second = container(tmp_path, "second", **{LEASE: "2"})
    assert second.wait(180) == 0, (tmp_path / "second.txt").read_text()
    check_whole(tmp_path, reference)


# ----------------------------------------------------------------------------------------------------- sweeps that meet


OTHER = ["-m", "method=magnitude,random", "seed=1,2", *TINY, "track=none"]  # half of it is in the usual one


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The records of the other sweep, undisturbed."""
    root = tmp_path_factory.mktemp("alone")
    run = Run(root, words=OTHER)
    assert run.run() == 0, run.output
    return cells(root)


def cells(root):
    """The records, whichever of the sweeps they were made for."""
    return {key: {**content, "sweep": None} for key, content in records(root).items()}


def test_sweeps_that_overlap_do_what_they_share_once(tmp_path, reference, other):
    runs = [Run(tmp_path, name="one"), Run(tmp_path, words=OTHER, name="two")]
    for run in runs:
        run.start()
    assert [run.wait() for run in runs] == [0, 0], [run.output for run in runs]
    assert cells(tmp_path) == cells(reference) | other
    done = [cell for run in runs for cell in ran(run.output)]
    assert len(done) == len(set(done)) == 6, done


def test_of_sweeps_that_overlap_one_may_be_killed(tmp_path, reference, how_many, other, long):
    for number in moments(how_many, 20 if long else 2):
        root = tmp_path / str(number)
        one = Run(root, sabotage=killed_at(number), name="one").start()
        two = Run(root, words=OTHER, name="two").start()
        assert two.wait() == 0, two.output
        assert one.wait() in (-signal.SIGKILL, 0), one.output
        found = cells(root)
        assert {key: found[key] for key in other} == other
        before = finished(root)
        again = Run(root)
        assert again.run() == 0, again.output
        assert cells(root) == cells(reference) | other
        assert finished(root).items() >= before.items(), "a finished cell was done again"
