"""Plants small faults in the code, one at a time, and tells which of them no test notices: ``python -m tests.mutate``.

About 330 faults are planted where a wrong number of the benchmark could come from: a comparison or an argument swapped,
a constant off by one, a statement or a ``not`` removed, another attribute of the same object. First every test says
which lines of these files it runs; then a fault is shown to the tests that run its line, the nearest and quickest
first. All of it happens in forks of one warm process and in copies of the working tree. What has been found is kept in
.cache/mutate: a run goes on where the last one was cut short, and repeats what a changed file or test may have changed.
tests/survivors.toml lists the survivors that are known, with reasons. Meant for a night or for a changed file, not for
every commit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.mutation.faults import Fault, chosen, files_of
from tests.mutation.running import (
    ROOT,
    Reach,
    Task,
    Warm,
    copied,
    in_forks,
    run_pytest,
    shown_from_import,
    warm_up,
)
from tests.mutation.wiring import named, unnoticed

KNOWN = Path(__file__).with_name("survivors.toml")
KEPT = ROOT / ".cache" / "mutate"
WANTED = 0.9  # of the faults must be caught
UNENDING = "a time limit"  # what catches a fault with which a test does not end

# Where faults are planted: group of the report -> files.
TARGETS = {
    "cell": ("benchmarks/cells/*.py",),
    "trainer": ("benchmarks/training/[!d]*.py",),
    "dense": ("benchmarks/training/dense.py",),
    "readers": ("benchmarks/data/*.py",),
    "boards": ("benchmarks/boards/*.py",),
    "records": ("benchmarks/records/keys.py", "benchmarks/records/store.py"),
    "budget": ("methods/budgets/*.py",),
    "pruner": (
        "methods/pruner.py",
        "methods/pruning/*.py",
        "methods/pruning/nodes.py",
        "methods/pruning/edges.py",
        "methods/pruned.py",
        "methods/selection.py",
        "methods/allocation.py",
    ),
    "schedule": ("methods/schedule.py", "methods/hooks.py", "methods/seeds.py"),
    "compensation": ("methods/compensation.py", "methods/layers/*.py"),
}
# The tests that faults are shown to: those of the same rooms and of what is made of them.
SUITE = (
    *(
        "tests/benchmarks/boards/*",
        "tests/benchmarks/cells/*",
        "tests/benchmarks/data/*",
        "tests/benchmarks/training/*",
    ),
    *("tests/benchmarks/records/*", "tests/methods/budgets/*", "tests/methods/layers/*", "tests/methods/*"),
    *("tests/methods/curvature/test_curvature.py", "tests/secateurs/test_prune.py", "tests/secateurs/test_storing.py"),
    # layers that are written out before they are pruned
    *("tests/methods/network/test_attention_layers.py", "tests/methods/network/test_recurrent_layers.py"),
    "tests/methods/network/test_rewinding_written_out.py",
    "tests/methods/structured/test_pfp.py",  # of shares of what a layer reads
)


@dataclass(frozen=True)
class Verdict:
    """What became of one fault: the test that fails with it, or None; ``reachable`` is False if none runs its place."""

    fault: Fault
    by: str | None
    reachable: bool = True


def targets(patterns: Iterable[str]) -> list[str]:
    """Source files, sorted, that match."""
    found = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(file for file in found if not file.endswith("__init__.py"))


def group_of(file: str) -> str:
    """The row of the report that ``file`` is counted in."""
    return next(name for name, patterns in TARGETS.items() if any(fnmatch(file, pattern) for pattern in patterns))


def suite() -> list[str]:
    """The test files that faults are shown to."""
    found = {
        path for pattern in SUITE for path in ROOT.glob(pattern) if path.name.startswith("test_") and path.is_file()
    }
    return [str(path.relative_to(ROOT)) for path in sorted(found)]


def known(path: Path = KNOWN) -> dict[tuple[str, str], str]:
    """Survivors that are looked at already: (file, fault) -> the reason why no test can or should notice."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", []) if path.is_file() else []
    return {(entry["file"], entry["fault"]): entry["reason"] for entry in entries}


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _near(file: str, test_file: str) -> bool:
    """Whether a test file is of the room of a source file, or named after it."""
    return str(Path(test_file).parent) == f"tests/{Path(file).parent}" or Path(file).stem in Path(test_file).stem


def _text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


