import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from benchmarks.storage.lease import Busy, first_come, holders, remove_finished

ROOT = str(Path(__file__).parents[3])


def take(folder, finished, **times):
    return first_come(folder, finished, "toy", **({"heartbeat": 0.05, "stale": 10.0, "poll": 0.01} | times))


def lease_of(folder, number, **holder):
    path = folder / f"lease.{number}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    here = {"host": socket.gethostname(), "boot": boot, "space": str(Path("/proc/self/ns/pid").readlink())}
    path.write_text(json.dumps({**here, "pid": os.getpid(), "time": time.time()} | holder))
    return path


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_exactly_one_of_many_threads_works_and_all_see_the_result(tmp_path, caplog):
    result, worked, seen = tmp_path / "result", [], []
    barrier = threading.Barrier(12)

    def work(number):
        barrier.wait()
        with take(tmp_path, result.exists) as mine:
            if mine:
                worked.append(number)
                time.sleep(0.3)
                unfinished = tmp_path / "unfinished"  # a result that exists is complete, as every caller's must be
                unfinished.write_text("done")
                unfinished.rename(result)
        seen.append(result.read_text())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(worked) == 1 and seen == ["done"] * 12
    named = f"toy: waiting for process {os.getpid()} on {socket.gethostname()}"
    assert named in caplog.text or "toy: waiting for another process" in caplog.text  # which has not signed yet
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from benchmarks.storage.lease import Busy, first_come, holders, remove_finished
    folder = Path(sys.argv[1])
    while not (folder / "go").exists():
        time.sleep(0.001)
    with first_come(folder, (folder / "result").exists, "toy", poll=0.01) as mine:
        if mine:
            with (folder / "log").open("a") as log:
                log.write("worked\\n")
            if len(sys.argv) > 2:
                time.sleep(60)
            (folder / "result").touch()
    sys.exit(0 if (folder / "result").exists() else 1)
