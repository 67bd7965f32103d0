"""Notes of the jobs of a search: a sweep whose cells a third-party sweeper chooses as it runs."""

from __future__ import annotations

import shutil
from contextlib import suppress

from hydra.core.hydra_config import HydraConfig

from benchmarks.records.manifest import FOLDER, PlannedCell
from benchmarks.records.schema import Record
from benchmarks.storage.paths import Paths, write_atomically

SEARCH = "SECATEURS_SEARCH"  # the name of the search, for its jobs; launchers hand the environment on to their workers


def note(paths: Paths, search: str, record: Record) -> None:
    """Note that the cell of ``record`` belongs to the search."""
    words = [word for word in HydraConfig.get().overrides.task if not word.startswith(("_sweep=", "_wait="))]
    head = record.model_dump(include={"key", "dataset", "model", "method", "seed"})
    cell = PlannedCell(**head, budget={kind: value for kind, value in record.budget.requested.items()}, overrides=words)
    write_atomically(paths.runs / FOLDER / search / f"{record.key}.json", cell.model_dump_json())


def noted(paths: Paths, search: str) -> list[PlannedCell]:
    """The cells of the search, each once, in the order in which they ended; their notes are removed."""
    folder = paths.runs / FOLDER / search
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    cells = [PlannedCell.model_validate_json(path.read_text(encoding="utf-8")) for path in files]
    with suppress(OSError):
        shutil.rmtree(folder)
    return cells
