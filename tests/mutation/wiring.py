"""The faults of tests/wiring.toml, each shown to the one test that promises to notice it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.running import ROOT, Task, UntilFailure, copied, in_forks, run_pytest

LISTED = ROOT / "tests" / "wiring.toml"
PATIENCE = 300  # seconds of processor time


@dataclass(frozen=True)
class Named:
    """A fault in words that occur once in a file, and its test.

    Attributes:
        promise: what the fault breaks.
        file: where.
        was: a text of the file.
        now: what stands there instead.
        test: pytest's name of the test.
    """

    promise: str
    file: str
    was: str
    now: str
    test: str


def named(path: Path = LISTED) -> list[Named]:
    """The list."""
    return [Named(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]]


def unnoticed(faults: Sequence[Named], say: Callable[[str], None]) -> list[Named]:
    """Those of ``faults`` whose test passes with them, or fails without."""
    missed: list[Named] = []
    with tempfile.TemporaryDirectory(prefix="wiring-") as name:
        folder = Path(name).resolve()
        copied(folder, {})
        sound = _exit_code(folder, sorted({fault.test for fault in faults}))
        if sound != 0:
            failed = folder / ".failed"
            which = failed.read_text(encoding="utf-8") if failed.is_file() else "a test of tests/wiring.toml"
            say(f"without any fault: {which} fails, or is not there")
            return list(faults)
        for number, fault in enumerate(faults, 1):
            path = folder / fault.file
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(fault.was, fault.now), encoding="utf-8")
            caught = _exit_code(folder, [fault.test]) != 0
            path.write_text(text, encoding="utf-8")
            shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
            if not caught:
                missed.append(fault)
            say(f"[{number}/{len(faults)}] {'noticed' if caught else 'NOT NOTICED'}: {fault.promise}")
    return missed


def _exit_code(folder: Path, tests: Sequence[str]) -> int | None:
    codes: list[int | None] = []

    def run() -> int:
        sys.dont_write_bytecode = True  # the next fault may come within the same second
        return run_pytest(folder, tests, UntilFailure(folder / ".failed"))

    in_forks([Task(run, codes.append, PATIENCE)], jobs=1)
    return codes[0]
