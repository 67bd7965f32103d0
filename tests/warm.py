"""Commands in processes forked from one that has imported what they need: the same code without seconds of imports.

What is decided while those modules are imported (variables of the environment, mostly) is the same for every command,
and what is registered with ``atexit`` does not run at its end; tests of either start a new interpreter.
"""

import functools
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = [
    *(
        "benchmarks.cells.cell",
        "benchmarks.sweeps.run_command",
        "benchmarks.storage.entry_point",
        "benchmarks.sweeps.sweep",
        "benchmarks.boards.board",
    ),
    *(
        "benchmarks.sweeps.application",
        "benchmarks.sweeps.callbacks",
        "lightning_fabric",
        "pandas",
        "scipy.stats",
        "sklearn.datasets",
    ),
    *("torch._dynamo", "torch.utils.flop_counter", "torch_pruning"),
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


@functools.cache
def _started() -> None:
    """Starts the server in the root of the project: elsewhere its imports fail, and it says nothing of it.

    Raises:
        RuntimeError: A module is missing in what the server forks.
    """
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        result = _context.SimpleQueue()
        process = _context.Process(target=_missing, args=(result,))
        process.start()
        process.join(120)
        missing = ["anything"] if result.empty() else result.get()
    finally:
        os.chdir(here)
    if missing:
        raise RuntimeError(f"the server of warm processes could not import {', '.join(missing)}")


def process(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """A started process that calls ``target``, a function of a module."""
    _started()
    started = _context.Process(target=target, args=arguments)
    started.start()
    return started


def _missing(result: SimpleQueue) -> None:
    result.put([name for name in IMPORTED if name not in sys.modules])


def run(
    script: str, words: list[str], environment: dict[str, str], folder: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """``python SCRIPT WORDS...`` in the root of the project, with its output in files of ``folder`` meanwhile."""
    return start(script, words, environment, folder).wait(timeout)


def start(script: str, words: list[str], environment: dict[str, str], folder: Path) -> "Started":
    """The same, not waited for."""
    out, err = folder / "stdout", folder / "stderr"
    for path in (out, err):
        path.write_bytes(b"")
    return Started([script, *words], process(_child, script, words, environment, out, err), out, err)


@dataclass
class Started:
    """A command that runs."""

    command: list[str]
    process: BaseProcess
    out: Path
    err: Path

    def wait(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """What it ended with.

        Raises:
            TimeoutExpired: after ``timeout`` seconds; it is killed.
        """
        self.process.join(timeout)
        if self.process.is_alive():
            self.kill()
            raise subprocess.TimeoutExpired(self.command, timeout, self.out.read_text(), self.err.read_text())
        return subprocess.CompletedProcess(
            self.command, self.process.exitcode, self.out.read_text(), self.err.read_text()
        )

    def kill(self) -> None:
        """End it if it has not ended; at its own end this process would wait for it."""
        self.process.kill()
        self.process.join()


def _child(script: str, words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = [script, *words]
    sys.path.insert(0, str(ROOT))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        threading._shutdown()  # an interpreter does so before multiprocessing waits for children: loky ends its workers
