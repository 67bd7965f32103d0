"""Leaderboards: one table per (data set, model, budget), rendered from the records and from nothing else.

    python -m benchmarks.leaderboard
    python -m benchmarks.leaderboard --where "dataset == 'mnist' and budget == 'speedup'" --format terminal

A row is one method with one setting, averaged over seeds: n, mean and sample standard deviation. Cells that failed,
collapsed or did not apply are rows of their own, never gaps. The same records give the same files, byte for byte.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import end
from benchmarks.fingerprint import pace
from benchmarks.frame import select
from benchmarks.keys import dense_key, dense_part, identity, variant_key
from benchmarks.labels import distinctions, label
from benchmarks.paths import Paths, write_atomically
from benchmarks.records import Problem, Record, Store, flat
from benchmarks.stats import Spread, spread
from benchmarks.tables import (
    NONE,
    Table,
    csv_text,
    one_line,
    output_console,
    plus_minus,
    seconds,
    times,
    whole,
)
from methods.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("terminal", "md", "csv")
RULE = "on the test split; weights chosen by validation accuracy"
ORDER = ("done", "collapsed", "skipped", "failed")
QUANTITIES = (  # columns of the CSV, each as mean and standard deviation
    *(f"{stage}_{name}" for stage in ("pruned", "tuned") for name in ("accuracy", "top5", "loss")),
    *("parameters", "nonzero", "macs", "macs_effective", "compression", "speedup", "keep"),
    *("prune_seconds", "tune_seconds", "peak_memory_mb"),
)


@dataclass
class Row:
    """One line of a board: cells that differ in nothing but the seed and share a status."""

    name: str
    unit: str | None
    status: str
    n: int
    values: dict[str, Spread]
    reason: str | None = None


@dataclass
class Board:
    """The rows for one data set, model and budget; ``keys`` are the cells in it."""

    dataset: str
    model: str
    budget: str | None
    value: float | None
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    keys: frozenset[str] = frozenset()


def boards(records: Sequence[Record]) -> list[Board]:
    """All boards of ``records``, in a fixed order."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        kind, value = next(iter(record.budget.requested.items()), ("", 0.0))
        groups[record.dataset, record.model, kind, value].append(record)
    return [_board(groups[group]) for group in sorted(groups)]


def _board(records: list[Record]) -> Board:
    first = records[0]
    kind, value = next(iter(first.budget.requested.items()), (None, None))
    rows = [_row(name, cells) for name, cells in _named_groups(records)]
    metric, sign = ("tuned_accuracy", -1.0), ("pruned_accuracy", -1.0)
    if not any(row.values[metric[0]].n + row.values[sign[0]].n for row in rows):
        metric, sign = ("tuned_loss", 1.0), ("pruned_loss", 1.0)  # regression has no accuracy
    rows.sort(key=lambda row: (ORDER.index(row.status), *_rank(row, *metric), *_rank(row, *sign), row.name))
    paces = {pace(record.fingerprint) for record in records if record.latency}
    notes = ["latency ratio = dense / pruned, above 1 the pruned network is faster; MACs of one sample"]
    if any(record.unit == "edge" for record in records):
        notes.append("edge methods mask weights: their zeros bring no speed in a dense runtime")
    if len(paces) > 1:
        notes.append(f"latencies come from {len(paces)} kinds of machine: do not rank them against each other")
    keys = frozenset(record.key for record in records)
    return Board(first.dataset, first.model, kind, value, [*_dense_rows(records), *rows], notes, keys)


def _rank(row: Row, quantity: str, sign: float) -> tuple[bool, float]:
    mean = row.values[quantity].mean
    return mean is None, 0.0 if mean is None else sign * mean