"""


def start(tmp_path, *arguments):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).format(root=ROOT))
    return subprocess.Popen([sys.executable, str(script), str(tmp_path), *arguments])


def test_exactly_one_of_several_processes_works(tmp_path):
    processes = [start(tmp_path) for _ in range(5)]
    time.sleep(0.3)
    (tmp_path / "go").touch()
    assert [process.wait(30) for process in processes] == [0] * 5
    assert (tmp_path / "log").read_text() == "worked\n"


def test_a_killed_holder_on_this_machine_is_replaced_at_once(tmp_path):
    (tmp_path / "go").touch()
    holder = start(tmp_path, "slow")
    deadline = time.monotonic() + 20
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    holder.kill()
    holder.wait()
    with take(tmp_path, lambda: False, stale=1000) as mine:  # a wait would be one of 1000 seconds
        assert mine


def test_a_silent_holder_elsewhere_is_replaced_once_even_if_many_wait(tmp_path):
    path = lease_of(tmp_path, 0, host="elsewhere", pid=1)
    os.utime(path, (time.time() - 100,) * 2)
    result, worked = tmp_path / "result", []

    def work():
        with take(tmp_path, result.exists) as mine:
            if mine:
                worked.append(1)
                time.sleep(0.2)
                result.touch()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert worked == [1]


@pytest.mark.parametrize("content", [None, "", '{"host": "elsewhere", "pid": 1}'])
def test_a_holder_that_shows_signs_of_life_is_waited_for(tmp_path, content):
    path = lease_of(tmp_path, 0, pid=os.getpid())
    if content is not None:
        path.write_text(content)
    looks = []

    def finished():
        looks.append(1)
        return len(looks) > 5

    with take(tmp_path, finished, stale=1000) as mine:
        assert not mine
    assert len(looks) == 6


def test_a_worker_that_fails_hands_over_without_delay(tmp_path):
    with pytest.raises(ZeroDivisionError), take(tmp_path, lambda: False, stale=1000) as mine:
        assert mine
        raise ZeroDivisionError
    with take(tmp_path, lambda: False, stale=1000) as mine:
        assert mine


def test_a_dead_holder_of_a_higher_term_counts_not_the_lower_ones(tmp_path):
    lease_of(tmp_path, 9)  # alive, but its term is long over
    lease_of(tmp_path, 10, pid=dead_pid())
    with take(tmp_path, lambda: False, stale=1000) as mine:
        assert mine and (tmp_path / "lease.11").exists()


def test_the_holder_shows_signs_of_life(tmp_path):
    with take(tmp_path, lambda: False):
        path, long_ago = tmp_path / "lease.0", time.time() - 1000
        os.utime(path, (long_ago, long_ago))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime < long_ago + 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > long_ago + 500


def test_who_would_not_wait_is_told_who_is_at_it(tmp_path):
    with take(tmp_path, lambda: False), pytest.raises(Busy, match=f"process {os.getpid()}"):  # noqa: SIM117
        with take(tmp_path, lambda: False, wait=False):
            pass


def test_works_of_different_names_do_not_meet(tmp_path):
    with take(tmp_path, lambda: False, name="a") as first, take(tmp_path, lambda: False, name="ab") as second:
        assert first and second
        assert sorted(holder.name for holder in holders(tmp_path) if holder.alive) == ["a", "ab"]
    assert [holder.alive for holder in holders(tmp_path)] == [False, False]


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_jumps_ends_no_living_workers_term(tmp_path, jump):
    """Here the process answers for itself; elsewhere its next sign of life does, before the second look."""
    with take(tmp_path, lambda: False, name="here"):
        os.utime(tmp_path / "here.0", (time.time() + jump,) * 2)
        with pytest.raises(Busy), take(tmp_path, lambda: False, name="here", wait=False):
            pass
    path = tmp_path / "there.0"
    path.write_text('{"host": "elsewhere", "pid": 1}')
    os.utime(path, (time.time() + jump,) * 2)
    alive = threading.Event()

    def beat():
        while not alive.wait(0.05):
            os.utime(path, (time.time() + jump, time.time() + jump))

    thread = threading.Thread(target=beat)
    thread.start()
    looks = []
    try:
        with take(tmp_path, lambda: looks.append(1) or len(looks) > 100, name="there", heartbeat=0.5) as mine:
            assert not mine  # 1 s of looking, no takeover
    finally:
        alive.set()
        thread.join()


def test_a_dead_worker_elsewhere_is_replaced_though_its_clock_was_ahead(tmp_path):
    path = lease_of(tmp_path, 0, host="elsewhere", pid=1)
    os.utime(path, (time.time() + 86400,) * 2)
    started = time.monotonic()
    with take(tmp_path, lambda: False, stale=0.5) as mine:
        assert mine
    assert time.monotonic() - started >= 0.5


def test_a_process_id_that_is_used_again_is_not_the_holder(tmp_path):
    lease_of(tmp_path, 0, started="another boot:17")
    with take(tmp_path, lambda: False, stale=1000) as mine:
        assert mine


def test_what_dead_holders_of_finished_work_left_is_swept_up(tmp_path):
    for name, pid in (("done", dead_pid()), ("open", dead_pid()), ("alive", os.getpid())):
        lease_of(tmp_path, 0, pid=pid).rename(tmp_path / f"{name}.0")
    remove_finished(tmp_path, {"done", "alive"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive.0", "open.0"]


def test_finished_work_takes_no_lease(tmp_path):
    with take(tmp_path / "new", lambda: True) as mine:
        assert not mine
    assert not list((tmp_path / "new").iterdir())


# ------------------------------------------------------------------------------------------------ who holds, who writes


STOPPED = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from benchmarks.storage.lease import first_come
    folder = Path(sys.argv[1])
    with first_come(folder, (folder / "result").exists, "toy", heartbeat=0.05) as lease:
        (folder / "begun").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
        if lease.held():
            (folder / "result").write_text("the stopped one's")
"""