class Kept:
    """What earlier runs found, in a folder: which faults tests reach, and what became of faults."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.verdicts_file = folder / "verdicts.jsonl"
        self.read()

    def read(self) -> None:
        """What is in the file by now."""
        lines = self.verdicts_file.read_text(encoding="utf-8").splitlines() if self.verdicts_file.is_file() else []
        self.verdicts = {entry["key"]: entry for entry in map(json.loads, lines)}

    def reach_file(self, test_file: str) -> Path:
        """Named by the test file's text."""
        return self.folder / f"reach-{Path(test_file).stem}-{_digest(_text(test_file))}.json"

    def reach(self, test_file: str, faults: Iterable[Fault]) -> dict[str, Any] | None:
        """What is known of a test file; None if it has changed, or faults of its room are new."""
        if not (path := self.reach_file(test_file)).is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        names = set(found["planted"])
        new = {fault.file for fault in faults if f"{fault.file} {fault.name}" not in names}
        return None if any(_near(file, test_file) for file in new) else found

    def add(self, key: str, **facts: object) -> None:
        """Keep a verdict at once."""
        self.verdicts[key] = {"key": key, **facts}
        with self.verdicts_file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(self.verdicts[key]) + "\n")


class Judge:
    """Shows faults to the tests that could notice them.

    Args:
        planted: the faults, by number.
        kept: results of earlier runs.
        folder: the copy of the tree.
        jobs: at the same time.
        seconds: of tests, at most, that a fault is shown to; twice that for those of the same room.
    """

    def __init__(self, planted: Mapping[int, Fault], kept: Kept, folder: Path, jobs: int, seconds: float) -> None:
        self.planted, self.kept, self.folder, self.jobs, self.seconds = planted, kept, folder, jobs, seconds
        self.names = {number: f"{fault.file} {fault.name}" for number, fault in planted.items()}
        self.tests: dict[str, tuple[float, set[int]]] = {}
        self.done = 0

    def judge(self, at_import: bool, warm: Warm | None = None) -> None:
        """All faults that are not judged yet, of one of the two sorts."""
        numbers = [number for number, fault in self.planted.items() if fault.site.at_import == at_import]
        in_forks(self._tasks(numbers, warm), self.jobs)

    def map_tests(self, warm: Warm) -> None:
        """Find out which faults every test of the suite reaches, unless it is known."""
        by_file: dict[str, list[str]] = {}
        for name in warm.items:
            by_file.setdefault(name.partition("::")[0], []).append(name)
        faults = self.planted.values()
        new = {file: names for file, names in by_file.items() if self.kept.reach(file, faults) is None}
        tasks = []
        for number, (file, names) in enumerate(new.items(), 1):
            out = self.kept.reach_file(file)
            tasks.append(
                Task(
                    lambda names=names, out=out: Reach(warm).look(names, out, self.names),
                    lambda code, file=file, number=number: _say(f"[{number}/{len(new)}] {file}: {_told(code)}"),
                    patience=1800,
                )
            )
        in_forks(tasks, self.jobs)

    def read_map(self) -> None:
        """What :meth:`map_tests` found."""
        number = {name: number for number, name in self.names.items()}
        for file in suite():
            found = self.kept.reach(file, self.planted.values()) or {"tests": {}}
            for name, facts in found["tests"].items():
                self.tests[name] = facts["seconds"], {number[fault] for fault in facts["faults"] if fault in number}

    def witnesses(self, number: int) -> list[str]:
        """The tests that reach a fault, first those of the same room, the quickest first."""
        fault = self.planted[number]
        same_file = {other for other, fault_there in self.planted.items() if fault_there.file == fault.file}
        at_large = fault.site.at_import and not any(number in reached for _, reached in self.tests.values())
        found = []
        for name, (seconds, reached) in self.tests.items():
            if number in reached or (at_large and reached & same_file):
                file = name.partition("::")[0]
                stem, mine = Path(fault.file).stem, Path(file).stem.removeprefix("test_")
                far = not _near(fault.file, file)
                found.append((far, mine not in stem and stem not in mine, seconds, name))
        limits, picked = {False: 2 * self.seconds, True: self.seconds}, []
        for far, _, seconds, name in sorted(found):
            if limits[far] > 0:
                limits[far] -= seconds
                picked.append(name)
        return picked

    def verdict(self, number: int) -> Verdict | None:
        """What is known of a fault; None if its tests have to run."""
        fault, tests = self.planted[number], self.witnesses(number)
        if not tests:
            return Verdict(fault, None, reachable=False)
        entry = self.kept.verdicts.get(_digest(fault.file, fault.code))
        if entry and (entry["shown"] == self._shown(tests) or self._still_there(entry)):
            return Verdict(fault, entry["by"])
        return None

    def _tasks(self, numbers: Sequence[int], warm: Warm | None) -> Iterator[Task]:
        for number in numbers:
            if self.verdict(number) is None:
                names, out = self.witnesses(number), self.folder / f".failed-{number}"
                do = (
                    (lambda n=number, names=names, out=out: warm.show(n, names, out))
                    if warm
                    else (lambda n=number, names=names, out=out: shown_from_import(self.folder, n, names, out))
                )
                patience = 30 + 5 * sum(self.tests[name][0] for name in names)
                yield Task(do, lambda code, n=number, out=out: self._note(n, code, out), patience)
            else:
                self._count(number)

    def _note(self, number: int, code: int | None, out: Path) -> None:
        fault, names = self.planted[number], self.witnesses(number)
        by = out.read_text(encoding="utf-8") if out.is_file() else None
        if code is None:
            by = UNENDING
        elif code and by is None:
            by = "a crash"
        witness = _digest(_text(by.partition("::")[0])) if by and "::" in by else None
        key = _digest(fault.file, fault.code)
        self.kept.add(key, file=fault.file, fault=fault.name, shown=self._shown(names), by=by, witness=witness)
        if by is None:
            _say(f"survives: {fault.file}:{fault.line}: {fault.name}")
        self._count(number)

    def _count(self, number: int) -> None:
        self.done += 1
        if self.done % 20 == 0:
            _say(f"[{self.done}/{len(self.planted)}]")

    @staticmethod
    def _shown(names: Sequence[str]) -> str:
        return _digest(*names, *(_text(file) for file in dict.fromkeys(name.partition("::")[0] for name in names)))

    @staticmethod
    def _still_there(entry: Mapping) -> bool:
        """Whether a fault was caught by a test whose file is what it was."""
        if entry["by"] is None or not entry["witness"]:
            return False
        path = entry["by"].partition("::")[0]
        return (ROOT / path).is_file() and _digest(_text(path)) == entry["witness"]


