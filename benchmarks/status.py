"""What is done, failed, collapsed, skipped and missing.

    python -m benchmarks.status
    python -m benchmarks.status NAME       only the sweep NAME

A cell is missing when a sweep set out to compute it and no record of it exists yet.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import end
from benchmarks.labels import label
from benchmarks.manifest import Manifest, read_manifests
from benchmarks.paths import Paths
from benchmarks.records import Record, Store
from benchmarks.tables import Table, one_line, output_console
from methods.errors import BadInput

STATES = ("done", "failed", "collapsed", "skipped", "missing")
Group = tuple[str, str, str]


def counts(records: Sequence[Record], manifests: Sequence[Manifest]) -> dict[Group, Counter[str]]:
    """Cells by (data set, model, method) and state."""
    table: dict[Group, Counter[str]] = defaultdict(Counter)
    for record in records:
        table[record.dataset, record.model, record.method][record.status] += 1
    known = {record.key for record in records}
    planned = {cell.key: cell for manifest in manifests for cell in manifest.cells}
    for key, cell in planned.items():
        if key not in known:
            table[cell.dataset, cell.model, cell.method]["missing"] += 1
    return dict(sorted(table.items()))


def reasons(records: Sequence[Record]) -> list[list[str]]:
    """For each state but done: how often, for which method, why, and the seeds."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for record in records:
        if record.status != "done":
            why = one_line(record.reason or "")
            groups[record.status, record.dataset, record.model, label(record), why].append(record.seed)
    return [
        [status, f"{dataset} · {model}", method, ",".join(map(str, sorted(set(seeds)))), str(len(seeds)), why]
        for (status, dataset, model, method, why), seeds in sorted(groups.items())
    ]


def tables(records: Sequence[Record], manifests: Sequence[Manifest]) -> list[Table]:
    """The table of counts, and the table of reasons where there are any."""
    table = counts(records, manifests)
    rows = [[*group, *(str(number[state] or "·") for state in STATES)] for group, number in table.items()]
    total = sum(table.values(), Counter[str]())
    rows.append(["all", "", "", *(str(total[state]) for state in STATES)])
    words = {"data set", "model", "method"}
    found = [Table("Cells", ["data set", "model", "method", *STATES], rows, left=words)]
    explained = reasons(records)
    if explained:
        columns = ["state", "cell", "method", "seeds", "n", "reason"]
        found.append(Table("Why", columns, explained, left=set(columns) - {"n"}))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.status``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.status", description="Show the state of all cells.")
    parser.add_argument("sweep", nargs="?", default=None, help="the name of one sweep; all unless given")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    chosen = parser.parse_args(arguments)
    paths, console = Paths(chosen.results), output_console()
    records, problems = Store.of(paths).load()
    manifests, faults = read_manifests(paths.runs)
    if chosen.sweep is not None:
        named = [manifest for manifest in manifests if manifest.name == chosen.sweep]
        if not named:
            names = ", ".join(manifest.name for manifest in manifests) or "none yet"
            raise BadInput(f"No sweep named {chosen.sweep!r} in {chosen.results}; there are: {names}.")
        manifests, keys = named, {cell.key for manifest in named for cell in manifest.cells}
        records = [record for record in records if record.key in keys]
    for problem in (*problems, *faults):
        console.print(f"left out: {problem}", markup=False)
    if not records and not any(manifest.cells for manifest in manifests):
        console.print(f"No cells in {chosen.results} yet. Start some: python run.py -m method=spectral,random")
        return 0
    for table in tables(records, manifests):
        table.show(console)
    for manifest in manifests:
        missing = sum(cell.key not in {record.key for record in records} for cell in manifest.cells)
        if missing:
            console.print(f"{missing} missing of {manifest.name}; go on with: {manifest.command}", markup=False)
    return 0


if __name__ == "__main__":
    end(main)