def stopped_holder(tmp_path, command=()):
    """A process that holds the lease and was stopped."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(STOPPED).format(root=ROOT))
    process = subprocess.Popen([*command, sys.executable, str(script), str(tmp_path)])
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_a_holder_that_is_stopped_is_waited_for_no_longer_than_its_lease_and_writes_nothing_when_it_goes_on(tmp_path):
    process = stopped_holder(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    result = tmp_path / "result"
    with take(tmp_path, result.exists, stale=0.5) as lease:
        assert lease.held()
        (tmp_path / "go on").touch()
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(30) == 0
        assert not result.exists() and lease.held(), "its last sign of life ends no term of another's"
        result.write_text("mine")
    assert result.read_text() == "mine"
    assert not list(tmp_path.glob("lease.*"))


def test_a_holder_that_was_stopped_for_less_than_its_lease_goes_on(tmp_path):
    process = stopped_holder(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(Busy), take(tmp_path, lambda: False, stale=1000, wait=False):
        pass
    (tmp_path / "go on").touch()
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 0 and (tmp_path / "result").read_text() == "the stopped one's"


def unshared(*words):
    command = ["unshare", "--pid", "--fork", "--mount-proc", *words]
    try:
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no process namespaces here")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    return command


def test_a_holder_in_another_process_namespace_of_the_same_host_name_is_alive_while_it_shows_signs(tmp_path):
    process = stopped_holder(tmp_path, unshared())
    try:
        time.sleep(0.2)
        assert [holder.alive for holder in holders(tmp_path)] == [True]
        with pytest.raises(Busy), take(tmp_path, lambda: False, wait=False):
            pass
    finally:
        (tmp_path / "go on").touch()
        assert process.wait(30) == 0
    assert (tmp_path / "result").exists()


@pytest.mark.parametrize("other", [{"boot": "another"}, {"space": "pid:[1]"}, {"boot": None}, {"space": None}])
def test_a_process_id_of_another_system_or_namespace_says_nothing(tmp_path, other):
    path = lease_of(tmp_path, 0, pid=dead_pid(), **other)
    with pytest.raises(Busy), take(tmp_path, lambda: False, wait=False, stale=1000):
        pass
    os.utime(path, (time.time() - 2000,) * 2)
    with take(tmp_path, lambda: False, stale=1000, heartbeat=0.05) as lease:
        assert lease


GARBAGE = [
    "[]",
    "{",
    "null",
    "[" * 5000,
    "9" * 5000,
    '{"host": "elsewhere"}',
    '{"host": 5, "pid": 1}',
    '{"host": "x", "pid": "1"}',
    '{"host": "x", "pid": true}',
    '{"host": "x", "pid": 99999999999999999999}',
    '{"host": "x", "pid": 1, "time": "yesterday"}',
    '{"host": "x", "pid": 1, "time": NaN}',
    '{"host": "x", "pid": 1, "time": 1e300}',
    "\x00\x01",
]


@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_in_a_lease_is_an_ended_lease(tmp_path, content):
    (tmp_path / "lease.0").write_text(content)
    assert holders(tmp_path) == []
    with take(tmp_path, lambda: False, stale=1000) as lease:
        assert lease and lease.held()


@pytest.mark.parametrize("make", ["fifo", "folder", "link", "loop"])
def test_what_is_no_file_is_an_ended_lease_and_is_never_opened(tmp_path, make):
    path = tmp_path / "lease.0"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if make == "link" else "lease.0")
    done = []
    assert holders(tmp_path) == []
    with take(tmp_path, lambda: bool(done), stale=1000) as lease:
        assert lease
        done.append(1)
    assert not (tmp_path / "lease.1").exists()


def test_a_term_of_the_same_number_is_not_ones_own(tmp_path):
    with take(tmp_path, lambda: False) as lease:
        assert lease.held()
        lease.path.unlink()
        assert not lease.held()
        other = lease_of(tmp_path, 0, token="another's")
        assert not lease.held()
    assert other.stat().st_mtime > 0, "another's term is not ended"