def _told(code: int | None) -> str:
    return "looked at" if code == 0 else "could not be run"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def report(verdicts: Sequence[Verdict], reasons: Mapping[tuple[str, str], str]) -> int:
    """Print the table and the survivors; 1 if too few are caught or a survivor has no reason yet."""
    rows: dict[str, list[int]] = {name: [0, 0, 0] for name in TARGETS}
    new = []
    for verdict in verdicts:
        fault, row = verdict.fault, rows[group_of(verdict.fault.file)]
        row[0] += 1
        row[1] += verdict.by is not None
        listed = (fault.file, fault.name) in reasons
        row[2] += listed and verdict.by is None
        if verdict.by == UNENDING:
            _say(f"caught by {UNENDING} of processor time: {fault.file}:{fault.line}: {fault.name}")
        if listed and verdict.by is not None:
            _say(f"listed in {KNOWN.name}, but caught by {verdict.by}: {fault.file}: {fault.name}")
        if not listed and verdict.by is None:
            new.append(verdict)
    _say("\n| where | planted | caught | share | known survivors |\n| :-- | --: | --: | --: | --: |")
    sums = [sum(column) for column in zip(*rows.values(), strict=True)]
    for name, (planted, caught, listed) in [*rows.items(), ("all", sums)]:
        if planted:
            _say(f"| {name} | {planted} | {caught} | {caught / planted:.0%} | {listed} |")
    for verdict in new:
        why = "" if verdict.reachable else " (no test runs this line)"
        _say(f"survives: {verdict.fault.file}:{verdict.fault.line}: {verdict.fault.name}{why}")
    return int(sums[1] < WANTED * sums[0] or bool(new))


def main(arguments: Sequence[str] | None = None) -> int:
    """Plant, run, report; exit code 1 if fewer than nine in ten are caught or a survivor is not on the list."""
    every = targets(pattern for patterns in TARGETS.values() for pattern in patterns)
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("files", nargs="*", help="source files to plant faults in (all that the suite guards)")
    parser.add_argument("--count", type=int, default=330, help="faults to plant (330)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among all possible faults (0)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="at the same time")
    parser.add_argument("--seconds", type=float, default=20, help="of tests from other rooms for each fault (20)")
    parser.add_argument("--wiring", action="store_true", help="the faults of tests/wiring.toml instead")
    parser.add_argument("--list", action="store_true", help="name the faults, and run nothing")
    given = parser.parse_args(arguments)
    if strange := [file for file in given.files if file not in every]:
        parser.error(f"no faults are planted in {strange[0]}; choose from: {', '.join(every)}")
    if given.wiring:
        warm_up()
        return int(bool(unnoticed(named(), _say)))
    planted = chosen(given.count, given.seed, files_of(ROOT, given.files or every))
    if given.list:
        for fault in planted:
            _say(f"{fault.file}:{fault.line}: {fault.kind}: {fault.name}")
        return 0
    return report(judged(planted, Kept(KEPT), given.jobs, given.seconds), known())


def judged(planted: Sequence[Fault], kept: Kept, jobs: int, seconds: float) -> list[Verdict]:
    """The verdict on each fault."""
    warm_up()
    numbered = dict(enumerate(planted))
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name).resolve()
        copied(folder, numbered)
        judge = Judge(numbered, kept, folder, jobs, seconds)

        def work(warm: Warm) -> None:
            judge.map_tests(warm)
            judge.read_map()
            judge.judge(False, warm)

        started = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                run_pytest(folder, suite(), Warm(work))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        kept.read()
        judge.read_map()
        judge.judge(True)
        _say(f"{time.monotonic() - started:.0f} s")
        return [verdict for number in numbered if (verdict := judge.verdict(number)) is not None]


if __name__ == "__main__":
    sys.exit(main())
