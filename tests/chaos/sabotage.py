"""Runs of the suite in forked processes that something happens to, and their comparison with an undisturbed run.

Forking spares each run the seconds that importing takes. A library with threads of its own (vl-convert) does not live
through a fork once it has been used, as a test before this one may have done; what draws figures is forked from a
process that has only imported. What happens is decided by Python's own audit events: every
act that changes the file system passes there, so "the n-th act" is a moment that can be chosen, counted and repeated.
"""

import csv
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import warm

CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
TINY = ["trainer=tiny", "dataset.limit=200", "measure=none", "calibration.samples=64", "trainer.train.epochs=2"]
GRID = ["-m", "method=random,magnitude", "seed=0,1"]
SEED = int(os.environ.get("CHAOS_SEED", "20261121"))
RUN = "benchmarks.sweeps.run_command"
TIMES = {"created", "fingerprint", "cost", "checksum"}  # of a record: what differs from run to run


def compose(folder):
    """The configurations of the usual run, for the processes that are forked from this one."""
    from benchmarks.settings.home import CONF
    from benchmarks.sweeps.composition import Composer
    from benchmarks.sweeps.planning import make_plan
    from benchmarks.sweeps.request import Request

    words = [*GRID[1:], *TINY, "track=none", f"paths.results={folder}", f"paths.cache={folder}"]
    make_plan(Composer(CONF), Request(words, multirun=True))


def start(command, words):
    """The exit code of a command, which ends as it would on the command line."""
    from benchmarks.storage.entry_point import end

    main = importlib.import_module(command).main
    if command == RUN:
        return main(words)
    try:
        end(lambda: main(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@dataclass
class Run:
    """A forked process that runs a command on the folders under ``root``.

    Attributes:
        root: with results and cache; the output goes there, too.
        words: of the command.
        sabotage: called with the root, as a text, in the process before the command.
        command: the module whose ``main`` it is; run.py unless given, which is told the folders by itself.
        name: tells runs of one root apart.
        clean: fork from a process that has used nothing yet; ``sabotage`` must be picklable.
    """

    root: Path
    words: list[str] = field(default_factory=lambda: [*GRID, *TINY, "track=none"])
    sabotage: object = None
    command: str = RUN
    name: str = "output"
    clean: bool = False
    pid: int = 0
    process: BaseProcess | None = None

    def start(self):
        self.root.mkdir(parents=True, exist_ok=True)
        if self.clean:
            self.process = warm.process(Run._child, self)
            return self
        self.pid = os.fork()
        if self.pid == 0:
            self._child()
        return self

    def _child(self):
        code = 70
        try:
            out = os.open(self.root / f"{self.name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ |= {"SECATEURS_DATA": "", "COLUMNS": "200"}
            if self.sabotage is not None:
                self.sabotage(str(self.root))
            folders = [f"paths.results={self.root}/results", f"paths.cache={self.root}/cache"]
            code = start(self.command, [*self.words, *(folders if self.command == RUN else [])])
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            os._exit(code)

    def wait_until_stopped(self, timeout=180):
        """Whether it was stopped; else it has ended, well."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                assert os.waitstatus_to_exitcode(status) == 0, self.output
                return False
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"neither stopped nor ended after {timeout} s:\n{self.output}")

    def wait(self, timeout=180):
        """The exit code; minus the signal's number if one ended the process."""
        if self.process is not None:
            return self._wait_for_clean(timeout)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"not ended after {timeout} s:\n{self.output}")

    def _wait_for_clean(self, timeout):
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"not ended after {timeout} s:\n{self.output}")
        return code

    @property
    def output(self):
        return (self.root / f"{self.name}.txt").read_text(errors="replace")

    def run(self):
        return self.start().wait()


@dataclass
class Acts:
    """Sabotage: ``act(n)`` before the n-th change of a file under the run's folder, for n = ``number`` (None: each)."""

    act: object
    number: int | None

    def __call__(self, root):
        seen = [0]

        def hook(event, arguments):
            path = arguments[0] if arguments else None
            if not isinstance(path, str | os.PathLike) or not os.fspath(path).startswith(f"{root}/"):
                return
            writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in CHANGING:
                seen[0] += 1
                if self.number is None or seen[0] == self.number:
                    self.act(seen[0])

        sys.addaudithook(hook)


def _kill(_number):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(number):
    return Acts(_kill, number)


def stopped_at(number):
    """Sabotage: the process stops, as a laptop that is closed, until somebody sends SIGCONT."""
    return Acts(lambda _: os.kill(os.getpid(), signal.SIGSTOP), number)


def killed_after(seconds):
    """Sabotage: the kernel ends the process after so much processor time, however busy the machine is."""
    return lambda _root: signal.setitimer(signal.ITIMER_PROF, seconds)


def moments(how_many, count):
    """``count`` different moments, spread over the whole run."""
    generator = random.Random(SEED)
    return sorted(generator.sample(range(1, how_many), min(count, how_many - 1)))


def count_acts(root, **run):
    """How many changes of the file system an undisturbed run makes; ``run`` as for :class:`Run`."""
    counter = root.parent / f"{root.name}.acts"  # outside of the run's folder, where writing it is no act
    run = Run(root, sabotage=Acts(partial(_note, counter), None), **run)
    assert run.run() == 0, run.output
    return int(counter.read_text())


def _note(counter, number):
    counter.write_text(str(number))


# ------------------------------------------------------------------------------------------------------- comparison


def records(root):
    """The records in ``root`` by key, without what differs from run to run. Every JSON file there must be one."""
    from benchmarks.records.store import read

    found = {}
    for path in (root / "results/runs").rglob("*.json"):
        if path.parent.name.startswith("."):
            json.loads(path.read_text())  # a sweep's manifest
        elif path.parent.name != "boards":
            content = json.loads(read(path).text())
            assert path.stem not in found, "a cell has two records"
            found[path.stem] = _timeless({name: value for name, value in content.items() if name not in TIMES})
    return found


def _timeless(value):
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if "seconds" not in name}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def board(root):
    """The rows of the leaderboard, without the columns of times."""
    with (root / "results/boards/leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = ("seconds", "memory")  # of the process: they differ from run to run
    return [{name: row[name] for name in row if not any(word in name for word in measured)} for row in rows]


def stamps(root):
    """When each finished record was written."""
    found = {}
    for path in (root / "results/runs").glob("*/*/*.json"):
        try:
            if json.loads(path.read_text())["status"] == "done":
                found[path.name] = path.stat().st_mtime_ns
        except ValueError:
            pass
    return found


def check_whole(root, reference):
    """Running again completes the sweep; nothing is lost, done twice, or different from the undisturbed run."""
    before = stamps(root)
    again = Run(root)
    assert again.run() == 0, again.output
    after = stamps(root)
    assert {name: after[name] for name in before} == before, "a finished cell was done again"
    assert records(root) == records(reference)
    assert board(root) == board(reference)
    running = [path for path in root.glob("results/runs/.running/*") if not path.name.startswith(".probe")]
    assert running == [], "a finished cell's lease is left"
    assert not list(root.glob("results/runs/digits/*/.*")), "half a record is left"