def _named_groups(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """Cells that differ in nothing but the seed, under a name that no other such group of the board has."""
    variants: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        variants[label(record), variant_key(record.config)].append(record)
    by_label: dict[str, list[str]] = defaultdict(list)
    for name, variant in sorted(variants):
        by_label[name].append(variant)
    named = []
    for name, members in by_label.items():
        suffixes = {member: "" for member in members}
        if len(members) > 1:
            configs = {member: _seedless(variants[name, member][0].config) for member in members}
            suffixes = {member: f" [{words}]" for member, words in distinctions(configs).items()}
        for member in members:
            for status in ORDER:
                cells = [record for record in variants[name, member] if record.status == status]
                if cells:
                    named.append((name + suffixes[member], cells))
    return named


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    return identity({name: part for name, part in config.items() if name != "seed"})


def _row(name: str, cells: list[Record]) -> Row:
    cells = sorted(cells, key=lambda record: (record.seed, record.key))
    rows = [_with_sizes(flat(record)) for record in cells]
    latencies = sorted({column for row in rows for column in row if column.startswith("latency_")})
    values = {quantity: spread(row.get(quantity) for row in rows) for quantity in (*QUANTITIES, *latencies)}
    reason = "; ".join(sorted({one_line(record.reason) for record in cells if record.reason})) or None
    return Row(name, cells[0].unit, cells[0].status, len(cells), values, reason)


def _with_sizes(row: dict[str, Any]) -> dict[str, Any]:
    """The size of the final network: fine-tuning changes no size, so either stage tells it."""
    for name in ("parameters", "nonzero", "macs", "macs_effective"):
        tuned = row.get(f"tuned_{name}")
        row[name] = row.get(f"pruned_{name}") if tuned is None else tuned
    return row


def _dense_rows(records: list[Record]) -> list[Row]:
    """The networks before pruning, each counted once however many cells start from it."""
    variants: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.key):
        if record.metrics.dense is not None:
            variants[variant_key(dense_part(record.config))].setdefault(dense_key(record.config), record)
    configs = {variant: _seedless(dense_part(next(iter(cells.values())).config)) for variant, cells in variants.items()}
    suffixes = distinctions(configs) if len(variants) > 1 else {}
    rows = []
    for variant, cells in variants.items():
        metrics = [record.metrics.dense.model_dump() for record in cells.values() if record.metrics.dense]
        values = {quantity: spread([]) for quantity in QUANTITIES}
        for name in metrics[0]:
            summary = spread(metric[name] for metric in metrics)
            values |= {target: summary for target in (name, f"pruned_{name}", f"tuned_{name}") if target in values}
        suffix = f" [{suffixes[variant]}]" if suffixes else ""
        rows.append(Row(f"dense{suffix}", None, "done", len(cells), values))
    return sorted(rows, key=lambda row: row.name)


def table_of(board: Board) -> Table:
    """The board for people: percentages with two decimals, sizes, ratios, and the status where not all went well."""
    accurate = any(row.values["pruned_accuracy"].n or row.values["tuned_accuracy"].n for row in board.rows)
    metric, scale, decimals = ("accuracy", 100.0, 2) if accurate else ("loss", 1.0, 4)
    latencies = sorted({name for row in board.rows for name in row.values if name.startswith("latency_")})
    masked = any(row.unit == "edge" for row in board.rows)
    troubled = any(row.status != "done" for row in board.rows)
    columns = ["method", "unit", "n", "before fine-tuning", "after fine-tuning", "parameters"]
    columns += ["nonzero"] if masked else []
    columns += ["MACs", *(name.replace("_", " ") for name in latencies), "pruning s"]
    columns += ["status"] if troubled else []
    rows = []
    for row in board.rows:
        stages = [plus_minus(row.values[f"{stage}_{metric}"], scale, decimals) for stage in ("pruned", "tuned")]
        cells = [row.name, row.unit or NONE, str(row.n), *stages, whole(row.values["parameters"])]
        cells += [whole(row.values["nonzero"])] if masked else []
        cells += [whole(row.values["macs"]), *(times(row.values.get(name, spread([]))) for name in latencies)]
        cells.append(seconds(row.values["prune_seconds"]))
        if troubled:
            cells.append(row.status)
        rows.append(cells)
    reasons = [f"{row.name} {row.status} (n = {row.n}): {row.reason}" for row in board.rows if row.reason]
    budget = f"{board.budget} {board.value:g}" if board.budget else "no budget"
    title = f"{board.dataset} · {board.model} · {budget}: {metric}{' (%)' if accurate else ''} {RULE}"
    return Table(title, columns, rows, left={"method", "unit", "status"}, notes=[*board.notes, *reasons])


