"""How long a sweep of a thousand cells takes to plan, and to find that all of it is done; whole processes.

The records of the second part are copies of one that a cell of the demo's size has written, each with the fields of
its own cell. A sweep that ends has rendered the boards, so the process that finds everything done is timed after one
that has.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from benchmarks.measure.side_by_side import Finding, Promise, alone
from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.request import Request
from methods.errors import BadInput

PLANNING = Promise(seconds=15)
DONE = Promise(seconds=3)
METHODS = ("random", "magnitude", "spectral", "thinet")
TINY = ["trainer=tiny", "dataset=digits", "dataset.limit=300", "calibration.samples=64", "measure=none", "track=none"]


def measure(quick: bool) -> Iterator[Finding]:
    """Time planning with nothing remembered, and the same sweep again when it is done."""
    count, runs = (8, 1) if quick else (1000, 3)
    grid = [f"method={','.join(METHODS)}", f"seed=range(0,{count // len(METHODS)})", *TINY]
    with tempfile.TemporaryDirectory() as folder:
        answers: list[str] = []
        fresh = iter(range(runs))  # a cache for each run

        def plan() -> None:
            answers.append(_run([*grid, *_folders(folder, next(fresh)), "--dry-run"]))

        times = alone(plan, runs, warm_up=0)
        yield Finding(
            f"planning {count:,} cells (python run.py -m ... --dry-run)",
            times,
            "",
            None if quick else PLANNING,
            all(f"{count} cells of" in answer and answer.count("missing") == count for answer in answers),
        )
        own = [*grid, *_folders(folder, "done")]
        _write_records(own)
        answers.clear()
        times = alone(lambda: answers.append(_run(own)), runs, warm_up=1)
        yield Finding(
            f"the same {count:,} cells again when done, with their board (python run.py -m ...)",
            times,
            "",
            None if quick else DONE,
            all(f"{count} cells: {count} done already, 0 to run" in answer for answer in answers),
        )


def _folders(folder: str, name: object) -> list[str]:
    return [f"paths.results={folder}/results", f"paths.cache={folder}/cache-{name}"]


def _run(words: Sequence[str]) -> str:
    """Run ``python run.py -m`` with these words, and return its output.

    Raises:
        BadInput: the command fails.
    """
    command = [sys.executable, "run.py", "-m", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadInput(f"the measured command ended with {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


def _write_records(words: Sequence[str]) -> None:
    """A record for every cell that ``words`` ask for, as if it had been run."""
    composer = Composer(CONF)
    plan = make_plan(composer, Request(list(words), multirun=True))
    store, first = Store.of(plan.paths), plan.cells[0]
    _run(first.overrides)
    example = store.find(first.key)
    assert example is not None
    result = {name: value for name, value in example.model_dump().items() if name not in ("unsigned", "created")}
    for cell in plan.cells:
        if cell.key != first.key:
            head = cell_fields(composer.cell(cell.overrides), cell.key) | {"budget": result["budget"]}
            store.write(Record(**result | head))
