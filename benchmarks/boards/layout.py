"""A board as a table for people, and boards as CSV for programs."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.boards.board import Board
from benchmarks.boards.frame import BETWEEN
from benchmarks.boards.labels import reconstruction
from benchmarks.boards.provenance import provenance
from benchmarks.boards.rows import LONGEST_REASON, QUANTISED, QUANTITIES, RECALIBRATED, Row
from benchmarks.boards.stats import ALPHA, spread
from benchmarks.boards.tables import NONE, Table, csv_text, plus_minus, probability, seconds, short, times, whole
from benchmarks.boards.verdicts import MOST_SEEDS, Standing, Verdicts
from benchmarks.records.schema import LEFT_ALONE
from methods.errors import one_line

NUMBER = re.compile(r"\d[\d.]*")
APART = 3  # rows with the same remark, apart from numbers, that get a line each; more share one line
RECONSTRUCTED, CHANGED, BESIDE = "†", "‡", "↳ "  # marks of names
RULE = "on the test split; weights chosen by validation accuracy"
CODE = "the code has changed since (python -m benchmarks.status --stale): "
STAGES = {"pruned": "before fine-tuning", "tuned": "after fine-tuning"}
NAMES = {"accuracy": "accuracy (%)", "top5": "top-5 accuracy (%)"}


def table_of(board: Board, compact: bool = False, interval: bool = False) -> Table:
    """The board for human readers: percentages, sizes, ratios, ranks, and the status where not all went well.

    Args:
        board: the board.
        compact: write sizes as 12.3k, for a terminal.
        interval: show the 95 % interval of the mean in place of the standard deviation.
    """
    stage, _, kind = board.metric.partition("_")
    staged = stage in STAGES
    kind = kind if staged else ("accuracy" if board.rows and _measured(board, "accuracy") else "loss")
    count = short if compact else whole
    columns: dict[str, Any] = {
        "rank": lambda row: _place(row),
        "method": lambda row: _named(row),
        "repair": lambda row: row.repair or NONE,
        "unit": lambda row: row.unit or NONE,
        "n": lambda row: str(row.n),
    }
    for name, words in STAGES.items():
        columns[words] = lambda row, name=name: _figure(row, f"{name}_{kind}", interval)
        if name == "pruned" and _usual(board, f"recalibrated_{kind}"):
            columns["same, BN recalibrated"] = lambda row: _figure(row, f"recalibrated_{kind}", interval)
    if _has(board, f"int8_{kind}"):
        columns["in int8"] = lambda row: _figure(row, f"int8_{kind}", interval)
        columns["int8 bytes"] = lambda row: count(row.values.get("int8_bytes", spread([])))
    if not staged:
        columns[board.metric.replace("_", " ")] = lambda row: _figure(row, board.metric, interval)
    if board.baseline is not None:
        columns |= {"vs baseline": lambda row: _versus(row, board.metric), "verdict": lambda row: _word(row)}
    for name in board.latencies:
        columns[name.replace("_", " ")] = lambda row, name=name: times(row.values.get(name, spread([])))
    columns["parameters"] = lambda row: count(row.values["parameters"])
    if any(row.unit == "edge" for row in board.rows):
        columns["nonzero"] = lambda row: count(row.values["nonzero"])
    columns["MACs"] = lambda row: count(row.values["macs"])
    for name in ("perplexity", "bits_per_character"):  # both are functions of the loss, which rows are ranked by
        if staged and kind == "loss" and _has(board, f"tuned_{name}"):
            columns[name.replace("_", " ")] = lambda row, name=name: _figure(row, f"tuned_{name}", interval)
    if _counts_zeros(board):
        # records hold seven digits of it: in full, the last would differ from those of the MACs
        columns["effective MACs"] = lambda row: short(row.values["macs_effective"])
    columns["pruning s"] = lambda row: seconds(row.values["prune_seconds"])
    if any(row.status != "done" for row in board.rows):
        columns["status"] = lambda row: row.status
    rows = [[write(row) for write in columns.values()] for row in board.rows]
    latencies = [name.replace("_", " ") for name in board.latencies]
    sizes = ["effective MACs", "MACs"]
    if board.group.get("budget") == "speedup":
        sizes.reverse()  # the quantity that the budget limits goes last
    # The unit and one latency stay: they show which networks are only masked, and which are faster.
    droppable = [*latencies[:0:-1], "pruning s", "nonzero", "parameters", *sizes]
    title = f"{_heading(board)}: {NAMES.get(kind, kind)} {RULE}"
    return Table(
        _as_chosen(title, kind),
        list(columns),
        rows,
        {"method", "repair", "unit", "status"},
        _notes(board, interval),
        droppable,
    )


def _as_chosen(title: str, kind: str) -> str:
    """A title that says by what the weights were chosen: by the loss, where there is no accuracy."""
    return title if kind in NAMES else title.replace("validation accuracy", "validation loss")


def _has(board: Board, quantity: str) -> bool:
    return any(row.values[quantity].n for row in board.rows if quantity in row.values)


def _counts_zeros(board: Board) -> bool:
    return any(row.unit == "edge" and row.values["macs_effective"].n for row in board.rows)


def _usual(board: Board, quantity: str) -> bool:
    """Whether half of the rows have a value: a column of dashes with one number is useless, and the CSV has all."""
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


def _named(row: Row) -> str:
    """The name of a row with its marks: control of another row, reconstruction, made by code that has since changed."""
    marks = (RECONSTRUCTED if reconstruction(row.method) else "") + (CHANGED if row.changed else "")
    return (BESIDE if row.beside else "") + row.name + (f" {marks}" if marks else "")


def _place(row: Row) -> str:
    """How a control compares with its method, in words, since a control has no rank."""
    return place(row.standing) if row.against is None else row.against.word


def place(standing: Standing | None) -> str:
    """A place as text: ``2``, or ``2–5`` where some of its pairs are undecided; a dash where all of them are."""
    if standing is None or not standing.ranked:
        return NONE
    return f"{standing.first}" if standing.first == standing.last else f"{standing.first}–{standing.last}"


def _figure(row: Row, quantity: str, interval: bool) -> str:
    percent = "accuracy" in quantity or "top5" in quantity
    summary = row.values.get(quantity, spread([]))
    return plus_minus(summary, *((100.0, 2) if percent else (1.0, 4)), interval=interval)


def _versus(row: Row, metric: str) -> str:
    if row.versus is None or row.versus.difference is None:
        return NONE
    percent = "accuracy" in metric or "top5" in metric
    return f"{row.versus.difference * 100:+.2f}" if percent else f"{row.versus.difference:+.4f}"


def _word(row: Row) -> str:
    if row.versus is None:
        return NONE
    return row.versus.word if row.versus.p is None else f"{row.versus.word}, p {probability(row.versus.p)}"


def verdict_notes(unit: str, said: Verdicts, margin: float | None) -> str:
    """A summary of the pairs of one unit: how many are decided, and how many seeds would decide the others."""
    counts = {word: number for word, number in said.counts.items() if number}
    pairs = len(said.pairs)
    words = {"equal": f"equal within {margin * 100:g} points" if margin is not None else "equal"}
    text = ", ".join(f"{number} {words.get(word, word)}" for word, number in counts.items())
    decided = counts.get("better", 0) + counts.get("equal", 0)
    start = f"{unit or 'rows'}: {pairs} pair{'s' * (pairs > 1)}: {text}"
    if not decided:
        start = f"{unit or 'rows'}: not ranked, no pair is decided ({text})"
    needed = sorted(seeds if seeds is not None else MOST_SEEDS + 1 for seeds in said.seeds)
    if not needed:
        return start
    half, every = needed[(len(needed) - 1) // 2], needed[-1]
    if half > MOST_SEEDS:
        return f"{start}; more than {MOST_SEEDS} seeds would decide half of the others, or too few are known to say"
    rest = f"more than {MOST_SEEDS}" if every > MOST_SEEDS else str(every)
    return f"{start}; at the spread seen, {half} seeds would decide half of the others, {rest} all"


def _remarks(board: Board) -> list[str]:
    """The remarks in the records: layers left alone, a missed budget, strange results, a missing checksum.

    A note that many rows share except for numbers is written once, with one row as an example.
    """
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for cell in board.cells:
        alone, note = cell.get("left_alone"), cell.get("note") or ""
        if alone:  # with the reasons, which the note does not contain
            note = "; ".join(part for part in note.split("; ") if not part.startswith(LEFT_ALONE))
        for text in (LEFT_ALONE + alone if alone else None, note, *(cell.get("warnings") or "").split(BETWEEN)):
            if text:
                found[cell["name"], one_line(text, LONGEST_REASON)].add(cell["seed"])
        if cell.get("unsigned"):
            found[cell["name"], "unsigned: the record has no checksum, so a change of it would not be seen"].add(
                cell["seed"]
            )
    alike: dict[str, list[tuple[str, str, set[int]]]] = defaultdict(list)
    for (name, text), seeds in sorted(found.items()):
        alike[NUMBER.sub("#", text)].append((name, text, seeds))
    return [line for rows in alike.values() for line in _said(rows)]


def _said(rows: Sequence[tuple[str, str, set[int]]]) -> list[str]:
    """One line per row, or one line for all if there are more than ``APART``."""

    def who(name: str, seeds: set[int]) -> str:
        return f"{name}, seed {', '.join(map(str, sorted(seeds)))}"

    if len(rows) <= APART:
        return [f"{who(name, seeds)}: {text}" for name, text, seeds in rows]
    (first, text, seeds), *others = rows
    more: dict[str, set[int]] = defaultdict(set)
    for name, _, own in others:
        more[name] |= own
    likewise = "; ".join(who(name, own) for name, own in more.items())
    return [f"{who(first, seeds)}: {text} (and likewise, with other numbers: {likewise})"]


def _notes(board: Board, interval: bool) -> list[str]:
    counted = "95 % interval of the mean" if interval else "sample standard deviation"
    notes = [*provenance(board), f"mean ± {counted} over n seeds" + (" and tasks" if board.tasks > 1 else "")]
    if board.verdicts:
        units = " and ".join(unit.replace(", ", " with ") or "rows" for unit in board.verdicts)
        notes.append(
            f"rank by {board.metric.replace('_', ' ')}, {units} apart: 2–5 means that one method is better and all but "
            "the first five places are worse; the others are equal to it or undecided "
            f"(moderated t over common seeds, Holm over all pairs, {ALPHA:g})"
        )
        notes += [verdict_notes(unit, said, board.margin) for unit, said in board.verdicts.items() if said.pairs]
    if any(row.against for row in board.rows):
        notes.append(
            "controls are not ranked; in place of a rank stands what they are against the method above: better, worse, "
            f"equal or undecided (the same test, Holm over all controls of the board, {ALPHA:g})"
        )
    if board.baseline is not None:
        notes.append(
            f"vs baseline: mean difference from {board.baseline.full} over common seeds, verdict and p after "
            "Holm's correction over these comparisons"
        )
    if board.latencies:
        notes.append("latency = dense / pruned, above 1 the pruned network is faster; MACs of one sample")
    if _has(board, "int8_bytes"):
        notes.append(
            "in int8: the fine-tuned network after static quantisation by ONNX Runtime; int8 bytes are its file's, "
            "latency int8 is dense in float32 / pruned in int8, both in ONNX Runtime"
        )
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
        notes.append("rows have different n: their means are over different seeds, verdicts only over common ones")
    if any(" [" in full for full in board.footnotes.values()):
        notes.append("in brackets: what differs from the surroundings (training, calibration) that most methods share")
    notes += [f"[{mark}] {full}" for mark, full in board.footnotes.items()]
    marked = {method: reconstruction(method) for method in sorted({row.method for row in board.rows})}
    theirs = "reconstruction, not the paper's own"
    notes += [f"{RECONSTRUCTED} {method}: {theirs}: {words}" for method, words in marked.items() if words]
    if any(row.beside for row in board.rows):
        notes.append(
            f"{BESIDE.strip()} belongs to the row above: a control with the same layer sizes, or the same method with "
            "the fine-tuning rate and options that were best on validation, of as many trials as other tuned rows had"
        )
    if any("fit, " in (row.repair or "") for row in board.rows):
        notes.append(
            "repair: least squares fit what the next layer reads, or refit it on the pruned network's features; the "
            "ridge is relative to the features' second moment, own ridge is that of spectral pruning"
        )
    if changed := sorted({row.name for row in board.rows if row.changed}):
        notes.append(f"{CHANGED} {CODE}{', '.join(changed)}")
    notes += [*board.dense_differs, *_remarks(board)]
    notes += [f"{row.name} {row.status} (n = {row.n}): {row.reason}" for row in board.rows if row.reason]
    return notes


def csv_of(every: Sequence[Board]) -> str:
    """All boards as one CSV file with unrounded numbers; accuracies are fractions."""
    return csv_text(*lines_of(every))


def lines_of(every: Sequence[Board]) -> tuple[list[str], list[list[Any]]]:
    """The names of the columns, and a line for each row of each board, unrounded; None stands for no value."""
    latencies = sorted({name for board in every for name in board.latencies})
    sometimes = (*RECALIBRATED, *QUANTISED)
    wanted = {board.metric for board in every} | {name for board in every for name in sometimes if _has(board, name)}
    extra = sorted(wanted - set(QUANTITIES) - set(latencies))
    quantities = (*QUANTITIES, *latencies, *extra)
    groups = list(dict.fromkeys(name for board in every for name in board.group))
    columns = [
        *groups,
        "rank_first",
        "rank_last",
        "better_than",
        "equal_to",
        "undecided",
        "against_own_method",
        "method",
        "unit",
        "status",
        "n",
        "metric",
    ]
    columns += [f"{name}_{part}" for name in quantities for part in ("mean", "std")]
    columns += ["repair", "tuned_trials", "baseline", "difference", "pairs", "p_holm", "verdict", "reason"]
    lines: list[list[Any]] = []
    for board in every:
        for row in board.rows:
            numbers = [row.values.get(name, spread([])) for name in quantities]
            figures = [figure for number in numbers for figure in (number.mean, number.std)]
            head = [board.group.get(name) for name in groups]
            at = row.standing
            places: list[object] = [None] * 5
            if at is not None:
                places = [at.first, at.last, at.better_than, at.equal_to, at.undecided]
            against = row.against.word if row.against else None
            own = [*places, against, row.full, row.unit, row.status, row.n, board.metric]
            versus: list[object] = [None] * 5
            if row.versus and board.baseline:
                said = row.versus
                versus = [board.baseline.full, said.difference, said.n, said.p, said.word]
            made = [row.repair, row.family.partition(", ")[2].partition(" ")[0] or None]
            lines.append([*head, *own, *figures, *made, *versus, row.reason])
    return columns, lines
