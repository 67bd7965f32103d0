"""Tests in forks of warm processes, in a copy of the working tree that has all faults in it, each behind a switch."""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.faults import Fault, switched

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "hydra", "omegaconf", "pandas", "scipy.stats", "scipy.optimize", "lightning_fabric", "hypothesis"),
    *("yaml", "torch_pruning", "jinja2", "safetensors.torch", "pydantic", "PIL.Image", "pyarrow.parquet"),
    *("sklearn.datasets", "hypothesis.strategies", "rich.console", "torch.utils.flop_counter", "scikit_posthocs"),
)
OURS = {
    "methods",
    "benchmarks",
    "secateurs",
    "conf",
    "networks",
    "marks",
    "warm",
    "sample_records",
    "conftest",
    "planted",
}


def warm_up() -> None:
    """Import what all tests need, once, and nothing of the project, so that each fork has its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)


def copied(folder: Path, faults: Mapping[int, Fault]) -> None:
    """All files that git knows or would add, into ``folder``, with ``faults`` behind switches."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
    shutil.copyfile(Path(__file__).with_name("planted.py"), folder / "planted.py")
    for file in {fault.file for fault in faults.values()}:
        mine = {number: fault for number, fault in faults.items() if fault.file == file}
        (folder / file).write_text(switched((ROOT / file).read_text(encoding="utf-8"), mine), encoding="utf-8")


WAITING = 900  # seconds by the clock beyond ten times the patience, after which what does not end only waits


@dataclass(frozen=True)
class Task:
    """Something to do in a fork.

    Attributes:
        do: there.
        done: here with its exit code, None if it was killed.
        patience: seconds of processor time, the same whatever else the machine does; by the clock much longer.
    """

    do: Callable[[], int]
    done: Callable[[int | None], None]
    patience: float


def in_forks(tasks: Iterable[Task], jobs: int) -> None:
    """Do ``tasks``, ``jobs`` at a time."""
    waiting, running = iter(tasks), dict[int, tuple[Task, float]]()
    while True:
        while len(running) < jobs and (task := next(waiting, None)) is not None:
            running[_forked(task)] = task, time.monotonic() + WAITING + 10 * task.patience
        if not running:
            return
        for child, (task, end) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() < end:
                continue
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # with what it has started
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            del running[child]
            code = os.waitstatus_to_exitcode(status) if ended else None
            task.done(None if code == -signal.SIGXCPU else code)
        time.sleep(0.02)


def _forked(task: Task) -> int:
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()  # a group of its own, which can be ended as a whole
            most = math.ceil(task.patience)
            resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))  # of each process that it starts, too
            silent = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(silent, number)
            code = task.do()
        finally:
            os._exit(code)
    return child


def run_pytest(folder: Path, tests: Sequence[str], plugin: object) -> int:
    """pytest in this process, in ``folder``, with the code of that folder and no other."""
    for name in list(sys.modules):
        if name.split(".")[0] in OURS or name.startswith("test_"):
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "tests")]
    os.chdir(folder)
    options = ["-c", str(folder / "pyproject.toml"), "-o", "addopts=", "-s", "--continue-on-collection-errors"]
    left_out = [f"-pno:{name}" for name in ("cacheprovider", "xdist", "terminal", "faulthandler")]
    return int(pytest.main([*options, *left_out, *tests], plugins=[plugin]))


class Warm:
    """Plugin of pytest that collects the tests and then hands them to ``work`` instead of running them."""

    def __init__(self, work: Callable[[Warm], None]) -> None:
        self.work = work
        self.items: dict[str, pytest.Item] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Once, in place of pytest's own loop."""
        self.items = {item.nodeid: item for item in session.items}
        self.work(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each of the three parts of a test."""
        if report.failed or report.skipped:
            self.failed.add(report.nodeid)

    def run(self, names: Sequence[str], first_failure: bool, after: Callable[[str], None] = lambda name: None) -> None:
        """Run tests in this process, in this order; ``after`` each."""
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            after(item.nodeid)
            if first_failure and self.failed:
                return

    def show(self, number: int, names: Sequence[str], out: Path) -> int:
        """Run tests with a fault switched on until one fails: 1, and its name in ``out``."""
        import planted  # type: ignore[import-not-found]  # the copy's

        planted.active = number
        os.environ["PLANTED_FAULT"] = str(number)  # for the processes that tests start
        self.run(names, first_failure=True)
        if self.failed:
            out.write_text(min(self.failed), encoding="utf-8")
        return int(bool(self.failed))


class Reach:
    """Which faults each test reaches, and how long it takes; of fixtures that tests share, all tests that use them."""

    def __init__(self, warm: Warm) -> None:
        self.warm = warm
        self.shared: dict[str, set[int]] = {}
        self.found: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Any:
        """Around the making of each fixture."""
        import planted

        before = set(planted.seen)
        planted.seen.clear()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.shared.setdefault(fixturedef.argname, set()).update(planted.seen)
            planted.seen.update(before)

    def look(self, names: Sequence[str], out: Path, faults: Mapping[int, str]) -> int:
        """Run the tests ``names``, and write what was found; ``faults`` names those of a number."""
        import planted

        next(iter(self.warm.items.values())).config.pluginmanager.register(self)
        planted.seen.clear()
        started = sum(os.times()[:4])
        elsewhere = out.with_suffix(".seen")
        os.environ["PLANTED_SEEN"] = str(elsewhere)

        def after(name: str) -> None:
            nonlocal started
            used = (self.shared.get(fixture, set()) for fixture in getattr(self.warm.items[name], "fixturenames", ()))
            there = map(int, elsewhere.read_text(encoding="utf-8").split()) if elsewhere.is_file() else ()
            reached = [faults[number] for number in sorted(set().union(planted.seen, there, *used))]
            elsewhere.unlink(missing_ok=True)
            if name not in self.warm.failed:
                self.found[name] = {"seconds": round(sum(os.times()[:4]) - started, 3), "faults": reached}
            planted.seen.clear()
            started = sum(os.times()[:4])

        self.warm.run(names, first_failure=False, after=after)
        facts = {"tests": self.found, "left out": sorted(self.warm.failed), "planted": list(faults.values())}
        out.write_text(json.dumps(facts), encoding="utf-8")
        return 0


class UntilFailure:
    """Plugin of pytest that ends a run at the first failure and says which it was."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """After each of the three parts of a test."""
        if report.failed:
            self.out.write_text(report.nodeid, encoding="utf-8")
            os._exit(1)


def shown_from_import(folder: Path, number: int, names: Sequence[str], out: Path) -> int:
    """As :meth:`Warm.show`, in a process that has not imported the project yet."""
    os.environ["PLANTED_FAULT"] = str(number)
    return run_pytest(folder, names, UntilFailure(out))
