"""What a cell costs beyond training, pruning and latency timing: configuration, data, scores, record, tracking.

Cells of the demo's size run one after the other in one process with their dense network already there, as in a sweep;
their own training and pruning seconds are taken off, latency is not timed. The first cell of a process, which also
imports libraries, is not counted.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cells.cell import run
from benchmarks.measure.side_by_side import Finding, Promise, Times
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

PROMISE = Promise(seconds=0.5)


def measure(quick: bool) -> Iterator[Finding]:
    """Time cells with offline tracking, compared with the same cells without tracking."""
    with tempfile.TemporaryDirectory() as folder:
        composer = Composer(CONF)
        tracked, bare = [], []
        for number in range(3 if quick else 8):
            theta = number / 16
            tracked.append(_fixed_seconds(composer, Path(folder), theta, ["track=wandb"]))
            bare.append(_fixed_seconds(composer, Path(folder), theta + 1 / 32, ["track=none"]))
    yield Finding(
        "fixed cost of a cell (digits), tracked offline",
        Times.of(tracked[1:], bare[1:]),
        "the same without tracking",
        None if quick else PROMISE,
        None,
        "without its training, pruning and latency timing",
    )


def _fixed_seconds(composer: Composer, folder: Path, theta: float, words: Sequence[str]) -> float:
    started = time.perf_counter()
    config = composer.cell(
        [
            "trainer=tiny",
            "measure=none",
            "method=spectral",
            f"selection.theta={theta}",
            f"paths.results={folder}/results",
            f"paths.cache={folder}/cache",
            *words,
        ]
    )
    record = run(config)
    spent = time.perf_counter() - started
    if record.status != "done":
        raise BadInput(f"the measured cell did not end well: {record.status}, {record.reason}")
    pruning, tuning = record.cost.prune_seconds, record.cost.tune_seconds
    assert pruning is not None and tuning is not None  # a cell that is done has both
    return spent - pruning - tuning
