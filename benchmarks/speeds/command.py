"""How soon the command line answers: help, and a mistake; whole processes, compared with an empty Python process."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.storage.paths import REPOSITORY

PROMISE = Promise(seconds=1.5)


def measure(quick: bool) -> Iterator[Finding]:
    """Time whole processes, as the shell sees them."""
    for words, code, answer in (
        (["--help"], 0, "Groups"),
        (["method=spectrl"], 2, "choose from"),
        (["-m", "method=spectral,random", "model=lenet6"], 2, "choose from"),
    ):
        outcome = _run("run.py", *words)
        [times] = alternate(partial(_run, "run.py", *words), lambda: _run("-c", ""), pairs=2 if quick else 7, warm_up=0)
        answered = outcome.returncode == code and answer in outcome.stdout + outcome.stderr
        yield Finding(
            f"python run.py {' '.join(words)}",
            times,
            "python -c ''",
            None if quick else PROMISE,
            None if answered else False,
            "" if answered else f"unexpected answer, exit code {outcome.returncode}",
        )


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
