"""A board as a table for people, and boards as CSV for programs."""

from collections.abc import Sequence
from typing import Any

from benchmarks.boards.board import QUANTITIES, RECALIBRATED, Board, Row
from benchmarks.boards.stats import ALPHA, Rank, spread
from benchmarks.boards.tables import NONE, Table, csv_text, plus_minus, probability, seconds, short, times, whole

RULE = "on the test split; weights chosen by validation accuracy"
STAGES = {"pruned": "before fine-tuning", "tuned": "after fine-tuning"}
NAMES = {"accuracy": "accuracy (%)", "top5": "top-5 accuracy (%)"}


def table_of(board: Board, compact: bool = False, interval: bool = False) -> Table:
    """The board for people: percentages, sizes, ratios, ranks, and the status where not all went well.

    Args:
        board: the board.
        compact: sizes as 12.3k, for a terminal.
        interval: the 95 % interval of the mean in place of the standard deviation.
    """
    stage, _, kind = board.metric.partition("_")
    staged = stage in STAGES
    kind = kind if staged else ("accuracy" if board.rows and _measured(board, "accuracy") else "loss")
    count = short if compact else whole
    columns: dict[str, Any] = {
        "rank": lambda row: _place(row),
        "method": lambda row: row.name,
        "unit": lambda row: row.unit or NONE,
        "n": lambda row: str(row.n),
    }
    for name, words in STAGES.items():
        columns[words] = lambda row, name=name: _figure(row, f"{name}_{kind}", interval)
        if name == "pruned" and _usual(board, f"recalibrated_{kind}"):
            columns["same, BN recalibrated"] = lambda row: _figure(row, f"recalibrated_{kind}", interval)
    if not staged:
        columns[board.metric.replace("_", " ")] = lambda row: _figure(row, board.metric, interval)
    if board.baseline is not None:
        columns |= {"vs baseline": lambda row: _versus(row, board.metric), "p (Holm)": lambda row: _p(row)}
    columns["parameters"] = lambda row: count(row.values["parameters"])
    if any(row.unit == "edge" for row in board.rows):
        columns["nonzero"] = lambda row: count(row.values["nonzero"])
    columns["MACs"] = lambda row: count(row.values["macs"])
    if _counts_zeros(board):
        # records hold seven digits of it: in full, the last would differ from those of the MACs
        columns["effective MACs"] = lambda row: short(row.values["macs_effective"])
    for name in board.latencies:
        columns[name.replace("_", " ")] = lambda row, name=name: times(row.values.get(name, spread([])))
    columns["pruning s"] = lambda row: seconds(row.values["prune_seconds"])
    if any(row.status != "done" for row in board.rows):
        columns["status"] = lambda row: row.status
    rows = [[write(row) for write in columns.values()] for row in board.rows]
    latencies = [name.replace("_", " ") for name in board.latencies]
    sizes = ["effective MACs", "MACs"]
    if board.group.get("budget") == "speedup":
        sizes.reverse()  # what the budget is about goes last
    droppable = ["unit", *latencies[::-1], "pruning s", "nonzero", *sizes]
    title = f"{_heading(board)}: {NAMES.get(kind, kind)} {RULE}"
    return Table(title, list(columns), rows, {"method", "unit", "status"}, _notes(board, interval), droppable)


def _has(board: Board, quantity: str) -> bool:
    return any(row.values[quantity].n for row in board.rows if quantity in row.values)


def _counts_zeros(board: Board) -> bool:
    return any(row.unit == "edge" and row.values["macs_effective"].n for row in board.rows)


def _usual(board: Board, quantity: str) -> bool:
    """Whether half of the rows have it: a column of dashes with one figure helps nobody, and the CSV has all."""
    rows = [row for row in board.rows if row.status == "done" and not row.control]
    having = sum(quantity in row.values and row.values[quantity].n > 0 for row in rows)
    return having > 0 and 2 * having >= len(rows)


def _measured(board: Board, kind: str) -> bool:
    return any(_has(board, f"{stage}_{kind}") for stage in STAGES)


def _heading(board: Board) -> str:
    group = dict(board.group)
    kind, value = group.pop("budget", None), group.pop("value", None)
    parts = [str(part) for part in group.values()]
    if kind is not None:
        parts.append(f"{kind} {value:g}" if value is not None else str(kind))
    elif "budget" in board.group:
        parts.append("no budget")
    return " · ".join(parts) + (f" · mean of {board.tasks} tasks" if board.tasks > 1 else "")