def csv_of(every: Sequence[Board]) -> str:
    """All boards as one CSV file with unrounded numbers; accuracies are fractions."""
    latencies = sorted({n for board in every for row in board.rows for n in row.values if n.startswith("latency_")})
    quantities = (*QUANTITIES, *latencies)
    columns = ["dataset", "model", "budget", "value", "method", "unit", "status", "n"]
    columns += [f"{name}_{part}" for name in quantities for part in ("mean", "std")] + ["reason"]
    lines = []
    for board in every:
        for row in board.rows:
            numbers = [row.values.get(name, spread([])) for name in quantities]
            figures = [figure for number in numbers for figure in (number.mean, number.std)]
            head = [board.dataset, board.model, board.budget, board.value, row.name, row.unit, row.status, row.n]
            lines.append([*head, *figures, row.reason])
    return csv_text(columns, lines)


def render(
    store: Store,
    out: Path,
    console: "Console | None" = None,
    *,
    where: str | None = None,
    formats: Sequence[str] = FORMATS,
    only: frozenset[str] | None = None,
) -> int:
    """Render the boards of ``store``: files into ``out``, tables on ``console``.

    Args:
        store: the records.
        out: folder for ``leaderboard.md`` and ``leaderboard.csv``.
        console: where to print; None prints nothing.
        where: a pandas query over the records.
        formats: of ``terminal``, ``md`` and ``csv``.
        only: print just the boards that hold one of these cells; the files always hold all.

    Returns:
        The number of boards.
    """
    records, problems = store.load()
    every = boards(select(records, where))
    tables = [table_of(board) for board in every]
    if every and "md" in formats:
        head = f"# Leaderboard\n\nAccuracy {RULE}. Mean ± sample standard deviation over n seeds.\n\n"
        write_atomically(out / "leaderboard.md", head + "\n".join(table.markdown() for table in tables))
    if every and "csv" in formats:
        write_atomically(out / "leaderboard.csv", csv_of(every))
    if console is not None:
        if "terminal" in formats:
            for board, table in zip(every, tables, strict=True):
                if only is None or only & board.keys:
                    table.show(console)
        _say_left_out(problems, console)
    return len(every)


def _say_left_out(problems: Sequence[Problem], console: "Console") -> None:
    from rich.text import Text

    for problem in problems:
        console.print(Text(f"left out: {problem}", style="yellow"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.leaderboard``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description="Render the leaderboards.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--out", type=Path, default=None, help="folder of the boards (RESULTS/boards)")
    parser.add_argument("--where", default=None, help="pandas query, e.g. \"method == 'spectral' and seed < 3\"")
    parser.add_argument("--format", default=",".join(FORMATS), help="of terminal,md,csv, separated by commas")
    chosen = parser.parse_args(arguments)
    formats = chosen.format.split(",")
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise BadInput(f"Unknown format {', '.join(unknown)}; expected some of {', '.join(FORMATS)}.")
    paths, console = Paths(chosen.results), output_console()
    out = chosen.out or paths.boards
    count = render(Store.of(paths), out, console, where=chosen.where, formats=formats)
    if count == 0:
        asked = f" that match {chosen.where!r}" if chosen.where else ""
        raise BadInput(
            f"No records{asked} in {chosen.results}. Run a sweep first, for instance:\n"
            "  python run.py -m method=spectral,dpp,magnitude,random"
        )
    written = [str(out / f"leaderboard.{name}") for name in ("md", "csv") if name in formats]
    if written:
        console.print(f"written: {', '.join(written)}", markup=False)
    return 0


if __name__ == "__main__":
    end(main)
