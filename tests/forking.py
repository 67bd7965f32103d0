"""A process that has carried out some commands already, and forks itself for each further one.

What costs a command its second or two (imports, Hydra's look for plug-ins, grammars) is done once. A command that is
still for too long is ended, and the answer says so: for processor time, so that a busy machine is no fault, or for a
longer time by the clock where it only waits.
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as pipe
from pathlib import Path

import warm

SILENT = 10.0  # seconds of processor time without a letter
WAITING = 60.0  # seconds by the clock without a letter
MODULES = (
    "benchmarks.boards.rendering",
    "benchmarks.cells.parts",
    "benchmarks.models.build",
    "benchmarks.reproduce",
    "benchmarks.sweeps.run_command",
    "benchmarks.training.weights",
    "secateurs.testing",
)


@dataclass(frozen=True)
class Answer:
    """What a command answered.

    Attributes:
        code: its exit code, negative for a signal.
        out, err: what it wrote.
        silent: whether it was ended because it was still for too long.
        seconds: of processor time.
    """

    command: str
    code: int
    out: str
    err: str
    silent: bool
    seconds: float


class Forking:
    """The process; a context manager.

    Args:
        environment: of the commands.
        folder: for their output.
        first: words for run.py that it carries out itself, to have done what is done once.
        place: where commands are typed; ``folder`` unless given.
    """

    def __init__(
        self, environment: Mapping[str, str], folder: Path, first: Sequence[Sequence[str]], place: Path | None = None
    ) -> None:
        self.there, self.here = pipe()
        words = [list(each) for each in first]
        self.process = warm.process(_serve, self.here, dict(environment), folder, words, place or folder)
        self.here.close()

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *_: object) -> None:
        self.there.close()
        self.process.join(10)
        self.process.kill()
        self.process.join()

    def __call__(self, module: str, words: Sequence[str]) -> Answer:
        """``python -m MODULE WORDS...``; ``run`` is run.py."""
        self.there.send((module, list(words)))
        return self.there.recv()


def _serve(
    connection: Connection, environment: dict[str, str], folder: Path, first: list[list[str]], place: Path
) -> None:
    os.chdir(warm.ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(warm.ROOT))
    for name in MODULES:
        importlib.import_module(name)
    quiet = os.open(os.devnull, os.O_WRONLY)
    before = [os.dup(1), os.dup(2)]
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    from benchmarks.sweeps.run_command import main

    for words in first:
        main(words)
    os.chdir(place)
    sys.stdout.flush()
    os.dup2(before[0], 1), os.dup2(before[1], 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError):
        while True:
            connection.send(_answer(*connection.recv(), folder))


def _answer(module: str, words: list[str], folder: Path) -> Answer:
    out, err = folder / "stdout", folder / "stderr"
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run(module, words, out, err)
    silent = _watch(child, (out, err))
    _, status, used = os.wait4(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it may have started
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
    command = "run.py" if module == "run" else f"-m {module}"
    seconds = used.ru_utime + used.ru_stime
    return Answer(f"python {command} {words}", os.waitstatus_to_exitcode(status), *texts, silent, seconds)


def _watch(child: int, files: Sequence[Path]) -> bool:
    """Wait until ``child`` has ended, or end it when it is silent for too long; whether it was."""
    said, spoke, used = -1, time.monotonic(), 0.0
    while True:
        found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return False
        size = sum(path.stat().st_size for path in files if path.exists())
        now = _processor_time(child)
        if size != said:
            said, spoke, used = size, time.monotonic(), now
        if now - used > SILENT or time.monotonic() - spoke > WAITING:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
                os.kill(child, signal.SIGKILL)
            return True
        time.sleep(0.005)


def _processor_time(process: int) -> float:
    """Seconds that ``process`` and its ended children have used."""
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _run(module: str, words: list[str], out: Path, err: Path) -> None:
    """In the child: run the command and leave."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(n, "w" if n else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            for n in range(3)
        )
        sys.argv = ["run.py" if module == "run" else module, *words]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                sys.stderr.write(f"{end.code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