def _place(row: Row) -> str:
    return place(row.rank)


def place(rank: Rank | None) -> str:
    """A rank as text: ``2``, or ``2=`` where others share it."""
    return NONE if rank is None else f"{rank.place}{'=' if rank.shared else ''}"


def _figure(row: Row, quantity: str, interval: bool) -> str:
    percent = "accuracy" in quantity or "top5" in quantity
    summary = row.values.get(quantity, spread([]))
    return plus_minus(summary, *((100.0, 2) if percent else (1.0, 4)), interval=interval)


def _versus(row: Row, metric: str) -> str:
    if row.versus is None or row.versus.difference is None:
        return NONE
    percent = "accuracy" in metric or "top5" in metric
    return f"{row.versus.difference * 100:+.2f}" if percent else f"{row.versus.difference:+.4f}"


def _p(row: Row) -> str:
    return probability(row.versus.p if row.versus else None)


def _notes(board: Board, interval: bool) -> list[str]:
    counted = "95 % interval of the mean" if interval else "sample standard deviation"
    notes = [f"mean ± {counted} over n seeds" + (" and tasks" if board.tasks > 1 else "")]
    if any(row.rank for row in board.rows):
        notes[0] += (
            f"; ranked by {board.metric.replace('_', ' ')}: methods with = are not significantly worse than the best "
            f"of that rank (paired t over common seeds, Holm, {ALPHA:g})"
        )
    else:
        notes[0] += "; no ranks: that takes two methods with at least two seeds in common"
    if board.baseline is not None:
        notes.append(f"vs baseline: mean paired difference from {board.baseline.full}; p after Holm's correction")
    if board.latencies:
        notes.append("latency = dense / pruned, above 1 the pruned network is faster; MACs of one sample")
    elsewhere = [cell["elsewhere"] for cell in board.cells if cell.get("elsewhere")]
    if elsewhere:
        kinds = "; ".join(sorted(set(elsewhere)))
        notes.append(f"latencies of {len(elsewhere)} records left out, not to be compared with the others: {kinds}")
    if any(row.unit == "edge" for row in board.rows):
        notes.append(
            "edge methods mask weights: their zeros bring no speed in a dense runtime"
            + ("; effective MACs leave out multiplications by zero weights" if _counts_zeros(board) else "")
        )
    seeds = {row.n for row in board.rows if row.status == "done" and not row.control}
    if len(seeds) > 1:
        notes.append("rows have different n: their means are over different seeds, ranks only over common ones")
    if any(" [" in full for full in board.footnotes.values()):
        notes.append("in brackets: what differs from the surroundings (training, calibration) that most methods share")
    notes += [f"[{mark}] {full}" for mark, full in board.footnotes.items()]
    notes += [f"{row.name} {row.status} (n = {row.n}): {row.reason}" for row in board.rows if row.reason]
    return notes


def csv_of(every: Sequence[Board]) -> str:
    """All boards as one CSV file with unrounded numbers; accuracies are fractions."""
    latencies = sorted({name for board in every for name in board.latencies})
    wanted = {board.metric for board in every} | {name for board in every for name in RECALIBRATED if _has(board, name)}
    extra = sorted(wanted - set(QUANTITIES) - set(latencies))
    quantities = (*QUANTITIES, *latencies, *extra)
    groups = list(dict.fromkeys(name for board in every for name in board.group))
    columns = [*groups, "rank", "method", "unit", "status", "n", "metric"]
    columns += [f"{name}_{part}" for name in quantities for part in ("mean", "std")]
    columns += ["baseline", "difference", "pairs", "p_holm", "reason"]
    lines = []
    for board in every:
        for row in board.rows:
            numbers = [row.values.get(name, spread([])) for name in quantities]
            figures = [figure for number in numbers for figure in (number.mean, number.std)]
            head = [board.group.get(name) for name in groups]
            own = [row.rank.place if row.rank else None, row.full, row.unit, row.status, row.n, board.metric]
            versus: list[object] = [None, None, None, None]
            if row.versus and board.baseline:
                versus = [board.baseline.full, row.versus.difference, row.versus.n, row.versus.p]
            lines.append([*head, *own, *figures, *versus, row.reason])
    return csv_text(columns, lines)
