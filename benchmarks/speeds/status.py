"""The time to show the state of very many cells: ``python -m benchmarks.status`` and ``--watch``.

A process of its own looks again and again at 20,000 generated records, of which one is new each time, and prints all
tables; compared with looks that read every record. The first look, which reads them all, is not counted.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure.side_by_side import Finding, Promise, Times, as_seconds
from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.keys import cell_key
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.speeds._settings import composed
from benchmarks.storage.paths import REPOSITORY, Paths

PROMISE = Promise(seconds=1.0, megabytes=300)
METHODS = ("spectral", "dpp", "magnitude", "random", "thinet")
LOOK = """
import io, json, sys, time
from pathlib import Path
from rich.console import Console
from benchmarks.boards.labels import label
from benchmarks.records.kept import Kept
from benchmarks.records.store import Store
from benchmarks.status import show, state
from benchmarks.storage.paths import Paths

results, looks, again = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "again"
paths, kept, seconds, processor = Paths(results), None, [], []
new = sorted(results.glob("new/*.json"))
for number in range(looks + 1):
    if kept is None or not again:
        kept = Kept(Store.of(paths), label)
    started, used = time.perf_counter(), time.process_time()
    found = state(paths, kept)
    show(found, results, Console(file=io.StringIO(), width=120))
    seconds.append(time.perf_counter() - started)
    processor.append(time.process_time() - used)
    if again and number < looks:
        new[number].replace(paths.runs / "digits" / "mlp" / new[number].name)
memory = Path("/proc/self/status")
lines = memory.read_text().splitlines() if memory.exists() else []
highest = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)
counts = sorted((one.key, one.status) for one in found.records)
used = {"seconds": seconds, "processor": processor, "megabytes": highest}
print(json.dumps({**used, "cells": len(counts), "last": counts[-1]}))
"""


def measure(quick: bool) -> Iterator[Finding]:
    """Time a look at 20,000 records, or at 400 when quick."""
    number, looks = (400, 2) if quick else (20_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        generate(results, number, looks)
        ours = _looks(results, looks, "again")
        theirs = _looks(results, 0, "anew")
    times = Times.of(ours["seconds"][1:], theirs["seconds"] * looks)
    highest = ours["megabytes"]
    processor = as_seconds(median(ours["processor"][1:]))
    memory = "" if highest is None else f"largest memory of that process {highest:.0f} MB; "
    yield Finding(
        f"status: a look at {number:,} records, one of them new",
        replace(times, megabytes=ours["megabytes"]),
        "reading all of them",
        None if quick else PROMISE,
        (ours["cells"], ours["last"]) == (theirs["cells"], theirs["last"]) and ours["cells"] == number + looks,
        f"{memory}{processor} of processor time; same result: the same cells and states",
    )


def generate(results: Path, number: int, more: int = 0) -> None:
    """Put ``number`` records as a sweep leaves them under ``results``, and ``more`` to be added later into ``new``."""
    store = Store.of(Paths(results))
    (results / "new").mkdir(parents=True)
    bases = [composed(f"method={method}", "dataset=digits") for method in METHODS]
    figures = {"accuracy": 0.97, "top5": 1.0, "loss": 0.1, "parameters": 101_710, "nonzero": 101_710, "macs": 101_110}
    epochs = [{"epoch": float(epoch), "train_loss": 1 / epoch, "validation_accuracy": 0.9} for epoch in range(1, 21)]
    for seed in range(number + more):
        config = {**bases[seed % len(bases)], "seed": seed}
        values = cell_fields(config, cell_key(config)) | {
            "status": "failed" if seed % 50 == 49 else "done",
            "reason": "it was cut short" if seed % 50 == 49 else None,
            "metrics": {"dense": figures, "pruned": figures, "tuned": figures},
            "layers": [{"name": str(layer), "units": 300, "kept": 60} for layer in range(3)],
            "history": {"train": epochs, "finetune": epochs[:5]},
            "cost": {"prune_seconds": 1.0, "tune_seconds": 2.0},
        }
        record = Record.model_validate(values)
        path = store.path_of(record) if seed < number else results / "new" / f"{record.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.text(), encoding="utf-8")  # 20,000 of them: not each of them forced onto the disk


def _looks(results: Path, number: int, how: str) -> dict[str, Any]:
    """What a process of its own found at ``number`` looks after the first."""
    command = [sys.executable, "-c", LOOK, str(results), str(number), how]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"looking failed: {done.stderr}")
    return json.loads(done.stdout)
